"""Demonstrations: what is written is read back, bad files are told, a log plays again to the same memory."""

import json

import numpy as np
import pytest

from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.demos import DemoError, Recorder, load_episode, replay
from cleanpoke.envs.emerald.env import EmeraldEnv
from cleanpoke.envs.emerald.tiny_town.expert import Expert


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(path, recorder) of 150 steps of a variant, with noise."""
    env, expert, generator = EmeraldEnv(max_steps=150), Expert(), np.random.default_rng(0)
    observation, info = env.reset(options={"variant": 9})
    recorder = Recorder(env, observation, info, agent="scripted")
    ended = False
    while not ended:
        wanted = expert.get_action(observation, info)
        action = int(generator.integers(10)) if generator.random() < 0.2 else wanted
        step = env.step(action)
        recorder.add(action, wanted, step)
        observation, _, terminated, truncated, info = step
        ended = terminated or truncated
    path = tmp_path_factory.mktemp("demos") / "episode_00000.npz"
    recorder.save(path)
    return path, recorder


def test_what_is_written_is_read_back(recorded):
    path, recorder = recorded
    episode = load_episode(path)
    assert len(episode) == 150 and episode.truncations[-1] and not episode.terminations.any()
    assert (episode.observations == recorder.observations[:-1]).all()
    assert (episode.final_observation == recorder.observations[-1]).all()
    assert episode.actions.tolist() == recorder.actions
    assert episode.labels.tolist() == recorder.expert_actions != recorder.actions
    assert episode.infos == json.loads(json.dumps(recorder.infos))
    with np.load(path, allow_pickle=False) as file:  # the keys that people know, readable by anybody
        assert set(demos.REQUIRED) <= set(file.files)
        assert file["episode_length"] == 150 and file["dones"].sum() == 1


def test_a_log_plays_again_to_the_same_pictures(recorded):
    path, recorder = recorded
    again = replay(path.with_suffix(".demo"), EmeraldEnv(max_steps=150))
    assert (again.observations == recorder.observations[:-1]).all()
    assert again.rewards.tolist() == np.array(recorder.rewards, np.float32).tolist()


def test_a_log_that_does_not_fit_is_told(recorded, tmp_path):
    path, _ = recorded
    columns = demos.read_npz(path.with_suffix(".demo"))
    columns["actions"][5] = (columns["actions"][5] + 4) % 10
    demos.write_npz(tmp_path / "changed.demo", columns)
    with pytest.raises(DemoError, match="at step .* the memory is not what it was"):
        replay(tmp_path / "changed.demo", EmeraldEnv(max_steps=150))
    with pytest.raises(DemoError, match="recorded with press_frames 12, not 8"):
        replay(path.with_suffix(".demo"), EmeraldEnv(press_frames=8))
    with pytest.raises(DemoError, match="lacks checksums, start_state"):
        replay(path, EmeraldEnv())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actions", None, "lacks actions"),
        ("actions", np.full(150, 12), "actions holds 12 … 12, not 0 … 10"),
        ("actions", np.zeros(149, int), "observations has 150 rows, actions 149"),
        ("actions", np.zeros(150), "integers"),
        ("actions", np.zeros(0, int), "T at least 1"),
        ("observations", np.zeros((150, 160, 240, 3), np.float16), "as uint8"),
        ("observations", np.zeros((150, 240), np.uint8), r"not \(T, h, w, 3\)"),
        ("rewards", np.full(150, np.nan), "not finite"),
        ("dones", np.ones(150, bool), "one episode in one file"),
        ("infos", np.array("{"), "infos is no JSON"),
    ],
)
def test_bad_files_are_told_with_field_and_fix(recorded, tmp_path, name, value, message):
    columns = demos.read_npz(recorded[0])
    columns.pop(name)
    if value is not None:
        columns[name] = value
    demos.write_npz(tmp_path / "bad.npz", columns)
    with pytest.raises(DemoError, match=message) as raised:
        load_episode(tmp_path / "bad.npz")
    assert "bad.npz" in str(raised.value) and "\n" not in str(raised.value)


def test_files_of_other_programs_are_read_without_pickle(recorded, tmp_path):
    columns = demos.read_npz(recorded[0])
    needed = {name: columns[name] for name in demos.REQUIRED} | {"infos": np.array([{"a": 1}], object)}
    np.savez(tmp_path / "theirs.npz", **needed)
    episode = load_episode(tmp_path / "theirs.npz")
    assert episode.infos == [] and episode.expert_actions is None and len(episode) == 150


def test_damaged_files_and_empty_folders_are_told(tmp_path):
    (tmp_path / "short.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DemoError, match=r"short\.npz is damaged"):
        load_episode(tmp_path / "short.npz")
    with pytest.raises(DemoError, match="holds no demonstrations"):
        demos.episodes_in(tmp_path / "empty")
