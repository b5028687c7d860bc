"""Most tests of Emerald make several consoles, as `mgba` can. It needs a system library, which `make test`
installs where it may; elsewhere they are left out. test_retro_core.py runs its consoles in processes."""

from pathlib import Path

from cleanpoke.envs.emerald.core import MISSING_MGBA

if MISSING_MGBA:
    collect_ignore = [
        path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_retro_core.py"
    ]


def pytest_report_header() -> str | None:
    return f"Most of Emerald is left out: {MISSING_MGBA}" if MISSING_MGBA else None
