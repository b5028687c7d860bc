"""Training steps a second of ppo_atari.py, against CleanRL's algorithm on gymnasium and on envpool.

    pip install -r benchmark/requirements.txt
    python benchmark/atari_speed.py

All play the same game with the same hyperparameters (8 games, 128 steps, 4 epochs of 4 minibatches), each in
its own process; they take turns, round after round. The peers are CleanRL's ppo_atari.py and
ppo_atari_envpool.py, written anew against the public packages, for its files do not run on today's gymnasium
unchanged. What differs from them: gymnasium's AtariPreprocessing prepares the games, which is faster than
their wrappers (the comparison leans their way); nothing is logged. Measured as well: the seconds from our
command to its first line of progress. The last line printed is one JSON object.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from cleanpoke.errors import CleanPokeError, user_errors

SCRIPT = Path(__file__).resolve().parents[1] / "cleanpoke" / "ppo_atari.py"
NUM_ENVS, NUM_STEPS, EPOCHS, MINIBATCHES = 8, 128, 4, 4
BATCH = NUM_ENVS * NUM_STEPS
BARS = {"cleanrl": 3.0, "cleanrl_envpool": 2.5}
FIRST_PROGRESS_BAR = 15.0
"""Seconds."""


@dataclass
class Args:
    games: tuple[str, ...] = ("Pong", "Breakout")
    """games, each measured on its own"""
    rounds: int = 5
    """measurements of each contestant, taken turn about"""
    iterations: int = 8
    """rollouts with their updates in one measurement, after two to warm up"""
    threads: int = 2
    """cores for each contestant"""
    quick: bool = False
    """one short round of Pong"""
    check: bool = False
    """exit with status 1 below 3x ppo_atari and 2.5x its envpool version, or if progress takes 15 seconds"""
    contestant: str = ""
    """used internally: measure this one in this process"""


# --- The peers --------------------------------------------------------------------------------------------


def layer(module: nn.Module, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module


class PlainAgent(nn.Module):
    """The network of CleanRL's ppo_atari.py."""

    def __init__(self, num_actions: int):
        super().__init__()
        self.network = nn.Sequential(
            layer(nn.Conv2d(4, 32, 8, stride=4)),
            nn.ReLU(),
            layer(nn.Conv2d(32, 64, 4, stride=2)),
            nn.ReLU(),
            layer(nn.Conv2d(64, 64, 3)),
            nn.ReLU(),
            nn.Flatten(),
            layer(nn.Linear(3136, 512)),
            nn.ReLU(),
        )
        self.actor, self.critic = layer(nn.Linear(512, num_actions), 0.01), layer(nn.Linear(512, 1), 1.0)

    def value(self, x: Tensor) -> Tensor:
        return self.critic(self.network(x / 255.0))

    def forward(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        hidden = self.network(x / 255.0)
        distribution = torch.distributions.Categorical(logits=self.actor(hidden))
        action = distribution.sample() if action is None else action
        return action, distribution.log_prob(action), distribution.entropy(), self.critic(hidden)


Step = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Actions to observations, clipped rewards and dones."""


def gymnasium_games(game: str) -> tuple[np.ndarray, int, Step]:
    """One game after the other in this process, as in ppo_atari.py."""
    import ale_py
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gymnasium.register_envs(ale_py)

    def make() -> gymnasium.Env:
        env = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0)
        env = AtariPreprocessing(env, terminal_on_life_loss=True)
        return FrameStackObservation(env, 4)

    envs = gymnasium.vector.SyncVectorEnv([make] * NUM_ENVS)

    def step(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        return observations, np.sign(rewards), terminated | truncated

    return envs.reset(seed=1)[0], int(envs.single_action_space.n), step


def envpool_games(game: str) -> tuple[np.ndarray, int, Step]:
    """All games at once in C++, as in ppo_atari_envpool.py."""
    import envpool

    envs = envpool.make(
        f"{game}-v5", env_type="gymnasium", num_envs=NUM_ENVS, episodic_life=True, reward_clip=True, seed=1
    )

    def step(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, terminated, truncated, _ = envs.step(actions.astype(np.int32))
        return observations, rewards, terminated | truncated

    return envs.reset()[0], int(envs.action_space.n), step


def train_plainly(observations: np.ndarray, num_actions: int, step_games: Step) -> Iterator[None]:
    """CleanRL's loop; one rollout and its updates at every `next`."""
    agent = PlainAgent(num_actions)
    optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)
    obs = torch.zeros(NUM_STEPS, NUM_ENVS, 4, 84, 84)
    actions = torch.zeros(NUM_STEPS, NUM_ENVS)
    logprobs, rewards, dones, values = (torch.zeros(NUM_STEPS, NUM_ENVS) for _ in range(4))
    next_obs, next_done = torch.Tensor(observations), torch.zeros(NUM_ENVS)
    while True:
        for t in range(NUM_STEPS):
            obs[t], dones[t] = next_obs, next_done
            with torch.no_grad():
                action, logprob, _, value = agent(next_obs)
                values[t] = value.flatten()
            actions[t], logprobs[t] = action, logprob
            observations, reward, done = step_games(action.numpy())
            rewards[t] = torch.tensor(reward)
            next_obs, next_done = torch.Tensor(observations), torch.Tensor(done)
        with torch.no_grad():
            next_value = agent.value(next_obs).reshape(-1)
            advantages, advantage = torch.zeros_like(rewards), 0.0
            for t in reversed(range(NUM_STEPS)):
                goes_on = 1.0 - (next_done if t == NUM_STEPS - 1 else dones[t + 1])
                later = next_value if t == NUM_STEPS - 1 else values[t + 1]
                delta = rewards[t] + 0.99 * later * goes_on - values[t]
                advantages[t] = advantage = delta + 0.99 * 0.95 * goes_on * advantage
            returns = advantages + values
        b_obs, b_actions = obs.reshape(-1, 4, 84, 84), actions.reshape(-1)
        b_logprobs, b_values = logprobs.reshape(-1), values.reshape(-1)
        b_advantages, b_returns = advantages.reshape(-1), returns.reshape(-1)
        indices = np.arange(BATCH)
        for _ in range(EPOCHS):
            np.random.shuffle(indices)
            for start in range(0, BATCH, BATCH // MINIBATCHES):
                rows = indices[start : start + BATCH // MINIBATCHES]
                _, logprob, entropy, value = agent(b_obs[rows], b_actions.long()[rows])
                log_ratio = logprob - b_logprobs[rows]
                ratio = log_ratio.exp()
                a = b_advantages[rows]
                a = (a - a.mean()) / (a.std() + 1e-8)
                policy_loss = torch.max(-a * ratio, -a * torch.clamp(ratio, 0.9, 1.1)).mean()
                value = value.view(-1)
                near = b_values[rows] + torch.clamp(value - b_values[rows], -0.1, 0.1)
                errors = torch.max((value - b_returns[rows]) ** 2, (near - b_returns[rows]) ** 2)
                loss = policy_loss - 0.01 * entropy.mean() + 0.5 * 0.5 * errors.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        yield


def measure_peer(name: str, game: str, args: Args) -> float:
    """Steps per second of a peer, in this process."""
    torch.set_num_threads(args.threads)
    games = {"cleanrl": gymnasium_games, "cleanrl_envpool": envpool_games}[name]
    training = train_plainly(*games(game))
    for _ in range(2):
        next(training)
    began = time.perf_counter()
    for _ in range(args.iterations):
        next(training)
    return args.iterations * BATCH / (time.perf_counter() - began)


# --- Our script -------------------------------------------------------------------------------------------


def measure_script(options: list[str], game: str, args: Args) -> float:
    """Steps per second of ppo_atari.py, run as a user runs it, from its own curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPT), "--env-id", f"ALE/{game}-v5", "--eval-episodes", "0"]
        command += ["--workers", str(args.threads), "--runs", folder, *options]
        command += ["--total-timesteps", str((args.iterations + 2) * BATCH)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise CleanPokeError(f"ppo_atari.py ended with status {done.returncode}: {done.stderr[-500:]}")
        events = EventAccumulator(str(next(Path(folder).iterdir())))
        events.Reload()
        speeds = [event.value for event in events.Scalars("charts/SPS")][2:]
    return len(speeds) / sum(1 / speed for speed in speeds)


def seconds_to_progress() -> float:
    """From the command to the first line that tells how far it is."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPT), "--env-id", "ALE/Pong-v5", "--runs", folder]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        is_seen = any(line.startswith("step ") for line in process.stdout)
        seconds = time.perf_counter() - began
        watchdog.cancel()
        process.kill()
        process.wait()
    if not is_seen:
        raise CleanPokeError("ppo_atari.py showed no progress in two minutes")
    return seconds


CONTESTANTS = {
    "cleanrl": None,
    "cleanrl_envpool": None,
    "ours, float32": ["--bf16", "off"],
    "ours": [],
}


def main(args: Args) -> None:
    if args.contestant:
        print(measure_peer(args.contestant, args.games[0], args))
        return
    if args.quick:
        args.games, args.rounds, args.iterations = ("Pong",), 1, 3
    first = statistics.median(seconds_to_progress() for _ in range(args.rounds))
    print(f"first progress after {first:.1f} s")
    results, passed = {}, first <= FIRST_PROGRESS_BAR
    for game in args.games:
        speeds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        for _ in range(args.rounds):
            for name, options in CONTESTANTS.items():
                if options is not None:
                    speeds[name].append(measure_script(options, game, args))
                    continue
                command = [sys.executable, __file__, "--contestant", name, "--games", game]
                command += ["--iterations", str(args.iterations), "--threads", str(args.threads)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if done.returncode != 0:
                    reason = done.stderr[-500:]
                    raise CleanPokeError(f"{name} did not run (its packages: see --help): {reason}")
                speeds[name].append(float(done.stdout.splitlines()[-1]))
        results[game] = {name: statistics.median(values) for name, values in speeds.items()}
        for name, values in speeds.items():
            spread = " ".join(f"{value:,.0f}" for value in values)
            ratio = results[game][name] / results[game]["cleanrl"]
            print(
                f"{game:10} {name:18} {results[game][name]:7,.0f} steps/s  {ratio:5.2f}x  ({spread})",
                flush=True,
            )
        passed &= all(results[game]["ours"] >= bar * results[game][peer] for peer, bar in BARS.items())
        passed &= results[game]["ours, float32"] >= 1.8 * results[game]["cleanrl"]
    summary = {"passed": passed, "first_progress_seconds": first, "steps_per_second": results}
    print(json.dumps({"benchmark": "atari_speed", **summary}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
