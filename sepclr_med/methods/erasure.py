"""Take out of a space what a straight line can read of named columns, and as little else as possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

SMALLEST_SHARE = 1e-6


@dataclass(frozen=True)
class Erasure:
    """``x - (x - centre) @ projection.T``.

    Parameters
    ----------
    centre : array of shape (d,)
    projection : array of shape (d, d)
    """

    centre: np.ndarray
    projection: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return features of shape (n, d) without what was erased, in their own type."""
        return (features - (features - self.centre) @ self.projection.T).astype(features.dtype)

    def then(self, other: Erasure) -> Erasure:
        """Return both as one, this first; they have one centre."""
        left = np.eye(len(self.projection)) - self.projection
        return Erasure(self.centre, np.eye(len(left)) - (np.eye(len(left)) - other.projection) @ left)


def leading_scores(features: np.ndarray, k: int) -> np.ndarray:
    """Return the scores of the k leading principal axes, (n, k).

    Examples
    --------
    >>> leading_scores(np.array([[0.0, 1.0], [0.0, -1.0]]), 1).round(6).tolist() in ([[1.0], [-1.0]], [[-1.0], [1.0]])
    True
    """
    centred = features.astype(float) - features.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:k].T


def fit_truncation(features: np.ndarray, share: float) -> Erasure:
    r"""Take out all but the leading principal axes that hold a share of the variance.

    .. math:: r(x) = \bar x + V V^T (x - \bar x)

    with V the fewest leading principal axes that hold it.

    Parameters
    ----------
    features : array of shape (n, d)
    share : float
        Above 0, below 1.

    Examples
    --------
    >>> rows = np.array([[3.0, 0.1], [-3.0, 0.1], [3.0, -0.1], [-3.0, -0.1]])
    >>> fit_truncation(rows, 0.99)(rows).round(6).tolist()
    [[3.0, 0.0], [-3.0, 0.0], [3.0, 0.0], [-3.0, 0.0]]
    """
    fitted = PCA(share, svd_solver="full").fit(features.astype(float))
    return Erasure(fitted.mean_, np.eye(features.shape[1]) - fitted.components_.T @ fitted.components_)


def fit_erasure(features: np.ndarray, columns: np.ndarray) -> Erasure:
    r"""Fit least-squares concept erasure (LEACE; Belrose et al., NeurIPS 2023, arXiv 2306.03819).

    Among all affine maps after which no linear predictor of the columns beats a constant on these rows, the one that
    moves the features least:

    .. math:: r(x) = x - W^+ P W (x - \bar x), \qquad W = \Sigma_{xx}^{-1/2}

    with P the orthogonal projection onto the columns of :math:`W \Sigma_{xz}`.

    Parameters
    ----------
    features : array of shape (n, d)
    columns : array of shape (n, p)
        Numbers; a class is one column per level.

    Returns
    -------
    Erasure
        A new row needs no column of its own.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> age = rng.normal(size=(100, 1))
    >>> features = np.hstack([age, rng.normal(size=(100, 1))]) @ rng.normal(size=(2, 2))
    >>> left = fit_erasure(features, age)(features)
    >>> bool(abs(np.corrcoef(left.T, age.T)[-1, :-1]).max() < 1e-6)
    True
    """
    x = features.astype(float) - features.mean(axis=0)
    z = columns.astype(float) - columns.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    kept = values > SMALLEST_SHARE * max(values.max(), 1e-300)
    whiten = (vectors[:, kept] / np.sqrt(values[kept])).T
    colour = vectors[:, kept] * np.sqrt(values[kept])
    shared = whiten @ (x.T @ z) / len(x)
    directions, strength, _ = np.linalg.svd(shared, full_matrices=False)
    directions = directions[:, strength > SMALLEST_SHARE * max(strength.max(initial=0.0), 1e-300)]
    return Erasure(features.mean(axis=0), colour @ directions @ directions.T @ whiten)
