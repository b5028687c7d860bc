"""Goals and what decodes them: hindsight stays within an episode, PPO leaves the IDM alone, runs resume."""

import copy
import json
from collections import deque
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke import ppo_goalsetter_idm as script
from cleanpoke.envs.car_racing import Reading, latent_env, save_encoder
from cleanpoke.envs.control_episodes import ControlEpisode, load_control_episode, save_control_episode
from cleanpoke.errors import CleanPokeError
from cleanpoke.ppo_goalsetter_idm import Agent, Args, Buffer, GoalSpace, RunningMoments, Worlds
from cleanpoke.run import load_checkpoint

SMALL = {"env_id": "PointMass-v0", "num_envs": 2, "num_steps": 64, "num_minibatches": 8, "update_epochs": 2}
SMALL |= {
    "warmup_steps": 512,
    "warmup_updates": 10,
    "idm_updates": 3,
    "idm_batch_size": 32,
    "idm_buffer": 256,
}
SMALL |= {"total_timesteps": 512 + 6 * 128, "save_every": 256, "eval_episodes": 0}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # as main does: networks this small are many times slower on more


def small_args(**changes) -> Args:
    return Args(**SMALL | changes)


def played(**changes) -> tuple[Args, Worlds, Agent, RunningMoments, script.Rollout]:
    """An untrained agent's first rollout."""
    args = small_args(**changes)
    torch.manual_seed(args.seed)
    worlds = Worlds(args.env_id, args.num_envs)
    agent, moments = Agent(args, worlds.num_inputs, worlds.num_actions), RunningMoments(worlds.num_inputs)
    worlds.reset(seed=1)
    return args, worlds, agent, moments, script.collect(worlds, agent, moments, args)


# --- Worlds


def test_what_an_action_led_to_is_kept_when_the_next_episode_has_begun():
    worlds, alone = Worlds("PointMass-v0", 2), gym.make("PointMass-v0")
    worlds.reset(seed=7)
    alone.reset(seed=8)  # the second of two environments
    push, total = np.array([[0.0, 0.0], [0.3, -0.2]], np.float32), 0.0
    for step in range(60):
        next_states, rewards, terminated, truncated = worlds.step(push)
        if step < 50:
            expected, reward, *_ = alone.step(push[1])
            total += reward
            assert np.allclose(next_states[1], expected) and rewards[1] == pytest.approx(reward)
        assert not terminated.any() and (truncated == (step == 49)).all()
        began_anew = step == 49
        assert np.array_equal(next_states, worlds.states) != began_anew
    assert len(worlds.finished) == 2 and worlds.finished[1] == (pytest.approx(total), 50)


def test_a_hopper_that_falls_is_seen_fallen_and_begins_anew():
    worlds = Worlds("Hopper-v5", 1)
    worlds.reset(seed=3)
    for _ in range(1000):
        next_states, _, terminated, truncated = worlds.step(np.ones((1, 3), np.float32))
        if terminated[0]:
            break
    height, angle = next_states[0, :2]
    assert terminated[0] and not truncated[0] and (height < 0.7 or abs(angle) > 0.2)
    assert worlds.states[0, 0] > 1.2 and abs(worlds.states[0, 1]) < 0.01


def test_moments_are_those_of_gymnasium():
    generator, theirs, ours = np.random.default_rng(0), RunningMeanStd(shape=(3,)), RunningMoments(3)
    for rows in (1, 1, 4, 9):
        batch = generator.normal(5, 2, (rows, 3))
        theirs.update(batch)
        ours.update(batch)
    assert np.allclose(ours.mean, theirs.mean) and np.allclose(ours.std**2, theirs.var)
    again = RunningMoments(3)
    again.load_state_dict(ours.state_dict())
    assert np.array_equal(again.standardised(batch), ours.standardised(batch))


def test_rewards_are_divided_by_the_deviation_of_discounted_returns():
    *_, rollout = played(num_steps=120)
    moments, going_on = RunningMoments(1), np.zeros(2)
    scaled = script.scaled_rewards(rollout, moments, going_on, gamma=0.9)
    returns = []
    for env in range(2):
        total = 0.0
        for t in range(120):
            total = 0.9 * total + rollout.rewards[t, env]
            returns.append(total)
            total = 0.0 if rollout.dones[t, env] else total
        assert going_on[env] == pytest.approx(total)
    assert np.allclose(scaled, rollout.rewards / np.std(returns), rtol=1e-3)


# --- Hindsight


