"""Demonstrations on disk: one episode, one `.npz` file; beside it the log from which it can be played again.

Keys of the file: observations (T, h, w, c) uint8, actions (T,) int32 (the buttons that were pressed), rewards
(T,) float32, dones (T,) bool, infos (JSON text: a list of T dictionaries), episode_return, episode_length.
Where they are known also: terminations, truncations (T,) bool, final_observation (h, w, c), expert_actions
(T,) int32 (what the expert would have pressed, noise or not), meta (JSON text). No pickle anywhere.

The log, `<name>.demo`, holds the state of the console at the start, the buttons, and checksums of the memory,
every 64 steps and at the end. It holds no pictures; of the real game its state is not yours to give away.
"""

import contextlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.env import EmeraldEnv
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.errors import DISK_FULL, CleanPokeError
from cleanpoke.run import atomic_file

FORMAT = 1
CHECKSUM_EVERY = 64
REQUIRED = ("observations", "actions", "rewards", "dones", "infos", "episode_return", "episode_length")
NUM_ACTIONS = len(BUTTONS) + 1  # with NOOP
SETTINGS = ("rom_sha1", "press_frames", "release_frames", "resolution", "grayscale", "buttons")
"""Entries of `meta` that all episodes of a folder must share."""


class DemoError(CleanPokeError):
    """A file of demonstrations that cannot be used; the message names the file, the field and the fix."""


@dataclass(slots=True)
class Episode:
    """One episode; T steps."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: list[dict[str, Any]]
    final_observation: np.ndarray | None = None
    expert_actions: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def labels(self) -> np.ndarray:
        """What to imitate (T,): the expert's buttons where they are known, else those that were pressed."""
        return self.actions if self.expert_actions is None else self.expert_actions


def settings_of(env: EmeraldEnv) -> dict[str, Any]:
    """What decides whether demonstrations go together."""
    height, width, channels = env.observation_space.shape
    return {
        "rom_sha1": env.core.sha1,
        "press_frames": env.press_frames,
        "release_frames": env.release_frames,
        "resolution": [height, width],
        "grayscale": channels == 1,
        "buttons": list(env.buttons),
    }


# ---------------------------------------------------------------- writing


class Recorder:
    """Collects an episode of an environment while it is played, and its log."""

    def __init__(self, env: EmeraldEnv, observation: np.ndarray, info: dict[str, Any], **meta: Any):
        """To be made right after `reset`; meta: what else to remember (who played, seed, …)."""
        self.env = env
        self.start = env.start
        rules = {"variant": info["variant"], "max_steps": env.max_steps, "step_cost": env.step_cost}
        self.meta = {"format": FORMAT, **settings_of(env), **rules, **meta}
        self.observations = [observation]
        self.actions: list[int] = []
        self.expert_actions: list[int] = []
        self.rewards: list[float] = []
        self.ends: list[tuple[bool, bool]] = []
        self.infos: list[dict[str, Any]] = []
        self.checksums: list[int] = []

    def add(
        self,
        action: int,
        expert_action: int,
        step: tuple[np.ndarray, float, bool, bool, dict[str, Any]],
    ) -> None:
        """One step: the button pressed, the expert's choice, and what `env.step` returned."""
        observation, reward, terminated, truncated, info = step
        self.actions.append(action)
        self.expert_actions.append(expert_action)
        self.rewards.append(reward)
        self.ends.append((terminated, truncated))
        self.infos.append(plain_info(info))
        self.observations.append(observation)
        if len(self.actions) % CHECKSUM_EVERY == 0 or terminated or truncated:
            self.checksums.append(memory_checksum(self.env))

    def episode(self) -> Episode:
        """What has been recorded so far; an episode that goes on counts as truncated at its last step."""
        ends = np.array(self.ends, bool).reshape(-1, 2)
        if len(ends) and not ends[-1].any():
            ends[-1, 1] = True
        return Episode(
            np.array(self.observations[:-1], np.uint8),
            np.array(self.actions, np.int32),
            np.array(self.rewards, np.float32),
            ends[:, 0],
            ends[:, 1],
            self.infos,
            self.observations[-1],
            np.array(self.expert_actions, np.int32),
            self.meta,
        )

    def save(self, path: Path) -> None:
        """Writes the episode and its log, each complete or not at all."""
        save_episode(path, self.episode())
        log = {
            "start_state": np.frombuffer(zlib.compress(self.start.content, 1), np.uint8),
            "actions": np.array(self.actions, np.int32),
            "expert_actions": np.array(self.expert_actions, np.int32),
            "checksums": np.array(self.checksums, np.int64),
            "meta": np.array(json.dumps(self.meta)),
        }
        write_npz(path.with_suffix(".demo"), log)


