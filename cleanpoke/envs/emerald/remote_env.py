"""A game in a process of its own, for consoles of which only one fits into a process (retro_core.py)."""

import multiprocessing
import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from cleanpoke.envs.emerald.env import EmeraldEnv
from cleanpoke.errors import CleanPokeError

TIMEOUT_SECONDS = 120


def _serve(pipe: Connection, options: dict[str, Any]) -> None:
    """What the process does until the other end of the pipe is closed, also by the end of its owner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides what Ctrl-C means
    try:
        env = EmeraldEnv(**options)
        pipe.send((env.observation_space, env.action_space))
        while True:
            name, arguments = pipe.recv()
            pipe.send(getattr(env, name)(**arguments))
    except CleanPokeError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


class RemoteEnv:
    """`reset`, `step` and `close` of an EmeraldEnv with these options.

    Raises CleanPokeError as it does, after which the process is gone, and if the process dies or hangs.
    """

    def __init__(self, **options: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, options), daemon=True)
        self._process.start()
        theirs.close()
        self.observation_space, self.action_space = self._answer()

    def _answer(self) -> Any:
        if not self._pipe.poll(TIMEOUT_SECONDS):
            raise CleanPokeError(f"the process of a game said nothing for {TIMEOUT_SECONDS} s")
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise CleanPokeError("the process of a game died; what it said is above") from error
        if isinstance(answer, CleanPokeError):
            raise answer
        return answer

    def _ask(self, name: str, **arguments: Any) -> Any:
        try:
            self._pipe.send((name, arguments))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise CleanPokeError("the process of a game died; what it said is above") from error
        return self._answer()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return self._ask("reset", seed=seed, options=options)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._ask("step", action=action)

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
