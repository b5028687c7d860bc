"""Records demonstrations by keyboard or gamepad: Tiny Town, or a cartridge of your own.

    python tools/collect_human_demos.py
    python tools/collect_human_demos.py --rom-path emerald.gba --output expert_data/emerald
    python tools/collect_human_demos.py --help-keys

The game stands still between your buttons, so that there is nothing in a recording but what you pressed, and
it plays again exactly. Steps can be taken back, and then they have never been. Closing the window keeps the
episode; one that was cut off otherwise is completed the next time, or goes on with --resume.
"""

import contextlib
import textwrap
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pygame
import tyro
from pygame._sdl2 import controller

from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS, HEIGHT, WIDTH
from cleanpoke.envs.emerald.demos import Recorder
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv, Snapshot, is_tiny_town
from cleanpoke.envs.emerald.milestones import NAMES
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.terminal import Progress, StopSignal
from cleanpoke.watch import open_window

REWIND_STEPS = 1000
"""How far back one can go; each moment takes 10 KB in Tiny Town."""
AUTOSAVE_STEPS = 10
"""As many can be lost if the process is killed; nothing can otherwise."""
OVER = "the episode is over: N keeps it, Delete discards it, Backspace goes back"
SURE_SECONDS = 3.0
"""Within this time a key that loses something must be pressed again."""
REWINDS_PER_SECOND = 30
PICTURES_PER_SECOND = 60
CONSOLE_FRAMES_PER_SECOND = 60
SPEEDS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
NUM_SLOTS = 8
ARROWS = ("UP", "DOWN", "LEFT", "RIGHT")
FACING = {1: "down", 2: "up", 3: "left", 4: "right"}

BUTTON_KEYS = {
    **{pygame.K_z: "A", pygame.K_x: "B", pygame.K_RETURN: "START", pygame.K_RSHIFT: "SELECT"},
    **{pygame.K_UP: "UP", pygame.K_DOWN: "DOWN", pygame.K_LEFT: "LEFT", pygame.K_RIGHT: "RIGHT"},
    **{pygame.K_a: "L", pygame.K_s: "R"},
}
SAVE_KEYS = {pygame.K_F1 + slot - 1: slot for slot in range(1, NUM_SLOTS + 1)}
LOAD_KEYS = {pygame.K_0 + slot: slot for slot in range(1, NUM_SLOTS + 1)}
COMMAND_KEYS = {
    **{pygame.K_SPACE: "skip", pygame.K_BACKSPACE: "undo", pygame.K_r: "rewind", pygame.K_p: "pause"},
    **{pygame.K_m: "mark", pygame.K_n: "keep", pygame.K_DELETE: "discard", pygame.K_h: "help"},
    **{pygame.K_PLUS: "faster", pygame.K_EQUALS: "faster", pygame.K_KP_PLUS: "faster"},
    **{pygame.K_MINUS: "slower", pygame.K_KP_MINUS: "slower", pygame.K_ESCAPE: "quit"},
}
HELD_COMMANDS = ("skip", "rewind")
PAD_BUTTONS = {
    **{pygame.CONTROLLER_BUTTON_A: "A", pygame.CONTROLLER_BUTTON_B: "B"},
    **{pygame.CONTROLLER_BUTTON_START: "START", pygame.CONTROLLER_BUTTON_BACK: "SELECT"},
    **{pygame.CONTROLLER_BUTTON_DPAD_UP: "UP", pygame.CONTROLLER_BUTTON_DPAD_DOWN: "DOWN"},
    **{pygame.CONTROLLER_BUTTON_DPAD_LEFT: "LEFT", pygame.CONTROLLER_BUTTON_DPAD_RIGHT: "RIGHT"},
    **{pygame.CONTROLLER_BUTTON_LEFTSHOULDER: "L", pygame.CONTROLLER_BUTTON_RIGHTSHOULDER: "R"},
}
PAD_COMMANDS = {pygame.CONTROLLER_BUTTON_X: "skip", pygame.CONTROLLER_BUTTON_Y: "undo"}
STICK = {pygame.CONTROLLER_AXIS_LEFTX: ("LEFT", "RIGHT"), pygame.CONTROLLER_AXIS_LEFTY: ("UP", "DOWN")}
STICK_THRESHOLD = 16_000
"""Of 32,767: half way."""
HELP = (
    ("Z  X", "A  B"),
    ("Enter  right Shift", "START  SELECT"),
    ("arrows", "walk; held, they repeat"),
    ("A  S", "L  R"),
    ("Space, held", "press A as long as a text is shown, fast"),
    ("Backspace", "take the last step back"),
    ("R, held", "rewind"),
    ("F1 … F8", "save into a slot"),
    ("1 … 8", "go back to a slot"),
    ("M", "begin or end a marked segment"),
    ("N", "keep this episode, begin the next one"),
    ("Delete, twice", "discard this episode, begin anew"),
    ("P", "pause: no key counts"),
    ("+  -", "faster, slower"),
    ("H", "show or hide these keys"),
    ("Esc, or close", "keep this episode and leave"),
    ("gamepad", "its A, B, start, back, cross or stick, shoulders;"),
    ("", "X is Space, Y is Backspace"),
)


