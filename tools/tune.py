"""Searches hyperparameters of a script with Optuna: TPE proposes, ASHA ends trials that fall behind.

    python tools/tune.py --env-id CartPole-v1 --total-timesteps 60000 --trials 30
    python tools/tune.py --env-id ALE/Pong-v5 --tune learning_rate ent_coef --total-timesteps 500000 \
        --options "--init-from runs/<folder>"

A trial is a whole run of the script in its own process; its score is the greedy return of its evaluation. The
study is a file: the same command goes on where it stopped, and several at once share one study. A trial that
fails is noted as such, and the search goes on; the same command later makes up for it. The best options are
printed as a command line.
"""

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import tyro
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import new_folder
from cleanpoke.terminal import StopSignal, die_with_parent
from cleanpoke.watch import script_for

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
POLL_SECONDS = 1.0
STOP_SECONDS = 60.0
"""How long a script may take to save and leave."""
PRUNER_POINTS = 100
"""A run reports its progress in so many points; ASHA compares trials at 4, 16 and 64 of them."""
SEARCH: dict[str, Callable[[optuna.Trial], float | int]] = {
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
    "ent_coef": lambda trial: trial.suggest_float("ent_coef", 1e-4, 0.1, log=True),
    "clip_coef": lambda trial: trial.suggest_float("clip_coef", 0.05, 0.4),
    "gamma": lambda trial: 1 - trial.suggest_float("one_minus_gamma", 0.001, 0.05, log=True),
    "gae_lambda": lambda trial: trial.suggest_float("gae_lambda", 0.8, 0.99),
    "vf_coef": lambda trial: trial.suggest_float("vf_coef", 0.1, 1.0),
    "update_epochs": lambda trial: trial.suggest_int("update_epochs", 1, 10),
    "num_steps": lambda trial: trial.suggest_categorical("num_steps", [32, 64, 128, 256]),
    "num_minibatches": lambda trial: trial.suggest_categorical("num_minibatches", [2, 4, 8]),
}


@dataclass
class Args:
    env_id: str
    """what to learn: ALE/<Game>-v5 by ppo_atari.py, Vizdoom… by ppo_vizdoom.py, anything else by ppo.py"""
    total_timesteps: int
    """decisions of one trial"""
    tune: tuple[str, ...] = ("learning_rate", "ent_coef", "clip_coef", "gamma", "gae_lambda", "update_epochs")
    """which hyperparameters"""
    trials: int = 20
    """how many trials the study shall hold in the end, those included that fail on the way"""
    study: Path | None = None
    """the study's file (default: runs/tune/<environment>.log)"""
    options: str = ""
    """more options for the script, in one string"""
    eval_episodes: int = 20
    """episodes whose mean return is a trial's score"""
    seed: int = 1
    """of the proposals; trial n trains with seed + n"""


class TrialFailed(Exception):
    """A script ended without an evaluation; the message is its last line."""


def newest_returns(run: Path) -> list[tuple[int, float]]:
    """(step, mean return) of a run so far."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    if "charts/episodic_return" not in events.Tags()["scalars"]:
        return []
    return [(point.step, point.value) for point in events.Scalars("charts/episodic_return")]


def stop(process: subprocess.Popen) -> None:
    """Lets a script save and leave; kills it if it does not."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_trial(args: Args, trial: optuna.Trial, folder: Path, stopping: StopSignal) -> float:
    """One run of the script, in an empty folder.

    Raises TrialPruned when it falls behind, TrialFailed when it fails, KeyboardInterrupt at Ctrl-C.
    """
    chosen = {name: SEARCH[name](trial) for name in args.tune}
    trial.set_user_attr("options", command_options(chosen))
    script = script_for(args.env_id).__file__
    command = [sys.executable, script, "--env-id", args.env_id, "--runs", str(folder)]
    command += ["--total-timesteps", str(args.total_timesteps), "--seed", str(args.seed + trial.number)]
    command += ["--eval-episodes", str(args.eval_episodes), *command_options(chosen).split()]
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *shlex.split(args.options)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us, who then end the script
            preexec_fn=die_with_parent,
        )
    reported = -1
    try:
        while process.poll() is None:
            if stopping:
                raise KeyboardInterrupt
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            for run in folder.glob("*/"):
                for step, value in newest_returns(run):
                    point = step * PRUNER_POINTS // args.total_timesteps
                    if point > reported:
                        trial.report(value, point)
                        reported = point
            if trial.should_prune():
                raise optuna.TrialPruned
    finally:
        stop(process)
    evaluation = next(folder.glob("*/evaluation.json"), None)
    if process.returncode != 0 or evaluation is None:  # one that is told to stop ends without an evaluation
        lines = log.read_text(errors="replace").strip().splitlines()
        raise TrialFailed(f"{lines[-1] if lines else 'no output'}; see {log}")
    return json.loads(evaluation.read_text())["greedy"]["mean"]


