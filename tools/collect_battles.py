"""Collects Showdown battles, played in process by any mix of players, as training data.

    python tools/collect_battles.py --gen 1 --battles 2000
    python tools/collect_battles.py --gen 9 --tier randombattle --players simple_heuristics tactician:0.2

Players: random, max_base_power, simple_heuristics (poke-env's own), tactician (ours, scripted), random_legal;
":0.2" adds 20% random legal actions; "checkpoint:PATH" plays a trained network, "checkpoint:PATH@1.0" samples
it at that temperature (without "@" it plays greedily). A name given twice is drawn twice as often.
Ctrl-C ends early: battles that are running are finished and everything is kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cleanpoke import awac_showdown_hrm
from cleanpoke.envs.showdown.battle_files import read_folder
from cleanpoke.envs.showdown.collection import Progress, collect
from cleanpoke.envs.showdown.teams import format_id
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.terminal import Progress as ProgressLine
from cleanpoke.terminal import StopSignal


@dataclass
class Args:
    """Collect battles between scripted players, poke-env's players and checkpoints."""

    gen: int = 1
    """generation: 1 or 9"""
    tier: Literal["ou", "randombattle"] | None = None
    """ou plays the project's teams, randombattle generated ones; default: generated ones in Gen 9, else ou"""
    battles: int = 2000
    """how many battles to play"""
    players: tuple[str, ...] = awac_showdown_hrm.Args.players
    """who plays; both seats are drawn uniformly from this list"""
    data_dir: Path | None = None
    """folder of the battle files (default: expert_data/<format>)"""
    append: bool = False
    """add to a folder that already holds battles"""
    split: Literal["train", "heldout", "all"] = "train"
    """which of the project's teams play (ou)"""
    processes: int = 2
    """parallel battle processes; one per core"""
    max_minutes: float | None = None
    """stop starting battles after this time"""
    seed: int = 1
    """seed of the draw of players, teams and battles"""


def main(args: Args) -> None:
    battle_format = format_id(args.gen, args.tier)
    folder = args.data_dir or Path("expert_data") / battle_format
    if args.battles < 1 or args.processes < 1:
        raise CleanPokeError("--battles and --processes must be at least 1")
    if not args.append and folder.exists() and any(folder.glob("shard_*")):
        raise CleanPokeError(f"{folder} already holds battles: add --append, or choose another --data-dir")
    factories = tuple(awac_showdown_hrm.player_factory(spec, battle_format) for spec in args.players)
    line = ProgressLine(unit="battle")

    def show(progress: Progress) -> None:
        numbers = {"decisions": progress.decisions, "cut off": progress.cut_off}
        line.update(progress.battles, args.battles, numbers)

    with StopSignal() as stop:
        collect(
            folder,
            battle_format,
            factories,
            battles=args.battles,
            seed=args.seed,
            processes=args.processes,
            split=args.split,
            max_seconds=None if args.max_minutes is None else 60 * args.max_minutes,
            should_stop=lambda: bool(stop),
            on_progress=show,
        )
    line.end()
    battles = read_folder(folder)
    print(f"{folder}: {len(battles.trajectories):,} trajectories, {battles.total_decisions:,} decisions")


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
