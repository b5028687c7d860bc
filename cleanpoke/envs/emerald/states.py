"""Save states in memory and on disk, tied to their cartridge: mGBA itself would load any."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from cleanpoke.envs.emerald.core import Core
from cleanpoke.errors import CleanPokeError

MAGIC = b"CleanPoke save state\n"


@dataclass(frozen=True, slots=True)
class SaveState:
    """A state of the console, the SHA-1 of the cartridge it is of, and the milestones that led to it."""

    rom_sha1: str
    content: bytes
    milestones: tuple[str, ...] = ()

    def __hash__(self) -> int:
        """Of the processor and its counters, which tell states apart, not of all 400 KB."""
        return hash(self.content[:1024])

    def check(self, core: Core) -> None:
        """Raises CleanPokeError if it is of another cartridge than this core's."""
        if self.rom_sha1 != core.sha1:
            raise CleanPokeError(
                f"this save state is of another ROM (SHA-1 {self.rom_sha1[:10]}…) than {core.rom.name} "
                f"({core.sha1[:10]}…): give the ROM it was made with, or another state"
            )

    def save(self, path: str | Path) -> None:
        """Writes a file that appears complete or not at all."""
        path = Path(path)
        header = json.dumps({"rom_sha1": self.rom_sha1, "milestones": self.milestones}).encode() + b"\n"
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_bytes(MAGIC + header + zlib.compress(self.content, 1))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "SaveState":
        """Reads what `save` wrote. Raises CleanPokeError for anything else."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CleanPokeError(f"cannot read the save state {path} ({error.strerror})") from error
        try:
            if not content.startswith(MAGIC):
                raise ValueError("it does not begin like one")
            header, _, state = content[len(MAGIC) :].partition(b"\n")
            about = json.loads(header)
            return cls(about["rom_sha1"], zlib.decompress(state), tuple(about["milestones"]))
        except (ValueError, KeyError, zlib.error) as error:
            raise CleanPokeError(
                f"{path} is no save state of CleanPoke, or damaged ({error}): make a new one"
            ) from error
