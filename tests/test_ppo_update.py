"""Trainings by ppo.py and ppo_vizdoom.py equal plain ones, written out row by row; and their defaults."""

import dataclasses
import math
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from cleanpoke import ppo, ppo_vizdoom
from cleanpoke.run import load_checkpoint, seed_everything

SIZES = {"num_envs": 4, "num_steps": 16, "num_minibatches": 4, "update_epochs": 3, "total_timesteps": 192}
RATES = {"learning_rate": 1e-2, "gamma": 0.9, "gae_lambda": 0.8, "clip_coef": 0.05}
RATES |= {"ent_coef": 0.05, "vf_coef": 0.7, "max_grad_norm": 0.3}


class SmallWorlds:
    """Gymnasium's environments one by one."""

    def __init__(self, args: ppo.Args):
        self.args = args
        self.envs = [
            gym.make(args.env_id, max_episode_steps=args.max_episode_steps) for _ in range(args.num_envs)
        ]
        self.seen = [env.reset(seed=ppo.world_seed(args.seed, 0) + i) for i, env in enumerate(self.envs)]
        self.agent = ppo.Agent(self.inputs()[0].shape[1], int(self.envs[0].action_space.n))

    def inputs(self) -> tuple[Tensor, Tensor]:
        return self.read(self.seen)

    def read(self, seen: list) -> tuple[Tensor, Tensor]:
        env = self.envs[0]
        count = env.action_space.n
        if isinstance(env.observation_space, gym.spaces.Discrete):
            rows = [np.eye(env.observation_space.n)[observation] for observation, _ in seen]
        else:
            rows = [observation for observation, _ in seen]
        masks = [info["action_mask"] if self.args.action_mask else np.ones(count) for _, info in seen]
        return torch.tensor(np.array(rows), dtype=torch.float32), torch.tensor(np.array(masks)) == 1

    def step(self, actions: list[int], value: Callable) -> list[tuple[float, float, bool]]:
        """Of each: the reward, the value of what follows where it is cut off, and whether it is over."""
        results = []
        for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            observation, reward, terminated, truncated, info = env.step(action)
            last = value(*self.read([(observation, info)])) if truncated and not terminated else [0.0]
            self.seen[index] = env.reset() if terminated or truncated else (observation, info)
            results.append((float(reward), float(last[0]), terminated or truncated))
        return results


class Doom:
    def __init__(self, args: ppo_vizdoom.Args):
        self.games = ppo_vizdoom.Games(args, args.num_envs)
        self.seen = self.games.reset(ppo_vizdoom.game_seed(args.seed, 0))
        self.agent = ppo_vizdoom.Agent(args.frame_stack, self.games.num_variables, len(self.games.actions))

    def inputs(self) -> tuple[Tensor, Tensor]:
        screens, variables = self.seen
        return torch.tensor(screens), torch.tensor(variables)

    def step(self, actions: list[int], value: Callable) -> list[tuple[float, float, bool]]:
        before = value(*self.inputs())  # ViZDoom shows no last state
        *self.seen, rewards, terminated, truncated = self.games.step(np.array(actions))
        lasts = np.where(truncated, before, 0.0)
        return list(zip(rewards.tolist(), lasts.tolist(), (terminated | truncated).tolist(), strict=True))


def plain_training(worlds: SmallWorlds | Doom, args: ppo.Args | ppo_vizdoom.Args) -> list[dict[str, float]]:
    """Trains `worlds.agent` and returns the metrics of each iteration."""
    agent, history = worlds.agent, []
    T, N, gamma = args.num_steps, args.num_envs, args.gamma
    parameters = list(agent.parameters())
    adam = torch.optim.Adam(parameters, eps=1e-5)

    def value(*inputs: Tensor) -> np.ndarray:
        with torch.no_grad():
            return (agent(*inputs)[1] * agent.return_std + agent.return_mean).numpy()

    iterations = args.total_timesteps // (T * N)
    for iteration in range(iterations):
        adam.param_groups[0]["lr"] = args.learning_rate
        if args.anneal_lr:
            adam.param_groups[0]["lr"] *= (iterations - iteration) / iterations

        inputs, actions, old_log_pi = [], [], []
        rewards, lasts, overs, values = (np.zeros((T + 1, N)) for _ in range(4))
        for t in range(T):
            inputs.append(worlds.inputs())
            with torch.no_grad():
                log_pi, _ = agent(*inputs[t])
            action = (log_pi - torch.empty_like(log_pi).exponential_().log()).argmax(1)
            actions.append(action)
            old_log_pi.append(log_pi[range(N), action])
            values[t] = value(*inputs[t])
            for n, result in enumerate(worlds.step(action.tolist(), value)):
                rewards[t, n], lasts[t, n], overs[t, n] = result
        values[T] = value(*worlds.inputs())

        advantages = np.zeros((T, N))
        for n in range(N):
            for t in range(T):
                weight = 1.0
                for k in range(t, T):  # until the episode or the rollout ends
                    following = lasts[k, n] if overs[k, n] else values[k + 1, n]
                    advantages[t, n] += weight * (rewards[k, n] + gamma * following - values[k, n])
                    weight *= gamma * args.gae_lambda
                    if overs[k, n]:
                        break
        returns = torch.tensor(advantages + values[:T], dtype=torch.float32).flatten()
        if args.normalize_returns:
            agent.rescale(returns)
        targets = (returns - agent.return_mean) / agent.return_std
        all_inputs = [torch.cat(part) for part in zip(*inputs, strict=True)]
        all_actions, old_log_pi = torch.cat(actions), torch.cat(old_log_pi)
        all_advantages = torch.tensor(advantages, dtype=torch.float32).flatten()

        metrics = []
        size = T * N // args.num_minibatches
        for _ in range(args.update_epochs):
            order = torch.randperm(T * N)
            for start in range(0, T * N, size):
                rows = order[start : start + size]
                log_pi, guesses = agent(*(part[rows] for part in all_inputs))
                advantage = all_advantages[rows]
                if args.norm_adv:
                    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                ratio = log_pi[range(size), all_actions[rows]].exp() / old_log_pi[rows].exp()
                near = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = -torch.minimum(ratio * advantage, near * advantage).mean()
                value_loss = ((guesses - targets[rows]) ** 2).mean() / 2
                entropy = torch.distributions.Categorical(logits=log_pi).entropy().mean()
                loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy
                gradients = torch.autograd.grad(loss, parameters)
                norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient * min(1.0, args.max_grad_norm / norm)
                adam.step()
                metrics.append(
                    {
                        "losses/policy": policy_loss.item(),
                        "losses/value": value_loss.item(),
                        "losses/entropy": entropy.item(),
                        "losses/approx_kl": (ratio - 1 - ratio.log()).mean().item(),
                        "losses/clip_fraction": float(((ratio - 1).abs() > args.clip_coef).float().mean()),
                        "grad/norm": norm,
                    }
                )
        errors = returns.numpy() - values[:T].flatten()
        history.append({name: np.mean([one[name] for one in metrics]) for name in metrics[0]})
        history[-1] |= {
            "charts/learning_rate": adam.param_groups[0]["lr"],
            "reward/mean": rewards[:T].mean(),
            "value/return_std": float(returns.std()),
            "losses/explained_variance": 1 - errors.var() / float(returns.var(unbiased=False)),
        }
    return history


