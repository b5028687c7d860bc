"""What the scripts of Emerald share: demonstrations that they record, Ctrl-C, one console in a process."""

import fcntl
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanpoke.envs.emerald.core import MISSING_LIBRARY
from cleanpoke.errors import CleanPokeError

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)

from cleanpoke import bc_emerald, dagger_emerald, dqn_bc_emerald
from cleanpoke.envs.emerald import demos, playing
from cleanpoke.envs.emerald.env import TINY_TOWN
from cleanpoke.envs.emerald.playing import ensure_demonstrations, record_demonstrations
from cleanpoke.run import Run, load_checkpoint

ROOT = Path(__file__).parents[1]


# --- Demonstrations ---------------------------------------------------------------------------------------


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_recording_goes_on_with_what_fits(tmp_path):
    """Episode 0 is kept; episodes 1, of another seed, and 7, which is not asked for, are not."""
    whole, other = tmp_path / "whole", tmp_path / "other"
    record_demonstrations(whole, None, 2, seed=1, max_steps=5)
    record_demonstrations(other, None, 2, seed=2, max_steps=5)
    hidden = tmp_path / ".parts.recording"
    hidden.mkdir()
    for source, number, left in ((whole, 0, 0), (other, 1, 1), (whole, 0, 7)):
        for ending in (".npz", ".demo"):
            content = (source / f"episode_0000{number}{ending}").read_bytes()
            (hidden / f"episode_0000{left}{ending}").write_bytes(content)
    (hidden / ".episode_00001.npz.tmp").touch()
    kept = (hidden / "episode_00000.npz").stat().st_ino
    record_demonstrations(tmp_path / "parts", None, 2, seed=1, max_steps=5)
    assert names_in(tmp_path / "parts") == names_in(whole)
    assert (tmp_path / "parts" / "episode_00000.npz").stat().st_ino == kept
    seeds = [demos.load_episode(path).meta["seed"] for path in sorted((tmp_path / "parts").glob("*.npz"))]
    assert seeds == [[1, 0], [1, 1]] and not hidden.exists()


def test_two_processes_do_not_record_into_one_folder(tmp_path):
    hidden = tmp_path / ".data.recording"
    hidden.mkdir()
    descriptor = os.open(hidden, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(CleanPokeError, match="another process is recording demonstrations into .*/data"):
        record_demonstrations(tmp_path / "data", None, 1, seed=1, max_steps=5)
    os.close(descriptor)
    record_demonstrations(tmp_path / "data", None, 1, seed=1, max_steps=5)
    assert names_in(tmp_path / "data") == ["episode_00000.demo", "episode_00000.npz"]


def test_where_nothing_can_be_recorded_is_told_before_anything_is(tmp_path, monkeypatch, capsys):
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(CleanPokeError, match=message):
            ensure_demonstrations(folder, None, None, 1, seed=1, resume=None)

    (tmp_path / "file").touch()
    refused(tmp_path / "file", "file is a file: give a folder")
    refused(tmp_path / "file" / "data", "cannot record into .* give another --data")
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "slot_1.state").touch()
    refused(tmp_path / "states", "no demonstrations .* give another --data")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    refused(Path("."), "the working folder cannot hold new demonstrations")
    with pytest.raises(CleanPokeError, match="give the --data that .*run has learned from"):
        ensure_demonstrations(tmp_path / "none", None, None, 1, seed=1, resume=tmp_path / "run")
    with pytest.raises(CleanPokeError, match="cannot read"):
        ensure_demonstrations(tmp_path / "none", None, tmp_path / "none.state", 1, seed=1, resume=None)
    assert names_in(tmp_path) == ["empty", "file", "states"] and not capsys.readouterr().out


def test_only_tiny_town_records_its_own_demonstrations(tmp_path):
    content = bytearray(TINY_TOWN.read_bytes())
    content[0xAC:0xB0], content[0xBC] = b"BPEE", 0
    (tmp_path / "other.gba").write_bytes(content)
    with pytest.raises(CleanPokeError, match=r"no demonstrations of other\.gba.*collect_human_demos\.py"):
        ensure_demonstrations(tmp_path / "none", tmp_path / "other.gba", None, 1, seed=1, resume=None)


