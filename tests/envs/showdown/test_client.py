import asyncio
import random

import numpy as np
import pytest
from poke_env import AccountConfiguration, ServerConfiguration
from poke_env.concurrency import POKE_LOOP

from cleanpoke.envs.showdown.client import Session
from cleanpoke.errors import CleanPokeError
from tests.envs.showdown.websocket_battles import (
    Opponent,
    input_log,
    logging_server,
    packed_team,
    replayed_decisions,
)


class RecordingPlayer:
    """Uniform over the legal actions; keeps what it saw."""

    name = "recording"
    needs = frozenset({"tracker", "arrays"})

    def __init__(self, seed=0):
        self.generator = random.Random(seed)
        self.observations = []
        self.choices = []  # (choice, whether it was refused)
        self.finished = []
        self.before_choice = lambda count: None

    def observe(self, key, message):
        raise AssertionError("this player does not ask for lines")

    def choose(self, decisions):
        actions = []
        for decision in decisions:
            if decision.message.error:
                self.choices[-1] = (self.choices[-1][0], True)
            self.observations.append((decision.words.copy(), decision.numbers.copy(), decision.legal.copy()))
            actions.append(self.generator.choice(np.flatnonzero(decision.legal).tolist()))
            self.choices.append((decision.tracker.choice(actions[-1]), False))
        self.before_choice(len(self.observations))
        return actions

    def finish(self, key):
        self.finished.append(key)


@pytest.fixture(scope="module")
def server():
    with logging_server() as running:
        yield running


@pytest.fixture
def make_opponent(server):
    opponents = []

    def make(name, battle_format):
        opponents.append(Opponent(name, battle_format, server))
        return opponents[-1]

    yield make
    for opponent in opponents:
        opponent.close()


def make_session(player, name, battle_format, server, **options):
    team = packed_team(battle_format, 0)
    return Session(
        player,
        battle_format,
        AccountConfiguration(name, None),
        server.configuration,
        teams=[team] if team else [],
        wait_seconds=30,
        **options,
    )


def assert_equal_observations(seen, decisions):
    step = -1
    for step, (ours, decision) in enumerate(zip(seen, decisions, strict=True)):
        theirs = (decision.words, decision.numbers, decision.legal)
        for what, one, other in zip(("words", "numbers", "legal"), ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{what} of decision {step}")
    assert step > 0


@pytest.mark.parametrize("battle_format", ["gen1ou", "gen1randombattle", "gen9ou", "gen9randombattle"])
def test_observations_equal_those_in_process(server, make_opponent, battle_format):
    name, player = f"u{battle_format}", RecordingPlayer(seed=3)
    with make_session(player, name, battle_format, server) as session:
        make_opponent(f"v{battle_format}", battle_format).challenge(name)
        (result,) = session.play("accept", 1)
    assert result.result in ("win", "loss", "tie")
    assert result.reason == "played"
    assert result.opponent == f"v{battle_format}"
    assert len(player.finished) == 1
    decisions = replayed_decisions(battle_format, input_log(server, result.room), name, player.choices)
    assert_equal_observations(player.observations, decisions)


def test_dropped_connection_is_taken_up_again(server, make_opponent):
    name, player = "dropper", RecordingPlayer(seed=4)
    said = []
    with make_session(player, name, "gen1ou", server, say=said.append) as session:

        def drop_line(count):
            if count in (3, 7):
                websocket = session._connection.websocket
                asyncio.run_coroutine_threadsafe(websocket.close(), POKE_LOOP).result(timeout=10)

        player.before_choice = drop_line
        make_opponent("patientfoe", "gen1ou").challenge(name)
        (result,) = session.play("accept", 1)
    assert session.reconnections == 2, said
    assert result.result in ("win", "loss", "tie")
    decisions = replayed_decisions("gen1ou", input_log(server, result.room), name, player.choices)
    assert_equal_observations(player.observations, decisions)


def test_stopping_forfeits_and_reports_the_battle(server, make_opponent):
    name, player = "quitter", RecordingPlayer()
    with make_session(player, name, "gen1ou", server) as session:
        make_opponent("quietfoe", "gen1ou").challenge(name)
        results = list(session.play("accept", 3, should_stop=lambda: len(player.observations) >= 2))
    assert [(result.result, result.reason) for result in results] == [("loss", "forfeit")]


def test_several_battles_by_challenging(server, make_opponent):
    name, player = "challenger", RecordingPlayer()
    make_opponent("challengedfoe", "gen1randombattle").accept()
    with make_session(player, name, "gen1randombattle", server) as session:
        results = list(session.play("challenge", 1, opponent="challengedfoe"))
    assert [result.opponent for result in results] == ["challengedfoe"]
    assert any(line.startswith("|win|") or line == "|tie" for line in results[0].log)


def test_ladder_battles_report_ratings_and_battles_lost_while_away_are_found(server, make_opponent):
    name, player = "climber", RecordingPlayer()
    foe = make_opponent("climbingfoe", "gen1randombattle")
    foe.ladder()
    with make_session(player, name, "gen1randombattle", server) as session:

        def lose_while_away(count):
            if count == 3:
                (room,) = session._battles
                asyncio.run_coroutine_threadsafe(session._connection.websocket.close(), POKE_LOOP).result(10)
                foe.send("/forfeit", room)

        player.before_choice = lose_while_away
        (result,) = session.play("ladder", 1)
    assert (result.result, result.reason) == ("win", "forfeit")
    assert result.opponent == "climbingfoe"
    assert result.opponent_rating == 1000
    assert result.own_rating > 1000


def test_loss_by_inactivity_is_a_timeout(server):
    session = make_session(RecordingPlayer(), "sleeper", "gen1ou", server, timer=False)
    lines = ["|init|battle", "|player|p1|sleeper|1|1042", "|player|p2|Foe|2|1100", "|turn|3"]
    session._take_battle_lines(
        "battle-gen1ou-1", [*lines, "|-message|sleeper lost due to inactivity.", "|win|Foe"]
    )
    (battle,) = session._battles.values()
    result = session._finish(battle)
    assert (result.result, result.reason, result.turns) == ("loss", "timeout", 3)
    assert (result.opponent, result.opponent_rating) == ("Foe", 1100)


def test_refused_team_and_absent_server_are_told_in_one_line(server):
    with make_session(RecordingPlayer(), "cheater", "gen1ou", server) as session:
        session.teams = iter(["Mewtwo||||psychic|||||||"])
        with pytest.raises(CleanPokeError, match="refuses to start a battle.*Mewtwo"):
            list(session.play("ladder", 1))
    nowhere = ServerConfiguration("ws://127.0.0.1:9/showdown/websocket", "")
    with (
        pytest.raises(CleanPokeError, match="no server answers at ws://127.0.0.1:9"),
        Session(RecordingPlayer(), "gen1ou", AccountConfiguration("lost", None), nowhere),
    ):
        pass


def test_notices_do_not_end_a_session_and_refusals_do(server):
    with make_session(RecordingPlayer(), "listener", "gen1ou", server) as session:
        session._take("|popup|Some information about the tournament formats.")  # not looking for a battle
        session._seeking = True
        session._take("|popup|Some information for you.")
        with pytest.raises(CleanPokeError, match="refuses to start a battle"):
            session._take("|popup|The format gen1xyz was not found.")


def test_nobody_to_play_ends_with_a_message(server):
    with make_session(RecordingPlayer(), "lonely", "gen1ou", server) as session:
        session.wait_seconds = 0.5
        with pytest.raises(CleanPokeError, match="no opponent within"):
            list(session.play("accept", 1))
