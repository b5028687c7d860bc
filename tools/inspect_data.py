"""Shows what a folder of battles, of demonstrations or of continuous control holds, and proves that it can be
trained on.

    python tools/inspect_data.py expert_data/gen1ou
    python tools/inspect_data.py expert_data/gen1ou --num-samples 1000 --verify
    python tools/inspect_data.py expert_data/tiny_town
    python tools/inspect_data.py expert_data/hopper-v5

Of episodes every file is checked in full. The last line is `trainable: yes`, or the program stops with
one line that says what is wrong (exit status 1).
"""

import contextlib
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cleanpoke.envs import control_episodes, episode_files
from cleanpoke.envs.control_episodes import ControlEpisode
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.env import NOOP
from cleanpoke.envs.emerald.milestones import NAMES
from cleanpoke.envs.showdown.arena import wilson_interval
from cleanpoke.envs.showdown.battle_files import (
    MISSING_ACTION,
    REWARD_TERMS,
    BattleFileError,
    Battles,
    read_folder,
)
from cleanpoke.envs.showdown.encoder import NUM_ACTIONS, NUM_BENCH, NUM_MOVES
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.terminal import Progress

ACTION_NAMES = (
    *(f"move {slot + 1}" for slot in range(NUM_MOVES)),
    *(f"switch {slot + 1}" for slot in range(NUM_BENCH)),
    *(f"move {slot + 1} + gimmick" for slot in range(NUM_MOVES)),
)
BUTTON_NAMES = (*BUTTONS, NOOP)
BAR_WIDTH = 40


@dataclass
class Args:
    folder: tyro.conf.Positional[Path]
    """folder of battles, of demonstrations, or of episodes of continuous control"""
    num_samples: int = 100
    """of battles: random trajectories to check in full, together with the other point of view"""
    verify: bool = False
    """of battles: check every trajectory and the CRC32 of every file"""
    seed: int = 0
    """of battles: seed of the random choice of trajectories"""


def histogram(lengths: np.ndarray) -> list[str]:
    """Ten bars."""
    bins = np.unique(np.linspace(lengths.min(), lengths.max() + 1, 11).astype(int))
    counts, edges = np.histogram(lengths, bins)
    return [
        f"  {low:>5} - {high - 1:<5} {count:>9,}  {bar(count, counts.max())}".rstrip()
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]


def bar(count: int, largest: int) -> str:
    return "#" * round(BAR_WIDTH * count / max(largest, 1))


# --- Battles ----------------------------------------------------------------------------------------------


def column(battles: Battles, name: str) -> np.ndarray:
    """One column of all shards, (total_decisions, ...), in the order of the trajectories."""
    return np.concatenate([shard[name] for shard in battles.shards])


def describe_folder(battles: Battles) -> list[str]:
    """Size, schema, versions and counts."""
    size = sum(file["bytes"] for meta in battles.meta for file in meta["files"].values())
    versions = sorted(
        {f"{name} {version}" for meta in battles.meta for name, version in meta["versions"].items()}
    )
    created = sorted(meta["created"] for meta in battles.meta)
    points_of_view = Counter(battles.trajectories["battle"].tolist())
    both = sum(count == 2 for count in points_of_view.values())
    trajectories, truncated = len(battles.trajectories), int(column(battles, "truncated").sum())
    return [
        f"{battles.folder}: {battles.format}, {len(battles.shards)} shards, {size / 1e6:,.1f} MB",
        f"schema {battles.meta[0]['schema']}, written with {', '.join(versions)}",
        f"collected {created[0]} … {created[-1]}",
        f"{len(points_of_view):,} battles, {both:,} of them with both points of view",
        f"{trajectories:,} trajectories ({truncated:,} truncated), {battles.total_decisions:,} decisions",
    ]


def describe_lengths(battles: Battles) -> list[str]:
    """Decisions per trajectory, with a histogram."""
    lengths = battles.trajectories["length"]
    turns = battles.trajectories["turns"]
    return [
        f"decisions per trajectory: min {lengths.min()}, median {np.median(lengths):g}, max {lengths.max()}; "
        f"turns: min {turns.min()}, median {np.median(turns):g}, max {turns.max()}",
        *histogram(lengths),
    ]


