"""Players for in-process battles: poke-env's own three, a scripted tactician, random play and noise on top.

A player sees `Decision`s (see arena.py) and answers with action indices 0..12, or, for players that speak
Showdown's own language, with choice strings. One call answers for all battles in which the player must act.
"""

import difflib
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from poke_env.battle.battle import Battle
from poke_env.player import MaxBasePowerPlayer, RandomPlayer, SimpleHeuristicsPlayer

from cleanpoke.envs.showdown.damage import (
    boost_multiplier,
    effective_speed,
    estimated_stats,
    expected_damage,
)
from cleanpoke.envs.showdown.dex import load_dex
from cleanpoke.envs.showdown.encoder import NUM_BENCH, NUM_MOVES, generation_of
from cleanpoke.envs.showdown.tracker import BattleTracker, Pokemon
from cleanpoke.errors import CleanPokeError

if TYPE_CHECKING:
    from cleanpoke.envs.showdown.arena import Decision
    from cleanpoke.envs.showdown.simulator import Message

Key = tuple[int, int]
"""(battle, side): names one player's seat in one battle."""


class Player(Protocol):
    """Whoever takes decisions. `needs`: what the arena must prepare, "lines", "tracker" and/or "arrays"."""

    name: str
    needs: frozenset[str]

    def observe(self, key: Key, message: "Message") -> None:
        """Every message of the seat, in order; called only for players that need "lines"."""

    def choose(self, decisions: list["Decision"]) -> list[int | str]:
        """One answer per decision: an action index, or a choice in Showdown's words."""

    def finish(self, key: Key) -> None:
        """The battle is over: forget what belongs to this seat."""


PlayerFactory = Callable[[int], Player]
"""Builds a player from a seed; picklable, since each process builds its own."""


class RandomLegalPlayer:
    """Uniform over the 13-action legal mask; the cheapest player there is."""

    needs = frozenset({"tracker"})

    def __init__(self, seed: int, name: str = "random_legal"):
        self.name = name
        self.generator = random.Random(seed)

    def observe(self, key: Key, message: "Message") -> None:
        pass

    def choose(self, decisions: list["Decision"]) -> list[int | str]:
        return [random_legal_action(decision.tracker, self.generator) for decision in decisions]

    def finish(self, key: Key) -> None:
        pass


def random_legal_action(tracker: BattleTracker, generator: random.Random) -> int:
    """A uniformly drawn legal action."""
    return generator.choice([action for action, legal in enumerate(tracker.legal_actions()) if legal])


class NoisyPlayer:
    """Another player that, with probability `epsilon` per decision, plays a random legal action instead."""

    def __init__(self, player: Player, epsilon: float, seed: int):
        self.player, self.epsilon = player, epsilon
        self.name = f"{player.name}:{epsilon:g}"
        self.needs = player.needs | {"tracker"}
        self.generator = random.Random(seed)

    def observe(self, key: Key, message: "Message") -> None:
        self.player.observe(key, message)

    def choose(self, decisions: list["Decision"]) -> list[int | str]:
        answers = self.player.choose(decisions)
        for index, decision in enumerate(decisions):
            if self.generator.random() < self.epsilon:
                answers[index] = random_legal_action(decision.tracker, self.generator)
        return answers

    def finish(self, key: Key) -> None:
        self.player.finish(key)


