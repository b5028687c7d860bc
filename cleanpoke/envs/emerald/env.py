"""Emerald as a gymnasium environment: pictures in, buttons out, milestones as reward.

    env = EmeraldEnv()                                    # Tiny Town, the game that comes with this project
    env = EmeraldEnv("emerald.gba", start_state="bedroom.state")

One step presses a button for `press_frames` and lets it go for `release_frames`. The reward is 1 for each
milestone, the first time it is reached, less a small cost of each step; nothing can be earned twice.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np

from cleanpoke.envs.emerald import memory
from cleanpoke.envs.emerald.core import BUTTONS, HEIGHT, WIDTH, Core
from cleanpoke.envs.emerald.memory import GameState
from cleanpoke.envs.emerald.milestones import Progress
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.errors import CleanPokeError

TINY_TOWN = Path(__file__).parent / "tiny_town" / "tiny_town.gba"
TINY_TOWN_CODE = "ZTTE"
EMERALD = ("BPEE", 0)
"""Game code and revision of the one cartridge whose memory memory.py knows: Pokémon Emerald (USA, 1.0)."""


def is_tiny_town(rom_path: Path) -> bool:
    """Whether a file is our own game, wherever it lies. Raises CleanPokeError if it cannot be read."""
    try:
        return rom_path.is_file() and rom_path.read_bytes()[0xAC:0xB0] == TINY_TOWN_CODE.encode()
    except OSError as error:
        raise CleanPokeError(
            f"cannot read the ROM {rom_path} ({error.strerror}): check --rom-path"
        ) from error


RESOLUTIONS = [(160 // part, 240 // part) for part in range(1, 81) if 80 % part == 0]
"""Whole parts of the screen."""
VARIANT = 0x0203FF00
"""Where Tiny Town looks for the number of its variant; 0 is the standard one."""
BOOT_FRAMES = 90
"""Until the title of Tiny Town stands."""
MAX_VARIANT = 2**32 - 1
MAX_BEGINNINGS = 24
"""How many states an environment remembers with their first frame, 1 MB each."""
MILESTONE_STATES = 4
"""How many states of each milestone a curriculum remembers, 400 KB each."""
NOOP = "NOOP"
Variant = int | Literal["random"]


class Beginning(NamedTuple):
    """A state after its first frame: enough for `reset` to begin there again without running anything."""

    content: bytes
    pixels: np.ndarray
    observation: np.ndarray
    info: dict[str, Any]
    reached: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of an episode to go back to: console and picture, compressed, and what was reached when."""

    console: bytes
    picture: bytes
    reached: dict[str, int]
    steps: int


