import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke.errors import CleanPokeError
from cleanpoke.run import (
    Checkpoint,
    Run,
    checkpoints_in,
    load_checkpoint,
    parse_arguments,
    random_state,
    restore_random_state,
    save_checkpoint,
    seed_everything,
)

torch.set_num_threads(1)


@dataclass
class Args:
    seed: int = 3
    learning_rate: float = 1e-3
    data: Path = Path("expert_data/x")
    gammas: list[float] = field(default_factory=lambda: [0.9, 0.99])


def new_run(tmp_path: Path, **options) -> Run:
    return Run("/somewhere/my_script.py", "gen1ou", Args(), seed=3, schema="abc", root=tmp_path, **options)


def python(code: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def points(folder: Path, name: str) -> dict[int, float]:
    """The curve as TensorBoard shows it; a step drawn twice fails."""
    events = EventAccumulator(str(folder)).Reload().Scalars(name)
    assert len({event.step for event in events}) == len(events)
    return {event.step: event.value for event in events}


def test_folder_name_tells_script_env_seed_and_time(tmp_path):
    with new_run(tmp_path) as first, new_run(tmp_path) as second:
        assert first.folder != second.folder  # also within one second
        script, env, seed, when = first.folder.name.split("__")
        assert (script, env, seed) == ("my_script", "gen1ou", "3")
        time.strptime(when, "%Y%m%d-%H%M%S")
        assert json.loads((first.folder / "args.json").read_text()) == {
            "seed": 3,
            "learning_rate": 1e-3,
            "data": "expert_data/x",
            "gammas": [0.9, 0.99],
        }


def test_hyperparameters_are_text_in_tensorboard(tmp_path):
    with new_run(tmp_path) as run:
        pass
    events = EventAccumulator(str(run.folder)).Reload()
    text = events.Tensors("hyperparameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "|learning_rate|0.001|" in text


def test_seed_repeats_all_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first


def test_random_state_survives_a_checkpoint(tmp_path):
    seed_everything(5)
    random.gauss(0, 1), np.random.randn()  # both keep a second, cached number
    save_checkpoint(Checkpoint(tmp_path / "checkpoint_1.pt", "s", "", 1, {}, random_state(), {}))
    expected = random.gauss(0, 1), np.random.randn(), torch.randn(3)
    restore_random_state(load_checkpoint(tmp_path).random_state)
    assert random.gauss(0, 1) == expected[0]
    assert np.random.randn() == expected[1]
    assert torch.equal(torch.randn(3), expected[2])


def test_resumed_run_equals_uninterrupted_one(tmp_path):
    def train(steps: int, resume: Path | None = None) -> tuple[Run, list[float]]:
        seed_everything(0)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(model.parameters())
        losses = []
        with new_run(tmp_path, resume=resume, needs=("model", "optimizer")) as run:
            if run.checkpoint:
                model.load_state_dict(run.checkpoint.state["model"])
                optimizer.load_state_dict(run.checkpoint.state["optimizer"])
                restore_random_state(run.checkpoint.random_state)
            for step in range(run.start_step, steps):
                inputs = torch.randn(8, 4) + random.random() + np.random.rand()
                loss = (model(inputs) - 1).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                run.log(step, {"losses/policy": loss.item()})
                if step + 1 == 6:
                    run.save(6, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        return run, losses

    _, uninterrupted = train(12)
    interrupted, _ = train(9)  # three steps beyond its last checkpoint are lost
    time.sleep(1.1)  # TensorBoard reads event files by name, and names tell whole seconds
    resumed, tail = train(12, resume=interrupted.folder)
    assert resumed.folder == interrupted.folder
    assert resumed.start_step == 6
    assert tail == uninterrupted[6:]
    curve = points(resumed.folder, "losses/policy")
    assert sorted(curve) == list(range(12))
    assert list(curve.values()) == pytest.approx(uninterrupted)


def test_only_the_newest_checkpoints_stay(tmp_path):
    with new_run(tmp_path) as run:
        (run.folder / ".checkpoint_000000001.pt.tmp").write_bytes(b"half of a checkpoint")
        for step in (10, 20, 30):
            run.save(step, {})
        assert not list(run.folder.glob(".*.tmp"))
        assert [path.name for path in checkpoints_in(run.folder)] == [
            "checkpoint_000000020.pt",
            "checkpoint_000000030.pt",
        ]
        os.utime(run.folder / "checkpoint_000000030.pt", ns=(0, 0))  # as after `cp -r`
        assert load_checkpoint(run.folder).step == 30
    with new_run(tmp_path, resume=run.folder / "checkpoint_000000020.pt") as resumed:
        resumed.save(25, {})  # what came of step 20 before is left behind
        assert [load_checkpoint(path).step for path in checkpoints_in(run.folder)] == [20, 25]


def test_a_run_tells_its_folder_when_it_ends(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), new_run(tmp_path) as run:
        raise KeyboardInterrupt
    assert capsys.readouterr().out == f"run folder: {run.folder}\n"


def test_lone_checkpoint_resumes_into_a_new_folder(tmp_path):
    lone = tmp_path / "downloaded" / "checkpoint_4.pt"
    lone.parent.mkdir()
    save_checkpoint(Checkpoint(lone, "my_script", "abc", 4, {}, random_state(), {}))
    with new_run(tmp_path / "runs", resume=lone) as run:
        assert run.start_step == 4
        assert run.folder.parent == tmp_path / "runs"
    assert os.listdir(lone.parent) == [lone.name]


def test_disabled_rank_writes_nothing_but_resumes(tmp_path, capsys):
    save_checkpoint(
        Checkpoint(tmp_path / "checkpoint_4.pt", "my_script", "abc", 4, {}, {}, {"model": torch.ones(2)})
    )
    with new_run(tmp_path, resume=tmp_path, enabled=False) as run:
        run.log(0, {"a": 1.0})
        run.progress.update(1, 2)
        run.save_json("evaluation.json", {})
        assert run.save(5, {}) is None
        assert run.checkpoint.state["model"].sum() == 2
    assert os.listdir(tmp_path) == ["checkpoint_4.pt"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"script": "other"}, r"was written by my_script\.py: give a checkpoint of other\.py"),
        ({"schema": "xyz"}, "schema abc, this version makes xyz: train again"),
        ({"needs": ("model", "ema", "critic")}, "lacks critic, ema"),
    ],
)
def test_unfit_checkpoint_is_refused_in_one_line(tmp_path, options, message):
    save_checkpoint(Checkpoint(tmp_path / "checkpoint_1.pt", "my_script", "abc", 1, {}, {}, {"model": 0}))
    with pytest.raises(CleanPokeError, match=message) as raised:
        load_checkpoint(tmp_path, **options)
    assert "\n" not in str(raised.value)


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(CleanPokeError, match=message):
            load_checkpoint(path)

    refused(tmp_path / "nothing.pt", r"nothing\.pt \(No such file or directory\)")
    refused(tmp_path, r"holds no checkpoint_\*\.pt")
    path = tmp_path / "checkpoint_1.pt"
    path.write_text("hello")
    refused(path, "damaged or not a CleanPoke checkpoint")
    path.write_bytes(b"")
    refused(path, "damaged or not a CleanPoke checkpoint")
    torch.save({"weights": torch.zeros(3)}, path)
    refused(path, "a PyTorch file but not a CleanPoke checkpoint")
    torch.save(torch.zeros(3), path)
    refused(path, "a PyTorch file but not a CleanPoke checkpoint")
    torch.save({"cleanpoke_checkpoint": 1, "step": 3}, path)
    refused(path, "a PyTorch file but not a CleanPoke checkpoint")
    save_checkpoint(Checkpoint(path, "s", "", 1, {}, {}, {"model": torch.randn(1000)}))
    torch.save(torch.load(path) | {"cleanpoke_checkpoint": 99}, path)
    refused(path, "written by another version of CleanPoke")
    save_checkpoint(Checkpoint(path, "s", "", 1, {}, {}, {"model": torch.randn(1000)}))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "damaged or not a CleanPoke checkpoint")


