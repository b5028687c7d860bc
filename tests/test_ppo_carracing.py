"""PPO in car racing: cut-off episodes are bootstrapped, encoders are what was trained, runs resume."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke import ppo_carracing as script
from cleanpoke.envs.car_racing import CarPictures, latent_env, load_encoder
from cleanpoke.errors import CleanPokeError
from cleanpoke.ppo_carracing import Agent, Args
from cleanpoke.run import load_checkpoint

SMALL = {"num_envs": 2, "num_steps": 8, "num_minibatches": 2, "update_epochs": 2, "frames": 2}
SMALL |= {"total_timesteps": 48, "save_every": 16, "eval_episodes": 0, "bf16": "off"}


def small_run(folder: Path, **changes) -> Path:
    script.main(Args(runs=folder, **SMALL | changes))
    return max(folder.glob("ppo_carracing__*"), key=lambda path: path.stat().st_mtime_ns)


def assert_same_agents(one: Path, other: Path) -> None:
    checkpoints = [load_checkpoint(path) for path in (one, other)]
    assert checkpoints[0].step == checkpoints[1].step
    for name, weights in checkpoints[0].state["agent"].items():
        assert torch.equal(weights, checkpoints[1].state["agent"][name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("trained"))


# --- Network and losses


def test_actions_are_within_their_range_and_densities_are_theirs():
    torch.manual_seed(0)
    policy, values = Agent(2, 7)(torch.randint(0, 256, (64, 2, 48, 48), dtype=torch.uint8))
    actions = script.sample(policy)
    assert actions.shape == (64, 3) and values.shape == (64,)
    assert (actions > 0).all() and (actions < 1).all() and (policy.mean - 0.5).abs().max() < 0.1
    x, total = torch.linspace(0.0005, 0.9995, 1000)[:, None, None], 0.0
    total = policy.log_prob(x).exp().mean(0)  # each density integrates to 1
    assert torch.allclose(total, torch.ones(64, 3), atol=0.01)


def test_actions_reach_the_car_in_its_own_units():
    envs = script.make_envs(Args(num_envs=2), 2, patience=0)
    envs.reset(seed=1)
    script.take_step(envs, torch.tensor([[0.0, 0.25, 0.5], [1.0, 0.0, 1.0]]))
    cars = [env.circuit.car for env in envs.envs]
    assert [wheel.steer for wheel in cars[0].wheels[:2]] == [1, 1]  # its sign is turned in gymnasium
    assert [wheel.steer for wheel in cars[1].wheels[:2]] == [-1, -1]
    assert cars[0].wheels[2].brake == 0.5 and cars[1].wheels[2].brake == 1.0
    assert cars[0].wheels[2].gas > 0 and cars[1].wheels[2].gas == 0
    player = script.Player(Agent(4, 64), sampled=True)
    for _ in range(20):
        action = player.get_action(np.zeros((4, 48, 48), np.uint8), {})
        assert action.dtype == np.float32 and envs.single_action_space.contains(action)


def test_advantages_are_those_of_the_definition():
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(6, 2)), generator.normal(size=(7, 2))
    dones = np.zeros((6, 2))
    dones[2, 0] = 1
    ours = script.generalized_advantages(rewards, values, dones, 0.9, 0.8)
    for env in range(2):
        errors = rewards[:, env] + 0.9 * (1 - dones[:, env]) * values[1:, env] - values[:-1, env]
        for first in range(6):
            expected, weight = 0.0, 1.0
            for later in range(first, 6):
                expected += weight * errors[later]
                weight *= 0.9 * 0.8 * (1 - dones[later, env])
            assert ours[first, env] == pytest.approx(expected)


def test_cut_off_episodes_are_bootstrapped(monkeypatch, tmp_path):
    """The discounted value of the last state is added where an episode was cut off, and nowhere else."""
    seen = {}

    def keep(rewards: np.ndarray, *rest) -> np.ndarray:
        seen["rewards"], seen["dones"] = rewards.copy(), rest[1].copy()
        return np.zeros_like(rewards)

    monkeypatch.setattr(script, "generalized_advantages", keep)
    returns = {}
    for gamma in (0.0, 0.5):
        small_run(tmp_path, patience=16, total_timesteps=16, gamma=gamma)  # two decisions without new road
        returns[gamma] = seen["rewards"]
    cut_off = seen["dones"] == 1
    assert cut_off.sum() >= 2
    assert (returns[0.0][~cut_off] == returns[0.5][~cut_off]).all()
    assert (np.abs(returns[0.0][cut_off] - returns[0.5][cut_off]) > 1e-4).all()


def test_values_survive_rescaling():
    torch.manual_seed(0)
    agent, latents = Agent(2, 7), torch.randn(5, 7)
    before = agent.value(agent.decide(latents)[1])
    agent.rescale(torch.randn(100) * 100 - 50)
    assert torch.allclose(agent.value(agent.decide(latents)[1]), before, atol=1e-3)


# --- Runs


def test_a_run_that_was_cut_off_before_its_evaluation_makes_up_for_it(tmp_path):
    folder = small_run(tmp_path, eval_episodes=2)
    results = folder / "evaluation.json"
    before = results.read_text()
    results.unlink()
    assert small_run(tmp_path, eval_episodes=2, resume=folder) == folder
    assert results.read_text() == before


def test_a_resumed_run_goes_on_as_if_nothing_had_been(trained, tmp_path):
    again = small_run(tmp_path)
    assert_same_agents(trained, again)
    middle = sorted(again.glob("checkpoint_*.pt"))[0]
    assert load_checkpoint(middle).step == 32
    assert_same_agents(trained, small_run(tmp_path, resume=middle))


@pytest.mark.parametrize(("during", "call", "step"), [("ppo_loss", 6, 32), ("evaluate", 1, 48)])
def test_ctrl_c_saves_and_the_resumed_run_is_the_whole_one(
    during, call, step, trained, tmp_path, monkeypatch
):
    function, calls = getattr(script, during), []

    def interrupted(*arguments):
        calls.append(during)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments)

    monkeypatch.setattr(script, during, interrupted)
    folder = small_run(tmp_path, eval_episodes=1)
    assert load_checkpoint(folder).step == step and (folder / "encoder.pt2").exists()
    assert not (folder / "evaluation.json").exists()
    assert small_run(tmp_path, eval_episodes=1, resume=folder) == folder
    assert (folder / "evaluation.json").exists()
    assert_same_agents(trained, folder)


def test_cars_in_processes_drive_the_same():
    drives, generator = [], torch.Generator().manual_seed(0)
    actions = torch.rand(6, 2, 3, generator=generator)
    for processes in (False, True):
        envs = script.make_envs(Args(frames=2, processes=processes), 2, patience=16)
        seen = [envs.reset(seed=3)[0]]
        for action in actions:
            pictures, rewards, terminated, truncated, info = script.take_step(envs, action)
            seen += [pictures, rewards, terminated, truncated]
            seen += [np.stack(info["final_obs"][truncated])] if truncated.any() else []
        envs.close()
        drives.append(seen)
    assert len(drives[0]) == len(drives[1]) > 25  # somebody was cut off
    for one, other in zip(*drives, strict=True):
        assert np.array_equal(one, other)


def test_the_encoder_beside_the_checkpoint_is_the_trained_one(trained, tmp_path):
    agent = Agent(2, 64)
    agent.load_state_dict(load_checkpoint(trained).state["agent"])
    pictures = torch.randint(0, 256, (3, 2, 48, 48), dtype=torch.uint8)
    encoder = load_encoder(trained / "encoder.pt2")
    assert encoder.reading == Args(frames=2).reading
    with torch.no_grad():
        expected = agent.encoder(pictures).numpy()
    assert expected.std() > 0.01
    assert np.allclose(encoder.latents(pictures.numpy()), expected, atol=1e-5)


def test_a_player_does_the_same_with_pictures_and_with_latents(trained):
    player = script.open_player(trained, sampled=True)
    pictures, latents = CarPictures(8, 2), latent_env("CarRacing-v3", trained / "encoder.pt2")
    shown, seen = pictures.reset(seed=1)[0], latents.reset(seed=1)[0]
    for step in range(4):
        actions = []
        for observation in (shown, seen):
            torch.manual_seed(step)
            actions.append(player.get_action(observation, {}))
        assert np.allclose(*actions, atol=1e-3)
        shown, seen = pictures.step(actions[0])[0], latents.step(actions[0])[0]


def test_a_frozen_encoder_stays_and_the_heads_learn(trained, tmp_path):
    file = trained / "encoder.pt2"
    folder = small_run(tmp_path, encoder_path=file, freeze_encoder=True, total_timesteps=32)
    assert (folder / "encoder.pt2").read_bytes() == file.read_bytes()
    before, after = (load_checkpoint(path).state["agent"] for path in (trained, folder))
    born = Agent(2, 64)
    for name, weights in after.items():
        if name.startswith("encoder."):
            assert torch.equal(weights, before[name]), name
    torch.manual_seed(1)
    born = Agent(2, 64).state_dict()
    assert all(not torch.equal(after[name], born[name]) for name in after if name.startswith("actor."))
    resumed = small_run(tmp_path, encoder_path=file, freeze_encoder=True, resume=folder, total_timesteps=48)
    assert (resumed / "encoder.pt2").read_bytes() == file.read_bytes()
    moved = small_run(tmp_path, encoder_path=file, total_timesteps=16)
    after = load_checkpoint(moved).state["agent"]["encoder.conv1.weight"]
    assert not torch.equal(after, before["encoder.conv1.weight"])
    assert torch.allclose(after, before["encoder.conv1.weight"], atol=0.01)


def test_a_run_ends_with_an_evaluation_and_all_its_metrics_are_explained(tmp_path):
    folder = small_run(tmp_path, total_timesteps=32, eval_episodes=2, patience=24)
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["greedy"]["episodes"] == results["sampled"]["episodes"] == 2
    assert -200 < results["greedy"]["mean"] < 1000
    events = EventAccumulator(str(folder))
    events.Reload()
    docs = (Path(script.__file__).parents[1] / "docs" / "ppo_carracing.md").read_text()
    assert [name for name in events.Tags()["scalars"] if f"`{name}`" not in docs] == []


def test_a_minute_of_training_presses_the_gas_and_returns_rise(tmp_path):
    """The start of learning only: less brake, more gas, more road."""
    options = {"num_envs": 8, "num_steps": 64, "num_minibatches": 8, "update_epochs": 8, "frames": 4}
    options |= {"learning_rate": 1e-3, "anneal_lr": False, "gamma": 0.95, "bf16": "auto"}
    folder = small_run(tmp_path, total_timesteps=4608, save_every=4608, **options)
    events = EventAccumulator(str(folder))
    events.Reload()
    names = ("act/gas", "act/brake", "charts/episodic_return")
    gas, brake, returns = ([point.value for point in events.Scalars(name)] for name in names)
    assert gas[-1] > gas[0] + 0.05 and brake[-1] < brake[0] - 0.05
    assert np.mean(returns[-3:]) > returns[0] + 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 3, "num_minibatches": 7}, "equal minibatches"),
        ({"frames": 0}, "--frames must be at least 1"),
        ({"patience": -1}, "--patience must not be negative"),
        ({"clip_coef": -1.0}, "--clip-coef must not be negative"),
        ({"gamma": 2.0}, "--gamma must be between 0 and 1"),
        ({"gae_lambda": float("nan")}, "--gae-lambda must be between 0 and 1"),
        ({"total_timesteps": 5}, "at least one rollout, 16"),
        ({"freeze_encoder": True}, "keeps the encoder of --encoder-path"),
        ({"encoder_path": Path("nowhere.pt2")}, "cannot read nowhere.pt2"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(changes, message, tmp_path):
    with pytest.raises(CleanPokeError, match=message):
        small_run(tmp_path, **changes)


def test_encoders_and_checkpoints_of_another_kind_are_refused(trained, tmp_path):
    file = trained / "encoder.pt2"
    with pytest.raises(CleanPokeError, match="has frames 2, not 3: give --frames 2"):
        small_run(tmp_path, encoder_path=file, frames=3)
    with pytest.raises(CleanPokeError, match="--latent-dim 64, not 32"):
        small_run(tmp_path, resume=trained, latent_dim=32)
    with pytest.raises(CleanPokeError, match="its own encoder, not with other.pt2: leave out --encoder-path"):
        small_run(tmp_path, resume=trained, encoder_path=Path("other.pt2"))
    with pytest.raises(CleanPokeError, match="not a CleanPoke checkpoint"):
        script.open_player(file)
    frozen, others = load_encoder(file), {"first.weight": torch.zeros(1)}
    assert script.open_player(trained, encoder=frozen).env_id == "CarRacing-v3"
    for weights in (others, {name: weight + 1 for name, weight in frozen.weights.items()}):
        with pytest.raises(CleanPokeError, match="sees through an encoder with other weights than this one"):
            script.open_player(trained, encoder=dataclasses.replace(frozen, weights=weights))
