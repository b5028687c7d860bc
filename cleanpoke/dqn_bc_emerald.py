"""Learns to play Emerald, or its stand-in Tiny Town, from few demonstrations and its own experience.

Deep Q-learning from demonstrations (Hester et al. 2018): offline first, then playing. Double Q-learning (van
Hasselt et al. 2016) on n-step returns, an imitation term on the demonstrations, and a replay memory that
draws by priority (Schaul et al. 2016), half of each minibatch from demonstrations (Ball et al. 2023).

    python cleanpoke/dqn_bc_emerald.py

Axes: B rows of a minibatch, N games, A buttons; R places of the replay memory.
"""

import contextlib
import dataclasses
import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleanpoke.compute import autocast, start
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.env import TINY_TOWN
from cleanpoke.envs.emerald.playing import (
    COMPARED,
    TEST_GAMES,
    ensure_demonstrations,
    evaluate,
    find_demonstrations,
    load_weights,
    make_env,
    report,
    shrink,
    small_pictures,
    variants_of,
)
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import (
    Run,
    load_checkpoint,
    parse_arguments,
    restore_random_state,
    saved_arguments,
    seed_everything,
)
from cleanpoke.terminal import StopSignal

STATE_KEYS = ("network", "trained", "optimizer", "seconds", "data", "on_the_way", "env_steps")
NUM_ACTIONS = len(BUTTONS)
CHANNELS = (16, 32, 32)
"""Of the three stages of the network."""


@dataclasses.dataclass
class Args:
    # Run
    seed: int = 1
    """Seed of initialisation, minibatches, games and exploration."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    runs: Path = Path("runs")
    """Where the run's own folder goes, with the replay memory in it."""
    offline_steps: int = 2_000
    """Updates from the demonstrations alone."""
    online_steps: int = 40_000
    """Updates while it plays."""
    max_minutes: float = 20.0
    """Training ends after this time (without evaluations) if not before."""
    save_every: int = 2_000
    """Updates between checkpoints."""
    log_every: int = 20
    """Updates between points in TensorBoard."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """bfloat16 products with float32 weights; auto: where the hardware multiplies bfloat16."""
    threads: int = 0
    """CPU threads; 0: all cores."""

    # World
    rom_path: Path | None = None
    """Cartridge, a Pokémon Emerald (USA, 1.0) of your own; default Tiny Town."""
    start_state: Path | None = None
    """Save state in which games begin; default at power-on."""
    data: Path = Path("expert_data/tiny_town")
    """Folder of demonstrations (*.npz). For Tiny Town the scripted expert records some if it has none."""
    collect_episodes: int = 50
    """How many demonstrations to record then."""
    num_episodes: int = 10
    """Learn from so many demonstrations of the folder; 0: all."""
    num_envs: int = 8
    """Games at once."""
    max_steps: int = 300
    """Longest game in training. Values go on beyond its end, which costs nothing but a new beginning."""
    curriculum: bool = True
    """Half of the games in training begin at a milestone that a demonstration, or the same console, has
    reached before."""

    # Network
    height: int = 84
    """Rows of the picture that the network sees."""
    width: int = 84
    """Its columns; 80 x 120 keeps the shape of the screen."""
    hidden: int = 256

    # Learning
    batch_size: int = 64
    learning_rate: float = 2.5e-4
    max_gradient_norm: float = 10.0
    gamma: float = 0.99
    n_step: int = 10
    """Rewards that a target adds up before it asks the target network."""
    target_rate: float = 0.005
    """How far the target network moves to the trained one at each update. It also plays the evaluations: the
    newest weights jump to and fro."""
    huber_delta: float = 1.0
    """Temporal-difference errors above it count linearly."""

    # Demonstrations
    demo_share: float = 0.5
    """Part of each minibatch that is demonstrations, also while it plays; 0: learn without them."""
    imitation: Literal["margin", "cross_entropy"] = "margin"
    """margin: the expert's button is to be worth more than the others by a margin; cross_entropy: of the
    softmax of the values."""
    imitation_coef: float = 1.0
    """Weight of the imitation term at first; it falls linearly over the run."""
    imitation_coef_end: float = 0.5
    """Its weight at the end."""
    margin: float = 0.8
    self_imitation: bool = True
    """Own ways that reached a milestone are imitated, too."""

    # Replay memory
    memory_size: int = 60_000
    """Screens of own experience that it keeps; on disk, in the run's folder."""
    priority: float = 0.6
    """Exponent of the error in the probability of a draw; 0: all alike."""
    importance: float = 0.4
    """Exponent that corrects for it at first; 1 at the end."""
    steps_per_update: int = 16
    """Steps of all games together for each update; a multiple of num_envs."""

    # Exploration
    epsilon: float = 0.1
    """Probability of a random button at first; it falls linearly over the run."""
    epsilon_end: float = 0.02
    """Its value at the end."""

    # Evaluation
    eval_every: int = 8_000
    """Updates between evaluations by playing. The one at the end plays other games than those on the way."""
    eval_episodes: int = 5
    """Episodes per evaluation; 0: none."""
    eval_max_steps: int = 1500
    """Longest episode of an evaluation."""
    eval_video: bool = False
    """Film the first episode of the last evaluation, into the run's folder."""


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that make no sense."""
    names = ("save_every", "log_every", "eval_every", "batch_size", "hidden", "height", "width", "n_step")
    names += ("collect_episodes", "num_envs", "max_steps", "steps_per_update")
    for name in names:
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    names = ("seed", "offline_steps", "online_steps", "num_episodes", "eval_episodes", "priority", "margin")
    for name in (*names, "imitation_coef", "imitation_coef_end"):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    for name in ("learning_rate", "max_gradient_norm", "huber_delta", "max_minutes"):
        if not getattr(args, name) > 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be above 0")
    for name in ("demo_share", "epsilon", "epsilon_end", "gamma", "importance", "target_rate"):
        if not 0 <= getattr(args, name) <= 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be between 0 and 1")
    if args.offline_steps + args.online_steps < 1:
        raise CleanPokeError("--offline-steps and --online-steps are both 0: nothing to do")
    if args.offline_steps and not args.demo_share:
        raise CleanPokeError("--demo-share 0 leaves nothing to learn from offline: give --offline-steps 0")
    if args.steps_per_update % args.num_envs:
        raise CleanPokeError(
            f"--steps-per-update must be a multiple of --num-envs: {args.steps_per_update} is none of "
            f"{args.num_envs}"
        )
    if args.memory_size < args.num_envs * (least := args.n_step + 2):
        raise CleanPokeError(f"--memory-size must be at least {args.num_envs * least}")


# --- Network ----------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Stage(nn.Module):
    """Convolution, pooling to half the size, two residual blocks."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.max_pool2d(self.conv(x), 3, stride=2, padding=1))


