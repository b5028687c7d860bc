"""Learns continuous control by setting goals: PPO chooses a goal, an inverse dynamics model decodes it.

The goal setter is PPO's policy (Schulman et al. 2017), but what it draws is no action: it is a goal, by
default how the world should change beyond what it does by itself. The inverse dynamics model (IDM) turns the
state and the goal into an action, and learns in hindsight (as GCSL, Ghosh et al. 2021): what was reached had
been the goal. To PPO it is a slowly changing part of the world. docs/ppo_goalsetter_idm.md has the equations.

    python cleanpoke/ppo_goalsetter_idm.py --env-id Hopper-v5
    python cleanpoke/ppo_goalsetter_idm.py --env-id Hopper-v5 --mode ppo     # the same PPO without goals

Axes: T steps of a rollout, N environments, B rows, O observation, A actions, D goal, C what PPO chooses (a
goal or an action), K steps of a window, L tokens, W width.
"""

import copy
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleanpoke.compute import start
from cleanpoke.envs.control_episodes import load_control_folder
from cleanpoke.envs.control_worlds import LARGEST, RunningMoments, Worlds
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import (
    Checkpoint,
    Run,
    load_checkpoint,
    parse_arguments,
    random_state,
    restore_random_state,
    save_checkpoint,
    saved_arguments,
    seed_everything,
)
from cleanpoke.terminal import StopSignal

if TYPE_CHECKING:
    from cleanpoke.envs.car_racing import FrozenEncoder  # it needs two packages that others do without

SCRIPT = Path(__file__).stem
SHAPING = ("env_id", "num_envs", "mode", "idm", "idm_train", "goal_space", "goal_dim", "goal_steps", "window")
"""Arguments that a resumed run cannot change: they say what its networks and its memory are."""
IDM_SHAPING = ("env_id", "idm", "goal_space", "goal_dim", "goal_steps", "window")
"""Arguments in which a run and the IDM it loads must agree."""
REPORTED_UPDATES = 100
"""How many updates on data each point of their curves sums up."""
EVALUATION, WARMUP = -2, -1
"""Stand for iterations where seeds of worlds are drawn."""
ALARMS = {
    "alarm/goals_not_reached": "goal/reach_r2 is below 0: what is reached says nothing about the goals",
    "alarm/no_exploration": "act/noise_std is below 0.05: goals no longer vary the actions",
    "alarm/standing_still": "returns are 1 a step: where being alive pays 1, it stands still",
}


LEAST_RESPONSE = 0.25
"""Where actions move less than this share of the warm-up's spread, goals are not stretched any further."""


