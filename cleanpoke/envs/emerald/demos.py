"""Demonstrations on disk: one episode, one `.npz` file; beside it the log from which it can be played again.

Keys of the file: observations (T, h, w, c) uint8, actions (T,) int32 (the buttons that were pressed), rewards
(T,) float32, dones (T,) bool, infos (JSON text: a list of T dictionaries), episode_return, episode_length.
Where they are known also: terminations, truncations (T,) bool, final_observation (h, w, c), expert_actions
(T,) int32 (what the expert would have pressed, noise or not), ram (T,) uint32 (CRC32 of the console's memory
after each step), meta (JSON text). No pickle anywhere.

The log, `<name>.demo`, holds the state of the console at the start, the buttons, and checksums of the memory,
every 64 steps and at the end. It holds no pictures; of the real game its state is not yours to give away.
A log without its `.npz` is what an interrupted recording leaves: `replay` gives the rest back.
"""

import copy
import json
import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.env import NOOP, EmeraldEnv
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.envs.episode_files import check_settings, json_of, read_npz, write_npz
from cleanpoke.errors import CleanPokeError

FORMAT = 1
CHECKSUM_EVERY = 64
REQUIRED = ("observations", "actions", "rewards", "dones", "infos", "episode_return", "episode_length")
NUM_ACTIONS = len(BUTTONS) + 1  # with NOOP
SETTINGS = ("rom_sha1", "press_frames", "release_frames", "resolution", "grayscale", "buttons")
"""Entries of `meta` that all episodes of a folder must share: the keys of `settings_of`."""


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
    ram: np.ndarray | None = None

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
    """Collects an episode of an environment while it is played, and its log. Steps can be taken back."""

    def __init__(self, env: EmeraldEnv, observation: np.ndarray, info: dict[str, Any], **meta: Any):
        """To be made right after `reset`; meta: what else to remember (who played, seed, …)."""
        self.env = env
        self.start = env.start
        rules = {"variant": info["variant"], "max_steps": env.max_steps, "step_cost": env.step_cost}
        origin = {
            # Of the memory: a state also holds the time at which it was saved.
            "start_checksum": memory_checksum(env),
            # Without them a place that was visited before the start would pay once more in a replay.
            "start_milestones": list(env.start.milestones),
        }
        self.meta = {"format": FORMAT, **settings_of(env), **env.core.versions(), **rules, **origin, **meta}
        self.observations = [observation]
        self.actions: list[int] = []
        self.expert_actions: list[int] = []
        self.rewards: list[float] = []
        self.ends: list[tuple[bool, bool]] = []
        self.infos: list[dict[str, Any]] = []
        self.ram: list[int] = []
        self.segments: list[tuple[int, int | None]] = []
        """Marked stretches: (first step, step after the last one), None while one is open."""

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
        self.ram.append(memory_checksum(self.env))

    def truncate(self, length: int) -> None:
        """Forgets all steps but the first `length`; the environment is put back there by `restore`."""
        for steps in (self.actions, self.expert_actions, self.rewards, self.ends, self.infos, self.ram):
            del steps[length:]
        del self.observations[length + 1 :]
        kept = []
        for first, end in self.segments:
            if end is None and first <= length:
                kept.append((first, None))
            elif end is not None and first < length:
                kept.append((first, min(end, length)))
        self.segments = kept

    def copy(self) -> "Recorder":
        """A record of the same steps that goes its own way from here."""
        other = copy.copy(self)
        other.meta = dict(self.meta)
        for name, value in vars(self).items():
            if isinstance(value, list):
                setattr(other, name, list(value))
        return other

    def mark(self) -> bool:
        """Begins a segment with the next step, or ends the open one; tells whether one is open now."""
        if self.segments and self.segments[-1][1] is None:
            first, _ = self.segments.pop()
            if first < len(self.actions):
                self.segments.append((first, len(self.actions)))
            return False
        self.segments.append((len(self.actions), None))
        return True

    def full_meta(self) -> dict[str, Any]:
        """`meta` with the segments; one that is open ends with the last step."""
        length = len(self.actions)
        segments = [[first, length if end is None else end] for first, end in self.segments]
        segments = [[first, end] for first, end in segments if first < end]
        return {**self.meta, "segments": segments} if segments else dict(self.meta)

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
            self.full_meta(),
            np.array(self.ram, np.uint32),
        )

    def save(self, path: Path) -> None:
        """Writes the log and the episode, each complete or not at all."""
        self.save_log(path)
        save_episode(path, self.episode())

    def save_log(self, path: Path) -> None:
        """Writes `path` with the ending .demo, in milliseconds."""
        checksums = self.ram[CHECKSUM_EVERY - 1 :: CHECKSUM_EVERY]
        if len(self.ram) % CHECKSUM_EVERY:
            checksums.append(self.ram[-1])
        log = {
            "start_state": np.frombuffer(zlib.compress(self.start.content, 1), np.uint8),
            "actions": np.array(self.actions, np.int32),
            "expert_actions": np.array(self.expert_actions, np.int32),
            "checksums": np.array(checksums, np.int64),
            "meta": np.array(json.dumps(self.full_meta())),
        }
        write_npz(path.with_suffix(".demo"), log)


