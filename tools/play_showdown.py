"""Lets a trained checkpoint play on a Pokémon Showdown server, local or public.

    python -m cleanpoke.envs.showdown.server                 # a local server, in another terminal
    python tools/play_showdown.py --checkpoint runs/… --accept-challenges
    python tools/play_showdown.py --checkpoint runs/… --challenge YourName --battles 3
    python tools/play_showdown.py --checkpoint runs/… --ladder --server-url public --username NAME

To play against it, open http://localhost:8000 in a browser (it leads to Showdown's own client), choose a name
and challenge the name printed here. The password of a registered account is taken from the environment
variable POKEMON_SHOWDOWN_PASSWORD, or asked for. Every battle becomes a line of battles.csv and an HTML page
in --output-dir. Ctrl-C forfeits the running battle and keeps everything.
"""

import csv
import getpass
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import tyro
from poke_env import AccountConfiguration, ServerConfiguration, ShowdownServerConfiguration

from cleanpoke import awac_showdown_hrm
from cleanpoke.envs.showdown.battle_page import battle_page
from cleanpoke.envs.showdown.client import BattleResult, Matchmaking, Session
from cleanpoke.envs.showdown.players import Player
from cleanpoke.envs.showdown.teams import format_id, formats, load_team_file, load_teams, unknown_format
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import atomic_file, load_checkpoint
from cleanpoke.terminal import StopSignal

PASSWORD_VARIABLE = "POKEMON_SHOWDOWN_PASSWORD"
CSV_COLUMNS = (
    *("time", "opponent", "rating", "result", "turns", "checkpoint"),
    *("reason", "own_rating", "format", "page"),
)


@dataclass
class Args:
    """Play on a Showdown server with a trained checkpoint."""

    checkpoint: Path
    """a checkpoint file, or a run folder (its newest checkpoint)"""
    accept_challenges: bool = False
    """wait for challenges and accept them"""
    challenge: str | None = None
    """challenge this user"""
    ladder: bool = False
    """search for opponents on the ladder"""
    battles: int = 1
    """how many battles to play"""
    format: str | None = None
    """such as gen1ou (default: what the checkpoint was trained for)"""
    team: Path | None = None
    """file with a team, exported from Showdown's teambuilder or packed (default: the project's own teams)"""
    sample: bool = False
    """draw actions from the policy instead of taking the likeliest"""
    temperature: float = 1.0
    """of the draw, with --sample; below 1 it is bolder"""
    server_url: str = "localhost:8000"
    """host:port, a ws:// or wss:// address, or "public" for the public Showdown server"""
    username: str | None = None
    """account name (default: a made-up one)"""
    timer: bool = True
    """ask for the battle timer, so that an opponent who leaves cannot stall"""
    wait_minutes: float = 30.0
    """give up after this long without an opponent; a battle without news for this long is forfeited"""
    retry_minutes: float = 10.0
    """how long to try to get back a dropped connection"""
    output_dir: Path = Path("runs/play_showdown")
    """folder of battles.csv and of the battle pages"""
    seed: int = 1
    """of the order of the project's teams, and of the draws with --sample"""


def server_configuration(url: str) -> ServerConfiguration:
    """poke-env's description of the server at `--server-url`. Raises CleanPokeError for a malformed one."""
    if url == "public":
        return ShowdownServerConfiguration
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise CleanPokeError(f"--server-url {url!r} is no address: give host:port, ws://… or public")
    path = parts.path.rstrip("/") or "/showdown/websocket"
    return ServerConfiguration(
        f"{scheme}://{parts.netloc}{path}", ShowdownServerConfiguration.authentication_url
    )


def account(args: Args) -> AccountConfiguration:
    """Name and password. Raises CleanPokeError when the public server is to be played without an account."""
    password = os.environ.get(PASSWORD_VARIABLE)
    if args.server_url == "public":
        if args.username is None:
            raise CleanPokeError("the public server wants a registered account: give --username")
        if not password and sys.stdin.isatty():
            password = getpass.getpass(f"Showdown password of {args.username}: ")
        if not password:
            raise CleanPokeError(f"no password for {args.username}: set {PASSWORD_VARIABLE}")
    name = args.username or f"cleanpoke{random.SystemRandom().randrange(10_000):04}"
    return AccountConfiguration(name, password)


