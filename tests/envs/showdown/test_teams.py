from collections import Counter

import pytest

from cleanpoke.envs.showdown.simulator import validate_teams
from cleanpoke.envs.showdown.teams import format_id, formats, load_team_file, load_teams
from cleanpoke.errors import CleanPokeError

GEN1_EXPORT = """\
Tauros
- Body Slam
- Hyper Beam
- Earthquake
- Blizzard

Chansey
Pokeball: Great Ball
- Ice Beam
- Thunder Wave
- Reflect
- Soft-Boiled
"""


def species_of(team):
    return [member.split("|")[0] for member in team.packed.split("]")]


@pytest.mark.parametrize("format", ["gen1ou", "gen9ou"])
def test_showdown_accepts_every_team(format):
    teams = load_teams(format)
    problems = validate_teams(format, [team.packed for team in teams])
    assert {team.name: found for team, found in zip(teams, problems, strict=True) if found} == {}


@pytest.mark.parametrize(("format", "at_least", "held_out_at_least"), [("gen1ou", 28, 7), ("gen9ou", 14, 4)])
def test_splits_are_disjoint_and_cover_all_teams(format, at_least, held_out_at_least):
    train, held_out, every = (load_teams(format, split) for split in ("train", "heldout", "all"))
    assert len(every) >= at_least
    assert len(held_out) >= held_out_at_least
    assert sorted(team.index for team in train + held_out) == list(range(len(every)))
    assert {team.packed for team in train}.isdisjoint(team.packed for team in held_out)
    assert len({team.name for team in every}) == len(every)
    assert all(len(set(species_of(team))) == 6 for team in every)


@pytest.mark.parametrize("format", ["gen1ou", "gen9ou"])
def test_held_out_teams_need_no_pokemon_unseen_in_training(format):
    seen = Counter(name for team in load_teams(format, "train") for name in species_of(team))
    unseen = {name for team in load_teams(format, "heldout") for name in species_of(team)} - set(seen)
    assert len(unseen) <= 2, unseen


def test_random_battle_formats_have_no_teams():
    assert load_teams("gen1randombattle") == []


def test_formats_follow_generation_and_tier():
    assert format_id(9, "randombattle") == "gen9randombattle"
    assert (format_id(1), format_id(9)) == ("gen1ou", "gen9randombattle")
    assert {format_id(1, "ou"), format_id(9, "ou")} < set(formats())


def test_unknown_format_names_the_nearest():
    with pytest.raises(CleanPokeError, match="gen1oo.*gen1ou"):
        load_teams("gen1oo")
    with pytest.raises(CleanPokeError, match="unknown format 'gen12ou'"):
        format_id(12, "ou")


def test_user_team_is_read_exported_or_packed(tmp_path):
    exported, packed, headed = tmp_path / "exported.txt", tmp_path / "packed.txt", tmp_path / "headed.txt"
    exported.write_bytes(GEN1_EXPORT.replace("\n", "\r\n").encode())
    headed.write_text(f"=== [gen1ou] mine ===\n\n{GEN1_EXPORT}")
    expected = "Tauros||||bodyslam,hyperbeam,earthquake,blizzard|||||||"
    result = load_team_file(exported, "gen1ou")
    assert result.split("]")[0] == expected
    packed.write_text(result + "\n")
    assert load_team_file(packed, "gen1ou") == load_team_file(headed, "gen1ou") == result


def test_illegal_team_lists_the_problems(tmp_path):
    team = tmp_path / "team.txt"
    team.write_text(GEN1_EXPORT.replace("Earthquake", "Surf"))
    with pytest.raises(CleanPokeError, match="illegal in gen1ou: .*Tauros.*Surf"):
        load_team_file(team, "gen1ou")


def test_team_of_another_generation_says_which(tmp_path):
    team = tmp_path / "team.txt"
    team.write_text(load_teams("gen9ou")[0].packed)
    with pytest.raises(CleanPokeError, match="is a Gen-9 team: it is illegal in gen1ou"):
        load_team_file(team, "gen1ou")
    team.write_text(GEN1_EXPORT)
    with pytest.raises(CleanPokeError, match="is a Gen-1 team: it is illegal in gen9ou"):
        load_team_file(team, "gen9ou")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"=== [gen1ou] mine ===\n\n", "is empty"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"just some words", "is not a Showdown team"),
        (b"Tauros|one|two", "is not a Showdown team"),
        (b"=== [gen1ou] a ===\n\nTauros\n- Rest\n\n=== [gen1ou] b ===\n\nJynx\n- Rest\n", "holds 2 teams"),
    ],
)
def test_broken_team_file_is_refused_in_one_line(tmp_path, content, message):
    team = tmp_path / "team.txt"
    team.write_bytes(content)
    with pytest.raises(CleanPokeError, match=message) as caught:
        load_team_file(team, "gen1ou")
    assert "team.txt" in str(caught.value)


def test_missing_team_file_and_needless_team_file_are_refused(tmp_path):
    with pytest.raises(CleanPokeError, match="No such file"):
        load_team_file(tmp_path / "absent.txt", "gen1ou")
    with pytest.raises(CleanPokeError, match="generates its own teams"):
        load_team_file(tmp_path / "absent.txt", "gen9randombattle")