class EmeraldEnv(gym.Env):
    """One game. Buttons, in order: A, B, START, SELECT, UP, DOWN, LEFT, RIGHT, L, R (and NOOP, if asked for).

    rom_path: Tiny Town, or a Pokémon Emerald (USA, 1.0) of your own.
    start_state: where episodes of a game begin that has no short way in; without it at power-on.
    variant: of Tiny Town: a number, or "random", drawn at each reset; 0 is the standard town.
    resolution, grayscale: of the observation; (160, 240) in colour is what the screen shows.
    max_steps: after so many steps an episode is truncated. It is terminated by the first badge.
    curriculum: begin episodes at a milestone that some episode has reached, half of the time.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 15}  # noqa: RUF012 (gymnasium's way)

    def __init__(
        self,
        rom_path: str | Path = TINY_TOWN,
        *,
        start_state: SaveState | str | Path | None = None,
        variant: Variant = 0,
        press_frames: int = 12,
        release_frames: int = 12,
        resolution: tuple[int, int] = (HEIGHT, WIDTH),
        grayscale: bool = False,
        with_noop: bool = False,
        max_steps: int = 10_000,
        step_cost: float = 0.001,
        curriculum: bool = False,
        render_mode: str | None = None,
    ):
        if press_frames < 1 or release_frames < 0:
            raise CleanPokeError("press_frames must be at least 1, release_frames at least 0")
        if tuple(resolution) not in RESOLUTIONS:
            raise CleanPokeError(
                f"resolution {resolution}: choose (160, 240) or a whole part of it, such as (80, 120)"
            )
        height, width = resolution
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise CleanPokeError(f"render_mode {render_mode!r}: choose 'human', 'rgb_array' or None")
        self.core = Core(rom_path)
        self.is_tiny_town = self.core.game_code == TINY_TOWN_CODE
        identity = (self.core.game_code, self.core.revision)
        if not self.is_tiny_town and identity != EMERALD:
            self.core.close()
            raise CleanPokeError(
                f"{rom_path} is {self.core.title!r}, code {identity[0]!r}, revision {identity[1]}, whose "
                "memory is not known: give Pokémon Emerald (USA, 1.0), code 'BPEE', revision 0, or no ROM at "
                "all (tools/check_rom.py tells more)"
            )
        if variant != "random":
            self._check_variant(variant)
        elif not self.is_tiny_town:
            raise CleanPokeError(f"only Tiny Town has variants: leave `variant` out for {rom_path}")
        self.start_state = SaveState.load(start_state) if isinstance(start_state, str | Path) else start_state
        if self.start_state is not None:
            self.start_state.check(self.core)
        self.variant, self.current_variant = variant, 0
        self.press_frames, self.release_frames = press_frames, release_frames
        self.scale, self.grayscale = HEIGHT // height, grayscale
        self.buttons = (*BUTTONS, NOOP) if with_noop else BUTTONS
        self.max_steps, self.step_cost, self.curriculum = max_steps, step_cost, curriculum
        self.render_mode = render_mode
        self.milestone_states: dict[str, list[SaveState]] = {}
        """Name to the last few states just after an episode reached it, for the curriculum."""
        self.start: SaveState | None = None
        """Where the episode began: `reset` with it begins the same one."""
        self.on_frame: Callable[[], None] | None = None
        """Called after each frame of a step, which is then drawn: for people who want to see it move."""
        self._titles: dict[int, SaveState] = {}
        self._beginnings: dict[SaveState, Beginning] = {}
        self._window: Any = None
        self.progress, self.steps = Progress(), 0
        self.action_space = gym.spaces.Discrete(len(self.buttons))
        self.observation_space = gym.spaces.Box(0, 255, (height, width, 1 if grayscale else 3), np.uint8)

    # ---------------------------------------------------------------- episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Options: "state", a SaveState to begin from, or "variant", a number, of Tiny Town, for this game.

        Raises CleanPokeError for anything else there, and for a state of another cartridge.
        """
        options = options or {}
        state = options.get("state")
        if state is not None and not isinstance(state, SaveState):
            raise CleanPokeError(f"options: {state!r:.60} is no SaveState: SaveState.load(path) reads a file")
        if "variant" in options:
            self._check_variant(options["variant"])
            if state is not None or self.start_state is not None:
                raise CleanPokeError("options: a state brings its own variant: leave `variant` out")
        super().reset(seed=seed)
        drawn = self._draw_variant()  # always, so that options do not change the episodes after
        may_choose = state is None and "variant" not in options and self.curriculum and self.milestone_states
        if may_choose and self.np_random.random() < 0.5:
            name = list(self.milestone_states)[self.np_random.integers(len(self.milestone_states))]
            states = self.milestone_states[name]
            state = states[self.np_random.integers(len(states))]
        state = state or self.start_state
        is_remembered = True
        if state is None:
            variant = int(options.get("variant", drawn))
            state = self._power_on(variant)
            is_remembered = variant in self._titles
        state.check(self.core)
        self.start = state
        beginning = self._beginnings.get(state) or self._begin(state, is_remembered)
        self.core.load_state(beginning.content)
        self.core.pixels[:] = beginning.pixels
        self.current_variant = beginning.info["variant"]
        self.progress, self.steps = Progress(), 0
        self.progress.reached = dict(beginning.reached)
        info = {
            name: value.copy() if isinstance(value, np.ndarray | list) else value
            for name, value in beginning.info.items()
        }
        if self.render_mode == "human":
            self.render()
        return beginning.observation.copy(), info

    def _begin(self, state: SaveState, is_remembered: bool) -> Beginning:
        """Runs the first frame of a state: its picture comes only then."""
        self.core.load_state(state.content)
        self.core.run(1)
        if self.is_tiny_town:
            self.current_variant = self.core.u32(VARIANT)  # a state brings its own
        # What is reached already is no merit of this episode.
        self.progress, self.steps = Progress(), 0
        self.progress.reached = dict.fromkeys(state.milestones, 0)
        look = memory.read_state(self.core)
        self.progress.update(self.core, look, 0)
        observation, info = self._observation(), self._info(look, [])
        pixels, reached = self.core.pixels.copy(), self.progress.reached
        beginning = Beginning(self.core.save_state(), pixels, observation, info, reached)
        if is_remembered:
            if len(self._beginnings) == MAX_BEGINNINGS:
                del self._beginnings[next(iter(self._beginnings))]  # the oldest
            self._beginnings[state] = beginning
        return beginning

    def _check_variant(self, variant: Any) -> None:
        """Raises CleanPokeError for what is no number of a variant, or if the game has none."""
        if not isinstance(variant, int | np.integer) or not 0 <= variant <= MAX_VARIANT:
            raise CleanPokeError(
                f"variant {variant!r}: give a number, 0 … {MAX_VARIANT}, or make EmeraldEnv(variant='random')"
            )
        if variant != 0 and not self.is_tiny_town:
            raise CleanPokeError(f"only Tiny Town has variants: leave `variant` out for {self.core.rom}")

    def _draw_variant(self) -> int:
        if self.variant == "random":
            return int(self.np_random.integers(1, 2**31))
        return self.variant

    def _power_on(self, variant: int) -> SaveState:
        """The title of Tiny Town in a variant; of another game the moment of power-on."""
        if variant in self._titles:
            return self._titles[variant]
        self.core.reset()
        if self.is_tiny_town:
            self.core.write(VARIANT, variant.to_bytes(4, "little"))
            self.core.run(BOOT_FRAMES)
        title = SaveState(self.core.sha1, self.core.save_state())
        if variant in (0, self.variant):  # one drawn at random does not come again
            self._titles[variant] = title
        return title

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One button. Raises CleanPokeError for a number that none has."""
        if not 0 <= action < len(self.buttons):
            raise CleanPokeError(f"action {action}: a button is a number, 0 … {len(self.buttons) - 1}")
        button = self.buttons[int(action)]
        self.core.set_keys(() if button == NOOP else (button,))
        self._run(self.press_frames, drawn=0 if self.release_frames else 1)
        self.core.set_keys(())
        if self.release_frames:
            self._run(self.release_frames)
        self.steps += 1
        look = memory.read_state(self.core)
        new = self.progress.update(self.core, look, self.steps)
        reward = len(new) - self.step_cost
        terminated = "STONE_BADGE" in self.progress.reached
        if self.curriculum and new and not terminated:  # there is nothing to do in a game that is won
            self.remember({name: [self.save_state()] for name in new})
        truncated = not terminated and self.steps >= self.max_steps
        if self.render_mode == "human":
            self.render()
        return self._observation(), reward, terminated, truncated, self._info(look, new)

    def remember(self, states: dict[str, list[SaveState]]) -> None:
        """More states for the curriculum, by the milestone that they stand at; the oldest make room."""
        for name, more in states.items():
            self.milestone_states[name] = (self.milestone_states.get(name, []) + more)[-MILESTONE_STATES:]

    def _run(self, frames: int, drawn: int = 1) -> None:
        if self.on_frame is None:
            self.core.run(frames, drawn)
            return
        for _ in range(frames):
            self.core.run(1)
            self.on_frame()

    def snapshot(self) -> Snapshot:
        """This moment of the episode, in some KB."""
        console = zlib.compress(self.core.save_state(), 1)
        picture = zlib.compress(self.core.pixels.tobytes(), 1)
        return Snapshot(console, picture, dict(self.progress.reached), self.steps)

    def restore(self, snapshot: Snapshot) -> tuple[np.ndarray, dict[str, Any]]:
        """Goes back to a moment of this episode, as if what came after had never been.

        Unlike `reset` with a state it runs no frame and keeps the count of steps. Returns as `reset` does.
        """
        self.core.load_state(zlib.decompress(snapshot.console))
        picture = np.frombuffer(zlib.decompress(snapshot.picture), np.uint8)
        self.core.pixels[:] = picture.reshape(self.core.pixels.shape)
        self.progress.reached, self.steps = dict(snapshot.reached), snapshot.steps
        return self._observation(), self._info(memory.read_state(self.core), [])

    def save_state(self) -> SaveState:
        """The game as it is, to begin episodes from."""
        return SaveState(self.core.sha1, self.core.save_state(), tuple(self.progress.reached))

    def _observation(self) -> np.ndarray:
        picture = self.core.pixels[:: self.scale, :: self.scale, :3]
        if self.grayscale:
            grey = picture @ np.array([77, 150, 29], np.uint16) >> 8
            return grey.astype(np.uint8)[..., None]
        observation = np.empty((*picture.shape[:2], 3), np.uint8)
        for channel in range(3):  # one by one, which takes a quarter of the time
            observation[..., channel] = picture[..., channel]
        return observation

    def _info(self, look: GameState | None, new: list[str]) -> dict[str, Any]:
        tiles, blocked = memory.read_map(self.core)
        return {
            "state": look,
            "map_tiles": tiles,
            "map_blocked": blocked,
            "objects": memory.read_objects(self.core),
            "flags": memory.read_flags(self.core),
            "milestones": list(self.progress.reached),
            "new_milestones": new,
            "steps": self.steps,
            "variant": self.current_variant,
        }

    # ---------------------------------------------------------------- people

    def render(self) -> np.ndarray | None:
        """The screen (160, 240, 3), or, in mode human, a window. Raises CleanPokeError without a display."""
        if self.render_mode != "human":
            return np.ascontiguousarray(self.core.pixels[..., :3])
        import pygame

        from cleanpoke.watch import open_window  # only here: it brings torch, which games alone do not need

        if self._window is None:
            caption = "CleanPoke: " + (self.core.title or "Emerald")
            self._window = open_window((3 * WIDTH, 3 * HEIGHT), caption, ", or use render_mode='rgb_array'")
        pygame.event.pump()
        picture = pygame.surfarray.make_surface(self.core.pixels[..., :3].swapaxes(0, 1))
        self._window.blit(pygame.transform.scale(picture, self._window.get_size()), (0, 0))
        pygame.display.flip()
        return None

    def close(self) -> None:
        self.core.close()
        if self._window is not None:
            import pygame

            pygame.quit()
            self._window = None
