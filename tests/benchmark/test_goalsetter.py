"""The goal setter's benchmark: its options are the script's, intervals wide enough, claims can fail."""

import math

import goalsetter
import numpy as np
import pytest
import tyro
from common.intervals import half_width, mean_over_seeds, ratio_of_means
from goalsetter import STAGES, Args, failures, jobs_of, print_table

from cleanpoke import ppo_goalsetter_idm as script


@pytest.mark.parametrize("stage", STAGES)
def test_the_script_takes_the_options_of_every_run(stage, tmp_path):
    jobs = jobs_of(stage, Args(folder=tmp_path))
    for job in jobs:
        args = tyro.cli(script.Args, args=job.options)
        script.check(args)
        assert (args.env_id, args.seed) == (STAGES[stage].env_id, job.seed)
        assert args.seed not in (1, 2, 3)  # on which the defaults were chosen
    assert (
        len({job.folder for job in jobs}) == len(jobs) == STAGES[stage].seeds * len(STAGES[stage].contestants)
    )


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds):
    generator, means, ratios = np.random.default_rng(0), [], []
    for _ in range(2000):
        scores, reference = generator.normal(2000, 400, (2, seeds))
        means.append(abs(scores.mean() - 2000) < half_width(scores))
        _, low, high = ratio_of_means(scores, reference)
        ratios.append(low < 1 < high)
    assert np.mean(means) == pytest.approx(0.95, abs=0.02)
    assert 0.94 < np.mean(ratios) < 0.99


def test_one_seed_has_no_interval():
    assert mean_over_seeds([3.0]) == "3.0" and mean_over_seeds([1.0, 3.0]) == "2.0 ± 12.7"
    assert ratio_of_means(np.array([3.0]), np.array([2.0, 2.0])) == (1.5, 0.0, math.inf)
    assert half_width(np.array([[1.0, 2.0], [1.0, 4.0]])).tolist() == pytest.approx([0.0, 12.71])


def summary(scores: dict[str, list[float]], reference: list[float], **others: float) -> dict[str, dict]:
    other = {"greedy": 0.0, "decoded": None, "reach_r2": 0.7, "reach_corr": 0.9, "action_agreement": 0.9}
    other |= {"minutes": 1.0} | others
    rows = [
        {"contestant": name, "score": score, **other} for name, values in scores.items() for score in values
    ]
    return print_table("stage", rows, np.array(reference))


def test_claims_hold_and_fail():
    ppo, good = [2300.0, 2200.0, 2400.0], [2600.0, 2700.0, 2650.0]
    stage = {"hopper": summary({"ppo": ppo, "goal_setter": good}, ppo)}
    assert failures(stage) == []
    worse = summary({"ppo": ppo, "goal_setter": [1500.0, 2700.0, 2000.0]}, ppo, reach_r2=0.4)
    assert len(failures({"hopper": worse})) == 2
    assert failures({"hopper": summary({"ppo": ppo[:1], "goal_setter": good[:1]}, ppo[:1])})  # one seed: no
    slow = summary({"ppo": [900.0, 1000.0], "goal_setter": [3000.0, 3010.0]}, [900.0, 1000.0])
    assert ["CleanRL" in text for text in failures({"hopper": slow})] == [True]

    controls = {name: [1000.0, 900.0] for name in goalsetter.FLATLINES}
    assert failures({"controls": summary(controls, ppo)}) == []
    assert len(failures({"controls": summary(controls, [])})) == 2  # nothing to compare with
    assert len(failures({"controls": summary(dict.fromkeys(controls, [2000.0, 2100.0]), ppo)})) == 2

    transformer = summary({"transformer": good}, ppo)
    assert failures({"transformer": transformer})
    transformer["transformer"]["ratio_to_mlp"] = 0.97
    assert failures({"transformer": transformer}) == []
    assert failures({"speed": {"ratio": 1.2}}) and not failures({"speed": {"ratio": 1.4}})
