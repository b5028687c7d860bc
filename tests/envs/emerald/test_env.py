"""The environment: gymnasium's contract, repeatable episodes, rewards that cannot be farmed."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pygame
import pytest
from gymnasium.utils.env_checker import check_env

from cleanpoke.envs.emerald.env import MAX_BEGINNINGS, TINY_TOWN, EmeraldEnv, is_tiny_town
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.envs.emerald.tiny_town.expert import Expert
from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv
from cleanpoke.errors import CleanPokeError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (160, 240, 3)),
        ({"resolution": (80, 120), "grayscale": True, "with_noop": True}, (80, 120, 1)),
        ({"variant": "random"}, (160, 240, 3)),
    ],
)
def test_it_keeps_gymnasiums_contract(options, shape):
    env = EmeraldEnv(**options)
    assert env.observation_space.shape == shape
    assert env.action_space.n == 10 + bool(options.get("with_noop"))
    check_env(env, skip_render_check=True)


def walk(env: EmeraldEnv, actions: list[int], **reset) -> list[tuple]:
    observation, info = env.reset(**reset)
    seen = [(observation.tobytes(), info["state"])]
    for action in actions:
        observation, reward, *_, info = env.step(action)
        seen.append((observation.tobytes(), reward, info["state"]))
    return seen


def test_equal_seeds_and_actions_give_equal_episodes():
    actions = np.random.default_rng(0).integers(0, 10, 150).tolist()
    env = EmeraldEnv(variant="random")
    first = walk(env, actions, seed=5)
    walk(env, actions[::-1])
    assert walk(env, actions, seed=5) == first
    assert walk(EmeraldEnv(variant="random"), actions, seed=5) == first
    assert walk(env, actions, seed=6) != first


def test_options_of_one_episode_leave_the_next_ones_as_they_were():
    env, other = EmeraldEnv(variant="random"), EmeraldEnv(variant="random")
    env.reset(seed=1, options={"variant": 3})
    other.reset(seed=1)
    assert env.current_variant == 3 != other.current_variant
    assert env.reset()[1]["variant"] == other.reset()[1]["variant"]


def test_a_milestone_pays_once_and_going_in_and_out_pays_nothing():
    env, expert = EmeraldEnv(), Expert()
    observation, info = env.reset()
    while "LITTLEROOT_TOWN" not in info["milestones"]:
        observation, _, _, _, info = env.step(expert.get_action(observation, info))
    total = 0.0
    for button in 6 * ("UP", "UP", "DOWN", "DOWN"):  # through the door of the house
        _, reward, _, _, info = env.step(env.buttons.index(button))
        total += reward
    assert total == pytest.approx(-0.001 * 24)


def test_time_limits_truncate_and_the_badge_terminates():
    env = EmeraldEnv(max_steps=5)
    env.reset()
    ends = [env.step(1)[2:4] for _ in range(5)]
    assert ends == 4 * [(False, False)] + [(False, True)]


def test_episodes_begin_at_a_state_and_what_it_has_reached_pays_nothing():
    env, expert = EmeraldEnv(curriculum=True), Expert()
    observation, info = env.reset(seed=0)
    while "STARTER_CHOSEN" not in info["milestones"]:
        observation, _, _, _, info = env.step(expert.get_action(observation, info))
    (state,) = env.milestone_states["STARTER_CHOSEN"]
    observation, info = env.reset(options={"state": state})
    assert "STARTER_CHOSEN" in info["milestones"] and info["new_milestones"] == [] and info["steps"] == 0
    assert len(info["state"].party) == 1
    begun = {tuple(env.reset()[1]["milestones"]) for _ in range(40)}
    assert len(begun) > 3 and () in begun  # half of the time at some milestone


def test_a_curriculum_remembers_the_last_states_and_none_that_is_won():
    env = EmeraldEnv(curriculum=True)
    env.reset(seed=0)
    states = [env.save_state()]
    for _ in range(5):
        env.step(env.buttons.index("START"))
        states.append(env.save_state())
    env.remember({"GAME_STARTED": states[:2]})
    env.remember({"GAME_STARTED": states[2:]})
    assert env.milestone_states["GAME_STARTED"] == states[2:]
    assert env.reset(seed=1)[1]["steps"] == 0


def test_a_curriculum_goes_beside_a_start_state():
    env = EmeraldEnv(curriculum=True)
    env.reset(seed=0)
    start = env.save_state()
    env.step(env.buttons.index("START"))
    later = env.save_state()
    env = EmeraldEnv(curriculum=True, start_state=start)
    env.remember({"GAME_STARTED": [later]})
    begun = [env.reset(seed=1 if number == 0 else None) and env.start for number in range(40)]
    assert 10 < sum(state == later for state in begun) < 30
    assert all(state in (start, later) for state in begun)


def test_a_state_begins_the_same_episode_however_often():
    """The first time it runs a frame, later it remembers it, until too many other states have come."""
    env, expert, states = EmeraldEnv(), Expert(), []
    observation, info = env.reset()
    for _ in range(MAX_BEGINNINGS + 8):
        observation, _, _, _, info = env.step(expert.get_action(observation, info))
        states.append(env.save_state())
    actions = np.random.default_rng(2).integers(0, 10, 12).tolist()
    expected = [walk(env, actions[:2], options={"state": state}) for state in states]
    assert len({steps[0][0] for steps in expected}) > 10  # pictures
    assert [walk(env, actions[:2], options={"state": state}) for state in states] == expected
    assert [walk(env, actions[:2], options={"state": state}) for state in states] == expected
    longer = walk(EmeraldEnv(), actions, options={"state": states[-1]})
    assert walk(env, actions, options={"state": states[-1]}) == longer
    observation, info = env.reset(options={"state": states[-1]})
    observation[:], info["map_tiles"][:] = 0, 0  # belong to whoever asked
    info["milestones"].clear()
    assert walk(env, actions, options={"state": states[-1]}) == longer
    assert env.reset(options={"state": states[-1]})[1]["map_tiles"].any()
    assert env.progress.reached and env.reset(options={"state": states[-1]})[1]["milestones"]
    assert (env.render() == env.reset(options={"state": states[-1]})[0]).all()


def test_taken_back_steps_have_never_been():
    """Memory, picture, milestones and rewards after `restore` are those of the first time, often over."""
    env, expert, generator = EmeraldEnv(variant="random"), Expert(), np.random.default_rng(0)
    observation, info = env.reset(seed=3)
    moments, seen = [env.snapshot()], [(observation, info)]
    rewards = []
    for _ in range(70):
        observation, reward, _, _, info = env.step(expert.get_action(observation, info))
        moments.append(env.snapshot())
        seen.append((observation, info))
        rewards.append(reward)
    assert sum(reward > 0 for reward in rewards) > 3
    assert max(len(moment.console) + len(moment.picture) for moment in moments) < 20_000
    for at in (65, 10, 40, 0):
        for _ in range(5):  # elsewhere in between
            env.step(int(generator.integers(10)))
        observation, info = env.restore(moments[at])
        assert (observation == seen[at][0]).all() and (env.render() == observation).all()
        assert info["milestones"] == seen[at][1]["milestones"] and info["steps"] == at
        for step in range(at, min(at + 20, 70)):
            observation, reward, _, _, info = env.step(expert.get_action(observation, info))
            assert reward == rewards[step] and (observation == seen[step + 1][0]).all()
            assert info["state"] == seen[step + 1][1]["state"] and info["steps"] == step + 1


def test_watching_each_frame_changes_nothing():
    actions = [2, 6, 6, 0, 4, *np.random.default_rng(0).integers(0, 10, 55).tolist()]
    watched, frames = EmeraldEnv(), []
    watched.on_frame = lambda: frames.append(watched.core.pixels[..., :3].tobytes())
    assert walk(watched, actions) == walk(EmeraldEnv(), actions)
    assert len(frames) == 60 * 24 and len(set(frames[24:48])) > 10  # the first step to the left


@pytest.mark.parametrize("processes", [1, 2])
def test_many_games_are_what_each_would_be_alone(processes):
    """Also over the end of an episode: the step after it begins the next one and pays nothing."""
    generator = np.random.default_rng(1)
    envs = EmeraldVectorEnv(3, processes=processes, variant="random", max_steps=7)
    alone = [EmeraldEnv(variant="random", max_steps=7) for _ in range(3)]
    observations, infos = envs.reset(seed=5)
    is_over = [False] * 3
    for index, env in enumerate(alone):
        expected, info = env.reset(seed=5 + index)
        assert (observations[index] == expected).all() and infos["variant"][index] == info["variant"]
    for _ in range(20):
        actions = generator.integers(0, 10, 3)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        for index, env in enumerate(alone):
            if is_over[index]:
                expected, info = env.reset()
                reward, ends = 0.0, (False, False)
            else:
                expected, reward, *ends, info = env.step(int(actions[index]))
            assert (observations[index] == expected).all() and rewards[index] == reward
            assert (terminated[index], truncated[index]) == tuple(ends)
            assert infos["steps"][index] == info["steps"]
            is_over[index] = any(ends)
    assert observations is envs.observations
    envs.close()


def test_what_a_game_refuses_is_told_and_the_others_play_on():
    envs = EmeraldVectorEnv(3, processes=2, max_steps=9)
    envs.reset(seed=0)
    first = envs.observations.copy()
    stranger = SaveState("0" * 40, envs.call("save_state")[0].content)
    with pytest.raises(CleanPokeError, match="of another ROM"):
        envs.reset(options={"state": stranger})
    for actions in ([99, 0, 0], [0, 0, -1]):  # in the share of this process, and in the other one
        with pytest.raises(CleanPokeError, match=r"action (99|-1): a button is a number, 0 … 9"):
            envs.step(np.array(actions))
    envs.reset(seed=0)
    assert (envs.observations == first).all()
    envs._shares[1]._process.kill()
    with pytest.raises(CleanPokeError, match="the process of a game died"):
        for _ in range(3):
            envs.step(np.zeros(3, int))
    envs.close()
    with pytest.raises(CleanPokeError, match="check --rom-path"):
        EmeraldVectorEnv(2, processes=2, rom_path="nowhere.gba")


def test_games_end_with_their_owner_however_it_ends():
    code = """
