"""A trained policy in a program of your own: `python examples/policy_in_a_loop.py outputs/train/tabletop`."""

import sys

import gymnasium
from tandem.policy.act.agents import load_agent
from tandem.policy.act.runtime import AgentSpec, Runtime


def main(checkpoint: str, task: str = "Tandem/Reach-v0", seed: int = 1_000_000) -> bool:
    """Runs one episode; True where it succeeds."""
    agent = load_agent(AgentSpec("checkpoint", checkpoint, Runtime(execute=4)))
    env = gymnasium.make(task)
    agent.bind(env)  # refuses an environment of other cameras, names, units or rate
    obs, _ = env.reset(seed=seed)
    agent.reset(obs["task"], seed=0)  # or words of your own
    success = ended = False
    while not ended:
        obs, _, success, timeout, _ = env.step(agent.act(obs))
        ended = success or timeout
    return success


if __name__ == "__main__":
    print("success" if main(*sys.argv[1:]) else "no success")
