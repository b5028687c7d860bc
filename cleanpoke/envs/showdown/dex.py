"""Static game data of one generation (species, moves, types, …), taken from Showdown's own Dex.

Showdown knows all nine generations with their differences, so nothing here is typed by hand:
`node/dump_dex.js` prints its tables once (about two seconds), and they are cached beside it as
`dex_cache.json` until the installed simulator changes.
"""

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import orjson

from cleanpoke.envs.showdown.node_runtime import NODE_FOLDER, run_script, showdown_version
from cleanpoke.errors import CleanPokeError

GENERATIONS = range(1, 10)
CACHE_FILE = NODE_FOLDER / "dex_cache.json"
# Raised when dump_dex.js prints something else than before, so that an old cache is not read.
CACHE_FORMAT = 1

STATUSES = ("brn", "fnt", "frz", "par", "psn", "slp", "tox")
TIERS = ("anythinggoes", "lc", "monotype", "nu", "ou", "pu", "randombattle", "ru", "ubers", "uu")

SPECIAL_WORDS = ("<pad>", "<unknown>", "<none>", "<predicted>")
# Conditions that the protocol announces under a name that is no entry of the Dex.
EXTRA_VOLATILES = (
    *(f"perish{count}" for count in range(4)),
    *(f"fallen{count}" for count in range(1, 6)),
    *(f"stockpile{count}" for count in range(1, 4)),
    *(
        f"{ability}{stat}"
        for ability in ("protosynthesis", "quarkdrive")
        for stat in ("atk", "def", "spa", "spd", "spe")
    ),
    *("doomdesire", "futuresight", "slowstart", "supremeoverlord", "terastallize", "trapped", "transform"),
    *("typeadd", "typechange", "mimic", "illusion", "recharge", "spentpp", "truant", "wrap"),
)
EXTRA_SIDES = ("doomdesire", "futuresight", "firepledge", "grasspledge", "waterpledge", "gmaxcannonade")
EXTRA_SIDES += ("gmaxsteelsurge", "gmaxvinelash", "gmaxvolcalith", "gmaxwildfire")
EXTRA_WEATHERS = ("deltastream", "desolateland", "primordialsea", "snow")


@dataclass(slots=True)
class Species:
    """One species or forme. `abilities` is empty before Gen 3."""

    id: str
    name: str
    number: int
    types: tuple[str, ...]
    """Type ids, such as ("grass", "poison")."""
    base_stats: dict[str, int]
    """hp, atk, def, spa, spd, spe; in Gen 1 spa and spd are both Special."""
    abilities: tuple[str, ...]
    base_species: str
    changes_from: str
    """Id of the forme it turns into this one from in battle, "" when this is no battle-only forme."""
    forme: str
    genders: tuple[str, ...]
    """("M", "F"), or the only one: "M", "F" or "N"."""
    weight_kg: float
    required_item: str
    can_evolve: bool


@dataclass(slots=True)
class Secondary:
    """A side effect of a damaging move: with `chance` (0..1) any of the others happens."""

    chance: float
    status: str
    volatile_status: str
    boosts: dict[str, int]
    self_boosts: dict[str, int]


@dataclass(slots=True)
class MoveData:
    """One move by the rules of one generation; ids throughout, "" for "none"."""

    id: str
    name: str
    type: str
    category: str
    """"Physical", "Special" or "Status"; up to Gen 3 it follows from the type."""
    base_power: int
    accuracy: float
    """0..1; a move that cannot miss has 1 and `never_misses`."""
    never_misses: bool
    pp: int
    """The most it can have in battle, PP Ups included."""
    priority: int
    target: str
    drain: float
    """Share of the damage that the user gets back, 0..1; `recoil`: that it takes; `heal`: of its max HP."""
    recoil: float
    heal: float
    boosts: dict[str, int]
    """Stages given to the target of the move, which is the user itself when `target` is "self"."""
    self_boosts: dict[str, int]
    status: str
    volatile_status: str
    side_condition: str
    slot_condition: str
    weather: str
    field: str
    """Terrain or pseudo-weather that it starts."""
    secondaries: tuple[Secondary, ...]
    fixed_damage: int
    level_damage: bool
    one_hit_knock_out: bool
    crit_ratio: int
    """1 ordinary, higher is likelier, 6 always."""
    expected_hits: float
    self_destruct: bool
    self_switch: str
    """"" no, "switch" as U-turn, "copyvolatile" as Baton Pass, "shedtail"."""
    force_switch: bool
    flags: frozenset[str]
    is_z: bool
    is_max: bool


