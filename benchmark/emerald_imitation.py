"""What cloning, DQN with demonstrations and DAgger reach in Tiny Town, seed by seed, and how fast they learn.

    python benchmark/emerald_imitation.py                          # everything; hours on two cores
    python benchmark/emerald_imitation.py --stages players bc --demonstrations 10 50

Stages: players (the scripted expert, random buttons), bc (cloning of 5 to 50 demonstrations), dqn_bc (of 10),
dqn (without demonstrations), dagger, and speed (samples per second of bc_emerald.py against the same network
fed with float32 pictures in float32). Demonstrations are episodes of the expert with one random button in
twenty. Each run is the script itself in its own process, judged once, at its end, in towns that no
demonstration shows. Intervals are of 95%, over episodes drawn anew within each seed. The last line is JSON.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from common.script_runs import run_scripts

from cleanpoke import bc_emerald
from cleanpoke.compute import autocast, start
from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.milestones import NAMES
from cleanpoke.envs.emerald.playing import evaluate, make_env, record_demonstrations, shrink
from cleanpoke.envs.emerald.tiny_town.expert import Expert
from cleanpoke.errors import CleanPokeError, user_errors

STAGES = ("players", "bc", "dqn_bc", "dqn", "dagger", "speed")
BC_BAR = 0.9
"""Share of the expert's milestones that cloning of 50 demonstrations reaches."""
FEW = 10
"""Demonstrations of the stage dqn_bc."""
SCRIPTS = {
    "bc": "bc_emerald",
    "dqn_bc": "dqn_bc_emerald",
    "dqn": "dqn_bc_emerald",
    "dagger": "dagger_emerald",
}


