"""Scores of predictions, and their bootstrap intervals over participants.

Every score takes a matrix of weights, one row per resample, and gives one value per resample: a bootstrap draw is how
often each participant was drawn, so a thousand resamples are a handful of matrix products instead of a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

Metric: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

LEVEL = 0.95
NUMBERS_AT_ONCE = 4_000_000


def balanced_accuracy(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""Mean over classes of the share of a class that is recognised.

    .. math:: \frac{1}{k} \sum_c \frac{\sum_{i: y_i = c} w_i [\hat y_i = c]}{\sum_{i: y_i = c} w_i}

    Parameters
    ----------
    truth : int array of shape (n,)
        Class of each row, 0 to k - 1.
    scores : array of shape (n, k)
        Probability of each class; the largest is the prediction.
    weights : array of shape (B, n)
        How often each row counts, in each of B resamples.

    Returns
    -------
    array of shape (B,)

    Examples
    --------
    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    >>> balanced_accuracy(np.array([0, 0, 1, 1]), scores, np.ones((1, 4)))
    array([0.75])
    """
    member = np.eye(scores.shape[1])[truth]
    right = scores.argmax(axis=1) == truth
    return ((weights * right) @ member / (weights @ member)).mean(axis=1)


def auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, ties counted half; with several classes the mean of each class against the rest.

    Parameters
    ----------
    truth, scores, weights
        As for :func:`balanced_accuracy`.

    Returns
    -------
    array of shape (B,)

    Examples
    --------
    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    >>> auc(np.array([0, 0, 1, 1]), scores, np.ones((1, 4)))
    array([1.])
    """
    n_classes = scores.shape[1]
    classes = [1] if n_classes == 2 else range(n_classes)
    return np.mean([_area(truth == c, scores[:, c], weights) for c in classes], axis=0)


def r2(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""Share of the variance explained: one minus squared error over squared distance to the scored rows' own mean.

    .. math:: 1 - \frac{\sum_i w_i (y_i - \hat y_i)^2}{\sum_i w_i (y_i - \bar y_w)^2}

    Parameters
    ----------
    truth, scores : array of shape (n,)
        Values and predictions.
    weights : array of shape (B, n)
        How often each row counts, in each of B resamples.

    Returns
    -------
    array of shape (B,)
        Missing for a resample in which all values are the same.

    Examples
    --------
    >>> r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]), np.ones((1, 3)))
    array([0.5])
    """
    # Centred first: the difference of large sums below would lose the digits of a variable far from zero.
    centred = truth - truth.mean()
    count = weights.sum(axis=1)
    spread = weights @ centred**2 - (weights @ centred) ** 2 / count
    error = weights @ (truth - scores) ** 2
    alike = spread <= 1e-12 * (count * np.square(centred).max(initial=0.0))
    return np.where(alike, np.nan, 1 - error / np.where(alike, 1.0, spread))


def mae(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean absolute error, in the unit of the variable.

    Parameters
    ----------
    truth, scores, weights
        As for :func:`r2`.

    Returns
    -------
    array of shape (B,)

    Examples
    --------
    >>> mae(np.array([1.0, 2.0]), np.array([1.0, 4.0]), np.ones((1, 2)))
    array([1.])
    """
    return weights @ np.abs(truth - scores) / weights.sum(axis=1)


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


def _area(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(score, kind="stable")
    ties = np.flatnonzero(np.append(True, np.diff(score[order]) > 0))
    ordered = weights[:, order]
    above = np.add.reduceat(ordered * positive[order], ties, axis=1)
    below = np.add.reduceat(ordered * ~positive[order], ties, axis=1)
    pairs_won = above * (np.cumsum(below, axis=1) - below / 2)
    return pairs_won.sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))


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
