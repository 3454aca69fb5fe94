"""Views of a tabletop environment for libraries that cannot take text or images."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .entities import ENTITIES


class StateOnly(gymnasium.Wrapper):
    """Simulator state as one flat vector instead of images and words: for stable-baselines3 and other state learners.

    Observation: float32, proprioception (17,), then for each of the M entities x, y, z [m] and present, then which
    entities the instruction names (object and destination, one-hot over M each), and the way from the fingertips to
    these, x, y, z [m], zeros where it names none: 17 + 4 M + 2 M + 6 numbers. The ways say nothing new, but a small
    network would have to learn to look them up.
    Make the inner environment with `cameras=()`, or it renders images that nobody sees.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        inner: Any = env.unwrapped
        state = inner.observation_space["observation.state"]
        M = len(ENTITIES)
        low = np.concatenate([state.low, np.tile([-2.0, -2.0, -2.0, 0.0], M), np.zeros(2 * M), np.full(6, -2.0)])
        high = np.concatenate([state.high, np.tile([2.0, 2.0, 2.0, 1.0], M), np.ones(2 * M), np.full(6, 2.0)])
        self.observation_space = self._box = spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """As gymnasium's, with the state alone as the observation."""
        obs, info = self.env.reset(**kwargs)
        return self._flat(obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """As gymnasium's, with the state alone as the observation."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._flat(obs), reward, terminated, truncated, info

    def _flat(self, obs: dict[str, Any]) -> np.ndarray:
        inner: Any = self.env.unwrapped
        known = inner.privileged()
        things = known["observation.environment_state"].reshape(len(ENTITIES), 4)
        named, ways = np.zeros((2, len(ENTITIES)), np.float32), np.zeros((2, 3), np.float32)
        for i, entity in enumerate(known["referents"]):
            if entity >= 0:
                named[i, entity], ways[i] = 1.0, things[entity, :3] - inner.sim.pinch
        parts = [obs["observation.state"], things.reshape(-1), named.reshape(-1), ways.reshape(-1)]
        return np.clip(np.concatenate(parts), self._box.low, self._box.high).astype(np.float32)
