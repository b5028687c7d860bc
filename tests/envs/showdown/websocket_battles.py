"""What the websocket tests share: a server that keeps input logs, a poke-env opponent, replays in process."""

import asyncio
import contextlib
import json
import logging
import subprocess
import time

import numpy as np
from poke_env import AccountConfiguration
from poke_env.concurrency import POKE_LOOP
from poke_env.player import RandomPlayer

from cleanpoke.envs.showdown import server as server_module
from cleanpoke.envs.showdown.arena import Decision
from cleanpoke.envs.showdown.encoder import NUM_ACTIONS, NUM_NUMBERS, NUM_WORDS, Encoder, generation_of
from cleanpoke.envs.showdown.node_runtime import NODE_FOLDER, node_binary
from cleanpoke.envs.showdown.server import LocalServer
from cleanpoke.envs.showdown.simulator import Message
from cleanpoke.envs.showdown.teams import load_teams
from cleanpoke.envs.showdown.tracker import BattleTracker

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


@contextlib.contextmanager
def logging_server():
    """A local server whose battles leave their input logs."""
    config = server_module.CONFIG
    server_module.CONFIG += "exports.logchallenges = true;\n"
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
        logged_in = self.player.ps_client.logged_in.wait()
        asyncio.run_coroutine_threadsafe(logged_in, POKE_LOOP).result(timeout=60)

    def close(self):
        asyncio.run_coroutine_threadsafe(self.player.ps_client._stop_listening(), POKE_LOOP).result(10)

    def ladder(self):
        asyncio.run_coroutine_threadsafe(self.player._ladder(1), POKE_LOOP)

    def challenge(self, name, battles=1):
        asyncio.run_coroutine_threadsafe(self.player._send_challenges(name, battles, None), POKE_LOOP)

    def send(self, text, room):
        asyncio.run_coroutine_threadsafe(self.player.ps_client.send_message(text, room), POKE_LOOP).result(10)

    def accept(self, battles=1):
        asyncio.run_coroutine_threadsafe(self.player._accept_challenges(None, battles, None), POKE_LOOP)


def input_log(server, room):
    """The commands with which the server's simulator played the battle in `room`."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for path in (server._folder / "logs").rglob(f"{room.removeprefix('battle-')}.log.json"):
            if text := path.read_text():
                return "\n".join(json.loads(text)["inputLog"])
        time.sleep(0.05)
    raise AssertionError(f"no input log of {room}")


def with_refused_choices(log, side, choices):
    """The input log with the choices of `side` that the server refused, which it leaves out."""
    lines, choices = [], iter(choices)
    for line in log.split("\n"):
        if line.startswith(f">p{side + 1} "):
            for choice, refused in choices:
                if not refused:
                    break
                lines.append(f">p{side + 1} {choice}")
        lines.append(line)
    return "\n".join(lines)


def replayed_decisions(battle_format, log, name, choices=()):
    """Yields the decisions of `name` in process, in the battle of that input log, as the arena makes them.

    choices: what `name` chose, as (choice, refused) pairs; only needed when some were refused.
    """
    side = 0 if f'>player p1 {{"name":"{name}"' in log else 1
    log = with_refused_choices(log, side, choices)
    replay = subprocess.run(
        [node_binary(), "-e", REPLAY_SCRIPT],
        cwd=NODE_FOLDER,
        input=log,
        capture_output=True,
        text=True,
        timeout=60,
    )
    tracker, encoder = BattleTracker(generation_of(battle_format), side), Encoder(battle_format)
    lines, error = [], None
    for text in json.loads(replay.stdout)[f"p{side + 1}"]:
        if text.startswith("|error|"):
            error = text.removeprefix("|error|")
        elif text.startswith("|request|"):
            request = json.loads(text.removeprefix("|request|"))
            if request is None:  # the battle is over
                return
            tracker.receive(lines, request)
            if not request.get("wait"):
                words, numbers = np.empty(NUM_WORDS, np.int16), np.empty(NUM_NUMBERS, np.float32)
                legal = np.empty(NUM_ACTIONS, bool)
                encoder.encode(tracker, words, numbers, legal)
                message = Message(0, side, lines, request, True, error)
                yield Decision((0, side), message, tracker, words, numbers, legal)
            lines, error = [], None
        else:
            lines += text.split("\n")