class QNetwork(nn.Module):
    """ImpalaCNN (Espeholt et al. 2018): a picture to the value of each button.

    The last layer gives the value of the state, and what each button adds to it (Wang et al. 2016): the first
    changes by whole milestones, the second by hundredths.
    """

    def __init__(self, args: Args):
        super().__init__()
        sizes = (3, *CHANNELS)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)))
        height, width = args.height, args.width
        for _ in CHANNELS:
            height, width = -(-height // 2), -(-width // 2)
        self.hidden = nn.Linear(CHANNELS[-1] * height * width, args.hidden)
        self.head = nn.Linear(args.hidden, 1 + NUM_ACTIONS)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (B, h, w, 3) uint8; values (B, A) float32."""
        # Stored as they lie on the screen, which is the channels-last layout that convolutions want.
        x = pictures.movedim(-1, 1).float().div(255)
        x = F.relu(self.stages(x)).flatten(1)
        x = F.relu(self.hidden(x)).float()
        with torch.autocast(x.device.type, enabled=False):  # buttons differ by hundredths
            value, advantages = self.head(x).split([1, NUM_ACTIONS], 1)
        return value + advantages - advantages.mean(1, keepdim=True)


# --- Replay memory ----------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """n-step transitions."""

    rows: np.ndarray  # (B,) their places
    pictures: Tensor  # (B, h, w, 3) uint8
    actions: Tensor  # (B,) int64
    returns: Tensor  # (B,) float32: discounted rewards of up to n steps
    next_pictures: Tensor  # (B, h, w, 3) uint8: after those steps
    discounts: Tensor  # (B,) float32: of what comes after them, 0 where nothing does
    weights: Tensor  # (B,) float32: importance of each row
    labels: Tensor  # (B,) int64: the button to imitate; -1 where none is


def reserve(path: Path) -> None:
    """Takes the room of a file on the disk: one that fills up under a mapped file kills the process. Raises
    CleanPokeError if there is too little."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise CleanPokeError(
            f"cannot take {size / 1e9:.1f} GB for {path} ({error.strerror}): make room, or lower "
            "--memory-size"
        ) from error


