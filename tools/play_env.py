"""Play an environment by keyboard, watch an agent play it, and take over from it.

    python tools/play_env.py --env-id ALE/Pong-v5            # you play
    python tools/play_env.py --checkpoint runs/<folder>      # the agent plays; TAB takes over and hands back
    python tools/play_env.py --env-id CartPole-v1 --random   # random play, as the agent starts out

Arrows and space are the keys; where several share an action, press them together. Where no action goes up or
down, as in Pong, up is right and down is left. Number keys choose actions that have no keys. TAB: you or the
agent. P: pause. + and -: faster, slower. ESC: end. Worlds in which one cannot do nothing wait for your key.
All actions are listed with their probabilities.
"""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pygame
import tyro

from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.watch import Moment, Moments, adjust, enlarged, open_window, script_for, script_of

PANEL_WIDTH, LINE_HEIGHT = 300, 20
KEYS = {
    **{pygame.K_UP: "UP", pygame.K_DOWN: "DOWN", pygame.K_LEFT: "LEFT", pygame.K_RIGHT: "RIGHT"},
    **{pygame.K_w: "UP", pygame.K_s: "DOWN", pygame.K_a: "LEFT", pygame.K_d: "RIGHT"},
    pygame.K_SPACE: "FIRE",
}
WORDS = {
    **{"UP": ("UP", "FORWARD"), "DOWN": ("DOWN", "BACKWARD"), "LEFT": ("LEFT",), "RIGHT": ("RIGHT",)},
    "FIRE": ("FIRE", "ATTACK", "USE"),
}
"""What in the name of an action asks for a key."""
SIDEWAYS = {"UP": "RIGHT", "DOWN": "LEFT"}
"""What up and down are where no action asks for them: Pong calls them right and left."""
FRAMES_PER_SECOND = {"ppo_atari": 60.0, "ppo_vizdoom": 35.0}
"""Of the consoles that ale-py emulates, and Doom's tics."""
LOOKS_PER_SECOND = 15.0
"""How often a world that waits for you looks for keys; those pressed between two looks count as together."""
DIGITS = {pygame.K_0 + digit: digit for digit in range(10)}


@dataclasses.dataclass
class Args:
    checkpoint: Path | None = None
    """checkpoint or run folder of ppo_atari.py, ppo.py or ppo_vizdoom.py"""
    env_id: str | None = None
    """environment; default: the checkpoint's"""
    random: bool = False
    """watch random play (without a checkpoint)"""
    greedy: bool = True
    """whether the agent plays its likeliest action or draws one"""
    sticky: float | None = None
    """probability that an Atari game repeats the last action; default: the checkpoint's evaluation"""
    frame_skip: int | None = None
    """frames per decision in Atari games, tics in ViZDoom; default: the checkpoint's"""
    speed: float | None = None
    """decisions per second; default: the game's own pace"""
    seed: int = 1
    """of the episodes"""
    height: int = 630
    """of the picture on the screen, about"""
    max_steps: int = 0
    """end after so many decisions; 0: never"""


def action_for(held: set[str], names: tuple[str, ...]) -> int | None:
    """The action whose keys are all held: the one with the most keys. None if no action fits."""

    if not any(word in name for name in names for key in SIDEWAYS for word in WORDS[key]):
        held = {SIDEWAYS.get(key, key) for key in held}

    def keys_of(name: str) -> frozenset[str]:
        return frozenset(key for key, words in WORDS.items() if any(word in name for word in words))

    fitting = [index for index, name in enumerate(names) if keys_of(name) <= held and keys_of(name)]
    if fitting:
        return max(fitting, key=lambda index: len(keys_of(names[index])))
    return names.index("NOOP") if "NOOP" in names else None


def open_moments(args: Args) -> tuple[Moments, str, float]:
    """What is played, its name, and its decisions per second."""
    if args.random and args.checkpoint is not None:
        raise CleanPokeError("--random plays without an agent: leave out --random or --checkpoint")
    if args.speed is not None and not args.speed > 0:
        raise CleanPokeError("--speed must be above 0")
    if args.checkpoint is None:
        if args.env_id is None:
            raise CleanPokeError("say what to play: --env-id ALE/Pong-v5, or --checkpoint runs/<folder>")
        script, agent = script_for(args.env_id), None
        script_args = script.Args(env_id=args.env_id)
    else:
        script = script_of(args.checkpoint)
        agent, script_args, _ = script.open_agent(args.checkpoint)
        if args.env_id not in (None, script_args.env_id):
            raise CleanPokeError(f"{args.checkpoint} plays {script_args.env_id}, not {args.env_id}")
    adjust(script_args, args.seed, args.sticky, args.frame_skip)
    pace = args.speed or own_pace(script, script_args)
    return script.moments(script_args, agent, args.seed, args.greedy), script_args.env_id, pace


