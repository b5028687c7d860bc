"""PointMass-v0: a point to be pushed to the origin of a plane. It needs no package; PPO learns it in seconds.

Importing this module registers it with gymnasium.
"""

from typing import Any

import gymnasium as gym
import numpy as np

MAX_STEPS = 50
"""An episode is cut off after so many steps; nothing else ends it."""


class PointMass(gym.Env):
    """Observations (4,) float64: position x, y, within -2 … 2; velocity, within -1 … 1. Actions (2,): the
    push, within -1 … 1.

    Reward: minus the distance to the origin, minus a hundredth of the squared push. Episodes start at rest,
    anywhere in the square from -1 to 1. Random play has returns of about -60, a good policy's exceed -20.
    """

    def __init__(self) -> None:
        limits = np.array([2.0, 2.0, 1.0, 1.0])
        self.observation_space = gym.spaces.Box(-limits, limits, dtype=np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state = np.zeros(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = np.concatenate([self.np_random.uniform(-1.0, 1.0, 2), np.zeros(2)])
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        push = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        velocity = 0.9 * self.state[2:] + 0.1 * push
        position = np.clip(self.state[:2] + 0.5 * velocity, -2.0, 2.0)
        self.state = np.concatenate([position, velocity])
        reward = -float(np.linalg.norm(position)) - 0.01 * float(push @ push)
        return self.state.copy(), reward, False, False, {}


gym.register("PointMass-v0", entry_point="cleanpoke.envs.point_mass:PointMass", max_episode_steps=MAX_STEPS)
