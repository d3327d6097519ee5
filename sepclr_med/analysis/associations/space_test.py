"""A whole space against one variable: cross-validated ridge, tested by permutations of the variable.

Everything a fold needs are sums over its participants of products of covariates, factors and scores. Those with the
permuted scores are one matrix product; the rest happens in as many dimensions as there are factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_FOLDS = 5
# Shares of the mean eigenvalue of the factors' correlation matrix: from next to none to next to nothing left.
PENALTIES = np.logspace(-3, 3, 9)
NUMBERS_AT_ONCE = 1_000_000
TOLERANCE = 1e-10


@dataclass(frozen=True)
class SpaceTest:
    """What the permutations say about a whole space.

    Parameters
    ----------
    statistic : float
        Cross-validated share of the scores' variance, free of covariates, that the factors predict; negative where
        they predict worse than the covariates alone.
    p_value : float
        One-sided: predicting well is evidence, predicting badly is not.
    n_permutations : int
        How many were used.
    """

    statistic: float
    p_value: float
    n_permutations: int


def test_space(
    factors: np.ndarray, scores: np.ndarray, covariates: np.ndarray, folds: np.ndarray, permutations: np.ndarray
) -> SpaceTest:
    r"""Test whether a space predicts a variable beyond the covariates.

    In every fold covariates are fitted to factors and scores by least squares on the other participants; what is left
    of the scores is predicted from what is left of the factors, standardised, by ridge regression whose penalty has
    the smallest generalised cross-validation error on those same participants. With e the scores' residuals and
    :math:`\hat e` their predictions in the participants left out, both by coefficients of the others,

    .. math:: R^2 = 1 - \sum_i (e_i - \hat e_i)^2 / \sum_i e_i^2,

    summed over folds, repeats and columns of scores. Everything, the penalty included, is done again for each
    permutation of the scores (Freedman and Lane 1983), because the residuals of permuted scores differ; only the folds
    stay, which therefore must not have been chosen with the variable in view.

    Parameters
    ----------
    factors : array of shape (n, d)
        No value missing.
    scores : array of shape (n, k) or (n,)
        Score residuals, as :func:`sepclr_med.analysis.associations.null_models.null_scores` gives them.
    covariates : array of shape (n, q)
        Design with the intercept, of full column rank.
    folds : int array of shape (R, n) or (n,)
        The fold that each participant is left out with, in each of R repeats.
    permutations : int array of shape (K, n)
        As :func:`sepclr_med.analysis.associations.exchangeability.draw_permutations` gives them.

    Returns
    -------
    SpaceTest
        Missing when the covariates leave nothing of factors or scores.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> factors = rng.normal(size=(60, 4))
    >>> scores = factors[:, :1] + rng.normal(size=(60, 1))
    >>> permutations = np.argsort(rng.random((999, 60)), axis=1)
    >>> found = test_space(factors, scores, np.ones((60, 1)), np.arange(60) % 5, permutations)
    >>> found.statistic > 0.2, found.p_value
    (True, 0.001)
    """
    shares = cross_validated_shares(
        factors, scores, covariates, folds, np.vstack([np.arange(len(factors)), permutations])
    )
    if not np.isfinite(shares[0]):
        return SpaceTest(np.nan, np.nan, len(permutations))
    beaten = int((shares[1:] >= shares[0] - TOLERANCE).sum())
    return SpaceTest(float(shares[0]), (1 + beaten) / (len(permutations) + 1), len(permutations))


# The name is the verb of this module; pytest must not take it for a test where it is imported.
test_space.__test__ = False  # type: ignore[attr-defined]


def cross_validated_shares(
    factors: np.ndarray, scores: np.ndarray, covariates: np.ndarray, folds: np.ndarray, orders: np.ndarray
) -> np.ndarray:
    """Return the statistic of :func:`test_space` for each order of the scores.

    Parameters
    ----------
    factors, scores, covariates, folds
        As for :func:`test_space`.
    orders : int array of shape (K, n)
        Place i receives the score of row ``orders[k, i]``.

    Returns
    -------
    array of shape (K,)

    Examples
    --------
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> cross_validated_shares(x, x, np.ones((20, 1)), np.arange(20) % 5, np.arange(20)[None]).round(2)
    array([1.])
    """
    basis, free, standard = _prepare(factors, np.asarray(scores, dtype=float).reshape(len(factors), -1), covariates)
    if not free.shape[1] or not standard.shape[1]:
        return np.full(len(orders), np.nan)
    both = np.hstack([basis, free])
    repeats = [_fit_folds(both, basis.shape[1], labels) for labels in np.atleast_2d(folds)]
    chunk = max(1, NUMBERS_AT_ONCE // len(factors))
    shares = np.empty(len(orders))
    for start in range(0, len(orders), chunk):
        moved = standard[orders[start : start + chunk]].transpose(2, 0, 1)
        totals = np.sum([_errors(moved, folds_of) for folds_of in repeats], axis=0)
        shares[start : start + chunk] = 1 - totals[0] / totals[1]
    return shares


def divide_rows(strata: np.ndarray, kin: np.ndarray | None, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Divide rows into folds at random: families whole, each stratum spread over all folds.

    Parameters
    ----------
    strata : int array of shape (n,)
        Such as sites. Never the variable that is to be permuted.
    kin : int array of shape (n,) or None
        Family of each row.
    n_folds : int
        How many, fewer when there are fewer families.
    rng : Generator
        Source of the division.

    Returns
    -------
    int array of shape (n,)

    Examples
    --------
    >>> divide_rows(np.repeat([0, 1], 4), None, 2, np.random.default_rng(0))
    array([0, 1, 0, 1, 0, 0, 1, 1])
    """
    unit = np.arange(len(strata)) if kin is None else np.unique(kin, return_inverse=True)[1].ravel()
    n_units = int(unit.max()) + 1
    stratum = np.empty(n_units, dtype=np.intp)
    stratum[unit] = strata
    shuffled = rng.permutation(n_units)
    in_turn = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    fold = np.empty(n_units, dtype=np.intp)
    fold[in_turn] = np.arange(n_units) % min(n_folds, n_units)
    return fold[unit]


