"""What people see of an agent at play: its decisions one by one, windows, and videos. No algorithm.

A script whose agents can be watched defines `moments`, a generator that plays for ever and yields a `Moment`
before each decision; who sends an action into it has that one taken instead of the agent's.
"""

import importlib
import os
import re
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import ale_py
import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cleanpoke.errors import CleanPokeError
from cleanpoke.run import load_checkpoint

WATCHABLE = ("ppo_atari", "ppo", "ppo_vizdoom")


@dataclass(frozen=True, slots=True)
class Score:
    """Where an episode stands."""

    episode: int = 0
    step: int = 0
    """Decisions since the episode began."""
    last_reward: float = 0.0
    """What the decision before this one brought, also across the end of an episode."""
    episode_return: float = 0.0
    """Rewards since the episode began."""
    finished_return: float | None = None
    """Return of the episode that the last decision has ended; this is the first moment of the next one."""

    def after(self, reward: float, is_over: bool) -> "Score":
        """The score after a decision that brought `reward`."""
        total = self.episode_return + reward
        if is_over:
            return Score(self.episode + 1, 0, reward, 0.0, total)
        return Score(self.episode, self.step + 1, reward, total)


@dataclass(slots=True)
class Moment:
    """A decision that is about to be taken."""

    picture: np.ndarray
    """(H, W, 3) uint8: what people see."""
    observation: np.ndarray
    """What the network sees: frames (4, 84, 84) uint8, or a vector (O,)."""
    action_names: tuple[str, ...]
    """For each action the keys that stand for it, such as "UP" or "UPRIGHT FIRE"."""
    action: int
    """What the agent would do."""
    probabilities: np.ndarray
    """(A,)"""
    value: float
    """The critic's estimate of the discounted sum of rewards to come; NaN for random play."""
    score: Score


Moments = Generator[Moment, int | None, None]


def script_of(checkpoint: Path) -> ModuleType:
    """The script that wrote a checkpoint. Raises CleanPokeError if its agents cannot be watched."""
    name = load_checkpoint(checkpoint).script
    if name not in WATCHABLE:
        raise CleanPokeError(
            f"{checkpoint} was written by {name}.py: give a checkpoint of "
            + " or ".join(f"{script}.py" for script in WATCHABLE)
        )
    return importlib.import_module(f"cleanpoke.{name}")


def script_for(env_id: str) -> ModuleType:
    """The script that plays an environment. Raises CleanPokeError for Atari games by other names."""
    worlds = {"ALE/": "ppo_atari", "Vizdoom": "ppo_vizdoom"}
    name = next((script for start, script in worlds.items() if env_id.startswith(start)), "ppo")
    spec = gym.registry.get(env_id)
    if name == "ppo" and (spec is None or "ale_py" in str(spec.entry_point)):
        gym.register_envs(ale_py)
        game = re.sub(r"(Deterministic|NoFrameskip|-ram)*(-v\d+)?$", "", env_id).replace("_", "").lower()
        for known in gym.registry.values():
            if known.namespace == "ALE" and known.name.lower() == game:
                raise CleanPokeError(f"unknown environment {env_id!r}: did you mean {known.id}?")
    return importlib.import_module(f"cleanpoke.{name}")


def adjust(script_args: Any, seed: int, sticky: float | None = None, frame_skip: int | None = None) -> None:
    """Sets how a world is played where a tool's user says so.

    Raises CleanPokeError for numbers that cannot be, and for a world that has no such setting.
    """
    if not 0 <= seed < 2**31:
        raise CleanPokeError(f"--seed must lie between 0 and {2**31 - 1}")
    if sticky is not None and not 0 <= sticky <= 1:
        raise CleanPokeError("--sticky must lie between 0 and 1")
    if frame_skip is not None and frame_skip < 1:
        raise CleanPokeError("--frame-skip must be at least 1")
    settings = (
        ("--sticky", "Atari games", "eval_sticky", sticky),
        ("--frame-skip", "Atari games and ViZDoom", "frame_skip", frame_skip),
    )
    for option, worlds, name, value in settings:
        if value is not None and not hasattr(script_args, name):
            raise CleanPokeError(f"{option} is for {worlds}, {script_args.env_id} is none: leave it out")
        if value is not None:
            setattr(script_args, name, value)


