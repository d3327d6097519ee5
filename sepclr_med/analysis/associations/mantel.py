"""Correlation of dissimilarities: permutations of participants, and bootstrap intervals over participants.

A pair of participants is never a unit: permuting or drawing a participant moves all pairs the participant is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.spatial.distance import squareform

from sepclr_med.analysis.associations.dissimilarity import bin_pairs, upper
from sepclr_med.analysis.associations.score_pairs import ScorePairs

TOLERANCE = 1e-9


def mantel_spearman(
    spaces: Sequence[np.ndarray], variable: ScorePairs, covariates: Sequence[np.ndarray], permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Spearman's (partial) correlation of pairs, as observed and with the participants of the variable permuted.

    With y the ranks of the variable's permuted pairs, freed of covariates participant by participant already, and X
    those of the covariates' dissimilarities and a constant,

    .. math:: r(\pi) = \frac{f^\top y_\pi}{\|f\| \, \|R_X y_\pi\|}, \quad f = R_X z

    Parameters
    ----------
    spaces : sequence of S arrays of shape (n, n)
        Ranks of dissimilarities in each space, as :func:`sepclr_med.analysis.associations.dissimilarity.rank_pairs`
        gives them.
    variable : ScorePairs
        The variable.
    covariates : sequence of q arrays of shape (n, n)
        Ranks of the covariates' dissimilarities; may be empty, collinear or constant.
    permutations : int array of shape (K, n)
        Permutations of participants.

    Returns
    -------
    array of shape (S,)
        Observed correlations; missing where the covariates leave nothing of the space or of the variable.
    array of shape (K, S)
        The same of each permutation.

    Examples
    --------
    >>> from sepclr_med.analysis.associations.dissimilarity import rank_pairs, variable_dissimilarity
    >>> from sepclr_med.analysis.associations.score_pairs import pair_scores
    >>> values = np.arange(6.0) ** 2
    >>> ranks = rank_pairs(variable_dissimilarity(values, "continuous"))
    >>> orders = np.array([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]])
    >>> observed, permuted = mantel_spearman([ranks], pair_scores(values, np.ones((6, 1))), [], orders)
    >>> observed.round(3), permuted.round(3).ravel()
    (array([1.]), array([1.   , 0.977]))
    """
    n = len(variable.scores)
    basis = pair_basis([np.ones((n, n)), *covariates])
    free = [_residual(upper(space), basis) for space in spaces]
    sizes = np.array([np.linalg.norm(pairs) for pairs in free])
    whole = np.array([np.linalg.norm(upper(space)) for space in spaces])
    dead = (sizes <= 1e-6 * whole) | (whole == 0)
    both = np.stack([*free, *basis.T])
    correlations = []
    for pairs in variable.ranks(np.vstack([np.arange(n), permutations])):
        sums, squares = pairs @ both.T, np.einsum("pm,pm->p", pairs, pairs)
        left = squares - np.square(sums[:, len(free) :]).sum(axis=1)
        usable = left > 1e-9 * np.maximum(squares, 1e-300)
        size = np.sqrt(np.where(usable, left, np.inf))
        correlations.append(sums[:, : len(free)] / (np.where(dead, 1.0, sizes) * size[:, None]))
        correlations[-1][~usable] = np.nan
    found = np.concatenate(correlations)
    found[:, dead] = np.nan
    # A permutation of which the covariates leave nothing shows no link.
    return found[0], np.where(dead, np.nan, np.nan_to_num(found[1:]))