def told_apart(steps: int, num_envs: int, episode_ends: np.ndarray, first: int) -> list[np.ndarray]:
    """A rollout whose states say where they are from: (environment, episode, time)."""
    states = np.zeros((steps, num_envs, 3), np.float32)
    episode, clock = np.full(num_envs, first), np.zeros(num_envs)
    for t in range(steps):
        states[t] = np.stack([np.arange(num_envs), episode, clock], 1)
        clock = np.where(episode_ends[t], 0, clock + 1)
        episode = episode + episode_ends[t]
    next_states = states + np.array([0, 0, 1], np.float32)
    return [states, next_states, states[..., 2:] + 0.5, episode_ends]


def test_windows_never_cross_the_end_of_an_episode():
    generator, buffer = np.random.default_rng(0), Buffer(3 * 40 * 2, 2, 3, 1)
    for rollout in range(5):  # the last two overwrite the first two
        ends = generator.random((40, 2)) < 0.15
        rows = buffer.add(*told_apart(40, 2, ends, 1000 * rollout))
        windows = buffer.windows(rows, torch.full_like(rows, 4), 5)
        cut_short = windows.distances < 4
        assert 0.2 < cut_short.float().mean() < 0.9
    assert buffer.size == 240 and buffer.states[:, 1].min() >= 2000
    args = small_args(window=5, goal_steps=3, idm_batch_size=4000, warmup_share=0.0)
    windows = script.sample_windows(Buffer(0, 2, 3, 1), buffer, args)
    assert set(windows.distances.tolist()) == {1, 2, 3, 4, 5}
    assert (windows.positions >= 0).all() and (windows.positions < windows.distances).all()
    assert (windows.positions[:2000] == 0).all() and windows.distances[:2000].max() == 3
    steps = torch.arange(5).minimum(windows.distances[:, None] - 1)
    for column in (0, 1):  # one environment, one episode
        assert (windows.states[..., column] == windows.states[:, :1, column]).all()
        assert (windows.last_states[:, column] == windows.states[:, 0, column]).all()
    assert (windows.states[..., 2] == windows.states[:, :1, 2] + steps).all()  # one step after the other
    assert (windows.last_states[:, 2] == windows.states[:, 0, 2] + windows.distances).all()
    assert (windows.second_states[:, 2] == windows.states[:, 0, 2] + 1).all()
    taken = torch.arange(5) < windows.distances[:, None]
    assert (windows.actions[..., 0][taken] == windows.states[..., 2][taken] + 0.5).all()
    assert (windows.actions[..., 0][~taken] == 0).all()


DRIFTING_ACTIONS = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.2], [0.0, 0.0]])


def drifting_world(rows: int = 4000) -> Buffer:
    """Four numbers; two actions move the plane of the columns of DRIFTING_ACTIONS, and all of them drift."""
    generator = np.random.default_rng(0)
    states = generator.normal(size=(rows, 1, 4)).astype(np.float32)
    actions = generator.normal(size=(rows, 1, 2)).clip(-1, 1).astype(np.float32)
    next_states = states + 0.5 * states[:, :, ::-1] + actions @ DRIFTING_ACTIONS.numpy().T
    buffer = Buffer(rows, 1, 4, 2)
    buffer.add(states, next_states.astype(np.float32), actions, np.zeros((rows, 1), bool))
    return buffer


def test_goals_lie_along_what_actions_move():
    buffer, args = drifting_world(), small_args(goal_space="delta", goal_dim=2)
    space = GoalSpace(args, 4, 2, 2)
    space.fit_moments(buffer)
    space.fit_directions(buffer)
    B = DRIFTING_ACTIONS / space.change_std[0][:, None]
    in_plane = B @ torch.linalg.lstsq(B, space.directions).solution
    assert torch.allclose(in_plane, space.directions, atol=0.05)
    assert torch.allclose(space.directions.T @ space.directions, torch.eye(2), atol=1e-5)


def fitted_space(buffer: Buffer, updates: int = 400) -> GoalSpace:
    """Passive goals of one step, with a forward model that has learned this world."""
    torch.manual_seed(0)
    args = small_args()
    space = GoalSpace(args, 4, 2, args.size_of_goal(4, 2))
    space.fit_moments(buffer)
    optimizer = torch.optim.Adam(space.parameters(), 3e-3)
    ones = torch.ones(256, dtype=torch.int64)
    for _ in range(updates):
        batch = buffer.windows(torch.randint(buffer.size, (256,)), ones, 1)
        optimizer.zero_grad()
        space.forward_loss(batch).backward()
        optimizer.step()
    space.fit_directions(buffer)
    return space


def test_passive_goals_depend_on_the_actions_and_not_on_the_drift():
    buffer = drifting_world()
    ones = torch.ones(len(buffer.states), dtype=torch.int64)
    goals = fitted_space(buffer).hindsight_goals(buffer.states, buffer.next_states, ones)
    assert goals.shape == (4000, 2)
    assert torch.allclose(goals.std(0), buffer.actions.std().expand(2), atol=0.05)  # 1: an action of size 1
    for seen, share in ((buffer.actions, 0.95), (buffer.states, 0.0)):
        fit = torch.linalg.lstsq(seen, goals).solution
        assert float(script.share_explained(goals, seen @ fit)) == pytest.approx(share, abs=0.05)


