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
    SIDE_CONDITIONS,
    SLOT_KINDS,
    VOCABULARY_SIZE,
    Encoder,
)
from cleanpoke.envs.showdown.players import RandomLegalPlayer
from cleanpoke.envs.showdown.simulator import Simulator
from cleanpoke.envs.showdown.tracker import BattleTracker
from tests.envs.showdown.test_tracker import full_moves, request_of

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


def encoded(tracker: BattleTracker, battle_format: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row = np.empty(NUM_WORDS, np.int16), np.empty(NUM_NUMBERS, np.float32), np.empty(NUM_ACTIONS, bool)
    Encoder(battle_format).encode(tracker, *row)
    return row


def test_everything_stands_in_its_place():
    """One position made by hand, own and opponent different in everything."""
    moves = full_moves(disabled="earthquake")
    moves[1]["pp"] = 2
    tracker = BattleTracker(9)
    lines = """|switch|p1a: Tauros|Tauros|300/300
|switch|p2a: Starmie|Starmie, L80|100/100
|turn|4
|-boost|p1a: Tauros|atk|2
|-boost|p2a: Starmie|spe|1
|-unboost|p2a: Starmie|def|3
|-start|p2a: Starmie|Substitute
|-sidestart|p1: Ann|move: Stealth Rock
|-sidestart|p2: Bob|Spikes
|-sidestart|p2: Bob|Spikes
|-weather|RainDance
|move|p2a: Starmie|Recover|p2a: Starmie
|-damage|p2a: Starmie|40/100 par
|turn|6"""
    tracker.receive(lines.split("\n"), request_of(moves))
    words, numbers, legal = encoded(tracker, "gen9ou")
    names = np.array(vocabulary())
    assert legal.tolist() == [True, True, False, True, True, True] + [False] * 7

    context = slots(words, "context", "num_words")[0]
    assert list(names[context]) == [
        *("format:gen9ou", "decision:move", "weather:raindance", "<none>", "<none>", "move:recover")
    ]
    conditions = slots(numbers, "context", "num_numbers")[0][14:]
    own = 2 * SIDE_CONDITIONS.index("stealthrock")
    opponent = 2 * len(SIDE_CONDITIONS) + 2 * SIDE_CONDITIONS.index("spikes")
    assert conditions[own : own + 2].tolist() == [0.5, 0.25]  # layers / 2, turns / 8
    assert conditions[opponent : opponent + 2].tolist() == [1.0, 0.25]
    assert np.count_nonzero(conditions) == 4

    active, foe = (slots(words, kind, "num_words")[0] for kind in ("active", "opponent_active"))
    assert names[active[0]] == "species:tauros" and names[foe[0]] == "species:starmie"
    assert list(names[active[7:11]]) == [f"move:{move['id']}" for move in moves]
    assert list(names[foe[7:11]]) == ["move:recover"] + 3 * ["<unknown>"]
    assert names[foe[5]] == "status:par" and names[active[5]] == "<none>"
    assert names[foe[11]] == "move:recover" and names[active[11]] == "<none>"
    assert names[foe[12]] == "volatile:substitute" and not active[12:].any()
    active, foe = (slots(numbers, kind, "num_numbers")[0] for kind in ("active", "opponent_active"))
    assert active[[1, 2]] == pytest.approx([1.0, 1.0]) and foe[[1, 2]] == pytest.approx([0.4, 0.8])
    assert active[18:22] == pytest.approx([1.0, 0.25, 1.0, 1.0])  # PP
    assert active[25:32] == pytest.approx([2 / 6, 0, 0, 0, 0, 0, 0])
    assert foe[25:32] == pytest.approx([0, -3 / 6, 0, 0, 1 / 6, 0, 0])

    rows = slots(words, "moves", "num_words")
    assert list(names[rows[:, 0]]) == [f"move:{move['id']}" for move in moves]
    rows = slots(numbers, "moves", "num_numbers")
    assert rows[:, 3] == pytest.approx([1.0, 0.25, 1.0, 1.0])
    assert rows[:, 9].tolist() == [1, 1, 0, 1] and not rows[:, 10].any()
    assert rows[1, 5] == pytest.approx(0.5 / 4)  # ice against water
    rows, ready = slots(words, "bench", "num_words"), slots(numbers, "bench", "num_numbers")[:, 22]
    assert list(names[rows[:2, 0]]) == ["species:starmie", "species:chansey"] and not rows[2:].any()
    assert ready.tolist() == [1, 1, 0, 0, 0]


def test_team_preview_shows_all_of_both_teams():
    theirs = ["Garchomp", "Corviknight", "Gholdengo", "Dragonite", "Kingambit", "Iron Valiant"]
    tracker = BattleTracker(9, side=0)
    request = request_of([]) | {"teamPreview": True}
    del request["active"]
    tracker.receive([*(f"|poke|p2|{name}|" for name in theirs), "|teampreview"], request)
    words, _, legal = encoded(tracker, "gen9ou")
    names = np.array(vocabulary())
    shown = [slots(words, kind, "num_words")[:, 0] for kind in ("opponent_active", "opponent_bench")]
    expected = [f"species:{name.lower().replace(' ', '')}" for name in theirs]
    assert list(names[np.concatenate(shown)]) == expected
    own = [slots(words, kind, "num_words")[:, 0] for kind in ("active", "bench")]
    assert list(names[np.concatenate(own)][:3]) == ["species:tauros", "species:starmie", "species:chansey"]
    assert legal[[0, 4, 5]].all() and legal.sum() == 3
