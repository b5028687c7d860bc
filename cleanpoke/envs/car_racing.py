"""CarRacing-v3 from pixels, faster than gymnasium plays it; and the frozen encoders that read its pictures.

gymnasium draws every frame, and drawing is nearly all of the time that a frame takes. Here an action lasts
several frames, of which the last one is drawn; and of road and grass only what is in the picture. The pixels
are gymnasium's own (tests/envs/test_car_racing.py); benchmark/car_racing.py measures the speed.

An encoder file (`encoder.pt2`) holds weights and graph, so that reading one needs no class of any script.
"""

import copy
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from cleanpoke.errors import DISK_FULL, CleanPokeError
from cleanpoke.run import atomic_file

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
try:
    import pygame
    from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, WINDOW_H, WINDOW_W, CarRacing
    from pygame import gfxdraw
except (ImportError, gym.error.DependencyNotInstalled) as error:
    raise CleanPokeError("CarRacing needs two packages: pip install box2d pygame-ce") from error

ENV_ID = "CarRacing-v3"
MAX_FRAMES = gym.spec(ENV_ID).max_episode_steps
"""An episode is cut off after so many frames, 50 of which are a second."""
SIZE = 48
"""Height and width of the pictures that encoders read."""
CORNERS = np.array([(1, 0), (0, 0), (0, 1), (1, 1)])
GRASS = GRASS_DIM * np.array([CORNERS + (x, y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)])
"""The patches of grass that gymnasium draws, (400, 4, 2)."""


class Circuit(CarRacing):
    """gymnasium's CarRacing, drawn only when somebody looks: `reset` and `step` show None."""

    def reset(self, **options: Any) -> tuple[None, dict[str, Any]]:
        result = super().reset(**options)
        road = np.array([corners for corners, _ in self.road_poly])
        self.quads = np.concatenate([GRASS, road])  # (Q, 4, 2), in the order of gymnasium's drawing
        return result

    def picture(self) -> np.ndarray:
        """What gymnasium would have shown after the last step, (96, 96, 3) uint8."""
        now, self.reward = self.reward, self.reward_shown
        try:
            return super()._render("state_pixels")
        finally:
            self.reward = now

    def _render(self, mode: str) -> np.ndarray | None:
        if mode != "state_pixels":
            return super()._render(mode)
        self.reward_shown = self.reward  # it stands in a corner of the picture, without the step's own cost
        return None

    def _render_road(self, zoom: float, translation: tuple[float, float], angle: float) -> None:
        """As gymnasium's, but all corners turn at once, and what is outside of the picture is left out."""
        field = [(PLAYFIELD, PLAYFIELD), (PLAYFIELD, -PLAYFIELD), (-PLAYFIELD, -PLAYFIELD)]
        field.append((-PLAYFIELD, PLAYFIELD))
        self._draw_colored_polygon(self.surf, field, self.bg_color, zoom, translation, angle, clip=False)
        cos, sin = pygame.math.Vector2(1, 0).rotate_rad(angle)  # as gymnasium turns, to the last bit
        x, y = self.quads[..., 0], self.quads[..., 1]
        points = np.stack([x * cos - y * sin, x * sin + y * cos], -1) * zoom + translation
        is_visible = (points.max(1) > -2).all(1) & (points.min(1) < (WINDOW_W + 2, WINDOW_H + 2)).all(1)
        for index in np.flatnonzero(is_visible):
            is_grass = index < len(GRASS)
            color = self.grass_color if is_grass else self.road_poly[index - len(GRASS)][1]
            corners, color = points[index].tolist(), [int(part) for part in color]
            gfxdraw.aapolygon(self.surf, corners, color)
            gfxdraw.filled_polygon(self.surf, corners, color)


def small_picture(picture: np.ndarray) -> np.ndarray:
    """(96, 96, 3) uint8 to (48, 48) uint8: grey, green counting double, and means of 2 x 2 pixels."""
    grey = picture @ np.array([1, 2, 1], np.uint16)
    blocks = grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]
    return (blocks >> 4).astype(np.uint8)


