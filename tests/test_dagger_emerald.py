"""DAgger: the expert labels what the learner meets, nothing is lost, and it learns to play."""

import contextlib
import dataclasses
import json
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanpoke.envs.emerald.core import MISSING_LIBRARY
from cleanpoke.errors import CleanPokeError

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)

from cleanpoke import dagger_emerald
from cleanpoke.dagger_emerald import Args, Labelled, Network, Player, roll_out
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.playing import record_demonstrations, small_pictures
from cleanpoke.envs.emerald.tiny_town.expert import Expert
from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv
from cleanpoke.run import load_checkpoint


def small(runs: Path, **changes) -> Args:
    options = {"runs": runs, "batch_size": 8, "hidden": 16, "height": 24, "width": 24, "num_envs": 2}
    options |= {"iterations": 3, "steps_per_iteration": 20, "updates_per_iteration": 5, "eval_episodes": 0}
    options |= {"bf16": "off", "threads": 1, "max_minutes": float("inf")}
    return Args(**options | changes)


class Follower:
    """Stands in for the learner: presses one button and remembers what it saw."""

    def __init__(self, button: int):
        self.button, self.seen = button, []

    def choose(self, pictures: np.ndarray) -> np.ndarray:
        self.seen.append(pictures)
        return np.full(len(pictures), self.button)


@pytest.mark.parametrize(("beta", "is_expert"), [(1.0, True), (0.0, False)])
def test_the_expert_labels_and_beta_decides_who_plays(tmp_path, monkeypatch, beta, is_expert):
    monkeypatch.setattr(dagger_emerald, "NOISE", 0.0)
    args, learner = small(tmp_path), Follower(button=9)
    envs, other = (EmeraldVectorEnv(2, variant="random", max_steps=50) for _ in range(2))
    games = roll_out(envs, [Expert(), Expert()], learner, args, seed=3)
    pictures, labels, agreement = next(games)
    screens, infos = other.reset(seed=3)
    expert = Expert()
    for _ in range(60):  # a new game begins on the way
        assert (pictures == small_pictures(screens, args.height, args.width)).all()
        row = [{name: infos[name][env] for name in infos if name[0] != "_"} for env in range(2)]
        wanted = np.array([expert.get_action(screens[env], row[env]) for env in range(2)])
        assert (labels == wanted).all() and agreement == (wanted == 9).mean()
        screens, _, _, _, infos = other.step(wanted if is_expert else np.array([9, 9]))
        pictures, labels, agreement = games.send(beta)
    assert (learner.seen[-1] == pictures).all()
    envs.close()
    other.close()


class Remembering:
    """An expert who knows how long it has played, and presses A."""

    def __init__(self) -> None:
        self.games: list[list[int]] = []

    def begin(self) -> None:
        self.games.append([])

    def get_action(self, observation: np.ndarray, info: dict) -> int:
        self.games[-1].append(info["steps"])
        return 0


def test_each_game_has_an_expert_of_its_own_who_is_told_when_it_begins(tmp_path):
    experts = [Remembering(), Remembering()]
    with contextlib.closing(EmeraldVectorEnv(2, max_steps=3)) as envs:
        games = roll_out(envs, experts, Follower(button=9), small(tmp_path), seed=1)
        next(games)
        for _ in range(5):
            games.send(0.5)
    assert [expert.games for expert in experts] == [[[0, 1, 2, 3], [0, 1]]] * 2


@pytest.mark.parametrize("answer", [12, -1, "UP", None, 1.0])
def test_an_answer_that_is_no_button_is_told_in_one_line(answer):
    expert = types.SimpleNamespace(get_action=lambda observation, info: answer)
    with pytest.raises(CleanPokeError, match=f"get_action answered {answer!r}: .* 0 … 9"):
        demos.button_of(expert, np.zeros(0), {}, 10)
    expert.get_action = lambda observation, info: np.int64(9)
    assert demos.button_of(expert, np.zeros(0), {}, 10) == 9


SLOW = """
import os, signal, time

class Slow:
    calls = 0

    def get_action(self, observation, info):
        Slow.calls += 1
        time.sleep(0.02)
        {then}
        return Slow.calls % 10
"""


def labels_in(run: Path) -> list[np.ndarray]:
    return [np.load(path)["labels"] for path in sorted((run / "labelled").iterdir())]


@pytest.mark.parametrize(
    "then", ["if Slow.calls == 6: os.kill(os.getpid(), signal.SIGINT)", "if Slow.calls == 6: return 99"]
)
def test_what_the_expert_said_outlives_ctrl_c_and_its_own_faults(tmp_path, then):
    (tmp_path / "slow.py").write_text(SLOW.format(then=then))
    args = small(tmp_path, expert=f"{tmp_path}/slow.py:Slow", num_envs=1, iterations=1)
    with contextlib.suppress(CleanPokeError):
        dagger_emerald.main(args)
    (run,) = tmp_path.glob("dagger_emerald__*")
    (before,) = labels_in(run)
    assert before.tolist() == [1, 2, 3, 4, 5] and not load_checkpoint(run).step
    dagger_emerald.main(dataclasses.replace(args, expert="scripted", resume=run))
    (after,) = labels_in(run)
    assert len(after) == 20 and (after[:5] == before).all() and load_checkpoint(run).step == 1


