"""DQN with demonstrations: what is drawn from the memory is what happened, and it learns to play."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald.core import MISSING_LIBRARY
from cleanpoke.errors import CleanPokeError

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)

from cleanpoke import dqn_bc_emerald
from cleanpoke.dqn_bc_emerald import (
    NUM_ACTIONS,
    Args,
    Batch,
    Games,
    Memory,
    Player,
    QNetwork,
    double_q_targets,
    imitation_loss,
)
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.playing import record_demonstrations, small_pictures
from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv
from cleanpoke.run import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three demonstrations of the first 60 steps."""
    folder = tmp_path_factory.mktemp("demonstrations")
    record_demonstrations(folder, None, 3, seed=1, max_steps=60)
    return folder


def small(folder: Path, runs: Path, **changes) -> Args:
    options = {
        "data": folder,
        "runs": runs,
        "batch_size": 16,
        "save_every": 2,
        "hidden": 16,
        "num_episodes": 2,
    }
    options |= {"eval_episodes": 0, "bf16": "off", "threads": 1, "max_minutes": float("inf"), "num_envs": 2}
    options |= {"height": 24, "width": 24, "memory_size": 100, "steps_per_update": 2}
    options |= {"offline_steps": 6, "online_steps": 0}
    return Args(**options | changes)


def play_random_games(memory: Memory, num_envs: int, steps: int, seed: int) -> list[list[dict]]:
    """Fills the rings with games whose screens count their steps; returns each game's own record of it."""
    rng = np.random.default_rng(seed)
    games: list[list[dict]] = [[] for _ in range(num_envs)]
    count = 0
    is_over = [True] * num_envs
    for _ in range(steps):
        for env in range(num_envs):
            count += 1
            picture = np.full((1, 1, 3), 0, np.uint8) + np.array([count >> 16, count >> 8 & 255, count & 255])
            if is_over[env]:
                memory.begin(env, picture.astype(np.uint8))
                games[env].append({"first": count, "steps": []})
                is_over[env] = False
                continue
            action, reward = int(rng.integers(NUM_ACTIONS)), float(rng.normal())
            end = rng.random()
            memory.add(env, action, reward, end < 0.05, picture.astype(np.uint8))
            games[env][-1]["steps"].append((action, reward, end < 0.05, count))
            is_over[env] = end < 0.1  # the others are cut off
    return games


def number_of(picture: np.ndarray) -> int:
    return int(picture[0, 0] @ np.array([1 << 16, 1 << 8, 1]))


def test_n_step_returns_are_those_of_the_games_that_were_played(tmp_path):
    """Over rings that have gone round several times, against a plain walk through the record."""
    n, gamma = 4, 0.9
    memory = Memory(tmp_path / "memory", 0, 3, 3 * 50, (1, 1, 3))
    games = play_random_games(memory, 3, 333, seed=0)
    expected = {}
    for game in (game for of_env in games for game in of_env):
        screens = [game["first"], *(step[3] for step in game["steps"])]
        for start in range(len(game["steps"])):
            total, discount, last = 0.0, 1.0, start
            for _, reward, terminated, _ in game["steps"][start : start + n]:
                total, discount, last = total + discount * reward, discount * gamma, last + 1
                if terminated:
                    discount = 0.0
            expected[screens[start]] = (game["steps"][start][0], total, discount, screens[last])
    rows = np.flatnonzero(memory.priorities)
    assert len(rows) > 100 and memory.experience == len(rows)
    returns, next_rows, discounts = memory.n_step(rows, n, gamma)
    for place, row in enumerate(rows):
        action, total, discount, next_screen = expected[number_of(memory.pictures[row])]
        assert memory.actions[row] == action
        assert returns[place] == pytest.approx(total, abs=1e-5)
        assert discounts[place] == pytest.approx(discount)
        assert number_of(memory.pictures[next_rows[place]]) == next_screen


