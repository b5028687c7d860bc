"""Decisions per second: the in-process simulator against poke-env players over a local websocket server.

    python benchmark/showdown_throughput.py            # the table that the docs quote
    python benchmark/showdown_throughput.py --soak 20000

Both play random legal moves on the same cores, turn about, each with as many Python processes as there are
cores. Ours includes the tracker and the encoder (arrays and legal mask of every decision); poke-env tracks
the battle and encodes nothing. Only a window after a warm-up counts: neither side pays for its start.

The soak plays many battles in one go, kills a worker on the way, and shows the memory of all processes.
The last line printed is one JSON object. Memory is read from /proc, so the soak needs Linux.
"""

import asyncio
import json
import logging
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from poke_env import AccountConfiguration, ServerConfiguration
from poke_env.player import RandomPlayer

from cleanpoke.envs.showdown.arena import Decision, Match, play
from cleanpoke.envs.showdown.encoder import Encoder
from cleanpoke.envs.showdown.server import LocalServer
from cleanpoke.envs.showdown.simulator import Simulator
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.processes import in_processes

BAR = 3.0
START_TIMEOUT_SECONDS = 60
SOAK_FORMAT = "gen1randombattle"
SOAK_REPORT_EVERY = 500
# Memory may settle during the first tenth of a soak; after that it may grow by no more than this.
MAX_GROWTH = 1.15
MEGABYTE = 1 << 20


@dataclass
class Args:
    formats: tuple[str, ...] = ("gen1randombattle", "gen9randombattle")
    """formats to measure"""
    rounds: int = 5
    """measurements of each kind, taken turn about"""
    warm_up: float = 8.0
    """seconds played before each measurement"""
    seconds: float = 15.0
    """length of one measurement, in seconds"""
    processes: int = os.cpu_count() or 1
    """Python processes; ours has one Node worker each, poke-env's share the server"""
    concurrent: int = 64
    """battles at once in each of our processes"""
    poke_env_concurrent: int = 16
    """battles at once in each poke-env process (more is slower: its server runs all in one process)"""
    soak: int = 0
    """play so many Gen-1 battles instead, with a `kill -9` on the way, and watch the memory"""
    seed: int = 1
    """of battles and choices"""
    quick: bool = False
    """one short round"""
    check: bool = False
    """exit with status 1 below 3x, or when a soak hangs or grows"""


@dataclass(slots=True)
class Share:
    """What one process plays."""

    battle_format: str
    seed: int
    warm_up: float
    seconds: float
    concurrent: int
    server: ServerConfiguration | None = None
    battles: int = 0
    kill_at: int = 0


class RandomLegal:
    """Draws from the legal mask that the encoder wrote, as a sampled policy would."""

    name = "random_legal"
    needs = frozenset({"tracker", "arrays"})

    def __init__(self, seed: int):
        self.generator = random.Random(seed)
        self.decisions = 0

    def choose(self, decisions: list[Decision]) -> list[int | str]:
        self.decisions += len(decisions)
        return [self.generator.choice(np.flatnonzero(decision.legal).tolist()) for decision in decisions]

    def observe(self, key: tuple[int, int], message: Any) -> None:
        pass

    def finish(self, key: tuple[int, int]) -> None:
        pass


def endless(player: RandomLegal, seed: int) -> Iterator[Match]:
    """Battles of a player against itself, with seeds that no other process uses."""
    number = seed << 32
    while True:
        yield Match(number, (player, player))
        number += 1


