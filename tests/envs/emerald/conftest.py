"""Emerald needs a system library, which `make test` installs where it may; elsewhere this is left out."""

from cleanpoke.envs.emerald.core import MISSING_LIBRARY

collect_ignore_glob = ["test_*.py"] if MISSING_LIBRARY else []


def pytest_report_header() -> str | None:
    return f"Emerald is left out: {MISSING_LIBRARY}" if MISSING_LIBRARY else None