class Agent(Protocol):
    """Whoever can be recorded. If it has a method `begin()`, that is called before each episode, and
    `remember(action)`, if it has that, after each choice: with what is pressed, noise or not."""

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        """The number of the button to press."""


def button_of(agent: Agent, observation: np.ndarray, info: dict[str, Any], num_buttons: int) -> int:
    """What an agent would press. Raises CleanPokeError if that is no number of a button."""
    answer = agent.get_action(observation, info)
    try:
        number = operator.index(answer)
    except TypeError:
        number = -1
    if not 0 <= number < num_buttons:
        raise CleanPokeError(
            f"the agent's get_action answered {answer!r:.60}: it must be the number of a button, "
            f"0 … {num_buttons - 1}"
        )
    return number


def record_episode(
    env: EmeraldEnv,
    agent: Agent,
    seed: tuple[int, ...],
    noise: float,
    on_step: Callable[[Recorder], None] = lambda recorder: None,
    **meta: Any,
) -> Recorder:
    """Plays one episode; `noise` is the probability of a random button instead of the agent's.

    seed: decides the variant and the noise; on_step: called before each step with what has been recorded.
    Raises CleanPokeError if the agent names a button that is none.
    """
    generator = np.random.default_rng(seed)
    observation, info = env.reset(seed=int(generator.integers(2**31)))
    if hasattr(agent, "begin"):
        agent.begin()
    recorder = Recorder(env, observation, info, seed=list(seed), noise=noise, **meta)
    is_over = False
    while not is_over:
        on_step(recorder)
        wanted = button_of(agent, observation, info, len(env.buttons))
        is_noise = generator.random() < noise
        action = int(generator.integers(len(env.buttons))) if is_noise else wanted
        if hasattr(agent, "remember"):
            agent.remember(action)
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
    """Writes one episode, complete or not at all. Raises CleanPokeError if the disk refuses it."""
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
    for name in ("final_observation", "expert_actions", "ram"):
        if getattr(episode, name) is not None:
            columns[name] = getattr(episode, name)
    write_npz(path, columns)


# ---------------------------------------------------------------- reading


