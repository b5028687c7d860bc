"""PPO on small worlds: episodes end when they end, masks hold, the critic's rescaling changes no value."""

import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke import ppo
from cleanpoke.errors import CleanPokeError
from cleanpoke.ppo import Agent, Args
from cleanpoke.run import load_checkpoint

# --- Parts


def test_rescaling_moves_the_moments_and_keeps_the_values():
    torch.manual_seed(0)
    agent, observations = Agent(5, 3), torch.randn(7, 5)
    for returns in (torch.randn(100) * 40 - 200, torch.randn(100) * 3 + 10):
        before = agent.value(agent.critic(observations)[:, 0])
        agent.rescale(returns)
        assert torch.allclose(agent.value(agent.critic(observations)[:, 0]), before, atol=1e-3)
        if agent.rollouts_seen == 1:
            assert agent.return_mean == pytest.approx(float(returns.mean()))
            assert agent.return_std == pytest.approx(float(returns.std()))


def test_forbidden_actions_are_never_drawn_and_cost_no_entropy():
    torch.manual_seed(0)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    log_pi, _ = Agent(4, 3)(torch.randn(2, 4), mask)
    drawn = torch.stack([ppo.sample(log_pi) for _ in range(200)])
    assert set(drawn[:, 0].tolist()) == {0, 2} and set(drawn[:, 1].tolist()) == {1}
    zeros = torch.zeros(2)
    rows = ppo.Rows(torch.zeros(2, 4), mask, torch.tensor([0, 1]), log_pi.max(1).values, zeros, zeros)
    _, metrics = ppo.ppo_loss(log_pi, zeros, rows, Args())
    one_row = -(log_pi[0, [0, 2]].exp() * log_pi[0, [0, 2]]).sum()
    assert metrics["losses/entropy"] == pytest.approx(one_row.item() / 2)


def test_numbers_become_one_hot_and_taxi_gives_its_mask():
    envs = ppo.make_envs(Args(env_id="Taxi-v4", action_mask=True), 3)
    seen, info = envs.reset(seed=1)
    rows = ppo.observe(envs, seen)
    assert rows.shape == (3, 500) and (rows.argmax(1) == torch.from_numpy(seen)).all() and rows.sum() == 3
    mask = ppo.allowed(envs, info, action_mask=True)
    assert mask.dtype == torch.bool and mask.shape == (3, 6) and 0 < mask.sum() < 18


def test_worlds_without_a_time_limit_get_one():
    """Where no episode has an end, an evaluation would have none, either."""
    torch.manual_seed(0)
    for limit, length in ((None, 1000), (20, 20)):
        args = Args(env_id="CliffWalking-v1", max_episode_steps=limit)
        assert gym.spec(args.env_id).max_episode_steps is None
        agent = Agent(48, 4)
        torch.nn.init.constant_(agent.actor[4].bias[:1], 100.0)  # always up, against the wall: -1 each
        assert ppo.evaluate(agent, args, 2, greedy=True, seed=1).tolist() == [-length, -length]


def test_cut_off_episodes_are_bootstrapped_and_lost_ones_are_not(tmp_path, monkeypatch):
    """CartPole cut off after 5 decisions: a reward of 1 each, and in the last the value of what follows."""
    seen = []

    def spy(rewards, values, dones, *rest):
        seen.append((rewards.copy(), dones.copy()))
        return np.zeros_like(rewards)

    monkeypatch.setattr(ppo, "generalized_advantages", spy)
    options = {"total_timesteps": 32, "num_steps": 16, "num_envs": 2, "num_minibatches": 4}
    small_run(tmp_path, max_episode_steps=5, **options)
    rewards, dones = seen[0]
    assert (np.flatnonzero(dones[:, 0]) == [4, 9, 14]).all()
    assert (rewards[dones == 0] == 1).all() and (rewards[dones == 1] != 1).all()


# --- Runs


def small_run(folder: Path, **changes) -> Path:
    options = {"num_envs": 4, "num_steps": 32, "num_minibatches": 4, "total_timesteps": 768}
    options |= {"save_every": 256, "eval_episodes": 0}
    ppo.main(Args(runs=folder, **options | changes))
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_seed_names_a_run_and_a_resumed_one_goes_on_as_if_nothing_had_been(tmp_path):
    whole, again = small_run(tmp_path / "whole"), small_run(tmp_path / "again", eval_every=256)
    middle = sorted(again.glob("checkpoint_*.pt"))[0]
    assert load_checkpoint(middle).step == 512
    resumed = load_checkpoint(small_run(tmp_path / "again", resume=middle))
    for other in (load_checkpoint(again), resumed):
        assert other.step == 768
        for name, weights in load_checkpoint(whole).state["agent"].items():
            assert torch.equal(weights, other.state["agent"][name]), name


