"""Worlds of continuous control side by side, and running moments of what they show.

Axes: N environments, O observation, A actions, B rows.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import cleanpoke.envs.point_mass  # noqa: F401  registers PointMass-v0
from cleanpoke.errors import CleanPokeError

LARGEST = 10.0
"""Standardised numbers are clipped to this size, as in CleanRL."""


class Silent(gym.Wrapper):
    """Leaves out the info, whose entries vector environments would gather one by one at every step."""

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return self.env.reset(**options)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {}


def make_envs(env_id: str, num_envs: int, encoder_path: Path | None = None) -> SyncVectorEnv:
    """Environments that start anew within the same step. Raises CleanPokeError for one that does not fit.

    encoder_path: frozen encoder through which pictures are seen.
    """
    options: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "copy": False}
    if encoder_path:
        from cleanpoke.envs.car_racing import latent_env  # it needs two packages that others do without

        return SyncVectorEnv([lambda: Silent(latent_env(env_id, encoder_path))] * num_envs, **options)
    try:
        envs = gym.make_vec(
            env_id, num_envs, vectorization_mode="sync", vector_kwargs=options, wrappers=(Silent,)
        )
    except (gym.error.Error, ImportError) as error:
        raise CleanPokeError(f"cannot make {env_id!r}: {' '.join(str(error).split())}") from error
    seen, actions = envs.single_observation_space, envs.single_action_space
    if not (isinstance(seen, gym.spaces.Box) and len(seen.shape) == 1):
        raise CleanPokeError(
            f"{env_id} shows {seen}: this script reads one vector (pictures need --encoder-path)"
        )
    if not (isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1 and actions.is_bounded()):
        raise CleanPokeError(f"{env_id} takes actions {actions}: this script chooses a bounded vector")
    if envs.spec.max_episode_steps is None:
        raise CleanPokeError(f"episodes of {env_id} may never end: register it with max_episode_steps")
    return envs


class Worlds:
    """N environments side by side, and where their episodes stand. Call reset first.

    Actions are in half ranges here: -1 is an action's lower bound, 1 its upper one.
    """

    def __init__(self, env_id: str, num_envs: int, encoder_path: Path | None = None):
        self.envs = make_envs(env_id, num_envs, encoder_path)
        # Of the file through which states are seen; empty without one.
        self.encoder = self.envs.envs[0].get_wrapper_attr("encoder").checksum if encoder_path else ""
        bounds = self.envs.single_action_space
        self.middle, self.half = (bounds.high + bounds.low) / 2, (bounds.high - bounds.low) / 2
        self.num_inputs, self.num_actions = self.envs.single_observation_space.shape[0], bounds.shape[0]

    def reset(self, seed: int) -> None:
        self.states = self.envs.reset(seed=seed)[0].astype(np.float32)  # (N, O)
        self.returns, self.lengths = np.zeros(len(self.states)), np.zeros(len(self.states), int)
        self.finished: list[tuple[float, int]] = []  # return and length of each episode since someone looked

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """actions (N, A) to next states (N, O), rewards, terminated, truncated (N,).

        The next states are those that the actions led to. In `self.states` an episode that is over has given
        way to the first state of the next one.
        """
        seen, rewards, terminated, truncated, info = self.envs.step(self.middle + self.half * actions)
        next_states = self.states = seen.astype(np.float32)
        self.returns += rewards
        self.lengths += 1
        over = terminated | truncated
        if over.any():
            next_states = self.states.copy()
            for index in np.flatnonzero(over):
                next_states[index] = info["final_obs"][index]
                self.finished.append((float(self.returns[index]), int(self.lengths[index])))
            self.returns[over], self.lengths[over] = 0.0, 0
        return next_states, rewards, terminated, truncated


class RunningMoments:
    """Mean and variance of all rows seen so far, as in gymnasium's NormalizeObservation."""

    def __init__(self, size: int):
        self.count, self.mean = 1e-4, np.zeros(size)
        self.squares = np.full(size, 1e-4)  # sum of squared deviations: the first variance is 1

    def update(self, rows: np.ndarray) -> None:
        """rows (B, size)."""
        deviations = rows - self.mean
        self.count += len(rows)
        self.mean = self.mean + deviations.sum(0) / self.count
        self.squares = self.squares + (deviations * (rows - self.mean)).sum(0)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.squares / self.count + 1e-8)

    def standardised(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.mean) / self.std).clip(-LARGEST, LARGEST)

    def state_dict(self) -> dict[str, Any]:
        tensors = {"mean": torch.from_numpy(self.mean), "squares": torch.from_numpy(self.squares)}
        return {"count": self.count, **tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"].numpy(), state["squares"].numpy()
