"""The network, losses, sampling and training loop of awac_showdown_hrm, on made-up battles."""

import copy
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from cleanpoke import awac_showdown_hrm as awac
from cleanpoke.envs.showdown.battle_files import REWARD_TERMS, ShardWriter, Trajectory
from cleanpoke.envs.showdown.encoder import NUM_ACTIONS, NUM_NUMBERS, NUM_WORDS, VOCABULARY_SIZE
from cleanpoke.errors import CleanPokeError
from cleanpoke.run import Checkpoint, load_checkpoint, save_checkpoint

TINY = awac.PRESETS["tiny"]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def made_up_battle(
    generator: np.random.Generator, length: int, truncated: bool = False
) -> dict[str, np.ndarray]:
    """A battle of random observations in which the first word of the context names the action to take."""
    words = generator.integers(1, VOCABULARY_SIZE, (length, NUM_WORDS)).astype(np.int16)
    legal = generator.random((length, NUM_ACTIONS)) < 0.6
    action = generator.integers(0, NUM_ACTIONS, length)
    words[:, 0] = 100 + action
    legal[np.arange(length), action] = True
    legal[0] = np.arange(NUM_ACTIONS) == action[0]  # a forced decision
    terms = generator.normal(0, 0.3, (length, len(REWARD_TERMS))).astype(np.float32)
    terms[:, REWARD_TERMS.index("outcome")] = 0
    terms[-1, REWARD_TERMS.index("outcome")] = 0 if truncated else generator.choice([-1, 1])
    is_last = np.arange(length) == length - 1
    return {
        "words": words,
        "numbers": generator.random((length, NUM_NUMBERS)).astype(np.float16),
        "legal": legal,
        "action": action.astype(np.int8),
        "reward_terms": terms,
        "terminated": is_last & (not truncated),
        "truncated": is_last & truncated,
    }


def made_up_batch(lengths: tuple[int, ...] = (3, 9, 6), seed: int = 0, truncated: bool = False) -> awac.Batch:
    generator = np.random.default_rng(seed)
    battles = [made_up_battle(generator, length, truncated) for length in lengths]
    return awac.make_batch(battles, awac.reward_weights("shaped"))


def trained_looking(network: awac.Network) -> awac.Network:
    """The output layers start at zero; random ones let a test see what reaches them."""
    for name, parameter in network.named_parameters():
        if name.startswith(("heads.policy", "heads.direct", "heads.values")):
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def tiny_network(dtype: torch.dtype = torch.float32, **options) -> awac.Network:
    preset = TINY._replace(**options.pop("preset", {}))
    return trained_looking(awac.Network(preset, **options)).to(dtype)


def policy_logits(network: awac.Network, batch: awac.Batch) -> torch.Tensor:
    (segment,), _ = network(batch, only_last=True)
    return network.heads.logits(segment.joint, segment.actions)


# --- Network


def test_presets_have_the_sizes_they_promise():
    expected = {"tiny": 0.66e6, "small": 1.26e6, "medium": 14.8e6, "large": 50.9e6, "xlarge": 200e6}
    for name, size in expected.items():
        with torch.device("meta"):
            network = awac.Network(awac.PRESETS[name])
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(size, rel=0.1), name


