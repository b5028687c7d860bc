"""Learns ViZDoom's scenarios from pixels and game variables by PPO (Schulman et al. 2017).

The wheel of `vizdoom` ships engine and scenarios (Kempka et al. 2016). The loop is ppo_atari.py's; what is
different is the world: small screens, numbers such as ammunition and health beside them, and buttons that can
be pressed together.

    python cleanpoke/ppo_vizdoom.py --env-id VizdoomBasic-v1

Axes: T steps of a rollout, N games, K frames of a stack, V game variables, A actions, B rows of a minibatch.
"""

import dataclasses
import difflib
import math
import subprocess
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import vizdoom.gymnasium_wrapper  # noqa: F401 (registers the environments)
from torch import Tensor, nn

from cleanpoke.compute import autocast, available_cores, start
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.processes import children_of_this_process, guard
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
HEIGHT, WIDTH = 60, 80
OPPOSITES = (
    *(("MOVE_LEFT", "MOVE_RIGHT"), ("TURN_LEFT", "TURN_RIGHT"), ("MOVE_FORWARD", "MOVE_BACKWARD")),
    *(("LOOK_UP", "LOOK_DOWN"), ("SELECT_NEXT_WEAPON", "SELECT_PREV_WEAPON")),
)
"""Buttons that cancel each other; no action presses both."""
SOLVED_AT = {"VizdoomBasic-v1": 80.0, "VizdoomDefendCenter-v1": 15.0, "VizdoomHealthGathering-v1": 1500.0}
"""Mean return over the last 100 episodes from which `charts/solved` is 1; --solved-at overrides it."""
RETURN_MOMENTS_RATE = 0.1
"""How far the running moments of the returns move towards those of each rollout."""
MAX_VIDEO_STEPS = 1000