class PokeEnvPlayer:
    """One of poke-env's own players, fed in process with the lines and requests its websocket would carry."""

    needs = frozenset({"lines"})

    def __init__(self, player_class: type, battle_format: str, name: str):
        self.name = name
        self.generation = generation_of(battle_format)
        self.player = player_class(battle_format=battle_format, start_listening=False)
        self.logger = logging.getLogger("poke_env.in_process")
        self.logger.setLevel(logging.CRITICAL)
        # poke-env warns of every effect it has no name for, once per line; nothing depends on it here.
        logging.getLogger("poke-env").setLevel(logging.ERROR)
        self.battles: dict[Key, Battle] = {}

    def observe(self, key: Key, message: "Message") -> None:
        battle = self.battles.get(key)
        if battle is None:
            username = f"Player {key[1] + 1}"
            battle = Battle(f"battle-{key[0]}-{key[1]}", username, self.logger, gen=self.generation)
            self.battles[key] = battle
        for line in message.lines:
            split_line = line.split("|")
            if split_line[1] not in ("win", "tie") and split_line[1] not in self.player.MESSAGES_TO_IGNORE:
                battle.parse_message(split_line)
        if message.request is not None:
            battle.parse_request(poke_env_request(message.request))

    def choose(self, decisions: list["Decision"]) -> list[int | str]:
        answers: list[int | str] = []
        for decision in decisions:
            battle = self.battles[decision.key]
            moves = decision.message.request.get("active", [{}])[0].get("moves", [])
            if len(moves) == 1 and not battle.available_switches:
                answers.append("move 1")
            elif battle.teampreview:
                answers.append(self.player.teampreview(battle).removeprefix("/"))
            else:
                answers.append(self.player.choose_move(battle).message.removeprefix("/choose "))
        return answers

    def finish(self, key: Key) -> None:
        self.battles.pop(key, None)


def poke_env_request(request: dict) -> dict:
    """The request as poke-env 0.16 understands it: Gen 1's "Fight" pseudo-move (the only one offered to a
    sleeping, frozen or trapped Pokémon) becomes that Pokémon's first move, which the simulator accepts."""
    active = request.get("active")
    if not active or [move["id"] for move in active[0]["moves"]] != ["fight"]:
        return request
    first = next(one for one in request["side"]["pokemon"] if one["active"])["moves"][0]
    stand_in = {"move": first, "id": first, "pp": 1, "maxpp": 1, "target": "normal", "disabled": False}
    return {**request, "active": [{**active[0], "moves": [stand_in]}]}


SLEEP_VALUE, PARALYSIS_VALUE, POISON_VALUE = 0.7, 0.35, 0.2
ENTRY_HAZARDS = {"stealthrock": 1, "spikes": 3, "toxicspikes": 2, "stickyweb": 1}