def describe_actions(battles: Battles) -> list[str]:
    """How often each action was executed, and how often there was no choice."""
    actions, num_legal = column(battles, "action"), column(battles, "legal").sum(axis=1)
    counts = np.bincount(actions[actions != MISSING_ACTION], minlength=NUM_ACTIONS)
    kinds = {
        "moves": counts[:NUM_MOVES].sum(),
        "switches": counts[NUM_MOVES : NUM_MOVES + NUM_BENCH].sum(),
        "moves + gimmick": counts[NUM_MOVES + NUM_BENCH :].sum(),
        "missing": (actions == MISSING_ACTION).sum(),
    }
    total = len(actions)
    lines = ["actions: " + ", ".join(f"{count / total:.1%} {kind}" for kind, count in kinds.items())]
    for name, count in zip(ACTION_NAMES, counts, strict=True):
        lines.append(f"  {name:<16} {count:>9,}  {bar(count, counts.max())}".rstrip())
    forced = (num_legal == 1).mean()
    return [
        *lines,
        f"forced decisions (one legal action): {forced:.1%}; legal on average: {num_legal.mean():.2f}",
    ]


def describe_results(battles: Battles) -> list[str]:
    """Win rates by pair of players, with Wilson 95% intervals; ties and truncated ones are not won."""
    rows, names = battles.trajectories, battles.player_names
    lines = [f"{'player':<28} {'against':<28} {'battles':>8} {'won':>7} {'lost':>7} {'neither':>7}  win rate"]

    def line(player: str, opponent: str, outcomes: np.ndarray) -> str:
        won, lost, played = (outcomes > 0).sum(), (outcomes < 0).sum(), len(outcomes)
        low, high = wilson_interval(int(won), played)
        counts = f"{played:>8,} {won:>7,} {lost:>7,} {played - won - lost:>7,}"
        return f"{player:<28} {opponent:<28} {counts}  {won / played:.3f} [{low:.3f}, {high:.3f}]"

    for player, name in enumerate(names):
        is_player = rows["player"] == player
        is_other = is_player & (rows["opponent"] != player)
        if is_other.any():
            lines.append(line(name, "(all others)", rows["outcome"][is_other]))
        for opponent in np.unique(rows["opponent"][is_player]):
            if opponent != player:
                outcomes = rows["outcome"][is_player & (rows["opponent"] == opponent)]
                lines.append(line(name, names[opponent], outcomes))
        mirrored = int((is_player & ~is_other).sum())
        if mirrored:
            lines.append(f"{name:<28} {'(itself)':<28} {mirrored:>8,}")
    return lines


def describe_rewards(battles: Battles) -> list[str]:
    """Reward terms per trajectory, and how well the two points of view of a battle agree about them."""
    terms = column(battles, "reward_terms").astype(np.float64)
    rows = battles.trajectories
    sums = np.add.reduceat(terms, np.cumsum(rows["length"], dtype=np.int64) - rows["length"])  # (K, terms)
    lines = [
        f"{'reward term':<12} {'mean':>8} {'std':>8} {'min':>8} {'max':>8}   per trajectory; steps not 0"
    ]
    for index, name in enumerate(REWARD_TERMS):
        values = sums[:, index]
        spread = f"{values.mean():>8.3f} {values.std():>8.3f} {values.min():>8.2f} {values.max():>8.2f}"
        lines.append(f"{name:<12} {spread}   {(terms[:, index] != 0).mean():.1%}")
    order = np.lexsort((rows["side"], rows["battle"]))
    is_pair = rows["battle"][order[1:]] == rows["battle"][order[:-1]]
    first, second = order[:-1][is_pair], order[1:][is_pair]
    if len(first):
        # Own HP is exact and the opponent's is a percentage, so health can agree only roughly.
        agree = np.abs(sums[first] + sums[second]) <= np.where(np.array(REWARD_TERMS) == "health", 0.2, 1e-3)
        shares = ", ".join(f"{name} {agree[:, index].mean():.1%}" for index, name in enumerate(REWARD_TERMS))
        lines.append(f"battles whose two points of view have opposite sums: {shares}")
    return lines


