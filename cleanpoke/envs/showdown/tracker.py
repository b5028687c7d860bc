"""What one player knows of a battle, from their protocol lines and request JSON and nothing else.

The only module that knows Showdown's text protocol. It keeps the protocol's own words: side conditions,
volatiles, requests, ids. The same tracker serves the in-process simulator, a websocket and replays.
How exact it is, category by category, is measured by `benchmark/tracker_exactness.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cleanpoke.envs.showdown.dex import Dex, load_dex

NUM_ACTIONS = 13
NUM_MOVES = 4
NUM_BENCH = 5

STAT_NAMES = ("atk", "def", "spa", "spd", "spe", "accuracy", "evasion")

TRAPPING_MOVES = frozenset(
    (
        *("bind", "clamp", "firespin", "gmaxcentiferno", "gmaxsandblast", "infestation"),
        *("magmastorm", "sandtomb", "snaptrap", "thundercage", "whirlpool", "wrap"),
    )
)
# Volatiles that a move leaves on its user, named like it, without a line.
SILENT_VOLATILES = frozenset(("defensecurl", "minimize"))
DELAYED_HEALS = frozenset(("healingwish", "lunardance", "wish"))
LOCKING_MOVES = frozenset(("outrage", "petaldance", "ragingfury", "thrash"))
# Protecting moves are announced as plain "Protect"; the move just used says which one it was.
PROTECTING_MOVES = frozenset(
    (
        *("banefulbunker", "burningbulwark", "kingsshield", "maxguard", "obstruct", "silktrap"),
        *("spikyshield",),
    )
)
SIDE_PROTECTIONS = frozenset(("craftyshield", "matblock", "quickguard", "wideguard"))
SWAPPED_BY_COURT_CHANGE = frozenset(
    (
        *("auroraveil", "firepledge", "gmaxcannonade", "gmaxsteelsurge", "gmaxvinelash"),
        *("gmaxvolcalith", "gmaxwildfire", "grasspledge", "lightscreen", "luckychant", "mist"),
        *("reflect", "safeguard", "spikes", "stealthrock", "stickyweb", "tailwind"),
        *("toxicspikes", "waterpledge"),
    )
)
MAX_LAYERS = {"spikes": 3, "toxicspikes": 2}
# `-start` effects that count up or down; the newest replaces the others of its kind.
COUNTED_VOLATILE = re.compile(
    r"(perish|stockpile|fallen)\d$|(protosynthesis|quarkdrive)(atk|def|spa|spd|spe)$"
)
COUNTED_KINDS = {"perishsong": "perish", "stockpile": "stockpile", "protosynthesis": "protosynthesis"}
COUNTED_KINDS |= {"quarkdrive": "quarkdrive", "supremeoverlord": "fallen"}
# What Baton Pass leaves behind although it is a volatile, because it hangs on the body, not the position.
NOT_PASSED = frozenset(
    (
        *("attract", "bide", "choicelock", "destinybond", "disable", "dynamax", "encore"),
        *("flashfire", "foresight", "glaiverush", "grudge", "imprison", "lockedmove", "minimize"),
        *("miracleeye", "mustrecharge", "nightmare", "partiallytrapped", "rage", "roost"),
        *("slowstart", "smackdown", "stockpile1", "stockpile2", "stockpile3", "tarshot", "taunt"),
        *("torment", "trapped", "truant", "twoturnmove", "unburden", "uproar", "yawn"),
    )
)

_ids: dict[str, str] = {}
_conditions: dict[str, tuple[int, int, str]] = {}
_details: dict[str, tuple[str, int, str]] = {}
MAX_CACHE = 100_000


def to_id(name: str) -> str:
    """Showdown's id of a name: lower case, letters and digits only ("Farfetch'd" is "farfetchd")."""
    found = _ids.get(name)
    if found is None:
        if len(_ids) > MAX_CACHE:
            _ids.clear()
        found = _ids[name] = "".join(c for c in name.lower() if c.isascii() and c.isalnum())
    return found


def effect_id(effect: str) -> str:
    """The id of an effect such as "move: Leech Seed" or "Substitute", its kind left off."""
    return to_id(effect[effect.find(": ") + 2 :] if ": " in effect else effect)


def parse_condition(text: str) -> tuple[int, int, str]:
    """(hp, max_hp, status) of "123/300 slp", "54/100y par" or "0 fnt"; max_hp is 0 when not given."""
    found = _conditions.get(text)
    if found is None:
        if len(_conditions) > MAX_CACHE:
            _conditions.clear()
        health, _, status = text.partition(" ")
        hp, _, max_hp = health.partition("/")
        # Old formats append the colour of the health bar: "31/48g".
        found = int(float(hp)), int(max_hp.rstrip("gyr")) if max_hp else 0, status
        _conditions[text] = found
    return found


def parse_details(text: str) -> tuple[str, int, str]:
    """(species id, level, gender "M", "F" or "N") of details such as "Sawsbuck, L50, F, shiny"."""
    found = _details.get(text)
    if found is None:
        if len(_details) > MAX_CACHE:
            _details.clear()
        name, *rest = text.split(", ")
        level = next((int(word[1:]) for word in rest if word[0] == "L" and word[1:].isdigit()), 100)
        gender = next((word for word in rest if word in ("M", "F")), "N")
        found = _details[text] = to_id(name), level, gender
    return found


def request_move_id(move: str) -> str:
    """A move id without the numbers that requests add: "return102", "hiddenpowerice60"."""
    if move[-1:].isdigit() and move.startswith(("return", "frustration", "hiddenpower")):
        return move.rstrip("0123456789")
    return move


@dataclass(slots=True, eq=False)
class MoveSlot:
    """One move of a Pokémon; for an opponent's, `pp` is what is left if no PP Up is missing."""

    id: str
    pp: int
    max_pp: int
    disabled: bool = False


@dataclass(slots=True)
class Condition:
    """A condition of a side: layers 1..3 and the turn in which it began."""

    layers: int
    start_turn: int


@dataclass(slots=True, eq=False)
class Pokemon:
    """One Pokémon as its observer knows it; "" means "known to be none", None "not known"."""

    name: str
    species: str
    base_species: str
    level: int = 100
    gender: str = "N"
    hp: int = 100
    max_hp: int = 100
    """Own: exact. Opponent: percent (100), or pixels (48) in formats without HP Percentage Mod."""
    status: str = ""
    """"", "brn", "frz", "par", "psn", "slp", "tox" or "fnt"."""
    status_turns: int = 0
    """Turns slept so far, or the stage that bad poison has reached."""
    fainted: bool = False
    revealed: bool = False
    """Has been on the field; False for those known from team preview or one's own request only."""
    boosts: dict[str, int] = field(default_factory=dict)
    """Only the stats that are boosted or lowered, -6..6."""
    volatiles: dict[str, int] = field(default_factory=dict)
    """Volatile id to the turn in which it began; counters carry their count, as "perish2"."""
    types: tuple[str, ...] = ()
    ability: str | None = None
    base_ability: str | None = None
    item: str | None = None
    moves: list[MoveSlot] = field(default_factory=list)
    """Own: all, in team order. Opponent: those seen, in order of sight. Transformed: the copied ones."""
    base_moves: list[MoveSlot] = field(default_factory=list)
    moves_known: bool = False
    """Whether `base_moves` is complete: one's own are, an opponent's never for certain."""
    transformed: bool = False
    tera_type: str | None = None
    terastallized: bool = False
    stats: dict[str, int] | None = None
    """atk, def, spa, spd, spe before boosts; own Pokémon only."""
    active_turns: int = 0
    last_move: str | None = None
    index: int = 0
    """Place in the team: own by the first request, opponent by team preview or order of reveal."""

    @property
    def hp_fraction(self) -> float:
        return self.hp / self.max_hp if self.max_hp else 0.0


