"""From pixels to goals in CarRacing-v3, stage by stage: what each reaches, seed by seed.

    python benchmark/car_racing.py                        # everything; many hours on two cores
    python benchmark/car_racing.py --until data --at-once 2
    python benchmark/car_racing.py --quick                # all stages, tiny, to see that they fit together

0. speed: frames a second of gymnasium's environment and of ours, in this process.
1. policy: ppo_carracing.py learns from pixels; its encoder is kept.
2. data: the policy plays 300 episodes, drawing its actions; latents are stored instead of pictures.
3. idm: IDM and goal setter are trained on them and played as a clone, without any reward: the transformer,
   and one that is like GCSL.
4. goal_setter: encoder and IDM stay fixed, and PPO trains a goal setter, from nothing and from the clone;
   beside it PPO on the same latents without goals, and without the episodes that the IDMs have seen.

Each run is the script itself in its own process; finished ones are not repeated. Scores are mean returns of
20 episodes, greedy and with the noise of training; intervals are those over seeds, by Student's t. The last
line printed is one JSON object.
"""

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from common.intervals import mean_over_seeds
from common.recordings import record
from common.script_runs import FinishedRun, run_scripts

from cleanpoke.envs.car_racing import ENV_ID, CarPictures
from cleanpoke.errors import CleanPokeError, user_errors

STAGES = ("policy", "data", "idm", "goal_setter")
IDMS = {
    # The bound would change goals that were reached: gas and brake do nearly the same.
    "transformer": ("--idm", "transformer", "--goal-bound", "0"),
    "as GCSL": ("--goal-space", "abs", "--goal-steps", "5", "--acting-share", "0"),
}
SIDE_BY_SIDE = ("--num-envs", "8", "--num-steps", "256")
"""Eight cars, rollouts as long as the script's default in all."""
Jobs = dict[tuple[str, int], tuple[str, list[str | Path]]]
"""Script and options of what has this name and this seed."""
UNEQUAL = """
The goal setters' IDMs have learned from the policy's episodes, and so had the clones that some began with.
PPO without goals has seen none: compare what is from the clone with the clone itself (stage idm)."""
"""Said below the table."""
POLICY_BAR, CLONE_BAR = 300.0, 0.5
"""--check: what each policy must return at least, and what share of it each transformer's clone."""


@dataclass
class Args:
    until: Literal["policy", "data", "idm", "goal_setter"] = "goal_setter"
    """last stage; it needs those before it"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """one policy with each of them, and everything that follows from it"""
    policy_steps: int = 300_000
    """decisions of each policy"""
    episodes: int = 300
    """stored episodes of each policy"""
    idm_updates: int = 20_000
    """updates of IDM and clone"""
    goal_steps: int = 150_000
    """decisions of each goal setter"""
    eval_episodes: int = 20
    """episodes of each evaluation, greedy and sampled"""
    at_once: int = 1
    """runs beside each other, each with its share of the cores"""
    rounds: int = 5
    """measurements of speed, turn about"""
    folder: Path = Path("runs/benchmark_car_racing")
    """where the runs go"""
    quick: bool = False
    """one seed, everything tiny: that the stages fit together, not what they reach"""
    check: bool = False
    """exit with status 1 when a policy or a clone stays below its bar"""


def frames_per_second(env: gym.Env, steps_each: int, decisions: int) -> float:
    """Frames that the environment plays a second from an episode's start on, of which each decision lasts
    eight, in so many steps."""
    generator, started = np.random.default_rng(0), time.perf_counter()
    env.reset(seed=1)
    for _ in range(decisions):
        action = generator.uniform([-0.3, 0, 0], [0.3, 0.6, 0.1]).astype(np.float32)
        for _ in range(steps_each):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
    return 8 * decisions / (time.perf_counter() - started)


def measure_speed(rounds: int, decisions: int) -> dict[str, float]:
    """Medians over the rounds."""
    plain, ours = gym.make(ENV_ID, disable_env_checker=True), CarPictures(action_repeat=8)
    speeds: dict[str, list[float]] = {"gymnasium": [], "ours": []}
    for _ in range(rounds):
        speeds["gymnasium"].append(frames_per_second(plain, 8, decisions))
        speeds["ours"].append(frames_per_second(ours, 1, decisions))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print("\n|environment|frames/s|decisions/s|\n|-|-|-|")
    for name, speed in medians.items():
        print(f"|{name}|{speed:,.0f}|{speed / 8:,.1f}|")
    return medians | {"ratio": medians["ours"] / medians["gymnasium"]}


def pixel_policies(args: Args, changed: tuple[str, ...]) -> Jobs:
    options = ["--total-timesteps", str(args.policy_steps), *changed]
    return {("PPO", seed): ("ppo_carracing", [*options, "--seed", str(seed)]) for seed in args.seeds}


def collect(args: Args, seed: int, run: FinishedRun) -> Path:
    """Stores the policy's episodes as latents; those that are there stay."""
    folder = args.folder / f"data_{seed}_{args.episodes}"
    options = ["--store-latents", "--sample", "--agent", str(run.folder), "--seed", str(seed)]
    record(folder, ENV_ID, args.episodes, options)
    return folder


def world_of(policy: Path, seed: int) -> list[str | Path]:
    """The options that name the world, its encoder (of the policy's run folder) and the seed."""
    return ["--env-id", ENV_ID, "--encoder-path", policy / "encoder.pt2", "--seed", str(seed)]


