"""What ppo.py and ppo_vizdoom.py reach in the small worlds, seed by seed.

    python benchmark/small_worlds.py                          # everything; more than an hour on two cores
    python benchmark/small_worlds.py --worlds CartPole-v1 Taxi-v4
    python benchmark/small_worlds.py --variants --worlds Taxi-v4   # what makes Taxi stall
    python benchmark/small_worlds.py --variants --worlds LunarLander-v3   # the lander without long rollouts

Each run is the script itself in its own process, from nothing; the score is the mean greedy return of 100
episodes (20 in ViZDoom). Every seed has its row. The last line printed is one JSON object.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from common.script_runs import run_scripts

from cleanpoke.errors import CleanPokeError, user_errors


@dataclass(frozen=True, slots=True)
class World:
    """One line of the table: a script's options, and the mean return that each seed must reach."""

    env_id: str
    script: str
    options: tuple[str, ...]
    bar: float | None
    variant: str = ""

    @property
    def name(self) -> str:
        return self.variant or self.env_id


LONG_ROLLOUTS = ("--gamma", "0.999", "--gae-lambda", "0.98", "--num-steps", "1024", "--num-minibatches", "64")
WORLDS = (
    World("CartPole-v1", "ppo", ("--total-timesteps", "200000"), 475.0),
    World("LunarLander-v3", "ppo", ("--total-timesteps", "1000000", *LONG_ROLLOUTS), 200.0),
    World("Taxi-v4", "ppo", ("--total-timesteps", "400000", "--action-mask"), 7.0),
    World("VizdoomBasic-v1", "ppo_vizdoom", ("--total-timesteps", "100000"), 75.0),
    World("VizdoomDefendCenter-v1", "ppo_vizdoom", ("--total-timesteps", "300000"), 10.0),
)
CLEANRL = ("--no-normalize-returns", "--num-envs", "4", "--num-minibatches", "4", "--learning-rate", "2.5e-4")
VARIANTS = (
    *(
        World("Taxi-v4", "ppo", ("--total-timesteps", "400000", *options), None, name)
        for name, options in (
            ("as shipped", ()),
            ("values in the game's own units", ("--no-normalize-returns",)),
            ("sizes and rates of CleanRL", CLEANRL),
            ("entropy bonus 0.1", ("--ent-coef", "0.1")),
            ("entropy bonus 0.5", ("--ent-coef", "0.5")),
            ("illegal actions masked", ("--action-mask",)),
        )
    ),
    World(
        "LunarLander-v3",
        "ppo",
        ("--total-timesteps", "1000000", "--gamma", "0.999"),
        None,
        "gamma 0.999 with rollouts as shipped",
    ),
)


@dataclass
class Args:
    worlds: tuple[str, ...] = tuple(world.env_id for world in WORLDS)
    """which worlds"""
    variants: bool = False
    """compare variants of those among them that have some, Taxi and LunarLander, instead"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """one run of each with each of them"""
    at_once: int = 1
    """runs beside each other, each with its share of the cores"""
    folder: Path = Path("runs/benchmark_small_worlds")
    """where the runs go; finished runs in it are not repeated"""
    quick: bool = False
    """one seed of CartPole for a minute"""
    check: bool = False
    """exit with status 1 when a seed stays below the bar of its world"""


def planned(args: Args) -> list[tuple[World, int, Path, list[str]]]:
    """World, seed, folder and options of each run. Raises CleanPokeError if there is nothing to run."""
    if unknown := set(args.worlds) - {world.env_id for world in WORLDS}:
        raise CleanPokeError(f"unknown worlds {', '.join(sorted(unknown))}")
    chosen = [world for world in (VARIANTS if args.variants else WORLDS) if world.env_id in args.worlds]
    if not chosen:
        raise CleanPokeError(f"no variants of {', '.join(args.worlds)}: choose Taxi-v4 or LunarLander-v3")
    if args.quick:
        args.seeds = (1,)
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
        chosen = [World("CartPole-v1", "ppo", ("--total-timesteps", "60000"), 300.0)]
    jobs = []
    for world in chosen:
        for seed in args.seeds:
            folder = args.folder / f"{world.name.replace(' ', '_')}_{seed}"
            jobs.append(
                (world, seed, folder, ["--env-id", world.env_id, *world.options, "--seed", str(seed)])
            )
    return jobs


def main(args: Args) -> None:
    jobs = planned(args)
    runs = run_scripts([(world.script, folder, options) for world, _, folder, options in jobs], args.at_once)
    rows, passed = [], True
    table = ["\n|world|seed|greedy return|sampled|minutes|bar|", "|-|-|-|-|-|-|"]
    for (world, seed, _, _), run in zip(jobs, runs, strict=True):
        greedy, sampled = run.evaluation["greedy"], run.evaluation["sampled"]
        passed &= world.bar is None or greedy["mean"] >= world.bar
        scores = [f"{one['mean']:.1f} ± {one['interval']:.1f}" for one in (greedy, sampled)]
        cells = (world.name, seed, *scores, f"{run.minutes:.1f}", world.bar or "-")
        table.append(f"|{'|'.join(map(str, cells))}|")
        rows.append({"world": world.name, "seed": seed, "minutes": run.minutes, **run.evaluation})
    print("\n".join(table))
    print(json.dumps({"benchmark": "small_worlds", "passed": bool(passed), "results": rows}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
