"""Errors that a user can cause, and the border of every command where they become one clear line."""

import contextlib
import errno
import sys
import threading
from collections.abc import Iterator

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CleanPokeError(Exception):
    """Wrong input, a missing file, a full disk: something the person at the keyboard can put right.

    The message is one line that names the thing and the fix. `user_errors` turns it into `error: <message>`
    and exit status 1; every other exception is a bug and keeps its traceback.
    """


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Wraps a command: `with user_errors(): main(tyro.cli(Args))`.

    A CleanPokeError or a full disk ends as one `error: …` line on stderr with exit status 1, Ctrl-C with 130.
    """
    previous_hook, threading.excepthook = threading.excepthook, _thread_failed
    try:
        yield
    except CleanPokeError as error:
        message = " ".join(str(error).split())
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        message = f"the disk is full ({error.filename or 'while writing'}): free some space and run again"
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    else:
        return
    finally:
        threading.excepthook = previous_hook
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Keeps a full disk in TensorBoard's thread from printing: its next call raises it in ours, too."""
    if not isinstance(failure.exc_value, OSError) or failure.exc_value.errno not in DISK_FULL:
        threading.__excepthook__(failure)
