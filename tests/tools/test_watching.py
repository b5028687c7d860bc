"""The tools that show an agent at play: keyboard, page, film. Real games, a display without a screen."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pygame
import pytest

from cleanpoke import ppo, ppo_atari
from cleanpoke.errors import CleanPokeError

TOOLS = Path(__file__).parents[2] / "tools"


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


play_env, inspect_rollout, render_progression = map(
    tool, ("play_env", "inspect_rollout", "render_progression")
)


@pytest.fixture(scope="module")
def freeway(tmp_path_factory) -> Path:
    """A run with three checkpoints."""
    folder = tmp_path_factory.mktemp("freeway")
    options = {"num_envs": 2, "num_steps": 16, "total_timesteps": 96, "save_every": 16, "keep": 5}
    ppo_atari.main(
        ppo_atari.Args(env_id="ALE/Freeway-v5", runs=folder, eval_episodes=0, workers=1, **options)
    )
    (run,) = folder.iterdir()
    return run


@pytest.fixture(scope="module")
def pole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pole")
    options = {"num_envs": 2, "num_steps": 16, "num_minibatches": 4, "total_timesteps": 64}
    ppo.main(ppo.Args(runs=folder, eval_episodes=0, **options))
    (run,) = folder.iterdir()
    return run


# --- Keyboard


@pytest.mark.parametrize(
    ("held", "action"),
    [
        ({"UP", "FIRE"}, 3),
        ({"UP"}, 1),
        ({"FIRE", "LEFT"}, None),
        ({"RIGHT"}, 2),
        ({"UP", "RIGHT"}, 4),
        (set(), 0),
    ],
)
def test_keys_stand_for_the_action_that_uses_most_of_them(held, action):
    names = ("NOOP", "UP", "RIGHT", "UPFIRE", "UPRIGHT")
    assert play_env.action_for(held, names) == (0 if action is None else action)


@pytest.mark.parametrize(("held", "action"), [({"UP"}, 2), ({"DOWN", "FIRE"}, 5), ({"LEFT"}, 3), (set(), 0)])
def test_in_pong_up_is_right_and_down_is_left(held, action):
    names = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    assert play_env.action_for(held, names) == action


def test_without_a_key_a_world_that_cannot_wait_waits():
    assert play_env.action_for(set(), ("LEFT", "RIGHT")) is None


@pytest.fixture
def hands(monkeypatch):
    """Feeds key events to the window, one list per decision."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    script = []

    def get():
        events = script.pop(0) if script else []
        return [pygame.event.Event(kind, key=key) for kind, key in events]

    monkeypatch.setattr(play_env.pygame.event, "get", get)
    return script


def test_people_play_by_keyboard(hands, capsys):
    """Holding up, the chicken crosses the road; let go, it stands; ESC ends."""
    hands += [[(pygame.KEYDOWN, pygame.K_UP)]] + [[] for _ in range(250)]
    hands += [[(pygame.KEYUP, pygame.K_UP)], [(pygame.KEYDOWN, pygame.K_ESCAPE)]]
    seen = []
    draw = play_env.draw
    play_env.draw = lambda *arguments: (seen.append((arguments[3].score, arguments[5])), draw(*arguments))
    try:
        play_env.main(play_env.Args(env_id="ALE/Freeway-v5", speed=10_000))
    finally:
        play_env.draw = draw
    assert [chosen for _, chosen in seen[:250]] == 250 * [1]
    assert seen[-1][1] == 0 and len(seen) == 252
    assert seen[-1][0].episode_return > 0


def test_people_take_over_from_an_agent(hands, freeway, monkeypatch):
    taken = []
    monkeypatch.setattr(play_env, "draw", lambda *arguments: taken.append(arguments[4:]))
    hands += [
        [],
        [(pygame.KEYDOWN, pygame.K_TAB)],
        [(pygame.KEYDOWN, pygame.K_DOWN)],
        [(pygame.KEYDOWN, pygame.K_TAB)],
    ]
    play_env.main(play_env.Args(checkpoint=freeway, speed=10_000, max_steps=4))
    assert [you for you, _ in taken] == [False, True, True, False]
    assert [chosen for _, chosen in taken[1:3]] == [0, 2]