def describe_losses(battles: Battles) -> list[str]:
    """What was dropped and why, and what is there twice."""
    actions = column(battles, "action")
    rows = battles.trajectories
    ends = np.cumsum(rows["length"], dtype=np.int64)
    seen = Counter(
        (int(row["seed"]), int(row["side"]), int(row["player"]), actions[end - row["length"] : end].tobytes())
        for row, end in zip(rows, ends, strict=True)
    )
    repeated = sum(count - 1 for count in seen.values())
    dropped = [f"  {count:>9,}  {reason}" for reason, count in battles.dropped.most_common()]
    return [
        f"duplicates (same seed, side, player and actions): {repeated:,}",
        f"dropped or cut off: {sum(battles.dropped.values()):,}",
        *dropped,
    ]


def check_pair(battles: Battles, indices: np.ndarray) -> None:
    """Raise BattleFileError unless the trajectories `indices` are the points of view of one battle."""
    rows = battles.trajectories[indices]
    name = f"battle {rows['battle'][0]}"
    if len(rows) > 2 or len(set(rows["side"])) != len(rows):
        raise BattleFileError(f"{name} is there {len(rows)} times, from sides {rows['side'].tolist()}")
    if len(rows) == 1:
        return
    if rows["outcome"].sum() != 0:
        raise BattleFileError(f"{name}: both points of view say outcome {rows['outcome'].tolist()}")
    if rows["seed"][0] != rows["seed"][1] or rows["player"][0] != rows["opponent"][1]:
        raise BattleFileError(f"{name}: its two points of view are of different battles")
    truncated = [bool(battles.decisions(index)["truncated"][-1]) for index in indices]
    if truncated[0] != truncated[1]:
        raise BattleFileError(f"{name}: truncated from one point of view only")


def prove_trainable(battles: Battles, num_samples: int, seed: int) -> str:
    """Check `num_samples` random trajectories in full; raise BattleFileError at the first wrong thing."""
    rows = battles.trajectories
    if not rows["outcome"].any():
        raise BattleFileError(
            f"{battles.folder}: no battle was won or lost, so there is nothing to tell good from bad"
        )
    num_samples = min(num_samples, len(rows))
    num_decisions = num_choices = 0
    for index in np.random.default_rng(seed).choice(len(rows), num_samples, replace=False):
        battles.check(index)
        check_pair(battles, np.flatnonzero(rows["battle"] == rows["battle"][index]))
        decisions = battles.decisions(index)
        num_decisions += len(decisions["action"])
        num_choices += int(
            ((decisions["legal"].sum(axis=1) > 1) & (decisions["action"] != MISSING_ACTION)).sum()
        )
    if num_choices == 0:
        raise BattleFileError(
            f"{battles.folder}: no decision of {num_decisions} is a known choice among several legal actions"
        )
    return (
        f"{num_samples:,} trajectories checked: {num_decisions:,} decisions, {num_choices:,} of them choices"
    )


def inspect_battles(args: Args) -> None:
    if args.num_samples < 1:
        raise BattleFileError(f"--num-samples must be at least 1, not {args.num_samples}")
    battles = read_folder(args.folder, verify=args.verify)
    descriptions = (
        describe_folder,
        describe_lengths,
        describe_actions,
        describe_results,
        describe_rewards,
        describe_losses,
    )
    for describe in descriptions:
        print(*describe(battles), sep="\n", end="\n\n")
    print(prove_trainable(battles, args.num_samples, args.seed))
    print("trainable: yes")


# --- Demonstrations ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Summary:
    """What is counted of one episode; T steps."""

    path: Path
    actions: np.ndarray
    wanted: np.ndarray
    """(T,): what the expert would have pressed."""
    total: float
    milestones: dict[str, int]
    """Name to the step at which it was reached, from 1 on."""
    is_terminated: bool
    shape: tuple[int, int, int]
    """Of a picture."""
    origin: int
    """Checksum of where it began."""
    has_log: bool
    meta: dict


