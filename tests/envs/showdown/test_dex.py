import pytest

from cleanpoke.envs.showdown import dex as dex_module
from cleanpoke.envs.showdown.dex import GENERATIONS, SPECIAL_WORDS, load_dex, vocabulary
from cleanpoke.errors import CleanPokeError


def test_rules_are_those_of_the_generation():
    assert [load_dex(gen).moves["bite"].type for gen in (1, 2)] == ["normal", "dark"]
    # Up to Gen 3 the type decides whether a move is special.
    assert [load_dex(gen).moves["bite"].category for gen in (1, 3, 4)] == ["Physical", "Special", "Physical"]
    assert [load_dex(gen).species["clefable"].types for gen in (1, 6)] == [("normal",), ("fairy",)]
    assert load_dex(1).species["alakazam"].base_stats["spd"] == 135
    assert load_dex(1).species["tauros"].abilities == ()
    assert load_dex(9).species["tauros"].abilities == ("intimidate", "angerpoint", "sheerforce")
    assert "scizor" not in load_dex(1).species
    assert "pursuit" not in load_dex(1).moves


@pytest.mark.parametrize(
    ("gen", "move", "pp"),
    [(1, "bodyslam", 24), (1, "growl", 61), (9, "growl", 64), (9, "revivalblessing", 1)],
)
def test_pp_is_the_most_a_move_can_have_in_battle(gen, move, pp):
    assert load_dex(gen).moves[move].pp == pp


def test_type_chart():
    gen1, gen9 = load_dex(1), load_dex(9)
    assert (gen1.type_chart["ghost", "psychic"], gen9.type_chart["ghost", "psychic"]) == (0, 2)
    assert gen9.effectiveness("ice", ("dragon", "flying")) == 4
    assert gen9.effectiveness("ground", ("electric", "flying")) == 0
    assert gen9.effectiveness("water", ("nosuchtype",)) == 1


def test_what_moves_do():
    moves = load_dex(9).moves
    assert moves["gigadrain"].drain == 0.5
    assert moves["recover"].heal == 0.5
    assert moves["doubleedge"].recoil == pytest.approx(0.33)
    assert moves["swordsdance"].boosts == {"atk": 2}
    assert moves["closecombat"].self_boosts == {"def": -1, "spd": -1}
    assert moves["bodyslam"].secondaries[0].chance == 0.3
    assert moves["bodyslam"].secondaries[0].status == "par"
    assert moves["uturn"].self_switch == "switch"
    assert moves["stealthrock"].side_condition == "stealthrock"
    assert moves["explosion"].self_destruct
    assert (moves["aerialace"].accuracy, moves["aerialace"].never_misses) == (1, True)
    assert moves["bulletseed"].expected_hits == 3.1
    assert moves["seismictoss"].level_damage
    assert "protect" in moves["tackle"].flags


@pytest.mark.parametrize("gen", GENERATIONS)
def test_every_generation_is_consistent(gen):
    dex = load_dex(gen)
    types = {attacking for attacking, _ in dex.type_chart}
    assert len(dex.type_chart) == len(types) ** 2
    for species in dex.species.values():
        assert set(species.types) <= types | {"bird"}, species
        assert species.base_species in dex.species
        assert not species.changes_from or species.changes_from in dex.species
    for move in dex.moves.values():
        assert move.type in types | {""}, move
        assert move.pp >= 1
        assert 0 < move.accuracy <= 1
    assert {"hp", "atk", "def", "spa", "spd", "spe"} == set(dex.species["mew"].base_stats)


def test_every_id_of_every_generation_is_a_word():
    words = set(vocabulary())
    for gen in GENERATIONS:
        dex = load_dex(gen)
        for kind, table in (
            ("species", dex.species),
            ("move", dex.moves),
            ("ability", dex.abilities),
            ("item", dex.items),
        ):
            assert {f"{kind}:{key}" for key in table} <= words
    assert {
        "volatile:substitute",
        "side:spikes",
        "weather:sunnyday",
        "field:trickroom",
        "status:par",
    } <= words


def test_vocabulary_has_a_fixed_order():
    words = vocabulary()
    assert words[: len(SPECIAL_WORDS)] == SPECIAL_WORDS
    assert words[0] == "<pad>"
    rest = words[len(SPECIAL_WORDS) :]
    assert list(rest) == sorted(set(rest))


@pytest.mark.parametrize("content", [b"", b'{"version": ', b'{"version": "0.0.1"}', b"{}"])
def test_useless_cache_is_replaced(tmp_path, monkeypatch, content):
    tables = dex_module._tables()
    cache = tmp_path / "dex_cache.json"
    cache.write_bytes(content)
    monkeypatch.setattr(dex_module, "CACHE_FILE", cache)
    dex_module._tables.cache_clear()
    try:
        assert dex_module._tables() == tables
        assert dex_module._read_cache(cache) == tables
        assert [file.name for file in tmp_path.iterdir()] == [cache.name]
    finally:
        dex_module._tables.cache_clear()


def test_unknown_generation_is_refused():
    with pytest.raises(CleanPokeError, match="no generation 10: choose 1 to 9"):
        load_dex(10)
