"""What all scripts of this world do with an agent: show it small pictures, let it play, record an expert.

env = make_env(rom_path=None, start_state=None, max_steps=1500)
result = evaluate(player, env, episodes=5, should_stop=lambda: False)
"""

import contextlib
import fcntl
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleanpoke.envs import episode_files
from cleanpoke.envs.agent_files import make_agent
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv, is_tiny_town
from cleanpoke.envs.emerald.milestones import NAMES
from cleanpoke.envs.emerald.tiny_town.expert import Expert
from cleanpoke.errors import CleanPokeError
from cleanpoke.run import Checkpoint, Run
from cleanpoke.terminal import Progress, StopSignal
from cleanpoke.watch import Video, labelled

EVALUATION_SEED = 2**31
"""Evaluations begin with other seeds than any demonstration."""
TEST_GAMES = 1000
"""Games from this number on are for the end of a run; evaluations on the way play those before."""
NOISE = 0.05
"""Share of random buttons in demonstrations that a script records itself, and in evaluations: who always
presses the same button before the same screen would stand for ever where that leads nowhere."""
MAX_DEMONSTRATION_STEPS = 1500
COMPARED = ("return", "milestones", "success")
"""What runs keep of evaluations on the way."""


class Player(Protocol):
    """Who plays evaluations. If it has a method `remember(action)`, that is told what was pressed."""

    def begin(self) -> None:
        """A new episode begins."""

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        """The number of the button to press."""


def load_agent(spec: str, rom_path: Path) -> demos.Agent:
    """Who demonstrates: "scripted", which plays Tiny Town, or path/to/file.py:ClassName with a get_action.

    Raises CleanPokeError for a file or class that is not there or has none, and for the script before another
    game.
    """
    if spec == "scripted":
        if not is_tiny_town(rom_path):
            raise CleanPokeError(
                f"the scripted expert cannot play {rom_path.name}: give path/to/file.py:ClassName"
            )
        return Expert()
    return make_agent(spec, others="scripted")


def load_weights(network: nn.Module, checkpoint: Checkpoint, name: str = "network") -> None:
    """Puts a checkpoint's weights into the network of its arguments; CleanPokeError if they do not fit.

    name: of the weights in the checkpoint's state.
    """
    try:
        network.load_state_dict(checkpoint.state[name])
    except (RuntimeError, TypeError) as error:
        raise CleanPokeError(
            f"{checkpoint.path} holds another network than this {checkpoint.script}.py builds: give the "
            "network's options as they were, or train again, or use the version of CleanPoke that wrote it"
        ) from error


def shrink(pictures: np.ndarray, height: int, width: int) -> Tensor:
    """Screens (T, h, w, 1 or 3) uint8 to (T, 3, height, width) uint8: means over areas."""
    tensor = torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, 1)
    if tensor.shape[1] == 1:
        tensor = tensor.expand(-1, 3, -1, -1)
    parts = [
        F.interpolate(part.float(), (height, width), mode="area").round().byte()
        for part in tensor.split(64)  # small parts stay in the cache
    ]
    return torch.cat(parts)


def small_pictures(screens: np.ndarray, height: int, width: int) -> np.ndarray:
    """The same as (T, height, width, 3), as screens lie in memory."""
    return shrink(screens, height, width).movedim(1, -1).contiguous().numpy()


def variants_of(rom_path: Path) -> Any:
    """Tiny Town is played in another variant in each episode, a cartridge has none."""
    return "random" if is_tiny_town(rom_path) else 0


def make_env(rom_path: Path | None, start_state: Path | None, max_steps: int) -> EmeraldEnv:
    """Tiny Town in another variant for each episode, or the user's cartridge."""
    rom_path = rom_path or TINY_TOWN
    return EmeraldEnv(rom_path, start_state=start_state, variant=variants_of(rom_path), max_steps=max_steps)


def play_episode(
    env: EmeraldEnv, player: Player, number: int
) -> Iterator[tuple[np.ndarray, float, dict[str, Any]]]:
    """(screen, reward, info) after each step of the evaluation's game with this number."""
    generator = np.random.default_rng((EVALUATION_SEED, number))
    observation, info = env.reset(seed=EVALUATION_SEED + number)
    player.begin()
    while True:
        action = player.get_action(observation, info)
        if generator.random() < NOISE:
            action = int(generator.integers(len(BUTTONS)))
        if hasattr(player, "remember"):
            player.remember(action)
        observation, reward, terminated, truncated, info = env.step(action)
        yield observation, reward, info
        if terminated or truncated:
            return


def evaluate(
    player: Player,
    env: EmeraldEnv,
    episodes: int,
    should_stop: Callable[[], bool],
    film: Path | None = None,
    first: int = 0,
) -> dict[str, Any]:
    """Plays episodes that no demonstration shows, always the same ones; an interrupted one does not count.

    Returns means, each milestone's share, and the milestones of every episode. first: number of the first
    game; film: where to put a video of it.
    """
    returns, lengths, counts, successes = [], [], [], 0
    reached = dict.fromkeys(NAMES, 0)
    with Video(film) if film else contextlib.nullcontext() as video:
        for number in range(first, first + episodes):
            total, length, info = 0.0, 0, {"milestones": []}
            for screen, reward, info in play_episode(env, player, number):
                total, length = total + reward, length + 1
                if video and number == first:
                    video.add(labelled(screen, [f"step {length}   milestones {len(info['milestones'])}"]))
                if should_stop():
                    break
            if should_stop():
                break
            returns.append(total)
            lengths.append(length)
            counts.append(len(info["milestones"]))
            successes += "STONE_BADGE" in info["milestones"]
            for name in info["milestones"]:
                reached[name] += 1
    played = max(len(returns), 1)
    return {
        "episodes": len(returns),
        "return": float(np.mean(returns)) if returns else math.nan,
        "milestones": float(np.mean(counts)) if counts else math.nan,
        "success": successes / played,
        "length": float(np.mean(lengths)) if lengths else math.nan,
        "milestones_of_each": counts,
    } | {f"reached_{name}": count / played for name, count in reached.items()}


