"""What an owner of the real game runs first, on the cartridge that everybody has."""

import subprocess
import sys
from pathlib import Path

import pytest

from cleanpoke.envs.emerald.core import MISSING_MGBA
from cleanpoke.envs.emerald.env import EmeraldEnv

TOOL = Path(__file__).parents[2] / "tools" / "check_rom.py"
TINY_TOWN = Path(__file__).parents[2] / "cleanpoke/envs/emerald/tiny_town/tiny_town.gba"

if MISSING_MGBA:
    pytest.skip(MISSING_MGBA, allow_module_level=True)


def check(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), "--bench-frames", "10", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_tiny_town_is_known_and_reads_as_it_should():
    done = check()
    assert done.returncode == 0, done.stderr
    for line in ("Tiny Town, the game", "SaveBlock1 at 0x0202", "map (1, 1)", "[x] PLAYER_BEDROOM"):
        assert line in done.stdout
    assert "[ ] STONE_BADGE" in done.stdout


def test_other_games_and_revisions_are_named(tmp_path):
    content = bytearray(TINY_TOWN.read_bytes())
    for code, revision, words, status in (
        (b"BPEE", 0, "revision 0), but changed or a bad dump", 0),  # EmeraldEnv plays it, too
        (b"BPEE", 1, "of another region or revision", 1),
        (b"BPEJ", 0, "of another region or revision", 1),
        (b"AXVE", 0, "another game", 1),
    ):
        content[0xAC:0xB0], content[0xBC] = code, revision
        (tmp_path / "other.gba").write_bytes(content)
        done = check("--rom-path", str(tmp_path / "other.gba"), "--frames", "0")
        assert done.returncode == status and words in done.stdout and "no game has begun" in done.stdout
    done = check("--rom-path", str(tmp_path / "none.gba"))
    assert done.returncode == 1 and "cannot read the ROM" in done.stderr and "Traceback" not in done.stderr


def test_a_state_is_looked_at_as_it_was_saved(tmp_path):
    env = EmeraldEnv()
    env.reset()
    *_, info = env.step(env.buttons.index("START"))
    env.save_state().save(tmp_path / "slot_1.state")
    done = check("--state", str(tmp_path / "slot_1.state"), "--frames", "0")
    state = info["state"]
    assert f"map {state.map}, at ({state.x}, {state.y}), facing {state.facing}" in done.stdout, done.stderr
    assert "HAS STOPPED" in state.text and f"text {state.text!r}, controls locked True" in done.stdout
