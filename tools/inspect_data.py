"""Shows what a folder of battles holds, and proves that it can be trained on.

    python tools/inspect_data.py expert_data/gen1ou
    python tools/inspect_data.py expert_data/gen1ou --num-samples 1000 --verify

The last line is `trainable: yes`, or the program stops with one line that says what is wrong (exit status 1).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cleanpoke.envs.showdown.arena import wilson_interval
from cleanpoke.envs.showdown.battle_files import (
    MISSING_ACTION,
    REWARD_TERMS,
    BattleFileError,
    Battles,
    read_folder,
)
from cleanpoke.envs.showdown.encoder import NUM_ACTIONS, NUM_BENCH, NUM_MOVES
from cleanpoke.errors import user_errors

ACTION_NAMES = (
    *(f"move {slot + 1}" for slot in range(NUM_MOVES)),
    *(f"switch {slot + 1}" for slot in range(NUM_BENCH)),
    *(f"move {slot + 1} + gimmick" for slot in range(NUM_MOVES)),
)
BAR_WIDTH = 40


@dataclass
class Args:
    folder: tyro.conf.Positional[Path]
    """folder of battle files"""
    num_samples: int = 100
    """random trajectories to check in full, together with the other point of view of their battles"""
    verify: bool = False
    """check every trajectory and the CRC32 of every file"""
    seed: int = 0
    """seed of the random choice of trajectories"""


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
    bins = np.unique(np.linspace(lengths.min(), lengths.max() + 1, 11).astype(int))
    counts, edges = np.histogram(lengths, bins)
    lines = [
        f"decisions per trajectory: min {lengths.min()}, median {np.median(lengths):g}, max {lengths.max()}; "
        f"turns: min {turns.min()}, median {np.median(turns):g}, max {turns.max()}"
    ]
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "#" * round(BAR_WIDTH * count / counts.max())
        lines.append(f"  {low:>5} - {high - 1:<5} {count:>9,}  {bar}".rstrip())
    return lines


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
        bar = "#" * round(BAR_WIDTH * count / max(1, counts.max()))
        lines.append(f"  {name:<16} {count:>9,}  {bar}".rstrip())
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


def main(args: Args) -> None:
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


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