def summarize(path: Path) -> Summary:
    """Reads and checks one episode in full, and its log if there is one. Raises CleanPokeError."""
    episode = demos.load_episode(path)
    milestones = {
        name: step
        for step, info in enumerate(episode.infos, start=1)
        for name in info.get("new_milestones", [])
    }
    log_path = path.with_suffix(".demo")
    has_log = log_path.exists()
    if has_log and demos.load_log(log_path).actions != episode.actions.tolist():
        raise CleanPokeError(
            f"{log_path} is of another episode than {path.name}: make the episode again with "
            f"tools/view_demo.py {log_path} --rebuild {path}, or delete the log"
        )
    return Summary(
        path,
        episode.actions,
        episode.labels,
        float(episode.rewards.sum()),
        milestones,
        bool(episode.terminations[-1]),
        episode.observations.shape[1:],
        episode.meta.get("start_checksum", zlib.crc32(episode.observations[0])),
        has_log,
        episode.meta,
    )


def read_demonstrations(folder: Path) -> tuple[list[Summary], list[str]]:
    """All episodes that can be used, and what is wrong with the others."""
    summaries, broken, line = [], [], Progress(unit="file")
    paths = sorted(folder.glob("*.npz"))
    for number, path in enumerate(paths, start=1):
        try:
            summary = summarize(path)
            if summaries:
                first = summaries[0].meta
                settings = {name: first[name] for name in demos.SETTINGS if name in first}
                episode_files.check_settings(path, summary.meta, settings)
            summaries.append(summary)
        except CleanPokeError as error:
            broken.append(str(error))
        line.update(number, len(paths))
    line.end()
    return summaries, broken


def describe_demonstrations(folder: Path, summaries: list[Summary]) -> list[str]:
    """Size, cartridge, settings, who played."""
    meta, steps = summaries[0].meta, sum(len(one.actions) for one in summaries)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".npz", ".demo"))
    lines = [f"{folder}: {len(summaries):,} episodes, {steps:,} steps, {size / 1e6:,.1f} MB"]
    if "rom_sha1" in meta:
        height, width, channels = summaries[0].shape
        frames = f"{meta.get('press_frames', '?')} + {meta.get('release_frames', '?')} frames a step"
        picture = f"{height} x {width} {'grey' if channels == 1 else 'colour'}"
        lines.append(f"cartridge {meta['rom_sha1']}, {frames}, {picture}")
    players = Counter(str(one.meta.get("player", "unknown")) for one in summaries)
    variants = len({one.meta.get("variant", 0) for one in summaries})
    logs = sum(one.has_log for one in summaries)
    lines.append("played by " + ", ".join(f"{name} ({count:,})" for name, count in players.most_common()))
    lines.append(f"{variants:,} variants; {logs:,} episodes have a log from which they can be played again")
    segments = sum(len(one.meta.get("segments", [])) for one in summaries)
    return [*lines, f"marked segments: {segments:,}"] if segments else lines


def describe_episodes(summaries: list[Summary]) -> list[str]:
    """Lengths, returns, how they ended."""
    lengths = np.array([len(one.actions) for one in summaries])
    totals = np.array([one.total for one in summaries])
    ended = sum(one.is_terminated for one in summaries)
    return [
        f"steps per episode: min {lengths.min()}, median {np.median(lengths):g}, max {lengths.max()}",
        *histogram(lengths),
        f"return per episode: min {totals.min():.3f}, median {np.median(totals):.3f}, max {totals.max():.3f}",
        f"{ended:,} reached the end of the game, {len(summaries) - ended:,} were cut off",
    ]


