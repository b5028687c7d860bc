"""The benchmark of the small worlds: its runs are what the pages say, and the scripts take their options."""

import pytest
import small_worlds
import tyro
from small_worlds import Args, planned

from cleanpoke import ppo, ppo_vizdoom
from cleanpoke.errors import CleanPokeError


@pytest.mark.parametrize("variants", [False, True])
def test_the_scripts_take_the_options_of_every_run(variants):
    jobs = planned(Args(variants=variants))
    for world, seed, _, options in jobs:
        script = {"ppo": ppo, "ppo_vizdoom": ppo_vizdoom}[world.script]
        args = tyro.cli(script.Args, args=options)
        script.check(args)
        assert (args.env_id, args.seed) == (world.env_id, seed)
    worlds = small_worlds.VARIANTS if variants else small_worlds.WORLDS
    assert len({folder for _, _, folder, _ in jobs}) == len(jobs) == 3 * len(worlds)


def test_lunar_lander_without_long_rollouts_is_a_run_of_its_own():
    ((*_, options),) = planned(Args(worlds=("LunarLander-v3",), variants=True, seeds=(1,)))
    expected = ppo.Args(env_id="LunarLander-v3", total_timesteps=1_000_000, gamma=0.999)
    assert tyro.cli(ppo.Args, args=options) == expected


def test_worlds_without_variants_are_told_in_one_line():
    with pytest.raises(CleanPokeError, match="no variants of CartPole-v1: choose Taxi-v4"):
        planned(Args(worlds=("CartPole-v1",), variants=True))
    with pytest.raises(CleanPokeError, match="unknown worlds Taxi-v3"):
        planned(Args(worlds=("Taxi-v3",)))
