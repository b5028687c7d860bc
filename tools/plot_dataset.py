"""Draws what a folder of episodes of continuous control holds: one picture.

    python tools/plot_dataset.py expert_data/hopper-v5
    python tools/plot_dataset.py --minari mujoco/hopper/medium-v0 --output medium.png

Returns and lengths; who had which return; how often each action was taken; and the states, or the latents
that an encoder made of pictures, in the plane in which they vary most (principal components), coloured by how
long the episode still lasts, and by its return. It needs matplotlib (benchmark/requirements.txt).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from cleanpoke.envs.control_episodes import ControlEpisode, load_control_folder, load_minari
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import atomic_file

MOST_POINTS = 20_000
"""States drawn; of larger data a random share."""
MOST_ACTIONS = 9
"""Actions that get a histogram of their own."""
MOST_PLAYERS = 6
"""Players that get a colour of their own."""
BINS = 30
BLUE, GREY = "#2f6db3", "#8a8a8a"


@dataclass
class Args:
    folder: tyro.conf.Positional[Path | None] = None
    """folder of episodes (*.npz)"""
    minari: str | None = None
    """a Minari dataset on this machine instead"""
    output: Path | None = None
    """the picture; default: <folder>.png beside the folder, or <dataset>.png here"""
    seed: int = 0
    """of the choice of states, where there are many"""


def load_matplotlib() -> Any:
    """Its pyplot, without a window. Raises CleanPokeError if it is not there."""
    try:
        import matplotlib
    except ImportError as error:
        raise CleanPokeError("pictures need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plane_of(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States (B, O), standardised, along the two directions in which they vary most: (B, 2); and the shares
    (2,) of all variance that these hold. What never varies counts for nothing."""
    centred = (states - states.mean(0)) / np.maximum(states.std(0), 1e-6)
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    order = np.argsort(variances)[::-1][:2]
    points = centred @ vectors[:, order]
    if points.shape[1] < 2:  # a world that shows a single number
        points, order = np.column_stack([points, np.zeros(len(points))]), np.append(order, order)
    shares = variances[order] / max(variances.sum(), 1e-12)
    return points, shares * (np.arange(2) < len(variances))


def draw_histogram(axes: Any, values: np.ndarray, title: str, label: str, bins: Any = BINS) -> None:
    axes.hist(values, bins=bins, color=BLUE)
    median = float(np.median(values))
    axes.axvline(median, color="black", linewidth=1, linestyle="--")
    axes.set_title(f"{title}: median {median:,.4g}, {values.min():,.4g} to {values.max():,.4g}", fontsize=10)
    axes.set(xlabel=label, ylabel="episodes")