import time
from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv
envs = EmeraldVectorEnv(3, processes=3)
print(*(share._process.pid for share in envs._shares[1:]), flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    games = [Path("/proc") / pid for pid in owner.stdout.readline().split()]
    assert len(games) == 2 and all(game.exists() for game in games)
    owner.kill()
    owner.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while any(is_running(game) for game in games):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: Path) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_games_whose_memory_is_not_known_are_refused(tmp_path):
    content = bytearray(TINY_TOWN.read_bytes())
    path = tmp_path / "other.gba"
    for code, revision, is_known in ((b"AXVE", 0, False), (b"BPEE", 1, False), (b"BPEE", 0, True)):
        content[0xAC:0xB0], content[0xBC] = code, revision
        path.write_bytes(content)
        if is_known:
            assert not EmeraldEnv(path).is_tiny_town
            continue
        with pytest.raises(CleanPokeError, match=r"other\.gba.*give Pokémon Emerald \(USA, 1\.0\)"):
            EmeraldEnv(path)


def test_wrong_arguments_are_told_in_one_line(tmp_path):
    env = EmeraldEnv()
    env.reset()
    stranger = SaveState("0" * 40, env.save_state().content)
    with pytest.raises(CleanPokeError, match="of another ROM"):
        env.reset(options={"state": stranger})
    for options, message in (
        ({"resolution": (84, 84)}, "whole part"),
        ({"resolution": (0, 0)}, "whole part"),
        ({"resolution": (-160, -240)}, "whole part"),
        ({"render_mode": "window"}, "render_mode 'window': choose 'human', 'rgb_array'"),
        ({"variant": -1}, "variant -1: give a number, 0 …"),
        ({"variant": 2**32}, "variant 4294967296: give a number"),
        ({"variant": "any"}, "variant 'any': give a number"),
        ({"press_frames": 0}, "at least 1"),
        ({"start_state": tmp_path / "no.state"}, "cannot read the save state"),
        ({"rom_path": tmp_path / "no.gba"}, "check --rom-path"),
    ):
        with pytest.raises(CleanPokeError, match=message):
            EmeraldEnv(**options)
    state = env.save_state()
    for options, message in (
        ({"state": "x.state"}, r"'x\.state' is no SaveState: SaveState\.load"),
        ({"variant": -1}, "variant -1: give a number"),
        ({"variant": "random"}, "variant 'random': give a number"),
        ({"variant": 3, "state": state}, "a state brings its own variant"),
    ):
        with pytest.raises(CleanPokeError, match=message):
            env.reset(options=options)
    with pytest.raises(CleanPokeError, match="a state brings its own variant"):
        EmeraldEnv(start_state=state).reset(options={"variant": 3})
    for action in (-1, 10, 99):
        with pytest.raises(CleanPokeError, match=f"action {action}: a button is a number, 0 … 9"):
            env.step(action)
    assert env.steps == 0


