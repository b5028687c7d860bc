"""Learning curves as pictures."""

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(run: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one of a run's TensorBoard scalars."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    points = events.Scalars(name)
    return np.array([point.step + 1 for point in points]), np.array([point.value for point in points])


def smoothed(steps: np.ndarray, values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of the values in equal stretches of the run; stretches without a value are left out."""
    index = np.minimum(steps * bins // (steps[-1] + 1), bins - 1)
    filled = np.unique(index)
    return (filled + 0.5) / bins * steps[-1], np.array([values[index == one].mean() for one in filled])


def draw_curves(
    path: Path, title: str, curves: dict[str, list[tuple[np.ndarray, np.ndarray]]], levels: dict[str, float]
) -> None:
    """A line (steps, values) for each run, one colour for each label; levels: dashed lines across."""
    try:
        import matplotlib
    except ImportError:
        print(f"no picture {path}: pip install -r benchmark/requirements.txt")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for index, (label, runs) in enumerate(curves.items()):
        for number, (steps, values) in enumerate(runs):
            axes.plot(steps, values, color=f"C{index}", alpha=0.8, label=None if number else label)
    for label, level in levels.items():
        axes.axhline(level, color="grey", linestyle="--", linewidth=1, label=label)
    axes.set(title=title, xlabel="decisions", ylabel="mean return of the games that ended")
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"{path}: learning curves")
