"""Turns what one player knows of a battle (a tracker) into the arrays a network sees.

One decision is a fixed row of slots: the context (field, sides, turn), the active Pokémon, its four moves,
the five bench Pokémon in action order, the opponent's active Pokémon and its bench. A slot holds vocabulary
ids ("words") and floats ("numbers"). Three symbols never mix: `<unknown>` (there is something, not seen yet),
`<none>` (known to be nothing), `<predicted>` (reserved for set predictors); `<pad>` = 0 marks an empty slot.

Nothing is summarised away: every side condition keeps its layers and age, every volatile of an active Pokémon
is listed, PP and benches are complete. What only its owner can know (stats) is absent on the opponent's side.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import numpy as np

from cleanpoke.envs.showdown.damage import (
    best_attack_effectiveness,
    effective_speed,
    estimated_stats,
    expected_damage,
)
from cleanpoke.envs.showdown.dex import load_dex, vocabulary
from cleanpoke.envs.showdown.tracker import BattleTracker, MoveSlot, Pokemon, Side

NUM_ACTIONS = 13
"""0-3 the active Pokémon's moves, 4-8 a switch to a bench member, 9-12 moves with the gimmick."""

NUM_MOVES = 4
NUM_BENCH = 5
MAX_VOLATILES = 8
"""Volatiles listed per active Pokémon: the oldest, should there be more."""

SIDE_CONDITIONS = (
    *("reflect", "lightscreen", "auroraveil", "safeguard", "mist", "tailwind", "luckychant"),
    *("spikes", "toxicspikes", "stealthrock", "stickyweb", "gmaxsteelsurge"),
    *("gmaxvinelash", "gmaxwildfire", "gmaxcannonade", "gmaxvolcalith"),
    *("firepledge", "waterpledge", "grasspledge", "wish", "futuremove", "healingwish"),
)
FIELD_CONDITIONS = (
    *("trickroom", "gravity", "magicroom", "wonderroom", "mudsport", "watersport", "fairylock", "iondeluge"),
)
TERRAINS = ("electricterrain", "grassyterrain", "mistyterrain", "psychicterrain")
BASE_STATS = ("hp", "atk", "def", "spa", "spd", "spe")
STATS = ("atk", "def", "spa", "spd", "spe")
BOOST_PLACES = {
    name: place for place, name in enumerate(("atk", "def", "spa", "spd", "spe", "accuracy", "evasion"))
}
SIDE_CONDITION_PLACES = {name: place for place, name in enumerate(SIDE_CONDITIONS)}
FIELD_CONDITION_PLACES = {name: place for place, name in enumerate(FIELD_CONDITIONS)}


class SlotKind(NamedTuple):
    """`count` tokens of one kind; each holds `num_words` vocabulary ids and `num_numbers` floats."""

    name: str
    count: int
    num_words: int
    num_numbers: int


NUM_BODY_WORDS = 7 + NUM_MOVES
NUM_BODY_NUMBERS = 18 + NUM_MOVES
"""Of what is common to every Pokémon and changes rarely; the numbers below follow it."""
NUM_BENCH_WORDS = NUM_BODY_WORDS
NUM_BENCH_NUMBERS = NUM_BODY_NUMBERS + 3
NUM_CONTEXT_BASICS = 14
NUM_CONTEXT_NUMBERS = NUM_CONTEXT_BASICS + 4 * len(SIDE_CONDITIONS) + 2 * len(FIELD_CONDITIONS)

SLOT_KINDS = (
    SlotKind("context", 1, 6, NUM_CONTEXT_NUMBERS),
    SlotKind("active", 1, NUM_BENCH_WORDS + 1 + MAX_VOLATILES, NUM_BENCH_NUMBERS + 10 + MAX_VOLATILES),
    SlotKind("moves", NUM_MOVES, 5, 12),
    SlotKind("bench", NUM_BENCH, NUM_BENCH_WORDS, NUM_BENCH_NUMBERS),
    SlotKind(
        "opponent_active", 1, NUM_BENCH_WORDS + 1 + MAX_VOLATILES, NUM_BENCH_NUMBERS + 10 + MAX_VOLATILES
    ),
    SlotKind("opponent_bench", NUM_BENCH, NUM_BENCH_WORDS, NUM_BENCH_NUMBERS),
)
NUM_WORDS = sum(kind.count * kind.num_words for kind in SLOT_KINDS)
NUM_NUMBERS = sum(kind.count * kind.num_numbers for kind in SLOT_KINDS)
CONTEXT, ACTIVE, MOVES, BENCH, OPPONENT_ACTIVE, OPPONENT_BENCH = range(len(SLOT_KINDS))

