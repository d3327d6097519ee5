"""Do the two spaces hold the same thing? Three measures of dependence, each beside what chance gives.

A measure of dependence between two spaces of many factors is far above zero even when they have nothing in common, so
no value says anything without the mean over permutations that stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sepclr_med.analysis.probes import predict_many
from sepclr_med.analysis.units import Folds

MOST_REFITS = 200
NUMBERS_AT_ONCE = 4_000_000
TOLERANCE = 1e-9


def distance_correlation(one: np.ndarray, other: np.ndarray) -> float:
    r"""Distance correlation of two sets of factors (Székely, Rizzo and Bakirov 2007).

    With A and B the matrices of Euclidean distances, centred by rows and columns,
    :math:`R^2 = \sum_{ij} A_{ij} B_{ij} / \sqrt{\sum A_{ij}^2 \sum B_{ij}^2}`. Zero only for independent variables, one
    for a shift, rotation and scaling; in samples its chance level grows with the number of factors.

    Parameters
    ----------
    one, other : array of shape (n, d) and (n, e)
        Factors of the same participants.

    Returns
    -------
    float
        R, from 0 to 1; missing when a space does not vary.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(distance_correlation(x, 2 * x + 1), 6)
    1.0
    """
    return _Alignment(_distances(one), _distances(other), root=True).value


def normalised_hsic(one: np.ndarray, other: np.ndarray) -> float:
    r"""Hilbert-Schmidt independence criterion (Gretton et al. 2005), as a share of what each space has with itself.

    Gaussian kernels :math:`\exp(-d^2 / 2\sigma^2)` with :math:`\sigma` the median distance; HSIC(K, L) is the sum of
    the products of the centred kernels, divided here by :math:`\sqrt{HSIC(K, K) HSIC(L, L)}`.

    Parameters
    ----------
    one, other : array of shape (n, d) and (n, e)
        Factors of the same participants.

    Returns
    -------
    float
        From 0 to 1; missing when a space does not vary.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(normalised_hsic(x, 2 * x + 1), 6)
    1.0
    """
    return _Alignment(_kernel(one), _kernel(other)).value


def measure_dependence(
    one: np.ndarray, other: np.ndarray, permutations: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """Measure the dependence of two spaces and hold it against participants exchanged in one of them.

    Parameters
    ----------
    one, other : array of shape (n, d) and (n, e)
        Factors of the same participants.
    permutations : int array of shape (K, n)
        Orders of the participants.

    Returns
    -------
    dict of {"distance_correlation", "hsic"} to (float, float, float)
        Value, mean over permutations, and p-value.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(40, 2))
    >>> orders = np.argsort(rng.random((99, 40)), axis=1)
    >>> measure_dependence(x, x**2, orders)["hsic"][2]
    0.01
    """
    aligned = {
        "distance_correlation": _Alignment(_distances(one), _distances(other), root=True),
        "hsic": _Alignment(_kernel(one), _kernel(other)),
    }
    return {name: alignment.test(permutations) for name, alignment in aligned.items()}


def cross_predict(
    features: np.ndarray, targets: np.ndarray, folds: Folds, permutations: np.ndarray, refits: bool
) -> tuple[float, float, float]:
    """Predict all factors of one space from another by ridge regression, on participants it was not fitted on.

    Parameters
    ----------
    features, targets : array of shape (n, d) and (n, e)
        The two spaces.
    folds : list of (int array, int array)
        Positions to fit on and to score on.
    permutations : int array of shape (K, number of scored rows), or (K, n) with ``refits``
        Orders of the participants' targets.
    refits : bool
        Whether the same participants are fitted on and, in other folds, scored: then each permutation is fitted anew,
        200 of them at most.

    Returns
    -------
    float
        R2 over all factors together: those that vary more count more, and a rotation of the axes hardly matters.
    float
        Its mean over permutations.
    float
        The p-value.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(60, 3))
    >>> orders = np.argsort(rng.random((99, 20)), axis=1)
    >>> r2, chance, p_value = cross_predict(x, x[:, :2], [(np.arange(40), np.arange(40, 60))], orders, False)
    >>> round(r2, 2), chance < 0, p_value
    (1.0, True, 0.01)
    """
    rows = np.concatenate([scored for _, scored in folds])
    predicted = predict_many(features, targets, folds)
    truth = targets[rows]
    spread = np.square(truth - truth.mean(axis=0)).sum()
    if not spread > 0:
        return np.nan, np.nan, np.nan
    value = 1 - np.square(truth - predicted).sum() / spread
    if refits:
        drawn = 1 - _refitted_errors(features, targets, folds, permutations[:MOST_REFITS]) / spread
    else:
        # |y - f|^2 is |y|^2 + |f|^2 - 2 y.f, and an exchange changes the last part only.
        products = truth @ predicted.T
        shared = np.array([products[order, np.arange(len(rows))].sum() for order in permutations])
        drawn = 1 - (np.square(truth).sum() + np.square(predicted).sum() - 2 * shared) / spread
    return float(value), *_against(value, drawn)


def _refitted_errors(features: np.ndarray, targets: np.ndarray, folds: Folds, permutations: np.ndarray) -> np.ndarray:
    """Return the squared error of probes fitted anew for each permutation, many permutations side by side."""
    rows = np.concatenate([scored for _, scored in folds])
    step = max(1, NUMBERS_AT_ONCE // targets.size)
    errors = [np.empty(0)]
    for start in range(0, len(permutations), step):
        moved = np.hstack([targets[order] for order in permutations[start : start + step]])
        squared = np.square(moved[rows] - predict_many(features, moved, folds)).sum(axis=0)
        errors.append(squared.reshape(-1, targets.shape[1]).sum(axis=1))
    return np.concatenate(errors)


class _Alignment:
    """The cosine of two centred matrices, and of one with the other's participants exchanged."""

    def __init__(self, one: np.ndarray, other: np.ndarray, root: bool = False):
        self.one, self.other = _centre(one), _centre(other)
        self.scale = np.sqrt(np.square(self.one).sum() * np.square(self.other).sum())
        self.finish: Callable[[np.ndarray], np.ndarray] = (
            (lambda values: np.sqrt(np.maximum(values, 0))) if root else (lambda values: values)
        )
        known = self.scale > 0
        self.value = float(self.finish((self.one * self.other).sum() / self.scale)) if known else np.nan

    def test(self, permutations: np.ndarray) -> tuple[float, float, float]:
        if not self.scale > 0:
            return np.nan, np.nan, np.nan
        drawn = np.array(
            [np.vdot(self.one, self.other.take(order, axis=0).take(order, axis=1)) for order in permutations]
        )
        return self.value, *_against(self.value, self.finish(drawn / self.scale))


def _against(value: float, drawn: np.ndarray) -> tuple[float, float]:
    if not len(drawn):
        return np.nan, np.nan
    return float(drawn.mean()), (1 + int((drawn >= value - TOLERANCE).sum())) / (len(drawn) + 1)


def _centre(matrix: np.ndarray) -> np.ndarray:
    means = matrix.mean(axis=0)
    centred = matrix - means - means[:, None] + means.mean()
    # Rounding leaves crumbs of a space that does not vary.
    return np.where(np.abs(centred) > 1e-12 * max(np.abs(matrix).max(), 1e-300), centred, 0.0)


def _distances(factors: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(factors))


def _kernel(factors: np.ndarray) -> np.ndarray:
    distances = _distances(factors)
    apart = distances[np.triu_indices(len(distances), 1)]
    width = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    return np.exp(-np.square(distances / width) / 2)
