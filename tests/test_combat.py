from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import norm
from sklearn.base import clone

from sepclr_med.analysis.combat import ComBat
from sepclr_med.errors import ManifestError

pytestmark = pytest.mark.filterwarnings("error")
N_FEATURES = 8
FACTORS = [f"f{k:02}" for k in range(N_FEATURES)]


def make_table(counts=(40, 25, 12), seed=0):
    """Sites with shift and scale of their own in every feature, an age effect to keep, older people at the second."""
    rng = np.random.default_rng(seed)
    site = np.repeat(["A", "B", "C"], counts)
    n = len(site)
    table = pd.DataFrame(
        {"site": site, "age": rng.normal(50, 10, n) + 8 * (site == "B"), "sex": rng.choice(["F", "M"], n)}
    )
    shift = {"A": 0.0, "B": 2.0, "C": -1.5}
    scale = {"A": 1.0, "B": 2.0, "C": 0.5}
    for k, name in enumerate(FACTORS):
        noise = rng.normal(size=n) * [scale[s] for s in site]
        table[name] = (
            10 + k + 0.08 * table["age"] + 0.5 * (table["sex"] == "M") + [shift[s] + 0.1 * k for s in site] + noise
        )
    return table


def slow_combat(table, preserve, parametric=True, mean_only=False, reference=None, empirical_bayes=True):
    """The equations of Johnson (2007) and Fortin (2018), feature by feature and participant by participant."""
    sites = sorted(table["site"].unique())
    n, n_features = len(table), len(FACTORS)
    place = [sites.index(s) for s in table["site"]]
    formula = " + ".join(["C(site)", *preserve])
    mean, fixed, sd = np.empty(n_features), np.empty((n, n_features)), np.empty(n_features)
    for g, name in enumerate(FACTORS):
        model = smf.ols(f"{name} ~ {formula} - 1", table).fit()
        own = [model.params[f"C(site)[{s}]"] for s in sites]
        share = [np.mean([p == i for p in place]) for i in range(len(sites))]
        mean[g] = np.dot(share, own) if reference is None else own[sites.index(reference)]
        fixed[:, g] = model.fittedvalues - np.array([own[p] for p in place])
        kept = np.ones(n, bool) if reference is None else (table["site"] == reference).to_numpy()
        sd[g] = np.sqrt(np.mean(model.resid[kept] ** 2))
    z = (table[FACTORS].to_numpy() - mean - fixed) / sd
    result = table[FACTORS].to_numpy().copy()
    for i, site in enumerate(sites):
        rows = np.flatnonzero(np.array(place) == i)
        if site == reference:
            continue
        gamma = np.array([np.mean([z[j, g] for j in rows]) for g in range(n_features)])
        delta = np.array([1.0 if mean_only else np.var(z[rows, g], ddof=1) for g in range(n_features)])
        for g in range(n_features):
            new_gamma, new_delta = gamma[g], delta[g]
            if empirical_bayes and parametric:
                new_gamma, new_delta = slow_parametric(z[rows, g], g, gamma, delta, mean_only)
            elif empirical_bayes:
                new_gamma, new_delta = slow_nonparametric(z[rows, g], g, gamma, delta)
            for j in rows:
                result[j, g] = sd[g] * (z[j, g] - new_gamma) / np.sqrt(new_delta) + mean[g] + fixed[j, g]
    return result


def slow_parametric(values, g, gamma, delta, mean_only):
    n, tau2, centre = len(values), np.var(gamma, ddof=1), np.mean(gamma)
    if mean_only:
        return (n * tau2 * gamma[g] + centre) / (n * tau2 + 1), 1.0
    mean, variance = np.mean(delta), np.var(delta, ddof=1)
    form, size = mean**2 / variance + 2, mean**3 / variance + mean
    new_gamma, new_delta = gamma[g], delta[g]
    for _ in range(200):
        new_gamma = (n * tau2 * gamma[g] + new_delta * centre) / (n * tau2 + new_delta)
        new_delta = (size + 0.5 * sum((v - new_gamma) ** 2 for v in values)) / (n / 2 + form - 1)
    return new_gamma, new_delta


def slow_nonparametric(values, g, gamma, delta):
    others = [h for h in range(len(gamma)) if h != g]
    weight = [np.prod([norm.pdf(v, gamma[h], np.sqrt(delta[h])) for v in values]) for h in others]
    total = sum(weight)
    return (
        sum(w * gamma[h] for w, h in zip(weight, others, strict=True)) / total,
        sum(w * delta[h] for w, h in zip(weight, others, strict=True)) / total,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"parametric": False},
        {"mean_only": True},
        {"reference": "B"},
        {"empirical_bayes": False},
    ],
    ids=["parametric", "nonparametric", "mean_only", "reference", "no_bayes"],
)
def test_equals_the_published_equations_by_a_slow_loop(options):
    table = make_table()
    adjusted = ComBat(preserve=["age", "sex"], features=FACTORS, **options).fit_transform(table)
    np.testing.assert_allclose(adjusted, slow_combat(table, ["age", "sex"], **options), atol=2e-5)