def bins_of_lengths(lengths: np.ndarray) -> np.ndarray:
    """Bounds of bins that hold the same count of whole numbers each, with room for three numbers at least."""
    low, high = lengths.min() - 1, lengths.max() + 2
    width = -(-(high - low) // BINS)
    return np.arange(low, high + width, width) - 0.5


def draw_players(axes: Any, episodes: list[ControlEpisode], returns: np.ndarray) -> None:
    """Each episode's return, in the order of the files; a colour for each player."""
    players = [str(episode.meta.get("player", "unknown")) for episode in episodes]
    names = sorted(set(players), key=players.index)
    for index, name in enumerate(names):
        numbers = np.flatnonzero(np.array(players) == name)
        is_named = index < MOST_PLAYERS
        label = f"{name} ({len(numbers):,})" if is_named else None
        colour = f"C{index}" if is_named else GREY
        axes.scatter(numbers, returns[numbers], s=12, color=colour, alpha=0.7, linewidths=0, label=label)
    others = f", the first {MOST_PLAYERS} of {len(names)} players named" if len(names) > MOST_PLAYERS else ""
    axes.set_title(f"return of each episode{others}", fontsize=10)
    axes.set(xlabel="number of the episode", ylabel="return")
    axes.legend(fontsize=8, loc="best")


def draw_actions(figure: Any, grid: Any, actions: np.ndarray) -> None:
    """A small histogram for each entry of the actions (T, A)."""
    count = min(actions.shape[1], MOST_ACTIONS)
    columns = min(count, 3)
    inner, axes = grid.subgridspec(-(-count // columns), columns), None
    for index in range(count):
        axes, values = figure.add_subplot(inner[divmod(index, columns)], sharey=axes), actions[:, index]
        axes.hist(values, bins=BINS, color=GREY, weights=np.full(len(values), 100 / len(values)))
        axes.set_title(f"action {index}", fontsize=9)
        axes.tick_params(labelsize=8)
        if index % columns == 0:
            axes.set_ylabel("% of steps", fontsize=8)


def draw_plane(
    figure: Any, axes: Any, points: np.ndarray, shares: np.ndarray, values: np.ndarray, title: str
) -> None:
    order = np.random.default_rng(0).permutation(len(points))  # so that no episode hides the others
    drawn = axes.scatter(
        *points[order].T,
        c=values[order],
        s=np.clip(20_000 / len(points), 3, 12),
        linewidths=0,
        alpha=0.6,
        cmap="viridis",
    )
    bar = figure.colorbar(drawn, ax=axes)
    bar.solids.set_alpha(1)
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=f"1st component ({shares[0]:.0%} of variance)", ylabel=f"2nd ({shares[1]:.0%})")


def draw(path: Path, name: str, episodes: list[ControlEpisode], seed: int) -> None:
    """Writes the picture, complete or not at all."""
    pyplot = load_matplotlib()
    lengths = np.array([len(episode) for episode in episodes])
    returns = np.array([float(episode.rewards.sum()) for episode in episodes])
    states = np.concatenate([episode.observations[:-1] for episode in episodes]).astype(np.float64)
    actions = np.concatenate([episode.actions for episode in episodes])
    to_the_end = np.concatenate([np.arange(length, 0, -1) for length in lengths])
    points, shares = plane_of(states)
    some = np.random.default_rng(seed).permutation(len(points))[:MOST_POINTS]

    figure = pyplot.figure(figsize=(15, 8.4), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    ended = np.mean([episode.terminated for episode in episodes])
    about = f"{len(episodes):,} episodes, {lengths.sum():,} steps, {ended:.0%} ended by the world"
    figure.suptitle(f"{name}: {about}", fontsize=13)
    draw_histogram(figure.add_subplot(grid[0, 0]), returns, "return", "return of an episode")
    axes, bins = figure.add_subplot(grid[0, 1]), bins_of_lengths(lengths)
    draw_histogram(axes, lengths, "length", "steps of an episode", bins)
    draw_players(figure.add_subplot(grid[0, 2]), episodes, returns)
    draw_actions(figure, grid[1, 0], actions)
    for column, values, title in (
        (1, to_the_end, "states, by the steps until the end"),
        (2, np.repeat(returns, lengths), "states, by the return of the episode"),
    ):
        axes = figure.add_subplot(grid[1, column])
        draw_plane(figure, axes, points[some], shares, values[some], title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            figure.savefig(file, format="png", dpi=110)
    except OSError as error:
        raise CleanPokeError(f"cannot write {path} ({error.strerror}): choose another --output") from error
    finally:
        pyplot.close(figure)


def main(args: Args) -> None:
    if (args.folder is None) == (args.minari is None):
        raise CleanPokeError("give a folder of episodes or --minari <dataset>, one of the two")
    load_matplotlib()  # before much is read
    if args.minari:
        episodes, name = load_minari(args.minari), args.minari
        path = args.output or Path(f"{args.minari.replace('/', '_')}.png")
    else:
        episodes, name = load_control_folder(args.folder), str(args.folder)
        folder = args.folder.resolve()
        path = args.output or folder.with_name(f"{folder.name}.png")
    draw(path, name, episodes, args.seed)
    print(f"{path}: {len(episodes):,} episodes")


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
