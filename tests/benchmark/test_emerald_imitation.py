"""The tables, bars and checks of Emerald's benchmark, on invented results: no run is started here."""

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanpoke.envs.emerald.core import MISSING_LIBRARY
from cleanpoke.errors import CleanPokeError

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)

import emerald_imitation as benchmark
from common import script_runs
from common.sources import version_of
from emerald_imitation import Args, bars_of, bc_name, label_counts, rows_of

from cleanpoke import bc_emerald

ALL = (5, 10, 25, 50)
LABELS_PER_DEMONSTRATION = 600


def evaluation(milestones: float, success: float, **more) -> dict:
    counts = [int(milestones + game % 2) for game in range(20)]
    shares = {f"reached_{name}": success for name in benchmark.NAMES}
    result = {"step": 7, "milestones": milestones, "success": success, "length": 700.0, "return": 3.0}
    return result | {"episodes": 20, "milestones_of_each": counts} | shares | more


def on_the_way(*successes: float) -> list[dict]:
    """An evaluation every 2,000 labels."""
    return [
        {"step": 2 * number, "labels": 2000 * number, "milestones": 20.0 * success, "success": success}
        for number, success in enumerate(successes, start=1)
    ]


def results(players=True, bc=ALL, dqn_bc=True, dqn=True, dagger=True) -> dict[str, list[dict]]:
    """Of two seeds; cloning plays like the expert from 25 demonstrations on, DAgger from 6,000 labels on."""
    found = {}
    if players:
        found[benchmark.EXPERT] = [{"seed": "-", **evaluation(21, 1.0)}]
        found[benchmark.RANDOM] = [{"seed": "-", **evaluation(2, 0.0)}]
    for seed in (1, 2):
        for count in bc:
            labels = count * LABELS_PER_DEMONSTRATION
            done = evaluation(20 if count >= 25 else 9, 0.95 if count >= 25 else 0.2, labels=labels)
            found.setdefault(bc_name(count), []).append({"seed": seed, **done})
        for name, is_wanted, milestones in ((benchmark.DQN_BC, dqn_bc, 15), (benchmark.DQN, dqn, 3)):
            if is_wanted:
                found.setdefault(name, []).append({"seed": seed, **evaluation(milestones, 0.3, labels=6000)})
        if dagger:
            done = evaluation(20, 0.9, labels=8000, on_the_way=on_the_way(0.1, 0.5, 0.95, 1.0))
            found.setdefault(benchmark.DAGGER, []).append({"seed": seed, **done})
    return found


@functools.lru_cache(maxsize=1)
def all_rows() -> dict:
    return rows_of(results())


@pytest.mark.parametrize("players, dqn_bc, dqn, dagger", list(itertools.product((False, True), repeat=4)))
@pytest.mark.parametrize("bc", [(), (5, 25), ALL])
def test_every_combination_of_stages_has_its_tables(players, bc, dqn_bc, dqn, dagger):
    rows = {name: all_rows()[name] for name in results(players, bc, dqn_bc, dqn, dagger)}
    counted = label_counts(rows, ALL, 20)
    assert benchmark.results_table(rows).count("\n") == 2 + len(rows)
    lines = benchmark.milestones_table(rows, ALL).split("\n")
    assert len(lines) == 3 + len(benchmark.NAMES)
    assert len({line.count("|") for line in lines[1:]}) == 1
    assert benchmark.labels_table(rows, counted, 20).count("\n") == 2 + 2 * dagger
    verdicts = list(bars_of(rows, counted).values())
    expected = (players and 50 in bc, dqn_bc and 10 in bc, dqn_bc and dqn, dagger and 50 in bc)
    assert verdicts == [True if is_judged else None for is_judged in expected]


def test_labels_to_the_experts_success():
    rows = all_rows()
    first, second = label_counts(rows, ALL, 20)
    assert (first.seed, second.seed) == (1, 2)
    assert first.in_full["labels"] == 8000 and first.within_one["labels"] == 6000
    assert first.cloning == (25, 25 * LABELS_PER_DEMONSTRATION)  # at 95%: within one game of 20
    assert first.most == 50 * LABELS_PER_DEMONSTRATION
    table = benchmark.labels_table(rows, [first], 20)
    assert "|1|8,000 (20.0)|6,000 (19.0)|90%|15,000 (25 demonstrations)|" in table
    assert "within one game of 20" in table


