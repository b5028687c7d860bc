"""A share of the games of EmeraldVectorEnv: played in this process, or in one of their own."""

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from cleanpoke.envs.emerald.console import HEIGHT, WIDTH
from cleanpoke.envs.emerald.env import EmeraldEnv
from cleanpoke.errors import CleanPokeError

TIMEOUT_SECONDS = 120
MAX_PICTURE = HEIGHT * WIDTH * 3
"""Bytes of the largest observation."""


class Games:
    """`count` games with the options of EmeraldEnv, one after the other; the first has the number `first`.

    memory (bytes,) uint8: where observations go, those of all games in the order of their numbers.
    What `ask` names is done in `answer`, so that a caller can ask several shares before it waits for one.
    """

    def __init__(self, memory: np.ndarray, first: int, count: int, options: dict[str, Any]):
        self.envs = [EmeraldEnv(**options) for _ in range(count)]
        shape = self.envs[0].observation_space.shape
        size = int(np.prod(shape))
        self.pictures = memory[first * size : (first + count) * size].reshape(count, *shape)
        self.is_over = [False] * count
        self.asked: tuple[str, tuple] = ("", ())

    def ask(self, name: str, *arguments: Any) -> None:
        self.asked = name, arguments

    def answer(self) -> list[Any]:
        name, arguments = self.asked
        return getattr(self, name)(*arguments)

    def reset(self, seeds: list[int | None], options: dict[str, Any] | None) -> list[dict[str, Any]]:
        infos = []
        for index, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self.pictures[index], info = env.reset(seed=seed, options=options)
            self.is_over[index] = False
            infos.append(info)
        return infos

    def step(self, actions: np.ndarray) -> list[tuple[float, bool, bool, dict[str, Any]]]:
        """Of each game reward, terminated, truncated and info; one that is over begins anew instead."""
        answers = []
        for index, env in enumerate(self.envs):
            reward, terminated, truncated = 0.0, False, False
            if self.is_over[index]:
                picture, info = env.reset()
            else:
                picture, reward, terminated, truncated, info = env.step(int(actions[index]))
            self.pictures[index] = picture
            self.is_over[index] = terminated or truncated
            answers.append((reward, terminated, truncated, info))
        return answers

    def call(self, name: str, *arguments: Any) -> list[Any]:
        """Of each game what a method returns, or the value of an attribute."""
        found = [getattr(env, name) for env in self.envs]
        return [one(*arguments) if callable(one) else one for one in found]

    def close(self) -> None:
        for env in self.envs:
            env.close()


def shared_memory(size: int) -> int:
    """A file that is memory, for as long as somebody has it open."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("pictures")
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    os.ftruncate(number, size)
    return number


def view(number: int) -> np.ndarray:
    """The bytes of such a file."""
    return np.frombuffer(mmap.mmap(number, 0), np.uint8)


def serve(connection: int, memory: int) -> None:
    """What the process of RemoteGames does, until the other end of its connection is closed."""
    pipe = Connection(connection)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            games = Games(view(memory), *pipe.recv())
        except CleanPokeError as error:
            pipe.send(error)  # the answer to whatever is asked first
            return
        while True:
            games.ask(*pipe.recv())
            try:
                pipe.send(games.answer())
            except CleanPokeError as error:
                pipe.send(error)


class RemoteGames:
    """The same in a process of their own, which ends with this object, or with this process.

    memory: of `shared_memory`. Raises CleanPokeError as the games do, and if the process dies or hangs. It is
    no process of multiprocessing, for those import the main script again, and torch with it.
    """

    def __init__(self, memory: int, first: int, count: int, options: dict[str, Any]):
        self._pipe, theirs = Pipe()
        numbers = theirs.fileno(), memory
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve(*{numbers})"
        # In a session of its own, a Ctrl-C is not for it: it ends when the connection does.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], pass_fds=numbers, start_new_session=True
        )
        theirs.close()
        self._owes_answer = False
        self._send((first, count, options))

    def _send(self, message: Any) -> None:
        with contextlib.suppress(ConnectionError):  # told by `answer`
            self._pipe.send(message)

    def ask(self, name: str, *arguments: Any) -> None:
        if self._owes_answer:  # to a question that a Ctrl-C or an error elsewhere made forgotten
            with contextlib.suppress(CleanPokeError):
                self.answer()
        self._owes_answer = True
        self._send((name, *arguments))

    def answer(self) -> Any:
        self._owes_answer = False
        try:
            if not self._pipe.poll(TIMEOUT_SECONDS):
                raise CleanPokeError(f"the process of a game said nothing for {TIMEOUT_SECONDS} s")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise CleanPokeError("the process of a game died; what it said is above") from error
        if isinstance(answer, CleanPokeError):
            raise answer
        return answer

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