@pytest.mark.parametrize(
    ("env_id", "changes", "pace"),
    [
        ("ALE/Pong-v5", {}, 15.0),
        ("ALE/Pong-v5", {"frame_skip": 2}, 30.0),
        ("VizdoomBasic-v1", {}, 8.75),
        ("VizdoomBasic-v1", {"frame_skip": 1}, 35.0),
        ("CartPole-v1", {}, 50.0),
        ("LunarLander-v3", {}, 50.0),
        ("Taxi-v4", {}, 4.0),
        ("Taxi-v4", {"speed": 20.0}, 20.0),
    ],
)
def test_each_world_is_shown_at_its_own_pace(env_id, changes, pace):
    assert play_env.open_moments(play_env.Args(env_id=env_id, **changes))[1:] == (env_id, pace)


@pytest.mark.parametrize(("driver", "display"), [("x11", ""), ("", ""), ("", ":4321")])
def test_a_missing_display_is_told_in_one_line(driver, display):
    """Also where SDL, left to itself, would open a window that nobody sees."""
    environment = {**os.environ, "SDL_VIDEODRIVER": driver, "DISPLAY": display, "WAYLAND_DISPLAY": ""}
    environment["PYTHONPATH"] = str(TOOLS.parent)
    command = [sys.executable, str(TOOLS / "play_env.py"), "--env-id", "CartPole-v1", "--random"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no display for a window" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "say what to play"),
        ({"env_id": "ALE/Pongg-v5"}, "did you mean ALE/Pong-v5"),
        ({"env_id": "CartPole-v99"}, "cannot make 'CartPole-v99'"),
        ({"env_id": "CartPole-v1", "sticky": 0.25}, "--sticky is for Atari games, CartPole-v1 is none"),
        ({"env_id": "CartPole-v1", "frame_skip": 2}, "--frame-skip is for Atari games and ViZDoom"),
        ({"env_id": "ALE/Pong-v5", "frame_skip": 0}, "--frame-skip must be at least 1"),
        ({"checkpoint": Path("nowhere"), "random": True}, "leave out --random or --checkpoint"),
        ({"checkpoint": Path("nowhere")}, "nowhere"),
        ({"env_id": "ALE/Pong-v5", "sticky": 9.0}, "--sticky must lie between 0 and 1"),
        ({"env_id": "ALE/Pong-v5", "speed": -1.0}, "--speed must be above 0"),
        ({"env_id": "CartPole-v1", "seed": -1}, "--seed must lie between 0"),
        ({"env_id": "ALE/Pong-v5", "seed": 2**40}, "--seed must lie between 0"),
        ({"env_id": "pong"}, "did you mean ALE/Pong-v5"),
        ({"env_id": "PongNoFrameskip-v4"}, "did you mean ALE/Pong-v5"),
        ({"env_id": "ms_pacman"}, "did you mean ALE/MsPacman-v5"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(changes, message):
    with pytest.raises(CleanPokeError, match=message):
        play_env.main(play_env.Args(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": -5}, "--skip must not be negative"),
        ({"sticky": 9.0}, "--sticky must lie between 0 and 1"),
        ({"frame_skip": 0}, "--frame-skip must be at least 1"),
        ({"frame_skip": 2}, "--frame-skip is for Atari games and ViZDoom"),
        ({"seed": -1}, "--seed must lie between 0"),
        ({"output": TOOLS}, "is a folder"),
        ({"output": Path("/proc/page.html")}, "cannot write /proc/page.html"),
    ],
)
def test_wrong_arguments_of_a_page_are_told_in_one_line(changes, message, pole):
    with pytest.raises(CleanPokeError, match=message):
        inspect_rollout.main(inspect_rollout.Args(**{"checkpoint": pole, "steps": 2} | changes))


# --- Page and film


@pytest.mark.parametrize("world", ["freeway", "pole"])
def test_a_page_shows_every_decision(world, request, tmp_path):
    page = tmp_path / "page.html"
    folder = request.getfixturevalue(world)
    inspect_rollout.main(inspect_rollout.Args(checkpoint=folder, output=page, steps=60))
    content = json.loads(re.search(r"const data = (\{.*\});", page.read_text()).group(1))
    steps = content["steps"]
    assert len(steps) == 60
    for step in steps:
        assert sum(step["probabilities"]) == pytest.approx(1, abs=0.01)
        assert step["action"] == max(range(len(step["probabilities"])), key=step["probabilities"].__getitem__)
        for share, logit in zip(step["probabilities"], step["logits"], strict=True):
            assert math.exp(logit) == pytest.approx(share, abs=1e-3)
        assert len(step["images"]["stack"]) == (4 if world == "freeway" else 0)
        assert bool(step["images"]["answers"]) == (world == "freeway")
    assert bool(content["filters"]) == (world == "freeway")
    if world == "pole":  # a reward of 1 each; the return to come counts them down to the fall
        falls = [index for index in range(1, 60) if steps[index]["step"] == 0]
        assert falls and all(step["reward"] == 1 for step in steps)
        assert steps[falls[0] - 1]["to_come"] == 1
        assert steps[falls[0] - 2]["to_come"] == pytest.approx(1.99)
        assert steps[-1]["to_come"] is None


def test_each_frame_of_a_stack_stands_under_the_action_that_led_to_it(freeway, tmp_path):
    """A frame moves on through the stack and takes its action with it; an episode starts with none."""
    page = tmp_path / "page.html"
    for skip in (0, 7):
        options = {"steps": 12, "skip": skip, "greedy": False}
        inspect_rollout.main(inspect_rollout.Args(checkpoint=freeway, output=page, **options))
        content = json.loads(re.search(r"const data = (\{.*\});", page.read_text()).group(1))
        steps, names = content["steps"], content["actions"]
        assert steps[0]["step"] == skip
        for before, after in zip(steps, steps[1:], strict=False):
            stacks = before["images"]["stack"], after["images"]["stack"]
            assert stacks[0][1:] == stacks[1][:-1]
            assert stacks[1][-1]["after"] == names[before["action"]]
        first = [frame["after"] for frame in steps[0]["images"]["stack"]]
        assert first == 4 * [None] if skip == 0 else None not in first
    assert len({step["action"] for step in steps}) > 1


def test_a_page_can_show_another_frame_skip_in_a_folder_of_its_own(freeway, tmp_path):
    pictures = []
    for frame_skip in (None, 4, 2):
        page = tmp_path / "new" / "page.html"
        options = {"steps": 2, "frame_skip": frame_skip}
        inspect_rollout.main(inspect_rollout.Args(checkpoint=freeway, output=page, **options))
        content = json.loads(re.search(r"const data = (\{.*\});", page.read_text()).group(1))
        pictures.append([step["images"]["picture"] for step in content["steps"]])
    assert pictures[0] == pictures[1] and pictures[0][0] == pictures[2][0]
    assert pictures[0][1] != pictures[2][1]


def test_actions_of_the_episode_before_lead_to_no_frame_of_this_one():
    assert inspect_rollout.actions_before_frames(4, []) == [None, None, None, None]
    assert inspect_rollout.actions_before_frames(4, ["UP"]) == [None, None, None, "UP"]
    assert inspect_rollout.actions_before_frames(2, ["UP", "NOOP", "DOWN"]) == ["NOOP", "DOWN"]


def test_an_action_that_is_never_drawn_has_no_logit():
    assert inspect_rollout.logits_of(np.array([0.5, 0.5, 0], np.float32)) == [-0.693, -0.693, None]


def test_a_film_has_a_scene_for_each_checkpoint(freeway, tmp_path):
    film = tmp_path / "film.mp4"
    render_progression.main(render_progression.Args(run=freeway, output=film, seconds=1))
    assert sum(1 for _ in imageio.get_reader(film)) == 3 * 15
    with pytest.raises(CleanPokeError, match="give the folder of a run"):
        render_progression.main(render_progression.Args(run=tmp_path))
    with pytest.raises(CleanPokeError, match="ends in .mp4"):
        render_progression.main(render_progression.Args(run=freeway, output=tmp_path / "film.gif"))
    with pytest.raises(CleanPokeError, match="cannot write /proc/film.mp4"):
        render_progression.main(render_progression.Args(run=freeway, output=Path("/proc/film.mp4")))
    with pytest.raises(CleanPokeError, match="--seed must lie between 0"):
        render_progression.main(render_progression.Args(run=freeway, output=film, seed=-1))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(CleanPokeError, match="is a folder"):
        render_progression.main(render_progression.Args(run=freeway, output=tmp_path / "folder.mp4"))


def test_checkpoints_are_chosen_evenly_with_the_ends(tmp_path):
    for step in range(10):
        (tmp_path / f"checkpoint_{step:09}.pt").touch()
    chosen = [int(path.stem[-3:]) for path in render_progression.chosen(tmp_path, 4)]
    assert chosen == [0, 3, 6, 9]
    assert len(render_progression.chosen(tmp_path, 20)) == 10
