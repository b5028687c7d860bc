"""Players: poke-env's own play in process as over a socket, ours are stronger than chance, noise is noise."""

import random

import pytest

from cleanpoke.envs.showdown.arena import Match, play, wilson_interval
from cleanpoke.envs.showdown.encoder import Encoder
from cleanpoke.envs.showdown.players import make_player
from cleanpoke.envs.showdown.simulator import Simulator
from cleanpoke.envs.showdown.teams import load_teams
from cleanpoke.errors import CleanPokeError


def share_won(battle_format, first, second, battles=40):
    """Share of decided battles that `first` wins, seats swapped half the time."""
    generator = random.Random(5)
    agent, opponent = (make_player(name, battle_format, seed=1) for name in (first, second))
    teams = [team.packed for team in load_teams(battle_format, "train")] or [None]
    matches = []
    for index in range(battles):
        seats = (agent, opponent) if index % 2 else (opponent, agent)
        matches.append(Match(index, seats, (generator.choice(teams), generator.choice(teams))))
    wins = total = 0
    with Simulator(battle_format, seed=2) as simulator:
        for result in play(simulator, matches, Encoder(battle_format)):
            assert not result.truncated, result.reason
            total += 1
            wins += result.winner is not None and result.match.players[result.winner] is agent
    assert total == battles
    return wins / total


@pytest.mark.parametrize("battle_format", ["gen1ou", "gen9randombattle"])
def test_simple_heuristics_beats_random(battle_format):
    assert share_won(battle_format, "simple_heuristics", "random") > 0.75


def test_tactician_beats_max_base_power():
    assert share_won("gen1ou", "tactician", "max_base_power") > 0.6


def test_noise_of_one_is_random_play():
    assert share_won("gen1ou", "tactician:1.0", "tactician") < 0.2


def test_unknown_player_names_the_nearest():
    with pytest.raises(CleanPokeError, match="did you mean 'tactician'"):
        make_player("tacticain", "gen1ou", seed=0)
    with pytest.raises(CleanPokeError, match="from 0 to 1"):
        make_player("tactician:1.5", "gen1ou", seed=0)


def test_wilson_interval_of_known_cases():
    low, high = wilson_interval(50, 100)
    assert low == pytest.approx(0.4038, abs=1e-3) and high == pytest.approx(0.5962, abs=1e-3)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
