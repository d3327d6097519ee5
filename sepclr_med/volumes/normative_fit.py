"""Fits of the normative reference in the space of participants: numbers of the size of the background, no voxels."""

from __future__ import annotations

from collections.abc import Callable
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


def fit_regression(design: np.ndarray, fitted: np.ndarray, groups: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """Return the regression of images on a design as weights of images, ``coefficients = weights @ images``.

    Parameters
    ----------
    design : array of shape (n, p)
    fitted : bool array of shape (n,)
        Rows to fit on; the weights of the others are zero.
    groups : int array of shape (n,)
        0 for background.
    pooled : bool array of shape (p,)
        Columns with one effect in all groups. Every other group has its own effects of the remaining columns, so that
        these are the background's alone.

    Returns
    -------
    array of shape (p, n)
        Zero for other groups where nothing is pooled.

    Examples
    --------
    >>> design, everyone = np.column_stack([np.ones(4), [0, 0, 1, 1]]), np.ones(4, bool)
    >>> fit_regression(design, everyone, np.zeros(4), np.zeros(2, bool)) @ [1.0, 1.0, 3.0, 3.0]
    array([1., 2.])
    """
    inside = np.flatnonzero(fitted & ((groups == 0) | pooled.any()))
    group = groups[inside, None]
    whole = [np.where((group == 0) | pooled, design[inside], 0)]
    whole += [design[inside][:, ~pooled] * (group == other) for other in np.unique(group) if other]
    weights = np.zeros((design.shape[1], len(design)))
    weights[:, inside] = np.linalg.pinv(np.hstack(whole).astype(float))[: design.shape[1]]
    return weights


def fit_weights(
    products: np.ndarray,
    design: np.ndarray,
    fitted: np.ndarray,
    groups: np.ndarray,
    pooled: np.ndarray,
    k: int,
    n_voxels: int,
) -> Weights:
    """Fit regression and components on some rows.

    Parameters
    ----------
    products : array of shape (n, n)
        From :func:`gram_matrix`.
    design, fitted, groups, pooled
        As for :func:`fit_regression`. Components are those of background rows.
    k : int
        Components.
    n_voxels : int

    Returns
    -------
    Weights
    """
    coefficients = fit_regression(design, fitted, groups, pooled)
    inside = np.flatnonzero(fitted & (groups == 0))
    own = _residual_products(products, design, coefficients, inside)
    values, vectors = _leading(own, k)
    scaled = (vectors / np.sqrt(values)).T
    components = -scaled @ design[inside] @ coefficients
    components[:, inside] += scaled
    freedom = max(1, inside.size - design.shape[1])
    noise = (np.trace(own) - values.sum()) / freedom / (n_voxels - k)
    return Weights(coefficients, components, np.clip(1 - noise / (values / freedom), 0, 1))


def choose_components(
    products: np.ndarray,
    design: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    pooled: np.ndarray,
    n_voxels: int,
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
        coefficients = fit_regression(design, folds != fold, groups, pooled)
        residuals = _residual_products(products, design, coefficients, background)
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


def _residual_products(
    products: np.ndarray, design: np.ndarray, coefficients: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the products of all pairs of residuals of some rows."""
    # As many columns as the design has, so that nothing grows like the cube of the number of images.
    explained, fitted = design[rows], coefficients @ products
    crossed = explained @ fitted[:, rows]
    return products[np.ix_(rows, rows)] - crossed - crossed.T + explained @ (fitted @ coefficients.T) @ explained.T


def _leading(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(values)[::-1][:k]
    return np.maximum(values[order], 1e-12 * max(values.max(), 1e-12)), vectors[:, order]
