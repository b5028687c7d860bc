"""Demonstrations: what is written is read back, bad files are told, a log plays again to the same memory."""

import json
import zlib
from importlib import metadata

import numpy as np
import pytest

from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import START_OF_TIME
from cleanpoke.envs.emerald.demos import Recorder, load_episode, replay
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from cleanpoke.envs.emerald.tiny_town.expert import Expert
from cleanpoke.errors import CleanPokeError


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
    assert episode.ram.dtype == np.uint32 and episode.ram.tolist() == recorder.ram
    assert episode.ram[-1] == demos.memory_checksum(recorder.env) and len(set(recorder.ram)) == 150
    assert episode.meta["core_version"].startswith("mGBA 0.") and episode.meta["rtc"] == START_OF_TIME
    assert episode.meta["wrapper_version"] == f"mgba {metadata.version('mgba')}"
    with np.load(path, allow_pickle=False) as file:  # the keys that people know, readable by anybody
        assert set(demos.REQUIRED) <= set(file.files)
        assert file["episode_length"] == 150 and file["dones"].sum() == 1


def test_a_log_plays_again_to_the_same_pictures(recorded):
    path, recorder = recorded
    again = replay(path.with_suffix(".demo"), EmeraldEnv(max_steps=150))
    assert (again.observations == recorder.observations[:-1]).all()
    assert again.rewards.tolist() == np.array(recorder.rewards, np.float32).tolist()


def test_games_can_begin_at_the_milestones_of_a_log(recorded):
    path, recorder = recorded
    states = demos.milestone_states(demos.load_log(path.with_suffix(".demo")), EmeraldEnv(max_steps=150))
    reached = [(name, step) for step, info in enumerate(recorder.infos) for name in info["new_milestones"]]
    assert list(states) == [name for name, _ in reached] and len(states) > 2
    env = EmeraldEnv(curriculum=True)
    env.remember(states)
    for (name, (state,)), (_, step) in zip(states.items(), reached, strict=True):
        _, info = env.reset(options={"state": state})
        assert name in info["milestones"] and info["new_milestones"] == []
        assert info["state"].map == tuple(recorder.infos[step]["map"]), (name, recorder.infos[step])


def test_a_log_that_does_not_fit_is_told(recorded, tmp_path):
    path, _ = recorded
    columns = episode_files.read_npz(path.with_suffix(".demo"))
    columns["actions"][5] = (columns["actions"][5] + 4) % 10
    episode_files.write_npz(tmp_path / "changed.demo", columns)
    with pytest.raises(CleanPokeError, match="at step .* the memory is not what it was"):
        replay(tmp_path / "changed.demo", EmeraldEnv(max_steps=150))
    meta = json.loads(str(columns["meta"])) | {"core_version": "mGBA 0.9", "wrapper_version": "mgba 0.9.3"}
    columns["meta"] = np.array(json.dumps(meta))
    episode_files.write_npz(tmp_path / "older.demo", columns)
    with pytest.raises(CleanPokeError, match=r"recorded on mGBA 0\.9 \(mgba 0\.9\.3\), played on mGBA 0\.1"):
        replay(tmp_path / "older.demo", EmeraldEnv(max_steps=150))
    columns["start_state"] = np.frombuffer(zlib.compress(b"of another emulator"), np.uint8)
    episode_files.write_npz(tmp_path / "strange.demo", columns)
    with pytest.raises(
        CleanPokeError, match=r"start cannot be loaded .recorded on mGBA 0\.9 .*no save state"
    ):
        replay(tmp_path / "strange.demo", EmeraldEnv(max_steps=150))
    with pytest.raises(CleanPokeError, match="recorded with press_frames 12, not 8"):
        replay(path.with_suffix(".demo"), EmeraldEnv(press_frames=8))
    with pytest.raises(CleanPokeError, match="lacks checksums, start_state"):
        replay(path, EmeraldEnv())


def play(recorder: Recorder, env: EmeraldEnv, actions: list[int]) -> list:
    """Records these steps; moments to go back to."""
    moments = [env.snapshot()]
    for action in actions:
        recorder.add(action, action, env.step(action))
        moments.append(env.snapshot())
    return moments


def test_an_episode_with_steps_taken_back_is_the_one_without_them(tmp_path):
    generator = np.random.default_rng(1)
    actions = [2, 6, 6, 0, 4, 4, 4, 0, *generator.integers(0, 10, 140).tolist()]
    env = EmeraldEnv()
    straight = Recorder(env, *env.reset())
    play(straight, env, actions)
    straight.save(tmp_path / "straight.npz")
    recorder = Recorder(env, *env.reset())
    moments = play(recorder, env, actions[:6] + generator.integers(0, 10, 70).tolist())
    recorder.mark()
    env.restore(moments[6])  # before the clock is set; the milestone and the mark are taken back, too
    recorder.truncate(6)
    branch = recorder.copy()
    play(recorder, env, [0] * 80)
    env.restore(moments[6])
    play(branch, env, actions[6:])
    branch.save(tmp_path / "branch.npz")
    assert (tmp_path / "branch.npz").read_bytes() == (tmp_path / "straight.npz").read_bytes()
    assert (tmp_path / "branch.demo").read_bytes() == (tmp_path / "straight.demo").read_bytes()
    again = replay(tmp_path / "branch.demo", EmeraldEnv())
    assert again.infos == load_episode(tmp_path / "branch.npz").infos
    assert [info["new_milestones"] for info in again.infos[5:8]] == [[], [], ["CLOCK_SET"]]