def report(run: Run, step: int, result: dict[str, Any], about: str, kind: str = "eval") -> None:
    """Prints an evaluation, and shows it in TensorBoard; kind: eval on the way, test at the end."""
    scalars = {f"{kind}/{name}": value for name, value in result.items() if not isinstance(value, list)}
    run.log(max(step - 1, 0), scalars)
    run.progress.print(
        f"{about}: {result['milestones']:.1f} of {len(NAMES)} milestones, {result['success']:.0%} to the "
        f"end, return {result['return']:.2f}"
    )


# ---------------------------------------------------------------- demonstrations


def ensure_demonstrations(
    folder: Path,
    rom_path: Path | None,
    start_state: Path | None,
    episodes: int,
    seed: int,
    resume: Path | None,
) -> None:
    """Records demonstrations of Tiny Town if the folder has none, before a script opens its own console: some
    emulators run one in a process.

    Raises CleanPokeError for all that the script itself would refuse only afterwards, and as
    `record_demonstrations` does. resume: the run that goes on, if there is one, which had its own.
    """
    if any(folder.glob("*.npz")):
        return
    if resume is not None:
        raise CleanPokeError(
            f"{folder} holds no demonstrations (*.npz): give the --data that {resume} has learned from"
        )
    make_env(rom_path, start_state, 1).close()
    record_demonstrations(folder, rom_path, episodes, seed)


def find_demonstrations(folder: Path, env: EmeraldEnv) -> list[Path]:
    """The demonstrations of a folder, by name; CleanPokeError if there are none, or those of another game."""
    paths = episode_files.episodes_in(folder)
    sha1 = episode_files.read_meta(paths[0]).get("rom_sha1", env.core.sha1)
    if sha1 != env.core.sha1:
        raise CleanPokeError(
            f"{paths[0]} was recorded with rom_sha1 {str(sha1)[:10]}…, {env.core.rom.name} is "
            f"{env.core.sha1[:10]}…: give --data, a folder of demonstrations of this game"
        )
    return paths


def record_demonstrations(
    folder: Path, rom_path: Path | None, episodes: int, seed: int, max_steps: int = MAX_DEMONSTRATION_STEPS
) -> None:
    """The scripted expert plays Tiny Town with a little noise, to have something to learn from.

    The folder gets its name when all are there; an interrupted recording goes on where it stopped. Raises
    CleanPokeError, before anything is played, for another cartridge, which no script can play, for a folder
    that holds other files or cannot be made, and while another process records into it.
    """
    rom_path, target = rom_path or TINY_TOWN, folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise CleanPokeError(f"{folder} is a file: give a folder of demonstrations as --data")
    if folder.is_dir() and any(folder.iterdir()):
        raise CleanPokeError(f"{folder} holds files, but no demonstrations (*.npz): give another --data")
    if not is_tiny_town(rom_path):
        raise CleanPokeError(
            f"{folder} holds no demonstrations of {rom_path.name}, and the scripted expert plays Tiny Town "
            "only: record some with tools/collect_human_demos.py, or with tools/collect_expert_data.py "
            "--agent path/to/file.py:ClassName, and give their folder as --data"
        )
    if target == Path.cwd():
        raise CleanPokeError("the working folder cannot hold new demonstrations: give another --data")
    with recording_folder(target) as hidden, StopSignal() as stop:
        if any(target.glob("*.npz")):  # another process has just recorded them
            shutil.rmtree(hidden, ignore_errors=True)
            return
        print(f"no demonstrations in {folder}: the scripted expert records {episodes} first")
        with contextlib.closing(make_env(rom_path, None, max_steps)) as env:
            expert, line = Expert(), Progress(unit="episode")
            meta = {**demos.settings_of(env), "max_steps": max_steps, "noise": NOISE, "player": "scripted"}
            paths = [hidden / f"episode_{number:05}.npz" for number in range(episodes)]
            wanted = {path: {**meta, "seed": [seed, number]} for number, path in enumerate(paths)}
            drop_others(hidden, wanted)
            for number, path in enumerate(paths):
                if not path.exists():
                    recorder = demos.record_episode(env, expert, (seed, number), NOISE, player="scripted")
                    recorder.save(path)
                    line.update(number + 1, episodes, {"milestones": recorder.infos[-1]["milestones"]})
                if stop:
                    line.end()
                    raise KeyboardInterrupt
            line.end()
        hidden.replace(target)


@contextlib.contextmanager
def recording_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, for this process alone, that can take its place: `target` is not there then.

    Raises CleanPokeError if the disk refuses it, and if another process has it.
    """
    hidden = target.with_name(f".{target.name}.recording")
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        descriptor = os.open(hidden, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CleanPokeError(
            f"cannot record into {target} ({error.strerror}): give another --data"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes with the process
        except BlockingIOError as error:
            raise CleanPokeError(
                f"another process is recording demonstrations into {target}: start this when it has done so"
            ) from error
        yield hidden
    finally:
        os.close(descriptor)


def drop_others(folder: Path, wanted: dict[Path, dict[str, Any]]) -> None:
    """Deletes what an interrupted recording has left, but for episodes whose meta is what is wanted."""
    for path in folder.iterdir():
        about = wanted.get(path.with_suffix(".npz"))
        is_log = path.suffix == ".demo"
        meta = {} if about is None or is_log else episode_files.read_meta(path)
        if about is None or not is_log and any(meta.get(name) != about[name] for name in about):
            path.unlink()
