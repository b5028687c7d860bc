"""What a Game Boy Advance is to us, whichever emulator runs it: a cartridge, buttons, a picture, memory."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cleanpoke.errors import CleanPokeError

BUTTONS = ("A", "B", "START", "SELECT", "UP", "DOWN", "LEFT", "RIGHT", "L", "R")
HEIGHT, WIDTH = 160, 240
EWRAM, IWRAM = 0x02000000, 0x03000000


class Console:
    """One console with one cartridge; core.py and retro_core.py make it run.

    pixels (160, 240, 4) uint8: the picture last drawn, red, green, blue and a byte without meaning; ewram,
    iwram uint8: the memory. Ask for them anew after each run; only `write` changes the memory.
    Raises CleanPokeError for a file that is no cartridge.
    """

    needs_own_process = False
    """Whether only one fits into a process."""
    pixels: np.ndarray
    ewram: np.ndarray
    iwram: np.ndarray

    def __init__(self, rom: str | Path):
        self.rom = Path(rom)
        try:
            content = self.rom.read_bytes()
        except OSError as error:
            raise CleanPokeError(f"cannot read the ROM {rom} ({error.strerror}): check --rom-path") from error
        if len(content) < 0xC0 or content[3] != 0xEA or content[0xB2] != 0x96:
            raise CleanPokeError(f"{rom} is no Game Boy Advance cartridge: give a .gba file as --rom-path")
        self.sha1 = hashlib.sha1(content).hexdigest()
        self.title = content[0xA0:0xAC].rstrip(b"\0").decode("ascii", "replace")
        self.game_code = content[0xAC:0xB0].decode("ascii", "replace")
        self.revision = content[0xBC]

    # ---------------------------------------------------------------- what an emulator must do

    def versions(self) -> dict[str, Any]:
        """What else than the cartridge decides how a game goes: core_version (the emulator), wrapper_version
        (its Python package), rtc (at the start, in milliseconds since 1970; None: the computer's clock)."""
        raise NotImplementedError

    def reset(self) -> None:
        """Switches it off and on: memory, keys and clock as at the first start."""
        raise NotImplementedError

    def set_keys(self, buttons: Iterable[str]) -> None:
        """Holds exactly these buttons from now on."""
        raise NotImplementedError

    def run(self, frames: int, drawn: int = 1) -> None:
        """Runs so many frames. drawn: how many of them, the last ones, need pictures (the others change
        nothing else, and take less than half the time without)."""
        raise NotImplementedError

    def save_state(self) -> bytes:
        """The whole console, about 400 KB; it belongs to this ROM and this emulator."""
        raise NotImplementedError

    def load_state(self, state: bytes) -> None:
        """Puts a state of this ROM back; keys are let go. The picture is that of before until the next frame.

        Raises CleanPokeError for what is no state. Whose it is the emulator may not tell: see states.py.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Lets the emulator go; the console cannot be used after that."""

    # ---------------------------------------------------------------- memory

    def _place(self, address: int) -> tuple[np.ndarray, int]:
        return (self.ewram, address - EWRAM) if address < IWRAM else (self.iwram, address - IWRAM)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at an address of working memory."""
        memory, first = self._place(address)
        return memory[first : first + size].tobytes()

    def write(self, address: int, content: bytes) -> None:
        """Puts bytes at an address of working memory."""
        memory, first = self._place(address)
        memory[first : first + len(content)] = np.frombuffer(content, np.uint8)

    def u8(self, address: int) -> int:
        return self.read(address, 1)[0]

    def u16(self, address: int) -> int:
        return int.from_bytes(self.read(address, 2), "little")

    def u32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def s16(self, address: int) -> int:
        return int.from_bytes(self.read(address, 2), "little", signed=True)
