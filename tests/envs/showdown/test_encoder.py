"""The encoder: shapes, masks, symbols that must not mix, and nothing that the player cannot know."""

import random

import numpy as np
import pytest

from cleanpoke.envs.showdown.arena import Match, play
from cleanpoke.envs.showdown.dex import vocabulary
from cleanpoke.envs.showdown.encoder import (
    NUM_ACTIONS,
    NUM_NUMBERS,
    NUM_WORDS,
    SLOT_KINDS,
    VOCABULARY_SIZE,
    Encoder,
)
from cleanpoke.envs.showdown.players import RandomLegalPlayer
from cleanpoke.envs.showdown.simulator import Simulator

FORMATS = ("gen1randombattle", "gen9randombattle")


class Spy(RandomLegalPlayer):
    """A random player that keeps the arrays of its decisions, and checks them against its tracker."""

    needs = frozenset({"tracker", "arrays"})

    def __init__(self, seed):
        super().__init__(seed)
        self.decisions = []

    def choose(self, decisions):
        answers = super().choose(decisions)
        for decision, action in zip(decisions, answers, strict=True):
            tracker = decision.tracker
            assert decision.legal.tolist() == tracker.legal_actions()
            facts = {
                "own": [pokemon.species for pokemon in tracker.bench()],
                "opponent": [(pokemon.species, pokemon.hp_fraction) for pokemon in tracker.opponent.team],
            }
            self.decisions.append(
                (decision.key, decision.words, decision.numbers, decision.legal, action, facts)
            )
        return answers


@pytest.fixture(scope="module", params=FORMATS)
def battles(request):
    """(format, decisions of both sides of a few battles)"""
    players = (Spy(1), Spy(2))
    generator = random.Random(0)
    with Simulator(request.param, seed=3) as simulator:
        matches = [Match(generator.getrandbits(40), players) for _ in range(6)]
        assert len(list(play(simulator, matches, Encoder(request.param)))) == 6
    return request.param, players[0].decisions + players[1].decisions


def slots(row, kind_name, sizes):
    """The (count, size) view of one kind of slot in a row of words or numbers."""
    start = 0
    for kind in SLOT_KINDS:
        size = getattr(kind, sizes)
        if kind.name == kind_name:
            return row[start : start + kind.count * size].reshape(kind.count, size)
        start += kind.count * size
    raise KeyError(kind_name)


def test_rows_are_complete_finite_and_in_range(battles):
    for _, words, numbers, legal, action, _ in battles[1]:
        assert (
            words.shape == (NUM_WORDS,) and numbers.shape == (NUM_NUMBERS,) and legal.shape == (NUM_ACTIONS,)
        )
        assert words.min() >= 0 and words.max() < len(vocabulary()) <= VOCABULARY_SIZE
        assert np.isfinite(numbers).all() and np.abs(numbers).max() <= 30
        assert legal[action]


def test_switch_actions_point_at_the_slots_of_the_bench(battles):
    names = vocabulary()
    for _, words, _, legal, _, facts in battles[1]:
        bench = slots(words, "bench", "num_words")
        for index, species in enumerate(facts["own"]):
            assert names[bench[index][0]] == f"species:{species}"
        for index in range(len(facts["own"]), 5):
            assert not bench[index].any() and not legal[4 + index]


def test_unseen_opponents_are_unknown_not_empty(battles):
    unknown = vocabulary().index("<unknown>")
    for _, words, numbers, _, _, facts in battles[1]:
        bench = slots(words, "opponent_bench", "num_words")
        seen = max(len(facts["opponent"]) - 1, 0)
        assert (bench[seen:, 0] == unknown).all()
        assert (slots(numbers, "opponent_bench", "num_numbers")[:, 0] == 1).all()


def test_own_stats_are_shown_and_the_opponents_are_not(battles):
    stats = slice(13, 18)
    for _, _, numbers, _, _, _ in battles[1]:
        assert (slots(numbers, "opponent_bench", "num_numbers")[:, stats] == 0).all()
        assert (slots(numbers, "opponent_active", "num_numbers")[:, stats] == 0).all()
    assert any((slots(row[2], "bench", "num_numbers")[:, stats] > 0).any() for row in battles[1])


def test_every_battle_word_is_in_the_vocabulary(battles):
    """A species, move or status that fell to <unknown> on the own side would blind the network silently."""
    unknown = vocabulary().index("<unknown>")
    for _, words, numbers, _, _, _ in battles[1]:
        own = slots(words, "bench", "num_words")
        filled = slots(numbers, "bench", "num_numbers")[:, 0] > 0
        assert (own[filled][:, [0, 1, 2, 5, 7, 8, 9, 10]] != unknown).all()