def test_goals_are_measured_by_what_actions_do_in_each_state():
    """Where the last number is positive, actions do twice as much."""
    still = drifting_world()
    forces = still.next_states - still.states - 0.5 * still.states.flip(1)
    strong = still.states[:, 3] > 0
    still.next_states[strong] += forces[strong]
    space, ones = fitted_space(still, updates=1500), torch.ones(4000, dtype=torch.int64)
    clear = still.states[:, 3].abs() > 0.5  # the network bends slowly
    spreads = []
    for part in (strong & clear, ~strong & clear):
        states, later = still.states[part], still.next_states[part]
        spreads.append(space.hindsight_goals(states, later, ones[: len(states)]).std(0))
        bare = space.residuals(states, later, ones[: len(states)]) @ space.directions
        spreads.append(bare.std(0))
    assert torch.allclose(spreads[0] / spreads[2], torch.ones(2), atol=0.15)
    assert torch.allclose(spreads[1] / spreads[3], torch.full((2,), 2.0), atol=0.2)
    with torch.no_grad():
        for parameter in space.forward_model.parameters():
            parameter.zero_()  # actions do nothing anywhere
    goals = space.hindsight_goals(still.states, still.next_states, ones)
    changes = (
        space.changes(still.states, still.next_states, ones) @ space.directions * space.inverse_spread[0]
    )
    assert torch.allclose(goals, (changes / script.LEAST_RESPONSE).clamp(-script.LARGEST, script.LARGEST))


def test_responses_add_up_the_steps_that_come_before_the_goal():
    """With a linear forward model the response is the length of its columns, seen along the directions."""
    torch.manual_seed(0)
    args = small_args(goal_steps=2, goal_dim=3, window=3)
    space = GoalSpace(args, 4, 2, args.size_of_goal(4, 2))
    space.forward_model = torch.nn.Linear(4 + 3 * 2 + 3, 4)
    space.directions.copy_(torch.linalg.qr(torch.randn(4, 4)).Q[:, :3])
    space.inverse_spread.copy_(torch.rand(3, 3) + 0.5)
    columns = space.forward_model.weight.detach()[:, 4 : 4 + 3 * 2].view(4, 3, 2)  # state, step, action
    seen = torch.einsum("osa,od->dsa", columns, space.directions)
    distances = torch.tensor([3, 1, 2, 1])
    with torch.no_grad():
        responses = space.responses(torch.randn(4, 4), distances)
    for row, distance in enumerate(distances.tolist()):
        length = seen[:, :distance].square().sum((1, 2)).sqrt()
        assert torch.allclose(responses[row], length * space.inverse_spread[distance - 1], atol=1e-5)


def test_goals_beyond_reach_are_brought_back_and_others_stay():
    """In a linear world any action's goal is known; here they are up to four times as large as there are."""
    buffer = drifting_world()
    space, states = fitted_space(buffer, updates=1500), buffer.states[:500]

    def goals_of(actions: torch.Tensor) -> np.ndarray:
        later = states + 0.5 * states.flip(1) + actions @ DRIFTING_ACTIONS.T
        return space.hindsight_goals(states, later, torch.ones(500, dtype=torch.int64)).numpy()

    wanted = 4 * (2 * torch.rand(500, 2) - 1)
    for bound in (0.5, 2.0, 5.0):
        space.bound = bound
        asked = space.bounding()(states.numpy(), goals_of(wanted))
        assert np.sqrt(np.square(asked - goals_of(wanted.clamp(-bound, bound))).mean()) < 0.05 * (1 + bound)
    space.bound = 0.0
    assert (space.bounding()(states.numpy(), goals_of(wanted)) == goals_of(wanted)).all()


def test_absolute_goals_are_states():
    buffer, args = drifting_world(), small_args(goal_space="abs")
    space = GoalSpace(args, 4, 2, args.size_of_goal(4, 2))
    space.fit_moments(buffer)
    goals = space.hindsight_goals(buffer.states, buffer.next_states, torch.ones(4000, dtype=torch.int64))
    assert torch.allclose(goals * space.state_std + space.state_mean, buffer.next_states, atol=1e-4)


# --- Inverse dynamics models


def test_tokens_are_laid_out_as_described():
    """s0 a0 s1 a1 s2 a2 goal: known up to the state at the position, nothing from the last state on."""
    shown, exists = script.token_masks(torch.tensor([3, 2, 1]), torch.tensor([1, 0, 0]), 3)
    assert shown.int().tolist() == [[1, 1, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 1]]
    assert exists.int().tolist() == [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0, 1]]


