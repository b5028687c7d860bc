"""What one player knows of a battle, from their protocol lines and request JSON and nothing else.

Lines are read in battle_lines.py, requests and decisions here; nothing else in the project knows Showdown's
text protocol. The words are the protocol's own: side conditions, volatiles, requests, ids. The same tracker
serves the in-process simulator, a websocket and replays. How exact it is, category by category, is measured
by `benchmark/tracker_exactness.py`.
"""

from collections.abc import Iterable

from cleanpoke.envs.showdown.battle_lines import LineReader
from cleanpoke.envs.showdown.battle_state import (
    Condition,
    MoveSlot,
    Pokemon,
    Side,
    parse_condition,
    parse_details,
    request_move_id,
    to_id,
)

__all__ = ["BattleTracker", "Condition", "MoveSlot", "Pokemon", "Side", "to_id"]

NUM_ACTIONS = 13
NUM_MOVES = 4
NUM_BENCH = 5


class BattleTracker(LineReader):
    """Follows one battle from one player's seat.

    gen: the generation, 1 to 9. side: 0 for p1, 1 for p2; None leaves it to the first request. Feed
    everything in order through `receive` and read the public attributes at any time: turn, finished, winner,
    weather and weather_turn, fields (id to the turn in which it began), own and opponent (`Side`), decision
    ("move", "switch", "preview", "wait" or None), trapped, maybe_trapped, unknown_lines.
    """

    def __init__(self, gen: int, side: int | None = None):
        super().__init__(gen, side)
        self.request: dict | None = None
        self.decision: str | None = None
        self.trapped = False
        self.maybe_trapped = False
        self._legal: list[bool] | None = None  # of the current request, once somebody has asked
        self._order: list[Pokemon] = []  # own team in the order of the current request
        self._known_by_request = False

    def receive(self, lines: Iterable[str], request: dict | None) -> None:
        """Takes the protocol lines of one update, then the request that came with it (None: no new one)."""
        self.read(lines)
        self.decision = None
        self.request = request
        self._legal = None
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
        """The 13-action mask that the current request allows; all False when nothing is to be decided.

        Read-only: it is worked out once per request.
        """
        if self._legal is None:
            self._legal = self._work_out_legal_actions()
        return self._legal

    def _work_out_legal_actions(self) -> list[bool]:
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
        only = {pokemon.name: pokemon for pokemon in self.own.team}
        if len(only) == len(entries):
            return [only[entry["ident"][4:]] for entry in entries]
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
        elif pokemon.transformed and len(pokemon.moves) < len(entry["moves"]):
            # The request shows all copied moves, of which only some had been seen at the opponent's.
            known = {slot.id: slot for slot in pokemon.moves}
            ids = [request_move_id(move) for move in entry["moves"]]
            pokemon.moves = [known.get(move_id) or MoveSlot(move_id, 5, 5) for move_id in ids]
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
