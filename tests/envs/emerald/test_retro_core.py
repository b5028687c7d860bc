"""stable-retro's core, where `mgba` is missing: the same pictures and memory, and what it cannot do is told.

It runs one console in a process, so each test has its own, in which `mgba` cannot be imported.
"""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from cleanpoke.envs.emerald.core import MISSING_MGBA
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from cleanpoke.envs.emerald.tiny_town.expert import Expert

ROOT = Path(__file__).parents[3]
START_OF_STACKS = 0x7E00
"""In IWRAM; what lies above depends on the moment at which the emulator enters an interrupt."""

PRELUDE = """
import json
import numpy as np
from cleanpoke.envs.emerald.core import Core
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from cleanpoke.errors import CleanPokeError
from tests.envs.emerald import test_core, test_retro_core
assert Core.__name__ == "RetroCore"
"""

if importlib.util.find_spec("stable_retro") is None:
    pytest.skip("stable-retro is missing: pip install -r tests/requirements.txt", allow_module_level=True)


def play(pictures_path: Path) -> list[str]:
    """Memory (a checksum) and info after each of 400 steps, half at random, half the expert's; and the
    pictures (400, 160, 240, 3) in a file."""
    env, expert, generator = EmeraldEnv(variant=7), Expert(), np.random.default_rng(7)
    observation, info = env.reset(seed=0)
    seen, pictures = [], []
    for step in range(400):
        is_random = step < 150 or generator.random() < 0.2
        action = generator.integers(10) if is_random else expert.get_action(observation, info)
        observation, reward, *_, info = env.step(int(action))
        memory = hashlib.sha1(env.core.ewram.tobytes() + env.core.iwram[:START_OF_STACKS].tobytes())
        seen.append(f"{memory.hexdigest()} {reward} {info['state']} {info['milestones']}")
        pictures.append(observation)
    np.save(pictures_path, np.array(pictures))
    return seen


@pytest.fixture
def on_retro(tmp_path):
    """Runs a program in a process where neither it nor its children can import mgba; what it prints."""
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    (blocker / "mgba.py").write_text("raise ImportError('not in this test')")
    paths = [str(blocker), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.skipif(bool(MISSING_MGBA), reason=MISSING_MGBA)
def test_pictures_and_memory_are_those_of_mgba(tmp_path, on_retro):
    path = str(tmp_path / "theirs.npy")
    theirs = json.loads(on_retro(f"print(json.dumps(test_retro_core.play({path!r})))"))
    ours = play(tmp_path / "ours.npy")
    assert len(set(ours)) > 300 and "RIVAL_DEFEATED" in ours[-1]  # things happen: warps, fades, a battle
    assert theirs == ours
    differences = np.abs(np.load(path).astype(np.int16) - np.load(tmp_path / "ours.npy"))  # (400, h, w, 3)
    is_different = differences.any((1, 2, 3))
    assert is_different.sum() <= 10 and differences.max() <= 8  # in the middle of a fade


def test_states_come_back_and_a_reset_forgets_everything(on_retro):
    on_retro("""
press_at_random = test_core.press_at_random
core = Core(TINY_TOWN)
expected = press_at_random(core, 40)
state = core.save_state()
further = press_at_random(core, 20, seed=3)
core.set_keys(("DOWN", "A"))
core.load_state(state)
assert press_at_random(core, 20, seed=3) == further
core.set_keys(("UP",))
core.reset()
at_start = core.save_state()
assert press_at_random(core, 40) == expected
core.load_state(at_start)
assert press_at_random(core, 40) == expected
core.write(0x0203FF00, (9).to_bytes(4, "little"))
assert core.u32(0x0203FF00) == 9
core.load_state(core.save_state())
assert core.u32(0x0203FF00) == 9
""")


def test_what_is_no_state_of_this_core_is_refused(tmp_path, on_retro):
    others = tmp_path / "others"
    others.mkdir()
    if not MISSING_MGBA:
        (others / "mgba.state").write_bytes(EmeraldEnv().core.save_state())
    said = on_retro(f"""
from pathlib import Path
core = Core(TINY_TOWN)
core.run(60)
before, memory = core.save_state(), core.ewram.tobytes()
states = [path.read_bytes() for path in Path({str(others)!r}).iterdir()]
for content in (b"", b"x" * 100, b"x" * len(before), *states):
    try:
        core.load_state(content)
    except CleanPokeError as error:
        print(error)
assert core.ewram.tobytes() == memory
""")
    assert said.count("no save state of tiny_town.gba on stable-retro's core") == 3 + (not MISSING_MGBA)


def test_a_second_console_in_the_process_is_told_in_one_line(tmp_path, on_retro):
    (tmp_path / "emerald.bin").write_bytes(TINY_TOWN.read_bytes())
    said = on_retro(f"""
env = EmeraldEnv()
for make in (EmeraldEnv, lambda: Core({str(tmp_path / "emerald.bin")!r})):
    try:
        make()
    except CleanPokeError as error:
        print(error)
env.close()
env = EmeraldEnv()
print(env.reset()[0].shape)
print(json.dumps(env.core.versions()))
""")
    lines = said.splitlines()
    assert "one console in a process" in lines[0] and "EmeraldVectorEnv" in lines[0]
    assert "rename" in lines[1] and "to end in .gba" in lines[1]
    assert lines[2] == "(160, 240, 3)"
    versions = json.loads(lines[3])
    assert re.match(r"mGBA 0\.\d", versions["core_version"]) and versions["rtc"] is None
    assert versions["wrapper_version"] == f"stable-retro {metadata.version('stable-retro')}"


def test_many_play_in_processes(on_retro):
    """As one would play alone; and what a game cannot do is told by it."""
    said = on_retro("""
from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv
actions = (0, 2, 2, 5, 5, 0)
envs = EmeraldVectorEnv(2, variant=7, max_steps=5)
first, _ = envs.reset(seed=0)
first = first.copy()
for action in actions:
    observations, _, _, truncated, infos = envs.step(np.array([action, 3]))
assert (observations == first).all() and infos["steps"].tolist() == [0, 0]  # the step after the fifth
for action in actions[:4]:
    observations, *_ = envs.step(np.array([action, 3]))
workers = [share._process for share in envs._shares]
env = EmeraldEnv(variant=7)
env.reset()
for action in actions[:4]:
    observation, *_ = env.step(action)
assert (observations[0] == observation).all()
for actions in ([11, 3], [0, 3]):
    try:
        envs.step(np.array(actions))
    except CleanPokeError as error:
        print(error)
    workers[0].kill()
envs.close()
assert all(worker.poll() is not None for worker in workers)
try:
    EmeraldVectorEnv(2, resolution=(84, 84))
except CleanPokeError as error:
    print(error)
""")
    assert "action 11: a button" in said and "the process of a game died" in said and "whole part" in said
