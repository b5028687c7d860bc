"""Battle files: trajectories on disk, packed into memory-mapped shards.

A trajectory is one battle from one point of view. A folder of battles holds shards, a shard is a folder:

    shard_<time>_<process>_<number>/
        meta.json           schema, format, versions, player names, drops, size and CRC32 of each file
        trajectories.npy    (K,) TRAJECTORY_DTYPE, one row per trajectory
        words.npy numbers.npy legal.npy action.npy reward_terms.npy terminated.npy truncated.npy
                            (n, ...) one row per decision, the trajectories one after the other; see COLUMNS

A shard is written under a hidden name and renamed when it is complete, so readers never see half of one.
"""

import errno
import fcntl
import gzip
import importlib.metadata
import io
import itertools
import json
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cleanpoke.envs.showdown import encoder
from cleanpoke.envs.showdown.node_runtime import showdown_version
from cleanpoke.errors import DISK_FULL, CleanPokeError

FILE_VERSION = 1
"""Counts changes of this file format; `encoder.SCHEMA` names the meaning of the arrays in it."""

REWARD_TERMS = ("health", "status", "knock_out", "outcome")
"""Own point of view, from one decision to the next (or to the end of the battle):

health: change of own summed HP fractions minus the opponent's; status: opponents newly statused minus own;
knock_out: opponents fainted minus own; outcome: +1 won, -1 lost, 0 else, only at the last decision.
"""

MISSING_ACTION = -1
"""What `action` holds where the executed action is not known; such a row teaches neither actor nor critic."""

TRAJECTORY_DTYPE = np.dtype(
    [
        ("start", np.int64),  # first decision's row in the shard
        ("length", np.int32),  # number of decisions, at least 1
        ("battle", np.int64),  # unique; both points of view of a battle share it
        ("seed", np.int64),  # the simulator's seed
        ("side", np.int8),  # 0 = p1, 1 = p2
        ("player", np.int16),  # index into the player names
        ("opponent", np.int16),  # index into the player names
        ("outcome", np.int8),  # +1 won, -1 lost, 0 tied or cut off
        ("turns", np.int16),
        ("team", np.int32),  # index or hash of the own team, -1 for a random one
    ]
)

COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "words": (np.int16, (encoder.NUM_WORDS,)),
    "numbers": (np.float16, (encoder.NUM_NUMBERS,)),
    "legal": (np.bool_, (encoder.NUM_ACTIONS,)),
    "action": (np.int8, ()),  # the executed one
    "reward_terms": (np.float32, (len(REWARD_TERMS),)),
    "terminated": (np.bool_, ()),  # the battle ended by its rules after this decision
    "truncated": (np.bool_, ()),  # the battle was cut off after this decision: turn limit, stall, dead worker
}
"""Per-decision arrays: dtype and shape of one row."""

# Mapped columns stay on disk until they are touched. The others take 19 bytes per decision and are read at
# once: each mapping holds a file descriptor, and a process may have only 1,024 of them.
MAPPED_COLUMNS = ("words", "numbers", "legal")

_SHARD_PREFIX = "shard_"
_PARTIAL_PREFIX = ".partial_"
_shard_numbers = itertools.count()


class BattleFileError(CleanPokeError):
    """A folder of battles, a shard or a trajectory that cannot be used; the message names it and the fix."""


