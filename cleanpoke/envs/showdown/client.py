"""Plays on a Showdown server over websockets, with the tracker, encoder and players of in-process play.

poke-env keeps the connection and logs in; its messages are taken from a queue by the calling thread, which is
the only one that thinks. What the server says besides battles (challenges, refusals, ratings, who left) is
understood here; what happens in a battle is the tracker's business.
"""

import asyncio
import contextlib
import html
import itertools
import logging
import queue
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import orjson
from poke_env import AccountConfiguration, ServerConfiguration
from poke_env.ps_client import PSClient

from cleanpoke.envs.showdown.arena import Decision
from cleanpoke.envs.showdown.encoder import NUM_ACTIONS, NUM_NUMBERS, NUM_WORDS, Encoder, generation_of
from cleanpoke.envs.showdown.players import Key, Player
from cleanpoke.envs.showdown.simulator import Message
from cleanpoke.envs.showdown.tracker import BattleTracker, to_id
from cleanpoke.errors import CleanPokeError

LOGIN_SECONDS = 60.0
SEND_SECONDS = 10.0
POLL_SECONDS = 0.25
RETRY_SEEKING_SECONDS = 10.0  # the server cancels a second challenge within ten seconds
RATING_SECONDS = 5.0  # how long the ladder may take to announce ratings after a rated battle
FORFEIT_SECONDS = 5.0
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 1.0, 30.0

# Lines of a battle room that are not part of the battle. The room repeats them or leaves them out when it is
# joined again, so they also don't count when the two logs are laid side by side.
ROOM_CHATTER = frozenset(
    (
        *("", "c", "c:", "chat", "j", "J", "join", "l", "L", "leave", "n", "N", "name", "t:", ":"),
        *("init", "title", "deinit", "noinit", "inactive", "inactiveoff", "raw", "html", "uhtml"),
        *("uhtmlchange", "sentchoice", "expire", "tempnotify", "tempnotifyoff", "hidelines", "unlink"),
        *("bigerror", "error", "debug", "seed", "request", "-hint"),
    )
)
HARMLESS_ERRORS = ("Can't do anything", "too late", "nothing to choose", "nothing to cancel")
RATING = re.compile(r"\|raw\|(?P<name>.+)'s rating: \d+ &rarr; <strong>(?P<rating>\d+)</strong>")
# How a battle ended, when it was not played to its end.
UNUSUAL_ENDS = {
    "lost due to inactivity": "timeout",
    "lost by being offline too long": "timeout",
    "forfeited": "forfeit",
}

Matchmaking = Literal["accept", "challenge", "ladder"]


class ConnectionLost(Exception):
    """The websocket is closed, or a message could not be sent."""


@dataclass(frozen=True, slots=True)
class BattleResult:
    """A finished battle, from our seat.

    result "unknown": the server forgot the battle while we were away. reason: how it came to its end.
    Ratings are None outside the ladder. log: every line the room showed, chat included.
    """

    room: str
    opponent: str
    opponent_rating: int | None
    own_rating: int | None
    result: Literal["win", "loss", "tie", "unknown"]
    reason: Literal["played", "forfeit", "timeout"]
    turns: int
    log: list[str]


