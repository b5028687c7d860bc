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
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cleanpoke.envs.showdown.damage import (
    best_attack_effectiveness,
    effective_speed,
    estimated_stats,
    expected_damage,
)
from cleanpoke.envs.showdown.dex import load_dex, vocabulary
from cleanpoke.envs.showdown.tracker import BattleTracker, Pokemon, Side

NUM_ACTIONS = 13
"""0-3 the active Pokémon's moves, 4-8 a switch to a bench member, 9-12 moves with the gimmick."""

NUM_MOVES = 4
NUM_BENCH = 5
MAX_VOLATILES = 8
"""Volatiles listed per active Pokémon; more than eight at once did not occur in 2,000 random battles."""

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
BOOSTS = ("atk", "def", "spa", "spd", "spe", "accuracy", "evasion")


class SlotKind(NamedTuple):
    """`count` tokens of one kind; each holds `num_words` vocabulary ids and `num_numbers` floats."""

    name: str
    count: int
    num_words: int
    num_numbers: int


NUM_BENCH_WORDS = 7 + NUM_MOVES
NUM_BENCH_NUMBERS = 25
NUM_CONTEXT_NUMBERS = 14 + 4 * len(SIDE_CONDITIONS) + 2 * len(FIELD_CONDITIONS)

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

VOCABULARY_SIZE = 5120
"""Rows of the word embedding: the vocabulary of the pinned simulator, rounded up."""

ENCODER_VERSION = 1
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


Chunk = tuple[list[int], list[float]]
"""Words and numbers of one slot; never changed once made."""