def test_the_last_step_of_a_log_is_checked_too(tmp_path):
    env = EmeraldEnv()
    recorder = Recorder(env, *env.reset())
    play(recorder, env, [2, 6, 6, 0, 4])
    recorder.save_log(tmp_path / "short.demo")
    assert not (tmp_path / "short.npz").exists()
    episode = replay(tmp_path / "short.demo", EmeraldEnv())
    assert len(episode) == 5 and episode.truncations.tolist() == 4 * [False] + [True]
    columns = episode_files.read_npz(tmp_path / "short.demo")
    columns["actions"][-1] = 7
    episode_files.write_npz(tmp_path / "short.demo", columns)
    with pytest.raises(CleanPokeError, match="at step 5 the memory is not what it was"):
        replay(tmp_path / "short.demo", EmeraldEnv())


def test_what_was_reached_before_the_start_pays_nothing_in_a_replay_either(tmp_path):
    """Back upstairs the bedroom's milestone does not count again, though memory alone would not know."""
    env, expert = EmeraldEnv(), Expert()
    observation, info = env.reset()
    while "PLAYER_HOUSE" not in info["milestones"]:
        observation, _, _, _, info = env.step(expert.get_action(observation, info))
    recorder = Recorder(env, *env.reset(options={"state": env.save_state()}))
    play(recorder, env, 2 * [env.buttons.index("UP")])
    assert recorder.infos[-1]["map"] == [1, 1] and recorder.infos[-1]["new_milestones"] == []
    recorder.save(tmp_path / "later.npz")
    again = replay(tmp_path / "later.demo", EmeraldEnv())
    assert again.rewards.tolist() == load_episode(tmp_path / "later.npz").rewards.tolist()
    assert again.infos == recorder.infos and recorder.meta["start_milestones"][-1] == "PLAYER_HOUSE"


def test_segments_follow_what_is_taken_back():
    env = EmeraldEnv()
    recorder = Recorder(env, *env.reset())
    for length, is_open in ((2, True), (5, False), (7, True)):
        play(recorder, env, [1] * (length - len(recorder.actions)))
        assert recorder.mark() == is_open
    assert recorder.full_meta()["segments"] == [[2, 5]]  # nothing has happened in the open one yet
    play(recorder, env, [1, 1])
    assert recorder.full_meta()["segments"] == [[2, 5], [7, 9]]
    for length, segments in ((8, [[2, 5], [7, 8]]), (6, [[2, 5]]), (4, [[2, 4]]), (2, None)):
        recorder.truncate(length)
        assert recorder.full_meta().get("segments") == segments


def test_a_folder_holds_one_cartridge_and_one_kind_of_settings(recorded, tmp_path):
    path, recorder = recorded
    settings = demos.settings_of(recorder.env)
    assert episode_files.open_folder(path.parent, settings) == [path]
    assert episode_files.read_meta(path) == recorder.meta
    assert episode_files.read_meta(path.with_suffix(".demo")) == recorder.meta
    with pytest.raises(CleanPokeError, match=r"episode_00000\.\w+ was recorded with press_frames 12, not 8"):
        episode_files.open_folder(path.parent, settings | {"press_frames": 8})
    assert episode_files.open_folder(tmp_path / "new" / "one", settings) == []
    (tmp_path / "file").touch()
    with pytest.raises(CleanPokeError, match="cannot write into .*file/folder .*: choose another --output"):
        episode_files.open_folder(tmp_path / "file" / "folder", settings)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actions", np.zeros(0, np.int32), "0 actions, 150 expert_actions"),
        ("actions", np.full(150, 10, np.int32), r"actions holds more than 0 … 9"),
        ("checksums", np.zeros(1, np.int64), "1 checksums do not go together"),
        ("start_state", np.zeros(10, np.uint8), "start_state is damaged"),
        ("meta", np.array("{}"), "meta lacks buttons, grayscale"),
    ],
)
def test_bad_logs_are_told_with_field_and_fix(recorded, tmp_path, name, value, message):
    columns = episode_files.read_npz(recorded[0].with_suffix(".demo")) | {name: value}
    episode_files.write_npz(tmp_path / "bad.demo", columns)
    with pytest.raises(CleanPokeError, match=message) as raised:
        replay(tmp_path / "bad.demo", EmeraldEnv())
    assert "bad.demo" in str(raised.value) and "record it again" in str(raised.value)


