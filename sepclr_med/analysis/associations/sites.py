"""The same effect in every site, and what the sites say together: random-effects meta-analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.effects import LEVEL, estimate_effects, fisher_z_variance
from sepclr_med.analysis.associations.null_models import encode_levels, null_scores, residualise
from sepclr_med.analysis.measures import Measure

COLUMNS = ["factor", "site", "n", "estimate", "ci_low", "ci_high", "tau2", "i2", "q", "p_heterogeneity"]
POOLED = "pooled"
# Degrees of freedom a site must leave, and participants in the smaller class, to be worth an estimate of its own.
FEWEST_LEFT = 6
FEWEST_OF_A_CLASS = 2


@dataclass(frozen=True)
class _Site:
    """Estimates of one site: the table's columns, and the variance of the estimate on the scale it is pooled on."""

    name: str
    n: int
    effects: pd.DataFrame
    variance: np.ndarray


def estimate_sites(
    factors: np.ndarray,
    names: Sequence[str],
    values: Any,
    measure: Measure,
    covariates: np.ndarray,
    sites: Any,
    robust: bool = False,
) -> pd.DataFrame:
    r"""Estimate each factor's adjusted effect within every site, and pool the sites.

    Every site has its own model of the covariates; estimates and intervals are those of
    :func:`sepclr_med.analysis.associations.effects.estimate_effects`. Sites are pooled by a random-effects
    meta-analysis, correlations as Fisher's z: :math:`\tau^2` by Paule and Mandel, the interval by Hartung, Knapp, Sidik
    and Jonkman with :math:`k - 1` degrees of freedom, never narrower than without their factor (Roever et al. 2015).
    With two or three sites it is very wide: so few sites say little about sites in general. Partial eta squared of a
    categorical variable has no sign to agree on and is not pooled.

    Parameters
    ----------
    factors : array of shape (n, F)
        Embedding factors, one row per participant.
    names : sequence of str
        Names of the F factors.
    values : Series or array of shape (n,)
        The variable, none missing.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What the variable is.
    covariates : array of shape (n, q)
        Design with the intercept first and no column for the sites; columns that are constant or redundant in a site
        are left out there.
    sites : array of shape (n,)
        Site of each participant; rows without one are left out.
    robust : bool, default=False
        For a continuous variable: outlying values count less.

    Returns
    -------
    DataFrame
        Columns ``factor site n estimate ci_low ci_high tau2 i2 q p_heterogeneity``: for every factor one row per site
        and one with site ``pooled``. Numbers are missing for a site with fewer than q + 6 participants, fewer than two
        in a class of a binary variable, or one value only; it does not enter the pooled row, whose ``n`` counts the
        participants that do. The last four belong to the pooled row: between-site variance (of z for correlations), the
        share of the variance that is between sites, Cochran's Q and its p-value (chi-squared, k - 1).

    References
    ----------
    Paule & Mandel 1982, J Res Natl Bur Stand 87:377. IntHout, Ioannidis & Borm 2014, BMC Med Res Methodol 14:25.
    Roever, Knapp & Friede 2015, BMC Med Res Methodol 15:99.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> score = rng.normal(size=90)
    >>> factor = (score + rng.normal(size=90))[:, None]
    >>> table = estimate_sites(factor, ["salient_000"], score, "continuous", np.ones((90, 1)), ["a", "b", "c"] * 30)
    >>> table[["site", "n", "estimate"]].round(2)
         site   n  estimate
    0       a  30      0.75
    1       b  30      0.85
    2       c  30      0.60
    3  pooled  90      0.75
    """
    values = pd.Series(values).reset_index(drop=True)
    factors, covariates = np.asarray(factors, dtype=float), np.asarray(covariates, dtype=float)
    labels = pd.Series(np.asarray(sites, dtype=object))
    if not len(factors) == len(values) == len(covariates) == len(labels):
        raise ValueError("lengths differ: factors, values, covariates and sites must have the same rows")
    labels = labels.where(labels.isna(), labels.astype(str))
    found = []
    for name in sorted(labels.dropna().unique()):
        rows = (labels == name).to_numpy(dtype=bool)
        found.append(_site(str(name), factors[rows], values[rows], measure, covariates[rows], robust))
    tables = [_site_rows(site, names) for site in found]
    tables.append(_pooled_rows(found, names, measure))
    together = pd.concat(tables, ignore_index=True)
    order = pd.Categorical(together["factor"], categories=list(names))
    return together.iloc[np.argsort(order.codes, kind="stable")].reset_index(drop=True)[COLUMNS]


