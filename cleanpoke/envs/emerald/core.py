"""The mGBA core: one Game Boy Advance in this process. The only file that imports `mgba`.

    core = Core("cleanpoke/envs/emerald/tiny_town/tiny_town.gba")
    core.set_keys({"A"}); core.run(12)
    core.pixels[..., :3], core.u16(0x02025A00), core.save_state()

It works whatever was imported first, torch included. The wheel of `mgba` enters Python for the first time
under a spin lock on a tag that torch changes, and never comes back; so here mgba never calls Python at all:
its log goes to a logger in C, and the callbacks of its wrapper are removed. A core belongs to one thread.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cleanpoke.errors import CleanPokeError

try:
    import mgba.core
    import mgba.image
    from mgba._pylib import ffi, lib
except ImportError as error:
    # Told when a console is made, so that every command can tell it in one line.
    MISSING_LIBRARY = (
        f"the mGBA emulator cannot be loaded ({error}): sudo apt install libmgba0.10, and Python 3.10 or "
        "3.11 on x86-64 (PyPI has no other wheels of mgba)"
    )
else:
    MISSING_LIBRARY = ""
    _logger = ffi.new("struct mStandardLogger*")
    lib.mStandardLoggerInit(_logger)
    _logger.logToStdout = False
    lib.mLogSetDefaultLogger(ffi.addressof(_logger.d))

BUTTONS = ("A", "B", "START", "SELECT", "UP", "DOWN", "LEFT", "RIGHT", "L", "R")
HEIGHT, WIDTH = 160, 240
EWRAM, IWRAM = 0x02000000, 0x03000000
START_OF_TIME = 1_600_000_000_000
"""What the cartridge's clock shows when a core starts, in milliseconds since 1970: always the same."""


class Core:
    """One console with one cartridge.

    pixels (160, 240, 4) uint8: the picture last drawn, red, green, blue and a byte without meaning; ewram,
    iwram uint8: the memory. All three are views that change as the core runs, and live as long as it does.
    Raises CleanPokeError for a file that is no cartridge, and when the emulator is not installed.
    """

    def __init__(self, rom: str | Path):
        if MISSING_LIBRARY:
            raise CleanPokeError(MISSING_LIBRARY)
        self._masks = {name: 1 << getattr(lib, f"GBA_KEY_{name}") for name in BUTTONS}
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
        self._wrapper = mgba.core.load_path(str(self.rom))
        if self._wrapper is None:
            raise CleanPokeError(f"mGBA refuses {rom}: give another file as --rom-path")
        self._core = self._wrapper._core
        self._image = mgba.image.Image(WIDTH, HEIGHT)
        self._wrapper.set_video_buffer(self._image)
        self._core.rtc.override = lib.RTC_FAKE_EPOCH  # never the wall clock: equal inputs, equal games
        self._core.rtc.value = START_OF_TIME
        self._wrapper.reset()
        self._core.clearCoreCallbacks(self._core)
        self._video = ffi.cast("struct GBA*", self._core.board).video
        self._state_size = self._core.stateSize(self._core)
        self.pixels = np.frombuffer(ffi.buffer(self._image.buffer), np.uint8).reshape(HEIGHT, WIDTH, 4)
        self.ewram, self.iwram = self._memory(2), self._memory(3)

    def _memory(self, region: int) -> np.ndarray:
        size = ffi.new("size_t*")
        pointer = self._core.getMemoryBlock(self._core, region, size)
        return np.frombuffer(ffi.buffer(pointer, size[0]), np.uint8)

    # ---------------------------------------------------------------- running

    def reset(self) -> None:
        """Switches it off and on: memory, keys and clock as at the first start."""
        self.set_keys(())
        self._core.rtc.value = START_OF_TIME
        self._core.reset(self._core)
        self.ewram[:] = 0
        self.iwram[:] = 0

    def set_keys(self, buttons: Iterable[str]) -> None:
        """Holds exactly these buttons from now on."""
        self._core.setKeys(self._core, sum(self._masks[button] for button in buttons))

    def run(self, frames: int, draw_last_only: bool = True) -> None:
        """Runs so many frames. draw_last_only: the pictures before the last one are not drawn, which changes
        nothing else and takes less than half the time."""
        if draw_last_only:
            self._video.frameskipCounter = frames - 1
        for _ in range(frames):
            self._core.runFrame(self._core)

    # ---------------------------------------------------------------- states

    def save_state(self) -> bytes:
        """The whole console, about 400 KB; it belongs to this ROM."""
        buffer = ffi.new("unsigned char[]", self._state_size)
        if not self._core.saveState(self._core, buffer):
            raise RuntimeError("mGBA could not save its state")
        return bytes(ffi.buffer(buffer))

    def load_state(self, state: bytes) -> None:
        """Puts a state of this ROM back; keys are let go. The picture is that of before until the next frame.

        Raises CleanPokeError for what is no state. Whose it is mGBA cannot tell: see states.py.
        """
        if len(state) != self._state_size or not self._core.loadState(self._core, ffi.from_buffer(state)):
            raise CleanPokeError(f"this is no save state of {self.rom.name}: save a new one")
        self.set_keys(())

    # ---------------------------------------------------------------- memory

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at an address of working memory."""
        memory, first = (self.ewram, address - EWRAM) if address < IWRAM else (self.iwram, address - IWRAM)
        return memory[first : first + size].tobytes()

    def write(self, address: int, content: bytes) -> None:
        memory, first = (self.ewram, address - EWRAM) if address < IWRAM else (self.iwram, address - IWRAM)
        memory[first : first + len(content)] = np.frombuffer(content, np.uint8)

    def u8(self, address: int) -> int:
        return self.read(address, 1)[0]

    def u16(self, address: int) -> int:
        return int.from_bytes(self.read(address, 2), "little")

    def u32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def s16(self, address: int) -> int:
        return int.from_bytes(self.read(address, 2), "little", signed=True)
