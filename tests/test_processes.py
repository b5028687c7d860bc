"""Work in processes: failures become one clear error, and nobody stays behind."""

import os
import time

import pytest

from cleanpoke.errors import CleanPokeError
from cleanpoke.processes import in_processes


def die(share, report, stopped):
    report(share)
    time.sleep(0.5)
    os._exit(3)


def complain(share, report, stopped):
    raise CleanPokeError(f"share {share} is impossible")


def wait_until_stopped(share, report, stopped):
    report(os.getpid())
    while not stopped():
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("function", "message", "timeout"),
    [
        (die, "exit code 3", 60),
        (complain, "share 1 is impossible", 60),
        (wait_until_stopped, "said nothing for 2 s", 2),
    ],
)
def test_child_that_dies_complains_or_hangs_is_one_clear_error(function, message, timeout):
    with pytest.raises(CleanPokeError, match=message):
        list(in_processes(function, [1], timeout_seconds=timeout))


def test_children_end_with_the_reader():
    reports = in_processes(wait_until_stopped, [1, 2])
    children = [next(reports), next(reports)]
    reports.close()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() < deadline, "a child is still there"
        time.sleep(0.05)
