"""The console: what goes in determines what comes out, and nothing hangs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cleanpoke.envs.emerald.core import BUTTONS, Core
from cleanpoke.envs.emerald.env import TINY_TOWN
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.errors import CleanPokeError

ROOT = Path(__file__).parents[3]


def press_at_random(core: Core, steps: int, seed: int = 0, draw_all: bool = False) -> list[int]:
    """Hashes of memory and picture after each step."""
    generator, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        core.set_keys((BUTTONS[generator.integers(10)],))
        core.run(8, drawn=8 if draw_all else 0)
        core.set_keys(())
        core.run(16, drawn=16 if draw_all else 1)
        picture = core.pixels[..., :3].tobytes()
        seen.append(hash((core.ewram.tobytes(), core.iwram[:0x7E00].tobytes(), picture)))
    return seen


@pytest.mark.parametrize("first", ["import torch", "import torch, numpy; torch.zeros(1)", "import numpy"])
@pytest.mark.parametrize("later", ["", "import torch; torch.ones(2, 2) @ torch.ones(2, 2)"])
def test_it_runs_whatever_was_imported_first(first, later):
    """mGBA's wheel hangs for ever in its first call of Python once torch is there: so it never calls any."""
    code = f"""
{first}
from cleanpoke.envs.emerald.core import Core
core = Core({str(TINY_TOWN)!r})
{later}
core.run(100)
core.load_state(core.save_state())
core.reset()
core.run(100)
print(core.pixels[..., :3].std() > 10)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_a_missing_library_names_the_fix():
    code = """
import sys
sys.modules["mgba"] = sys.modules["stable_retro"] = None
import runpy
sys.argv = ["check_rom.py"]
runpy.run_path("tools/check_rom.py", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "sudo apt install libmgba0.10" in done.stderr and "pip install stable-retro" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_consoles_with_equal_inputs_are_equal_and_a_reset_forgets_everything():
    one, other = Core(TINY_TOWN), Core(TINY_TOWN)
    expected = press_at_random(one, 120)
    assert press_at_random(other, 120) == expected
    assert press_at_random(other, 5, seed=1) != expected[:5]
    other.set_keys(("UP", "A"))  # keys would survive mGBA's own reset
    other.reset()
    assert press_at_random(other, 120) == expected


def test_not_drawing_changes_nothing_but_the_time():
    drawn, undrawn = Core(TINY_TOWN), Core(TINY_TOWN)
    assert press_at_random(drawn, 150, draw_all=True) == press_at_random(undrawn, 150)


def test_states_come_back_also_in_another_console():
    core, other = Core(TINY_TOWN), Core(TINY_TOWN)
    press_at_random(core, 40)
    state = core.save_state()
    expected = press_at_random(core, 20, seed=3)
    for console in (core, other):
        console.set_keys(("DOWN",))
        console.load_state(state)
        assert press_at_random(console, 20, seed=3) == expected


def test_what_is_no_state_or_of_another_cartridge_is_refused(tmp_path):
    core = Core(TINY_TOWN)
    core.run(60)
    for content in (b"", b"x" * 100, b"\xaa" * len(core.save_state())):
        with pytest.raises(CleanPokeError, match=r"no save state of tiny_town\.gba"):
            core.load_state(content)
    other = tmp_path / "other.gba"
    other.write_bytes(TINY_TOWN.read_bytes() + b"\0")
    with pytest.raises(CleanPokeError, match=r"of another ROM .* than other\.gba"):
        SaveState(core.sha1, core.save_state()).check(Core(other))


def test_states_on_disk_come_back_and_damaged_ones_are_refused(tmp_path):
    core = Core(TINY_TOWN)
    core.run(60)
    state = SaveState(core.sha1, core.save_state())
    state.save(tmp_path / "title.state")
    assert SaveState.load(tmp_path / "title.state") == state
    content = (tmp_path / "title.state").read_bytes()
    for name, damaged in (("short", content[:-100]), ("text", b"hello"), ("empty", b"")):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CleanPokeError, match=f"{name} is no save state"):
            SaveState.load(tmp_path / name)
    with pytest.raises(CleanPokeError, match="cannot read the save state"):
        SaveState.load(tmp_path / "nowhere")


def test_what_is_no_cartridge_is_refused(tmp_path):
    (tmp_path / "text.gba").write_text("hello " * 100)
    with pytest.raises(CleanPokeError, match="no Game Boy Advance cartridge"):
        Core(tmp_path / "text.gba")
    with pytest.raises(CleanPokeError, match="cannot read the ROM"):
        Core(tmp_path / "nowhere.gba")
