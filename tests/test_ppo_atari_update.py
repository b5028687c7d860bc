"""PPO on Atari learns as CleanRL's ppo_atari.py does: its updates are computed again in the plainest way."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributions import Categorical

from cleanpoke import ppo_atari
from cleanpoke.ppo_atari import Agent, Args
from cleanpoke.run import load_checkpoint

ENVS, STEPS, ROLLOUTS = 4, 16, 2


def test_the_defaults_are_cleanrls():
    cleanrl = {"total_timesteps": 10_000_000, "learning_rate": 2.5e-4, "num_envs": 8, "num_steps": 128}
    cleanrl |= {"anneal_lr": True, "gamma": 0.99, "gae_lambda": 0.95, "num_minibatches": 4}
    cleanrl |= {"update_epochs": 4, "norm_adv": True, "clip_coef": 0.1, "value_loss": "clipped"}
    cleanrl |= {"ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5, "target_kl": None}
    cleanrl |= {"sticky": 0.0, "frame_skip": 4, "rgb": False, "normalize_returns": False}
    ours = dataclasses.asdict(Args())
    assert {name: ours[name] for name in cleanrl} == cleanrl


def test_layers_begin_orthogonal_with_cleanrls_gains():
    agent = Agent(6)
    gains = dict.fromkeys(("conv1", "conv2", "conv3", "hidden"), math.sqrt(2)) | {"actor": 0.01, "critic": 1}
    assert set(gains) == {name for name, _ in agent.named_children()}
    for name, gain in gains.items():
        layer = getattr(agent, name)
        stretches = torch.linalg.svdvals(layer.weight.detach().flatten(1))
        assert stretches.numpy() == pytest.approx(gain, rel=1e-3), name
        assert not layer.bias.any()


def test_rescaling_moves_the_moments_and_keeps_the_values():
    torch.manual_seed(0)
    agent, hidden = Agent(6), torch.randn(7, 512)
    for returns in (torch.randn(100) * 40 - 200, torch.randn(100) * 3 + 10):
        before = agent.value(agent.critic(hidden)[:, 0])
        agent.rescale(returns)
        assert torch.allclose(agent.value(agent.critic(hidden)[:, 0]), before, rtol=1e-3, atol=1e-2)
        if agent.rollouts_seen == 1:
            assert agent.return_mean == pytest.approx(float(returns.mean()))
            assert agent.return_std == pytest.approx(float(returns.std()))


class ScriptedGames(ppo_atari.AtariVectorEnv):
    """Games whose rewards and lost lives are made up; keeps what happened, step by step."""

    records: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.generator = np.random.default_rng(0)

    def reset(self, **options: Any) -> tuple:
        frames, info = super().reset(**options)
        self.frames = frames.copy()
        return frames, info

    def send(self, actions: np.ndarray) -> None:
        self.actions = actions.copy()
        super().send(actions)

    def recv(self) -> tuple:
        frames, _, _, truncated, info = super().recv()
        rewards = self.generator.choice([0.0, 7.0, -4.0], ENVS, p=[0.6, 0.2, 0.2])
        lost = self.generator.random(ENVS) < 0.1
        step = {"frames": self.frames, "actions": self.actions, "rewards": rewards, "lost": lost}
        self.records.append(step | {"next_frames": frames.copy()})
        self.frames = frames.copy()
        return frames, rewards, lost, truncated, info


def network(agent: Agent, frames: np.ndarray) -> tuple[Categorical, torch.Tensor]:
    """Policy and value (in the critic's units) of frames (..., 4, 84, 84), computed as CleanRL does."""
    x = torch.from_numpy(frames).float().flatten(0, -4) / 255.0
    for layer in (agent.conv1, agent.conv2, agent.conv3):
        x = F.relu(layer(x))
    x = F.relu(agent.hidden(x.permute(0, 2, 3, 1).flatten(1)))  # the one difference: the order of its inputs
    policy, values = Categorical(logits=agent.actor(x)), agent.critic(x)[:, 0]
    return policy, values


def plain_training(agent: Agent, args: Args, steps: list[dict], orders: list[torch.Tensor]) -> list[dict]:
    """Trains on what was played, in the order given, as CleanRL's ppo_atari.py does; metrics per rollout."""
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    mean, std, logged, orders = 0.0, 1.0, [], iter(orders)
    for rollout in range(ROLLOUTS):
        fraction = 1 - rollout / ROLLOUTS if args.anneal_lr else 1.0
        optimizer.param_groups[0]["lr"] = fraction * args.learning_rate
        played = steps[rollout * STEPS : (rollout + 1) * STEPS]
        frames = np.stack([step["frames"] for step in played])  # (T, N, 4, 84, 84)
        actions = torch.from_numpy(np.stack([step["actions"] for step in played])).flatten()
        raw = np.stack([step["rewards"] for step in played])
        lost = torch.from_numpy(np.stack([step["lost"] for step in played])).float()
        with torch.no_grad():
            policy, values = network(agent, frames)
            old_log_pi, values = policy.log_prob(actions), values.view(STEPS, ENVS) * std + mean
            next_values = network(agent, played[-1]["next_frames"])[1] * std + mean
        advantages, advantage = torch.zeros(STEPS, ENVS), torch.zeros(ENVS)
        for t in reversed(range(STEPS)):
            following = next_values if t == STEPS - 1 else values[t + 1]
            reward = torch.from_numpy(np.sign(raw[t]))
            delta = reward + args.gamma * following * (1 - lost[t]) - values[t]
            advantage = delta + args.gamma * args.gae_lambda * (1 - lost[t]) * advantage
            advantages[t] = advantage
        advantages, values = advantages.flatten(), values.flatten()
        returns = advantages + values
        if args.normalize_returns:  # PopArt: outputs of the critic stay what they were, in new units
            rate = max(ppo_atari.RETURN_MOMENTS_RATE, 1 / (rollout + 1))
            new_mean = float(mean + rate * (returns.mean() - mean))
            new_std = float(std + rate * (returns.std() - std))
            with torch.no_grad():
                agent.critic.weight.copy_(agent.critic.weight * std / new_std)
                agent.critic.bias.copy_((agent.critic.bias * std + mean - new_mean) / new_std)
            mean, std = new_mean, new_std
        targets, old_values = (returns - mean) / std, (values - mean) / std
        frames = frames.reshape(STEPS * ENVS, 4, 84, 84)

        rows = []
        for _ in range(args.update_epochs):
            for batch in next(orders).split(STEPS * ENVS // args.num_minibatches):
                policy, new_values = network(agent, frames[batch.numpy()])
                log_ratio = policy.log_prob(actions[batch]) - old_log_pi[batch]
                ratio, chosen = log_ratio.exp(), advantages[batch]
                if args.norm_adv:
                    chosen = (chosen - chosen.mean()) / (chosen.std() + 1e-8)
                limited = torch.clamp(ratio, 1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = torch.max(-chosen * ratio, -chosen * limited).mean()
                errors = new_values - targets[batch]
                if args.value_loss == "clipped":
                    moved = (new_values - old_values[batch]).clamp(-args.clip_coef, args.clip_coef)
                    near = old_values[batch] + moved - targets[batch]
                    value_loss = 0.5 * torch.max(errors**2, near**2).mean()
                elif args.value_loss == "huber":
                    small = errors.abs() < 1
                    value_loss = torch.where(small, 0.5 * errors**2, errors.abs() - 0.5).mean()
                entropy = policy.entropy().mean()
                optimizer.zero_grad()
                (policy_loss - args.ent_coef * entropy + args.vf_coef * value_loss).backward()
                norm = torch.nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
                rows.append(
                    {
                        "losses/policy": policy_loss.item(),
                        "losses/value": value_loss.item(),
                        "losses/entropy": entropy.item(),
                        "losses/approx_kl": ((ratio - 1) - log_ratio).mean().item(),
                        "losses/clip_fraction": ((ratio - 1).abs() > args.clip_coef).float().mean().item(),
                        "grad/norm": norm.item(),
                    }
                )
            if args.target_kl is not None and rows[-1]["losses/approx_kl"] > args.target_kl:
                break
        metrics = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        wrong, right = (returns - values).numpy(), returns.numpy()
        metrics |= {
            "losses/explained_variance": float(1 - np.var(wrong) / np.var(right)),
            "value/mean": float(values.mean()),
            "value/return_std": float(returns.std()),
            "reward/mean": raw.mean(),
            "reward/std": raw.std(),
            "reward/min": raw.min(),
            "reward/max": raw.max(),
            "charts/learning_rate": optimizer.param_groups[0]["lr"],
            # The clock below moves on by two seconds whenever it is read: before, between and after.
            "charts/SPS": STEPS * ENVS / 4,
            "charts/playing_share": 0.5,
            "charts/updates_per_second": len(rows) / 4,
        }
        logged.append(metrics)
    return logged


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalize_returns": True, "anneal_lr": False},
        {"value_loss": "huber", "norm_adv": False, "target_kl": 1e-7},
    ],
    ids=["clipped", "popart", "huber"],
)
def test_updates_are_those_of_cleanrl(changes, tmp_path, monkeypatch):
    """Rewards of 7 and -4 are learned as 1 and -1, lost lives end returns; weights and metrics must agree."""
    steps, orders, randperm = [], [], torch.randperm
    seconds = iter(range(0, 1000, 2))
    monkeypatch.setattr(ScriptedGames, "records", steps)
    monkeypatch.setattr(ppo_atari, "AtariVectorEnv", ScriptedGames)
    monkeypatch.setattr(torch, "randperm", lambda count: orders.append(randperm(count)) or orders[-1])
    monkeypatch.setattr(ppo_atari, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    options = {"num_envs": ENVS, "num_steps": STEPS, "total_timesteps": ENVS * STEPS * ROLLOUTS}
    options |= {"update_epochs": 2, "learning_rate": 1e-3, "ent_coef": 0.05, "vf_coef": 0.7, "gamma": 0.97}
    options |= {"gae_lambda": 0.9, "max_grad_norm": 0.2, "clip_coef": 0.15, "eval_episodes": 0}
    args = Args(runs=tmp_path, workers=1, bf16="off", **options | changes)
    ppo_atari.main(args)
    (folder,) = tmp_path.iterdir()
    monkeypatch.undo()

    torch.manual_seed(args.seed)
    agent = Agent(6)
    beginning = torch.nn.utils.parameters_to_vector(agent.parameters()).detach().clone()
    logged = plain_training(agent, args, steps, orders)
    assert {7.0, -4.0} <= set(np.stack([step["rewards"] for step in steps]).flatten())
    assert all(metrics["grad/norm"] > args.max_grad_norm for metrics in logged)

    trained = load_checkpoint(folder).state["agent"]
    ours = torch.cat([trained[name].flatten() for name, _ in agent.named_parameters()])
    plain = torch.nn.utils.parameters_to_vector(agent.parameters())
    assert (ours - plain).norm() < 0.01 * (plain - beginning).norm()
    curves = EventAccumulator(str(folder)).Reload()
    for name in logged[0]:
        ours = [(point.step, point.value) for point in curves.Scalars(name)]
        ends = range(ENVS * STEPS, ENVS * STEPS * (ROLLOUTS + 1), ENVS * STEPS)
        assert [step + 1 for step, _ in ours] == list(ends), name
        plain = [metrics[name] for metrics in logged]
        assert [value for _, value in ours] == pytest.approx(plain, rel=1e-3, abs=1e-5), name
