"""Fits of the normative reference in the space of participants: numbers of the size of the background, no voxels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from sepclr_med.volumes.normative_regression import fit_regression, leading, residual_products

CHUNK_BYTES = 64 << 20
# Of the rows that a reference is fitted on: more components describe single participants.
LARGEST_SHARE = 0.5


class Weights(NamedTuple):
    """Maps as weighted sums of background rows.

    ``coefficients`` (p, n) gives the regression, ``components`` (k, n) the orthonormal components of its residuals,
    ``shrinkage`` (k,) the share of each component that is not noise, ``borrowed`` (p,) that of each effect that comes
    from patients.
    """

    coefficients: np.ndarray
    components: np.ndarray
    shrinkage: np.ndarray
    borrowed: np.ndarray


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


def fit_weights(
    products: np.ndarray,
    design: np.ndarray,
    fitted: np.ndarray,
    groups: np.ndarray,
    pooled: np.ndarray,
    k: int,
    n_voxels: int,
    borrow: bool,
) -> Weights:
    """Fit regression and components on some rows.

    Parameters
    ----------
    products : array of shape (n, n)
        From :func:`gram_matrix`.
    design, fitted, groups, pooled, n_voxels, borrow
        As for :func:`sepclr_med.volumes.normative_regression.fit_regression`. Components are those of background rows.
    k : int
        Components.

    Returns
    -------
    Weights
    """
    coefficients, borrowed = fit_regression(products, design, fitted, groups, pooled, n_voxels, borrow)
    inside = np.flatnonzero(fitted & (groups == 0))
    own = residual_products(products, design, coefficients, inside)
    values, vectors = leading(own, k)
    scaled = (vectors / np.sqrt(values)).T
    components = -scaled @ design[inside] @ coefficients
    components[:, inside] += scaled
    freedom = max(1, inside.size - design.shape[1])
    noise = (np.trace(own) - values.sum()) / freedom / (n_voxels - k)
    return Weights(coefficients, components, np.clip(1 - noise / (values / freedom), 0, 1), borrowed)


def choose_components(
    products: np.ndarray,
    design: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    pooled: np.ndarray,
    n_voxels: int,
    borrow: bool,
    asked: int | str,
) -> tuple[int, dict[str, Any]]:
    """Choose the number of components by the likelihood of background rows that took no part in the fit.

    Returns
    -------
    int
    dict
        ``n_components`` and, with "auto", the mean log-likelihood of each number tried.
    """
    background = np.flatnonzero(groups == 0)
    fold_of = folds[background]
    numbers = sorted(set(fold_of.tolist()))
    smallest = min((fold_of != fold).sum() for fold in numbers)
    most = max(0, int(LARGEST_SHARE * (smallest - design.shape[1])))
    if asked != "auto":
        chosen = min(int(asked), most)
        return chosen, {"n_components": chosen, "n_components_asked": int(asked)}
    scores = np.zeros(most + 1)
    for fold in numbers:
        coefficients, _ = fit_regression(products, design, folds != fold, groups, pooled, n_voxels, borrow)
        residuals = residual_products(products, design, coefficients, background)
        inside, outside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        freedom = max(1, inside.size - design.shape[1])
        scores += _held_out_likelihood(residuals, inside, outside, freedom, most, n_voxels)
    scores /= background.size
    chosen = int(scores.argmax())
    return chosen, {"n_components": chosen, "held_out_log_likelihood": [round(float(s), 2) for s in scores]}


def _held_out_likelihood(
    residuals: np.ndarray, inside: np.ndarray, outside: np.ndarray, freedom: int, most: int, n_voxels: int
) -> np.ndarray:
    """Return the summed log-likelihood of the rows left out, for 0 to ``most`` components of probabilistic PCA."""
    values, vectors = leading(residuals[np.ix_(inside, inside)], most)
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
