"""What cloning, DQN with demonstrations and DAgger reach in Tiny Town, seed by seed, and how fast they learn.

    python benchmark/emerald_imitation.py                          # everything; hours on two cores
    python benchmark/emerald_imitation.py --stages players bc --demonstrations 10 50

Stages: players (the scripted expert, random buttons), bc (cloning of 5 to 50 demonstrations), dqn_bc (of 10),
dqn (without demonstrations), dagger, and speed. Demonstrations are episodes of the expert with one random
button in twenty; in the games that judge, every player presses one random button in twenty, too. Each run is
the script itself in its own process, judged once, at its end, in towns that neither a demonstration nor an
evaluation on the way shows. Intervals are of 95%, over episodes drawn anew within each seed.

DAgger is evaluated every second round on its way: its labels are counted at the first of these evaluations
that reaches the expert's success rate, within one game. The first of many is lucky at times, so the success
of its last judgement stands beside it.

The stage speed compares, on the CPU, the updates of bc_emerald.py with the same network and batches the plain
way, and shows where the time goes. Ours: pictures stored and gathered as uint8, made float only in the
network; convolutions channels-last; products in bfloat16 where the hardware multiplies it; fused Adam. Plain:
pictures stored and gathered as float32; convolutions channels-first; all in float32; Adam tensor by tensor.

Before anything is played or trained, all runs are checked against what the folder holds. The last line is
JSON; its `passed` is null if no bar could be judged.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from common.curves import new_picture, save_picture
from common.script_runs import Job, check_jobs, run_scripts
from common.sources import version_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cleanpoke import bc_emerald
from cleanpoke.compute import autocast, start
from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald import demos, playing
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.milestones import NAMES
from cleanpoke.envs.emerald.tiny_town.expert import Expert
from cleanpoke.errors import CleanPokeError, user_errors

STAGES = ("players", "bc", "dqn_bc", "dqn", "dagger", "speed")
BC_BAR = 0.9
"""Share of the expert's milestones that cloning of `MOST` demonstrations reaches."""
MOST = 50
FEW = 10
"""Demonstrations of the stage dqn_bc."""
HELD_OUT = 5
"""Demonstrations that are recorded beyond those that any run learns from."""
SCRIPTS = {
    "bc": "bc_emerald",
    "dqn_bc": "dqn_bc_emerald",
    "dqn": "dqn_bc_emerald",
    "dagger": "dagger_emerald",
}
EXPERT, RANDOM = "expert", "random buttons"
DQN_BC, DQN, DAGGER = f"DQN + BC, {FEW} demonstrations", "DQN, no demonstrations", "DAgger"
Rows = dict[str, dict[str, Any]]
"""Of each player: mean, low, high (of its milestones, over games and seeds), success, success_low,
success_high (of the share of its games to the end), and `runs`: what the evaluation of each seed says."""
PANELS = (
    (f"milestones of {len(NAMES)}", len(NAMES), ("mean", "low", "high")),
    ("share of games to the end", 1, ("success", "success_low", "success_high")),
)
"""Of the picture: label, highest value, and what is drawn of each player."""


def bc_name(count: int) -> str:
    return f"BC, {count} demonstrations"


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
    """players and bc on few demonstrations for a few seconds, and speed; no bar applies"""
    check: bool = False
    """exit with status 1 unless all bars were judged and met"""


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that make no sense."""
    if unknown := set(args.stages) - set(STAGES):
        raise CleanPokeError(f"unknown stages {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}")
    if not args.seeds or not args.demonstrations or min(*args.demonstrations, args.episodes) < 1:
        raise CleanPokeError("--seeds and --demonstrations name at least one, --episodes is at least 1")


# --- Players and demonstrations ---------------------------------------------------------------------------


class RandomPlayer:
    """Presses anything, something else in each game."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def begin(self) -> None:
        """Nothing to forget."""

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        return int(self.rng.integers(len(BUTTONS)))


class ExpertPlayer(Expert):
    """The scripted expert; it remembers nothing between episodes."""

    def begin(self) -> None:
        """Nothing to forget."""


def judge_players(args: Args) -> dict[str, list[dict[str, Any]]]:
    """Expert and random buttons, in the games that judge the runs."""
    env = playing.make_env(None, None, args.max_steps)
    results = {}
    for name, player in ((EXPERT, ExpertPlayer()), (RANDOM, RandomPlayer())):
        result = playing.evaluate(player, env, args.episodes, lambda: False, first=playing.TEST_GAMES)
        results[name] = [{"seed": "-", **result}]
        print(
            f"{name}: {result['milestones']:.1f} milestones, {result['success']:.0%} to the end", flush=True
        )
    env.close()
    return results