VOCABULARY_SIZE = 5120
"""Rows of the word embedding: the vocabulary of the pinned simulator, rounded up."""

ENCODER_VERSION = 3
SIMULATOR_VERSION = json.loads((Path(__file__).parent / "node" / "package.json").read_text())["dependencies"][
    "pokemon-showdown"
]
SCHEMA = hashlib.sha256(
    repr((ENCODER_VERSION, SIMULATOR_VERSION, SLOT_KINDS, SIDE_CONDITIONS, FIELD_CONDITIONS)).encode()
).hexdigest()[:12]
"""Identifies the meaning of every word and number; battle files and checkpoints carry it."""


def generation_of(battle_format: str) -> int:
    """The generation in a format's name: 1 for "gen1ou"."""
    match = re.match(r"gen(\d)", battle_format)
    if match is None:
        raise ValueError(f"format {battle_format!r} does not name a generation (expected e.g. gen1ou)")
    return int(match.group(1))


def health_sum(side: Side) -> float:
    """Summed HP fractions of a team, unrevealed members counted as full; in [0, 6]."""
    known = sum(pokemon.hp_fraction for pokemon in side.team)
    return known + max(side.team_size - len(side.team), 0)


@dataclass(slots=True)
class Body:
    """What is common to every Pokémon and changes rarely, encoded; never changed once made."""

    words: bytes
    """NUM_BODY_WORDS int16."""
    numbers: bytes
    """NUM_BODY_NUMBERS float32."""
    matchups: dict[tuple[str, ...], float]
    """Defending types to how well its attacks do; shared by all with the same types and moves."""


MAX_REMEMBERED = 20_000
"""Entries of a look-up table before it starts afresh: about 10 MB."""

# A row is put together as bytes: struct packs a slot several times faster than numpy assigns it.
PACK_CONTEXT_WORDS = Struct(f"{SLOT_KINDS[CONTEXT].num_words}h").pack
PACK_CONTEXT_BASICS = Struct(f"{NUM_CONTEXT_BASICS}f").pack
PACK_CONDITIONS = Struct(f"{NUM_CONTEXT_NUMBERS - NUM_CONTEXT_BASICS}f").pack
PACK_BODY_WORDS = Struct(f"{NUM_BODY_WORDS}h").pack
PACK_BODY_NUMBERS = Struct(f"{NUM_BODY_NUMBERS}f").pack
PACK_RELATIONS = Struct("3f").pack
PACK_ACTIVE_WORDS = Struct(f"{SLOT_KINDS[ACTIVE].num_words - NUM_BENCH_WORDS}h").pack
PACK_ACTIVE_NUMBERS = Struct(f"{SLOT_KINDS[ACTIVE].num_numbers - NUM_BENCH_NUMBERS}f").pack
PACK_MOVE_WORDS = Struct(f"{SLOT_KINDS[MOVES].num_words}h").pack
PACK_MOVE_NUMBERS = Struct(f"{SLOT_KINDS[MOVES].num_numbers}f").pack
# Padding is zero throughout, words (`<pad>`) and numbers.
EMPTY_SLOTS = tuple((bytes(2 * kind.num_words), bytes(4 * kind.num_numbers)) for kind in SLOT_KINDS)
NO_CONDITIONS = bytes(4 * (NUM_CONTEXT_NUMBERS - NUM_CONTEXT_BASICS))