@dataclasses.dataclass
class Args:
    # Run
    env_id: str = "VizdoomBasic-v1"
    """Scenario: VizdoomBasic-v1, VizdoomDefendCenter-v1, VizdoomHealthGathering-v1, VizdoomMyWayHome-v1 …"""
    seed: int = 1
    """Seed of initialisation, actions, minibatches and games."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    init_from: Path | None = None
    """Checkpoint whose network to start from, as a new run."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_timesteps: int = 200_000
    """Decisions over all games."""
    save_every: int = 50_000
    """Decisions over all games between checkpoints. All games start anew then."""
    solved_at: float | None = None
    """Mean return of the last 100 episodes that counts as solved; default by scenario."""
    stop_when_solved: bool = False
    """End the run as soon as the scenario is solved."""
    keep: int = 2
    """How many of the newest checkpoints stay; tools/render_progression.py films all that stay."""

    # World
    num_envs: int = 8
    """Games played at once."""
    frame_skip: int = 4
    """Tics that each decision lasts, of 35 a second."""
    frame_stack: int = 1
    """Frames that the network sees at once."""
    buttons: int = 2
    """How many buttons one action may press together. Buttons that cancel each other never go together."""
    difficulty: int | None = None
    """Doom's skill level, 1 to 5; default: the scenario's own."""
    variables: bool = True
    """Show the network the scenario's game variables (ammunition, health …)."""

    # Algorithm
    learning_rate: float = 5e-4
    """Adam's step size, at the start."""
    anneal_lr: bool = True
    """Lower the learning rate linearly to zero."""
    num_steps: int = 128
    """Decisions per game in one rollout."""
    gamma: float = 0.99
    """Discount per decision."""
    gae_lambda: float = 0.95
    """0: one-step advantages; 1: of whole returns."""
    num_minibatches: int = 4
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
    """Largest norm of the gradient."""
    normalize_returns: bool = True
    """The critic learns standardised returns (PopArt, van Hasselt et al. 2016), for some are in hundreds."""

    # Speed
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """bfloat16 products with float32 weights; auto: where the hardware multiplies bfloat16."""

    # Evaluation
    eval_every: int = 0
    """Decisions between evaluations; 0: only at the end."""
    eval_episodes: int = 20
    """Episodes per evaluation, greedy and sampled; 0: no evaluation."""
    eval_video: bool = False
    """Film one greedy episode of each evaluation, into the run's folder."""

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def solved_return(self) -> float:
        return SOLVED_AT.get(self.env_id, math.inf) if self.solved_at is None else self.solved_at


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that do not fit together."""
    names = ("num_envs", "num_steps", "num_minibatches", "update_epochs", "save_every", "frame_skip")
    for name in (*names, "frame_stack", "buttons", "keep"):
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("seed", "eval_episodes", "eval_every"):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    if args.difficulty is not None and args.difficulty not in range(1, 6):
        raise CleanPokeError(f"--difficulty {args.difficulty}: choose 1 (easy) to 5 (nightmare)")
    if args.stop_when_solved and math.isinf(args.solved_return):
        raise CleanPokeError(f"--stop-when-solved: say with --solved-at what solves {args.env_id}")
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


class Games:
    """`num_envs` games of one scenario, side by side; a finished one starts anew within the same step.

    screens (N, K, 60, 80) uint8, oldest frame first; variables (N, V) float32, in hundreds.
    """

    def __init__(self, args: Args, num_envs: int):
        scenarios = [
            name for name in gym.registry if name.startswith("Vizdoom") and "MultiBinary" not in name
        ]
        if args.env_id not in scenarios:
            shipped = [name for name in scenarios if not name.startswith("VizdoomDoom")]
            near = difflib.get_close_matches(args.env_id, shipped, n=3, cutoff=0.3)
            raise CleanPokeError(
                f"unknown scenario {args.env_id!r}: did you mean {' or '.join(near or ['VizdoomBasic-v1'])}?"
            )
        options: dict[str, Any] = {"screen_format": "GRAY8", "screen_resolution": "RES_160X120"}
        options |= {"frame_skip": args.frame_skip, "max_buttons_pressed": 0}
        if args.difficulty is not None:
            options["doom_skill"] = args.difficulty
        self.envs = [
            gym.make(args.env_id, disable_env_checker=True, **options).unwrapped for _ in range(num_envs)
        ]
        # The engine writes a settings file, which would otherwise appear wherever one happens to be.
        self.settings = tempfile.TemporaryDirectory()
        for number, env in enumerate(self.envs):
            env.game.set_doom_config_path(f"{self.settings.name}/{number}.ini")
        game = self.envs[0].game
        levels = game.get_doom_game_path()
        if levels and not Path(levels).exists():
            raise CleanPokeError(
                f"{args.env_id} needs {levels}, the file of a game that is sold: put yours there, or "
                "choose a free one, such as VizdoomFreedoom1E1M1-S1-v0"
            )
        if any(button.name.endswith("_DELTA") for button in game.get_available_buttons()):
            raise CleanPokeError(
                f"{args.env_id} has axes beside its buttons: this script presses buttons only"
            )
        self.button_names = [button.name for button in game.get_available_buttons()]
        self.num_variables = game.get_available_game_variables_size() if args.variables else 0
        self.actions = button_combinations(self.button_names, args.buttons)  # (A, buttons)
        self.screens = np.zeros((num_envs, args.frame_stack, HEIGHT, WIDTH), np.uint8)
        self.variables = np.zeros((num_envs, self.num_variables), np.float32)
        # The engines are processes of their own: while one computes, the others can.
        self.executor = ThreadPoolExecutor(min(num_envs, available_cores()))
        self.guard: subprocess.Popen | None = None

    @property
    def action_names(self) -> tuple[str, ...]:
        return tuple(
            "+".join(name for name, pressed in zip(self.button_names, row, strict=True) if pressed) or "NOOP"
            for row in self.actions
        )

    def reset(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts all games anew; game i draws from seed + i."""
        # One after another: starting two engines at once can crash inside ViZDoom.
        others = children_of_this_process()
        for index, env in enumerate(self.envs):
            self._show_first(index, env.reset(seed=seed + index)[0])
        if self.guard is None:  # the first reset has started the engines
            self.guard = guard(children_of_this_process() - others)
        return self.screens.copy(), self.variables.copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """actions (N,) to screens, variables, rewards, terminated, truncated (N,)."""

        def step_one(index: int) -> tuple[float, bool, bool]:
            env = self.envs[index]
            observation, reward, over, timeout, _ = env.step(self.actions[actions[index]])
            if over or timeout:
                self._show_first(index, env.reset()[0])
            else:
                self.screens[index, :-1] = self.screens[index, 1:]
                self._show(index, observation)
            # ViZDoom reports a time limit as the end of the episode as well.
            return reward, over and not timeout, timeout

        rewards, terminated, truncated = zip(*self.executor.map(step_one, range(len(self.envs))), strict=True)
        flags = np.array(terminated), np.array(truncated)
        return self.screens.copy(), self.variables.copy(), np.array(rewards, np.float32), *flags

    def picture(self) -> np.ndarray:
        """What the first game shows, (120, 160, 3)."""
        state = self.envs[0].game.get_state()
        return np.repeat(state.screen_buffer[..., None], 3, 2)

    def close(self) -> None:
        self.executor.shutdown()
        for env in self.envs:
            env.close()
        if self.guard:
            self.guard.kill()
            self.guard.wait()
        self.settings.cleanup()

    def _show_first(self, index: int, observation: dict[str, np.ndarray]) -> None:
        self._show(index, observation)
        self.screens[index] = self.screens[index, -1]

    def _show(self, index: int, observation: dict[str, np.ndarray]) -> None:
        blocks = observation["screen"].reshape(HEIGHT, 2, WIDTH, 2)
        self.screens[index, -1] = blocks.mean((1, 3))
        if self.num_variables:
            self.variables[index] = observation["gamevariables"] / 100


