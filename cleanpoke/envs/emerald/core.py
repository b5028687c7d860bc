"""The mGBA core: one Game Boy Advance in this process. The only file that imports `mgba`.

    core = Core("cleanpoke/envs/emerald/tiny_town/tiny_town.gba")
    core.set_keys({"A"}); core.run(12)
    core.pixels[..., :3], core.u16(0x02025A00), core.save_state()

It works whatever was imported first, torch included. The wheel of `mgba` enters Python for the first time
under a spin lock on a tag that torch changes, and never comes back; so here mgba never calls Python at all:
its log goes to a logger in C, and the callbacks of its wrapper are removed. A core belongs to one thread.

Where `mgba` cannot be loaded, `Core` is the same console on the core of stable-retro (retro_core.py).
"""

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from cleanpoke.envs.emerald.console import BUTTONS, EWRAM, HEIGHT, IWRAM, WIDTH, Console
from cleanpoke.errors import CleanPokeError

try:
    import mgba.core
    import mgba.image
    from mgba._pylib import ffi, lib
except ImportError as error:
    # Told when a console is made, so that every command can tell it in one line.
    MISSING_MGBA = (
        f"the mGBA emulator cannot be loaded ({error}): sudo apt install libmgba0.10, and Python 3.10 or "
        "3.11 on x86-64 (PyPI has no other wheels of mgba); on another Linux x86-64 Python or a Mac with "
        "Apple silicon: pip install stable-retro"
    )
else:
    MISSING_MGBA = ""
    _logger = ffi.new("struct mStandardLogger*")
    lib.mStandardLoggerInit(_logger)
    _logger.logToStdout = False
    lib.mLogSetDefaultLogger(ffi.addressof(_logger.d))

__all__ = [
    "BUTTONS",
    "EWRAM",
    "HEIGHT",
    "IWRAM",
    "MISSING_LIBRARY",
    "MISSING_MGBA",
    "WIDTH",
    "Core",
    "MgbaCore",
]
START_OF_TIME = 1_600_000_000_000
"""What the cartridge's clock shows when a core starts, in milliseconds since 1970: always the same."""


class MgbaCore(Console):
    """The console on `mgba`. pixels, ewram and iwram are views that change as the core runs, and live as long
    as it does. Many can be in a process. Raises CleanPokeError also when the emulator is not installed."""

    def __init__(self, rom: str | Path):
        if MISSING_MGBA:
            raise CleanPokeError(MISSING_MGBA)
        super().__init__(rom)
        self._masks = {name: 1 << getattr(lib, f"GBA_KEY_{name}") for name in BUTTONS}
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
        board = ffi.cast("struct GBA*", self._core.board)
        self._video, self._timing = board.video, ffi.addressof(board.timing)
        self._mixing = ffi.addressof(board.audio, "sampleEvent")
        self._mute()
        # One buffer for all states: the kernel need not clear 100 pages for each.
        self._state = ffi.new("unsigned char[]", self._core.stateSize(self._core))
        self.pixels = np.frombuffer(ffi.buffer(self._image.buffer), np.uint8).reshape(HEIGHT, WIDTH, 4)
        self.ewram, self.iwram = self._memory(2), self._memory(3)

    def versions(self) -> dict[str, Any]:
        return {
            "core_version": f"mGBA {mgba.__version__}",
            "wrapper_version": f"mgba {metadata.version('mgba')}",
            "rtc": START_OF_TIME,
        }

    def _memory(self, region: int) -> np.ndarray:
        size = ffi.new("size_t*")
        pointer = self._core.getMemoryBlock(self._core, region, size)
        return np.frombuffer(ffi.buffer(pointer, size[0]), np.uint8)

    def _mute(self) -> None:
        """Strikes the mixing of sound, which nobody hears, off the list of what is to happen: it takes four
        tenths of the time of Tiny Town. What a game can see of its sound goes on."""
        lib.mTimingDeschedule(self._timing, self._mixing)

    def reset(self) -> None:
        self.set_keys(())
        self._core.rtc.value = START_OF_TIME
        self._core.reset(self._core)
        self._mute()
        self.ewram[:] = 0
        self.iwram[:] = 0

    def set_keys(self, buttons: Iterable[str]) -> None:
        self._core.setKeys(self._core, sum(self._masks[button] for button in buttons))

    def run(self, frames: int, drawn: int = 1) -> None:
        self._video.frameskipCounter = frames - drawn
        for _ in range(frames):
            # Sound that a game plays from memory is laid out up to the next mixing: nowhere, if it is past.
            self._mixing.when = self._timing.masterCycles
            self._core.runFrame(self._core)

    def save_state(self) -> bytes:
        if not self._core.saveState(self._core, self._state):
            raise RuntimeError("mGBA could not save its state")
        return bytes(ffi.buffer(self._state))

    def load_state(self, state: bytes) -> None:
        if len(state) != len(self._state) or not self._core.loadState(self._core, ffi.from_buffer(state)):
            raise CleanPokeError(f"this is no save state of {self.rom.name}: save a new one")
        self._mute()
        self.set_keys(())


Core, MISSING_LIBRARY = MgbaCore, MISSING_MGBA
if MISSING_MGBA:
    try:
        from cleanpoke.envs.emerald.retro_core import RetroCore as Core
    except ImportError:
        pass
    else:
        MISSING_LIBRARY = ""
