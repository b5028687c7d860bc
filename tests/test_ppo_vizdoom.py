"""PPO in ViZDoom: buttons that go together, games that are what their seeds say, ends that are ends."""

import ast
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke import ppo, ppo_atari, ppo_vizdoom
from cleanpoke.errors import CleanPokeError
from cleanpoke.ppo_vizdoom import Agent, Args, Games, button_combinations
from cleanpoke.run import load_checkpoint
from cleanpoke.terminal import StopSignal


def test_buttons_go_together_unless_they_cancel_each_other():
    rows = button_combinations(["MOVE_LEFT", "MOVE_RIGHT", "ATTACK"], 3)
    assert rows.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]]
    assert len(button_combinations(["MOVE_LEFT", "MOVE_RIGHT", "ATTACK"], 1)) == 4


def test_seeds_name_games_and_stacks_hold_the_latest_frames():
    def played(seed: int) -> tuple[np.ndarray, np.ndarray]:
        games = Games(Args(frame_stack=3), 2)
        generator = np.random.default_rng(0)
        first, variables = games.reset(seed)
        assert (first[:, 0] == first[:, 2]).all() and variables.shape == (2, 1)
        screens, rewards = [first], []
        for _ in range(30):
            screen, _, reward, terminated, truncated = games.step(
                generator.integers(0, len(games.actions), 2)
            )
            goes_on = ~(terminated | truncated)
            assert (screen[goes_on, :-1] == screens[-1][goes_on, 1:]).all()
            screens.append(screen)
            rewards.append(reward)
        games.close()
        return np.array(screens), np.array(rewards)

    one, again, other = played(1), played(1), played(2)
    assert (one[0] == again[0]).all() and (one[1] == again[1]).all()
    assert (one[0][:, 0] != one[0][:, 1]).any() and (one[0] != other[0]).any()


def test_standing_still_runs_into_the_time_limit_and_shooting_ends_the_game():
    games = Games(Args(), 1)
    games.reset(1)
    ends = [games.step(np.array([0]))[3:] for _ in range(80)]  # 300 tics, four in each decision
    ended = [index for index, (terminated, truncated) in enumerate(ends) if terminated[0] or truncated[0]]
    assert ended == [74] and ends[74][1][0] and not ends[74][0][0]
    generator, best = np.random.default_rng(0), -1000.0
    for _ in range(1500):
        _, variables, rewards, terminated, truncated = games.step(
            generator.integers(0, len(games.actions), 1)
        )
        assert not (terminated[0] and truncated[0])
        best = max(best, rewards[0]) if terminated[0] else best
    assert best > 90  # a hit brings 106, less what the last tics cost
    games.close()


def test_difficulty_and_scenarios_reach_the_engine():
    for difficulty in (1, 5):
        games = Games(Args(env_id="VizdoomDefendCenter-v1", difficulty=difficulty), 1)
        games.reset(1)
        assert games.envs[0].game.get_doom_skill() == difficulty
        assert games.num_variables == 2
        games.close()


def test_values_survive_rescaling():
    torch.manual_seed(0)
    agent = Agent(1, 2, 6)
    screens, variables = torch.randint(0, 256, (3, 1, 60, 80)).byte(), torch.rand(3, 2)
    log_pi, value = agent(screens, variables)
    assert torch.allclose(log_pi.exp().sum(1), torch.ones(3))
    before = agent.value(value)
    agent.rescale(torch.randn(100) * 100 - 50)
    assert torch.allclose(agent.value(agent(screens, variables)[1]), before, atol=1e-2)