@dataclass(slots=True, eq=False)
class Side:
    """One player's half: `active` is None before the first switch-in; a fainted one stays until replaced."""

    team: list[Pokemon] = field(default_factory=list)
    active: Pokemon | None = None
    conditions: dict[str, Condition] = field(default_factory=dict)
    team_size: int = 6
    gimmick_used: bool = False
    last_move: str | None = None


@dataclass(slots=True)
class _Disguise:
    """What was believed of a Pokémon before it (or an Illusion of it) came in; undone when Illusion ends."""

    pokemon: Pokemon
    hp: int
    max_hp: int
    status: str
    status_turns: int
    revealed: bool
    ability: str | None
    item: str | None
    pp: list[tuple[str, int]]
    last_move: str | None
    tera_type: str | None
    terastallized: bool


class BattleTracker:
    """Follows one battle from one player's seat.

    `side` is 0 for p1, 1 for p2; None leaves it to the first request. Feed everything in order through
    `receive`; read the public attributes at any time. Lines of an unknown kind are counted in
    `unknown_lines`, never fatal.
    """

    def __init__(self, gen: int, side: int | None = None):
        self.gen = gen
        self.dex: Dex = load_dex(gen)
        self.side = side
        self.sides = (Side(), Side())
        self.own, self.opponent = (self.sides[1], self.sides[0]) if side == 1 else self.sides
        self.turn = 0
        self.finished = False
        self.winner: int | None = None
        self.player_names = ["", ""]
        self.weather: str | None = None
        self.weather_turn = 0
        self.fields: dict[str, int] = {}
        self.request: dict | None = None
        self.decision: str | None = None
        self.trapped = False
        self.maybe_trapped = False
        self.unknown_lines: Counter[str] = Counter()
        self._order: list[Pokemon] = []  # own team in the order of the current request
        self._known_by_request = False
        self._disguises: list[_Disguise | None] = [None, None]
        self._single_turn: list[tuple[dict, str]] = []
        self._wraps = [0, 0]  # consecutive turns of each side's trapping move, Gen 1
        self._unconfirmed: tuple[dict, str] | None = None
        self._selected = ["", ""]  # the move that each side chose last, not one that it called

    # ------------------------------------------------------------------ input

    def receive(self, lines: Iterable[str], request: dict | None) -> None:
        """Takes the protocol lines of one update, then the request that came with it (None: no new one)."""
        handlers = self._HANDLERS
        for line in lines:
            parts = line.split("|")
            if len(parts) < 2:
                continue
            handler = handlers.get(parts[1])
            if handler is not None:
                handler(self, parts)
            elif parts[1] not in handlers:
                self.unknown_lines[parts[1]] += 1
        self.decision = None
        self.request = request
        if request is not None:
            self._receive_request(request)

    # ------------------------------------------------------------------ decisions

    def bench(self) -> list[Pokemon]:
        """The Pokémon behind actions 4-8: own team without the active one, in team order."""
        active = self.own.active
        if active is None or self.decision == "preview":
            return self.own.team[1 : 1 + NUM_BENCH]
        return [pokemon for pokemon in self.own.team if pokemon is not active][:NUM_BENCH]

    def legal_actions(self) -> list[bool]:
        """The 13-action mask that the current request allows; all False when nothing is to be decided."""
        legal = [False] * NUM_ACTIONS
        if self.decision == "move":
            active = self.request["active"][0]
            slots = self._move_actions(active["moves"])
            for slot, move in zip(slots, active["moves"], strict=True):
                if not move.get("disabled"):
                    legal[slot] = True
            for slot in self._gimmick_slots(active, slots):
                legal[9 + slot] = True
            if not active.get("trapped"):
                self._allow_switches(legal, fainted=False)
        elif self.decision == "switch":
            self._allow_switches(legal, fainted=self._reviving())
        elif self.decision == "preview":
            legal[0] = True
            for index in range(len(self.bench())):
                legal[4 + index] = True
        return legal

    def choice(self, action: int) -> str:
        """Showdown's words for an action 0..12. Raises ValueError when it is not legal now."""
        if not 0 <= action < NUM_ACTIONS or not self.legal_actions()[action]:
            raise ValueError(f"action {action} is not legal now (decision: {self.decision})")
        if self.decision == "preview":
            lead = 0 if action == 0 else action - 3
            order = [lead, *(index for index in range(len(self.own.team)) if index != lead)]
            separator = "" if len(order) < 10 else ","
            return "team " + separator.join(str(index + 1) for index in order)
        if 4 <= action < 9:
            return f"switch {self._order.index(self.bench()[action - 4]) + 1}"
        active = self.request["active"][0]
        position = self._move_actions(active["moves"]).index(action % 9) + 1
        return f"move {position}" if action < 4 else f"move {position} {self._gimmick(active)}"

    def action_of(self, choice: str) -> int:
        """The action 0..12 that a legal Showdown choice stands for: the inverse of `choice`, and also
        for "default", move names and species names. Raises ValueError for anything else."""
        words = choice.removeprefix("/choose ").removeprefix("/").split("|")[0].split()
        legal = self.legal_actions()
        action = None
        if words and words[0] in ("default", "auto"):
            action = self._default_action(legal)
        elif len(words) > 1 and words[0] == "team" and self.decision == "preview":
            first = words[1].split(",")[0] if "," in choice else words[1][0]
            lead = int(first) - 1 if first.isdigit() else -1
            action = lead + 3 if lead > 0 else lead
        elif len(words) > 1 and words[0] == "switch":
            action = self._switch_action(" ".join(words[1:]))
        elif len(words) > 1 and words[0] == "move" and self.decision == "move":
            action = self._named_move_action(words[1:])
        if action is None or not 0 <= action < NUM_ACTIONS or not legal[action]:
            raise ValueError(f"choice {choice!r} is not legal now (decision: {self.decision})")
        return action

    def _move_actions(self, moves: list[dict]) -> list[int]:
        """The action slot 0..3 of each move that the request offers."""
        known = self.own.active.moves
        if len(moves) > 1 or (moves and len(known) == 1):
            return list(range(min(len(moves), NUM_MOVES)))
        # One move only: locked in, recharging, struggling or Gen 1's "Fight".
        ids = [slot.id for slot in known]
        return [ids.index(move["id"]) if move["id"] in ids else 0 for move in moves]

    def _gimmick(self, active: dict) -> str | None:
        """The gimmick the request offers, in the words of a choice."""
        if active.get("canTerastallize"):
            return "terastallize"
        if active.get("canMegaEvo"):
            return "mega"
        if active.get("canMegaEvoX"):
            return "megax"
        if active.get("canMegaEvoY"):
            return "megay"
        if active.get("canUltraBurst"):
            return "ultra"
        if active.get("canZMove"):
            return "zmove"
        if active.get("canDynamax"):
            return "dynamax"
        return None

    def _gimmick_slots(self, active: dict, slots: list[int]) -> list[int]:
        gimmick = self._gimmick(active)
        if gimmick is None:
            return []
        if gimmick == "zmove":
            return [slot for slot, move in zip(slots, active["canZMove"], strict=False) if move]
        if gimmick == "dynamax":
            offered = active["maxMoves"]["maxMoves"]
            return [slot for slot, move in zip(slots, offered, strict=False) if not move.get("disabled")]
        moves = active["moves"]
        return [slot for slot, move in zip(slots, moves, strict=True) if not move.get("disabled")]

    def _reviving(self) -> bool:
        return any(entry.get("reviving") for entry in self.request["side"]["pokemon"])

    def _allow_switches(self, legal: list[bool], *, fainted: bool) -> None:
        for index, pokemon in enumerate(self.bench()):
            legal[4 + index] = pokemon.fainted == fainted

    def _default_action(self, legal: list[bool]) -> int | None:
        """What the simulator does for "default": the first move, or the first Pokémon of the request."""
        if self.decision == "switch":
            bench = self.bench()
            for pokemon in self._order:
                if pokemon in bench and legal[4 + bench.index(pokemon)]:
                    return 4 + bench.index(pokemon)
        return legal.index(True) if True in legal else None

    def _switch_action(self, target: str) -> int | None:
        pokemon = None
        if target.isdigit():
            if 0 < int(target) <= len(self._order):
                pokemon = self._order[int(target) - 1]
        else:
            named = [p for p in self._order if p.name.lower() == target.lower() or p.species == to_id(target)]
            pokemon = named[0] if named else None
        bench = self.bench()
        return 4 + bench.index(pokemon) if pokemon in bench else None

    def _named_move_action(self, words: list[str]) -> int | None:
        active = self.request["active"][0]
        offered = active["moves"]
        slots = self._move_actions(offered)
        gimmicks = {"terastallize", "terastal", "mega", "megax", "megay", "ultra", "zmove", "dynamax", "max"}
        gimmick = words[-1].lower() in gimmicks
        words = words[:-1] if gimmick else words
        name = "".join(words)
        if name.isdigit():
            position = int(name) - 1
        else:
            wanted = request_move_id(to_id(name))
            wanted = "hiddenpower" if wanted.startswith("hiddenpower") else wanted
            ids = [move["id"] for move in offered]
            position = ids.index(wanted) if wanted in ids else 0 if len(offered) == 1 else -1
        if not 0 <= position < len(slots):
            return None
        return slots[position] + (9 if gimmick else 0)

    # ------------------------------------------------------------------ requests

    def _receive_request(self, request: dict) -> None:
        side = request.get("side")
        if side is not None:
            if self.side is None:
                self._sit_down(int(side["id"][1]) - 1)
            self._receive_team(side["pokemon"], preview=bool(request.get("teamPreview")))
        self.trapped = self.maybe_trapped = False
        if request.get("wait"):
            self.decision = "wait"
        elif request.get("teamPreview"):
            self.decision = "preview"
        elif request.get("forceSwitch"):
            self.decision = "switch"
        elif request.get("active"):
            self.decision = "move"
            active = request["active"][0]
            self.trapped = bool(active.get("trapped"))
            self.maybe_trapped = bool(active.get("maybeTrapped"))
            self._receive_active_moves(active["moves"])

    def _sit_down(self, side: int) -> None:
        self.side = side
        self.own, self.opponent = self.sides[side], self.sides[1 - side]

    def _receive_team(self, entries: list[dict], *, preview: bool) -> None:
        own = self.own
        if not self._known_by_request:
            self._create_own_team(entries)
        self._order = self._match_entries(entries)
        for entry, pokemon in zip(entries, self._order, strict=True):
            self._update_own(pokemon, entry)
        if preview:
            return
        active = next((p for e, p in zip(entries, self._order, strict=True) if e["active"]), None)
        if active is not None and active is not own.active:
            self._unmask_own(active)

    def _create_own_team(self, entries: list[dict]) -> None:
        """The first request fixes the team order; those that lines have already shown are kept."""
        own = self.own
        seen = {pokemon.name: pokemon for pokemon in own.team}
        own.team = []
        for index, entry in enumerate(entries):
            name = entry["ident"][4:]
            pokemon = seen.pop(name, None)
            if pokemon is None:
                species, level, gender = parse_details(entry["details"])
                pokemon = self._new_pokemon(name, species, level, gender)
            pokemon.index = index
            own.team.append(pokemon)
        own.team_size = len(entries)
        self._known_by_request = True

    def _match_entries(self, entries: list[dict]) -> list[Pokemon]:
        """Own Pokémon in the order of a request. Names are unique but for formats without Nickname Clause;
        there, level and known moves decide."""
        by_name: dict[str, list[Pokemon]] = {}
        for pokemon in self.own.team:
            by_name.setdefault(pokemon.name, []).append(pokemon)
        matched = []
        for entry in entries:
            candidates = by_name[entry["ident"][4:]]
            if len(candidates) > 1:
                _, level, gender = parse_details(entry["details"])
                moves = {request_move_id(move) for move in entry["moves"]}
                candidates.sort(
                    key=lambda p, level=level, gender=gender, moves=moves: (
                        (p.level, p.gender) != (level, gender),
                        len(moves.symmetric_difference(slot.id for slot in p.base_moves)),
                    )
                )
            matched.append(candidates.pop(0))
        return matched

    def _update_own(self, pokemon: Pokemon, entry: dict) -> None:
        hp, max_hp, status = parse_condition(entry["condition"])
        pokemon.hp = hp
        if max_hp:
            pokemon.max_hp = max_hp
        self._set_status(pokemon, status)
        pokemon.stats = entry["stats"]
        pokemon.item = entry["item"]
        if not pokemon.moves_known and not pokemon.transformed:
            self._set_own_moves(pokemon, entry["moves"])
        if pokemon.base_ability is None:
            ability = entry["baseAbility"]
            pokemon.base_ability = pokemon.ability = "" if self.gen < 3 else ability
        if "ability" in entry:
            pokemon.ability = entry["ability"]
        if "teraType" in entry:
            pokemon.tera_type = to_id(entry["teraType"])
            pokemon.terastallized = bool(entry["terastallized"])

    def _set_own_moves(self, pokemon: Pokemon, moves: list[str]) -> None:
        """Own moves in team order. A lead that comes in transformed shows its own ones only later."""
        used = {slot.id: slot for slot in pokemon.base_moves}
        ids = [request_move_id(move) for move in moves]
        pokemon.base_moves[:] = [used.get(move_id) or self._new_slot(move_id) for move_id in ids]
        pokemon.moves_known = True

    def _receive_active_moves(self, offered: list[dict]) -> None:
        """Takes PP from the request; a Transform or Mimic shows there as other moves."""
        active = self.own.active
        if len(offered) == 1 and "pp" not in offered[0]:
            return
        slots = active.moves
        for index, move in enumerate(offered[:NUM_MOVES]):
            if "pp" not in move:
                continue
            move_id = move["id"]
            known = slots[index] if index < len(slots) else None
            if known is None or (known.id != move_id and not known.id.startswith(move_id)):
                if slots is active.base_moves:
                    slots = active.moves = list(slots)
                known = MoveSlot(move_id, 0, 0)
                slots[index : index + 1] = [known]
            known.pp, known.max_pp = move["pp"], move["maxpp"]
            known.disabled = bool(move.get("disabled"))

    def _unmask_own(self, active: Pokemon) -> None:
        """The request shows another active Pokémon than the lines: one's own Illusion is up."""
        believed, self.own.active = self.own.active, active
        active.revealed = True
        if believed is None:
            return
        active.boosts, believed.boosts = believed.boosts, {}
        active.volatiles, believed.volatiles = believed.volatiles, {}
        active.active_turns, believed.active_turns = believed.active_turns, 0
        active.last_move, believed.last_move = believed.last_move, None
        self._restore(believed)

    # ------------------------------------------------------------------ Pokémon

    def _new_slot(self, move_id: str) -> MoveSlot:
        data = self.dex.moves.get(move_id)
        if data is None and move_id.startswith("hiddenpower"):
            data = self.dex.moves.get("hiddenpower")
        pp = data.pp if data else 0
        return MoveSlot(move_id, pp, pp)

    def _new_pokemon(self, name: str, species: str, level: int, gender: str) -> Pokemon:
        pokemon = Pokemon(name, species, species, level, gender)
        pokemon.moves = pokemon.base_moves
        self._set_types(pokemon)
        data = self.dex.species.get(species)
        if self.gen < 3:
            pokemon.ability = pokemon.base_ability = ""
        elif data and len(data.abilities) == 1:
            pokemon.ability = pokemon.base_ability = data.abilities[0]
        if self.gen == 1:
            pokemon.item = ""
        if data and len(data.genders) == 1:
            pokemon.gender = data.genders[0]
        return pokemon

    def _set_types(self, pokemon: Pokemon) -> None:
        """Types of the current species, or the Tera type."""
        if pokemon.terastallized and pokemon.tera_type and pokemon.tera_type != "stellar":
            pokemon.types = (pokemon.tera_type,)
            return
        data = self.dex.species.get(pokemon.species)
        pokemon.types = data.types if data else ()

    def _set_status(self, pokemon: Pokemon, status: str) -> None:
        if status == pokemon.status:
            return
        pokemon.status = status
        pokemon.status_turns = 0
        pokemon.fainted = status == "fnt"
        if pokemon.fainted:
            pokemon.hp = 0

    def _set_condition(self, pokemon: Pokemon, text: str) -> None:
        hp, max_hp, status = parse_condition(text)
        pokemon.hp = hp
        if max_hp:
            pokemon.max_hp = max_hp
        # A Pokémon at 0 HP is reported as fainted one line before its `faint`.
        if status != pokemon.status:
            self._set_status(pokemon, status)

    def _pokemon(self, ident: str) -> Pokemon | None:
        """The Pokémon of "p1a: Name" (whoever is active there) or "p1: Name" (a bench member)."""
        side = self.sides[1 if ident[1:2] == "2" else 0]
        if ident[2:3] in ("a", "b", "c"):
            return side.active
        name = ident[4:]
        for pokemon in side.team:
            if pokemon.name == name:
                return pokemon
        return None

    def _side(self, ident: str) -> Side:
        return self.sides[1 if ident[1] == "2" else 0]

    def _restore(self, pokemon: Pokemon) -> None:
        """Back to what it is without the effects of being on the field."""
        pokemon.species = pokemon.base_species
        pokemon.moves = pokemon.base_moves
        pokemon.ability = pokemon.base_ability
        pokemon.transformed = False
        self._set_types(pokemon)

    # ------------------------------------------------------------------ lines: players and preview

    def _on_player(self, parts: list[str]) -> None:
        if len(parts) > 3 and parts[3]:
            self.player_names[int(parts[2][1]) - 1] = parts[3]

    def _on_teamsize(self, parts: list[str]) -> None:
        self._side(parts[2]).team_size = int(parts[3])

    def _on_poke(self, parts: list[str]) -> None:
        side = self._side(parts[2])
        if side is self.own and self.side is not None:
            return
        species, level, gender = parse_details(parts[3].replace("-*", ""))
        pokemon = self._new_pokemon("", species, level, gender)
        pokemon.index = len(side.team)
        side.team.append(pokemon)

    def _on_turn(self, parts: list[str]) -> None:
        self.turn = int(parts[2])
        self._end_single_turn()
        for side in self.sides:
            if side.active is not None:
                side.active.active_turns += 1

    def _on_upkeep(self, parts: list[str]) -> None:
        self._end_single_turn()
        for side in self.sides:
            active = side.active
            if active is not None and active.status == "tox" and self.gen > 2:
                active.status_turns += 1
            if self.gen == 1:
                self._loosen_wrap(side)
            for effect, turns in (("wish", 1), ("futuremove", 2)):
                condition = side.conditions.get(effect)
                if condition is not None and condition.start_turn + turns <= self.turn:
                    del side.conditions[effect]

    def _end_single_turn(self) -> None:
        for holder, effect in self._single_turn:
            holder.pop(effect, None)
        self._single_turn.clear()

    def _on_win(self, parts: list[str]) -> None:
        self.finished = True
        if parts[2] in self.player_names:
            self.winner = self.player_names.index(parts[2])

    def _on_tie(self, parts: list[str]) -> None:
        self.finished = True

    # ------------------------------------------------------------------ lines: switches and formes

    def _on_switch(self, parts: list[str]) -> None:
        number = 1 if parts[2][1] == "2" else 0
        side = self.sides[number]
        leaving = side.active
        pokemon = self._find_or_reveal(side, parts[2][5:], parts[3])
        if side is self.own and self.gen >= 5:
            pokemon = self._own_illusion(pokemon, parts[4]) or pokemon
        passed: dict[str, int] = {}
        boosts: dict[str, int] = {}
        if leaving is not None:
            if len(parts) > 5 and parts[5].endswith(("Baton Pass", "Shed Tail")):
                shed = parts[5].endswith("Shed Tail")
                passed = {
                    volatile: turn
                    for volatile, turn in leaving.volatiles.items()
                    if (volatile == "substitute" if shed else volatile not in NOT_PASSED)
                }
                boosts = {} if shed else leaving.boosts
            self._leave(number, leaving)
        side.active = pokemon
        if self.gen >= 5:
            self._disguises[number] = self._belief(pokemon)
        pokemon.revealed = True
        pokemon.boosts, pokemon.volatiles = boosts, passed
        pokemon.active_turns = 0
        pokemon.last_move = None
        if pokemon.name == parts[2][5:]:
            self._change_forme(pokemon, parts[3])
        self._set_condition(pokemon, parts[4])
        if (pokemon.status == "tox" and self.gen > 2) or (pokemon.status == "slp" and self.gen == 5):
            pokemon.status_turns = 0

    def _own_illusion(self, shown: Pokemon, condition: str) -> Pokemon | None:
        """One's own disguised Pokémon, told by its exact HP: the line shows another one's name."""
        hp, max_hp, _ = parse_condition(condition)
        if (shown.hp, shown.max_hp) == (hp, max_hp):
            return None
        for pokemon in self.own.team:
            if pokemon.base_ability == "illusion" and (pokemon.hp, pokemon.max_hp) == (hp, max_hp):
                return pokemon
        return None

    def _leave(self, number: int, leaving: Pokemon) -> None:
        """A Pokémon goes to the bench; what it had bound on the other side comes loose."""
        leaving.boosts, leaving.volatiles = {}, {}
        leaving.active_turns = 0
        if leaving.status == "tox" and self.gen <= 2:
            leaving.status_turns = 0
        self._restore(leaving)
        other = self.sides[1 - number].active
        if other is not None:
            other.volatiles.pop("trapped", None)

    def _find_or_reveal(self, side: Side, name: str, details: str) -> Pokemon:
        """The team member that a switch line shows; a new one when it was never seen."""
        species, level, gender = parse_details(details)
        unnamed = None
        for pokemon in side.team:
            if pokemon.name == name:
                same = pokemon.level == level and (pokemon.base_species == species or side is self.own)
                if same or self._same_line(pokemon.base_species, species):
                    return pokemon
            elif not pokemon.name and unnamed is None and self._same_line(pokemon.base_species, species):
                unnamed = pokemon
        if unnamed is not None:
            unnamed.name, unnamed.level, unnamed.gender = name, level, gender
            return unnamed
        pokemon = self._new_pokemon(name, species, level, gender)
        pokemon.index = len(side.team)
        side.team.append(pokemon)
        return pokemon

    def _same_line(self, one: str, other: str) -> bool:
        """Are two species formes of the same one?"""
        if one == other:
            return True
        first, second = self.dex.species.get(one), self.dex.species.get(other)
        return bool(first and second and first.base_species == second.base_species)

    def _change_forme(self, pokemon: Pokemon, details: str) -> None:
        """Takes the lasting species of a `switch` or `detailschange` line."""
        species = parse_details(details)[0]
        pokemon.terastallized = ", tera:" in details
        if pokemon.terastallized:
            pokemon.tera_type = to_id(details.rsplit("tera:", 1)[1])
        if species != pokemon.base_species:
            pokemon.base_species = species
            data = self.dex.species.get(species)
            if data and len(data.abilities) == 1:
                pokemon.base_ability = pokemon.ability = data.abilities[0]
        pokemon.species = species
        self._set_types(pokemon)

    def _belief(self, pokemon: Pokemon) -> _Disguise:
        return _Disguise(
            pokemon,
            pokemon.hp,
            pokemon.max_hp,
            pokemon.status,
            pokemon.status_turns,
            pokemon.revealed,
            pokemon.ability,
            pokemon.item,
            [(slot.id, slot.pp) for slot in pokemon.base_moves],
            pokemon.last_move,
            pokemon.tera_type,
            pokemon.terastallized,
        )

    def _on_replace(self, parts: list[str]) -> None:
        """Illusion ends: what was seen since the switch-in belongs to the Pokémon that shows itself now."""
        number = 1 if parts[2][1] == "2" else 0
        side = self.sides[number]
        false, before = side.active, self._disguises[number]
        true = self._find_or_reveal(side, parts[2][5:], parts[3])
        if false is None or before is None or true is false:
            side.active = true
            return
        used = {slot.id: slot.pp for slot in false.base_moves}
        true.hp, true.max_hp, true.status, true.status_turns = (
            (false.hp, false.max_hp, false.status, false.status_turns)
            if side is not self.own
            else (true.hp, true.max_hp, true.status, true.status_turns)
        )
        true.fainted = true.status == "fnt"
        true.boosts, true.volatiles = false.boosts, false.volatiles
        true.active_turns, true.last_move, true.revealed = false.active_turns, false.last_move, True
        if side is not self.own:
            known_pp = dict(before.pp)
            for move_id, pp in used.items():
                spent = known_pp.get(move_id, self._new_slot(move_id).pp) - pp
                if spent or move_id not in known_pp:
                    self._slot_of(true, move_id).pp -= spent
            false.base_moves = [slot for slot in false.base_moves if slot.id in known_pp]
            for slot in false.base_moves:
                slot.pp = known_pp[slot.id]
            true.item = false.item
            false.tera_type = before.tera_type
        false.terastallized = before.terastallized
        false.boosts, false.volatiles, false.active_turns = {}, {}, 0
        false.hp, false.max_hp, false.item = before.hp, before.max_hp, before.item
        false.status, false.status_turns = before.status, before.status_turns
        false.fainted = before.status == "fnt"
        false.revealed, false.last_move = before.revealed, before.last_move
        self._restore(false)
        true.base_ability = true.ability = "illusion"
        side.active = true
        self._change_forme(true, parts[3])

    def _on_detailschange(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        self._change_forme(pokemon, parts[3])
        if len(parts) > 4 and "/" in parts[4]:
            self._set_condition(pokemon, parts[4])

    def _on_formechange(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        pokemon.species = to_id(parts[3])
        self._set_types(pokemon)
        self._note_origin(parts, pokemon)

    def _on_transform(self, parts: list[str]) -> None:
        pokemon, target = self._pokemon(parts[2]), self._pokemon(parts[3])
        if pokemon is None or target is None:
            return
        self._note_origin(parts, pokemon)
        pokemon.transformed = True
        pokemon.species = target.species
        if not pokemon.terastallized:
            pokemon.types = target.types
        pokemon.boosts = dict(target.boosts)
        if self.gen > 2:
            pokemon.ability = target.ability
        pokemon.moves = [
            MoveSlot(slot.id, min(5, slot.max_pp), min(5, slot.max_pp) if self.gen >= 5 else slot.max_pp)
            for slot in target.moves
        ]

    def _on_terastallize(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        pokemon.tera_type = to_id(parts[3])
        pokemon.terastallized = True
        self._side(parts[2]).gimmick_used = True
        self._set_types(pokemon)

    def _on_gimmick(self, parts: list[str]) -> None:
        """Mega Evolution, Ultra Burst or a Z-Move; the forme itself comes with `detailschange`."""
        self._side(parts[2]).gimmick_used = True
        if parts[1] == "-mega" and len(parts) > 4 and parts[4]:
            pokemon = self._pokemon(parts[2])
            if pokemon is not None:
                pokemon.item = to_id(parts[4])

    # ------------------------------------------------------------------ lines: moves

    def _slot_of(self, pokemon: Pokemon, move_id: str) -> MoveSlot:
        """The slot of a move, revealed now if it was not known."""
        for slot in pokemon.moves:
            if slot.id == move_id or (move_id == "hiddenpower" and slot.id.startswith(move_id)):
                return slot
        slot = self._new_slot(move_id)
        pokemon.moves.append(slot)
        if pokemon.moves is not pokemon.base_moves and not pokemon.transformed:
            pokemon.base_moves.append(slot)  # seen while another slot holds a mimicked move
        return slot

    def _on_move(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        side = self._side(parts[2])
        move_id = to_id(parts[3])
        origin, called = "", False
        for part in parts[5:]:
            if part.startswith("[from]"):
                origin = effect_id(part[6:].strip())
                called = origin != "pursuit"  # it only says that it strikes a leaving Pokémon
            elif part == "[zeffect]":
                called = True
        self._end_single_move(pokemon)
        pokemon.last_move = side.last_move = move_id
        volatiles = pokemon.volatiles
        finishing = "twoturnmove" in volatiles
        if finishing:
            self._end_charge(pokemon, move_id)
        data = self.dex.moves.get(move_id)
        if data is None or move_id in ("struggle", "recharge"):
            return
        if data.is_z or data.is_max:
            # Which move they come from is not told; the PP of one's own are in the next request.
            return
        number = int(side is self.sides[1])
        if not called:
            self._selected[number] = move_id
        if self.gen == 1:
            if move_id in TRAPPING_MOVES:
                self._wrap(pokemon, side, continued=origin == move_id, missed="[miss]" in parts)
            if "charge" in self.dex.moves[move_id].flags:
                # Paid for when it strikes; a Metronome that called it gets its own PP back until then.
                if finishing:
                    self._pay(pokemon, self._selected[number])
                elif called and origin != move_id:
                    self._pay(pokemon, self._selected[number], -1)
                called = True
        if not called:
            self._pay(pokemon, move_id)
        if self.gen >= 3 and len(parts) > 4:
            payer = move_id if not called else origin if self.gen >= 4 else None
            if payer in self.dex.moves and self._feels_pressure(side, move_id, parts[4]):
                self._pay(pokemon, payer)
        self._unconfirmed = None
        if "[miss]" not in parts:
            self._expect(pokemon, side, move_id)

    def _opposing(self, side: Side) -> Pokemon:
        return self.sides[0 if side is self.sides[1] else 1].active

    def _pay(self, pokemon: Pokemon, move_id: str, amount: int = 1) -> None:
        slot = self._slot_of(pokemon, move_id)
        slot.pp -= amount
        if self.gen == 1:
            slot.pp %= 64  # Gen 1 lets a forced move run below zero, to 63
            if pokemon.moves is not pokemon.base_moves and not pokemon.transformed:
                pokemon.base_moves[pokemon.moves.index(slot)].pp = slot.pp  # a mimicked move uses Mimic's PP
        elif slot.pp < 0:
            slot.pp = 0

    def _wrap(self, pokemon: Pokemon, side: Side, *, continued: bool, missed: bool) -> None:
        """Gen 1's trapping moves bind both for 2 to 5 turns, without lines that say so."""
        foe = self._opposing(side)
        foe.volatiles.pop("mustrecharge", None)
        self._wraps[side is self.sides[1]] = self._wraps[side is self.sides[1]] + 1 if continued else 1
        if not missed:
            pokemon.volatiles["partialtrappinglock"] = foe.volatiles["partiallytrapped"] = self.turn

    def _loosen_wrap(self, side: Side) -> None:
        """End of a turn: a trap that was not renewed, or for the fifth time, is over."""
        active, foe = side.active, self._opposing(side)
        if active is None or foe is None:
            return
        start = active.volatiles.get("partialtrappinglock")
        if start is None or start < self.turn or self._wraps[side is self.sides[1]] >= 5:
            active.volatiles.pop("partialtrappinglock", None)
            foe.volatiles.pop("partiallytrapped", None)

    def _feels_pressure(self, side: Side, move_id: str, target: str) -> bool:
        """Does the Pressure of the opposing Pokémon make this move cost one PP more?"""
        foe = self._opposing(side)
        if foe is None or foe.ability != "pressure" or foe.fainted or "gastroacid" in foe.volatiles:
            return False
        if side.active is not None and side.active.ability == "neutralizinggas":
            return False
        move = self.dex.moves[move_id]
        if "mustpressure" in move.flags or move.target == "all":
            return True
        # The target is left out of the line when the move fails at once.
        aims_at_foe = len(target) < 3 or self._side(target) is not side
        return aims_at_foe and move.target not in ("foeSide", "self", "allySide", "allyTeam")

    def _expect(self, pokemon: Pokemon, side: Side, move_id: str) -> None:
        """Effects that begin without a line; a `-fail` or `-miss` right after takes them back."""
        holder: dict = {}
        if move_id in DELAYED_HEALS:
            holder, effect = side.conditions, self.dex.moves[move_id].slot_condition
            begun: Condition | int = Condition(1, self.turn)
        elif move_id in SILENT_VOLATILES or (move_id == "rage" and self.gen == 1):
            holder, effect = pokemon.volatiles, move_id
            begun = self.turn
        else:
            return
        if effect not in holder:
            holder[effect] = begun
            self._unconfirmed = holder, effect

    def _end_single_move(self, pokemon: Pokemon) -> None:
        for effect in ("destinybond", "grudge", "glaiverush"):
            pokemon.volatiles.pop(effect, None)

    def _end_charge(self, pokemon: Pokemon, move_id: str | None) -> None:
        pokemon.volatiles.pop("twoturnmove", None)
        pokemon.volatiles.pop("invulnerability", None)
        pokemon.volatiles.pop(move_id, None)

    def _on_cant(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        reason = effect_id(parts[3])
        if parts[3].startswith("ability: "):
            self._learn_ability(pokemon, reason)  # also of the one who stops another's move
        if reason == "slp":
            pokemon.status_turns += 1
        if reason == "recharge":
            pokemon.volatiles.pop("mustrecharge", None)
        elif reason == "par" and self.gen == 1:
            self._interrupt(pokemon)

    def _interrupt(self, pokemon: Pokemon) -> None:
        """Gen 1: full paralysis or hitting itself in confusion ends what the Pokémon had begun."""
        for effect in ("bide", "twoturnmove", "partialtrappinglock"):
            pokemon.volatiles.pop(effect, None)

    def _on_prepare(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        move_id = to_id(parts[3])
        pokemon.volatiles["twoturnmove"] = self.turn
        if self.gen > 1:
            pokemon.volatiles[move_id] = self.turn
        elif move_id in ("dig", "fly"):
            pokemon.volatiles["invulnerability"] = self.turn

    def _on_anim(self, parts: list[str]) -> None:
        """A charging move that strikes at once (Solar Beam in the sun)."""
        pokemon = self._pokemon(parts[2])
        if pokemon is not None and "twoturnmove" in pokemon.volatiles:
            self._end_charge(pokemon, to_id(parts[3]))

    def _on_mustrecharge(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.volatiles["mustrecharge"] = self.turn

    # ------------------------------------------------------------------ lines: health and status

    def _on_condition(self, parts: list[str]) -> None:
        """`-damage`, `-heal`, `-sethp`: the new HP and status, and often where they come from."""
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        self._set_condition(pokemon, parts[3])
        if len(parts) > 4:
            origin = parts[4]
            if self.gen <= 2 and pokemon.status == "tox" and origin in ("[from] psn", "[from] Leech Seed"):
                pokemon.status_turns += 1
            elif origin == "[from] confusion" and self.gen == 1:
                self._interrupt(pokemon)
                pokemon.volatiles.pop("invulnerability", None)
            elif effect_id(origin) in DELAYED_HEALS:
                self._side(parts[2]).conditions.pop(effect_id(origin), None)
                if origin == "[from] move: Lunar Dance":
                    for slot in pokemon.base_moves:
                        slot.pp = slot.max_pp
            self._note_origin(parts, pokemon)

    def _on_faint(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            self._set_status(pokemon, "fnt")
            pokemon.boosts, pokemon.volatiles = {}, {}
            self._restore(pokemon)
            foe = self._opposing(self._side(parts[2]))
            if foe is not None:
                foe.volatiles.pop("trapped", None)
                foe.volatiles.pop("partialtrappinglock", None)

    def _on_status(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        self._set_status(pokemon, parts[3])
        # The orb comes after this turn's poison damage, so the counter starts one turn later.
        pokemon.status_turns = -1 if len(parts) > 4 and parts[4] == "[from] item: Toxic Orb" else 0
        if self.gen == 1 and parts[3] == "slp":
            pokemon.volatiles.pop("mustrecharge", None)
        self._note_origin(parts, pokemon)

    def _on_curestatus(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        if not pokemon.fainted and pokemon.status == parts[3]:
            self._set_status(pokemon, "")
        elif parts[3] == "confusion":
            pokemon.volatiles.pop("confusion", None)
        self._note_origin(parts, pokemon)

    def _on_cureteam(self, parts: list[str]) -> None:
        for pokemon in self._side(parts[2]).team:
            if not pokemon.fainted:
                self._set_status(pokemon, "")

    # ------------------------------------------------------------------ lines: boosts

    def _on_boost(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        amount = int(parts[4]) if parts[1] == "-boost" else -int(parts[4])
        stage = pokemon.boosts.get(parts[3], 0) + amount
        pokemon.boosts[parts[3]] = max(-6, min(6, stage))
        if len(parts) > 5 and parts[5].startswith("[from] item: "):
            self._note_item(pokemon, to_id(parts[5][13:]))

    def _on_setboost(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.boosts[parts[3]] = int(parts[4])
            self._note_origin(parts, pokemon)

    def _on_swapboost(self, parts: list[str]) -> None:
        one, other = self._pokemon(parts[2]), self._pokemon(parts[3])
        if one is None or other is None:
            return
        named = parts[4] if len(parts) > 4 and not parts[4].startswith("[") else ""
        for stat in named.split(", ") if named else STAT_NAMES:
            first, second = one.boosts.get(stat, 0), other.boosts.get(stat, 0)
            one.boosts[stat], other.boosts[stat] = second, first

    def _on_copyboost(self, parts: list[str]) -> None:
        source, target = self._pokemon(parts[2]), self._pokemon(parts[3])
        if source is not None and target is not None:
            source.boosts = dict(target.boosts)

    def _on_invertboost(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.boosts = {stat: -stage for stat, stage in pokemon.boosts.items()}

    def _on_clearboost(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.boosts = {}

    def _on_clearpositiveboost(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.boosts = {stat: stage for stat, stage in pokemon.boosts.items() if stage < 0}

    def _on_clearnegativeboost(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.boosts = {stat: stage for stat, stage in pokemon.boosts.items() if stage > 0}

    def _on_clearallboost(self, parts: list[str]) -> None:
        for side in self.sides:
            if side.active is not None:
                side.active.boosts = {}

    # ------------------------------------------------------------------ lines: field and sides

    def _on_weather(self, parts: list[str]) -> None:
        weather = to_id(parts[2])
        if "[upkeep]" in parts:
            self.weather = weather
            return
        self.weather = None if weather == "none" else weather
        self.weather_turn = self.turn
        self._note_origin(parts, None)

    def _on_fieldstart(self, parts: list[str]) -> None:
        effect = effect_id(parts[2])
        if effect.endswith("terrain"):
            for terrain in [name for name in self.fields if name.endswith("terrain")]:
                del self.fields[terrain]
        self.fields[effect] = self.turn
        self._note_origin(parts, None)

    def _on_fieldend(self, parts: list[str]) -> None:
        self.fields.pop(effect_id(parts[2]), None)

    def _on_sidestart(self, parts: list[str]) -> None:
        conditions = self._side(parts[2]).conditions
        effect = effect_id(parts[3])
        known = conditions.get(effect)
        if known is None:
            conditions[effect] = Condition(1, self.turn)
        else:
            known.layers = min(known.layers + 1, MAX_LAYERS.get(effect, 1))

    def _on_sideend(self, parts: list[str]) -> None:
        self._side(parts[2]).conditions.pop(effect_id(parts[3]), None)

    def _on_swapsideconditions(self, parts: list[str]) -> None:
        first, second = (side.conditions for side in self.sides)
        for name in SWAPPED_BY_COURT_CHANGE & (first.keys() | second.keys()):
            one, other = first.pop(name, None), second.pop(name, None)
            if other is not None:
                first[name] = other
            if one is not None:
                second[name] = one

    # ------------------------------------------------------------------ lines: volatiles

    def _on_start(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        effect = effect_id(parts[3])
        volatiles = pokemon.volatiles
        if effect == "typechange":
            self._change_types(pokemon, parts)
        elif effect == "typeadd":
            pokemon.types = (*pokemon.types, to_id(parts[4]))
        elif effect == "mimic":
            self._mimic(pokemon, to_id(parts[4]))
        elif effect in ("futuresight", "doomdesire"):
            target = self.sides[0 if parts[2][1] == "2" else 1]
            target.conditions["futuremove"] = Condition(1, self.turn)
        else:
            counted = COUNTED_VOLATILE.match(effect)
            if counted:
                self._drop_counted(volatiles, counted.group(1) or counted.group(2))
            volatiles[effect] = self.turn
            if effect == "dynamax":
                self._side(parts[2]).gimmick_used = True
        if len(parts) > 4:
            self._note_origin(parts, pokemon)
            if parts[3].startswith("ability: "):
                self._note_ability(parts, parts[3], pokemon)

    def _drop_counted(self, volatiles: dict[str, int], kind: str) -> None:
        for name in [name for name in volatiles if name.startswith(kind)]:
            del volatiles[name]

    def _change_types(self, pokemon: Pokemon, parts: list[str]) -> None:
        if len(parts) > 4 and not parts[4].startswith("["):
            pokemon.types = tuple(one.lower() for one in parts[4].split("/"))
        else:  # Reflect Type copies the types of `[of]`
            source = self._owner(parts, pokemon)
            pokemon.types = source.types

    def _mimic(self, pokemon: Pokemon, move_id: str) -> None:
        """Mimic's slot holds another move until its user leaves; before Gen 2 with Mimic's own PP."""
        data = self.dex.moves.get(move_id)
        max_pp = data.pp if data else 0
        moves = list(pokemon.moves)
        # Called by Metronome, Gen 1's Mimic overwrites Metronome.
        called_by = self._selected[int(pokemon is self.sides[1].active)] if self.gen == 1 else "mimic"
        for index, slot in enumerate(moves):
            if slot.id == called_by:
                pp = slot.pp if self.gen == 1 else min(5, max_pp)
                moves[index] = MoveSlot(move_id, pp, max_pp)
                pokemon.moves = moves

    def _on_end(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        effect = effect_id(parts[3])
        volatiles = pokemon.volatiles
        if "[partiallytrapped]" in parts:
            volatiles.pop("partiallytrapped", None)
        elif effect in COUNTED_KINDS:
            self._drop_counted(volatiles, COUNTED_KINDS[effect])
        elif effect in ("futuresight", "doomdesire"):
            self._side(parts[2]).conditions.pop("futuremove", None)
        elif effect == "dynamax":
            volatiles.pop("dynamax", None)
        else:
            volatiles.pop(effect, None)
        if len(parts) > 4:
            self._note_origin(parts, pokemon)

    def _on_activate(self, parts: list[str]) -> None:
        if len(parts) < 4:
            return
        pokemon = self._pokemon(parts[2]) if parts[2] else None
        if pokemon is None:
            return
        effect = effect_id(parts[3])
        if parts[3].startswith("ability: "):
            self._learn_ability(pokemon, effect)
            if parts[-1].startswith("[ability] "):  # Mummy and its kind: the other one loses its own
                other = self._pokemon(parts[4])
                if other is not None:
                    self._learn_ability(other, to_id(parts[-1][10:]))
                    other.ability = effect
        elif parts[3].startswith("item: "):
            pokemon.item = effect
        elif effect == "skillswap":
            self._swap_abilities(parts, pokemon)
        elif effect == "sketch" and len(parts) > 4:
            slot = self._slot_of(pokemon, "sketch")
            slot.id, slot.pp = to_id(parts[4]), self._new_slot(to_id(parts[4])).pp
            slot.max_pp = slot.pp
        elif effect in TRAPPING_MOVES:
            pokemon.volatiles["partiallytrapped"] = self.turn
        elif effect == "trapped":
            pokemon.volatiles["trapped"] = self.turn
        elif effect in ("spite", "eeriespell", "gmaxdepletion") and len(parts) > 5:
            slot = self._slot_of(pokemon, to_id(parts[4]))
            slot.pp = max(0, slot.pp - int(parts[5]))
        elif effect == "grudge" and len(parts) > 4:
            self._slot_of(pokemon, to_id(parts[4])).pp = 0

    def _swap_abilities(self, parts: list[str], pokemon: Pokemon) -> None:
        """Skill Swap names both abilities: first the one that its user gets."""
        target = self._owner(parts, None)
        if target is None or len(parts) < 6 or parts[4].startswith("["):
            return
        self._learn_ability(pokemon, to_id(parts[5]))
        self._learn_ability(target, to_id(parts[4]))
        pokemon.ability, target.ability = to_id(parts[4]), to_id(parts[5])

    def _on_singleturn(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        effect = effect_id(parts[3])
        if effect == "protect" and pokemon.last_move in PROTECTING_MOVES:
            effect = pokemon.last_move
        if effect in SIDE_PROTECTIONS:
            conditions = self._side(parts[2]).conditions
            conditions[effect] = Condition(1, self.turn)
            self._single_turn.append((conditions, effect))
        else:
            pokemon.volatiles[effect] = self.turn
            self._single_turn.append((pokemon.volatiles, effect))

    def _on_singlemove(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.volatiles[effect_id(parts[3])] = self.turn

    # ------------------------------------------------------------------ lines: abilities and items

    def _owner(self, parts: list[str], default: Pokemon | None) -> Pokemon | None:
        for part in parts[3:]:
            if part.startswith("[of] "):
                return self._pokemon(part[5:])
        return default

    def _note_origin(self, parts: list[str], pokemon: Pokemon | None) -> None:
        """Learns the ability or item that a `[from]` tag names."""
        for part in parts[3:]:
            if part.startswith("[from] ability: "):
                self._note_ability(parts, part[7:], pokemon)
            elif part.startswith("[from] item: "):
                # A heal names the attacker in `[of]`, but the item is the healed one's (Shell Bell).
                owner = pokemon if parts[1] == "-heal" else self._owner(parts, pokemon)
                if owner is not None:
                    self._note_item(owner, to_id(part[13:]))

    def _note_item(self, pokemon: Pokemon, item: str) -> None:
        # A berry or gem that has just been used up is named after it is gone.
        if pokemon.item != "":
            pokemon.item = item

    def _note_ability(self, parts: list[str], effect: str, pokemon: Pokemon | None) -> None:
        ability = effect_id(effect)
        # A heal names the attacker in `[of]`, but the ability is the healed one's (Water Absorb, …).
        healed = parts[1] == "-heal" and ability != "hospitality"
        owner = pokemon if healed else self._owner(parts, pokemon)
        if owner is not None:
            self._learn_ability(owner, ability)

    def _learn_ability(self, pokemon: Pokemon, ability: str) -> None:
        pokemon.ability = ability
        if pokemon.base_ability is None and not pokemon.transformed:
            pokemon.base_ability = ability

    def _on_ability(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        ability = to_id(parts[3])
        origin = next((part for part in parts[4:] if part.startswith("[from] ")), "")
        if origin:
            if origin == "[from] ability: Trace":
                if pokemon.base_ability is None and not pokemon.transformed:
                    pokemon.base_ability = "trace"
                source = self._owner(parts, None)
                if source is not None:
                    self._learn_ability(source, ability)
            elif not parts[4].startswith("["):
                self._learn_ability(pokemon, to_id(parts[4]))  # the one it had before
            pokemon.ability = ability
        else:
            self._learn_ability(pokemon, ability)

    def _on_endability(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        if len(parts) > 3 and parts[3] and not parts[3].startswith("["):
            self._learn_ability(pokemon, to_id(parts[3]))
        pokemon.volatiles["gastroacid"] = self.turn

    def _on_item(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is None:
            return
        # Frisk is the ability of the one in `[of]`; Pickpocket and others that of the item's new holder.
        thief = parts[4][16:] if len(parts) > 4 and parts[4].startswith("[from] ability: ") else ""
        if thief and thief != "Frisk":
            self._learn_ability(pokemon, to_id(thief))
        else:
            self._note_origin(parts, pokemon)
        if "[from] move: Thief" in parts or "[from] move: Covet" in parts:
            robbed = self._owner(parts, None)
            if robbed is not None:
                robbed.item = ""
        pokemon.item = to_id(parts[3])

    def _on_enditem(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None:
            pokemon.item = ""
            if parts[3] == "Power Herb":
                self._end_charge(pokemon, pokemon.last_move)

    def _on_fail(self, parts: list[str]) -> None:
        if self._unconfirmed is not None:
            holder, effect = self._unconfirmed
            holder.pop(effect, None)
            self._unconfirmed = None
        self._on_immune(parts)

    def _on_immune(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None and len(parts) > 3:
            self._note_origin(parts, pokemon)

    def _on_block(self, parts: list[str]) -> None:
        pokemon = self._pokemon(parts[2])
        if pokemon is not None and len(parts) > 3 and parts[3].startswith("ability: "):
            self._note_ability(parts, parts[3], pokemon)

    _HANDLERS = {
        "player": _on_player,
        "teamsize": _on_teamsize,
        "poke": _on_poke,
        "turn": _on_turn,
        "upkeep": _on_upkeep,
        "win": _on_win,
        "tie": _on_tie,
        "switch": _on_switch,
        "drag": _on_switch,
        "replace": _on_replace,
        "detailschange": _on_detailschange,
        "-formechange": _on_formechange,
        "-transform": _on_transform,
        "-terastallize": _on_terastallize,
        "-mega": _on_gimmick,
        "-burst": _on_gimmick,
        "-zpower": _on_gimmick,
        "move": _on_move,
        "cant": _on_cant,
        "-prepare": _on_prepare,
        "-anim": _on_anim,
        "-mustrecharge": _on_mustrecharge,
        "-damage": _on_condition,
        "-heal": _on_condition,
        "-sethp": _on_condition,
        "faint": _on_faint,
        "-status": _on_status,
        "-curestatus": _on_curestatus,
        "-cureteam": _on_cureteam,
        "-boost": _on_boost,
        "-unboost": _on_boost,
        "-setboost": _on_setboost,
        "-swapboost": _on_swapboost,
        "-copyboost": _on_copyboost,
        "-invertboost": _on_invertboost,
        "-clearboost": _on_clearboost,
        "-clearpositiveboost": _on_clearpositiveboost,
        "-clearnegativeboost": _on_clearnegativeboost,
        "-clearallboost": _on_clearallboost,
        "-weather": _on_weather,
        "-fieldstart": _on_fieldstart,
        "-fieldend": _on_fieldend,
        "-sidestart": _on_sidestart,
        "-sideend": _on_sideend,
        "-swapsideconditions": _on_swapsideconditions,
        "-start": _on_start,
        "-end": _on_end,
        "-activate": _on_activate,
        "-singleturn": _on_singleturn,
        "-singlemove": _on_singlemove,
        "-ability": _on_ability,
        "-endability": _on_endability,
        "-item": _on_item,
        "-enditem": _on_enditem,
        "-immune": _on_immune,
        "-fail": _on_fail,
        "-miss": _on_fail,
        "-block": _on_block,
    }
    # Lines without news for the state of the battle.
    _HANDLERS |= dict.fromkeys(
        (
            *("", "request", "t:", "gametype", "gen", "tier", "rule", "start", "clearpoke"),
            *("teampreview", "rated", "inactive", "inactiveoff", "j", "l", "n", "c", "c:", "raw"),
            *("html", "uhtml", "init", "title", "debug", "error", "bigerror", "message"),
            *("-message", "-hint", "-crit", "-supereffective", "-resisted", "-notarget", "-ohko"),
            *("-nothing", "-hitcount", "-center", "-combine", "-waiting", "-zbroken"),
            *("-primal", "-candynamax", "-fieldactivate", "updatepoke", "deinit", "noinit"),
            *("expire", "askreg", "join", "leave"),
        )
    )
