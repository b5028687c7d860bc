"""What a long command shows on the terminal and hears: the progress line, Ctrl-C, and how children end."""

import ctypes
import math
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

PLAIN_LINE_SECONDS = 15.0  # between two progress lines when the stream is a file or a pipe
LIVE_LINE_SECONDS = 0.1  # between two redraws of the progress line on a terminal
SPEED_WINDOW_SECONDS = 30.0  # the speed shown is that of this last stretch


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For Popen's preexec_fn: the kernel kills the child when its parent's thread ends, however it ends."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Progress:
    """One line about how far a long job is: redrawn on a terminal, printed now and then elsewhere."""

    def __init__(self, unit: str = "step", stream: TextIO | None = None, enabled: bool = True) -> None:
        """unit: what is counted, such as "battles"; stream: stdout by default; enabled: show anything."""
        self.unit = unit
        self.enabled = enabled
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._history: deque[tuple[float, int]] = deque()  # (seconds, step) over the last stretch
        self._next_line = 0.0
        self._line_is_open = False

    def update(
        self,
        step: int,
        total: int,
        numbers: Mapping[str, float] | None = None,
        *,
        seconds_left: float = math.inf,
    ) -> None:
        """Shows `step` of `total`, the speed, the time left and the two or three `numbers` that matter.

        Cheap enough to call at every step. seconds_left: an upper bound of the time left, as of a time limit.
        """
        if not self.enabled:
            return
        now, history = time.monotonic(), self._history
        if history and step < history[-1][1]:
            history.clear()
        if not history or now - history[-1][0] >= LIVE_LINE_SECONDS or step >= total:
            history.append((now, step))
            while len(history) > 2 and now - history[0][0] > SPEED_WINDOW_SECONDS:
                history.popleft()
        if now < self._next_line and step < total:
            return
        seconds, done = now - history[0][0], step - history[0][1]
        speed = done / seconds if seconds > 0 else 0.0
        remaining = min((total - step) / speed if speed else math.inf, max(seconds_left, 0.0))
        parts = [f"{self.unit} {step:,}/{total:,} ({100 * step / max(total, 1):.0f}%)"]
        if speed:
            parts.append(f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.2f}/s")
        parts.append(f"ETA {format_duration(remaining)}")
        parts.extend(f"{name} {value:,.4g}" for name, value in (numbers or {}).items())
        line = "  ".join(parts)
        if self.live:
            line = f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}"
        else:
            line += "\n"
        self.stream.write(line)
        self.stream.flush()
        self._line_is_open = self.live
        self._next_line = now + (LIVE_LINE_SECONDS if self.live else PLAIN_LINE_SECONDS)

    def print(self, text: str) -> None:
        """Prints a line of its own without tearing the live one."""
        if not self.enabled:
            return
        self.end()
        self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Leaves the live line as it stands and moves on to the next."""
        if self._line_is_open:
            self.stream.write("\n")
            self.stream.flush()
            self._line_is_open = False


def format_duration(seconds: float) -> str:
    """1:02:03 or 2:03, and --:-- when it is unknown."""
    if not math.isfinite(seconds):
        return "--:--"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class StopSignal:
    """`with StopSignal() as stop:` becomes truthy at Ctrl-C or SIGTERM, so that a loop can save and leave.

    A second signal ends the process at once. Main thread only, as Python's signals are.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The number of the first signal that arrived."""
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = number
            # Not print(): the signal may have interrupted one that holds the stream's lock.
            os.write(2, b"\nstopping after this step (once more: stop at once, nothing is saved)\n")
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
