"""The battle tracker knows what its player knows: no less (compared with the truth), no more (no leaks)."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict

import pytest

from cleanpoke.envs.showdown.simulator import Message, Simulator
from cleanpoke.envs.showdown.tracker import BattleTracker, Pokemon

FORMATS = [f"gen{gen}randombattle" for gen in range(1, 10)]


def play(
    battle_format: str,
    seeds: list[int],
    choose: Callable[[BattleTracker, Message, int], int],
    *,
    with_truth: bool = False,
) -> tuple[dict[tuple[int, int], BattleTracker], Counter]:
    """Plays battles to their ends; `choose(tracker, message, number)` gives the action of a side's number-th
    decision. Returns the trackers by (battle, side) and the simulator's counters."""
    trackers: dict[tuple[int, int], BattleTracker] = {}
    numbers: Counter[tuple[int, int]] = Counter()
    with Simulator(battle_format, seed=3, team_pool_size=50, with_truth=with_truth) as simulator:
        for seed in seeds:
            simulator.start(seed)
        while simulator.num_running:
            messages, ended = simulator.receive()
            answers = []
            for message in messages:
                key = message.battle, message.side
                tracker = trackers.setdefault(key, BattleTracker(int(battle_format[3])))
                tracker.receive(message.lines, message.request)
                if message.needs_choice:
                    action = choose(tracker, message, numbers[key])
                    numbers[key] += 1
                    answers.append((message.battle, message.side, tracker.choice(action)))
            for end in ended:
                assert end.reason in ("win", "tie"), end.error
                for side in (0, 1):
                    assert trackers[end.battle, side].winner == end.winner
                    assert trackers[end.battle, side].finished
            simulator.choose(answers)
        return trackers, simulator.counters


def legal_choices(tracker: BattleTracker) -> list[int]:
    return [action for action, legal in enumerate(tracker.legal_actions()) if legal]


def state_of(tracker: BattleTracker) -> dict:
    """All that a tracker knows, comparable."""
    names = ("turn", "finished", "weather", "weather_turn", "fields", "decision", "trapped", "request")
    state = {name: getattr(tracker, name) for name in names}
    return state | {"own": asdict(tracker.own), "opponent": asdict(tracker.opponent)}


# ---------------------------------------------------------------- whole battles


@pytest.mark.parametrize("battle_format", FORMATS)
def test_every_generation_plays_through_with_accepted_choices(battle_format):
    generator = random.Random(7)

    def choose(tracker: BattleTracker, message: Message, number: int) -> int:
        # Only a trap that the request could not tell of may be refused; the new request then tells.
        assert message.error is None or "trapped" in message.error or "disabled" in message.error
        action = generator.choice(legal_choices(tracker))
        assert tracker.action_of(tracker.choice(action)) == action
        assert tracker.legal_actions()[tracker.action_of("default")]
        return action

    trackers, counters = play(battle_format, [0, 1], choose)
    assert counters["errors"] == counters["defaulted"] == 0
    for tracker in trackers.values():
        assert not tracker.unknown_lines