def recorded_count(args: Args) -> int:
    """How many demonstrations each seed needs, with those that no run learns from."""
    return max(args.demonstrations) + 1 if args.quick else max(*args.demonstrations, FEW) + HELD_OUT


def demonstrations_folders(args: Args) -> dict[int, Path]:
    """Where each seed's demonstrations are, or will be; the name holds the version of what recorded them.

    Raises CleanPokeError if there are some of another version, or too few.
    """
    version = version_of(Path(playing.__file__))[:12]
    folders = {}
    for seed in args.seeds:
        folder = folders[seed] = args.folder / f"demonstrations_{seed}_{version}"
        others = {args.folder / f"demonstrations_{seed}", *args.folder.glob(f"demonstrations_{seed}_*")}
        for other in others - {folder}:
            if other.exists():
                raise CleanPokeError(
                    f"{other} was recorded by another version of the expert, its player or the game: choose "
                    "another --folder"
                )
        count = len(list(folder.glob("*.npz")))
        if folder.exists() and count < recorded_count(args):
            raise CleanPokeError(
                f"{folder} holds {count} demonstrations, {recorded_count(args)} are needed: choose another "
                "--folder"
            )
    return folders


# --- Runs -------------------------------------------------------------------------------------------------


class Planned(NamedTuple):
    """A run: the name of its row, its seed, and how it is started."""

    name: str
    seed: int
    job: Job


def options_of(stage: str, seed: int, args: Args, data: Path) -> list[str | Path]:
    """The command line of one run, but for the number of demonstrations."""
    many = str(10_000_000)  # updates: the minutes end the run
    options: list[str | Path] = ["--max-minutes", str(args.minutes), "--eval-episodes", str(args.episodes)]
    options += ["--eval-max-steps", str(args.max_steps), "--seed", str(seed)]
    options += ["--eval-every", "2" if stage == "dagger" else many]  # rounds, or updates
    if stage == "bc":
        return [*options, "--data", data, "--total-steps", many]
    if stage == "dqn_bc":
        return [*options, "--data", data, "--num-episodes", str(FEW), "--online-steps", many]
    if stage == "dqn":
        # Nobody shows the way: it begins with random buttons, as DQN does.
        alone = ["--demo-share", "0", "--offline-steps", "0", "--epsilon", "1", "--epsilon-end", "0.05"]
        return [*options, *alone, "--online-steps", many]
    return [*options, "--iterations", "200"]  # more than the minutes allow


def plan(args: Args, data: dict[int, Path]) -> list[Planned]:
    """All runs of the stages; data: the folder of each seed's demonstrations."""
    planned = []
    for seed in args.seeds:
        for stage in SCRIPTS:
            if stage not in args.stages:
                continue
            options = options_of(stage, seed, args, data[seed])
            variants = {{"dqn_bc": DQN_BC, "dqn": DQN, "dagger": DAGGER}.get(stage, ""): options}
            if stage == "bc":
                variants = {
                    bc_name(count): [*options, "--num-episodes", str(count)] for count in args.demonstrations
                }
            for name, command in variants.items():
                label = name.replace(" ", "_").replace(",", "").replace("+", "and")
                job = (SCRIPTS[stage], args.folder / f"{label}_{seed}", command)
                planned.append(Planned(name, seed, job))
    return planned


# --- Speed ------------------------------------------------------------------------------------------------


def updates(data: bc_emerald.Data, args: bc_emerald.Args, is_plain: bool) -> Iterator[Tensor]:
    """Endless updates, and the loss of each; is_plain: pictures stored and gathered as float32, all products
    in float32."""
    place = start("cpu", args.threads)
    torch.manual_seed(1)
    network = bc_emerald.Network(args)
    optimizer = torch.optim.Adam(
        network.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=not is_plain
    )
    floats = data.pictures.float() / 255 if is_plain else None
    rng = np.random.default_rng(1)
    while True:
        indices = torch.from_numpy(rng.integers(len(data.labels), size=args.batch_size))
        if is_plain:
            labels = data.labels[indices]
            x = F.relu(network.stages(floats[indices])).flatten(1)
            logits = network.head(F.relu(network.hidden(x)))
        else:
            pictures, previous, labels = data.rows(indices, args.frame_stack)
            with autocast(place.device, args.bf16):
                logits = network(pictures, previous)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        yield loss.detach()


