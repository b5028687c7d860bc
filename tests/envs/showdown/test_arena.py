"""The arena: what is recorded is what was played, and every battle is counted as what it was."""

import functools

import numpy as np
import pytest

from cleanpoke.envs.showdown import arena, collection
from cleanpoke.envs.showdown.arena import EvaluationShare, Match, differences, play
from cleanpoke.envs.showdown.battle_files import read_folder
from cleanpoke.envs.showdown.encoder import Encoder
from cleanpoke.envs.showdown.players import RandomLegalPlayer, make_player
from cleanpoke.envs.showdown.simulator import Simulator
from cleanpoke.envs.showdown.teams import load_teams

# Gothitelle's Shadow Tag is hidden until somebody tries to leave: the first attempt is refused.
TRAPPER = "Gothitelle||leftovers|shadowtag|psychic,thunderbolt,calmmind,rest|Calm|252,,4,,252,|||||"
FLEEING = "]".join(
    f"{species}||leftovers|{ability}|{moves}|Jolly|,252,4,,,252|||||"
    for species, ability, moves in (
        ("Garchomp", "roughskin", "earthquake,outrage,swordsdance,protect"),
        ("Corviknight", "pressure", "bravebird,roost,bodypress,defog"),
    )
)


class Watching(RandomLegalPlayer):
    """Random play that notes, for each seat, the position at each answer and the answer."""

    def __init__(self, seed: int, choose_action=None):
        super().__init__(seed, name=f"watching{seed}")
        self.choose_action = choose_action
        self.notes: dict[tuple[int, int], list[tuple]] = {}

    def choose(self, decisions):
        answers = super().choose(decisions)
        for index, decision in enumerate(decisions):
            if self.choose_action is not None:
                answers[index] = self.choose_action(decision.tracker)
            notes = self.notes.setdefault(decision.key, [])
            if decision.message.error:
                notes.pop()
            notes.append((differences(decision.tracker), answers[index], decision.legal.copy()))
        return answers


def recorded(battle_format: str, matches: list[Match], **options):
    with Simulator(battle_format, seed=1, **options) as simulator:
        return list(play(simulator, matches, Encoder(battle_format), record=True))


@pytest.mark.parametrize("battle_format", ["gen1randombattle", "gen9randombattle"])
def test_each_step_has_the_executed_action_and_the_change_that_followed(battle_format):
    player = Watching(1)
    results = recorded(battle_format, [Match(seed, (player, player)) for seed in range(4)])
    # Battles are numbered as they start, in the simulator as in the trajectories.
    trajectories = [one for result in results for one in result.trajectories]
    assert len(trajectories) == 8
    for trajectory in trajectories:
        notes = player.notes[trajectory.battle, trajectory.side]
        positions = np.array([position for position, _, _ in notes])
        rewards = np.array(trajectory.reward_terms)
        assert trajectory.action == [action for _, action, _ in notes]
        assert np.array_equal(trajectory.legal, [legal for _, _, legal in notes])
        assert all(legal[action] for legal, action in zip(trajectory.legal, trajectory.action, strict=True))
        assert np.allclose(rewards[:-1, :3], np.diff(positions, axis=0))
        assert not rewards[:-1, 3].any() and rewards[-1, 3] == trajectory.outcome


def test_both_seats_of_a_battle_see_opposite_rewards():
    player = Watching(2)
    for result in recorded("gen1randombattle", [Match(seed, (player, player)) for seed in range(3)]):
        one, other = result.trajectories
        assert (one.side, other.side) == (0, 1)
        assert one.outcome == -other.outcome == (1 if result.winner == 0 else -1)
        # Health is exact for its owner and a percentage for the opponent: equal but for the rounding.
        end = [player.notes[one.battle, side][-1][0][2] for side in (0, 1)]
        assert end[0] == -end[1]


def test_refused_choice_is_replaced_by_the_executed_one():
    def flee(tracker):
        legal = tracker.legal_actions()
        return next((action for action in range(4, 9) if legal[action]), legal.index(True))

    fleeing, trapper = Watching(1, flee), Watching(2)
    match = Match(1, (fleeing, trapper), (FLEEING, TRAPPER))
    (result,) = recorded("gen9anythinggoes", [match], turn_limit=30)
    trajectory = result.trajectories[0]
    notes = fleeing.notes[trajectory.battle, 0]
    assert trajectory.action == [action for _, action, _ in notes]
    # While the first one stands it cannot leave: moves were executed, with masks that forbid switching.
    assert trajectory.action[0] == 0 or trajectory.action[1] == 0
    trapped = [legal for legal, action in zip(trajectory.legal, trajectory.action, strict=True) if action < 4]
    assert trapped and not any(legal[4:9].any() for legal in trapped)
    assert len(trajectory.words) == len(trajectory.action) == len(trajectory.reward_terms)


