"""Plays battles in process: connects the simulator, what each player knows, and the players.

`play` runs many battles at once in this process and asks every player once per round for all its decisions;
`evaluate` turns battles into a win-rate table.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cleanpoke.envs.showdown.battle_files import Trajectory
from cleanpoke.envs.showdown.encoder import (
    NUM_ACTIONS,
    NUM_NUMBERS,
    NUM_WORDS,
    Encoder,
    generation_of,
    health_sum,
)
from cleanpoke.envs.showdown.players import Key, Player, PlayerFactory
from cleanpoke.envs.showdown.simulator import Message, Simulator
from cleanpoke.envs.showdown.teams import load_teams
from cleanpoke.envs.showdown.tracker import BattleTracker, Side
from cleanpoke.processes import in_processes, signs_of_life

DEFAULT_CONCURRENT_BATTLES = 64
REFUSALS_BEFORE_DEFAULT = 2
"""A choice that was refused so often is replaced by "default"; a third refusal would make the simulator do
so, and what was executed would not be known."""


@dataclass(slots=True)
class Decision:
    """One decision that a player must take now.

    tracker is None for players that need only lines; words (NUM_WORDS,) int16, numbers (NUM_NUMBERS,) float32
    and legal (13,) bool are None unless somebody needs arrays.
    """

    key: Key
    message: Message
    tracker: BattleTracker | None = None
    words: np.ndarray | None = None
    numbers: np.ndarray | None = None
    legal: np.ndarray | None = None


@dataclass(slots=True)
class Match:
    """A battle to play. `teams`: packed, None for generated; `team_ids`: their places in the team list."""

    seed: int
    players: tuple[Player, Player]
    teams: tuple[str | None, str | None] = (None, None)
    team_ids: tuple[int, int] = (-1, -1)


@dataclass(slots=True)
class Result:
    """How a match ended. winner: 0, 1 or None (tied, or `truncated`: cut off); trajectories if recorded."""

    match: Match
    winner: int | None
    turns: int
    reason: str
    truncated: bool
    trajectories: tuple[Trajectory, ...] = ()
    error: str = ""
    """What went wrong, where something did."""


@dataclass(slots=True)
class Seat:
    """One side of a running battle."""

    player: Player
    tracker: BattleTracker | None
    trajectory: Trajectory | None
    sums: tuple[float, float, float] | None = None
    """(health, status, knock-out) differences at the latest recorded decision."""
    refusals: int = 0
    """How often in a row the simulator has refused its choice."""


@dataclass(slots=True)
class Running:
    match: Match
    seats: tuple[Seat, Seat]
    pending: list[Decision] = field(default_factory=list)


def statused(side: Side) -> int:
    return sum(bool(pokemon.status) and not pokemon.fainted for pokemon in side.team)


def fainted(side: Side) -> int:
    return sum(pokemon.fainted for pokemon in side.team)


def differences(tracker: BattleTracker) -> tuple[float, float, float]:
    """The position as (own minus opponent health, opponents minus own with a status, … fainted)."""
    own, opponent = tracker.own, tracker.opponent
    return (
        health_sum(own) - health_sum(opponent),
        statused(opponent) - statused(own),
        fainted(opponent) - fainted(own),
    )


def play(
    simulator: Simulator,
    matches: Iterable[Match],
    encoder: Encoder | None = None,
    *,
    concurrent: int = DEFAULT_CONCURRENT_BATTLES,
    record: bool = False,
    first_battle: int = 0,
    on_round: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Plays `matches`, `concurrent` at a time, and yields each result as the battle ends (in no fixed order).

    record: both points of view are returned as trajectories, with the executed actions; their battle ids
    count from `first_battle`. An encoder is needed to record and by players that need arrays.
    on_round: called after each round of decisions, which comes far more often than a result.
    """
    waiting = iter(matches)
    running: dict[int, Running] = {}
    exhausted = False
    while True:
        while not exhausted and len(running) < concurrent:
            match = next(waiting, None)
            if match is None:
                exhausted = True
                break
            battle = simulator.start(match.seed, match.teams)
            running[battle] = _seat_players(match, simulator.format, first_battle, record)
            first_battle += 1
        if not running:
            return
        messages, ended = simulator.receive()
        by_player: dict[int, tuple[Player, list[Decision]]] = {}
        for message in messages:
            battle = running.get(message.battle)
            if battle is None:
                continue
            decision = _take_in(battle, message, encoder)
            if decision is not None:
                player = battle.seats[message.side].player
                by_player.setdefault(id(player), (player, []))[1].append(decision)
        choices = []
        for player, decisions in by_player.values():
            for decision, answer in zip(decisions, player.choose(decisions), strict=True):
                seat = running[decision.key[0]].seats[decision.key[1]]
                seat.refusals = seat.refusals + 1 if decision.message.error else 0
                if seat.refusals >= REFUSALS_BEFORE_DEFAULT:
                    answer = "default"
                choice = answer if isinstance(answer, str) else decision.tracker.choice(answer)
                if seat.trajectory is not None:
                    action = decision.tracker.action_of(choice) if isinstance(answer, str) else answer
                    _record(seat, decision, action)
                choices.append((decision.key[0], decision.key[1], choice))
        if choices:
            simulator.choose(choices)
        on_round()
        for end in ended:
            battle = running.pop(end.battle)
            for side, seat in enumerate(battle.seats):
                seat.player.finish((end.battle, side))
            truncated = end.reason not in ("win", "tie")
            trajectories = tuple(
                _close(seat, side, end.winner, end.turns, truncated)
                for side, seat in enumerate(battle.seats)
                if seat.trajectory is not None and seat.trajectory.action
            )
            winner = None if truncated else end.winner
            yield Result(battle.match, winner, end.turns, end.reason, truncated, trajectories, end.error)