@dataclass
class Args:
    stages: tuple[str, ...] = STAGES
    """which stages"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """one run of each with each of them"""
    demonstrations: tuple[int, ...] = (5, 10, 25, 50)
    """how many each run of the stage bc learns from"""
    minutes: float = 20.0
    """training of each run"""
    episodes: int = 20
    """games that judge each run"""
    max_steps: int = 1500
    """longest of these games"""
    at_once: int = 1
    """runs beside each other, each with its share of the cores"""
    folder: Path = Path("runs/benchmark_emerald_imitation")
    """where demonstrations and runs go; finished runs in it are not repeated"""
    quick: bool = False
    """players and bc on few demonstrations for a few seconds, and speed"""
    check: bool = False
    """exit with status 1 below the bars"""


class RandomPlayer:
    """Presses anything."""

    def begin(self) -> None:
        self.rng = np.random.default_rng(1)

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        return int(self.rng.integers(len(BUTTONS)))


class ExpertPlayer(Expert):
    """The scripted expert; it remembers nothing between episodes."""

    def begin(self) -> None:
        """Nothing to forget."""


def interval(samples: list[list[float]]) -> tuple[float, float]:
    """95% of the mean, from 2,000 draws of seeds with replacement, and of games within each of them."""
    rng, means = np.random.default_rng(0), []
    for _ in range(2000):
        seeds = rng.integers(len(samples), size=len(samples))
        means.append(np.mean([rng.choice(samples[seed], len(samples[seed])).mean() for seed in seeds]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def samples_per_second(data: bc_emerald.Data, args: bc_emerald.Args, is_plain: bool) -> float:
    """Speed of updates; is_plain: pictures stored and sent as float32, all products in float32."""
    place = start("auto", 0)
    torch.manual_seed(1)
    network = bc_emerald.Network(args).to(place.device)
    optimizer = torch.optim.Adam(network.parameters(), args.learning_rate, fused=not is_plain)
    stored = data.pictures.float() / 255 if is_plain else data.pictures
    rng, began, updates = np.random.default_rng(1), 0.0, 0
    while not began or time.perf_counter() - began < 8.0:
        if updates == 5:
            began = time.perf_counter()  # the first few choose kernels
        indices = torch.from_numpy(rng.integers(len(stored), size=args.batch_size))
        pictures, labels = stored[indices].to(place.device), data.labels[indices].to(place.device)
        if is_plain:
            x = F.relu(network.stages(pictures)).flatten(1)
            logits = network.head(F.relu(network.hidden(x)))
        else:
            with autocast(place.device, args.bf16):
                logits = network(pictures, labels)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        updates += 1
    return (updates - 5) * args.batch_size / (time.perf_counter() - began)


def measure_speed(folder: Path, rounds: int) -> dict[str, Any]:
    args = bc_emerald.Args()
    episode = demos.load_episode(episode_files.episodes_in(folder)[0])
    pictures = shrink(episode.observations, args.height, args.width)
    labels = torch.from_numpy(episode.labels.astype(np.int64))
    data = bc_emerald.Data(pictures, labels, torch.zeros_like(labels), torch.zeros_like(labels))
    speeds = [[samples_per_second(data, args, is_plain) for is_plain in (False, True)] for _ in range(rounds)]
    ours, plain = np.median(speeds, 0)
    ratios = [one / other for one, other in speeds]
    print(
        f"\n|bc_emerald.py, samples/s|float32 throughout|ratio|\n|-|-|-|\n|{ours:,.0f}|{plain:,.0f}|", end=""
    )
    print(f"{np.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})|")
    return {"ours": ours, "plain": plain, "ratio": float(np.median(ratios))}


def options_of(stage: str, seed: int, args: Args, data: Path) -> list[str]:
    """The command line of one run, but for the number of demonstrations."""
    limits = ["--max-minutes", str(args.minutes), "--eval-episodes", str(args.episodes)]
    limits += ["--eval-max-steps", str(args.max_steps), "--seed", str(seed), "--eval-every", "10000000"]
    many = str(10_000_000)  # updates: the minutes end the run
    if stage == "bc":
        return [*limits, "--data", str(data), "--total-steps", many]
    if stage == "dqn_bc":
        return [*limits, "--data", str(data), "--num-episodes", str(FEW), "--online-steps", many]
    if stage == "dqn":
        return [*limits, "--demo-share", "0", "--offline-steps", "0", "--online-steps", many]
    return [*limits, "--iterations", "1000"]


def main(args: Args) -> None:
    if unknown := set(args.stages) - set(STAGES):
        raise CleanPokeError(f"unknown stages {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}")
    if args.quick:
        args.stages, args.seeds, args.demonstrations = ("players", "bc", "speed"), (1,), (2,)
        args.minutes, args.episodes, args.max_steps = 0.2, 2, 600
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
    runs: dict[str, list[dict[str, Any]]] = {}
    if "players" in args.stages:
        env = make_env(None, None, args.max_steps)
        for name, player in (("expert", ExpertPlayer()), ("random buttons", RandomPlayer())):
            runs[name] = [{"seed": "-", **evaluate(player, env, args.episodes, lambda: False)}]
        env.close()
    jobs = []
    for seed in args.seeds:
        data = args.folder / f"demonstrations_{seed}"
        if not data.exists() and set(args.stages) & {"bc", "dqn_bc", "speed"}:
            record_demonstrations(data, None, max(*args.demonstrations, FEW) if not args.quick else 2, seed)
        for stage in ("bc", "dqn_bc", "dqn", "dagger"):
            if stage not in args.stages:
                continue
            options = options_of(stage, seed, args, data)
            variants = {stage: options}
            if stage == "dqn_bc":
                variants = {f"DQN + BC, {FEW} demonstrations": options}
            elif stage == "bc":
                variants = {
                    f"BC, {count} demonstrations": [*options, "--num-episodes", str(count)]
                    for count in args.demonstrations
                }
            for name, command in variants.items():
                folder = args.folder / f"{name.replace(' ', '_').replace(',', '').replace('+', 'and')}_{seed}"
                jobs.append((name, seed, (SCRIPTS[stage], folder, command)))
    finished = run_scripts([job for _, _, job in jobs], args.at_once)
    for (name, seed, _), run in zip(jobs, finished, strict=True):
        runs.setdefault(name, []).append({"seed": seed, "minutes": run.minutes, **run.evaluation})
    speed = None
    if "speed" in args.stages:
        speed = measure_speed(args.folder / f"demonstrations_{args.seeds[0]}", 1 if args.quick else 5)

    rows = {}
    print(
        f"\n|player|milestones of {len(NAMES)}, each seed|mean (95%)|to the end|steps|labels|\n|-|-|-|-|-|-|"
    )
    for name, of_seeds in runs.items():
        samples = [run["milestones_of_each"] for run in of_seeds]
        low, high = interval(samples)
        mean = float(np.mean(np.concatenate(samples)))
        success = float(np.mean([run["success"] for run in of_seeds]))
        rows[name] = {"mean": mean, "low": low, "high": high, "success": success, "runs": of_seeds}
        each = " / ".join(f"{run['milestones']:.1f}" for run in of_seeds)
        steps = " / ".join(f"{run['length']:.0f}" for run in of_seeds)
        labels = " / ".join(f"{run['labels']:,}" for run in of_seeds if "labels" in run) or "-"
        print(f"|{name}|{each}|{mean:.1f} ({low:.1f} - {high:.1f})|{success:.0%}|{steps}|{labels}|")

    bars = {}
    if (most := "BC, 50 demonstrations") in rows and "expert" in rows:
        bars["cloning of 50 demonstrations"] = rows[most]["mean"] >= BC_BAR * rows["expert"]["mean"]
    if (hybrid := f"DQN + BC, {FEW} demonstrations") in rows:
        for name in (f"BC, {FEW} demonstrations", "dqn"):
            if name in rows:
                bars[f"DQN + BC above {name}"] = rows[hybrid]["low"] > rows[name]["high"]
    for name, is_met in bars.items():
        print(f"{'met   ' if is_met else 'MISSED'} {name}")
    passed = all(bars.values())
    print(json.dumps({"benchmark": "emerald_imitation", "passed": passed, "rows": rows, "speed": speed}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