MAX_REMEMBERED = 200_000


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
        self.pad, self.unknown, self.none = ids["<pad>"], ids["<unknown>"], ids["<none>"]
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
        self.remembered: dict[tuple, Chunk] = {}
        self.empty_bench = [self.pad] * NUM_BENCH_WORDS, [0.0] * NUM_BENCH_NUMBERS
        self.unseen_bench = [self.unknown] * NUM_BENCH_WORDS, [1.0] + [0.0] * (NUM_BENCH_NUMBERS - 1)
        self.empty_active = [self.pad] * SLOT_KINDS[1].num_words, [0.0] * SLOT_KINDS[1].num_numbers
        self.empty_move = [self.pad] * SLOT_KINDS[2].num_words, [0.0] * SLOT_KINDS[2].num_numbers

    def encode(
        self, tracker: BattleTracker, words: np.ndarray, numbers: np.ndarray, legal: np.ndarray
    ) -> None:
        """Writes one decision: `words` (NUM_WORDS,) int16, `numbers` (NUM_NUMBERS,), `legal` (13,) bool."""
        legal_actions = tracker.legal_actions()
        own, opponent = tracker.own, tracker.opponent
        preview = tracker.decision == "preview"
        # At team preview the first member stands where the active Pokémon will: action 0 leads with it.
        active = own.team[0] if preview else own.active
        foe = opponent.active
        stats = estimated_stats(self.dex, active) if active else None
        foe_stats = estimated_stats(self.dex, foe) if foe else None

        all_words, all_numbers = self._context(tracker, legal_actions)
        self._extend(all_words, all_numbers, self._active(tracker, active, stats, foe, foe_stats))
        for index in range(NUM_MOVES):
            chunk = self._move(tracker, index, active, stats, foe, foe_stats, legal_actions)
            self._extend(all_words, all_numbers, chunk)
        bench = tracker.bench()
        for index in range(NUM_BENCH):
            if index < len(bench):
                chunk = self._pokemon(bench[index], foe, legal_actions[4 + index])
            else:
                chunk = self.empty_bench
            self._extend(all_words, all_numbers, chunk)
        self._extend(all_words, all_numbers, self._active(tracker, foe, foe_stats, active, stats))
        hidden = [pokemon for pokemon in opponent.team if pokemon is not foe]
        for index in range(NUM_BENCH):
            if index < len(hidden):
                chunk = self._pokemon(hidden[index], active, False)
            elif index < opponent.team_size - (foe is not None):
                chunk = self.unseen_bench
            else:
                chunk = self.empty_bench
            self._extend(all_words, all_numbers, chunk)
        words[:] = all_words
        numbers[:] = all_numbers
        legal[:] = legal_actions

    @staticmethod
    def _extend(all_words: list[int], all_numbers: list[float], chunk: Chunk) -> None:
        all_words += chunk[0]
        all_numbers += chunk[1]

    def _context(self, tracker: BattleTracker, legal_actions: list[bool]) -> Chunk:
        own, opponent, turn = tracker.own, tracker.opponent, tracker.turn
        terrain = next((name for name in TERRAINS if name in tracker.fields), None)
        words = [
            self.format_word,
            self.decisions.get(tracker.decision or "wait", self.unknown),
            self.weathers.get(tracker.weather, self.unknown) if tracker.weather else self.none,
            self.fields.get(terrain, self.unknown) if terrain else self.none,
            self.moves.get(own.last_move, self.none),
            self.moves.get(opponent.last_move, self.none),
        ]
        own_alive = sum(not pokemon.fainted for pokemon in own.team)
        opponent_fainted = sum(pokemon.fainted for pokemon in opponent.team)
        numbers = [
            min(turn / 50, 4.0),
            own_alive / 6,
            (opponent.team_size - opponent_fainted) / 6,
            len(opponent.team) / 6,
            health_sum(own) / 6,
            health_sum(opponent) / 6,
            float(tracker.decision == "switch"),
            float(tracker.trapped),
            float(tracker.maybe_trapped),
            (turn - tracker.weather_turn) / 8 if tracker.weather else 0.0,
            (turn - tracker.fields[terrain]) / 8 if terrain else 0.0,
            sum(legal_actions) / NUM_ACTIONS,
            float(any(legal_actions[9:])),
            float(opponent.gimmick_used),
        ]
        for side in (own, opponent):
            conditions = side.conditions
            if conditions:
                for name in SIDE_CONDITIONS:
                    condition = conditions.get(name)
                    if condition is None:
                        numbers += (0.0, 0.0)
                    else:
                        numbers += (condition.layers / 2, (turn - condition.start_turn) / 8)
            else:
                numbers += [0.0] * (2 * len(SIDE_CONDITIONS))
        for name in FIELD_CONDITIONS:
            started = tracker.fields.get(name)
            numbers += (0.0, 0.0) if started is None else (1.0, (turn - started) / 8)
        return words, numbers

    def _pokemon(self, pokemon: Pokemon, foe: Pokemon | None, legal_switch: bool) -> Chunk:
        """What is common to active and bench Pokémon, own and the opponent's.

        Most of a team does not change from one decision to the next, so chunks are remembered by content.
        """
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
            legal_switch,
            tuple(pokemon.stats.values()) if pokemon.stats else None,
            *[(slot.id, slot.pp, slot.max_pp) for slot in pokemon.moves],
            (foe.types, *[slot.id for slot in foe.moves]) if foe else None,
        )
        chunk = self.remembered.get(key)
        if chunk is None:
            if len(self.remembered) >= MAX_REMEMBERED:
                self.remembered.clear()
            chunk = self.remembered[key] = self._make_pokemon(pokemon, foe, legal_switch)
        return chunk

    def _make_pokemon(self, pokemon: Pokemon, foe: Pokemon | None, legal_switch: bool) -> Chunk:
        species = self.dex.species.get(pokemon.species)
        types = pokemon.types
        ability, item = pokemon.ability, pokemon.item
        moves = pokemon.moves[:NUM_MOVES]
        is_own = pokemon.stats is not None
        absent = self.none if is_own else self.unknown
        words = [
            self.species.get(pokemon.species, self.unknown),
            self.types.get(types[0], self.unknown) if types else self.none,
            self.types.get(types[1], self.unknown) if len(types) > 1 else self.none,
            self.unknown if ability is None else self.abilities.get(ability, self.none),
            self.unknown if item is None else self.items.get(item, self.none),
            self.statuses.get(pokemon.status, self.none),
            self.unknown if pokemon.tera_type is None else self.types.get(pokemon.tera_type, self.unknown),
            *[self.moves.get(slot.id, self.unknown) for slot in moves],
            *[absent] * (NUM_MOVES - len(moves)),
        ]
        base = species.base_stats if species else None
        fraction = pokemon.hp_fraction
        numbers = [
            1.0,
            fraction,
            pokemon.level / 100,
            float(pokemon.fainted),
            float(pokemon.revealed),
            float(pokemon.terastallized),
            min(pokemon.status_turns, 8) / 8,
            float(legal_switch),
        ]
        numbers += [base[name] / 255 for name in BASE_STATS] if base else [0.0] * 6
        numbers += [pokemon.stats[name] / 500 for name in STATS] if is_own else [0.0] * 5
        numbers += [slot.pp / slot.max_pp if slot.max_pp else 0.0 for slot in moves]
        numbers += [0.0] * (NUM_MOVES - len(moves))
        if foe is None:
            numbers += (0.0, 0.0)
        else:
            numbers += (
                best_attack_effectiveness(self.dex, pokemon, foe.types) / 4,
                best_attack_effectiveness(self.dex, foe, types) / 4,
            )
        return words, numbers

    def _active(
        self,
        tracker: BattleTracker,
        pokemon: Pokemon | None,
        stats: dict[str, float] | None,
        foe: Pokemon | None,
        foe_stats: dict[str, float] | None,
    ) -> Chunk:
        if pokemon is None:
            return self.empty_active
        words, numbers = self._pokemon(pokemon, foe, False)
        volatiles = list(pokemon.volatiles.items())[:MAX_VOLATILES]
        unused = MAX_VOLATILES - len(volatiles)
        words = [
            *words,
            self.moves.get(pokemon.last_move, self.none),
            *[self.volatiles.get(name, self.unknown) for name, _ in volatiles],
            *[self.pad] * unused,
        ]
        boosts = pokemon.boosts
        numbers = [
            *numbers,
            *[boosts.get(name, 0) / 6 for name in BOOSTS],
            min(pokemon.active_turns, 10) / 10,
        ]
        if foe is not None and foe_stats is not None:
            own_speed = effective_speed(self.dex, pokemon, stats)
            foe_speed = effective_speed(self.dex, foe, foe_stats)
            numbers += (float(own_speed > foe_speed), (own_speed - foe_speed) / (own_speed + foe_speed))
        else:
            numbers += (0.0, 0.0)
        numbers += [min(tracker.turn - started, 8) / 8 for _, started in volatiles]
        numbers += [0.0] * unused
        return words, numbers

    def _move(
        self,
        tracker: BattleTracker,
        index: int,
        active: Pokemon | None,
        stats: dict[str, float] | None,
        foe: Pokemon | None,
        foe_stats: dict[str, float] | None,
        legal_actions: list[bool],
    ) -> Chunk:
        if active is None or index >= len(active.moves):
            return self.empty_move
        slot = active.moves[index]
        move = self.dex.moves.get(slot.id)
        if move is None:
            return self.empty_move
        effectiveness, damage = 1.0, 0.0
        if foe is not None and move.category != "Status":
            effectiveness = self.dex.effectiveness(move.type, foe.types)
            damage = expected_damage(self.dex, move, active, stats, foe, foe_stats, tracker.opponent)
        words = [
            self.moves.get(slot.id, self.unknown),
            self.types.get(move.type, self.unknown),
            self.categories.get(move.category.lower(), self.unknown),
            self.statuses.get(move.status, self.none),
            self.volatiles.get(move.volatile_status, self.none),
        ]
        numbers = [
            1.0,
            move.base_power / 150,
            move.accuracy,
            slot.pp / slot.max_pp if slot.max_pp else 0.0,
            move.priority / 5,
            effectiveness / 4,
            float(move.type in active.types),
            min(damage, 2.0),
            float(foe is not None and damage >= foe.hp_fraction > 0),
            float(legal_actions[index]),
            float(legal_actions[9 + index]),
            move.heal + move.drain,
        ]
        return words, numbers
