"""PointMass-v0 obeys gymnasium's rules and can be solved as its docstring says."""

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from cleanpoke.envs.point_mass import MAX_STEPS, PointMass


def returns(policy, episodes: int = 40) -> np.ndarray:
    env = gym.make("PointMass-v0")
    totals = np.zeros(episodes)
    for episode in range(episodes):
        state, _ = env.reset(seed=episode)
        for step in range(MAX_STEPS):
            state, reward, terminated, truncated, _ = env.step(policy(state))
            totals[episode] += reward
            assert not terminated and truncated == (step + 1 == MAX_STEPS)
    return totals


def test_it_is_a_gymnasium_environment():
    check_env(PointMass(), skip_render_check=True)


def test_a_push_moves_it_and_too_hard_a_push_counts_as_the_hardest():
    env = PointMass()
    env.reset(seed=0)
    x, y = env.state[:2]
    (state, reward, *_), start = env.step(np.array([5.0, 0.0])), (x, y)
    assert np.allclose(state, [start[0] + 0.05, start[1], 0.1, 0.0])
    assert np.isclose(reward, -np.hypot(*state[:2]) - 0.01)


def test_braking_towards_the_origin_beats_chance():
    generator = np.random.default_rng(0)
    chance = returns(lambda _: generator.uniform(-1, 1, 2))
    skilled = returns(lambda state: np.clip(-4 * state[:2] - 8 * state[2:], -1, 1))
    assert -80 < chance.mean() < -40 < -20 < skilled.mean()