def _seat_players(match: Match, battle_format: str, battle_id: int, record: bool) -> Running:
    names = [player.name for player in match.players]
    seats = []
    for side, player in enumerate(match.players):
        tracker = None
        if record or player.needs & {"tracker", "arrays"}:
            tracker = BattleTracker(generation_of(battle_format), side)
        trajectory = None
        if record:
            trajectory = Trajectory(
                battle=battle_id,
                seed=match.seed,
                side=side,
                player=names[side],
                opponent=names[1 - side],
                team=match.team_ids[side],
            )
        seats.append(Seat(player, tracker, trajectory))
    return Running(match, (seats[0], seats[1]))


def _take_in(battle: Running, message: Message, encoder: Encoder | None) -> Decision | None:
    """Feeds a message to its seat; returns the decision it asks for, if it asks for one."""
    seat = battle.seats[message.side]
    key = (message.battle, message.side)
    if seat.tracker is not None:
        seat.tracker.receive(message.lines, message.request)
    if "lines" in seat.player.needs:
        seat.player.observe(key, message)
    if not message.needs_choice:
        return None
    decision = Decision(key, message, seat.tracker)
    if seat.trajectory is not None or "arrays" in seat.player.needs:
        decision.words = np.empty(NUM_WORDS, np.int16)
        decision.numbers = np.empty(NUM_NUMBERS, np.float32)
        decision.legal = np.empty(NUM_ACTIONS, bool)
        encoder.encode(seat.tracker, decision.words, decision.numbers, decision.legal)
    return decision


def _record(seat: Seat, decision: Decision, action: int) -> None:
    trajectory = seat.trajectory
    if decision.message.error and trajectory.action:
        # The simulator refused the last choice (a trap came to light): what counts is the corrected decision.
        for rows in (trajectory.words, trajectory.numbers, trajectory.legal, trajectory.action):
            rows.pop()
        trajectory.add_decision(decision.words, decision.numbers, decision.legal, action)
        return
    sums = differences(decision.tracker)
    if seat.sums is not None:
        trajectory.add_reward(*(now - before for now, before in zip(sums, seat.sums, strict=True)))
    seat.sums = sums
    trajectory.add_decision(decision.words, decision.numbers, decision.legal, action)


def _close(seat: Seat, side: int, winner: int | None, turns: int, truncated: bool) -> Trajectory:
    outcome = 0 if truncated or winner is None else 1 if winner == side else -1
    change = (now - before for now, before in zip(differences(seat.tracker), seat.sums, strict=True))
    seat.trajectory.add_reward(*change, outcome)
    seat.trajectory.finish(outcome, turns, truncated)
    return seat.trajectory