@dataclass(slots=True)
class Trajectory:
    """One battle from one point of view, filled decision by decision while it is played.

    `player` and `opponent` are names; the other header fields are those of TRAJECTORY_DTYPE.
    Call `add_decision` for each decision, `add_reward` once per decision as soon as its step is over, and
    `finish` at the end of the battle.
    """

    battle: int
    seed: int
    side: int
    player: str
    opponent: str
    team: int = -1
    outcome: int = 0
    turns: int = 0
    is_truncated: bool = False
    words: list[np.ndarray] = field(default_factory=list)
    numbers: list[np.ndarray] = field(default_factory=list)
    legal: list[np.ndarray] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    reward_terms: list[tuple[float, float, float, float]] = field(default_factory=list)

    def add_decision(self, words: np.ndarray, numbers: np.ndarray, legal: np.ndarray, action: int) -> None:
        """Append words (NUM_WORDS,), numbers (NUM_NUMBERS,), legal (13,) and the executed action, copied.

        action: 0-12, or MISSING_ACTION.
        """
        self.words.append(np.array(words, np.int16))
        self.numbers.append(np.array(numbers, np.float16))
        self.legal.append(np.array(legal, np.bool_))
        self.action.append(action)

    def add_reward(self, health: float, status: float, knock_out: float, outcome: float = 0.0) -> None:
        """Append the reward terms of the step that began with the latest decision."""
        self.reward_terms.append((health, status, knock_out, outcome))

    def finish(self, outcome: int, turns: int, truncated: bool = False) -> None:
        """State the result: outcome +1, -1 or 0 (tied, or truncated: the battle was cut off)."""
        self.outcome, self.turns, self.is_truncated = outcome, turns, truncated

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays of COLUMNS, (length, ...) each. Raises BattleFileError if the lists differ in length."""
        length = len(self.action)
        if length == 0:
            raise BattleFileError(f"battle {self.battle}: a trajectory of length 0 teaches nothing; drop it")
        if not len(self.words) == len(self.numbers) == len(self.legal) == len(self.reward_terms) == length:
            raise BattleFileError(
                f"battle {self.battle}: {length} actions but {len(self.words)} observations and "
                f"{len(self.reward_terms)} rewards; add one reward per decision"
            )
        is_last = np.arange(length) == length - 1
        lists = {
            name: getattr(self, name) for name in ("words", "numbers", "legal", "action", "reward_terms")
        }
        columns = {name: np.asarray(rows, COLUMNS[name][0]) for name, rows in lists.items()}
        return columns | {
            "terminated": is_last & (not self.is_truncated),
            "truncated": is_last & self.is_truncated,
        }


def check_trajectory(columns: dict[str, np.ndarray], outcome: int, name: str) -> None:
    """Raise BattleFileError if the arrays of one trajectory cannot be a battle.

    columns: the arrays of COLUMNS, (length, ...) each. `name` begins the message.
    """

    def fail(problem: str) -> None:
        raise BattleFileError(f"{name}: {problem}")

    action, legal, terms = columns["action"], columns["legal"], columns["reward_terms"]
    length = len(action)
    if length == 0:
        fail("length 0")
    for column, (_, row_shape) in COLUMNS.items():
        if columns[column].shape != (length, *row_shape):
            fail(f"{column} has shape {columns[column].shape}, not {(length, *row_shape)}")
    if action.min() < MISSING_ACTION or action.max() >= encoder.NUM_ACTIONS:
        fail(f"action out of range -1 … {encoder.NUM_ACTIONS - 1}: {action.min()} … {action.max()}")
    if not legal.any(axis=1).all():
        fail(f"no legal action at decision {int(np.argmin(legal.any(axis=1)))}")
    # A missing action (-1) looks up the last entry, and is excused afterwards.
    is_legal = legal[np.arange(length), action] | (action == MISSING_ACTION)
    if not is_legal.all():
        row = int(np.argmin(is_legal))
        fail(f"action {action[row]} is illegal at decision {row}")
    words = columns["words"]
    if words.min() < 0 or words.max() >= encoder.VOCABULARY_SIZE:
        fail(f"word out of range 0 … {encoder.VOCABULARY_SIZE - 1}: {words.min()} … {words.max()}")
    if not np.isfinite(columns["numbers"]).all():
        fail("numbers that are not finite (as float16)")
    if not np.isfinite(terms).all():
        fail("reward terms that are not finite")
    terminated, truncated = columns["terminated"], columns["truncated"]
    if terminated[:-1].any() or truncated[:-1].any() or terminated[-1] == truncated[-1]:
        fail("must be terminated or truncated at the last decision, and only there")
    if outcome not in (-1, 0, 1) or (truncated[-1] and outcome != 0):
        fail(f"outcome {outcome} of a {'truncated' if truncated[-1] else 'terminated'} battle")
    outcome_terms = terms[:, REWARD_TERMS.index("outcome")]
    if outcome_terms[:-1].any() or outcome_terms[-1] != outcome:
        fail(f"outcome {outcome}, but the outcome rewards are {outcome_terms.tolist()}")


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Hold the right to write into `folder`; make the folder if need be and clear what a killed writer left.

    The parent of several cooperating writers holds this and gives them `lock=False`. The lock goes with the
    process, whatever ends it. Raises BattleFileError if another process holds it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BattleFileError(
            f"cannot write into {folder}: {error.strerror}; choose another folder"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BattleFileError(
                f"another program writes battles into {folder}: wait for its end or choose another folder"
            ) from error
        for partial in folder.glob(_PARTIAL_PREFIX + "*"):
            shutil.rmtree(partial, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


class ShardWriter:
    """Writes trajectories of one format into a folder, a shard whenever `decisions_per_shard` have gathered.

    Use it as a context manager: whatever ends the block, the complete trajectories given so far are written.
    Trajectories of the same battle that are added one after the other never part: they share a shard.
    An existing folder is appended to. Raises BattleFileError if its battles have another schema or format, if
    another program is writing into it, or if the disk is full (complete shards stay).
    """

    def __init__(
        self,
        folder: str | Path,
        format: str,
        *,
        decisions_per_shard: int = 50_000,
        lock: bool = True,
        origin: dict | None = None,
    ) -> None:
        """origin: what else is needed to play the battles again; it goes into meta.json."""
        self.folder = Path(folder)
        self._origin = origin or {}
        self.format = format
        self.decisions_per_shard = decisions_per_shard
        self.num_trajectories = self.num_decisions = self.num_shards = (
            0  # written so far, without the waiting
        )
        self._trajectories: list[tuple] = []
        self._player_names: dict[str, int] = {}
        self._dropped: Counter[str] = Counter()
        self._count = 0  # decisions waiting in the buffers
        self._buffers = {name: np.empty((1024, *shape), dtype) for name, (dtype, shape) in COLUMNS.items()}
        self._disk_failed = False
        with ExitStack() as stack:
            if lock:
                stack.enter_context(folder_lock(self.folder))
            for shard in _shard_folders(self.folder):
                meta = _read_meta(shard)
                if meta["format"] != format:
                    raise BattleFileError(
                        f"{self.folder} holds {meta['format']} battles: choose another folder for {format}"
                    )
            self._lock = stack.pop_all()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add(self, trajectory: Trajectory) -> None:
        """Take a finished trajectory. Raises BattleFileError if it cannot be a battle: `check_trajectory`."""
        columns = trajectory.columns()
        check_trajectory(columns, trajectory.outcome, f"battle {trajectory.battle} side {trajectory.side}")
        is_same_battle = self._trajectories and self._trajectories[-1][2] == trajectory.battle
        if self._count >= self.decisions_per_shard and not is_same_battle:
            self.flush()
        start, end = self._count, self._count + len(columns["action"])
        if end > len(self._buffers["action"]):
            for name, buffer in self._buffers.items():
                grown = np.empty((max(end, 2 * len(buffer)), *buffer.shape[1:]), buffer.dtype)
                grown[:start] = buffer[:start]
                self._buffers[name] = grown
        for name, rows in columns.items():
            self._buffers[name][start:end] = rows
        player, opponent = (
            self._player_names.setdefault(name, len(self._player_names))
            for name in (trajectory.player, trajectory.opponent)
        )
        header = (start, end - start, trajectory.battle, trajectory.seed, trajectory.side, player, opponent)
        self._trajectories.append((*header, trajectory.outcome, trajectory.turns, trajectory.team))
        self._count = end

    def drop(self, reason: str) -> None:
        """Count a trajectory or battle that is not written, or not to its end: nothing is lost silently."""
        self._dropped[reason] += 1

    def flush(self) -> None:
        """Write what is waiting as one shard. Raises BattleFileError if the disk refuses it."""
        if not self._trajectories and not self._dropped:
            return
        shard = self.folder / (
            f"{_SHARD_PREFIX}{time.strftime('%Y%m%d-%H%M%S')}_{os.getpid()}_{next(_shard_numbers):05d}"
        )
        partial = self.folder / (_PARTIAL_PREFIX + shard.name)
        arrays = {name: buffer[: self._count] for name, buffer in self._buffers.items()}
        arrays["trajectories"] = np.array(self._trajectories, TRAJECTORY_DTYPE)
        try:
            partial.mkdir()
            meta = {
                "file_version": FILE_VERSION,
                "schema": encoder.SCHEMA,
                "format": self.format,
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "versions": software_versions(),
                "origin": self._origin,
                "trajectories": len(self._trajectories),
                "decisions": self._count,
                "player_names": list(self._player_names),
                "dropped": dict(self._dropped),
                "files": {
                    f"{name}.npy": _write_array(partial, name, array) for name, array in arrays.items()
                },
            }
            _write_bytes(partial / "meta.json", json.dumps(meta, indent=1).encode())
            os.rename(partial, shard)
        except OSError as error:
            self._disk_failed = True
            shutil.rmtree(partial, ignore_errors=True)
            problem = "disk full" if error.errno in DISK_FULL else error.strerror
            raise BattleFileError(
                f"{problem} while writing {len(self._trajectories)} trajectories into {self.folder}: "
                f"the shards written before ({self.num_shards}) are complete; "
                "free some space and collect the rest with --append"
            ) from error
        self.num_shards += 1
        self.num_trajectories += len(self._trajectories)
        self.num_decisions += self._count
        self._trajectories, self._player_names, self._dropped, self._count = [], {}, Counter(), 0

    def close(self) -> None:
        """Write what is waiting and give the folder free. A disk that refused a shard is not tried again."""
        with self._lock:
            if not self._disk_failed:
                self.flush()


@dataclass(frozen=True, slots=True)
class Battles:
    """The trajectories of a folder; the large columns stay on disk until they are touched.

    trajectories: TRAJECTORY_DTYPE with one more field, `shard`, the index into `shards`; `player` and
    `opponent` index `player_names` of the whole folder. shards: per shard the arrays of COLUMNS. meta: per
    shard what its meta.json says. dropped: battles not written, by reason.
    """

    folder: Path
    format: str
    trajectories: np.ndarray
    shards: list[dict[str, np.ndarray]]
    player_names: list[str]
    dropped: Counter[str]
    meta: list[dict]

    @property
    def total_decisions(self) -> int:
        return int(self.trajectories["length"].sum())

    def decisions(self, index: int) -> dict[str, np.ndarray]:
        """Read-only views of the arrays of COLUMNS for trajectory `index`, (length, ...) each."""
        row = self.trajectories[index]
        start, end = row["start"], row["start"] + row["length"]
        return {name: array[start:end] for name, array in self.shards[row["shard"]].items()}

    def check(self, index: int) -> None:
        """Raise BattleFileError if trajectory `index` cannot be a battle."""
        row = self.trajectories[index]
        name = f"{self.meta[row['shard']]['path']}, battle {row['battle']} side {row['side']}"
        check_trajectory(self.decisions(index), int(row["outcome"]), name)

    def held_out(self, fraction: float) -> np.ndarray:
        """(K,) bool: about `fraction` of the battles, always the same ones, both points of view together."""
        return (_scramble(self.trajectories["battle"]) >> np.uint64(11)) * 2.0**-53 < fraction


def count_shards(folder: Path) -> int:
    """How many shards there are to read. Raises BattleFileError for what is no folder of battles."""
    if folder.is_file():
        _refuse_foreign_record(folder)
        raise BattleFileError(f"{folder} is a file, not a folder of battles: {_how_to_collect(folder)}")
    for suffix in ("*.json", "*.json.gz", "*.jsonl", "*.jsonl.gz"):
        for file in sorted(folder.glob(suffix)):
            _refuse_foreign_record(file)
    return len(_shard_folders(folder))


def _how_to_collect(folder: Path) -> str:
    return f"collect battles with `python tools/collect_battles.py --data-dir {folder}`"


def read_folder(path: str | Path, *, verify: bool = False) -> Battles:
    """Open a folder of battles.

    Sizes, headers and everything small are always checked. `verify` also reads every file to compare its
    CRC32 and checks every trajectory. Raises BattleFileError if anything is wrong or no battle is there.
    """
    folder = Path(path)
    if not folder.exists():
        raise BattleFileError(f"there is no folder {folder}: {_how_to_collect(folder)}")
    count_shards(folder)

    shards, metas, headers = [], [], []
    player_numbers: dict[str, int] = {}
    for shard in _shard_folders(folder):
        meta = _read_meta(shard)
        columns, trajectories = _read_shard(shard, meta, verify)
        numbers = [player_numbers.setdefault(name, len(player_numbers)) for name in meta["player_names"]]
        header = np.empty(len(trajectories), [*TRAJECTORY_DTYPE.descr, ("shard", np.int32)])
        for name in TRAJECTORY_DTYPE.names:
            header[name] = trajectories[name]
        if len(trajectories):
            header["player"] = np.take(numbers, trajectories["player"])
            header["opponent"] = np.take(numbers, trajectories["opponent"])
        header["shard"] = len(shards)
        shards.append(columns)
        metas.append(meta | {"path": str(shard)})
        headers.append(header)
    dropped = sum((Counter(meta["dropped"]) for meta in metas), Counter())
    if sum(map(len, headers)) == 0:
        why = f" (dropped: {', '.join(f'{n} {reason}' for reason, n in dropped.items())})" if dropped else ""
        raise BattleFileError(f"{folder} holds no battles{why}: {_how_to_collect(folder)}")
    formats = {meta["format"] for meta in metas}
    if len(formats) > 1:
        raise BattleFileError(
            f"{folder} mixes the formats {', '.join(sorted(formats))}: one folder, one format"
        )
    battles = Battles(
        folder, formats.pop(), np.concatenate(headers), shards, list(player_numbers), dropped, metas
    )
    if verify:
        for index in range(len(battles.trajectories)):
            battles.check(index)
    return battles


def software_versions() -> dict[str, str]:
    """What made the battles: the versions of cleanpoke, pokemon-showdown and poke-env on this machine."""
    versions = {"pokemon-showdown": showdown_version()}
    for package in ("cleanpoke", "poke-env"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _scramble(numbers: np.ndarray) -> np.ndarray:
    """splitmix64 of each number, as uint64: neighbouring battle ids become unrelated."""
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write and push to the disk, so that a full disk shows here and not after the rename."""
    with open(path, "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())


def _write_array(folder: Path, name: str, array: np.ndarray) -> dict[str, int]:
    """Write `name`.npy; return its size in bytes and its CRC32."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    header = buffer.getvalue()
    data = memoryview(array.reshape(-1).view(np.uint8))
    _write_bytes(folder / f"{name}.npy", header, data)
    return {"bytes": len(header) + len(data), "crc32": zlib.crc32(data, zlib.crc32(header))}


def _shard_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(_SHARD_PREFIX + "*") if path.is_dir())


def _corrupt(shard: Path, problem: str) -> BattleFileError:
    return BattleFileError(f"corrupt shard {shard}: {problem}; delete this shard (the others stay usable)")


def _read_meta(shard: Path) -> dict:
    """The parsed meta.json. Raises BattleFileError if it is missing, broken, or of another schema."""
    try:
        meta = json.loads((shard / "meta.json").read_bytes())
        found = (meta["file_version"], meta["schema"])
        for key in ("format", "trajectories", "decisions", "player_names", "dropped", "files"):
            meta[key]
    except FileNotFoundError as error:
        raise _corrupt(shard, "meta.json is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(shard, f"meta.json cannot be read ({error!r})") from error
    if found != (FILE_VERSION, encoder.SCHEMA):
        raise BattleFileError(
            f"{shard} has schema {found[1]} (file version {found[0]}), this program reads schema "
            f"{encoder.SCHEMA} (file version {FILE_VERSION}): collect new battles into another folder"
        )
    return meta


def _read_shard(shard: Path, meta: dict, verify: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns and the trajectories of one shard, checked as far as that is cheap."""
    num_trajectories, num_decisions = meta["trajectories"], meta["decisions"]
    columns = {}
    for name, (dtype, row_shape) in COLUMNS.items():
        array = _read_array(shard, name, meta, verify)
        if array.dtype != dtype or array.shape != (num_decisions, *row_shape):
            raise _corrupt(shard, f"{name}.npy holds {array.dtype} {array.shape}")
        columns[name] = array
    trajectories = _read_array(shard, "trajectories", meta, verify)
    if trajectories.dtype != TRAJECTORY_DTYPE or trajectories.shape != (num_trajectories,):
        raise _corrupt(shard, f"trajectories.npy holds {trajectories.dtype} {trajectories.shape}")
    ends = np.cumsum(trajectories["length"], dtype=np.int64)
    if (trajectories["length"] < 1).any():
        raise _corrupt(shard, "a trajectory of length 0")
    if (trajectories["start"] != ends - trajectories["length"]).any() or ends[-1:].sum() != num_decisions:
        raise _corrupt(shard, "the trajectories do not cover the decisions one after the other")
    for role in ("player", "opponent"):
        if ((trajectories[role] < 0) | (trajectories[role] >= len(meta["player_names"]))).any():
            raise _corrupt(shard, f"a trajectory whose {role} has no name")
    if ((columns["action"] < MISSING_ACTION) | (columns["action"] >= encoder.NUM_ACTIONS)).any():
        raise _corrupt(shard, f"an action out of range -1 … {encoder.NUM_ACTIONS - 1}")
    if not np.isfinite(columns["reward_terms"]).all():
        raise _corrupt(shard, "reward terms that are not finite")
    return columns, trajectories


def _read_array(shard: Path, name: str, meta: dict, verify: bool) -> np.ndarray:
    """One array: mapped if it is large, else read; the size always and the CRC32 of what is read checked."""
    path = shard / f"{name}.npy"
    try:
        expected = meta["files"][path.name]
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise _corrupt(shard, f"{path.name} has {size} bytes instead of {expected['bytes']}")
        is_mapped = name in MAPPED_COLUMNS and meta["decisions"] > 0
        if (verify or not is_mapped) and zlib.crc32(np.fromfile(path, np.uint8)) != expected["crc32"]:
            raise _corrupt(shard, f"{path.name} has changed since it was written (CRC32)")
        array = np.load(path, mmap_mode="r" if is_mapped else None)
        array.flags.writeable = False
        return array.view(np.ndarray)  # slicing the memmap class itself is several times slower
    except FileNotFoundError as error:
        raise _corrupt(shard, f"{path.name} is missing") from error
    except OSError as error:
        hint = "; raise the limit with `ulimit -n 8192`" if error.errno == errno.EMFILE else ""
        raise BattleFileError(f"cannot read {path}: {error.strerror}{hint}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(shard, f"{path.name} cannot be read ({error})") from error


def _refuse_foreign_record(path: Path) -> None:
    """Raise BattleFileError if `path` holds replay records, `{"id": …, "log": …}`: they are no shards.

    One record, a list of records, or one record per line, perhaps gzipped; any other file passes.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            text = file.read(50_000_000)
        try:
            records = json.loads(text)
        except ValueError:
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError):
        return
    records = records if isinstance(records, list) else [records]
    records = [record for record in records if isinstance(record, dict) and "log" in record]
    if not records:
        return
    how_to_collect = "collect battles with `python tools/collect_battles.py`"
    empty = [record for record in records if not record["log"]]
    if empty:
        raise BattleFileError(
            f"{path}: {len(empty)} of {len(records)} records have an empty log (first: id "
            f"{empty[0].get('id')!r}): no battle, nothing to learn from; {how_to_collect}"
        )
    raise BattleFileError(
        f"{path} holds replay logs, not battle files; move it elsewhere and {how_to_collect}"
    )
