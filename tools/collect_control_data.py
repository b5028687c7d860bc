"""Records episodes of continuous control: one file for each, in parallel processes.

    python tools/collect_expert_data.py --env Hopper-v5 --agent runs/<folder> --episodes 300
    python tools/collect_expert_data.py --env Hopper-v5 --agent runs/<folder> --sample --episodes 600
    python tools/collect_expert_data.py --env PointMass-v0 --agent random
    python tools/collect_expert_data.py --env PointMass-v0 --agent mine.py:Mine --output expert_data/mine
    python tools/collect_expert_data.py --env CarRacing-v3 --store-latents --agent runs/<folder>

--env: any gymnasium environment that shows a vector and takes bounded continuous actions; of CarRacing-v3,
which shows pictures, the latents that an encoder makes of them are stored. --agent: "random" (uniform within
the bounds); a checkpoint or run folder of ppo_goalsetter_idm.py or ppo_carracing.py; or
path/to/file.py:ClassName with a method get_action(observation, info) that returns an action in the world's
own units, and, if it likes, begin(), called before each episode.
An interrupted collection goes on where it stopped; a folder holds episodes of one environment. --episodes is
what the folder shall hold in the end, so that the second command above adds 300 of another agent's.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
import tyro

from cleanpoke.compute import available_cores
from cleanpoke.envs.agent_files import make_agent
from cleanpoke.envs.control import make_env
from cleanpoke.envs.control_episodes import ControlEpisode, save_control_episode
from cleanpoke.envs.episode_files import open_folder
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.processes import in_processes, signs_of_life
from cleanpoke.run import load_checkpoint, seed_everything
from cleanpoke.terminal import Progress, StopSignal

PLAYERS = ("ppo_goalsetter_idm", "ppo_carracing")
"""Scripts whose checkpoints play: each has a function open_player(path, sampled, encoder)."""


@dataclass
class Args:
    env: str
    """gymnasium's name of the environment"""
    output: Path | None = None
    """folder of the episodes; default: expert_data/<env>"""
    episodes: int = 300
    """how many the folder shall hold in the end"""
    agent: str = "random"
    """random, a checkpoint or run folder, or path/to/file.py:ClassName"""
    sample: bool = False
    """a checkpoint draws what it does, instead of the likeliest"""
    store_latents: bool = False
    """of CarRacing-v3: store what a frozen encoder makes of the pictures"""
    encoder_path: Path | None = None
    """that encoder, the encoder.pt2 of a run of ppo_carracing.py; default: that of the agent's own run"""
    seed: int = 1
    """episode n draws from seed and n"""
    processes: int = 0
    """parallel processes; 0: one for each core"""

    @property
    def folder(self) -> Path:
        return self.output or Path("expert_data") / self.env.lower().replace("/", "_")

    def path_of(self, number: int) -> Path:
        return self.folder / f"episode_{number:05}.npz"


@dataclass(slots=True)
class Share:
    args: Args
    numbers: list[int]


class Stopped(Exception):
    """The collection ends in the middle of an episode, which is dropped."""


class Agent(Protocol):
    """Whoever can be recorded. If it has a method `begin()`, that is called before each episode."""

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """What to do (A,), in the world's own units."""


class RandomAgent:
    def __init__(self, bounds: gym.spaces.Box):
        self.bounds = bounds

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        return np.random.uniform(self.bounds.low, self.bounds.high)


def open_env(args: Args) -> gym.Env:
    """Raises CleanPokeError for one that cannot be made, or that cannot be recorded in this way."""
    if not args.store_latents:
        if args.encoder_path:
            raise CleanPokeError("--encoder-path is for --store-latents: give both or none")
        return make_env(args.env)
    agent = Path(args.agent)
    path = args.encoder_path or (agent if agent.is_dir() else agent.parent) / "encoder.pt2"
    if not args.encoder_path and not path.is_file():
        raise CleanPokeError(
            f"--store-latents needs an encoder, and {path} is not there: give one as --encoder-path"
        )
    return make_env(args.env, path)


def settings_of(args: Args, env: gym.Env) -> dict[str, Any]:
    """What decides whether episodes go together."""
    return {"env_id": args.env} | ({"encoder": env.encoder.checksum} if args.store_latents else {})


