"""The Decision Transformer sees no future and no padding, plays as it was trained, and does what is asked."""

import copy
import json
import os
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke import dt, ppo_carracing, ppo_goalsetter_idm
from cleanpoke.dt import Args, Context, DecisionTransformer
from cleanpoke.envs.car_racing import Reading, load_encoder, save_encoder
from cleanpoke.envs.control import make_env
from cleanpoke.envs.control_episodes import ControlEpisode, save_control_episode
from cleanpoke.errors import CleanPokeError
from cleanpoke.ppo_carracing import Encoder
from cleanpoke.run import load_checkpoint
from tests.envs.test_control_episodes import minari, some_episode, write_dataset  # noqa: F401  a fixture
from tools.collect_control_data import RandomAgent, record_episode

SMALL = {"context": 4, "width": 16, "layers": 2, "heads": 2, "batch_size": 16, "device": "cpu", "threads": 1}
SMALL |= {"total_updates": 8, "save_every": 4, "log_every": 2, "warmup_updates": 4, "eval_episodes": 0}
CONDITIONS = ("return", "goal", "none")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def small_args(**changes) -> Args:
    return Args(**SMALL | changes)


def model_for(episodes: list[ControlEpisode], **changes) -> tuple[DecisionTransformer, Args]:
    """With weights large enough that every input matters; no dropout."""
    args = small_args(dropout=0.0, **changes)
    torch.manual_seed(0)
    sizes = episodes[0].observations.shape[1], episodes[0].actions.shape[1]
    model = DecisionTransformer(args, *sizes, max(map(len, episodes)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.units.fit(episodes)
    return model, args


def all_contexts(data: dt.Data, args: Args) -> dt.Batch:
    torch.manual_seed(1)
    return dt.make_batch(data, data.steps, torch.rand(len(data.steps)), args.context, args.condition)


# --- Data


def marked_episodes() -> list[ControlEpisode]:
    """Each number says where it is from: states (episode, time), actions (episode, time), rewards 1."""
    episodes = []
    for number, length in enumerate((6, 1, 9, 3)):
        states = np.stack([np.full(length + 1, number), np.arange(length + 1)], 1)
        rewards = np.ones(length)
        episodes.append(ControlEpisode(*map(np.float32, (states, states[:-1], rewards)), True))
    return episodes


def unscaled(episodes: list[ControlEpisode]) -> dt.Data:
    return dt.join(episodes, dt.Units(2, 2))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_contexts_stay_within_an_episode_and_know_their_padding(condition):
    data = unscaled(marked_episodes())
    args = small_args(condition=condition)
    assert len(data.steps) == 19 and len(data.states) == 19 + 4
    batch = all_contexts(data, args)
    starts = data.states[data.steps]
    lengths = torch.tensor([6, 1, 9, 3])[starts[:, 0].long()]
    steps = starts[:, 1:] + torch.arange(4)  # (B, K)
    assert torch.equal(batch.exists, steps < lengths[:, None]) and not batch.exists.all()
    assert (batch.states[..., 0] == starts[:, :1]).all()
    assert torch.equal(batch.states[..., 1], steps.minimum(lengths[:, None] - 1))
    assert torch.equal(batch.actions, batch.states) and torch.equal(batch.times.float(), batch.states[..., 1])
    if condition == "return":
        assert torch.equal(batch.conditions[..., 0], lengths[:, None] - batch.states[..., 1])
    elif condition == "goal":
        assert (batch.conditions == batch.conditions[:, :1]).all()
        assert (batch.conditions[:, 0, 0] == starts[:, 0]).all()
        first = (starts[:, 1] + 4).minimum(lengths)
        goals = torch.stack([all_goals(data, args, seed) for seed in range(60)])
        assert torch.equal(goals.min(0).values, first) and torch.equal(goals.max(0).values, lengths.float())
    else:
        assert batch.conditions.shape == (19, 4, 0)


def all_goals(data: dt.Data, args: Args, seed: int) -> torch.Tensor:
    draws = torch.rand(len(data.steps), generator=torch.Generator().manual_seed(seed))
    return dt.make_batch(data, data.steps, draws, args.context, "goal").conditions[:, 0, 1]


def test_every_step_of_the_data_is_drawn():
    data, args = unscaled(marked_episodes()), small_args(batch_size=400)
    torch.manual_seed(0)
    batch = dt.sample_batch(data, args)
    assert len({tuple(start) for start in batch.states[:, 0].tolist()}) == 19


def test_the_network_sees_standardised_numbers():
    episodes = [some_episode(length, seed=length) for length in (20, 30)]
    for episode in episodes:
        episode.observations = 5 + 3 * episode.observations
        episode.actions = 10 * episode.actions - 2
    units = dt.Units(3, 2)
    units.fit(episodes)
    data = dt.join(episodes, units)
    steps = data.states[data.steps]
    assert torch.allclose(steps.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(steps.std(0, correction=0), torch.ones(3), atol=1e-4)
    actions = data.actions[data.steps]
    assert torch.allclose(actions.amin(0), -torch.ones(2)) and torch.allclose(actions.amax(0), torch.ones(2))
    real = np.concatenate([episode.actions for episode in episodes])
    assert np.allclose(units.real_actions(actions), real, atol=1e-5)
    assert data.returns_to_go.abs().max() == pytest.approx(1.0)
    to_go = data.returns_to_go * units.return_scale
    assert to_go[0] == pytest.approx(episodes[0].rewards.sum(), abs=1e-5) and to_go[20] == 0


# --- Network


@pytest.mark.parametrize("condition", CONDITIONS)
def test_nothing_of_the_future_is_read(condition):
    episodes = [some_episode(9, seed=seed) for seed in range(3)]
    model, args = model_for(episodes, condition=condition, context=5)
    batch = all_contexts(dt.join(episodes, model.units), args)
    columns = [batch.conditions, batch.states, batch.actions]
    expected = model(*columns, batch.times)[0]
    for t in range(5):
        changed = [column.clone() for column in columns]
        changed[0][:, t + 1 :] += 1.0
        changed[1][:, t + 1 :] += 1.0
        changed[2][:, t:] += 1.0  # the action itself is not known when it is chosen
        actions = model(*changed, batch.times)[0]
        assert torch.allclose(actions[:, : t + 1], expected[:, : t + 1], atol=1e-5)
        for index, last in ((0, t), (1, t), (2, t - 1)):
            if last < 0 or not columns[index].shape[2]:
                continue
            changed = [column.clone() for column in columns]
            changed[index][:, last] += 1.0
            actions = model(*changed, batch.times)[0]
            assert ((actions - expected)[:, t].abs().amax(1) > 1e-5).all(), (index, t)


def test_padding_changes_neither_loss_nor_gradient():
    episodes = [some_episode(length, seed=length) for length in (2, 3, 6)]
    model, args = model_for(episodes)
    batch = all_contexts(dt.join(episodes, model.units), args)
    assert 0.2 < batch.exists.float().mean() < 0.9
    found = []
    for noise in (0.0, 3.0):
        padded = copy.deepcopy(batch)
        for column in (padded.conditions, padded.states, padded.actions):
            column[~batch.exists] += noise
        model.zero_grad()
        loss, metrics = dt.losses(model, padded, vicreg_coef=0.1)
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append((loss.detach(), *metrics.values(), gradient))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_bfloat16_learns_nearly_the_same():
    episodes = [some_episode(length, seed=length) for length in (5, 9)]
    model, args = model_for(episodes)
    batch, found = all_contexts(dt.join(episodes, model.units), args), []
    for bf16 in ("off", "on"):
        model.zero_grad()
        loss, _ = dt.losses(model, batch, 0.1, bf16)
        loss.backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert not torch.equal(*found) and torch.cosine_similarity(*found, dim=0) > 0.98


def test_only_the_steps_that_exist_are_in_the_loss():
    episodes = [some_episode(length, seed=length) for length in (2, 6)]
    model, args = model_for(episodes, condition="none")
    batch = all_contexts(dt.join(episodes, model.units), args)
    guess = model(batch.conditions, batch.states, batch.actions, batch.times)[0]
    errors = [
        float((guess[b, t] - batch.actions[b, t]).detach().square().mean())
        for b, t in torch.nonzero(batch.exists)
    ]
    assert float(dt.losses(model, batch)[0].detach()) == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_playing_step_by_step_equals_the_forward_pass_of_training(condition):
    episodes = [some_episode(12, seed=seed) for seed in range(3)]
    model, args = model_for(episodes, condition=condition)
    data, context = dt.join(episodes, model.units), Context(model, args.context)
    goals = np.stack([episode.observations[-1] for episode in episodes])
    played = []  # what the model itself does is what it reads later
    kept = np.array([True, True, True])
    for t in range(10):
        states = np.stack([episode.observations[t] for episode in episodes])[kept]
        asked = np.array([[dt.returns_to_go(episode)[t]] for episode in episodes])[kept]
        conditions = {"return": asked, "goal": goals[kept], "none": np.zeros((kept.sum(), 0))}[condition]
        played.append(context.act(conditions, states))
        if t == 6:  # one episode ends
            kept[1] = False
            context.keep(np.array([True, False, True]))
            played = [actions[[0, 2]] for actions in played]
    rows = [0, 13 + 13]  # where the other two begin
    actions = model.units.actions(torch.from_numpy(np.stack(played, 1)))  # (N, 10, A)
    for t in range(10):
        first = max(t - args.context + 1, 0)
        index = torch.tensor(rows)[:, None] + torch.arange(first, t + 1)
        if condition == "return":
            conditions = data.returns_to_go[index][..., None]
        else:
            conditions = model.units.states(torch.from_numpy(goals[[0, 2]]))[:, None].expand(
                -1, t + 1 - first, -1
            )
            conditions = conditions if condition == "goal" else conditions[..., :0]
        with torch.no_grad():
            expected = model(conditions, data.states[index], actions[:, first : t + 1], data.times[index])[0]
        assert torch.allclose(actions[:, t], expected[:, -1], atol=1e-4), t


def test_later_than_the_longest_episode_is_as_late_as_it_ended():
    model, _ = model_for([some_episode(6)], condition="none")
    states, actions = torch.randn(1, 2, 3), torch.randn(1, 2, 2)
    none = states[..., :0]
    late, later, early = (model(none, states, actions, torch.tensor([[t, t + 1]]))[0] for t in (5, 5000, 2))
    assert torch.equal(late[:, 0], later[:, 0]) and not torch.allclose(late, early, atol=1e-3)


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(0)
    episodes = [some_episode(8, seed=seed) for seed in range(4)]
    args = small_args(width=64, dropout=0.0, learning_rate=3e-3, weight_decay=0.0)
    model = DecisionTransformer(args, 3, 2, 8)
    model.units.fit(episodes)
    batch = all_contexts(dt.join(episodes, model.units), args)
    optimizer = dt.make_optimizer(model, args)
    for _ in range(250):
        loss, _ = dt.losses(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss < 0.01 * batch.actions.var()


def test_weight_decay_is_for_matrices_alone():
    model, args = model_for([some_episode()], weight_decay=0.5, learning_rate=0.1)
    before = copy.deepcopy(dict(model.named_parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    dt.make_optimizer(model, args).step()
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith("weight") and "norm" not in name and name != "time.weight"
        assert torch.equal(parameter, before[name]) != is_matrix, name


def test_vicreg_wants_features_alike_spread_and_uncorrelated():
    torch.manual_seed(0)
    spread = torch.linalg.qr(torch.randn(64, 4))[0]
    spread = 1.1 * (spread - spread.mean(0)) / spread.std(0)
    collapsed, same = torch.zeros(64, 4), spread[:, :1].expand(-1, 4)
    assert dt.vicreg_loss(spread, spread) < 0.3
    assert dt.vicreg_loss(collapsed, collapsed) == pytest.approx(2 * 25 * 0.99, rel=1e-3)
    assert dt.vicreg_loss(same, same) > 5
    assert dt.vicreg_loss(spread, spread + 1) == pytest.approx(25, rel=0.05)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (2, 1, 1)])
def test_a_minibatch_without_two_pairs_of_states_has_no_vicreg(lengths):
    episodes = [some_episode(length, seed=number) for number, length in enumerate(lengths)]
    model, args = model_for(episodes, condition="none")
    loss, metrics = dt.losses(model, all_contexts(dt.join(episodes, model.units), args), vicreg_coef=1.0)
    assert torch.isfinite(loss) and "losses/vicreg" not in metrics


# --- Runs


class Pusher:
    """Pushes the point to the origin, or away from it: skill from -1 to 1; a little at random."""

    def __init__(self, skill: float):
        self.skill = skill

    def get_action(self, observation: np.ndarray, info: dict) -> np.ndarray:
        wanted = np.clip(-4 * observation[:2] - 6 * observation[2:], -1, 1)
        return self.skill * wanted + 0.2 * np.random.normal(size=2)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    """PointMass-v0, played well, badly, and everything in between."""
    folder, env = tmp_path_factory.mktemp("mixture"), make_env("PointMass-v0")
    for number, skill in enumerate(np.linspace(-0.3, 1.0, 120)):
        episode = record_episode(env, Pusher(skill), (1, number), env_id="PointMass-v0", player="pusher")
        save_control_episode(folder / f"episode_{number:05}.npz", episode)
    return folder


def small_run(folder: Path, mixture: Path, **changes) -> Path:
    dt.main(small_args(runs=folder, data=mixture, **changes))
    return max(folder.glob("dt__*"), key=lambda path: path.stat().st_mtime_ns)


def assert_same_models(one: Path, other: Path) -> None:
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert first.step == second.step
    for name, weights in first.state["model"].items():
        assert torch.equal(weights, second.state["model"][name]), name


@pytest.mark.parametrize(
    "changes", [{}, {"condition": "goal", "vicreg_coef": 0.1}, {"condition": "none", "bf16": "on"}], ids=str
)
def test_a_seed_names_a_run_and_a_resumed_one_goes_on_as_if_nothing_had_been(changes, tmp_path, mixture):
    whole, again = (small_run(tmp_path / name, mixture, **changes) for name in ("whole", "again"))
    assert_same_models(whole, again)
    middle = sorted(again.glob("checkpoint_*.pt"))[0]
    assert load_checkpoint(middle).step == 4
    assert_same_models(whole, small_run(tmp_path / "again", mixture, resume=middle, **changes))


@pytest.mark.parametrize(("during", "call", "step"), [("losses", 3, 3), ("evaluate", 1, 8)])
def test_ctrl_c_saves_and_the_resumed_run_is_the_whole_one(
    during, call, step, tmp_path, mixture, monkeypatch
):
    function, calls = getattr(dt, during), []

    def interrupted(*arguments):
        calls.append(during)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments)

    monkeypatch.setattr(dt, during, interrupted)
    changes = {"save_every": 100, "eval_episodes": 1}
    folder = small_run(tmp_path / "cut", mixture, **changes)
    assert load_checkpoint(folder).step == step and len(calls) == call
    assert not (folder / "evaluation.json").exists()
    assert small_run(tmp_path / "cut", mixture, resume=folder, **changes) == folder
    assert (folder / "evaluation.json").exists()
    assert_same_models(folder, small_run(tmp_path / "whole", mixture))


def test_evaluations_begin_where_those_of_the_other_scripts_do():
    for seed in (1, 2, 77):
        starts = {dt.first_seed(seed), ppo_carracing.track_seed(seed, -1)}
        starts.add(ppo_goalsetter_idm.world_seed(seed, ppo_goalsetter_idm.EVALUATION))
        assert len(starts) == 1


def test_an_evaluation_on_the_way_changes_nothing(tmp_path, mixture):
    without = small_run(tmp_path / "without", mixture)
    assert_same_models(without, small_run(tmp_path / "with", mixture, eval_episodes=2, eval_every=2))


def test_a_run_that_was_cut_off_before_its_evaluation_makes_up_for_it(tmp_path, mixture):
    folder = small_run(tmp_path, mixture, eval_episodes=2)
    results = folder / "evaluation.json"
    before = results.read_text()
    results.unlink()
    assert small_run(tmp_path, mixture, eval_episodes=2, resume=folder) == folder
    assert results.read_text() == before


def test_the_command_learns_to_bring_the_return_that_is_asked_for(tmp_path, mixture):
    """20 seconds on one core."""
    options = {"context": 5, "width": 32, "layers": 2, "heads": 1, "batch_size": 64, "learning_rate": 1e-3}
    options |= {"total_updates": 1200, "warmup_updates": 100, "eval_every": 5000, "eval_episodes": 20}
    options |= {"target_return": (-15.0, -60.0), "ref_min": -60.0, "ref_max": -15.0, "save_every": 5000}
    folder = small_run(tmp_path, mixture, **options)
    results = json.loads((folder / "evaluation.json").read_text())
    high, low = results["return_at_-15"], results["return_at_-60"]
    env = make_env("PointMass-v0")
    aimless = RandomAgent(env.action_space)
    random = np.mean([record_episode(env, aimless, (2, number)).rewards.sum() for number in range(20)])
    assert high["mean"] > -20 and high["mean"] > random + 20
    assert low["mean"] < high["mean"] - 20  # pushed away, as where the data have such returns
    assert high["score"] == pytest.approx(100 * (high["mean"] + 60) / 45)
    events = EventAccumulator(str(folder))
    events.Reload()
    curves = {name: [point.value for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert curves["eval/return_at_-15"] == [pytest.approx(high["mean"], rel=1e-5)]
    assert curves["losses/action"][-1] < 0.05 < curves["losses/action"][0]  # 0.04 is the pusher's noise
    assert curves["charts/learning_rate"][-1] == pytest.approx(1e-3)
    docs = (Path(dt.__file__).parents[1] / "docs" / "dt.md").read_text()
    names = {name.split("_at_")[0] for name in curves} | {"losses/vicreg", "eval/return", "eval/score"}
    assert [name for name in names if f"`{name}" not in docs] == []


def test_goals_are_reached(tmp_path):
    """Taught by aimless pushes alone, it goes where it is sent. 10 seconds on one core."""
    env, generator = make_env("PointMass-v0"), np.random.default_rng(0)
    folder = tmp_path / "aimless"
    for number in range(80):
        target = generator.uniform(-1.5, 1.5, 2)

        class Aimless:
            def get_action(self, observation, info, target=target):
                return np.clip(4 * (target - observation[:2]) - 6 * observation[2:], -1, 1)

        episode = record_episode(env, Aimless(), (1, number), env_id="PointMass-v0")
        save_control_episode(folder / f"episode_{number:05}.npz", episode)
    options = {"context": 3, "width": 32, "heads": 1, "batch_size": 64, "learning_rate": 1e-3}
    options |= {"total_updates": 1000, "warmup_updates": 50, "save_every": 5000, "condition": "goal"}
    run = small_run(tmp_path / "runs", folder, **options)
    checkpoint = load_checkpoint(run)
    args = dt.saved_arguments(checkpoint, Args)
    model = DecisionTransformer(args, 4, 2, 50)
    model.load_state_dict(checkpoint.state["model"])
    for goal in ([-0.5, -0.4, 0.0, 0.0], [-0.7, 0.6, 0.0, 0.0]):
        context, distances = Context(model.eval(), args.context), []
        states = [env.reset(seed=5)[0].astype(np.float32)]
        for _ in range(45):
            action = context.act(np.array([goal]), states[-1][None])[0]
            states.append(env.step(action)[0].astype(np.float32))
            distances.append(np.linalg.norm(states[-1][:2] - goal[:2]))
        assert distances[0] > 0.6 and np.mean(distances[-10:]) < 0.4, goal


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"condition": "goal", "eval_goal": "stack"}, {"return"}),
        ({"condition": "goal", "eval_goal": "dataset"}, {"return"}),
        ({"condition": "none"}, {"return"}),
        ({"target_return": (-20.0, 5.5)}, {"return_at_-20", "return_at_5.5"}),
    ],
    ids=str,
)
def test_evaluations_ask_for_what_was_said(tmp_path, mixture, changes, names):
    folder = small_run(tmp_path, mixture, eval_episodes=2, total_updates=2, **changes)
    results = json.loads((folder / "evaluation.json").read_text())
    assert set(results) == {"step", "env_id"} | names and results["step"] == 2
    assert all("score" not in results[name] and results[name]["episodes"] == 2 for name in names)


def test_without_a_target_the_best_return_of_the_data_is_asked_for():
    episodes = [some_episode(length, seed=length) for length in (5, 9, 7)]
    best = max(episodes, key=lambda episode: episode.rewards.sum())
    ((name, target),) = dt.targets_of(small_args(), episodes).items()
    assert target == pytest.approx(best.rewards.sum()) and name.startswith("return_at_")
    goal = dt.targets_of(small_args(condition="goal"), episodes)["return"]
    assert (goal == best.observations[int(0.9 * len(best))]).all()


@pytest.mark.filterwarnings("ignore")
def test_minari_datasets_are_learned_from(minari, tmp_path):  # noqa: F811
    episodes = [some_episode(6, num_inputs=4, seed=seed) for seed in range(3)]
    write_dataset(minari, "point/some-v0", episodes, env="PointMass-v0")
    folder = small_run(tmp_path, Path("nowhere"), minari="point/some-v0", eval_episodes=1)
    assert json.loads((folder / "evaluation.json").read_text())["env_id"] == "PointMass-v0"


@pytest.mark.filterwarnings("ignore")
def test_minari_datasets_are_played_with_the_options_under_which_they_were_made(minari, tmp_path):  # noqa: F811
    returns = {}
    for name, options in (("none", {"g": 0.0}), ("some", {})):
        spec = gym.spec("Pendulum-v1")
        spec.kwargs = options
        episodes = [some_episode(6, num_actions=1, seed=seed) for seed in range(3)]
        write_dataset(minari, f"pendulum/{name}-v0", episodes, env=spec)
        changes = {"minari": f"pendulum/{name}-v0", "eval_episodes": 1, "condition": "none"}
        folder = small_run(tmp_path / name, Path("nowhere"), **changes)
        results = json.loads((folder / "evaluation.json").read_text())
        assert results["env_id"] == "Pendulum-v1" and results.get("g") == options.get("g")
        returns[name] = results["return"]["mean"]
    assert abs(returns["none"] - returns["some"]) > 10


def test_options_that_the_environment_does_not_have_are_told(tmp_path):
    episode = some_episode(num_actions=1, env_id="Pendulum-v1", env_options={"mass": 2.0})
    save_control_episode(tmp_path / "data" / "a.npz", episode)
    with pytest.raises(CleanPokeError, match="cannot make 'Pendulum-v1': .*'mass'"):
        small_run(tmp_path, tmp_path / "data", eval_episodes=1)
    small_run(tmp_path, tmp_path / "data", eval_episodes=1, env_id="Pendulum-v1")  # as it is registered


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": Path("nowhere")},
            r"record some with tools/collect_expert_data\.py --env \S+ --output nowhere",
        ),
        ({"minari": "no/such-v0"}, "no Minari dataset 'no/such-v0'|need its package"),
        ({"context": 0}, "--context must be at least 1"),
        ({"heads": 3}, "--width 16 must be a multiple of --heads 3"),
        ({"condition": "none", "target_return": (1.0,)}, "--target-return is for --condition return"),
        ({"vicreg_coef": 1.0, "context": 1}, "raise --context"),
        ({"vicreg_coef": 1.0, "context": 2, "batch_size": 1}, "two pairs of states: raise --batch-size"),
        ({"ref_min": float("nan"), "ref_max": 1.0}, "--ref-min must be finite"),
        ({"target_return": (5.0, float("inf"))}, "--target-return must be finite"),
        ({"ref_min": 1.0}, "--ref-min and --ref-max go together"),
        ({"ref_min": 1.0, "ref_max": 1.0}, "go together, and differ"),
        ({"ref_min": 0.0, "ref_max": 0.0}, "go together, and differ"),
        ({"eval_goal": "stack"}, "--eval-goal is for --condition goal, not return"),
        ({"learning_rate": -1.0}, "--learning-rate must not be negative"),
        ({"dropout": 1.0}, "--dropout"),
        ({"env_id": "PointMass-v99", "eval_episodes": 1}, "cannot make .*--eval-episodes 0 trains without"),
        ({"env_id": "Hopper-v5", "eval_episodes": 1}, "shows 11 numbers and takes 3, the data have 4 and 2"),
        ({"resume": Path("nowhere.pt")}, r"cannot read checkpoint nowhere\.pt"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path, mixture, monkeypatch, changes, message):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    with pytest.raises(CleanPokeError, match=message):
        dt.main(small_args(**{"data": mixture, "runs": tmp_path / "runs"} | changes))
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_with_its_own_data_and_network_alone(tmp_path, mixture):
    folder = small_run(tmp_path, mixture, total_updates=2)
    with pytest.raises(CleanPokeError, match="trained with --condition return, not goal"):
        small_run(tmp_path, mixture, resume=folder, condition="goal")
    save_control_episode(tmp_path / "other" / "a.npz", some_episode(num_inputs=4, env_id="PointMass-v0"))
    with pytest.raises(CleanPokeError, match=r"trained on other data \(120 episodes, 6,000 steps\)"):
        small_run(tmp_path, tmp_path / "other", resume=folder)


