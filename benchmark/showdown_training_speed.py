"""How many decisions a second awac_showdown_hrm.py trains on, and where the time goes.

    python benchmark/showdown_training_speed.py

Whole updates (both forward passes, backward pass, clipping, optimiser, slow copy) on collected battles, of
three variants that take turns, each in a process of its own: as shipped; with batches left at their natural
sizes (oneDNN then compiles its products again for every new shape); in float32. Then a profile of the first
two. Battles are collected if --data holds none. The last line printed is one JSON object.
"""

import copy
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn
from torch.profiler import ProfilerActivity, profile

from cleanpoke import awac_showdown_hrm as awac
from cleanpoke.compute import autocast, start
from cleanpoke.envs.showdown import battle_files
from cleanpoke.errors import user_errors

BAR = 2000.0


@dataclass
class Args:
    preset: str = "small"
    """preset of the network"""
    rounds: int = 3
    """measurements of each variant, taken turn about"""
    updates: int = 60
    """updates in one measurement"""
    warm_up: int = 60
    """updates before each measurement"""
    threads: int = 0
    """CPU threads, 0 for all cores"""
    data: Path = Path("runs/benchmark_training_speed")
    """folder of Gen-1 battle files"""
    quick: bool = False
    """about a minute"""
    check: bool = False
    """exit with status 1 below 2,000 decisions/s as shipped"""


VARIANTS = {"as shipped": ("auto", True), "natural shapes": ("auto", False), "float32": ("off", True)}
"""Name to --bf16 and whether batches are filled up."""


def in_a_process(function: Callable[[str, Args], Any], variant: str, args: Args) -> Any:
    """function(variant, args) in a fresh process: variants would push each other out of oneDNN's cache."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, variant, args).result(timeout=600)


def warmed_up(variant: str, benchmark: Args) -> Callable[[], int]:
    """One update on the next batch, which returns its number of decisions; some have been done."""
    start("cpu", benchmark.threads)
    device = torch.device("cpu")
    bf16, filled = VARIANTS[variant]
    args = awac.Args(preset=benchmark.preset, bf16=bf16)
    battles = battle_files.read_folder(benchmark.data)
    sampler = awac.Sampler(battles.trajectories["length"], args.batch_decisions, args.seed)
    weights = awac.reward_weights(args.reward)
    multiples = (awac.ROWS_MULTIPLE, awac.STEPS_MULTIPLE) if filled else (1, 1)
    network = awac.build_network(args)
    slow = copy.deepcopy(network).requires_grad_(False)
    optimizer = awac.make_optimizer(network, args)

    def update() -> int:
        batch = awac.make_batch([battles.decisions(index) for index in sampler()], weights, *multiples)
        with autocast(device, args.bf16):
            losses, _ = awac.compute_losses(network, slow, batch, args)
        optimizer.zero_grad()
        losses.total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), args.clip_norm)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(slow.parameters()), list(network.parameters()), args.ema_rate)
        return batch.num_decisions

    for _ in range(benchmark.warm_up):
        update()
    return update


def measure(variant: str, args: Args) -> float:
    """Decisions per second."""
    update = warmed_up(variant, args)
    began = time.perf_counter()
    decisions = sum(update() for _ in range(args.updates))
    return decisions / (time.perf_counter() - began)


def shares(variant: str, args: Args) -> tuple[dict[str, float], float]:
    """Milliseconds per update of the costliest kinds of operation, and of all together."""
    update, updates = warmed_up(variant, args), args.updates // 2
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(updates):
            update()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    milliseconds = {event.key: event.self_cpu_time_total / updates / 1e3 for event in events}
    return dict(list(milliseconds.items())[:10]), sum(milliseconds.values())


def main(args: Args) -> None:
    if args.quick:
        args.rounds, args.updates, args.warm_up = 1, 30, 30
    if not any(args.data.glob("shard_*")):
        awac.collect_battles(awac.Args(data=args.data, collect_minutes=0.3 if args.quick else 1.0))
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name in VARIANTS:
            speeds[name].append(in_a_process(measure, name, args))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        spread = " ".join(f"{value:,.0f}" for value in values)
        print(f"{name:16} {medians[name]:8,.0f} decisions/s (median of {spread})", flush=True)
    for name in ("natural shapes", "as shipped"):
        kinds, total = in_a_process(shares, name, args)
        print(f"\n{name}: {total:.0f} ms per update in operations, of which")
        for kind, milliseconds in kinds.items():
            print(f"  {milliseconds:6.1f} ms  {kind}")
    passed = medians["as shipped"] >= BAR
    result = {"preset": args.preset, "decisions_per_second": medians}
    print(json.dumps({"benchmark": "showdown_training_speed", "passed": passed, **result}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
