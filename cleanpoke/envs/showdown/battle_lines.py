"""What Showdown's protocol lines say about a battle: the larger half of the tracker (see tracker.py).

One method per kind of line. Most follow the line to the letter; those that know more than the line says,
such as Gen 1's silent traps or a called move's PP, name the rule of the simulator that they follow.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cleanpoke.envs.showdown.battle_state import (
    Condition,
    MoveSlot,
    Pokemon,
    Side,
    effect_id,
    parse_condition,
    parse_details,
    to_id,
)
from cleanpoke.envs.showdown.dex import Dex, load_dex

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
THEFTS = frozenset(("covet", "magician", "pickpocket", "thief"))
# Berries that restore the PP of one move, and how many.
PP_BERRIES = {"leppaberry": 10, "mysteryberry": 5}
MAX_TOXIC_STAGE = 15
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


class LineReader:
    """Keeps the state of a battle up to date with its lines. `BattleTracker` adds requests and decisions."""

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
        self.unknown_lines: Counter[str] = Counter()
        self._disguises: list[_Disguise | None] = [None, None]
        self._single_turn: list[tuple[dict, str]] = []
        self._wraps = [0, 0]  # consecutive turns of each side's trapping move, Gen 1
        self._unconfirmed: tuple[dict, str] | None = None
        self._selected = ["", ""]  # what each active Pokémon chose last, not the move that it called
        self._desynced = False

    def read(self, lines: Iterable[str]) -> None:
        """Takes lines in order; kinds that nobody has heard of are counted in `unknown_lines`."""
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
        if self.gen == 1:  # a knock-out ends a Gen-1 turn without `upkeep`
            for side in self.sides:
                self._loosen_wrap(side)
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
                active.status_turns = min(active.status_turns + 1, MAX_TOXIC_STAGE)
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
        self._selected[number] = ""
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
        side.active = true
        if false is None or before is None or true is false:
            return
        true.boosts, true.volatiles = false.boosts, false.volatiles
        true.active_turns, true.last_move, true.revealed = false.active_turns, false.last_move, True
        terastallized, tera_type = false.terastallized, false.tera_type
        if side is not self.own:  # all else about one's own is in the next request
            true.hp, true.max_hp = false.hp, false.max_hp
            true.status, true.status_turns = false.status, false.status_turns
            true.fainted = true.status == "fnt"
            if false.item != before.item:
                true.item = false.item
            self._give_back_moves(true, false, dict(before.pp))
        false.boosts, false.volatiles, false.active_turns = {}, {}, 0
        false.hp, false.max_hp, false.item = before.hp, before.max_hp, before.item
        false.status, false.status_turns = before.status, before.status_turns
        false.fainted = before.status == "fnt"
        false.revealed, false.last_move = before.revealed, before.last_move
        false.terastallized, false.tera_type = before.terastallized, before.tera_type
        self._restore(false)
        true.base_ability = true.ability = "illusion"
        self._change_forme(true, parts[3])
        if terastallized:
            true.terastallized, true.tera_type = True, tera_type
            self._set_types(true)

    def _give_back_moves(self, true: Pokemon, false: Pokemon, pp_before: dict[str, int]) -> None:
        """Moves that a disguised Pokémon has used are its own, not those of the one it looked like."""
        for slot in false.base_moves:
            spent = pp_before.get(slot.id, slot.max_pp) - slot.pp
            if spent:
                self._slot_of(true, slot.id).pp -= spent
            slot.pp += spent
        false.base_moves = [slot for slot in false.base_moves if slot.id in pp_before]

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
            if target.terastallized:  # a Tera type is not copied
                self._set_types(pokemon)
            else:
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
        if self._desynced:
            # The move is not one of its own; the slot that was chosen last, at first the top one, pays.
            self._desynced = False
            chosen = self._selected[number] or (pokemon.moves[0].id if pokemon.moves_known else "")
            if chosen:
                self._pay(pokemon, chosen)
            return
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

    def _on_hint(self, parts: list[str]) -> None:
        """Gen 1: a Pokémon that thaws at once repeats what its side chose last, maybe for another one."""
        if parts[2].startswith("In Gen 1, if both players would see the same"):
            self._desynced = True

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
            # One's own Illusion wears the Tera type of the Pokémon that it shows.
            if pokemon.name == parts[2][5:] or "[silent]" not in parts:
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
        elif effect in PP_BERRIES and len(parts) > 4:
            pokemon.item = ""
            slot = self._slot_of(pokemon, to_id(parts[4]))
            slot.pp = min(slot.pp + PP_BERRIES[effect], slot.max_pp)
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
        elif not (pokemon.ability or "").startswith("asone"):  # As One announces its two halves as well
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
        if len(parts) > 4 and effect_id(parts[4]) in THEFTS:
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
        "-hint": _on_hint,
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
            *("-message", "-crit", "-supereffective", "-resisted", "-notarget", "-ohko"),
            *("-nothing", "-hitcount", "-center", "-combine", "-waiting", "-zbroken"),
            *("-primal", "-candynamax", "-fieldactivate", "updatepoke", "deinit", "noinit"),
            *("expire", "askreg", "join", "leave"),
        )
    )