@pytest.mark.parametrize(
    "successes, clones, is_met",
    [
        ((0.5, 0.95), 0.95, True),
        ((0.5, 0.9), 0.95, False),  # two games short
        ((0.5,) * 7 + (1.0,), 0.95, False),  # 16,000 labels, cloning has 15,000
        ((0.5,) * 7 + (1.0,), 0.5, True),  # fewer than the 30,000 of the largest, which does not get there
        ((0.5,) * 15 + (1.0,), 0.5, False),
        ((), 0.95, False),
    ],
)
def test_dagger_must_need_fewer_labels_in_every_seed(successes, clones, is_met):
    found = results()
    found[benchmark.DAGGER][1]["on_the_way"] = on_the_way(*successes)
    for count in (25, 50):
        found[bc_name(count)][1]["success"] = clones
    rows = rows_of(found)
    counted = label_counts(rows, ALL, 20)
    assert counted[0].is_fewer and counted[1].is_fewer == is_met
    assert list(bars_of(rows, counted).values())[-1] == is_met


def test_an_expert_who_never_arrives_is_no_goal():
    found = results()
    found[benchmark.EXPERT] = [{"seed": "-", **evaluation(5, 0.0)}]
    found[benchmark.DAGGER][0]["on_the_way"] = on_the_way(0.0, 0.05)
    assert label_counts(rows_of(found), ALL, 20)[0].within_one["labels"] == 4000


def test_overlapping_intervals_miss_the_bar():
    found = results()
    for run in found[benchmark.DQN_BC]:
        run["milestones_of_each"] = found[bc_name(10)][0]["milestones_of_each"]
    rows = rows_of(found)
    assert list(bars_of(rows, label_counts(rows, ALL, 20)).values()) == [True, False, True, True]


def test_success_has_an_interval_over_games_and_seeds():
    row = all_rows()[bc_name(50)]
    assert benchmark.to_the_end(row["runs"][0]) == [1.0] * 19 + [0.0]
    assert 0.8 < row["success_low"] < row["success"] == 0.95 < row["success_high"] <= 1.0


