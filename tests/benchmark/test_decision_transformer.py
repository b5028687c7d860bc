"""The benchmark of the Decision Transformer: its runs take their options; its table is what they returned."""

from pathlib import Path

import decision_transformer
import tyro
from common.script_runs import FinishedRun
from decision_transformer import Args

from cleanpoke import dt

TARGETS = ["800.0", "400.0", "200.0"]


def test_the_script_takes_the_options_of_every_run(tmp_path):
    args = Args(folder=tmp_path, encoder_path=tmp_path / "policy" / "encoder.pt2", seeds=(1, 2))
    jobs = decision_transformer.planned(args, tmp_path / "data", TARGETS)
    assert len({folder for _, folder, _ in jobs.values()}) == len(jobs) == 8
    asked = set()
    for (_, seed), (script, _, options) in jobs.items():
        parsed = tyro.cli(dt.Args, args=[str(option) for option in options])
        dt.check(parsed)
        assert (script, parsed.seed, parsed.data) == ("dt", seed, tmp_path / "data")
        assert parsed.encoder_path == args.encoder_path
        assert not [option for option in options if isinstance(option, str) and str(tmp_path) in option]
        asked.add((parsed.condition, parsed.eval_goal, parsed.target_return))
    expected = {("return", "dataset", (800.0, 400.0, 200.0)), ("none", "dataset", ())}
    assert asked == expected | {("goal", "dataset", ()), ("goal", "stack", ())}


def finished(**means: float) -> FinishedRun:
    return FinishedRun(Path("run"), 2.0, {name: {"mean": mean} for name, mean in means.items()})


def test_the_table_has_each_seed_and_intervals_over_seeds(capsys):
    runs = {
        ("return", 1): finished(return_at_800=700.0, return_at_400=450.0, return_at_200=300.0),
        ("return", 2): finished(return_at_800=720.0, return_at_400=410.0, return_at_200=200.0),
        ("none", 1): finished(**{"return": 400.0}),
        ("none", 2): finished(**{"return": 420.0}),
    }
    rows = decision_transformer.rows_of(runs, TARGETS, (1, 2))
    decision_transformer.print_table(rows)
    lines = capsys.readouterr().out.splitlines()
    # 10 sqrt(2) / sqrt(2) times Student's 12.71
    assert lines[-4] == "|return at 800|700.0 / 720.0|710.0 ± 127.1|2.0|"
    assert lines[-1] == "|none|400.0 / 420.0|410.0 ± 127.1|2.0|"
    assert decision_transformer.is_passed(rows)
    runs["return", 2].evaluation["return_at_200"]["mean"] = 721.0
    assert not decision_transformer.is_passed(decision_transformer.rows_of(runs, TARGETS, (1, 2)))
