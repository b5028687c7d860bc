"""Turns what one player knows of a battle (a tracker) into the arrays a network sees."""

from typing import NamedTuple

NUM_ACTIONS = 13
"""0-3 the active Pokémon's moves, 4-8 a switch to a bench member, 9-12 moves with the gimmick."""


class SlotKind(NamedTuple):
    """`count` tokens of one kind; each holds `num_words` vocabulary ids and `num_numbers` floats."""

    name: str
    count: int
    num_words: int
    num_numbers: int


SLOT_KINDS = (
    SlotKind("context", 1, 8, 64),
    SlotKind("active", 1, 20, 40),
    SlotKind("moves", 4, 5, 10),
    SlotKind("bench", 5, 12, 24),
    SlotKind("opponent_active", 1, 20, 40),
    SlotKind("opponent_bench", 5, 12, 24),
)
NUM_WORDS = sum(kind.count * kind.num_words for kind in SLOT_KINDS)
NUM_NUMBERS = sum(kind.count * kind.num_numbers for kind in SLOT_KINDS)
VOCABULARY_SIZE = 4800
SCHEMA = "draft"