class Encoder:
    """Encodes decisions of one format. What it keeps between calls are look-up tables only."""

    def __init__(self, battle_format: str):
        self.battle_format = battle_format
        self.dex = load_dex(generation_of(battle_format))
        words = vocabulary()
        if len(words) > VOCABULARY_SIZE:
            raise ValueError(
                f"the vocabulary has {len(words)} words, the embedding only {VOCABULARY_SIZE} rows"
            )
        ids = {word: index for index, word in enumerate(words)}
        self.unknown, self.none = ids["<unknown>"], ids["<none>"]
        tables: dict[str, dict[str, int]] = {}
        for word, index in ids.items():
            space, _, name = word.partition(":")
            tables.setdefault(space, {})[name] = index
        self.species, self.moves = tables["species"], tables["move"]
        self.abilities, self.items, self.types = tables["ability"], tables["item"], tables["type"]
        self.statuses, self.volatiles = tables["status"], tables["volatile"]
        self.weathers, self.fields = tables["weather"], tables["field"]
        self.categories, self.decisions = tables["category"], tables["decision"]
        self.format_word = tables["format"].get(battle_format, self.unknown)
        self.hidden_slot = (
            PACK_BODY_WORDS(*[self.unknown] * NUM_BODY_WORDS),
            PACK_BODY_NUMBERS(1.0, *[0.0] * (NUM_BODY_NUMBERS - 1)) + PACK_RELATIONS(0.0, 0.0, 0.0),
        )
        self.bodies: dict[tuple, Body] = {}
        self.matchups: dict[tuple, dict[tuple[str, ...], float]] = {}
        self.move_words: dict[str, bytes] = {}

    def encode(
        self, tracker: BattleTracker, words: np.ndarray, numbers: np.ndarray, legal: np.ndarray
    ) -> None:
        """Writes one decision: `words` (NUM_WORDS,) int16, `numbers` (NUM_NUMBERS,), `legal` (13,) bool."""
        legal_actions = tracker.legal_actions()
        own, opponent = tracker.own, tracker.opponent
        active, foe = own.active, opponent.active
        if tracker.decision == "preview":
            # The first members stand where the active Pokémon will: action 0 leads with one's own.
            active, foe = own.team[0], next(iter(opponent.team), None)
        body = self._body(active) if active else None
        foe_body = self._body(foe) if foe else None
        stats = estimated_stats(self.dex, active) if active else None
        foe_stats = estimated_stats(self.dex, foe) if foe else None

        slots = [self._context(tracker, legal_actions)]
        if active is not None:
            slots.append(self._active(tracker, active, body, stats, foe, foe_body, foe_stats))
            for index, slot in enumerate(active.moves[:NUM_MOVES]):
                allowed = legal_actions[index], legal_actions[NUM_MOVES + NUM_BENCH + index]
                slots.append(self._move(slot, allowed, active, stats, foe, foe_stats, opponent))
            slots += [EMPTY_SLOTS[MOVES]] * (NUM_MOVES - len(active.moves))
        else:
            slots += [EMPTY_SLOTS[ACTIVE], *[EMPTY_SLOTS[MOVES]] * NUM_MOVES]
        bench = tracker.bench()[:NUM_BENCH]
        for index, pokemon in enumerate(bench):
            slots.append(self._benched(pokemon, foe, foe_body, legal_actions[NUM_MOVES + index]))
        slots += [EMPTY_SLOTS[BENCH]] * (NUM_BENCH - len(bench))
        if foe is not None:
            slots.append(self._active(tracker, foe, foe_body, foe_stats, active, body, stats))
        else:
            slots.append(EMPTY_SLOTS[OPPONENT_ACTIVE])
        seen = [pokemon for pokemon in opponent.team if pokemon is not foe]
        size = min(NUM_BENCH, opponent.team_size - (foe is not None))
        slots += [self._benched(pokemon, active, body, False) for pokemon in seen[:size]]
        slots += [self.hidden_slot] * (size - len(seen))
        slots += [EMPTY_SLOTS[OPPONENT_BENCH]] * (NUM_BENCH - size)

        words[:] = np.frombuffer(b"".join([slot[0] for slot in slots]), np.int16)
        numbers[:] = np.frombuffer(b"".join([slot[1] for slot in slots]), np.float32)
        legal[:] = legal_actions

    def _context(self, tracker: BattleTracker, legal_actions: list[bool]) -> tuple[bytes, bytes]:
        own, opponent, turn = tracker.own, tracker.opponent, tracker.turn
        fields = tracker.fields
        terrain = next((name for name in TERRAINS if name in fields), None) if fields else None
        words = PACK_CONTEXT_WORDS(
            self.format_word,
            self.decisions.get(tracker.decision or "wait", self.unknown),
            self.weathers.get(tracker.weather, self.unknown) if tracker.weather else self.none,
            self.fields.get(terrain, self.unknown) if terrain else self.none,
            self.moves.get(own.last_move, self.none),
            self.moves.get(opponent.last_move, self.none),
        )
        own_fainted = sum([pokemon.fainted for pokemon in own.team])
        opponent_fainted = sum([pokemon.fainted for pokemon in opponent.team])
        basics = PACK_CONTEXT_BASICS(
            min(turn / 50, 4.0),
            (len(own.team) - own_fainted) / 6,
            (opponent.team_size - opponent_fainted) / 6,
            len(opponent.team) / 6,
            health_sum(own) / 6,
            health_sum(opponent) / 6,
            tracker.decision == "switch",
            tracker.trapped,
            tracker.maybe_trapped,
            (turn - tracker.weather_turn) / 8 if tracker.weather else 0.0,
            (turn - fields[terrain]) / 8 if terrain else 0.0,
            sum(legal_actions) / NUM_ACTIONS,
            any(legal_actions[NUM_MOVES + NUM_BENCH :]),
            opponent.gimmick_used,
        )
        if not (own.conditions or opponent.conditions or fields):
            return words, basics + NO_CONDITIONS
        numbers = [0.0] * (NUM_CONTEXT_NUMBERS - NUM_CONTEXT_BASICS)
        position = 0
        for side in (own, opponent):
            for name, condition in side.conditions.items():
                place = SIDE_CONDITION_PLACES.get(name)
                if place is not None:
                    numbers[position + 2 * place] = condition.layers / 2
                    numbers[position + 2 * place + 1] = (turn - condition.start_turn) / 8
            position += 2 * len(SIDE_CONDITIONS)
        for name, started in fields.items():
            place = FIELD_CONDITION_PLACES.get(name)
            if place is not None:
                numbers[position + 2 * place] = 1.0
                numbers[position + 2 * place + 1] = (turn - started) / 8
        return words, basics + PACK_CONDITIONS(*numbers)

    def _body(self, pokemon: Pokemon) -> Body:
        """Most of a team does not change from one decision to the next, so it is remembered by content."""
        key = (
            pokemon.species,
            pokemon.hp,
            pokemon.max_hp,
            pokemon.level,
            pokemon.status,
            pokemon.status_turns,
            pokemon.revealed,
            pokemon.types,
            pokemon.terastallized,
            pokemon.tera_type,
            pokemon.ability,
            pokemon.item,
            tuple(pokemon.stats.values()) if pokemon.stats else None,
            *[(slot.id, slot.pp, slot.max_pp) for slot in pokemon.moves],
        )
        body = self.bodies.get(key)
        if body is None:
            if len(self.bodies) >= MAX_REMEMBERED:
                self.bodies.clear()
            body = self.bodies[key] = self._make_body(pokemon)
        return body

    def _matchup(self, attacker: Pokemon, attacker_body: Body, defender: Pokemon) -> float:
        value = attacker_body.matchups.get(defender.types)
        if value is None:
            value = best_attack_effectiveness(self.dex, attacker, defender.types) / 4
            attacker_body.matchups[defender.types] = value
        return value

    def _benched(
        self, pokemon: Pokemon, foe: Pokemon | None, foe_body: Body | None, may_enter: bool
    ) -> tuple[bytes, bytes]:
        """What every Pokémon has: its body, whether one may switch to it, the match-up both ways."""
        body = self._body(pokemon)
        return body.words, body.numbers + self._relations(pokemon, body, foe, foe_body, may_enter)

    def _relations(
        self, pokemon: Pokemon, body: Body, foe: Pokemon | None, foe_body: Body | None, may_enter: bool
    ) -> bytes:
        if foe is None:
            return PACK_RELATIONS(may_enter, 0.0, 0.0)
        return PACK_RELATIONS(
            may_enter, self._matchup(pokemon, body, foe), self._matchup(foe, foe_body, pokemon)
        )

    def _make_body(self, pokemon: Pokemon) -> Body:
        species = self.dex.species.get(pokemon.species)
        types = pokemon.types
        ability, item = pokemon.ability, pokemon.item
        moves = pokemon.moves[:NUM_MOVES]
        is_own = pokemon.stats is not None
        absent = self.none if is_own else self.unknown
        words = PACK_BODY_WORDS(
            self.species.get(pokemon.species, self.unknown),
            self.types.get(types[0], self.unknown) if types else self.none,
            self.types.get(types[1], self.unknown) if len(types) > 1 else self.none,
            self.unknown if ability is None else self.abilities.get(ability, self.none),
            self.unknown if item is None else self.items.get(item, self.none),
            self.statuses.get(pokemon.status, self.none),
            self.unknown if pokemon.tera_type is None else self.types.get(pokemon.tera_type, self.unknown),
            *[self.moves.get(slot.id, self.unknown) for slot in moves],
            *[absent] * (NUM_MOVES - len(moves)),
        )
        numbers = PACK_BODY_NUMBERS(
            1.0,
            pokemon.hp_fraction,
            pokemon.level / 100,
            pokemon.fainted,
            pokemon.revealed,
            pokemon.terastallized,
            min(pokemon.status_turns, 8) / 8,
            *([species.base_stats[name] / 255 for name in BASE_STATS] if species else [0.0] * 6),
            *([pokemon.stats[name] / 500 for name in STATS] if is_own else [0.0] * 5),
            *[slot.pp / slot.max_pp if slot.max_pp else 0.0 for slot in moves],
            *[0.0] * (NUM_MOVES - len(moves)),
        )
        if len(self.matchups) >= MAX_REMEMBERED:
            self.matchups.clear()
        matchups = self.matchups.setdefault((types, *[slot.id for slot in pokemon.moves]), {})
        return Body(words, numbers, matchups)

    def _active(
        self,
        tracker: BattleTracker,
        pokemon: Pokemon,
        body: Body,
        stats: dict[str, float],
        foe: Pokemon | None,
        foe_body: Body | None,
        foe_stats: dict[str, float] | None,
    ) -> tuple[bytes, bytes]:
        boosts = [0.0] * len(BOOST_PLACES)
        for name, stage in pokemon.boosts.items():
            boosts[BOOST_PLACES[name]] = stage / 6
        faster = advantage = 0.0
        if foe is not None:
            own_speed = effective_speed(self.dex, pokemon, stats)
            foe_speed = effective_speed(self.dex, foe, foe_stats)
            faster = own_speed > foe_speed
            advantage = (own_speed - foe_speed) / (own_speed + foe_speed)
        names, ages = [0] * MAX_VOLATILES, [0.0] * MAX_VOLATILES
        for index, (name, started) in enumerate(list(pokemon.volatiles.items())[:MAX_VOLATILES]):
            names[index] = self.volatiles.get(name, self.unknown)
            ages[index] = min(tracker.turn - started, 8) / 8
        words = PACK_ACTIVE_WORDS(self.moves.get(pokemon.last_move, self.none), *names)
        numbers = PACK_ACTIVE_NUMBERS(*boosts, min(pokemon.active_turns, 10) / 10, faster, advantage, *ages)
        relations = self._relations(pokemon, body, foe, foe_body, False)
        return body.words + words, body.numbers + relations + numbers

    def _move(
        self,
        slot: MoveSlot,
        allowed: tuple[bool, bool],
        active: Pokemon,
        stats: dict[str, float],
        foe: Pokemon | None,
        foe_stats: dict[str, float] | None,
        opponent: Side,
    ) -> tuple[bytes, bytes]:
        """A move of the own active Pokémon; `allowed` without and with the gimmick."""
        move = self.dex.moves.get(slot.id)
        if move is None:
            return EMPTY_SLOTS[MOVES]
        effectiveness, damage = 1.0, 0.0
        if foe is not None and move.category != "Status":
            effectiveness = self.dex.effectiveness(move.type, foe.types)
            damage = expected_damage(self.dex, move, active, stats, foe, foe_stats, opponent)
        words = self.move_words.get(slot.id)
        if words is None:
            words = self.move_words[slot.id] = PACK_MOVE_WORDS(
                self.moves.get(slot.id, self.unknown),
                self.types.get(move.type, self.unknown),
                self.categories.get(move.category.lower(), self.unknown),
                self.statuses.get(move.status, self.none),
                self.volatiles.get(move.volatile_status, self.none),
            )
        numbers = PACK_MOVE_NUMBERS(
            1.0,
            move.base_power / 150,
            move.accuracy,
            slot.pp / slot.max_pp if slot.max_pp else 0.0,
            move.priority / 5,
            effectiveness / 4,
            move.type in active.types,
            min(damage, 2.0),
            foe is not None and damage >= foe.hp_fraction > 0,
            *allowed,
            move.heal + move.drain,
        )
        return words, numbers