def play_in_process(share: Share, report: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    """Our side: reports decisions per second in the window."""
    player = RandomLegal(share.seed)
    matches = endless(player, share.seed)
    started = time.perf_counter()
    window_start = decisions_before = None
    with Simulator(share.battle_format, seed=share.seed) as simulator:
        encoder = Encoder(share.battle_format)
        for _ in play(simulator, matches, encoder, concurrent=share.concurrent):
            now = time.perf_counter()
            if window_start is None and now - started >= share.warm_up:
                window_start, decisions_before = now, player.decisions
            if stopped() or (window_start is not None and now - window_start >= share.seconds):
                break
    report((player.decisions - decisions_before) / (now - window_start))


class CountingRandomPlayer(RandomPlayer):
    """poke-env's random player, counting its decisions."""

    decisions = 0

    def choose_move(self, battle):
        CountingRandomPlayer.decisions += 1
        return super().choose_move(battle)


def play_over_websockets(share: Share, report: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    """poke-env's side: reports decisions per second in the window."""
    players = [
        CountingRandomPlayer(
            account_configuration=AccountConfiguration(f"bench{share.seed}x{side}", None),
            server_configuration=share.server,
            battle_format=share.battle_format,
            max_concurrent_battles=share.concurrent,
            log_level=logging.CRITICAL,
        )
        for side in (0, 1)
    ]

    async def measure() -> float:
        battles = asyncio.ensure_future(players[0].battle_against(players[1], n_battles=1_000_000))
        deadline = time.perf_counter() + START_TIMEOUT_SECONDS
        while CountingRandomPlayer.decisions == 0:  # logging in takes seconds on a busy machine
            if battles.done() or time.perf_counter() > deadline:
                raise CleanPokeError(f"poke-env's players did not start within {START_TIMEOUT_SECONDS} s")
            await asyncio.sleep(0.1)
        await asyncio.wait([battles], timeout=share.warm_up)
        before, start = CountingRandomPlayer.decisions, time.perf_counter()
        await asyncio.wait([battles], timeout=share.seconds)
        speed = (CountingRandomPlayer.decisions - before) / (time.perf_counter() - start)
        battles.cancel()
        return speed

    report(asyncio.run(measure()))


def measure(args: Args, battle_format: str, round_number: int) -> tuple[float, float]:
    """One round: decisions per second of all processes together, (ours, poke-env's)."""

    def shares(concurrent: int, server: ServerConfiguration | None = None) -> list[Share]:
        first = args.seed + round_number * args.processes
        return [
            Share(battle_format, first + index, args.warm_up, args.seconds, concurrent, server)
            for index in range(args.processes)
        ]

    ours = sum(in_processes(play_in_process, shares(args.concurrent)))
    with LocalServer() as server:
        theirs = sum(
            in_processes(play_over_websockets, shares(args.poke_env_concurrent, server.configuration))
        )
    return ours, theirs


def resident(pid: int) -> float:
    """Resident memory of a process in megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def soak_in_process(share: Share, report: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    """Plays `battles` battles; reports counts and memory every few hundred of them."""
    player = RandomLegal(share.seed)
    matches = endless(player, share.seed)
    reasons: dict[str, int] = {}
    done = 0
    with Simulator(share.battle_format, seed=share.seed) as simulator:
        encoder = Encoder(share.battle_format)
        limited = (next(matches) for _ in range(share.battles))
        for result in play(simulator, limited, encoder, concurrent=share.concurrent):
            done += 1
            reasons[result.reason] = reasons.get(result.reason, 0) + 1
            if done == share.kill_at:
                os.kill(simulator.worker_pids[0], signal.SIGKILL)
            if done % SOAK_REPORT_EVERY == 0 or done == share.battles:
                node = sum(map(resident, simulator.worker_pids))
                report((share.seed, done, player.decisions, resident(os.getpid()), node, dict(reasons)))
            if stopped():
                return


def soak(args: Args) -> bool:
    """Plays the soak, prints its table; whether all battles ended and the memory stayed flat."""
    each = args.soak // args.processes
    shares = [
        Share(SOAK_FORMAT, args.seed + index, 0, 0, args.concurrent, battles=each)
        for index in range(args.processes)
    ]
    shares[0].kill_at = each // 2
    started = time.perf_counter()
    history: dict[int, list[tuple]] = {share.seed: [] for share in shares}
    print(f"{'process':>7} {'battles':>8} {'decisions/s':>11} {'Python MB':>10} {'Node MB':>8}  ended")
    for seed, done, decisions, python, node, reasons in in_processes(soak_in_process, shares):
        history[seed].append((done, python, node, reasons))
        speed = decisions / (time.perf_counter() - started)
        print(f"{seed:7d} {done:8d} {speed:11.0f} {python:10.0f} {node:8.0f}  {reasons}", flush=True)
    growth = {}
    for kind, column in (("python", 1), ("node", 2)):
        # Peaks of the two halves are compared: a replaced worker starts small and would hide a growth.
        ratios = []
        for rows in history.values():
            settled = rows[max(1, len(rows) // 10) :] or rows
            half = len(settled) // 2
            first = max(row[column] for row in settled[: half or 1])
            ratios.append(max(row[column] for row in settled[half:]) / first)
        growth[kind] = round(max(ratios), 3)
    reasons = {}
    for rows in history.values():
        for reason, count in rows[-1][3].items():
            reasons[reason] = reasons.get(reason, 0) + count
    ended = sum(reasons.values())
    lost = reasons.get("worker_died", 0)
    complete = ended == each * args.processes and reasons.get("stalled", 0) == reasons.get("error", 0) == 0
    passed = complete and 0 < lost <= args.concurrent and max(growth.values()) <= MAX_GROWTH
    summary = {
        "benchmark": "showdown_soak",
        "passed": passed,
        "battles": ended,
        "seconds": round(time.perf_counter() - started),
        "ended": reasons,
        "growth_of_memory": growth,
    }
    print(json.dumps(summary))
    return passed


def throughput(args: Args) -> bool:
    """Measures and prints the table; whether every format reaches the bar."""
    rounds = 1 if args.quick else args.rounds
    if args.quick:
        args.warm_up, args.seconds = 4.0, 6.0
    results = {}
    print(
        f"decisions per second, {args.processes} processes, {rounds} rounds of {args.seconds:g} s, turn about"
    )
    for battle_format in args.formats:
        pairs = []
        for round_number in range(rounds):
            ours, theirs = measure(args, battle_format, round_number)
            pairs.append((ours, theirs))
            print(
                f"  {battle_format} round {round_number + 1}: ours {ours:.0f}, poke-env {theirs:.0f}",
                flush=True,
            )
        ratios = [ours / theirs for ours, theirs in pairs]
        results[battle_format] = {
            "ours": round(statistics.median(ours for ours, _ in pairs)),
            "poke_env": round(statistics.median(theirs for _, theirs in pairs)),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_low": round(min(ratios), 2),
            "ratio_high": round(max(ratios), 2),
        }
    print(f"\n{'format':18} {'ours':>8} {'poke-env':>9} {'ratio':>6}   (lowest .. highest round)")
    for battle_format, row in results.items():
        span = f"({row['ratio_low']} .. {row['ratio_high']})"
        print(f"{battle_format:18} {row['ours']:8d} {row['poke_env']:9d} {row['ratio']:6.2f}   {span}")
    passed = all(row["ratio"] >= BAR for row in results.values())
    print(json.dumps({"benchmark": "showdown_throughput", "passed": passed, "formats": results}))
    return passed


def main(args: Args) -> None:
    passed = soak(args) if args.soak else throughput(args)
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
