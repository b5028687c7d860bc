"""Continuous control is recorded as it happened: random play, checkpoints, agents of one's own."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from cleanpoke import ppo_carracing
from cleanpoke import ppo_goalsetter_idm as goalsetter
from cleanpoke.envs.car_racing import CarPictures, load_encoder, save_encoder
from cleanpoke.envs.control import make_env
from cleanpoke.envs.control_episodes import load_control_episode, load_control_folder
from cleanpoke.envs.episode_files import episodes_in
from cleanpoke.errors import CleanPokeError
from cleanpoke.run import Checkpoint, load_checkpoint, plain, random_state, save_checkpoint
from tools import collect_control_data
from tools.collect_control_data import Args, Share, open_agent, record_share

ROOT = Path(__file__).parents[2]
MINE = """
import numpy as np

class Mine:
    def begin(self):
        self.count = 0

    def get_action(self, observation, info):
        self.count += 1
        return np.array([self.count / 10, -0.25])

class Short:
    def get_action(self, observation, info):
        return [0.5]

class Lost:
    def get_action(self, observation, info):
        return [0.5, float("nan")]
"""


@pytest.fixture
def record():
    """Records episodes in this process; their files."""
    threads = torch.get_num_threads()

    def in_this_process(args: Args) -> list[Path]:
        record_share(Share(args, list(range(args.episodes))), lambda report: None, lambda: False)
        return episodes_in(args.folder)

    yield in_this_process
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A short run of the goal setter, whose goals and IDM have left where they began."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"num_steps": 64, "num_minibatches": 4, "update_epochs": 1, "warmup_steps": 512}
    small |= {"warmup_updates": 10, "idm_updates": 2, "total_timesteps": 512 + 64, "eval_episodes": 0}
    goalsetter.main(goalsetter.Args("PointMass-v0", runs=folder, goal_hold=3, **small))
    return next(folder.iterdir())


def test_processes_record_what_one_would_and_go_on_where_they_stopped(record, tmp_path, capsys):
    expected = record(Args("PointMass-v0", tmp_path / "alone", episodes=3))
    many = Args("PointMass-v0", tmp_path / "many", episodes=3, processes=2)
    collect_control_data.main(many)
    many.path_of(1).unlink()
    before = many.path_of(0).stat().st_mtime_ns
    collect_control_data.main(dataclasses.replace(many, processes=1))
    assert many.path_of(0).stat().st_mtime_ns == before
    for path in expected:
        assert (tmp_path / "many" / path.name).read_bytes() == path.read_bytes()
    shown = capsys.readouterr().out
    assert "many: 3 episodes, 3 of them new" in shown and "many: 3 episodes, 1 of them new" in shown


def test_an_episode_is_what_the_world_did(record, tmp_path):
    first, second = map(load_control_episode, record(Args("PointMass-v0", tmp_path, episodes=2)))
    assert (first.observations[0] != second.observations[0]).any()
    assert first.meta == {
        "seed": [1, 0],
        "env_id": "PointMass-v0",
        "player": "random",
        "sampled": False,
    }
    assert len(first) == 50 and not first.terminated
    assert first.actions.min() < -0.8 and first.actions.max() > 0.8
    env = gym.make("PointMass-v0").unwrapped
    env.state = first.observations[0].astype(np.float64)
    for step, action in enumerate(first.actions):
        state, reward, *_ = env.step(action)
        assert np.allclose(state, first.observations[step + 1], atol=1e-5)
        assert reward == pytest.approx(first.rewards[step], abs=1e-5)


def test_an_episode_that_the_world_ends_is_kept_as_such(record, tmp_path):
    (path,) = record(Args("Hopper-v5", tmp_path, episodes=1))
    episode = load_control_episode(path)
    height, angle = episode.observations[-1, :2]
    assert episode.terminated and (height < 0.7 or abs(angle) > 0.2) and len(episode) < 1000


def test_agents_of_ones_own_act_within_the_bounds_and_are_told_when_an_episode_begins(record, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    agent = f"{tmp_path / 'mine.py'}:Mine"
    for path in record(Args("PointMass-v0", tmp_path / "mine", episodes=2, agent=agent)):
        actions = load_control_episode(path).actions
        assert np.allclose(actions[:12, 0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0])
        assert (actions[:, 1] == -0.25).all()
    for name, message in (("Short", r"chose \[0.5\]: an action is 2 finite"), ("Lost", "0.5, nan.: an act")):
        with pytest.raises(CleanPokeError, match=message):
            record(Args("PointMass-v0", tmp_path / name, agent=f"{tmp_path / 'mine.py'}:{name}"))


def test_a_collection_that_is_stopped_drops_its_last_episode(tmp_path):
    looks = iter([False] * 70 + [True])
    share = Share(Args("PointMass-v0", tmp_path), [0, 1])
    record_share(share, lambda report: None, lambda: next(looks))
    assert [path.name for path in tmp_path.iterdir()] == ["episode_00000.npz"]


def test_a_folder_grows_and_holds_one_environment(record, tmp_path):
    record(Args("PointMass-v0", tmp_path, episodes=1))
    with pytest.raises(CleanPokeError, match="recorded with env_id PointMass-v0, not Pendulum-v1"):
        collect_control_data.main(Args("Pendulum-v1", tmp_path))
    (tmp_path / "mine.py").write_text(MINE)
    collect_control_data.main(
        Args("PointMass-v0", tmp_path, episodes=2, agent=f"{tmp_path / 'mine.py'}:Mine")
    )
    players = [episode.meta["player"] for episode in load_control_folder(tmp_path)]
    assert players == ["random", f"{tmp_path / 'mine.py'}:Mine"]


# --- Checkpoints


def test_a_checkpoint_plays_as_its_evaluation_does(record, trained, tmp_path):
    (path,) = record(Args("PointMass-v0", tmp_path, episodes=1, agent=str(trained)))
    episode, player = load_control_episode(path), goalsetter.open_player(trained)
    player.begin()
    again = [player.get_action(state, {}) for state in episode.observations[:-1]]
    assert np.array_equal(again, episode.actions) and again[0].dtype == np.float32
    # Evaluations of the script, which play in many environments at once, begin with seeds in a row.
    checkpoint = load_checkpoint(trained)
    args = goalsetter.saved_arguments(checkpoint, goalsetter.Args)
    args.eval_episodes = 3
    agent = goalsetter.Agent(args, 4, 2)
    agent.load_state_dict(checkpoint.state["agent"])
    moments = goalsetter.RunningMoments(4)
    moments.load_state_dict(checkpoint.state["observation_moments"])
    expected = goalsetter.evaluate(agent, moments, args, "greedy", seed=5)
    env = make_env("PointMass-v0")
    for number, total in enumerate(expected):
        state, info = env.reset(seed=5 + number)
        player.begin()
        rewards, is_over = [], False
        while not is_over:
            state, reward, _, is_over, info = env.step(player.get_action(state, info))
            rewards.append(reward)
        assert sum(rewards) == pytest.approx(total, abs=1e-3)


def test_a_checkpoint_can_draw_and_every_episode_draws_from_its_own_seed(record, trained, tmp_path):
    greedy, drawn, again = (
        load_control_episode(
            record(Args("PointMass-v0", tmp_path / name, episodes=1, agent=str(trained), sample=sample))[0]
        )
        for name, sample in (("a", False), ("b", True), ("c", True))
    )
    assert np.array_equal(drawn.actions, again.actions) and drawn.meta["sampled"]
    assert np.abs(drawn.actions - greedy.actions).mean() > 0.1


def test_latents_are_stored_instead_of_pictures(record, tmp_path):
    torch.manual_seed(0)
    small = {"num_envs": 2, "num_steps": 4, "num_minibatches": 2, "update_epochs": 1, "frames": 2}
    small |= {"total_timesteps": 8, "eval_episodes": 0, "action_repeat": 100, "latent_dim": 5}
    ppo_carracing.main(ppo_carracing.Args(runs=tmp_path / "runs", **small))
    (run,) = (tmp_path / "runs").iterdir()
    options = {"episodes": 1, "agent": str(run), "store_latents": True}
    (file,) = record(Args("CarRacing-v3", tmp_path / "latents", **options))
    episode, encoder = load_control_episode(file), load_encoder(run / "encoder.pt2")
    assert episode.observations.shape == (len(episode) + 1, 5) and episode.actions.shape[1] == 3
    assert episode.meta["encoder"] == encoder.checksum
    # The same actions bring the same pictures, and the encoder makes the stored latents of them.
    world = CarPictures(action_repeat=100, frames=2)
    pictures, _ = world.reset(seed=int(np.random.SeedSequence((1, 0)).generate_state(1)[0] // 2))
    for step, action in enumerate(episode.actions):
        assert np.allclose(encoder.latents(pictures[None])[0], episode.observations[step], atol=1e-5)
        pictures, reward, terminated, truncated, _ = world.step(action)
        assert reward == pytest.approx(episode.rewards[step], abs=1e-4)
    assert (terminated or truncated) and terminated == episode.terminated
    other = tmp_path / "other.pt2"
    save_encoder(other, ppo_carracing.Agent(2, 5).encoder, encoder.reading)
    with pytest.raises(CleanPokeError, match="was recorded with encoder"):
        collect_control_data.main(
            Args("CarRacing-v3", tmp_path / "latents", store_latents=True, encoder_path=other)
        )
    with pytest.raises(CleanPokeError, match="sees through an encoder with other weights"):
        collect_control_data.main(
            Args("CarRacing-v3", tmp_path / "others", **options | {"encoder_path": other})
        )


@pytest.mark.parametrize(
    "changes",
    [{"mode": "ppo"}, {"mode": "closeness"}, {"idm": "transformer"}, {"goal_space": "abs"}],
    ids=str,
)
def test_agents_of_every_mode_play(record, tmp_path, changes):
    args = goalsetter.Args(env_id="Hopper-v5", **changes)
    agent, moments = goalsetter.Agent(args, 11, 3), goalsetter.RunningMoments(11)
    state = {"agent": agent.state_dict(), "observation_moments": moments.state_dict()}
    arguments, path = plain(dataclasses.asdict(args)), tmp_path / "checkpoint_000000001.pt"
    save_checkpoint(Checkpoint(path, "ppo_goalsetter_idm", "", 1, arguments, random_state(), state))
    (file,) = record(Args("Hopper-v5", tmp_path / "played", episodes=1, agent=str(path)))
    episode = load_control_episode(file)
    assert episode.terminated and episode.meta["player"] == str(path)
    with pytest.raises(CleanPokeError, match="was trained in Hopper-v5, not PointMass-v0"):
        open_agent(Args("PointMass-v0", agent=str(path)), make_env("PointMass-v0"))


def test_checkpoints_that_do_not_fit_are_told(tmp_path, trained):
    checkpoint = load_checkpoint(trained)
    other = dataclasses.replace(checkpoint, path=tmp_path / "other.pt", script="ppo")
    save_checkpoint(other)
    env = make_env("PointMass-v0")
    with pytest.raises(CleanPokeError, match=r"written by ppo\.py: give a checkpoint of ppo_goalsetter"):
        open_agent(Args("PointMass-v0", agent=str(other.path)), env)
    wider = dataclasses.replace(
        checkpoint, path=tmp_path / "wider.pt", args=checkpoint.args | {"goal_dim": 1}
    )
    save_checkpoint(wider)
    with pytest.raises(CleanPokeError, match=r"wider\.pt holds other networks"):
        open_agent(Args("PointMass-v0", agent=str(wider.path)), env)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "PointMass-v99"}, "cannot make 'PointMass-v99'"),
        ({"env": "no_such_package:World-v0"}, "cannot make 'no_such_package:World-v0'"),
        ({"env": "CartPole-v1"}, "takes bounded vectors"),
        ({"env": "CarRacing-v3"}, "latents of its pictures: --store-latents"),
        ({"env": "CarRacing-v3", "store_latents": True}, "needs an encoder, and encoder.pt2 is not there"),
        ({"store_latents": True, "encoder_path": Path("no.pt2")}, "cannot read no.pt2"),
        ({"encoder_path": Path("encoder.pt2")}, "--encoder-path is for --store-latents"),
        ({"agent": "nobody"}, "'nobody' is no agent: give random, a checkpoint or run folder, or"),
        ({"agent": str(ROOT / "pyproject.toml")}, "damaged or not a CleanPoke checkpoint"),
        ({"agent": str(ROOT / "tests")}, r"holds no checkpoint_\*\.pt"),
        ({"sample": True}, "--sample is for checkpoints"),
        ({"episodes": 0}, "--episodes must be at least 1"),
        ({"output": Path(__file__)}, "choose another --output"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path, changes, message):
    with pytest.raises(CleanPokeError, match=message):
        collect_control_data.main(Args(**({"env": "PointMass-v0", "output": tmp_path / "new"} | changes)))


def test_the_command_of_demonstrations_records_continuous_control_too(tmp_path):
    command = [sys.executable, str(ROOT / "tools/collect_expert_data.py"), "--env", "PointMass-v0"]
    done = subprocess.run(
        [*command, "--episodes", "2", "--processes", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "expert_data/pointmass-v0: 2 episodes, 2 of them new" in done.stdout
    assert len(load_control_folder(tmp_path / "expert_data" / "pointmass-v0")) == 2
