"""Runs of our scripts as benchmarks want them: in a process of their own, once each, and kept."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.sources import ROOT, version_of

from cleanpoke.compute import available_cores
from cleanpoke.errors import CleanPokeError
from cleanpoke.run import atomic_file, checkpoints_in
from cleanpoke.terminal import die_with_parent

SCRIPTS = ROOT / "cleanpoke"
RECORD, BEGUN = "finished.json", "begun.json"
"""In the folder of a run that came to its end, and of one that was started."""
Options = Sequence[str | Path]
"""A command line. What is a Path may be spelled in any way, from any working directory: it counts as the same
options as long as it lies in the same place as seen from the folder of the run."""
Job = tuple[str, Path, Options]
"""Script, folder of the run, options."""


@dataclass(slots=True)
class FinishedRun:
    """One run of a script."""

    folder: Path
    minutes: float
    """From the command to its end, all included."""
    evaluation: dict[str, Any]
    """What its evaluation.json says."""

    @property
    def checkpoint(self) -> Path:
        return checkpoints_in(self.folder)[-1]


def is_finished(folder: Path) -> bool:
    """Whether `run_script` has brought a run in this folder to its end."""
    return (folder / RECORD).exists()


def described(job: Job, sources: str) -> dict[str, Any]:
    """What a run's records must agree with; sources: the version of its script."""
    _, folder, options = job
    here = folder.resolve()
    plain = [
        Path(os.path.relpath(option.resolve(), here)).as_posix() if isinstance(option, Path) else option
        for option in options
    ]
    return {"options": plain, "sources": sources}


def conflict(folder: Path, description: dict[str, Any]) -> str | None:
    """What speaks against using the run in a folder, if there is one: another version, or other options."""
    for path in (folder / RECORD, folder / BEGUN):
        if path.exists():
            noted = json.loads(path.read_text())
            if noted.get("sources") != description["sources"]:
                return "another version of the script or of what it imports"
            if noted["options"] != description["options"]:
                return "other options"
    return None


def check_jobs(jobs: Sequence[Job], at_once: int) -> None:
    """Raises CleanPokeError if `run_scripts` would refuse one of them, at once and not hours later."""
    count = available_cores()
    if not 1 <= at_once <= count:
        raise CleanPokeError(f"--at-once must be between 1 and {count}, the number of cores")
    versions = {script: version_of(SCRIPTS / f"{script}.py") for script in {job[0] for job in jobs}}
    reasons = {job[1]: conflict(job[1], described(job, versions[job[0]])) for job in jobs}
    refused = [(folder, reason) for folder, reason in reasons.items() if reason]
    if refused:
        folder, reason = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise CleanPokeError(f"{folder}{more} holds a run of {reason}: choose another --folder")


def run_script(script: str, folder: Path, options: Options, cores: set[int] | None = None) -> FinishedRun:
    """Runs cleanpoke/<script>.py unless `folder` holds a finished run of it; one that was cut off goes on
    from its last checkpoint.

    Its output goes to the terminal; with `cores`, the only ones that it may use, into folder/output.txt, for
    others run beside it. Raises CleanPokeError if the script fails, or if what is there was made by another
    version of the script (or of what it imports) or with other options.
    """
    record, source, begun = folder / RECORD, SCRIPTS / f"{script}.py", folder / BEGUN
    description = described((script, folder, options), version_of(source))
    if reason := conflict(folder, description):
        raise CleanPokeError(f"{folder} holds a run of {reason}: choose another --folder")
    if not is_finished(folder):
        folder.mkdir(parents=True, exist_ok=True)
        texts = [str(option.resolve()) if isinstance(option, Path) else option for option in options]
        command, minutes = [sys.executable, str(source), *texts, "--runs", str(folder)], 0.0
        if begun.exists() and (checkpoint := _last_checkpoint(script, folder)):
            command += ["--resume", str(checkpoint.parent)]
            before = json.loads(begun.read_text())
            minutes = before["minutes"] + (checkpoint.stat().st_mtime - before["time"]) / 60
        _write(begun, {"time": time.time(), "minutes": minutes, **description})
        print(f"$ python cleanpoke/{script}.py " + " ".join(command[2:]), flush=True)
        started = time.perf_counter()
        with open(folder / "output.txt", "a") if cores else nullcontext() as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, preexec_fn=lambda: _confine_child(cores)
            )
        minutes += (time.perf_counter() - started) / 60
        if done.returncode != 0:
            place = f"in {folder / 'output.txt'}" if cores else "above"
            raise CleanPokeError(f"{script}.py ended with status {done.returncode}; its output is {place}")
        run = max(folder.glob(f"{script}__*"), key=lambda path: path.stat().st_mtime_ns)
        if not (run / "evaluation.json").exists():
            raise CleanPokeError(f"{script}.py was stopped before its evaluation: run this again")
        _write(record, {"folder": run.name, "minutes": minutes, **description})
    content = json.loads(record.read_text())
    run = folder / content["folder"]
    return FinishedRun(run, content["minutes"], json.loads((run / "evaluation.json").read_text()))


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content).encode())


def _last_checkpoint(script: str, folder: Path) -> Path | None:
    checkpoints = [path for run in folder.glob(f"{script}__*") for path in checkpoints_in(run)]
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns, default=None)


def run_scripts(jobs: Sequence[Job], at_once: int) -> list[FinishedRun]:
    """`run_script` for each job, `at_once` of them beside each other, each with its own share of the cores.

    Raises CleanPokeError if there are more at once than cores, and, before the first of them begins, if any
    of their folders holds another run.
    """
    check_jobs(jobs, at_once)
    if at_once == 1:
        return [run_script(*job) for job in jobs]
    cores = sorted(os.sched_getaffinity(0))
    shares = [set(cores[share::at_once]) for share in range(at_once)]

    def run_on_free_cores(job: Job) -> FinishedRun:
        share = shares.pop()  # as many threads as shares: there is one
        try:
            return run_script(*job, cores=share)
        finally:
            shares.append(share)

    with ThreadPoolExecutor(at_once) as executor:
        return list(executor.map(run_on_free_cores, jobs))


def _confine_child(cores: set[int] | None) -> None:
    die_with_parent()
    if cores:
        os.sched_setaffinity(0, cores)