def load_episode(path: str | Path) -> Episode:
    """Reads and checks one episode. Raises CleanPokeError, with file, field and fix, for a bad one."""
    path = Path(path)
    columns = read_npz(path)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise CleanPokeError(f"{path} lacks {', '.join(missing)}: record it again, or add the arrays")
    actions, observations = columns["actions"], columns["observations"]
    length = len(actions) if actions.ndim == 1 else -1
    infos, meta = json_of(path, columns, "infos", []), json_of(path, columns, "meta", {})

    def refuse(name: str, problem: str, fix: str = "record it again") -> None:
        raise CleanPokeError(f"{path}: {name} {problem}; {fix}")

    if length < 1:
        refuse("actions", f"has shape {actions.shape}, not (T,) with T at least 1")
    if observations.dtype != np.uint8:
        refuse("observations", f"holds {observations.dtype}", "store the pictures as uint8, 0 to 255")
    if observations.ndim != 4 or observations.shape[3] not in (1, 3) or 0 in observations.shape:
        refuse("observations", f"has shape {observations.shape}, not (T, h, w, 3) or (T, h, w, 1)")
    final = columns.get("final_observation")
    if final is not None and (final.dtype != np.uint8 or final.shape != observations.shape[1:]):
        refuse("final_observation", f"is {final.dtype} {final.shape}, not uint8 {observations.shape[1:]}")
    per_step = ("rewards", "dones", "terminations", "truncations", "expert_actions", "ram")
    for name in per_step:
        if name in columns and (columns[name].ndim != 1 or columns[name].dtype.kind not in "buif"):
            refuse(name, f"is {columns[name].dtype} {columns[name].shape}, not ({length},) numbers")
    for name in ("observations", *per_step):
        if name in columns and len(columns[name]) != length:
            refuse(name, f"has {len(columns[name])} rows, actions {length}")
    if not isinstance(meta, dict):
        refuse("meta", "is no dictionary")
    check_meta(refuse, meta, observations)
    num_actions = len(meta.get("buttons", range(NUM_ACTIONS)))
    for name in ("actions", "expert_actions"):
        values = columns.get(name)
        if values is None:
            continue
        if not np.issubdtype(values.dtype, np.integer):
            refuse(name, f"holds {values.dtype}", "store the numbers of the buttons as integers")
        if values.min() < 0 or values.max() >= num_actions:
            refuse(name, f"holds {values.min()} … {values.max()}, not 0 … {num_actions - 1}")
    if not np.isfinite(columns["rewards"]).all():
        refuse("rewards", "has values that are not finite")
    is_list = isinstance(infos, list) and all(isinstance(info, dict) for info in infos)
    if not is_list or len(infos) not in (0, length):
        refuse("infos", f"is no list of {length} dictionaries")
    if not all(is_list_of(str, info.get("new_milestones", [])) for info in infos):
        refuse("infos", "has new_milestones that are no list of names")
    if columns["episode_length"].size != 1 or columns["episode_length"].item() != length:
        refuse("episode_length", f"is {columns['episode_length']}, actions has {length} rows")
    total, stored = float(columns["rewards"].sum(dtype=np.float64)), columns["episode_return"]
    is_number = stored.size == 1 and stored.dtype.kind in "iuf"
    if not is_number or not np.isclose(stored.item(), total, rtol=1e-3, atol=1e-3):
        refuse("episode_return", f"is {stored}, the rewards add up to {total:g}", "store their sum")
    for name in ("dones", "terminations", "truncations"):
        ends = columns.get(name, np.zeros(0)).astype(bool)
        if ends[:-1].any():
            refuse(name, f"ends at step {int(ends.argmax())} of {length}", "store one episode in one file")
    dones = columns["dones"].astype(bool)
    terminations = columns.get("terminations", dones).astype(bool)
    truncations = columns.get("truncations", dones & ~terminations).astype(bool)
    return Episode(
        observations,
        actions.astype(np.int32),
        columns["rewards"].astype(np.float32),
        terminations,
        truncations,
        infos,
        final,
        columns.get("expert_actions"),
        meta,
        columns.get("ram"),
    )


def is_list_of(kind: type, value: Any, length: int | None = None) -> bool:
    """Whether a value of JSON is a list of so many things of a kind."""
    is_list = isinstance(value, list) and all(isinstance(one, kind) for one in value)
    return is_list and length in (None, len(value))


def check_meta(refuse: Callable[[str, str], None], meta: dict[str, Any], observations: np.ndarray) -> None:
    """Refuses what contradicts the pictures, and what is none of what its readers expect, in `meta`."""
    height, width, channels = observations.shape[1:]
    if meta.get("resolution", [height, width]) != [height, width]:
        refuse("observations", f"are {height} x {width}, meta names the resolution {meta['resolution']}")
    if meta.get("grayscale", channels == 1) != (channels == 1):
        refuse("observations", f"have {channels} channels, meta names grayscale {meta['grayscale']}")
    if not is_list_of(str, meta.get("buttons", [""])) or len(meta.get("buttons", "")) > NUM_ACTIONS:
        refuse("meta", "names buttons that are no list of names")
    segments = meta.get("segments", [])
    if not is_list_of(list, segments) or not all(is_list_of(int, pair, 2) for pair in segments):
        refuse("meta", "names segments that are no list of pairs of steps")


def load_matching(path: Path, settings: dict[str, Any]) -> Episode:
    """Reads one episode that was recorded with these settings (`settings_of`) and no other buttons.

    Raises CleanPokeError for any other, and for a bad file.
    """
    episode = load_episode(path)
    check_settings(path, episode.meta, settings)
    if max(episode.actions.max(), episode.labels.max()) >= len(settings["buttons"]):
        raise CleanPokeError(f"{path} holds NOOP as a button, which is not to be learned here: leave it out")
    return episode


# ---------------------------------------------------------------- playing again


@dataclass(slots=True)
class Log:
    """What an episode is played again from."""

    path: Path
    start: SaveState
    actions: list[int]
    expert_actions: list[int]
    checksums: list[int]
    """Of the memory after each 64th step and after the last."""
    meta: dict[str, Any]


