"""Distances between participants' score residuals under permutation, without sorting any pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import squareform

from sepclr_med.analysis.associations.dissimilarity import bin_pairs, rank_pairs, upper

# Few enough pairs to stay in the processor's cache.
NUMBERS_AT_ONCE = 1_000_000
N_CELLS, OFFSET = 8192, 0.382


@dataclass(frozen=True)
class ScorePairs:
    r"""Distances between participants' score residuals, permuted and freed of the covariates again.

    For each permutation :math:`d_{ij} = \|r_i - r_j\|, r = R_C S_\pi` (Freedman and Lane's scheme on the scores
    themselves), as ranks or numbered levels. These are read from a fine table of the observed distances, so that a
    permutation needs no sorting.

    Parameters
    ----------
    scores : array of shape (n, k)
        Residuals of the null model.
    basis : array of shape (n, q)
        Orthonormal basis of the covariates; with less than two columns nothing is taken from permuted scores.
    observed : array of shape (n, n)
        Distances as observed.
    """

    scores: np.ndarray
    basis: np.ndarray
    observed: np.ndarray

    def ranks(self, orders: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the ranks of all pairs, a few permutations at a time: (chunk, m)."""
        return self._look_up(upper(rank_pairs(self.observed)), orders)

    def levels(self, orders: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the numbered levels of all pairs, at most 64, a few permutations at a time: (chunk, m)."""
        return self._look_up(upper(bin_pairs(self.observed)), orders)

    def _look_up(self, values: np.ndarray, orders: np.ndarray) -> Iterator[np.ndarray]:
        one, other = np.triu_indices(len(self.scores), 1)
        known = upper(self.observed)
        # A little beyond the largest; the odd offset keeps round fractions of it away from the edges of cells.
        scale = N_CELLS / max(1.05 * known.max(initial=0.0), 1e-300)
        table = _fill_table((known * scale + OFFSET).astype(np.intp), values)
        moved = np.empty((max(1, NUMBERS_AT_ONCE // max(len(one), 1)), len(one)), dtype=table.dtype)
        for start in range(0, len(orders), len(moved)):
            chunk = orders[start : start + len(moved)]
            for place, order in zip(moved, chunk, strict=False):
                distances = _distances(self._moved(order), one, other)
                distances *= scale
                distances += OFFSET
                np.minimum(distances, N_CELLS, out=distances)
                table.take(distances.astype(np.intp), out=place, mode="clip")
            yield moved[: len(chunk)]

    def _moved(self, order: np.ndarray) -> np.ndarray:
        moved = self.scores[order]
        return moved - self.basis @ (self.basis.T @ moved) if self.basis.shape[1] > 1 else moved


def pair_scores(scores: np.ndarray, design: np.ndarray) -> ScorePairs:
    """Prepare score residuals for permutation.

    Parameters
    ----------
    scores : array of shape (n, k) or (n,)
        As :func:`sepclr_med.analysis.associations.null_models.null_scores` gives them; of k columns for k + 1 classes
        the one left out is put back, so that no class is special.
    design : array of shape (n, q)
        Covariates with the intercept, of full column rank.

    Returns
    -------
    ScorePairs

    Examples
    --------
    >>> pair_scores(np.array([-1.0, 0.0, 1.0]), np.ones((3, 1))).observed
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])
    """
    scores = np.asarray(scores, dtype=float).reshape(len(design), -1)
    if scores.shape[1] > 1:
        scores = np.column_stack([scores, -scores.sum(axis=1)])
    one, other = np.triu_indices(len(scores), 1)
    return ScorePairs(scores, np.linalg.qr(design)[0], squareform(_distances(scores, one, other), checks=False))


def _distances(scores: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if scores.shape[1] == 1:
        distances = scores[:, 0].take(one)
        distances -= scores[:, 0].take(other)
        return np.abs(distances, out=distances)
    total = np.zeros(len(one))
    for column in scores.T:
        part = column.take(one)
        part -= column.take(other)
        part *= part
        total += part
    return np.sqrt(total, out=total)


def _fill_table(cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean value of the pairs in each cell; what lies between cells with pairs is interpolated."""
    counts = np.bincount(cells, minlength=N_CELLS + 1)
    known = np.flatnonzero(counts)
    means = np.bincount(cells, values, minlength=N_CELLS + 1)[known] / counts[known]
    table = np.interp(np.arange(N_CELLS + 1), known, means)
    return np.rint(table).astype(np.intp) if np.issubdtype(values.dtype, np.integer) else table
