"""What ppo_atari.py reaches in Pong, Breakout and BeamRider, seed by seed, and what bfloat16 does to returns.

    python benchmark/atari_learning.py                              # hours on two cores
    python benchmark/atari_learning.py --stages pong --seeds 1

Stages: pong (CleanRL's 10 million steps, but a run ends once 100 training games average 19), breakout and
beam_rider (as many steps as you give), and precision (Pong in bfloat16 and in float32, as many steps each).
Each run is the script itself in its own process, from nothing; one that was cut off goes on. Printed for each
run: the evaluation over 100 games, greedy and sampled; frames; minutes; and the curve, the mean return of the
games that ended in each tenth of the run. Pictures of the curves lie beside the runs. The last line is one
JSON object.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from common.curves import draw_curves, scalars, smoothed
from common.script_runs import run_scripts

from cleanpoke.errors import CleanPokeError, user_errors

PONG_BAR = 18.0
STAGES = {"pong": "ALE/Pong-v5", "breakout": "ALE/Breakout-v5", "beam_rider": "ALE/BeamRider-v5"}
STAGES |= {"precision": "ALE/Pong-v5"}
PUBLISHED = {"ALE/Pong-v5": 20.4, "ALE/Breakout-v5": 414.7, "ALE/BeamRider-v5": 1915.9}
"""CleanRL's ppo_atari.py after 10 million steps, mean of 3 seeds (its benchmark pages)."""


@dataclass
class Args:
    stages: tuple[str, ...] = tuple(STAGES)
    """which stages"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """one run of each with each of them"""
    pong_steps: int = 10_000_000
    """longest run of the pong stage; it ends as soon as 100 training games average 19"""
    steps: int = 2_000_000
    """decisions of each run of breakout and beam_rider"""
    precision_steps: int = 1_000_000
    """decisions of each run of precision"""
    eval_episodes: int = 100
    """games of each evaluation"""
    at_once: int = 1
    """runs beside each other, each with its share of the cores; on two cores 2 take less time in all"""
    folder: Path = Path("runs/benchmark_atari_learning")
    """where the runs go; finished runs in it are not repeated"""
    quick: bool = False
    """one minute of Pong"""
    check: bool = False
    """exit with status 1 when a seed of pong stays below 18"""


def curve(run: Path) -> list[float | None]:
    """Mean return of the games that ended in each tenth of a run."""
    steps, returns = scalars(run, "charts/episodic_return")
    tenths = steps * 10 // (scalars(run, "charts/SPS")[0][-1] + 1)
    return [float(returns[tenths == tenth].mean()) if tenth in tenths else None for tenth in range(10)]


def main(args: Args) -> None:
    if unknown := set(args.stages) - set(STAGES):
        raise CleanPokeError(f"unknown stages {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}")
    if args.quick:
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
        args.stages, args.seeds, args.pong_steps, args.eval_episodes = ("pong",), (1,), 40_000, 2
    jobs = []
    for stage in args.stages:
        variants = {"": ["--total-timesteps", str(args.steps)]}
        if stage == "pong":
            solved = ["--solved-at", "19", "--stop-when-solved"]
            variants = {"": ["--total-timesteps", str(args.pong_steps), *solved]}
        elif stage == "precision":
            length = ["--total-timesteps", str(args.precision_steps)]
            variants = {"bfloat16": [*length, "--bf16", "on"], "float32": [*length, "--bf16", "off"]}
        for seed in args.seeds:
            for name, options in variants.items():
                folder = args.folder / f"{stage}_{name}_{seed}"
                command = ["--env-id", STAGES[stage], "--seed", str(seed), *options]
                command += ["--eval-episodes", str(args.eval_episodes)]
                jobs.append(({"stage": stage, "variant": name, "seed": seed}, folder, command))
    runs = run_scripts([("ppo_atari", folder, command) for _, folder, command in jobs], args.at_once)
    rows, passed = [], True
    for (labels, _, _), run in zip(jobs, runs, strict=True):
        rows.append(labels | {"minutes": run.minutes, "curve": curve(run.folder)} | run.evaluation)
        passed &= labels["stage"] != "pong" or run.evaluation["greedy"]["mean"] >= PONG_BAR
    for stage in args.stages:
        lines: dict[str, list] = {}
        for (labels, _, _), run in zip(jobs, runs, strict=True):
            if labels["stage"] == stage:
                points = smoothed(*scalars(run.folder, "charts/episodic_return"), bins=50)
                lines.setdefault(labels["variant"] or "each seed", []).append(points)
        level = {"CleanRL, 10 million decisions": PUBLISHED[STAGES[stage]]}
        draw_curves(args.folder / f"{stage}.png", STAGES[stage], lines, level)
    print("\n|stage|variant|seed|greedy|sampled|frames|minutes|curve: mean return of each tenth|")
    print("|-|-|-|-|-|-|-|-|")
    for row in rows:
        scores = [f"{row[play]['mean']:.1f} ± {row[play]['interval']:.1f}" for play in ("greedy", "sampled")]
        tenths = " ".join("-" if value is None else f"{value:.0f}" for value in row["curve"])
        cells = (row["stage"], row["variant"], row["seed"], *scores, f"{4 * row['step']:,}")
        print(f"|{'|'.join(map(str, cells))}|{row['minutes']:.1f}|{tenths}|")
    print(json.dumps({"benchmark": "atari_learning", "passed": bool(passed), "results": rows}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
