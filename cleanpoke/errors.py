"""The one class of errors that a user can cause."""


class CleanPokeError(Exception):
    """Wrong input, a missing file, a full disk: something the person at the keyboard can put right.

    The message is one line that names the thing and the fix. `run.user_errors` turns it into
    `error: <message>` and exit status 1; every other exception is a bug and keeps its traceback.
    """