@dataclass
class Args:
    rom_path: Path = TINY_TOWN
    """cartridge to play; default Tiny Town"""
    output: Path = Path("expert_data/human")
    """folder of the episodes"""
    start_state: Path | None = None
    """save state to begin episodes from, such as a slot_1.state of an output folder"""
    fixed: bool = False
    """always the standard Tiny Town instead of a new variant in each episode"""
    resume: bool = False
    """go on with the last episode of the folder"""
    max_steps: int = 10_000
    """an episode of so many steps ends, and the next one goes on from there"""
    speed: float = 1.5
    """of the game, times the console's; 1.5 walks as fast as Emerald does"""
    scale: int = 3
    """size of the picture"""
    seed: int = 1
    """decides the variants of Tiny Town"""
    help_keys: bool = False
    """print the keys and end"""


# --- What is recorded -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Slot:
    """A moment of an episode, with all that led to it."""

    episode: int
    recorder: Recorder
    past: deque[Snapshot]
    info: dict[str, Any]


class Session:
    """The episodes that somebody records, without a window: every step can be taken back."""

    def __init__(self, args: Args, env: EmeraldEnv):
        self.args, self.env = args, env
        self.slots: dict[int, Slot] = {}
        self.message = "H shows the keys"
        self._asked: tuple[str, float] = ("", 0.0)
        self.begin()

    def begin(self, state: SaveState | None = None) -> None:
        """A new episode, from `state` or where episodes begin."""
        self.number, self.env.max_steps = next_number(self.args.output), self.args.max_steps
        seed = (self.args.seed, self.number)
        drawn = int(np.random.default_rng(seed).integers(2**31))
        observation, self.info = self.env.reset(seed=drawn, options={"state": state} if state else None)
        self.recorder = Recorder(self.env, observation, self.info, seed=list(seed), player="human")
        self.past = deque([self.env.snapshot()], maxlen=REWIND_STEPS + 1)
        self.unsaved_steps, self.last_button = 0, ""

    @property
    def path(self) -> Path:
        return self.args.output / f"episode_{self.number:05}.npz"

    @property
    def steps(self) -> int:
        return len(self.recorder.actions)

    @property
    def is_over(self) -> bool:
        return self.steps > 0 and any(self.recorder.ends[-1])

    @property
    def shows_text(self) -> bool:
        state = self.info["state"]
        return state is not None and state.text != "" and not self.is_over

    def press(self, button: str) -> None:
        """One step."""
        if self.is_over:
            self.message = OVER
            return
        action = BUTTONS.index(button)
        step = self.env.step(action)
        self.recorder.add(action, action, step)
        self.past.append(self.env.snapshot())
        self.info, self.last_button = step[4], button
        self.message = ""
        for name in self.info["new_milestones"]:
            self.message = f"milestone: {title_of(name)}"
        if self.is_over:
            self.message = OVER
        self.unsaved_steps += 1
        if self.unsaved_steps >= AUTOSAVE_STEPS or self.is_over:
            self.autosave()

    def undo(self) -> None:
        """Takes the last step back."""
        if len(self.past) == 1:
            self.message = "that was the first step" if not self.steps else "there is no way further back"
            return
        self.past.pop()
        _, self.info = self.env.restore(self.past[-1])
        self.recorder.truncate(self.env.steps)
        self.last_button = BUTTONS[self.recorder.actions[-1]] if self.steps else ""
        self.unsaved_steps += 1
        self.message = f"back at step {self.steps}"

    def save_slot(self, number: int) -> None:
        """Keeps this moment, also as a file to begin episodes from."""
        self.slots[number] = Slot(self.number, self.recorder.copy(), self.past.copy(), self.info)
        path = self.args.output / f"slot_{number}.state"
        try:
            self.env.save_state().save(path)
        except OSError as error:
            raise CleanPokeError(f"cannot write {path} ({error.strerror}): free some space") from error
        self.message = f"slot {number}: saved at step {self.steps}"

    def load_slot(self, number: int) -> None:
        """Goes back to a moment of this episode; one of another episode begins a new episode there."""
        slot = self.slots.get(number)
        path = self.args.output / f"slot_{number}.state"
        if slot is not None and slot.episode == self.number:
            self.recorder, self.past, self.info = slot.recorder.copy(), slot.past.copy(), slot.info
            self.env.restore(self.past[-1])
            self.last_button = ""
            self.unsaved_steps += 1
            self.message = f"slot {number}: back at step {self.steps}"
        elif not path.exists():
            self.message = f"slot {number} is empty: F{number} saves into it"
        elif self.steps == 0 or self.is_sure(str(number), "keep this episode and begin one there"):
            state = SaveState.load(path)
            state.check(self.env.core)
            if self.steps:
                self.save()
            self.begin(state)
            self.message = f"a new episode begins at slot {number}"

    def mark(self) -> None:
        step = self.steps
        self.message = f"a segment {'begins' if self.recorder.mark() else 'ends'} at step {step}"
        self.unsaved_steps += 1

    def keep(self) -> None:
        """Writes the episode and begins the next one; where this one was cut off for its length, there."""
        if not self.steps:
            self.message = "nothing has been pressed yet"
            return
        state = self.env.save_state() if self.recorder.ends[-1][1] else None
        kept, steps = self.number, self.steps
        self.save()
        self.begin(state)
        self.message = f"episode {kept} is kept, {steps} steps; this is episode {self.number}"

    def discard(self) -> None:
        """Forgets the episode, also what was saved of it, and begins anew."""
        if self.steps == 0 or self.is_sure("Delete", "discard this episode"):
            for ending in (".npz", ".demo"):
                self.path.with_suffix(ending).unlink(missing_ok=True)
            self.slots = {key: slot for key, slot in self.slots.items() if slot.episode != self.number}
            self.begin()
            self.message = "discarded; this is a new beginning"

    def is_sure(self, key: str, effect: str) -> bool:
        """Whether the same key was pressed a moment before; otherwise asks for it."""
        now, (asked, then) = time.monotonic(), self._asked
        self._asked = (key, now)
        if asked == key and now - then < SURE_SECONDS:
            self._asked = ("", 0.0)
            return True
        self.message = f"press {key} once more to {effect}"
        return False

    def autosave(self) -> None:
        """Writes the log, from which all else can be made again."""
        self.unsaved_steps = 0
        if self.steps:
            self.recorder.save_log(self.path)
        else:
            self.path.with_suffix(".demo").unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)  # of an episode that was resumed, and is another one now

    def save(self) -> None:
        self.recorder.save(self.path)
        self.unsaved_steps = 0

    def close(self) -> None:
        """Keeps the episode, if anything was pressed."""
        if self.steps:
            self.save()
            print(f"{self.path}: {self.steps} steps, {len(self.info['milestones'])} milestones")
        else:
            self.autosave()

    def resume(self) -> None:
        """Goes on with the last episode of the folder, unless it has ended. Without one: CleanPokeError."""
        logs = sorted(self.args.output.glob("episode_*.demo"))
        if not logs:
            raise CleanPokeError(f"{self.args.output} holds no episode to resume: leave --resume out")
        log = demos.load_log(logs[-1])
        past = deque([], maxlen=REWIND_STEPS + 1)
        line = Progress()

        def on_step(step: int) -> None:
            if step >= len(log.actions) - REWIND_STEPS:
                past.append(self.env.snapshot())
            line.update(step, len(log.actions))

        recorder = demos.play_again(log, self.env, on_step)
        line.end()
        if any(recorder.ends[-1]):
            self.begin()
            self.message = f"{log.path.stem} has ended: this is the next one"
            return
        self.number = int(log.path.stem.rpartition("_")[2])
        self.recorder, self.past = recorder, past
        _, self.info = self.env.restore(past[-1])
        self.message = f"episode {self.number} goes on at step {self.steps}"