class CarPictures(gym.Env):
    """CarRacing-v3 with continuous actions (steering, gas, brake) and stacks of small grey pictures.

    Observations (K, 48, 48) uint8, oldest picture first. An action lasts `action_repeat` frames, or until the
    episode ends; rewards are the sums of gymnasium's. The time limit is gymnasium's 1,000 frames, and a
    truncation. patience: frames without a new tile of road after which an episode is cut off as well (a
    truncation, too: its last state is worth what it would have been), for training alone; 0: never.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
    render_mode = "rgb_array"

    def __init__(self, action_repeat: int = 8, frames: int = 4, patience: int = 0):
        self.action_repeat, self.frames, self.patience = action_repeat, frames, patience
        self.circuit = Circuit()
        self.action_space = self.circuit.action_space
        self.observation_space = gym.spaces.Box(0, 255, (frames, SIZE, SIZE), np.uint8)
        self.stack = np.zeros((frames, SIZE, SIZE), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.circuit = Circuit()  # what was driven before leaves traces in the order of Box2D's sums
        self.circuit.reset(seed=seed, options=options)
        self.frames_played = self.frames_idle = 0
        self.stack[:] = small_picture(self.circuit.picture())
        return self.stack.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        total, action = 0.0, np.asarray(action)
        for _ in range(self.action_repeat):
            _, reward, terminated, _, info = self.circuit.step(action)
            total += reward
            self.frames_played += 1
            self.frames_idle = 0 if reward > 0 else self.frames_idle + 1
            truncated = self.frames_played >= MAX_FRAMES or self.frames_idle == self.patience > 0
            if terminated or truncated:
                break
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = small_picture(self.circuit.picture())
        return self.stack.copy(), float(total), terminated, truncated, info

    def render(self) -> np.ndarray:
        """The last picture as gymnasium shows it to agents, (96, 96, 3)."""
        return self.circuit.picture()

    def close(self) -> None:
        self.circuit.close()


# --- Encoders ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """How an encoder's pictures come about; goes into its file."""

    env_id: str
    action_repeat: int
    frames: int
    latent_dim: int


@dataclass(frozen=True, slots=True)
class FrozenEncoder:
    """What an encoder file holds."""

    reading: Reading
    weights: dict[str, Tensor]
    checksum: str
    """Of the file: a setting of recorded episodes."""
    network: Callable[[Tensor], Tensor]
    """Pictures (B, K, 48, 48) uint8 to latents (B, latent_dim) float32."""

    @torch.inference_mode()
    def latents(self, pictures: np.ndarray) -> np.ndarray:
        """(B, K, 48, 48) uint8 to (B, latent_dim) float32."""
        return self.network(torch.from_numpy(pictures)).numpy()


def save_encoder(path: Path, network: nn.Module, reading: Reading) -> None:
    """Writes weights and graph of an encoder, complete or not at all. Raises CleanPokeError if the disk
    refuses it."""
    pictures = torch.zeros(2, reading.frames, SIZE, SIZE, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    buffer = io.BytesIO()
    # Weights in the standard order of memory: torch packages no other.
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        program = torch.export.export(network, (pictures,), dynamic_shapes=({0: batch},))
    torch.export.save(program, buffer, extra_files={"cleanpoke.json": json.dumps(asdict(reading))})
    write_encoder(path, buffer.getvalue())


def write_encoder(path: Path, content: bytes) -> None:
    """Writes an encoder file as it is. Raises CleanPokeError if the disk refuses it."""
    try:
        with atomic_file(path) as file:
            file.write(content)
    except OSError as error:
        problem = "the disk is full" if error.errno in DISK_FULL else error.strerror
        raise CleanPokeError(f"cannot write {path}: {problem}") from error


def load_encoder(path: Path) -> FrozenEncoder:
    """Raises CleanPokeError for a file that is not there, or no encoder."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CleanPokeError(
            f"cannot read {path} ({error.strerror}): give the encoder.pt2 of a run of ppo_carracing.py"
        ) from error
    extra = {"cleanpoke.json": ""}
    try:
        program = torch.export.load(io.BytesIO(content), extra_files=extra)
        reading = Reading(**json.loads(extra["cleanpoke.json"]))
    except Exception as error:  # torch raises a dozen kinds, and all of them mean the same to the user
        raise CleanPokeError(
            f"{path} is damaged or no encoder: give the encoder.pt2 of a run of ppo_carracing.py"
        ) from error
    weights = {name: weight.detach().clone() for name, weight in program.state_dict.items()}
    return FrozenEncoder(reading, weights, hashlib.sha256(content).hexdigest()[:16], program.module())


class Latents(gym.ObservationWrapper):
    """Shows the latents (latent_dim,) float32 that a frozen encoder makes of the pictures."""

    def __init__(self, env: gym.Env, encoder: FrozenEncoder):
        super().__init__(env)
        self.encoder = encoder
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (encoder.reading.latent_dim,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return self.encoder.latents(observation[None])[0]


def latent_env(env_id: str, encoder_path: Path) -> Latents:
    """The environment as this encoder sees it, its actions as long as the encoder is used to.

    Raises CleanPokeError if the encoder reads pictures of something else, or is none.
    """
    encoder = load_encoder(encoder_path)
    if encoder.reading.env_id != env_id or env_id != ENV_ID:
        raise CleanPokeError(
            f"{encoder_path} reads pictures of {encoder.reading.env_id}, not of {env_id}: give a matching one"
        )
    return Latents(CarPictures(encoder.reading.action_repeat, encoder.reading.frames), encoder)
