"""Learns Atari games from pixels: proximal policy optimisation (PPO, Schulman et al. 2017).

Algorithm and hyperparameters are those of ppo_atari.py in CleanRL (Huang et al. 2022), computed faster on a
CPU. Games run in the vector environment of ale-py, whose wheel ships them. What differs: docs/ppo_atari.md.

    python cleanpoke/ppo_atari.py --env-id ALE/Pong-v5
    torchrun --nproc_per_node=2 cleanpoke/ppo_atari.py --env-id ALE/Pong-v5

Axes: T steps of a rollout, N environments of this process, A actions, B rows of a minibatch.
"""

import dataclasses
import difflib
import functools
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from cleanpoke.compute import (
    available_cores,
    gathered,
    global_sums,
    multiplies_bfloat16,
    start,
    sum_gradients,
)
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import (
    Checkpoint,
    Run,
    load_checkpoint,
    parse_arguments,
    restore_random_state,
    saved_arguments,
    seed_everything,
)
from cleanpoke.terminal import StopSignal
from cleanpoke.watch import Moment, Moments, Score, record

SCRIPT = Path(__file__).stem
STATE_KEYS = ("agent", "optimizer", "recent_returns")
MAX_VIDEO_STEPS = 4500
"""Five minutes of play."""
HASH_FACTOR = np.uint64(6364136223846793005)  # Knuth's, of a linear congruential generator
RETURN_MOMENTS_RATE = 0.1
"""How far the running moments of the returns move towards those of each rollout."""
MAX_WORKERS = 8
"""Threads by default, though there be more cores: shares of a minibatch get small, and others want some."""
SOLVED_AT = {"Pong": 18.0, "Breakout": 400.0, "BeamRider": 4000.0, "Freeway": 30.0, "Boxing": 90.0}
"""Mean return over the last 100 games from which `charts/solved` is 1; --solved-at overrides it."""