def test_after_two_refusals_the_default_is_played_and_recorded():
    """Where tracker and rules disagree; a third refusal would leave open what was executed."""

    class Jammed(Simulator):
        garbled = 0

        def choose(self, choices):
            for index, (battle, side, choice) in enumerate(choices):
                if side == 0 and self.garbled < 2:
                    choices[index], self.garbled = (battle, side, "move 99"), self.garbled + 1
                elif side == 0 and self.garbled == 2:
                    self.third, self.garbled = choice, 3
            super().choose(choices)

    last_legal = Watching(1, lambda tracker: max(np.flatnonzero(tracker.legal_actions())))
    with Jammed("gen1randombattle", seed=1, turn_limit=4) as simulator:
        matches = [Match(1, (last_legal, RandomLegalPlayer(2)))]
        (result,) = play(simulator, matches, Encoder("gen1randombattle"), record=True)
        assert simulator.third == "default"
        assert simulator.counters["refused"] == 2 and simulator.counters["defaulted"] == 0
    trajectory = result.trajectories[0]
    assert trajectory.action[0] == trajectory.legal[0].argmax()
    assert trajectory.action[1] == np.flatnonzero(trajectory.legal[1]).max()


def test_cut_off_battle_is_truncated_and_nobodys_win():
    player = Watching(3)
    (result,) = recorded("gen1randombattle", [Match(1, (player, player))], turn_limit=4)
    assert (result.winner, result.truncated, result.reason) == (None, True, "turn_limit")
    for trajectory in result.trajectories:
        assert trajectory.is_truncated and trajectory.outcome == 0 and trajectory.reward_terms[-1][3] == 0


def test_evaluation_pairs_swap_the_seats_and_play_held_out_teams():
    agent, opponent = RandomLegalPlayer(1, "agent"), RandomLegalPlayer(2, "opponent")
    shares = [
        EvaluationShare(lambda: agent, {}, "gen1ou", range(first, 6, 2), "heldout", 7, 64) for first in (0, 1)
    ]
    matches = [match for share in shares for match in arena._paired_matches(share, agent, opponent, 0)]
    held_out = {team.packed for team in load_teams("gen1ou", "heldout")}
    for one, other in zip(matches[::2], matches[1::2], strict=True):
        assert (one.seed, one.teams) == (other.seed, other.teams)
        assert one.players == (agent, opponent) and other.players == (opponent, agent)
        assert set(one.teams) <= held_out
    assert len({match.seed for match in matches}) == 6
    alone = EvaluationShare(lambda: agent, {}, "gen1ou", range(6), "heldout", 7, 64)
    assert {match.seed for match in arena._paired_matches(alone, agent, opponent, 0)} == {
        match.seed for match in matches
    }


def test_evaluation_counts_every_battle_once_and_repeats_itself():
    rows, again = (
        arena.evaluate(
            functools.partial(RandomLegalPlayer, 1, "agent"),
            {"one": RandomLegalPlayer, "other": functools.partial(make_player, "random", "gen1randombattle")},
            "gen1randombattle",
            battles=9,
            seed=3,
        )
        for _ in range(2)
    )
    assert rows == again
    assert list(rows) == ["one", "other"]
    for row in rows.values():
        assert row["battles"] == 10 and 0 < row["wins"] < 10 and row["cut_off"] == 0
        assert row["win_rate"] == row["wins"] / 10 and row["low"] < row["win_rate"] < row["high"]


def test_collection_uses_training_teams_and_can_be_stopped(tmp_path):
    progress = collection.collect(
        tmp_path / "battles", "gen1ou", (RandomLegalPlayer,), battles=6, seed=1, processes=2
    )
    battles = read_folder(tmp_path / "battles", verify=True)
    assert progress.battles == 6 and progress.decisions == battles.total_decisions
    training = {team.index for team in load_teams("gen1ou", "train")}
    assert set(battles.trajectories["team"].tolist()) <= training
    assert len(set(battles.trajectories["battle"].tolist())) == 6
    collection.collect(tmp_path / "battles", "gen1ou", (RandomLegalPlayer,), battles=6, seed=1, processes=2)
    more = read_folder(tmp_path / "battles")
    assert len(set(more.trajectories["seed"].tolist())) == 12  # the same seed, other battles
    assert all(meta["origin"]["simulator_seed"] >= 0 for meta in more.meta)
    late = collection.collect(
        tmp_path / "late", "gen1ou", (RandomLegalPlayer,), battles=1000, seed=1, max_seconds=0
    )
    assert late.battles == 0
