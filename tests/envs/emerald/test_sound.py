"""Nobody hears the console, and not mixing its sound changes nothing that a game could see."""

import shutil
from pathlib import Path

import pytest

from cleanpoke.envs.emerald.core import MgbaCore
from cleanpoke.envs.emerald.env import TINY_TOWN
from cleanpoke.envs.emerald.tiny_town import build
from tests.envs.emerald.test_core import press_at_random

LOG = 0x0203F800
NOISE = """
// On all channels, also from memory by way of a timer; what a game can read of it goes into a log.
static void make_noise(void) {
	static u32 frame;
	u32 r = U32(RNG_VALUE), entry = 0x0203F800u + (frame++ & 127) * 8;
	if (frame == 1) {
		IO16(0x84) = 0x80; IO16(0x80) = 0xFF77; IO16(0x82) = 0x0B06; IO16(0x88) = 0x4200;
		IO16(0xBC) = 0; IO16(0xBE) = 0x0800; IO16(0xC0) = 0xA0; IO16(0xC2) = 0x0400;
		IO16(0xC4) = 4; IO16(0xC6) = 0xB640;
		IO16(0x100) = (u16)(0x10000 - 1250); IO16(0x102) = 0x80; IO16(0x104) = 0; IO16(0x106) = 0x84;
	}
	U16(entry) = IO16(0x84);
	U16(entry + 2) = IO16(0x100);
	U16(entry + 4) = IO16(0x90 + (frame & 7) * 2);
	U16(entry + 6) = IO16(0x104);
	u32 note = r >> 11 & 0x7FF;
	if ((r >> 8 & 15) == 0) {
		IO16(0x60) = 0x27; IO16(0x62) = (u16)(0xF300 | (r & 0xFF)); IO16(0x64) = (u16)(0xC000 | note);
	}
	if ((r >> 12 & 15) == 0) { IO16(0x68) = (u16)(0xA200 | (r & 0xFF)); IO16(0x6C) = (u16)(0xC000 | note); }
	if ((r >> 16 & 15) == 0) {
		IO16(0x70) = 0; IO16(0x90 + (frame & 7) * 2) = (u16)r; IO16(0x70) = (u16)(0x80 | (r & 0x60));
		IO16(0x72) = 0x2080; IO16(0x74) = (u16)(0xC000 | note);
	}
	if ((r >> 20 & 15) == 0) {
		IO16(0x78) = (u16)(0xF400 | (r & 0x3F)); IO16(0x7C) = (u16)(0xC000 | (r & 0x7F));
	}
	if ((frame & 255) == 0) IO16(0x88) = (u16)(0x200 | (r >> 14 & 3) << 14);
}
"""


class HeardCore(MgbaCore):
    """mGBA as it comes, mixing its sound."""

    def _mute(self) -> None:
        pass

    def run(self, frames: int, drawn: int = 1) -> None:
        self._video.frameskipCounter = frames - drawn
        for _ in range(frames):
            self._core.runFrame(self._core)


@pytest.fixture(scope="module")
def noisy_town(tmp_path_factory) -> Path:
    """Tiny Town, which is silent by itself, with noise in every frame."""
    folder = tmp_path_factory.mktemp("noisy") / "town"
    shutil.copytree(build.FOLDER, folder)
    source = (folder / "main.c").read_text()
    source = source.replace("void wait_for_frame", NOISE + "\nvoid wait_for_frame", 1)
    changed = source.replace("\trandom16();\n}", "\trandom16();\n\tmake_noise();\n}", 1)
    assert changed != source
    (folder / "main.c").write_text(changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "FOLDER", folder)
        (folder / "noisy.gba").write_bytes(build.build())
    return folder / "noisy.gba"


def play(core: MgbaCore, states: list[bytes]) -> list[int]:
    """400 steps, half of them from the states given, or from the one that is added to them."""
    seen = press_at_random(core, 200)
    states.append(core.save_state())
    core.load_state(states[0])
    return seen + press_at_random(core, 200, seed=1)


def test_a_silent_game():
    states: list[bytes] = []
    assert play(MgbaCore(TINY_TOWN), states) == play(HeardCore(TINY_TOWN), states)


@pytest.mark.skipif(shutil.which(build.COMPILER) is None, reason="no gcc-arm-none-eabi")
def test_a_noisy_game(noisy_town):
    heard, states = HeardCore(noisy_town), []
    expected = play(heard, states)
    log = [heard.u16(LOG + 8 * entry + place) for entry in range(128) for place in (0, 2, 4)]
    assert all(len(set(log[place::3])) > 4 for place in range(3))  # channels, timer and wave table
    assert play(MgbaCore(noisy_town), states) == expected
