"""Worlds of continuous control: gymnasium's environments that show a vector and take a bounded vector."""

from pathlib import Path
from typing import Any

import gymnasium as gym

import cleanpoke.envs.point_mass  # noqa: F401  registers PointMass-v0
from cleanpoke.errors import CleanPokeError


def make_env(env_id: str, encoder_path: Path | None = None, **options: Any) -> gym.Env:
    """Raises CleanPokeError for one that cannot be made, shows or takes something else, or never ends.

    encoder_path: frozen encoder through which pictures are seen; options: the environment's own, otherwise.
    """
    if encoder_path:
        from cleanpoke.envs.car_racing import latent_env  # it needs two packages that others do without

        return latent_env(env_id, encoder_path)
    try:
        env = gym.make(env_id, **options)
    except (gym.error.Error, ImportError, TypeError) as error:  # TypeError: an option that it does not have
        raise CleanPokeError(f"cannot make {env_id!r}: {' '.join(str(error).split())}") from error
    seen, actions = env.observation_space, env.action_space
    if not (isinstance(seen, gym.spaces.Box) and len(seen.shape) == 1):
        hint = "; latents of its pictures: --store-latents" if env_id.startswith("CarRacing") else ""
        raise CleanPokeError(f"{env_id} shows {seen}: this needs a world that shows one vector{hint}")
    if not (isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1 and actions.is_bounded()):
        raise CleanPokeError(
            f"{env_id} takes actions {actions}: this needs a world that takes bounded vectors"
        )
    if env.spec.max_episode_steps is None:
        raise CleanPokeError(f"episodes of {env_id} may never end: register it with max_episode_steps")
    return env