def test_transformer_control_has_the_same_parameters():
    sizes = [
        sum(p.numel() for p in awac.Network(TINY, traj_encoder).parameters())
        for traj_encoder in ("hrm", "transformer")
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("traj_encoder", ["hrm", "transformer"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_step_equals_forward(traj_encoder, dtype, tolerance):
    """Ragged battles in shared cache rows, a window that wraps, rows that are reset and used again."""
    preset = {"memory_layers": 2, "segments": 2}
    network = tiny_network(dtype, traj_encoder=traj_encoder, window=4, preset=preset)
    lengths = (11, 3, 6, 2, 9)
    batch = made_up_batch(lengths)
    starts = np.cumsum(lengths) - lengths
    with torch.no_grad():
        expected = policy_logits(network, batch)
        cache = awac.MemoryCache(network.memory, 2)
        waiting, seats = list(range(len(lengths))), {}
        found = torch.full_like(expected, math.nan)
        while waiting or seats:
            for row in range(2):
                if row not in seats and waiting:
                    seats[row] = [waiting.pop(0), 0]
                    cache.reset([row])
            rows = sorted(seats, reverse=True)
            at = torch.tensor([starts[seats[row][0]] + seats[row][1] for row in rows])
            segment = network.step(batch.words[at], batch.numbers[at], cache, torch.tensor(rows))
            found[at] = network.heads.logits(segment.joint, segment.actions)
            for row in rows:
                seats[row][1] += 1
                if seats[row][1] == lengths[seats[row][0]]:
                    del seats[row]
    assert (found - expected).abs().max() < tolerance
    assert cache.now.tolist() != [0, 0]


def test_the_future_does_not_reach_the_past():
    network = tiny_network()
    batch = made_up_batch((8,))
    changed = batch._replace(words=batch.words.clone())
    changed.words[5:] = 7
    with torch.no_grad():
        difference = (policy_logits(network, batch) - policy_logits(network, changed)).abs().amax((1, 2))
    assert difference[:5].max() == 0
    assert difference[5:].min() > 1e-4


def test_the_window_limits_what_is_remembered():
    network = tiny_network(window=3)
    batch = made_up_batch((8,))
    changed = batch._replace(words=batch.words.clone())
    changed.words[0] = 7
    with torch.no_grad():
        difference = (policy_logits(network, batch) - policy_logits(network, changed)).abs().amax((1, 2))
    assert difference[:3].min() > 1e-6
    assert difference[3:].max() == 0


def test_padding_and_other_battles_change_nothing():
    network = tiny_network(torch.float64)
    generator = np.random.default_rng(1)
    short, long = made_up_battle(generator, 3), made_up_battle(generator, 12)
    weights = awac.reward_weights("shaped")
    with torch.no_grad():
        alone = policy_logits(network, awac.make_batch([short], weights))
        together = policy_logits(network, awac.make_batch([short, long], weights))
    assert torch.allclose(alone, together[:3], atol=1e-12)


def test_filling_a_batch_up_changes_no_gradient():
    generator = np.random.default_rng(2)
    battles = [made_up_battle(generator, length) for length in (4, 9)]
    weights, args = awac.reward_weights("shaped"), awac.Args(maxq_coef=0.1)
    natural, filled = awac.make_batch(battles, weights), awac.make_batch(battles, weights, 64, 16)
    assert (len(natural.action), len(filled.action), filled.num_decisions) == (13, 64, 13)
    assert (natural.num_steps, filled.num_steps) == (9, 16)
    network = tiny_network(torch.float64)
    gradients, metrics = [], []
    for batch in (natural, filled):
        losses, details = awac.compute_losses(network, network, batch, args)
        network.zero_grad()
        losses.total.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
        metrics.append(awac.diagnostics(details, batch))
    assert torch.allclose(*gradients, atol=1e-9)
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-4)


def test_filling_a_batch_up_changes_no_held_out_measure():
    network = trained_looking(tiny_network(torch.float64))
    generator = np.random.default_rng(3)
    battles = [made_up_battle(generator, length) for length in (3, 9, 6, 4, 7, 5)]
    natural, filled = (
        awac.measure_held_out(network, [awac.make_batch(battles, awac.reward_weights("shaped"), *multiples)])
        for multiples in ((1, 1), (64, 16))
    )
    assert natural == pytest.approx(filled, rel=1e-6) and natural["heldout/nll"] > 0


@pytest.mark.parametrize("options", [{"n_sup": 0}, {"mem_window": 0}, {"log_every": 0}])
def test_impossible_numbers_are_refused(options):
    with pytest.raises(CleanPokeError, match="must be at least 1, not 0"):
        awac.check(awac.Args(**options))


def test_an_unknown_opponent_is_told_before_anything_is_collected(tmp_path):
    with pytest.raises(CleanPokeError, match="did you mean 'max_base_power'"):
        awac.main(awac.Args(data=tmp_path / "data", opponents=("max_base_powr",), runs=tmp_path))
    assert not list(tmp_path.iterdir())


def test_records_that_are_no_battles_are_told_before_anything_is_collected(tmp_path):
    (tmp_path / "battle.json").write_text('{"id": "gen1ou-1", "log": ""}')
    for data in (tmp_path, tmp_path / "battle.json"):
        with pytest.raises(CleanPokeError, match="empty log"):
            awac.main(awac.Args(data=data, runs=tmp_path / "runs"))


def test_an_empty_slot_is_silent():
    encoder = awac.TurnEncoder(32, 16)
    assert encoder.words.weight[0].abs().max() == 0
    words = torch.randint(1, 50, (4, NUM_WORDS))
    words[:, 3] = 0
    encoder(words, torch.rand(4, NUM_NUMBERS)).sum().backward()
    assert encoder.words.weight.grad[0].abs().max() == 0


@pytest.mark.parametrize("grad_mode", ["last_cycle", "one_step", "full"])
def test_every_part_learns_in_bfloat16(grad_mode):
    preset = {"high_cycles": 2, "low_cycles": (2, 2), "segments": 2}
    network = tiny_network(grad_mode=grad_mode, preset=preset)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        losses, _ = awac.compute_losses(network, copy.deepcopy(network), made_up_batch(), awac.Args())
    losses.total.backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_bfloat16_agrees_with_float32():
    network = tiny_network()
    target, batch = copy.deepcopy(network), made_up_batch((30, 40, 50))
    gradients, totals = [], []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False):
            losses, _ = awac.compute_losses(network, target, batch, awac.Args())
        losses.total.backward()
        totals.append(float(losses.total.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert totals[1] == pytest.approx(totals[0], rel=0.01)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


# --- Losses


def advantages(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, len(awac.GAMMAS)).clone()


def test_filters_weigh_as_computed_by_hand():
    advantage = advantages(-0.1, 0.1, 0.3, 9.0)
    choice = torch.tensor([True, True, True, False])
    weights = {
        name: awac.advantage_weights(advantage, choice, name, beta=2.0)[0][:, 0].tolist()
        for name in ("bc", "binary", "soft_binary", "exp")
    }
    assert weights["bc"] == [1, 1, 1, 0]
    assert weights["binary"] == [0, 1, 1, 0]
    assert weights["soft_binary"] == pytest.approx([0.2, 1, 1, 0])
    # Mean 0.1, standard deviation 0.2 · sqrt(2/3): z = ∓1.2247 and 0; exp(2 z) = 0.0863, 1, 11.582.
    total = 0.08633 + 1 + 11.5823
    expected = [3 * 0.08633 / total, 3 / total, 3 * 11.5823 / total, 0]
    assert weights["exp"] == pytest.approx(expected, rel=1e-3)


def test_exp_weights_are_clipped_at_20_before_they_are_averaged():
    advantage = advantages(*[0.0] * 99, 1.0)
    weights, statistics = awac.advantage_weights(advantage, torch.ones(100, dtype=bool), "exp")
    assert float(weights[-1, 0] / weights[0, 0]) == pytest.approx(20 / math.exp(-0.1005), rel=1e-3)
    assert float(statistics["w_max_frac"]) == pytest.approx(float(weights[-1, 0] / weights[:, 0].sum()))


def test_scaling_rewards_and_bins_keeps_exp_weights():
    advantage = torch.randn(50, len(awac.GAMMAS)) * 0.1
    choice = torch.rand(50) < 0.8
    weights, _ = awac.advantage_weights(advantage, choice, "exp")
    scaled, _ = awac.advantage_weights(10 * advantage, choice, "exp")
    assert torch.allclose(weights, scaled, atol=1e-5)


def test_an_ignorant_critic_makes_it_cloning():
    weights, _ = awac.advantage_weights(torch.zeros(9, len(awac.GAMMAS)), torch.ones(9, dtype=bool), "exp")
    assert torch.equal(weights, torch.ones_like(weights))


@pytest.mark.parametrize("td_lambda", [0.0, 0.7, 1.0])
def test_lambda_returns_follow_their_recursion(td_lambda):
    """Two battles of different length side by side, one of them cut off: nothing flows between them."""
    gammas = torch.tensor(awac.GAMMAS)
    for truncated in (False, True):
        batch = made_up_batch((3, 5), truncated=truncated)
        values = torch.randn(8, len(gammas))
        targets = awac.lambda_returns(batch, values, td_lambda)
        for start, stop in ((0, 3), (3, 8)):
            expected = values[stop - 1] if truncated else batch.reward[stop - 1].expand_as(gammas)
            assert torch.allclose(targets[stop - 1], expected)
            for row in range(stop - 2, start - 1, -1):
                expected = (1 - td_lambda) * values[row + 1] + td_lambda * expected
                expected = batch.reward[row] + gammas * expected
                assert torch.allclose(targets[row], expected, atol=1e-6)


def test_cut_off_battles_teach_the_critic_all_but_their_last_step():
    network = tiny_network()
    args = awac.Args()
    for truncated, expected in ((False, 9), (True, 8)):
        batch = made_up_batch((9,), truncated=truncated)
        _, details = awac.compute_losses(network, network, batch, args)
        assert int(details["learnable"].sum()) == expected
        assert bool(batch.returns.isnan().all()) == truncated


def test_missing_actions_teach_nothing():
    network = tiny_network()
    batch = made_up_batch()
    batch.action[4] = -1
    _, details = awac.compute_losses(network, network, batch, awac.Args())
    assert not details["choice"][4] and not details["learnable"][4]


def test_hl_gauss_has_the_value_as_its_mean():
    values = torch.tensor([-1.2, -0.31, 0.0, 0.777])
    histograms = awac.hl_gauss(values)
    assert torch.allclose(histograms.sum(-1), torch.ones(4))
    assert torch.allclose(histograms @ awac.value_bins(), values, atol=5e-3)
    far = awac.hl_gauss(torch.tensor([-7.0, 7.0]))
    assert far.argmax(-1).tolist() == [0, awac.NUM_BINS - 1]


def test_critics_start_at_the_entropy_of_their_bins():
    network = awac.Network(TINY)
    _, details = awac.compute_losses(network, network, made_up_batch(), awac.Args())
    assert float(details["last_critic"].detach()) == pytest.approx(math.log(awac.NUM_BINS), abs=1e-3)


def test_nothing_legal_means_everything_is():
    logits = torch.randn(2, len(awac.GAMMAS), NUM_ACTIONS)
    legal = torch.zeros(2, NUM_ACTIONS, dtype=bool)
    legal[1, 3] = True
    log_pi = awac.log_policy(logits, legal)
    assert torch.allclose(log_pi[0], logits[0].log_softmax(-1))
    assert torch.equal(log_pi[1].exp().argmax(-1), torch.full((len(awac.GAMMAS),), 3))
    batch = made_up_batch()
    batch.legal[:] = False
    network = tiny_network()
    assert torch.isfinite(awac.compute_losses(network, network, batch, awac.Args())[0].total)


def test_maxq_moves_the_policy_only():
    network = tiny_network()
    args = awac.Args(adv_filter="binary", maxq_coef=1.0, critic_coef=0.0)
    batch = made_up_batch()
    batch.action[:] = -1
    batch.action[1] = 0  # one choice must remain; its cloning weight is 0 or 1 in both
    batch.legal[1] = True
    difference = {}
    for coefficient in (0.0, 1.0):
        network.zero_grad()
        args.maxq_coef = coefficient
        losses, _ = awac.compute_losses(network, copy.deepcopy(network), batch, args)
        losses.actor.backward()
        for name, parameter in network.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            difference[name] = gradient - difference.get(name, 0)
    moved = {name for name, gradient in difference.items() if gradient.abs().max() > 1e-7}
    assert moved and all(name.startswith(("heads.actor", "heads.policy", "heads.direct")) for name in moved)


def test_returns_are_discounted_sums():
    generator = np.random.default_rng(3)
    battles = [made_up_battle(generator, length) for length in (4, 700)]
    batch = awac.make_batch(battles, awac.reward_weights("shaped"))
    expected, later = [], 0.0
    for reward, is_last in zip(batch.reward.flip(0).tolist(), batch.is_last.flip(0).tolist(), strict=True):
        later = reward + (0.0 if is_last else awac.GAMMAS[-1] * later)
        expected.append(later)
    assert torch.allclose(batch.returns, torch.tensor(expected).flip(0), atol=1e-4)


def test_rewards_weigh_as_named():
    terms = dict.fromkeys(REWARD_TERMS, 0.0)
    row = np.array([list((terms | {"outcome": 1.0, "health": 2.0}).values())], np.float32)
    assert row @ awac.reward_weights("binary") == pytest.approx([1.0])
    assert row @ awac.reward_weights("shaped") == pytest.approx([1.02])


def share_of_gradients(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    network, target = torch.load(Path(folder) / "networks.pt", weights_only=False)
    generator = np.random.default_rng(5)
    battles = [made_up_battle(generator, length) for length in (3, 9, 6, 5, 2)]
    weights = awac.reward_weights("shaped")
    losses, _ = awac.compute_losses(network, target, awac.make_batch(battles[rank::2], weights), MAXQ_ARGS)
    losses.total.backward()
    awac.sum_gradients(network.parameters())
    if rank == 0:
        torch.save([p.grad for p in network.parameters()], Path(folder) / "gradients.pt")
    dist.destroy_process_group()


MAXQ_ARGS = awac.Args(maxq_coef=0.5)


def test_two_processes_have_the_gradients_of_one(tmp_path):
    network = tiny_network(torch.float64)
    target = trained_looking(copy.deepcopy(network))
    torch.save((network, target), tmp_path / "networks.pt")
    multiprocessing.spawn(share_of_gradients, (free_port(), str(tmp_path)), nprocs=2)
    together = torch.load(tmp_path / "gradients.pt")
    generator = np.random.default_rng(5)
    battles = [made_up_battle(generator, length) for length in (3, 9, 6, 5, 2)]
    batch = awac.make_batch(battles, awac.reward_weights("shaped"))
    awac.compute_losses(network, target, batch, MAXQ_ARGS)[0].total.backward()
    for parameter, gradient in zip(network.parameters(), together, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- Learning


def train(
    network: awac.Network, batches: list[awac.Batch], updates: int, args: awac.Args, rate: float = 1e-3
):
    target = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.95))
    for update in range(updates):
        losses, details = awac.compute_losses(network, target, batches[update % len(batches)], args)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), 0.05)
    return losses, details


def choice_nll(network: awac.Network, batch: awac.Batch) -> float:
    with torch.no_grad():
        log_pi = awac.log_policy(policy_logits(network, batch), batch.legal)[:, -1]
    choice = batch.legal.sum(1) > 1
    return float(-log_pi.gather(1, batch.action[:, None])[choice].mean())


def test_one_batch_is_overfitted():
    network = awac.Network(TINY)
    batch = made_up_batch((6, 7, 8))
    _, details = train(network, [batch], 150, awac.Args(adv_filter="bc"))
    assert choice_nll(network, batch) < 0.05
    value = awac.expected_value(details["value_logits"])
    assert float((value.detach() - details["targets"])[details["learnable"]].abs().mean()) < 0.15


def recall_batch(seed: int, battles: int = 16, steps: int = 2) -> awac.Batch:
    """Only the first decision shows which of four moves is right at the last."""
    generator = np.random.default_rng(seed)
    rounds = []
    for _ in range(battles):
        cue = generator.integers(0, 4)
        battle = made_up_battle(np.random.default_rng(0), steps)
        battle["words"][:] = 5
        battle["words"][0, 0] = 100 + cue
        battle["numbers"][:] = 0
        battle["legal"][:] = np.arange(NUM_ACTIONS) < 4
        battle["action"][:] = -1
        battle["action"][-1] = cue
        rounds.append(battle)
    return awac.make_batch(rounds, awac.reward_weights("binary"))


def test_memory_recalls_a_cue():
    network = awac.Network(TINY)
    train(network, [recall_batch(seed) for seed in range(20)], 250, awac.Args(adv_filter="bc"))
    batch = recall_batch(99)
    assert recall_loss(network, batch) < 0.05
    network.memory.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    assert recall_loss(network, batch) > 1.0


def recall_loss(network: awac.Network, batch: awac.Batch) -> float:
    with torch.no_grad():
        log_pi = awac.log_policy(policy_logits(network, batch), batch.legal)[:, -1]
    return float(-log_pi[batch.is_last].gather(1, batch.action[batch.is_last][:, None]).mean())


# --- Sampling


def test_an_epoch_deals_every_battle_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(5, 60, 300)
    sampler = awac.Sampler(lengths, 500, seed=3)
    dealt = []
    while sampler.epoch == 0:
        indices = sampler()
        assert lengths[indices].sum() <= 500
        dealt.extend(indices.tolist())
    assert sorted(dealt) == list(range(300))


def test_a_sampler_continues_from_its_position():
    lengths = np.random.default_rng(0).integers(5, 60, 40)
    first, second = awac.Sampler(lengths, 300, seed=3), awac.Sampler(lengths, 300, seed=3)
    for _ in range(11):
        first()
    second.epoch, second.next = first.epoch, first.next
    for _ in range(11):
        assert np.array_equal(first(), second())


def test_every_process_gets_a_battle():
    sampler = awac.Sampler(np.array([900, 10, 800, 700, 20]), 100, seed=0, least=2)
    assert all(len(sampler()) >= 2 for _ in range(20))
    with pytest.raises(CleanPokeError, match="collect more"):
        awac.Sampler(np.array([5]), 100, seed=0, least=2)


# --- Measures


def test_area_under_curve_counts_pairs():
    positive = np.array([True, False, True, False])
    assert awac.area_under_curve(np.array([0.9, 0.1, 0.8, 0.2]), positive) == 1.0
    assert awac.area_under_curve(np.array([0.5, 0.5, 0.5, 0.5]), positive) == 0.5
    assert awac.area_under_curve(np.array([0.6, 0.5, 0.3, 0.1]), positive) == 0.75


def test_entropy_is_not_clipped():
    """metamon's clip to [0.001, 0.99] shows ln(0.99 / (0.99 + 8 · 0.001)) for any sure policy."""
    assert math.log(0.99 / (0.99 + 8 * 0.001)) == pytest.approx(-0.00805, abs=1e-5)
    legal = torch.ones(2, NUM_ACTIONS, dtype=bool)
    logits = torch.zeros(2, NUM_ACTIONS)
    logits[1, 0] = 50
    entropy = awac.normalized_entropy(logits.log_softmax(-1), legal)
    assert entropy.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_effective_rank_counts_directions():
    assert float(awac.effective_rank(torch.eye(5))) == pytest.approx(5)
    assert float(awac.effective_rank(torch.ones(5, 3))) == pytest.approx(1, abs=1e-3)


def test_alarms_ring():
    network = tiny_network()
    losses, details = awac.compute_losses(network, network, made_up_batch(), awac.Args())
    metrics = awac.diagnostics(details, made_up_batch())
    metrics["grad/critic_actor_ratio"] = awac.critic_actor_ratio(losses, details, 1.0)
    assert all(math.isfinite(value) for value in metrics.values())
    calm = metrics | {
        "adv/ess": 0.9,
        "adv/w_max_frac": 0.01,
        "grad/critic_actor_ratio": 1.0,
        "q/overest": 0.0,
    }
    assert list(awac.warnings(calm)) == []
    for alarm in ({"adv/ess": 0.05}, {"pi/entropy": 0.01}, {"grad/critic_actor_ratio": 11.0}):
        assert len(list(awac.warnings(calm | alarm))) == 1


# --- Play and the loop


def decision(key: tuple[int, int], batch: awac.Batch, row: int, error: str | None = None) -> SimpleNamespace:
    arrays = {name: getattr(batch, name)[row].numpy() for name in ("words", "numbers", "legal")}
    return SimpleNamespace(key=key, message=SimpleNamespace(error=error), **arrays)


def test_a_player_plays_the_policy_and_forgets_finished_battles():
    network = tiny_network()
    player = awac.NetworkPlayer(network)
    batch = made_up_batch((5, 5))
    with torch.no_grad():
        expected = awac.log_policy(policy_logits(network, batch), batch.legal)[:, -1].argmax(-1).tolist()
    for _ in range(2):
        answers = [
            player.choose([decision((1, 1), batch, step + 5), decision((1, 0), batch, step)])
            for step in range(5)
        ]
        assert [second for _, second in answers] + [first for first, _ in answers] == expected
        player.finish((1, 0))
        player.finish((1, 1))
    assert player.rows == {} and len(player.free_rows) == 64


def test_a_refused_choice_is_no_new_decision():
    network = tiny_network(torch.float64)
    player, other = awac.NetworkPlayer(network), awac.NetworkPlayer(network)
    batch = made_up_batch((5,))
    for step in range(5):
        player.choose([decision((0, 0), batch, step)])
        player.choose([decision((0, 0), batch, step, error="refused")])
        other.choose([decision((0, 0), batch, step)])
    rows = player.rows[0, 0], other.rows[0, 0]
    assert player.cache.now[rows[0]] == other.cache.now[rows[1]] == 5
    assert torch.equal(player.cache.keys[:, rows[0]].nan_to_num(), other.cache.keys[:, rows[1]].nan_to_num())


def test_more_battles_than_rows_grow_the_cache():
    player = awac.NetworkPlayer(tiny_network(window=2))
    batch = made_up_batch((1,))
    answers = player.choose([decision((battle, 0), batch, 0) for battle in range(130)])
    assert len(answers) == 130 and len(set(player.rows.values())) == 130


@pytest.fixture(scope="module")
def battle_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "gen1ou"
    generator = np.random.default_rng(0)
    with ShardWriter(folder, "gen1ou") as writer:
        for battle in range(60):
            for side in (0, 1):
                arrays = made_up_battle(generator, int(generator.integers(3, 12)))
                outcome = int(arrays["reward_terms"][-1, REWARD_TERMS.index("outcome")])
                trajectory = Trajectory(battle, 0, side, "a", "b")
                for row in range(len(arrays["action"])):
                    names = ("words", "numbers", "legal", "action")
                    trajectory.add_decision(*(arrays[name][row] for name in names))
                    trajectory.add_reward(*arrays["reward_terms"][row].tolist())
                trajectory.finish(outcome, turns=len(arrays["action"]))
                writer.add(trajectory)
    return folder


def short_run(battle_folder: Path, **options) -> awac.Args:
    defaults = {
        **{"data": battle_folder, "preset": "tiny", "bf16": "off", "threads": 1, "eval_battles": 0},
        **{"batch_decisions": 100, "total_steps": 6, "warmup_steps": 2, "log_every": 2, "held_out": 0.2},
        "max_minutes": math.inf,
    }
    return awac.Args(**(defaults | options))


def test_a_resumed_run_equals_an_uninterrupted_one(battle_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    awac.main(short_run(battle_folder))
    (whole,) = tmp_path.glob("runs/*")
    awac.main(short_run(battle_folder, save_every=3))
    (other,) = set(tmp_path.glob("runs/*")) - {whole}
    for file in other.glob("checkpoint_*6.pt"):
        file.unlink()
    assert load_checkpoint(other).step == 3
    awac.main(short_run(battle_folder, save_every=3, resume=other))
    expected, found = load_checkpoint(whole), load_checkpoint(other)
    assert found.step == expected.step == 6
    for name in ("network", "slow"):
        for key, value in expected.state[name].items():
            assert torch.equal(found.state[name][key], value), (name, key)
    assert found.state["sampler"] == expected.state["sampler"]


def test_torchrun_trains_the_same_network_as_one_process(battle_folder, tmp_path):
    """The whole command: sampling, filled-up batches, gradients, clipping and who writes what."""
    options = ["--data", str(battle_folder), "--preset", "tiny", "--bf16", "off", "--threads", "1"]
    options += ["--batch-decisions", "100", "--total-steps", "6", "--warmup-steps", "2", "--seed", "4"]
    options += ["--max-minutes", "inf", "--eval-battles", "0", "--held-out", "0.2", "--held-out-every", "3"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(awac.__file__).parents[1])}
    trained = {}
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, awac.__file__, *options, "--runs", str(tmp_path / name)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / name).iterdir()
        trained[name] = load_checkpoint(folder).state["network"]
    awac.seed_everything(4)
    untrained = awac.build_network(awac.Args(preset="tiny")).state_dict()

    def distance(one: dict, other: dict) -> float:
        return math.sqrt(sum(float((one[key] - other[key]).double().square().sum()) for key in one))

    # Adam turns rounding errors of tiny gradients into steps, so equal means: close beside what was learned.
    assert distance(trained["one"], trained["two"]) < 0.02 * distance(trained["one"], untrained)