def test_the_time_limit_holds_while_the_expert_thinks(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.format(then="pass"))
    args = small(tmp_path, expert=f"{tmp_path}/slow.py:Slow", steps_per_iteration=10_000, max_minutes=0.01)
    began = time.monotonic()
    dagger_emerald.main(args)
    assert time.monotonic() - began < 60
    (run,) = tmp_path.glob("dagger_emerald__*")
    assert load_checkpoint(run).step == 1 and 0 < len(labels_in(run)[0]) < 100


def test_labelled_screens_come_back_from_their_files(tmp_path):
    data = Labelled(tmp_path / "labelled", 20, (2, 3, 3), rounds=0)
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (20, 2, 3, 3)).astype(np.uint8), rng.integers(0, 10, 20)
    data.add(pictures[:12], labels[:12])
    data.save_round(0)
    data.first = 12
    data.add(pictures[12:], labels[12:])
    data.save_round(1)
    part = Labelled(tmp_path / "labelled", 0, (2, 3, 3), rounds=1)
    assert (part.first, part.count) == (12, 20), "a round that was not played to its end"
    again = Labelled(tmp_path / "labelled", 0, (2, 3, 3), rounds=2)
    assert again.first == again.count == 20
    rows = again.rows(np.arange(20))
    assert (rows[0].numpy() == pictures).all() and (rows[1].numpy() == labels).all()
    with pytest.raises(CleanPokeError, match=r"round_000\.npz holds screens of another size"):
        Labelled(tmp_path / "labelled", 30, (4, 3, 3), rounds=2)
    (tmp_path / "labelled" / "round_001.npz").unlink()
    with pytest.raises(CleanPokeError, match=r"cannot read .*round_001\.npz"):
        Labelled(tmp_path / "labelled", 30, (2, 3, 3), rounds=2)


def test_playing_computes_what_training_computes(tmp_path):
    args = small(tmp_path)
    torch.manual_seed(0)
    network = Network(args)
    screens = np.random.default_rng(0).integers(0, 256, (6, 160, 240, 3)).astype(np.uint8)
    pictures = small_pictures(screens, args.height, args.width)
    trained = network(torch.from_numpy(pictures)).argmax(1)
    player = Player(network, args)
    assert player.choose(pictures).tolist() == trained.tolist()
    assert [player.get_action(screen, {}) for screen in screens] == trained.tolist()


def test_a_resumed_run_keeps_all_labels_and_goes_on(tmp_path):
    dagger_emerald.main(small(tmp_path, iterations=2))
    (run,) = tmp_path.glob("dagger_emerald__*")
    before = {path.name: path.read_bytes() for path in (run / "labelled").iterdir()}
    assert len(before) == 2
    weights = load_checkpoint(run).state["network"]["head.weight"]
    dagger_emerald.main(small(tmp_path, resume=run, steps_per_iteration=4))
    assert len(list((run / "labelled").iterdir())) == 3
    for name, content in before.items():
        assert (run / "labelled" / name).read_bytes() == content
    checkpoint = load_checkpoint(run)
    assert checkpoint.step == 3 and not torch.equal(checkpoint.state["network"]["head.weight"], weights)


def test_demonstrations_take_the_place_of_the_first_round(tmp_path):
    record_demonstrations(tmp_path / "data", None, 2, seed=1, max_steps=30)
    dagger_emerald.main(small(tmp_path, iterations=2, data=tmp_path / "data"))
    (run,) = tmp_path.glob("dagger_emerald__*")
    rounds = [len(np.load(run / "labelled" / f"round_00{number}.npz")["labels"]) for number in range(2)]
    assert rounds == [60, 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"beta": 2.0}, "--beta must be between 0 and 1"),
        ({"learning_rate": -1.0}, "--learning-rate must be above 0"),
        ({"weight_decay": -1.0}, "--weight-decay must not be negative"),
        ({"max_minutes": 0.0}, "--max-minutes must be above 0"),
        ({"threads": -1}, "--threads must not be negative"),
        ({"expert": "nobody"}, "'nobody' is no agent: give scripted, or path/to/file.py:ClassName"),
        ({"data": Path("nowhere")}, "nowhere holds no episodes"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path, changes, message):
    with pytest.raises(CleanPokeError, match=message):
        dagger_emerald.main(small(tmp_path, **changes))


def test_it_learns_to_leave_the_house(tmp_path):
    """Games of fifty steps show the house only."""
    args = small(tmp_path, hidden=256, height=40, width=40, batch_size=32, num_envs=4, max_steps=50)
    args.iterations, args.steps_per_iteration, args.updates_per_iteration = 5, 300, 160
    args.learning_rate, args.eval_every, args.eval_episodes, args.eval_max_steps = 1e-3, 4, 4, 80
    dagger_emerald.main(args)
    (run,) = tmp_path.glob("dagger_emerald__*")
    result = json.loads((run / "evaluation.json").read_text())
    assert result["episodes"] == 4 and result["labels"] == 1500
    assert [(row["step"], row["labels"]) for row in result["on_the_way"]] == [(4, 1200)]
    assert result["milestones"] >= 4  # the clock and downstairs; random play stays in the bedroom
