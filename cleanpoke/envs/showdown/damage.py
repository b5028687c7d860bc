"""Estimates of stats and damage from what one player knows, for the encoder and the scripted players."""

from functools import lru_cache

from cleanpoke.envs.showdown.dex import Dex, MoveData, load_dex
from cleanpoke.envs.showdown.tracker import Pokemon, Side

HALF_OF_CURRENT_HP = {"superfang", "naturesmadness", "ruination"}
MEAN_DAMAGE_ROLL = 0.925


def boost_multiplier(stage: int) -> float:
    """The stat multiplier of a boost stage in -6..6 (attack, defence, special, speed)."""
    return (2 + stage) / 2 if stage >= 0 else 2 / (2 - stage)


@lru_cache(maxsize=100_000)
def _typical_stats(gen: int, species: str, level: int) -> dict[str, float]:
    base = load_dex(gen).species[species].base_stats
    if gen <= 2:
        inner = {name: int((2 * (value + 15) + 63) * level / 100) for name, value in base.items()}
    else:
        inner = {name: int((2 * value + 31 + 21) * level / 100) for name, value in base.items()}
    return {name: value + (level + 10 if name == "hp" else 5) for name, value in inner.items()}


def estimated_stats(dex: Dex, pokemon: Pokemon) -> dict[str, float]:
    """Stats hp/atk/def/spa/spd/spe at the Pokémon's level, before boosts.

    Exact for one's own Pokémon (the request shows them). For an opponent: Gens 1-2 assume maximal DVs and
    stat experience, which is what everybody plays; later gens assume 31 IVs, 85 EVs and a neutral nature,
    which is exact in random battles and the middle of the road elsewhere.
    """
    if pokemon.stats:
        return {**pokemon.stats, "hp": pokemon.max_hp}
    return _typical_stats(dex.gen, pokemon.species, pokemon.level)


def effective_speed(dex: Dex, pokemon: Pokemon, stats: dict[str, float]) -> float:
    """Speed after boosts and paralysis (items and weather abilities are left to the network)."""
    speed = stats["spe"] * boost_multiplier(pokemon.boosts.get("spe", 0))
    if pokemon.status == "par":
        speed *= 0.5 if dex.gen >= 7 else 0.25
    return speed


def expected_damage(
    dex: Dex,
    move: MoveData,
    attacker: Pokemon,
    attacker_stats: dict[str, float],
    defender: Pokemon,
    defender_stats: dict[str, float],
    defender_side: Side,
) -> float:
    """Mean damage of one use that hits, as a fraction of the defender's full HP (not capped at its HP)."""
    if move.category == "Status":
        return 0.0
    multiplier = dex.effectiveness(move.type, defender.types)
    full_hp = defender_stats["hp"]
    if move.level_damage or move.fixed_damage:
        # Gen 1 ignores type immunities here: Night Shade hits Normal types.
        fixed = attacker.level if move.level_damage else move.fixed_damage
        return fixed / full_hp if multiplier or dex.gen == 1 else 0.0
    if move.id in HALF_OF_CURRENT_HP:
        return defender.hp_fraction / 2
    if not move.base_power or not multiplier:
        return 0.0
    if move.id == "dreameater" and defender.status != "slp":
        return 0.0
    physical = move.category == "Physical"
    attack_name, defence_name = ("atk", "def") if physical else ("spa", "spd")
    attack = attacker_stats[attack_name] * boost_multiplier(attacker.boosts.get(attack_name, 0))
    defence = defender_stats[defence_name] * boost_multiplier(defender.boosts.get(defence_name, 0))
    if physical and attacker.status == "brn":
        attack *= 0.5
    screen = "reflect" if physical else "lightscreen"
    if screen in defender.volatiles or screen in defender_side.conditions:
        defence *= 2
    if move.self_destruct and dex.gen <= 4:
        defence *= 0.5
    damage = ((2 * attacker.level / 5 + 2) * move.base_power * attack / max(defence, 1)) / 50 + 2
    if move.type in attacker.types:
        multiplier *= 1.5
    if dex.gen == 1:
        # Gen-1 criticals depend on base speed and ignore boosts; they double the level in the formula.
        speed = dex.species[attacker.species].base_stats["spe"]
        chance = min(speed / 512 * (8 if move.crit_ratio > 1 else 1), 255 / 256)
        multiplier *= 1 + 0.95 * chance
    return damage * multiplier * MEAN_DAMAGE_ROLL * move.expected_hits / full_hp


def best_attack_effectiveness(dex: Dex, pokemon: Pokemon, defending: tuple[str, ...]) -> float:
    """The best type multiplier, same-type bonus included, among the damaging moves that a Pokémon shows.

    For a Pokémon without a known damaging move, its own types stand in for its moves.
    """
    best = 0.0
    for slot in pokemon.moves:
        move = dex.moves.get(slot.id)
        if move is not None and move.base_power:
            bonus = 1.5 if move.type in pokemon.types else 1.0
            best = max(best, bonus * dex.effectiveness(move.type, defending))
    return best or max((1.5 * dex.effectiveness(one, defending) for one in pokemon.types), default=1.0)
