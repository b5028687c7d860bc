"""Battle files: what is written is read back, nothing wrong is read, nothing complete is lost."""

import errno
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cleanpoke.envs.showdown import battle_files, encoder
from cleanpoke.envs.showdown.battle_files import (
    COLUMNS,
    BattleFileError,
    ShardWriter,
    Trajectory,
    folder_lock,
    read_folder,
)


def example_trajectory(
    generator: np.random.Generator, battle: int, side: int, outcome: int, *, length: int = 0, truncated=False
) -> Trajectory:
    """A trajectory with random arrays in range; `length` 0 means a random one."""
    players = ("careful", "rash")
    trajectory = Trajectory(battle, 1000 + battle, side, players[side], players[1 - side])
    length = length or int(generator.integers(1, 40))
    for step in range(length):
        legal = generator.random(encoder.NUM_ACTIONS) < 0.5
        legal[generator.integers(encoder.NUM_ACTIONS)] = True
        trajectory.add_decision(
            generator.integers(0, encoder.VOCABULARY_SIZE, encoder.NUM_WORDS),
            generator.normal(size=encoder.NUM_NUMBERS),
            legal,
            int(generator.choice(np.flatnonzero(legal))),
        )
        trajectory.add_reward(*generator.normal(size=3), outcome if step == length - 1 else 0)
    trajectory.finish(outcome, turns=length, truncated=truncated)
    return trajectory


def example_battle(generator: np.random.Generator, battle: int) -> list[Trajectory]:
    """Both points of view; player "careful" wins two of three battles."""
    outcome = -1 if battle % 3 == 0 else 1
    return [example_trajectory(generator, battle, side, outcome * (1 - 2 * side)) for side in (0, 1)]


def write_battles(folder: Path, num_battles: int = 12, first: int = 0, **options) -> list[Trajectory]:
    """Write `num_battles` battles and return their trajectories."""
    generator = np.random.default_rng(first)
    trajectories = []
    with ShardWriter(folder, "gen1ou", **options) as writer:
        for battle in range(first, first + num_battles):
            for trajectory in example_battle(generator, battle):
                writer.add(trajectory)
                trajectories.append(trajectory)
    return trajectories


def only_shard(folder: Path) -> Path:
    (shard,) = folder.glob("shard_*")
    return shard


def change_meta(shard: Path, **changes) -> None:
    meta = json.loads((shard / "meta.json").read_text())
    (shard / "meta.json").write_text(json.dumps(meta | changes))


def test_what_is_written_is_read_back(tmp_path):
    written = write_battles(tmp_path, 30, decisions_per_shard=200)
    battles = read_folder(tmp_path, verify=True)

    assert len(battles.shards) > 1
    assert battles.format == "gen1ou"
    assert battles.total_decisions == sum(len(trajectory.action) for trajectory in written)
    by_key = {(trajectory.battle, trajectory.side): trajectory for trajectory in written}
    assert len(battles.trajectories) == len(by_key)
    for index, row in enumerate(battles.trajectories):
        trajectory = by_key[row["battle"], row["side"]]
        assert battles.player_names[row["player"]] == trajectory.player
        assert battles.player_names[row["opponent"]] == trajectory.opponent
        for name in ("seed", "outcome", "turns", "team"):
            assert row[name] == getattr(trajectory, name)
        decisions = battles.decisions(index)
        assert list(decisions) == list(COLUMNS)
        for name, expected in trajectory.columns().items():
            np.testing.assert_array_equal(decisions[name], expected)
            assert decisions[name].dtype == COLUMNS[name][0]


def test_large_columns_stay_on_disk_and_nothing_can_be_written_through(tmp_path):
    write_battles(tmp_path)
    columns = read_folder(tmp_path).shards[0]
    for name, column in columns.items():
        assert isinstance(column.base, np.memmap) == (name in battle_files.MAPPED_COLUMNS)
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_both_points_of_view_of_a_battle_share_a_shard(tmp_path):
    write_battles(tmp_path, 30, decisions_per_shard=50)
    trajectories = read_folder(tmp_path).trajectories
    shards_of = {}
    for row in trajectories:
        shards_of.setdefault(row["battle"], set()).add(row["shard"])
    assert len({shard for shards in shards_of.values() for shard in shards}) > 3
    assert all(len(shards) == 1 for shards in shards_of.values())