def describe_buttons(summaries: list[Summary]) -> list[str]:
    """How often each button was pressed, and how often the expert wanted it."""
    actions = np.concatenate([one.actions for one in summaries])
    wanted = np.concatenate([one.wanted for one in summaries])
    pressed_counts, wanted_counts = (
        np.bincount(column, minlength=len(BUTTON_NAMES)) for column in (actions, wanted)
    )
    lines = [f"{'button':<8} {'pressed':>9} {'wanted':>9}   share of what is imitated"]
    for name, pressed, count in zip(BUTTON_NAMES, pressed_counts, wanted_counts, strict=True):
        if name != NOOP or pressed or count:
            share = f"{count / len(wanted):>6.1%}  {bar(count, wanted_counts.max())}".rstrip()
            lines.append(f"{name:<8} {pressed:>9,} {count:>9,}   {share}")
    return [*lines, f"steps in which noise pressed another button: {(actions != wanted).mean():.1%}"]


def describe_milestones(summaries: list[Summary]) -> list[str]:
    """How many episodes reach each, and when."""
    names = [name for name in NAMES if any(name in one.milestones for one in summaries)]
    if not names:
        return ["milestones: none is recorded"]
    lines = [f"{'milestone':<22} {'episodes':>9} {'share':>7} {'median step':>12}"]
    for name in names:
        steps = [one.milestones[name] for one in summaries if name in one.milestones]
        share = len(steps) / len(summaries)
        lines.append(f"{name:<22} {len(steps):>9,} {share:>7.0%} {np.median(steps):>12g}")
    return lines


