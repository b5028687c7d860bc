"""DAgger: the expert labels what the learner meets, nothing is lost, and it learns to play."""

import json
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
    games = roll_out(envs, Expert(), learner, args, seed=3)
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


def test_labelled_screens_come_back_from_their_files(tmp_path):
    data = Labelled(tmp_path / "labelled", 30, (2, 3, 3), rounds=0)
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (20, 2, 3, 3)).astype(np.uint8), rng.integers(0, 10, 20)
    data.add(pictures[:12], labels[:12])
    data.save_round(0, 0)
    data.add(pictures[12:], labels[12:])
    data.save_round(1, 12)
    again = Labelled(tmp_path / "labelled", 30, (2, 3, 3), rounds=2)
    assert again.count == 20
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
    dagger_emerald.main(small(tmp_path, resume=run))
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