def enlarged(picture: np.ndarray, height: int) -> np.ndarray:
    """(H, W, 3) with every pixel repeated until it is about that high."""
    factor = max(round(height / picture.shape[0]), 1)
    return picture.repeat(factor, 0).repeat(factor, 1)


def labelled(picture: np.ndarray, lines: list[str], height: int = 420) -> np.ndarray:
    """The enlarged picture with lines of text beneath, of even height and width, as video codecs want."""
    picture = enlarged(picture, height)
    font = ImageFont.load_default(16)
    width, full_height = picture.shape[1], picture.shape[0] + 22 * len(lines)
    image = Image.new("RGB", (width + width % 2, full_height + full_height % 2))
    image.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        draw.text((4, picture.shape[0] + 22 * index), line, font=font)
    return np.asarray(image)


def open_window(size: tuple[int, int], caption: str, instead: str = "") -> Any:
    """A window of pygame's, as its Surface; `pygame.quit()` closes it.

    instead: what else one can do. Raises CleanPokeError without a display, where SDL, left to itself, would
    draw for nobody.
    """
    import pygame  # only here: it greets everybody who imports it

    names = ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY")
    problem = "" if sys.platform != "linux" or any(map(os.environ.get, names)) else "DISPLAY is not set"
    if not problem:
        try:
            pygame.display.init()
            screen = pygame.display.set_mode(size)
            if pygame.display.get_driver() == "offscreen" and not os.environ.get("SDL_VIDEODRIVER"):
                problem = f"DISPLAY is {os.environ.get('DISPLAY')!r}, and nothing answers there"
        except pygame.error as error:
            problem = str(error)
    if problem:
        pygame.quit()
        raise CleanPokeError(
            f"there is no display for a window ({problem}): run this where you can see one{instead}"
        )
    pygame.display.set_caption(caption)
    pygame.font.init()
    return screen


class Video:
    """An MP4 file, frame by frame; it appears under its name when it is complete."""

    def __init__(self, path: Path, frames_per_second: float = 15):
        self.path, self.temporary = path, path.with_name(f".{path.stem}.tmp{path.suffix}")
        if path.suffix != ".mp4":
            raise CleanPokeError(f"{path}: videos are MP4 files, choose a name that ends in .mp4")
        if path.is_dir():
            raise CleanPokeError(f"{path} is a folder: choose another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary.touch()  # the encoder, which opens it later, says less about what is wrong
            self.writer = imageio.get_writer(
                self.temporary, fps=frames_per_second, codec="libx264", macro_block_size=2
            )
        except OSError as error:
            raise CleanPokeError(f"cannot write {path} ({error.strerror}): choose another name") from error

    def add(self, frame: np.ndarray) -> None:
        """frame (H, W, 3) uint8; all of one size."""
        self.writer.append_data(frame)

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        self.writer.close()
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def record(
    moments: Moments, path: Path, episodes: int, title: str, max_steps: int, stop: Any = False
) -> list[float]:
    """Films whole episodes, each for at most `max_steps` decisions; the returns of those that ended.

    Once `stop` turns true, such as a StopSignal, the film ends.
    """
    returns: list[float] = []
    with Video(path) as video:
        for moment in moments:
            score = moment.score
            if score.finished_return is not None:
                returns.append(score.finished_return)
            if score.episode >= episodes or score.step >= max_steps:
                break
            share = moment.probabilities[moment.action]
            lines = [title, f"return {score.episode_return:g}   value {moment.value:.2f}"]
            lines += [f"{moment.action_names[moment.action]} ({share:.0%})"]
            video.add(labelled(moment.picture, lines))
            if stop:
                break
    moments.close()
    return returns
