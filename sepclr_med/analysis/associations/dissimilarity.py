"""How far participants lie from one another: in a space, and in a variable."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata

from sepclr_med.analysis.measures import Measure

Dissimilarity: TypeAlias = Literal["euclidean", "cosine"]

N_BINS = 64


def space_dissimilarity(factors: np.ndarray, kind: Dissimilarity = "euclidean") -> np.ndarray:
    r"""Dissimilarity of every pair of participants in a space.

    Euclidean :math:`\|z_i - z_j\|`, which any rotation of the axes leaves as it is; or cosine
    :math:`1 - z_i \cdot z_j / (\|z_i\| \|z_j\|)`, the angle seen from the space's origin, which for the salient space
    is the null vector. Factors are not standardised: a factor that hardly varies hardly counts.

    Parameters
    ----------
    factors : array of shape (n, d)
        One row per participant.
    kind : {"euclidean", "cosine"}, default="euclidean"
        Which of the two. The cosine with a row of zeros, which has no direction, counts as that of a right angle.

    Returns
    -------
    array of shape (n, n)
        Symmetric, zero on the diagonal.

    Raises
    ------
    ValueError
        For another kind.

    Examples
    --------
    >>> space_dissimilarity(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[0., 5.],
           [5., 0.]])
    """
    if kind not in ("euclidean", "cosine"):
        raise ValueError(f"dissimilarity {kind!r} is neither euclidean nor cosine")
    if kind == "euclidean":
        return squareform(pdist(factors))
    sizes = np.linalg.norm(factors, axis=1, keepdims=True)
    directions = np.divide(factors, sizes, out=np.zeros_like(factors, dtype=float), where=sizes > 0)
    pairs = 1 - directions @ directions.T
    np.fill_diagonal(pairs, 0)
    return (pairs + pairs.T) / 2


def variable_dissimilarity(values: np.ndarray, measure: Measure) -> np.ndarray:
    """Dissimilarity of every pair of participants in a variable.

    Continuous: absolute difference. Ordinal: absolute difference of ranks, so that only the order counts. Binary and
    categorical: 1 where the values differ.

    Parameters
    ----------
    values : array of shape (n,)
        Nothing missing; numbers for continuous and ordinal.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What the variable is.

    Returns
    -------
    array of shape (n, n)
        Symmetric, zero on the diagonal.

    Examples
    --------
    >>> variable_dissimilarity(np.array([1.0, 10.0, 2.0]), "ordinal")
    array([[0., 2., 1.],
           [2., 0., 1.],
           [1., 1., 0.]])
    >>> variable_dissimilarity(np.array(["a", "b", "a"]), "categorical")
    array([[0., 1., 0.],
           [1., 0., 1.],
           [0., 1., 0.]])
    """
    if measure in ("binary", "categorical"):
        codes = np.unique(np.asarray(values).astype(str), return_inverse=True)[1]
        return (codes[:, None] != codes[None, :]).astype(float)
    numbers = np.asarray(values, dtype=float)
    if measure == "ordinal":
        numbers = rankdata(numbers)
    return np.abs(numbers[:, None] - numbers[None, :])


def rank_pairs(dissimilarity: np.ndarray) -> np.ndarray:
    """Replace every pair's dissimilarity by its rank among all pairs, ties averaged, mean 0 and variance 1 over pairs.

    The mean product of two such matrices over pairs is Spearman's correlation.

    Parameters
    ----------
    dissimilarity : array of shape (n, n)
        Symmetric.

    Returns
    -------
    array of shape (n, n)
        Zero on the diagonal, and everywhere when all pairs are alike.

    Examples
    --------
    >>> rank_pairs(np.array([[0.0, 1, 5], [1, 0, 9], [5, 9, 0]])).round(2)
    array([[ 0.  , -1.22,  0.  ],
           [-1.22,  0.  ,  1.22],
           [ 0.  ,  1.22,  0.  ]])
    """
    ranks = rankdata(_rounded(upper(dissimilarity)))
    ranks -= ranks.mean()
    spread = ranks.std()
    return squareform(ranks / spread if spread > 0 else np.zeros_like(ranks), checks=False)


def bin_pairs(dissimilarity: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Number the levels of a dissimilarity in rising order; more than ``n_bins`` levels become that many even bins.

    Parameters
    ----------
    dissimilarity : array of shape (n, n)
        Symmetric.
    n_bins : int, default=64
        Most levels.

    Returns
    -------
    int array of shape (n, n)
        Symmetric; the diagonal is 0 and means nothing.

    Examples
    --------
    >>> bin_pairs(np.array([[0.0, 1, 5], [1, 0, 9], [5, 9, 0]]), n_bins=2)
    array([[0, 0, 0],
           [0, 0, 1],
           [0, 1, 0]])
    """
    pairs = _rounded(upper(dissimilarity))
    levels, codes = np.unique(pairs, return_inverse=True)
    if len(levels) > n_bins:
        places = np.ceil((rankdata(pairs) - 0.5) / len(pairs) * n_bins) - 1
        codes = np.unique(places, return_inverse=True)[1]
    return squareform(codes.ravel(), checks=False)


def upper(matrix: np.ndarray) -> np.ndarray:
    """Return the pairs above the diagonal as one vector."""
    return squareform(matrix, checks=False)


def _rounded(pairs: np.ndarray) -> np.ndarray:
    """Make equal what differs by rounding only: |0.3 - 0.2| and |0.2 - 0.1| are a tie."""
    size = np.abs(pairs).max(initial=0.0)
    return pairs if size == 0 else np.round(pairs / size, 10)
