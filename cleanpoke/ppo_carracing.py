"""Learns CarRacing-v3 from pixels through a state vector of 64 numbers, by PPO (Schulman et al. 2017).

A convolutional encoder makes the vector; small networks choose from it (a Beta distribution over each bounded
action, Chou et al. 2017) and value it. The encoder is also saved by itself, as encoder.pt2: others learn on
its latents instead of on pictures, such as ppo_goalsetter_idm.py. What differs from other PPO, and the way to
goals: docs/ppo_carracing.md.

    python cleanpoke/ppo_carracing.py
    python cleanpoke/ppo_carracing.py --encoder-path runs/<folder>/encoder.pt2 --freeze-encoder

Axes: T steps of a rollout, N cars, K pictures of a stack, D latent dimensions, A actions, B rows.
"""

import dataclasses
import functools
import math
import multiprocessing
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Beta

from cleanpoke.compute import autocast, start
from cleanpoke.envs.car_racing import (
    ENV_ID,
    SIZE,
    CarPictures,
    FrozenEncoder,
    Reading,
    load_encoder,
    save_encoder,
    write_encoder,
)
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

SCRIPT = Path(__file__).stem
STATE_KEYS = ("agent", "optimizer", "recent_returns")
ENCODER_FILE = "encoder.pt2"
SHAPING = ("latent_dim", "frames", "action_repeat", "freeze_encoder")
"""Arguments that a resumed run cannot change."""
ACTIONS = ("steering", "gas", "brake")
RETURN_MOMENTS_RATE = 0.1
"""How far the running moments of the returns move towards those of each rollout."""
STEP_TIMEOUT_SECONDS = 120


@dataclasses.dataclass
class Args:
    # Run
    seed: int = 1
    """Seed of initialisation, actions, minibatches and tracks."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_timesteps: int = 300_000
    """Decisions over all cars; `action_repeat` frames each."""
    save_every: int = 50_000
    """Decisions between checkpoints. All episodes start anew then (their last values are bootstrapped), so
    that a run resumed from such a checkpoint equals an uninterrupted one."""

    # World
    num_envs: int = 8
    """Cars that drive at once, each on a track of its own."""
    action_repeat: int = 8
    """Frames that each decision lasts, of 50 a second; only the last one is drawn."""
    frames: int = 4
    """Pictures that the encoder sees at once."""
    patience: int = 100
    """In training, an episode is cut off after so many frames without new road; 0: never. Evaluations drive
    on."""
    processes: bool = False
    """Step each car in a process of its own, for machines with many cores."""

    # Encoder
    latent_dim: int = 64
    """Numbers of the state vector."""
    encoder_path: Path | None = None
    """Encoder to start from, an encoder.pt2."""
    freeze_encoder: bool = False
    """Keep that encoder as it is: actor and critic alone learn."""

    # Algorithm
    learning_rate: float = 5e-4
    anneal_lr: bool = True
    """Lower the learning rate linearly to zero."""
    num_steps: int = 128
    """Decisions per car in one rollout."""
    gamma: float = 0.99
    """Discount per decision."""
    gae_lambda: float = 0.95
    """0: one-step advantages; 1: of whole returns."""
    num_minibatches: int = 8
    update_epochs: int = 8
    """Passes over each rollout."""
    norm_adv: bool = True
    """Standardise advantages in each minibatch."""
    clip_coef: float = 0.2
    """How far a probability ratio may move from 1."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """The encoder's products in bfloat16 with float32 weights; auto: where the processor multiplies them."""

    # Evaluation
    eval_every: int = 0
    """Decisions between evaluations; 0: only at the end."""
    eval_episodes: int = 20
    """Episodes per evaluation, greedy and sampled; 0: no evaluation."""

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def reading(self) -> Reading:
        return Reading(ENV_ID, self.action_repeat, self.frames, self.latent_dim)


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that do not fit together."""
    names = ("num_envs", "num_steps", "num_minibatches", "update_epochs", "save_every", "action_repeat")
    for name in (*names, "frames", "latent_dim"):
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    at_least_zero = "seed patience eval_episodes eval_every learning_rate clip_coef ent_coef vf_coef"
    for name in (*at_least_zero.split(), "max_grad_norm"):
        if not getattr(args, name) >= 0:  # nan is no such number, either
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    for name in ("gamma", "gae_lambda"):
        if not 0 <= getattr(args, name) <= 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be between 0 and 1")
    if args.batch_size % args.num_minibatches:
        raise CleanPokeError(
            f"{args.batch_size} rows of a rollout (num_envs x num_steps) cannot be split into "
            f"{args.num_minibatches} equal minibatches: change --num-minibatches"
        )
    if args.batch_size // args.num_minibatches < 2:
        raise CleanPokeError("a minibatch needs at least two rows: lower --num-minibatches")
    if args.total_timesteps < args.batch_size:
        raise CleanPokeError(f"--total-timesteps must be at least one rollout, {args.batch_size}")
    if args.freeze_encoder and not args.encoder_path:
        raise CleanPokeError("--freeze-encoder keeps the encoder of --encoder-path: give one")


# --- Worlds -----------------------------------------------------------------------------------------------


def make_car(args: Args, patience: int) -> CarPictures:
    if multiprocessing.parent_process():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    return CarPictures(args.action_repeat, args.frames, patience)


def make_envs(args: Args, num_envs: int, patience: int) -> SyncVectorEnv | AsyncVectorEnv:
    """Cars that start anew, on another track, within the step in which an episode ends."""
    makers = [functools.partial(make_car, args, patience)] * num_envs
    if args.processes:
        return AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def take_step(envs: SyncVectorEnv | AsyncVectorEnv, shares: Tensor) -> tuple[Any, ...]:
    """Steps with actions (N, A) in shares of their range, 0 … 1, as gymnasium's `step`."""
    space = envs.single_action_space
    actions = space.low + shares.numpy() * (space.high - space.low)
    if isinstance(envs, SyncVectorEnv):
        return envs.step(actions)
    envs.step_async(actions)
    return envs.step_wait(STEP_TIMEOUT_SECONDS)


