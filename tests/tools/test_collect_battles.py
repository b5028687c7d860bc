"""The collector: a folder that can be trained on, appended to, and one clear line for each mistake."""

import importlib.util
from pathlib import Path

import pytest

from cleanpoke.envs.showdown.battle_files import read_folder
from cleanpoke.errors import CleanPokeError

SCRIPT = Path(__file__).parents[2] / "tools" / "collect_battles.py"
spec = importlib.util.spec_from_file_location("collect_battles", SCRIPT)
collect_battles = importlib.util.module_from_spec(spec)
spec.loader.exec_module(collect_battles)


def test_collects_both_points_of_view_and_appends_only_when_told(tmp_path):
    args = collect_battles.Args(battles=4, players=("tactician", "simple_heuristics"), data_dir=tmp_path)
    collect_battles.main(args)
    battles = read_folder(tmp_path, verify=True)
    assert len(battles.trajectories) == 8 and len(set(battles.trajectories["battle"])) == 4
    assert set(battles.player_names) == {"tactician", "simple_heuristics"}
    with pytest.raises(CleanPokeError, match="add --append"):
        collect_battles.main(args)
    args.append, args.seed = True, 2
    collect_battles.main(args)
    assert len(read_folder(tmp_path).trajectories) == 16


def test_mistakes_are_told_before_anything_is_played(tmp_path):
    for changes, message in (
        ({"players": ("tacticain",)}, "did you mean 'tactician'"),
        ({"players": ("checkpoint:nowhere.pt",)}, "nowhere.pt"),
        ({"gen": 9, "tier": "ubers"}, "gen9ou"),
        ({"battles": 0}, "at least 1"),
    ):
        args = collect_battles.Args(**({"battles": 2, "data_dir": tmp_path / "new"} | changes))
        with pytest.raises(CleanPokeError, match=message):
            collect_battles.main(args)
    assert not (tmp_path / "new").exists()
