"""The same console on the mGBA core that stable-retro brings. core.py chooses it where `mgba` is missing.

The games are the same, frame by frame; what differs, for this is mGBA 0.7 and that one 0.10:
- The last 512 bytes of IWRAM, the stacks of interrupts and BIOS calls, which begin at other moments.
- Colours while the screen fades or blends, by at most 8 of 256: 5 bits are mixed here, 8 there.
- One console in a process; every frame is drawn; states are of this core only.
- A cartridge with a clock, such as Emerald's, shows the computer's time: games repeat but for that.
"""

import ctypes
import gc
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from stable_retro import RetroEmulator, get_core_path, get_system_info
from stable_retro.data import GameData

from cleanpoke.envs.emerald.console import BUTTONS, EWRAM, HEIGHT, IWRAM, WIDTH, Console
from cleanpoke.errors import CleanPokeError

SYSTEM = "GbAdvance"
STATE_HEADER = 12
"""A state begins with the version of its format and the checksums of BIOS and cartridge, 4 bytes each."""
STATE_REGISTERS = 0x400
"""Up to here it holds the processor, the counters of sound and picture, and no memory."""


class SystemInfo(ctypes.Structure):
    """retro_system_info of libretro's interface, which every core fills in."""

    _fields_ = (
        ("library_name", ctypes.c_char_p),
        ("library_version", ctypes.c_char_p),
        ("valid_extensions", ctypes.c_char_p),
        ("need_fullpath", ctypes.c_bool),
        ("block_extract", ctypes.c_bool),
    )


class RetroCore(Console):
    """The console on stable-retro. ewram and iwram are copies that can only be read."""

    needs_own_process = True

    def __init__(self, rom: str | Path):
        super().__init__(rom)
        if self.rom.suffix.lower() != ".gba":
            raise CleanPokeError(f"stable-retro knows a cartridge by its name: rename {rom} to end in .gba")
        gc.collect()  # consoles that nobody holds any more
        try:
            self._emulator = RetroEmulator(str(self.rom))
        except RuntimeError as error:
            if "multiple emulator" not in str(error):
                raise CleanPokeError(
                    f"stable-retro refuses {rom} ({error}): give another file as --rom-path"
                ) from error
            raise CleanPokeError(
                "stable-retro runs one console in a process, and there is one already: close() it first, or "
                "put each into its own process, as EmeraldVectorEnv does"
            ) from error
        self._data = GameData()
        self._emulator.configure_data(self._data)
        # The library that stable-retro has loaded, for `save_state`.
        self._library = ctypes.CDLL(get_core_path(SYSTEM))
        self._library.retro_serialize_size.restype = ctypes.c_size_t
        self._library.retro_serialize.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._library.retro_serialize.restype = ctypes.c_bool
        self._state = ctypes.create_string_buffer(self._library.retro_serialize_size())
        order = get_system_info(SYSTEM)["buttons"]
        self._places = {name: order.index(name) for name in BUTTONS}
        self._mask = np.zeros(len(order), np.uint8)
        self._pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self._is_drawn = True
        self._blocks: dict[int, bytes] | None = None
        # stable-retro has run one frame by now, which the first run counts as its first.
        self._draw()
        self._first_picture, self._power_on = self._pixels.copy(), self.save_state()
        self._is_ahead = True

    def versions(self) -> dict[str, Any]:
        info = SystemInfo()
        self._library.retro_get_system_info(ctypes.byref(info))
        return {
            "core_version": f"{info.library_name.decode()} {info.library_version.decode()}",
            "wrapper_version": f"stable-retro {metadata.version('stable-retro')}",
            "rtc": None,
        }

    # ---------------------------------------------------------------- looking

    def _draw(self) -> None:
        """Each colour has 5 bits, here in the upper ones of 8; the other core repeats the first 3 below."""
        screen = self._emulator.get_screen()  # (160, 240, 3) uint8
        self._pixels[..., :3] = screen & 0xF8 | screen >> 5
        self._is_drawn = True

    @property
    def pixels(self) -> np.ndarray:
        if not self._is_drawn:
            self._draw()
        return self._pixels

    def _memory(self, start: int) -> np.ndarray:
        if self._blocks is None:
            self._blocks = self._data.memory.blocks
        return np.frombuffer(self._blocks[start], np.uint8)

    @property
    def ewram(self) -> np.ndarray:
        return self._memory(EWRAM)

    @property
    def iwram(self) -> np.ndarray:
        return self._memory(IWRAM)

    def write(self, address: int, content: bytes) -> None:
        for place, byte in enumerate(content, start=address):
            self._data.memory.assign(place, "|u1", byte)
        self._blocks = None

    # ---------------------------------------------------------------- running

    def reset(self) -> None:
        self.load_state(self._power_on)
        self._pixels[:] = self._first_picture
        self._is_drawn = True

    def set_keys(self, buttons: Iterable[str]) -> None:
        self._mask[:] = 0
        for button in buttons:
            self._mask[self._places[button]] = 1
        self._emulator.set_button_mask(self._mask, 0)

    def run(self, frames: int, drawn: int = 1) -> None:
        for _ in range(frames):
            if self._is_ahead:
                self._is_ahead = False
            else:
                self._emulator.step()
                self._is_drawn = False
        self._blocks = None

    def save_state(self) -> bytes:
        # Not stable-retro's get_state: mGBA leaves out 1176 bytes, which then hold whatever was in memory
        # before, and reads them when it loads. Here they are always 0.
        if not self._library.retro_serialize(self._state, len(self._state)):
            raise RuntimeError("mGBA could not save its state")
        return self._state.raw

    def load_state(self, state: bytes) -> None:
        # The emulator itself takes anything of the right length.
        if len(state) != len(self._power_on) or state[:STATE_HEADER] != self._power_on[:STATE_HEADER]:
            raise CleanPokeError(
                f"this is no save state of {self.rom.name} on stable-retro's core: save a new one here"
            )
        # mGBA 0.7 forgets all sprites at a load, and looks again only if the load changes one of them: so it
        # gets other ones first.
        self._emulator.set_state(self._power_on)
        self._emulator.set_state(state)
        self._is_ahead = state[:STATE_REGISTERS] == self._power_on[:STATE_REGISTERS]
        self._blocks = None
        self.set_keys(())

    def close(self) -> None:
        self._data = self._emulator = self._library = None