@dataclasses.dataclass
class Args:
    # Run
    env_id: str = "ALE/Pong-v5"
    """Game, any ALE/<Game>-v5."""
    seed: int = 1
    """Seed of initialisation, actions, minibatches and games."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    init_from: Path | None = None
    """Checkpoint whose network to start from, as a new run."""
    init_optimizer: bool = False
    """With --init-from: start from its optimizer's moments, too."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_timesteps: int = 10_000_000
    """Decisions over all environments; four frames each."""
    save_every: int = 64_000
    """Decisions of each game between checkpoints. All games start anew then (the last values are
    bootstrapped), so that a run resumed from such a checkpoint equals an uninterrupted one."""
    solved_at: float | None = None
    """Mean return of the last 100 games that counts as solved; default by game."""
    stop_when_solved: bool = False
    """End the run as soon as the game is solved."""
    keep: int = 2
    """How many of the newest checkpoints stay; tools/render_progression.py films all that stay."""

    # World
    num_envs: int = 8
    """Games played at once, over all processes."""
    sticky: float = 0.0
    """Probability that the game repeats the previous action instead (0.25 in ALE's v5 protocol)."""
    frame_skip: int = 4
    """Frames that each decision lasts."""
    rgb: bool = False
    """Show the network colours instead of grey."""
    drop_noop: bool = False
    """Leave out the action that does nothing."""
    env_threads: int = 0
    """Threads that step the games; 0: ale-py chooses."""

    # Algorithm
    learning_rate: float = 2.5e-4
    """Adam's, in the first update."""
    anneal_lr: bool = True
    """Lower the learning rate linearly to zero."""
    num_steps: int = 128
    """Decisions per environment in one rollout."""
    gamma: float = 0.99
    """Discount per decision."""
    gae_lambda: float = 0.95
    """0: one-step advantages; 1: of whole returns."""
    num_minibatches: int = 4
    """Equal parts of a rollout, an update each."""
    update_epochs: int = 4
    """Passes over each rollout."""
    norm_adv: bool = True
    """Standardise advantages in each minibatch."""
    clip_coef: float = 0.1
    """How far a probability ratio may move from 1."""
    value_loss: Literal["clipped", "mse", "huber"] = "clipped"
    """clipped: CleanRL's, values may move by clip_coef; mse; huber."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest norm of the whole network's gradient."""
    normalize_returns: bool = False
    """The critic learns standardised returns (PopArt, van Hasselt et al. 2016)."""
    target_kl: float | None = None
    """End the passes over a rollout early once the policy has moved this far."""

    # Speed, none of it changes the algorithm: benchmark/atari_speed.py
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """Compute in bfloat16 with float32 weights and losses; auto: where the hardware multiplies bfloat16."""
    blocks: bool = True
    """Compute the first convolution on 4x4 blocks of pixels."""
    workers: int = 0
    """Threads that share a minibatch, one core each; 0: all cores, but at most 8 (1 on a GPU)."""

    # Evaluation
    eval_every: int = 0
    """Decisions between evaluations; 0: only at the end."""
    eval_episodes: int = 20
    """Games per evaluation, greedy and sampled; 0: no evaluation."""
    eval_sticky: float = 0.0
    """As --sticky, in evaluations."""
    eval_video: bool = False
    """Film one greedy game of each evaluation, into the run's folder."""

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def game(self) -> str:
        return self.env_id.removeprefix("ALE/").rpartition("-v")[0]

    @property
    def channels(self) -> int:
        """Of an observation: four frames, grey or red, green and blue."""
        return 12 if self.rgb else 4

    @property
    def solved_return(self) -> float:
        return SOLVED_AT.get(self.game, math.inf) if self.solved_at is None else self.solved_at


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that do not fit together."""
    names = ("num_envs", "num_steps", "num_minibatches", "update_epochs", "save_every", "frame_skip", "keep")
    for name in names:
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("seed", "workers", "env_threads", "eval_episodes", "eval_every"):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    for name in ("sticky", "eval_sticky", "gamma", "gae_lambda"):
        if not 0 <= getattr(args, name) <= 1:  # nor what is not a number
            raise CleanPokeError(f"--{name.replace('_', '-')} must lie between 0 and 1")
    for name in ("learning_rate", "ent_coef", "vf_coef"):
        if not 0 <= getattr(args, name) < math.inf:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be 0 or a positive number")
    for name in ("clip_coef", "max_grad_norm", "target_kl"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be above 0")
    if args.init_optimizer and not (args.init_from or args.resume):
        raise CleanPokeError("--init-optimizer takes the optimizer of --init-from: give that, too")
    if args.stop_when_solved and math.isinf(args.solved_return):
        raise CleanPokeError(f"--stop-when-solved: say with --solved-at what solves {args.game}")
    if args.batch_size % args.num_minibatches:
        raise CleanPokeError(
            f"{args.batch_size} rows of a rollout (num_envs x num_steps) cannot be split into "
            f"{args.num_minibatches} equal minibatches: change --num-minibatches"
        )
    if args.batch_size // args.num_minibatches < 2:
        raise CleanPokeError("a minibatch needs at least two rows: lower --num-minibatches")
    if args.total_timesteps < args.batch_size:
        raise CleanPokeError(f"--total-timesteps must be at least one rollout, {args.batch_size}")


# --- Games ------------------------------------------------------------------------------------------------


def rom_name(env_id: str) -> str:
    """The game file of an environment: "ALE/MsPacman-v5" -> "ms_pacman". Raises CleanPokeError if unknown."""
    # ale-py registers what one player can play.
    specs = [spec for spec in gym.registry.values() if spec.namespace == "ALE"]
    games = {spec.name: spec.kwargs["game"] for spec in specs}
    name = env_id.removeprefix("ALE/").removesuffix("-v5")
    if name in games and env_id == f"ALE/{name}-v5":
        return games[name]
    other = gym.registry.get(env_id)
    if env_id.startswith("Vizdoom") or (other and "ale_py" not in str(other.entry_point)):
        script = "ppo_vizdoom.py" if env_id.startswith("Vizdoom") else "ppo.py"
        raise CleanPokeError(f"{env_id} is no Atari game: cleanpoke/{script} is for worlds like this")
    near = [f"ALE/{game}-v5" for game in difflib.get_close_matches(name.title(), games, n=3, cutoff=0.3)]
    raise CleanPokeError(f"unknown game {env_id!r}: did you mean {' or '.join(near or ['ALE/Pong-v5'])}?")


def game_seed(seed: int, iteration: int, num_envs: int) -> int:
    """Seed of the games that start before an iteration (-1: of an evaluation); ale-py counts up from it."""
    (number,) = np.random.SeedSequence((seed, iteration + 1)).generate_state(1)
    return int(number) % (2**31 - num_envs)


def make_envs(args: Args, num_envs: int, sticky: float, life_loss: bool, **changes: Any) -> AtariVectorEnv:
    """Games with the standard preprocessing (Machado et al. 2018): frame skip 4 with the maximum of the last
    two frames, 84 x 84 grey pixels, stacks of 4, fewer than 30 no-ops at the start, at most 108,000 frames.

    A finished game starts anew within the same step. life_loss: a lost life reports `terminated` while the
    game goes on. (ale-py's own episodic_life would restart the whole game.) Rewards are the game's own.
    changes: other arguments of AtariVectorEnv.
    """
    options = {"frameskip": args.frame_skip, "grayscale": not args.rgb, "num_threads": args.env_threads}
    options |= {"repeat_action_probability": sticky, "life_loss_info": life_loss, "reward_clipping": False}
    options |= {"autoreset_mode": AutoresetMode.SAME_STEP} | changes
    return AtariVectorEnv(rom_name(args.env_id), num_envs, **options)


# --- Network ----------------------------------------------------------------------------------------------


def to_blocks(frames: Tensor) -> Tensor:
    """uint8 (N, C, 84, 84) to blocks of 4 x 4 pixels, (N, 21, 21, C·16): frame, row, column."""
    size, channels = frames.shape[:2]
    words = frames.view(torch.int32).view(size, channels, 21, 4, 21)  # four pixels of a row are one word
    return words.permute(0, 2, 4, 1, 3).contiguous().view(torch.uint8).view(size, 21, 21, 16 * channels)


def initialized(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """Actor and critic on one convolutional network (Mnih et al. 2015, "Nature CNN")."""

    def __init__(self, num_actions: int, channels: int = 4):
        super().__init__()
        self.conv1 = initialized(nn.Conv2d(channels, 32, 8, stride=4))
        self.conv2 = initialized(nn.Conv2d(32, 64, 4, stride=2))
        self.conv3 = initialized(nn.Conv2d(64, 64, 3))
        self.hidden = initialized(nn.Linear(64 * 7 * 7, 512))
        self.actor = initialized(nn.Linear(512, num_actions), 0.01)
        self.critic = initialized(nn.Linear(512, 1), 1.0)
        # Values are in units of these; they stay 0 and 1 without --normalize-returns.
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))
        self.register_buffer("rollouts_seen", torch.zeros(()))

    def value(self, standardised: Tensor) -> Tensor:
        return standardised * self.return_std + self.return_mean

    @torch.no_grad()
    def rescale(self, returns: Tensor) -> None:
        """Moves the moments towards those of these returns, and the critic with them, so that its values stay
        what they were (PopArt)."""
        self.rollouts_seen += 1
        rate = max(RETURN_MOMENTS_RATE, 1 / float(self.rollouts_seen))
        old_mean, old_std = self.return_mean.clone(), self.return_std.clone()
        mean, std = mean_and_std(returns)
        self.return_mean.lerp_(mean, rate)
        self.return_std.lerp_(std.clamp_min(1e-4), rate)
        self.critic.weight.mul_(old_std / self.return_std)
        self.critic.bias.mul_(old_std / self.return_std).add_((old_mean - self.return_mean) / self.return_std)

    def weights(self, dtype: torch.dtype, blocks: bool) -> list[Tensor]:
        """The weights as `act_and_value` takes them.

        Cast once per minibatch. The 8 x 8 convolution with stride 4 equals a 2 x 2 one with stride 1 on
        blocks of 4 x 4 pixels, which oneDNN computes faster; pixels stay bytes, for /255 is folded in.
        """
        conv1 = self.conv1.weight / 255
        if blocks:
            conv1 = conv1.view(32, -1, 2, 4, 2, 4).permute(0, 1, 3, 5, 2, 4).reshape(32, -1, 2, 2)
        heads = torch.cat([self.actor.weight, self.critic.weight])
        biases = torch.cat([self.actor.bias, self.critic.bias])
        layers = [conv1, self.conv1.bias, self.conv2.weight, self.conv2.bias]
        layers += [self.conv3.weight, self.conv3.bias, self.hidden.weight, self.hidden.bias]
        layers = [layer.to(dtype) for layer in layers]
        for index in (0, 2, 4):
            layers[index] = layers[index].contiguous(memory_format=torch.channels_last)
        return [*layers, heads, biases]  # the heads stay float32: PPO's ratios lie within a tenth of 1


def act_and_value(observations: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Bytes (B, 21, 21, C·16) or (B, C, 84, 84) to log-probabilities (B, A) and values (B,), float32."""
    conv1, bias1, conv2, bias2, conv3, bias3, hidden, hidden_bias, heads, heads_bias = weights
    in_blocks = observations.shape[1] == 21
    relu = torch.relu_ if conv1.dtype == torch.float32 else F.relu  # in place is slower in bfloat16
    x = observations.to(conv1.dtype)
    # Blocks lie channels-last in memory; so does everything that follows.
    x = x.permute(0, 3, 1, 2) if in_blocks else x.contiguous(memory_format=torch.channels_last)
    x = relu(F.conv2d(x, conv1, bias1, stride=1 if in_blocks else 4))  # (B, 32, 20, 20)
    x = relu(F.conv2d(x, conv2, bias2, stride=2))  # (B, 64, 9, 9)
    x = relu(F.conv2d(x, conv3, bias3))  # (B, 64, 7, 7)
    x = x.permute(0, 2, 3, 1).flatten(1)  # in the order of memory: nothing is copied
    x = relu(F.linear(x, hidden, hidden_bias))  # (B, 512)
    outputs = F.linear(x.float(), heads, heads_bias)  # (B, A + 1)
    return outputs[:, :-1].log_softmax(1), outputs[:, -1]


def act(
    observations: Tensor, weights: list[Tensor], executor: ThreadPoolExecutor | None
) -> tuple[Tensor, Tensor]:
    """`act_and_value` without gradients; in float32 another thread takes half of the rows (in bfloat16 the
    wait for it costs more than it saves)."""
    with torch.inference_mode():
        if executor is None or weights[0].dtype != torch.float32 or len(observations) < 2:
            return act_and_value(observations, weights)
        mine, other = observations.tensor_split(2)
        pending = executor.submit(act, other, weights, None)
        (log_pi, values), (other_log_pi, other_values) = act(mine, weights, None), pending.result()
        return torch.cat([log_pi, other_log_pi]), torch.cat([values, other_values])


def sample(log_pi: Tensor) -> Tensor:
    """Actions (B,) drawn from log-probabilities (B, A): the Gumbel-max trick."""
    return (log_pi - torch.empty_like(log_pi).exponential_().log_()).argmax(1)


# --- Losses -----------------------------------------------------------------------------------------------


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, dones: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """GAE (Schulman et al. 2016, eq. 16): (T, N).

    rewards, dones (T, N): what followed each decision, where a truncated game's last reward already holds the
    discounted value of its last state; values (T + 1, N): of each state, and of the one after the rollout.
    """
    advantages = np.zeros_like(rewards)
    advantage = np.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        goes_on = 1.0 - dones[step]
        error = rewards[step] + gamma * goes_on * values[step + 1] - values[step]
        advantages[step] = advantage = error + gamma * gae_lambda * goes_on * advantage
    return advantages


def mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the values (B,) of all processes."""
    count, total, squares = global_sums(
        torch.ones_like(values).sum(), values.sum(), (values.double() ** 2).sum()
    )
    mean = total / count
    return mean.float(), ((squares - count * mean**2) / (count - 1)).clamp_min(0).sqrt().float()


@dataclasses.dataclass(slots=True)
class Rows:
    """Rows of a rollout, one decision each."""

    observations: Tensor  # (B, 21, 21, C·16) or (B, C, 84, 84) uint8
    actions: Tensor  # (B,) int64
    log_probabilities: Tensor  # (B,) of these actions when they were taken
    advantages: Tensor  # (B,)
    returns: Tensor  # (B,) in the critic's units
    values: Tensor  # (B,) when the actions were taken, in the critic's units

    def take(self, indices: Tensor) -> "Rows":
        """These rows. Observations are copied as 64-bit words: eight times as fast as byte by byte."""
        columns = [getattr(self, field.name) for field in dataclasses.fields(self)]
        words = columns[0].flatten(1).view(torch.int64).index_select(0, indices)
        observations = words.view(torch.uint8).view(-1, *self.observations.shape[1:])
        return Rows(observations, *(column.index_select(0, indices) for column in columns[1:]))


def ppo_loss(log_pi: Tensor, values: Tensor, rows: Rows, args: Args) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy loss (Schulman et al. 2017, eq. 7), value loss and entropy bonus; metrics as tensors.

    log_pi (B, A), values (B,): of the current network; rows.advantages as they shall be used.
    """
    log_ratio = log_pi.gather(1, rows.actions[:, None])[:, 0] - rows.log_probabilities
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = torch.max(-rows.advantages * ratio, -rows.advantages * clipped_ratio).mean()
    if args.value_loss == "clipped":
        near = rows.values + (values - rows.values).clamp(-args.clip_coef, args.clip_coef)
        errors = torch.max((values - rows.returns) ** 2, (near - rows.returns) ** 2)
        value_loss = 0.5 * errors.mean()
    elif args.value_loss == "mse":
        value_loss = 0.5 * F.mse_loss(values, rows.returns)
    else:
        value_loss = F.huber_loss(values, rows.returns)
    entropy = -(log_pi.exp() * log_pi).sum(1).mean()
    loss = policy_loss - args.ent_coef * entropy + args.vf_coef * value_loss
    with torch.no_grad():
        metrics = {
            "losses/policy": policy_loss.detach(),
            "losses/value": value_loss.detach(),
            "losses/entropy": entropy.detach(),
            "losses/approx_kl": (ratio - 1 - log_ratio).mean(),
            "losses/clip_fraction": ((ratio - 1).abs() > args.clip_coef).float().mean(),
        }
    return loss, metrics


def add_gradients(
    agent: Agent,
    rows: Rows,
    args: Args,
    dtype: torch.dtype,
    executor: ThreadPoolExecutor | None,
    parts: int,
    world: int = 1,
) -> dict[str, Tensor]:
    """Adds the gradient of the loss of these rows, and of those of the other processes, to the agent; returns
    the metrics of these.

    Each of `parts` threads works on its share of the rows with one core, which is faster than all cores
    together on one small operation after the other. The shares' gradients add up to that of the whole.
    """
    weights = agent.weights(dtype, args.blocks)
    leaves = [weight.detach().requires_grad_() for weight in weights]
    size = len(rows.actions)
    parts = min(parts, size)
    cuts = [size * part // parts for part in range(parts + 1)]

    def share(first: int, last: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        columns = (getattr(rows, field.name)[first:last] for field in dataclasses.fields(rows))
        part = Rows(*columns)
        loss, metrics = ppo_loss(*act_and_value(part.observations, leaves), part, args)
        fraction = (last - first) / size
        gradients = torch.autograd.grad(loss * (fraction / world), leaves)
        return gradients, {name: value * fraction for name, value in metrics.items()}

    results = list((executor.map if executor else map)(share, cuts[:-1], cuts[1:]))
    gradients = [
        functools.reduce(torch.add, tensors) for tensors in zip(*(r[0] for r in results), strict=True)
    ]
    torch.autograd.backward(weights, gradients)
    sum_gradients(agent.parameters())
    return {name: functools.reduce(torch.add, (r[1][name] for r in results)) for name in results[0][1]}


# --- Evaluation -------------------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(
    agent: Agent, args: Args, episodes: int, greedy: bool, seed: int, stop: Any = False
) -> tuple[np.ndarray, int]:
    """Raw returns (episodes,) of one whole game in each of `episodes` environments, like the training ones
    but for the lost lives; the first game of each counts, so that short games are not preferred.

    And how many of these games differ: without sticky actions, equal no-ops at the start and equal actions
    make equal games.
    """
    envs = make_envs(args, episodes, args.eval_sticky, life_loss=False)
    device, dtype = next(agent.parameters()).device, number_type(args, next(agent.parameters()).device)
    weights = agent.weights(dtype, args.blocks)
    frames, info = envs.reset(seed=seed)
    histories = info["episode_frame_number"].astype(np.uint64)  # hashes of each game's no-ops and actions
    returns, playing = np.zeros(episodes), np.ones(episodes, bool)
    while playing.any() and not stop:
        log_pi, _ = act_and_value(observe(frames, args, device), weights)
        actions = (log_pi.argmax(1) if greedy else sample(log_pi)).cpu().numpy()
        frames, rewards, terminated, truncated, _ = envs.step(actions + args.drop_noop)
        histories = np.where(playing, histories * HASH_FACTOR + actions.astype(np.uint64), histories)
        returns += rewards * playing
        playing &= ~(terminated | truncated)
    return returns[~playing], len(np.unique(histories[~playing]))


def observe(frames: np.ndarray, args: Args, device: torch.device) -> Tensor:
    """Frames of the games, (N, 4, 84, 84) uint8 and with --rgb (…, 3), as the network reads them."""
    observations = torch.from_numpy(frames).to(device)
    if args.rgb:
        observations = observations.movedim(-1, 2).flatten(1, 2)  # (N, 12, 84, 84)
    return to_blocks(observations) if args.blocks else observations


def number_type(args: Args, device: torch.device) -> torch.dtype:
    """What the network computes in."""
    use = args.bf16 == "on" or (args.bf16 == "auto" and multiplies_bfloat16(device))
    return torch.bfloat16 if use else torch.float32


def report_evaluation(run: Run, agent: Agent, args: Args, step: int, stop: StopSignal) -> None:
    """Plays the evaluation games: prints, logs and writes evaluation.json."""
    results = {}
    device = next(agent.parameters()).device
    seed = game_seed(args.seed, -1, args.eval_episodes)
    for play, greedy in (("greedy", True), ("sampled", False)):
        # An evaluation on the way must not change the training that follows.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            returns, distinct = evaluate(agent, args, args.eval_episodes, greedy, seed, stop)
        if stop:
            return
        error = 1.96 * float(returns.std()) / max(distinct - 1, 1) ** 0.5  # copies of a game tell nothing new
        results[play] = {"episodes": len(returns), "distinct": distinct}
        results[play] |= {"mean": float(returns.mean()), "interval": error}
        results[play] |= {"min": float(returns.min()), "max": float(returns.max())}
        run.log(step - 1, {f"eval/{play}_return": float(returns.mean())})
        run.progress.print(
            f"{play}: return {returns.mean():.1f} ± {error:.1f} over {len(returns)} games "
            f"({distinct} distinct, {returns.min():.0f} to {returns.max():.0f})"
        )
    run.save_json("evaluation.json", {"step": step, **results})
    if args.eval_video:
        film, title = run.folder / f"evaluation_{step:09}.mp4", f"{args.game}, {step:,} steps"
        record(moments(args, agent, seed), film, 1, title, MAX_VIDEO_STEPS, stop)


@torch.inference_mode()
def moments(args: Args, agent: Agent | None, seed: int, greedy: bool = True) -> Moments:
    """Plays one game after the other as an evaluation does (see watch.py); without an agent at random."""
    envs = make_envs(args, 1, args.eval_sticky, life_loss=False)
    # The same games once more, for people: equal seeds and actions give equal games.
    size = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
    pictures = make_envs(args, 1, args.eval_sticky, life_loss=False, **size)
    names = tuple(action.name for action in envs.ale.get_action_set())[args.drop_noop :]
    (frames, _), (picture, _) = envs.reset(seed=seed), pictures.reset(seed=seed)
    if agent is not None:
        device, dtype = agent.return_mean.device, number_type(args, agent.return_mean.device)
        weights = agent.weights(dtype, args.blocks)
    score = Score()
    while True:
        log_pi, value = torch.full((1, len(names)), -math.log(len(names))), math.nan
        if agent is not None:
            log_pi, values = act_and_value(observe(frames, args, device), weights)
            value = float(agent.value(values))
        action = int(log_pi.argmax(1) if greedy and agent is not None else sample(log_pi))
        probabilities = log_pi[0].exp().cpu().numpy()
        moment = Moment(picture[0, 0], frames[0], names, action, probabilities, value, score)
        chosen = yield moment
        actions = np.array([(action if chosen is None else chosen) + args.drop_noop])
        frames, rewards, terminated, truncated, _ = envs.step(actions)
        picture = pictures.step(actions)[0]
        score = score.after(float(rewards[0]), bool(terminated[0] or truncated[0]))


def open_agent(path: Path) -> tuple[Agent, Args, int]:
    """The agent in a checkpoint or run folder, its arguments and how many steps it has trained."""
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=STATE_KEYS)
    args = saved_arguments(checkpoint, Args)
    agent = Agent(len(checkpoint.state["agent"]["actor.bias"]), args.channels)
    agent.load_state_dict(checkpoint.state["agent"])
    return agent, args, checkpoint.step


# --- Training ---------------------------------------------------------------------------------------------


def load_agent(path: Path, args: Args) -> Checkpoint:
    """A checkpoint of this script. Raises CleanPokeError if it is of another game."""
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=STATE_KEYS)
    for name in ("env_id", "rgb", "drop_noop"):
        if checkpoint.args[name] != getattr(args, name):
            raise CleanPokeError(
                f"{checkpoint.path} was trained with --{name.replace('_', '-')} {checkpoint.args[name]}, not "
                f"{getattr(args, name)}: give a checkpoint that fits"
            )
    return checkpoint


