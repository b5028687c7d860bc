"""Runs of benchmarks: kept once they are finished, and refused if they are of another version or options."""

import json
from pathlib import Path

import pytest
from common import script_runs, sources
from common.script_runs import run_script, run_scripts
from common.sources import sources_of, version_of

from cleanpoke.errors import CleanPokeError

SCRIPT = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("--data", "--seed", "--runs"):
    parser.add_argument(name)
args = parser.parse_args()
run = pathlib.Path(args.runs) / "small__1"
run.mkdir()
(run / "evaluation.json").write_text(json.dumps(vars(args)))
"""


@pytest.fixture
def script(tmp_path, monkeypatch) -> Path:
    """A script that only writes down its arguments, as its evaluation."""
    monkeypatch.setattr(script_runs, "SCRIPTS", tmp_path / "scripts")
    path = tmp_path / "scripts" / "small.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return path


def finished_at(folder: Path) -> int:
    return (folder / script_runs.RECORD).stat().st_mtime_ns


def test_a_finished_run_is_not_repeated(tmp_path, script):
    first = run_script("small", tmp_path / "run", ["--seed", "1"])
    stamp = finished_at(tmp_path / "run")
    again = run_script("small", tmp_path / "run", ["--seed", "1"])
    assert again.evaluation == first.evaluation and again.evaluation["seed"] == "1"
    assert finished_at(tmp_path / "run") == stamp


def test_paths_may_be_spelled_in_any_way_and_move_with_the_folder(tmp_path, script, monkeypatch):
    folder, data = tmp_path / "bench" / "run", tmp_path / "bench" / "data"
    run = run_script("small", folder, ["--data", data])
    assert run.evaluation["data"] == str(data)
    stamp = finished_at(folder)
    monkeypatch.chdir(tmp_path)
    run_script("small", Path("bench/run"), ["--data", Path("bench/../bench/data")])
    (tmp_path / "bench").rename(tmp_path / "moved")
    run_script("small", Path("moved/run"), ["--data", Path("moved/data")])
    assert finished_at(tmp_path / "moved" / "run") == stamp
    with pytest.raises(CleanPokeError, match="other options: choose another --folder"):
        run_script("small", Path("moved/run"), ["--data", Path("moved/other")])


def test_all_conflicts_are_found_before_the_first_run(tmp_path, script):
    for name in "bc":
        run_script("small", tmp_path / name, ["--seed", "1"])
    jobs = [
        ("small", tmp_path / name, ["--seed", seed]) for name, seed in (("a", "1"), ("b", "2"), ("c", "2"))
    ]
    with pytest.raises(CleanPokeError, match=r"b \(and 1 more\) holds a run of other options"):
        run_scripts(jobs, at_once=1)
    assert not (tmp_path / "a").exists()
    with pytest.raises(CleanPokeError, match="--at-once must be between"):
        run_scripts(jobs[:1], at_once=1000)
    run_scripts(jobs[:1], at_once=1)
    assert script_runs.is_finished(tmp_path / "a")


@pytest.mark.parametrize("record", [script_runs.RECORD, script_runs.BEGUN])
def test_another_version_is_refused(tmp_path, script, record):
    run_script("small", tmp_path / "run", ["--seed", "1"])
    for name in {script_runs.RECORD, script_runs.BEGUN} - {record}:
        (tmp_path / "run" / name).unlink()
    script.write_text(SCRIPT + "# changed")
    with pytest.raises(CleanPokeError, match="another version"):
        run_scripts([("small", tmp_path / "run", ["--seed", "1"])], at_once=1)


def test_records_of_older_benchmarks_are_refused(tmp_path, script):
    (tmp_path / "run").mkdir()
    note = {"folder": "small__1", "minutes": 1.0, "options": ["--seed", "1"], "script": "0" * 64}
    (tmp_path / "run" / script_runs.RECORD).write_text(json.dumps(note))
    with pytest.raises(CleanPokeError, match="another version"):
        run_script("small", tmp_path / "run", ["--seed", "1"])


def test_a_failing_script_is_no_finished_run(tmp_path, script):
    script.write_text("raise SystemExit(3)")
    with pytest.raises(CleanPokeError, match="status 3"):
        run_script("small", tmp_path / "run", [])
    assert not script_runs.is_finished(tmp_path / "run")


def test_the_version_covers_what_a_script_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    files = {
        "__init__.py": "",
        "script.py": "import json\nfrom cleanpoke.near import value\nfrom tools import other\n",
        "near.py": "def value():\n    from cleanpoke.world import far\n    return far\n",
        "world/__init__.py": "",
        "world/far.py": "import numpy\n",
        "world/game.gba": "a game",
        "world/unused.py": "",
        "unused.py": "",
    }
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "other.py").write_text("")
    for name, text in files.items():
        path = tmp_path / "cleanpoke" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = tmp_path / "cleanpoke" / "script.py"
    used = {name for name in files if "unused" not in name}
    assert {path.relative_to(tmp_path / "cleanpoke").as_posix() for path in sources_of(script)} == used
    version = version_of(script)
    for name in files:
        path = tmp_path / "cleanpoke" / name
        before = path.read_text()
        path.write_text(before + "\n")
        assert (version_of(script) != version) == (name in used), name
        path.write_text(before)
    assert version_of(script) == version


def test_emerald_scripts_depend_on_expert_player_and_rom():
    root = sources.ROOT / "cleanpoke"
    for script in ("bc_emerald", "dqn_bc_emerald", "dagger_emerald"):
        found = {path.relative_to(root).as_posix() for path in sources_of(root / f"{script}.py")}
        world = ("playing.py", "env.py", "tiny_town/expert.py", "tiny_town/tiny_town.gba", "tiny_town/maps.c")
        assert {f"{script}.py", "run.py", *(f"envs/emerald/{name}" for name in world)} <= found
        assert not any(name.startswith(("envs/showdown", "ppo")) for name in found)