def describe_duplicates(summaries: list[Summary]) -> list[str]:
    """Episodes that begin at the same place and press the same buttons."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for one in summaries:
        groups[one.origin, one.meta.get("variant", 0), one.actions.tobytes()].append(one.path.name)
    return describe_copies(groups, "same start, same buttons")


def describe_copies(groups: dict[tuple, list[str]], what: str) -> list[str]:
    """groups: names of the files that are alike in `what`."""
    doubles = [names for names in groups.values() if len(names) > 1]
    count = sum(len(names) - 1 for names in doubles)
    lines = [f"duplicates ({what}): {count:,}"]
    return lines + [f"  {' = '.join(names)}: delete all but one" for names in doubles]


def inspect_demonstrations(folder: Path) -> None:
    """Raises CleanPokeError if there is nothing to learn from, or something that cannot be used."""
    summaries, broken = read_demonstrations(folder)
    if summaries:
        print(*describe_demonstrations(folder, summaries), sep="\n", end="\n\n")
        describers = (describe_episodes, describe_buttons, describe_milestones, describe_duplicates)
        for describe in describers:
            print(*describe(summaries), sep="\n", end="\n\n")
    logs = [path for path in sorted(folder.glob("*.demo")) if not path.with_suffix(".npz").exists()]
    for log in logs:
        fix = f"tools/view_demo.py {log} --rebuild {log.with_suffix('.npz')}"
        print(f"interrupted: {log} has no episode beside it: make it with {fix}, or delete it")
    refuse_broken(folder, len(summaries), broken)
    if not summaries:
        raise CleanPokeError(f"{folder} holds only logs of interrupted recordings: see above")
    print(f"{len(summaries):,} episodes checked")
    print("trainable: yes")


def refuse_broken(folder: Path, count: int, broken: list[str]) -> None:
    """Prints what is wrong with some files, and raises CleanPokeError if there are such beside `count` good
    ones."""
    for problem in broken:
        print(f"broken: {problem}")
    if broken:
        raise CleanPokeError(
            f"{folder}: {len(broken)} of {count + len(broken)} files cannot be used: put right what "
            "is listed above"
        )


# --- Continuous control -----------------------------------------------------------------------------------


def holds_control(folder: Path) -> bool:
    """Whether the first episode that can be read has actions of several numbers each; a button is one."""
    for path in sorted(folder.glob("*.npz")):
        with contextlib.suppress(CleanPokeError):
            columns = episode_files.read_npz(path, only=("actions",))
            if "actions" in columns:
                return columns["actions"].ndim == 2
    return False


def read_control(folder: Path) -> tuple[dict[Path, ControlEpisode], list[str]]:
    """All episodes that can be used, and what is wrong with the others."""
    episodes, broken, line = {}, [], Progress(unit="file")
    paths = sorted(folder.glob("*.npz"))
    for number, path in enumerate(paths, start=1):
        try:
            episode = control_episodes.load_control_episode(path)
            control_episodes.check_same_kind(path, episode, next(iter(episodes.values()), episode))
            episodes[path] = episode
        except CleanPokeError as error:
            broken.append(str(error))
        line.update(number, len(paths))
    line.end()
    return episodes, broken


def describe_control(folder: Path, episodes: dict[Path, ControlEpisode]) -> list[str]:
    """Size, environment, who played; lengths, returns, how they ended."""
    lengths = np.array([len(one) for one in episodes.values()])
    totals = np.array([float(one.rewards.sum()) for one in episodes.values()])
    size, first = sum(path.stat().st_size for path in episodes), next(iter(episodes.values()))
    players = Counter(str(one.meta.get("player", "unknown")) for one in episodes.values())
    ended = sum(one.terminated for one in episodes.values())
    kind = f"latents of encoder {first.meta['encoder']}" if "encoder" in first.meta else "observed numbers"
    return [
        f"{folder}: {len(lengths):,} episodes, {lengths.sum():,} steps, {size / 1e6:,.1f} MB",
        f"environment {first.meta.get('env_id', 'unknown')}: {first.observations.shape[1]} {kind}, "
        f"{first.actions.shape[1]} in an action",
        "played by " + ", ".join(f"{name} ({count:,})" for name, count in players.most_common()),
        "",
        f"steps per episode: min {lengths.min()}, median {np.median(lengths):g}, max {lengths.max()}",
        *histogram(lengths),
        f"return per episode: min {totals.min():.3f}, median {np.median(totals):.3f}, max {totals.max():.3f}",
        f"{ended:,} were ended by the world, {len(totals) - ended:,} were cut off",
    ]


def describe_numbers(episodes: dict[Path, ControlEpisode]) -> list[str]:
    """The range of each action, and observations that say nothing."""
    actions = np.concatenate([one.actions for one in episodes.values()])
    observations = np.concatenate([one.observations for one in episodes.values()])
    lines = [f"{'action':<8} {'min':>9} {'mean':>9} {'max':>9} {'std':>9}   steps at min or max"]
    for index, values in enumerate(actions.T):
        extreme = np.mean((values == values.min()) | (values == values.max()))
        spread = f"{values.min():>9.3f} {values.mean():>9.3f} {values.max():>9.3f} {values.std():>9.3f}"
        lines.append(f"{index:<8} {spread}   {extreme:.1%}")
    constant = np.flatnonzero(observations.min(0) == observations.max(0)).tolist()
    lines.append(f"observations: {observations.min():.3f} to {observations.max():.3f}")
    if constant:
        lines.append(f"observed numbers that never change: {', '.join(map(str, constant))}")
    return lines


def inspect_control(folder: Path) -> None:
    """Raises CleanPokeError if there is something that cannot be used."""
    episodes, broken = read_control(folder)
    if episodes:
        groups: dict[tuple, list[str]] = defaultdict(list)
        for path, one in episodes.items():
            groups[one.observations[0].tobytes(), one.actions.tobytes()].append(path.name)
        print(*describe_control(folder, episodes), sep="\n", end="\n\n")
        print(*describe_numbers(episodes), sep="\n", end="\n\n")
        print(*describe_copies(groups, "same start, same actions"), sep="\n", end="\n\n")
    refuse_broken(folder, len(episodes), broken)
    print(f"{len(episodes):,} episodes checked")
    print("trainable: yes")


def main(args: Args) -> None:
    if args.folder.is_dir() and not any(args.folder.iterdir()):
        raise CleanPokeError(
            f"{args.folder} is empty: collect battles with tools/collect_battles.py --data-dir, or "
            "demonstrations with tools/collect_expert_data.py --output"
        )
    if holds_control(args.folder):
        inspect_control(args.folder)
    elif any(path.suffix in (".npz", ".demo") for path in args.folder.glob("*")):
        inspect_demonstrations(args.folder)
    else:
        inspect_battles(args)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
