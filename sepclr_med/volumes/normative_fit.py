"""Fits of the normative reference in the space of participants: numbers of the size of the background, no voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import gen_batches

CHUNK_BYTES = 64 << 20
# Of the rows that a reference is fitted on: more components describe single participants.
LARGEST_SHARE = 0.5


class Weights(NamedTuple):
    """Maps as weighted sums of background rows.

    ``coefficients`` (p, n) gives the regression, ``components`` (k, n) the orthonormal components of its residuals,
    ``shrinkage`` (k,) the share of each component that is not noise.
    """

    coefficients: np.ndarray
    components: np.ndarray
    shrinkage: np.ndarray


def raw_design(
    encoded: np.ndarray, n_numbers: int, centre: Sequence[float], scale: Sequence[float], squares: Sequence[int]
) -> np.ndarray:
    """Return intercept, standardised numbers, squares of some of them and the columns of classes, float32."""
    numbers = (encoded[:, :n_numbers] - np.array(centre)) / np.array(scale)
    columns = [np.ones((len(encoded), 1)), numbers, numbers[:, list(squares)] ** 2, encoded[:, n_numbers:]]
    return np.concatenate(columns, axis=1).astype(np.float32)


def gram_matrix(load: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the products of all pairs of volumes, (n, n), in bounded memory.

    The first volume is subtracted from all before: every fit has an intercept, and small numbers round less.
    """
    origin = load(rows[:1]).astype(np.float32).reshape(1, -1)

    def flat(some: np.ndarray) -> np.ndarray:
        return load(some).astype(np.float32).reshape(some.size, -1) - origin

    chunks = list(gen_batches(rows.size, max(1, CHUNK_BYTES // (4 * origin.size))))
    products = np.empty((rows.size, rows.size))
    for i, one in enumerate(chunks):
        left = flat(rows[one])
        for other in chunks[: i + 1]:
            right = left if other is one else flat(rows[other])
            products[one, other] = left @ right.T
            products[other, one] = products[one, other].T
    return products


def fit_weights(products: np.ndarray, design: np.ndarray, fitted: np.ndarray, k: int, n_voxels: int) -> Weights:
    """Fit regression and components on some rows.

    Parameters
    ----------
    products : array of shape (n, n)
        From :func:`gram_matrix`.
    design : array of shape (n, p)
    fitted : bool array of shape (n,)
        Rows to fit on; the weights of the others are zero.
    k : int
        Components.
    n_voxels : int

    Returns
    -------
    Weights
    """
    inside = np.flatnonzero(fitted)
    pseudo_inverse = np.linalg.pinv(design[inside].astype(float))
    coefficients = np.zeros((design.shape[1], fitted.size))
    coefficients[:, inside] = pseudo_inverse
    residual_maker = np.eye(inside.size) - design[inside] @ pseudo_inverse
    values, vectors = _leading(residual_maker @ products[np.ix_(inside, inside)] @ residual_maker.T, k)
    components = np.zeros((k, fitted.size))
    components[:, inside] = (vectors / np.sqrt(values)).T @ residual_maker
    freedom = max(1, inside.size - design.shape[1])
    spread = values / freedom
    noise = _noise(residual_maker @ products[np.ix_(inside, inside)] @ residual_maker.T, values, freedom, n_voxels)
    return Weights(coefficients, components, np.clip(1 - noise / spread, 0, 1))


def choose_components(
    products: np.ndarray, design: np.ndarray, folds: np.ndarray, n_voxels: int, asked: int | str
) -> tuple[int, dict[str, Any]]:
    """Choose the number of components by the likelihood of background rows that took no part in the fit.

    Returns
    -------
    int
    dict
        ``n_components`` and, with "auto", the mean log-likelihood of each number tried.
    """
    smallest = min((folds != fold).sum() for fold in set(folds.tolist()))
    most = max(0, int(LARGEST_SHARE * (smallest - design.shape[1])))
    if asked != "auto":
        chosen = min(int(asked), most)
        return chosen, {"n_components": chosen, "n_components_asked": int(asked)}
    scores = np.zeros(most + 1)
    for fold in sorted(set(folds.tolist())):
        scores += _held_out_likelihood(products, design, folds != fold, most, n_voxels)
    scores /= len(folds)
    chosen = int(scores.argmax())
    return chosen, {"n_components": chosen, "held_out_log_likelihood": [round(float(s), 2) for s in scores]}


def _held_out_likelihood(
    products: np.ndarray, design: np.ndarray, fitted: np.ndarray, most: int, n_voxels: int
) -> np.ndarray:
    """Return the summed log-likelihood of the rows left out, for 0 to ``most`` components of probabilistic PCA."""
    inside, outside = np.flatnonzero(fitted), np.flatnonzero(~fitted)
    pseudo_inverse = np.linalg.pinv(design[inside].astype(float))
    # Residuals as weighted sums of rows, then all their products.
    weights = np.zeros((fitted.size, fitted.size))
    weights[np.ix_(inside, inside)] = np.eye(inside.size) - design[inside] @ pseudo_inverse
    weights[np.ix_(outside, inside)] = -design[outside] @ pseudo_inverse
    weights[outside, outside] += 1
    residuals = weights @ products @ weights.T
    freedom = max(1, inside.size - design.shape[1])
    values, vectors = _leading(residuals[np.ix_(inside, inside)], most)
    scores = (residuals[np.ix_(outside, inside)] @ vectors) ** 2 / values
    spread = values / freedom
    total = np.trace(residuals[np.ix_(inside, inside)]) / freedom
    likelihood = np.empty(most + 1)
    for k in range(most + 1):
        noise = max((total - spread[:k].sum()) / (n_voxels - k), 1e-12)
        in_space = (scores[:, :k] / spread[:k]).sum() + len(outside) * np.log(spread[:k]).sum()
        off_space = (np.diag(residuals)[outside] - scores[:, :k].sum(axis=1)).sum() / noise
        likelihood[k] = -(in_space + off_space + len(outside) * (n_voxels - k) * np.log(noise)) / 2
    return likelihood


def _leading(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(values)[::-1][:k]
    return np.maximum(values[order], 1e-12 * max(values.max(), 1e-12)), vectors[:, order]


def _noise(residuals: np.ndarray, values: np.ndarray, freedom: int, n_voxels: int) -> float:
    return float((np.trace(residuals) - values.sum()) / freedom / (n_voxels - values.size))