@dataclass(slots=True)
class Dex:
    """All that is fixed in one generation. The keys of the dictionaries are Showdown ids."""

    gen: int
    species: dict[str, Species]
    moves: dict[str, MoveData]
    abilities: dict[str, str]
    """Id to name; empty before Gen 3."""
    items: dict[str, str]
    """Id to name; empty in Gen 1."""
    natures: dict[str, tuple[str, str]]
    """Id to the raised and the lowered stat, both "" for a neutral nature."""
    type_chart: dict[tuple[str, str], float]
    """(attacking type id, defending type id) to 0, 0.5, 1 or 2."""

    def effectiveness(self, attacking: str, defending: tuple[str, ...]) -> float:
        """Damage factor of a move's type against a Pokémon's types; unknown types count as 1."""
        factor = 1.0
        for type_id in defending:
            factor *= self.type_chart.get((attacking, type_id), 1.0)
        return factor


def _read_cache(file: Path) -> dict | None:
    """The cached tables, or None when there are none of this simulator."""
    with suppress(FileNotFoundError, orjson.JSONDecodeError):
        cache = orjson.loads(file.read_bytes())
        if cache.get("version") == showdown_version() and cache.get("cache_format") == CACHE_FORMAT:
            return cache
    return None


def _write_cache(file: Path, tables: dict) -> None:
    # Temporary file and rename: several processes may start at once on a fresh machine.
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(orjson.dumps(tables))
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@lru_cache(maxsize=1)
def _tables() -> dict:
    tables = _read_cache(CACHE_FILE)
    if tables is None:
        tables = run_script("dump_dex.js") | {"cache_format": CACHE_FORMAT}
        # A read-only installation works all the same, only two seconds slower at each start.
        with suppress(OSError):
            _write_cache(CACHE_FILE, tables)
    return tables


def _merged(table: str, gen: int) -> dict[str, dict]:
    """Entries of `table` in `gen`: the dump holds each generation's difference to the one before."""
    merged: dict[str, dict] = {}
    for earlier in range(1, gen + 1):
        merged |= _tables()["generations"][str(earlier)][table]
    return {key: entry for key, entry in merged.items() if entry is not None}


def _species(entry: dict) -> Species:
    tuples = {key: tuple(entry[key]) for key in ("types", "abilities", "genders")}
    return Species(**(entry | tuples))


def _move(entry: dict) -> MoveData:
    secondaries = tuple(Secondary(**secondary) for secondary in entry["secondaries"])
    return MoveData(**(entry | {"secondaries": secondaries, "flags": frozenset(entry["flags"])}))


@lru_cache(maxsize=len(GENERATIONS))
def load_dex(gen: int) -> Dex:
    """Static data of generation `gen` (1 to 9). Raises CleanPokeError for any other number."""
    if gen not in GENERATIONS:
        raise CleanPokeError(f"there is no generation {gen}: choose 1 to 9")
    tables = _tables()["generations"][str(gen)]
    chart = tables["type_chart"]
    return Dex(
        gen=gen,
        species={key: _species(entry) for key, entry in _merged("species", gen).items()},
        moves={key: _move(entry) for key, entry in _merged("moves", gen).items()},
        abilities=tables["abilities"],
        items=tables["items"],
        natures={key: (plus, minus) for key, (plus, minus) in tables["natures"].items()},
        type_chart={
            (attacking, defending): chart[attacking][defending] for attacking in chart for defending in chart
        },
    )


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """All words an encoder may use, over all generations: the special ones, then "kind:id", sorted.

    The order is the same on every machine with the same simulator; index 0 is `<pad>`.
    """
    generations = _tables()["generations"].values()
    conditions = _tables()["conditions"]

    def ids(table: str) -> set[str]:
        return {key for generation in generations for key in generation[table]}

    moves = [_move(entry) for generation in generations for entry in generation["moves"].values() if entry]
    kinds: dict[str, set[str]] = {
        "species": ids("species"),
        "move": ids("moves") | {"fight", "recharge"},
        "ability": ids("abilities"),
        "item": ids("items"),
        "type": ids("type_chart"),
        "nature": ids("natures"),
        "status": set(STATUSES),
        "volatile": {*conditions["volatiles"], *EXTRA_VOLATILES},
        "weather": {*conditions["weathers"], *EXTRA_WEATHERS},
        "field": set(conditions["fields"]),
        "side": {*conditions["sides"], *EXTRA_SIDES},
        "category": {"physical", "special", "status"},
        "target": {move.target.lower() for move in moves},
        "gender": {"m", "f", "n"},
        "format": {f"gen{gen}{tier}" for gen in GENERATIONS for tier in TIERS},
        "decision": {"move", "switch", "preview", "revive", "wait"},
        "gimmick": {"dynamax", "mega", "terastallize", "ultra", "zmove"},
    }
    return SPECIAL_WORDS + tuple(sorted(f"{kind}:{word}" for kind, words in kinds.items() for word in words))