def test_loading_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"cleanpoke_checkpoint": 1, "state": Payload()}, tmp_path / "checkpoint_1.pt")
    with pytest.raises(CleanPokeError):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    path = tmp_path / "checkpoint_1.pt"
    save_checkpoint(Checkpoint(path, "s", "", 1, {}, {}, {"model": torch.zeros(10)}))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))  # as good as a full disk, to a writer
        with pytest.raises(CleanPokeError, match=f"no room for {path}.*free some space") as raised:
            save_checkpoint(Checkpoint(path, "s", "", 2, {}, {}, {"model": torch.zeros(10**6)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_kill_during_a_save_leaves_a_readable_checkpoint(tmp_path):
    code = f"""
import torch
from pathlib import Path
from cleanpoke.run import Checkpoint, save_checkpoint
step = 0
while True:
    step += 1
    state = {{"model": torch.full((500_000,), float(step))}}
    save_checkpoint(Checkpoint(Path({str(tmp_path)!r}) / "checkpoint_1.pt", "s", "", step, {{}}, {{}}, state))
    print(step, flush=True)
"""
    generator = random.Random(0)
    for _ in range(3):
        process = python(code)
        assert process.stdout.readline() == "1\n", process.stderr.read()
        time.sleep(generator.uniform(0.0, 0.1))
        process.kill()
        process.communicate(timeout=30)
        checkpoint = load_checkpoint(tmp_path)
        assert torch.all(checkpoint.state["model"] == checkpoint.step)


def test_unwritable_place_is_one_clear_line(tmp_path):
    occupied = tmp_path / "runs"
    occupied.write_text("a file where the folder should be")
    with pytest.raises(CleanPokeError, match=f"cannot write to {occupied}"):
        new_run(occupied)


def test_full_disk_for_curves_is_one_clear_line(tmp_path):
    code = f"""
import dataclasses, resource, signal
from cleanpoke.errors import user_errors
from cleanpoke.run import Run
Args = dataclasses.make_dataclass("Args", [])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
with user_errors(), Run("x.py", "env", Args(), seed=0, root={str(tmp_path)!r}) as run:
    for step in range(10_000):
        run.log(step, {{"losses/policy": 1.0}})
"""
    process = python(code)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "error: the disk is full (while writing): free some space and run again\n"


@dataclass
class SomeArgs:
    resume: Path | None = None
    runs: Path = Path("runs")
    data: Path | None = None
    rate: float = 0.1
    steps: int = 10
    players: tuple[str, ...] = ("a", "b")


def test_resuming_takes_the_arguments_of_the_run_where_none_are_given(tmp_path, monkeypatch):
    args = SomeArgs(runs=tmp_path, data=Path("some/folder"), rate=0.5, players=("c",))
    with Run("script.py", "env", args, seed=1, root=tmp_path) as run:
        run.save(3, {})
    monkeypatch.setattr("sys.argv", ["script.py", "--resume", str(run.folder), "--steps", "20"])
    resumed = parse_arguments(SomeArgs, "script.py", None)
    assert resumed == SomeArgs(run.folder, tmp_path, Path("some/folder"), 0.5, 20, ("c",))
    monkeypatch.setattr("sys.argv", ["script.py", "--steps", "20"])
    assert parse_arguments(SomeArgs, "script.py", None) == SomeArgs(steps=20)