@pytest.mark.parametrize("battle_format", ["gen1randombattle", "gen9randombattle"])
def test_own_team_and_revealed_facts_agree_with_the_truth(battle_format):
    generator = random.Random(11)
    compared = Counter()

    def choose(tracker: BattleTracker, message: Message, number: int) -> int:
        own, other = (message.truth["sides"][side] for side in (message.side, 1 - message.side))
        for pokemon, true in zip(tracker.own.team, own["pokemon"], strict=True):
            assert pokemon.hp == true["hp"]
            assert pokemon.status == true["status"]
            assert [slot.pp for slot in pokemon.base_moves] == [slot["pp"] for slot in true["base_moves"]]
            compared["own"] += 1
            if true["active"] and not true["fainted"]:
                boosts = {stat: stage for stat, stage in pokemon.boosts.items() if stage}
                assert boosts == {stat: stage for stat, stage in true["boosts"].items() if stage}
                assert sorted(pokemon.types) == sorted(true["types"])
        illusion = any(true["base_ability"] == "illusion" for true in other["pokemon"])
        by_name = {true["name"]: true for true in other["pokemon"]}
        for pokemon in [] if illusion else tracker.opponent.team:
            true = by_name[pokemon.name]
            assert pokemon.fainted == true["fainted"]
            if true["active"] and not true["fainted"]:
                compared["opponent"] += 1
                assert f"{pokemon.hp}/{pokemon.max_hp}" == true["shared"].split(" ")[0]
                assert {slot.id for slot in pokemon.moves} <= {slot["id"] for slot in true["moves"]}
        return generator.choice(legal_choices(tracker))

    play(battle_format, list(range(6)), choose, with_truth=True)
    assert compared["own"] > 1000 and compared["opponent"] > 200


# ---------------------------------------------------------------- no leak


@pytest.mark.parametrize("battle_format", ["gen1randombattle", "gen9randombattle"])
def test_knowledge_does_not_depend_on_the_opponents_choice_of_the_same_turn(battle_format):
    """Twin battles: equal seeds and choices, but for one decision of side 1. Up to and including the decision
    that side 0 takes at the same time, side 0 must know exactly the same."""

    different_at = [None, *range(1, 30, 4)]  # by battle; the first one is the reference
    states: list[list[dict]] = [[] for _ in different_at]
    opponent_decisions = [0] * len(different_at)

    def choose(tracker: BattleTracker, message: Message, number: int) -> int:
        battle = message.battle
        legal = legal_choices(tracker)
        choice = random.Random(f"{message.side} {number}").randrange(len(legal))
        if message.side == 0:
            # Side 0's message comes first, so this counts the decisions that side 1 has taken before.
            states[battle].append(state_of(tracker) | {"opponent_decisions": opponent_decisions[battle]})
        else:
            opponent_decisions[battle] = number + 1
            choice += number == different_at[battle]
        return legal[choice % len(legal)]

    play(battle_format, [5] * len(different_at), choose)
    reference, *twins = states
    kinds = Counter()
    changed_later = 0
    for twin, changed in zip(twins, different_at[1:], strict=True):
        shared = [state for state in reference if state["opponent_decisions"] <= changed]
        assert twin[: len(shared)] == shared
        kinds.update(state["decision"] for state in shared)
        changed_later += twin[len(shared) :] != reference[len(shared) :]
    assert changed_later > 0
    assert kinds["switch"] > 0 and kinds["move"] > 0


def test_nothing_is_told_to_a_player_who_has_not_chosen_yet():
    """Side 1 always answers first; whatever the decision (double knock-out, Explosion, pivot, forced switch),
    side 0 hears nothing before its own answer."""
    generator = random.Random(2)
    together = Counter()
    with Simulator("gen1randombattle", seed=3, team_pool_size=50) as simulator:
        for seed in range(12):
            simulator.start(seed)
        trackers: dict[tuple[int, int], BattleTracker] = {}
        while simulator.num_running:
            messages, _ = simulator.receive()
            answers: list[list[tuple[int, int, str]]] = [[], []]
            for message in messages:
                tracker = trackers.setdefault((message.battle, message.side), BattleTracker(1))
                tracker.receive(message.lines, message.request)
                if message.needs_choice:
                    choice = tracker.choice(generator.choice(legal_choices(tracker)))
                    answers[message.side].append((message.battle, message.side, choice))
            awaited = {battle for battle, _, _ in answers[0]}
            together.update(trackers[battle, 0].decision for battle, _, _ in answers[1] if battle in awaited)
            if answers[1]:
                simulator.choose(answers[1])
                early = []
                while any(worker.unanswered for worker in simulator._workers):  # until it has dealt with them
                    early += simulator.receive(timeout_seconds=0.01)[0]
                assert not awaited & {message.battle for message in early}
                for message in early:
                    tracker = trackers[message.battle, message.side]
                    tracker.receive(message.lines, message.request)
                    if message.needs_choice:
                        choice = tracker.choice(generator.choice(legal_choices(tracker)))
                        answers[0].append((message.battle, message.side, choice))
            simulator.choose(answers[0])
    assert together["move"] > 100 and together["switch"] > 0


