"""The search: whole runs of the script, a study that goes on, trials that end early."""

import importlib.util
import json
import sys
from pathlib import Path

import optuna
import pytest

from cleanpoke.errors import CleanPokeError

spec = importlib.util.spec_from_file_location("tune", Path(__file__).parents[2] / "tools" / "tune.py")
tune = importlib.util.module_from_spec(spec)
sys.modules["tune"] = tune
spec.loader.exec_module(tune)


def small(folder: Path, **changes) -> tune.Args:
    options = {"total_timesteps": 1024, "trials": 2, "tune": ("learning_rate", "gamma", "num_minibatches")}
    options |= {"study": folder / "pole.log", "eval_episodes": 2, "options": "--num-envs 2 --num-steps 64"}
    return tune.Args(**({"env_id": "CartPole-v1"} | options | changes))


def test_a_study_runs_the_script_and_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: False)
    tune.main(small(tmp_path))
    tune.main(small(tmp_path, trials=3))
    study = tune.open_study(small(tmp_path), tmp_path / "pole.log")
    assert [trial.state.name for trial in study.trials] == 3 * ["COMPLETE"]
    for number, trial in enumerate(study.trials):
        (evaluation,) = (tmp_path / "pole").glob(f"trial_{number:04}__*/*/evaluation.json")
        assert trial.value == json.loads(evaluation.read_text())["greedy"]["mean"]
        arguments = json.loads((evaluation.parent / "args.json").read_text())
        assert arguments["learning_rate"] == pytest.approx(trial.params["learning_rate"], rel=1e-4)
        assert arguments["gamma"] == pytest.approx(1 - trial.params["one_minus_gamma"], rel=1e-4)
        assert arguments["seed"] == 1 + number
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 3
    best = max(study.trials, key=lambda trial: trial.value)
    command = f"--env-id CartPole-v1 --total-timesteps 1024 {best.user_attrs['options']} --num-envs 2"
    assert command in capsys.readouterr().out


def test_a_trial_that_falls_behind_is_ended_and_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: bool(trial.number))
    processes = []
    real = tune.subprocess.Popen
    monkeypatch.setattr(
        tune.subprocess,
        "Popen",
        lambda *args, **options: processes.append(real(*args, **options)) or processes[-1],
    )
    tune.main(small(tmp_path, options="--num-envs 2 --num-steps 64"))
    study = tune.open_study(small(tmp_path), tmp_path / "pole.log")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize(("earlier", "state"), [(500.0, "PRUNED"), (1.0, "COMPLETE")])
def test_a_trial_that_returns_less_than_an_earlier_one_is_ended(tmp_path, earlier, state):
    """A pole that nobody has learnt to balance soon falls; ASHA hears that from the trial, and decides."""
    args = small(tmp_path, total_timesteps=512, options="--num-envs 2 --num-steps 64 --save-every 128")
    study = tune.open_study(args, args.study)
    other = study.ask()
    other.set_user_attr("options", "--learning-rate 1e-3")
    for point in (4, 16, 64):
        other.report(earlier, point)
        assert not other.should_prune()
    study.tell(other, earlier)
    tune.main(args)
    trial = tune.open_study(args, args.study).trials[1]
    assert trial.state.name == state
    assert trial.intermediate_values and all(5 < value < 100 for value in trial.intermediate_values.values())


def test_a_failed_trial_is_noted_and_the_search_goes_on_and_may_start_anew(tmp_path, capsys, monkeypatch):
    """A rollout of 8 decisions cannot be split into 8 minibatches, but into 2 or 4."""
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: False)
    options = {"tune": ("num_minibatches",), "options": "--num-envs 2 --num-steps 4", "seed": 4}
    args = small(tmp_path, total_timesteps=64, **options)
    tune.main(args)
    study = tune.open_study(args, args.study)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "a minibatch needs at least two rows" in study.trials[0].user_attrs["failure"]
    printed = capsys.readouterr().out
    assert "trial 0: failed: error: a minibatch needs" in printed and "--env-id CartPole-v1" in printed
    tune.main(args)  # makes up for it
    study = tune.open_study(args, args.study)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    args.study.unlink()
    tune.main(small(tmp_path, total_timesteps=64, trials=1, **options | {"seed": 5}))
    assert len(list((tmp_path / "pole").glob("trial_0000__*"))) == 2


def test_mistakes_are_told_in_one_line(tmp_path):
    with pytest.raises(CleanPokeError, match="cannot tune depth: choose from learning_rate"):
        tune.main(small(tmp_path, tune=("depth",)))
    message = "all 2 trials failed; the last: error: --num-envs must be at least 1; see .*output.txt"
    with pytest.raises(CleanPokeError, match=message):
        tune.main(small(tmp_path, options="--num-envs 0"))
    for changes, message in (
        ({"eval_episodes": 0}, "--eval-episodes must be at least 1"),
        ({"options": "--num-envs '2"}, "No closing quotation"),
        ({"study": tmp_path}, "is a folder"),
        ({"env_id": "Pong-v5"}, "did you mean ALE/Pong-v5"),
    ):
        with pytest.raises(CleanPokeError, match=message):
            tune.main(small(tmp_path, **changes))
    for damaged in ("hello\n", '{"op_code": 0}\n17\n'):
        (tmp_path / "damaged.log").write_text(damaged)
        with pytest.raises(CleanPokeError, match="damaged.log is no study, or damaged"):
            tune.main(small(tmp_path, study=tmp_path / "damaged.log"))
        assert (tmp_path / "damaged.log").read_text() == damaged
    with pytest.raises(CleanPokeError, match="a study of env_id CartPole-v1, not Acrobot-v1"):
        tune.main(small(tmp_path, env_id="Acrobot-v1"))
