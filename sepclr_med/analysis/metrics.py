"""Scores of predictions, for one set of weights per resample or for one truth per permutation.

Every score takes a matrix of weights, one row per resample, and gives one value per resample: a bootstrap draw is how
often each participant was drawn, so a thousand resamples are a handful of matrix products instead of a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from sepclr_med.analysis.measures import Measure

Metric: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


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


def spearman(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank correlation of values and predictions, ties at their mean rank.

    Parameters
    ----------
    truth, scores, weights
        As for :func:`r2`.

    Returns
    -------
    array of shape (B,)
        Zero where all predictions are the same, missing where all values are.

    Examples
    --------
    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3]), np.ones((1, 3)))
    array([1.])
    """
    count = weights.sum(axis=1, keepdims=True)
    ranks = [_ranks(values, weights) - count / 2 for values in (truth, scores)]
    spread_of_truth, spread_of_scores = ((weights * rank**2).sum(axis=1) for rank in ranks)
    shared = (weights * ranks[0] * ranks[1]).sum(axis=1)
    nothing = 1e-12 * count[:, 0] ** 3
    known = np.where(spread_of_truth > nothing, 1.0, np.nan)
    scale = np.sqrt(spread_of_truth * spread_of_scores)
    return known * np.where(spread_of_scores > nothing, shared / np.where(scale > 0, scale, 1.0), 0.0)


METRICS: dict[Measure, dict[str, Metric]] = {
    "continuous": {"r2": r2, "mae": mae, "spearman": spearman},
    "ordinal": {"spearman": spearman, "mae": mae, "r2": r2},
    "binary": {"balanced_accuracy": balanced_accuracy, "auc": auc},
    "categorical": {"balanced_accuracy": balanced_accuracy, "auc": auc},
}
# What stands for a variable where one figure must do.
HEADLINES: dict[str, str] = {measure: next(iter(metrics)) for measure, metrics in METRICS.items()}


def _area(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(score, kind="stable")
    ties = np.flatnonzero(np.append(True, np.diff(score[order]) > 0))
    ordered = weights[:, order]
    above = np.add.reduceat(ordered * positive[order], ties, axis=1)
    below = np.add.reduceat(ordered * ~positive[order], ties, axis=1)
    pairs_won = above * (np.cumsum(below, axis=1) - below / 2)
    return pairs_won.sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    first = np.append(True, np.diff(values[order]) > 0)
    counts = np.add.reduceat(weights[:, order], np.flatnonzero(first), axis=1)
    middle = np.cumsum(counts, axis=1) - counts / 2
    ranks = np.empty(weights.shape)
    ranks[:, order] = middle[:, np.cumsum(first) - 1]
    return ranks