# ---------------------------------------------------------------- lines, one rule each


def seated(gen: int, lines: str) -> BattleTracker:
    """A tracker in p1's seat that has read some lines."""
    tracker = BattleTracker(gen, side=0)
    tracker.receive([line.strip() for line in lines.strip().splitlines()], None)
    return tracker


def pp_spent(pokemon: Pokemon) -> dict[str, int]:
    return {slot.id: slot.max_pp - slot.pp for slot in pokemon.moves}


def test_unknown_lines_are_counted_and_harmless():
    tracker = seated(9, "|-brandnew|p1a: Tauros|move: Future\n|")
    assert tracker.unknown_lines == {"-brandnew": 1}


def test_pressure_costs_two_and_called_moves_nothing():
    tracker = seated(
        9,
        """|switch|p1a: Zapdos|Zapdos, L80|100/100
        |-ability|p1a: Zapdos|Pressure
        |switch|p2a: Snorlax|Snorlax, L80|100/100
        |move|p2a: Snorlax|Body Slam|p1a: Zapdos
        |move|p2a: Snorlax|Curse|p2a: Snorlax
        |move|p2a: Snorlax|Sleep Talk|p2a: Snorlax
        |move|p2a: Snorlax|Earthquake|p1a: Zapdos|[from] move: Sleep Talk""",
    )
    # Pressure taxes the move that calls another one at its holder.
    assert pp_spent(tracker.opponent.active) == {"bodyslam": 2, "curse": 1, "sleeptalk": 2}


def test_gen1_charging_moves_are_paid_when_they_strike():
    tracker = seated(
        1,
        """|switch|p1a: Starmie|Starmie|100/100
        |switch|p2a: Aerodactyl|Aerodactyl|100/100
        |move|p2a: Aerodactyl|Sky Attack||[still]
        |-prepare|p2a: Aerodactyl|Sky Attack""",
    )
    opponent = tracker.opponent.active
    assert pp_spent(opponent) == {} and "twoturnmove" in opponent.volatiles
    tracker.receive(["|move|p2a: Aerodactyl|Sky Attack|p1a: Starmie|[from] Sky Attack"], None)
    assert pp_spent(opponent) == {"skyattack": 1} and "twoturnmove" not in opponent.volatiles


def test_gen1_wrap_binds_until_it_is_not_renewed():
    tracker = seated(
        1,
        """|switch|p1a: Starmie|Starmie|100/100
        |switch|p2a: Dragonite|Dragonite|100/100
        |turn|1
        |move|p2a: Dragonite|Wrap|p1a: Starmie
        |-damage|p1a: Starmie|90/100
        |upkeep
        |turn|2""",
    )
    assert "partiallytrapped" in tracker.own.active.volatiles
    tracker.receive(["|cant|p2a: Dragonite|par", "|upkeep", "|turn|3"], None)
    assert "partiallytrapped" not in tracker.own.active.volatiles
    assert pp_spent(tracker.opponent.active) == {"wrap": 1}