def logged(folder: Path) -> dict[str, list[float]]:
    """Every curve of a run."""
    events = EventAccumulator(str(folder)).Reload()
    return {name: [point.value for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_rewards_are_logged_as_the_world_gave_them(tmp_path):
    """A pole that stands brings 1 for each decision, whatever the critic expects after the time limit."""
    curves = logged(small_run(tmp_path, max_episode_steps=5))
    assert set(curves["reward/mean"]) == {1.0} and set(curves["reward/std"]) == {0.0}
    assert set(curves["charts/episodic_return"]) == {5.0}


def test_every_metric_of_the_atari_page_is_logged(tmp_path):
    folder = small_run(tmp_path, eval_episodes=2, save_every=128, keep=3)
    tags = EventAccumulator(str(folder)).Reload().Tags()
    layers = {f"grad/norm_{part}.{layer}" for part in ("actor", "critic") for layer in (0, 2, 4)}
    assert layers <= set(tags["scalars"])
    page = (Path(ppo.__file__).parents[1] / "docs" / "ppo_atari.md").read_text()
    table = page.partition("## Every logged metric")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if "/" in line]
    explained = {name for cell in cells for name in re.findall("`([^`]+)`", cell)}
    assert {*tags["scalars"], *tags["histograms"]} - layers == explained - {"grad/norm_<layer>"}
    assert len(list(folder.glob("checkpoint_*.pt"))) == 3


def test_an_evaluation_on_the_way_changes_nothing(tmp_path):
    without = load_checkpoint(small_run(tmp_path / "without", save_every=10_000))
    evaluated = small_run(tmp_path / "with", save_every=10_000, eval_every=256, eval_episodes=2)
    assert len(logged(evaluated)["eval/greedy_return"]) == 3
    for name, weights in without.state["agent"].items():
        assert torch.equal(weights, load_checkpoint(evaluated).state["agent"][name]), name


def test_a_run_that_was_cut_off_before_its_evaluation_makes_up_for_it(tmp_path):
    folder = small_run(tmp_path, eval_episodes=2)
    results = folder / "evaluation.json"
    before = results.read_text()
    results.unlink()
    assert small_run(tmp_path, eval_episodes=2, resume=folder) == folder
    assert results.read_text() == before


def test_a_solved_run_ends_and_stays_solved(tmp_path):
    """Five decisions an episode: the first hundred are over with the fourth rollout."""
    options = {"max_episode_steps": 5, "solved_at": -1.0, "stop_when_solved": True, "eval_episodes": 2}
    options |= {"save_every": 10_000}
    folder = small_run(tmp_path, **options)
    step = load_checkpoint(folder).step
    assert step == 512 and logged(folder)["charts/solved"] == [0, 0, 0, 1]
    results = folder / "evaluation.json"
    before = results.read_text()
    results.unlink()
    assert small_run(tmp_path, **options, resume=folder) == folder  # cut off before its evaluation
    assert results.read_text() == before and load_checkpoint(folder).step == step

    last = sorted(folder.glob("checkpoint_*.pt"))[-1]
    contents = torch.load(last, weights_only=True)
    contents["state"]["recent_returns"] = 100 * [-5.0]  # since then it has become worse
    torch.save(contents, last)
    options |= {"stop_when_solved": False, "eval_episodes": 0}
    small_run(tmp_path, **options | {"total_timesteps": 640}, resume=folder)
    assert logged(folder)["charts/solved"] == [0, 0, 0, 1, 1]
    small_run(tmp_path, **options | {"solved_at": 9.0}, resume=folder)  # another bar, not reached yet
    assert logged(folder)["charts/solved"] == [0, 0, 0, 1, 1, 0]


def test_the_command_balances_the_pole(tmp_path):
    folder = small_run(
        tmp_path, total_timesteps=50_000, num_envs=16, num_steps=128, num_minibatches=8, eval_episodes=20
    )
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["greedy"]["episodes"] == 20
    assert results["greedy"]["mean"] > 300  # random play: about 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "CartPole-v99"}, "cannot make 'CartPole-v99'"),
        ({"env_id": "CartPol-v1"}, "CartPole"),
        ({"env_id": "Pendulum-v1"}, "chooses one out of n"),
        ({"env_id": "Blackjack-v1"}, "reads one vector"),
        ({"action_mask": True}, "leave out --action-mask"),
        ({"num_envs": 3, "num_minibatches": 7}, "equal minibatches"),
        ({"num_envs": 0}, "--num-envs must be at least 1"),
        ({"keep": 0}, "--keep must be at least 1"),
        ({"max_episode_steps": 0}, "--max-episode-steps must be at least 1"),
        ({"total_timesteps": 10}, "at least one rollout"),
        ({"learning_rate": -1.0}, "--learning-rate must be above 0"),
        ({"clip_coef": -1.0}, "--clip-coef must be above 0"),
        ({"max_grad_norm": 0.0}, "--max-grad-norm must be above 0"),
        ({"gamma": 2.0}, "--gamma must lie between 0 and 1"),
        ({"gae_lambda": -0.1}, "--gae-lambda must lie between 0 and 1"),
        ({"env_id": "nomodule:Foo-v1"}, "No module named 'nomodule'"),
        ({"env_id": "ALE/Pong-v5"}, "ppo_atari.py learns it"),
        ({"env_id": "VizdoomBasic-v1"}, "ppo_vizdoom.py learns it"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(changes, message, tmp_path):
    with pytest.raises(CleanPokeError, match=message):
        small_run(tmp_path, **changes)


def test_a_checkpoint_of_another_environment_is_refused(tmp_path):
    pole = small_run(tmp_path)
    with pytest.raises(CleanPokeError, match="trained on CartPole-v1"):
        small_run(tmp_path, env_id="Acrobot-v1", init_from=pole)