def test_what_was_learned_on_latents_plays_in_pictures(tmp_path):
    torch.manual_seed(0)
    reading = Reading("CarRacing-v3", action_repeat=100, frames=2, latent_dim=5)
    for name in ("encoder.pt2", "other.pt2"):
        save_encoder(tmp_path / name, Encoder(reading.frames, reading.latent_dim), reading)
    encoder = load_encoder(tmp_path / "encoder.pt2")
    meta = {"env_id": "CarRacing-v3", "encoder": encoder.checksum}
    episode = some_episode(6, num_inputs=5, num_actions=3)
    episode.meta = meta
    save_control_episode(tmp_path / "data" / "a.npz", episode)
    options = {"eval_episodes": 1, "total_updates": 2}
    for path, message in ((None, "give their encoder"), (tmp_path / "other.pt2", "did not make the data's")):
        with pytest.raises(CleanPokeError, match=message):
            small_run(tmp_path, tmp_path / "data", encoder_path=path, **options)
    folder = small_run(tmp_path, tmp_path / "data", encoder_path=tmp_path / "encoder.pt2", **options)
    results = json.loads((folder / "evaluation.json").read_text())
    (mean,) = (result["mean"] for name, result in results.items() if name.startswith("return_at"))
    assert -200 < mean < 100


def test_data_that_do_not_name_their_world_can_be_learned_from(tmp_path, mixture):
    episode = some_episode(num_inputs=4)
    episode.meta = {}
    save_control_episode(tmp_path / "data" / "a.npz", episode)
    with pytest.raises(CleanPokeError, match="give --env-id, or --eval-episodes 0"):
        small_run(tmp_path, tmp_path / "data", eval_episodes=1)
    small_run(tmp_path, tmp_path / "data")
    small_run(tmp_path, tmp_path / "data", eval_episodes=1, env_id="PointMass-v0")
