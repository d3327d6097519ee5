"""How large a link is: an estimate with its interval in the unit the measure asks for, and what n could have shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.null_models import NullScores, encode_levels, residualise
from sepclr_med.analysis.measures import MEASURES, Measure

EFFECT_NAMES: dict[str, str] = {
    "continuous": "r",
    "robust": "r",
    "ordinal": "rho",
    "binary": "d",
    "categorical": "eta2",
}
LEVEL = 0.95
# scipy inverts the noncentral F up to a noncentrality of 10,000 only.
LARGEST_NONCENTRALITY = 9000.0
LARGEST_T = 500.0


def estimate_effects(
    factors: np.ndarray,
    values: Any,
    measure: Measure,
    covariates: np.ndarray,
    scores: NullScores,
    excess: np.ndarray | float = 1.0,
) -> pd.DataFrame:
    r"""Estimate the adjusted effect of every factor, with a 95% interval.

    - continuous: partial correlation :math:`r` of factor and variable given the covariates; with robust scores the
      correlation of the residualised factor and Huber's psi. Fisher's z interval, variance
      :math:`1 / (n - q - 2)` with q columns of covariates, the intercept among them;
    - ordinal: covariate-adjusted rank correlation :math:`\rho` (Liu et al. 2018): the correlation of the factor's and
      the variable's probability-scale residuals, Spearman's where there is no covariate. Fisher's z interval, variance
      :math:`(1 + \rho^2 / 2) / (n - q - 2)` (Bonett and Wright 2000);
    - binary: difference of the adjusted means, second level less first, over the residual standard deviation, with
      Hedges' correction (*d*). Exact interval by inversion of the noncentral t;
    - categorical: partial eta squared :math:`\eta^2`, the share of the factor's adjusted variance that lies between the
      classes. Interval by inversion of the noncentral F (Steiger 2004). The estimate is biased upwards by about
      :math:`(k - 1) / n`, so that the interval of a weak effect lies below its estimate; it is widened to hold it.

    Parameters
    ----------
    factors : array of shape (n, F)
        Embedding factors, one row per participant.
    values : Series or array of shape (n,)
        The variable, none missing.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What the variable is; :data:`EFFECT_NAMES` gives the unit of the estimate.
    covariates : array of shape (n, q)
        Design with the intercept first, of full column rank.
    scores : NullScores
        Of the same values and covariates, from :func:`null_scores`.
    excess : array of shape (F,) or float, default=1
        How much wider the intervals are than among independent participants of equal variance, as
        :class:`sepclr_med.analysis.associations.testing.FactorTests` measures it by permutation.

    Returns
    -------
    DataFrame
        Columns ``estimate ci_low ci_high``, one row per factor; missing where a factor is constant given the covariates
        or too few participants are left.

    Raises
    ------
    ValueError
        When the measure is unknown or the lengths differ.

    References
    ----------
    Liu, Li, Wanga & Shepherd 2018, Biometrics 74:595. Bonett & Wright 2000, Psychometrika 65:23.
    Steiger 2004, Psychological Methods 9:164. Hedges & Olkin 1985, Statistical Methods for Meta-Analysis.

    Examples
    --------
    >>> from sepclr_med.analysis.associations.null_models import null_scores
    >>> values, intercept = np.array([1.0, 2, 3, 4, 5, 6]), np.ones((6, 1))
    >>> factor = np.array([[1.0], [3], [2], [5], [4], [6]])
    >>> scores = null_scores(values, "continuous", intercept)
    >>> estimate_effects(factor, values, "continuous", intercept, scores).round(3)
       estimate  ci_low  ci_high
    0     0.886   0.264    0.987
    """
    factors, covariates = np.asarray(factors, dtype=float), np.asarray(covariates, dtype=float)
    if not len(factors) == len(values) == len(covariates) == len(scores.scores):
        raise ValueError("lengths differ: factors, values, covariates and scores must have the same rows")
    rest = residualise(factors - factors.mean(axis=0), covariates)
    varies = (rest**2).sum(axis=0) > 1e-20 * np.maximum((factors**2).sum(axis=0), np.finfo(float).tiny)
    rest = np.where(varies, rest, np.nan)
    if measure in ("continuous", "ordinal"):
        result = _correlations(rest, scores.scores[:, 0], covariates, measure == "ordinal", excess)
    elif measure in ("binary", "categorical"):
        codes, levels = encode_levels(values)
        members = residualise(np.eye(len(levels))[codes][:, 1:], covariates)
        compare = _mean_differences if measure == "binary" else _variance_shares
        estimate, low, high = compare(rest, members, len(covariates) - covariates.shape[1] - members.shape[1])
        low, high = estimate - (estimate - low) * excess, estimate + (high - estimate) * excess
        result = (estimate, low, high) if measure == "binary" else (estimate, np.maximum(low, 0), np.minimum(high, 1))
    else:
        raise ValueError(f"unknown measure {measure!r}; allowed: {', '.join(MEASURES)}")
    return pd.DataFrame(np.column_stack(result), columns=["estimate", "ci_low", "ci_high"])


def fisher_z_variance(n: int, n_columns: int, estimate: np.ndarray, ranked: bool = False) -> np.ndarray:
    """Return the variance of Fisher's z of a partial correlation.

    Parameters
    ----------
    n : int
        Participants.
    n_columns : int
        Columns of the design, the intercept among them.
    estimate : array
        The correlations.
    ranked : bool, default=False
        Whether they are rank correlations, whose variance is larger.

    Returns
    -------
    array of the shape of ``estimate``
        Missing when no degree of freedom is left.

    Examples
    --------
    >>> fisher_z_variance(28, 1, np.array([0.5]))
    array([0.04])
    """
    left = n - n_columns - 2
    return np.where(left > 0, (1 + ranked * estimate**2 / 2) / max(left, 1), np.nan)


def minimum_detectable_effect(
    n: int,
    n_covariates: int,
    measure: Measure,
    n_levels: int = 2,
    alpha: float = 0.05,
    power: float = 0.8,
    information: float | None = None,
) -> float:
    """Return the smallest effect that one test of this size finds with the power asked for.

    Two-sided; in the unit of :func:`estimate_effects`. Of the parametric tests that the permutations equal in power for
    moderate n: Fisher's z for correlations, the noncentral t and F for groups.

    Parameters
    ----------
    n : int
        Participants.
    n_covariates : int
        Columns of the covariates' design without the intercept.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What the variable is.
    n_levels : int, default=2
        Classes of a categorical variable.
    alpha : float, default=0.05
        Level of the test; divide it by the number of tests for a corrected one.
    power : float, default=0.8
        Probability of finding the effect.
    information : float or None, default=None
        Of a binary variable: the sum of squares that the covariates leave of its 0/1 indicator, n f (1 - f) where they
        are unrelated to it. By default n / 4, that of halves.

    Returns
    -------
    float
        Missing when n leaves no degree of freedom.

    Raises
    ------
    ValueError
        When the measure is unknown.

    Examples
    --------
    >>> round(minimum_detectable_effect(84, 0, "continuous"), 3)
    0.302
    >>> round(minimum_detectable_effect(128, 0, "binary"), 3)
    0.499
    """
    from scipy import special, stats

    between = 1 if measure == "binary" else n_levels - 1
    left = n - n_covariates - 1 - between
    if measure in ("continuous", "ordinal"):
        if n - n_covariates - 3 <= 0:
            return float("nan")
        reach = stats.norm.isf(alpha / 2) + stats.norm.ppf(power)
        return float(np.tanh(reach / np.sqrt(n - n_covariates - 3)))
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; allowed: {', '.join(MEASURES)}")
    if left <= 0 or between <= 0:
        return float("nan")
    noncentrality = special.ncfdtrinc(between, left, 1 - power, stats.f.isf(alpha, between, left))
    if measure == "categorical":
        return float(noncentrality / (noncentrality + between + left + 1))
    information = n / 4 if information is None else information
    return float(np.sqrt(noncentrality / information)) if information > 1e-10 else float("nan")


def widen_effect(smallest: float, measure: Measure, excess: np.ndarray | float) -> np.ndarray:
    """Return the smallest effect found when estimates are less sure by a factor.

    Parameters
    ----------
    smallest : float
        From :func:`minimum_detectable_effect`.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What the variable is.
    excess : array or float
        Of :class:`sepclr_med.analysis.associations.testing.FactorTests`.

    Returns
    -------
    array
        At most 1 for correlations and shares.

    Examples
    --------
    >>> widen_effect(0.3, "continuous", np.array([1.0, 1.5])).round(2)
    array([0.3 , 0.43])
    """
    if measure in ("continuous", "ordinal"):
        return np.tanh(np.arctanh(smallest) * np.asarray(excess))
    if measure == "binary":
        return smallest * np.asarray(excess)
    return np.minimum(smallest * np.square(excess), 1.0)


def _correlations(
    rest: np.ndarray, score: np.ndarray, covariates: np.ndarray, ranked: bool, excess: np.ndarray | float
) -> tuple[np.ndarray, ...]:
    from scipy import stats

    if ranked:
        # The factor's own probability-scale residuals under a linear model with the empirical distribution of its
        # residuals; rounding, so that equal values stay tied after residualising.
        scale = np.sqrt((rest**2).mean(axis=0))
        rest = stats.rankdata(np.round(rest / scale, 10), axis=0, nan_policy="propagate")
        rest, score = rest - rest.mean(axis=0), score - score.mean()
    else:
        score = residualise(score, covariates)
    size = np.sqrt((rest**2).sum(axis=0) * (score**2).sum())
    estimate = (score @ rest) / np.where(size > 0, size, np.nan)
    spread = np.sqrt(fisher_z_variance(len(rest), covariates.shape[1], estimate, ranked))
    z = np.arctanh(np.clip(estimate, -1 + 1e-15, 1 - 1e-15))
    reach = stats.norm.isf((1 - LEVEL) / 2) * spread * excess
    return estimate, np.tanh(z - reach), np.tanh(z + reach)


def _mean_differences(rest: np.ndarray, members: np.ndarray, left: int) -> tuple[np.ndarray, ...]:
    from scipy import special

    member = members[:, 0]
    information = member @ member
    if left <= 0 or information < 1e-10:
        return tuple(np.full(rest.shape[1], np.nan) for _ in range(3))
    difference = member @ rest / information
    total = (rest**2).sum(axis=0)
    unexplained = np.maximum(total - information * difference**2, np.finfo(float).eps * total)
    t = difference * np.sqrt(information / (unexplained / left))
    within = np.where(np.abs(t) < LARGEST_T, t, np.nan)
    bounds = special.nctdtrinc(left, np.array([[(1 + LEVEL) / 2], [(1 - LEVEL) / 2]]), within)
    # Classes so far apart do not overlap: their difference in standard deviations is no number.
    low, high = bounds / np.sqrt(information)
    return hedges_correction(left) * within / np.sqrt(information), low, high


def hedges_correction(left: int) -> float:
    """Return the factor that takes the small-sample bias out of a standardised mean difference.

    Parameters
    ----------
    left : int
        Degrees of freedom of the standard deviation.

    Examples
    --------
    >>> round(hedges_correction(10), 3)
    0.923
    """
    return 1 - 3 / (4 * left - 1)


def _variance_shares(rest: np.ndarray, members: np.ndarray, left: int) -> tuple[np.ndarray, ...]:
    from scipy import special, stats

    # Classes that the covariates determine add no direction of their own.
    basis, sizes, _ = np.linalg.svd(members, full_matrices=False)
    basis = basis[:, sizes > 1e-8 * np.sqrt(len(rest))]
    between = basis.shape[1]
    left += members.shape[1] - between
    if left <= 0 or between == 0:
        return tuple(np.full(rest.shape[1], np.nan) for _ in range(3))
    share = np.clip(((basis.T @ rest) ** 2).sum(axis=0) / (rest**2).sum(axis=0), 0, 1 - 1e-15)
    f = share / (1 - share) * left / between
    within = np.where(np.isfinite(f), np.minimum(f, LARGEST_NONCENTRALITY / between), 0.0)
    bounds = special.ncfdtrinc(between, left, np.array([[(1 + LEVEL) / 2], [(1 - LEVEL) / 2]]), within)
    low, high = bounds / (bounds + between + left + 1)
    # Beyond that reach, Fisher's z of eta: there the two agree.
    reach = stats.norm.isf((1 - LEVEL) / 2) / np.sqrt(left)
    beyond = (f * between * 2 > LARGEST_NONCENTRALITY) & np.isfinite(f)
    eta = np.arctanh(np.sqrt(share))
    low = np.where(beyond, np.tanh(np.maximum(eta - reach, 0)) ** 2, low)
    high = np.where(beyond, np.tanh(eta + reach) ** 2, high)
    high = np.maximum(high, share)
    missing = np.where(np.isfinite(share), 0.0, np.nan)
    return share, low + missing, high + missing
