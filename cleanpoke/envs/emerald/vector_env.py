"""Many games at once: gymnasium's vector interface over processes.

    envs = EmeraldVectorEnv(16, variant="random")
    observations, infos = envs.reset(seed=1)

Pictures come through memory that the processes share. (Threads of one process gain little: the emulator lets
go of Python's lock for 15 microseconds at a time.)
"""

import os
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cleanpoke.compute import available_cores
from cleanpoke.envs.emerald.core import Core
from cleanpoke.envs.emerald.games import MAX_PICTURE, Games, RemoteGames, shared_memory, view
from cleanpoke.errors import CleanPokeError


class EmeraldVectorEnv(VectorEnv):
    """`num_envs` games with the arguments of EmeraldEnv, in `processes` processes (0: one for each core).

    This process is the first of them, and plays its share while the others play theirs. Where a console needs
    a process of its own (retro_core.py), each game has another one.
    A game that has ended begins anew at the next step, which ignores its action and pays nothing (gymnasium's
    NEXT_STEP). Observations (N, h, w, 3) are one array, written anew by each step: copy what you keep.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, num_envs: int, *, processes: int = 0, **options: Any):
        self._shares: list[Games | RemoteGames] = []
        if num_envs < 1:
            raise CleanPokeError("num_envs must be at least 1")
        self.num_envs = num_envs
        count = num_envs if Core.needs_own_process else min(processes or available_cores(), num_envs)
        bounds = [num_envs * share // count for share in range(count + 1)]
        self._slices = [slice(*pair) for pair in zip(bounds, bounds[1:], strict=False)]
        places = [(part.start, part.stop - part.start, options) for part in self._slices]
        number = shared_memory(num_envs * MAX_PICTURE)
        memory = view(number)
        if not Core.needs_own_process:
            self._shares.append(Games(memory, *places.pop(0)))
        self._shares += [RemoteGames(number, *place) for place in places]
        os.close(number)
        self.single_observation_space = self.call("observation_space")[0]
        self.single_action_space = self.call("action_space")[0]
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        shape = self.observation_space.shape
        self.observations = memory[: int(np.prod(shape))].reshape(shape)

    def _ask(self, name: str, *arguments_of_shares: Any) -> list[Any]:
        """Asks all shares, each with its arguments; the answers of all games in order."""
        for share, arguments in zip(self._shares, zip(*arguments_of_shares, strict=True), strict=True):
            share.ask(name, *arguments)
        answers, errors = [], []
        for share in self._shares:
            try:
                answers += share.answer()
            except CleanPokeError as error:
                errors.append(error)
        if errors:  # only when nobody has an answer left that the next question would get
            raise errors[0]
        return answers

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
        parts = [seeds[part] for part in self._slices]
        return self.observations, self._gather(self._ask("reset", parts, [options] * len(parts)))

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """actions (N,) to observations, rewards, terminated, truncated (N,) and infos."""
        actions = np.asarray(actions)
        answers = self._ask("step", [actions[part] for part in self._slices])
        rewards, terminated, truncated, infos = zip(*answers, strict=True)
        flags = np.array(terminated, bool), np.array(truncated, bool)
        return self.observations, np.array(rewards, float), *flags, self._gather(list(infos))

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """What a method of EmeraldEnv, such as `save_state`, returns for each game, or an attribute."""
        return tuple(self._ask("call", *([one] * len(self._shares) for one in (name, *arguments))))

    def close_extras(self, **kwargs: Any) -> None:
        for share in self._shares:
            share.close()
