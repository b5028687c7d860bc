"""What dt.py makes of stored episodes: does it bring the return that it is asked for, and more than a clone?

    python benchmark/decision_transformer.py                            # Hopper, hours on two cores
    python benchmark/decision_transformer.py --seeds 1 --at-once 2
    python benchmark/decision_transformer.py --data FOLDER --encoder-path runs/POLICY/encoder.pt2

Without --data: PPO (ppo_goalsetter_idm.py --mode ppo) learns Hopper-v5 for a while, and 300 episodes of the
half-trained policy, which draws its actions, are stored: of middling skill and very different returns. (With
--data: others, such as the latents that benchmark/car_racing.py stores; their encoder lies in the run folder
of the policy that played them.) On them learn, each with every seed: return (asked for the best return of the
data, for half and for a quarter of it), goal (asked for a late state of the best episode), stack (asked for
the state as it is), and none, the clone. Each run is the script itself in its own process. Scores are mean
returns of 20 episodes. The last line printed is one JSON object.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common.intervals import mean_over_seeds
from common.recordings import record
from common.script_runs import FinishedRun, Job, run_script, run_scripts

from cleanpoke.envs.control_episodes import load_control_folder
from cleanpoke.errors import user_errors

ENV_ID = "Hopper-v5"
SHARES = (1.0, 0.5, 0.25)
"""Of the best return of the data, what is asked for."""
SMALL = ("--learning-rate", "1e-3", "--warmup-updates", "500", "--width", "64")
"""A network and a rate that are learned in minutes on a core; the defaults, the paper's, take hours."""


@dataclass
class Args:
    data: Path | None = None
    """folder of episodes to learn from, instead of Hopper's"""
    encoder_path: Path | None = None
    """if they are latents: their encoder"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """one run of each kind with each of them"""
    policy_steps: int = 400_000
    """steps that the policy learns whose episodes are stored"""
    episodes: int = 300
    """how many"""
    updates: int = 8_000
    """updates of each run"""
    eval_episodes: int = 20
    """episodes of each evaluation"""
    at_once: int = 1
    """runs beside each other, each with its share of the cores"""
    folder: Path = Path("runs/benchmark_decision_transformer")
    """where the runs go; finished runs in it are not repeated"""
    quick: bool = False
    """one seed, everything tiny: that it fits together, not what it reaches"""
    check: bool = False
    """exit with status 1 unless asking for the best return brings more than asking for a quarter of it, in
    every seed"""


def hopper_data(args: Args) -> Path:
    """Episodes of a half-trained policy."""
    options = [
        "--env-id",
        ENV_ID,
        "--mode",
        "ppo",
        "--total-timesteps",
        str(args.policy_steps),
        "--seed",
        "1",
    ]
    policy = run_script("ppo_goalsetter_idm", args.folder / "policy", options)
    folder = args.folder / f"data_{args.episodes}"
    record(folder, ENV_ID, args.episodes, ["--agent", str(policy.folder), "--sample"])
    return folder


def planned(args: Args, data: Path, targets: list[str]) -> dict[tuple[str, int], Job]:
    """All runs that learn from the data, by kind and seed. targets: the returns to ask for, best first."""
    kinds = {
        "return": ["--target-return", *targets],
        "goal": ["--condition", "goal"],
        "stack": ["--condition", "goal", "--eval-goal", "stack"],
        "none": ["--condition", "none"],
    }
    common = [*SMALL, "--total-updates", str(args.updates), "--eval-every", "1000000", "--data", data]
    common += ["--eval-episodes", str(args.eval_episodes)]
    common += ["--encoder-path", args.encoder_path] if args.encoder_path else []
    return {
        (kind, seed): ("dt", args.folder / f"{kind}_{seed}", [*common, *options, "--seed", str(seed)])
        for kind, options in kinds.items()
        for seed in args.seeds
    }


def rows_of(
    runs: dict[tuple[str, int], FinishedRun], targets: list[str], seeds: tuple[int, ...]
) -> list[dict[str, Any]]:
    """What each kind returned when it was asked for what, seed by seed; first the returns, best first."""
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in runs):
        names = [f"return_at_{float(target):g}" for target in targets] if kind == "return" else ["return"]
        for name in names:
            row = {"asked": name.replace("_", " ") if kind == "return" else kind}
            row["scores"] = [runs[kind, seed].evaluation[name]["mean"] for seed in seeds]
            rows.append(row | {"minutes": [runs[kind, seed].minutes for seed in seeds]})
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print("\n|asked for|return, each seed|mean over seeds (95%)|minutes|\n|-|-|-|-|")
    for row in rows:
        each = " / ".join(f"{score:.1f}" for score in row["scores"])
        print(f"|{row['asked']}|{each}|{mean_over_seeds(row['scores'])}|{max(row['minutes']):.1f}|")


def is_passed(rows: list[dict[str, Any]]) -> bool:
    """Whether the best return brings more than a quarter of it, in every seed."""
    return all(best > quarter for best, quarter in zip(rows[0]["scores"], rows[2]["scores"], strict=True))


def main(args: Args) -> None:
    if args.quick:
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
        args.seeds, args.policy_steps, args.episodes, args.eval_episodes = (1,), 20_480, 20, 2
        args.updates = 200
    data = args.data or hopper_data(args)
    returns = np.array([float(episode.rewards.sum()) for episode in load_control_folder(data)])
    targets = [f"{share * returns.max():.1f}" for share in SHARES]
    jobs = planned(args, data, targets)
    runs = dict(zip(jobs, run_scripts(list(jobs.values()), args.at_once), strict=True))

    best_tenth = np.sort(returns)[-max(len(returns) // 10, 1) :].mean()
    print(
        f"\n{len(returns)} episodes; returns: mean {returns.mean():.1f}, best tenth {best_tenth:.1f}", end=""
    )
    print(f", best {returns.max():.1f}")
    rows = rows_of(runs, targets, args.seeds)
    print_table(rows)
    passed = is_passed(rows)
    summary = {"benchmark": "decision_transformer", "passed": passed, "returns_of_data": returns.tolist()}
    print(json.dumps(summary | {"results": rows}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
