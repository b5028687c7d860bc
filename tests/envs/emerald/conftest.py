"""Emerald needs a system library, which `make test` installs where it may; elsewhere this is left out."""

from cleanpoke.errors import CleanPokeError

try:
    import cleanpoke.envs.emerald.core  # noqa: F401
except CleanPokeError as error:
    reason = str(error)
    collect_ignore_glob = ["test_*.py"]
else:
    reason = ""


def pytest_report_header() -> str | None:
    return f"Emerald is left out: {reason}" if reason else None