def next_number(folder: Path) -> int:
    """One more than the highest number of an episode."""
    stems = [path.stem for ending in ("npz", "demo") for path in folder.glob(f"episode_*.{ending}")]
    numbers = [int(stem.rpartition("_")[2]) for stem in stems if stem.rpartition("_")[2].isdecimal()]
    return max(numbers, default=-1) + 1


def complete(folder: Path, env: EmeraldEnv) -> None:
    """Makes the episodes of logs that were left alone when a session ended abruptly."""
    rules = env.max_steps, env.step_cost
    for path in sorted(folder.glob("episode_*.demo")):
        if path.with_suffix(".npz").exists():
            continue
        try:
            episode = demos.replay(path, env)
        except CleanPokeError as error:
            print(f"note: {error}")
            continue
        demos.save_episode(path.with_suffix(".npz"), episode)
        print(f"{path.with_suffix('.npz')}: {len(episode)} steps, from a session that was cut off")
    env.max_steps, env.step_cost = rules


# --- What is seen -----------------------------------------------------------------------------------------

PANEL, EDGE, BAR_HEIGHT = 372, 14, 104
MILESTONE_WIDTH = 176
BACKGROUND, CARD, LINE = (17, 19, 26), (27, 30, 40), (52, 57, 74)
WHITE, GREY, GOLD = (235, 237, 243), (140, 147, 166), (255, 203, 92)
RED, GREEN, BLUE = (239, 88, 88), (98, 207, 140), (98, 152, 255)


