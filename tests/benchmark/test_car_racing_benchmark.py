"""The benchmark of car racing: the scripts take the options of every run; tables say what was reached."""

import car_racing
import pytest
import tyro
from car_racing import Args

from cleanpoke import ppo_carracing, ppo_goalsetter_idm
from cleanpoke.errors import CleanPokeError


def test_the_scripts_take_the_options_of_every_run(tmp_path):
    args = Args(folder=tmp_path, seeds=(1, 7))
    worlds = {seed: car_racing.world_of(tmp_path / f"policy_{seed}", seed) for seed in args.seeds}
    data = {seed: tmp_path / f"data_{seed}" for seed in args.seeds}
    stages = (
        (ppo_carracing, car_racing.pixel_policies(args, ()), 1),
        (ppo_goalsetter_idm, car_racing.clones(args, worlds, data), 2),
        (ppo_goalsetter_idm, car_racing.goal_setters(args, worlds, data, car_racing.SIDE_BY_SIDE), 5),
    )
    for script, jobs, kinds in stages:
        assert len(jobs) == kinds * 2
        for (name, seed), (called, options) in jobs.items():
            parsed = tyro.cli(script.Args, args=[str(option) for option in options])
            script.check(parsed)
            assert called == script.SCRIPT and parsed.seed == seed
            if script is ppo_goalsetter_idm:
                assert parsed.encoder_path == tmp_path / f"policy_{seed}" / "encoder.pt2"
                assert parsed.data in ((data[seed],) if "from the clone" in name else (None, data[seed]))
            # What lies in the benchmark's folder moves with it: it is given as a path.
            assert not [option for option in options if isinstance(option, str) and str(tmp_path) in option]
    idms, goals = stages[1][1], stages[2][1]
    for name in car_racing.IDMS:
        saved, loaded = idms[name, 7][1], goals[f"{name}, from the clone", 7][1]
        assert saved[saved.index("--save-idm") + 1] == loaded[loaded.index("--load-idm") + 1]


def scores_of(stage: str, name: str, greedy: list[float], sampled: list[float]) -> list[dict]:
    return [
        {"stage": stage, "name": name, "seed": seed, "minutes": 10.0 * seed}
        | {"greedy": {"mean": one, "interval": 0.1}, "sampled": {"mean": other, "interval": 0.1}}
        for seed, (one, other) in enumerate(zip(greedy, sampled, strict=True), 1)
    ]


POLICIES = scores_of("policy", "PPO", [400.0, 500.0, 600.0], [300.0, 400.0, 500.0])


def test_the_table_has_each_seed_and_intervals_over_seeds(capsys):
    goals = scores_of("goal_setter", "PPO without goals", [50.0], [40.0])
    car_racing.print_table(POLICIES)
    lines = capsys.readouterr().out.splitlines()
    # 100 / sqrt(3) times Student's 4.30
    assert lines[-1] == (
        "|policy|PPO|400.0 / 500.0 / 600.0|500.0 ± 248.3|300.0 / 400.0 / 500.0|400.0 ± 248.3|30.0|"
    )
    car_racing.print_table(POLICIES + goals)
    shown = capsys.readouterr().out
    assert "|goal_setter|PPO without goals|50.0|50.0|40.0|40.0|10.0|" in shown
    assert "PPO without goals has seen none" in shown
    widths = {line.count("|") for line in shown.splitlines() if line.startswith("|")}
    assert widths == {8}


def test_policies_and_clones_below_their_bars_fail():
    clones = scores_of("idm", "transformer", [150.0, 210.0, 250.0], [0.0, 0.0, 0.0])
    poor = scores_of("idm", "as GCSL", [-50.0] * 3, [-50.0] * 3)
    assert car_racing.is_passed(POLICIES) and car_racing.is_passed(POLICIES + clones + poor)
    slow = scores_of("policy", "PPO", [400.0, 299.0, 600.0], [300.0, 400.0, 500.0])
    assert not car_racing.is_passed(slow)
    clones[2]["greedy"]["mean"] = 249.0  # its policy drives 500
    assert not car_racing.is_passed(POLICIES + clones)


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"seeds": ()}])
def test_nothing_to_measure_is_told_in_one_line(changes, tmp_path):
    with pytest.raises(CleanPokeError, match="--rounds must be at least 1, and --seeds name one at least"):
        car_racing.main(Args(folder=tmp_path, **changes))
