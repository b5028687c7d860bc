"""Records demonstrations of Tiny Town or Emerald: one file for each episode, in parallel processes.

    python tools/collect_expert_data.py --episodes 50                # the scripted expert, with noise
    python tools/collect_expert_data.py --agent runs/<folder> --output expert_data/cloned
    python tools/collect_expert_data.py --agent mine.py:Mine --rom-path emerald.gba --start-state x.state
    python tools/collect_expert_data.py --env Hopper-v5 --help       # continuous control instead

--agent: "scripted"; a checkpoint or run folder of bc_emerald.py, dqn_bc_emerald.py or dagger_emerald.py; or
path/to/file.py:ClassName with a method get_action(observation, info) that returns the number of a button
(A, B, START, SELECT, UP, DOWN, LEFT, RIGHT, L, R), and, if it likes, begin(), called before each episode.
tools/llm_agent.py is an example.
Noise presses a random button instead now and then; what the agent would have pressed is recorded beside it.
An interrupted collection goes on where it stopped; a folder holds one cartridge, one player and one kind of
settings. What an agent from a file of your own has played of an episode that is cut off, is kept.
With --env it is tools/collect_control_data.py, which has options of its own.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from cleanpoke.compute import available_cores
from cleanpoke.envs.emerald.demos import Agent, Recorder, record_episode, settings_of
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv, is_tiny_town
from cleanpoke.envs.emerald.milestones import NAMES
from cleanpoke.envs.emerald.playing import load_agent
from cleanpoke.envs.episode_files import check_settings, open_folder, read_meta
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.processes import in_processes, signs_of_life
from cleanpoke.run import load_checkpoint
from cleanpoke.terminal import Progress, StopSignal

PLAYERS = ("bc_emerald", "dqn_bc_emerald", "dagger_emerald")
"""Scripts whose checkpoints play: each has a function open_player."""


@dataclass
class Args:
    output: Path = Path("expert_data/tiny_town")
    """folder of the episodes"""
    episodes: int = 50
    """how many the folder shall hold in the end"""
    agent: str = "scripted"
    """scripted, a checkpoint or run folder, or path/to/file.py:ClassName"""
    rom_path: Path = TINY_TOWN
    """cartridge to play; default Tiny Town"""
    start_state: Path | None = None
    """save state to begin from"""
    noise: float = 0.05
    """probability of a random button instead of the agent's"""
    fixed: bool = False
    """always the standard town instead of a new variant in each episode"""
    max_steps: int = 1500
    """longest episode"""
    seed: int = 1
    """episode n draws from seed and n"""
    processes: int = 0
    """parallel processes; 0: one for each core"""


@dataclass(slots=True)
class Share:
    args: Args
    numbers: list[int]


class Stopped(Exception):
    """The collection ends in the middle of an episode."""


def is_checkpoint(agent: str) -> bool:
    """Whether --agent names a checkpoint or run folder."""
    path = Path(agent)
    return path.exists() and path.suffix != ".py"


def open_agent(args: Args) -> Agent:
    """Raises CleanPokeError for what is not there, or no agent for this game."""
    path = Path(args.agent)
    if is_checkpoint(args.agent):
        script = load_checkpoint(path).script
        if script not in PLAYERS:
            raise CleanPokeError(
                f"{path} was written by {script}.py: give a checkpoint of "
                + " or ".join(f"{name}.py" for name in PLAYERS)
            )
        return importlib.import_module(f"cleanpoke.{script}").open_player(path)
    if path.suffix == ".py" and path.exists():
        raise CleanPokeError(f"--agent {args.agent} names no class: give {args.agent}:ClassName")
    if args.agent != "scripted" and ":" not in args.agent:
        raise CleanPokeError(
            f"--agent {args.agent!r} is not there: give scripted, a checkpoint or run folder, or "
            "path/to/file.py:ClassName"
        )
    try:
        return load_agent(args.agent, args.rom_path)
    except TypeError as error:
        if "__init__() missing" not in str(error):
            raise
        raise CleanPokeError(f"--agent {args.agent}: {error}; it is made without arguments") from error