@dataclasses.dataclass
class Args:
    # Run
    env_id: str = "Hopper-v5"
    """Any gymnasium environment with a vector as observation and bounded continuous actions."""
    encoder_path: Path | None = None
    """For CarRacing-v3: encoder.pt2 of ppo_carracing.py, which makes vectors of its pictures."""
    freeze_encoder: bool = True
    """The encoder stays as it is; here it always does."""
    seed: int = 1
    """Seed of initialisation, goals, minibatches and worlds."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_timesteps: int = 1_000_000
    """Steps over all environments, warm-up included. With --data 0 will do: then PPO learns nothing."""
    save_every: int = 65_536
    """Steps between checkpoints. All episodes start anew then (their last values are bootstrapped), so that a
    run resumed from such a checkpoint equals an uninterrupted one."""

    # Algorithm
    mode: Literal["goal_setter", "ppo", "closeness"] = "goal_setter"
    """goal_setter: PPO chooses goals, the IDM acts. ppo: PPO acts, nothing else learns. closeness: PPO acts;
    beside it the IDM learns, and a network learns the goals that make it do what PPO does."""
    num_envs: int = 1
    """Environments that run side by side, in this process."""
    learning_rate: float = 3e-4
    anneal_lr: bool = True
    """Lower the learning rates linearly to zero."""
    num_steps: int = 2048
    """Steps per environment in one rollout."""
    gamma: float = 0.99
    """Discount per step."""
    gae_lambda: float = 0.95
    """0: one-step advantages; 1: of whole returns."""
    num_minibatches: int = 32
    update_epochs: int = 10
    """Passes over each rollout."""
    norm_adv: bool = True
    """Standardise advantages in each minibatch."""
    clip_coef: float = 0.2
    """How far a probability ratio may move from 1, and a value from the one before."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient of actor and critic together."""
    log_std_init: float | None = None
    """Logarithm of PPO's first standard deviation; default: 0.4 for goals, 0 for actions."""

    # Goals
    goal_space: Literal["passive_pca", "delta", "abs"] = "passive_pca"
    """passive_pca: the change beyond what happens by itself, along the directions that actions move; delta:
    the change; abs: the state itself."""
    goal_dim: int = 0
    """Numbers in a goal. 0: in passive_pca as many as actions steer (goal_steps x action dimension), else as
    many as are observed."""
    goal_steps: int = 1
    """In how many steps a goal shall be reached."""
    goal_bound: float = 2.0
    """In passive_pca the IDM is asked for no more than actions of this size would reach (1: the largest that
    there are); goals set beyond are brought back. 0: it is asked for whatever was set."""
    goal_hold: int = 1
    """Steps for which each goal (with --mode ppo: each action) is kept."""

    # Inverse dynamics model
    idm: Literal["mlp", "transformer"] = "mlp"
    idm_train: Literal["joint", "fixed", "random"] = "joint"
    """joint: warm-up, then after every rollout; fixed: warm-up (or --load-idm) only; random: never."""
    load_idm: Path | None = None
    """File of --save-idm, checkpoint or run folder whose IDM and goal space to start from; no warm-up."""
    save_idm: Path | None = None
    """Where to write the IDM and its goal space at the end."""
    data: Path | None = None
    """Folder of episodes that take the place of the warm-up. Goal space and IDM learn from them, and the goal
    setter starts as their clone: setting the goals that they reached."""
    window: int = 0
    """Longest distance of the goals it learns from; 0: goal_steps, and at least 4 for the transformer."""
    acting_share: float = 0.5
    """Share of each batch that asks what is asked in play (goal_steps ahead, nothing between known); the
    others have random distances."""
    idm_ema: float = 0.9
    """How much of the acting IDM stays as it is after each rollout; the rest moves to the trained one."""
    idm_learning_rate: float = 3e-4
    idm_updates: int = 50
    """Updates after each rollout."""
    idm_batch_size: int = 256
    idm_buffer: int = 200_000
    """Steps that it remembers beside the warm-up."""
    warmup_steps: int = 6144
    """Random steps before everything else, over all environments."""
    warmup_updates: int = 3000
    """Updates of the IDM on them, after half as many of the forward model in passive_pca."""
    warmup_learning_rate: float = 1e-3
    warmup_share: float = 0.25
    """Share of each later batch that is from the warm-up."""
    vicreg_coef: float = 0.0
    """Weight of VICReg (Bardes et al. 2022) on the IDM's features of neighbouring states."""

    # Evaluation
    eval_every: int = 0
    """Steps between evaluations; 0: only at the end."""
    eval_episodes: int = 20
    """Episodes per evaluation, greedy and sampled; 0: no evaluation."""

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def longest_distance(self) -> int:
        return self.window or max(self.goal_steps, 4 if self.idm == "transformer" else 1)

    @property
    def warmup_length(self) -> int:
        """Random steps before all others in each environment."""
        has_none = self.mode == "ppo" or self.load_idm or self.data
        return 0 if has_none else -(-self.warmup_steps // self.num_envs)

    @property
    def iterations(self) -> int:
        return (self.total_timesteps - self.warmup_length * self.num_envs) // self.batch_size

    def size_of_goal(self, num_inputs: int, num_actions: int) -> int:
        """Raises CleanPokeError for more numbers than the goal space has."""
        steered = min(self.goal_steps * num_actions, num_inputs)
        most = steered if self.goal_space == "passive_pca" else num_inputs
        if self.goal_dim > most:
            raise CleanPokeError(
                f"--goal-dim {self.goal_dim}: in {self.goal_space} a goal has at most {most} numbers here"
                + (": raise --goal-steps" if most < num_inputs else "")
            )
        return self.goal_dim or most


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that do not fit together."""
    at_least_one = "num_envs num_steps num_minibatches update_epochs save_every goal_steps goal_hold"
    for name in (*at_least_one.split(), "idm_batch_size", "idm_buffer"):
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    at_least_zero = "seed goal_dim window eval_every eval_episodes idm_updates vicreg_coef goal_bound"
    others = "warmup_updates clip_coef learning_rate idm_learning_rate warmup_learning_rate max_grad_norm"
    for name in (*at_least_zero.split(), *others.split()):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    for name in ("acting_share", "idm_ema", "warmup_share", "gamma", "gae_lambda"):
        if not 0 <= getattr(args, name) <= 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be between 0 and 1")
    if not args.freeze_encoder:
        raise CleanPokeError("--no-freeze-encoder: goals are counted in what the encoder sees, it must stay")
    if args.save_idm and args.save_idm.is_dir():
        raise CleanPokeError(f"--save-idm {args.save_idm} is a folder: give the name of a file")
    if args.batch_size // args.num_minibatches < 2:
        raise CleanPokeError("a minibatch needs at least two rows: lower --num-minibatches")
    if args.longest_distance < args.goal_steps:
        raise CleanPokeError(f"--window {args.window} is shorter than --goal-steps {args.goal_steps}")
    if args.longest_distance > args.num_steps:
        raise CleanPokeError(f"goals {args.longest_distance} steps ahead need at least as many --num-steps")
    if args.goal_space == "abs" and args.goal_dim:
        raise CleanPokeError("--goal-dim: an abs goal is a whole state, leave it out")
    if args.mode == "ppo" and (args.save_idm or args.load_idm):
        raise CleanPokeError("--mode ppo has no IDM to save or load")
    if args.load_idm and args.idm_train == "random":
        raise CleanPokeError("--load-idm with --idm-train random: choose joint or fixed")
    if args.data and args.mode != "goal_setter":
        raise CleanPokeError(
            f"--data clones a goal setter, --mode {args.mode} has none: leave one of them out"
        )
    if args.mode != "ppo" and not (args.load_idm or args.data) and args.warmup_steps < 512:
        raise CleanPokeError("--warmup-steps must be at least 512: the goal space is fitted to them")
    if args.iterations < 1 and not (args.data and args.total_timesteps >= 0):
        least = args.warmup_length * args.num_envs + args.batch_size
        raise CleanPokeError(f"--total-timesteps must be at least {least}: warm-up and one rollout")


def world_seed(seed: int, iteration: int) -> int:
    """Seed of the episodes that start before an iteration."""
    return int(np.random.SeedSequence((seed, iteration + 2)).generate_state(1)[0]) % 2**30


# --- Policy -----------------------------------------------------------------------------------------------


def perceptron(
    inputs: int, width: int, outputs: int, activation: type[nn.Module], gain: float
) -> nn.Sequential:
    """Two hidden layers; gain: scale of the last one's weights."""

    def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
        linear = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        return linear

    hidden = (layer(inputs, width), activation(), layer(width, width), activation())
    return nn.Sequential(*hidden, layer(width, outputs, gain))


def in_numpy(layers: nn.Sequential) -> Callable[[np.ndarray], np.ndarray]:
    """A perceptron as a NumPy function, whose calls cost a fraction of PyTorch's when there are few rows.

    It reads the weights where PyTorch keeps them: it is always the network as it stands.
    """
    squash = np.tanh if isinstance(layers[1], nn.Tanh) else lambda x: np.maximum(x, 0.0)
    (first, a), (second, b), (last, c) = (
        (layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers[::2]
    )
    return lambda x: squash(squash(x @ first + a) @ second + b) @ last + c


class Policy(nn.Module):
    """Gaussian over what is chosen, with one standard deviation for each entry; and the critic."""

    def __init__(self, num_inputs: int, num_choices: int, log_std: float, width: int = 64):
        super().__init__()
        self.actor = perceptron(num_inputs, width, num_choices, nn.Tanh, gain=0.01)
        self.critic = perceptron(num_inputs, width, 1, nn.Tanh, gain=1.0)
        self.log_std = nn.Parameter(torch.full((num_choices,), log_std))

    def log_probabilities(self, means: Tensor, choices: Tensor) -> Tensor:
        """means, choices (B, C) to (B,)."""
        z = (choices - means) * (-self.log_std).exp()
        return -0.5 * z.square().sum(1) - self.log_std.sum() - 0.5 * math.log(2 * math.pi) * len(self.log_std)

    def entropy(self) -> Tensor:
        return self.log_std.sum() + 0.5 * math.log(2 * math.pi * math.e) * len(self.log_std)


# --- Hindsight --------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Windows:
    """Stretches of one episode each, `distances` steps long and padded to K."""

    states: Tensor  # (B, K, O); past the end the last one again
    actions: Tensor  # (B, K, A) in half ranges; past the end 0
    second_states: Tensor  # (B, O): what followed the first action
    last_states: Tensor  # (B, O): what followed the last action
    distances: Tensor  # (B,) int64, 1 … K
    positions: Tensor  # (B,) int64: the state that the IDM starts from; those before it are known to it


class Buffer:
    """What happened, for hindsight. The oldest rollout makes room when there is none."""

    ARRAYS = ("states", "next_states", "actions", "steps_left")

    def __init__(self, capacity: int, num_envs: int, num_inputs: int, num_actions: int):
        self.num_envs, self.capacity, self.size, self.position = num_envs, capacity, 0, 0
        self.states, self.next_states = torch.zeros(capacity, num_inputs), torch.zeros(capacity, num_inputs)
        self.actions = torch.zeros(capacity, num_actions)
        self.steps_left = torch.zeros(capacity, dtype=torch.int64)  # to the end of episode or rollout, >= 1

    def add(
        self, states: np.ndarray, next_states: np.ndarray, actions: np.ndarray, dones: np.ndarray
    ) -> Tensor:
        """A rollout: (T, N, O) twice, (T, N, A), (T, N) bool; the rows (T * N,) where it is kept."""
        steps_left = np.zeros(dones.shape, np.int64)
        left = np.zeros(dones.shape[1], np.int64)
        for t in reversed(range(len(dones))):
            left = np.where(dones[t], 1, left + 1)
            steps_left[t] = left
        if self.position + dones.size > self.capacity:
            self.position = 0
        rows = slice(self.position, self.position + dones.size)
        for name, array in zip(self.ARRAYS, (states, next_states, actions, steps_left), strict=True):
            kept = getattr(self, name)
            kept[rows] = torch.from_numpy(array).reshape(-1, *kept.shape[1:])
        self.position = rows.stop
        self.size = max(self.size, rows.stop)
        return torch.arange(rows.start, rows.stop)

    def windows(self, rows: Tensor, distances: Tensor, length: int) -> Windows:
        """Windows that start at these rows (B,), of these distances (B,) or until the episode ends."""
        distances = torch.minimum(distances, self.steps_left[rows])
        steps = torch.arange(length)
        within = steps < distances[:, None]  # (B, K)
        index = rows[:, None] + self.num_envs * torch.minimum(steps, distances[:, None] - 1)
        return Windows(
            self.states[index],
            self.actions[index] * within[..., None],
            self.next_states[rows],
            self.next_states[index[:, -1]],
            distances,
            torch.zeros_like(distances),
        )

    def state_dict(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name)[: self.size].clone() for name in self.ARRAYS}
        return {"position": self.position, **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.size = state["position"], len(state["states"])
        self.capacity = max(self.capacity, self.size)  # data: as much as there was
        for name in self.ARRAYS:
            rest = getattr(self, name)[self.size :]
            setattr(self, name, torch.cat([state[name], rest]))


def sample_windows(warmup: Buffer, recent: Buffer, args: Args) -> Windows:
    """A batch from both buffers, as far as they hold anything."""
    from_warmup = round(args.idm_batch_size * args.warmup_share) if recent.size else args.idm_batch_size
    from_warmup = from_warmup if warmup.size else 0
    parts = []
    for buffer, count in ((warmup, from_warmup), (recent, args.idm_batch_size - from_warmup)):
        if count == 0:
            continue
        acting = round(count * args.acting_share)
        distances = torch.randint(1, args.longest_distance + 1, (count,))
        distances[:acting] = args.goal_steps
        windows = buffer.windows(torch.randint(buffer.size, (count,)), distances, args.longest_distance)
        windows.positions = (torch.rand(count) * windows.distances).long()
        windows.positions[:acting] = 0
        parts.append(windows)
    fields = (field.name for field in dataclasses.fields(Windows))
    return Windows(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))


class GoalSpace(nn.Module):
    """What the numbers of a goal mean. Fitted to the warm-up, then it stays, but for the forward model.

    With z the standardised change over `distance` steps, a goal in passive_pca is V'(z - F(s, 0)) / r(s): the
    change beyond what the forward model F expects without actions, along the directions V that actions move,
    measured by the response r(s), what an action of size 1 changes in this state. With one measure for all
    states, the same noise of goals would be no noise in the air and all there is on the ground.
    """

    def __init__(self, args: Args, num_inputs: int, num_actions: int, size: int):
        super().__init__()
        self.kind, self.num_actions, self.bound = args.goal_space, num_actions, args.goal_bound
        self.goal_steps, self.longest = args.goal_steps, args.longest_distance
        K = self.longest
        self.register_buffer("state_mean", torch.zeros(num_inputs))
        self.register_buffer("state_std", torch.ones(num_inputs))
        self.register_buffer("change_mean", torch.zeros(K, num_inputs))  # row k - 1: over k steps
        self.register_buffer("change_std", torch.ones(K, num_inputs))
        self.register_buffer("directions", torch.eye(num_inputs)[:, :size].clone())  # (O, D)
        self.register_buffer("inverse_spread", torch.ones(K, size))
        self.forward_model = None
        if self.kind == "passive_pca":
            inputs = num_inputs + K * num_actions + K
            self.forward_model = perceptron(inputs, 128, num_inputs, nn.ReLU, gain=0.1)

    def standardised(self, states: Tensor) -> Tensor:
        return ((states - self.state_mean) / self.state_std).clamp(-LARGEST, LARGEST)

    def changes(self, states: Tensor, later: Tensor, distances: Tensor) -> Tensor:
        """Standardised changes (B, O) from states (B, O) to those `distances` (B,) steps later."""
        mean, std = self.change_mean[distances - 1], self.change_std[distances - 1]
        return ((later - states - mean) / std).clamp(-LARGEST, LARGEST)

    def predicted_changes(self, states: Tensor, actions: Tensor, distances: Tensor) -> Tensor:
        """What the forward model expects of actions (B, K, A), which are 0 after `distances` (B,) steps."""
        distance = F.one_hot(distances - 1, self.longest)
        return self.forward_model(torch.cat([self.standardised(states), actions.flatten(1), distance], 1))

    def residuals(self, states: Tensor, later: Tensor, distances: Tensor) -> Tensor:
        """Standardised changes (B, O), in passive_pca beyond those that come without actions."""
        changes = self.changes(states, later, distances)
        if self.forward_model is None:
            return changes
        no_actions = changes.new_zeros(len(states), self.longest, self.num_actions)
        return changes - self.predicted_changes(states, no_actions, distances)

    @torch.no_grad()
    def hindsight_goals(self, states: Tensor, later: Tensor, distances: Tensor) -> Tensor:
        """The goals (B, D) that have been reached: states (B, O), and those `distances` (B,) steps later."""
        if self.kind == "abs":
            return self.standardised(later)
        goals = (
            self.residuals(states, later, distances) @ self.directions * self.inverse_spread[distances - 1]
        )
        if self.forward_model is not None:
            goals = goals / self.responses(states, distances).clamp_min(LEAST_RESPONSE)
        return goals.clamp(-LARGEST, LARGEST)

    def responses(self, states: Tensor, distances: Tensor) -> Tensor:
        """(B, D): by how much the forward model expects actions of size 1 to move each number of a goal, in
        units of its spread in the warm-up. Root of the sum of squares over the actions."""
        squares = states.new_zeros(len(states), self.directions.shape[1])
        for step in range(int(distances.max())):
            rows = distances > step  # in the others this step comes too late
            start, distance = states[rows], distances[rows]
            for action in range(self.num_actions):
                pulse = states.new_zeros(len(start), self.longest, self.num_actions)
                pulse[:, step, action] = 1.0
                up, down = (self.predicted_changes(start, one, distance) for one in (pulse, -pulse))
                squares[rows] += ((up - down) / 2 @ self.directions).square()
        return squares.sqrt() * self.inverse_spread[distances - 1]

    def bounding(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """A function of states (N, O) and the goals (N, D) set in them: the goals that the IDM is asked for.

        To first order, actions a until the goal's step move its numbers by a M(s): each row of M is what one
        action does. The a that would reach a goal (ridge regression: M may have no inverse) is clipped to the
        bound, and a M(s) is asked for: an action at its bound leaves what is asked of the others alone.
        Without forward model or bound goals stay as they are.
        """
        if self.forward_model is None or not self.bound:
            return lambda states, goals: goals
        forward = in_numpy(self.forward_model)
        mean, std = self.state_mean.numpy(), self.state_std.numpy()
        count, size = self.goal_steps * self.num_actions, self.longest * self.num_actions
        pulses = np.zeros((2 * count, size + self.longest), np.float32)
        pulses[:, :count] = np.concatenate([np.eye(count), -np.eye(count)])
        pulses[:, size + self.goal_steps - 1] = 1.0  # the distance
        ridge = 0.01 * np.eye(count, dtype=np.float32)
        scaled = (self.directions * self.inverse_spread[self.goal_steps - 1]).numpy() / 2

        def bounded(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
            seen = ((states - mean) / std).clip(-LARGEST, LARGEST)
            rows = np.repeat(seen, 2 * count, 0), np.tile(pulses, (len(seen), 1))
            up, down = forward(np.concatenate(rows, 1)).reshape(len(seen), 2, count, -1).swapaxes(0, 1)
            moves = (up - down) @ scaled  # (N, count, D): M in units of the warm-up's spread
            moves /= np.sqrt(np.square(moves).sum(1, keepdims=True)).clip(LEAST_RESPONSE)
            columns = moves.swapaxes(1, 2)
            actions = np.linalg.solve(moves @ columns + ridge, moves @ goals[..., None])  # (N, count, 1)
            return (columns @ actions.clip(-self.bound, self.bound))[..., 0]

        return bounded

    def forward_loss(self, windows: Windows) -> Tensor:
        start, distances = windows.states[:, 0], windows.distances
        changes = self.changes(start, windows.last_states, distances)
        return F.mse_loss(self.predicted_changes(start, windows.actions, distances), changes)

    @torch.no_grad()
    def fit_moments(self, warmup: Buffer) -> None:
        """Raises CleanPokeError if no episode of the warm-up is as long as the window."""
        self.state_mean.copy_(warmup.states.mean(0))
        self.state_std.copy_(warmup.states.std(0) + 1e-6)
        for distance in range(1, self.longest + 1):
            windows = self.all_windows(warmup, distance)
            changes = windows.last_states - windows.states[:, 0]
            self.change_mean[distance - 1] = changes.mean(0)
            self.change_std[distance - 1] = changes.std(0) + 1e-6

    @torch.no_grad()
    def fit_directions(self, warmup: Buffer) -> None:
        """The directions in which residuals vary most with the actions, and their spread at every distance.

        passive_pca, and delta with fewer numbers than there are observed.
        """
        if self.kind == "abs" or (self.kind == "delta" and self.directions.shape[1] == len(self.state_mean)):
            return
        windows = self.all_windows(warmup, self.goal_steps)
        residuals = self.residuals(windows.states[:, 0], windows.last_states, windows.distances)
        # In NumPy: PyTorch's linear algebra gives slightly different numbers from run to run.
        actions = windows.actions[:, : self.goal_steps].flatten(1).double().numpy()
        residuals = residuals.double().numpy()
        actions, residuals = actions - actions.mean(0), residuals - residuals.mean(0)
        explained = actions @ np.linalg.lstsq(actions, residuals)[0]  # (B, O)
        vectors = np.linalg.eigh(explained.T @ explained).eigenvectors[:, ::-1]  # columns, strongest first
        self.directions.copy_(torch.from_numpy(vectors[:, : self.directions.shape[1]].copy()))
        for distance in range(1, self.longest + 1):
            windows = self.all_windows(warmup, distance)
            residuals = self.residuals(windows.states[:, 0], windows.last_states, windows.distances)
            self.inverse_spread[distance - 1] = 1 / ((residuals @ self.directions).std(0) + 1e-6)

    def all_windows(self, buffer: Buffer, distance: int) -> Windows:
        rows = torch.nonzero(buffer.steps_left[: buffer.size] >= distance)[:, 0]
        if len(rows) < 2:
            raise CleanPokeError(f"no episode of the warm-up lasts {distance} steps: lower --window")
        return buffer.windows(rows, torch.full_like(rows, distance), self.longest)


# --- Inverse dynamics models ------------------------------------------------------------------------------


class MlpIDM(nn.Module):
    """State, goal and the share of the window after which it shall be reached, to the first action."""

    def __init__(self, args: Args, num_inputs: int, num_actions: int, size_of_goal: int, width: int = 128):
        super().__init__()
        self.size_of_goal, self.longest = size_of_goal, args.longest_distance
        self.asked = args.goal_steps / self.longest  # in play
        self.layers = perceptron(num_inputs + size_of_goal + 1, width, num_actions, nn.ReLU, gain=1.0)

    def forward(self, states: Tensor, goals: Tensor) -> Tensor:
        """The question of play: standardised states (B, O), goals (B, D) to actions (B, A)."""
        return self.layers(torch.cat([states, goals, states.new_full((len(states), 1), self.asked)], 1))

    def loss(self, windows: Windows, space: GoalSpace) -> tuple[Tensor, dict[str, Tensor]]:
        start = windows.states[:, 0]
        goals = space.hindsight_goals(start, windows.last_states, windows.distances)
        distance = windows.distances[:, None] / self.longest
        actions = self.layers(torch.cat([space.standardised(start), goals, distance], 1))
        loss = F.mse_loss(actions, windows.actions[:, 0])
        return loss, {"idm/loss": loss.detach()}

    def features(self, states: Tensor) -> Tensor:
        """What the last layer reads of standardised states (B, O) when no goal is set: (B, W)."""
        none = states.new_zeros(len(states), self.size_of_goal + 1)
        return self.layers[:-1](torch.cat([states, none], 1))


class Block(nn.Module):
    """Attention and perceptron, each added to its input.

    Nothing is normalised: layer norms forget how large a goal is. Behind them, actions stop growing where the
    data stops, and the goal setter cannot push as hard as it wants to.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_key_value, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attends: Tensor | None) -> Tensor:
        """x (B, L, W); attends (B, 1, L, L) bool: which tokens each token reads; None: all."""
        B, L, W = x.shape
        q, k, v = self.query_key_value(x).view(B, L, 3, self.heads, -1).transpose(1, 3).unbind(2)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=attends)  # (B, heads, L, W / heads)
        x = x + self.mix(read.transpose(1, 2).reshape(B, L, W))
        return x + self.perceptron(x)


def token_masks(distances: Tensor, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Which tokens of s_0 a_0 s_1 a_1 … s_{K-1} a_{K-1} goal are shown, and which exist: (B, 2K + 1) bool.

    The goal stands for the window's last state, s_k for a distance of k. Shown are all up to the state at
    `positions`, and the goal. The other tokens before s_k are blank, and those from s_k on do not exist.
    """
    token = torch.arange(2 * longest)
    goal = torch.ones(len(distances), 1, dtype=torch.bool)
    shown = torch.cat([token <= 2 * positions[:, None], goal], 1)
    exists = torch.cat([token < 2 * distances[:, None], goal], 1)
    return shown, exists


class TransformerIDM(nn.Module):
    """Reads a window with gaps, and the goal; the action of a step is read off where its state stands.

    It learns twice from each window: masked, the actions from a known state to the goal with nothing known in
    between; and causally, each action from what came before, without a goal.
    """

    def __init__(
        self,
        args: Args,
        num_inputs: int,
        num_actions: int,
        size_of_goal: int,
        width: int = 32,
        layers: int = 2,
        heads: int = 2,
    ):
        super().__init__()
        self.goal_steps, self.longest = args.goal_steps, args.longest_distance
        self.state, self.action = nn.Linear(num_inputs, width), nn.Linear(num_actions, width)
        self.goal = nn.Linear(size_of_goal, width)
        self.blank = nn.Parameter(0.02 * torch.randn(2, width))  # in place of a state, of an action
        self.place = nn.Parameter(0.02 * torch.randn(2 * self.longest + 1, width))
        self.distance = nn.Parameter(0.02 * torch.randn(self.longest + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, num_actions)

    def read(self, tokens: Tensor, attends: Tensor | None = None) -> Tensor:
        """Tokens (B, L, W) to features (B, L, W)."""
        for block in self.blocks:
            tokens = block(tokens, attends)
        return tokens

    def forward(self, states: Tensor, goals: Tensor) -> Tensor:
        """The question of play: standardised states (B, O), goals (B, D) to actions (B, A)."""
        k = self.goal_steps
        pairs = self.blank.expand(len(states), k, 2, -1).flatten(1, 2)  # (B, 2k, W)
        goal = (self.goal(goals) + self.distance[k])[:, None]
        tokens = torch.cat([self.state(states)[:, None], pairs[:, 1:], goal], 1)
        places = torch.cat([self.place[: 2 * k], self.place[-1:]])
        return self.head(self.read(tokens + places)[:, 0])

    def window_tokens(
        self, states: Tensor, actions: Tensor, goals: Tensor, distances: Tensor, shown: Tensor
    ) -> Tensor:
        """states (B, K, O), actions (B, K, A), goals (B, D), distances (B,), shown (B, 2K + 1) to tokens."""
        pairs = torch.stack([self.state(states), self.action(actions)], 2)  # (B, K, 2, W)
        pairs = torch.where(shown[:, :-1].view(*states.shape[:2], 2, 1), pairs, self.blank)
        goal = self.goal(goals) + self.distance[distances]
        return torch.cat([pairs.flatten(1, 2), goal[:, None]], 1) + self.place

    def predictions(self, states: Tensor, goals: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Actions (B, K, A), masked and causally. states (B, K, O): standardised; goals (B, D)."""
        B, K, _ = states.shape
        shown, exists = token_masks(windows.distances, windows.positions, K)
        to_go = windows.distances - windows.positions
        masked = self.window_tokens(states, windows.actions, goals, to_go, shown)
        causal = self.window_tokens(states, windows.actions, goals, to_go, exists)
        size = 2 * K + 1
        only_earlier = torch.ones(size, size, dtype=torch.bool).tril()  # the goal comes last: nobody reads it
        attends = torch.cat(
            [exists[:, None, None].expand(B, 1, size, size), only_earlier.expand(B, 1, size, size)]
        )
        features = self.read(torch.cat([masked, causal]), attends)  # (2B, L, W)
        return self.head(features[:, : 2 * K : 2]).chunk(2)

    def loss(self, windows: Windows, space: GoalSpace) -> tuple[Tensor, dict[str, Tensor]]:
        positions, distances = windows.positions, windows.distances
        start = windows.states[torch.arange(len(positions)), positions]
        goals = space.hindsight_goals(start, windows.last_states, distances - positions)
        masked, causal = self.predictions(space.standardised(windows.states), goals, windows)
        step = torch.arange(windows.states.shape[1])
        is_within = step < distances[:, None]  # (B, K)
        is_asked = is_within & (step >= positions[:, None])

        def mean_error(actions: Tensor, counts: Tensor) -> Tensor:
            """Every window weighs the same: by their steps, the long and uncertain ones would dominate."""
            errors = (actions - windows.actions).square().mean(2) * counts
            return (errors.sum(1) / counts.sum(1)).mean()

        masked_loss, causal_loss = mean_error(masked, is_asked), mean_error(causal, is_within)
        metrics = {"idm/masked_loss": masked_loss.detach(), "idm/causal_loss": causal_loss.detach()}
        return masked_loss + causal_loss, metrics

    def features(self, states: Tensor) -> Tensor:
        """Features (B, W) of standardised states (B, O) when nothing else is known."""
        return self.read((self.state(states) + self.place[0])[:, None])[:, 0]


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """VICReg of pairs of features (B, W) that shall be alike, each of them spread out and uncorrelated."""
    loss = 25 * F.mse_loss(first, second)
    for features in (first, second):
        covariance = features.T.cov()  # (W, W)
        variances = covariance.diagonal()
        loss = loss + 25 * F.relu(1 - (variances + 1e-4).sqrt()).mean()
        loss = loss + (covariance.square().sum() - variances.square().sum()) / len(variances)
    return loss


class Agent(nn.Module):
    """Everything that acts. Without an IDM (--mode ppo) it is the policy alone."""

    def __init__(self, args: Args, num_inputs: int, num_actions: int):
        super().__init__()
        size_of_goal = args.size_of_goal(num_inputs, num_actions)
        sets_goals = args.mode == "goal_setter"
        log_std = args.log_std_init if args.log_std_init is not None else 0.4 if sets_goals else 0.0
        self.policy = Policy(num_inputs, size_of_goal if sets_goals else num_actions, log_std)
        if args.mode == "ppo":
            return
        self.goal_space = GoalSpace(args, num_inputs, num_actions, size_of_goal)
        kind = TransformerIDM if args.idm == "transformer" else MlpIDM
        self.idm = kind(args, num_inputs, num_actions, size_of_goal)
        self.acting_idm = copy.deepcopy(self.idm).requires_grad_(False)
        if args.mode == "closeness":
            self.goal_network = perceptron(num_inputs, 64, size_of_goal, nn.Tanh, gain=0.01)

    @torch.no_grad()
    def move_acting_idm(self, stays: float) -> None:
        """Moves the acting IDM towards the trained one; stays: how much of it does not."""
        for acting, trained in zip(self.acting_idm.parameters(), self.idm.parameters(), strict=True):
            acting.lerp_(trained, 1 - stays)

    def decoder(self, bounds: bool = True) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """The acting IDM on arrays: states (N, O), goals (N, D) to actions (N, A), not clipped.

        bounds: goals are brought within the bound before it is asked (GoalSpace.bounding).
        """
        bounded = self.goal_space.bounding() if bounds else lambda states, goals: goals
        if isinstance(self.acting_idm, TransformerIDM):

            @torch.inference_mode()
            def decode(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
                seen = self.goal_space.standardised(torch.from_numpy(states))
                return self.acting_idm(seen, torch.from_numpy(bounded(states, goals))).numpy()

            return decode
        mean, std = self.goal_space.state_mean.numpy(), self.goal_space.state_std.numpy()
        layers, asked = in_numpy(self.acting_idm.layers), np.float32(self.acting_idm.asked)

        def decode_in_numpy(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
            seen = ((states - mean) / std).clip(-LARGEST, LARGEST)
            asked_for = bounded(states, goals)
            return layers(np.concatenate([seen, asked_for, np.full((len(seen), 1), asked)], 1))

        return decode_in_numpy


# --- Learning ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Rollout:
    """T steps in N environments."""

    states: np.ndarray  # (T, N, O) float32, as the world gives them
    next_states: np.ndarray  # (T, N, O)
    observations: np.ndarray  # (T + 1, N, O) float32: the states standardised, for actor and critic
    choices: np.ndarray  # (T, N, C) float32: the goal, or action, in force
    is_new: np.ndarray  # (T, N) bool: chosen at this step, not held since an earlier one
    decoded: np.ndarray  # (T, N, A) float32: the action before clipping
    rewards: np.ndarray  # (T, N)
    terminated: np.ndarray  # (T, N) bool
    truncated: np.ndarray  # (T, N) bool

    @property
    def actions(self) -> np.ndarray:
        return self.decoded.clip(-1.0, 1.0)

    @property
    def dones(self) -> np.ndarray:
        return self.terminated | self.truncated


def empty_rollout(steps: int, num_envs: int, num_inputs: int, num_choices: int, num_actions: int) -> Rollout:
    def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
        return np.zeros((*shape[:1], num_envs, *shape[1:]), dtype)

    states, next_states, observations = (zeros(steps + extra, num_inputs) for extra in (0, 0, 1))
    choices, decoded = zeros(steps, num_choices), zeros(steps, num_actions)
    is_new, rewards = np.ones((steps, num_envs), bool), zeros(steps, dtype=np.float64)
    terminated, truncated = zeros(steps, dtype=bool), zeros(steps, dtype=bool)
    return Rollout(
        states, next_states, observations, choices, is_new, decoded, rewards, terminated, truncated
    )


def collect(worlds: Worlds, agent: Agent, moments: RunningMoments, args: Args) -> Rollout:
    """Plays num_steps steps; the moments of the observations go on as it does."""
    policy, num_envs = agent.policy, len(worlds.states)
    num_choices = len(policy.log_std)
    rollout = empty_rollout(args.num_steps, num_envs, worlds.num_inputs, num_choices, worlds.num_actions)
    act, decode = in_numpy(policy.actor), agent.decoder() if args.mode == "goal_setter" else None
    noise = torch.randn(args.num_steps, num_envs, num_choices) * policy.log_std.detach().exp()
    ages = np.zeros(num_envs, int)  # of the goals in force
    for t, noise_now in enumerate(noise.numpy()):
        moments.update(worlds.states)
        rollout.states[t] = worlds.states
        rollout.observations[t] = moments.standardised(worlds.states)
        choices = act(rollout.observations[t]) + noise_now
        if args.goal_hold > 1:
            rollout.is_new[t] = ages % args.goal_hold == 0
            choices = np.where(rollout.is_new[t][:, None], choices, rollout.choices[t - 1])
        rollout.choices[t] = choices
        rollout.decoded[t] = choices if decode is None else decode(worlds.states, choices)
        next_states, rollout.rewards[t], terminated, truncated = worlds.step(rollout.decoded[t].clip(-1, 1))
        rollout.next_states[t], rollout.terminated[t], rollout.truncated[t] = (
            next_states,
            terminated,
            truncated,
        )
        if args.goal_hold > 1:
            ages = np.where(terminated | truncated, 0, ages + 1)
    rollout.observations[-1] = moments.standardised(worlds.states)
    return rollout


def recorded(worlds: Worlds, args: Args) -> Rollout:
    """The episodes of --data one after the other, as one environment's rollout without observations. Raises
    CleanPokeError if they are of another world, or were seen through another encoder."""
    episodes = load_control_folder(args.data)
    meta, numbers = episodes[0].meta, (episodes[0].observations.shape[1], episodes[0].actions.shape[1])
    if meta.get("encoder", "") != worlds.encoder:
        raise CleanPokeError(
            f"{args.data} was recorded with another --encoder-path, or without: give the same"
        )
    env_id = meta.get("env_id", args.env_id)
    if env_id != args.env_id or numbers != (worlds.num_inputs, worlds.num_actions):
        raise CleanPokeError(
            f"{args.data} was recorded in {env_id} ({numbers[0]} observations, {numbers[1]} actions), not in "
            f"{args.env_id} ({worlds.num_inputs}, {worlds.num_actions}): give other episodes"
        )
    rollout = empty_rollout(sum(map(len, episodes)), 1, numbers[0], 0, numbers[1])
    rollout.states[:, 0] = np.concatenate([episode.observations[:-1] for episode in episodes])
    rollout.next_states[:, 0] = np.concatenate([episode.observations[1:] for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    rollout.decoded[:, 0] = (actions - worlds.middle) / worlds.half
    last_steps = np.cumsum([len(episode) for episode in episodes]) - 1
    rollout.terminated[last_steps, 0] = [episode.terminated for episode in episodes]
    rollout.truncated[last_steps, 0] = [not episode.terminated for episode in episodes]
    return rollout


def scaled_rewards(
    rollout: Rollout, moments: RunningMoments, discounted: np.ndarray, gamma: float
) -> np.ndarray:
    """Rewards (T, N) divided by the standard deviation of all discounted returns so far.

    moments: of those returns; discounted (N,): the returns of the episodes that go on. Both are updated.
    """
    returns = np.zeros_like(rollout.rewards)
    for t, (rewards, dones) in enumerate(zip(rollout.rewards, rollout.dones, strict=True)):
        discounted *= gamma
        discounted += rewards
        returns[t] = discounted
        discounted[dones] = 0.0
    moments.update(returns.reshape(-1, 1))
    return (rollout.rewards / moments.std).clip(-LARGEST, LARGEST)


def generalized_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    dones: np.ndarray,
    is_new: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """GAE (Schulman et al. 2016, eq. 16) over choices that may last several steps: (T, N).

    rewards, dones, is_new (T, N): what followed each step, where a truncated episode's last reward already
    holds the discounted value of its last state, and whether something was chosen at the step; values
    (T + 1, N): of each state, and of the one after. Advantages mean something where something was chosen.
    """
    advantages = np.zeros_like(rewards)
    later = values[-1]  # what is expected from the next step on
    for t in reversed(range(len(rewards))):
        expected = rewards[t] + gamma * (1.0 - dones[t]) * later
        advantages[t] = expected - values[t]
        later = np.where(is_new[t], values[t] + gae_lambda * advantages[t], expected)
    return advantages


@dataclasses.dataclass(slots=True)
class Rows:
    """Choices of a rollout."""

    observations: Tensor  # (B, O) standardised
    choices: Tensor  # (B, C)
    log_probabilities: Tensor  # (B,) of the choices when they were made
    advantages: Tensor  # (B,)
    returns: Tensor  # (B,)
    values: Tensor  # (B,) before the update

    def take(self, indices: Tensor) -> "Rows":
        return Rows(*(getattr(self, field.name)[indices] for field in dataclasses.fields(self)))

    def split(self, parts: int) -> list["Rows"]:
        """Parts of equal size, but for one row."""
        columns = (getattr(self, field.name).tensor_split(parts) for field in dataclasses.fields(self))
        return [Rows(*column) for column in zip(*columns, strict=True)]


@torch.no_grad()
def to_rows(
    rollout: Rollout, rewards: np.ndarray, policy: Policy, moments: RunningMoments, args: Args
) -> Rows:
    """The rows to learn from. rewards (T, N): scaled; cut-off episodes get their bootstrap here."""
    observations = torch.from_numpy(rollout.observations)
    values = policy.critic(observations)[..., 0]  # (T + 1, N)
    cut_off = rollout.truncated & ~rollout.terminated
    if cut_off.any():
        last = torch.from_numpy(moments.standardised(rollout.next_states[cut_off]).astype(np.float32))
        rewards[cut_off] += args.gamma * policy.critic(last)[:, 0].numpy()
    advantages = generalized_advantages(
        rewards, values.double().numpy(), rollout.dones, rollout.is_new, args.gamma, args.gae_lambda
    )
    is_new = torch.from_numpy(rollout.is_new)
    observations, values = observations[:-1][is_new], values[:-1][is_new]
    choices, advantages = (
        torch.from_numpy(rollout.choices)[is_new],
        torch.from_numpy(advantages)[is_new].float(),
    )
    log_probabilities = policy.log_probabilities(policy.actor(observations), choices)
    return Rows(observations, choices, log_probabilities, advantages, advantages + values, values)


def ppo_losses(policy: Policy, rows: Rows, clip_coef: float) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped policy loss (Schulman et al. 2017, eq. 7), clipped value loss, log ratios (B,)."""
    log_ratio = (
        policy.log_probabilities(policy.actor(rows.observations), rows.choices) - rows.log_probabilities
    )
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    policy_loss = -torch.min(rows.advantages * ratio, rows.advantages * clipped_ratio).mean()
    values = policy.critic(rows.observations)[:, 0]
    near = rows.values + (values - rows.values).clamp(-clip_coef, clip_coef)
    value_loss = 0.5 * torch.max((values - rows.returns).square(), (near - rows.returns).square()).mean()
    return policy_loss, value_loss, log_ratio


def update_policy(
    policy: Policy, optimizer: torch.optim.Optimizer, rows: Rows, args: Args
) -> dict[str, float]:
    """Passes of PPO over the rows. Losses and distances are those of all rows afterwards."""
    count = len(rows.advantages)
    parts = max(count // (args.batch_size // args.num_minibatches), 1)
    norms = []
    for _ in range(args.update_epochs):
        for minibatch in rows.take(torch.randperm(count)).split(parts):
            if args.norm_adv:
                a = minibatch.advantages
                minibatch.advantages = (a - a.mean()) / (a.std() + 1e-8)
            policy_loss, value_loss, _ = ppo_losses(policy, minibatch, args.clip_coef)
            loss = policy_loss + args.vf_coef * value_loss
            if args.ent_coef:
                loss = loss - args.ent_coef * policy.entropy()
            optimizer.zero_grad()
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm))
            optimizer.step()
    with torch.no_grad():
        if args.norm_adv:
            a = rows.advantages
            rows = dataclasses.replace(rows, advantages=(a - a.mean()) / (a.std() + 1e-8))
        policy_loss, value_loss, log_ratio = ppo_losses(policy, rows, args.clip_coef)
        ratio = log_ratio.exp()
        spread = rows.returns.var()
        metrics = {
            "losses/policy": policy_loss,
            "losses/value": value_loss,
            "losses/entropy": policy.entropy(),
            "losses/approx_kl": (ratio - 1 - log_ratio).mean(),
            "losses/clip_fraction": ((ratio - 1).abs() > args.clip_coef).float().mean(),
            "losses/explained_variance": 1 - (rows.returns - rows.values).var() / spread,
            "grad/norm": torch.stack(norms).mean(),
            "value/mean": rows.values.mean(),
            "value/return_std": spread.sqrt(),
        }
    return {name: float(metric) for name, metric in metrics.items()}


def update_idm(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    warmup: Buffer,
    recent: Buffer,
    updates: int,
    args: Args,
    stop: Any = False,
) -> dict[str, float]:
    """Supervised updates of the IDM and, where there is one, the forward model; means of their losses."""
    space, sums = agent.goal_space, {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for _ in range(updates):
        if stop:
            break
        windows = sample_windows(warmup, recent, args)
        loss, metrics = agent.idm.loss(windows, space)
        if space.forward_model is not None:
            forward_loss = space.forward_loss(windows)
            loss = loss + forward_loss
            metrics["idm/forward_loss"] = forward_loss.detach()
        if args.vicreg_coef:
            pair = (windows.states[:, 0], windows.second_states)
            vicreg = vicreg_loss(*(agent.idm.features(space.standardised(states)) for states in pair))
            loss = loss + args.vicreg_coef * vicreg
            metrics["idm/vicreg_loss"] = vicreg.detach()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for name, metric in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(metric)
    return {name: total / updates for name, total in sums.items()}


def learn_in_hindsight(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    windows: Windows,
    warmup: Buffer,
    recent: Buffer,
    args: Args,
) -> dict[str, float]:
    """The updates after a rollout, and the acting IDM's step after them. windows: those of the rollout."""
    space, start = agent.goal_space, windows.states[:, 0]
    goals = space.hindsight_goals(start, windows.last_states, windows.distances)
    with torch.no_grad():
        before = agent.acting_idm(space.standardised(start), goals)
    metrics = update_idm(agent, optimizer, warmup, recent, args.idm_updates, args)
    agent.move_acting_idm(args.idm_ema)
    with torch.no_grad():
        drift = agent.acting_idm(space.standardised(start), goals) - before
    return metrics | {"idm/drift_rms": float(drift.square().mean().sqrt())}


def warm_up(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    worlds: Worlds,
    moments: RunningMoments,
    warmup: Buffer,
    recent: Buffer,
    args: Args,
    stop: Any = False,
    data: Rollout | None = None,
    report: Callable[[int, dict[str, float]], None] = lambda update, metrics: None,
) -> dict[str, float]:
    """Acts at random (or takes the data), fits the goal space to what happens; the IDM learns from it.

    An IDM that was loaded stays as it is, and its goal space. report: told the losses now and then.
    """
    rollout = data
    if rollout is None:
        worlds.reset(world_seed(args.seed, WARMUP))
        rollout = empty_rollout(args.warmup_length, args.num_envs, worlds.num_inputs, 0, worlds.num_actions)
        rollout.decoded = torch.randn(rollout.decoded.shape).numpy()
        for t, actions in enumerate(rollout.actions):
            rollout.states[t] = worlds.states
            rollout.next_states[t], _, rollout.terminated[t], rollout.truncated[t] = worlds.step(actions)
    moments.update(rollout.states.reshape(-1, worlds.num_inputs))
    warmup.add(rollout.states, rollout.next_states, rollout.actions, rollout.dones)
    if args.load_idm:
        return {}
    space, metrics = agent.goal_space, {}
    space.fit_moments(warmup)
    if space.forward_model is not None:
        for _ in range(args.warmup_updates // 2):  # first: directions and scale are fitted to its residuals
            if stop:
                break
            optimizer.zero_grad()
            space.forward_loss(sample_windows(warmup, recent, args)).backward()
            optimizer.step()
    space.fit_directions(warmup)
    updates = 0 if args.idm_train == "random" else args.warmup_updates
    for done in range(0, updates, REPORTED_UPDATES):
        count = min(REPORTED_UPDATES, updates - done)
        metrics = update_idm(agent, optimizer, warmup, recent, count, args, stop)
        report(done + count, metrics)
    agent.move_acting_idm(stays=0.0)
    return metrics


def clone(
    agent: Agent,
    moments: RunningMoments,
    data: Buffer,
    args: Args,
    report: Callable[[int, dict[str, float]], None],
    stop: Any = False,
) -> None:
    """Regresses the goal setter onto the goals that the data reached `goal_steps` later: with the IDM it then
    does what was done there. Its noise becomes the spread of those goals around it."""
    space, actor = agent.goal_space, agent.policy.actor
    windows = space.all_windows(data, args.goal_steps)
    start = windows.states[:, 0]
    goals = space.hindsight_goals(start, windows.last_states, windows.distances)
    observations = torch.from_numpy(moments.standardised(start.numpy()).astype(np.float32))
    optimizer = torch.optim.Adam(actor.parameters(), args.warmup_learning_rate, fused=True)
    for update in range(args.warmup_updates):
        if stop:
            break
        rows = torch.randint(len(goals), (args.idm_batch_size,))
        loss = F.mse_loss(actor(observations[rows]), goals[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (update + 1) % REPORTED_UPDATES == 0:
            report(update + 1, {"goal_loss": float(loss.detach())})
    with torch.no_grad():
        errors = goals - actor(observations)
        if args.log_std_init is None:
            agent.policy.log_std.copy_(errors.square().mean(0).sqrt().clamp_min(1e-2).log())
        report(max(args.warmup_updates, 1), {"goal_r2": float(share_explained(goals, goals - errors))})


def update_goal_network(
    agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, args: Args
) -> dict[str, float]:
    """Moves the goals towards those that make the IDM do what PPO did; the IDM itself stays as it is."""
    observations = torch.from_numpy(rollout.observations[:-1]).flatten(0, 1)
    states = agent.goal_space.standardised(torch.from_numpy(rollout.states).flatten(0, 1))
    actions = torch.from_numpy(rollout.actions).flatten(0, 1)
    losses = []
    for _ in range(args.update_epochs):
        for rows in torch.randperm(len(actions)).tensor_split(args.num_minibatches):
            decoded = agent.acting_idm(states[rows], agent.goal_network(observations[rows]))
            loss = F.mse_loss(decoded, actions[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.goal_network.parameters(), args.max_grad_norm)
            optimizer.step()
            losses.append(loss.detach())
    return {"closeness/loss": float(torch.stack(losses).mean())}


# --- What people see of it --------------------------------------------------------------------------------


def share_explained(truth: Tensor, guess: Tensor) -> Tensor:
    """R squared of guesses (B, *): 1 if all is foreseen, 0 if no more than the means are."""
    return 1 - (truth - guess).square().mean() / ((truth - truth.mean(0)).square().mean() + 1e-8)


@torch.no_grad()
def goal_metrics(agent: Agent, rollout: Rollout, windows: Windows, args: Args) -> dict[str, float]:
    """How goals were met, and what the IDM makes of what happened before it learns from it.

    windows: of goal_steps, one from each step of the rollout; those that an end cuts short do not count.
    """
    whole = windows.distances == args.goal_steps
    start = windows.states[whole, 0]
    reached = agent.goal_space.hindsight_goals(start, windows.last_states[whole], windows.distances[whole])
    guess = agent.idm(agent.goal_space.standardised(start), reached)
    metrics = {"idm/action_agreement": share_explained(windows.actions[whole, 0], guess)}
    if args.mode == "goal_setter":
        bounded = agent.goal_space.bounding()
        choices = rollout.choices.reshape(len(windows.states), -1)[whole.numpy()]
        wanted = torch.from_numpy(bounded(start.numpy(), choices))
        errors, r, w = (reached - wanted).square().mean(), reached - reached.mean(0), wanted - wanted.mean(0)
        some = slice(None, None, max(len(windows.states) // 128, 1))
        observations = torch.from_numpy(rollout.observations[:-1]).flatten(0, 1)[some]
        means = agent.policy.actor(observations).repeat(8, 1)  # eight draws for each of some states
        std = agent.policy.log_std.exp()
        states = windows.states[some, 0].repeat(8, 1).numpy()
        actions = torch.from_numpy(agent.decoder()(states, (means + std * torch.randn(means.shape)).numpy()))
        metrics |= {
            "goal/reach_rmse": errors.sqrt(),
            "goal/reach_r2": share_explained(wanted, reached),
            "goal/reach_corr": ((r * w).sum(0) / (r.norm(dim=0) * w.norm(dim=0) + 1e-8)).mean(),
            "goal/want_rms": wanted.square().mean().sqrt(),
            "goal/reached_rms": reached.square().mean().sqrt(),
            "goal/std": std.mean(),
            "act/noise_std": actions.view(8, len(observations), -1).std(0).mean(),
        }
    return {name: float(metric) for name, metric in metrics.items()}


def alarms(metrics: dict[str, float], recent: deque[tuple[float, int]]) -> dict[str, float]:
    """1 for each alarm that rings, 0 for the others. recent: return and length of the last episodes."""
    returns, lengths = np.mean(recent, 0) if recent else (0.0, 0.0)
    ringing = (
        metrics.get("goal/reach_r2", 1.0) < 0,
        metrics["act/noise_std"] < 0.05,
        len(recent) >= 10 and lengths > 200 and abs(returns / lengths - 1) < 0.05,
    )
    return {name: float(rings) for name, rings in zip(ALARMS, ringing, strict=True)}


class Player:
    """Acts in N environments side by side, or in one for a tool; the moments stand still.

    play: greedy, sampled, or, with --mode closeness, decoded: the IDM acts on the learned goals.
    """

    def __init__(self, agent: Agent, moments: RunningMoments, worlds: Worlds, args: Args, play: str):
        self.env_id, self.middle, self.half = args.env_id, worlds.middle, worlds.half
        self.moments, self.hold = moments, 1 if play == "decoded" else args.goal_hold
        decodes = args.mode == "goal_setter" or play == "decoded"
        self.decode = agent.decoder(bounds=play != "decoded") if decodes else None
        self.choose = in_numpy(agent.goal_network if play == "decoded" else agent.policy.actor)
        self.std = agent.policy.log_std.detach().exp() if play == "sampled" else None
        self.begin()

    def begin(self) -> None:
        """New episodes."""
        self.step = 0

    def act(self, states: np.ndarray) -> np.ndarray:
        """States (N, O) as the world gives them to actions (N, A) in half ranges."""
        if self.step % self.hold == 0:
            self.choices = self.choose(self.moments.standardised(states).astype(np.float32))
            if self.std is not None:
                self.choices = self.choices + (self.std * torch.randn(self.choices.shape)).numpy()
        self.step += 1
        actions = self.choices if self.decode is None else self.decode(states, self.choices)
        return actions.clip(-1, 1)

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The action (A,) float32 for an observation (O,) of one environment, in the world's own units."""
        return self.middle + self.half * self.act(observation.astype(np.float32)[None])[0]


def open_player(path: Path, sampled: bool = False, encoder: "FrozenEncoder | None" = None) -> Player:
    """Who plays as a checkpoint or run folder does: greedily, or drawing goals (with --mode ppo: actions).

    encoder: the one that it shall see through. Raises CleanPokeError if that is not its own, and for a
    checkpoint of another script.
    """
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=("agent", "observation_moments"))
    args = saved_arguments(checkpoint, Args)
    worlds = Worlds(args.env_id, 1, args.encoder_path)
    worlds.envs.close()  # only its bounds are needed
    refuse_other(checkpoint, args, (), encoder.checksum if encoder else worlds.encoder)
    agent, moments = Agent(args, worlds.num_inputs, worlds.num_actions), RunningMoments(worlds.num_inputs)
    try:
        agent.load_state_dict(checkpoint.state["agent"])
    except RuntimeError as error:
        raise CleanPokeError(
            f"{checkpoint.path} holds other networks than this {SCRIPT}.py builds: train again, or use the "
            "version of CleanPoke that wrote it"
        ) from error
    moments.load_state_dict(checkpoint.state["observation_moments"])
    return Player(agent, moments, worlds, args, "sampled" if sampled else "greedy")


def evaluate(
    agent: Agent, moments: RunningMoments, args: Args, play: str, seed: int, stop: Any = False
) -> np.ndarray:
    """Returns (episodes,) of the first episode in each of as many environments; play: as of a Player."""
    worlds = Worlds(args.env_id, args.eval_episodes, args.encoder_path)
    worlds.reset(seed)
    player = Player(agent, moments, worlds, args, play)
    returns, playing = np.zeros(args.eval_episodes), np.ones(args.eval_episodes, bool)
    while playing.any() and not stop:
        _, rewards, terminated, truncated = worlds.step(player.act(worlds.states))
        returns += rewards * playing
        playing &= ~(terminated | truncated)
    worlds.envs.close()
    return returns[~playing]


def report_evaluation(
    run: Run,
    agent: Agent,
    moments: RunningMoments,
    args: Args,
    step: int,
    stop: StopSignal,
    cloned: dict[str, Any],
) -> dict[str, Any]:
    """Plays the evaluation episodes: prints and logs what each kind of play returns; gives it back.

    At step 0 who plays is a clone; what it returned is `cloned` later (empty: there was none). Written to
    evaluation.json is the last evaluation, the clone's only if PPO does not follow.
    """
    results = {}
    for play in ("greedy", "sampled", *(("decoded",) if args.mode == "closeness" else ())):
        with torch.random.fork_rng():  # an evaluation on the way must not change the training that follows
            returns = evaluate(agent, moments, args, play, world_seed(args.seed, EVALUATION), stop)
        if stop:
            return {}
        error = 1.96 * float(returns.std()) / max(len(returns) - 1, 1) ** 0.5
        results[play] = {"episodes": len(returns), "mean": float(returns.mean()), "interval": error}
        results[play] |= {"min": float(returns.min()), "max": float(returns.max())}
        run.log(max(step - 1, 0), {f"eval/{play}_return": float(returns.mean())})
        run.progress.print(
            f"{play}: return {returns.mean():.1f} ± {error:.1f} over {len(returns)} episodes "
            f"({returns.min():.0f} to {returns.max():.0f})"
        )
    if step == 0:
        cloned = results
    if step or args.iterations < 1:
        run.save_json("evaluation.json", {"step": step, **results} | ({"cloned": cloned} if cloned else {}))
    return results


# --- Training ---------------------------------------------------------------------------------------------


def refuse_other(checkpoint: Checkpoint, args: Args, names: tuple[str, ...], encoder: str) -> None:
    """Raises CleanPokeError if the checkpoint's run differs from this one in one of these arguments, or saw
    through another encoder."""
    if checkpoint.schema != encoder:
        raise CleanPokeError(
            f"{checkpoint.path} was trained with another --encoder-path, or without: give the same encoder"
        )
    saved = saved_arguments(checkpoint, Args)
    for name in names:
        if getattr(saved, name) != getattr(args, name):
            raise CleanPokeError(
                f"{checkpoint.path} was trained with --{name.replace('_', '-')} {getattr(saved, name)}, "
                f"not {getattr(args, name)}: give the same, or another file"
            )


def idm_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one for name, one in weights.items() if name.startswith(("idm.", "goal_space."))}


def load_idm(agent: Agent, path: Path, args: Args, encoder: str) -> None:
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=("agent",))
    weights = idm_weights(checkpoint.state["agent"])
    if not weights:
        raise CleanPokeError(f"{checkpoint.path} holds no IDM (--mode ppo trains none): give another file")
    refuse_other(checkpoint, args, IDM_SHAPING, encoder)
    own = agent.state_dict()
    if {name: one.shape for name, one in weights.items()} != {
        name: own[name].shape for name in idm_weights(own)
    }:
        raise CleanPokeError(
            f"{checkpoint.path} holds another IDM than this {SCRIPT}.py builds: train it again, or use the "
            "version of CleanPoke that wrote it"
        )
    agent.load_state_dict(weights, strict=False)
    agent.move_acting_idm(stays=0.0)


def main(args: Args) -> None:
    check(args)
    worlds = Worlds(args.env_id, args.num_envs, args.encoder_path)
    if args.resume:  # before the run's folder is touched
        refuse_other(load_checkpoint(args.resume, script=SCRIPT), args, SHAPING, worlds.encoder)
    data = recorded(worlds, args) if args.data and not args.resume else None
    if args.save_idm:
        try:
            args.save_idm.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CleanPokeError(f"cannot make {args.save_idm.parent} ({error.strerror})") from error
    start("cpu", threads=1)  # networks this small are fastest on one core

    seed_everything(args.seed)
    agent = Agent(args, worlds.num_inputs, worlds.num_actions)
    policy_optimizer = torch.optim.Adam(agent.policy.parameters(), args.learning_rate, eps=1e-5, fused=True)
    observation_moments, return_moments = RunningMoments(worlds.num_inputs), RunningMoments(1)
    parts: dict[str, Any] = {"agent": agent, "policy_optimizer": policy_optimizer}
    parts |= {"observation_moments": observation_moments, "return_moments": return_moments}
    has_idm, is_joint = args.mode != "ppo", args.mode != "ppo" and args.idm_train == "joint"
    if has_idm:
        learned = [*agent.idm.parameters(), *agent.goal_space.parameters()]
        idm_optimizer = torch.optim.Adam(learned, args.warmup_learning_rate, fused=True)
        sizes = worlds.num_inputs, worlds.num_actions
        if args.data:
            warmup = Buffer(data.dones.size if data else 0, 1, *sizes)
        else:
            warmup = Buffer(args.warmup_length * args.num_envs, args.num_envs, *sizes)
        rollouts_kept = max(args.idm_buffer // args.batch_size, 1) if is_joint else 1
        capacity = rollouts_kept * args.batch_size
        recent = Buffer(capacity, args.num_envs, *sizes)
        parts |= {"idm_optimizer": idm_optimizer, "warmup": warmup, "recent": recent}
        if args.load_idm and not args.resume:
            load_idm(agent, args.load_idm, args, worlds.encoder)
    if args.mode == "closeness":
        goal_parameters = agent.goal_network.parameters()
        goal_optimizer = torch.optim.Adam(goal_parameters, args.learning_rate, eps=1e-5, fused=True)
        parts["goal_optimizer"] = goal_optimizer
    episodes: deque[tuple[float, int]] = deque(maxlen=100)  # return and length of the last ones
    cloned: dict[str, Any] = {}
    save_interval = max(args.save_every // args.batch_size, 1)
    warmup_steps = args.warmup_length * args.num_envs

    options = {"seed": args.seed, "needs": (*parts, "episodes"), "resume": args.resume, "root": args.runs}
    options["schema"] = worlds.encoder
    with Run(__file__, args.env_id.replace("/", "_"), args, **options) as run, StopSignal() as stop:
        step = run.start_step

        def save() -> None:
            state = {name: part.state_dict() for name, part in parts.items()}
            run.save(step, state | {"episodes": list(episodes), "cloned": cloned})

        def save_idm() -> None:
            if args.save_idm:
                weights = {"agent": idm_weights(agent.state_dict())}
                save_checkpoint(
                    Checkpoint(args.save_idm, SCRIPT, worlds.encoder, step, run.args, random_state(), weights)
                )

        if run.checkpoint:
            for name, part in parts.items():
                part.load_state_dict(run.checkpoint.state[name])
            episodes.extend(run.checkpoint.state["episodes"])
            cloned = run.checkpoint.state.get("cloned", {})
            restore_random_state(run.checkpoint.random_state)
            if (step - warmup_steps) // args.batch_size >= args.iterations:
                run.progress.print(f"this run has ended ({step:,} steps): raise --total-timesteps")
                save_idm()
                if args.eval_episodes:
                    report_evaluation(run, agent, observation_moments, args, step, stop, cloned)
        elif data or warmup_steps:
            source = f"{warmup.capacity:,} steps of {args.data}" if data else f"{warmup_steps:,} random steps"
            run.progress.print(f"warm-up: {source}, from which the IDM learns")

            def report(update: int, metrics: dict[str, float]) -> None:
                """Curves over updates, not steps: none of these is one of this run."""
                metrics = {f"data/{name.removeprefix('idm/')}": metric for name, metric in metrics.items()}
                run.log(update, metrics)

            learned_from = (agent, idm_optimizer, worlds, observation_moments, warmup, recent, args, stop)
            if data:
                warm_up(*learned_from, data, report)
                clone(agent, observation_moments, warmup, args, report, stop)
                if args.iterations < 1 and not stop:
                    save()
                    save_idm()
                if args.eval_episodes and not stop:
                    cloned = report_evaluation(run, agent, observation_moments, args, 0, stop, {})
                if args.iterations < 1 and cloned:
                    save()  # a resumed run must know
            else:
                metrics = warm_up(*learned_from)
                step = warmup_steps
                run.log(step - 1, metrics)
            if stop:
                run.progress.print("stopped in the warm-up: there is nothing to resume")
                return
        needs_reset, rung = True, set()
        for iteration in range((step - warmup_steps) // args.batch_size, args.iterations):
            began = time.monotonic()
            fraction = 1 - iteration / args.iterations if args.anneal_lr else 1.0
            policy_optimizer.param_groups[0]["lr"] = fraction * args.learning_rate
            if needs_reset:
                worlds.reset(world_seed(args.seed, iteration))
                discounted = np.zeros(args.num_envs)

            # Play, and learn to choose
            rollout = collect(worlds, agent, observation_moments, args)
            rewards = scaled_rewards(rollout, return_moments, discounted, args.gamma)
            rows = to_rows(rollout, rewards, agent.policy, observation_moments, args)
            metrics = update_policy(agent.policy, policy_optimizer, rows, args)
            policy_seconds = time.monotonic() - began

            # Learn in hindsight
            metrics["act/saturation"] = float((np.abs(rollout.decoded) >= 1).mean())
            metrics["act/noise_std"] = float(agent.policy.log_std.detach().exp().mean())
            if args.mode == "closeness":
                goal_optimizer.param_groups[0]["lr"] = fraction * args.learning_rate
                metrics |= update_goal_network(agent, goal_optimizer, rollout, args)
            if has_idm:
                kept = recent.add(rollout.states, rollout.next_states, rollout.actions, rollout.dones)
                distances = torch.full_like(kept, args.goal_steps)
                windows = recent.windows(kept, distances, args.longest_distance)
                metrics |= goal_metrics(agent, rollout, windows, args)
            if is_joint:
                idm_optimizer.param_groups[0]["lr"] = fraction * args.idm_learning_rate
                metrics |= learn_in_hindsight(agent, idm_optimizer, windows, warmup, recent, args)
            step += args.batch_size
            seconds = time.monotonic() - began

            # What people see of it
            episodes.extend(worlds.finished)
            mean_return = float(np.mean(episodes, 0)[0]) if episodes else math.nan
            metrics |= alarms(metrics, episodes) | {
                "reward/mean": float(rollout.rewards.mean()),
                "reward/std": float(rollout.rewards.std()),
                "charts/SPS": args.batch_size / seconds,
                "charts/policy_share": policy_seconds / seconds,
                "charts/learning_rate": policy_optimizer.param_groups[0]["lr"],
                "charts/episodes": float(len(worlds.finished)),
            }
            if worlds.finished:
                returns, lengths = np.mean(worlds.finished, 0)
                metrics |= {"charts/episodic_return": returns, "charts/episodic_length": lengths}
                worlds.finished.clear()
            run.log(step - 1, metrics)
            for name, meaning in ALARMS.items():
                if metrics[name] and name not in rung:
                    rung.add(name)
                    run.progress.print(f"{name} at step {step:,}: {meaning} (said once)")
            shown = {"return": mean_return, "steps/s": args.batch_size / seconds}
            shown |= {"reach R2": metrics["goal/reach_r2"]} if args.mode == "goal_setter" else {}
            run.progress.update(step, warmup_steps + args.iterations * args.batch_size, shown)

            is_over = bool(stop) or iteration + 1 == args.iterations
            needs_reset = (iteration + 1) % save_interval == 0
            if needs_reset or is_over:
                save()
            if is_over:
                save_idm()
            is_evaluated = bool(args.eval_every) and (
                step // args.eval_every > (step - args.batch_size) // args.eval_every
            )
            if args.eval_episodes and not stop and (is_over or is_evaluated):
                report_evaluation(run, agent, observation_moments, args, step, stop, cloned)
            if is_over:
                break
    worlds.envs.close()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