def button_combinations(names: list[str], most: int) -> np.ndarray:
    """(A, buttons) int: all ways to press up to `most` buttons together, none of them opposites."""
    rows = []
    for number in range(2 ** len(names)):
        pressed = [name for bit, name in enumerate(names) if number >> bit & 1]
        if len(pressed) <= most and not any(set(pair) <= set(pressed) for pair in OPPOSITES):
            rows.append([int(name in pressed) for name in names])
    return np.array(sorted(rows, key=sum), np.int64)


def game_seed(seed: int, iteration: int) -> int:
    """Seed of the games that start before an iteration (-1: of an evaluation)."""
    return int(np.random.SeedSequence((seed, iteration + 1)).generate_state(1)[0]) % 2**30


# --- Network ----------------------------------------------------------------------------------------------


def initialized(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """Actor and critic on one convolutional network that reads the game variables beside its features."""

    def __init__(self, frames: int, num_variables: int, num_actions: int):
        super().__init__()
        self.conv1 = initialized(nn.Conv2d(frames, 32, 8, stride=4))
        self.conv2 = initialized(nn.Conv2d(32, 64, 4, stride=2))
        self.conv3 = initialized(nn.Conv2d(64, 64, 3))
        self.hidden = initialized(nn.Linear(64 * 4 * 6 + num_variables, 512))
        self.actor = initialized(nn.Linear(512, num_actions), 0.01)
        self.critic = initialized(nn.Linear(512, 1), 1.0)
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))
        self.register_buffer("rollouts_seen", torch.zeros(()))

    def forward(self, screens: Tensor, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Screens (B, K, 60, 80) uint8, variables (B, V) to log-probabilities (B, A), values (B,)."""
        x = screens.float().div(255).contiguous(memory_format=torch.channels_last)
        for layer in (self.conv1, self.conv2, self.conv3):
            x = F.relu(layer(x))
        x = F.relu(self.hidden(torch.cat([x.flatten(1), variables.to(x.dtype)], 1)))
        with torch.autocast(x.device.type, enabled=False):  # PPO's ratios lie within a tenth of 1
            x = x.float()
            return self.actor(x).log_softmax(1), self.critic(x)[:, 0]

    def value(self, standardised: Tensor) -> Tensor:
        return standardised * self.return_std + self.return_mean

    @torch.no_grad()
    def rescale(self, returns: Tensor) -> None:
        """Moves the moments towards those of these returns, and the critic with them, so that its values stay
        what they were (PopArt)."""
        self.rollouts_seen += 1
        rate = max(RETURN_MOMENTS_RATE, 1 / float(self.rollouts_seen))
        old_mean, old_std = self.return_mean.clone(), self.return_std.clone()
        self.return_mean.lerp_(returns.mean(), rate)
        self.return_std.lerp_(returns.std().clamp_min(1e-4), rate)
        self.critic.weight.mul_(old_std / self.return_std)
        self.critic.bias.mul_(old_std / self.return_std).add_((old_mean - self.return_mean) / self.return_std)


def sample(log_pi: Tensor) -> Tensor:
    """Actions (B,) drawn from log-probabilities (B, A): the Gumbel-max trick."""
    return (log_pi - torch.empty_like(log_pi).exponential_().log_()).argmax(1)


# --- Losses -----------------------------------------------------------------------------------------------


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, dones: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """GAE (Schulman et al. 2016, eq. 16): (T, N).

    rewards, dones (T, N): what followed each decision, where a cut-off episode's last reward already holds
    the discounted value of what is left; values (T + 1, N): of each state, and of the one after.
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

    screens: Tensor  # (B, K, 60, 80) uint8
    variables: Tensor  # (B, V)
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


# --- Evaluation -------------------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(
    agent: Agent, args: Args, episodes: int, greedy: bool, seed: int, stop: Any = False
) -> np.ndarray:
    """Returns (episodes,) of whole episodes, made like the training ones; the first in each of `num_envs`
    games, with new seeds until there are enough, so that short episodes are not preferred."""
    games, returns = Games(args, min(args.num_envs, episodes)), []
    device, size = agent.return_mean.device, len(games.envs)
    while len(returns) < episodes and not stop:
        screens, variables = games.reset(seed + len(returns))
        totals, playing = np.zeros(size), np.ones(size, bool)
        while playing.any() and not stop:
            with autocast(device, args.bf16):
                log_pi, _ = agent(
                    torch.from_numpy(screens).to(device), torch.from_numpy(variables).to(device)
                )
            actions = log_pi.argmax(1) if greedy else sample(log_pi)
            screens, variables, rewards, terminated, truncated = games.step(actions.cpu().numpy())
            totals += rewards * playing
            playing &= ~(terminated | truncated)
        returns += totals[~playing].tolist()
    games.close()
    return np.array(returns[:episodes])