class Agent(Protocol):
    """Whoever can be recorded."""

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        """The number of the button to press."""


def record_episode(
    env: EmeraldEnv,
    agent: Agent,
    seed: tuple[int, ...],
    noise: float,
    on_step: Callable[[], None] = lambda: None,
    **meta: Any,
) -> Recorder:
    """Plays one episode; `noise` is the probability of a random button instead of the agent's.

    seed: decides the variant and the noise; on_step: called before each step. Raises CleanPokeError if the
    agent names a button that is none.
    """
    generator = np.random.default_rng(seed)
    observation, info = env.reset(seed=int(generator.integers(2**31)))
    recorder = Recorder(env, observation, info, seed=list(seed), noise=noise, **meta)
    is_over = False
    while not is_over:
        wanted = int(agent.get_action(observation, info))
        if not 0 <= wanted < len(env.buttons):
            raise CleanPokeError(f"the agent chose action {wanted}: it must be 0 … {len(env.buttons) - 1}")
        is_noise = generator.random() < noise
        action = int(generator.integers(len(env.buttons))) if is_noise else wanted
        step = env.step(action)
        recorder.add(action, wanted, step)
        observation, _, terminated, truncated, info = step
        is_over = terminated or truncated
    return recorder


def plain_info(info: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold of an info, and a reader wants to know."""
    state = info["state"]
    plain = {"new_milestones": info["new_milestones"], "milestones": len(info["milestones"])}
    if state is not None:
        plain |= {"map": list(state.map), "x": state.x, "y": state.y, "badges": state.badges}
        plain |= {"in_battle": state.in_battle, "text": state.text, "party": len(state.party)}
    return plain


def memory_checksum(env: EmeraldEnv) -> int:
    """CRC32 of the console's working memory."""
    return zlib.crc32(env.core.iwram, zlib.crc32(env.core.ewram))


def save_episode(path: Path, episode: Episode) -> None:
    """Writes one episode under `path`, complete or not at all. Raises DemoError if the disk refuses it."""
    columns: dict[str, np.ndarray] = {
        "observations": episode.observations,
        "actions": episode.actions.astype(np.int32),
        "rewards": episode.rewards.astype(np.float32),
        "dones": episode.terminations | episode.truncations,
        "infos": np.array(json.dumps(episode.infos)),
        "episode_return": np.array(float(episode.rewards.sum())),
        "episode_length": np.array(len(episode)),
        "terminations": episode.terminations,
        "truncations": episode.truncations,
        "meta": np.array(json.dumps(episode.meta)),
    }
    for name in ("final_observation", "expert_actions"):
        if getattr(episode, name) is not None:
            columns[name] = getattr(episode, name)
    write_npz(path, columns)


def write_npz(path: Path, columns: dict[str, np.ndarray]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez_compressed(file, **columns)
    except OSError as error:
        problem = "the disk is full" if error.errno in DISK_FULL else error.strerror
        raise DemoError(f"cannot write {path}: {problem}; nothing else was lost") from error


# ---------------------------------------------------------------- reading


def load_episode(path: str | Path) -> Episode:
    """Reads and checks one episode. Raises DemoError, with the file, the field and the fix, for a bad one."""
    path = Path(path)
    columns = read_npz(path)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise DemoError(f"{path} lacks {', '.join(missing)}: record it again, or add the arrays")
    actions, observations = columns["actions"], columns["observations"]
    length = len(actions) if actions.ndim == 1 else -1

    def refuse(name: str, problem: str, fix: str = "record it again") -> None:
        raise DemoError(f"{path}: {name} {problem}; {fix}")

    if length < 1:
        refuse("actions", f"has shape {actions.shape}, not (T,) with T at least 1")
    if observations.dtype != np.uint8:
        refuse("observations", f"holds {observations.dtype}", "store the pictures as uint8, 0 to 255")
    if observations.ndim != 4 or observations.shape[3] not in (1, 3):
        refuse("observations", f"has shape {observations.shape}, not (T, h, w, 3) or (T, h, w, 1)")
    if not np.issubdtype(actions.dtype, np.integer):
        refuse("actions", f"holds {actions.dtype}", "store the numbers of the buttons as integers")
    for name in ("actions", "expert_actions"):
        values = columns.get(name)
        if values is not None and (values.min() < 0 or values.max() >= NUM_ACTIONS):
            refuse(name, f"holds {values.min()} … {values.max()}, not 0 … {NUM_ACTIONS - 1}")
    for name in ("observations", "rewards", "dones", "terminations", "truncations", "expert_actions"):
        if name in columns and len(columns[name]) != length:
            refuse(name, f"has {len(columns[name])} rows, actions {length}")
    if not np.isfinite(columns["rewards"]).all():
        refuse("rewards", "has values that are not finite")
    dones = columns["dones"].astype(bool)
    if dones[:-1].any():
        refuse("dones", f"ends at step {int(dones.argmax())} of {length}", "store one episode in one file")
    terminations = columns.get("terminations", dones).astype(bool)
    truncations = columns.get("truncations", dones & ~terminations).astype(bool)
    return Episode(
        observations,
        actions.astype(np.int32),
        columns["rewards"].astype(np.float32),
        terminations,
        truncations,
        _json_of(path, columns, "infos", []),
        columns.get("final_observation"),
        columns.get("expert_actions"),
        _json_of(path, columns, "meta", {}),
    )


def read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {}
            for name in file.files:
                # Lists of dictionaries of other programs are pickled: not needed, and not to be trusted.
                with contextlib.suppress(ValueError):
                    columns[name] = file[name]
                if name not in columns and name == "infos":
                    columns[name] = np.array("[]")
            return columns
    except OSError as error:
        raise DemoError(f"cannot read {path} ({error.strerror or error}): check the path") from error
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DemoError(f"{path} is damaged or no demonstration: delete it, or record it again") from error


def _json_of(path: Path, columns: dict[str, np.ndarray], name: str, default: Any) -> Any:
    if name not in columns or columns[name].dtype.kind != "U":
        return default
    try:
        return json.loads(str(columns[name]))
    except ValueError as error:
        raise DemoError(f"{path}: {name} is no JSON; record it again") from error


def episodes_in(folder: str | Path) -> list[Path]:
    """The demonstrations of a folder, by name. Raises DemoError if there are none."""
    folder = Path(folder)
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        raise DemoError(
            f"{folder} holds no demonstrations (*.npz): record some with tools/collect_expert_data.py "
            f"--output {folder}"
        )
    return files


def check_settings(path: Path, meta: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises DemoError if an episode was recorded with another cartridge or other settings."""
    for name in SETTINGS:
        if name in meta and name in settings and meta[name] != settings[name]:
            raise DemoError(
                f"{path} was recorded with {name} {meta[name]}, not {settings[name]}: keep such episodes in "
                "another folder"
            )


def load_matching(path: Path, settings: dict[str, Any]) -> Episode:
    """Reads one episode that was recorded with these settings (`settings_of`) and no other buttons.

    Raises DemoError for any other, and for a bad file.
    """
    episode = load_episode(path)
    check_settings(path, episode.meta, settings)
    if max(episode.actions.max(), episode.labels.max()) >= len(settings["buttons"]):
        raise DemoError(f"{path} holds NOOP as a button, which is not to be learned here: leave it out")
    return episode


# ---------------------------------------------------------------- playing again


def replay(path: Path, env: EmeraldEnv) -> Episode:
    """Plays a log again, checks its checksums, and returns the episode it is of.

    env: with the same cartridge and settings. Raises DemoError where the memory is not what it was.
    """
    columns = read_npz(path)
    if missing := {"start_state", "actions", "expert_actions", "checksums", "meta"} - set(columns):
        raise DemoError(f"{path} lacks {', '.join(sorted(missing))}: it is no log of an episode")
    meta = _json_of(path, columns, "meta", {})
    check_settings(path, meta, settings_of(env))
    state = SaveState(meta["rom_sha1"], zlib.decompress(columns["start_state"].tobytes()))
    env.max_steps, env.step_cost = meta["max_steps"], meta["step_cost"]
    observation, info = env.reset(options={"state": state})
    recorder = Recorder(env, observation, info)
    recorder.meta = meta
    expected = columns["checksums"].tolist()
    pairs = zip(columns["actions"].tolist(), columns["expert_actions"].tolist(), strict=True)
    for step, (action, expert_action) in enumerate(pairs, start=1):
        recorder.add(action, expert_action, env.step(action))
        if recorder.checksums != expected[: len(recorder.checksums)]:
            raise DemoError(
                f"{path}: at step {step} the memory is not what it was: another version of the "
                "emulator, or a damaged log"
            )
    return recorder.episode()
