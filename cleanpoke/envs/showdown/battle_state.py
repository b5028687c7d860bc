"""The parts of a battle as one player knows them, and the words in which Showdown's protocol names them."""

from dataclasses import dataclass, field

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