def idm_file(args: Args, name: str, seed: int) -> Path:
    return args.folder / f"idm_{name.replace(' ', '_')}_{seed}.pt"


def clones(args: Args, worlds: dict[int, list[str | Path]], data: dict[int, Path]) -> Jobs:
    """Trained on data alone. worlds: as of `world_of`, for each seed."""
    jobs = {}
    for seed in args.seeds:
        for name, kind in IDMS.items():
            options = [*worlds[seed], *kind, "--data", data[seed], "--total-timesteps", "0"]
            options += ["--warmup-updates", str(args.idm_updates)]
            options += ["--save-idm", idm_file(args, name, seed)]
            jobs[name, seed] = ("ppo_goalsetter_idm", options)
    return jobs


def goal_setters(
    args: Args, worlds: dict[int, list[str | Path]], data: dict[int, Path], side_by_side: tuple[str, ...]
) -> Jobs:
    """PPO over goals that the clones' IDMs decode, and PPO without goals."""
    jobs = {}
    for seed in args.seeds:
        common = [*worlds[seed], *side_by_side, "--total-timesteps", str(args.goal_steps)]
        for name, kind in IDMS.items():
            options = [*common, *kind, "--load-idm", idm_file(args, name, seed), "--idm-train", "fixed"]
            jobs[name, seed] = ("ppo_goalsetter_idm", options)
            options = [*options, "--data", data[seed], "--warmup-updates", str(args.idm_updates)]
            jobs[f"{name}, from the clone", seed] = ("ppo_goalsetter_idm", options)
        jobs["PPO without goals", seed] = ("ppo_goalsetter_idm", [*common, "--mode", "ppo"])
    return jobs


def check(args: Args) -> None:
    """Raises CleanPokeError for what would end in nothing to measure."""
    if args.rounds < 1 or not args.seeds:
        raise CleanPokeError("--rounds must be at least 1, and --seeds name one at least")


def main(args: Args) -> None:
    check(args)
    common = ("--eval-episodes", str(args.eval_episodes))
    policy_options, goal_options = (), SIDE_BY_SIDE
    if args.quick:
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
        args.seeds, args.episodes, args.idm_updates, args.rounds = (1,), 4, 100, 1
        args.policy_steps, args.goal_steps = 512, 256
        common = ("--eval-episodes", "1")
        policy_options = ("--num-envs", "2", "--num-steps", "64")
        goal_options = ("--num-envs", "2", "--num-steps", "64", "--num-minibatches", "4")
    speed = measure_speed(args.rounds, 10 if args.quick else 100)
    scores: list[dict[str, Any]] = []

    def play(stage: str, jobs: Jobs) -> dict[tuple[str, int], FinishedRun]:
        """Runs them and notes what they reach."""
        listed = [
            (script, args.folder / f"{stage}_{name.replace(' ', '_')}_{seed}", [*options, *common])
            for (name, seed), (script, options) in jobs.items()
        ]
        runs = dict(zip(jobs, run_scripts(listed, args.at_once), strict=True))
        for (name, seed), run in runs.items():
            scores.append({"stage": stage, "name": name, "seed": seed, "minutes": run.minutes})
            scores[-1] |= run.evaluation
        return runs

    policies = play("policy", pixel_policies(args, policy_options))
    worlds = {seed: world_of(run.folder, seed) for (_, seed), run in policies.items()}
    last = STAGES.index(args.until)
    if last >= STAGES.index("data"):
        data = {seed: collect(args, seed, run) for (_, seed), run in policies.items()}
    if last >= STAGES.index("idm"):
        play("idm", clones(args, worlds, data))
    if last >= STAGES.index("goal_setter"):
        play("goal_setter", goal_setters(args, worlds, data, goal_options))

    print_table(scores)
    passed = is_passed(scores)
    print(json.dumps({"benchmark": "car_racing", "passed": passed, "speed": speed, "results": scores}))
    if args.check and not passed:
        sys.exit(1)


def print_table(scores: list[dict[str, Any]]) -> None:
    """A row for each contestant, its seeds side by side; intervals are those over seeds."""
    print("\n|stage|what|greedy return, each seed|mean (95%)|sampled, each seed|mean (95%)|minutes|")
    print("|-|-|-|-|-|-|-|")
    for stage, name in dict.fromkeys((score["stage"], score["name"]) for score in scores):
        chosen = [score for score in scores if (score["stage"], score["name"]) == (stage, name)]
        cells = [stage, name]
        for kind in ("greedy", "sampled"):
            means = [score[kind]["mean"] for score in chosen]
            cells += [" / ".join(f"{mean:.1f}" for mean in means), mean_over_seeds(means)]
        print(f"|{'|'.join(cells)}|{max(score['minutes'] for score in chosen):.1f}|")
    if any(score["stage"] == "goal_setter" for score in scores):
        print(UNEQUAL)


def is_passed(scores: list[dict[str, Any]]) -> bool:
    """Whether each policy reaches its bar, and each transformer's clone its share of the policy's return."""
    policies = {score["seed"]: score for score in scores if score["stage"] == "policy"}
    clones = [score for score in scores if score["stage"] == "idm" and score["name"] == "transformer"]
    return all(score["greedy"]["mean"] >= POLICY_BAR for score in policies.values()) and all(
        score["greedy"]["mean"] >= CLONE_BAR * policies[score["seed"]]["sampled"]["mean"] for score in clones
    )


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