def test_appending_keeps_what_is_there_and_merges_player_names(tmp_path):
    write_battles(tmp_path, 5)
    generator = np.random.default_rng(0)
    stranger = example_trajectory(generator, 99, 0, 1)
    stranger.player, stranger.opponent = "stranger", "rash"
    with ShardWriter(tmp_path, "gen1ou") as writer:
        writer.add(stranger)
    battles = read_folder(tmp_path)
    assert len(battles.trajectories) == 11
    assert sorted(battles.player_names) == ["careful", "rash", "stranger"]
    (row,) = battles.trajectories[battles.trajectories["battle"] == 99]
    assert battles.player_names[row["player"]] == "stranger"
    assert battles.player_names[row["opponent"]] == "rash"


def test_dropped_battles_are_counted(tmp_path):
    with ShardWriter(tmp_path, "gen1ou") as writer:
        writer.drop("worker_died")
        writer.drop("worker_died")
    with pytest.raises(BattleFileError, match="holds no battles .dropped: 2 worker_died.*collect"):
        read_folder(tmp_path)
    write_battles(tmp_path, 1)
    assert read_folder(tmp_path).dropped == {"worker_died": 2}


def test_truncation_is_not_termination(tmp_path):
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path, "gen1ou") as writer:
        writer.add(example_trajectory(generator, 1, 0, 0, length=3, truncated=True))
        writer.add(example_trajectory(generator, 2, 0, 1, length=3))
    battles = read_folder(tmp_path, verify=True)
    assert battles.decisions(0)["truncated"].tolist() == [False, False, True]
    assert not battles.decisions(0)["terminated"].any()
    assert battles.decisions(1)["terminated"].tolist() == [False, False, True]
    assert not battles.decisions(1)["truncated"].any()


def test_held_out_split_is_by_battle_and_does_not_move_when_battles_are_added(tmp_path):
    write_battles(tmp_path, 400)
    before = read_folder(tmp_path)
    held_out = set(before.trajectories["battle"][before.held_out(0.2)])
    assert 40 < len(held_out) < 120
    assert np.isin(before.trajectories["battle"], list(held_out)).sum() == 2 * len(held_out)
    write_battles(tmp_path, 5, first=400)
    after = read_folder(tmp_path)
    old = after.trajectories["battle"] < 400
    assert set(after.trajectories["battle"][old & after.held_out(0.2)]) == held_out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.action.__setitem__(1, 13), "action out of range"),
        (lambda t: t.action.__setitem__(1, -2), "action out of range"),
        (lambda t: t.legal[1].__setitem__(t.action[1], False), "is illegal at decision 1|no legal action"),
        (lambda t: t.legal[1].fill(False), "no legal action at decision 1"),
        (lambda t: t.numbers[1].__setitem__(0, np.nan), "numbers that are not finite"),
        (lambda t: t.numbers[1].__setitem__(0, np.inf), "numbers that are not finite"),
        (lambda t: t.words[1].__setitem__(0, -1), "word out of range"),
        (lambda t: t.words[1].__setitem__(0, encoder.VOCABULARY_SIZE), "word out of range"),
        (lambda t: t.reward_terms.__setitem__(1, (np.inf, 0, 0, 0)), "reward terms that are not finite"),
        (lambda t: t.reward_terms.__setitem__(1, (0, 0, 0, 1)), "outcome 1, but the outcome rewards are"),
        (lambda t: t.reward_terms.pop(), "3 actions but 3 observations and 2 rewards"),
        (lambda t: t.finish(-1, turns=3), "outcome -1, but the outcome rewards are"),
        (lambda t: t.finish(1, turns=3, truncated=True), "outcome 1 of a truncated battle"),
        (lambda t: t.action.clear(), "length 0"),
    ],
)
def test_impossible_trajectory_is_refused_and_the_others_are_kept(tmp_path, spoil, message):
    generator = np.random.default_rng(0)
    wrong = example_trajectory(generator, 7, 0, 1, length=3)
    spoil(wrong)
    with pytest.raises(BattleFileError, match=message), ShardWriter(tmp_path, "gen1ou") as writer:
        writer.add(example_trajectory(generator, 6, 0, 1))
        writer.add(wrong)
    assert read_folder(tmp_path, verify=True).trajectories["battle"].tolist() == [6]


def test_missing_action_is_allowed(tmp_path):
    trajectory = example_trajectory(np.random.default_rng(0), 7, 0, 1, length=3)
    trajectory.action[1] = battle_files.MISSING_ACTION
    trajectory.legal[1][-1] = False
    trajectory.legal[1][0] = True
    with ShardWriter(tmp_path, "gen1ou") as writer:
        writer.add(trajectory)
    assert read_folder(tmp_path, verify=True).decisions(0)["action"][1] == -1


