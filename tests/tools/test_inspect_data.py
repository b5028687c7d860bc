"""The inspector: its numbers are right, and it says `trainable: yes` only of what can be trained on."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cleanpoke.envs import episode_files
from cleanpoke.envs.control_episodes import save_control_episode
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.showdown import battle_files, encoder
from cleanpoke.envs.showdown.battle_files import BattleFileError, ShardWriter, Trajectory, read_folder
from cleanpoke.errors import CleanPokeError
from tests.envs.showdown.test_battle_files import (
    EMPTY_RECORD,
    example_battle,
    example_trajectory,
    only_shard,
    write_battles,
)
from tests.envs.test_control_episodes import some_episode
from tools import inspect_data


def inspect(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "tools/inspect_data.py", str(folder), *arguments],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def write(folder: Path, *trajectories: Trajectory) -> None:
    with ShardWriter(folder, "gen1ou") as writer:
        for trajectory in trajectories:
            writer.add(trajectory)


def small_battle(
    generator: np.random.Generator, battle: int, actions: list[int], num_legal: int = 3
) -> Trajectory:
    """A won battle of side 0 with these actions, each decision with `num_legal` legal actions."""
    trajectory = Trajectory(battle, battle, 0, "careful", "rash")
    for step, action in enumerate(actions):
        legal = np.zeros(encoder.NUM_ACTIONS, bool)
        legal[(action + np.arange(num_legal)) % encoder.NUM_ACTIONS] = True
        words, numbers = np.zeros(encoder.NUM_WORDS), generator.normal(size=encoder.NUM_NUMBERS)
        trajectory.add_decision(words, numbers, legal, action)
        trajectory.add_reward(0.5, 0, 0, float(step == len(actions) - 1))
    trajectory.finish(1, turns=len(actions))
    return trajectory


def test_command_describes_a_good_folder_and_calls_it_trainable(tmp_path):
    write_battles(tmp_path, 30)
    with ShardWriter(tmp_path, "gen1ou") as writer:
        writer.drop("worker_died")
    done = inspect(tmp_path, "--verify")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "trainable: yes"
    for expected in (
        "30 battles, 30 of them with both points of view",
        f"schema {encoder.SCHEMA}, written with",
        "dropped or cut off: 1",
        "60 trajectories checked",
    ):
        assert expected in done.stdout
    # "careful" wins two battles of three, see example_battle.
    (row,) = (line.split() for line in lines if line.startswith("careful") and "(all others)" in line)
    assert row[3:] == ["30", "20", "10", "0", "0.667", "[0.488,", "0.808]"]


def test_actions_are_counted_by_kind(tmp_path):
    write(tmp_path, small_battle(np.random.default_rng(0), 1, [0, 0, 4, 9, battle_files.MISSING_ACTION]))
    lines = inspect_data.describe_actions(read_folder(tmp_path))
    assert lines[0] == "actions: 40.0% moves, 20.0% switches, 20.0% moves + gimmick, 20.0% missing"
    counts = {
        name: line.split("#")[0] for name, line in zip(inspect_data.ACTION_NAMES, lines[1:-1], strict=True)
    }
    assert all(name in line for name, line in counts.items())
    chosen = {name: int(line.split()[-1]) for name, line in counts.items() if int(line.split()[-1])}
    assert chosen == {"move 1": 2, "switch 1": 1, "move 1 + gimmick": 1}


def test_forced_decisions_are_counted(tmp_path):
    generator = np.random.default_rng(0)
    write(tmp_path, small_battle(generator, 1, [0], num_legal=1), small_battle(generator, 2, [1, 2, 3]))
    last_line = inspect_data.describe_actions(read_folder(tmp_path))[-1]
    assert last_line == "forced decisions (one legal action): 25.0%; legal on average: 2.50"


def test_histogram_holds_every_trajectory(tmp_path):
    generator = np.random.default_rng(0)
    lengths = [1, 1, 2, 30, 31, 75]
    write(tmp_path, *(small_battle(generator, n, [0] * length) for n, length in enumerate(lengths)))
    first, *bars = inspect_data.describe_lengths(read_folder(tmp_path))
    assert first.startswith("decisions per trajectory: min 1, median 16, max 75; turns: min 1")
    assert sum(int(bar.split()[3]) for bar in bars) == len(lengths)


def test_reward_sums_are_per_trajectory(tmp_path):
    generator = np.random.default_rng(0)
    write(tmp_path, small_battle(generator, 1, [0]), small_battle(generator, 2, [1, 2, 3]))
    health = inspect_data.describe_rewards(read_folder(tmp_path))[1].split()
    assert health[:5] == ["health", "1.000", "0.500", "0.50", "1.50"]


def test_duplicates_are_counted(tmp_path):
    generator = np.random.default_rng(0)
    battle = example_battle(generator, 1)
    again = example_battle(np.random.default_rng(0), 1)
    for trajectory in again:
        trajectory.battle = 2
    write(tmp_path, *battle, *again, *example_battle(generator, 3))
    first_line = inspect_data.describe_losses(read_folder(tmp_path))[0]
    assert first_line == "duplicates (same seed, side, player and actions): 2"


def both_win(generator: np.random.Generator) -> list[Trajectory]:
    return [example_trajectory(generator, 7, side, 1) for side in (0, 1)]


def one_is_truncated(generator: np.random.Generator) -> list[Trajectory]:
    return [example_trajectory(generator, 7, side, 0, truncated=bool(side)) for side in (0, 1)]


def same_side_twice(generator: np.random.Generator) -> list[Trajectory]:
    return [example_trajectory(generator, 7, 0, outcome) for outcome in (1, -1)]


def other_seed(generator: np.random.Generator) -> list[Trajectory]:
    pair = example_battle(generator, 7)
    pair[0].seed += 1
    return pair


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (both_win, r"battle 7: both points of view say outcome \[1, 1\]"),
        (one_is_truncated, "battle 7: truncated from one point of view only"),
        (same_side_twice, r"battle 7 is there 2 times, from sides \[0, 0\]"),
        (other_seed, "battle 7: its two points of view are of different battles"),
    ],
)
def test_points_of_view_that_contradict_each_other_are_not_trainable(tmp_path, make, message):
    generator = np.random.default_rng(0)
    write(tmp_path, *example_battle(generator, 1), *make(generator))
    with pytest.raises(BattleFileError, match=message):
        inspect_data.prove_trainable(read_folder(tmp_path), 100, seed=0)


def test_battles_that_nobody_won_are_not_trainable(tmp_path):
    generator = np.random.default_rng(0)
    write(tmp_path, *(example_trajectory(generator, 1, side, 0) for side in (0, 1)))
    with pytest.raises(BattleFileError, match="no battle was won or lost"):
        inspect_data.prove_trainable(read_folder(tmp_path), 100, seed=0)


def test_forced_decisions_alone_are_not_trainable(tmp_path):
    write(tmp_path, small_battle(np.random.default_rng(0), 1, [0, 1], num_legal=1))
    with pytest.raises(BattleFileError, match="no decision of 2 is a known choice"):
        inspect_data.prove_trainable(read_folder(tmp_path), 100, seed=0)


def test_illegal_action_on_disk_is_not_trainable(tmp_path):
    write_battles(tmp_path)
    path = only_shard(tmp_path) / "legal.npy"
    legal = np.load(path)
    np.save(path, ~legal)
    with pytest.raises(BattleFileError, match="is illegal at decision|no legal action at decision"):
        inspect_data.prove_trainable(read_folder(tmp_path), 100, seed=0)


def test_command_refuses_the_empty_record_in_one_line(tmp_path):
    (tmp_path / "games.json.gz").write_bytes(gzip.compress(json.dumps(EMPTY_RECORD).encode()))
    done = inspect(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "empty log" in done.stderr


def test_command_refuses_a_corrupt_shard_in_one_line(tmp_path):
    write_battles(tmp_path)
    path = only_shard(tmp_path) / "words.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = inspect(tmp_path, "--verify")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: corrupt shard" in done.stderr and done.stderr.count("\n") == 1


# --- Demonstrations


def demonstration(path: Path, actions: list[int], wanted: list[int] | None = None, **meta) -> None:
    """An episode of small pictures that reaches a milestone at its second step."""
    count = len(actions)
    infos = [{"new_milestones": ["CLOCK_SET"] if step == 1 else []} for step in range(count)]
    episode = demos.Episode(
        np.zeros((count, 16, 24, 3), np.uint8),
        np.array(actions),
        np.full(count, 0.25, np.float32),
        np.zeros(count, bool),
        np.arange(count) == count - 1,
        infos,
        expert_actions=None if wanted is None else np.array(wanted),
        meta={"player": "human", **meta},
    )
    demos.save_episode(path, episode)


def test_demonstrations_are_counted(tmp_path, capsys):
    demonstration(tmp_path / "a.npz", [0, 0, 5, 4], [0, 0, 5, 5], variant=3, segments=[[0, 2]])
    demonstration(tmp_path / "b.npz", [6, 7, 7, 7, 7, 7, 7, 7])
    inspect_data.main(inspect_data.Args(tmp_path))
    shown = capsys.readouterr().out
    for line in (
        "2 episodes, 12 steps",
        "played by human (2)",
        "2 variants; 0 episodes have a log",
        "marked segments: 1",
        "steps per episode: min 4, median 6, max 8",
        "return per episode: min 1.000, median 1.500, max 2.000",
        "0 reached the end of the game, 2 were cut off",
        "steps in which noise pressed another button: 8.3%",
        "duplicates (same start, same buttons): 0",
    ):
        assert line in shown
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line}
    assert rows["A"][:3] == ["2", "2", "16.7%"] and rows["UP"][:2] == ["1", "0"] and "NOOP" not in rows
    assert rows["DOWN"][:2] == ["1", "2"] and rows["RIGHT"][:2] == ["7", "7"]
    assert rows["CLOCK_SET"] == ["2", "100%", "2"]
    assert shown.splitlines()[-1] == "trainable: yes"


def test_a_meta_that_tells_little_is_enough(tmp_path, capsys):
    demonstration(tmp_path / "a.npz", [0, 5], rom_sha1="1234")
    inspect_data.main(inspect_data.Args(tmp_path))
    assert "cartridge 1234, ? + ? frames a step, 16 x 24 colour" in capsys.readouterr().out


def test_demonstrations_that_are_there_twice_are_named(tmp_path, capsys):
    for name in ("a", "b", "c"):
        demonstration(tmp_path / f"{name}.npz", [1, 2, 3 + (name == "b")])
    demonstration(tmp_path / "d.npz", [1, 2, 3], start_checksum=5)  # begins elsewhere
    inspect_data.main(inspect_data.Args(tmp_path))
    shown = capsys.readouterr().out
    assert "duplicates (same start, same buttons): 1\n  a.npz = c.npz: delete all but one" in shown


def test_each_broken_demonstration_is_told_with_its_fix(tmp_path, capsys):
    demonstration(tmp_path / "a.npz", [1, 2, 3], press_frames=12)
    demonstration(tmp_path / "b.npz", [1, 2, 3], press_frames=8)
    columns = episode_files.read_npz(tmp_path / "a.npz")
    episode_files.write_npz(tmp_path / "c.npz", columns | {"observations": columns["observations"] / 255.0})
    (tmp_path / "d.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-200])
    demonstration(tmp_path / "e.npz", [1, 10], buttons=[*demos.BUTTONS])
    infos = np.array('[{"new_milestones": 7}, {}, {}]')
    episode_files.write_npz(tmp_path / "f.npz", columns | {"infos": infos})
    with pytest.raises(CleanPokeError, match="5 of 6 files cannot be used"):
        inspect_data.main(inspect_data.Args(tmp_path))
    shown = capsys.readouterr().out
    assert "b.npz was recorded with press_frames 8, not 12: keep such episodes in another folder" in shown
    assert "c.npz: observations holds float64; store the pictures as uint8" in shown
    assert "d.npz is damaged or no episode: delete it" in shown
    assert "e.npz: actions holds 1 … 10, not 0 … 9; record it again" in shown
    assert "f.npz: infos has new_milestones that are no list of names; record it again" in shown
    assert "1 episodes, 3 steps" in shown and "trainable" not in shown


def test_a_log_alone_is_an_interrupted_recording(tmp_path, capsys):
    (tmp_path / "a.demo").touch()
    with pytest.raises(CleanPokeError, match="only logs of interrupted recordings"):
        inspect_data.main(inspect_data.Args(tmp_path))
    assert "tools/view_demo.py" in capsys.readouterr().out


# --- Continuous control


def test_continuous_control_is_counted(tmp_path, capsys):
    for number, length in enumerate((4, 10)):
        episode = some_episode(length, seed=number, player="random")
        episode.observations[:, 2] = 7.0
        episode.actions[:, 1] = np.linspace(-2, 1, length)
        episode.rewards[:] = 0.5
        save_control_episode(tmp_path / f"{number}.npz", episode)
    save_control_episode(tmp_path / "copy.npz", episode)
    inspect_data.main(inspect_data.Args(tmp_path))
    shown = capsys.readouterr().out
    for line in (
        "3 episodes, 24 steps",
        "environment Some-v0: 3 observed numbers, 2 in an action",
        "played by random (3)",
        "steps per episode: min 4, median 10, max 10",
        "return per episode: min 2.000, median 5.000, max 5.000",
        "2 were ended by the world, 1 were cut off",
        "observed numbers that never change: 2",
        "duplicates (same start, same actions): 1\n  1.npz = copy.npz: delete all but one",
    ):
        assert line in shown
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line}
    assert rows["1"][:3] == ["-2.000", "-0.500", "1.000"] and rows["1"][4] == "25.0%"
    assert shown.splitlines()[-1] == "trainable: yes"


def test_each_broken_episode_of_continuous_control_is_told_with_its_fix(tmp_path, capsys):
    for name, changes in (("b", {}), ("c", {"env_id": "Other-v0"}), ("d", {"num_inputs": 4}), ("e", {})):
        save_control_episode(tmp_path / f"{name}.npz", some_episode(**changes))
    columns = episode_files.read_npz(tmp_path / "e.npz")
    episode_files.write_npz(tmp_path / "e.npz", columns | {"rewards": columns["rewards"] * np.nan})
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(CleanPokeError, match="4 of 5 files cannot be used"):
        inspect_data.main(inspect_data.Args(tmp_path))
    shown = capsys.readouterr().out
    for line in (
        "a.npz is damaged or no episode: delete it",
        "c.npz was recorded with env_id Other-v0, not Some-v0: keep such episodes in another folder",
        "d.npz: observations have 4 numbers, those of the folder's first episode 3: keep such episodes",
        "e.npz: rewards has values that are not finite; record it again",
        "1 episodes, 5 steps",
    ):
        assert line in shown
    assert "trainable" not in shown


def test_an_empty_folder_names_both_collectors(tmp_path):
    with pytest.raises(CleanPokeError, match=r"collect_battles\.py .*collect_expert_data\.py"):
        inspect_data.main(inspect_data.Args(tmp_path))
