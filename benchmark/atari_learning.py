"""What ppo_atari.py reaches in Pong, Breakout and BeamRider, seed by seed, and what bfloat16 does to returns.

    python benchmark/atari_learning.py                              # hours on two cores
    python benchmark/atari_learning.py --stages pong --seeds 1

Stages: pong (2 million steps, but a run ends once 100 training games average 19), breakout and beam_rider
(as many steps as you give), precision (Breakout again, in float32), and questions (Pong without NOOP, in
colours, with sticky actions, one seed each).
Each run is the script itself in its own process, from nothing; one that was cut off goes on. Printed for each
run: the evaluation over 100 games, greedy and sampled; frames; minutes; and the curve, the mean return of the
games that ended in each tenth of the run; then means over seeds. Pictures of the curves lie beside the runs.
The last line is one JSON object.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from common.curves import draw_curves, scalars, smoothed
from common.intervals import mean_over_seeds
from common.script_runs import run_scripts

from cleanpoke.errors import CleanPokeError, user_errors

PONG_BAR = 18.0
STAGES = {"pong": "ALE/Pong-v5", "breakout": "ALE/Breakout-v5", "beam_rider": "ALE/BeamRider-v5"}
STAGES |= {"precision": "ALE/Breakout-v5", "questions": "ALE/Pong-v5"}
AS_IT_IS = "as it is"
QUICK_PONG = ["--num-envs", "16", "--num-minibatches", "32", "--update-epochs", "3", "--clip-coef", "0.2"]
QUICK_PONG += ["--learning-rate", "5e-4"]
"""CleanRL's README gives these for Pong in minutes, but for four times the updates and twice the rate, which
must fall in the end: kept up, play stays at 15 to 18."""
QUESTIONS = {"without_noop": ["--drop-noop"], "in_colours": ["--rgb"], "sticky": ["--sticky", "0.25"]}
PUBLISHED = {"ALE/Pong-v5": 20.4, "ALE/Breakout-v5": 414.7, "ALE/BeamRider-v5": 1915.9}
"""CleanRL's ppo_atari.py after 10 million steps, mean of 3 seeds (its benchmark pages)."""


@dataclass
class Args:
    stages: tuple[str, ...] = tuple(STAGES)
    """which stages"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """one run of each with each of them"""
    pong_steps: int = 2_000_000
    """longest run of the pong stage; it ends as soon as 100 training games average 19"""
    steps: int = 1_000_000
    """decisions of each run of breakout, beam_rider and precision"""
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


def variants(stage: str, args: Args) -> dict[str, tuple[str, list[str]]]:
    """What a stage compares: label to the name of the runs' folders, and the script's options.

    Stages share runs: one of the default settings stands beside the variants.
    """
    pong = [*QUICK_PONG, "--total-timesteps", str(args.pong_steps), "--solved-at", "19", "--stop-when-solved"]
    length = ["--total-timesteps", str(args.steps)]
    if stage == "pong":
        return {AS_IT_IS: ("pong_", pong)}
    if stage == "precision":
        return {AS_IT_IS: ("breakout_", length), "float32": ("precision_float32", [*length, "--bf16", "off"])}
    if stage == "questions":
        asked = {name: (f"questions_{name}", [*pong, *options]) for name, options in QUESTIONS.items()}
        return {AS_IT_IS: ("pong_", pong)} | asked
    return {AS_IT_IS: (f"{stage}_", length)}


def main(args: Args) -> None:
    if unknown := set(args.stages) - set(STAGES):
        raise CleanPokeError(f"unknown stages {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}")
    if args.quick:
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
        args.stages, args.seeds, args.pong_steps, args.eval_episodes = ("pong",), (1,), 40_000, 2
    commands: dict[Path, list[str]] = {}
    places = []  # what is shown: labels, and the folder of the run
    for stage in args.stages:
        for seed in args.seeds:
            for name, (stem, options) in variants(stage, args).items():
                if stage == "questions" and name != AS_IT_IS and seed != args.seeds[0]:
                    continue
                folder = args.folder / f"{stem}_{seed}"
                commands[folder] = ["--env-id", STAGES[stage], "--seed", str(seed), *options]
                commands[folder] += ["--eval-episodes", str(args.eval_episodes)]
                places.append(({"stage": stage, "variant": name, "seed": seed}, folder))
    jobs = [("ppo_atari", folder, command) for folder, command in commands.items()]
    runs = dict(zip(commands, run_scripts(jobs, args.at_once), strict=True))
    rows, passed = [], True
    for labels, folder in places:
        run = runs[folder]
        rows.append(labels | {"minutes": run.minutes, "curve": curve(run.folder)} | run.evaluation)
        passed &= labels["stage"] != "pong" or run.evaluation["greedy"]["mean"] >= PONG_BAR
    for stage in args.stages:
        lines: dict[str, list] = {}
        for labels, folder in places:
            if labels["stage"] == stage:
                points = smoothed(*scalars(runs[folder].folder, "charts/episodic_return"), bins=50)
                lines.setdefault(labels["variant"], []).append(points)
        level = {"CleanRL, 10 million decisions": PUBLISHED[STAGES[stage]]}
        draw_curves(args.folder / f"{stage}.png", STAGES[stage], lines, level)
    print("\n|stage|variant|seed|greedy|sampled|frames|minutes|curve: mean return of each tenth|")
    print("|-|-|-|-|-|-|-|-|")
    for row in rows:
        scores = [f"{row[play]['mean']:.1f} ± {row[play]['interval']:.1f}" for play in ("greedy", "sampled")]
        tenths = " ".join("-" if value is None else f"{value:.0f}" for value in row["curve"])
        cells = (row["stage"], row["variant"], row["seed"], *scores, f"{4 * row['step']:,}")
        print(f"|{'|'.join(map(str, cells))}|{row['minutes']:.1f}|{tenths}|")
    print("\n|stage|variant|seeds|greedy, mean over seeds (95%)|sampled|training games of the last tenth|")
    print("|-|-|-|-|-|-|")
    for stage, variant in dict.fromkeys((row["stage"], row["variant"]) for row in rows):
        alike = [row for row in rows if (row["stage"], row["variant"]) == (stage, variant)]
        means = [mean_over_seeds([row[play]["mean"] for row in alike]) for play in ("greedy", "sampled")]
        last = mean_over_seeds([row["curve"][-1] for row in alike])
        print(f"|{stage}|{variant}|{len(alike)}|{means[0]}|{means[1]}|{last}|")
    print(json.dumps({"benchmark": "atari_learning", "passed": bool(passed), "results": rows}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
