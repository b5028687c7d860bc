"""Learning curves as pictures."""

from pathlib import Path
from typing import Any

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
    """A line (steps, values) for each run, one colour for each label; levels: dashed lines across.

    A level far above all curves would flatten them: the legend alone names it.
    """
    if not (axes := new_picture(path)):
        return
    for index, (label, runs) in enumerate(curves.items()):
        for number, (steps, values) in enumerate(runs):
            axes.plot(steps, values, color=f"C{index}", alpha=0.8, label=None if number else label)
    highest = max(float(values.max()) for runs in curves.values() for _, values in runs)
    for label, level in levels.items():
        if level > 3 * highest > 0:
            axes.plot([], [], color="grey", linestyle="--", label=f"{label}: {level:g}, far above")
        else:
            axes.axhline(level, color="grey", linestyle="--", linewidth=1, label=label)
    axes.set(title=title, xlabel="decisions", ylabel="mean return of the games that ended")
    save_picture(axes, path, "learning curves")


def new_picture(path: Path) -> Any | None:
    """Axes to draw on; without matplotlib None, and it is said what to install for this picture."""
    try:
        import matplotlib
    except ImportError:
        print(f"no picture {path}: pip install -r benchmark/requirements.txt")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(7, 4.2), layout="constrained")[1]


def save_picture(axes: Any, path: Path, content: str) -> None:
    """Writes the picture of these axes, with a legend, and says so."""
    from matplotlib import pyplot

    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(path, dpi=110)
    pyplot.close(axes.figure)
    print(f"{path}: {content}")
