"""The plumbing of a training run, once: folder, TensorBoard, checkpoints and resume, seeds. No algorithm.

with Run(__file__, "gen1ou", args, seed=args.seed, resume=args.resume) as run, StopSignal() as stop:
    ...                                   # seed_everything, build model, optimiser, sampler
    if run.checkpoint:                    # put run.checkpoint.state back into them, and last:
        restore_random_state(run.checkpoint.random_state)
    for step in range(run.start_step, args.total_steps):
        ...                               # one update
        run.log(step, {"losses/policy": loss})
        run.progress.update(step + 1, args.total_steps, {"loss": loss})
        if stop or (step + 1) % args.save_every == 0:
            run.save(step + 1, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        if stop:
            break
"""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import time
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter

from cleanpoke.errors import DISK_FULL, CleanPokeError
from cleanpoke.terminal import Progress

CHECKPOINT_FORMAT = 1
Arguments = typing.TypeVar("Arguments")
"""A script's dataclass of arguments."""


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of those generators, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Lets the generators continue from where `random_state` found them."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():  # otherwise the run goes on, not bit-exactly
        torch.cuda.set_rng_state_all(state["cuda"])


@dataclasses.dataclass(slots=True)
class Checkpoint:
    """A training state on disk: tensors and plain values only, so that loading one cannot run code."""

    path: Path
    script: str
    """Which script wrote it, such as `awac_showdown_hrm`."""
    schema: str
    """What its network reads; another schema is refused."""
    step: int
    """How many training steps were finished."""
    args: dict[str, Any]
    """The script's arguments, as plain values."""
    random_state: dict[str, Any]
    state: dict[str, Any]
    """What the script saved: state dictionaries of model, optimiser, sampler, …"""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` complete or not at all, even after kill -9 or a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(checkpoint: Checkpoint) -> None:
    """Writes `checkpoint.path`. On a full disk raises CleanPokeError, and what was there before stays."""
    contents = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    del contents["path"]
    contents["cleanpoke_checkpoint"] = CHECKPOINT_FORMAT
    try:
        with atomic_file(checkpoint.path) as file:
            torch.save(contents, file)
    except (OSError, RuntimeError) as error:
        # torch hides the OSError of a failed write behind a RuntimeError about its own bookkeeping.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in DISK_FULL:
            raise
        folder = checkpoint.path.parent
        free_mib = shutil.disk_usage(folder).free // 2**20
        raise CleanPokeError(
            f"no room for {checkpoint.path} ({cause.strerror}, {free_mib:,} MiB free): free some space, then "
            f"continue with --resume {folder} (earlier checkpoints are kept)"
        ) from error


def load_checkpoint(
    path: str | Path, *, script: str | None = None, schema: str | None = None, needs: Collection[str] = ()
) -> Checkpoint:
    """Reads a checkpoint file, or the newest one of a run folder, onto the CPU.

    script, schema: who must have written it, what it must read (None: anything). needs: keys that its `state`
    must hold. Raises CleanPokeError where that fails, and for a file that is damaged or something else.
    """
    path = Path(path)
    if path.is_dir():
        candidates = checkpoints_in(path)
        if not candidates:
            raise CleanPokeError(
                f"{path} holds no checkpoint_*.pt: the run ended before its first, start a new one"
            )
        path = candidates[-1]
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CleanPokeError(
            f"cannot read checkpoint {path} ({error.strerror}): give a checkpoint_*.pt or a run folder"
        ) from error
    except Exception as error:  # torch raises a dozen kinds, and all of them mean the same to the user
        raise CleanPokeError(f"{path} is damaged or not a CleanPoke checkpoint: give another") from error
    fields = {field.name for field in dataclasses.fields(Checkpoint)} - {"path"} | {"cleanpoke_checkpoint"}
    if not isinstance(contents, dict) or set(contents) != fields:
        raise CleanPokeError(f"{path} is a PyTorch file but not a CleanPoke checkpoint: give another")
    if contents.pop("cleanpoke_checkpoint") != CHECKPOINT_FORMAT:
        raise CleanPokeError(f"{path} was written by another version of CleanPoke: load it with that version")
    checkpoint = Checkpoint(path=path, **contents)
    if script is not None and checkpoint.script != script:
        raise CleanPokeError(
            f"{path} was written by {checkpoint.script}.py: give a checkpoint of {script}.py"
        )
    if schema is not None and checkpoint.schema != schema:
        raise CleanPokeError(
            f"{path} reads observations of schema {checkpoint.schema}, this version makes {schema}: "
            "train again, or use the version of CleanPoke that wrote it"
        )
    if missing := sorted(set(needs) - set(checkpoint.state)):
        raise CleanPokeError(f"{path} lacks {', '.join(missing)}: give a complete checkpoint")
    return checkpoint


def checkpoints_in(folder: Path) -> list[Path]:
    """A run folder's checkpoints, newest last: by step, for times change when a folder is copied."""

    def age(path: Path) -> tuple[int, int]:
        step = path.stem.removeprefix("checkpoint_")
        return int(step) if step.isdecimal() else -1, path.stat().st_mtime_ns

    return sorted(folder.glob("checkpoint_*.pt"), key=age)


class Run:
    """One training run and its folder `runs/<script>__<env>__<seed>__<time>`.

    Attributes: `folder`; `progress`, the progress line; `checkpoint`, what is resumed, or None; `start_step`.
    """

    def __init__(
        self,
        script: str,
        env: str,
        args: Any,
        *,
        seed: int,
        schema: str = "",
        needs: Collection[str] = (),
        resume: str | Path | None = None,
        root: str | Path = "runs",
        keep: int = 2,
        enabled: bool = True,
    ) -> None:
        """script: its `__file__`; args: its dataclass, kept as args.json and as text in TensorBoard.

        resume: a checkpoint or a run folder. The run goes on in that folder, and TensorBoard drops the points
        drawn past that step. schema, needs: as in `load_checkpoint`. keep: how many of the newest checkpoints
        stay. enabled: False on the ranks above 0 of a distributed run, which write nothing.
        """
        self.script = Path(script).stem
        self.schema = schema
        self.args = plain(dataclasses.asdict(args))
        self.keep = keep
        self.enabled = enabled
        self.folder = Path(root)
        self.progress = Progress(enabled=enabled)
        self.checkpoint = None
        if resume:
            self.checkpoint = load_checkpoint(resume, script=self.script, schema=schema, needs=needs)
        self.start_step = self.checkpoint.step if self.checkpoint else 0
        if not enabled:
            return
        try:
            if self.checkpoint and (self.checkpoint.path.parent / "args.json").exists():
                self.folder = self.checkpoint.path.parent
            else:
                self.folder = new_folder(Path(root), f"{self.script}__{env}__{seed}")
            self.save_json("args.json", self.args)
            purge_step = self.start_step if self.checkpoint else None
            self.writer = SummaryWriter(str(self.folder), purge_step=purge_step, flush_secs=10)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise CleanPokeError(
                f"cannot write to {self.folder} ({error.strerror}): make it a folder of yours"
            ) from error
        rows = "\n".join(f"|{name}|{value}|" for name, value in self.args.items())
        self.log_text(self.start_step, "hyperparameters", f"|name|value|\n|-|-|\n{rows}")

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.print(f"run folder: {self.folder}")
        if self.enabled:
            try:
                self.writer.close()
            except OSError:
                if exception[0] is None:  # otherwise the error that brought us here says more
                    raise

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each curve. Steps count from 0: resumed from `save(n, …)`, step n comes next."""
        if self.enabled:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)

    def log_histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds the distribution of some values (N,)."""
        if self.enabled:
            self.writer.add_histogram(name, values, step)

    def log_text(self, step: int, name: str, markdown: str) -> None:
        """Adds a text, such as a table of results."""
        if self.enabled:
            self.writer.add_text(name, markdown, step)

    def save(self, step: int, state: Mapping[str, Any]) -> Path | None:
        """Saves `state` and all random state after `step` finished steps; returns the file written.

        state: state dictionaries, tensors and plain values. On a full disk raises CleanPokeError; the
        checkpoints from before stay. Those of later steps go: the run was resumed from an earlier one.
        """
        if not self.enabled:
            return None
        self.writer.flush()
        for leftover in self.folder.glob(".*.tmp"):  # of a process killed while it saved
            leftover.unlink()
        path = self.folder / f"checkpoint_{step:09}.pt"
        save_checkpoint(
            Checkpoint(path, self.script, self.schema, step, self.args, random_state(), dict(state))
        )
        checkpoints = checkpoints_in(self.folder)
        end = checkpoints.index(path) + 1
        for other in checkpoints[: max(end - self.keep, 0)] + checkpoints[end:]:
            other.unlink()
        return path

    def save_best(self, step: int, state: Mapping[str, Any]) -> None:
        """Saves `state` as best.pt, in place of the one before; give its path to use it."""
        if self.enabled:
            path = self.folder / "best.pt"
            save_checkpoint(
                Checkpoint(path, self.script, self.schema, step, self.args, random_state(), dict(state))
            )

    def save_json(self, name: str, value: Any) -> None:
        """Writes a JSON file into the run folder, atomically."""
        if self.enabled:
            with atomic_file(self.folder / name) as file:
                file.write(json.dumps(value, indent=2).encode() + b"\n")


def saved_arguments(checkpoint: Checkpoint, kind: type[Arguments]) -> Arguments:
    """The arguments of the run that wrote a checkpoint, without those that this version does not know."""
    saved = {}
    for name, hint in typing.get_type_hints(kind).items():
        if name in checkpoint.args:
            value = checkpoint.args[name]
            if value is not None and Path in (hint, *typing.get_args(hint)):
                value = Path(value)
            saved[name] = tuple(value) if typing.get_origin(hint) is tuple else value
    return kind(**saved)


def parse_arguments(kind: type[Arguments], script: str, description: str | None) -> Arguments:
    """The command line; with --resume, the checkpoint's arguments take the place of the defaults.

    kind: the script's dataclass, with a field `resume`; script: its `__file__`; description: for --help.
    """
    args = tyro.cli(kind, description=description)
    if args.resume is None:
        return args
    saved = saved_arguments(load_checkpoint(args.resume, script=Path(script).stem), kind)
    return tyro.cli(kind, description=description, default=saved)


def plain(value: Any) -> Any:
    """Arguments as values that JSON and a checkpoint can hold: paths and the like become strings."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def new_folder(root: Path, name: str) -> Path:
    """Makes `root/name__<time>`, with a counter behind it when that one is taken."""
    stem = f"{name}__{time.strftime('%Y%m%d-%H%M%S')}"
    root.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        folder = root / (stem if count == 1 else f"{stem}-{count}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            count += 1
