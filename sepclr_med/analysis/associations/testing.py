"""Permutation tests of many factors against one variable, vectorised over permutations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUMBERS_AT_ONCE = 500_000
# Statistics closer than this are equal: sums in another order must not decide a tie.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class FactorTests:
    """What the permutations say about each factor.

    Parameters
    ----------
    statistic : array of shape (F,)
        Share of the factor's variance, free of covariates, that goes with the variable; missing where the test is
        impossible (nothing is left of the factor or of the variable).
    p_value : array of shape (F,)
        Of each factor alone.
    p_fwe : array of shape (F,)
        Against the largest statistic of all factors in each permutation (Westfall and Young 1993): family-wise.
    n_permutations : int
        How many were used.
    excess : array of shape (F,)
        How much wider the statistic's root spreads under the permutations than among independent participants of equal
        variance, at least 1: relatives, and sites of unequal spread, make estimates less sure by this factor.
    """

    statistic: np.ndarray
    p_value: np.ndarray
    p_fwe: np.ndarray
    n_permutations: int
    excess: np.ndarray


def test_factors(
    factors: np.ndarray, scores: np.ndarray, covariates: np.ndarray, permutations: np.ndarray
) -> FactorTests:
    r"""Test each factor against the score residuals of a variable by Freedman and Lane's permutations.

    The scores are permuted and residualised on the covariates again. With :math:`f` the factor and :math:`S` the
    scores, both free of the covariates, the statistic is

    .. math:: R^2 = u^\top G^{-1} u / \|f\|^2, \quad u = S^\top f, \quad G = S^\top S,

    for one column of scores the squared partial correlation, so the test is two-sided. :math:`p = (1 + b) / (K + 1)`,
    b counting the permutations whose statistic is at least the observed one (Freedman and Lane 1983; Winkler et al.
    2014; Phipson and Smyth 2010).

    Parameters
    ----------
    factors : array of shape (n, F)
        No value missing.
    scores : array of shape (n, k) or (n,)
        As :func:`sepclr_med.analysis.associations.null_models.null_scores` gives them.
    covariates : array of shape (n, q)
        Design with the intercept, of full column rank.
    permutations : int array of shape (K, n)
        As :func:`sepclr_med.analysis.associations.exchangeability.draw_permutations` gives them.

    Returns
    -------
    FactorTests

    Raises
    ------
    ValueError
        When the numbers of rows differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> factors = rng.normal(size=(40, 3))
    >>> scores = factors[:, :1] + rng.normal(size=(40, 1))
    >>> permutations = np.argsort(rng.random((999, 40)), axis=1)
    >>> found = test_factors(factors, scores, np.ones((40, 1)), permutations)
    >>> bool(np.isclose(found.statistic[0], np.corrcoef(factors[:, 0], scores[:, 0])[0, 1] ** 2))
    True
    >>> found.p_value[:1]
    array([0.001])
    """
    factors, scores = np.asarray(factors, dtype=float), np.asarray(scores, dtype=float)
    scores = scores[:, None] if scores.ndim == 1 else scores
    n = len(factors)
    if not n == len(scores) == len(covariates) == permutations.shape[1]:
        counts = (n, len(scores), len(covariates), permutations.shape[1])
        raise ValueError(f"rows of factors, scores, covariates, permutations differ: {counts}")
    basis = np.linalg.qr(np.asarray(covariates, dtype=float))[0]
    free, alive = _unit_residuals(factors, basis)
    standard = _orthonormal_residuals(scores, basis)
    if not alive.any() or not standard.shape[1]:
        nothing = np.full(factors.shape[1], np.nan)
        return FactorTests(nothing, nothing, nothing, len(permutations), nothing)
    observed, beaten, beaten_by_max, mean = _count(free[:, alive], standard, basis, permutations)
    n_drawn = len(permutations) + 1
    values = (observed, (1 + beaten) / n_drawn, (1 + beaten_by_max) / n_drawn)
    statistic, p_value, p_fwe = (_fill(value, alive) for value in values)
    expected = standard.shape[1] / max(n - basis.shape[1], 1)
    excess = _fill(np.sqrt(np.maximum(mean / expected, 1)), alive)
    return FactorTests(statistic, p_value, p_fwe, len(permutations), excess)


# The name is the verb of this module; pytest must not take it for a test where it is imported.
test_factors.__test__ = False  # type: ignore[attr-defined]


def _count(
    free: np.ndarray, scores: np.ndarray, basis: np.ndarray, permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n, n_factors = free.shape
    # One product per chunk gives both the sums with the factors and what the covariates take of the permuted scores.
    both = np.hstack([free, basis])
    total = scores.T @ scores
    identity = np.arange(n)[None]
    observed = _statistics(scores, identity, both, n_factors, total)[0]
    threshold = observed * (1 - TOLERANCE) - TOLERANCE
    beaten = np.zeros(n_factors, dtype=np.int64)
    beaten_by_max = np.zeros(n_factors, dtype=np.int64)
    total_of = np.zeros(n_factors)
    chunk = max(1, NUMBERS_AT_ONCE // (n * scores.shape[1]))
    for start in range(0, len(permutations), chunk):
        drawn = permutations[start : start + chunk].astype(np.intp, copy=False)
        statistics = _statistics(scores, drawn, both, n_factors, total)
        total_of += statistics.sum(axis=0)
        beaten += (statistics >= threshold).sum(axis=0)
        beaten_by_max += (statistics.max(axis=1)[:, None] >= threshold).sum(axis=0)
    return observed, beaten, beaten_by_max, total_of / max(len(permutations), 1)


def _statistics(
    scores: np.ndarray, permutations: np.ndarray, both: np.ndarray, n_factors: int, total: np.ndarray
) -> np.ndarray:
    """Share of variance for each permutation and factor: (chunk, F)."""
    products = np.stack([np.take(column, permutations) @ both for column in scores.T], axis=1)
    u, taken = products[..., :n_factors], products[..., n_factors:]
    if len(total) == 1:
        left = total[0, 0] - np.einsum("pq,pq->p", taken[:, 0], taken[:, 0])
        usable = left > TOLERANCE * total[0, 0]
        return u[:, 0] ** 2 * (usable / np.where(usable, left, 1.0))[:, None]
    # Nothing that is left of a permuted score is worth a share of next to nothing, rather than a division by zero.
    gram = total - taken @ taken.transpose(0, 2, 1) + TOLERANCE * np.trace(total) * np.eye(len(total))
    return np.einsum("pkf,pkf->pf", u, np.linalg.solve(gram, u))


def _unit_residuals(factors: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    free = factors - basis @ (basis.T @ factors)
    free -= basis @ (basis.T @ free)
    length = np.linalg.norm(free, axis=0)
    alive = length > 1e-8 * np.linalg.norm(factors, axis=0)
    return free / np.where(alive, length, 1.0), alive


def _orthonormal_residuals(scores: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Recombine the columns so that what the covariates leave of them is orthonormal; the statistic does not change."""
    free = scores - basis @ (basis.T @ scores)
    values, vectors = np.linalg.eigh(free.T @ free)
    kept = values > 1e-12 * np.square(scores).sum()
    return scores @ (vectors[:, kept] / np.sqrt(values[kept]))


def _fill(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    filled = np.full(len(alive), np.nan)
    filled[alive] = values
    return filled