def warm(steps: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same, after the first few, which choose kernels."""
    for _ in range(5):
        next(steps)
    return steps


def samples_per_second(steps: Iterator[Tensor], batch_size: int, seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        next(steps)
        count += 1
    return count * batch_size / elapsed


def costliest(steps: Iterator[Tensor], count: int) -> list[tuple[str, float, float]]:
    """The five operators of `count` updates that take the most CPU time themselves: (name, milliseconds in
    each update, share of the whole)."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            next(steps)
    operators = profiler.key_averages()
    total = sum(operator.self_cpu_time_total for operator in operators)
    first = sorted(operators, key=lambda operator: -operator.self_cpu_time_total)[:5]
    return [
        (one.key, one.self_cpu_time_total / 1000 / count, one.self_cpu_time_total / total) for one in first
    ]


def measure_speed(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Prints samples per second of both ways, measured turn about, and a profile of each."""
    args = bc_emerald.Args()
    episode = demos.load_episode(episode_files.episodes_in(folder)[0])
    pictures = playing.shrink(episode.observations, args.height, args.width)
    labels = torch.from_numpy(episode.labels.astype(np.int64))
    data = bc_emerald.Data(pictures, labels, torch.zeros_like(labels), torch.zeros_like(labels))
    speeds = [
        [
            samples_per_second(warm(updates(data, args, is_plain)), args.batch_size, seconds)
            for is_plain in (False, True)
        ]
        for _ in range(rounds)
    ]
    ours, plain = (float(speed) for speed in np.median(speeds, 0))
    ratios = [one / other for one, other in speeds]
    ratio = f"{np.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
    print(
        markdown(
            ("bc_emerald.py, samples/s", "float32 throughout", "ratio"),
            [(f"{ours:,.0f}", f"{plain:,.0f}", ratio)],
        )
    )
    profiles = [costliest(warm(updates(data, args, is_plain)), 20) for is_plain in (True, False)]
    cells = [
        [cell for name, cost, share in pair for cell in (f"`{name}`", f"{cost:.1f}", f"{share:.0%}")]
        for pair in zip(*profiles, strict=True)
    ]
    head = ("before: float32", "ms/update", "share", "after: bc_emerald.py", "ms/update", "share")
    print(markdown(head, cells))
    before, after = profiles
    return {
        "ours": ours,
        "plain": plain,
        "ratio": float(np.median(ratios)),
        "profile": {"plain": before, "ours": after},
    }


# --- Results ----------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    table = [head, ["-"] * len(head), *lines]
    return "\n" + "\n".join(f"|{'|'.join(map(str, line))}|" for line in table)


def interval(samples: list[list[float]]) -> tuple[float, float]:
    """95% of the mean, from 2,000 draws of seeds with replacement, and of games within each of them."""
    rng, means = np.random.default_rng(0), []
    for _ in range(2000):
        seeds = rng.integers(len(samples), size=len(samples))
        means.append(np.mean([rng.choice(samples[seed], len(samples[seed])).mean() for seed in seeds]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def to_the_end(run: dict[str, Any]) -> list[float]:
    """1 for each game that one evaluation has played to the end, 0 for the others."""
    won = round(run["success"] * run["episodes"])
    return [1.0] * won + [0.0] * (run["episodes"] - won)


def rows_of(results: dict[str, list[dict[str, Any]]]) -> Rows:
    """results: name of a player to the evaluations of its seeds."""
    rows = {}
    for name, runs in results.items():
        samples = [run["milestones_of_each"] for run in runs]
        low, high = interval(samples)
        mean = float(np.mean(np.concatenate(samples)))
        row = {"mean": mean, "low": low, "high": high, "runs": runs}
        row["success"] = float(np.mean([run["success"] for run in runs]))
        row["success_low"], row["success_high"] = interval([to_the_end(run) for run in runs])
        rows[name] = row
    return rows


def results_table(rows: Rows) -> str:
    lines = []
    for name, row in rows.items():
        runs = row["runs"]
        each = " / ".join(f"{run['milestones']:.1f}" for run in runs)
        steps = " / ".join(f"{run['length']:.0f}" for run in runs)
        labels = " / ".join(f"{run['labels']:,}" for run in runs if run.get("labels")) or "-"
        mean = f"{row['mean']:.1f} ({row['low']:.1f} - {row['high']:.1f})"
        lines.append((name, each, mean, f"{row['success']:.0%}", steps, labels))
    head = (f"milestones of {len(NAMES)}, each seed", "mean (95%)", "to the end", "steps", "labels")
    return markdown(("player", *head), lines)


def milestones_table(rows: Rows, counts: Sequence[int]) -> str:
    """Share of the games that reach each milestone. counts: sizes of the cloning runs."""
    main_players = (EXPERT, bc_name(max(counts)), bc_name(FEW), DQN_BC, DQN, DAGGER, RANDOM)
    names = [name for name in dict.fromkeys(main_players) if name in rows]
    lines = []
    for milestone in NAMES:
        shares = [np.mean([run[f"reached_{milestone}"] for run in rows[name]["runs"]]) for name in names]
        lines.append((f"`{milestone}`", *(f"{share:.0%}" for share in shares)))
    return markdown(("share of games that reach each milestone", *names), lines)


def goals_of(rows: Rows, episodes: int) -> tuple[float, float]:
    """The expert's success rate (1 if nobody measured it), and one game of an evaluation less; one game at
    the least."""
    expert = rows[EXPERT]["success"] if EXPERT in rows else 1.0
    one_game = 1 / episodes
    full, within_one = max(expert, one_game), max(expert - one_game, one_game)
    return full - 1e-9, within_one - 1e-9  # shares of games are rounded


class LabelCount(NamedTuple):
    """What one seed needed to play as well as the expert."""

    seed: int
    in_full: dict[str, Any] | None
    """Of DAgger's evaluations on the way, the first that reaches the expert's success rate."""
    within_one: dict[str, Any] | None
    """The first that reaches it within one game."""
    at_the_end: float
    """DAgger's success in the games that judge."""
    cloning: tuple[int, int] | None
    """Demonstrations and labels of the smallest cloning run that reaches it within one game."""
    most: int | None
    """Labels of the cloning run of `MOST` demonstrations, if there is one."""

    @property
    def is_fewer(self) -> bool | None:
        """Whether DAgger needs fewer labels than cloning; None if cloning was not measured."""
        if self.most is None:
            return None
        bound = self.cloning[1] if self.cloning else self.most
        return self.within_one is not None and self.within_one["labels"] < bound


def label_counts(rows: Rows, counts: Sequence[int], episodes: int) -> list[LabelCount]:
    """For each seed of DAgger. counts: sizes of the cloning runs; episodes: games of an evaluation."""
    full, within_one = goals_of(rows, episodes)
    found = []
    for run in rows[DAGGER]["runs"] if DAGGER in rows else ():
        clones = {
            count: clone
            for count in sorted(counts)
            for clone in rows.get(bc_name(count), {"runs": ()})["runs"]
            if clone["seed"] == run["seed"]
        }
        firsts = [
            next((point for point in run["on_the_way"] if point["success"] >= goal), None)
            for goal in (full, within_one)
        ]
        reaching = [
            (count, clone["labels"]) for count, clone in clones.items() if clone["success"] >= within_one
        ]
        most = clones[MOST]["labels"] if MOST in clones else None
        smallest = reaching[0] if reaching else None
        found.append(LabelCount(run["seed"], *firsts, run["success"], smallest, most))
    return found


def labels_table(rows: Rows, counted: list[LabelCount], episodes: int) -> str:
    full, within_one = goals_of(rows, episodes)

    def told(point: dict[str, Any] | None) -> str:
        return f"{point['labels']:,} ({point['milestones']:.1f})" if point else "not reached"

    lines = []
    for one in counted:
        cloning = f"{one.cloning[1]:,} ({one.cloning[0]} demonstrations)" if one.cloning else "not reached"
        if not one.cloning and one.most:
            cloning += f" with {one.most:,}"
        lines.append((one.seed, told(one.in_full), told(one.within_one), f"{one.at_the_end:.0%}", cloning))
    return markdown(
        (
            "seed",
            f"DAgger: labels (milestones) at {full:.0%} to the end, as the expert",
            f"at {within_one:.0%}: within one game of {episodes}",
            "to the end in the games that judge",
            f"cloning: labels at {within_one:.0%}",
        ),
        lines,
    )


def bars_of(rows: Rows, counted: list[LabelCount]) -> dict[str, bool | None]:
    """Each bar: whether it is met, None if its runs are not there."""
    most, few = bc_name(MOST), bc_name(FEW)
    bars: dict[str, bool | None] = {}
    is_measured = most in rows and EXPERT in rows
    is_close = rows[most]["mean"] >= BC_BAR * rows[EXPERT]["mean"] if is_measured else None
    bars[f"{most}, {BC_BAR:.0%} of the expert's milestones"] = is_close
    for name in (few, DQN):
        is_measured = DQN_BC in rows and name in rows
        is_above = rows[DQN_BC]["low"] > rows[name]["high"] if is_measured else None
        bars[f"{DQN_BC}, above {name}, intervals disjoint"] = is_above
    verdicts = [one.is_fewer for one in counted]
    is_fewer = all(verdicts) if verdicts and None not in verdicts else None
    bars["DAgger as the expert within one game, with fewer labels than cloning, in every seed"] = is_fewer
    return bars


def draw(rows: Rows, counts: Sequence[int], path: Path) -> None:
    """Milestones and success against the number of demonstrations, with the other players across."""
    sizes = [count for count in sorted(counts) if bc_name(count) in rows]
    if not sizes or not (whole := new_picture(path)):
        return
    figure = whole.figure
    whole.remove()
    figure.set_size_inches(11, 4.2)
    panels = zip(figure.subplots(1, 2), PANELS, strict=True)
    for axes, (label, highest, names) in panels:
        values = {name: np.array([row[one] for one in names]) for name, row in rows.items()}
        means, lows, highs = np.array([values[bc_name(count)] for count in sizes]).T
        errors = np.clip([means - lows, highs - means], 0, None)
        axes.errorbar(sizes, means, errors, color="C0", marker="o", capsize=4, label="BC")
        for index, name in enumerate((EXPERT, DQN_BC, DQN, RANDOM), start=1):
            if name in rows:
                mean, low, high = values[name]
                axes.axhline(mean, color=f"C{index}", linestyle="--", label=name)
                axes.axhspan(low, high, color=f"C{index}", alpha=0.15, linewidth=0)
        axes.set(xlabel="demonstrations", ylabel=label, xticks=sizes, ylim=(0, 1.03 * highest))
    figure.suptitle("Tiny Town: unseen games, 95% intervals")
    save_picture(axes, path, "milestones and success by the number of demonstrations")


def main(args: Args) -> None:
    check(args)
    if args.quick:
        args.stages, args.seeds, args.demonstrations = ("players", "bc", "speed"), (1,), (2,)
        args.minutes, args.episodes, args.max_steps = 0.2, 2, 600
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
    data = demonstrations_folders(args)
    planned = plan(args, data)
    check_jobs([run.job for run in planned], args.at_once)

    results = judge_players(args) if "players" in args.stages else {}
    for seed, folder in data.items():
        if not folder.exists() and set(args.stages) & {"bc", "dqn_bc", "speed"}:
            playing.record_demonstrations(folder, None, recorded_count(args), seed)
    for run, done in zip(planned, run_scripts([run.job for run in planned], args.at_once), strict=True):
        results.setdefault(run.name, []).append(
            {"seed": run.seed, "minutes": done.minutes, **done.evaluation}
        )
    rows = rows_of(results)
    counted = label_counts(rows, args.demonstrations, args.episodes)
    bars = bars_of(rows, counted)
    if rows:
        print(results_table(rows))
        print(milestones_table(rows, args.demonstrations))
        draw(rows, args.demonstrations, args.folder / "milestones.png")
    if counted:
        print(labels_table(rows, counted, args.episodes))
    speed = None
    if "speed" in args.stages:
        first = data[args.seeds[0]]
        speed = measure_speed(first, rounds=1, seconds=2.0) if args.quick else measure_speed(first, 5, 8.0)

    print()
    for name, is_met in bars.items():
        print(f"{'not judged' if is_met is None else 'met' if is_met else 'MISSED':10} {name}")
    judged = [is_met for is_met in bars.values() if is_met is not None]
    passed = all(judged) if judged else None
    labels = [one._asdict() for one in counted]
    summary = {"benchmark": "emerald_imitation", "passed": passed, "bars": bars, "rows": rows}
    print(json.dumps(summary | {"labels_to_the_expert": labels, "speed": speed}))
    if args.check and not args.quick and not all(bars.values()):
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