def test_impossible_values_on_disk_are_found(tmp_path):
    """A shard of another program, right in form (sizes and CRCs agree) but with an illegal action."""
    write_battles(tmp_path)
    shard = only_shard(tmp_path)
    legal = np.load(shard / "legal.npy")
    legal[0] = ~legal[0]
    np.save(shard / "legal.npy", legal)
    files = json.loads((shard / "meta.json").read_text())["files"]
    files["legal.npy"]["crc32"] = battle_files.zlib.crc32((shard / "legal.npy").read_bytes())
    change_meta(shard, files=files)
    read_folder(tmp_path)
    with pytest.raises(BattleFileError, match="illegal at decision 0|no legal action"):
        read_folder(tmp_path, verify=True)


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(BattleFileError, match="there is no folder .*absent: collect battles with"):
        read_folder(tmp_path / "absent")
    with pytest.raises(BattleFileError, match="holds no battles: collect battles with"):
        read_folder(tmp_path)
    (tmp_path / "file").write_bytes(b"\x00")
    with pytest.raises(BattleFileError, match="is a file, not a folder of battles"):
        read_folder(tmp_path / "file")


EMPTY_RECORD = {
    "id": "game_0_0",
    "log": "",
    "winner": "",
    "players": [],
    "format": "gen9ou",
    "endType": "normal",
}


@pytest.mark.parametrize("shape", ["record", "list", "lines"])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_record_with_an_empty_log_is_refused(tmp_path, shape, suffix):
    text = {
        "record": json.dumps(EMPTY_RECORD),
        "list": json.dumps([EMPTY_RECORD]),
        "lines": json.dumps(EMPTY_RECORD) + "\n" + json.dumps(EMPTY_RECORD) + "\n",
    }[shape]
    path = tmp_path / f"games{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    for given in (path, tmp_path):
        with pytest.raises(BattleFileError, match=r"records have an empty log .*'game_0_0'.*collect battles"):
            read_folder(given)
    write_battles(tmp_path, 1)
    with pytest.raises(BattleFileError, match="empty log"):
        read_folder(tmp_path)


def test_replay_log_is_no_shard(tmp_path):
    (tmp_path / "replay.json").write_text(json.dumps(EMPTY_RECORD | {"log": "|start"}))
    with pytest.raises(BattleFileError, match="holds replay logs, not battle files"):
        read_folder(tmp_path)


def test_other_json_files_do_not_matter(tmp_path):
    write_battles(tmp_path, 1)
    (tmp_path / "evaluation.json").write_text('{"battles": 3}')
    (tmp_path / "broken.json").write_text("{")
    assert len(read_folder(tmp_path).trajectories) == 2


def test_other_schema_is_named_with_the_fix(tmp_path):
    write_battles(tmp_path)
    change_meta(only_shard(tmp_path), schema="0ther")
    for action in (lambda: read_folder(tmp_path), lambda: ShardWriter(tmp_path, "gen1ou")):
        message = f"schema 0ther .*reads schema {encoder.SCHEMA} .*collect new battles into another folder"
        with pytest.raises(BattleFileError, match=message):
            action()


def test_other_format_is_refused_by_the_writer_and_the_reader(tmp_path):
    write_battles(tmp_path)
    with pytest.raises(BattleFileError, match="holds gen1ou battles: choose another folder for gen9ou"):
        ShardWriter(tmp_path, "gen9ou")
    first = only_shard(tmp_path)
    write_battles(tmp_path, first=100)
    change_meta(first, format="gen9ou")
    with pytest.raises(BattleFileError, match="mixes the formats gen1ou, gen9ou"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", [*COLUMNS, "trajectories"])
def test_flipped_byte_is_found(tmp_path, name):
    write_battles(tmp_path)
    path = only_shard(tmp_path) / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    if name in battle_files.MAPPED_COLUMNS:
        read_folder(tmp_path)
    message = rf"corrupt shard .*: {name}.npy has changed since it was written \(CRC32\); delete this shard"
    with pytest.raises(BattleFileError, match=message):
        read_folder(tmp_path, verify=name in battle_files.MAPPED_COLUMNS)


@pytest.mark.parametrize("name", [*COLUMNS, "trajectories"])
def test_truncated_file_is_found(tmp_path, name):
    write_battles(tmp_path)
    path = only_shard(tmp_path) / f"{name}.npy"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BattleFileError, match=rf"corrupt shard .*: {name}.npy has \d+ bytes instead of \d+"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in COLUMNS), "trajectories.npy", "meta.json"])
