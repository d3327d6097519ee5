"""Effects, their intervals, and sites: against scipy, statsmodels, slow loops and simulated coverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import optimize, stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.meta_analysis import combine_effects, effectsize_smd
from statsmodels.stats.power import FTestPower, TTestIndPower

from sepclr_med.analysis.associations.effects import (
    EFFECT_NAMES,
    estimate_effects,
    minimum_detectable_effect,
    widen_effect,
)
from sepclr_med.analysis.associations.null_models import null_scores, residualise
from sepclr_med.analysis.associations.sites import COLUMNS, estimate_sites
from sepclr_med.analysis.measures import MEASURES

pytestmark = pytest.mark.filterwarnings("error")


def make_design(n, rng):
    return np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(0, 2, n)])


def draw_study(kind, n, effect, n_factors, seed):
    """Return covariates, a variable and factors; all factors share the effect and the covariates."""
    rng = np.random.default_rng(seed)
    covariates = make_design(n, rng)
    shift = (covariates @ [0, 0.6, 0.3])[:, None]
    noise = rng.normal(size=(n, n_factors))
    if kind == "binary":
        group = rng.random(n) < 0.35
        return covariates, np.where(group, "yes", "no"), effect * group[:, None] + noise + shift
    if kind == "categorical":
        group = rng.integers(0, 3, n)
        return (
            covariates,
            np.array(["a", "b", "c"])[group],
            np.array([0, effect, -effect])[group][:, None] + noise + shift,
        )
    value = rng.normal(size=n)
    factors = effect * value[:, None] + np.sqrt(1 - effect**2) * noise + shift
    value = value + covariates @ [0, 0.5, 0.5]
    return covariates, np.digitize(value, [-0.8, 0, 0.7, 1.5]) if kind == "ordinal" else value, factors


def estimate(kind, covariates, values, factors):
    measure = "continuous" if kind == "robust" else kind
    scores = null_scores(values, measure, covariates, robust=kind == "robust")
    return estimate_effects(factors, values, measure, covariates, scores)


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_has_a_unit_and_a_detectable_effect(measure):
    assert EFFECT_NAMES[measure] in ("r", "rho", "d", "eta2")
    assert minimum_detectable_effect(100, 3, measure, n_levels=3) > 0


def test_partial_correlation_equals_that_of_a_regression():
    covariates, values, factors = draw_study("continuous", 60, 0.4, 3, seed=0)
    found = estimate("continuous", covariates, values, factors)
    for place in range(3):
        fit = sm.OLS(factors[:, place], np.column_stack([covariates, values])).fit()
        t = fit.tvalues[-1]
        assert found.estimate[place] == pytest.approx(t / np.sqrt(t**2 + fit.df_resid), abs=1e-12)


def test_interval_without_covariates_is_scipys():
    rng = np.random.default_rng(1)
    values, factors = rng.normal(size=40), rng.normal(size=(40, 1))
    found = estimate("continuous", np.ones((40, 1)), values, factors)
    reference = stats.pearsonr(values, factors[:, 0]).confidence_interval(0.95)
    np.testing.assert_allclose(found.loc[0, ["ci_low", "ci_high"]].astype(float), reference, rtol=1e-10)


def test_robust_correlation_resists_an_outlier():
    covariates, values, factors = draw_study("continuous", 80, 0.5, 1, seed=2)
    spoilt = values.copy()
    spoilt[0] += 60
    clean = estimate("robust", covariates, values, factors).estimate[0]
    assert estimate("robust", covariates, spoilt, factors).estimate[0] == pytest.approx(clean, abs=0.1)
    assert abs(estimate("continuous", covariates, spoilt, factors).estimate[0] - clean) > 0.15


@pytest.mark.parametrize("ties", ["none in the factor", "in the factor"])
def test_rank_correlation_without_covariates_is_spearmans(ties):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 5, 70)
    factor = values + 2 * rng.normal(size=70)
    factor = np.round(factor) if ties == "in the factor" else factor
    found = estimate("ordinal", np.ones((70, 1)), values, factor[:, None])
    rho = stats.spearmanr(values, factor).statistic
    assert found.estimate[0] == pytest.approx(rho, abs=1e-10)
    reach = 1.959964 * np.sqrt((1 + rho**2 / 2) / 67)
    assert found.ci_low[0] == pytest.approx(np.tanh(np.arctanh(rho) - reach), abs=1e-6)


def test_rank_correlation_forgets_a_covariate_that_explains_the_link():
    rng = np.random.default_rng(4)
    age = rng.normal(size=2000)
    values, factor = np.digitize(age + rng.normal(size=2000), [-1, 0, 1]), age + rng.normal(size=2000)
    covariates = np.column_stack([np.ones(2000), age])
    assert stats.spearmanr(values, factor).statistic > 0.4
    assert abs(estimate("ordinal", covariates, values, factor[:, None]).estimate[0]) < 0.05


def test_mean_difference_without_covariates_is_hedges_g():
    rng = np.random.default_rng(5)
    no, yes = rng.normal(size=14), rng.normal(1, 1.3, size=22)
    values = ["no"] * 14 + ["yes"] * 22
    found = estimate("binary", np.ones((36, 1)), values, np.append(no, yes)[:, None])
    reference, _ = effectsize_smd(yes.mean(), yes.std(ddof=1), 22, no.mean(), no.std(ddof=1), 14)
    assert found.estimate[0] == pytest.approx(reference, rel=1e-3)


def test_interval_of_a_mean_difference_inverts_the_noncentral_t():
    covariates, values, factors = draw_study("binary", 50, 0.8, 1, seed=6)
    found = estimate("binary", covariates, values, factors)
    member = values == "yes"
    fit = sm.OLS(factors[:, 0], np.column_stack([covariates, member])).fit()
    scale = fit.bse[-1] / np.sqrt(fit.scale)
    for bound, level in (("ci_low", 0.975), ("ci_high", 0.025)):
        nc = optimize.brentq(lambda nc, level=level: stats.nct.cdf(fit.tvalues[-1], fit.df_resid, nc) - level, -20, 20)
        assert found[bound][0] == pytest.approx(nc * scale, rel=1e-4)


def test_partial_eta_squared_is_that_of_an_analysis_of_variance():
    covariates, values, factors = draw_study("categorical", 66, 0.7, 1, seed=7)
    found = estimate("categorical", covariates, values, factors)
    table = pd.DataFrame({"y": factors[:, 0], "age": covariates[:, 1], "sex": covariates[:, 2], "group": values})
    anova = anova_lm(sm.OLS.from_formula("y ~ age + sex + group", table).fit(), typ=2)
    between, within = anova.loc[["group", "Residual"], "sum_sq"]
    assert found.estimate[0] == pytest.approx(between / (between + within), rel=1e-10)
    f = anova.loc["group", "F"]
    for bound, level in (("ci_low", 0.975), ("ci_high", 0.025)):
        nc = optimize.brentq(lambda nc, level=level: stats.ncf.cdf(f, 2, 61, nc) - level, 1e-9, 200)
        assert found[bound][0] == pytest.approx(nc / (nc + 64), rel=1e-2)


@pytest.mark.parametrize("kind", ["continuous", "ordinal", "binary", "categorical"])
def test_estimates_do_not_depend_on_units(kind):
    covariates, values, factors = draw_study(kind, 60, 0.4, 2, seed=8)
    plain = estimate(kind, covariates, values, factors)
    moved = estimate(kind, covariates, values, 1e6 + 1e-3 * factors)
    np.testing.assert_allclose(moved, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "effect", "truth"),
    [
        ("continuous", 0.5, 0.5),
        ("robust", 0.0, 0.0),
        ("ordinal", 0.0, 0.0),
        ("ordinal", 0.6, 0.558),
        ("binary", 0.6, 0.6),
        ("categorical", 0.6, 0.24 / 1.24),
    ],
)
def test_intervals_cover_the_truth_in_95_of_100(kind, effect, truth):
    held = []
    for seed in range(20):
        found = estimate(kind, *draw_study(kind, 80, effect, 250, seed))
        held.append(((found.ci_low <= truth) & (truth <= found.ci_high)).mean())
    assert 0.93 <= np.mean(held) <= 0.972


def test_a_factor_that_the_covariates_explain_has_no_effect():
    covariates, values, factors = draw_study("continuous", 40, 0.3, 3, seed=9)
    factors[:, 1], factors[:, 2] = 7.0, covariates @ [1, 2, 3]
    found = estimate("continuous", covariates, values, factors)
    assert found.notna().all(axis=1).tolist() == [True, False, False]


@pytest.mark.parametrize("kind", ["continuous", "ordinal", "binary", "categorical"])
def test_a_perfect_link_gives_numbers_and_no_warning(kind):
    rng = np.random.default_rng(10)
    values = rng.normal(size=30) if kind == "continuous" else np.arange(30) % (2 if kind == "binary" else 3)
    found = estimate(kind, np.ones((30, 1)), values, np.asarray(values, dtype=float)[:, None])
    # Classes that do not overlap have no difference in standard deviations.
    assert np.isfinite(found.estimate[0]) == (kind != "binary")
    if kind != "binary":
        assert found.estimate[0] == pytest.approx(1, abs=0.01)


def test_rows_that_do_not_match_are_refused():
    scores = null_scores(np.arange(5.0), "continuous", np.ones((5, 1)))
    with pytest.raises(ValueError, match="lengths differ"):
        estimate_effects(np.zeros((4, 1)), np.arange(5.0), "continuous", np.ones((5, 1)), scores)
    with pytest.raises(ValueError, match="unknown measure"):
        estimate_effects(np.zeros((5, 1)), np.arange(5.0), "ratio", np.ones((5, 1)), scores)


def test_detectable_effects_are_those_of_statsmodels():
    d = TTestIndPower().solve_power(nobs1=30, ratio=2, alpha=0.05, power=0.8)
    assert minimum_detectable_effect(90, 0, "binary", information=90 * 2 / 9) == pytest.approx(d, rel=1e-3)
    eta2 = minimum_detectable_effect(103, 2, "categorical", n_levels=4)
    power = FTestPower().power(np.sqrt(eta2 / (1 - eta2) * 101 / 101), df_num=97, df_denom=3, alpha=0.05)
    assert power == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("kind", ["continuous", "ordinal", "binary", "categorical"])
def test_detectable_effect_is_found_in_80_of_100(kind):
    n, share = 100, 0.35
    found = minimum_detectable_effect(n, 2, kind, n_levels=3, information=n * share * (1 - share))
    # Per measure: from the effect in its unit back to what is planted.
    planted = {"continuous": found, "ordinal": found * 1.07, "binary": found}
    planted["categorical"] = np.sqrt(1.5 * found / (1 - found))
    hits = []
    for seed in range(20):
        covariates, values, factors = draw_study(kind, n, planted[kind], 150, seed)
        rest = residualise(factors, covariates)
        levels = pd.get_dummies(pd.Series(values), drop_first=True).to_numpy(dtype=float)
        tested = levels if kind in ("binary", "categorical") else null_scores(values, kind, covariates).scores
        basis = np.linalg.qr(residualise(tested, covariates))[0]
        share_explained = ((basis.T @ rest) ** 2).sum(axis=0) / (rest**2).sum(axis=0)
        k, left = basis.shape[1], n - 3 - basis.shape[1]
        hits.append((stats.f.sf(share_explained / (1 - share_explained) * left / k, k, left) <= 0.05).mean())
    assert 0.74 <= np.mean(hits) <= 0.86


@pytest.mark.parametrize("measure", MEASURES)
def test_too_few_participants_detect_nothing(measure):
    assert np.isnan(minimum_detectable_effect(4, 5, measure))


def make_sites(kind="continuous", counts=(60, 40, 30, 20), effects=(0.4, 0.4, 0.4, 0.4), seed=0, n_factors=2):
    parts = [
        draw_study(kind, n, effect, n_factors, [seed, k])
        for k, (n, effect) in enumerate(zip(counts, effects, strict=False))
    ]
    covariates, values, factors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return covariates, values, factors, np.repeat([f"site{k}" for k in range(len(counts))], counts)


def pooled_of(table):
    return table[table["site"] == "pooled"].set_index("factor")


@pytest.mark.parametrize("kind", ["continuous", "robust", "ordinal", "binary"])
def test_sites_are_estimated_apart_and_pooled_like_statsmodels(kind):
    covariates, values, factors, sites = make_sites(kind, effects=(0.5, 0.5, 0.1, 0.6))
    measure = "continuous" if kind == "robust" else kind
    table = estimate_sites(factors, ["a", "b"], values, measure, covariates, sites, robust=kind == "robust")
    assert table.columns.tolist() == COLUMNS
    assert table["site"].tolist() == ["site0", "site1", "site2", "site3", "pooled"] * 2
    effects, variances = [], []
    for site in np.unique(sites):
        rows = sites == site
        alone = estimate(kind, covariates[rows], values[rows], factors[rows])
        row = table[(table["site"] == site) & (table["factor"] == "b")].iloc[0]
        assert row[["estimate", "ci_low", "ci_high"]].tolist() == alone.iloc[1].tolist()
        value, n = alone.estimate[1], rows.sum()
        if kind == "binary":
            fit = sm.OLS(factors[rows, 1], np.column_stack([covariates[rows], values[rows] == "yes"])).fit()
            effects.append(value)
            variances.append(fit.bse[-1] ** 2 / fit.scale + value**2 / (2 * fit.df_resid))
        else:
            effects.append(np.arctanh(value))
            variances.append((1 + (kind == "ordinal") * value**2 / 2) / (n - 5))
    fit = combine_effects(np.array(effects), np.array(variances), method_re="pm")
    pooled = pooled_of(table).loc["b"]
    back = (lambda x: x) if kind == "binary" else np.tanh
    assert pooled["estimate"] == pytest.approx(back(fit.mean_effect_re))
    assert pooled["tau2"] == pytest.approx(fit.tau2)
    assert pooled["q"] == pytest.approx(fit.q)
    assert pooled["p_heterogeneity"] == pytest.approx(stats.chi2.sf(fit.q, 3))
    assert pooled["n"] == 150


def test_sites_that_disagree_are_said_to():
    covariates, values, factors, sites = make_sites(effects=(0.7, -0.6, 0.7, -0.6), counts=(80, 80, 80, 80))
    pooled = pooled_of(estimate_sites(factors, ["a", "b"], values, "continuous", covariates, sites))
    assert (pooled["p_heterogeneity"] < 1e-6).all()
    assert (pooled["i2"] > 0.9).all()
    assert ((pooled["ci_low"] < 0) & (pooled["ci_high"] > 0)).all()


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_pooled_interval_covers_and_heterogeneity_is_not_invented(kind):
    held, claimed = [], []
    for seed in range(12):
        covariates, values, factors, sites = make_sites(kind, seed=seed, n_factors=25)
        names = [f"f{k}" for k in range(25)]
        pooled = pooled_of(estimate_sites(factors, names, values, kind, covariates, sites))
        held.append(((pooled["ci_low"] <= 0.4) & (pooled["ci_high"] >= 0.4)).mean())
        claimed.append((pooled["p_heterogeneity"] <= 0.05).mean())
    # The interval is never narrower than the fixed-effect one, so it covers more than 95% when sites agree.
    assert np.mean(held) >= 0.94
    assert np.mean(claimed) <= 0.09


def test_small_and_constant_sites_are_counted_and_left_out():
    covariates, values, factors, sites = make_sites(counts=(40, 40, 8, 30))
    values[sites == "site3"] = 1.0
    table = estimate_sites(factors, ["a", "b"], values, "continuous", covariates, sites)
    first = table[table["factor"] == "a"].set_index("site")
    assert first["n"].to_dict() == {"site0": 40, "site1": 40, "site2": 8, "site3": 30, "pooled": 80}
    assert first["estimate"].notna().to_dict() == {
        "site0": True,
        "site1": True,
        "site2": False,
        "site3": False,
        "pooled": True,
    }


def test_a_covariate_that_is_constant_in_a_site_is_left_out_there():
    covariates, values, factors, sites = make_sites(counts=(40, 40))
    covariates[sites == "site0", 2] = 1.0
    table = estimate_sites(factors, ["a", "b"], values, "continuous", covariates, sites)
    rows = sites == "site0"
    alone = estimate("continuous", covariates[rows, :2], values[rows], factors[rows])
    assert table.loc[0, "estimate"] == pytest.approx(alone.estimate[0])


def test_one_site_is_not_pooled_and_eta_squared_never_is():
    covariates, values, factors, sites = make_sites("categorical", counts=(40, 40))
    table = estimate_sites(factors, ["a", "b"], values, "categorical", covariates, sites)
    assert table.set_index("site").loc["site1", "estimate"].notna().all()
    assert pooled_of(table)["estimate"].isna().all()
    one = estimate_sites(factors, ["a", "b"], covariates[:, 1], "continuous", covariates[:, :1], ["x"] * 80)
    assert pooled_of(one)["tau2"].isna().all()


def test_participants_without_a_site_are_left_out():
    covariates, values, factors, sites = make_sites(counts=(40, 40))
    sites = sites.astype(object)
    sites[:10] = None
    table = estimate_sites(factors, ["a", "b"], values, "continuous", covariates, sites)
    assert pooled_of(table)["n"].tolist() == [70, 70]


def test_intervals_widen_by_the_excess_and_detectable_effects_with_them():
    rng = np.random.default_rng(0)
    values, factors = rng.normal(size=60), rng.normal(size=(60, 2))
    scores = null_scores(values, "continuous", np.ones((60, 1)))
    plain = estimate_effects(factors, values, "continuous", np.ones((60, 1)), scores)
    wider = estimate_effects(factors, values, "continuous", np.ones((60, 1)), scores, np.array([1.0, 2.0]))
    reach = [np.arctanh(table["ci_high"]) - np.arctanh(table["estimate"]) for table in (plain, wider)]
    np.testing.assert_allclose(reach[1] / reach[0], [1, 2])
    assert widen_effect(0.3, "binary", np.array([1.5])) == pytest.approx(0.45)
    assert widen_effect(0.3, "categorical", np.array([3.0])) == 1


def test_classes_that_covariates_nearly_tell_need_a_larger_difference():
    free = minimum_detectable_effect(60, 3, "binary", information=15)
    assert minimum_detectable_effect(60, 3, "binary", information=5) == pytest.approx(free * np.sqrt(3))
    assert np.isnan(minimum_detectable_effect(60, 3, "binary", information=0.0))
