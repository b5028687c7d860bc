"""Pokémon Showdown's own simulator inside Node worker processes: no server, no sockets, no login.

Many battles run at once in each worker. Python gets all decisions that are now pending as one batch
and answers them as one batch, so that a policy runs batched:

    with Simulator("gen1randombattle", num_workers=2, seed=1) as simulator:
        for seed in range(64):
            simulator.start(seed)
        while simulator.num_running:
            messages, ended = simulator.receive()
            simulator.choose([(m.battle, m.side, "default") for m in messages if m.needs_choice])

A battle is determined by its seed, its teams and the choices made. Workers speak JSON lines over
pipes (see `node/battle_worker.js`) and end with their parent. One that dies or gets stuck is
replaced; its battles come back as `Ended`, and `Simulator.counters` says how often it happened.
"""

import difflib
import fcntl
import os
import selectors
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import orjson

from cleanpoke.envs.showdown.node_runtime import (
    NODE_FOLDER,
    node_binary,
    run_script,
    showdown_version,
    telling_line,
)
from cleanpoke.errors import CleanPokeError
from cleanpoke.terminal import die_with_parent

# A large young generation frees the short-lived objects of a turn more cheaply: 10 to 15% more turns per
# second than V8's default, for some 60 MB more of memory.
NODE_OPTIONS = ("--max-semi-space-size=64",)
PIPE_BYTES = 1 << 20
START_TIMEOUT_SECONDS = 60
# A worker that dies this often without having finished anything will not get better.
MAX_RESTARTS_IN_A_ROW = 3


@dataclass(slots=True)
class Message:
    """What one player is told after both have chosen (or after its own choice was refused)."""

    battle: int
    side: int
    """0 is p1, 1 is p2."""
    lines: list[str]
    """Protocol lines that this player may see, since its last message; without spacers and times."""
    request: dict | None
    """The request as the real server sends it; None once the battle is over. Read-only: a Pokémon that
    has not changed is described by the same dictionary as in the last request of the side."""
    needs_choice: bool
    error: str | None = None
    """Why the last choice was refused; the same (or a corrected) request is then to be answered."""
    truth: dict | None = None
    """Snapshot of the whole battle, with `with_truth` only. Never show it to a player."""


@dataclass(slots=True)
class Ended:
    """A battle that is over. Its last messages come before it or with it."""

    battle: int
    winner: int | None
    """The side that won; None for a tie and for a battle that did not come to its end."""
    turns: int
    reason: str
    """"win", "tie", "turn_limit", "worker_died", "stalled" (no answer in time) or "error"."""
    input_log: list[str] = field(default_factory=list)
    """What Showdown needs to play the battle again: seed, teams and choices."""
    error: str = ""


