"""Correlation of dissimilarities: permutations of participants, and bootstrap intervals over participants.

A pair of participants is never a unit: permuting or drawing a participant moves all pairs the participant is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from scipy.spatial.distance import squareform

from sepclr_med.analysis.associations.dissimilarity import upper

# Few enough pairs to stay in the processor's cache.
NUMBERS_AT_ONCE = 1_000_000
TOLERANCE = 1e-9


def mantel_spearman(
    spaces: Sequence[np.ndarray], variable: np.ndarray, covariates: Sequence[np.ndarray], permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Spearman's (partial) correlation of pairs, as observed and with the participants of the variable permuted.

    With covariates the ranks of the variable are freed of the ranks of the covariates' dissimilarities, the residuals
    permuted by participants and freed of them again, which is Freedman and Lane's scheme on ranks:

    .. math:: r(\pi) = \frac{f^\top R_X e_\pi}{\|f\| \, \|R_X e_\pi\|}, \quad e = R_X y, \quad f = R_X z

    Parameters
    ----------
    spaces : sequence of S arrays of shape (n, n)
        Ranks of dissimilarities in each space, as :func:`sepclr_med.analysis.associations.dissimilarity.rank_pairs`
        gives them.
    variable : array of shape (n, n)
        Those of the variable.
    covariates : sequence of q arrays of shape (n, n)
        Those of the covariates; may be empty, collinear or constant.
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
    >>> ranks = rank_pairs(variable_dissimilarity(np.arange(6.0) ** 2, "continuous"))
    >>> observed, permuted = mantel_spearman([ranks], ranks, [], np.array([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]]))
    >>> observed.round(3), permuted.round(3).ravel()
    (array([1.]), array([1.   , 0.977]))
    """
    n = len(variable)
    basis = pair_basis(covariates)
    free = [_residual(upper(space), basis) for space in spaces]
    left = _residual(upper(variable), basis)
    sizes = np.array([np.linalg.norm(pairs) for pairs in free])
    whole = np.array([np.linalg.norm(upper(space)) for space in spaces])
    size = np.linalg.norm(left)
    both = np.stack([*free, *basis.T])
    dead = (sizes <= 1e-6 * whole) | (size <= 1e-6 * np.linalg.norm(upper(variable))) | (whole == 0)
    orders = np.vstack([np.arange(n), permutations])
    sums = np.concatenate([moved @ both.T for moved in _permuted(squareform(left, checks=False), orders)])
    taken = np.square(sums[:, len(free) :]).sum(axis=1)
    remaining = np.sqrt(np.clip(size**2 - taken, 1e-12 * max(size**2, 1e-300), None))
    correlations = sums[:, : len(free)] / (np.where(dead, 1.0, sizes) * remaining[:, None])
    correlations[:, dead] = np.nan
    return correlations[0], correlations[1:]


def mantel_kendall(
    spaces: Sequence[np.ndarray], variable: np.ndarray, permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Kendall's tau-b of pairs, as observed and with the participants of the variable permuted.

    Concordance is counted from the table of levels by levels, so a permutation costs one pass over the pairs.

    Parameters
    ----------
    spaces : sequence of S int arrays of shape (n, n)
        Numbered levels of dissimilarities, as :func:`sepclr_med.analysis.associations.dissimilarity.bin_pairs` gives
        them.
    variable : int array of shape (n, n)
        Those of the variable.
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
    >>> levels = np.array([[0, 0, 1], [0, 0, 2], [1, 2, 0]])
    >>> mantel_kendall([levels], levels, np.array([[0, 1, 2], [1, 0, 2]]))
    (array([1.]), array([[1.        ],
           [0.33333333]]))
    """
    n = len(variable)
    n_levels = int(variable.max()) + 1
    levels = [upper(space).astype(np.intp) * n_levels for space in spaces]
    shapes = [(int(space.max()) + 1, n_levels) for space in spaces]
    orders = np.vstack([np.arange(n), permutations])
    taus = np.empty((len(orders), len(spaces)))
    moved = (pairs for chunk in _permuted(variable.astype(np.intp), orders) for pairs in chunk)
    for k, answers in enumerate(moved):
        for s, (codes, shape) in enumerate(zip(levels, shapes, strict=True)):
            counts = np.bincount(codes + answers, minlength=shape[0] * shape[1]).reshape(shape)
            taus[k, s] = tau_b(counts.astype(float))
    return taus[0], taus[1:]


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
        if (size := np.linalg.norm(left)) > 1e-6 * max(np.linalg.norm(pairs), 1e-300):
            basis = np.column_stack([basis, left / size])
    return basis


@lru_cache(maxsize=8)
def _order_signs(size: int) -> np.ndarray:
    return np.sign(np.subtract.outer(np.arange(size), np.arange(size))).astype(float)


def _residual(pairs: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return pairs - basis @ (basis.T @ pairs) if basis.size else pairs


def _permuted(square: np.ndarray, orders: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs of the permuted square, a few permutations at a time."""
    n = len(square)
    one, other = np.triu_indices(n, 1)
    flat = square.ravel()
    moved = np.empty((max(1, NUMBERS_AT_ONCE // max(len(one), 1)), len(one)), dtype=square.dtype)
    for start in range(0, len(orders), len(moved)):
        chunk = orders[start : start + len(moved)].astype(np.intp)
        for place, order in zip(moved, chunk, strict=False):
            positions = (order * n).take(one)
            positions += order.take(other)
            flat.take(positions, out=place, mode="clip")
        yield moved[: len(chunk)]
