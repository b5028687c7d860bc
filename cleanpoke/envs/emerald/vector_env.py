"""Many games at once in one process: gymnasium's vector interface over threads.

    envs = EmeraldVectorEnv(16, variant="random")
    observations, infos = envs.reset(seed=1)

The emulator lets go of Python's lock while a frame runs, so that threads use all cores. Where only one
console fits into a process (retro_core.py), each game has its own process, and the threads talk to them.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cleanpoke.compute import available_cores
from cleanpoke.envs.emerald.core import Core
from cleanpoke.envs.emerald.env import EmeraldEnv
from cleanpoke.envs.emerald.remote_env import RemoteEnv
from cleanpoke.errors import CleanPokeError


class EmeraldVectorEnv(VectorEnv):
    """`num_envs` games with the arguments of EmeraldEnv, on `threads` threads (0: one for each core).

    A game that has ended begins anew at the next step, which ignores its action and pays nothing (gymnasium's
    NEXT_STEP). Observations (N, h, w, 3) are one array, written anew by each step: copy what you keep.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, num_envs: int, *, threads: int = 0, **options: Any):
        if num_envs < 1:
            raise CleanPokeError("num_envs must be at least 1")
        self.num_envs = num_envs
        make = RemoteEnv if Core.needs_own_process else EmeraldEnv
        self.envs = [make(**options) for _ in range(num_envs)]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observations = np.zeros(self.observation_space.shape, np.uint8)
        self.rewards = np.zeros(num_envs)
        self.terminated, self.truncated = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        count = min(threads or available_cores(), num_envs)
        # Each thread always serves the same games: a core belongs to one thread.
        self._shares = [range(first, num_envs, count) for first in range(count)]
        self._threads = [ThreadPoolExecutor(1) for _ in self._shares]

    def _each(self, work: Any) -> list[Any]:
        """Calls work(index) for all games; results in order."""
        results: list[Any] = [None] * self.num_envs

        def serve(share: range) -> None:
            for index in share:
                results[index] = work(index)

        work_done = [
            thread.submit(serve, share) for thread, share in zip(self._threads, self._shares, strict=True)
        ]
        for future in work_done:
            future.result()
        return results

    def _gather(self, infos: list[dict[str, Any]]) -> dict[str, Any]:
        """One array per entry, as gymnasium's vector environments give it, with the mask of who has it."""
        gathered: dict[str, Any] = {}
        for name in infos[0]:
            values = [info[name] for info in infos]
            column = np.empty(self.num_envs, int if isinstance(values[0], int) else object)
            for index, value in enumerate(values):
                column[index] = value  # not all at once: maps differ in size
            gathered |= {name: column, f"_{name}": np.ones(self.num_envs, bool)}
        return gathered

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins all games; game i is seeded with seed + i, or with seed[i]."""
        seeds = (
            seed
            if isinstance(seed, list)
            else [None if seed is None else seed + i for i in range(self.num_envs)]
        )

        def begin(index: int) -> dict[str, Any]:
            self.observations[index], info = self.envs[index].reset(seed=seeds[index], options=options)
            return info

        infos = self._each(begin)
        self.terminated[:] = self.truncated[:] = False
        return self.observations, self._gather(infos)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """actions (N,) to observations, rewards, terminated, truncated (N,) and infos."""

        def play(index: int) -> dict[str, Any]:
            env = self.envs[index]
            if self.terminated[index] or self.truncated[index]:
                self.observations[index], info = env.reset()
                self.rewards[index], self.terminated[index], self.truncated[index] = 0.0, False, False
                return info
            observation, reward, terminated, truncated, info = env.step(int(actions[index]))
            self.observations[index] = observation
            self.rewards[index], self.terminated[index], self.truncated[index] = reward, terminated, truncated
            return info

        infos = self._each(play)
        flags = self.terminated.copy(), self.truncated.copy()
        return self.observations, self.rewards.copy(), *flags, self._gather(infos)

    def close_extras(self, **kwargs: Any) -> None:
        for thread in self._threads:
            thread.shutdown()
        for env in self.envs:
            env.close()