def test_missing_file_is_found(tmp_path, name):
    write_battles(tmp_path)
    (only_shard(tmp_path) / name).unlink()
    with pytest.raises(BattleFileError, match=f"corrupt shard .*: {name} is missing"):
        read_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_broken_meta_is_found(tmp_path, content):
    write_battles(tmp_path)
    (only_shard(tmp_path) / "meta.json").write_bytes(content)
    with pytest.raises(BattleFileError, match="corrupt shard .*: meta.json cannot be read"):
        read_folder(tmp_path)


def test_two_writers_on_one_folder_are_refused_until_the_first_ends(tmp_path):
    with ShardWriter(tmp_path, "gen1ou") as writer:
        writer.add(example_trajectory(np.random.default_rng(0), 1, 0, 1))
        with pytest.raises(BattleFileError, match="another program writes battles into .*wait for its end"):
            ShardWriter(tmp_path, "gen1ou")
    write_battles(tmp_path, 1, first=50)
    assert len(read_folder(tmp_path, verify=True).trajectories) == 3


def test_writers_of_one_group_share_the_lock_of_their_parent(tmp_path):
    with folder_lock(tmp_path):
        write_battles(tmp_path, 2, lock=False)
        write_battles(tmp_path, 2, first=10, lock=False)
        with pytest.raises(BattleFileError, match="another program writes battles"):
            ShardWriter(tmp_path, "gen1ou")
    assert len(read_folder(tmp_path).trajectories) == 8


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BattleFileError, match="cannot write into .*choose another folder"):
        ShardWriter(tmp_path / "file" / "battles", "gen1ou")


def run_python(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_full_disk_keeps_the_complete_shards_and_says_so(tmp_path):
    """The system refuses files above 300 kB: a small shard fits, the next, larger one does not."""
    code = """
import resource, sys
import numpy as np
from cleanpoke.envs.showdown.battle_files import ShardWriter
from cleanpoke.errors import CleanPokeError
from tests.envs.showdown.test_battle_files import example_battle
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
generator = np.random.default_rng(0)
try:
    with ShardWriter(sys.argv[1], "gen1ou") as writer:
        for trajectory in example_battle(generator, 1):
            writer.add(trajectory)
        writer.flush()
        for battle in range(2, 60):
            for trajectory in example_battle(generator, battle):
                writer.add(trajectory)
except CleanPokeError as error:
    sys.exit(f"error: {error}")
"""
    process = run_python(code, tmp_path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(
        r"error: disk full while writing 116 trajectories into .*: the shards written before \(1\) are "
        r"complete; free some space and collect the rest with --append\n",
        stderr,
    )
    assert len(read_folder(tmp_path, verify=True).trajectories) == 2
    assert not list(tmp_path.glob(".partial_*"))
    write_battles(tmp_path, 1, first=100)
    assert len(read_folder(tmp_path, verify=True).trajectories) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_named_as_such(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True, timeout=10
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with (
            pytest.raises(BattleFileError, match="disk full while writing") as caught,
            ShardWriter(tmp_path, "gen1ou", decisions_per_shard=300) as writer,
        ):
            generator = np.random.default_rng(0)
            for battle in range(300):
                for trajectory in example_battle(generator, battle):
                    writer.add(trajectory)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert len(read_folder(tmp_path, verify=True).trajectories) == writer.num_trajectories > 0
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True, timeout=10)


def test_killed_writer_leaves_complete_shards_and_its_rest_is_cleared(tmp_path):
    code = """
import itertools, sys
import numpy as np
from cleanpoke.envs.showdown.battle_files import ShardWriter
from tests.envs.showdown.test_battle_files import example_battle
generator = np.random.default_rng(0)
with ShardWriter(sys.argv[1], "gen1ou", decisions_per_shard=100) as writer:
    for battle in itertools.count():
        for trajectory in example_battle(generator, battle):
            writer.add(trajectory)
        print(writer.num_shards, flush=True)
"""
    process = run_python(code, tmp_path)
    for line in process.stdout:
        if int(line) >= 3:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    # Wherever the kill fell, this is what one in the middle of a shard leaves.
    partial = tmp_path / ".partial_shard_half"
    partial.mkdir()
    (partial / "words.npy").write_bytes(b"half")

    survivors = read_folder(tmp_path, verify=True)
    assert len(survivors.shards) >= 3
    write_battles(tmp_path, 1, first=10_000)
    assert not partial.exists()
    assert len(read_folder(tmp_path, verify=True).trajectories) == len(survivors.trajectories) + 2


def test_interrupted_writer_writes_what_is_complete(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "gen1ou") as writer:
        writer.add(example_trajectory(np.random.default_rng(0), 1, 0, 1))
        raise KeyboardInterrupt
    assert len(read_folder(tmp_path, verify=True).trajectories) == 1