def test_transform_and_mimic_end_with_the_switch():
    tracker = seated(
        1,
        """|switch|p1a: Starmie|Starmie|100/100
        |switch|p2a: Ditto|Ditto|100/100
        |move|p2a: Ditto|Transform|p1a: Starmie
        |-transform|p2a: Ditto|p1a: Starmie""",
    )
    ditto = tracker.opponent.active
    assert ditto.transformed and ditto.species == "starmie" and ditto.types == ("water", "psychic")
    tracker.receive(["|switch|p2a: Mew|Mew|100/100", "|move|p2a: Mew|Mimic|p1a: Starmie"], None)
    assert (ditto.species, ditto.types, ditto.transformed) == ("ditto", ("normal",), False)
    assert [slot.id for slot in ditto.moves] == ["transform"]
    mew = tracker.opponent.active
    tracker.receive(["|-start|p2a: Mew|Mimic|Surf"], None)
    assert [slot.id for slot in mew.moves] == ["surf"]
    tracker.receive(["|switch|p2a: Ditto|Ditto|100/100"], None)
    assert [slot.id for slot in mew.moves] == ["mimic"]


def test_illusion_gives_back_what_was_not_its_own():
    tracker = seated(
        9,
        """|switch|p1a: Starmie|Starmie|100/100
        |switch|p2a: Mew|Mew, L82|100/100
        |move|p2a: Mew|Psychic|p1a: Starmie
        |switch|p2a: Blissey|Blissey, L80, F|100/100
        |switch|p2a: Mew|Mew, L82|100/100
        |move|p2a: Mew|Dark Pulse|p1a: Starmie
        |-boost|p2a: Mew|spa|1
        |-damage|p2a: Mew|60/100
        |replace|p2a: Zoroark|Zoroark, L84, M""",
    )
    mew, _, zoroark = tracker.opponent.team
    assert tracker.opponent.active is zoroark and zoroark.ability == "illusion"
    assert (zoroark.hp, zoroark.boosts, pp_spent(zoroark)) == (60, {"spa": 1}, {"darkpulse": 1})
    assert (mew.hp, mew.boosts, pp_spent(mew)) == (100, {}, {"psychic": 1})


def test_baton_pass_hands_on_boosts_and_substitute():
    tracker = seated(
        9,
        """|switch|p2a: Mew|Mew|100/100
        |-boost|p2a: Mew|atk|2
        |-start|p2a: Mew|Substitute
        |-start|p2a: Mew|Encore
        |switch|p2a: Tauros|Tauros, M|100/100|[from] Baton Pass""",
    )
    tauros = tracker.opponent.active
    assert tauros.boosts == {"atk": 2} and set(tauros.volatiles) == {"substitute"}


def test_side_conditions_count_layers_and_court_change_swaps_them():
    tracker = seated(
        9,
        """|turn|3
        |-sidestart|p2: Bob|Spikes
        |-sidestart|p2: Bob|Spikes
        |-sidestart|p1: Ann|move: Stealth Rock
        |-swapsideconditions""",
    )
    assert tracker.own.conditions["spikes"].layers == 2
    assert tracker.own.conditions["spikes"].start_turn == 3
    assert set(tracker.opponent.conditions) == {"stealthrock"}


# ---------------------------------------------------------------- requests


def request_of(moves: list[dict], *, reserve: int = 2, **active: object) -> dict:
    """A request of a three-Pokémon team (Tauros, Starmie, Chansey) with Tauros on the field."""
    stats = dict.fromkeys(("atk", "def", "spa", "spd", "spe"), 200)
    team = [
        ("Tauros", ["bodyslam", "blizzard", "earthquake", "hyperbeam"]),
        ("Starmie", ["surf", "thunderbolt", "recover", "thunderwave"]),
        ("Chansey", ["softboiled", "icebeam", "thunderwave", "counter"]),
    ]
    pokemon = [
        {
            **{"ident": f"p1: {name}", "details": name, "condition": "300/300", "active": index == 0},
            **{"stats": stats, "moves": ids, "baseAbility": "", "item": "", "pokeball": "pokeball"},
        }
        for index, (name, ids) in enumerate(team[: 1 + reserve])
    ]
    return {"active": [{"moves": moves, **active}], "side": {"name": "Ann", "id": "p1", "pokemon": pokemon}}