@pytest.mark.parametrize(
    ("script", "worlds", "changes"),
    [
        (ppo, SmallWorlds, {"max_episode_steps": 12, "normalize_returns": False}),
        (
            ppo,
            SmallWorlds,
            {
                "env_id": "Taxi-v4",
                "max_episode_steps": 10,
                "action_mask": True,
                "norm_adv": False,
                "anneal_lr": False,
            },
        ),
        (
            ppo_vizdoom,
            Doom,
            {
                **{"num_envs": 2, "num_steps": 8, "num_minibatches": 2, "total_timesteps": 32},
                **{"frame_skip": 80, "learning_rate": 1e-3, "bf16": "off", "device": "cpu"},
            },
        ),
    ],
)
def test_training_equals_a_plain_one(script, worlds, changes, tmp_path):
    args = script.Args(**{**SIZES, **RATES, "eval_episodes": 0, "runs": tmp_path, "seed": 3} | changes)
    script.main(args)
    (run,) = tmp_path.iterdir()
    torch.set_num_threads(1)
    seed_everything(args.seed)
    plain = worlds(args)
    expected = plain_training(plain, args)
    if isinstance(plain, Doom):
        plain.games.close()
    for name, weights in load_checkpoint(run).state["agent"].items():
        assert torch.allclose(weights, plain.agent.state_dict()[name], rtol=1e-3, atol=2e-4), name
    events = EventAccumulator(str(run)).Reload()
    for name in expected[0]:
        curve = [point.value for point in events.Scalars(name)]
        assert curve == pytest.approx([one[name] for one in expected], rel=2e-3, abs=1e-4), name
    assert any(one["losses/clip_fraction"] > 0.05 for one in expected)  # both clips have had something to do
    assert any(one["grad/norm"] > args.max_grad_norm for one in expected)
    speeds = [
        [point.value for point in events.Scalars(f"charts/{name}")] for name in ("SPS", "updates_per_second")
    ]
    rows = args.num_envs * args.num_steps / (args.update_epochs * args.num_minibatches)
    assert speeds[0] == pytest.approx([rows * speed for speed in speeds[1]], rel=1e-4)


def test_defaults_are_those_of_the_page():
    common = {"num_steps": 128, "update_epochs": 4, "gamma": 0.99, "gae_lambda": 0.95, "norm_adv": True}
    common |= {"anneal_lr": True, "clip_coef": 0.2, "ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5}
    common |= {"normalize_returns": True, "eval_every": 0, "keep": 2, "seed": 1, "solved_at": None}
    small = {"total_timesteps": 500_000, "save_every": 64_000, "num_envs": 16, "num_minibatches": 8}
    small |= {"learning_rate": 1e-3, "eval_episodes": 100, "max_episode_steps": None, "action_mask": False}
    doom = {"total_timesteps": 200_000, "save_every": 50_000, "num_envs": 8, "num_minibatches": 4}
    doom |= {"learning_rate": 5e-4, "eval_episodes": 20, "frame_skip": 4, "frame_stack": 1, "buttons": 2}
    doom |= {"difficulty": None, "variables": True, "bf16": "auto"}
    for script, own in ((ppo, small), (ppo_vizdoom, doom)):
        args = dataclasses.asdict(script.Args())
        assert {name: args[name] for name in common | own} == common | own


def test_policies_begin_nearly_even():
    """As CleanRL's do: the actor's last layer is a hundredth as large as the others."""
    torch.manual_seed(0)
    log_pi, _ = ppo.Agent(4, 3)(torch.randn(50, 4), torch.ones(50, 3, dtype=torch.bool))
    assert 0 < (log_pi.exp() - 1 / 3).abs().max() < 0.02
    screens = torch.randint(0, 256, (4, 1, 60, 80), dtype=torch.uint8)
    log_pi, _ = ppo_vizdoom.Agent(1, 2, 6)(screens, torch.rand(4, 2))
    assert 0 < (log_pi.exp() - 1 / 6).abs().max() < 0.02