def _site(
    name: str, factors: np.ndarray, values: pd.Series, measure: Measure, covariates: np.ndarray, robust: bool
) -> _Site:
    n = len(values)
    missing = np.full(factors.shape[1], np.nan)
    nothing = _Site(name, n, pd.DataFrame(dict.fromkeys(COLUMNS[3:6], missing)), missing)
    design = _full_rank(covariates)
    codes, levels = encode_levels(values)
    if n < design.shape[1] + FEWEST_LEFT or len(levels) < 2:
        return nothing
    if measure == "binary" and np.bincount(codes).min() < FEWEST_OF_A_CLASS:
        return nothing
    try:
        scores = null_scores(values, measure, design, robust)
    except ValueError:
        return nothing
    effects = estimate_effects(factors, values, measure, design, scores)
    estimate = effects["estimate"].to_numpy()
    if measure == "binary":
        member = residualise(codes.astype(float), design)
        variance = 1 / (member @ member) + estimate**2 / (2 * (n - design.shape[1] - 1))
    elif measure == "categorical":
        variance = missing
    else:
        variance = fisher_z_variance(n, design.shape[1], estimate, ranked=measure == "ordinal")
    return _Site(name, n, effects, variance)


def _full_rank(covariates: np.ndarray) -> np.ndarray:
    """Keep the columns that add something to those before them."""
    lengths = np.abs(np.diag(np.linalg.qr(covariates, mode="r"))) if len(covariates) >= covariates.shape[1] else None
    if lengths is not None and (lengths > 1e-8 * np.linalg.norm(covariates, axis=0)).all():
        return covariates
    kept: list[int] = []
    for column in range(covariates.shape[1]):
        if np.linalg.matrix_rank(covariates[:, [*kept, column]]) > len(kept):
            kept.append(column)
    return covariates[:, kept]


def _site_rows(site: _Site, names: Sequence[str]) -> pd.DataFrame:
    rows = site.effects.assign(factor=list(names), site=site.name, n=site.n)
    return rows.assign(**dict.fromkeys(COLUMNS[6:], np.nan))


def _pooled_rows(found: Sequence[_Site], names: Sequence[str], measure: Measure) -> pd.DataFrame:
    estimates = np.array([site.effects["estimate"].to_numpy() for site in found])
    variances = np.array([site.variance for site in found])
    known = np.isfinite(estimates) & np.isfinite(variances) & (variances > 0)
    counts = np.array([site.n for site in found])
    correlations = measure in ("continuous", "ordinal")
    effects = np.arctanh(np.clip(estimates, -1 + 1e-15, 1 - 1e-15)) if correlations else estimates
    rows = []
    for place, name in enumerate(names):
        used = known[:, place]
        pooled = _combine(effects[used, place], variances[used, place]) if used.sum() > 1 else {}
        if correlations:
            pooled.update({key: np.tanh(pooled[key]) for key in COLUMNS[3:6] if key in pooled})
        rows.append({"factor": name, "site": POOLED, "n": int(counts[used].sum()), **pooled})
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[3:], float))


def _combine(effects: np.ndarray, variances: np.ndarray) -> dict[str, float]:
    from scipy import stats
    from statsmodels.stats.meta_analysis import combine_effects

    fit = combine_effects(effects, variances, method_re="pm")
    spread = max(fit.sd_eff_w_re_hksj, fit.sd_eff_w_re)
    reach = stats.t.isf((1 - LEVEL) / 2, fit.df) * spread
    mean = fit.mean_effect_re
    return {
        "estimate": mean,
        "ci_low": mean - reach,
        "ci_high": mean + reach,
        "tau2": fit.tau2,
        "i2": max(0.0, 1 - fit.df / fit.q) if fit.q > 0 else 0.0,
        "q": fit.q,
        "p_heterogeneity": stats.chi2.sf(fit.q, fit.df),
    }