def test_a_variant_that_is_asked_for_is_played_whatever_the_curriculum_holds():
    env = EmeraldEnv(curriculum=True)
    env.reset(seed=0)
    env.remember({"GAME_STARTED": [env.save_state()]})
    assert {env.reset(options={"variant": 3})[1]["variant"] for _ in range(12)} == {3}


def test_a_file_that_cannot_be_read_is_told():
    with pytest.raises(CleanPokeError, match="cannot read the ROM /proc/self/mem .*check --rom-path"):
        is_tiny_town(Path("/proc/self/mem"))


def test_people_see_each_picture_in_a_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = EmeraldEnv(render_mode="human")

    def shown() -> np.ndarray:
        return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)[::3, ::3]

    try:
        observation, _ = env.reset()
        assert (shown() == observation).all() and observation.any()
        observation, *_ = env.step(env.buttons.index("START"))
        assert (shown() == observation).all() and env.render() is None
    finally:
        env.close()
    assert not pygame.display.get_init()


def test_programs_get_each_picture_as_an_array():
    env = EmeraldEnv(render_mode="rgb_array", resolution=(80, 120))
    env.reset()
    observation, *_ = env.step(env.buttons.index("START"))
    picture = env.render()
    assert picture.shape == (160, 240, 3) and picture.dtype == np.uint8
    assert (picture[::2, ::2] == observation).all()


def test_without_a_display_a_window_is_refused_in_one_line(monkeypatch):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CleanPokeError, match="no display for a window .* use render_mode='rgb_array'"):
        EmeraldEnv(render_mode="human").reset()
