import asyncio
import json
import logging
import random
import subprocess
import time

import numpy as np
import pytest
from poke_env import AccountConfiguration, ServerConfiguration
from poke_env.concurrency import POKE_LOOP
from poke_env.player import RandomPlayer

from cleanpoke.envs.showdown import server as server_module
from cleanpoke.envs.showdown.client import Session
from cleanpoke.envs.showdown.encoder import NUM_ACTIONS, NUM_NUMBERS, NUM_WORDS, Encoder, generation_of
from cleanpoke.envs.showdown.node_runtime import NODE_FOLDER, node_binary
from cleanpoke.envs.showdown.server import LocalServer
from cleanpoke.envs.showdown.teams import load_teams
from cleanpoke.envs.showdown.tracker import BattleTracker
from cleanpoke.errors import CleanPokeError

# Plays an input log again in process and prints, per player, what it was told: [text, text, …].
REPLAY_SCRIPT = """
const BattleStreams = require("pokemon-showdown/dist/sim/battle-stream");
const streams = BattleStreams.getPlayerStreams(new BattleStreams.BattleStream());
const told = {p1: [], p2: []};
const readers = ["p1", "p2"].map(async side => {
    for await (const text of streams[side]) told[side].push(text);
});
for (const line of require("fs").readFileSync(0, "utf8").split("\\n")) streams.omniscient.write(line);
streams.omniscient.writeEnd();
Promise.all(readers).then(() => console.log(JSON.stringify(told)));
"""


class RecordingPlayer:
    """Uniform over the legal actions; keeps what it saw."""

    name = "recording"
    needs = frozenset({"tracker", "arrays"})

    def __init__(self, seed=0):
        self.generator = random.Random(seed)
        self.observations = []
        self.choices = []
        self.refused = []
        self.finished = []
        self.before_choice = lambda count: None

    def observe(self, key, message):
        raise AssertionError("this player does not ask for lines")

    def choose(self, decisions):
        actions = []
        for decision in decisions:
            if decision.message.request.get(
                "update"
            ):  # the last choice was refused: somebody turned out trapped
                self.refused[-1] = True
            self.observations.append((decision.words.copy(), decision.numbers.copy(), decision.legal.copy()))
            actions.append(self.generator.choice(np.flatnonzero(decision.legal).tolist()))
            self.choices.append(decision.tracker.choice(actions[-1]))
            self.refused.append(False)
        self.before_choice(len(self.observations))
        return actions

    def finish(self, key):
        self.finished.append(key)


@pytest.fixture(scope="module")
def server():
    config = server_module.CONFIG
    server_module.CONFIG += "exports.logchallenges = true;\n"  # so that battles leave their input logs
    try:
        with LocalServer() as running:
            yield running
    finally:
        server_module.CONFIG = config


def packed_team(battle_format, index):
    teams = load_teams(battle_format)
    return teams[index].packed if teams else None


class Opponent:
    """A poke-env player on the same server, in poke-env's own thread."""

    def __init__(self, name, battle_format, server):
        self.player = RandomPlayer(
            account_configuration=AccountConfiguration(name, None),
            battle_format=battle_format,
            server_configuration=server.configuration,
            team=packed_team(battle_format, 1),
            log_level=logging.CRITICAL + 1,
        )

    def challenge(self, name, battles=1):
        asyncio.run_coroutine_threadsafe(self.player._send_challenges(name, battles, None), POKE_LOOP)

    def send(self, text, room):
        asyncio.run_coroutine_threadsafe(self.player.ps_client.send_message(text, room), POKE_LOOP).result(10)

    def accept(self, battles=1):
        asyncio.run_coroutine_threadsafe(self.player._accept_challenges(None, battles, None), POKE_LOOP)


@pytest.fixture
def make_opponent(server):
    opponents = []

    def make(name, battle_format):
        opponents.append(Opponent(name, battle_format, server))
        return opponents[-1]

    yield make
    for opponent in opponents:
        asyncio.run_coroutine_threadsafe(opponent.player.ps_client._stop_listening(), POKE_LOOP).result(10)


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


def input_log(server, room):
    """The commands with which the server's simulator played the battle in `room`."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for path in (server._folder / "logs").rglob(f"{room.removeprefix('battle-')}.log.json"):
            if text := path.read_text():
                return "\n".join(json.loads(text)["inputLog"])
        time.sleep(0.05)
    raise AssertionError(f"no input log of {room}")


def with_refused_choices(log, side, player):
    """The input log with the choices of `side` that the server refused, which it leaves out."""
    lines, choices = [], zip(player.choices, player.refused, strict=True)
    for line in log.split("\n"):
        if line.startswith(f">p{side + 1} "):
            for choice, refused in choices:
                if not refused:
                    break
                lines.append(f">p{side + 1} {choice}")
        lines.append(line)
    return "\n".join(lines)


def replayed_observations(battle_format, log, name, player):
    """What simulator, tracker and encoder show `name` in process, in the battle of that input log."""
    side = 0 if f'>player p1 {{"name":"{name}"' in log else 1
    log = with_refused_choices(log, side, player)
    replay = subprocess.run(
        [node_binary(), "-e", REPLAY_SCRIPT],
        cwd=NODE_FOLDER,
        input=log,
        capture_output=True,
        text=True,
        timeout=60,
    )
    tracker, encoder = BattleTracker(generation_of(battle_format), side), Encoder(battle_format)
    observations, lines = [], []
    for text in json.loads(replay.stdout)[f"p{side + 1}"]:
        if text.startswith("|error|"):
            continue
        if not text.startswith("|request|"):
            lines += text.split("\n")
            continue
        request = json.loads(text.removeprefix("|request|"))
        if request is None:  # the battle is over
            break
        tracker.receive(lines, request)
        lines = []
        if not request.get("wait"):
            words, numbers = np.empty(NUM_WORDS, np.int16), np.empty(NUM_NUMBERS, np.float32)
            legal = np.empty(NUM_ACTIONS, bool)
            encoder.encode(tracker, words, numbers, legal)
            observations.append((words, numbers, legal))
    return observations


def assert_equal_observations(seen, expected):
    assert len(seen) == len(expected) > 0
    for step, (ours, theirs) in enumerate(zip(seen, expected, strict=True)):
        for what, one, other in zip(("words", "numbers", "legal"), ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{what} of decision {step}")


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
    expected = replayed_observations(battle_format, input_log(server, result.room), name, player)
    assert_equal_observations(player.observations, expected)


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
    expected = replayed_observations("gen1ou", input_log(server, result.room), name, player)
    assert_equal_observations(player.observations, expected)


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
    asyncio.run_coroutine_threadsafe(foe.player._ladder(1), POKE_LOOP)
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


def test_nobody_to_play_ends_with_a_message(server):
    with make_session(RecordingPlayer(), "lonely", "gen1ou", server) as session:
        session.wait_seconds = 0.5
        with pytest.raises(CleanPokeError, match="no opponent within"):
            list(session.play("accept", 1))