def transformer_and_window(distance: int, position: int) -> tuple:
    args = small_args(idm="transformer", goal_steps=2)
    torch.manual_seed(0)
    idm = script.TransformerIDM(args, 4, 2, 3)
    torch.nn.init.normal_(idm.place, std=0.5)
    states, actions, goals = torch.randn(1, 4, 4), torch.randn(1, 4, 2), torch.randn(1, 3)
    whole = torch.tensor([distance]), torch.tensor([position])
    return idm, states, goals, script.Windows(states, actions, states[:, 0], states[:, 0], *whole)


@torch.no_grad()
def test_the_transformer_reads_what_is_shown_and_nothing_else():
    idm, states, goals, windows = transformer_and_window(distance=3, position=1)

    def moved(
        states: torch.Tensor, goals: torch.Tensor, actions: torch.Tensor
    ) -> tuple[list[bool], list[bool]]:
        """Which predictions, masked and causal, differ from those of the original window."""
        other = script.Windows(states, actions, *[getattr(windows, name) for name in names])
        now = idm.predictions(states, goals, other)
        return tuple((one != two).any(2)[0].tolist() for one, two in zip(before, now, strict=True))

    names = ("second_states", "last_states", "distances", "positions")
    before = idm.predictions(states, goals, windows)
    for step in range(4):
        other = states.clone()
        other[0, step] += 1
        masked, causal = moved(other, goals, windows.actions)
        assert any(masked[:3]) == (step <= 1)  # s_0 and s_1 are known; s_2 is blank; s_3 does not exist
        assert causal[:3] == [later >= step for later in range(3)]
        other = windows.actions.clone()
        other[0, step] += 1
        masked, causal = moved(states, goals, other)
        assert any(masked[:3]) == (step == 0)
        assert causal[:3] == [later > step for later in range(3)]
    masked, causal = moved(states, goals + 1, windows.actions)
    assert all(masked[:3]) and not any(causal)


