"""Which files decide what a script does: its version is a hash of them."""

import hashlib
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Finder(ModuleFinder):
    """Follows imports of cleanpoke/ only."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        if path is None and name != "cleanpoke":
            raise ImportError(name)
        return super().find_module(name, path, parent)


def sources_of(script: Path) -> list[Path]:
    """The script and the modules of cleanpoke/ that it imports, directly or not; with a package also the
    other files of its folder, such as a ROM.

    Imports are read from the source: those by a computed name are not found, nor are installed libraries.
    """
    finder = Finder(path=[str(ROOT)])
    finder.run_script(str(script))
    found = {script}
    for module in finder.modules.values():
        found.add(path := Path(module.__file__))
        if module.__path__:
            found |= {other for other in path.parent.iterdir() if is_data(other)}
    return sorted(found)


def is_data(path: Path) -> bool:
    return path.is_file() and path.suffix != ".py" and not path.name.startswith(".")


def version_of(script: Path) -> str:
    """SHA-256 of the names and contents of its sources."""
    lines = []
    for path in sources_of(script):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
        lines.append(f"{content} {name}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
