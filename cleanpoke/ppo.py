"""Learns small worlds with vector observations and discrete actions by PPO (Schulman et al. 2017).

For gymnasium's CartPole-v1, LunarLander-v3, Taxi-v4 and their like: observations that are a vector of numbers
or one number out of n (then one-hot), actions that are one out of n. The loop is ppo_atari.py's.

    python cleanpoke/ppo.py --env-id CartPole-v1

The options that solve LunarLander-v3 and Taxi-v4, and every metric: docs/ppo.md.

Axes: T steps of a rollout, N environments, O observation, A actions, B rows of a minibatch.
"""

import dataclasses
import importlib
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from cleanpoke.compute import start
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
from cleanpoke.watch import Moment, Moments, Score

SCRIPT = Path(__file__).stem
STATE_KEYS = ("agent", "optimizer", "recent_returns")
ACTION_NAMES = {
    "CartPole": ("LEFT", "RIGHT"),
    "Acrobot": ("LEFT", "NOOP", "RIGHT"),
    "MountainCar": ("LEFT", "NOOP", "RIGHT"),
    "LunarLander": ("NOOP", "LEFT", "UP", "RIGHT"),
    "Taxi": ("DOWN", "UP", "RIGHT", "LEFT", "FIRE", "FIRE DOWN"),
    "FrozenLake": ("LEFT", "DOWN", "RIGHT", "UP"),
    "CliffWalking": ("UP", "RIGHT", "DOWN", "LEFT"),
}
"""The keys that stand for each action; FIRE is the space bar. Taxi's picks up and, with DOWN, drops off."""
RETURN_MOMENTS_RATE = 0.1
"""How far the running moments of the returns move towards those of each rollout."""
UNLIMITED_EPISODE_STEPS = 1000
"""Where episodes of an environment that knows no time limit are cut off."""


@dataclasses.dataclass
class Args:
    # Run
    env_id: str = "CartPole-v1"
    """Any gymnasium environment with a vector or discrete observation and discrete actions."""
    max_episode_steps: int | None = None
    """Decisions after which an episode is cut off, in training and evaluation; default: the environment's own
    limit, or 1000 where it has none."""
    seed: int = 1
    """Seed of initialisation, actions, minibatches and worlds."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    init_from: Path | None = None
    """Checkpoint whose network to start from, as a new run."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_timesteps: int = 500_000
    """Decisions over all environments."""
    save_every: int = 64_000
    """Decisions over all environments between checkpoints. All episodes start anew then (their last values
    are bootstrapped), so that a run resumed from such a checkpoint equals an uninterrupted one."""
    solved_at: float | None = None
    """Mean return of the last 100 episodes that counts as solved; default: gymnasium's own threshold."""
    stop_when_solved: bool = False
    """End the run as soon as the environment is solved."""
    keep: int = 2
    """How many of the newest checkpoints stay; tools/render_progression.py films all that stay."""

    # Algorithm
    num_envs: int = 16
    """Environments that run side by side, in this process."""
    learning_rate: float = 1e-3
    """Adam's step size, at the start."""
    anneal_lr: bool = True
    """Lower the learning rate linearly to zero."""
    num_steps: int = 128
    """Decisions per environment in one rollout."""
    gamma: float = 0.99
    """Discount per decision."""
    gae_lambda: float = 0.95
    """0: one-step advantages; 1: of whole returns."""
    num_minibatches: int = 8
    """Parts into which each pass over a rollout is split, one step of Adam each."""
    update_epochs: int = 4
    """Passes over each rollout."""
    norm_adv: bool = True
    """Standardise advantages in each minibatch."""
    clip_coef: float = 0.2
    """How far a probability ratio may move from 1."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient of actor and critic together."""
    normalize_returns: bool = True
    """The critic learns standardised returns (PopArt, van Hasselt et al. 2016)."""
    action_mask: bool = False
    """Never choose an action that the environment's info["action_mask"] forbids."""

    # Evaluation
    eval_every: int = 0
    """Decisions between evaluations; 0: only at the end."""
    eval_episodes: int = 100
    """Episodes per evaluation, greedy and sampled; 0: no evaluation."""

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def solved_return(self) -> float:
        threshold = spec_of(self.env_id).reward_threshold
        return self.solved_at if self.solved_at is not None else math.inf if threshold is None else threshold


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that do not fit together."""
    for name in ("num_envs", "num_steps", "num_minibatches", "update_epochs", "save_every", "keep"):
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    if args.max_episode_steps is not None and args.max_episode_steps < 1:
        raise CleanPokeError("--max-episode-steps must be at least 1")
    for name in ("seed", "eval_episodes", "eval_every"):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    for name in ("learning_rate", "clip_coef", "max_grad_norm"):
        if not getattr(args, name) > 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be above 0")
    for name in ("gamma", "gae_lambda"):
        if not 0 <= getattr(args, name) <= 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must lie between 0 and 1")
    if args.batch_size % args.num_minibatches:
        raise CleanPokeError(
            f"{args.batch_size} rows of a rollout (num_envs x num_steps) cannot be split into "
            f"{args.num_minibatches} equal minibatches: change --num-minibatches"
        )
    if args.batch_size // args.num_minibatches < 2:
        raise CleanPokeError("a minibatch needs at least two rows: lower --num-minibatches")
    if args.total_timesteps < args.batch_size:
        raise CleanPokeError(f"--total-timesteps must be at least one rollout, {args.batch_size}")


# --- Worlds -----------------------------------------------------------------------------------------------


def spec_of(env_id: str) -> EnvSpec:
    """What gymnasium knows of an environment; one of another package's may be called "package:name"."""
    package, _, name = env_id.rpartition(":")
    if package:
        importlib.import_module(package)  # which registers it
    return gym.spec(name)