def own_pace(script: ModuleType, script_args: Any) -> float:
    """Decisions per second at which a world is meant to be seen; gymnasium's say it themselves."""
    if script.SCRIPT in FRAMES_PER_SECOND:
        return FRAMES_PER_SECOND[script.SCRIPT] / script_args.frame_skip
    envs = script.make_envs(script_args, 1)
    envs.close()
    return float(envs.metadata.get("render_fps", LOOKS_PER_SECOND))


def draw(
    screen: pygame.Surface,
    font: pygame.font.Font,
    picture: np.ndarray,
    moment: Moment,
    you: bool,
    chosen: int,
) -> None:
    """The picture, and beside it the score and a bar for the probability of each action."""
    screen.fill((16, 16, 24))
    screen.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
    left, score = picture.shape[1] + 10, moment.score
    lines = ["you play" if you else "the agent plays", f"episode {score.episode + 1}   step {score.step}"]
    lines += [f"return {score.episode_return:g}   last reward {score.last_reward:g}"]
    lines += [f"value {moment.value:.2f}", ""]
    for number, line in enumerate(lines):
        screen.blit(font.render(line, True, (230, 230, 230)), (left, 8 + number * LINE_HEIGHT))
    top = 8 + len(lines) * LINE_HEIGHT
    for index, (name, share) in enumerate(zip(moment.action_names, moment.probabilities, strict=True)):
        place = top + index * LINE_HEIGHT
        width = int(share * (PANEL_WIDTH - 20))
        pygame.draw.rect(screen, (60, 90, 150), (left, place, width, LINE_HEIGHT - 3))
        colour = (255, 220, 90) if index == chosen else (200, 200, 200)
        screen.blit(font.render(f"{index} {name}  {share:.0%}", True, colour), (left + 4, place))
    pygame.display.flip()


def main(args: Args) -> None:
    moments, env_id, pace = open_moments(args)
    you = args.checkpoint is None and not args.random
    moment = next(moments)
    picture = enlarged(moment.picture, args.height)
    height = max(picture.shape[0], (7 + len(moment.action_names)) * LINE_HEIGHT)
    screen = open_window((picture.shape[1] + PANEL_WIDTH, height), f"CleanPoke: {env_id}")
    font, clock = pygame.font.Font(None, 20), pygame.time.Clock()
    held: set[str] = set()
    paused, steps = False, 0
    try:
        while not args.max_steps or steps < args.max_steps:
            pressed: set[str] = set()  # a key that was let go within one decision counts as well
            digit = None
            for event in pygame.event.get():
                if event.type == pygame.QUIT or (
                    event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE
                ):
                    return
                if event.type == pygame.KEYUP and event.key in KEYS:
                    held.discard(KEYS[event.key])
                if event.type != pygame.KEYDOWN:
                    continue
                if event.key in KEYS:
                    held.add(KEYS[event.key])
                    pressed.add(KEYS[event.key])
                elif event.key in DIGITS and DIGITS[event.key] < len(moment.action_names):
                    digit = DIGITS[event.key]
                elif event.key == pygame.K_TAB:
                    you = not you
                elif event.key == pygame.K_p:
                    paused = not paused
                elif event.key in (pygame.K_PLUS, pygame.K_EQUALS, pygame.K_KP_PLUS):
                    pace *= 1.25
                elif event.key in (pygame.K_MINUS, pygame.K_KP_MINUS):
                    pace /= 1.25
            waits = "NOOP" not in moment.action_names
            wanted = (
                digit
                if digit is not None
                else action_for(pressed if waits else held | pressed, moment.action_names)
            )
            chosen = moment.action if not you else wanted
            draw(screen, font, picture, moment, you, -1 if chosen is None else chosen)
            clock.tick(LOOKS_PER_SECOND if you and waits else pace)
            if paused or chosen is None:
                continue
            moment = moments.send(chosen)
            picture = enlarged(moment.picture, args.height)
            steps += 1
            if moment.score.finished_return is not None:
                print(f"episode {moment.score.episode}: return {moment.score.finished_return:g}")
    finally:
        moments.close()
        pygame.quit()


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