def load_log(path: Path) -> Log:
    """Reads a `.demo` file. Raises CleanPokeError if it is none, or damaged."""
    columns = read_npz(path)
    if missing := {"start_state", "actions", "expert_actions", "checksums", "meta"} - set(columns):
        raise CleanPokeError(f"{path} lacks {', '.join(sorted(missing))}: it is no log of an episode")
    meta = json_of(path, columns, "meta", {})
    if missing := {*SETTINGS, "max_steps", "step_cost"} - set(meta):
        raise CleanPokeError(f"{path}: meta lacks {', '.join(sorted(missing))}; record it again")
    try:
        content = zlib.decompress(columns["start_state"].tobytes())
    except zlib.error as error:
        raise CleanPokeError(f"{path}: start_state is damaged; record it again") from error
    start = SaveState(meta["rom_sha1"], content, tuple(meta.get("start_milestones", ())))
    actions, expert_actions = columns["actions"].tolist(), columns["expert_actions"].tolist()
    checksums = columns["checksums"].tolist()
    length = len(actions)
    if not length or len(expert_actions) != length or len(checksums) != -(-length // CHECKSUM_EVERY):
        raise CleanPokeError(
            f"{path}: {length} actions, {len(expert_actions)} expert_actions and {len(checksums)} "
            "checksums do not go together; record it again"
        )
    if not all(0 <= action < len(meta["buttons"]) for action in actions):
        raise CleanPokeError(
            f"{path}: actions holds more than 0 … {len(meta['buttons']) - 1}; record it again"
        )
    return Log(path, start, actions, expert_actions, checksums, meta)


def env_of(log: Log, rom_path: str | Path) -> EmeraldEnv:
    """An environment with the settings of a log."""
    meta = log.meta
    height, width = meta["resolution"]
    return EmeraldEnv(
        rom_path,
        press_frames=meta["press_frames"],
        release_frames=meta["release_frames"],
        resolution=(height, width),
        grayscale=meta["grayscale"],
        with_noop=NOOP in meta["buttons"],
        max_steps=meta["max_steps"],
        step_cost=meta["step_cost"],
    )


def emulator_of(meta: dict[str, Any]) -> str:
    """What ran a game, for people."""
    if "core_version" not in meta:
        return "an emulator that is not named"
    return f"{meta['core_version']} ({meta.get('wrapper_version')})"


def replay(path: Path, env: EmeraldEnv) -> Episode:
    """The episode that a log is of; as `play_again`."""
    return play_again(load_log(path), env).episode()


def play_again(log: Log, env: EmeraldEnv, on_step: Callable[[int], None] = lambda step: None) -> Recorder:
    """Plays a log and checks its checksums. Then `env` stands at the end, and the recorder can go on.

    env: with the same cartridge and settings; on_step: called with the number of steps taken, from 0 on.
    Raises CleanPokeError where the memory is not what it was.
    """
    if log.meta["rom_sha1"] != env.core.sha1:
        raise CleanPokeError(
            f"{log.path} was recorded with rom_sha1 {log.meta['rom_sha1'][:10]}…, {env.core.rom.name} is "
            f"{env.core.sha1[:10]}…: give that cartridge as --rom-path"
        )
    check_settings(log.path, log.meta, settings_of(env))
    env.max_steps, env.step_cost = log.meta["max_steps"], log.meta["step_cost"]
    emulators = f"recorded on {emulator_of(log.meta)}, played on {emulator_of(env.core.versions())}"
    try:
        observation, info = env.reset(options={"state": log.start})
    except CleanPokeError as error:
        raise CleanPokeError(f"{log.path}: its start cannot be loaded ({emulators}): {error}") from error
    recorder = Recorder(env, observation, info)
    recorder.meta = dict(log.meta)
    recorder.segments = [(first, end) for first, end in recorder.meta.pop("segments", [])]
    expected = iter(log.checksums)
    on_step(0)
    pairs = zip(log.actions, log.expert_actions, strict=True)
    for step, (action, expert_action) in enumerate(pairs, start=1):
        recorder.add(action, expert_action, env.step(action))
        is_checked = step % CHECKSUM_EVERY == 0 or step == len(log.actions)
        if is_checked and memory_checksum(env) != next(expected):
            raise CleanPokeError(
                f"{log.path}: at step {step} the memory is not what it was ({emulators}): play it on the "
                "emulator it was recorded on; if that is this one, the log is damaged"
            )
        on_step(step)
    return recorder


def milestone_states(log: Log, env: EmeraldEnv) -> dict[str, list[SaveState]]:
    """The states just after each milestone of a log, but for one that ended it; as `play_again`."""
    states: dict[str, list[SaveState]] = {}

    def remember(step: int) -> None:
        for name in env.progress.reached if 0 < step < len(log.actions) else ():
            if name not in log.start.milestones and name not in states:
                states[name] = [env.save_state()]

    play_again(log, env, remember)
    return states