def title_of(name: str) -> str:
    """CLOCK_SET to "Clock set"."""
    return name.replace("_", " ").capitalize()


class Window:
    """Draws a session: the game, what memory says, the milestones, the buttons."""

    def __init__(self, scale: int, speed: float, caption: str):
        """Raises CleanPokeError without a display."""
        self.game_size = (WIDTH * scale, HEIGHT * scale)
        width = self.game_size[0] + PANEL + 3 * EDGE
        height = max(self.game_size[1] + BAR_HEIGHT + 3 * EDGE, 600)
        self.screen = open_window((width, height), caption)
        controller.init()
        self.caption = caption
        self.fonts = {size: pygame.font.Font(None, size) for size in (20, 22, 28, 40)}
        self.game_place = pygame.Rect((EDGE, EDGE), self.game_size)
        self.speed, self.is_paused, self.shows_help = speed, False, False

    def text(self, words: str, place: tuple[int, int], size: int = 20, colour: Any = WHITE) -> int:
        """Writes a line; returns where it ends."""
        return self.screen.blit(self.fonts[size].render(words, True, colour), place).right

    def card(self, place: pygame.Rect) -> None:
        pygame.draw.rect(self.screen, CARD, place, border_radius=8)

    def draw_game(self, pixels: np.ndarray) -> None:
        """pixels (160, 240, 3 or more)"""
        picture = pygame.surfarray.make_surface(pixels[..., :3].swapaxes(0, 1))
        self.screen.blit(pygame.transform.scale(picture, self.game_size), self.game_place)

    def show_game(self, pixels: np.ndarray) -> None:
        """Only the game, while a step moves it."""
        self.draw_game(pixels)
        pygame.display.update(self.game_place)

    def draw(self, session: Session) -> None:
        pygame.display.set_caption(f"{self.caption}, episode {session.number}, step {session.steps}")
        self.screen.fill(BACKGROUND)
        self.draw_game(session.recorder.observations[-1])
        left = self.game_place.right + EDGE
        top = self.draw_status(session, pygame.Rect(left, EDGE, PANEL, 96))
        top = self.draw_memory(session, pygame.Rect(left, top + EDGE, PANEL, 184))
        bottom = self.screen.get_height() - EDGE
        self.draw_milestones(session, pygame.Rect(left, top + EDGE, PANEL, bottom - top - EDGE))
        below = self.game_place.bottom + EDGE
        self.draw_bar(session, pygame.Rect(EDGE, below, self.game_size[0], bottom - below))
        if self.shows_help:
            self.draw_help()
        elif self.is_paused:
            self.draw_banner("paused", "P goes on", GOLD)
        elif session.is_over:
            won = session.recorder.ends[-1][0]
            self.draw_banner("the end" if won else "cut off here", "N keeps it   Delete discards it", GREEN)
        pygame.display.flip()

    def draw_status(self, session: Session, place: pygame.Rect) -> int:
        self.card(place)
        is_marking = bool(session.recorder.segments) and session.recorder.segments[-1][1] is None
        words, colour = ("over", GREEN) if session.is_over else ("rec", RED)
        if self.is_paused:
            words, colour = "paused", GOLD
        pygame.draw.circle(self.screen, colour, (place.x + 20, place.y + 22), 7)
        end = self.text(words, (place.x + 34, place.y + 14), 22, colour)
        end = self.text(f"episode {session.number}", (end + 14, place.y + 14), 22)
        if is_marking:
            pygame.draw.circle(self.screen, BLUE, (end + 22, place.y + 22), 7)
            self.text("segment", (end + 34, place.y + 14), 22, BLUE)
        total = sum(session.recorder.rewards)
        self.text(f"step {session.steps}", (place.x + 14, place.y + 42), 28)
        self.text(f"return {total:+.3f}", (place.x + 150, place.y + 42), 28)
        details = f"{self.speed:g}x   slots {' '.join(map(str, sorted(session.slots))) or 'none'}"
        if session.env.is_tiny_town:
            details += f"   variant {session.info['variant']}"
        self.text(details, (place.x + 14, place.y + 72), 20, GREY)
        return place.bottom

    def draw_memory(self, session: Session, place: pygame.Rect) -> int:
        self.card(place)
        state, x, y = session.info["state"], place.x + 14, place.y + 12
        if state is None:
            self.text("no game has begun yet: Enter starts it", (x, y), 20, GREY)
            return place.bottom
        self.text(f"map {state.map[0]}.{state.map[1]}", (x, y), 22)
        self.text(f"at {state.x}, {state.y}  facing {FACING.get(state.facing, '-')}", (x + 90, y), 22)
        modes = {"battle": state.in_battle, "text": state.text, "busy": state.controls_locked}
        mode = next((name for name, is_on in modes.items() if is_on), "")
        self.text(mode, (place.right - 58, y), 22, GOLD)
        self.text(f"{state.name or '-'}   money {state.money}   badges", (x, y + 24), 20, GREY)
        for badge in range(8):
            centre = (place.right - 116 + 14 * badge, y + 31)
            pygame.draw.circle(self.screen, GOLD if badge < state.badges else LINE, centre, 5)
        if not state.party:
            self.text("no party", (x, y + 50), 20, GREY)
        for index, member in enumerate(state.party):
            row = y + 50 + 20 * index
            self.text(f"no. {member.species}  level {member.level}", (x, row), 20)
            bar = pygame.Rect(x + 140, row + 3, 110, 8)
            share = member.hp / max(member.max_hp, 1)
            pygame.draw.rect(self.screen, LINE, bar, border_radius=4)
            if member.hp:
                colour = GREEN if share > 0.5 else GOLD if share > 0.2 else RED
                filled = pygame.Rect(bar.topleft, (max(int(bar.width * share), 4), bar.height))
                pygame.draw.rect(self.screen, colour, filled, border_radius=4)
            self.text(f"{member.hp}/{member.max_hp}", (x + 260, row), 20, GREY)
        return place.bottom

    def draw_milestones(self, session: Session, place: pygame.Rect) -> None:
        self.card(place)
        reached = session.env.progress.reached
        self.text(f"milestones {len(reached)} of {len(NAMES)}", (place.x + 14, place.y + 10), 20, GREY)
        rows = -(-len(NAMES) // 2)
        height = min((place.height - 38) // rows, 22)
        for index, name in enumerate(NAMES):
            x, y = place.x + 14 + index // rows * MILESTONE_WIDTH, place.y + 32 + index % rows * height
            is_there = name in reached
            pygame.draw.circle(self.screen, GOLD if is_there else LINE, (x + 5, y + 7), 4)
            is_new = name in session.info["new_milestones"]
            colour = GOLD if is_new else WHITE if is_there else GREY
            end = self.text(title_of(name), (x + 15, y), 20, colour)
            if is_there and reached[name] and end < x + MILESTONE_WIDTH - 30:
                self.text(str(reached[name]), (end + 6, y), 20, GREY)

    def draw_bar(self, session: Session, place: pygame.Rect) -> None:
        """The buttons, what the text box says, and what has just happened."""
        self.card(place)
        self.screen.set_clip(place)
        self.draw_buttons(session.last_button, place.x + 14, place.y + 12)
        state, x = session.info["state"], place.x + 210
        lines = state.text.split("\n")[:2] if state is not None and state.text else []
        for index, line in enumerate(lines):
            self.text(line, (x, place.y + 14 + 22 * index), 22)
        columns = max((place.right - x) // 8, 10)
        for index, line in enumerate(textwrap.wrap(session.message, columns)[:2]):
            self.text(line, (x, place.y + 56 + 17 * index), 20, GOLD)
        # The episode as a line, with its marked segments.
        line = pygame.Rect(x, place.bottom - 12, place.right - x - 14, 4)
        pygame.draw.rect(self.screen, LINE, line, border_radius=2)
        for first, end in session.recorder.segments:
            share = line.width / max(session.steps, 1)
            width = ((session.steps if end is None else end) - first) * share
            pygame.draw.rect(self.screen, BLUE, (line.x + first * share, line.y, width, 4), border_radius=2)
        self.screen.set_clip(None)

    def draw_buttons(self, pressed: str, x: int, y: int) -> None:
        """A console's buttons, the last one lit."""

        def colour(button: str) -> tuple[int, int, int]:
            return GOLD if button == pressed else LINE

        places = {"UP": (26, 14), "DOWN": (26, 58), "LEFT": (4, 36), "RIGHT": (48, 36)}
        for button, (dx, dy) in places.items():
            pygame.draw.rect(self.screen, colour(button), (x + dx, y + dy, 20, 20), border_radius=4)
        for button, (dx, dy) in {"B": (118, 54), "A": (154, 38)}.items():
            pygame.draw.circle(self.screen, colour(button), (x + dx, y + dy), 15)
            self.text(button, (x + dx - 5, y + dy - 6), 20, BACKGROUND if button == pressed else WHITE)
        for button, dx in {"L": 4, "R": 132}.items():
            pygame.draw.rect(self.screen, colour(button), (x + dx, y - 4, 40, 10), border_radius=5)
        for button, dx in {"SELECT": 76, "START": 98}.items():
            pygame.draw.rect(self.screen, colour(button), (x + dx, y + 74, 18, 8), border_radius=4)

    def draw_banner(self, words: str, below: str, colour: Any) -> None:
        """Big words over the game, which is darkened."""
        shade = pygame.Surface(self.game_size, pygame.SRCALPHA)
        shade.fill((10, 12, 18, 150))
        self.screen.blit(shade, self.game_place)
        for line, size, drop in ((words, 40, -20), (below, 22, 18)):
            picture = self.fonts[size].render(line, True, colour)
            self.screen.blit(picture, picture.get_rect(center=self.game_place.move(0, drop).center))

    def draw_help(self) -> None:
        shade = pygame.Surface(self.screen.get_size(), pygame.SRCALPHA)
        shade.fill((10, 12, 18, 225))
        self.screen.blit(shade, (0, 0))
        for index, (keys, meaning) in enumerate(HELP):
            self.text(keys, (40, 36 + 30 * index), 22, GOLD)
            self.text(meaning, (220, 36 + 30 * index), 22)


# --- What hands do ----------------------------------------------------------------------------------------


class Hands:
    """What has been pressed on keyboard and gamepad and waits, and what is held."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque()
        self.held: list[str] = []
        """Arrows and commands, the last one pressed last."""
        self.commands: list[tuple[str, int]] = []
        """(command, number of a slot or 0)"""
        self.pads: dict[int, Any] = {}
        self.stick: dict[int, str] = {}

    def read(self) -> bool:
        """Takes in all events; whether there were any."""
        events = pygame.event.get()
        for event in events:
            if event.type == pygame.QUIT:
                self.commands.append(("quit", 0))
            elif event.type == pygame.WINDOWFOCUSLOST:
                self.held.clear()  # keys are let go elsewhere then
            elif event.type in (pygame.KEYDOWN, pygame.KEYUP):
                is_down = event.type == pygame.KEYDOWN
                self._button(BUTTON_KEYS.get(event.key), is_down)
                self._command(COMMAND_KEYS.get(event.key), is_down)
                if is_down and event.key in SAVE_KEYS:
                    self.commands.append(("save", SAVE_KEYS[event.key]))
                elif is_down and event.key in LOAD_KEYS:
                    self.commands.append(("load", LOAD_KEYS[event.key]))
            elif event.type in (pygame.CONTROLLERBUTTONDOWN, pygame.CONTROLLERBUTTONUP):
                is_down = event.type == pygame.CONTROLLERBUTTONDOWN
                self._button(PAD_BUTTONS.get(event.button), is_down)
                self._command(PAD_COMMANDS.get(event.button), is_down)
            elif event.type == pygame.CONTROLLERAXISMOTION and event.axis in STICK:
                self._stick(event.axis, event.value)
            elif event.type == pygame.CONTROLLERDEVICEADDED:
                with contextlib.suppress(pygame.error):  # it may be gone again
                    pad = controller.Controller(event.device_index)
                    self.pads[pad.as_joystick().get_instance_id()] = pad
            elif event.type == pygame.CONTROLLERDEVICEREMOVED:
                self.pads.pop(event.instance_id, None)
        return bool(events)

    def _button(self, button: str | None, is_down: bool) -> None:
        if button is None:
            return
        if button in self.held:
            self.held.remove(button)
        if is_down:
            if len(self.waiting) < 2:  # more would come long after they were pressed
                self.waiting.append(button)
            if button in ARROWS:
                self.held.append(button)

    def _command(self, command: str | None, is_down: bool) -> None:
        if command in HELD_COMMANDS:
            if command in self.held:
                self.held.remove(command)
            if is_down:
                self.held.append(command)
        if command is not None and is_down:
            self.commands.append((command, 0))

    def _stick(self, axis: int, value: int) -> None:
        pushed = "" if abs(value) < STICK_THRESHOLD else STICK[axis][value > 0]
        before = self.stick.get(axis, "")
        if pushed != before:
            self.stick[axis] = pushed
            self._button(before or None, False)
            self._button(pushed or None, True)

    def button(self) -> str | None:
        """The next one to press: what waits, else the arrow that is held."""
        if self.waiting:
            return self.waiting.popleft()
        arrows = [button for button in self.held if button in ARROWS]
        return arrows[-1] if arrows else None


def obey(command: str, slot: int, session: Session, window: Window) -> None:
    """Carries out a command. A full disk or a bad slot is told in the window, and nothing is lost."""
    if command == "help":
        window.shows_help = not window.shows_help
    elif command == "pause":
        window.is_paused = not window.is_paused
    elif command in ("faster", "slower"):
        nearest = min(range(len(SPEEDS)), key=lambda index: abs(SPEEDS[index] - window.speed))
        moved = nearest + (1 if command == "faster" else -1)
        window.speed = SPEEDS[min(max(moved, 0), len(SPEEDS) - 1)]
    if window.is_paused:
        return
    try:
        if command == "undo":
            session.undo()
        elif command == "save":
            session.save_slot(slot)
        elif command == "load":
            session.load_slot(slot)
        elif command == "mark":
            session.mark()
        elif command == "discard":
            session.discard()
        elif command == "keep":
            session.message = "saving …"
            window.draw(session)
            session.keep()
        elif command == "skip" and not session.shows_text:
            session.message = "no text is shown: Space presses A only then"
    except CleanPokeError as error:
        session.message = str(error)


def play(session: Session, window: Window, stop: StopSignal) -> None:
    """Until the window is closed."""
    hands, clock, frame = Hands(), pygame.time.Clock(), 0

    def show_frame() -> None:
        nonlocal frame
        frame += 1
        frames_per_picture = max(round(window.speed * CONSOLE_FRAMES_PER_SECOND / PICTURES_PER_SECOND), 1)
        if frame % frames_per_picture == 0:
            window.show_game(session.env.core.pixels)
            clock.tick(window.speed * CONSOLE_FRAMES_PER_SECOND / frames_per_picture)
            pygame.event.pump()

    window.draw(session)
    while not stop:
        is_changed = hands.read()
        for command, slot in hands.commands:
            if command == "quit":
                return
            obey(command, slot, session, window)
        hands.commands.clear()
        button = hands.button()
        is_rewinding, is_skipping = "rewind" in hands.held, "skip" in hands.held and session.shows_text
        is_walking = button is not None and not is_rewinding and not is_skipping
        if not window.is_paused and (is_rewinding or is_skipping or is_walking):
            session.env.on_frame = show_frame if is_walking else None
            try:
                if is_rewinding:
                    session.undo()
                else:
                    session.press(button if is_walking else "A")
            except CleanPokeError as error:  # the disk is full; the step itself has been taken
                session.message = str(error)
            is_changed = True
        if is_changed:
            window.draw(session)
        if not is_walking or window.is_paused or session.is_over:
            clock.tick(REWINDS_PER_SECOND if is_rewinding else PICTURES_PER_SECOND)


def help_text() -> str:
    return "\n".join(f"  {keys:<20} {meaning}" for keys, meaning in HELP)


def main(args: Args) -> None:
    if args.help_keys:
        print(help_text())
        return
    if args.max_steps < 1 or args.seed < 0 or args.speed <= 0 or not 1 <= args.scale <= 10:
        raise CleanPokeError(
            "--max-steps must be at least 1, --seed at least 0, --speed above 0, --scale from 1 to 10"
        )
    is_shuffled = is_tiny_town(args.rom_path) and not args.fixed
    env = EmeraldEnv(
        args.rom_path,
        start_state=args.start_state,
        variant="random" if is_shuffled else 0,
        max_steps=args.max_steps,
    )
    episode_files.open_folder(args.output, demos.settings_of(env))
    window = Window(args.scale, args.speed, f"CleanPoke: {env.core.title.strip() or args.rom_path.name}")
    try:
        with StopSignal() as stop:
            if not args.resume:
                complete(args.output, env)
            session = Session(args, env)
            if args.resume:
                session.resume()
            try:
                play(session, window, stop)
            finally:
                session.close()
    finally:
        pygame.quit()


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