@dataclass(frozen=True)
class _Fold:
    """What one fold knows before the scores: rows left out, and maps from sums with the scores to coefficients.

    With X = [covariates, factors], sums over the rows left out are called ``out``; those over the others are total
    minus out.
    """

    rows: np.ndarray
    out: np.ndarray
    both: np.ndarray
    of_covariates: np.ndarray
    root: np.ndarray
    of_factors: np.ndarray
    eigenvalues: np.ndarray
    loss: np.ndarray
    n_fitted: int
    n_covariates: int


def _prepare(
    factors: np.ndarray, scores: np.ndarray, covariates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose coordinates in which sums are well conditioned; no fold's result depends on them."""
    n = len(factors)
    basis = np.linalg.qr(np.asarray(covariates, dtype=float))[0] * np.sqrt(n)
    free = factors - basis @ (basis.T @ factors) / n
    free -= basis @ (basis.T @ free) / n
    spread = free.std(axis=0)
    alive = spread > 1e-8 * np.sqrt(np.square(factors).mean(axis=0))
    left = scores - basis @ (basis.T @ scores) / n
    values, vectors = np.linalg.eigh(left.T @ left / n)
    kept = values > 1e-12 * np.square(scores).mean() * scores.shape[1]
    # Orthonormal scores: which class is left out of the indicators makes no difference.
    return basis, free[:, alive] / spread[alive], left @ (vectors[:, kept] / np.sqrt(values[kept]))


def _fit_folds(both: np.ndarray, q: int, labels: np.ndarray) -> list[_Fold]:
    total = both.T @ both
    folds = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        out = both[rows].T @ both[rows]
        fitted = total - out
        inverse = np.linalg.pinv(fitted[:q, :q], rcond=1e-9, hermitian=True)
        slopes = inverse @ fitted[:q, q:]
        gram = fitted[q:, q:] - fitted[q:, :q] @ slopes
        n_fitted = len(both) - len(rows)
        spread = np.sqrt(np.clip(np.diag(gram), 0, None) / n_fitted)
        # A factor that does not vary among those fitted on predicts nothing.
        scale = np.where(spread > 1e-8, 1 / np.where(spread > 1e-8, spread, 1.0), 0.0)
        eigenvalues, vectors = np.linalg.eigh(gram * np.outer(scale, scale))
        root = scale[:, None] * vectors
        # Left-out factors, free of covariates by the others' slopes, in the coordinates of the eigenvectors.
        to_left = np.vstack([-slopes, np.eye(len(spread))]) @ root
        folds.append(
            _Fold(
                rows=rows,
                out=out,
                both=both[rows],
                of_covariates=inverse,
                root=root,
                of_factors=to_left,
                eigenvalues=np.clip(eigenvalues, 0, None),
                loss=to_left.T @ out @ to_left,
                n_fitted=n_fitted,
                n_covariates=q,
            )
        )
    return folds


def _errors(moved: np.ndarray, folds: list[_Fold]) -> np.ndarray:
    """Return squared errors with and without the factors, for scores of shape (k, K, n): (2, K)."""
    q = folds[0].n_covariates
    sums = [moved[:, :, fold.rows] @ fold.both for fold in folds]
    squares = [np.einsum("kpi,kpi->kp", part, part) for part in (moved[:, :, fold.rows] for fold in folds)]
    total, square = np.sum(sums, axis=0), np.sum(squares, axis=0)
    with_factors = without = 0.0
    for fold, out, square_out in zip(folds, sums, squares, strict=True):
        fitted, square_fitted = total - out, square - square_out
        intercepts = fitted[..., :q] @ fold.of_covariates
        left = square_fitted - np.einsum("kpq,kpq->kp", fitted[..., :q], intercepts)
        # Sums of the residual scores with the factors, on the rows fitted and on those left out.
        seen = fitted @ fold.of_factors
        asked = (out - intercepts @ fold.out[:q]) @ fold.of_factors
        weights = _choose_weights(seen, left, fold)
        predicted = np.einsum("kpd,kpd->p", weights @ fold.loss, weights) - 2 * np.einsum("kpd,kpd->p", weights, asked)
        known = np.einsum("kpq,kpq->kp", intercepts @ fold.out[:q, :q] - 2 * out[..., :q], intercepts)
        alone = (square_out + known).sum(axis=0)
        without = without + alone
        with_factors = with_factors + alone + predicted
    return np.stack([with_factors, without])


def _choose_weights(seen: np.ndarray, left: np.ndarray, fold: _Fold) -> np.ndarray:
    """Return ridge coefficients (k, K, d) at each permutation's own penalty, one for all columns of scores."""
    values = fold.eigenvalues
    penalties = PENALTIES * max(values.mean(), 1e-12)
    shrink = 1 / (values + penalties[:, None])
    energy = np.square(seen).sum(axis=0)
    residual = left.sum(axis=0)[:, None] - energy @ ((values + 2 * penalties[:, None]) * shrink**2).T
    degrees = fold.n_fitted - fold.n_covariates - (values * shrink).sum(axis=1)
    usable = degrees > 0.5
    errors = np.where(usable, residual / np.where(usable, degrees, 1.0) ** 2, np.inf)
    return seen * shrink[errors.argmin(axis=1)]