def test_checkpoints_that_cannot_play_are_refused(battle_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    awac.main(short_run(battle_folder, total_steps=2))
    (folder,) = tmp_path.glob("runs/*")
    player = awac.make_network_player(folder, "gen1ou")
    assert player.choose([decision((0, 0), made_up_batch((1,)), 0)])[0] in range(NUM_ACTIONS)
    awac.check_checkpoint(folder, "gen1randombattle")
    with pytest.raises(CleanPokeError, match="trained for gen1ou"):
        awac.check_checkpoint(folder, "gen9ou")

    good = load_checkpoint(folder)

    def damaged(**changes) -> Checkpoint:
        checkpoint = dataclasses.replace(good, path=tmp_path / "damaged.pt", state=copy.deepcopy(good.state))
        return dataclasses.replace(checkpoint, **changes)

    untrained = damaged(step=0)
    save_checkpoint(untrained)
    with pytest.raises(CleanPokeError, match="untrained"):
        awac.load_network(untrained.path)
    changed = damaged()
    changed.state["slow"]["registers"] *= -1.0
    save_checkpoint(changed)
    with pytest.raises(CleanPokeError, match="other numbers"):
        awac.load_network(changed.path)
    lacking = damaged()
    del lacking.state["slow"]["registers"]
    save_checkpoint(lacking)
    with pytest.raises(CleanPokeError, match="registers"):
        awac.load_network(lacking.path)


def test_a_damaged_file_is_told_before_it_is_learned_from(battle_folder, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(battle_folder, folder)
    (numbers,) = folder.glob("shard_*/numbers.npy")
    content = bytearray(numbers.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)  # NaN as float16
    numbers.write_bytes(content)
    with pytest.raises(CleanPokeError, match="shard_.*numbers that are not finite"):
        awac.main(short_run(folder, runs=tmp_path / "runs"))


def test_other_data_is_refused_when_resuming(battle_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    awac.main(short_run(battle_folder, total_steps=2))
    (folder,) = tmp_path.glob("runs/*")
    checkpoint = load_checkpoint(folder)
    checkpoint.state["data"]["trajectories"] = 1
    save_checkpoint(checkpoint)
    with pytest.raises(CleanPokeError, match="same --data"):
        awac.main(short_run(battle_folder, total_steps=4, resume=folder))


def test_the_command_learns_to_beat_random_play(tmp_path):
    """From nothing, as a user runs it: collects, trains, evaluates. Untrained it wins about half."""
    command = [sys.executable, str(Path(awac.__file__)), "--gen", "1", "--preset", "tiny", "--seed", "3"]
    command += ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--players", "tactician"]
    command += [
        "--collect-battles",
        "200",
        "--total-steps",
        "150",
        "--warmup-steps",
        "20",
        "--ema-rate",
        "0.03",
    ]
    command += ["--opponents", "random", "--eval-battles", "40"]
    environment = {**os.environ, "PYTHONPATH": str(Path(awac.__file__).parents[1])}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["greedy"]["random"]["battles"] == 40
    assert results["greedy"]["random"]["win_rate"] >= 0.8
    assert list(folder.glob("events.out.tfevents.*")) and list(folder.glob("checkpoint_*.pt"))