def full_moves(disabled: str = "") -> list[dict]:
    ids = ["bodyslam", "blizzard", "earthquake", "hyperbeam"]
    return [{"id": one, "move": one, "pp": 8, "maxpp": 8, "disabled": one == disabled} for one in ids]


def test_request_gives_the_legal_mask():
    tracker = BattleTracker(1)
    tracker.receive(["|switch|p1a: Tauros|Tauros|300/300"], request_of(full_moves(disabled="blizzard")))
    legal = [True, False, True, True, True, True] + [False] * 7
    assert tracker.decision == "move" and tracker.legal_actions() == legal
    assert [pokemon.species for pokemon in tracker.bench()] == ["starmie", "chansey"]
    tracker.receive([], request_of(full_moves(), trapped=True))
    assert tracker.trapped and legal_choices(tracker) == [0, 1, 2, 3]


def test_actions_and_choices_translate_both_ways():
    tracker = BattleTracker(1)
    tracker.receive(["|switch|p1a: Tauros|Tauros|300/300"], request_of(full_moves()))
    for action in legal_choices(tracker):
        assert tracker.action_of(tracker.choice(action)) == action
    assert tracker.choice(2) == "move 3" and tracker.choice(5) == "switch 3"
    assert tracker.action_of("move Hyper Beam") == tracker.action_of("/choose move 4|17") == 3
    assert tracker.action_of("switch chansey") == 5 and tracker.action_of("default") == 0
    for wrong in ("move surf", "switch 1", "switch mew", "move 5", "team 213", "", "dance"):
        with pytest.raises(ValueError, match="not legal now"):
            tracker.action_of(wrong)
    for wrong_action in (6, 9, 13, -1):
        with pytest.raises(ValueError, match="not legal now"):
            tracker.choice(wrong_action)


@pytest.mark.parametrize(
    ("only", "action"), [("fight", 0), ("recharge", 0), ("struggle", 0), ("earthquake", 2)]
)
def test_a_single_offered_move_is_one_action(only, action):
    tracker = BattleTracker(1)
    tracker.receive([], request_of([{"id": only, "move": only}], trapped=only != "fight"))
    moves = [one for one in legal_choices(tracker) if one < 4]
    assert moves == [action] and tracker.choice(action) == "move 1"
    assert tracker.action_of(f"move {only}") == tracker.action_of("move 1") == action


def test_team_preview_chooses_the_lead():
    tracker = BattleTracker(9)
    tracker.receive([], {**request_of(full_moves()), "active": None, "teamPreview": True})
    assert tracker.decision == "preview" and legal_choices(tracker) == [0, 4, 5]
    assert [tracker.choice(action) for action in (0, 4, 5)] == ["team 123", "team 213", "team 312"]
    assert tracker.action_of("team 312") == 5 and tracker.action_of("default") == 0


def test_forced_switch_and_revival_offer_the_right_half_of_the_bench():
    request = {**request_of(full_moves()), "active": None, "forceSwitch": [True]}
    request["side"]["pokemon"][0]["condition"] = "0 fnt"
    request["side"]["pokemon"][2]["condition"] = "0 fnt"
    tracker = BattleTracker(9)
    tracker.receive([], request)
    assert tracker.decision == "switch" and legal_choices(tracker) == [4]
    request["side"]["pokemon"][0] |= {"condition": "10/300", "reviving": True}
    tracker.receive([], request)
    assert legal_choices(tracker) == [5] and tracker.choice(5) == "switch 3"


def test_gimmick_actions_follow_the_request():
    tracker = BattleTracker(9)
    tracker.receive([], request_of(full_moves(disabled="blizzard"), canTerastallize="Fire"))
    assert legal_choices(tracker) == [0, 2, 3, 4, 5, 9, 11, 12]
    assert tracker.choice(11) == "move 3 terastallize"
    assert tracker.action_of("move earthquake terastallize") == 11