class Connection(PSClient):
    """poke-env's client; every message ends up in `inbox`, and None when the connection closes."""

    def __init__(self, account: AccountConfiguration, server: ServerConfiguration):
        # What poke-env logs (each message, tracebacks of a dropped connection) is told by us, in one line.
        super().__init__(
            account,
            server_configuration=server,
            log_level=logging.CRITICAL + 1,
            open_timeout=LOGIN_SECONDS,
            start_listening=False,
        )
        self.inbox: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._listening = asyncio.run_coroutine_threadsafe(self.listen(), self.loop)
        self._listening.add_done_callback(lambda _: self.inbox.put(None))

    async def _handle_message(self, message: str) -> None:
        self.inbox.put(message)
        if message.startswith(("|challstr|", "|updateuser|")):
            try:
                await super()._handle_message(message)
            except Exception as error:  # poke-env's task would swallow it
                self.inbox.put(error)

    async def change_avatar(self, avatar_name: str | None) -> None:
        """Keeps the account's avatar. poke-env's own gives up after five seconds on a slow server."""

    def receive(self, timeout_seconds: float) -> str | None:
        """The next message, or None if none came in time. Raises ConnectionLost."""
        try:
            message = self.inbox.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if message is None:
            raise ConnectionLost("the server closed the connection, or there is none")
        if isinstance(message, Exception):
            raise ConnectionLost(f"{type(message).__name__}: {message}")
        return message

    def send(self, text: str, room: str = "") -> None:
        """Sends a command or choice to a room. Raises ConnectionLost."""
        try:
            sending = asyncio.run_coroutine_threadsafe(self.send_message(text, room), self.loop)
            sending.result(timeout=SEND_SECONDS)
        except Exception as error:  # websockets raises several kinds; each means that nobody is listening
            raise ConnectionLost(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Ends the connection; never raises."""
        self._listening.cancel()
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._stop_listening(), self.loop).result(timeout=SEND_SECONDS)


@dataclass(slots=True)
class _Battle:
    """One battle room that we have a seat in."""

    room: str
    key: Key
    tracker: BattleTracker
    log: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    """Battle lines that the tracker gets with the next request, or at the end."""
    first_request: dict | None = None
    error: str | None = None
    """Why the last choice was refused; the next request is the same one, corrected."""
    answers: dict[int, str] = field(default_factory=dict)
    """Choice sent, by request id: a request that comes again after a dropped line gets the same answer."""
    ratings: dict[str, int] = field(default_factory=dict)
    """Player id -> rating before the battle, on the ladder."""
    new_ratings: dict[str, int] = field(default_factory=dict)
    reason: Literal["played", "forfeit", "timeout"] = "played"
    rated: bool = False
    over_since: float | None = None
    last_heard: float = field(default_factory=time.monotonic)


class Session:
    """One account that plays battles one after the other: `with Session(...) as session: session.play(...)`.

    player: takes the decisions (see players.py). teams: packed, played in turn; none for random battles.
    timer: ask for the battle timer, so that nobody can stall. wait_seconds: how long to wait for an opponent,
    and to bear a battle without news. retry_seconds: how long a dropped connection is retried. say: prints a
    line for the user. Raises CleanPokeError when the server cannot be reached or refuses account or team.
    """

    def __init__(
        self,
        player: Player,
        battle_format: str,
        account: AccountConfiguration,
        server: ServerConfiguration,
        *,
        teams: Iterable[str] = (),
        timer: bool = True,
        wait_seconds: float = 1800,
        retry_seconds: float = 600,
        say: Callable[[str], None] = print,
    ):
        self.player = player
        self.battle_format = battle_format
        self.account = account
        self.server = server
        self.teams = itertools.cycle(teams)
        self.timer = timer
        self.wait_seconds = wait_seconds
        self.retry_seconds = retry_seconds
        self.say = say
        self.reconnections = 0
        self._generation = generation_of(battle_format)
        self._encoder = Encoder(battle_format)
        self._battles: dict[str, _Battle] = {}
        self._battles_begun = 0
        self._finished_rooms: set[str] = set()
        self._seeking = False
        self._seek_again_at = 0.0
        self._matchmaking: Matchmaking = "accept"
        self._opponent = ""
        self._challengers: list[str] = []
        self._connection: Connection | None = None

    def __enter__(self) -> "Session":
        try:
            self._log_in()
        except ConnectionLost as error:
            raise CleanPokeError(str(error)) from error
        return self

    def __exit__(self, *exception: object) -> None:
        if self._connection is not None:
            self._connection.close()

    # ---------------------------------------------------------------- connection

    def _log_in(self) -> None:
        """Connects and waits until the server knows us by our name. Raises ConnectionLost, which says why."""
        name, address = self.account.username, self.server.websocket_url
        why = f"no server answers at {address}: start one, or check --server-url"
        connection = Connection(self.account, self.server)
        deadline = time.monotonic() + LOGIN_SECONDS
        try:
            while time.monotonic() < deadline:
                message = connection.receive(POLL_SECONDS)
                if message is None:
                    continue
                why = f"{address} did not log {name!r} in: check --username and the password"
                if message.startswith("|nametaken|"):
                    why = f"{address} refuses the name {name!r}: {message.split('|')[-1]}"
                    break
                if message.startswith("|updateuser|"):
                    _, _, user, named, *_ = message.split("|")
                    if named == "1" and to_id(user.partition("@")[0]) == to_id(name):
                        self._connection = connection
                        return
        except ConnectionLost as error:
            connection.close()
            raise ConnectionLost(why) from error
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise ConnectionLost(why)

    def _reconnect(self, reason: ConnectionLost, should_stop: Callable[[], bool]) -> None:
        """Logs in again with growing pauses, and takes the seats of running battles."""
        self.say(f"connection lost ({reason}): trying again for up to {self.retry_seconds:.0f} s")
        self._connection.close()
        deadline = time.monotonic() + self.retry_seconds
        pause = FIRST_BACKOFF_SECONDS
        while not should_stop():
            try:
                self._log_in()
                for room in self._battles:
                    self._connection.send(f"/join {room}")
            except ConnectionLost as error:
                if time.monotonic() + pause > deadline:
                    raise CleanPokeError(f"gave up after {self.retry_seconds:.0f} s: {error}") from error
                again_at = time.monotonic() + pause
                while time.monotonic() < again_at and not should_stop():
                    time.sleep(POLL_SECONDS)
                pause = min(2 * pause, LONGEST_BACKOFF_SECONDS)
            else:
                self.reconnections += 1
                self._seeking = False
                self.say("connected again")
                return

    # ---------------------------------------------------------------- the loop

    def play(
        self,
        matchmaking: Matchmaking,
        battles: int,
        *,
        opponent: str = "",
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[BattleResult]:
        """Plays until `battles` are finished; yields each result.

        matchmaking: "accept" waits for challenges (from `opponent`, or anybody), "challenge" challenges
        `opponent`, "ladder" searches. When `should_stop` turns true, running battles are forfeited.
        """
        self._matchmaking, self._opponent = matchmaking, opponent
        finished = 0
        self._seeking = False
        while finished < battles:
            try:
                if should_stop():
                    yield from self._leave()
                    return
                if not self._battles:
                    self._seek()
                message = self._connection.receive(POLL_SECONDS)
                if message is not None:
                    self._take(message)
                self._check_patience()
                for result in self._collect():
                    finished += 1
                    yield result
            except ConnectionLost as error:
                self._reconnect(error, should_stop)

    def _seek(self) -> None:
        """Asks the server for an opponent, unless that has been done."""
        now = time.monotonic()
        if not self._seeking:
            self._seeking = True
            self._seeking_deadline = now + self.wait_seconds
            self._seek_again_at = now
        if now > self._seeking_deadline:
            raise CleanPokeError(
                f"no opponent within {self.wait_seconds:.0f} s: try again, or wait longer (--wait-minutes)"
            )
        if now < self._seek_again_at:
            return
        self._seek_again_at = float("inf")
        if self._matchmaking == "challenge":
            self._send_team()
            self._connection.send(f"/challenge {self._opponent}, {self.battle_format}")
        elif self._matchmaking == "ladder":
            self._send_team()
            self._connection.send(f"/search {self.battle_format}")
        elif self._challengers:
            self._seek_again_at = now + RETRY_SEEKING_SECONDS
            self._send_team()
            self._connection.send(f"/accept {self._challengers.pop(0)}")
        else:
            self._seek_again_at = now

    def _send_team(self) -> None:
        self._connection.send(f"/utm {next(self.teams, 'null')}")

    def _leave(self) -> Iterator[BattleResult]:
        """Gives up searching and running battles."""
        with contextlib.suppress(ConnectionLost):
            if self._seeking and self._matchmaking == "ladder":
                self._connection.send("/cancelsearch")
            elif self._seeking and self._matchmaking == "challenge":
                self._connection.send(f"/cancelchallenge {self._opponent}")
            for room in self._battles:
                self._connection.send("/forfeit", room)
            deadline = time.monotonic() + FORFEIT_SECONDS
            while self._battles and time.monotonic() < deadline:
                message = self._connection.receive(POLL_SECONDS)
                if message is not None:
                    self._take(message)
                yield from self._collect()
        for battle in list(self._battles.values()):
            battle.reason = "forfeit"
            yield self._finish(battle)

    def _check_patience(self) -> None:
        now = time.monotonic()
        for battle in self._battles.values():
            if battle.over_since is None and now - battle.last_heard > self.wait_seconds:
                self.say(f"{battle.room}: nothing for {self.wait_seconds:.0f} s, forfeiting")
                battle.last_heard = now
                self._connection.send("/forfeit", battle.room)

    def _collect(self) -> Iterator[BattleResult]:
        """Results of the battles that are over and need not wait for ratings."""
        now = time.monotonic()
        for battle in list(self._battles.values()):
            if battle.over_since is None:
                continue
            rated = battle.rated and not battle.new_ratings
            if not rated or now - battle.over_since > RATING_SECONDS:
                with contextlib.suppress(ConnectionLost):
                    self._connection.send(f"/leave {battle.room}")
                yield self._finish(battle)

    def _finish(self, battle: _Battle) -> BattleResult:
        del self._battles[battle.room]
        self._finished_rooms.add(battle.room)
        self._seeking = False
        self.player.finish(battle.key)
        tracker = battle.tracker
        side = tracker.side if tracker.side is not None else 0
        opponent = tracker.player_names[1 - side]
        if not tracker.finished:
            result = "unknown"
        elif tracker.winner is None:
            result = "tie"
        else:
            result = "win" if tracker.winner == side else "loss"
        return BattleResult(
            room=battle.room,
            opponent=opponent,
            opponent_rating=battle.ratings.get(to_id(opponent)),
            own_rating=battle.new_ratings.get(to_id(self.account.username)),
            result=result,
            reason=battle.reason,
            turns=tracker.turn,
            log=battle.log,
        )

    # ---------------------------------------------------------------- messages

    def _take(self, message: str) -> None:
        if message.startswith(">"):
            room, _, text = message[1:].partition("\n")
            if room.startswith("battle-"):
                self._take_battle_lines(room, text.split("\n"))
            return
        for line in message.split("\n"):
            if line.startswith("|pm|"):
                self._take_private_message(line)
            elif line.startswith("|popup|"):
                self._take_refusal(line.removeprefix("|popup|").replace("||", " "))

    def _take_private_message(self, line: str) -> None:
        _, _, sender, _, text, *_ = line.split("|")
        sender = to_id(sender)
        if text.startswith("/challenge") and sender != to_id(self.account.username):
            wanted = text.removeprefix("/challenge").strip()
            if sender in self._challengers:
                self._challengers.remove(sender)  # withdrawn, or about to be replaced
            if not wanted or self._matchmaking != "accept":
                return
            if wanted != self.battle_format:
                self.say(f"{sender} wants to play {wanted}: rejected, we play {self.battle_format}")
                self._connection.send(f"/reject {sender}")
            elif not self._opponent or sender == to_id(self._opponent):
                self._challengers.append(sender)
        elif "rejected" in text and self._seeking and self._matchmaking == "challenge":
            self._take_refusal(f"{self._opponent} rejected the challenge")

    def _take_refusal(self, text: str) -> None:
        self.say(f"the server says: {' '.join(text.split())}")
        if not self._seeking:
            return  # a notice about something else
        if re.search(r"your team was rejected|\bformat\b", text, re.IGNORECASE):
            raise CleanPokeError(f"the server refuses to start a battle: {text}")
        self._seek_again_at = time.monotonic() + RETRY_SEEKING_SECONDS

    def _take_battle_lines(self, room: str, lines: list[str]) -> None:
        if room in self._finished_rooms:
            return
        if room not in self._battles:
            if not lines[0].startswith("|init|"):
                return
            tracker = BattleTracker(self._generation)
            self._battles_begun += 1
            self._battles[room] = _Battle(room, (self._battles_begun, 0), tracker)
            self._seeking = False
            if self.timer:
                self._connection.send("/timer on", room)
        battle = self._battles[room]
        battle.last_heard = time.monotonic()
        if lines[0].startswith("|init|") and battle.log:
            lines = self._lines_missed(battle, lines)
        for line in lines:
            self._take_battle_line(battle, line)

    def _lines_missed(self, battle: _Battle, lines: list[str]) -> list[str]:
        """What a room that is joined again tells beyond what we had heard before the connection dropped."""
        told, heard = battle_lines(lines), battle_lines(battle.log)
        if told[: len(heard)] == heard:
            missed = told[len(heard) :]
        else:  # nothing to build on: start over from the beginning of the battle
            battle.tracker = BattleTracker(self._generation)
            battle.tracker.receive([], battle.first_request)
            battle.log.clear()
            battle.pending.clear()
            missed = lines
        return missed + [line for line in lines if line.startswith("|request|") or RATING.match(line)]

    def _take_battle_line(self, battle: _Battle, line: str) -> None:
        kind = kind_of(line)
        if kind == "request":
            content = line.removeprefix("|request|")
            if content and content != "null":
                self._answer(battle, orjson.loads(content))
            return
        battle.log.append(line)
        if kind == "error":
            self._take_error(battle, line.removeprefix("|error|"))
        elif kind == "noinit":
            battle.over_since = time.monotonic()
        elif kind == "rated":
            battle.rated = True
        elif kind == "player":
            _, _, _, name, *rest = [*line.split("|"), ""]
            if not name:
                return  # somebody left the room; the tracker keeps the name
            if len(rest) > 1 and rest[1].isdigit():
                battle.ratings[to_id(name)] = int(rest[1])
        elif kind == "-message":
            for text, reason in UNUSUAL_ENDS.items():
                if text in line:
                    battle.reason = reason
        elif match := RATING.match(line):
            battle.new_ratings[to_id(html.unescape(match["name"]))] = int(match["rating"])
        if kind not in ROOM_CHATTER:
            battle.pending.append(line)
        if kind in ("win", "tie"):
            self._feed(battle, None)
            battle.over_since = time.monotonic()

    def _take_error(self, battle: _Battle, error: str) -> None:
        if error.startswith("[Unavailable choice]"):
            battle.error = error
        if not error.startswith("[Invalid choice]") or any(text in error for text in HARMLESS_ERRORS):
            return
        self.say(f"{battle.room}: the server refused a choice ({error}); sending the default one")
        self._connection.send("/choose default", battle.room)

    # ---------------------------------------------------------------- decisions

    def _feed(self, battle: _Battle, request: dict | None) -> Message:
        needs_choice = request is not None and not request.get("wait", False)
        battle.tracker.receive(battle.pending, request)
        side = battle.tracker.side or 0
        message = Message(battle.key[0], side, battle.pending, request, needs_choice, battle.error)
        battle.pending, battle.error = [], None
        if "lines" in self.player.needs:
            self.player.observe(battle.key, message)
        return message

    def _answer(self, battle: _Battle, request: dict) -> None:
        if battle.first_request is None:
            battle.first_request = request
        request_id = request.get("rqid", 0)
        message = self._feed(battle, request)
        if not message.needs_choice:
            return
        if request_id not in battle.answers:
            words = np.empty(NUM_WORDS, np.int16)
            numbers = np.empty(NUM_NUMBERS, np.float32)
            legal = np.empty(NUM_ACTIONS, bool)
            self._encoder.encode(battle.tracker, words, numbers, legal)
            decision = Decision(battle.key, message, battle.tracker, words, numbers, legal)
            (answer,) = self.player.choose([decision])
            choice = answer if isinstance(answer, str) else battle.tracker.choice(answer)
            battle.answers[request_id] = choice
        self._connection.send(f"/choose {battle.answers[request_id]}|{request_id}", battle.room)


def kind_of(line: str) -> str:
    """The kind of a line of a room: "switch" of "|switch|…", "" of plain text."""
    return line.split("|", 2)[1] if line.startswith("|") else ""


def battle_lines(lines: list[str]) -> list[str]:
    """The lines that belong to the battle itself, the same however often the room is joined."""
    return [line for line in lines if kind_of(line) not in ROOM_CHATTER and kind_of(line) != "player"]