@torch.no_grad()
def test_play_asks_the_transformer_what_it_was_trained_on():
    idm, states, goals, windows = transformer_and_window(distance=2, position=0)
    masked, _ = idm.predictions(states, goals, windows)
    assert torch.allclose(idm(states[:, 0], goals), masked[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_the_acting_idm_is_the_trained_one_when_warmed_up_and_follows_it_slowly(kind):
    args = small_args(idm=kind)
    torch.manual_seed(0)
    worlds = Worlds(args.env_id, args.num_envs)
    agent, moments = Agent(args, 4, 2), RunningMoments(4)
    optimizer = torch.optim.Adam([*agent.idm.parameters(), *agent.goal_space.parameters()], 1e-3)
    warmup, recent = Buffer(512, 2, 4, 2), Buffer(512, 2, 4, 2)
    states, goals = torch.randn(5, 4), torch.randn(5, 2)
    decode = agent.decoder(bounds=False)  # from here on it must follow the acting IDM

    def assert_acts_as(idm: torch.nn.Module) -> None:
        with torch.no_grad():
            answer = idm(agent.goal_space.standardised(states), goals)
        assert np.allclose(decode(states.numpy(), goals.numpy()), answer, atol=1e-5)

    untrained = copy.deepcopy(agent.idm)
    script.warm_up(agent, optimizer, worlds, moments, warmup, recent, args)
    assert_acts_as(agent.idm)
    with pytest.raises(AssertionError):
        assert_acts_as(untrained)

    before = copy.deepcopy(agent.acting_idm)
    script.update_idm(agent, optimizer, warmup, recent, 5, args)
    assert_acts_as(before)
    agent.move_acting_idm(stays=0.9)
    parameters = (idm.parameters() for idm in (before, agent.idm, agent.acting_idm))
    for old, new, acting in zip(*parameters, strict=True):
        assert torch.allclose(acting, 0.9 * old + 0.1 * new, atol=1e-6)
    assert_acts_as(agent.acting_idm)
    with pytest.raises(AssertionError):
        assert_acts_as(before)


def test_the_actor_in_numpy_is_the_network_also_after_an_update():
    agent = Agent(small_args(mode="ppo"), 4, 2)
    act, observations = script.in_numpy(agent.policy.actor), torch.randn(6, 4)
    optimizer = torch.optim.Adam(agent.policy.parameters(), 0.1, fused=True)
    for _ in range(2):
        means = agent.policy.actor(observations)
        assert np.allclose(act(observations.numpy()), means.detach().numpy(), atol=1e-5)
        means.sum().backward()
        optimizer.step()


def test_vicreg_wants_features_alike_spread_and_uncorrelated():
    torch.manual_seed(0)
    spread = torch.linalg.qr(torch.randn(64, 4))[0]
    spread = 1.1 * (spread - spread.mean(0)) / spread.std(0)
    collapsed, same = torch.zeros(64, 4), spread[:, :1].expand(-1, 4)
    assert script.vicreg_loss(spread, spread) < 0.3
    assert script.vicreg_loss(collapsed, collapsed) == pytest.approx(2 * 25 * 0.99, rel=1e-3)
    assert script.vicreg_loss(same, same) > 5
    assert script.vicreg_loss(spread, spread + 1) == pytest.approx(25, rel=0.05)


# --- PPO


def test_advantages_are_those_of_the_definition_also_when_goals_are_held():
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(7, 2)), generator.normal(size=(8, 2))
    dones, is_new = np.zeros((7, 2)), np.ones((7, 2), bool)
    dones[3] = 1
    is_new[:, 1] = [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
    ]  # held for two steps; the end cuts none short
    ours = script.generalized_advantages(rewards, values, dones, is_new, 0.9, 0.8)
    for env in range(2):
        choices = [*np.flatnonzero(is_new[:, env]), 7]
        errors, goes_on, spans = [], [], []
        for first, after in zip(choices[:-1], choices[1:], strict=True):
            alive = 1 - dones[first:after, env].max()
            reward = sum(0.9**i * rewards[first + i, env] for i in range(after - first))
            bootstrap = alive * 0.9 ** (after - first) * values[after, env]
            errors.append(reward + bootstrap - values[first, env])
            goes_on.append(alive)
            spans.append(after - first)
        for index, first in enumerate(choices[:-1]):
            expected, weight = 0.0, 1.0
            for later in range(index, len(errors)):
                expected += weight * errors[later]
                weight *= 0.8 * 0.9 ** spans[later] * goes_on[later]
            assert ours[first, env] == pytest.approx(expected)


def test_cut_off_episodes_are_bootstrapped_and_lost_ones_are_not():
    args, _, agent, moments, rollout = played(gae_lambda=0.0, mode="ppo")
    rollout.terminated[20] = True
    assert rollout.truncated[49].all() and rollout.dones.sum() == 4
    rewards = rollout.rewards.copy()
    rows = script.to_rows(rollout, rewards.copy(), agent.policy, moments, args)
    last = torch.from_numpy(np.float32(moments.standardised(rollout.next_states[49])))
    with torch.no_grad():
        bootstrap = args.gamma * agent.policy.critic(last)[:, 0].numpy()
    returns = rows.returns.view(64, 2).numpy()
    assert np.allclose(returns[20], rewards[20], atol=1e-5)
    assert np.allclose(returns[49], rewards[49] + bootstrap, atol=1e-5) and (np.abs(bootstrap) > 1e-3).all()


def test_goals_are_held_until_they_are_old_or_the_episode_ends():
    *_, rollout = played(goal_hold=7)
    expected = np.array([t % 7 == 0 if t < 50 else (t - 50) % 7 == 0 for t in range(64)])
    assert (rollout.is_new == expected[:, None]).all()
    changes = (np.diff(rollout.choices, axis=0) != 0).all(2)
    assert (changes == rollout.is_new[1:]).all()


def test_the_loss_of_ppo_moves_the_goal_setter_and_not_the_idm():
    args, _, agent, moments, rollout = played()
    before = copy.deepcopy(agent.state_dict())
    rows = script.to_rows(rollout, rollout.rewards.copy(), agent.policy, moments, args)
    optimizer = torch.optim.Adam(agent.policy.parameters(), 1e-3)
    script.update_policy(agent.policy, optimizer, rows, args)
    for name, weights in agent.named_parameters():
        assert (weights.grad is not None) == name.startswith("policy."), name
    for name, weights in agent.state_dict().items():
        assert torch.equal(weights, before[name]) != name.startswith("policy."), name


def test_closeness_moves_the_goals_alone():
    args, _, agent, _, rollout = played(mode="closeness")
    before = copy.deepcopy(agent.state_dict())
    optimizer = torch.optim.Adam(agent.goal_network.parameters(), 1e-2)
    losses = [
        script.update_goal_network(agent, optimizer, rollout, args)["closeness/loss"] for _ in range(10)
    ]
    assert losses[-1] < 0.98 * losses[0]
    for name, weights in agent.state_dict().items():
        assert torch.equal(weights, before[name]) != name.startswith("goal_network."), name


def test_no_policy_gradient_beyond_the_clip():
    policy = script.Policy(1, 1, log_std=0.0)
    observations, choices = torch.ones(2, 1), policy.actor(torch.ones(2, 1)).detach() + 1.0
    likely = policy.log_probabilities(policy.actor(observations), choices).detach()
    zeros = torch.zeros(2)
    rows = script.Rows(observations, choices, likely - 0.5, torch.tensor([1.0, 0.0]), zeros, zeros)
    script.ppo_losses(policy, rows, 0.2)[0].backward()
    assert policy.log_std.grad == 0  # good and already much likelier: no further
    rows.advantages = torch.tensor([-1.0, 0.0])
    script.ppo_losses(policy, rows, 0.2)[0].backward()
    assert policy.actor[-1].bias.grad > 0  # bad and likelier: away from it


def test_densities_are_those_of_a_gaussian():
    policy = script.Policy(3, 2, log_std=0.4)
    means, choices = torch.randn(5, 2), torch.randn(5, 2)
    gaussian = torch.distributions.Normal(means, policy.log_std.exp())
    expected = gaussian.log_prob(choices).sum(1)
    assert torch.allclose(policy.log_probabilities(means, choices), expected, atol=1e-5)
    assert torch.allclose(policy.entropy(), gaussian.entropy()[0].sum())


def test_alarms_ring_when_they_should():
    healthy = {"goal/reach_r2": 0.6, "act/noise_std": 0.9}
    walking, standing = deque([(2000.0, 800)] * 20), deque([(990.0, 1000)] * 20)
    assert not any(script.alarms(healthy, walking).values())
    assert script.alarms(healthy, standing) == dict(zip(script.ALARMS, (0.0, 0.0, 1.0), strict=True))
    ill = {"goal/reach_r2": -0.2, "act/noise_std": 0.01}
    assert script.alarms(ill, deque()) == dict(zip(script.ALARMS, (1.0, 1.0, 0.0), strict=True))


# --- Runs


def small_run(folder: Path, **changes) -> Path:
    script.main(small_args(runs=folder, **changes))
    return max(folder.glob("ppo_goalsetter_idm__*"), key=lambda path: path.stat().st_mtime_ns)


def assert_same_agents(one: Path, other: Path) -> None:
    agents = [load_checkpoint(path) for path in (one, other)]
    assert agents[0].step == agents[1].step
    for name, weights in agents[0].state["agent"].items():
        assert torch.equal(weights, agents[1].state["agent"][name]), name


@pytest.mark.parametrize(
    "changes",
    [{}, {"idm": "transformer", "goal_hold": 3, "vicreg_coef": 0.1}, {"mode": "closeness"}, {"mode": "ppo"}],
    ids=str,
)
def test_a_seed_names_a_run_and_a_resumed_one_goes_on_as_if_nothing_had_been(changes, tmp_path):
    whole, again = small_run(tmp_path / "whole", **changes), small_run(tmp_path / "again", **changes)
    assert_same_agents(whole, again)
    middle = sorted(again.glob("checkpoint_*.pt"))[0]
    assert load_checkpoint(middle).step < load_checkpoint(again).step
    assert_same_agents(whole, small_run(tmp_path / "again", resume=middle, **changes))


def test_an_evaluation_on_the_way_changes_nothing(tmp_path):
    without = small_run(tmp_path / "without")
    assert_same_agents(without, small_run(tmp_path / "with", eval_every=256, eval_episodes=2))


def test_a_run_that_was_cut_off_before_its_evaluation_makes_up_for_it(tmp_path):
    folder = small_run(tmp_path, eval_episodes=2)
    results = folder / "evaluation.json"
    before = results.read_text()
    results.unlink()
    assert small_run(tmp_path, eval_episodes=2, resume=folder) == folder
    assert results.read_text() == before


def test_an_idm_can_be_kept_and_be_the_fixed_one_of_another_run(tmp_path, monkeypatch):
    file = tmp_path / "kept" / "idm.pt"
    first = small_run(tmp_path, mode="closeness", save_idm=file)
    kept = script.idm_weights(load_checkpoint(first).state["agent"])
    for source in (file, first):  # a run folder will do, too
        second = load_checkpoint(small_run(tmp_path, load_idm=source, idm_train="fixed", total_timesteps=256))
        assert second.step == 256  # no warm-up
        for name, weights in kept.items():
            assert torch.equal(weights, second.state["agent"][name]), name
            if name.startswith("idm."):
                assert torch.equal(weights, second.state["agent"][f"acting_{name}"]), name
    with pytest.raises(CleanPokeError, match="--goal-space passive_pca, not delta"):
        small_run(tmp_path, load_idm=file, goal_space="delta")
    with pytest.raises(CleanPokeError, match="holds no IDM"):
        small_run(tmp_path, load_idm=small_run(tmp_path / "ppo", mode="ppo"))
    monkeypatch.setattr(script.MlpIDM.__init__, "__defaults__", (64,))  # as another version builds it
    with pytest.raises(CleanPokeError, match="holds another IDM than this"):
        small_run(tmp_path, load_idm=file)


def test_a_random_idm_stays_as_it_was_born(tmp_path):
    trained = load_checkpoint(small_run(tmp_path, idm_train="random", goal_space="abs")).state["agent"]
    torch.manual_seed(1)
    born = Agent(small_args(goal_space="abs"), 4, 2)
    assert all(torch.equal(trained[f"idm.{name}"], weights) for name, weights in born.idm.named_parameters())


def test_the_command_learns_to_set_goals_that_are_reached(tmp_path):
    """The sanity run of the docs; half a minute at most."""
    options = {"num_envs": 1, "num_steps": 1024, "num_minibatches": 16, "update_epochs": 10}
    options |= {"total_timesteps": 2048 + 24 * 1024, "learning_rate": 1e-3, "save_every": 100_000}
    options |= {"warmup_steps": 2048, "warmup_updates": 500, "idm_updates": 20, "idm_batch_size": 256}
    folder = small_run(tmp_path, eval_episodes=20, idm_buffer=100_000, **options)
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["sampled"]["mean"] > -35  # random goals: about -65
    events = EventAccumulator(str(folder))
    events.Reload()
    curves = {name: [point.value for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert np.mean(curves["charts/episodic_return"][-3:]) > -35
    assert curves["goal/reach_corr"][-1] > 0.8 and curves["goal/reach_r2"][-1] > 0.5
    assert curves["idm/action_agreement"][-1] > 0.8 and not any(curves["alarm/goals_not_reached"])
    docs = (Path(script.__file__).parents[1] / "docs" / "ppo_goalsetter_idm.md").read_text()
    assert [name for name in curves if f"`{name}`" not in docs] == []


def recorded_episodes(folder: Path, count: int, pushes_to_origin: bool = True) -> None:
    """Episodes of PointMass by a controller that pushes to the origin, with some noise."""
    generator, env = np.random.default_rng(0), gym.make("PointMass-v0")
    for number in range(count):
        observations, actions, rewards, over = [env.reset(seed=number)[0]], [], [], False
        while not over:
            push = (-2.0 * observations[-1][:2] - 2.0 * observations[-1][2:]) * pushes_to_origin
            actions.append((push + generator.normal(0, 0.3, 2)).clip(-1, 1).astype(np.float32))
            observation, reward, terminated, over, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        episode = ControlEpisode(np.array(observations), np.array(actions), np.array(rewards), terminated)
        episode.meta["env_id"] = "PointMass-v0"
        save_control_episode(folder / f"episode_{number:05}.npz", episode)


@pytest.mark.parametrize(
    "changes",
    [{"idm": "transformer"}, {"goal_space": "abs", "goal_steps": 5, "acting_share": 0.0}],
    ids=["transformer", "as GCSL"],
)
def test_data_makes_goal_setter_and_idm_a_clone_of_who_played(changes, tmp_path):
    recorded_episodes(tmp_path / "data", 40)
    options = {"warmup_updates": 600, "idm_batch_size": 128, "eval_episodes": 10, "total_timesteps": 0}
    options |= {"data": tmp_path / "data", "save_idm": tmp_path / "idm.pt", **changes}
    folder = small_run(tmp_path, **options)
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["step"] == 0 and results["cloned"]["greedy"]["mean"] == results["greedy"]["mean"]
    assert results["greedy"]["mean"] > -25  # who played: about -15; random: about -65
    events = EventAccumulator(str(folder))
    events.Reload()
    loss = [point.value for point in events.Scalars("data/masked_loss" if "idm" in changes else "data/loss")]
    assert len(loss) == 6 and loss[-1] < 0.7 * loss[0]
    kept = script.idm_weights(load_checkpoint(tmp_path / "idm.pt").state["agent"])
    options |= {"save_idm": None, "load_idm": tmp_path / "idm.pt", "idm_train": "fixed"}
    options |= {"total_timesteps": 256, "warmup_updates": 100}
    tuned = small_run(tmp_path, **options)
    results = json.loads((tuned / "evaluation.json").read_text())
    assert results["step"] == 256 and "cloned" in results
    checkpoint = load_checkpoint(tuned)
    for name, weights in kept.items():
        assert torch.equal(weights, checkpoint.state["agent"][name]), name


def test_a_run_that_began_with_data_goes_on_without_reading_it_again(tmp_path):
    recorded_episodes(tmp_path / "data", 20)
    whole = small_run(tmp_path / "whole", data=tmp_path / "data")
    again = small_run(tmp_path / "again", data=tmp_path / "data")
    assert_same_agents(whole, again)
    middle = sorted(again.glob("checkpoint_*.pt"))[0]
    options = {"data": tmp_path / "gone", "resume": middle}
    assert_same_agents(whole, small_run(tmp_path / "again", **options))


class Scaled(torch.nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float() / 255


def test_pictures_are_seen_through_the_encoder_they_were_stored_with(tmp_path):
    torch.manual_seed(0)
    for number in (1, 2):
        network = torch.nn.Sequential(Scaled(), torch.nn.Flatten(), torch.nn.Linear(48 * 48, 6))
        save_encoder(tmp_path / f"encoder_{number}.pt2", network, Reading("CarRacing-v3", 8, 1, 6))
    env = latent_env("CarRacing-v3", tmp_path / "encoder_1.pt2")
    generator, data, seen = np.random.default_rng(0), tmp_path / "data", []
    for number in range(2):
        observations, rewards = [env.reset(seed=number)[0]], []
        actions = generator.uniform([-1, 0, 0], 1, (40, 3)).astype(np.float32)
        for action in actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        meta = {"env_id": "CarRacing-v3", "encoder": env.encoder.checksum}
        episode = ControlEpisode(np.array(observations), actions, np.array(rewards), False, meta)
        save_control_episode(data / f"episode_{number:05}.npz", episode)
        seen += observations[:-1]
    options = {"env_id": "CarRacing-v3", "num_steps": 8, "num_minibatches": 2, "idm_train": "fixed"}
    options["encoder_path"] = tmp_path / "encoder_1.pt2"
    cloned = small_run(tmp_path, **options | {"data": data, "total_timesteps": 0, "eval_episodes": 1})
    assert -200 < json.loads((cloned / "evaluation.json").read_text())["cloned"]["greedy"]["mean"] < 1000
    fitted = load_checkpoint(cloned).state["agent"]["goal_space.state_mean"]
    assert np.allclose(fitted, np.mean(seen, 0), atol=1e-4)
    tuned = small_run(tmp_path, **options | {"load_idm": cloned, "total_timesteps": 32})
    assert load_checkpoint(tuned).step == 32
    options["encoder_path"] = tmp_path / "encoder_2.pt2"
    for changes in ({"data": data}, {"load_idm": cloned}, {"resume": tuned}):
        with pytest.raises(CleanPokeError, match="another --encoder-path, or without"):
            small_run(tmp_path, **options | changes)


def test_data_of_something_else_is_refused(tmp_path):
    recorded_episodes(tmp_path / "data", 2)
    with pytest.raises(CleanPokeError, match="recorded in PointMass-v0 .*, not in Hopper-v5"):
        small_run(tmp_path, data=tmp_path / "data", env_id="Hopper-v5")
    with pytest.raises(CleanPokeError, match="--mode ppo has none"):
        small_run(tmp_path, data=tmp_path / "data", mode="ppo")
    with pytest.raises(CleanPokeError, match="gone holds no episodes"):
        small_run(tmp_path, data=tmp_path / "gone")
    episode = load_control_episode(tmp_path / "data" / "episode_00000.npz")
    episode.meta["encoder"] = "0123"
    save_control_episode(tmp_path / "latents" / "episode_00000.npz", episode)
    with pytest.raises(CleanPokeError, match="recorded with another --encoder-path"):
        small_run(tmp_path, data=tmp_path / "latents")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "PointMass-v99"}, "cannot make 'PointMass-v99'"),
        ({"env_id": "CartPole-v1"}, "chooses a bounded vector"),
        ({"env_id": "Taxi-v4"}, "reads one vector"),
        ({"env_id": "Hopper-v2"}, "cannot make 'Hopper-v2'"),
        ({"num_envs": 0}, "--num-envs must be at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate must not be negative"),
        ({"gamma": 2.0}, "--gamma must be between 0 and 1"),
        ({"total_timesteps": 512}, "must be at least 640"),
        ({"goal_dim": 3}, "at most 2 numbers here: raise --goal-steps"),
        ({"goal_dim": 5, "goal_space": "delta"}, "at most 4 numbers here$"),
        ({"goal_dim": 2, "goal_space": "abs"}, "leave it out"),
        ({"window": 2, "goal_steps": 3}, "shorter than --goal-steps"),
        ({"window": 60}, "no episode of the warm-up lasts 51 steps"),
        ({"warmup_steps": 100}, "at least 512"),
        ({"mode": "ppo", "save_idm": Path("idm.pt")}, "no IDM to save"),
        ({"save_idm": Path("/")}, "--save-idm / is a folder"),
        ({"freeze_encoder": False}, "it must stay"),
        ({"clip_coef": -0.1}, "--clip-coef must not be negative"),
        ({"goal_bound": -1.0}, "--goal-bound must not be negative"),
        ({"load_idm": Path("nowhere.pt")}, "cannot read checkpoint nowhere.pt"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(changes, message, tmp_path):
    with pytest.raises(CleanPokeError, match=message):
        small_run(tmp_path, **changes)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    folder = small_run(tmp_path)
    with pytest.raises(CleanPokeError, match="--idm mlp, not transformer"):
        small_run(tmp_path, resume=folder, idm="transformer")
    with pytest.raises(CleanPokeError, match="--num-envs 2, not 4"):
        small_run(tmp_path, resume=folder, num_envs=4)