class Memory:
    """Demonstrations, which stay, and behind them a ring of the latest steps of each game.

    Each screen is stored once: what follows a step lies one place on. The screen after the last step of a
    game, or of what is known of it, has a place of its own with action -1, and is never drawn. All of it lies
    in files that the system maps into memory, so that an interrupted run loses nothing.

    pictures (R, h, w, 3) uint8; actions (R,) int8; labels (R,) int8, the buttons to imitate, -1: none;
    rewards (R,) float32; terminated (R,) bool; priorities (R,) float32, 0: never drawn; heads (N,) int64,
    where each game's latest screen is.
    """

    def __init__(self, folder: Path, demonstrations: int, num_envs: int, size: int, picture: tuple[int, ...]):
        """demonstrations: places for them; size: places of all rings together. Opens what `folder` holds.

        Raises CleanPokeError if that has another size, or is damaged.
        """
        self.demonstrations, self.num_envs = demonstrations, num_envs
        self.ring = size // num_envs
        self.is_new = not (folder / "heads.npy").exists()
        folder.mkdir(exist_ok=True)
        places = demonstrations + self.ring * num_envs

        def column(name: str, kind: type, shape: tuple[int, ...], fill: int) -> np.memmap:
            path = folder / f"{name}.npy"
            if self.is_new:
                values = np.lib.format.open_memmap(path, "w+", kind, shape)
                reserve(path)
                if fill:
                    values[:] = fill
                return values
            try:
                values = np.lib.format.open_memmap(path, "r+")
            except (OSError, ValueError) as error:
                raise CleanPokeError(
                    f"{path} is missing or damaged: delete {folder}, and the run gathers experience anew"
                ) from error
            if values.shape != shape:
                raise CleanPokeError(
                    f"{path} is of another size: resume with the --memory-size, --num-envs, --height and "
                    "--width that it was made with, or delete its folder"
                )
            return values

        self.pictures = column("pictures", np.uint8, (places, *picture), 0)
        self.actions = column("actions", np.int8, (places,), -1)
        self.labels = column("labels", np.int8, (places,), -1)
        self.rewards = column("rewards", np.float32, (places,), 0)
        self.terminated = column("terminated", np.bool_, (places,), 0)
        self.priorities = column("priorities", np.float32, (places,), 0)
        self.heads = column("heads", np.int64, (num_envs,), 0)  # last: they say that all is there
        if self.is_new:
            self.heads[:] = demonstrations + self.ring * np.arange(num_envs)

    @property
    def experience(self) -> int:
        """How many steps of its own it can draw."""
        return int((self.priorities[self.demonstrations :] > 0).sum())

    def next(self, rows: np.ndarray) -> np.ndarray:
        """The places that follow `rows`: at the end of a ring comes its beginning."""
        following = rows + 1
        is_wrapped = (rows >= self.demonstrations) & ((following - self.demonstrations) % self.ring == 0)
        return following - self.ring * is_wrapped

    def add_demonstrations(self, episodes: list[demos.Episode], height: int, width: int) -> None:
        """Each takes its length and one place."""
        first = 0
        for episode in episodes:
            last = first + len(episode)
            self.pictures[first:last] = shrink(episode.observations, height, width).movedim(1, -1).numpy()
            if episode.final_observation is not None:
                final = shrink(episode.final_observation[None], height, width)
                self.pictures[last] = final[0].movedim(0, -1).numpy()
            self.actions[first:last], self.labels[first:last] = episode.actions, episode.labels
            self.rewards[first:last], self.terminated[first:last] = episode.rewards, episode.terminations
            self.priorities[first:last] = 1.0
            if episode.final_observation is None and not episode.terminations[-1]:
                self.priorities[last - 1], self.actions[last - 1] = 0.0, -1  # what came after it is not known
            first = last + 1

    def begin(self, env: int, picture: np.ndarray) -> None:
        """The first screen of a game."""
        row = self.heads[env] = self.next(self.heads[env : env + 1])[0]
        self._open(row, picture)

    def add(self, env: int, action: int, reward: float, terminated: bool, picture: np.ndarray) -> None:
        """One step of a game, and the screen after it."""
        row = self.heads[env]
        self.rewards[row], self.terminated[row] = reward, terminated
        head = self.next(self.heads[env : env + 1])[0]
        self._open(head, picture)
        self.actions[row] = action
        self.priorities[row] = self.priorities.max() or 1.0
        self.heads[env] = head

    def _open(self, row: int, picture: np.ndarray) -> None:
        self.priorities[row], self.actions[row] = 0.0, -1  # first: a step must not lead into another's screen
        self.pictures[row], self.labels[row] = picture, -1

    def imitate(self, rows: list[int], is_random: list[bool]) -> None:
        """Labels the steps of an own way to a milestone with the buttons pressed there.

        Of the steps before one same screen only the last led on: whoever presses the last button of each gets
        there without going round. A random button counts where it was what led on: before a screen that had
        been seen before, and at the end. Elsewhere the next step may have had to put it right.
        """
        rows, is_random = rows[1 - self.ring :], is_random[1 - self.ring :]  # what is not overwritten yet
        screens = [self.pictures[row].tobytes() for row in rows]
        counts = Counter(screens)
        for index in {screen: index for index, screen in enumerate(screens)}.values():
            if not is_random[index] or counts[screens[index]] > 1 or index == len(rows) - 1:
                self.labels[rows[index]] = self.actions[rows[index]]

    def draw(self, count: int, first: int, last: int, args: Args, importance: float, rng: Any) -> tuple:
        """`count` places of [first, last) with probability priority^args.priority, and their weights."""
        shares = np.where(self.priorities[first:last] > 0, self.priorities[first:last] ** args.priority, 0.0)
        total = np.cumsum(shares, dtype=np.float64)
        points = (np.arange(count) + rng.random(count)) / count * total[-1]  # one of each equal part
        rows = np.minimum(np.searchsorted(total, points, side="right"), len(shares) - 1)
        weights = (shares[rows] / total[-1] * np.count_nonzero(shares)) ** -importance
        return rows + first, weights / weights.max()

    def sample(self, args: Args, importance: float, rng: np.random.Generator) -> Batch:
        """Demonstrations and own steps in the shares of `args.demo_share`, as far as there are both."""
        boundary = self.demonstrations
        from_demos = round(args.batch_size * args.demo_share) if boundary else 0
        if not self.priorities[boundary:].any():
            from_demos = args.batch_size
        parts = []
        if from_demos:
            parts.append(self.draw(from_demos, 0, boundary, args, importance, rng))
        if from_demos < args.batch_size:
            rest = args.batch_size - from_demos
            parts.append(self.draw(rest, boundary, len(self.priorities), args, importance, rng))
        rows, weights = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        returns, next_rows, discounts = self.n_step(rows, args.n_step, args.gamma)
        return Batch(
            rows,
            torch.from_numpy(self.pictures[rows]),
            torch.from_numpy(self.actions[rows].astype(np.int64)),
            torch.from_numpy(returns),
            torch.from_numpy(self.pictures[next_rows]),
            torch.from_numpy(discounts),
            torch.from_numpy(weights.astype(np.float32)),
            torch.from_numpy(self.labels[rows].astype(np.int64)),
        )

    def n_step(self, rows: np.ndarray, n: int, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns of up to n steps from `rows` on, the places after them, and the discounts there, all (B,).

        A game that was cut off (truncated), or goes on, is bootstrapped from its last screen; one that has
        ended (terminated) is not.
        """
        returns, discounts = np.zeros(len(rows), np.float32), np.ones(len(rows), np.float32)
        is_going, at = np.ones(len(rows), bool), rows.copy()
        for _ in range(n):
            returns += np.where(is_going, discounts * self.rewards[at], 0)
            is_over = is_going & self.terminated[at]
            discounts = np.where(is_over, 0, np.where(is_going, discounts * gamma, discounts))
            at = np.where(is_going, self.next(at), at)
            is_going &= ~is_over & (self.actions[at] >= 0)
        return returns, at, discounts.astype(np.float32)


# --- Losses -----------------------------------------------------------------------------------------------


@torch.no_grad()
def double_q_targets(network: nn.Module, target: nn.Module, batch: Batch) -> Tensor:
    """(B,): the network chooses the next button, the target network says what it is worth."""
    best = network(batch.next_pictures).argmax(1, keepdim=True)
    return batch.returns + batch.discounts * target(batch.next_pictures).gather(1, best).squeeze(1)


def imitation_loss(values: Tensor, labels: Tensor, args: Args) -> Tensor:
    """Mean over the rows that have a label; values (B, A), labels (B,), -1: none.

    margin: max_a [Q(s, a) + m·1(a is not the expert's)] - Q(s, a_expert) (Hester et al. 2018, eq. 1).
    """
    is_known = labels >= 0
    values, labels = values[is_known], labels[is_known]
    if not len(labels):
        return values.sum()  # 0, with a gradient of 0
    if args.imitation == "cross_entropy":
        return F.cross_entropy(values, labels)
    margins = args.margin * (1 - F.one_hot(labels, NUM_ACTIONS))
    return ((values + margins).amax(1) - values.gather(1, labels[:, None]).squeeze(1)).mean()


# --- Playing ----------------------------------------------------------------------------------------------


class Player:
    """Presses the most valuable button, or, with probability epsilon, any."""

    def __init__(self, network: QNetwork, args: Args, epsilon: float = 0.0, seed: int = 0):
        self.network, self.args, self.epsilon = network, args, epsilon
        self.device = next(network.parameters()).device
        self.rng = np.random.default_rng(seed)
        self.is_random = np.zeros(0, bool)
        """(N,): which buttons of the last choice were random."""

    def begin(self) -> None:
        """Nothing to forget."""

    @torch.inference_mode()
    def choose(self, pictures: np.ndarray) -> np.ndarray:
        """(N, h, w, 3) uint8, shrunk, to buttons (N,)."""
        with autocast(self.device, self.args.bf16):
            values = self.network(torch.from_numpy(pictures).to(self.device))
        greedy = values.argmax(1).cpu().numpy()
        self.is_random = self.rng.random(len(greedy)) < self.epsilon
        return np.where(self.is_random, self.rng.integers(NUM_ACTIONS, size=len(greedy)), greedy)

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        return int(self.choose(small_pictures(observation[None], self.args.height, self.args.width))[0])


def open_player(path: Path) -> Player:
    """Who plays, on the CPU, as the evaluations of a checkpoint or run folder do.

    Raises CleanPokeError for a checkpoint of another script, and for weights of another network.
    """
    checkpoint = load_checkpoint(path, script=Path(__file__).stem, needs=("network",))
    args = saved_arguments(checkpoint, Args)
    network = QNetwork(args).eval()
    load_weights(network, checkpoint)
    return Player(network, args)


class Games:
    """Plays `num_envs` games and puts what happens into the memory."""

    def __init__(self, envs: EmeraldVectorEnv, memory: Memory, args: Args, seed: int):
        self.envs, self.memory, self.args = envs, memory, args
        screens, _ = envs.reset(seed=seed)
        self.pictures = small_pictures(screens, args.height, args.width)
        for env, picture in enumerate(self.pictures):
            memory.begin(env, picture)
        self.is_over = np.zeros(envs.num_envs, bool)
        self.returns, self.lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int)
        self.ways: list[list[tuple[int, bool]]] = [[] for _ in self.pictures]
        """Of each game, since its last milestone: places of its steps, and whether the button was random."""

    def step(self, player: Player) -> list[dict[str, float]]:
        """One step of all games; says what became of those that ended."""
        actions = player.choose(self.pictures)
        screens, rewards, terminated, truncated, infos = self.envs.step(actions)
        self.pictures = small_pictures(screens, self.args.height, self.args.width)
        ended = []
        for env, picture in enumerate(self.pictures):
            if self.is_over[env]:  # this step has only begun a new game
                self.memory.begin(env, picture)
                self.returns[env], self.lengths[env], self.ways[env] = 0.0, 0, []
                continue
            self.ways[env].append((int(self.memory.heads[env]), bool(player.is_random[env])))
            self.memory.add(env, int(actions[env]), float(rewards[env]), bool(terminated[env]), picture)
            if infos["new_milestones"][env]:
                if self.args.self_imitation:
                    self.memory.imitate(*map(list, zip(*self.ways[env], strict=True)))
                self.ways[env] = []
            self.returns[env] += rewards[env]
            self.lengths[env] += 1
            if terminated[env] or truncated[env]:
                milestones = len(infos["milestones"][env])
                row = {"episodic_return": self.returns[env], "episodic_length": self.lengths[env]}
                ended.append({**row, "milestones": milestones, "success": float(terminated[env])})
        self.is_over = terminated | truncated
        return ended


# --- Training ---------------------------------------------------------------------------------------------


def shrunk(episode: demos.Episode, args: Args) -> demos.Episode:
    """The same with the small pictures that the network sees: whole ones of fifty episodes are gigabytes."""
    screens, last = episode.observations, episode.final_observation
    return dataclasses.replace(
        episode,
        observations=small_pictures(screens, args.height, args.width),
        final_observation=None if last is None else small_pictures(last[None], args.height, args.width)[0],
    )


def milestones_of(path: Path, args: Args) -> dict[str, list[SaveState]]:
    """The states of a demonstration's log that games may begin at. Raises CleanPokeError if it cannot be
    played again."""
    log = demos.load_log(path)
    with contextlib.closing(demos.env_of(log, args.rom_path or TINY_TOWN)) as console:
        try:
            return demos.milestone_states(log, console)
        except CleanPokeError as error:
            raise CleanPokeError(f"{error}. Without its milestones: --no-curriculum") from error


def main(args: Args) -> None:
    check(args)
    place = start(args.device, args.threads)
    device = place.device
    world = (args.rom_path, args.start_state)
    paths, episodes, beginnings = [], [], []
    if args.demo_share:
        ensure_demonstrations(args.data, *world, args.collect_episodes, args.seed, args.resume)
    env = make_env(*world, args.eval_max_steps)
    if args.demo_share:
        paths = find_demonstrations(args.data, env)
        if args.num_episodes > len(paths):
            raise CleanPokeError(
                f"--num-episodes {args.num_episodes}: {args.data} holds {len(paths)} demonstrations; record "
                "more with tools/collect_expert_data.py"
            )
        paths = paths[: args.num_episodes or len(paths)]
    for path in paths:
        episodes.append(shrunk(demos.load_matching(path, demos.settings_of(env)), args))
    if args.curriculum and args.online_steps:
        env.close()  # each log is played in a console of its own; some emulators run one in a process
        logs = [path.with_suffix(".demo") for path in paths]
        beginnings = [milestones_of(log, args) for log in logs if log.exists()]
        env = make_env(*world, args.eval_max_steps)
    places = sum(len(episode) + 1 for episode in episodes)

    seed_everything(args.seed)
    network, target = QNetwork(args).to(device), QNetwork(args).to(device)
    network.to(memory_format=torch.channels_last)
    target.to(memory_format=torch.channels_last).requires_grad_(False)
    target.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), args.learning_rate, fused=True)
    data = [len(episodes), places]
    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    with Run(__file__, env.core.title.strip() or "Emerald", args, **options) as run, StopSignal() as stop:
        seconds, on_the_way, env_steps = 0.0, [], 0
        if run.checkpoint:
            state = run.checkpoint.state
            if state["data"] != data:
                raise CleanPokeError(
                    f"{run.checkpoint.path} was trained on other demonstrations than the {len(episodes)} of "
                    f"{args.data}: give the same --data and --num-episodes, or start a new run"
                )
            load_weights(network, run.checkpoint, "trained")
            load_weights(target, run.checkpoint)
            optimizer.load_state_dict(state["optimizer"])
            seconds, on_the_way, env_steps = state["seconds"], state["on_the_way"], state["env_steps"]
            restore_random_state(run.checkpoint.random_state)
        picture = (args.height, args.width, 3)
        memory = Memory(run.folder / "memory", places, args.num_envs, args.memory_size, picture)
        if memory.is_new:
            memory.add_demonstrations(episodes, args.height, args.width)
        labels = places - data[0]
        run.progress.print(f"{data[0]} demonstrations, {labels:,} steps")

        def save() -> None:
            state = {"network": target.state_dict(), "trained": network.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "seconds": seconds, "data": data}
            run.save(step, state | {"on_the_way": on_the_way, "env_steps": env_steps})

        step, total_steps = run.start_step, args.offline_steps + args.online_steps
        games, ended = None, []
        judge = Player(target, args)
        is_over = step >= total_steps or seconds >= 60 * args.max_minutes
        while not is_over:
            # Judge; what Ctrl-C has cut short is made up for when the run goes on
            is_judged = any(row["step"] == step for row in on_the_way)
            if args.eval_episodes and step and step % args.eval_every == 0 and not is_judged:
                result = evaluate(judge, env, args.eval_episodes, lambda: bool(stop))
                if stop:
                    save()
                    break
                report(run, step, result, f"update {step:,}, {env_steps:,} own steps")
                row = {"step": step, "labels": labels, **{name: result[name] for name in COMPARED}}
                if row["return"] >= max((before["return"] for before in on_the_way), default=-math.inf):
                    run.save_best(step, {"network": target.state_dict(), "result": result})
                on_the_way.append(row)

            began = time.monotonic()
            rng = np.random.default_rng((args.seed, step))

            # The run ends with its last update or its last minute: all schedules follow what comes first.
            progress = max(step / total_steps, seconds / (60 * args.max_minutes))  # 0 … 1

            # Play
            if step >= args.offline_steps:
                if games is None:
                    envs = EmeraldVectorEnv(
                        args.num_envs,
                        rom_path=args.rom_path or TINY_TOWN,
                        start_state=args.start_state,
                        variant=variants_of(args.rom_path or TINY_TOWN),
                        max_steps=args.max_steps,
                        curriculum=args.curriculum,
                    )
                    for states in beginnings:
                        envs.call("remember", states)
                    games = Games(envs, memory, args, seed=int(rng.integers(2**30)))
                    player = Player(network, args, args.epsilon, args.seed + step)
                player.epsilon = args.epsilon + progress * (args.epsilon_end - args.epsilon)
                for _ in range(args.steps_per_update // args.num_envs):
                    env_steps += args.num_envs - int(games.is_over.sum())  # those only begin anew
                    ended += games.step(player)

            # One update
            importance = args.importance + progress * (1 - args.importance)
            batch = memory.sample(args, importance, rng)
            batch = Batch(batch.rows, *(part.to(device) for part in batch[1:]))
            with autocast(device, args.bf16):
                targets = double_q_targets(network, target, batch)
                values = network(batch.pictures)
            errors = targets - values.gather(1, batch.actions[:, None]).squeeze(1)
            huber = F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=args.huber_delta)
            td_loss = (batch.weights * huber).mean()
            imitation_coef = args.imitation_coef + progress * (args.imitation_coef_end - args.imitation_coef)
            imitation = imitation_loss(values, batch.labels, args)
            loss = td_loss + imitation_coef * imitation
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), args.max_gradient_norm)
            optimizer.step()
            memory.priorities[batch.rows] = errors.detach().abs().cpu().numpy() + 1e-3
            step += 1
            with torch.no_grad():
                for average, weight in zip(target.parameters(), network.parameters(), strict=True):
                    average.lerp_(weight, args.target_rate)
            seconds += time.monotonic() - began
            is_over = bool(stop) or step >= total_steps or seconds >= 60 * args.max_minutes

            # What people see of it
            updates_per_second = 1 / (time.monotonic() - began)
            if step % args.log_every == 0:
                is_expert = torch.from_numpy(batch.rows < places).to(device) & (batch.labels >= 0)
                hits = (values.argmax(1) == batch.labels)[is_expert].float()
                metrics = {
                    "losses/td": td_loss.item(),
                    "losses/imitation": imitation.item(),
                    "losses/gradient_norm": norm.item(),
                    "charts/imitation_coef": imitation_coef,
                    "charts/value": values.amax(1).mean().item(),
                    "charts/SPS": updates_per_second * args.batch_size,
                    "charts/env_steps": env_steps,
                    "data/experience": memory.experience,
                    "data/imitated": int((memory.labels[places:] >= 0).sum()),
                }
                if len(hits):
                    metrics["charts/accuracy"] = hits.mean().item()
                run.log(step - 1, metrics)
            if len(ended) >= args.num_envs or (ended and is_over):
                for name in ended[0]:
                    run.log(step - 1, {f"charts/{name}": float(np.mean([row[name] for row in ended]))})
                ended = []
            shown = {
                "loss": loss.item(),
                "value": values.amax(1).mean().item(),
                "updates/s": updates_per_second,
            }
            run.progress.update(step, total_steps, shown, seconds_left=60 * args.max_minutes - seconds)
            if is_over or step % args.save_every == 0:
                save()
        if games is not None:
            games.envs.close()

        # In the end, games that nothing was chosen by
        if args.eval_episodes and not stop:
            film = run.folder / "evaluation.mp4" if args.eval_video else None
            result = evaluate(judge, env, args.eval_episodes, lambda: bool(stop), film, TEST_GAMES)
            if not stop:
                report(run, step, result, f"update {step:,}, other games", "test")
                about = {"step": step, "labels": labels, "env_steps": env_steps, "on_the_way": on_the_way}
                run.save_json("evaluation.json", about | result)
    env.close()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