def make_envs(args: Args, num_envs: int, render_mode: str | None = None) -> SyncVectorEnv:
    """Environments that start anew within the same step. Raises CleanPokeError for one that does not fit."""
    env_id = args.env_id
    for world, script in (("ALE/", "ppo_atari"), ("Vizdoom", "ppo_vizdoom")):
        if env_id.startswith(world):
            raise CleanPokeError(f"{env_id} is no world of this script: {script}.py learns it")
    try:
        envs = gym.make_vec(
            env_id,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            render_mode=render_mode,
            max_episode_steps=(
                args.max_episode_steps or spec_of(env_id).max_episode_steps or UNLIMITED_EPISODE_STEPS
            ),
        )
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise CleanPokeError(f"cannot make {env_id!r}: {' '.join(str(error).split())}") from error
    space = envs.single_observation_space
    is_vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    if not (is_vector or isinstance(space, gym.spaces.Discrete)):
        raise CleanPokeError(f"{env_id} shows {space}: this script reads one vector or one number out of n")
    if not isinstance(envs.single_action_space, gym.spaces.Discrete):
        raise CleanPokeError(
            f"{env_id} takes actions {envs.single_action_space}: this script chooses one out of n"
        )
    if args.action_mask and "action_mask" not in envs.reset(seed=0)[1]:
        raise CleanPokeError(f"{env_id} gives no action mask: leave out --action-mask")
    return envs


def world_seed(seed: int, iteration: int) -> int:
    """Seed of the episodes that start before an iteration (-1: of an evaluation)."""
    return int(np.random.SeedSequence((seed, iteration + 1)).generate_state(1)[0]) % 2**30


def observe(envs: SyncVectorEnv, observations: np.ndarray) -> Tensor:
    """What the network reads: vectors (N, O) as float32, numbers (N,) one-hot."""
    space = envs.single_observation_space
    if isinstance(space, gym.spaces.Discrete):
        return F.one_hot(torch.as_tensor(observations - space.start), int(space.n)).float()
    return torch.as_tensor(observations, dtype=torch.float32)


def allowed(envs: SyncVectorEnv, info: dict[str, Any], action_mask: bool) -> Tensor:
    """(N, A) bool: the actions that may be chosen."""
    if action_mask:
        return torch.from_numpy(np.stack(info["action_mask"]).astype(bool))
    return torch.ones(envs.num_envs, int(envs.single_action_space.n), dtype=torch.bool)


# --- Network ----------------------------------------------------------------------------------------------


