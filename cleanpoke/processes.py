"""Work spread over processes: reports come back, and children end with their parent."""

import multiprocessing
import os
import queue
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cleanpoke.errors import CleanPokeError

SIGN_OF_LIFE_SECONDS = 10


def _child(function: Callable, share: Any, reports: multiprocessing.Queue, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    parent = os.getppid()
    try:
        function(
            share,
            lambda report: reports.put(("report", report)),
            lambda: stop.is_set() or os.getppid() != parent,
        )
        reports.put(("done", None))
    except CleanPokeError as error:
        reports.put(("error", str(error)))


def in_processes(
    function: Callable[[Any, Callable[[Any], None], Callable[[], bool]], None],
    shares: list[Any],
    *,
    timeout_seconds: float = 300,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Any]:
    """Runs `function(share, report, stopped)` for each share in its own process; yields whatever they report.

    `report(x)` sends a picklable x here, and None is a mere sign of life; `stopped()` turns true when the
    parent wants the children to finish early (`should_stop`) or is gone. Raises CleanPokeError if a child
    fails, dies, or reports nothing for `timeout_seconds`.
    """
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.Event()
    children = [
        context.Process(target=_child, args=(function, share, reports, stop), daemon=True) for share in shares
    ]
    for child in children:
        child.start()
    finished, silent = 0, 0.0
    try:
        while finished < len(children):
            if should_stop():
                stop.set()
            try:
                kind, content = reports.get(timeout=0.5)
            except queue.Empty:
                silent += 0.5
                dead = [child for child in children if child.exitcode not in (None, 0)]
                if dead:
                    raise CleanPokeError(
                        f"a process died (exit code {dead[0].exitcode}); its output is above"
                    ) from None
                if silent > timeout_seconds:
                    raise CleanPokeError(f"the processes said nothing for {timeout_seconds:.0f} s") from None
                continue
            silent = 0.0
            if kind == "error":
                raise CleanPokeError(content)
            if kind == "done":
                finished += 1
            elif content is not None:
                yield content
    finally:
        stop.set()
        deadline = time.monotonic() + 5
        for child in children:
            child.join(timeout=max(deadline - time.monotonic(), 0.01))
            if child.is_alive():
                child.kill()


def children_of_this_process() -> set[int]:
    """Numbers of the processes that this one has started and that still run; on Linux, elsewhere none."""
    children = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # after the name, which may hold anything
        except OSError:
            continue  # gone meanwhile
        if int(fields[1]) == os.getpid():
            children.add(int(path.parent.name))
    return children


def guard(children: Iterable[int]) -> subprocess.Popen:
    """Starts a small process that kills these once this one is gone, however it went. Kill it when they are.

    For programs that a library starts: what die_with_parent asks of the kernel, nobody can ask in their name.
    """
    return subprocess.Popen(
        ["sh", "-c", 'read nothing; kill -9 "$@" 2>/dev/null', "guard", *map(str, children)],
        stdin=subprocess.PIPE,  # ends when this process does
        start_new_session=True,  # Ctrl-C is not for it
    )


def signs_of_life(report: Callable[[Any], None]) -> Callable[[], None]:
    """To be called often: reports None now and then, for work that is long silent."""
    last = time.monotonic()

    def show_life() -> None:
        nonlocal last
        if time.monotonic() - last > SIGN_OF_LIFE_SECONDS:
            last = time.monotonic()
            report(None)

    return show_life
