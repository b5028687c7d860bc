"""Teams: the project's own sets, their split into train and held-out, and a team file of the user's.

`teams/<format>.txt` holds sets in Showdown's export format, one `=== [format] name ===` heading per team, so
that a file can be pasted into Showdown's teambuilder (Import/Export of a backup) and back. The Gen-1 sets
have no EVs line: the simulator then gives every stat its full stat experience, as players of that generation
take for granted.
"""

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from poke_env.teambuilder import Teambuilder

from cleanpoke.envs.showdown.simulator import validate_teams
from cleanpoke.errors import CleanPokeError

TEAMS_FOLDER = Path(__file__).resolve().parent / "teams"
HELD_OUT_EVERY = 4
"""Teams 3, 7, 11, … of a file are held out. The files are ordered so that both splits are alike."""

Split = Literal["train", "heldout", "all"]

_FORMATS = {
    (1, "ou"): "gen1ou",
    (1, "randombattle"): "gen1randombattle",
    (9, "ou"): "gen9ou",
    (9, "randombattle"): "gen9randombattle",
}
_HEADING = re.compile(r"^=== \[(?P<format>[^\]]+)\] (?P<name>.+) ===$", re.MULTILINE)
# Lines of an export that say nothing about the battle and that the parser would take for a species.
_COSMETIC = ("Pokeball:", "Dynamax Level:")
_MAX_PROBLEMS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Team:
    """One team. `packed` is Showdown's packed format; `index` counts within the file of its format."""

    name: str
    packed: str
    index: int
    split: Literal["train", "heldout"]


def formats() -> tuple[str, ...]:
    """Every format that the scripts train and play in, such as "gen1ou"."""
    return tuple(_FORMATS.values())


def format_id(generation: int, tier: str | None = None) -> str:
    """The format of `--gen` and `--tier`: (1, "ou") -> "gen1ou". Raises CleanPokeError for any other pair.

    Without a tier: OU in Gen 1, generated teams in Gen 9.
    """
    tier = tier or ("ou" if generation == 1 else "randombattle")
    if (generation, tier) in _FORMATS:
        return _FORMATS[generation, tier]
    raise unknown_format(f"gen{generation}{tier}")


def unknown_format(name: str) -> CleanPokeError:
    """The error for a format that is not supported; names the nearest ones."""
    near = difflib.get_close_matches(name, formats(), n=2, cutoff=0.5) or formats()
    return CleanPokeError(f"unknown format {name!r}: did you mean {' or '.join(near)}?")


def generates_teams(format: str) -> bool:
    """Whether the simulator makes up the teams of this format itself."""
    return format.endswith("randombattle")


@lru_cache
def _all_teams(format: str) -> tuple[Team, ...]:
    if format not in formats():
        raise unknown_format(format)
    if generates_teams(format):
        return ()
    text = (TEAMS_FOLDER / f"{format}.txt").read_text(encoding="utf-8")
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return tuple(
        Team(
            name=heading["name"],
            packed=pack_export(text[heading.end() : end]),
            index=index,
            split="heldout" if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train",
        )
        for index, (heading, end) in enumerate(zip(headings, ends, strict=True))
    )


def load_teams(format: str, split: Split = "all") -> list[Team]:
    """The project's teams of a format, in file order; empty for random battles.

    Needs no Node: that Showdown accepts the sets is held by tests/envs/showdown/test_teams.py.
    Raises CleanPokeError for an unknown format.
    """
    return [team for team in _all_teams(format) if split in ("all", team.split)]


def pack_export(text: str) -> str:
    """Packs a team in Showdown's export format, a blank line between Pokémon; ValueError if it is none."""
    lines = [line.strip() for line in text.strip().splitlines()]
    sets = "\n".join(line for line in lines if not line.startswith(_COSMETIC))
    pokemon = Teambuilder.parse_showdown_team(re.sub(r"\n{3,}", "\n\n", sets))
    if not all(member.moves for member in pokemon):
        raise ValueError("a Pokémon without moves")
    return Teambuilder.join_team(pokemon)


def load_team_file(path: str | Path, format: str) -> str:
    """Reads a user's team, exported or packed, has Showdown validate it for `format`, returns it packed.

    Raises CleanPokeError: no such file, empty, several teams, not a team, wrong generation, or illegal (with
    the validator's problems).
    """
    if format not in formats():
        raise unknown_format(format)
    if generates_teams(format):
        raise CleanPokeError(f"{format} generates its own teams: leave the team file {path} away")
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise CleanPokeError(f"cannot read the team file {path} ({reason})") from error
    headings = list(_HEADING.finditer(text))
    text = _HEADING.sub("", text).strip()
    if not text:
        raise CleanPokeError(
            f"the team file {path} is empty: paste a team from Showdown's teambuilder into it"
        )
    if len(headings) > 1:
        raise CleanPokeError(f"the team file {path} holds {len(headings)} teams: keep one")

    try:
        packed = text if "|" in text.splitlines()[0] else pack_export(text)
        Teambuilder.parse_packed_team(packed)
    except (ValueError, KeyError, IndexError) as error:
        raise CleanPokeError(
            f"the team file {path} is not a Showdown team ({error}): export it from the teambuilder again"
        ) from error
    (problems,) = validate_teams(format, [packed])
    if not problems:
        return packed

    for (generation, _), other in _FORMATS.items():
        if other != format and not generates_teams(other) and validate_teams(other, [packed]) == [[]]:
            raise CleanPokeError(
                f"the team file {path} is a Gen-{generation} team: it is illegal in {format}"
            )
    shown = "; ".join(problems[:_MAX_PROBLEMS_SHOWN])
    more = f"; and {len(problems) - _MAX_PROBLEMS_SHOWN} more" if len(problems) > _MAX_PROBLEMS_SHOWN else ""
    raise CleanPokeError(f"the team file {path} is illegal in {format}: {shown}{more}")
