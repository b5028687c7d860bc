"""Car racing without needless drawing: the pixels and rewards are gymnasium's, and encoders survive files."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from cleanpoke.envs.car_racing import (
    CarPictures,
    Circuit,
    Reading,
    latent_env,
    load_encoder,
    save_encoder,
    small_picture,
)
from cleanpoke.errors import CleanPokeError

READING = Reading("CarRacing-v3", 8, 4, 5)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def encoder_network() -> nn.Module:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(4, 3, 5, stride=3), nn.ReLU(), nn.Flatten())
            self.layers.append(nn.Linear(3 * 15 * 15, 5))

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.layers(pictures.float() / 255)

    torch.manual_seed(0)
    return Network()


def driven(steps: int) -> np.ndarray:
    """Actions (steps, 3): first along the road, then wild."""
    generator = np.random.default_rng(0)
    actions = generator.uniform([-1, 0, 0], [1, 1, 0.1], (steps, 3)).astype(np.float32)
    actions[: steps // 3, 0] *= 0.1
    return actions


def test_skipped_drawing_changes_neither_pictures_nor_rewards():
    plain, ours = gym.make("CarRacing-v3", disable_env_checker=True), CarPictures(action_repeat=8)
    circuit = Circuit()
    for seed in (3, 4):
        picture, _ = plain.reset(seed=seed)
        observation, _ = ours.reset(seed=seed)
        circuit.reset(seed=seed)
        assert (observation == small_picture(picture)).all()
        stack = [small_picture(picture)] * 4
        for action in driven(20):
            total = 0.0
            for _ in range(8):
                picture, reward, *_ = plain.step(action)
                assert circuit.step(action)[0] is None
                total += reward
            observation, reward, terminated, truncated, _ = ours.step(action)
            assert (ours.render() == picture).all() and (circuit.picture() == picture).all()
            stack = [*stack[1:], small_picture(picture)]
            assert (observation == np.stack(stack)).all()
            assert reward == pytest.approx(total) and not terminated and not truncated


def test_small_pictures_are_grey_means():
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    expected = (picture @ np.array([0.25, 0.5, 0.25])).reshape(48, 2, 48, 2).mean((1, 3))
    assert np.abs(small_picture(picture) - expected).max() <= 1
    assert (small_picture(np.full((96, 96, 3), 255, np.uint8)) == 255).all()


def test_seeds_name_episodes_whatever_was_driven_before():
    one, other = CarPictures(), CarPictures()
    one.reset(seed=1)
    for action in driven(20):
        one.step(action)
    first, second = one.reset(seed=5)[0], other.reset(seed=5)[0]
    assert (first == second).all()
    for action in driven(20):
        ours, theirs = one.step(action), other.step(action)
        assert (ours[0] == theirs[0]).all() and ours[1:] == theirs[1:]


def test_the_time_limit_and_impatience_cut_off_and_nothing_is_terminated():
    standing = np.array([0, 0, 1], np.float32)
    for patience, decisions in ((0, 125), (60, 8)):
        env = CarPictures(patience=patience)
        env.reset(seed=1)
        ends = [env.step(standing)[2:4] for _ in range(decisions)]
        assert ends[:-1] == [(False, False)] * (decisions - 1) and ends[-1] == (False, True)


def test_leaving_the_field_is_a_termination():
    env = CarPictures()
    env.reset(seed=1)
    for _ in range(125):
        _, reward, terminated, truncated, info = env.step(np.array([0.02, 0.6, 0], np.float32))
        if terminated or truncated:
            break
    assert terminated and not truncated and reward < -90 and info == {"lap_finished": False}


def test_encoders_survive_their_files_and_read_any_number_of_pictures(tmp_path):
    network, path = encoder_network(), tmp_path / "encoder.pt2"
    save_encoder(path, network, READING)
    encoder = load_encoder(path)
    assert encoder.reading == READING
    for name, weights in network.state_dict().items():
        assert torch.equal(encoder.weights[name], weights)
    for count in (1, 2, 9):
        pictures = torch.randint(0, 256, (count, 4, 48, 48), dtype=torch.uint8)
        with torch.no_grad():
            expected = network(pictures).numpy()
        assert np.allclose(encoder.latents(pictures.numpy()), expected, atol=1e-6)
    assert load_encoder(path).checksum == encoder.checksum
    save_encoder(tmp_path / "other.pt2", nn.Sequential(network, nn.Tanh()), READING)
    assert load_encoder(tmp_path / "other.pt2").checksum != encoder.checksum
    assert {file.name for file in tmp_path.iterdir()} == {"encoder.pt2", "other.pt2"}


def test_latents_are_what_the_network_makes_of_the_pictures(tmp_path):
    network = encoder_network()
    save_encoder(tmp_path / "encoder.pt2", network, READING)
    latents, pictures = latent_env("CarRacing-v3", tmp_path / "encoder.pt2"), CarPictures()
    seen, (shown, _) = latents.reset(seed=2)[0], pictures.reset(seed=2)
    for action in driven(10):
        with torch.no_grad():
            expected = network(torch.from_numpy(shown)[None])[0].numpy()
        assert seen.dtype == np.float32 and latents.observation_space.contains(seen)
        assert np.allclose(seen, expected, atol=1e-6)
        (seen, reward, *_), (shown, expected_reward, *_) = latents.step(action), pictures.step(action)
        assert reward == expected_reward


def test_files_that_are_no_encoders_are_told_in_one_line(tmp_path):
    with pytest.raises(CleanPokeError, match="cannot read .*nothing.pt2"):
        load_encoder(tmp_path / "nothing.pt2")
    for content in (b"", b"text"):
        (tmp_path / "bad.pt2").write_bytes(content)
        with pytest.raises(CleanPokeError, match="bad.pt2 is damaged or no encoder"):
            load_encoder(tmp_path / "bad.pt2")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "bad.pt2")
    with pytest.raises(CleanPokeError, match="bad.pt2 is damaged or no encoder"):
        load_encoder(tmp_path / "bad.pt2")
    save_encoder(tmp_path / "encoder.pt2", encoder_network(), READING)
    with pytest.raises(CleanPokeError, match="reads pictures of CarRacing-v3, not of Hopper-v5"):
        latent_env("Hopper-v5", tmp_path / "encoder.pt2")
