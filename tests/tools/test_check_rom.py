"""What an owner of the real game runs first, on the cartridge that everybody has."""

import subprocess
import sys
from pathlib import Path

import pytest

from cleanpoke.envs.emerald.core import MISSING_MGBA

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
    for code, words in ((b"BPEE", "of another region or revision"), (b"AXVE", "another game")):
        content[0xAC:0xB0] = code
        (tmp_path / "other.gba").write_bytes(content)
        done = check("--rom-path", str(tmp_path / "other.gba"), "--frames", "0")
        assert done.returncode == 1 and words in done.stdout and "no game has begun" in done.stdout
    done = check("--rom-path", str(tmp_path / "none.gba"))
    assert done.returncode == 1 and "cannot read the ROM" in done.stderr and "Traceback" not in done.stderr
