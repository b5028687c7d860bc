"""The picture of a data folder: it is drawn, its plane is the right one, and what is missing is told."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleanpoke.envs.control_episodes import save_control_episode
from cleanpoke.errors import CleanPokeError
from tests.envs.test_control_episodes import minari, some_episode, write_dataset  # noqa: F401  a fixture
from tools import plot_dataset
from tools.plot_dataset import Args, plane_of

ROOT = Path(__file__).parents[2]


def test_the_plane_is_the_one_in_which_states_vary_most():
    generator = np.random.default_rng(0)
    wide = generator.normal(size=(500, 2))
    mixed = np.column_stack([wide[:, 0], wide[:, 0], wide[:, 1], wide[:, 1], generator.normal(size=500)])
    points, shares = plane_of(100 + mixed * [1, 10, 1, 10, 1])
    assert shares.sum() == pytest.approx(0.8, abs=0.02)  # four of five standardised numbers
    explained = points @ np.linalg.lstsq(points, wide - wide.mean(0))[0]
    assert np.square(wide - wide.mean(0) - explained).mean() < 0.01


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_states_that_hardly_vary_have_a_plane_too(columns):
    states = np.zeros((10, columns))
    states[:, 0] = np.arange(10)
    points, shares = plane_of(states)
    assert points.shape == (10, 2) and np.isfinite(points).all() and shares == pytest.approx([1.0, 0.0])
    points, shares = plane_of(np.zeros((1, columns)))
    assert points.shape == (1, 2) and np.isfinite(points).all() and np.isfinite(shares).all()


@pytest.mark.parametrize(("lengths", "sizes"), [((30, 50, 12), (3, 2)), ((1,), (1, 1)), ((9, 9), (64, 12))])
def test_a_picture_is_drawn(tmp_path, capsys, lengths, sizes):
    pytest.importorskip("matplotlib")
    for number, length in enumerate(lengths):
        episode = some_episode(length, num_inputs=sizes[0], num_actions=sizes[1], seed=number)
        save_control_episode(tmp_path / "data" / f"{number}.npz", episode)
    plot_dataset.main(Args(tmp_path / "data"))
    path = tmp_path / "data.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[1] > 1000 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert f"{path}: {len(lengths)} episodes" in capsys.readouterr().out


def bars_of(axes) -> list[tuple[float, float, float]]:
    """Left, right and height of a histogram's bars, without those of height zero."""
    bars = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in axes.patches]
    return [bar for bar in bars if bar[2]]


def test_histograms_count_what_is_in_the_episodes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pyplot = plot_dataset.load_matplotlib()
    episodes = []
    for number, (length, total) in enumerate(((2, 10.0), (9, -5.0), (2, 10.0), (3, 9.9))):
        episode = some_episode(length, num_actions=2, seed=number)
        episode.rewards[:] = total / length
        episode.actions[:, 0] = -0.5 if length == 9 else 1.0
        episodes.append(episode)
    with monkeypatch.context() as patched:  # so that the figure can be looked at
        patched.setattr(pyplot, "close", lambda figure: None)
        plot_dataset.draw(tmp_path / "a.png", "some", episodes, seed=0)
    figure = pyplot.gcf()
    returns, lengths, players, *others = figure.axes
    assert (returns.get_xlabel(), lengths.get_xlabel()) == ("return of an episode", "steps of an episode")
    (low, _, few), (left, high, many) = bars_of(returns)
    assert (few, many) == (1, 3) and low == pytest.approx(-5) and high == pytest.approx(10) and left < 9.9
    assert bars_of(lengths) == [(1.5, 2.5, 2), (2.5, 3.5, 1), (8.5, 9.5, 1)]
    assert "median 9.95, -5 to 10" in returns.get_title() and "median 2.5, 2 to 9" in lengths.get_title()
    ((_, _, first), (_, _, second)) = bars_of(others[0])
    assert (first, second) == (pytest.approx(100 * 9 / 16), pytest.approx(100 * 7 / 16))
    assert sum(height for _, _, height in bars_of(others[1])) == pytest.approx(100)
    (points,) = players.collections
    assert np.allclose(points.get_offsets(), [(0, 10), (1, -5), (2, 10), (3, 9.9)], atol=1e-4)
    pyplot.close(figure)


@pytest.mark.filterwarnings("ignore")
def test_minari_datasets_are_drawn_too(minari, tmp_path):  # noqa: F811
    pytest.importorskip("matplotlib")
    write_dataset(minari, "point/some-v0", [some_episode(9)])
    plot_dataset.main(Args(minari="point/some-v0", output=tmp_path / "new" / "picture.png"))
    assert Image.open(tmp_path / "new" / "picture.png").size[0] > 1000


def test_wrong_arguments_are_told_in_one_line(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with pytest.raises(CleanPokeError, match="give a folder of episodes or --minari"):
        plot_dataset.main(Args())
    with pytest.raises(CleanPokeError, match="holds no episodes"):
        plot_dataset.main(Args(tmp_path / "nowhere"))
    with pytest.raises(CleanPokeError, match="file is a file: give its folder"):
        plot_dataset.main(Args(tmp_path / "file"))
    save_control_episode(tmp_path / "data" / "a.npz", some_episode())
    with pytest.raises(CleanPokeError, match=r"cannot write .*choose another --output"):
        plot_dataset.main(Args(tmp_path / "data", output=tmp_path / "file" / "a.png"))


def test_without_matplotlib_it_is_told_how_to_install_it(tmp_path):
    blocker = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["plot_dataset.py", "."]
runpy.run_path("tools/plot_dataset.py", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", blocker],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: pictures need matplotlib: pip install matplotlib\n"