def wilson_interval(wins: float, battles: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion (95% for z = 1.96); (0, 1) without battles."""
    if battles == 0:
        return 0.0, 1.0
    share = wins / battles
    centre = (share + z * z / (2 * battles)) / (1 + z * z / battles)
    half = z * math.sqrt(share * (1 - share) / battles + z * z / (4 * battles**2)) / (1 + z * z / battles)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(slots=True)
class EvaluationShare:
    """What one process plays of an evaluation: pairs of battles with the same teams and swapped seats."""

    make_agent: Callable[[], Player]
    opponents: dict[str, PlayerFactory]
    battle_format: str
    pairs: range
    split: str
    seed: int
    concurrent: int


def _evaluate_share(
    share: EvaluationShare, report: Callable[[Any], None], stopped: Callable[[], bool]
) -> None:
    random.seed(share.seed)  # poke-env's players draw from the global generator
    agent = share.make_agent()
    encoder = Encoder(share.battle_format)
    with Simulator(share.battle_format, seed=share.seed) as simulator:
        for opponent_index, (spec, make_opponent) in enumerate(share.opponents.items()):
            opponent = make_opponent(share.seed)
            matches = _paired_matches(share, agent, opponent, opponent_index)
            results = play(
                simulator, matches, encoder, concurrent=share.concurrent, on_round=signs_of_life(report)
            )
            for result in results:
                if stopped():
                    return
                side = result.match.players.index(agent)
                outcome = (
                    "cut_off"
                    if result.truncated
                    else "tie"
                    if result.winner is None
                    else ("win" if result.winner == side else "loss")
                )
                report((spec, outcome, result.turns))


def _paired_matches(
    share: EvaluationShare, agent: Player, opponent: Player, opponent_index: int
) -> Iterator[Match]:
    teams = (
        [] if share.battle_format.endswith("randombattle") else load_teams(share.battle_format, share.split)
    )
    for pair in share.pairs:
        # Seeded by the pair alone, so that the number of processes does not change what is played.
        generator = random.Random(f"{share.seed}-{opponent_index}-{pair}")
        battle_seed = generator.getrandbits(48)
        packed: tuple[str | None, str | None] = (None, None)
        ids = (-1, -1)
        if teams:
            drawn = generator.choice(teams), generator.choice(teams)
            packed, ids = (drawn[0].packed, drawn[1].packed), (drawn[0].index, drawn[1].index)
        yield Match(battle_seed, (agent, opponent), packed, ids)
        yield Match(battle_seed, (opponent, agent), packed, ids)


def evaluate(
    make_agent: Callable[[], Player],
    opponents: dict[str, PlayerFactory],
    battle_format: str,
    *,
    battles: int,
    seed: int,
    processes: int = 2,
    split: str = "heldout",
    concurrent: int = DEFAULT_CONCURRENT_BATTLES,
    should_stop: Callable[[], bool] = lambda: False,
    on_result: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:
    """Plays `battles` (rounded up to pairs) against each opponent and returns a row per opponent.

    make_agent, opponents (by name): picklable, each process builds its own. A pair is one seed and two teams
    played twice with the seats swapped, so each side gets both. Row: battles, wins, ties, cut_off (turn
    limit or failure; counted as not won), win_rate, low, high (Wilson 95%), mean_turns.
    """
    pairs = math.ceil(battles / 2)
    shares = [
        EvaluationShare(
            make_agent, opponents, battle_format, range(index, pairs, processes), split, seed, concurrent
        )
        for index in range(min(processes, pairs))
    ]
    counts = {spec: {"win": 0, "loss": 0, "tie": 0, "cut_off": 0, "turns": 0} for spec in opponents}
    total = 2 * pairs * len(opponents)
    reports = in_processes(_evaluate_share, shares, should_stop=should_stop)
    for done, (spec, outcome, turns) in enumerate(reports, start=1):
        counts[spec][outcome] += 1
        counts[spec]["turns"] += turns
        on_result(done, total)
    rows = {}
    for spec, count in counts.items():
        played = count["win"] + count["loss"] + count["tie"] + count["cut_off"]
        low, high = wilson_interval(count["win"], played)
        rows[spec] = {
            "battles": played,
            "wins": count["win"],
            "ties": count["tie"],
            "cut_off": count["cut_off"],
            "win_rate": count["win"] / max(played, 1),
            "low": low,
            "high": high,
            "mean_turns": count["turns"] / max(played, 1),
        }
    return rows


def results_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Rows of `evaluate` as a Markdown table: {"greedy" or "sampled": {opponent: row}}."""
    lines = ["|play|opponent|battles|wins|ties|cut off|win rate|95% interval|", "|-|-|-|-|-|-|-|-|"]
    for play_name, rows in results.items():
        for opponent, row in rows.items():
            counts = "|".join(f"{row[name]:.0f}" for name in ("battles", "wins", "ties", "cut_off"))
            shares = f"{row['win_rate']:.1%}|{row['low']:.1%} - {row['high']:.1%}"
            lines.append(f"|{play_name}|{opponent}|{counts}|{shares}|")
    return "\n".join(lines)
