"""Bootstrap intervals of scores, over participants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sepclr_med.analysis.metrics import Metric

LEVEL = 0.95
NUMBERS_AT_ONCE = 4_000_000


def score_with_intervals(
    metrics: Mapping[str, Metric],
    truth: np.ndarray,
    scores: np.ndarray,
    participants: np.ndarray,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, tuple[float, float, float]]:
    """Score predictions, with percentile bootstrap intervals over participants.

    Whole participants are drawn, with all their rows. For classes the draw is within strata of equal true classes, so
    that every resample holds every class.

    Parameters
    ----------
    metrics : mapping of str to Metric
        The scores wanted; all see the same resamples.
    truth, scores : array
        As the metrics take them; integer ``truth`` means classes.
    participants : array of shape (n,)
        Whom each row belongs to.
    n_bootstrap : int
        Resamples; with 0 the interval is missing.
    rng : Generator
        Source of the draws.

    Returns
    -------
    dict of str to (float, float, float)
        Value, and the 2.5th and 97.5th percentile.

    Examples
    --------
    >>> from sepclr_med.analysis.metrics import mae
    >>> truth = np.arange(50.0)
    >>> rng = np.random.default_rng(0)
    >>> score_with_intervals({"mae": mae}, truth, truth + 1, np.arange(50), 100, rng)
    {'mae': (1.0, 1.0, 1.0)}
    """
    everyone = np.ones((1, len(truth)))
    values = {name: float(metric(truth, scores, everyone)[0]) for name, metric in metrics.items()}
    people, row_of = np.unique(participants, return_inverse=True)
    strata = _strata(truth, row_of, len(people))
    drawn: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in metrics}
    remaining = n_bootstrap
    while remaining > 0:
        n_draws = min(remaining, max(1, NUMBERS_AT_ONCE // len(truth)))
        weights = _draw(strata, n_draws, rng)[:, row_of]
        for name, metric in metrics.items():
            drawn[name].append(metric(truth, scores, weights))
        remaining -= n_draws
    return {name: (value, *_percentiles(np.concatenate(drawn[name]))) for name, value in values.items()}


def draw_weights(truth: np.ndarray, participants: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each row counts in each resample, (n_bootstrap, n), drawn as in :func:`score_with_intervals`."""
    people, row_of = np.unique(participants, return_inverse=True)
    return _draw(_strata(truth, row_of, len(people)), n_bootstrap, rng)[:, row_of]


def _strata(truth: np.ndarray, row_of: np.ndarray, n_people: int) -> np.ndarray:
    if not np.issubdtype(truth.dtype, np.integer):
        return np.zeros(n_people, dtype=int)
    held = np.zeros((n_people, truth.max() + 1), dtype=bool)
    held[row_of, truth] = True
    return np.unique(held, axis=0, return_inverse=True)[1].ravel()


def _draw(strata: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    counts = np.zeros((n_draws, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        n = len(members)
        picked = rng.integers(n, size=(n_draws, n)) + n * np.arange(n_draws)[:, None]
        counts[:, members] = np.bincount(picked.ravel(), minlength=n_draws * n).reshape(n_draws, n)
    return counts


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