class TacticianPlayer:
    """A scripted one-ply player that weighs damage, status, recovery, set-up and switching in one unit:
    fractions of a Pokémon's HP. It knows only what its tracker knows; weights are rules of thumb."""

    needs = frozenset({"tracker"})

    def __init__(self, battle_format: str, name: str = "tactician"):
        self.name = name
        self.dex = load_dex(generation_of(battle_format))

    def observe(self, key: Key, message: "Message") -> None:
        pass

    def finish(self, key: Key) -> None:
        pass

    def choose(self, decisions: list["Decision"]) -> list[int | str]:
        return [self.choose_one(decision.tracker) for decision in decisions]

    def choose_one(self, tracker: BattleTracker) -> int:
        legal = tracker.legal_actions()
        foe, own = tracker.opponent.active, tracker.own.active
        bench = tracker.bench()
        switch_values = {
            4 + index: self.matchup(tracker, bench[index])
            for index in range(min(NUM_BENCH, len(bench)))
            if legal[4 + index]
        }
        if tracker.decision == "preview" or tracker.decision == "switch" or own is None or foe is None:
            candidates = switch_values or {action: 0.0 for action in range(len(legal)) if legal[action]}
            return max(candidates, key=candidates.__getitem__)
        move_values = {
            index: self.move_value(tracker, own.moves[index].id)
            for index in range(min(NUM_MOVES, len(own.moves)))
            if legal[index]
        }
        if not move_values:
            fallback = [action for action in range(len(legal)) if legal[action]]
            return fallback[0]
        best_move = max(move_values, key=move_values.__getitem__)
        if switch_values and legal.index(True) < 4:
            best_switch = max(switch_values, key=switch_values.__getitem__)
            # A switch costs a free hit; do it only out of a clearly lost position.
            staying = self.matchup(tracker, own)
            if move_values[best_move] < 0.3 and switch_values[best_switch] > staying + 0.45:
                return best_switch
        if legal[9 + best_move] and self.wants_gimmick(tracker, own, best_move):
            return 9 + best_move
        return best_move

    def threat(self, tracker: BattleTracker, pokemon: Pokemon) -> float:
        """The most damage the opponent's active Pokémon is likely to do to `pokemon` in one turn."""
        foe = tracker.opponent.active
        if foe is None:
            return 0.0
        attacker_stats = estimated_stats(self.dex, foe)
        stats = estimated_stats(self.dex, pokemon)
        worst = 0.0
        for slot in foe.moves:
            move = self.dex.moves.get(slot.id)
            if move is not None and not move.self_destruct:
                damage = expected_damage(self.dex, move, foe, attacker_stats, pokemon, stats, tracker.own)
                worst = max(worst, damage * move.accuracy)
        if len(foe.moves) < NUM_MOVES:
            # Moves not seen yet: assume a typical attack of each of its types.
            best_attack = max(attacker_stats["atk"], attacker_stats["spa"])
            defence = (stats["def"] + stats["spd"]) / 2
            for one in foe.types:
                base = (2 * foe.level / 5 + 2) * 80 * best_attack / defence / 50
                multiplier = 1.5 * 0.9 * self.dex.effectiveness(one, pokemon.types)
                worst = max(worst, 0.8 * base * multiplier / stats["hp"])
        return min(worst, 1.0)

    def best_damage(self, tracker: BattleTracker, pokemon: Pokemon) -> float:
        """The most expected damage one of `pokemon`'s moves would do to the opponent's active Pokémon."""
        foe = tracker.opponent.active
        if foe is None:
            return 0.0
        stats, foe_stats = estimated_stats(self.dex, pokemon), estimated_stats(self.dex, foe)
        best = 0.0
        for slot in pokemon.moves:
            move = self.dex.moves.get(slot.id)
            if move is not None and not move.self_destruct:
                damage = expected_damage(self.dex, move, pokemon, stats, foe, foe_stats, tracker.opponent)
                best = max(best, damage * move.accuracy * (0.6 if "recharge" in move.flags else 1.0))
        return min(best, 1.0)

    def matchup(self, tracker: BattleTracker, pokemon: Pokemon) -> float:
        """How well `pokemon` stands against the opponent's active Pokémon, in fractions of HP per turn."""
        value = self.best_damage(tracker, pokemon) - self.threat(tracker, pokemon)
        if pokemon.status in ("slp", "frz"):
            value -= 0.4
        elif pokemon.status == "par":
            value -= 0.1
        return value + 0.25 * pokemon.hp_fraction

    def move_value(self, tracker: BattleTracker, move_id: str) -> float:
        """What one use of a move is worth now, in fractions of a Pokémon's HP."""
        move = self.dex.moves.get(move_id)
        own, foe = tracker.own.active, tracker.opponent.active
        if move is None:
            return 0.0
        stats, foe_stats = estimated_stats(self.dex, own), estimated_stats(self.dex, foe)
        threat = self.threat(tracker, own)
        faster = effective_speed(self.dex, own, stats) >= effective_speed(self.dex, foe, foe_stats)
        substitute = "substitute" in foe.volatiles
        value = 0.0
        if move.category != "Status":
            damage = expected_damage(self.dex, move, own, stats, foe, foe_stats, tracker.opponent)
            value = min(damage, foe.hp_fraction)
            knock_out = damage >= foe.hp_fraction and not substitute
            if knock_out:
                value = foe.hp_fraction + 0.4 + (0.2 if faster or move.priority > 0 else 0.0)
            if "recharge" in move.flags and not (knock_out and self.dex.gen == 1):
                value *= 0.55
            if "charge" in move.flags:
                value *= 0.5
            if move.self_destruct:
                value -= 0.25 + 0.9 * own.hp_fraction * (0.5 if threat >= own.hp_fraction else 1.0)
            if own.status == "slp" and move_id not in ("sleeptalk", "snore"):
                value *= 0.9
            value *= move.accuracy
            value += 0.3 * move.drain * min(damage, foe.hp_fraction)
            value += sum(0.25 * side_effect.chance for side_effect in move.secondaries)
            return value
        status_blocked = bool(foe.status) or substitute
        immune = self.dex.effectiveness(move.type, foe.types) == 0
        if move.status == "slp" and not status_blocked:
            asleep = any(one.status == "slp" and not one.fainted for one in tracker.opponent.team)
            value = 0.0 if asleep or (immune and self.dex.gen > 1) else SLEEP_VALUE * move.accuracy
        elif move.status == "par" and not status_blocked and not (immune and move_id == "thunderwave"):
            value = (PARALYSIS_VALUE + (0.0 if faster else 0.15)) * move.accuracy
        elif move.status in ("tox", "psn", "brn") and not status_blocked:
            value = 0.0 if "poison" in foe.types else POISON_VALUE * move.accuracy
        elif move.volatile_status in ("confusion", "leechseed") and not substitute:
            blocked = move.volatile_status in foe.volatiles
            blocked |= move.volatile_status == "leechseed" and "grass" in foe.types
            value = 0.0 if blocked else 0.2 * move.accuracy
        elif move_id == "rest":
            missing = 1 - own.hp_fraction
            value = max(missing - 0.5, 0.0) * 0.8 if threat < 0.45 else 0.0
        elif move.heal:
            missing = min(1 - own.hp_fraction, move.heal)
            value = missing * (1.2 if threat < move.heal else 0.5) if missing > 0.3 else 0.0
        elif move.target == "self" and move.boosts:
            gain = sum(
                boost_multiplier(min(own.boosts.get(name, 0) + stage, 6))
                / boost_multiplier(own.boosts.get(name, 0))
                - 1
                for name, stage in move.boosts.items()
            )
            value = 0.3 * max(gain, 0.0) * max(own.hp_fraction - threat - 0.2, 0.0)
        elif move_id in ("reflect", "lightscreen"):
            already = move_id in own.volatiles or move_id in tracker.own.conditions
            value = 0.0 if already else 0.25 * own.hp_fraction
        elif move_id in ENTRY_HAZARDS:
            condition = tracker.opponent.conditions.get(move_id)
            layers = condition.layers if condition else 0
            left = sum(not one.fainted for one in tracker.opponent.team) + 6 - len(tracker.opponent.team)
            value = 0.08 * left if layers < ENTRY_HAZARDS[move_id] else 0.0
        elif move_id == "substitute" and "substitute" not in own.volatiles and own.hp_fraction > 0.5:
            value = 0.12
        return value

    def wants_gimmick(self, tracker: BattleTracker, own: Pokemon, action: int) -> bool:
        """Spend the gimmick when it makes the chosen attack much better, or when few Pokémon are left."""
        move = self.dex.moves.get(own.moves[action].id)
        if move is None or move.category == "Status":
            return False
        last_ones = sum(not one.fainted for one in tracker.own.team) <= 2
        foe = tracker.opponent.active
        gains = own.tera_type == move.type and self.dex.effectiveness(move.type, foe.types) >= 1
        return own.hp_fraction > 0.5 and (last_ones or gains)