class _Worker:
    """One Node process with its pipes; everything is non-blocking on our side."""

    def __init__(self, options: dict):
        self.battles: set[int] = set()
        self.commands: list[list] = []
        self.unsent = b""
        self.received: list[bytes] = []
        self.unanswered = 0
        """Lines sent that have no answer yet; `waiting_since` is when the oldest wait began."""
        self.waiting_since = 0.0
        self.ready = False
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [
                node_binary(),
                *NODE_OPTIONS,
                str(NODE_FOLDER / "battle_worker.js"),
                orjson.dumps(options).decode(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            bufsize=0,
            # Ctrl-C belongs to the Python program, which then closes its workers itself.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.input = self.process.stdin.fileno()
        self.output = self.process.stdout.fileno()
        for pipe in (self.input, self.output):
            os.set_blocking(pipe, False)
            with suppress(OSError, AttributeError):  # bigger pipes save context switches; Linux only
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def queue_line(self) -> None:
        """Turns the collected commands into one line to send."""
        if self.commands:
            self.unsent += orjson.dumps(self.commands) + b"\n"
            self.commands = []
            if self.unanswered == 0:
                self.waiting_since = time.monotonic()
            self.unanswered += 1

    def send(self) -> None:
        """Writes what the pipe takes now. A dead worker shows itself at the next `read`."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.input, self.unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.unsent = b""

    def read(self) -> tuple[list[bytes], bool]:
        """Complete lines that have arrived, and whether the worker is still there."""
        lines: list[bytes] = []
        try:
            while chunk := os.read(self.output, PIPE_BYTES):
                if b"\n" not in chunk:
                    self.received.append(chunk)
                    continue
                *complete, rest = (b"".join(self.received) + chunk).split(b"\n")
                lines += complete
                self.received = [rest] if rest else []
        except BlockingIOError:
            return lines, True
        return lines, False

    def last_words(self) -> str:
        """What it said last, in one line."""
        self.stderr.seek(0)
        return telling_line(self.stderr.read())

    def close(self, grace_seconds: float) -> None:
        """Ends the process: it leaves by itself when its input closes, and is killed otherwise."""
        self.process.stdin.close()
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.stderr.close()


class Simulator:
    """Plays battles of one singles format in `num_workers` Node processes. A context manager.

    seed, team_pool_size: random-battle teams are drawn from a pool of `team_pool_size` teams which
        `seed` determines (generating one costs as much as several turns); a battle's seed picks its two.
    turn_limit: a battle that goes on for more turns ends as "turn_limit".
    timeout_seconds: a worker that owes an answer for this long is replaced, its battles are "stalled".
    with_truth: every message carries a snapshot of the whole battle, for tests.
    shortcuts: False plays by Showdown's untouched code, to test that `node/shortcuts.js` changes nothing.

    Raises CleanPokeError for an unknown or unsupported format and when Node is missing.
    """

    def __init__(
        self,
        format: str,
        num_workers: int = 1,
        *,
        seed: int = 0,
        team_pool_size: int = 1000,
        turn_limit: int = 1000,
        timeout_seconds: float = 60,
        with_truth: bool = False,
        shortcuts: bool = True,
    ):
        self.format = format
        self.timeout_seconds = timeout_seconds
        self.counters: Counter[str] = Counter()
        """restarts, worker_died, stalled, errors (battles), refused and defaulted (choices)."""
        self._options = {
            "format": format,
            "seed": seed,
            "team_pool_size": team_pool_size,
            "turn_limit": turn_limit,
            "with_truth": with_truth,
            "shortcuts": shortcuts,
        }
        self._next_battle = 0
        self._worker_of: dict[int, _Worker] = {}
        self._awaited: set[tuple[int, int]] = set()
        """(battle, side) of every decision handed out and not answered."""
        self._teams: dict[tuple[int, int], list[dict]] = {}
        """(battle, side) to the Pokémon of its last request."""
        self._lost: list[Ended] = []
        self._restarts_in_a_row = 0
        self._random_teams = False
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        showdown_version()
        try:
            for _ in range(num_workers):
                self._workers.append(self._open_worker())
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def num_running(self) -> int:
        """Battles started whose `Ended` has not been handed out."""
        return len(self._worker_of) + len(self._lost)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the Node workers now alive."""
        return [worker.process.pid for worker in self._workers]

    def start(self, seed: int, teams: tuple[str | None, str | None] = (None, None)) -> int:
        """Begins a battle and returns its number; its first requests come with `receive`.

        teams: packed teams of p1 and p2; None draws one from the pool of a random-battle format.
        """
        if None in teams and not self._random_teams:
            raise CleanPokeError(f"{self.format} makes no teams of its own: give two packed teams")
        battle = self._next_battle
        self._next_battle += 1
        worker = min(self._workers, key=lambda worker: len(worker.battles))
        worker.battles.add(battle)
        worker.commands.append(["start", battle, seed, *teams])
        self._worker_of[battle] = worker
        return battle

    def choose(self, choices: list[tuple[int, int, str]]) -> None:
        """Answers decisions, each as (battle, side, choice in Showdown's words such as "move 2").

        A choice that the rules refuse comes back as a message with `error`; the third one of a
        decision is replaced by "default". Choices for battles that have ended meanwhile are ignored.
        """
        for battle, side, choice in choices:
            worker = self._worker_of.get(battle)
            if worker is None:
                continue
            if (battle, side) not in self._awaited:
                raise ValueError(f"battle {battle} expects no choice from side {side} now")
            self._awaited.remove((battle, side))
            worker.commands.append(["choose", battle, side, choice])
        self._send()

    def receive(self, timeout_seconds: float | None = None) -> tuple[list[Message], list[Ended]]:
        """Waits until something happened and returns everything that has, oldest first.

        timeout_seconds: returns two empty lists after so long; without it, the watchdog of the
        workers bounds the wait. Raises RuntimeError when nothing can happen before `choose` is called.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        messages: list[Message] = []
        ended: list[Ended] = []
        self._send()
        self._check_that_something_is_due()
        while not messages and not ended:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                break
            self._wait(min(1.0, self.timeout_seconds, deadline - now if deadline is not None else 1.0))
            for worker in list(self._workers):
                self._collect(worker, messages, ended)
            ended += self._lost
            self._lost.clear()
        return messages, ended

    def close(self) -> None:
        """Ends all workers; battles still running are dropped."""
        for worker in self._workers:
            with suppress(KeyError):
                self._selector.unregister(worker.output)
            worker.process.kill()
        for worker in self._workers:
            worker.close(grace_seconds=5)
        self._workers.clear()
        self._selector.close()

    def _open_worker(self) -> _Worker:
        worker = _Worker(self._options)
        self._selector.register(worker.output, selectors.EVENT_READ)
        return worker

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not all(worker.ready for worker in self._workers):
            if time.monotonic() > deadline:
                raise CleanPokeError(f"the simulator did not start within {START_TIMEOUT_SECONDS} s")
            self._wait(1.0)
            for worker in list(self._workers):
                self._collect(worker, [], [])

    def _greet(self, worker: _Worker, hello: dict) -> None:
        """The first line of a worker: ready, or why it cannot play."""
        if "formats" in hello:
            raise CleanPokeError(_unknown_format(self.format, hello["formats"]))
        if "fatal" in hello:
            raise CleanPokeError(f"{self.format} is {hello['fatal']}")
        self._random_teams = hello["random_teams"]
        worker.ready = True

    def _send(self) -> None:
        for worker in self._workers:
            worker.queue_line()
            if worker.unsent:
                worker.send()

    def _wait(self, timeout_seconds: float) -> None:
        """Sleeps until a worker has written, or can take more of what we could not send."""
        blocked = [worker for worker in self._workers if worker.unsent]
        for worker in blocked:
            self._selector.register(worker.input, selectors.EVENT_WRITE)
        self._selector.select(timeout_seconds)
        for worker in blocked:
            self._selector.unregister(worker.input)
            worker.send()

    def _check_that_something_is_due(self) -> None:
        if self._lost or any(worker.unanswered for worker in self._workers):
            return
        if not self._worker_of:
            raise RuntimeError("receive() would wait for ever: no battle is running")
        battle, side = min(self._awaited)
        raise RuntimeError(
            f"receive() would wait for ever: {len(self._awaited)} decisions await choose(), "
            f"the first is battle {battle}, side {side}"
        )

    def _collect(self, worker: _Worker, messages: list[Message], ended: list[Ended]) -> None:
        """Takes in what a worker has written; replaces it when it is gone or owes an answer too long."""
        lines, alive = worker.read()
        for line in lines:
            answer = orjson.loads(line)
            if not worker.ready:
                self._greet(worker, answer)
                continue
            worker.unanswered -= 1
            worker.waiting_since = time.monotonic()
            self._restarts_in_a_row = 0
            self.counters["defaulted"] += answer["defaulted"]
            messages.extend(map(self._message, answer["messages"]))
            for details in answer["ended"]:
                ended.append(self._ended(worker, Ended(*details)))
        if not alive:
            self._replace(worker, "worker_died", f"the worker process died: {worker.last_words()}", messages)
        elif worker.unanswered and time.monotonic() - worker.waiting_since > self.timeout_seconds:
            reason = f"the worker gave no answer for {self.timeout_seconds:.0f} s"
            self._replace(worker, "stalled", reason, messages)

    def _message(self, parts: list) -> Message:
        battle, side, lines, request, team, *rest = parts
        if request is not None:
            # The worker writes only where a Pokémon stood in the last request when nothing of it has changed.
            before = self._teams.get((battle, side), ())
            team = [before[entry] if type(entry) is int else entry for entry in team]
            self._teams[battle, side] = request["side"]["pokemon"] = team
        needs_choice = request is not None and not request.get("wait", False)
        message = Message(battle, side, lines, request, needs_choice, *rest)
        if needs_choice:
            self._awaited.add((battle, side))
        if message.error:
            self.counters["refused"] += 1
        return message

    def _ended(self, worker: _Worker, ended: Ended) -> Ended:
        worker.battles.discard(ended.battle)
        del self._worker_of[ended.battle]
        for key in ((ended.battle, 0), (ended.battle, 1)):
            self._awaited.discard(key)
            self._teams.pop(key, None)
        if ended.reason == "error":
            self.counters["errors"] += 1
        return ended

    def _replace(self, worker: _Worker, reason: str, error: str, messages: list[Message]) -> None:
        """Gives up a worker: its battles end as `reason`, and a new process takes its place."""
        self._selector.unregister(worker.output)
        worker.process.kill()
        worker.close(grace_seconds=5)
        self.counters["restarts"] += 1
        self.counters[reason] += len(worker.battles)
        # Nobody should think about decisions of battles that are gone.
        messages[:] = [message for message in messages if message.battle not in worker.battles]
        for battle in sorted(worker.battles):
            self._lost.append(self._ended(worker, Ended(battle, None, 0, reason, error=error)))
        self._restarts_in_a_row += 1
        if self._restarts_in_a_row > MAX_RESTARTS_IN_A_ROW:
            raise CleanPokeError(f"the simulator keeps failing, last with: {error}")
        self._workers[self._workers.index(worker)] = self._open_worker()


def _unknown_format(format: str, formats: list[str]) -> str:
    near = difflib.get_close_matches(format, formats, n=3, cutoff=0.5)
    return f"unknown format {format!r}: did you mean {' or '.join(near or ['gen1ou', 'gen1randombattle'])}?"


def validate_teams(format: str, teams: list[str]) -> list[list[str]]:
    """For each packed team the problems that Showdown's validator names; [] for a legal team.

    Starts Node once (about two seconds), so hand over all teams at once.
    """
    answer = run_script("validate_teams.js", {"format": format, "teams": teams})
    if "formats" in answer:
        raise CleanPokeError(_unknown_format(format, answer["formats"]))
    return answer["problems"]