def test_demonstrations_stay_and_what_has_no_next_screen_is_never_drawn(folder, tmp_path):
    args = small(folder, tmp_path, priority=0.0)
    episodes = [demos.load_episode(path) for path in episode_files.episodes_in(folder)]
    places = sum(len(episode) + 1 for episode in episodes)
    memory = Memory(tmp_path / "memory", places, 2, 100, (1, 1, 3))
    memory.add_demonstrations(episodes, 1, 1)
    before = memory.pictures[:places].copy()
    assert memory.actions[0] == episodes[0].actions[0] and memory.actions[len(episodes[0])] == -1
    play_random_games(memory, 2, 200, seed=1)
    assert (memory.pictures[:places] == before).all()
    rng = np.random.default_rng(0)
    for _ in range(50):
        batch = memory.sample(args, 1.0, rng)
        assert (batch.actions >= 0).all()
        assert (batch.rows[:8] < places).all() and (batch.rows[8:] >= places).all()
        assert (batch.labels[:8] >= 0).all() and (batch.labels[8:] == -1).all()


def test_a_demonstration_without_its_last_screen_loses_its_last_step_only(folder, tmp_path):
    episode = demos.load_episode(episode_files.episodes_in(folder)[0])
    assert not episode.terminations[-1]
    episode.final_observation = None
    memory = Memory(tmp_path / "memory", 61, 1, 10, (1, 1, 3))
    memory.add_demonstrations([episode], 1, 1)
    assert np.flatnonzero(memory.priorities).tolist() == list(range(59))
    assert memory.n_step(np.array([58]), 10, 0.9)[1] == 59


def test_draws_follow_the_priorities_and_weights_undo_them(tmp_path):
    memory = Memory(tmp_path / "memory", 0, 1, 8, (1, 1, 3))
    play_random_games(memory, 1, 3, seed=5)
    memory.priorities[:] = [0, 1, 3, 0, 0, 4, 0, 0]
    args, rng = Args(priority=1.0), np.random.default_rng(0)
    rows, weights = memory.draw(8000, 0, 8, args, 1.0, rng)
    assert np.bincount(rows, minlength=8) / 8000 == pytest.approx(
        [0, 1 / 8, 3 / 8, 0, 0, 1 / 2, 0, 0], abs=1e-3
    )
    assert weights * memory.priorities[rows] == pytest.approx(np.ones(8000))


def test_of_an_own_way_the_last_button_of_each_screen_is_imitated(tmp_path):
    memory = Memory(tmp_path / "memory", 0, 1, 8, (1, 1, 3))
    screens = "abbbcdce"  # stuck at b; from c to d and back
    buttons, is_random = [0, 1, 1, 2, 3, 4, 5], [False, False, False, True, False, False, False]
    pictures = [np.full((1, 1, 3), ord(screen), np.uint8) for screen in screens]
    memory.begin(0, pictures[0])
    rows = []
    for button, picture in zip(buttons, pictures[1:], strict=True):
        rows.append(int(memory.heads[0]))
        memory.add(0, button, 0.0, False, picture)
    memory.imitate(rows, is_random)
    assert memory.labels[rows].tolist() == [0, -1, -1, 2, -1, 4, 5]
    memory.labels[rows] = -1
    memory.imitate(rows[:1] + rows[3:], [False, True, False, False, False])
    assert memory.labels[rows].tolist() == [0, -1, -1, -1, -1, 4, 5], "a random button that ended no loop"
    memory.labels[rows] = -1
    memory.imitate(rows, [False] * 6 + [True])
    assert memory.labels[rows[-1]] == 5, "a random button that got there"
    memory.labels[rows] = -1
    memory.imitate([rows[0]] * 3 + rows, [False] * 10)  # of a way longer than the ring the end is left
    assert memory.labels[rows].tolist() == [0, -1, -1, 2, -1, 4, 5]
    for _ in range(5):  # the ring goes round
        memory.add(0, 9, 0.0, False, pictures[0])
    assert memory.labels[memory.actions == 9].tolist() == [-1] * 5


