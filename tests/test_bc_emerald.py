"""Behavioural cloning: playing computes what training computes, and it learns to play."""

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald.core import MISSING_LIBRARY
from cleanpoke.errors import CleanPokeError

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)

from cleanpoke import bc_emerald
from cleanpoke.bc_emerald import NUM_ACTIONS, Args, Data, Network, Player
from cleanpoke.envs.emerald import demos, playing
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from cleanpoke.envs.emerald.playing import record_demonstrations, shrink
from cleanpoke.run import load_checkpoint

SETTINGS = demos.settings_of(EmeraldEnv())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two demonstrations of the first 120 steps."""
    folder = tmp_path_factory.mktemp("demonstrations")
    record_demonstrations(folder, None, 3, seed=1, max_steps=120)
    return folder


def small(folder: Path, runs: Path, **changes) -> Args:
    options = {"data": folder, "runs": runs, "batch_size": 16, "total_steps": 6, "save_every": 2}
    options |= {"eval_episodes": 0, "bf16": "off", "threads": 1, "hidden": 16, "max_minutes": float("inf")}
    return Args(**options | changes)


def test_shrinking_is_the_mean_over_areas():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 160, 240, 3), np.uint8)
    half = shrink(pictures, 80, 120)
    expected = pictures.reshape(2, 80, 2, 120, 2, 3).mean((2, 4)).round()
    assert np.abs(half.numpy().transpose(0, 2, 3, 1) - expected).max() <= 1  # halves round either way
    assert shrink(pictures[..., :1], 84, 84).shape == (2, 3, 84, 84)


def test_stacks_begin_anew_with_each_episode():
    pictures = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 3, 1, 1)
    data = Data(pictures, torch.zeros(7).long(), torch.zeros(7).long(), torch.tensor([0, 0, 0, 3, 3, 3, 3]))
    stacks, _, _ = data.rows(torch.arange(7), 3)
    seen = stacks.view(7, 3, 3)[:, :, 0].tolist()
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4], [3, 4, 5], [4, 5, 6]]


@pytest.mark.parametrize(
    "changes", [{}, {"frame_stack": 3, "previous_action": True}, {"height": 80, "width": 120}]
)
def test_playing_computes_what_training_computes(folder, tmp_path, changes):
    args = small(folder, tmp_path, **changes)
    torch.manual_seed(0)
    network = Network(args).eval()
    path = episode_files.episodes_in(folder)[0]
    episode = demos.load_episode(path)
    data = bc_emerald.load_data([path], args, SETTINGS)
    trained = network(*data.rows(torch.arange(20), args.frame_stack)[:2])
    player = Player(network, args)
    for step in range(20):
        assert torch.allclose(player.logits(episode.observations[step]), trained[step], atol=1e-4)
        player.remember(int(episode.actions[step]))


def test_the_button_before_is_the_one_that_was_pressed(folder, tmp_path, monkeypatch):
    """Evaluations press random buttons, too; here they are half of all."""
    monkeypatch.setattr(playing, "NOISE", 0.5)
    network = Network(small(folder, tmp_path, previous_action=True)).eval()
    seen, pressed = [], [NUM_ACTIONS]
    network.register_forward_pre_hook(lambda module, inputs: seen.append(int(inputs[1][0])))
    with contextlib.closing(EmeraldEnv(max_steps=20)) as env:
        step = env.step
        env.step = lambda action: pressed.append(action) or step(action)
        for _ in playing.play_episode(env, Player(network, small(folder, tmp_path)), 0):
            pass
    assert seen == pressed[:-1] and len(seen) == 20


@pytest.mark.parametrize("changes", [{"label_smoothing": 0.3}, {"label_smoothing": 0.1, "balance": 0.5}])
def test_the_loss_is_that_of_smoothed_and_weighted_labels(folder, tmp_path, monkeypatch, changes):
    logged = {}
    monkeypatch.setattr(bc_emerald.Run, "log", lambda run, step, scalars: logged.update(scalars))
    args = small(folder, tmp_path, total_steps=1, log_every=1, held_out=0.0, **changes)
    bc_emerald.main(args)
    data = bc_emerald.load_data(episode_files.episodes_in(folder), args, SETTINGS)
    torch.manual_seed(args.seed)
    dealt = next(bc_emerald.batches(len(data.labels), args.batch_size, args.seed, 0))
    pictures, previous, labels = data.rows(dealt, 1)
    nll = -torch.log_softmax(Network(args)(pictures, previous), 1).detach().numpy()  # (B, A)
    weights = np.maximum(np.bincount(data.labels, minlength=NUM_ACTIONS), 1) ** -args.balance  # (A,)
    spread = args.label_smoothing
    of_labels = (weights * nll)[np.arange(len(labels)), labels.numpy()]
    losses = (1 - spread) * of_labels + spread * (weights * nll).mean(1)
    assert logged["losses/bc"] == pytest.approx(losses.sum() / weights[labels.numpy()].sum(), rel=1e-4)


def test_a_single_demonstration_is_said_to_be_held_out_and_learned(folder, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    path = episode_files.episodes_in(folder)[0]
    (tmp_path / "one" / path.name).write_bytes(path.read_bytes())
    bc_emerald.main(small(tmp_path / "one", tmp_path / "runs", total_steps=1))
    assert "there is but one" in capsys.readouterr().out


def test_the_expert_is_imitated_not_the_noise(folder, tmp_path):
    paths = episode_files.episodes_in(folder)
    data = bc_emerald.load_data(paths, small(folder, tmp_path), SETTINGS)
    episodes = [demos.load_episode(path) for path in paths]
    wanted = np.concatenate([episode.expert_actions for episode in episodes])
    pressed = np.concatenate([episode.actions for episode in episodes])
    assert (data.labels.numpy() == wanted).all() and (wanted != pressed).any()
    assert data.previous[0] == NUM_ACTIONS and data.previous[1] == pressed[0]


def test_every_epoch_deals_every_step_and_goes_on_from_any_update():
    dealt = bc_emerald.batches(50, 10, seed=1, step=0)
    first = [next(dealt) for _ in range(12)]
    assert sorted(torch.cat(first[:5]).tolist()) == list(range(50))
    assert torch.cat(first[:5]).tolist() != torch.cat(first[5:10]).tolist()
    later = bc_emerald.batches(50, 10, seed=1, step=7)
    assert all((next(later) == batch).all() for batch in first[7:])


def test_whole_episodes_are_held_out(folder):
    paths = [Path(str(number)) for number in range(10)]
    train, held_out = bc_emerald.split(paths, Args(held_out=0.2))
    assert (train, held_out) == (paths[:8], paths[8:])
    with pytest.raises(CleanPokeError, match="--num-episodes 11: .* holds 10 demonstrations; record more"):
        bc_emerald.split(paths, Args(num_episodes=11))
    train, held_out = bc_emerald.split(paths, Args(held_out=0.2, num_episodes=5))
    assert train == paths[:5] and held_out and not set(train) & set(held_out)


def test_a_resumed_run_equals_an_uninterrupted_one(folder, tmp_path):
    bc_emerald.main(small(folder, tmp_path / "whole"))
    bc_emerald.main(small(folder, tmp_path / "parts", total_steps=4))
    (parts,) = (tmp_path / "parts").iterdir()
    bc_emerald.main(small(folder, tmp_path / "parts", resume=parts))
    (whole,) = (tmp_path / "whole").iterdir()
    one, other = load_checkpoint(whole), load_checkpoint(parts)
    assert one.step == other.step == 6
    for name, weights in one.state["network"].items():
        assert torch.equal(weights, other.state["network"][name]), name


def test_one_batch_is_overfitted(folder, tmp_path):
    args = small(folder, tmp_path, hidden=64)
    torch.manual_seed(0)
    data = bc_emerald.load_data(episode_files.episodes_in(folder)[:1], args, SETTINGS)
    pictures, previous, labels = data.rows(torch.arange(0, 120, 8), 1)
    network = Network(args)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(80):
        logits = network(pictures, previous)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(1) == labels).all() and loss < 0.1 * np.log(NUM_ACTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"held_out": 1.0}, "--held-out"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"learning_rate": -1.0}, "--learning-rate must be above 0"),
        ({"weight_decay": -1.0}, "--weight-decay must not be negative"),
        ({"label_smoothing": 2.0}, "--label-smoothing must be between 0 and 1"),
        ({"threads": -1}, "--threads must not be negative"),
        ({"num_episodes": -1}, "--num-episodes must not be negative"),
        ({"eval_episodes": -1}, "--eval-episodes must not be negative"),
        ({"max_minutes": 0.0}, "--max-minutes must be above 0"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(folder, tmp_path, changes, message):
    with pytest.raises(CleanPokeError, match=message):
        bc_emerald.main(small(folder, tmp_path, **changes))


def test_demonstrations_of_another_cartridge_are_refused(folder, tmp_path):
    other = tmp_path / "other.gba"
    other.write_bytes(TINY_TOWN.read_bytes() + b"\0")
    with pytest.raises(CleanPokeError, match="recorded with rom_sha1 .*: give --data"):
        bc_emerald.main(small(folder, tmp_path, rom_path=other))


def test_it_learns_to_leave_the_house(tmp_path):
    """The expert shows the beginning of some variants, the clone plays others."""
    args = Args(data=tmp_path / "data", runs=tmp_path / "runs", learning_rate=1e-3)
    record_demonstrations(args.data, None, 25, seed=1, max_steps=50)
    args = dataclasses.replace(args, height=40, width=40, batch_size=32, total_steps=700, threads=1)
    args = dataclasses.replace(args, eval_episodes=4, eval_max_steps=80, eval_every=400)
    bc_emerald.main(args)
    (run,) = (tmp_path / "runs").iterdir()
    result = json.loads((run / "evaluation.json").read_text())
    assert [row["step"] for row in result["on_the_way"]] == [400]
    assert result["episodes"] == 4
    assert result["milestones"] >= 4  # the clock and downstairs; random play stays in the bedroom
    assert load_checkpoint(run / "best.pt").step == 400
    # A run that was cut off before its last evaluation makes up for it.
    (run / "evaluation.json").unlink()
    bc_emerald.main(dataclasses.replace(args, resume=run))
    assert json.loads((run / "evaluation.json").read_text()) == result