def test_no_engine_outlives_a_process_that_is_killed():
    program = (
        "from cleanpoke.ppo_vizdoom import Args, Games\n"
        "from cleanpoke.processes import children_of_this_process\n"
        "games = Games(Args(), 2)\n"
        "games.reset(1)\n"
        "print(*sorted(children_of_this_process() - {games.guard.pid}), flush=True)\n"
        "input()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    engines = [Path("/proc") / number for number in child.stdout.readline().split()]
    assert len(engines) == 2 and all("vizdoom" in (one / "cmdline").read_text() for one in engines)
    child.kill()
    child.wait(timeout=10)
    deadline = time.monotonic() + 10
    while any(one.exists() for one in engines) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(one.exists() for one in engines)


# --- Runs


def small_run(folder: Path, **changes) -> Path:
    options = {"num_envs": 2, "num_steps": 16, "total_timesteps": 96, "save_every": 32, "eval_episodes": 0}
    ppo_vizdoom.main(Args(runs=folder, bf16="off", **options | changes))
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_resumed_run_goes_on_as_if_nothing_had_been(tmp_path):
    whole, again = small_run(tmp_path / "whole"), small_run(tmp_path / "again", frame_stack=1)
    middle = sorted(again.glob("checkpoint_*.pt"))[0]
    assert load_checkpoint(middle).step == 64
    resumed = load_checkpoint(small_run(tmp_path / "again", resume=middle))
    for name, weights in load_checkpoint(whole).state["agent"].items():
        assert torch.equal(weights, resumed.state["agent"][name]), name


def test_rewards_are_logged_as_the_game_gave_them(tmp_path):
    """With 310 tics to a decision each one runs into Basic's time limit, and its reward is its return."""
    folder = small_run(tmp_path, frame_skip=310, num_steps=4, total_timesteps=16)
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()
    curves = {name: [point.value for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert curves["reward/mean"] == pytest.approx(curves["charts/episodic_return"])
    for name in ("reward/raw", "reward/episodic_returns"):
        seen = [point.histogram_value for point in events.Histograms(name)]
        assert curves["reward/min"] == pytest.approx([one.min for one in seen])
        assert curves["reward/max"] == pytest.approx([one.max for one in seen])
    for layer in ("conv1", "conv2", "conv3", "hidden", "actor", "critic"):
        assert all(norm > 0 for norm in curves[f"grad/norm_{layer}"])
    assert set(curves["charts/episodic_length"]) == {1.0}


def test_a_run_ends_with_an_evaluation(tmp_path):
    folder = small_run(tmp_path, total_timesteps=32, eval_episodes=2)
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["greedy"]["episodes"] == results["sampled"]["episodes"] == 2
    assert -500 < results["greedy"]["mean"] < 110


def test_a_film_ends_when_it_is_told_to(tmp_path, monkeypatch):
    class StopsAtTheFilm(StopSignal):
        def __bool__(self) -> bool:
            return any(tmp_path.rglob(".evaluation_*.mp4"))

    monkeypatch.setattr(ppo_vizdoom, "StopSignal", StopsAtTheFilm)
    folder = small_run(tmp_path, total_timesteps=32, eval_episodes=1, eval_video=True)
    (film,) = folder.glob("evaluation_*.mp4")
    assert sum(1 for _ in imageio.get_reader(film)) == 1


def test_a_solved_run_ends_and_stays_solved(tmp_path):
    """With 310 tics to a decision each one is an episode: after two rollouts there are a hundred."""
    options = {
        "frame_skip": 310,
        "num_envs": 5,
        "num_steps": 10,
        "num_minibatches": 2,
        "total_timesteps": 200,
    }
    folder = small_run(tmp_path, **options, solved_at=-1000.0, stop_when_solved=True)

    def solved() -> list[float]:
        return [point.value for point in EventAccumulator(str(folder)).Reload().Scalars("charts/solved")]

    assert load_checkpoint(folder).step == 100 and solved() == [0, 1]
    small_run(tmp_path, **options, solved_at=-1000.0, stop_when_solved=True, resume=folder)
    assert load_checkpoint(folder).step == 100 and solved() == [0, 1]
    last = sorted(folder.glob("checkpoint_*.pt"))[-1]
    contents = torch.load(last, weights_only=True)
    contents["state"]["recent_returns"] = 100 * [-5000.0]  # since then it has become worse
    torch.save(contents, last)
    small_run(tmp_path, **options | {"total_timesteps": 150}, solved_at=-1000.0, resume=folder)
    assert load_checkpoint(folder).step == 150 and solved() == [0, 1, 1]


def test_the_command_learns_to_find_and_shoot_the_monster(tmp_path):
    """Ten tics to a decision make few of them enough; random play returns about -130 then."""
    options = {"num_envs": 8, "num_steps": 64, "frame_skip": 10, "learning_rate": 1e-3, "eval_episodes": 20}
    folder = small_run(tmp_path, total_timesteps=10_240, save_every=10_240, **options)
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["greedy"]["mean"] > 0


@pytest.mark.parametrize("script", [ppo, ppo_vizdoom])
def test_every_option_has_its_help(script):
    """tyro shows the comment of a section as the help of an option that has none."""
    body = ast.parse(Path(script.__file__).read_text()).body
    args = next(node for node in body if getattr(node, "name", "") == "Args")
    for option, following in zip(args.body, [*args.body[1:], None], strict=True):
        if isinstance(option, ast.AnnAssign):
            assert isinstance(following, ast.Expr), ast.unparse(option)


@pytest.mark.parametrize("script", [ppo, ppo_vizdoom])
def test_the_page_names_the_flags_of_atari_that_are_missing(script):
    names = [{field.name for field in dataclasses.fields(one.Args)} for one in (ppo_atari, script)]
    missing = {f"--{name.replace('_', '-')}" for name in names[0] - names[1]}
    page = (Path(script.__file__).parents[1] / "docs" / f"{script.SCRIPT}.md").read_text()
    assert missing and not [flag for flag in missing if f"`{flag}`" not in page]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "VizdoomBasics-v1"}, "did you mean VizdoomBasic-v1"),
        ({"difficulty": 9}, "choose 1"),
        ({"num_envs": 3, "num_minibatches": 7}, "equal minibatches"),
        ({"frame_stack": 0}, "--frame-stack must be at least 1"),
        ({"env_id": "VizdoomDoomE1M1-S1-v0"}, "needs .*doom.wad.*VizdoomFreedoom1E1M1-S1-v0"),
        ({"env_id": "VizdoomDoom2MAP01-S1-v0"}, "needs .*doom2.wad"),
        ({"env_id": "VizdoomDoomE1M1"}, "did you mean VizdoomFreedoom"),
        ({"learning_rate": -1.0}, "--learning-rate must be above 0"),
        ({"clip_coef": -1.0}, "--clip-coef must be above 0"),
        ({"max_grad_norm": 0.0}, "--max-grad-norm must be above 0"),
        ({"gamma": 2.0}, "--gamma must lie between 0 and 1"),
        ({"gae_lambda": -0.1}, "--gae-lambda must lie between 0 and 1"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(changes, message, tmp_path):
    with pytest.raises(CleanPokeError, match=message):
        small_run(tmp_path, **changes)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    basic = small_run(tmp_path, total_timesteps=32)
    with pytest.raises(CleanPokeError, match="--frame-stack 1, not 2"):
        small_run(tmp_path, frame_stack=2, init_from=basic)