@pytest.mark.parametrize("self_imitation", [True, False])
def test_games_show_the_ways_to_milestones(tmp_path, self_imitation):
    """Pressing A at the title of Tiny Town starts the game, which is a milestone."""
    args = small(tmp_path / "none", tmp_path, max_steps=30, self_imitation=self_imitation)
    memory = Memory(tmp_path / "memory", 0, 1, 60, (args.height, args.width, 3))
    with contextlib.closing(EmeraldVectorEnv(1, max_steps=args.max_steps)) as envs:
        player = Player(QNetwork(args), args)
        player.choose = lambda pictures: np.zeros(len(pictures), int)
        player.is_random = np.zeros(1, bool)
        games = Games(envs, memory, args, seed=1)
        rewards = []
        while not any(reward > 0.5 for reward in rewards):
            games.step(player)
            rewards = memory.rewards[memory.actions >= 0]
    labels = memory.labels[memory.actions >= 0]
    assert labels[-1] == (0 if self_imitation else -1) and memory.labels[memory.heads[0]] == -1
    assert not games.ways[0]


def test_a_new_game_begins_a_new_way(tmp_path):
    args = small(tmp_path / "none", tmp_path, max_steps=3)
    memory = Memory(tmp_path / "memory", 0, 1, 60, (args.height, args.width, 3))
    with contextlib.closing(EmeraldVectorEnv(1, max_steps=args.max_steps)) as envs:
        player = Player(QNetwork(args), args)
        player.choose = lambda pictures: np.full(len(pictures), 7)  # RIGHT, which does nothing at the title
        player.is_random = np.zeros(1, bool)
        games = Games(envs, memory, args, seed=1)
        lengths = []
        for _ in range(9):
            games.step(player)
            lengths.append(len(games.ways[0]))
    assert lengths == [1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_the_network_chooses_and_the_target_network_values():
    network = torch.tensor([[1.0, 2.0], [5.0, 3.0]]).__getitem__  # screen, button
    target = torch.tensor([[10.0, 20.0], [30.0, 40.0]]).__getitem__
    screens = torch.tensor([0, 1, 1])
    batch = Batch(
        None, None, None, torch.tensor([1.0, 0.0, 7.0]), screens, torch.tensor([0.5, 0.5, 0.0]), None, None
    )
    assert double_q_targets(network, target, batch).tolist() == [11.0, 15.0, 7.0]


def test_the_margin_is_missed_by_the_best_other_button_only():
    values = torch.zeros(3, NUM_ACTIONS)
    values[0, 3] = 0.8  # the expert's, by the margin
    values[1, 2], values[1, 5] = 1.0, 0.7  # another is better by 0.3
    labels = torch.tensor([3, 2, 5])
    args = Args(margin=0.8)
    assert imitation_loss(values[:1], labels[:1], args).item() == pytest.approx(0.0)
    assert imitation_loss(values[1:2], labels[2:], args).item() == pytest.approx(1.0 + 0.8 - 0.7)
    assert imitation_loss(values[:2], torch.tensor([3, -1]), args).item() == pytest.approx(0.0)
    assert imitation_loss(values, torch.tensor([-1, -1, -1]), args).item() == 0.0


def test_values_of_a_known_game_are_learned(tmp_path):
    """Four screens in a row; the right button leads on and pays at the end, the others end the game."""
    args = Args(height=8, width=8, hidden=32, n_step=1, gamma=0.9, batch_size=32, demo_share=0.0)
    memory = Memory(tmp_path / "memory", 0, 1, 200, (8, 8, 3))
    rng = np.random.default_rng(0)
    screens = rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    for last in range(4):
        for button in range(NUM_ACTIONS):  # every button at every screen: what is never tried has any value
            memory.begin(0, screens[0])
            for state in range(last + 1):
                action = state if state < last else button
                is_right = action == state
                is_end = not is_right or state == 3  # a game that is left in between has not ended
                memory.add(0, action, float(is_right and state == 3), is_end, screens[state + 1])
    torch.manual_seed(0)
    network, target = QNetwork(args), QNetwork(args)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for update in range(900):
        if update % 50 == 0:
            target.load_state_dict(network.state_dict())
        batch = memory.sample(args, 1.0, rng)
        values = network(batch.pictures)
        chosen = values.gather(1, batch.actions[:, None]).squeeze(1)
        errors = double_q_targets(network, target, batch) - chosen
        optimizer.zero_grad()
        (batch.weights * errors**2).mean().backward()
        optimizer.step()
        memory.priorities[batch.rows] = errors.detach().abs().numpy() + 1e-3
    values = network(torch.from_numpy(screens[:4])).detach()
    for state in range(4):
        assert values[state, state].item() == pytest.approx(0.9 ** (3 - state), abs=0.1)
        assert values[state].argmax() == state


def test_playing_sees_what_the_memory_holds(folder, tmp_path):
    args = small(folder, tmp_path)
    episode = demos.load_episode(episode_files.episodes_in(folder)[0])
    memory = Memory(tmp_path / "memory", 61, 1, 20, (24, 24, 3))
    memory.add_demonstrations([episode], 24, 24)
    assert (small_pictures(episode.observations, args.height, args.width) == memory.pictures[:60]).all()
    torch.manual_seed(0)
    player = Player(QNetwork(args), args, 0.0, 1)
    together = player.choose(np.array(memory.pictures[:8]))
    assert together.tolist() == [player.get_action(screen, {}) for screen in episode.observations[:8]]
    assert player.is_random.tolist() == [False]
    player.epsilon = 1.0
    assert len(set(player.choose(np.array(memory.pictures[:60])).tolist())) > 5
    assert player.is_random.tolist() == [True] * 60


@pytest.mark.parametrize("imitation", ["margin", "cross_entropy"])
def test_one_batch_of_demonstrations_is_imitated(folder, tmp_path, imitation):
    args = small(folder, tmp_path, hidden=64, height=48, width=48, imitation=imitation)
    episode = demos.load_episode(episode_files.episodes_in(folder)[0])
    pictures = torch.from_numpy(small_pictures(episode.observations[::8], args.height, args.width))
    labels = torch.from_numpy(episode.labels[::8].astype(np.int64))
    torch.manual_seed(0)
    network = QNetwork(args)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        imitation_loss(network(pictures), labels, args).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
    assert (network(pictures).argmax(1) == labels).all()


def test_a_resumed_run_equals_an_uninterrupted_one(folder, tmp_path):
    constant = {"imitation_coef_end": 1.0, "importance": 1.0}  # the schedules follow the length of the run
    dqn_bc_emerald.main(small(folder, tmp_path / "whole", **constant))
    dqn_bc_emerald.main(small(folder, tmp_path / "parts", offline_steps=4, **constant))
    (parts,) = (tmp_path / "parts").iterdir()
    dqn_bc_emerald.main(small(folder, tmp_path / "parts", resume=parts, **constant))
    (whole,) = (tmp_path / "whole").iterdir()
    one, other = load_checkpoint(whole), load_checkpoint(parts)
    assert one.step == other.step == 6
    for name, weights in one.state["network"].items():
        assert torch.equal(weights, other.state["network"][name]), name
    (parts / "memory" / "labels.npy").unlink()
    with pytest.raises(CleanPokeError, match=r"labels\.npy is missing or damaged: delete .*memory"):
        dqn_bc_emerald.main(small(folder, tmp_path / "parts", resume=parts, **constant))


def test_experience_outlives_an_interruption(folder, tmp_path):
    args = small(folder, tmp_path, offline_steps=2, online_steps=20)
    dqn_bc_emerald.main(args)
    (run,) = tmp_path.glob("dqn_bc_emerald__*")
    before = np.load(run / "memory" / "actions.npy")[122:]
    assert (before >= 0).sum() > 30
    dqn_bc_emerald.main(small(folder, tmp_path, offline_steps=2, online_steps=24, resume=run))
    after = np.load(run / "memory" / "actions.npy")[122:]
    assert (after[before >= 0] == before[before >= 0]).all() and (after >= 0).sum() > (before >= 0).sum()
    with pytest.raises(CleanPokeError, match="resume with the --memory-size"):
        dqn_bc_emerald.main(
            small(folder, tmp_path, offline_steps=2, online_steps=30, resume=run, memory_size=90)
        )
    with pytest.raises(CleanPokeError, match="give the same --data and --num-episodes"):
        dqn_bc_emerald.main(
            small(folder, tmp_path, offline_steps=2, online_steps=30, resume=run, num_episodes=1)
        )


def test_a_damaged_log_stops_a_curriculum_before_anything_is_learned(tmp_path):
    record_demonstrations(tmp_path / "data", None, 2, seed=1, max_steps=60)
    (log,) = (tmp_path / "data").glob("episode_00001.demo")
    log.write_bytes(b"nothing")
    args = small(tmp_path / "data", tmp_path / "runs", online_steps=2)
    with pytest.raises(CleanPokeError, match=r"episode_00001.demo.*"):
        dqn_bc_emerald.main(args)
    assert not list((tmp_path / "runs").glob("*"))
    dqn_bc_emerald.main(small(tmp_path / "data", tmp_path / "runs", online_steps=2, curriculum=False))


def test_it_learns_without_demonstrations_too(tmp_path):
    args = small(tmp_path / "none", tmp_path, demo_share=0.0, offline_steps=0, online_steps=4)
    dqn_bc_emerald.main(args)
    (run,) = tmp_path.glob("dqn_bc_emerald__*")
    assert load_checkpoint(run).state["env_steps"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"demo_share": 0.0}, "give --offline-steps 0"),
        ({"epsilon": 1.5}, "--epsilon must be between 0 and 1"),
        ({"learning_rate": -1.0}, "--learning-rate must be above 0"),
        ({"priority": -1.0}, "--priority must not be negative"),
        ({"margin": -1.0}, "--margin must not be negative"),
        ({"imitation_coef_end": -1.0}, "--imitation-coef-end must not be negative"),
        ({"max_minutes": 0.0}, "--max-minutes must be above 0"),
        ({"huber_delta": 0.0}, "--huber-delta must be above 0"),
        ({"steps_per_update": 3}, "--steps-per-update must be a multiple"),
        ({"memory_size": 3}, "--memory-size must be at least"),
        ({"num_episodes": 7}, "holds 3 demonstrations; record more"),
        ({"offline_steps": 0}, "nothing to do"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(folder, tmp_path, changes, message):
    with pytest.raises(CleanPokeError, match=message):
        dqn_bc_emerald.main(small(folder, tmp_path, **changes))


def test_it_learns_to_leave_the_house(tmp_path):
    """The expert shows the beginning of some variants; offline and playing it learns to do so in others."""
    record_demonstrations(tmp_path / "data", None, 25, seed=1, max_steps=50)
    args = small(tmp_path / "data", tmp_path, num_episodes=0, hidden=256, height=40, width=40)
    args.offline_steps, args.online_steps, args.batch_size, args.learning_rate = 600, 60, 32, 1e-3
    args.num_envs, args.steps_per_update, args.max_steps, args.memory_size = 4, 4, 80, 2000
    args.save_every = args.eval_every = 10_000
    args.eval_episodes, args.eval_max_steps = 4, 80
    dqn_bc_emerald.main(args)
    (run,) = tmp_path.glob("dqn_bc_emerald__*")
    result = json.loads((run / "evaluation.json").read_text())
    assert result["episodes"] == 4
    assert result["milestones"] >= 4  # the clock and downstairs; random play stays in the bedroom