POKE_ENV_PLAYERS = {
    "random": RandomPlayer,
    "max_base_power": MaxBasePowerPlayer,
    "simple_heuristics": SimpleHeuristicsPlayer,
}


def make_player(spec: str, battle_format: str, seed: int) -> Player:
    """Builds a player from its name: "random", "max_base_power", "simple_heuristics", "tactician",
    "random_legal"; a suffix ":0.3" adds 30% random legal actions.

    Raises CleanPokeError for an unknown name (suggesting the nearest) or a noise share outside [0, 1].
    """
    name, _, noise = spec.partition(":")
    known = [*POKE_ENV_PLAYERS, "tactician", "random_legal"]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise CleanPokeError(f"unknown player {name!r}{hint} (known: {', '.join(known)})")
    if name in POKE_ENV_PLAYERS:
        player: Player = PokeEnvPlayer(POKE_ENV_PLAYERS[name], battle_format, name)
    elif name == "tactician":
        player = TacticianPlayer(battle_format)
    else:
        player = RandomLegalPlayer(seed)
    if not noise:
        return player
    try:
        epsilon = float(noise)
    except ValueError:
        epsilon = -1.0
    if not 0 <= epsilon <= 1:
        raise CleanPokeError(f"player {spec!r}: the noise after ':' must be a number from 0 to 1")
    return NoisyPlayer(player, epsilon, seed)