# --- Ctrl-C and resuming ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demonstrations")
    record_demonstrations(folder, None, 2, seed=1, max_steps=20)
    return folder


def then_interrupted(function: Callable) -> Callable:
    """The same, and Ctrl-C when it is called for the first time."""
    signals = [signal.SIGINT]

    def interrupted(*arguments: Any) -> Any:
        while signals:
            os.kill(os.getpid(), signals.pop())
        return function(*arguments)

    return interrupted


FIVE_STEPS = {
    bc_emerald: {"num_episodes": 2, "log_every": 1, "total_steps": 5},
    dqn_bc_emerald: {"num_episodes": 2, "log_every": 1, "offline_steps": 5, "online_steps": 0},
    dagger_emerald: {"num_envs": 1, "steps_per_iteration": 4, "updates_per_iteration": 2, "iterations": 5},
}


@pytest.mark.parametrize("script", FIVE_STEPS, ids=lambda script: script.__name__)
def test_ctrl_c_saves_and_what_it_cut_short_is_made_up_for(folder, tmp_path, monkeypatch, script):
    options = {"runs": tmp_path, "batch_size": 4, "hidden": 8, "height": 24, "width": 24, "threads": 1}
    options |= {"bf16": "off", "max_minutes": math.inf, "data": folder, **FIVE_STEPS[script]}
    options |= {"eval_every": 4, "eval_episodes": 1, "eval_max_steps": 5}

    def go_on(**changes: Any) -> Path:
        run = next(tmp_path.glob("*"), None)
        script.main(script.Args(**options | {"resume": run} | changes))
        (run,) = tmp_path.glob("*")
        return run

    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", then_interrupted(Run.log))
        run = go_on()
    assert 1 <= load_checkpoint(run).step < 4
    with monkeypatch.context() as patched:
        patched.setattr(playing, "play_episode", then_interrupted(playing.play_episode))
        go_on()
    assert load_checkpoint(run).step == 4
    assert not (run / "best.pt").exists() and not (run / "evaluation.json").exists()
    go_on()
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert (run / "best.pt").exists() and [row["step"] for row in evaluation["on_the_way"]] == [4]
    assert load_checkpoint(run).step == 5
    with pytest.raises(CleanPokeError, match="holds another network .* give the network's options as they"):
        go_on(hidden=9)


# --- One console in a process -----------------------------------------------------------------------------

ALL_SCRIPTS = """
from pathlib import Path
from cleanpoke import bc_emerald, dagger_emerald, dqn_bc_emerald
from cleanpoke.envs.emerald.core import Core

assert Core.__name__ == "RetroCore"
small = dict(runs=Path("runs"), batch_size=4, hidden=8, height=24, width=24, threads=1, bf16="off")
small |= dict(eval_episodes=1, eval_max_steps=5, eval_every=2)
data = dict(data=Path("data"), collect_episodes=1, num_episodes=1)
bc_emerald.main(bc_emerald.Args(**small, **data, total_steps=3))
online = dict(online_steps=2, num_envs=1, steps_per_update=1, memory_size=50, max_steps=10)
dqn_bc_emerald.main(dqn_bc_emerald.Args(**small, **data, **online, offline_steps=1))
dagger = dict(num_envs=1, iterations=2, steps_per_iteration=4, updates_per_iteration=2)
dagger_emerald.main(dagger_emerald.Args(**small, **dagger))
"""


@pytest.mark.skipif(importlib.util.find_spec("stable_retro") is None, reason="stable-retro is missing")
def test_all_scripts_run_where_a_process_has_one_console(tmp_path):
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "mgba.py").write_text("raise ImportError('not in this test')")
    paths = os.pathsep.join([str(tmp_path / "blocker"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", ALL_SCRIPTS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*/evaluation.json"))) == 3