def matchmaking(args: Args) -> Matchmaking:
    """The way to find opponents that was asked for. Raises CleanPokeError unless it is exactly one."""
    ways = {"accept": args.accept_challenges, "challenge": args.challenge is not None, "ladder": args.ladder}
    chosen = [way for way, asked in ways.items() if asked]
    if len(chosen) != 1:
        raise CleanPokeError("choose one of --accept-challenges, --challenge NAME and --ladder")
    return chosen[0]


def packed_teams(args: Args, battle_format: str) -> list[str]:
    """The user's team, or the project's own in a random order; empty for random battles."""
    if args.team is not None:
        return [load_team_file(args.team, battle_format)]
    teams = [team.packed for team in load_teams(battle_format)]
    random.Random(args.seed).shuffle(teams)
    return teams


class Records:
    """What remains of the battles: a line in `battles.csv` and a page each, written as soon as one ends."""

    def __init__(self, folder: Path, checkpoint: Path, battle_format: str):
        self.folder = folder
        self.checkpoint = checkpoint
        self.battle_format = battle_format
        self.counts: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, result: BattleResult) -> Path:
        """Writes both; returns the page's path."""
        now = time.localtime()
        self.counts[result.result] += 1
        self.counts["timeout losses"] += (result.result, result.reason) == ("loss", "timeout")
        page = self.folder / f"{time.strftime('%Y%m%d-%H%M%S', now)}_{result.room}.html"
        row = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z", now),
            "opponent": result.opponent,
            "rating": result.opponent_rating or "",
            "result": result.result,
            "turns": result.turns,
            "checkpoint": self.checkpoint,
            "reason": result.reason,
            "own_rating": result.own_rating or "",
            "format": self.battle_format,
            "page": page.name,
        }
        # The line first: it is small, and counts even when the page no longer fits on the disk.
        with (self.folder / "battles.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CSV_COLUMNS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        title = f"{self.battle_format}: {result.result} against {result.opponent} ({result.turns} turns)"
        with atomic_file(page) as file:
            file.write(battle_page(result.room, title, result.log).encode())
        return page

    def summary(self) -> str:
        counts = self.counts
        text = f"{counts['win']} won, {counts['loss']} lost, {counts['tie']} tied"
        if counts["timeout losses"]:
            text += f"; {counts['timeout losses']} of the losses by timeout"
        if counts["unknown"]:
            text += f"; {counts['unknown']} unknown, the server forgot them"
        return text


def play(
    args: Args, player: Player, battle_format: str, checkpoint: Path, should_stop: Callable[[], bool]
) -> Records:
    """Plays as `args` say with any player; prints and records each result."""
    way, me, server = matchmaking(args), account(args), server_configuration(args.server_url)
    records = Records(args.output_dir, checkpoint, battle_format)
    session = Session(
        player,
        battle_format,
        me,
        server,
        teams=packed_teams(args, battle_format),
        timer=args.timer,
        wait_seconds=60 * args.wait_minutes,
        retry_seconds=60 * args.retry_minutes,
        say=lambda text: print(text, flush=True),
    )
    with session:
        print(f"{me.username} plays {battle_format} at {server.websocket_url}", flush=True)
        results = session.play(way, args.battles, opponent=args.challenge or "", should_stop=should_stop)
        for number, result in enumerate(results, 1):
            page = records.add(result)
            rating = f" ({result.opponent_rating})" if result.opponent_rating else ""
            how = "" if result.reason == "played" else f" by {result.reason}"
            print(
                f"{number}/{args.battles}  {result.result}{how} against {result.opponent}{rating}, "
                f"{result.turns} turns: {page}",
                flush=True,
            )
    print(f"{records.summary()}: {args.output_dir / 'battles.csv'}", flush=True)
    return records


def main(args: Args) -> None:
    if args.battles < 1 or args.temperature <= 0 or args.wait_minutes <= 0 or args.retry_minutes < 0:
        raise CleanPokeError("--battles, --temperature, --wait-minutes and --retry-minutes must be positive")
    matchmaking(args)
    checkpoint = load_checkpoint(args.checkpoint, script="awac_showdown_hrm")
    battle_format = args.format or format_id(checkpoint.args["gen"], checkpoint.args["tier"])
    if battle_format not in formats():
        raise unknown_format(battle_format)
    awac_showdown_hrm.check_checkpoint(checkpoint.path, battle_format)
    temperature = args.temperature if args.sample else 0.0
    player = awac_showdown_hrm.make_network_player(checkpoint.path, battle_format, temperature, args.seed)
    with StopSignal() as stop:
        play(args, player, battle_format, checkpoint.path, lambda: bool(stop))


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
