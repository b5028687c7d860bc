"""Intervals of means over seeds."""

import numpy as np

T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t at 97.5%, for one degree of freedom and up: for 2 to 10 seeds."""


def mean_over_seeds(values: list[float]) -> str:
    """Mean of one value from each seed with its 95% interval, by Student's t; of one seed the value alone."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return f"{mean:.1f}"
    error = np.std(values, ddof=1) / count**0.5 * T_QUANTILES[min(count - 2, len(T_QUANTILES) - 1)]
    return f"{mean:.1f} ± {error:.1f}"