def track_seed(seed: int, iteration: int) -> int:
    """Seed of the episodes that start before an iteration (-1: of an evaluation); car i adds i."""
    return int(np.random.SeedSequence((seed, iteration + 1)).generate_state(1)[0]) % 2**30


# --- Network ----------------------------------------------------------------------------------------------


def initialized(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Pictures (B, K, 48, 48) uint8 to latents (B, D) float32 between -1 and 1."""

    def __init__(self, frames: int, latent_dim: int):
        super().__init__()
        self.conv1 = initialized(nn.Conv2d(frames, 32, 4, stride=2))  # 23 x 23
        self.conv2 = initialized(nn.Conv2d(32, 32, 4, stride=2))  # 10 x 10
        self.conv3 = initialized(nn.Conv2d(32, 64, 4, stride=2))  # 4 x 4
        self.latents = initialized(nn.Linear(64 * 4 * 4, latent_dim), 1.0)

    def forward(self, pictures: Tensor) -> Tensor:
        # Channels-last: 1.5 times as fast as the other order on a CPU.
        x = (pictures.float() / 128 - 1).contiguous(memory_format=torch.channels_last)
        for layer in (self.conv1, self.conv2, self.conv3):
            x = F.relu(layer(x))
        return self.latents(x.flatten(1)).float().tanh()


class Agent(nn.Module):
    """Encoder, actor and critic."""

    def __init__(self, frames: int, latent_dim: int, width: int = 64):
        super().__init__()
        self.encoder = Encoder(frames, latent_dim).to(memory_format=torch.channels_last)
        self.actor = nn.Sequential(
            initialized(nn.Linear(latent_dim, width)),
            nn.Tanh(),
            initialized(nn.Linear(width, 2 * len(ACTIONS)), 0.01),
        )
        self.critic = nn.Sequential(
            initialized(nn.Linear(latent_dim, width)), nn.Tanh(), initialized(nn.Linear(width, 1), 1.0)
        )
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))
        self.register_buffer("rollouts_seen", torch.zeros(()))

    def forward(self, pictures: Tensor) -> tuple[Beta, Tensor]:
        """Pictures (B, K, 48, 48) uint8 to the policy and standardised values (B,)."""
        return self.decide(self.encoder(pictures))

    def decide(self, latents: Tensor) -> tuple[Beta, Tensor]:
        """Latents (B, D) to the policy over actions (B, A), in shares of their range, and values (B,)."""
        with torch.autocast(latents.device.type, enabled=False):  # PPO's ratios lie within a tenth of 1
            # Above 1 both: the density has one peak, and none at the ends of the range.
            alpha, beta = (F.softplus(self.actor(latents)) + 1).chunk(2, 1)
            return Beta(alpha, beta, validate_args=False), self.critic(latents)[:, 0]

    def value(self, standardised: Tensor) -> Tensor:
        return standardised * self.return_std + self.return_mean

    @torch.no_grad()
    def rescale(self, returns: Tensor) -> None:
        """Moves the moments towards those of these returns, and the critic with them, so that its values stay
        what they were (PopArt, van Hasselt et al. 2016)."""
        self.rollouts_seen += 1
        rate = max(RETURN_MOMENTS_RATE, 1 / float(self.rollouts_seen))
        old_mean, old_std = self.return_mean.clone(), self.return_std.clone()
        self.return_mean.lerp_(returns.mean(), rate)
        self.return_std.lerp_(returns.std().clamp_min(1e-4), rate)
        last = self.critic[-1]
        last.weight.mul_(old_std / self.return_std)
        last.bias.mul_(old_std / self.return_std).add_((old_mean - self.return_mean) / self.return_std)


def sample(policy: Beta) -> Tensor:
    """Actions (B, A), kept from the ends of the range, where a density may be zero."""
    return policy.sample().clamp(1e-5, 1 - 1e-5)


# --- Losses -----------------------------------------------------------------------------------------------


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, dones: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """GAE (Schulman et al. 2016, eq. 16): (T, N).

    rewards, dones (T, N): what followed each decision, where a cut-off episode's last reward already holds
    the discounted value of its last state; values (T + 1, N): of each state, and of the one after.
    """
    advantages = np.zeros_like(rewards)
    advantage = np.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        goes_on = 1.0 - dones[step]
        error = rewards[step] + gamma * goes_on * values[step + 1] - values[step]
        advantages[step] = advantage = error + gamma * gae_lambda * goes_on * advantage
    return advantages


@dataclasses.dataclass(slots=True)
class Rows:
    """Rows of a rollout, one decision each."""

    inputs: Tensor  # (B, K, 48, 48) uint8, or (B, D) latents of a frozen encoder
    actions: Tensor  # (B, A) in shares of their range
    log_probabilities: Tensor  # (B,) of these actions when they were taken
    advantages: Tensor  # (B,)
    returns: Tensor  # (B,) standardised like the critic's values

    def take(self, indices: Tensor) -> "Rows":
        return Rows(*(getattr(self, field.name)[indices] for field in dataclasses.fields(self)))


def ppo_loss(policy: Beta, values: Tensor, rows: Rows, args: Args) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy loss (Schulman et al. 2017, eq. 7), value loss and entropy bonus; metrics as tensors."""
    log_ratio = policy.log_prob(rows.actions).sum(1) - rows.log_probabilities
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = torch.max(-rows.advantages * ratio, -rows.advantages * clipped_ratio).mean()
    value_loss = 0.5 * F.mse_loss(values, rows.returns)
    entropy = policy.entropy().sum(1).mean()
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


# --- Evaluation -------------------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(agent: Agent, args: Args, greedy: bool, seed: int, stop: Any = False) -> np.ndarray:
    """Returns (episodes,) of whole episodes, on the same tracks every time; the first in each of `num_envs`
    cars, with new seeds until there are enough, so that short episodes are not preferred.

    greedy: the mean action instead of one that is drawn.
    """
    size, returns = min(args.num_envs, args.eval_episodes), []
    envs = make_envs(args, size, patience=0)
    while len(returns) < args.eval_episodes and not stop:
        pictures, _ = envs.reset(seed=seed + len(returns))
        totals, playing = np.zeros(size), np.ones(size, bool)
        while playing.any() and not stop:
            with autocast(torch.device("cpu"), args.bf16):
                policy, _ = agent(torch.from_numpy(pictures))
            pictures, rewards, terminated, truncated, _ = take_step(
                envs, policy.mean if greedy else sample(policy)
            )
            totals += rewards * playing
            playing &= ~(terminated | truncated)
        returns += totals[~playing].tolist()
    envs.close()
    return np.array(returns[: args.eval_episodes])


def report_evaluation(run: Run, agent: Agent, args: Args, step: int, stop: StopSignal) -> None:
    """Plays the evaluation episodes: prints, logs and writes evaluation.json."""
    results, seed = {}, track_seed(args.seed, -1)
    for play in ("greedy", "sampled"):
        with torch.random.fork_rng():  # an evaluation on the way must not change the training that follows
            returns = evaluate(agent, args, play == "greedy", seed, stop)
        if stop:
            return
        error = 1.96 * float(returns.std()) / max(len(returns) - 1, 1) ** 0.5
        results[play] = {"episodes": len(returns), "mean": float(returns.mean()), "interval": error}
        results[play] |= {"min": float(returns.min()), "max": float(returns.max())}
        run.log(step - 1, {f"eval/{play}_return": float(returns.mean())})
        run.progress.print(
            f"{play}: return {returns.mean():.1f} ± {error:.1f} over {len(returns)} episodes "
            f"({returns.min():.0f} to {returns.max():.0f})"
        )
    run.save_json("evaluation.json", {"step": step, **results})


class Player:
    """A trained agent for tools. It looks at pictures (K, 48, 48) or at their latents (D,)."""

    env_id = ENV_ID

    def __init__(self, agent: Agent, sampled: bool):
        self.agent, self.sampled = agent, sampled

    @torch.inference_mode()
    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Steering, gas and brake, (3,) float32 as CarRacing wants them."""
        seen = torch.from_numpy(observation)[None]
        latents = self.agent.encoder(seen) if seen.dtype == torch.uint8 else seen
        policy, _ = self.agent.decide(latents)
        steering, gas, brake = (sample(policy) if self.sampled else policy.mean)[0].tolist()
        return np.array([2 * steering - 1, gas, brake], np.float32)


def open_player(path: Path, sampled: bool = False, encoder: FrozenEncoder | None = None) -> Player:
    """Who drives as a checkpoint or run folder does: with mean actions, or with drawn ones.

    encoder: the one that it shall see through. Raises CleanPokeError if that is not its own, and for a
    checkpoint of another script.
    """
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=STATE_KEYS)
    args = saved_arguments(checkpoint, Args)
    agent = Agent(args.frames, args.latent_dim)
    agent.load_state_dict(checkpoint.state["agent"])
    if encoder:
        own = agent.encoder.state_dict()
        same_layers = own.keys() == encoder.weights.keys()
        if not (same_layers and all(torch.equal(own[name], encoder.weights[name]) for name in own)):
            raise CleanPokeError(
                f"{checkpoint.path} sees through an encoder with other weights than this one: give the "
                "run's last checkpoint, and no other --encoder-path than its own encoder.pt2"
            )
    return Player(agent, sampled)


# --- Training ---------------------------------------------------------------------------------------------


def refuse_other(args: Args) -> None:
    """Raises CleanPokeError if the run to resume cannot go on with these arguments."""
    checkpoint = load_checkpoint(args.resume, script=SCRIPT, needs=STATE_KEYS)
    saved = saved_arguments(checkpoint, Args)
    for name in SHAPING:
        if getattr(saved, name) != getattr(args, name):
            raise CleanPokeError(
                f"{checkpoint.path} was trained with --{name.replace('_', '-')} {getattr(saved, name)}, "
                f"not {getattr(args, name)}: give the same, or start a new run"
            )
    if args.encoder_path and (
        saved.encoder_path is None or args.encoder_path.resolve() != saved.encoder_path.resolve()
    ):
        raise CleanPokeError(
            f"{checkpoint.path} goes on with its own encoder, not with {args.encoder_path}: leave out "
            "--encoder-path, or start a new run"
        )


def open_encoder(args: Args) -> FrozenEncoder:
    """The encoder to start from. Raises CleanPokeError if it reads or makes something else."""
    encoder = load_encoder(args.encoder_path)
    for field in dataclasses.fields(Reading):
        theirs, ours = (getattr(reading, field.name) for reading in (encoder.reading, args.reading))
        if theirs != ours:
            raise CleanPokeError(
                f"{args.encoder_path} has {field.name} {theirs}, not {ours}: give --"
                f"{field.name.replace('_', '-')} {theirs}, or another encoder"
            )
    ours = Encoder(args.frames, args.latent_dim).state_dict()
    sizes = [{name: weight.shape for name, weight in one.items()} for one in (encoder.weights, ours)]
    if sizes[0] != sizes[1]:
        raise CleanPokeError(f"{args.encoder_path} holds a network of another kind: give another encoder")
    return encoder


def save(run: Run, agent: Agent, args: Args, step: int, state: dict[str, Any]) -> None:
    """Writes a checkpoint, and the encoder beside it."""
    path = run.folder / ENCODER_FILE
    if not (args.freeze_encoder and path.exists()):
        save_encoder(path, agent.encoder, args.reading)
    run.save(step, {"agent": agent.state_dict(), **state})


def main(args: Args) -> None:
    check(args)
    if args.resume:  # before the run's folder is touched
        refuse_other(args)
    encoder = open_encoder(args) if args.encoder_path and not args.resume else None
    # The cars take most of the time. In this process they take one core, and more threads would mostly wait.
    place = start("cpu", threads=0 if args.processes else 1)

    seed_everything(args.seed)
    agent = Agent(args.frames, args.latent_dim)
    if encoder:
        agent.encoder.load_state_dict(encoder.weights)
    agent.encoder.requires_grad_(not args.freeze_encoder)
    learned = [parameter for parameter in agent.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, args.learning_rate, eps=1e-5, fused=True)
    recent_returns: deque[float] = deque(maxlen=100)

    T, N = args.num_steps, args.num_envs
    iterations = args.total_timesteps // args.batch_size
    save_interval = max(args.save_every // args.batch_size, 1)
    if args.freeze_encoder:  # its latents are kept instead of the pictures: nothing is encoded twice
        see, network = agent.encoder, agent.decide
        inputs = torch.zeros(T, N, args.latent_dim)
    else:
        see, network = nn.Identity(), agent
        inputs = torch.zeros(T, N, args.frames, SIZE, SIZE, dtype=torch.uint8)
    actions, log_probabilities = torch.zeros(T, N, len(ACTIONS)), torch.zeros(T, N)
    values = torch.zeros(T + 1, N)
    rewards, dones = np.zeros((T, N), np.float32), np.zeros((T, N), np.float32)
    raw_rewards = np.zeros((T, N), np.float32)

    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    envs = make_envs(args, N, args.patience)
    with Run(__file__, ENV_ID, args, **options) as run, StopSignal() as stop:
        if encoder and args.freeze_encoder:
            write_encoder(run.folder / ENCODER_FILE, args.encoder_path.read_bytes())
        if run.checkpoint:
            agent.load_state_dict(run.checkpoint.state["agent"])
            optimizer.load_state_dict(run.checkpoint.state["optimizer"])
            recent_returns.extend(run.checkpoint.state["recent_returns"])
            restore_random_state(run.checkpoint.random_state)
            if run.start_step // args.batch_size >= iterations:
                run.progress.print(f"this run has ended ({run.start_step:,} steps): raise --total-timesteps")
                if args.eval_episodes:
                    report_evaluation(run, agent, args, run.start_step, stop)
        step, needs_reset = run.start_step, True
        for iteration in range(step // args.batch_size, iterations):
            began = time.monotonic()
            fraction = 1 - iteration / iterations if args.anneal_lr else 1.0
            optimizer.param_groups[0]["lr"] = fraction * args.learning_rate
            if needs_reset:
                pictures, _ = envs.reset(seed=track_seed(args.seed, iteration))
                episode_return, episode_steps = np.zeros(N), np.zeros(N, int)

            # Rollout
            finished_returns, finished_lengths, spread_of_actions = [], [], []
            with torch.inference_mode(), autocast(place.device, args.bf16):
                for t in range(T):
                    inputs[t] = see(torch.from_numpy(pictures))
                    policy, value = network(inputs[t])
                    actions[t] = sample(policy)
                    log_probabilities[t] = policy.log_prob(actions[t]).sum(1)
                    values[t] = agent.value(value)
                    spread_of_actions.append(float(policy.stddev.mean()))
                    pictures, reward, terminated, truncated, info = take_step(envs, actions[t])
                    over = terminated | truncated
                    raw_rewards[t], rewards[t], dones[t] = reward, reward, over
                    if (cut_off := truncated & ~terminated).any():
                        last = see(torch.from_numpy(np.stack(info["final_obs"][cut_off])))
                        rewards[t, cut_off] += args.gamma * agent.value(network(last)[1]).numpy()
                    episode_return += reward
                    episode_steps += 1
                    if over.any():
                        finished_returns += episode_return[over].tolist()
                        finished_lengths += episode_steps[over].tolist()
                        episode_return[over], episode_steps[over] = 0.0, 0
                values[T] = agent.value(network(see(torch.from_numpy(pictures)))[1])
            recent_returns.extend(finished_returns)
            seconds_playing = time.monotonic() - began

            # Update
            advantages = generalized_advantages(rewards, values.numpy(), dones, args.gamma, args.gae_lambda)
            advantages = torch.from_numpy(advantages).flatten()
            returns = advantages + values[:T].flatten()
            agent.rescale(returns)
            rollout = Rows(
                inputs.flatten(0, 1),
                actions.flatten(0, 1),
                log_probabilities.flatten(),
                advantages,
                (returns - agent.return_mean) / agent.return_std,
            )
            sums: dict[str, float] = {}
            for _ in range(args.update_epochs):
                for indices in torch.randperm(args.batch_size).chunk(args.num_minibatches):
                    minibatch = rollout.take(indices)
                    if args.norm_adv:
                        a = minibatch.advantages
                        minibatch.advantages = (a - a.mean()) / (a.std() + 1e-8)
                    with autocast(place.device, args.bf16):
                        outputs = network(minibatch.inputs)
                    loss, metrics = ppo_loss(*outputs, minibatch, args)
                    optimizer.zero_grad()
                    loss.backward()
                    norm = nn.utils.clip_grad_norm_(learned, args.max_grad_norm)
                    optimizer.step()
                    for name, metric in (metrics | {"grad/norm": norm}).items():
                        sums[name] = sums.get(name, 0.0) + float(metric)
            step += args.batch_size
            seconds = time.monotonic() - began

            # What people see of it
            spread = float(returns.var())
            mean_return = float(np.mean(recent_returns)) if recent_returns else math.nan
            count = args.update_epochs * args.num_minibatches
            metrics = {name: total / count for name, total in sums.items()} | {
                "losses/explained_variance": 1 - float(advantages.var()) / spread if spread else math.nan,
                "value/mean": float(values.mean()),
                "value/return_std": float(returns.std()),
                "reward/mean": float(raw_rewards.mean()),
                "reward/std": float(raw_rewards.std()),
                "act/std": float(np.mean(spread_of_actions)),
                "charts/SPS": args.batch_size / seconds,
                "charts/playing_share": seconds_playing / seconds,
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
            }
            metrics |= {
                f"act/{name}": float(share) for name, share in zip(ACTIONS, actions.mean((0, 1)), strict=True)
            }
            if finished_returns:
                metrics["charts/episodic_return"] = float(np.mean(finished_returns))
                metrics["charts/episodic_length"] = float(np.mean(finished_lengths))
            run.log(step - 1, metrics)
            shown = {"return": mean_return, "steps/s": args.batch_size / seconds}
            run.progress.update(step, iterations * args.batch_size, shown)

            is_over = bool(stop) or iteration + 1 == iterations
            needs_reset = (iteration + 1) % save_interval == 0
            if needs_reset or is_over:
                state = {"optimizer": optimizer.state_dict(), "recent_returns": list(recent_returns)}
                save(run, agent, args, step, state)
            is_evaluated = bool(args.eval_every) and (
                step // args.eval_every > (step - args.batch_size) // args.eval_every
            )
            if args.eval_episodes and not stop and (is_over or is_evaluated):
                report_evaluation(run, agent, args, step, stop)
            if is_over:
                break
    envs.close()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
