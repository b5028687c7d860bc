"""What offline training on self-collected battles reaches, seed by seed.

    python benchmark/showdown_offline.py                      # everything; hours on two cores
    python benchmark/showdown_offline.py --stages gen1 --seeds 1

Stages: gen1 (the main command, collection included, from an empty folder), bc (the same data, cloned without
weights), duel (gen1's checkpoint against bc's and against the players that collected the data), gen9 (random
battles), transformer (the control) and binary (reward for the outcome alone), both on gen1's data for the
same time. Each run is the script itself in its own process. Nothing is averaged away: every seed has its
row. The last line printed is one JSON object.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from common.script_runs import run_script

from cleanpoke.awac_showdown_hrm import Args as ScriptArgs
from cleanpoke.awac_showdown_hrm import evaluate
from cleanpoke.errors import user_errors
from cleanpoke.terminal import StopSignal

SCRIPT = "awac_showdown_hrm"
MINUTES_BAR = 20.0
BARS = {
    "gen1": {"random": 0.98, "max_base_power": 0.85, "simple_heuristics": 0.55},
    "gen9": {"random": 0.95, "max_base_power": 0.75, "simple_heuristics": 0.45},
}
NEEDS = {"duel": ("gen1", "bc"), "bc": ("gen1",), "transformer": ("gen1",), "binary": ("gen1",)}
"""Stages that use what other stages left in the folder."""
QUICK = ("--collect-minutes", "0.2", "--max-minutes", "0.3", "--preset", "tiny", "--eval-battles", "10")


@dataclass
class Args:
    seeds: tuple[int, ...] = (1, 2, 3)
    """one run of each stage with each of them"""
    stages: tuple[str, ...] = ("gen1", "bc", "duel", "gen9", "transformer", "binary")
    """which stages to run, and with them those whose data or checkpoints they use"""
    folder: Path = Path("runs/benchmark_offline")
    """where data and runs go; finished runs in it are not repeated"""
    duel_battles: int = 1000
    """battles against each opponent in the duel stage"""
    quick: bool = False
    """one seed of gen1, bc and duel with a tiny network and a minute of everything"""
    check: bool = False
    """exit with status 1 below the bars"""


def print_row(stage: str, seed: int, opponent: str, row: dict[str, float], note: str = "") -> None:
    interval = f"{row['low']:.1%} - {row['high']:.1%}"
    counts = f"{row['wins']:.0f} of {row['battles']:.0f}, {row['ties']:.0f} ties"
    print(
        f"{stage:20} {seed:4d}  {opponent:20} {row['win_rate']:6.1%}  ({interval}; {counts}) {note}",
        flush=True,
    )


def print_tables(results: list[dict[str, Any]]) -> None:
    """The results as Markdown, a table for each stage and a row for each seed, as the docs show them."""
    for stage in dict.fromkeys(result["stage"] for result in results):
        chosen = [result for result in results if result["stage"] == stage]
        opponents = list(dict.fromkeys(result["opponent"] for result in chosen))
        print(f"\n|{stage}|" + "|".join(opponents) + "|\n|-|" + "-|" * len(opponents))
        for seed in dict.fromkeys(result["seed"] for result in chosen):
            rows = {result["opponent"]: result for result in chosen if result["seed"] == seed}
            line = f"|seed {seed}|"
            for row in (rows[name] for name in opponents):
                line += f"{row['win_rate']:.1%} ({100 * row['low']:.1f} - {100 * row['high']:.1f})|"
            print(line)
    print()


def main(args: Args) -> None:
    stages = set(("gen1", "bc", "duel") if args.quick else args.stages)
    for stage, needed in NEEDS.items():
        stages |= set(needed) if stage in stages else set()
    seeds = args.seeds[:1] if args.quick else args.seeds
    duel_battles = 20 if args.quick else args.duel_battles
    if args.quick:
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
    extra = list(QUICK) if args.quick else []
    passed, results = True, []
    for seed in seeds:
        data = args.folder / f"data_gen1_{seed}"
        on_data = ["--gen", "1", "--seed", str(seed), "--data", str(data), *extra]
        variants = {
            "gen1": on_data,
            "bc": [*on_data, "--adv-filter", "bc"],
            "gen9": ["--gen", "9", "--seed", str(seed), *extra]
            + ["--data", str(args.folder / f"data_gen9_{seed}")],
            "transformer": [*on_data, "--traj-encoder", "transformer"],
            "binary": [*on_data, "--reward", "binary"],
        }
        finished = {}
        for stage, options in variants.items():
            if stage not in stages:
                continue
            done = finished[stage] = run_script(SCRIPT, args.folder / f"{stage}_{seed}", options)
            for play in ("greedy", "sampled"):
                for opponent, row in done.evaluation[play].items():
                    bar = BARS.get(stage, {}).get(opponent, 0.0) if play == "greedy" else 0.0
                    passed &= row["win_rate"] >= bar
                    results.append({"stage": f"{stage}, {play}", "seed": seed, "opponent": opponent, **row})
                    print_row(f"{stage}, {play}", seed, opponent, row, f"bar {bar:.0%}" if bar else "")
            print(f"{stage:20} {seed:4d}  {done.minutes:.1f} minutes in all", flush=True)
            passed &= stage != "gen1" or done.minutes <= MINUTES_BAR
        if "duel" in stages:
            players = dict.fromkeys((*ScriptArgs.players, f"checkpoint:{finished['bc'].checkpoint}"))
            duel = ScriptArgs(seed=seed, opponents=tuple(players))
            with StopSignal() as stop:
                checkpoint, greedy = finished["gen1"].checkpoint, (("greedy", 0.0),)
                rows = evaluate(duel, checkpoint, duel_battles, stop, greedy)["greedy"]
                if stop:
                    raise KeyboardInterrupt
            for opponent, row in rows.items():
                name = "bc of the same data" if opponent.startswith("checkpoint:") else opponent
                passed &= row["low"] > 0.5
                results.append({"stage": "duel", "seed": seed, "opponent": name, **row})
                print_row("duel", seed, name, row, "bar: interval above 50%")
    print_tables(results)
    print(json.dumps({"benchmark": "showdown_offline", "passed": bool(passed), "results": results}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