def test_a_log_of_another_cartridge_names_the_option(recorded, tmp_path):
    other = tmp_path / "other.gba"
    other.write_bytes(TINY_TOWN.read_bytes() + b"\0")
    with pytest.raises(CleanPokeError, match=r"other\.gba is .*: give that cartridge as --rom-path"):
        replay(recorded[0].with_suffix(".demo"), EmeraldEnv(other))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actions", None, "lacks actions"),
        ("dones", np.array(True), "dones is bool"),
        ("rewards", np.full(150, "a"), "rewards is <U1"),
        ("rewards", np.zeros((150, 2)), r"rewards is float64 \(150, 2\)"),
        ("expert_actions", np.zeros(150), "expert_actions holds float64"),
        ("final_observation", np.zeros((2, 2, 3), np.uint8), "final_observation is uint8"),
        ("infos", np.array("[{}]"), "infos is no list of 150 dictionaries"),
        ("meta", np.array("[]"), "meta is no dictionary"),
        ("episode_length", np.array(7), "episode_length is 7, actions has 150 rows"),
        ("actions", np.zeros(149, int), "observations has 150 rows, actions 149"),
        ("actions", np.zeros(150), "integers"),
        ("actions", np.zeros(0, int), "T at least 1"),
        ("observations", np.zeros((150, 160, 240, 3), np.float16), "as uint8"),
        ("observations", np.zeros((150, 240), np.uint8), r"not \(T, h, w, 3\)"),
        ("rewards", np.full(150, np.nan), "not finite"),
        ("dones", np.ones(150, bool), "one episode in one file"),
        ("infos", np.array("{"), "infos is no JSON"),
        ("actions", np.full(150, 10), "actions holds 10 … 10, not 0 … 9"),  # meta names ten buttons
        ("observations", np.zeros((150, 0, 0, 3), np.uint8), r"\(150, 0, 0, 3\), not \(T, h, w, 3\)"),
        ("ram", np.zeros(3, np.uint32), "ram has 3 rows, actions 150"),
        ("episode_return", np.array(77.0), "episode_return is 77.0, the rewards add up to"),
        ("episode_return", np.array(np.nan), "episode_return is nan"),
        ("terminations", np.ones(150, bool), "terminations ends at step 0 of 150; store one episode"),
        ("infos", np.array(json.dumps(150 * [{"new_milestones": 3}])), "new_milestones that are no list"),
    ],
)
def test_bad_files_are_told_with_field_and_fix(recorded, tmp_path, name, value, message):
    columns = episode_files.read_npz(recorded[0])
    columns.pop(name)
    if value is not None:
        columns[name] = value
    episode_files.write_npz(tmp_path / "bad.npz", columns)
    with pytest.raises(CleanPokeError, match=message) as raised:
        load_episode(tmp_path / "bad.npz")
    assert "bad.npz" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": [80, 120]}, r"observations are 160 x 240, meta names the resolution \[80, 120\]"),
        ({"grayscale": True}, "observations have 3 channels, meta names grayscale True"),
        ({"buttons": 3}, "meta names buttons that are no list of names"),
        ({"segments": [3]}, "meta names segments that are no list of pairs"),
    ],
)
def test_a_meta_that_contradicts_the_rest_is_told(recorded, tmp_path, changes, message):
    columns, meta = episode_files.read_npz(recorded[0]), episode_files.read_meta(recorded[0])
    columns["meta"] = np.array(json.dumps(meta | changes))
    episode_files.write_npz(tmp_path / "bad.npz", columns)
    with pytest.raises(CleanPokeError, match=message):
        load_episode(tmp_path / "bad.npz")


def test_files_of_other_programs_are_read_without_pickle(recorded, tmp_path):
    columns = episode_files.read_npz(recorded[0])
    needed = {name: columns[name] for name in demos.REQUIRED} | {"infos": np.array([{"a": 1}], object)}
    np.savez(tmp_path / "theirs.npz", **needed)
    episode = load_episode(tmp_path / "theirs.npz")
    assert episode.infos == [] and episode.expert_actions is None and len(episode) == 150
    assert episode.ram is None
    np.savez(tmp_path / "theirs.npz", **needed | {"actions": np.full(150, 11)})  # no meta names buttons here
    with pytest.raises(CleanPokeError, match="actions holds 11 … 11, not 0 … 10"):
        load_episode(tmp_path / "theirs.npz")


def test_damaged_files_and_empty_folders_are_told(tmp_path):
    (tmp_path / "short.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CleanPokeError, match=r"short\.npz is damaged"):
        load_episode(tmp_path / "short.npz")
    with pytest.raises(CleanPokeError, match="holds no episodes"):
        episode_files.episodes_in(tmp_path / "empty")
