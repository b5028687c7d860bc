"""Collects battles between given players into a folder of battle files, in parallel processes."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleanpoke.envs.showdown.arena import DEFAULT_CONCURRENT_BATTLES, Match, play
from cleanpoke.envs.showdown.battle_files import ShardWriter, count_shards, folder_lock
from cleanpoke.envs.showdown.encoder import Encoder
from cleanpoke.envs.showdown.players import PlayerFactory
from cleanpoke.envs.showdown.simulator import Simulator
from cleanpoke.envs.showdown.teams import load_teams
from cleanpoke.processes import in_processes, signs_of_life

TEAM_POOL_SIZE = 1000
"""Teams of random battles that one process draws from."""
BATTLES_PER_PROCESS = 1_000_000
"""Room for battle ids of one process in one run."""


@dataclass(slots=True)
class CollectionShare:
    folder: Path
    battle_format: str
    factories: tuple[PlayerFactory, ...]
    battles: int
    seed: int
    split: str
    first_battle: int
    deadline: float | None
    concurrent: int


@dataclass(slots=True)
class Progress:
    """Counts since the start of a collection."""

    battles: int = 0
    decisions: int = 0
    cut_off: int = 0


def _matches(share: CollectionShare, stopped: Callable[[], bool]) -> Iterator[Match]:
    generator = random.Random(share.seed)
    players = [factory(generator.getrandbits(32)) for factory in share.factories]
    random_teams = share.battle_format.endswith("randombattle")
    teams = [] if random_teams else load_teams(share.battle_format, share.split)
    for _ in range(share.battles):
        if stopped() or (share.deadline is not None and time.time() > share.deadline):
            return
        seats = generator.choice(players), generator.choice(players)
        packed: tuple[str | None, str | None] = (None, None)
        ids = (-1, -1)
        if teams:
            drawn = generator.choice(teams), generator.choice(teams)
            packed, ids = (drawn[0].packed, drawn[1].packed), (drawn[0].index, drawn[1].index)
        yield Match(generator.getrandbits(48), seats, packed, ids)


def _collect_share(share: CollectionShare, report: Callable, stopped: Callable[[], bool]) -> None:
    random.seed(share.seed)  # poke-env's players draw from the global generator
    encoder = Encoder(share.battle_format)
    origin = {"simulator_seed": share.seed, "team_pool_size": TEAM_POOL_SIZE}
    with (
        Simulator(share.battle_format, seed=share.seed, team_pool_size=TEAM_POOL_SIZE) as simulator,
        ShardWriter(share.folder, share.battle_format, lock=False, origin=origin) as writer,
    ):
        results = play(
            simulator,
            _matches(share, stopped),
            encoder,
            concurrent=share.concurrent,
            record=True,
            first_battle=share.first_battle,
            on_round=signs_of_life(report),
        )
        for result in results:
            for trajectory in result.trajectories:
                writer.add(trajectory)
            for _ in range(2 - len(result.trajectories)):
                writer.drop("no decision")
            if result.truncated:
                # What was played of it is kept, marked as truncated; the count says why it was cut.
                why = result.error.partition("\n")[0][:80]
                writer.drop(f"cut off: {result.reason}" + (f" ({why})" if why else ""))
            report((sum(len(one.action) for one in result.trajectories), result.truncated))


def collect(
    folder: Path,
    battle_format: str,
    factories: tuple[PlayerFactory, ...],
    *,
    battles: int,
    seed: int,
    processes: int = 2,
    split: str = "train",
    max_seconds: float | None = None,
    concurrent: int = DEFAULT_CONCURRENT_BATTLES,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Plays `battles`, each seat drawn uniformly from `factories`; writes both points of view.

    Stops starting battles after `max_seconds` or when `should_stop()`; what is running is finished and kept.
    Raises CleanPokeError if another program writes into `folder`, or its battles are of another kind.
    """
    progress = Progress()
    first_battle = int(time.time()) * BATTLES_PER_PROCESS * 100
    deadline = None if max_seconds is None else time.time() + max_seconds
    with folder_lock(folder):
        # Added to a folder, the same seed must not play the same battles once more.
        seeds = np.random.SeedSequence((seed, count_shards(folder))).generate_state(processes)
        shares = [
            CollectionShare(
                folder,
                battle_format,
                factories,
                battles // processes + (index < battles % processes),
                int(seeds[index]),
                split,
                first_battle + index * BATTLES_PER_PROCESS,
                deadline,
                concurrent,
            )
            for index in range(processes)
        ]
        for decisions, truncated in in_processes(_collect_share, shares, should_stop=should_stop):
            progress.battles += 1
            progress.decisions += decisions
            progress.cut_off += truncated
            on_progress(progress)
    return progress