def report_evaluation(run: Run, agent: Agent, args: Args, step: int, stop: StopSignal) -> None:
    """Plays the evaluation episodes: prints, logs and writes evaluation.json."""
    results, seed = {}, game_seed(args.seed, -1)
    for play, greedy in (("greedy", True), ("sampled", False)):
        with torch.random.fork_rng():  # an evaluation on the way must not change the training that follows
            returns = evaluate(agent, args, args.eval_episodes, greedy, seed, stop)
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
    if args.eval_video:
        film, title = run.folder / f"evaluation_{step:09}.mp4", f"{args.env_id}, {step:,} steps"
        record(moments(args, agent, seed), film, 1, title, MAX_VIDEO_STEPS, stop)


@torch.inference_mode()
def moments(args: Args, agent: Agent | None, seed: int, greedy: bool = True) -> Moments:
    """Plays one episode after the other as an evaluation does (see watch.py); without an agent at random."""
    games = Games(args, 1)
    screens, variables = games.reset(seed)
    names, score = games.action_names, Score()
    try:
        while True:
            log_pi, value = torch.full((1, len(names)), -math.log(len(names))), math.nan
            if agent is not None:
                device = agent.return_mean.device
                with autocast(device, args.bf16):
                    outputs = agent(*(torch.from_numpy(part).to(device) for part in (screens, variables)))
                log_pi, value = outputs[0].cpu(), float(agent.value(outputs[1]))
            action = int(log_pi.argmax(1) if greedy and agent is not None else sample(log_pi))
            probabilities = log_pi[0].exp().numpy()
            chosen = yield Moment(games.picture(), screens[0], names, action, probabilities, value, score)
            screens, variables, rewards, terminated, truncated = games.step(
                np.array([action if chosen is None else chosen])
            )
            score = score.after(float(rewards[0]), bool(terminated[0] or truncated[0]))
    finally:
        games.close()


def open_agent(path: Path) -> tuple[Agent, Args, int]:
    """The agent in a checkpoint or run folder, its arguments and how many steps it has trained."""
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=STATE_KEYS)
    args, weights = saved_arguments(checkpoint, Args), checkpoint.state["agent"]
    num_variables = weights["hidden.weight"].shape[1] - 64 * 4 * 6
    agent = Agent(args.frame_stack, num_variables, len(weights["actor.bias"]))
    agent.load_state_dict(weights)
    return agent, args, checkpoint.step


# --- Training ---------------------------------------------------------------------------------------------


def load_agent(path: Path, args: Args) -> Checkpoint:
    """A checkpoint of this script. Raises CleanPokeError if its network reads or does something else."""
    checkpoint = load_checkpoint(path, script=SCRIPT, needs=STATE_KEYS)
    for name in ("env_id", "frame_stack", "buttons", "variables"):
        if checkpoint.args[name] != getattr(args, name):
            raise CleanPokeError(
                f"{checkpoint.path} was trained with --{name.replace('_', '-')} {checkpoint.args[name]}, not "
                f"{getattr(args, name)}: give a checkpoint that fits"
            )
    return checkpoint


