"""Reinforcement learning: experience survives a kill, what is exported is what was learned, bad numbers stop it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tandem.policy.act.agent import TandemAgent
from tandem.policy.act.runtime import AgentSpec, Runtime
from tandem.policy.checkpoint import store
from tandem.policy.checkpoint.bundle import Bundle
from tandem.policy.errors import PolicyError
from tandem.policy.evaluate.episode import noise_seed
from tandem.policy.networks.noise_actor import BOUND, spread
from tandem.policy.rl.dsrl.noise_env import HOLD, NoiseEnv
from tandem.policy.rl.shared.episodes import Job, roll_out
from tandem.policy.rl.shared.experience import Experience
from tandem.policy.rl.shared.learning_run import CLOCK


def arrays(value=0.0, rows=3):
    return {"features": np.full((rows, 4), value, np.float32), "noise": np.zeros((rows, 2), np.float32)}


def spec(trained):
    return AgentSpec("checkpoint", str(store.resolve(trained)), Runtime(mode="flat"))


def test_experience_is_whole_after_a_kill_and_counts_what_it_forgot(tmp_path):
    experience = Experience.open(tmp_path, limit=4000)
    for i in range(8):
        experience.add(10 + i, i % 2 == 0, arrays(float(i)))
    (tmp_path / ".000008.npz").write_bytes(b"half")  # a writer was killed
    again = Experience.open(tmp_path, limit=4000)
    assert again.steps == experience.steps == sum(10 + i for i in range(8)) and len(again) == 8
    assert again.sizes == experience.sizes and 0 < len(again.sizes) < 8  # bounded: the oldest went
    kept = [float(episode["features"][0, 0]) for episode in again]
    assert kept == sorted(kept) and kept[-1] == 7.0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000


def test_numbers_that_are_not_finite_are_not_stored(tmp_path):
    experience = Experience.open(tmp_path)
    experience.add(5, True, arrays())
    with pytest.raises(PolicyError, match="features of episode 1 is not finite"):
        experience.add(5, True, arrays(np.nan))
    assert len(Experience.open(tmp_path)) == 1


def test_a_damaged_file_is_one_line_and_strangers_are_left_alone(tmp_path):
    experience = Experience.open(tmp_path)
    experience.add(5, True, arrays())
    (tmp_path / "notes.npz").write_bytes(b"mine")
    file, rng = tmp_path / "000000.npz", np.random.default_rng(0)
    whole, refused = file.read_bytes(), 0
    for at in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            Experience.open(tmp_path).load(0)
        except PolicyError as error:
            refused += "damaged" in str(error)
    assert refused > 100
    file.write_bytes(whole)
    with pytest.raises(PolicyError, match="000000.npz has no seed: it is of another version"):
        Experience.open(tmp_path).column("seed")
    assert len(Experience.open(tmp_path)) == 1 and (tmp_path / "notes.npz").exists()


def test_steps_that_were_counted_stay_counted_though_the_newest_file_is_lost(trained, tmp_path):
    from tandem.policy.rl.shared.learning_run import Learning, Limits
    from tandem.policy.train.run_folder import Run

    def begin():
        experience = Experience.open(tmp_path / "run" / "experience")
        base, bundle = store.resolve(trained), Bundle.load(trained)
        learning = Learning(
            run=Run(tmp_path / "run", resume=True), limits=Limits(10**6, 1.0), base=base, bundle=bundle,
            tasks=("reach",), about={"method": "dsrl", "seed": 0},
        )  # fmt: skip
        learning.resume(experience, Limits(1, 1.0))
        return learning, experience

    _, experience = begin()
    for _ in range(3):
        experience.add(10, True, arrays())
    learning, _ = begin()
    assert learning.steps == 30
    learning.save({})
    (tmp_path / "run" / "experience" / "000002.npz").unlink()
    learning, experience = begin()
    assert learning.steps == experience.steps == 30 and len(experience) == 2
    (tmp_path / "run" / CLOCK).write_text("not a number")
    with pytest.raises(PolicyError, match=f"{CLOCK} cannot be read"):
        begin()


def test_noise_env_is_an_environment_and_a_function_of_its_seed(trained):
    from stable_baselines3.common.env_checker import check_env

    check_env(NoiseEnv(spec(trained), ("reach", "press_button")))
    walks = []
    for _ in range(2):
        env = NoiseEnv(spec(trained), ("reach", "press_button"))
        walks.append(np.stack([env.reset()[0], env.step(np.full(env.action_space.shape, 0.3, np.float32))[0]]))
    assert np.array_equal(*walks) and not np.array_equal(walks[0][0], walks[0][1])
    *_, info = env.step(np.full(env.action_space.shape, np.nan, np.float32))
    assert "not finite" in info["error"]


def command(trained, output, *more):
    flags = ["--checkpoint", str(trained), "--tasks", "reach", "--output", str(output), "--minutes", "10", *more]
    return [sys.executable, "-m", "tandem.scripts", "rl", *flags]


def test_a_run_that_was_killed_goes_on_with_the_same_experience(trained, tmp_path):
    output = tmp_path / "run"
    running = subprocess.Popen(command(trained, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = output / "experience"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("[0-9]*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = Experience.open(folder)
    contents = {number: (folder / f"{number:06d}.npz").read_bytes() for number in before.sizes}
    spent = float((output / CLOCK).read_text())  # no checkpoint knows of it yet
    assert len(contents) >= 3 and spent > 0
    done = subprocess.run(
        command(trained, output, "--resume", "--steps", str(before.steps + 1)),
        capture_output=True,
        text=True,
        check=True,
    )
    after = Experience.open(folder)
    assert {n: (folder / f"{n:06d}.npz").read_bytes() for n in contents} == contents
    assert after.steps > before.steps and f"{after.steps} steps" in done.stdout
    learned = Bundle.load(output)
    assert store.progress(output)["rl"]["seconds"] > spent
    assert learned.steering is None and "choices of the warm-up are made" in done.stdout  # nothing was learned yet
    assert all(
        torch.equal(a, b)
        for a, b in zip(learned.model.parameters(), Bundle.load(trained).model.parameters(), strict=True)
    )


def test_what_is_exported_is_what_sac_learned_and_goes_on_from(trained, tmp_path, monkeypatch):
    import tandem.policy.rl.dsrl.dsrl as module
    import tyro
    from tandem.scripts import rl

    kept, build = [], module._model
    monkeypatch.setattr(module, "_model", lambda *given: kept.append(build(*given)) or kept[-1])
    original = module.DSRL
    monkeypatch.setattr(module, "DSRL", lambda: original(warm_up=4, batch=16, hidden=(8,)))
    output = tmp_path / "run"
    rl.main(tyro.cli(rl.Args, args=[*command(trained, output)[4:], "--steps", "200", "--workers", "1"]))
    (model,) = kept
    assert model.critic.n_critics > 1
    bundle = Bundle.load(output)
    sizes = bundle.feature_sizes
    assert model.observation_space.shape == (sizes.features + 1,)
    seen = np.random.default_rng(0).normal(size=(4, sizes.features + 1)).astype(np.float32)
    chosen, _ = model.predict(seen, deterministic=True)
    white = torch.zeros(4, chosen.shape[1])
    noise = bundle.steering(torch.from_numpy(seen[:, :-1]), white)  # the actor is not told the time
    torch.testing.assert_close(noise, spread(torch.from_numpy(chosen), bundle.sizes.chunk))
    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(torch.from_numpy(seen))
        drawn = bundle.steering(torch.from_numpy(seen[:, :-1]), white + 0.5)
    torch.testing.assert_close(drawn, spread((mean + 0.5 * log_std.exp()).tanh(), bundle.sizes.chunk))
    learned, moments = model.policy.state_dict(), model.critic.optimizer.state_dict()["state"]
    kept.clear()
    with monkeypatch.context() as still:
        still.setattr(module.SAC, "train", lambda *_: None)
        rl.main(tyro.cli(rl.Args, args=[*command(trained, output)[4:], "--steps", "1", "--workers", "1", "--resume"]))
    again = kept[0].policy.state_dict()
    assert all(torch.equal(learned[name], again[name]) for name in learned)
    same = kept[0].critic.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[i][name], same[i][name]) for i in moments for name in moments[i])
    assert not [path for path in output.rglob("*") if path.suffix in (".zip", ".pt", ".pkl")]
    with pytest.raises(PolicyError, match="seed was 0, is 1"):
        rl.main(tyro.cli(rl.Args, args=[*command(trained, output)[4:], "--seed", "1", "--resume"]))
    monkeypatch.setattr(module, "DSRL", lambda: original(warm_up=4, batch=16, hidden=(8,), discount=0.5))
    with pytest.raises(PolicyError, match=r"discount was 0.8, is 0.5"):
        rl.main(tyro.cli(rl.Args, args=[*command(trained, output)[4:], "--resume"]))


@pytest.fixture
def broken(trained, tmp_path):
    """A policy whose actions overflow."""
    bundle, folder = Bundle.load(trained), store.resolve(trained)
    weights = bundle.model.state_dict()
    weights["controller.action_out.weight"].fill_(3e38)
    files = bundle.files(weights) | {store.RECIPE: store.recipe(folder)}
    return store.save(tmp_path / "broken" / "checkpoints", 1, files | {store.PROGRESS: store.progress(folder)})


def test_actions_that_are_not_finite_stop_learning_with_one_line(broken, tmp_path):
    import tyro
    from tandem.scripts import rl

    with pytest.raises(PolicyError, match="reach at seed 3: .* not finite"):
        roll_out(Job(spec(broken), "reach", 3))
    with pytest.raises(PolicyError, match="reach at seed 2000000: .* not finite"):  # through a worker's pipe
        rl.main(tyro.cli(rl.Args, args=[*command(broken, tmp_path / "run")[4:], "--method", "dsrl", "--workers", "1"]))
    assert len(Experience.open(tmp_path / "run" / "experience")) == 0


def test_a_learner_that_is_not_finite_stops_with_one_line(trained, tmp_path, monkeypatch):
    import tandem.policy.rl.dsrl.dsrl as module
    import tyro
    from tandem.scripts import rl

    def poisoned(*given):
        model = build(*given)
        model.critic.q_networks[0][0].weight.data.fill_(torch.nan)
        return model

    build, original = module._model, module.DSRL
    monkeypatch.setattr(module, "_model", poisoned)
    monkeypatch.setattr(module, "DSRL", lambda: original(warm_up=8, batch=16, hidden=(8,)))
    with pytest.raises(PolicyError, match="sac: .* not finite"):
        rl.main(tyro.cli(rl.Args, args=[*command(trained, tmp_path / "run")[4:], "--steps", "600", "--workers", "1"]))


def test_asked_to_stop_a_run_saves_and_says_how_to_go_on(trained, tmp_path):
    output = tmp_path / "run"
    running = subprocess.Popen(command(trained, output), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((output / "experience").glob("[0-9]*.npz"))) < 60 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C in a terminal: to all processes
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "--resume" in said and "Traceback" not in said
    assert store.progress(output)["rl"]["env_steps"] == Experience.open(output / "experience").steps > 0


def test_what_cannot_be_learned_from_is_one_line(trained, demonstrations, tmp_path, monkeypatch):
    from dataclasses import replace

    import tyro
    from tandem.data.cache import FrameCache
    from tandem.data.errors import DataError
    from tandem.scripts import rl
    from tandem.scripts.shared.errors import UserError

    def other(cache):
        features = {key: f for key, f in cache.contract.features.items() if not key.endswith("wrist")}
        return replace(cache.contract, features=features)

    def ask(*flags):
        rl.main(tyro.cli(rl.Args, args=["--output", str(tmp_path / "run"), "--checkpoint", str(trained), *flags]))

    with pytest.raises(UserError, match="learns one task"):
        ask("--method", "scratch", "--checkpoint", "")
    with pytest.raises(UserError, match="does not resume"):
        ask("--method", "scratch", "--checkpoint", "", "--tasks", "reach", "--resume")
    for flag, value in (("workers", "0"), ("seed", "-1"), ("steps", "0"), ("minutes", "0")):
        with pytest.raises(UserError, match=f"--{flag} is {value}"):
            ask(f"--{flag}", value)
    with pytest.raises(DataError, match="robot is .*use data and model of one contract"):
        ask("--checkpoint", "models/mt50", "--tasks", "reach")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="another command's files"):
        ask("--output", str(trained), "--resume")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "sac.zip").touch()
    with pytest.raises(UserError, match="another command's files"):
        ask("--output", str(tmp_path / "scratch"), "--resume")
    with pytest.raises(UserError, match="--seed is 10; use 0 to 9"):
        ask("--seed", "10")
    with pytest.raises(UserError, match="--data is for recap"):
        ask("--data", str(demonstrations))
    with pytest.raises(UserError, match="begins with nothing"):
        ask("--method", "scratch", "--tasks", "reach")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no demonstrations in datasets/.*tandem train --preset .*--data"):
        ask("--checkpoint", str(trained.resolve()), "--method", "recap", "--tasks", "reach")
    ask_again = ["--method", "recap", "--data", str(demonstrations), "--cache", str(tmp_path / "cache")]
    with pytest.raises(PolicyError, match="no demonstrations of stack"):
        ask("--tasks", "stack", *ask_again)
    build = FrameCache.build
    unnamed = [{"episode_index": row["episode_index"]} for row in build([demonstrations], tmp_path / "cache").episodes]
    monkeypatch.setattr(FrameCache, "build", lambda *given: replace(build(*given), episodes=unnamed))
    with pytest.raises(PolicyError, match="no demonstrations of reach"):
        ask("--tasks", "reach", *ask_again)
    monkeypatch.setattr(FrameCache, "build", lambda *given: replace(whole := build(*given), contract=other(whole)))
    with pytest.raises(DataError, match="the demonstrations: .*wrist is .*use data and model of one contract"):
        ask("--tasks", "reach", *ask_again)
    assert not (tmp_path / "run").exists()  # what is missing is said before a run begins


def test_methods_say_what_a_task_lacks(monkeypatch):
    from tandem import envs
    from tandem.envs.task_env import TaskEnv
    from tandem.scripts import rl
    from tandem.scripts.shared.errors import UserError

    rl._dense("reach")
    rl._expert("reach")
    monkeypatch.setattr(TaskEnv, "dense_reward", False)
    with pytest.raises(UserError, match="ppo needs a dense reward, and reach"):
        rl._dense("reach")
    monkeypatch.setattr(envs.TabletopEnv, "expert", TaskEnv.expert)
    with pytest.raises(UserError, match="recap needs an expert .*'reach' has no scripted expert"):
        rl._expert("reach")


def test_a_process_that_dies_is_one_line_and_takes_the_others_with_it():
    import multiprocessing
    from functools import partial

    import gymnasium
    from tandem.policy.rl.dsrl.sb3_workers import in_processes

    alive = partial(gymnasium.make, "CartPole-v1")
    with pytest.raises(PolicyError, match="process died"), in_processes([alive, partial(os._exit, 1)]):
        pass
    with pytest.raises(PolicyError, match="process died"), in_processes([alive, alive]) as envs:
        envs.reset()
        envs.processes[1].kill()
        envs.processes[1].join()
        envs.step(np.zeros(2, int))
    for process in multiprocessing.active_children():
        process.join(timeout=10)
    assert not multiprocessing.active_children()


def test_a_steered_agent_does_what_the_learner_saw(trained, tmp_path, monkeypatch):
    """Exported, a choice lasts as long as it did while learning: the same layout ends the same."""
    from dataclasses import replace

    from tandem.policy.evaluate.episode import run_episode
    from tandem.policy.evaluate.outcome import Episode
    from tandem.policy.networks.noise_actor import Steering, SteeringConfig

    env = NoiseEnv(spec(trained), ("reach",), first_seed=11)
    features, _ = env.reset()
    bundle, sizes = env.agent.bundle, env.agent.bundle.feature_sizes
    cfg = SteeringConfig(sizes.features, sizes.plain, bundle.sizes.chunk, env.action_space.shape[0], HOLD, (8,))
    torch.manual_seed(0)
    steering = Steering(cfg).requires_grad_(False)
    ended, draws = False, torch.Generator().manual_seed(noise_seed("reach", 11))
    while not ended:
        hidden = steering.latent_pi(steering.standardise(torch.from_numpy(features)[None, :-1]))
        white = torch.randn(1, env.action_space.shape[0], generator=draws)
        chosen = (steering.mu(hidden) + steering.log_std(hidden).exp() * white).tanh()[0]
        features, _, success, truncated, info = env.step(chosen.numpy())
        ended = success or truncated
    agent = TandemAgent(replace(bundle, steering=steering), env.agent.runtime)
    outcome = run_episode(env.env, agent, Episode("reach", 11, "flat"))
    assert (outcome.steps, outcome.success) == (info["steps"], info["is_success"])
    assert HOLD * len(info["episode_log"]["noise"]) >= agent.looked > HOLD * (len(info["episode_log"]["noise"]) - 1)


def test_without_noise_a_sight_has_one_chunk(trained):
    from tandem import envs

    bundle = Bundle.load(trained)
    env = envs.make("reach", bundle.config.sizes.image_size)

    def acts(seed, **runtime):
        obs, _ = env.reset(seed=1)
        agent = TandemAgent(bundle, Runtime(mode="flat", **runtime))
        agent.reset(obs["task"], seed)
        return [agent.act(obs) for _ in range(3)]

    assert np.array_equal(acts(1, noise=0.0), acts(2, noise=0.0))
    assert np.array_equal(acts(1), acts(1)) and not np.array_equal(acts(1), acts(2))
    for wrong, why in (
        ({"noise": -1.0}, "use 0 or more"),
        ({"noise": 0.0, "plan": "rank"}, "nothing to rank"),
        ({"guidance": 2.0}, "for checkpoints of recap"),
    ):
        with pytest.raises(PolicyError, match=why):
            TandemAgent(bundle, Runtime(**wrong))


def test_steered_noise_is_bounded_and_one_for_all_steps():
    chosen = spread(torch.tensor([[1.0, -0.5, 0.0]]), 16)
    assert chosen.shape == (1, 1, 16, 3) and chosen.unique(dim=2).shape[2] == 1
    torch.testing.assert_close(chosen[0, 0, 0], BOUND * torch.tensor([1.0, -0.5, 0.0]))


def test_one_worker_is_a_function_of_the_seed(trained, tmp_path, monkeypatch):
    import tandem.policy.rl.dsrl.dsrl as module
    import tyro
    from tandem.policy.rl.shared.learning_run import Learning
    from tandem.scripts import rl

    original = module.DSRL
    monkeypatch.setattr(module, "DSRL", lambda: original(warm_up=4, batch=16, hidden=(8,)))
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = tmp_path / name
        monkeypatch.setattr(Learning, "due", lambda _, often=name == "b": often)  # whenever the clock has it saved
        flags = ["--checkpoint", str(trained), "--tasks", "reach", "--output", str(output), "--workers", "1"]
        rl.main(tyro.cli(rl.Args, args=[*flags, "--steps", "600", "--seed", str(seed)]))
        steering = Bundle.load(output).steering.state_dict()
        runs.append(({path.name: path.read_bytes() for path in (output / "experience").iterdir()}, steering))
    (seen, learned), (again, same), (other, _) = runs
    assert seen == again != other
    assert all(torch.equal(learned[name], same[name]) for name in learned)


def test_a_layout_is_met_with_several_noises(trained):
    env = NoiseEnv(spec(trained), ("reach", "press_button"), first_seed=5, stride=2, repeats=3)
    met = []
    for _ in range(7):
        env.reset()
        met.append((env.task, env.seed))
    assert met == [("reach", 5)] * 3 + [("press_button", 7)] * 3 + [("reach", 9)]


def test_features_are_on_one_scale_in_few_numbers_and_the_plain_ones_stay():
    from tandem.policy.networks.pca_whitening import COMPONENTS, LIMIT, Standardise

    torch.manual_seed(0)
    few = torch.randn(500, 3)
    seen = torch.cat([5 + 2 * torch.randn(500, 2), few @ torch.randn(3, 60), torch.full((500, 40), 7.0)], 1)
    standardise = Standardise(102, 2)
    standardise.fit(seen)
    y = standardise(seen)
    assert y.shape == (500, 2 + COMPONENTS)
    torch.testing.assert_close(y[:, :2], (seen[:, :2] - seen[:, :2].mean(0)) / seen[:, :2].std(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y[:, :5].std(0), torch.ones(5))  # three directions hold what changes
    assert y[:, 5:].abs().max() < 0.1
    back = torch.linalg.lstsq(y[:, 2:5], few - few.mean(0)).solution
    torch.testing.assert_close(y[:, 2:5] @ back, few - few.mean(0), atol=1e-3, rtol=1e-3)
    assert standardise(seen[:1] + 1e6).abs().max() == LIMIT


def test_returns_and_values_say_how_far_success_is():
    from tandem.policy.rl.recap.value import Value, ValueConfig, fit_value, returns_of, two_hot

    steps, length = torch.tensor([0, 5, 9, 3]), torch.full((4,), 10)
    returns = returns_of(steps, length, torch.tensor([True, True, True, False]), torch.full((4,), 20))
    torch.testing.assert_close(returns, torch.tensor([-0.5, -0.25, -0.05, -1.0]))
    centres = Value(ValueConfig(3)).centres
    torch.testing.assert_close(two_hot(returns, centres) @ centres, returns)
    torch.manual_seed(0)
    features = torch.randn(2000, 6)
    target = -features[:, 0].sigmoid()
    value = fit_value(features, target, steps=600, seed=0)
    seen = torch.randn(500, 6)
    assert (value(seen) + seen[:, 0].sigmoid()).abs().mean() < 0.05


def test_nobody_values_an_episode_that_they_learned_from():
    from tandem.policy.rl.recap.value import held_out_values

    torch.manual_seed(0)
    episode = torch.arange(40).repeat_interleave(5)
    features = torch.randn(40, 8)[episode]  # tells episodes apart, and nothing of how they end
    returns = -torch.rand(40)[episode]
    value = held_out_values(features, returns, episode, steps=300, seed=0)
    seen = (value - returns).abs().mean()
    assert seen > 0.2  # learned from itself, it would be 0


def own_samples(step, length, success, episode, expert):
    from tandem.policy.rl.shared.frames import Samples

    F = len(step)
    t = torch.tensor
    nothing = torch.zeros(F, 1)
    return Samples(
        z=nothing, goal=nothing, has_goal=nothing, instruction=nothing, actions=nothing,
        action_mask=nothing, task=torch.zeros(F), step=t(step), length=t(length), success=t(success),
        horizon=torch.full((F,), 100), episode=t(episode), expert=t(expert),
    )  # fmt: skip


def test_advantages_judge_what_the_next_steps_changed():
    from tandem.policy.rl.recap.advantage_labels import advantages

    # episode 0 succeeds after 10 steps; 1 fails after 8
    samples = own_samples([0, 4, 8, 0, 4], [10] * 3 + [8] * 2, [True] * 3 + [False] * 2, [0, 0, 0, 1, 1], [False] * 5)
    value = torch.tensor([-0.5, -0.3, -0.1, -0.6, -0.8])
    expected = [
        -0.04 - 0.3 + 0.5, -0.04 - 0.1 + 0.3, -0.02 + 0.0 + 0.1,  # the last frame's future is success
        -0.04 - 0.8 + 0.6, -0.04 - 1.0 + 0.8,
    ]  # fmt: skip
    torch.testing.assert_close(advantages(samples, value, ahead=4), torch.tensor(expected))
    ends = advantages(samples, value, ahead=5)[1]  # no look is that far ahead: six steps pass until the end
    torch.testing.assert_close(ends, torch.tensor(-0.06 + 0.0 + 0.3))


def test_no_layout_is_met_twice_and_none_is_left_out(tmp_path):
    from tandem.policy.rl.shared.seeds import training_seed, unmet

    experience, first = Experience.open(tmp_path, limit=15_000), training_seed(1)

    def meet(*layouts):
        for layout in layouts:
            experience.add(1, True, {"seed": np.array(first + layout), "much": np.zeros(200)})

    def following(many, *crashed):
        return [at - first for at in unmet(experience, 1, many, frozenset(first + layout for layout in crashed))]

    assert following(3) == [0, 1, 2]
    meet(1)
    assert following(3) == [0, 2, 3]  # killed while 0 was under way
    meet(0, 2, 5)
    assert following(3) == [3, 4, 6]
    assert following(3, 3, 6) == [4, 7, 8]
    assert not experience.forgot
    meet(7, 9, 10)
    assert experience.forgot and following(4) == [3, 4, 6, 8]  # what is older was met, and forgotten
    assert following(-1) == []  # the newest checkpoint was damaged, and an older one wanted fewer
    assert training_seed(9) + 100_000 <= 3_000_000
    with pytest.raises(ValueError, match="seed 10"):
        training_seed(10)


def test_only_unaided_successes_and_experts_who_succeed_are_good():
    from tandem.policy.networks.advantage_token import BAD, GOOD, UNKNOWN
    from tandem.policy.rl.recap.advantage_labels import Judging, judge
    from tandem.policy.rl.recap.update import ADVICE, CORRECTION, DEMONSTRATION, UNUSED, Judged, Shares, kinds_of

    # 0 succeeds, 1 fails; in 2 and 3 an expert acts from the second look on, and fails in 3; 4 is over before it could
    episode = [i for i in range(5) for _ in range(4)]
    expert = [False] * 8 + 2 * [False, True, True, True] + [False] * 4
    success = [i != 1 and i != 3 for i in episode]
    samples = own_samples([0, 4, 8, 12] * 5, [16] * 20, success, episode, expert)
    helped = torch.tensor([i >= 2 for i in episode])
    features = torch.randn(20, 6)
    judged = judge(samples, helped, features, 2, Judging(value_steps=5, good=0.5), seed=0)
    assert set(judged[:4].tolist()) == {GOOD, BAD} and (judged[4:8] == BAD).all()
    assert judged[8] == UNKNOWN and (judged[9:12] == GOOD).all() and (judged[12:] == UNKNOWN).all()
    kinds = kinds_of(samples, judged)
    assert (kinds[12:] == UNUSED).all()
    kinds = torch.cat([torch.full((20,), DEMONSTRATION), kinds, torch.full((5,), ADVICE)])
    weights = Judged(samples, judged, kinds).weights(Shares(0.2, 0.4, 0.1, 0.2, 0.1))
    assert weights[kinds == DEMONSTRATION].sum() == pytest.approx(0.2) and weights.sum() == pytest.approx(1)
    assert weights[kinds == ADVICE].tolist() == pytest.approx([0.1 / 5] * 5)
    assert weights[kinds == CORRECTION].tolist() == pytest.approx([0.4 / 3] * 3) and weights[20 + 8] == 0


def test_a_chunk_has_one_author_and_the_expert_finishes_undisturbed(trained):
    from tandem import envs
    from tandem.policy.rl.shared.episodes import horizon
    from tandem.policy.rl.shared.frames import of_trajectory

    ran = roll_out(Job(spec(trained), "reach", 7, takeover=0.9))
    look, expert = ran.arrays["look"], ran.arrays["expert"]
    assert ran.success and expert.sum() == ran.steps - round(0.9 * horizon("reach"))
    assert ran.steps > horizon("reach")  # it got the time that it needs
    assert envs.make("reach").unwrapped.horizon == horizon("reach")
    samples = of_trajectory(Bundle.load(trained), ran, ("reach",), 100)
    for i, start in enumerate(look):
        steps = np.arange(start, min(start + samples.actions.shape[1], ran.steps))
        assert samples.action_mask[i].sum() == np.logical_and.accumulate(expert[steps] == expert[start]).sum()
    again = roll_out(Job(spec(trained), "reach", 7))
    assert again.steps <= horizon("reach") and not again.arrays["expert"].any()


def test_what_one_method_taught_is_not_dropped_by_another(trained, tmp_path):
    from dataclasses import replace

    from tandem.policy.networks.advantage_token import Judgement, JudgementConfig
    from tandem.scripts.rl import _stackable
    from tandem.scripts.shared.errors import UserError

    bundle = Bundle.load(trained)
    told = replace(bundle, judgement=Judgement(JudgementConfig(bundle.sizes.width)))
    for method in ("dsrl", "recap", "ppo", "grpo"):
        _stackable(method, bundle)
    _stackable("dsrl", told)
    with pytest.raises(UserError, match="ppo would forget"):
        _stackable("ppo", told)


def test_judgement_begins_as_imitation_and_guidance_moves_away_from_it(trained):
    from tandem.policy.networks.advantage_token import GOOD, UNKNOWN, Judgement, JudgementConfig

    model = Bundle.load(trained).model
    D, cfg = model.encoder.cfg.width, model.controller.cfg
    judgement = Judgement(JudgementConfig(D))
    z, words = torch.randn(2, model.encoder.cfg.tokens, D), torch.ones(2, 4, dtype=torch.int64)
    referents, _ = model.grounding(words, z)
    noise = torch.randn(2, 1, cfg.chunk, cfg.action_dim)
    torch.nn.init.normal_(model.controller.action_out.weight)

    def act(told=None, **how):
        return model.controller.sample(model.controller.context(words, z, referents, told=told), noise, **how)

    assert torch.equal(act(), act(told=judgement(torch.tensor([GOOD, UNKNOWN]))))
    torch.nn.init.normal_(judgement.vectors)
    told = judgement(torch.tensor([GOOD, UNKNOWN]))
    different = (act(told=told) - act()).abs().amax((1, 2, 3))
    assert different[0] > 1e-3 and different[1] == 0
    untold = model.controller.context(words, z, referents)
    torch.testing.assert_close(act(told=told, untold=untold, guidance=1.0), act(told=told))
    torch.testing.assert_close(act(told=told, untold=untold, guidance=0.0), act())


def test_a_first_look_is_remembered_as_it_is_seen(trained):
    from dataclasses import replace

    from tandem import envs
    from tandem.policy.networks.object_memory import Memory
    from tandem.policy.rl.recap.memory_training import config_of

    bundle = Bundle.load(trained)
    env = envs.make("reach", bundle.sizes.image_size)
    obs, _ = env.reset(seed=0)

    def looks(bundle):
        agent = TandemAgent(bundle, Runtime(mode="flat"))
        agent.reset(obs["task"], 0)
        first = agent.look(obs)
        agent.step, moved = 4, {**obs, "observation.state": obs["observation.state"].copy()}
        moved["observation.state"][:3] += 0.1  # says the hand; the images say otherwise
        return first, agent.look(moved)

    (plain, plain_later), (first, later) = looks(bundle), looks(replace(bundle, memory=Memory(config_of(bundle))))
    for name in ("z", "referents", "way"):
        assert torch.equal(getattr(first, name), getattr(plain, name))
    assert not torch.equal(later.way, plain_later.way) and not torch.equal(later.z, plain_later.z)


def test_after_recap_a_policy_acts_with_less_noise_than_it_practises_with(trained):
    from dataclasses import replace

    from tandem.policy.networks.advantage_token import Judgement, JudgementConfig
    from tandem.policy.networks.noise_actor import Steering, SteeringConfig
    from tandem.policy.rl.recap.update import Lesson

    bundle = Bundle.load(trained)
    told = replace(bundle, judgement=Judgement(JudgementConfig(bundle.sizes.width, noise=0.25)))

    def deviation(bundle, **how):
        agent = TandemAgent(bundle, Runtime(mode="flat", **how))
        agent.reset("", 0)
        return float(agent._white(2000).std())

    assert deviation(told) == pytest.approx(deviation(bundle) / 4)
    assert deviation(told, noise=1.0) == deviation(bundle, noise=1.0) == deviation(bundle) > 0.9
    assert deviation(told, noise=0.0) == 0
    sizes = bundle.feature_sizes
    cfg = SteeringConfig(
        sizes.features, sizes.plain, bundle.sizes.chunk, bundle.model.controller.cfg.action_dim, 1, (8,)
    )
    assert deviation(replace(told, steering=Steering(cfg))) == deviation(bundle)  # dsrl chose the noise
    assert 0 < Lesson().noise < 1


def test_recap_practises_judges_learns_and_goes_on(trained, demonstrations, tmp_path, capsys):
    output = tmp_path / "run"
    more = ["--method", "recap", "--data", str(demonstrations), "--cache", str(tmp_path / "cache"), "--tasks", "reach"]
    base = ["--checkpoint", str(trained), "--output", str(output), "--workers", "1"]
    from dataclasses import replace

    import tandem.policy.rl.recap.recap as module
    import tyro
    from tandem.policy.rl.recap.advantage_labels import Judging
    from tandem.policy.rl.recap.memory_training import Recalling
    from tandem.policy.rl.recap.update import Lesson
    from tandem.policy.train.recipe import Stage
    from tandem.scripts import rl

    lesson = Lesson(stage=Stage(steps=3, batch=8, warmup=1))
    quick = {"episodes": 2, "each": 1, "judging": Judging(value_steps=20), "lesson": lesson}
    quick["recalling"] = Recalling(steps=20)
    original = module.Recap
    try:
        module.Recap = lambda **given: replace(original(**given), **quick)
        rl.main(tyro.cli(rl.Args, args=[*base, *more, "--minutes", "0.0001"]))
        assert "too short for a round: the checkpoint is the policy as it was" in capsys.readouterr().out
        assert Bundle.load(output).judgement is None and store.progress(output)["rl"]["env_steps"] == 0
        rl.main(tyro.cli(rl.Args, args=[*base, *more, "--resume", "--steps", "1"]))
        first = store.resolve(output)
        experience = Experience.open(output / "experience")
        assert len(experience) == 1
        rl.main(tyro.cli(rl.Args, args=[*base, *more, "--resume", "--steps", str(experience.steps + 1)]))
    finally:
        module.Recap = original
    assert len(Experience.open(output / "experience")) == 2
    learned, weights = Bundle.load(output), Bundle.load(trained).model.state_dict()
    assert store.resolve(output) != first and learned.judgement is not None and learned.memory is not None
    changed = [name for name, weight in learned.model.state_dict().items() if not torch.equal(weight, weights[name])]
    assert {name.split(".")[0] for name in changed} == {"controller"}


def test_recap_learns_from_a_round_that_was_cut_off_though_a_layout_of_it_never_ends(
    trained, demonstrations, tmp_path, monkeypatch
):
    import tandem.policy.rl.recap.recap as module
    import tyro
    from tandem.policy.evaluate.pool import Crash, Pool
    from tandem.policy.rl.recap.advantage_labels import Judging
    from tandem.policy.rl.recap.memory_training import Recalling
    from tandem.policy.rl.recap.update import Lesson
    from tandem.policy.train.recipe import Stage
    from tandem.scripts import rl

    def run(pool, jobs):
        """The first layout breaks always."""
        assert all(job.spec.runtime.noise == 1 for job in jobs)  # whatever it acts with at test
        return ((i, Crash("broke") if job.seed == 2_000_000 else pool.work(job)) for i, job in enumerate(jobs))

    def killed(*_):
        raise RuntimeError("killed")

    lesson, original = Lesson(stage=Stage(steps=3, batch=8, warmup=1)), module.Recap
    quick = {"each": 1, "judging": Judging(value_steps=20), "lesson": lesson, "helped": 0.0}
    quick["recalling"] = Recalling(steps=20)
    monkeypatch.setattr(module, "Recap", lambda: original(episodes=3, **quick))
    monkeypatch.setattr(Pool, "run", run)
    flags = ["--checkpoint", str(trained), "--method", "recap", "--tasks", "reach", "--output", str(tmp_path / "run")]
    flags += ["--workers", "1", "--data", str(demonstrations), "--cache", str(tmp_path / "cache")]
    with monkeypatch.context() as cut, pytest.raises(RuntimeError, match="killed"):
        cut.setattr(module, "learn", killed)
        rl.main(tyro.cli(rl.Args, args=flags))
    experience = Experience.open(tmp_path / "run" / "experience")
    assert len(experience) == 2 and not store.exists(tmp_path / "run")
    rl.main(tyro.cli(rl.Args, args=[*flags, "--resume", "--steps", str(experience.steps)]))  # which are spent
    assert len(Experience.open(tmp_path / "run" / "experience")) == 2
    assert Bundle.load(tmp_path / "run").judgement is not None
    monkeypatch.setattr(Pool, "run", lambda pool, jobs: ((i, Crash("broke")) for i in range(len(jobs))))
    with pytest.raises(PolicyError, match="every episode of a round crashed"):
        rl.main(tyro.cli(rl.Args, args=[*flags, "--output", str(tmp_path / "other")]))


def test_what_is_chosen_is_as_likely_as_its_gaussian_and_without_it_the_flow_is_as_it_was(trained):
    from tandem.policy.rl.shared.stochastic_flow import NOISY, RANGE, Explorer, explore, log_likelihood, step

    bundle = Bundle.load(trained)
    controller = bundle.model.controller
    cfg, D = controller.cfg, controller.cfg.width
    torch.nn.init.normal_(controller.action_out.weight, std=0.1)
    torch.manual_seed(1)
    words, z, referents = torch.ones(1, 4, dtype=torch.int64), torch.randn(1, 27, D), torch.randn(1, cfg.referents, D)
    context = controller.context(words, z, referents)
    explorer = Explorer.of(bundle)
    plain = float(explorer(torch.randn(1, bundle.feature_sizes.features)).mean())
    torch.nn.init.normal_(explorer.net[-1].weight)
    scale = explorer(torch.randn(1, bundle.feature_sizes.features)).detach()
    assert scale.std() > 0 and (scale / plain).min() > 1 / RANGE and (scale / plain).max() < RANGE
    start = torch.randn(1, 1, cfg.chunk, cfg.action_dim)
    chunk, before, chosen = explore(controller, context, scale, start, torch.Generator().manual_seed(0))
    mean = step(controller, context, before[None, None], NOISY)[0, 0]
    expected = torch.distributions.Normal(mean.mean(0), scale[0]).log_prob(chosen).sum()
    found = log_likelihood(controller, context, scale, before[None], chosen[None])
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)
    x = (mean + chosen - mean.mean(0))[None, None]
    for k in range(NOISY + 1, cfg.euler_steps):
        x = step(controller, context, x, k)
    torch.testing.assert_close(chunk, x[0, 0], atol=1e-5, rtol=1e-5)
    still, _, _ = explore(controller, context, 0 * scale, start, torch.Generator().manual_seed(0))
    torch.testing.assert_close(still, controller.sample(context, start.clone())[0, 0], atol=1e-5, rtol=1e-5)
    assert (still - chunk).abs().max() > 0.1


def test_rewards_add_up_to_where_an_episode_got_and_advantages_to_what_values_missed():
    from types import SimpleNamespace

    from tandem.policy.rl.ppo.advantages import estimate, group_advantages, progress, returns, rewards

    arrays = {"reward": np.linspace(0.1, 0.9, 9, dtype=np.float32), "look": np.array([0, 4, 8])}
    for success in (False, True):
        episode = SimpleNamespace(arrays=arrays, success=success)
        np.testing.assert_allclose(progress(episode), [0.1, 0.4, 0.8, 0.9], rtol=1e-6)
        np.testing.assert_allclose(rewards(episode), [0.3, 0.4, 0.1 + success], rtol=1e-6)
    reward, number = torch.tensor([0.3, 0.4, 1.1, 0.5, 0.2]), torch.tensor([0, 0, 0, 1, 1])
    came = returns(reward, number, discount=0.9)
    torch.testing.assert_close(came, torch.tensor([0.3 + 0.36 + 0.81 * 1.1, 0.4 + 0.99, 1.1, 0.68, 0.2]))
    value = torch.tensor([0.5, 1.0, 0.7, 0.1, 0.4])
    torch.testing.assert_close(estimate(reward, value, number, 0.9, trace=1.0), came - value)
    one_step = reward + 0.9 * torch.tensor([1.0, 0.7, 0.0, 0.4, 0.0]) - value
    torch.testing.assert_close(estimate(reward, value, number, 0.9, trace=0.0), one_step)
    assert estimate(reward, came, number, 0.9, trace=0.5).abs().max() < 1e-6  # who foresees all is never surprised
    ended = [SimpleNamespace(seed=s, success=w) for s, w in ((1, True), (1, False), (1, False), (2, True), (2, True))]
    gains = group_advantages(ended)
    assert gains[0] > 0 > gains[1] == gains[2] and gains[3] == gains[4] == 0 and abs(float(gains[:3].sum())) < 1e-6


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_policy_gradients_change_the_summary_alone_and_go_on(trained, tmp_path, monkeypatch, method):
    import tandem.policy.rl.ppo.ppo as module
    import tyro
    from tandem.policy.rl.ppo import baselines
    from tandem.scripts import rl

    quick = {"episodes": 2, "epochs": 1, "learning_rate": 1e-2, "kl": 1e9}
    quick["baseline"] = {"ppo": baselines.Value(updates=5), "grpo": baselines.Group(draws=2)}[method]
    original = module.FlowPolicyGradient
    monkeypatch.setattr(module, "FlowPolicyGradient", lambda _: original(**quick))
    flags = ["--checkpoint", str(trained), "--method", method, "--tasks", "reach", "--output", str(tmp_path / "run")]
    rl.main(tyro.cli(rl.Args, args=[*flags, "--workers", "1", "--steps", "1"]))
    steps = Experience.open(tmp_path / "run" / "experience").steps
    rl.main(tyro.cli(rl.Args, args=[*flags, "--workers", "1", "--resume", "--steps", str(steps + 1)]))
    assert len(Experience.open(tmp_path / "run" / "experience")) == 4
    weights = Bundle.load(trained).model.state_dict()
    learned = Bundle.load(tmp_path / "run").model.state_dict()
    changed = {name.rsplit(".", 2)[0] for name, weight in learned.items() if not torch.equal(weight, weights[name])}
    assert changed <= {"controller.summary"}
    assert changed or method == "grpo"  # a group that ended alike teaches nothing
    monkeypatch.undo()
    raised, lowered = (likelier(tmp_path / "run", method, success) for success in ((True, False), (False, True)))
    assert raised[0] > raised[1] and lowered[0] < lowered[1]


def likelier(run, method, success):
    """By how much an update makes what two episodes of one layout did likelier, told which of them succeeded."""
    from dataclasses import replace

    import tandem.policy.rl.ppo.ppo as module
    from tandem.policy.rl.ppo.baselines import Group, Value

    rollouts = [roll_out(Job(spec(run), "reach", 0, draw=draw, explore=True)) for draw in range(2)]
    rollouts = [replace(rollout, success=won) for rollout, won in zip(rollouts, success, strict=True)]
    bundle = Bundle.load(run)
    baseline = {"ppo": Value(), "grpo": Group()}[method].start(bundle, None)
    if method == "ppo":
        baseline.critic.known.fill_(True)
    optimizer = torch.optim.Adam(bundle.model.controller.requires_grad_(True).parameters(), 1e-3)
    learner, kept = module.Learner(bundle, module.Explorer.of(bundle), baseline, optimizer), {}

    settings = module.FlowPolicyGradient(epochs=5, kl=1e9, clip=10.0)
    with pytest.MonkeyPatch.context() as patch:
        original = module.Round
        patch.setattr(module, "Round", lambda *parts: kept.setdefault("round", original(*parts)))
        module.update(learner, rollouts, ("reach",), settings)
    now, mine = kept["round"], kept["round"].samples.episode
    rows = torch.arange(len(mine))
    with torch.no_grad():
        new = module._likelihood(learner, now, rows)
    return [float((new - now.old)[mine == episode].mean()) for episode in range(2)]


def test_steps_are_smaller_the_fewer_episodes_fail_and_never_none():
    from types import SimpleNamespace

    from tandem.policy.rl.ppo.ppo import FlowPolicyGradient, _rate

    settings = FlowPolicyGradient()
    ended = [[SimpleNamespace(success=i < won) for i in range(20)] for won in (0, 10, 15, 18, 20)]
    rates = [_rate(rollouts, settings) for rollouts in ended]
    assert rates[0] == rates[1] == settings.learning_rate
    assert rates[1] > rates[2] > rates[3] > rates[4] == settings.learning_rate * settings.least_rate > 0


def test_a_policy_that_gets_worse_is_told_from_luck():
    from types import SimpleNamespace

    from tandem.policy.rl.ppo.early_stopping import by_layout, declined

    def shares(won, of):
        return [1.0] * won + [0.0] * (of - won)

    assert declined(shares(62, 96), shares(34, 96)) and declined(shares(96, 96), shares(0, 96))
    assert not declined(shares(62, 96), shares(50, 96))  # by luck in every twentieth round
    assert not declined(shares(34, 96), shares(62, 96)) and not declined(shares(1, 1), shares(0, 1))
    assert not declined(shares(96, 96), shares(96, 96))
    ended = ((7, True, 9), (7, False, 9), (8, True, 20), (9, True, 9), (9, True, 10))
    draws = [SimpleNamespace(task="t", seed=seed, success=won, steps=steps) for seed, won, steps in ended]
    assert by_layout(draws, {}) == [0.5, 1.0, 1.0] and by_layout(draws, {"t": 10}) == [0.5, 0.0, 1.0]


def test_practice_waits_three_times_as_long_as_successes_take(trained):
    from types import SimpleNamespace

    from tandem.policy.rl.ppo.time_limit import patience

    took = [("slow", True, steps) for steps in (50, 60, 70, 80, 500)] + [("slow", False, 500)] * 5
    took += [("rare", True, 10)] * 4
    assert patience([SimpleNamespace(task=t, success=won, steps=steps) for t, won, steps in took]) == {"slow": 210}
    cut, whole, long = (roll_out(Job(spec(trained), "push", 0, patience=steps)) for steps in (7, None, 1000))
    assert cut.steps == 7 and not cut.success and whole.steps == long.steps > 7
    assert np.array_equal(cut.arrays["action"], whole.arrays["action"][:7])


def test_a_policy_gradient_that_makes_the_policy_worse_leaves_it_as_it_was(trained, tmp_path, monkeypatch, capsys):
    import tandem.policy.rl.ppo.ppo as module
    import tyro
    from tandem.policy.checkpoint import store
    from tandem.scripts import rl

    original, rounds = module.FlowPolicyGradient, []
    quick = {"episodes": 1, "epochs": 1, "learning_rate": 1e-2, "kl": 1e9}
    monkeypatch.setattr(module, "FlowPolicyGradient", lambda baseline: original(baseline, **quick))
    monkeypatch.setattr(module, "declined", lambda first, now: rounds.append((first, now)) or len(rounds) == 3)
    flags = ["--checkpoint", str(trained), "--method", "ppo", "--tasks", "reach", "--output", str(tmp_path / "run")]
    rl.main(tyro.cli(rl.Args, args=[*flags, "--workers", "1"]))
    assert len(Experience.open(tmp_path / "run" / "experience")) == len(rounds) == 3  # long before its time
    assert "this makes the policy worse: the checkpoint is the policy as it was" in capsys.readouterr().out
    assert store.progress(tmp_path / "run")["rl"]["untaught"]
    before, after = (Bundle.load(run).model.state_dict() for run in (trained, tmp_path / "run"))
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())


def test_every_look_explores_with_other_numbers():
    from tandem.policy.rl.shared.episodes import _noise

    job = Job(AgentSpec("checkpoint", ""), "reach", 0)
    seeds = {_noise(job, looks).initial_seed() for looks in range(1, 20)}
    assert len(seeds) == 19 and noise_seed(job.task, job.seed, job.draw) not in seeds  # x_0's, or both would be one


def test_a_reward_that_is_not_finite_stops_learning_with_one_line(trained, tmp_path, monkeypatch):
    import tyro
    from tandem.envs.tabletop import TabletopEnv
    from tandem.policy.evaluate.pool import Pool
    from tandem.scripts import rl

    original = TabletopEnv.step
    monkeypatch.setattr(TabletopEnv, "step", lambda env, action: (r := original(env, action))[:1] + (np.nan,) + r[2:])
    monkeypatch.setattr(Pool, "run", lambda pool, jobs: ((i, pool.work(job)) for i, job in enumerate(jobs)))
    flags = ["--checkpoint", str(trained), "--method", "ppo", "--tasks", "reach", "--output", str(tmp_path / "run")]
    with pytest.raises(PolicyError, match="the reward of step 1 is not finite"):
        rl.main(tyro.cli(rl.Args, args=[*flags, "--workers", "1"]))
    assert len(Experience.open(tmp_path / "run" / "experience")) == 0


def test_a_round_that_was_cut_off_is_repeated(trained, tmp_path, monkeypatch):
    import tandem.policy.rl.ppo.ppo as module
    import tyro
    from tandem.scripts import rl

    def killed(*_):
        raise RuntimeError("killed")

    original = module.FlowPolicyGradient
    monkeypatch.setattr(module, "FlowPolicyGradient", lambda baseline: original(baseline, episodes=1))
    monkeypatch.setattr(module, "update", killed)
    flags = ["--checkpoint", str(trained), "--method", "ppo", "--tasks", "reach", "--output", str(tmp_path / "run")]
    with pytest.raises(RuntimeError, match="killed"):
        rl.main(tyro.cli(rl.Args, args=[*flags, "--workers", "1"]))
    assert len(Experience.open(tmp_path / "run" / "experience")) == 0


def test_layouts_of_scratch_are_those_of_training(tmp_path, monkeypatch):
    from contextlib import nullcontext

    import tandem.policy.rl.dsrl.scratch as module
    from stable_baselines3.common.vec_env import DummyVecEnv
    from tandem.policy.rl.shared.learning_run import Limits, Practice
    from tandem.policy.rl.shared.seeds import training_seed
    from tandem.policy.train.run_folder import Run

    made = []
    here = lambda makers, deadline: nullcontext(made.append(DummyVecEnv(makers)) or made[0])  # noqa: E731
    monkeypatch.setattr(module, "in_processes", here)
    with Run(tmp_path / "run", resume=False) as run:
        module.scratch("reach", Practice(run=run, limits=Limits(1, 1.0)), 2, seed=3)
    assert [env.unwrapped.np_random_seed for env in made[0].envs] == [training_seed(3), training_seed(3) + 1]


def test_scratch_learns_from_state_alone_and_leaves_its_curve(tmp_path, monkeypatch):
    import json

    import tyro
    from tandem.policy.rl.shared import learning_run as progress
    from tandem.scripts import rl

    monkeypatch.setattr(progress, "REPORT", 1)
    flags = ["--method", "scratch", "--tasks", "reach", "--output", str(tmp_path / "run"), "--workers", "1"]
    rl.main(tyro.cli(rl.Args, args=[*flags, "--steps", "120"]))
    curve = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert curve[-1]["step"] >= 120 and [row["episodes"] for row in curve] == list(range(1, len(curve) + 1))
    assert all(row["low"] <= row["success"] <= row["high"] for row in curve)


def test_scratch_stops_at_numbers_that_are_not_finite_and_stopped_is_not_done(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import tandem.policy.rl.dsrl.scratch as module
    import tyro
    from tandem.policy.rl.shared.learning_run import Limits, Practice
    from tandem.scripts import rl

    practice = Practice(run=SimpleNamespace(stop_requested=False), limits=Limits(100, 1.0))
    fine = {"rewards": np.zeros(1), "new_obs": np.zeros((1, 3)), "infos": [{}], "dones": [False]}
    count = module._Count(practice, 1)
    count.locals = fine
    assert count._on_step()
    for name in ("rewards", "new_obs"):
        count.locals = fine | {name: np.full((1, 3), np.nan)}
        with pytest.raises(PolicyError, match="scratch: .* not finite"):
            count._on_step()
    monkeypatch.setattr(module, "scratch", lambda task, practice, *_: os.kill(os.getpid(), signal.SIGTERM))
    flags = ["--method", "scratch", "--tasks", "reach", "--output", str(tmp_path / "run")]
    with pytest.raises(KeyboardInterrupt, match="resume"):
        rl.main(tyro.cli(rl.Args, args=flags))