def initialized(layer: nn.Linear, gain: float = 2**0.5) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """Actor and critic, two hidden layers each. The critic's units are standardised returns."""

    def __init__(self, num_inputs: int, num_actions: int, width: int = 64):
        super().__init__()

        def perceptron(outputs: int, gain: float) -> nn.Sequential:
            layers = [initialized(nn.Linear(num_inputs, width)), nn.Tanh()]
            layers += [initialized(nn.Linear(width, width)), nn.Tanh()]
            return nn.Sequential(*layers, initialized(nn.Linear(width, outputs), gain))

        self.actor, self.critic = perceptron(num_actions, 0.01), perceptron(1, 1.0)
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))
        self.register_buffer("rollouts_seen", torch.zeros(()))

    def forward(self, observations: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (B, O), mask (B, A) to log-probabilities (B, A) and standardised values (B,)."""
        logits = self.actor(observations).masked_fill(~mask, -1e9)
        return logits.log_softmax(1), self.critic(observations)[:, 0]

    def value(self, standardised: Tensor) -> Tensor:
        return standardised * self.return_std + self.return_mean

    @torch.no_grad()
    def rescale(self, returns: Tensor) -> None:
        """Moves the moments towards those of these returns, and the critic's last layer with them, so that
        its values stay what they were (PopArt)."""
        self.rollouts_seen += 1
        rate = max(RETURN_MOMENTS_RATE, 1 / float(self.rollouts_seen))
        old_mean, old_std = self.return_mean.clone(), self.return_std.clone()
        self.return_mean.lerp_(returns.mean(), rate)
        self.return_std.lerp_(returns.std().clamp_min(1e-4), rate)
        last = self.critic[-1]
        last.weight.mul_(old_std / self.return_std)
        last.bias.mul_(old_std / self.return_std).add_((old_mean - self.return_mean) / self.return_std)


def sample(log_pi: Tensor) -> Tensor:
    """Actions (B,) drawn from log-probabilities (B, A): the Gumbel-max trick."""
    return (log_pi - torch.empty_like(log_pi).exponential_().log_()).argmax(1)


# --- Losses -----------------------------------------------------------------------------------------------


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, dones: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """GAE (Schulman et al. 2016, eq. 16): (T, N).

    rewards, dones (T, N): what followed each decision, where a truncated episode's last reward already holds
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

    observations: Tensor  # (B, O)
    masks: Tensor  # (B, A) bool
    actions: Tensor  # (B,) int64
    log_probabilities: Tensor  # (B,) of these actions when they were taken
    advantages: Tensor  # (B,)
    returns: Tensor  # (B,) standardised like the critic's values

    def take(self, indices: Tensor) -> "Rows":
        return Rows(*(getattr(self, field.name)[indices] for field in dataclasses.fields(self)))


def ppo_loss(log_pi: Tensor, values: Tensor, rows: Rows, args: Args) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy loss (Schulman et al. 2017, eq. 7), value loss and entropy bonus; metrics as tensors."""
    log_ratio = log_pi.gather(1, rows.actions[:, None])[:, 0] - rows.log_probabilities
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = torch.max(-rows.advantages * ratio, -rows.advantages * clipped_ratio).mean()
    value_loss = 0.5 * F.mse_loss(values, rows.returns)
    entropy = -(log_pi.exp() * log_pi).sum(1).mean()  # a forbidden action has probability 0
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
def evaluate(
    agent: Agent, args: Args, episodes: int, greedy: bool, seed: int, stop: Any = False
) -> np.ndarray:
    """Returns (episodes,) of the first episode in each of `episodes` environments, made like the training
    ones, time limits included; only the first counts, so that short episodes are not preferred."""
    envs = make_envs(args, episodes)
    seen, info = envs.reset(seed=seed)
    returns, playing = np.zeros(episodes), np.ones(episodes, bool)
    while playing.any() and not stop:
        log_pi, _ = agent(observe(envs, seen), allowed(envs, info, args.action_mask))
        actions = log_pi.argmax(1) if greedy else sample(log_pi)
        seen, rewards, terminated, truncated, info = envs.step(actions.numpy())
        returns += rewards * playing
        playing &= ~(terminated | truncated)
    envs.close()
    return returns[~playing]


def report_evaluation(run: Run, agent: Agent, args: Args, step: int, stop: StopSignal) -> None:
    """Plays the evaluation episodes: prints, logs and writes evaluation.json."""
    results = {}
    for play, greedy in (("greedy", True), ("sampled", False)):
        with torch.random.fork_rng():  # an evaluation on the way must not change the training that follows
            returns = evaluate(agent, args, args.eval_episodes, greedy, world_seed(args.seed, -1), stop)
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


@torch.inference_mode()
def moments(args: Args, agent: Agent | None, seed: int, greedy: bool = True) -> Moments:
    """Plays one episode after the other as an evaluation does (see watch.py); without an agent at random."""
    envs = make_envs(args, 1, render_mode="rgb_array")
    seen, info = envs.reset(seed=seed)
    num_actions = int(envs.single_action_space.n)
    names = ACTION_NAMES.get(args.env_id.partition("-")[0], tuple(map(str, range(num_actions))))
    score = Score()
    while True:
        observation, mask = observe(envs, seen), allowed(envs, info, args.action_mask)
        value = math.nan
        if agent is None:
            log_pi = torch.zeros(1, num_actions).masked_fill(~mask, -1e9).log_softmax(1)
        else:
            log_pi, values = agent(observation, mask)
            value = float(agent.value(values))
        action = int(log_pi.argmax(1) if greedy and agent is not None else sample(log_pi))
        moment = Moment(
            envs.render()[0], observation[0].numpy(), names, action, log_pi[0].exp().numpy(), value, score
        )
        chosen = yield moment
        seen, rewards, terminated, truncated, info = envs.step(
            np.array([action if chosen is None else chosen])
        )
        score = score.after(float(rewards[0]), bool(terminated[0] or truncated[0]))


def open_agent(path: Path) -> tuple[Agent, Args, int]:
    """The agent in a checkpoint or run folder, its arguments and how many steps it has trained."""
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=STATE_KEYS)
    args, weights = saved_arguments(checkpoint, Args), checkpoint.state["agent"]
    agent = Agent(weights["actor.0.weight"].shape[1], len(weights["actor.4.bias"]))
    agent.load_state_dict(weights)
    return agent, args, checkpoint.step


# --- Training ---------------------------------------------------------------------------------------------


def load_agent(path: Path, args: Args) -> Checkpoint:
    """A checkpoint of this script. Raises CleanPokeError if it is of another environment."""
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=STATE_KEYS)
    if checkpoint.args["env_id"] != args.env_id:
        raise CleanPokeError(
            f"{checkpoint.path} was trained on {checkpoint.args['env_id']}, not on {args.env_id}: "
            "give a checkpoint of this environment"
        )
    return checkpoint


def is_solved(recent_returns: deque[float], args: Args) -> bool:
    """Whether the last 100 episodes return on average what counts as solved."""
    return len(recent_returns) == 100 and float(np.mean(recent_returns)) >= args.solved_return


def main(args: Args) -> None:
    check(args)
    envs = make_envs(args, args.num_envs)
    if args.resume:
        load_agent(args.resume, args)  # before the run's folder is touched
    if args.stop_when_solved and math.isinf(args.solved_return):
        raise CleanPokeError(f"--stop-when-solved: say with --solved-at what solves {args.env_id}")
    start("cpu", threads=1)  # networks this small are fastest on one core

    seed_everything(args.seed)
    num_actions = int(envs.single_action_space.n)
    num_inputs = observe(envs, envs.reset(seed=0)[0]).shape[1]
    agent = Agent(num_inputs, num_actions)
    if args.init_from and not args.resume:
        agent.load_state_dict(load_agent(args.init_from, args).state["agent"])
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    recent_returns: deque[float] = deque(maxlen=100)

    T, N = args.num_steps, args.num_envs
    iterations = args.total_timesteps // args.batch_size
    save_interval = max(args.save_every // args.batch_size, 1)
    observations, masks = torch.zeros(T, N, num_inputs), torch.ones(T, N, num_actions, dtype=torch.bool)
    actions = torch.zeros(T, N, dtype=torch.int64)
    log_probabilities, values = torch.zeros(T, N), torch.zeros(T + 1, N)
    rewards, dones = np.zeros((T, N), np.float32), np.zeros((T, N), np.float32)
    raw_rewards = np.zeros((T, N), np.float32)

    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    options["keep"] = args.keep
    with Run(__file__, args.env_id.replace("/", "_"), args, **options) as run, StopSignal() as stop:
        if run.checkpoint:
            agent.load_state_dict(run.checkpoint.state["agent"])
            optimizer.load_state_dict(run.checkpoint.state["optimizer"])
            recent_returns.extend(run.checkpoint.state["recent_returns"])
            restore_random_state(run.checkpoint.random_state)
        step = run.start_step
        solved = is_solved(recent_returns, args)
        if run.checkpoint and run.checkpoint.args["solved_at"] == args.solved_at:
            solved |= run.checkpoint.state.get("solved", False)
        is_done = solved and args.stop_when_solved
        if is_done or step // args.batch_size >= iterations:
            advice = "--no-stop-when-solved goes on" if is_done else "raise --total-timesteps"
            run.progress.print(f"this run has ended ({step:,} steps): {advice}")
            if args.eval_episodes:
                report_evaluation(run, agent, args, step, stop)
        needs_reset = True
        for iteration in range(iterations if is_done else step // args.batch_size, iterations):
            began = time.monotonic()
            fraction = 1 - iteration / iterations if args.anneal_lr else 1.0
            optimizer.param_groups[0]["lr"] = fraction * args.learning_rate
            if needs_reset:
                seen, info = envs.reset(seed=world_seed(args.seed, iteration))
                episode_return, episode_steps = np.zeros(N), np.zeros(N, int)

            # Rollout
            finished_returns, finished_lengths = [], []
            with torch.inference_mode():
                for t in range(T):
                    observations[t] = observe(envs, seen)
                    masks[t] = allowed(envs, info, args.action_mask)
                    log_pi, value = agent(observations[t], masks[t])
                    actions[t] = sample(log_pi)
                    log_probabilities[t] = log_pi.gather(1, actions[t][:, None])[:, 0]
                    values[t] = agent.value(value)
                    seen, reward, terminated, truncated, info = envs.step(actions[t].numpy())
                    raw_rewards[t], rewards[t], dones[t] = reward, reward, terminated | truncated
                    if truncated.any():
                        last = observe(envs, np.stack(info["final_obs"][truncated]))
                        bootstrap = agent.value(agent.critic(last)[:, 0]).numpy()
                        rewards[t, truncated] += args.gamma * bootstrap * ~terminated[truncated]
                    episode_return += reward
                    episode_steps += 1
                    over = terminated | truncated
                    if over.any():
                        finished_returns += episode_return[over].tolist()
                        finished_lengths += episode_steps[over].tolist()
                        episode_return[over], episode_steps[over] = 0.0, 0
                values[T] = agent.value(agent.critic(observe(envs, seen))[:, 0])
            recent_returns.extend(finished_returns)
            seconds_playing = time.monotonic() - began

            # Update
            advantages = generalized_advantages(rewards, values.numpy(), dones, args.gamma, args.gae_lambda)
            advantages = torch.from_numpy(advantages).flatten()
            returns = advantages + values[:T].flatten()
            if args.normalize_returns:
                agent.rescale(returns)
            rollout = Rows(
                observations.flatten(0, 1),
                masks.flatten(0, 1),
                actions.flatten(),
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
                    loss, metrics = ppo_loss(*agent(minibatch.observations, minibatch.masks), minibatch, args)
                    optimizer.zero_grad()
                    loss.backward()
                    norm = nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                    optimizer.step()
                    for name, metric in (metrics | {"grad/norm": norm}).items():
                        sums[name] = sums.get(name, 0.0) + float(metric)
            step += args.batch_size
            seconds = time.monotonic() - began

            # What people see of it
            spread = float(returns.var())
            mean_return = float(np.mean(recent_returns)) if recent_returns else math.nan
            solved |= is_solved(recent_returns, args)  # once solved, it stays so
            count = args.update_epochs * args.num_minibatches
            metrics = {name: total / count for name, total in sums.items()} | {
                "losses/explained_variance": 1 - float(advantages.var()) / spread if spread else math.nan,
                "value/mean": float(values.mean()),
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
                for name, part in agent.named_modules()
                if isinstance(part, nn.Linear)
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

            is_over = bool(stop) or iteration + 1 == iterations or (solved and args.stop_when_solved)
            needs_reset = (iteration + 1) % save_interval == 0
            if needs_reset or is_over:
                state = {"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}
                run.save(step, state | {"recent_returns": list(recent_returns), "solved": solved})
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
