"""Runs of our scripts as benchmarks want them: in a process of their own, once each, and kept."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanpoke.errors import CleanPokeError
from cleanpoke.run import checkpoints_in

SCRIPTS = Path(__file__).resolve().parents[2] / "cleanpoke"


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


def run_script(script: str, folder: Path, options: list[str]) -> FinishedRun:
    """Runs cleanpoke/<script>.py unless `folder` holds a finished run of it; its output goes to the terminal.

    Raises CleanPokeError if the script fails, or if what is there was made by another version of the script
    or with other options.
    """
    record, source = folder / "finished.json", SCRIPTS / f"{script}.py"
    version = {"options": options, "script": hashlib.sha256(source.read_bytes()).hexdigest()}
    if record.exists() and not version.items() <= json.loads(record.read_text()).items():
        raise CleanPokeError(
            f"{folder} holds a run of another version or other options: choose another --folder"
        )
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"$ python cleanpoke/{script}.py " + " ".join(options), flush=True)
        started = time.perf_counter()
        done = subprocess.run([sys.executable, str(source), *options, "--runs", str(folder)])
        minutes = (time.perf_counter() - started) / 60
        if done.returncode != 0:
            raise CleanPokeError(f"{script}.py ended with status {done.returncode}; its output is above")
        run = max(folder.glob(f"{script}__*"), key=lambda path: path.stat().st_mtime_ns)
        if not (run / "evaluation.json").exists():
            raise CleanPokeError(f"{script}.py was stopped before its evaluation: run this again")
        record.write_text(json.dumps({"folder": run.name, "minutes": minutes, **version}))
    content = json.loads(record.read_text())
    run = folder / content["folder"]
    return FinishedRun(run, content["minutes"], json.loads((run / "evaluation.json").read_text()))