def command_options(chosen: dict[str, float | int]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value:.6g}" for name, value in chosen.items())


def open_study(args: Args, file: Path) -> optuna.Study:
    if file.is_dir():
        raise CleanPokeError(f"--study {file} is a folder: give the name of a file")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []  # the last may just be written
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)["op_code"]
        except (ValueError, TypeError, KeyError) as error:
            raise CleanPokeError(
                f"{file} is no study, or damaged (line {number}): give another --study, or delete it"
            ) from error
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file))),
        pruner=SuccessiveHalvingPruner(min_resource=4, reduction_factor=4),
        study_name=file.stem,
        direction="maximize",
        load_if_exists=True,
    )
    for name, value in (("env_id", args.env_id), ("total_timesteps", args.total_timesteps)):
        if study.user_attrs.setdefault(name, value) != value:
            raise CleanPokeError(
                f"{file} is a study of {name} {study.user_attrs[name]}, not {value}: give another --study"
            )
        study.set_user_attr(name, value)
    return study


def main(args: Args) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if unknown := sorted(set(args.tune) - set(SEARCH)):
        raise CleanPokeError(f"cannot tune {', '.join(unknown)}: choose from {', '.join(SEARCH)}")
    if args.eval_episodes < 1:
        raise CleanPokeError("--eval-episodes must be at least 1: their mean return is a trial's score")
    try:
        shlex.split(args.options)
    except ValueError as error:
        raise CleanPokeError(f"--options {args.options!r} cannot be read: {error}") from error
    script = Path(script_for(args.env_id).__file__).name
    file = args.study or Path("runs/tune") / f"{args.env_id.replace('/', '_')}.log"
    study = open_study(args, file)
    earlier = len(study.trials)  # those of them that failed are made up for
    with StopSignal() as stopping:
        while True:
            finished = [trial for trial in study.trials if trial.state in (COMPLETE, PRUNED)]
            failed = [trial for trial in study.trials[earlier:] if "failure" in trial.user_attrs]
            if stopping or len(finished) + len(failed) >= args.trials:
                break
            trial = study.ask()
            # Neither a study that goes on nor one at work beside us may draw the same proposals again.
            study.sampler = TPESampler(seed=args.seed + trial.number)
            started = time.monotonic()
            try:
                # Named by its time, too: a study that starts anew finds the folders of the one before.
                folder = new_folder(file.parent / file.stem, f"trial_{trial.number:04}")
                score = run_trial(args, trial, folder, stopping)
            except optuna.TrialPruned:
                study.tell(trial, state=PRUNED)
                result = "ended early"
            except TrialFailed as failure:
                trial.set_user_attr("failure", str(failure))
                study.tell(trial, state=FAIL)
                result = f"failed: {failure}"
            except BaseException:
                study.tell(trial, state=FAIL)
                raise
            else:
                study.tell(trial, score)
                result = f"return {score:.1f}"
            seconds = time.monotonic() - started
            print(
                f"trial {trial.number}: {result}  ({seconds:.0f} s)  {trial.user_attrs['options']}",
                flush=True,
            )
    if failed and not finished:
        raise CleanPokeError(f"all {len(failed)} trials failed; the last: {failed[-1].user_attrs['failure']}")
    complete = [trial for trial in study.trials if trial.state == COMPLETE]
    if complete:
        best = max(complete, key=lambda trial: trial.value)
        options = f"--total-timesteps {args.total_timesteps} {best.user_attrs['options']} {args.options}"
        print(f"python cleanpoke/{script} --env-id {args.env_id} {options.strip()}")


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