def mantel_kendall(
    spaces: Sequence[np.ndarray], variable: ScorePairs, permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Kendall's tau-b of pairs, as observed and with the participants of the variable permuted.

    Concordance is counted from the table of levels by levels, so a permutation costs one pass over the pairs.

    Parameters
    ----------
    spaces : sequence of S int arrays of shape (n, n)
        Numbered levels of dissimilarities, as :func:`sepclr_med.analysis.associations.dissimilarity.bin_pairs` gives
        them.
    variable : ScorePairs
        The variable.
    permutations : int array of shape (K, n)
        Permutations of participants.

    Returns
    -------
    array of shape (S,)
        Observed tau-b of the numbered levels.
    array of shape (K, S)
        The same of each permutation.

    Examples
    --------
    >>> from sepclr_med.analysis.associations.score_pairs import pair_scores
    >>> levels = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    >>> variable = pair_scores(np.array([-1.0, 0.0, 1.0]), np.ones((3, 1)))
    >>> mantel_kendall([levels], variable, np.array([[0, 1, 2], [1, 0, 2]]))
    (array([1.]), array([[ 1. ],
           [-0.5]]))
    """
    n_levels = int(bin_pairs(variable.observed).max()) + 1
    levels = [upper(space).astype(np.intp) * n_levels for space in spaces]
    shapes = [(int(space.max()) + 1, n_levels) for space in spaces]
    orders = np.vstack([np.arange(len(variable.scores)), permutations])
    taus = np.empty((len(orders), len(spaces)))
    for k, answers in enumerate(pairs for chunk in variable.levels(orders) for pairs in chunk):
        for s, (codes, shape) in enumerate(zip(levels, shapes, strict=True)):
            counts = np.bincount(codes + answers, minlength=shape[0] * shape[1]).reshape(shape)
            taus[k, s] = tau_b(counts.astype(float))
    return taus[0], np.nan_to_num(taus[1:])


def tau_b(counts: np.ndarray) -> float:
    """Return Kendall's tau-b of a table of counts (or weights) with ordered rows and columns.

    Examples
    --------
    >>> tau_b(np.array([[2.0, 0.0], [0.0, 2.0]]))
    1.0
    """
    rows, columns = (_order_signs(size) for size in counts.shape)
    excess = np.vdot(counts, rows @ counts @ columns.T)
    total = counts.sum() ** 2
    untied = [total - np.square(counts.sum(axis=axis)).sum() for axis in (0, 1)]
    return float(excess / np.sqrt(untied[0] * untied[1])) if min(untied) > 0 else np.nan


def bootstrap_spearman(
    spaces: Sequence[np.ndarray], variable: np.ndarray, covariates: Sequence[np.ndarray], draws: np.ndarray
) -> np.ndarray:
    """Spearman's (partial) correlation of pairs in bootstrap draws of participants.

    A pair counts as often as both its participants were drawn; a participant drawn twice makes no pair with itself.
    The ranks are those of the whole sample.

    Parameters
    ----------
    spaces, variable, covariates
        As for :func:`mantel_spearman`.
    draws : array of shape (B, n)
        How often each participant was drawn.

    Returns
    -------
    array of shape (B, S)

    Examples
    --------
    >>> from sepclr_med.analysis.associations.dissimilarity import rank_pairs, variable_dissimilarity
    >>> ranks = rank_pairs(variable_dissimilarity(np.arange(6.0), "continuous"))
    >>> bootstrap_spearman([ranks], ranks, [], np.array([[2, 0, 1, 1, 1, 1]])).round(6)
    array([[1.]])
    """
    draws = draws.astype(float)
    adjusted = [squareform(column, checks=False) for column in pair_basis(covariates).T * len(variable)]
    shared = [variable, *adjusted]
    total = draws.sum(axis=1) ** 2 - np.square(draws).sum(axis=1)

    def mean(matrix: np.ndarray) -> np.ndarray:
        return np.einsum("bi,bi->b", draws @ matrix, draws) / total

    means = [mean(matrix) for matrix in shared]
    known = {
        (a, b): mean(shared[a] * shared[b]) - means[a] * means[b] for a in range(len(shared)) for b in range(a + 1)
    }
    size = len(shared) + 1
    covariance = np.empty((len(draws), size, size))
    for (a, b), values in known.items():
        covariance[:, a, b] = covariance[:, b, a] = values
    result = np.full((len(draws), len(spaces)), np.nan)
    for s, space in enumerate(spaces):
        own = mean(space)
        for a, (matrix, shared_mean) in enumerate(zip([*shared, space], [*means, own], strict=True)):
            covariance[:, a, -1] = covariance[:, -1, a] = mean(matrix * space) - shared_mean * own
        spread = np.sqrt(np.clip(np.einsum("baa->ba", covariance), 1e-12, None))
        scaled = covariance / (spread[:, :, None] * spread[:, None, :]) + 1e-10 * np.eye(size)
        precision = np.linalg.inv(scaled)
        result[:, s] = -precision[:, 0, -1] / np.sqrt(precision[:, 0, 0] * precision[:, -1, -1])
    return result


def bootstrap_kendall(spaces: Sequence[np.ndarray], variable: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of pairs in bootstrap draws of participants.

    Parameters
    ----------
    spaces, variable
        As for :func:`mantel_kendall`.
    draws : array of shape (B, n)
        How often each participant was drawn.

    Returns
    -------
    array of shape (B, S)

    Examples
    --------
    >>> levels = np.array([[0, 0, 1], [0, 0, 2], [1, 2, 0]])
    >>> bootstrap_kendall([levels], levels, np.array([[1, 1, 1]]))
    array([[1.]])
    """
    n, n_levels = len(variable), int(variable.max()) + 1
    one, other = np.triu_indices(n, 1)
    result = np.empty((len(draws), len(spaces)))
    for s, space in enumerate(spaces):
        shape = (int(space.max()) + 1, n_levels)
        codes = (space[one, other] * n_levels + variable[one, other]).astype(np.intp)
        for b, times in enumerate(draws.astype(float)):
            weights = times.take(one) * times.take(other)
            result[b, s] = tau_b(np.bincount(codes, weights, minlength=shape[0] * n_levels).reshape(shape))
    return result


def pair_basis(covariates: Sequence[np.ndarray]) -> np.ndarray:
    """Return an orthonormal basis of the pairs of several matrices, as columns; what adds nothing is left out.

    Examples
    --------
    >>> ranks = np.array([[0.0, -1, 0], [-1, 0, 1], [0, 1, 0]])
    >>> pair_basis([ranks, 2 * ranks]).round(2).ravel()
    array([-0.71,  0.  ,  0.71])
    """
    if not covariates:
        return np.empty((0, 0))
    basis = np.empty((len(upper(covariates[0])), 0))
    for matrix in covariates:
        pairs = upper(matrix)
        left = _residual(_residual(pairs, basis), basis)
        if (size := np.linalg.norm(left)) > 1e-6 * max(float(np.linalg.norm(pairs)), 1e-300):
            basis = np.column_stack([basis, left / size])
    return basis


@lru_cache(maxsize=8)
def _order_signs(size: int) -> np.ndarray:
    return np.sign(np.subtract.outer(np.arange(size), np.arange(size))).astype(float)


def _residual(pairs: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return pairs - basis @ (basis.T @ pairs) if basis.size else pairs
