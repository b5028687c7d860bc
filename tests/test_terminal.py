import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from cleanpoke import terminal
from cleanpoke.terminal import Progress, StopSignal, format_duration

LOOP = """
import time
from cleanpoke.terminal import StopSignal
with StopSignal() as stop:
    print("ready", flush=True)
    while not stop:
        time.sleep(0.01)
    print("saving", flush=True)
    {after}
print("done", flush=True)
"""


def start(after: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP.format(after=after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_lets_the_loop_save_and_leave(number):
    process = start(after="pass")
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert output == "saving\ndone\n"
    assert "stopping after this step" in errors
    assert process.returncode == 0


def test_second_signal_ends_at_once():
    process = start(after="time.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert output == ""
    assert process.returncode == -signal.SIGINT


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        assert stop.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


def test_plain_lines_are_few_and_hold_what_matters(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(stream=stream)
    for step in range(1, 1001):
        clock[0] += 0.05  # 20 steps a second, 50 seconds in all
        progress.update(step, 1000, {"loss": 0.123456, "win_rate": 1})
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 6
    assert "\r" not in stream.getvalue()
    assert lines[-1] == "step 1,000/1,000 (100%)  20.00/s  ETA 0:00  loss 0.1235  win_rate 1"


def test_eta_never_exceeds_the_time_limit(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.update(0, 1000)
    clock[0] += terminal.PLAIN_LINE_SECONDS
    progress.update(15, 1000, seconds_left=61)
    assert "ETA --:--" in stream.getvalue().splitlines()[0]
    assert "ETA 1:01" in stream.getvalue().splitlines()[1]
    clock[0] += terminal.PLAIN_LINE_SECONDS
    progress.update(30, 1000, seconds_left=-21)
    assert "ETA 0:00" in stream.getvalue().splitlines()[2]


def test_live_line_is_redrawn_and_messages_do_not_tear_it():
    master, slave = pty.openpty()
    with open(slave, "w") as stream:
        progress = Progress("battles", stream)
        assert progress.live
        progress.update(1, 2)
        progress.print("saved")
        progress.update(2, 2)
        progress.end()
    output = ""
    with contextlib.suppress(OSError):  # once nobody holds the other end and all is read
        while part := os.read(master, 4096):
            output += part.decode()
    os.close(master)
    assert output.startswith("\r\x1b[Kbattles 1/2 (50%)")
    assert "\r\nsaved\r\n" in output
    assert output.endswith("\r\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03"), (float("inf"), "--:--")]
)
def test_durations_read_like_a_clock(seconds, text):
    assert format_duration(seconds) == text
