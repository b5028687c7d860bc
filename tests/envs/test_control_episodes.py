"""Episodes of continuous control come back as they were stored; bad files are told in one line."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import cleanpoke.envs.point_mass  # noqa: F401  registers PointMass-v0
from cleanpoke.envs.control_episodes import (
    ControlEpisode,
    load_control_episode,
    load_control_folder,
    load_minari,
    save_control_episode,
)
from cleanpoke.envs.episode_files import open_folder, read_npz, write_npz
from cleanpoke.errors import CleanPokeError

ROOT = Path(__file__).parents[2]


def some_episode(
    length: int = 5, *, num_inputs: int = 3, num_actions: int = 2, seed: int = 0, **meta
) -> ControlEpisode:
    generator = np.random.default_rng((seed, length))
    return ControlEpisode(
        generator.normal(size=(length + 1, num_inputs)).astype(np.float32),
        generator.uniform(-1, 1, (length, num_actions)).astype(np.float32),
        generator.normal(size=length).astype(np.float32),
        bool(seed % 2),
        {"env_id": "Some-v0", **meta},
    )


def assert_same(one: ControlEpisode, other: ControlEpisode) -> None:
    for name in ("observations", "actions", "rewards"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype == np.float32 and mine.tobytes() == theirs.tobytes(), name
    assert one.terminated == other.terminated


@pytest.mark.parametrize("seed", [0, 1])  # cut off, and ended by the world
@pytest.mark.parametrize("length", [1, 7])
def test_an_episode_comes_back_bit_for_bit(tmp_path, length, seed):
    episode = some_episode(length, seed=seed, player="random", seed_of=[1, 2])
    save_control_episode(tmp_path / "new" / "a.npz", episode)
    again = load_control_episode(tmp_path / "new" / "a.npz")
    assert_same(again, episode)
    assert again.meta == episode.meta and len(again) == length
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_the_file_has_the_keys_of_demonstrations(tmp_path):
    episode = some_episode(4, seed=1)
    save_control_episode(tmp_path / "a.npz", episode)
    columns = read_npz(tmp_path / "a.npz")
    assert columns["episode_length"] == 4 and columns["infos"] == "[]"
    assert columns["episode_return"] == pytest.approx(episode.rewards.sum())
    assert columns["dones"].tolist() == columns["terminations"].tolist() == [False, False, False, True]
    assert columns["observations"].shape == (4, 3) and not columns["truncations"].any()
    assert (columns["final_observation"] == episode.observations[-1]).all()


def test_files_of_others_need_only_the_required_keys(tmp_path):
    save_control_episode(tmp_path / "a.npz", some_episode())
    columns = read_npz(tmp_path / "a.npz")
    for name in ("infos", "meta", "terminations", "truncations", "final_observation"):
        del columns[name]
    double = {name: columns[name].astype(np.float64) for name in ("observations", "actions", "rewards")}
    write_npz(tmp_path / "a.npz", columns | double)
    again = load_control_episode(tmp_path / "a.npz")
    assert again.terminated and again.meta == {} and again.observations.dtype == np.float32
    assert (again.observations[-1] == again.observations[-2]).all()


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[-1] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("actions", None, "lacks actions: record it again"),
        ("episode_return", None, "lacks episode_return"),
        ("observations", lambda x: x.astype(np.int64), "observations holds int64; store vectors of floats"),
        ("observations", lambda x: np.zeros((5, 8, 8, 3), np.uint8), r"holds uint8; .*--store-latents"),
        ("observations", lambda x: np.zeros((5, 8, 8)), r"observations has shape \(5, 8, 8\), not \(T, num"),
        ("observations", lambda x: x[:-1], "observations has 4 rows, actions 5"),
        ("observations", with_nan, "observations has values that are not finite"),
        ("actions", lambda x: x.argmax(1), "actions holds int64"),
        ("actions", lambda x: x[:0], r"actions has shape \(0, 2\)"),
        ("actions", with_nan, "actions has values that are not finite"),
        ("rewards", lambda x: x[:-2], "rewards has 3 rows, actions 5"),
        ("rewards", lambda x: x[:, None], r"rewards is float32 \(5, 1\), not \(5,\) numbers"),
        ("rewards", lambda x: x.astype(str), r"rewards is <U.* not \(5,\) numbers"),
        ("rewards", with_nan, "rewards has values that are not finite"),
        ("dones", lambda x: np.array(True), r"dones is bool \(\)"),
        ("dones", lambda x: np.arange(5) % 2 == 1, "dones ends at step 1 of 5; store one episode in one"),
        ("terminations", lambda x: x[:2], "terminations has 2 rows"),
        ("final_observation", lambda x: x[:2], r"final_observation is float32 \(2,\), not floats \(3,\)"),
        ("final_observation", lambda x: x.astype(int), r"final_observation is int64"),
        ("final_observation", with_nan, "final_observation has values that are not finite"),
        ("episode_length", lambda x: x + 1, "episode_length is 6, actions has 5 rows"),
        ("meta", lambda x: np.array("{"), "meta is no JSON; record it again"),
        ("meta", lambda x: np.array("[1]"), "meta is no dictionary"),
    ],
)
def test_a_bad_file_is_told_with_field_and_fix(tmp_path, name, change, message):
    path = tmp_path / "a.npz"
    save_control_episode(path, some_episode())
    columns = read_npz(path)
    column = columns.pop(name)
    write_npz(path, columns if change is None else columns | {name: change(column)})
    with pytest.raises(CleanPokeError, match=message) as raised:
        load_control_folder(tmp_path)
    assert str(path) in str(raised.value)


def test_damaged_and_missing_files_are_told(tmp_path):
    path = tmp_path / "a.npz"
    save_control_episode(path, some_episode(50))
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:100], b"", b"no archive at all"):
        path.write_bytes(content)
        with pytest.raises(CleanPokeError, match=r"a\.npz is damaged or no episode: delete it"):
            load_control_episode(path)
    with pytest.raises(CleanPokeError, match=r"cannot read .*b\.npz .*: check the path"):
        load_control_episode(tmp_path / "b.npz")


def test_an_episode_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CleanPokeError, match=r"cannot write .*nothing else was lost"):
        save_control_episode(tmp_path / "file" / "a.npz", some_episode())
    with pytest.raises(CleanPokeError, match="choose another --output"):
        open_folder(tmp_path / "file", {"env_id": "Some-v0"})


def test_a_folder_is_read_by_name(tmp_path):
    episodes = [some_episode(length) for length in (3, 1, 2)]
    for name, episode in zip("cab", episodes, strict=True):
        save_control_episode(tmp_path / f"{name}.npz", episode)
    assert [len(episode) for episode in load_control_folder(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            some_episode(env_id="Other-v0"),
            "recorded with env_id Other-v0, not Some-v0: keep such episodes",
        ),
        (some_episode(encoder="b2"), "recorded with encoder b2, not a1"),
        (some_episode(num_inputs=4), "observations have 4 numbers, those of .* first episode 3"),
        (some_episode(num_actions=1), "actions have 1 numbers, those of .* first episode 2"),
    ],
)
def test_a_folder_holds_one_kind_of_episodes(tmp_path, other, message):
    save_control_episode(tmp_path / "a.npz", some_episode(encoder="a1"))
    save_control_episode(tmp_path / "b.npz", other)
    with pytest.raises(CleanPokeError, match=rf"b\.npz.*{message}"):
        load_control_folder(tmp_path)


def test_where_there_is_nothing_the_collecting_command_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CleanPokeError, match=rf"collect_expert_data\.py --env \S+ --output {folder}"):
            load_control_folder(folder)


def test_a_file_in_place_of_a_folder_is_told(tmp_path):
    save_control_episode(tmp_path / "a.npz", some_episode())
    with pytest.raises(CleanPokeError, match=rf"a\.npz is a file: give its folder, {tmp_path}"):
        load_control_folder(tmp_path / "a.npz")


# --- Minari


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return pytest.importorskip("minari")


def write_dataset(minari, name: str, episodes: list[ControlEpisode], **options) -> None:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=number,
            observations=episode.observations,
            actions=episode.actions,
            rewards=list(episode.rewards),
            terminations=[*[False] * (len(episode) - 1), episode.terminated],
            truncations=[*[False] * (len(episode) - 1), not episode.terminated],
        )
        for number, episode in enumerate(episodes)
    ]
    spaces = {
        "observation_space": gym.spaces.Box(-np.inf, np.inf, episodes[0].observations.shape[1:]),
        "action_space": gym.spaces.Box(-1, 1, episodes[0].actions.shape[1:]),
    }
    about = {"algorithm_name": "none", "author": "none", "author_email": "none", "code_permalink": "none"}
    minari.create_dataset_from_buffers(name, buffers, **spaces | about | {"description": "none"} | options)


@pytest.mark.filterwarnings("ignore")
def test_a_minari_dataset_is_read_into_the_same_form(minari):
    episodes = [some_episode(length, num_inputs=4, seed=length) for length in (3, 6)]
    write_dataset(minari, "point/some-v0", episodes, env="PointMass-v0")
    read = load_minari("point/some-v0")
    assert [one.meta for one in read] == 2 * [{"player": "point/some-v0", "env_id": "PointMass-v0"}]
    for one, other in zip(read, episodes, strict=True):
        assert_same(one, other)


@pytest.mark.filterwarnings("ignore")
def test_a_minari_dataset_keeps_the_options_of_its_environment(minari):
    spec = gym.spec("Pendulum-v1")
    spec.kwargs = {"g": 2.5, "render_mode": None}
    write_dataset(minari, "pendulum/light-v0", [some_episode(num_actions=1)], env=spec)
    (episode,) = load_minari("pendulum/light-v0")
    assert episode.meta["env_options"] == {"g": 2.5} and episode.meta["env_id"] == "Pendulum-v1"


@pytest.mark.filterwarnings("ignore")
def test_minari_datasets_that_do_not_fit_are_told(minari, tmp_path):
    with pytest.raises(CleanPokeError, match=r"no Minari dataset 'point/none-v0' .*minari download"):
        load_minari("point/none-v0")
    episode = some_episode()
    episode.actions = np.zeros(5, np.int64)
    write_dataset(minari, "point/buttons-v0", [episode], action_space=gym.spaces.Discrete(3))
    with pytest.raises(CleanPokeError, match="point/buttons-v0 holds no vectors of floats"):
        load_minari("point/buttons-v0")
    write_dataset(minari, "point/broken-v0", [some_episode()])
    for file in (tmp_path / "minari/point/broken-v0/data").glob("*.hdf5"):
        file.write_bytes(b"nothing")
    with pytest.raises(CleanPokeError, match="cannot read Minari dataset 'point/broken-v0'"):
        load_minari("point/broken-v0")


def test_without_the_package_minari_is_told_how_to_install_it(tmp_path):
    blocker = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
from cleanpoke.envs.control_episodes import load_minari
from cleanpoke.errors import user_errors
with user_errors():
    load_minari("point/some-v0")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MINARI_DATASETS_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", blocker, "minari"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: Minari datasets need its package: pip install 'minari[hdf5]'\n"