def open_agent(args: Args, env: gym.Env) -> Agent:
    """Raises CleanPokeError for what is not there, or no agent for this environment."""
    path = Path(args.agent)
    is_checkpoint = path.exists() and path.suffix != ".py"
    if args.sample and not is_checkpoint:
        raise CleanPokeError("--sample is for checkpoints: leave it out, or give one as --agent")
    if not is_checkpoint:
        others = "random, a checkpoint or run folder"
        return RandomAgent(env.action_space) if args.agent == "random" else make_agent(args.agent, others)
    script = load_checkpoint(path).script
    if script not in PLAYERS:
        expected = " or ".join(f"{name}.py" for name in PLAYERS)
        raise CleanPokeError(f"{path} was written by {script}.py: give a checkpoint of {expected}")
    encoder = env.encoder if args.store_latents else None
    player = importlib.import_module(f"cleanpoke.{script}").open_player(path, args.sample, encoder)
    if player.env_id != args.env:
        raise CleanPokeError(f"{path} was trained in {player.env_id}, not {args.env}: give it as --env")
    return player


def record_episode(
    env: gym.Env,
    agent: Agent,
    seed: tuple[int, ...],
    on_step: Callable[[], None] = lambda: None,
    **meta: Any,
) -> ControlEpisode:
    """Plays one episode; actions beyond the bounds are recorded as what they come to, the bounds.

    seed: of the world and of the global generators, for agents that draw; on_step: called before each step.
    Raises CleanPokeError if the agent's actions are none.
    """
    bounds, drawn = env.action_space, int(np.random.SeedSequence(seed).generate_state(1)[0] // 2)
    seed_everything(drawn)
    observation, info = env.reset(seed=drawn)
    if hasattr(agent, "begin"):
        agent.begin()
    observations, actions, rewards = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        on_step()
        action = np.asarray(agent.get_action(observation, info), np.float32)
        if action.shape != bounds.shape or not np.isfinite(action).all():
            raise CleanPokeError(
                f"the agent chose {action.tolist()}: an action is {bounds.shape[0]} finite numbers"
            )
        actions.append(action.clip(bounds.low, bounds.high))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
    return ControlEpisode(
        np.array(observations, np.float32),
        np.array(actions, np.float32),
        np.array(rewards, np.float32),
        bool(terminated),
        {"seed": list(seed), **meta},
    )


def record_share(share: Share, report: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    torch.set_num_threads(1)  # the processes share the cores
    args = share.args
    env = open_env(args)
    agent = open_agent(args, env)
    show_life = signs_of_life(report)  # an agent may think for long

    def on_step() -> None:
        show_life()
        if stopped():
            raise Stopped

    for number in share.numbers:
        meta = settings_of(args, env) | {"player": args.agent, "sampled": args.sample}
        try:
            episode = record_episode(env, agent, (args.seed, number), on_step, **meta)
        except Stopped:
            break
        save_control_episode(args.path_of(number), episode)
        report((len(episode), float(episode.rewards.sum())))
    env.close()


def main(args: Args) -> None:
    if args.episodes < 1 or args.seed < 0 or args.processes < 0:
        raise CleanPokeError("--episodes must be at least 1, --seed and --processes at least 0")
    env = open_env(args)
    open_agent(args, env)
    there = open_folder(args.folder, settings_of(args, env))
    missing = [number for number in range(args.episodes) if not args.path_of(number).exists()]
    processes = min(args.processes or available_cores(), max(len(missing), 1))
    shares = [Share(args, missing[first::processes]) for first in range(processes)]
    line, done, returns = Progress(unit="episode"), len(there), []
    with StopSignal() as stop:
        reports = in_processes(record_share, shares, timeout_seconds=600, should_stop=lambda: bool(stop))
        for steps, total in reports if missing else ():
            done += 1
            returns.append(total)
            line.update(done, args.episodes, {"steps": steps, "return": float(np.mean(returns))})
    line.end()
    about = f", {len(returns)} of them new, with a mean return of {np.mean(returns):.1f}" if returns else ""
    print(f"{args.folder}: {done} episodes{about}")


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