def make_env(args: Args) -> EmeraldEnv:
    is_shuffled = is_tiny_town(args.rom_path) and not args.fixed
    return EmeraldEnv(
        args.rom_path,
        start_state=args.start_state,
        variant="random" if is_shuffled else 0,
        max_steps=args.max_steps,
    )


def origin_of(args: Args, env: EmeraldEnv) -> dict[str, Any]:
    """What `meta` tells beside what every demonstration tells: who played, and where episodes begin."""
    state = env.start_state
    digest = None if state is None else hashlib.sha1(state.content).hexdigest()
    return {"player": args.agent, "fixed": args.fixed, "start_state": digest}


def open_collection(args: Args, env: EmeraldEnv) -> list[Path]:
    """Makes the folder ready; the episodes that are there. Raises CleanPokeError if it cannot be written, and
    if one there does not belong to this collection."""
    rules = {"noise": args.noise, "max_steps": args.max_steps}
    there = open_folder(args.output, settings_of(env) | origin_of(args, env) | rules)
    for path in there:
        seed = read_meta(path).get("seed", [args.seed])  # and the number of the episode
        check_settings(path, {"seed": seed[0]}, {"seed": args.seed})
    return there


def path_of(args: Args, number: int) -> Path:
    return args.output / f"episode_{number:05}.npz"


def record_share(share: Share, report: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    torch.set_num_threads(1)  # the processes share the cores
    env, agent = make_env(share.args), open_agent(share.args)
    show_life = signs_of_life(report)  # an agent may think for long
    # The script and checkpoints play the same game again; who knows what another agent's steps have cost.
    keeps_parts = share.args.agent != "scripted" and not is_checkpoint(share.args.agent)
    so_far: Recorder | None = None

    def on_step(recorder: Recorder) -> None:
        nonlocal so_far
        so_far = recorder
        show_life()
        if stopped():
            raise Stopped

    def save(recorder: Recorder, path: Path) -> None:
        recorder.save(path)
        report((len(recorder.actions), recorder.infos[-1]["milestones"], sum(recorder.rewards)))

    for number in share.numbers:
        seed, path = (share.args.seed, number), path_of(share.args, number)
        so_far = None
        try:
            recorder = record_episode(
                env, agent, seed, share.args.noise, on_step, **origin_of(share.args, env)
            )
        except Exception as error:
            if keeps_parts and so_far is not None and so_far.actions:
                save(so_far, path)
                print(f"\n{path}: cut off after {len(so_far.actions)} steps, which are kept")
            if isinstance(error, Stopped):
                return
            raise
        save(recorder, path)


def main(args: Args) -> None:
    are_numbers_fine = min(args.episodes, args.max_steps) > 0 and min(args.seed, args.processes) >= 0
    if not are_numbers_fine or not 0 <= args.noise < 1:
        raise CleanPokeError(
            "--episodes and --max-steps must be at least 1, --seed and --processes at least 0, --noise at "
            "least 0 and below 1"
        )
    env = make_env(args)
    open_agent(args)
    there = open_collection(args, env)
    missing = [number for number in range(args.episodes) if not path_of(args, number).exists()]
    if not missing:
        print(f"{args.output}: all {args.episodes} episodes are there already; --episodes asks for more")
        return
    processes = min(args.processes or available_cores(), len(missing))
    shares = [Share(args, missing[first::processes]) for first in range(processes)]
    line, done, finished, returns = Progress(unit="episode"), len(there), 0, []
    with StopSignal() as stop:
        reports = in_processes(record_share, shares, timeout_seconds=600, should_stop=lambda: bool(stop))
        for steps, milestones, total in reports:
            done, finished = done + 1, finished + (milestones == len(NAMES))
            returns.append(total)
            line.update(done, args.episodes, {"steps": steps, "return": float(np.mean(returns))})
    line.end()
    print(f"{args.output}: {done} episodes; {finished} of {len(returns)} new ones reached every milestone")


if __name__ == "__main__":
    with user_errors():
        if any(word.partition("=")[0] == "--env" for word in sys.argv):
            import collect_control_data  # beside this file

            other_args = tyro.cli(collect_control_data.Args, description=collect_control_data.__doc__)
            collect_control_data.main(other_args)
        else:
            main(tyro.cli(Args, description=__doc__))