def test_the_picture_is_drawn_for_what_is_there(tmp_path):
    pytest.importorskip("matplotlib")
    for number, found in enumerate((results(), results(players=False, bc=(5,), dqn=False, dqn_bc=False))):
        path = tmp_path / f"{number}.png"
        benchmark.draw(rows_of(found), ALL, path)
        assert path.stat().st_size > 5000
    benchmark.draw(rows_of(results(bc=())), ALL, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# --- The whole benchmark, with runs that are finished already ---------------------------------------------


def finish(args: Args) -> None:
    """Puts demonstrations and finished runs into the folder, as the scripts leave them."""
    data = benchmark.demonstrations_folders(args)
    for folder in data.values():
        folder.mkdir(parents=True)
        for number in range(benchmark.recorded_count(args)):
            (folder / f"episode_{number:05}.npz").touch()
    found = results()
    for run in benchmark.plan(args, data):
        script, folder, _ = run.job
        note = script_runs.described(run.job, version_of(script_runs.SCRIPTS / f"{script}.py"))
        (folder / "run").mkdir(parents=True)
        (folder / script_runs.RECORD).write_text(json.dumps({"folder": "run", "minutes": 20.0, **note}))
        done = found.get(run.name, [evaluation(9, 0.2, labels=1200)] * 2)[args.seeds.index(run.seed)]
        (folder / "run" / "evaluation.json").write_text(json.dumps(done))


def trained(tmp_path: Path, **changes) -> Args:
    stages = ("bc", "dqn_bc", "dqn", "dagger")
    args = Args(**{"folder": tmp_path / "bench", "stages": stages, "seeds": (1, 2), **changes})
    finish(args)
    return args


def test_finished_runs_are_reported(tmp_path, capsys):
    args = trained(tmp_path)
    benchmark.main(args)
    output = capsys.readouterr().out
    summary = json.loads(output.strip().split("\n")[-1])
    assert summary["passed"] is True and list(summary["bars"].values()) == [None, True, True, True]
    assert [one["seed"] for one in summary["labels_to_the_expert"]] == [1, 2]
    assert f"not judged {bc_name(50)}" in output and "`STONE_BADGE`" in output
    args.check = True
    with pytest.raises(SystemExit):  # a bar that was not judged is none that was met
        benchmark.main(args)


def test_without_a_bar_nothing_is_passed(tmp_path, capsys):
    benchmark.main(trained(tmp_path, stages=("bc",), demonstrations=(2,)))
    assert json.loads(capsys.readouterr().out.strip().split("\n")[-1])["passed"] is None


def test_conflicts_stop_before_anything_is_recorded(tmp_path):
    args = trained(tmp_path, stages=("bc", "dagger"), seeds=(1,))
    data = benchmark.demonstrations_folders(args)[1]
    data.rename(tmp_path / "aside")
    args.minutes = 5.0
    with pytest.raises(CleanPokeError, match=r"\(and 4 more\) holds a run of other options"):
        benchmark.main(args)
    assert not data.exists()


def test_demonstrations_of_another_version_or_too_few_are_refused(tmp_path):
    args = Args(folder=tmp_path, seeds=(1,))
    folder = benchmark.demonstrations_folders(args)[1]
    (tmp_path / "demonstrations_10_0123").mkdir()  # of another seed
    folder.mkdir()
    for number in range(54):
        (folder / f"{number}.npz").touch()
    with pytest.raises(CleanPokeError, match="holds 54 demonstrations, 55 are needed"):
        benchmark.demonstrations_folders(args)
    (folder / "54.npz").touch()
    assert benchmark.demonstrations_folders(args) == {1: folder}
    for name in ("demonstrations_1", "demonstrations_1_0123"):
        (tmp_path / name).mkdir()
        with pytest.raises(CleanPokeError, match="another version of the expert.*another --folder"):
            benchmark.demonstrations_folders(args)
        (tmp_path / name).rmdir()


@pytest.mark.parametrize("changes", [{"stages": ("cloning",)}, {"demonstrations": (0, 5)}, {"seeds": ()}])
def test_arguments_that_make_no_sense_are_refused(tmp_path, changes):
    with pytest.raises(CleanPokeError):
        benchmark.main(Args(folder=tmp_path, **changes))


# --- Players and speed ------------------------------------------------------------------------------------


def test_random_buttons_differ_from_game_to_game():
    player, games = benchmark.RandomPlayer(), []
    for _ in range(3):
        player.begin()
        games.append(tuple(player.get_action(np.zeros(1), {}) for _ in range(50)))
    assert len(set(games)) == 3 and len(set(games[0])) == 10


def small_data() -> bc_emerald.Data:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (12, 3, 24, 24), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (12,), generator=generator)
    return bc_emerald.Data(pictures, labels, torch.zeros_like(labels), torch.zeros_like(labels))


SMALL = {"height": 24, "width": 24, "hidden": 16, "batch_size": 4, "threads": 1}


def test_both_ways_learn_the_same():
    args = bc_emerald.Args(**SMALL, bf16="off", learning_rate=1e-3)
    ours, plain = (
        torch.stack([next(steps) for _ in range(8)])
        for steps in (benchmark.updates(small_data(), args, is_plain) for is_plain in (False, True))
    )
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("is_plain", [False, True])
def test_both_ways_are_timed_and_profiled(is_plain):
    args, data = bc_emerald.Args(**SMALL), small_data()
    steps = benchmark.warm(benchmark.updates(data, args, is_plain))
    assert benchmark.samples_per_second(steps, args.batch_size, seconds=0.05) > 0
    operators = benchmark.costliest(steps, 3)
    shares = [share for _, _, share in operators]
    assert len(operators) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert any("conv" in name for name, _, _ in operators)