def test_regression_part_is_that_of_statsmodels():
    table = make_table()
    fitted = ComBat(preserve=["age", "sex"], features=FACTORS).fit(table)
    for g, name in enumerate(FACTORS):
        model = smf.ols(f"{name} ~ C(site) + age + sex", table).fit()
        np.testing.assert_allclose(fitted.coef_[:, g], model.params[["age", "sex[T.M]"]], rtol=1e-8)
        assert fitted.pooled_sd_[g] == pytest.approx(np.sqrt(np.mean(model.resid**2)))
        assert fitted.grand_mean_[g] == pytest.approx(
            np.mean(model.fittedvalues - 0)
            - np.dot(model.params[["age", "sex[T.M]"]], [table.age.mean(), (table.sex == "M").mean()])
        )


def test_site_is_taken_out_and_preserved_covariates_are_kept():
    table = make_table((80, 80, 80))
    adjusted = ComBat(preserve=["age", "sex"], features=FACTORS).fit_transform(table)
    joined = pd.concat([table[["site", "age", "sex"]], adjusted], axis=1)
    for name in FACTORS:
        before = smf.ols(f"{name} ~ age + sex + C(site)", table).fit()
        after = smf.ols(f"{name} ~ age + sex + C(site)", joined).fit()
        assert before.pvalues.filter(like="site").max() < 1e-4
        assert after.pvalues.filter(like="site").min() > 0.05
        assert after.params["age"] == pytest.approx(0.08, abs=0.03)
        spread = after.resid.groupby(joined["site"]).std()
        assert spread.max() / spread.min() < 1.25


def test_without_preserving_a_confounded_covariate_is_taken_too():
    table = make_table((80, 80, 80))
    kept, lost = (ComBat(preserve=p, features=FACTORS).fit_transform(table) for p in (["age"], []))
    gap = [(t[table.site == "B"].mean() - t[table.site == "A"].mean()).mean() for t in (kept, lost)]
    assert gap[0] == pytest.approx(0.08 * 8, abs=0.25)
    assert abs(gap[1]) < 0.05


def test_small_sites_are_shrunk_more():
    table = make_table((200, 200, 6))
    raw, shrunk = (ComBat(features=FACTORS, empirical_bayes=b).fit(table) for b in (False, True))
    distance = np.abs(raw.shift_ - shrunk.shift_).mean(axis=1)
    assert distance[2] > 5 * distance[0]


def test_rows_are_adjusted_one_by_one_with_the_training_fit():
    table = make_table()
    train = table.iloc[::2]
    fitted = ComBat(preserve=["age"], features=FACTORS).fit(train)
    together = fitted.transform(table)
    alone = pd.concat([fitted.transform(table.iloc[[i]]) for i in range(len(table))])
    pd.testing.assert_frame_equal(together, alone)
    pd.testing.assert_frame_equal(together.loc[train.index], clone(fitted).fit_transform(train))


def test_reference_site_is_left_alone():
    table = make_table()
    adjusted = ComBat(features=FACTORS, reference="A").fit_transform(table)
    rows = table["site"] == "A"
    pd.testing.assert_frame_equal(adjusted[rows], table.loc[rows, FACTORS])


def test_unseen_site_is_refused_saying_what_can_be_done():
    table = make_table()
    fitted = ComBat(features=FACTORS).fit(table[table.site != "C"])
    with pytest.raises(ManifestError) as caught:
        fitted.transform(table)
    said = str(caught.value)
    assert '12 rows of a site that was not there when fitting; got "C"; allowed: A, B' in said
    for advice in ("its controls", "left-out site", "CovariateResidualizer"):
        assert advice in said


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda t: t.assign(site=t.site.where(t.index != 0, "D")), {}, "site has one row"),
        (lambda t: t.assign(site=t.site.where(t.index != 0)), {}, "1 of 77 rows have no value"),
        (lambda t: t.assign(f03=t.f03.where(t.index != 0)), {}, '"f03": features have missing values'),
        (lambda t: t.assign(sex=np.where(t.site == "A", "F", "M")), {"preserve": ["sex"]}, "cannot be told apart"),
        (lambda t: t, {"features": ["f00"]}, "one feature gives no prior"),
        (lambda t: t, {"reference": "Z"}, "reference is no site"),
        (lambda t: t.drop(columns="site"), {}, "no such column"),
    ],
    ids=["single", "missing_site", "missing_feature", "confounded", "one_feature", "reference", "no_site"],
)
def test_what_cannot_be_fitted_is_refused(change, options, said):
    with pytest.raises(ManifestError, match=said):
        ComBat(**{"features": FACTORS, **options}).fit(change(make_table()))


def test_sites_written_as_numbers_constant_features_and_names():
    table = make_table()
    table["site"] = table["site"].map({"A": 1, "B": 2, "C": 3})
    table["f00"] = 4.0
    fitted = ComBat(features=FACTORS).fit(table)
    assert fitted.sites_ == ["1", "2", "3"]
    assert fitted.get_feature_names_out().tolist() == FACTORS
    assert np.isfinite(fitted.transform(table).to_numpy()).all()
    assert clone(fitted).set_output(transform="pandas").fit_transform(table).columns.tolist() == FACTORS


def test_a_constant_that_rounding_moves_does_not_touch_the_others():
    table = make_table()
    others = FACTORS[1:]
    with_it = ComBat(features=FACTORS).fit_transform(table.assign(f00=0.3))
    np.testing.assert_allclose(with_it[others], ComBat(features=others).fit_transform(table)[others], atol=1e-10)
    np.testing.assert_allclose(with_it["f00"], 0.3)