def mean_of_100(recent_returns: deque[float]) -> float:
    """Mean return of the last 100 games, before there are as many minus infinity."""
    return float(np.mean(recent_returns)) if len(recent_returns) == 100 else -math.inf


def main(args: Args) -> None:
    check(args)
    rom_name(args.env_id)
    if args.resume:
        load_agent(args.resume, args)  # before the run's folder is touched
    place = start(args.device, threads=1)
    if args.num_envs % place.world:
        raise CleanPokeError(f"--num-envs {args.num_envs} games cannot be shared by {place.world} processes")
    device, dtype = place.device, number_type(args, place.device)
    cores = max(available_cores() // place.world, 1) if device.type == "cpu" else 1
    workers = args.workers or min(cores, MAX_WORKERS)
    executor = ThreadPoolExecutor(workers) if workers > 1 else None

    seed_everything(args.seed)
    T, N = args.num_steps, args.num_envs // place.world
    envs = make_envs(args, N, args.sticky, life_loss=True)
    agent = Agent(int(envs.single_action_space.n) - args.drop_noop, args.channels).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    if args.init_from and not args.resume:
        parent = load_agent(args.init_from, args).state
        agent.load_state_dict(parent["agent"])
        if args.init_optimizer:
            optimizer.load_state_dict(parent["optimizer"])
    recent_returns: deque[float] = deque(maxlen=100)
    best_mean = -math.inf  # of 100 games; who has solved a game once has solved it

    iterations = args.total_timesteps // args.batch_size
    save_interval = max(args.save_every // args.num_steps, 1)
    shape = (21, 21, 16 * args.channels) if args.blocks else (args.channels, 84, 84)
    observations = torch.zeros(T + 1, N, *shape, dtype=torch.uint8, device=device)
    actions = torch.zeros(T, N, dtype=torch.int64, device=device)
    log_probabilities = torch.zeros(T, N, device=device)
    values = torch.zeros(T + 1, N, device=device)
    rewards, dones = np.zeros((T, N), np.float32), np.zeros((T, N), np.float32)
    raw_rewards = np.zeros((T, N), np.float32)

    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    options |= {"keep": args.keep, "enabled": place.is_first}
    with Run(__file__, args.game, args, **options) as run, StopSignal() as stop:
        if run.checkpoint:
            agent.load_state_dict(run.checkpoint.state["agent"])
            optimizer.load_state_dict(run.checkpoint.state["optimizer"])
            recent_returns.extend(run.checkpoint.state["recent_returns"])
            best_mean = run.checkpoint.state.get("best_mean", mean_of_100(recent_returns))
            restore_random_state(run.checkpoint.random_state)
        step = run.start_step
        was_solved = args.stop_when_solved and best_mean >= args.solved_return
        if was_solved or step // args.batch_size >= iterations:
            advice = "--no-stop-when-solved goes on" if was_solved else "raise --total-timesteps"
            run.progress.print(f"this run has ended ({step:,} steps): {advice}")
            if place.is_first and args.eval_episodes:
                report_evaluation(run, agent, args, step, stop)
        needs_reset = True
        for iteration in range(iterations if was_solved else step // args.batch_size, iterations):
            began = time.monotonic()
            fraction = 1 - iteration / iterations if args.anneal_lr else 1.0
            optimizer.param_groups[0]["lr"] = fraction * args.learning_rate
            if needs_reset:
                first_seed = game_seed(args.seed, iteration, args.num_envs) + place.rank * N
                if place.rank:  # every process draws its own actions and minibatches
                    torch.manual_seed(first_seed)
                frames, info = envs.reset(seed=first_seed)
                observations[0] = observe(frames, args, device)
                game_frames = info["episode_frame_number"].copy()
                game_return, game_steps = np.zeros(N), np.zeros(N, int)

            # Rollout
            finished_returns, finished_lengths = [], []
            with torch.inference_mode():
                weights = agent.weights(dtype, args.blocks)
                for t in range(T):
                    log_pi, value = act(observations[t], weights, executor)
                    action = sample(log_pi)
                    envs.send(action.cpu().numpy() + args.drop_noop)
                    # The games run while the step before is written down.
                    actions[t], values[t] = action, agent.value(value)
                    log_probabilities[t] = log_pi.gather(1, action[:, None])[:, 0]
                    frames, reward, terminated, truncated, info = envs.recv()
                    observations[t + 1] = observe(frames, args, device)
                    raw_rewards[t], rewards[t] = reward, np.sign(reward)
                    dones[t] = terminated | truncated
                    if truncated.any():
                        last = observe(info["final_obs"][truncated], args, device)
                        bootstrap = agent.value(act_and_value(last, weights)[1])
                        rewards[t, truncated] += args.gamma * bootstrap.cpu().numpy()
                    game_return += reward
                    game_steps += 1
                    # A lost life is no new game; a game's own frame count that fell is.
                    over = info["episode_frame_number"] < game_frames
                    game_frames = info["episode_frame_number"].copy()
                    if over.any():
                        finished_returns += game_return[over].tolist()
                        finished_lengths += game_steps[over].tolist()
                        game_return[over], game_steps[over] = 0.0, 0
                values[T] = agent.value(act_and_value(observations[T], weights)[1])
            seconds_playing = time.monotonic() - began
            finished_returns, finished_lengths = gathered(finished_returns), gathered(finished_lengths)
            recent_returns.extend(finished_returns)

            # Update
            numpy_values = values.cpu().numpy()
            advantages = generalized_advantages(rewards, numpy_values, dones, args.gamma, args.gae_lambda)
            advantages = torch.from_numpy(advantages).to(device).flatten()
            old_values = values[:T].flatten()
            returns = advantages + old_values
            if args.normalize_returns:
                agent.rescale(returns)
            rollout = Rows(
                observations[:T].flatten(0, 1),
                actions.flatten(),
                log_probabilities.flatten(),
                advantages,
                (returns - agent.return_mean) / agent.return_std,
                (old_values - agent.return_mean) / agent.return_std,
            )
            sums: dict[str, Tensor] = {}
            count = 0
            for _ in range(args.update_epochs):
                order = torch.randperm(T * N).to(device)
                for indices in order.chunk(args.num_minibatches):
                    minibatch = rollout.take(indices)
                    if args.norm_adv:
                        mean, std = mean_and_std(minibatch.advantages)
                        minibatch.advantages = (minibatch.advantages - mean) / (std + 1e-8)
                    optimizer.zero_grad()
                    metrics = add_gradients(agent, minibatch, args, dtype, executor, workers, place.world)
                    norm = nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                    optimizer.step()
                    count += 1
                    for name, metric in (metrics | {"grad/norm": norm}).items():
                        sums[name] = sums.get(name, 0.0) + metric  # a tensor: a GPU need not wait for it
                if args.target_kl is not None:
                    (divergence,) = global_sums(metrics["losses/approx_kl"] / place.world)
                    if float(divergence) > args.target_kl:
                        break
            observations[0] = observations[T]
            step += args.batch_size
            seconds = time.monotonic() - began

            # What people see of it
            spread = float(returns.var())
            mean_return = float(np.mean(recent_returns)) if recent_returns else math.nan
            best_mean = max(best_mean, mean_of_100(recent_returns))
            solved = best_mean >= args.solved_return
            metrics = {name: float(total) / count for name, total in sums.items()} | {
                "losses/explained_variance": 1 - float(advantages.var()) / spread if spread else math.nan,
                "value/mean": float(old_values.mean()),
                "value/return_std": float(returns.std()),
                "reward/mean": float(raw_rewards.mean()),
                "reward/std": float(raw_rewards.std()),
                "reward/min": float(raw_rewards.min()),
                "reward/max": float(raw_rewards.max()),
                "charts/SPS": args.batch_size / seconds,
                "charts/playing_share": seconds_playing / seconds,
                "charts/updates_per_second": count / seconds,
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/solved": float(solved),
            }
            metrics |= {
                f"grad/norm_{name}": float(torch.stack([p.grad.norm() for p in part.parameters()]).norm())
                for name, part in agent.named_children()
            }
            if finished_returns:
                run.log_histogram(step - 1, "reward/episodic_returns", np.array(finished_returns))
                metrics["charts/episodic_return"] = float(np.mean(finished_returns))
                metrics["charts/episodic_length"] = float(np.mean(finished_lengths))
            run.log(step - 1, metrics)
            if raw_rewards.any():
                run.log_histogram(step - 1, "reward/raw", raw_rewards[raw_rewards != 0])
            shown = {"return": mean_return, "steps/s": args.batch_size / seconds}
            run.progress.update(step, iterations * args.batch_size, shown)

            # All processes must stop together, though the signal may reach one of them first.
            (stopping,) = global_sums(torch.tensor(float(bool(stop)), device=device))
            is_over = bool(stopping) or iteration + 1 == iterations or (solved and args.stop_when_solved)
            needs_reset = (iteration + 1) % save_interval == 0
            if needs_reset or is_over:
                state = {"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}
                state |= {"recent_returns": list(recent_returns), "best_mean": best_mean}
                run.save(step, state)
            is_evaluated = (
                bool(args.eval_every)
                and step // args.eval_every > (step - args.batch_size) // args.eval_every
            )
            if place.is_first and args.eval_episodes and not stop and (is_over or is_evaluated):
                report_evaluation(run, agent, args, step, stop)
            if is_over:
                break
    if executor:
        executor.shutdown()
    if place.world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