def is_solved(recent_returns: deque[float], args: Args) -> bool:
    """Whether the last 100 episodes return on average what counts as solved."""
    return len(recent_returns) == 100 and float(np.mean(recent_returns)) >= args.solved_return


def main(args: Args) -> None:
    check(args)
    games = Games(args, args.num_envs)
    if args.resume:
        load_agent(args.resume, args)  # before the run's folder is touched
    place = start(args.device, threads=0)
    device = place.device

    seed_everything(args.seed)
    num_actions, num_variables = len(games.actions), games.num_variables
    agent = Agent(args.frame_stack, num_variables, num_actions).to(device)
    if args.init_from and not args.resume:
        agent.load_state_dict(load_agent(args.init_from, args).state["agent"])
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    recent_returns: deque[float] = deque(maxlen=100)

    T, N = args.num_steps, args.num_envs
    iterations = args.total_timesteps // args.batch_size
    save_interval = max(args.save_every // args.batch_size, 1)
    all_screens = torch.zeros(T, N, args.frame_stack, HEIGHT, WIDTH, dtype=torch.uint8, device=device)
    all_variables = torch.zeros(T, N, num_variables, device=device)
    actions = torch.zeros(T, N, dtype=torch.int64, device=device)
    log_probabilities, values = torch.zeros(T, N, device=device), torch.zeros(T + 1, N, device=device)
    rewards, dones = np.zeros((T, N), np.float32), np.zeros((T, N), np.float32)
    raw_rewards = np.zeros((T, N), np.float32)

    def look(screens: np.ndarray, variables: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(screens).to(device), torch.from_numpy(variables).to(device)

    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    options["keep"] = args.keep
    with Run(__file__, args.env_id, args, **options) as run, StopSignal() as stop:
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
                screens, variables = games.reset(game_seed(args.seed, iteration))
                episode_return, episode_steps = np.zeros(N), np.zeros(N, int)

            # Rollout
            finished_returns, finished_lengths = [], []
            with torch.inference_mode(), autocast(device, args.bf16):
                for t in range(T):
                    all_screens[t], all_variables[t] = look(screens, variables)
                    log_pi, value = agent(all_screens[t], all_variables[t])
                    actions[t] = sample(log_pi)
                    log_probabilities[t] = log_pi.gather(1, actions[t][:, None])[:, 0]
                    values[t] = agent.value(value)
                    screens, variables, reward, terminated, truncated = games.step(actions[t].cpu().numpy())
                    over = terminated | truncated
                    raw_rewards[t], rewards[t], dones[t] = reward, reward, over
                    if truncated.any():
                        # At the time limit ViZDoom shows nothing: the state before stands in for the last.
                        rewards[t, truncated] += args.gamma * values[t].cpu().numpy()[truncated]
                    episode_return += reward
                    episode_steps += 1
                    if over.any():
                        finished_returns += episode_return[over].tolist()
                        finished_lengths += episode_steps[over].tolist()
                        episode_return[over], episode_steps[over] = 0.0, 0
                values[T] = agent.value(agent(*look(screens, variables))[1])
            recent_returns.extend(finished_returns)
            seconds_playing = time.monotonic() - began

            # Update
            advantages = generalized_advantages(
                rewards, values.cpu().numpy(), dones, args.gamma, args.gae_lambda
            )
            advantages = torch.from_numpy(advantages).to(device).flatten()
            returns = advantages + values[:T].flatten()
            if args.normalize_returns:
                agent.rescale(returns)
            rollout = Rows(
                all_screens.flatten(0, 1),
                all_variables.flatten(0, 1),
                actions.flatten(),
                log_probabilities.flatten(),
                advantages,
                (returns - agent.return_mean) / agent.return_std,
            )
            sums: dict[str, float] = {}
            for _ in range(args.update_epochs):
                for indices in torch.randperm(args.batch_size).to(device).chunk(args.num_minibatches):
                    minibatch = rollout.take(indices)
                    if args.norm_adv:
                        a = minibatch.advantages
                        minibatch.advantages = (a - a.mean()) / (a.std() + 1e-8)
                    with autocast(device, args.bf16):
                        outputs = agent(minibatch.screens, minibatch.variables)
                    loss, metrics = ppo_loss(*outputs, minibatch, args)
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
    games.close()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
