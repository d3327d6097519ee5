from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import optimize, stats
from scipy.special import expit

from sepclr_med.analysis.associations import null_models, testing
from sepclr_med.analysis.associations.claims import describe_links
from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.associations.families import adjust_families
from sepclr_med.analysis.associations.links import LINK_COLUMNS, SITE_COLUMNS, link_factors
from sepclr_med.analysis.associations.null_models import encode_levels, null_scores
from sepclr_med.analysis.associations.testing import test_factors as run_tests
from sepclr_med.analysis.participants import Participants
from sepclr_med.errors import ManifestError, UserError

pytestmark = pytest.mark.filterwarnings("error")


def make_design(n=120, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(2, size=n)]).astype(float)


def make_people(n=200, n_factors=4, seed=0, site_shift=0.0, **columns):
    """Participants of three unequal sites; every factor shifted by site; noise else."""
    rng = np.random.default_rng(seed)
    site = np.repeat(["A", "B", "C"], [n // 2, n // 4, n - n // 2 - n // 4])
    shift = site_shift * np.searchsorted(["A", "B", "C"], site)
    rows = pd.DataFrame(
        {
            "participant_id": [f"{i:03}" for i in range(n)],
            "site": site,
            "age": rng.uniform(20, 80, n),
            "sex": rng.choice(["F", "M"], n),
            "score": rng.normal(size=n) + shift,
            "other": rng.normal(size=n),
        }
    )
    factors = rng.normal(size=(n, n_factors)) + shift[:, None]
    names = [f"salient_{k:03}" for k in range(n_factors)]
    people = Participants(rows, {"salient": factors}, {"salient": names}, np.ones(n, dtype=bool))
    for name, values in columns.items():
        rows[name] = values(rng, rows) if callable(values) else values
    return people


def link(people, variables, *arguments, n_permutations=499, **options):
    return link_factors(people, "salient", variables, *arguments, n_permutations=n_permutations, **options)


# ---------------------------------------------------------------- null models, against statsmodels and by hand


def test_continuous_scores_are_the_residuals_of_least_squares():
    design = make_design()
    values = design @ [1e6, 2, 3] + np.random.default_rng(1).normal(size=len(design))
    found = null_scores(values, "continuous", design)
    np.testing.assert_allclose(found.scores[:, 0], sm.OLS(values, design).fit().resid, atol=1e-8)
    assert found.method == "partial correlation"


def test_robust_scores_are_bounded_and_solve_hubers_equations():
    design = make_design()
    values = design @ [1.0, 2, 3] + np.random.default_rng(1).standard_t(2, size=len(design))
    values[0] = 1e4
    found = null_scores(values, "continuous", design, robust=True)
    np.testing.assert_allclose(design.T @ found.scores[:, 0], 0, atol=0.05)
    assert np.abs(found.scores).max() == pytest.approx(1.345)
    assert "Huber" in found.method


def test_robust_scores_of_mostly_equal_values_fall_back():
    values = np.zeros(120)
    values[:30] = np.arange(30)
    found = null_scores(values, "continuous", np.ones((120, 1)), robust=True)
    np.testing.assert_allclose(found.scores[:, 0], values - values.mean())
    assert "too many equal values" in found.method


def test_binary_scores_are_the_residuals_of_logistic_regression():
    design = make_design()
    rng = np.random.default_rng(2)
    values = np.where(rng.random(len(design)) < expit(design @ [0.2, 1, -1]), "yes", "no")
    found = null_scores(values, "binary", design)
    expected = sm.GLM((values == "yes").astype(float), design, family=sm.families.Binomial()).fit().resid_response
    np.testing.assert_allclose(found.scores[:, 0], expected, atol=1e-6)
    assert found.levels == ("no", "yes")


def test_categorical_scores_solve_the_likelihood_equations():
    design = make_design()
    values = np.random.default_rng(3).choice(["x", "y", "z"], len(design), p=[0.5, 0.3, 0.2])
    found = null_scores(values, "categorical", design)
    np.testing.assert_allclose(design.T @ found.scores, 0, atol=1e-5)
    assert found.scores.shape == (120, 2)
    # What a class is not, its probability alone: between minus one and nought.
    assert (found.scores[values == "x"] < 0).all()
    assert (found.scores[values == "y", 0] > 0).all()


def test_ordinal_scores_are_probability_scale_residuals_of_proportional_odds():
    design = make_design()
    rng = np.random.default_rng(4)
    latent = design[:, 1:] @ [1.0, -0.5] + rng.logistic(size=len(design))
    values = np.searchsorted([-1, 0, 1.5], latent)
    found = null_scores(values.astype(float), "ordinal", design)

    def cumulative(parameters):
        cuts = np.cumsum(np.r_[parameters[0], np.exp(parameters[1:3])])
        return np.column_stack([np.zeros(120), expit(cuts - (design[:, 1:] @ parameters[3:])[:, None]), np.ones(120)])

    def loss(parameters):
        below = cumulative(parameters)
        return -np.log(below[np.arange(120), values + 1] - below[np.arange(120), values]).sum()

    below = cumulative(optimize.minimize(loss, [-1, 0, 0, 0, 0], tol=1e-10).x)
    expected = [below[i, values[i]] - (1 - below[i, values[i] + 1]) for i in range(120)]
    np.testing.assert_allclose(found.scores[:, 0], expected, atol=1e-3)


def test_the_ordinal_gradient_is_that_of_statsmodels():
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    design, values = make_design(40), np.arange(40) % 5
    parameters = np.array([0.3, -0.4, -1.0, -0.2, 0.1, 0.2])
    expected = OrderedModel(values, design[:, 1:], distr="logit").score(parameters)
    found = null_models._ordinal_gradient(values, design[:, 1:], parameters)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ordinal_scores_without_covariates_give_spearmans_correlation():
    rng = np.random.default_rng(5)
    values = rng.integers(5, size=80).astype(float)
    ranks = stats.rankdata(values + rng.normal(size=80))
    scores = null_scores(values, "ordinal", np.ones((80, 1))).scores[:, 0]
    assert np.corrcoef(scores, ranks)[0, 1] == pytest.approx(stats.spearmanr(values, ranks).statistic)


@pytest.mark.parametrize("measure", ["binary", "categorical"])
def test_separated_classes_are_fitted_with_a_penalty_and_said(measure):
    design = np.column_stack([np.ones(60), np.repeat([-1.0, 0, 1], 20)])
    values = np.repeat(["a", "b", "b"] if measure == "binary" else ["a", "b", "c"], 20)
    found = null_scores(values, measure, design)
    assert "separate" in found.method
    assert np.isfinite(found.scores).all()
    np.testing.assert_allclose(found.scores.sum(axis=0), 0, atol=0.01)


def test_a_site_with_one_class_only_leaves_the_others_to_be_tested():
    site = np.repeat([0, 1, 2], 40)
    design = np.column_stack([np.ones(120), site == 1, site == 2]).astype(float)
    values = np.where(site == 2, 1, np.random.default_rng(6).integers(2, size=120))
    found = null_scores(values, "binary", design)
    assert np.ptp(found.scores[site == 2]) < 1e-8
    assert found.scores[site == 0].std() > 0.3


def test_an_ordinal_variable_of_many_levels_is_ranked():
    values = np.arange(120.0)
    found = null_scores(values, "ordinal", make_design())
    assert "rank" in found.method
    assert found.scores.shape == (120, 1)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([10, 2, 10, 2], (2, 10)),
        (["10", "2", "a"], ("10", "2", "a")),
        (pd.Categorical(["low", "high"], categories=["low", "none", "high"], ordered=True), ("low", "high")),
    ],
    ids=["numbers", "text", "ordered"],
)
def test_levels_are_in_order(values, levels):
    assert encode_levels(values)[1] == levels


@pytest.mark.parametrize(
    ("values", "measure", "said"),
    [
        ([1.0, np.nan, 2.0], "continuous", "missing"),
        (["a", None, "b"], "binary", "missing"),
        (["a", "b", "c"], "binary", "two values, got 3"),
        (["a", "a", "a"], "categorical", "constant"),
        ([2.0, 2.0, 2.0], "continuous", "determine"),
    ],
)
def test_values_that_cannot_be_modelled_are_refused(values, measure, said):
    with pytest.raises(ValueError, match=said):
        null_scores(values, measure, np.ones((3, 1)))


# ---------------------------------------------------------------- permutation tests, against a slow loop


def slow_statistics(factors, scores, design):
    """How much less of each factor is unexplained once the scores join the covariates, by statsmodels."""
    shares = []
    for factor in factors.T:
        without = sm.OLS(factor, design).fit().ssr
        shares.append(1 - sm.OLS(factor, np.column_stack([design, scores])).fit().ssr / without)
    return np.array(shares)


@pytest.mark.parametrize("k", [1, 3])
def test_statistics_and_counts_are_those_of_a_slow_loop(k, monkeypatch):
    monkeypatch.setattr(testing, "NUMBERS_AT_ONCE", 300)
    rng = np.random.default_rng(7)
    design, factors = make_design(30), rng.normal(size=(30, 3))
    scores = factors[:, [0]] / 2 + rng.normal(size=(30, k))
    permutations = draw_permutations(60, np.arange(30) % 2, None, rng)
    found = run_tests(factors, scores, design, permutations)
    observed = slow_statistics(factors, scores, design)
    drawn = np.array([slow_statistics(factors, scores[order], design) for order in permutations])
    np.testing.assert_allclose(found.statistic, observed, atol=1e-8)
    np.testing.assert_allclose(found.p_value, (1 + (drawn >= observed).sum(axis=0)) / 61)
    np.testing.assert_allclose(found.p_fwe, (1 + (drawn.max(axis=1)[:, None] >= observed).sum(axis=0)) / 61)


def test_ties_count_whatever_the_order_of_the_sums():
    factors = np.repeat([0.1, 0.2, 0.3], 4)[:, None] * np.ones((1, 2))
    scores = (np.arange(12) % 2).astype(float)
    permutations = np.argsort(np.random.default_rng(8).random((2000, 12)), axis=1)
    found = run_tests(factors, scores, np.ones((12, 1)), permutations)
    # The observed statistic is nought, which nothing is below.
    assert found.p_value.tolist() == [1.0, 1.0]


def test_p_values_are_those_of_the_t_test_where_its_assumptions_hold():
    rng = np.random.default_rng(9)
    design, factors = make_design(150), rng.normal(size=(150, 12))
    values = 0.12 * factors[:, :6].sum(axis=1) + design[:, 1] + rng.normal(size=150)
    permutations = draw_permutations(20_000, None, None, rng, n=150)
    found = run_tests(factors, null_scores(values, "continuous", design).scores, design, permutations)
    expected = [sm.OLS(values, np.column_stack([design, factor])).fit().pvalues[-1] for factor in factors.T]
    np.testing.assert_allclose(found.p_value, expected, atol=0.012)
    assert (found.p_fwe >= found.p_value).all()


def test_recombined_classes_give_the_same_test():
    rng = np.random.default_rng(10)
    design, factors, scores = make_design(60), rng.normal(size=(60, 2)), rng.normal(size=(60, 3))
    permutations = draw_permutations(200, None, None, rng, n=60)
    one = run_tests(factors, scores, design, permutations)
    other = run_tests(factors * 1e5, scores @ rng.normal(size=(3, 3)), design, permutations)
    repeated = run_tests(factors, np.column_stack([scores, scores[:, 0]]), design, permutations)
    for same in (other, repeated):
        np.testing.assert_allclose(same.statistic, one.statistic)
        assert (same.p_value == one.p_value).all()


def test_a_factor_that_the_covariates_determine_is_not_tested():
    rng = np.random.default_rng(11)
    design = make_design(50)
    factors = np.column_stack([rng.normal(size=50), design @ [1e3, 2, 3], np.full(50, 7.0)])
    permutations = draw_permutations(99, None, None, rng, n=50)
    found = run_tests(factors, rng.normal(size=50), design, permutations)
    alone = run_tests(factors[:, :1], np.ones(50), design, permutations)
    assert np.isnan(found.p_value).tolist() == [False, True, True]
    assert np.isnan(found.p_fwe).tolist() == [False, True, True]
    assert np.isnan(alone.p_value).all()


# ---------------------------------------------------------------- families of variables


def slow_adjusted(p_fwe, variables, levels):
    """The level at which selection by Benjamini-Hochberg and the test within the variable both first succeed."""
    names = np.unique(variables)
    smallest = np.array([p_fwe[variables == name].min() for name in names])
    m, adjusted = len(names), np.ones(len(p_fwe))
    for level in levels[::-1]:
        n_selected = max((j + 1 for j in range(m) if np.sort(smallest)[j] <= level * (j + 1) / m), default=0)
        selected = names[smallest <= level * n_selected / m]
        adjusted[np.isin(variables, selected) & (p_fwe <= level * n_selected / m)] = level
    return adjusted


def test_p_fdr_is_selection_of_variables_then_a_test_within_the_selected():
    rng = np.random.default_rng(12)
    variables = np.repeat(list("abcdef"), 4)
    p_fwe = rng.random(24) ** 4
    table = pd.DataFrame({"variable": variables, "family": "all", "p_fwe": p_fwe})
    found = adjust_families(table)["p_fdr"].to_numpy()
    np.testing.assert_allclose(found, slow_adjusted(p_fwe, variables, np.linspace(0, 1, 4001)), atol=3e-4)
    smallest = table.groupby("variable")["p_fwe"].min()
    expected = stats.false_discovery_control(smallest)
    np.testing.assert_allclose(pd.Series(found).groupby(variables).min(), expected)


def test_families_and_spaces_are_adjusted_apart_and_missing_tests_do_not_count():
    table = pd.DataFrame(
        {
            "space": ["salient", "common", "salient", "salient", "salient"],
            "variable": ["a", "a", "b", "c", "d"],
            "family": ["one", "one", "two", "two", "two"],
            "p_fwe": [0.01, 0.5, 0.03, np.nan, 0.9],
        }
    )
    assert adjust_families(table)["p_fdr"].tolist() == pytest.approx([0.02, 0.5, 0.06, np.nan, 0.9], nan_ok=True)


# ---------------------------------------------------------------- link


def test_planted_links_are_found_in_every_measure():
    people = make_people(n=400, n_factors=6, site_shift=0.5)
    rng, factors, rows = np.random.default_rng(1), people.spaces["salient"], people.rows
    noisy = factors[:, :5] * 0.5 + rng.normal(size=(400, 5))
    rows["continuous"] = noisy[:, 0]
    rows["outlying"] = noisy[:, 1] + np.where(rng.random(400) < 0.02, 500, 0)
    rows["ordinal"] = np.searchsorted([-0.7, 0.2, 1.1], noisy[:, 2]).astype(float)
    rows["binary"] = np.where(noisy[:, 3] > 0.3, "yes", "no")
    rows["categorical"] = np.array(["x", "y", "z"])[np.searchsorted([-0.3, 0.8], noisy[:, 4])]
    names = ["continuous", "outlying", "ordinal", "binary", "categorical"]
    links, sites, notes = link(people, names, ["age", "sex"], robust=True)
    assert links.columns.tolist() == LINK_COLUMNS
    assert sites.columns.tolist() == SITE_COLUMNS
    assert notes[0] == "Permuted within site; adjusted for age, sex, site."
    for place, name in enumerate(names):
        rows_of = links[links["variable"] == name].reset_index(drop=True)
        assert rows_of["p_fwe"].idxmin() == place
        assert rows_of.loc[place, "p_value"] == 0.002
        assert rows_of.loc[place, "p_fwe"] <= 0.006
        assert rows_of.loc[place, "ci_low"] > 0
        assert (rows_of["n"] == 400).all()
    assert links.groupby("variable", sort=False)["effect"].first().tolist() == ["r", "r", "rho", "d", "eta2"]
    assert set(sites["site"]) == {"A", "B", "C", "pooled"}


def test_a_link_that_is_the_site_alone_vanishes_and_is_said():
    people = make_people(site_shift=1.5)
    links, _, notes = link(people, ["score"], ["age"], n_permutations=999)
    assert (links["p_free"] < 0.01).all()
    assert (links["p_value"] > 0.01).all()
    gone = links[links["p_value"] > 0.05]
    assert len(gone) >= 3
    assert gone["note"].str.startswith("vanishes once permutations stay within site").all()
    assert any("not once permutations stay within site: salient" in note for note in notes)


def test_naming_site_as_covariate_spares_the_free_test_too():
    people = make_people(site_shift=1.5)
    links, _, _ = link(people, ["score"], ["age", "site"], n_permutations=999)
    assert (links["p_free"] > 0.01).all()
    np.testing.assert_allclose(links["p_free"], links["p_value"], atol=0.08)


def test_a_variable_that_the_covariates_determine_is_not_tested_at_all():
    people = make_people(city=lambda rng, rows: rows["site"].map({"A": 1.5, "B": 2.5, "C": 7.25}))
    links, _, _ = link(people, ["city"], ["site"])
    assert links[["estimate", "p_value", "p_free"]].isna().all(axis=None)
    assert links["note"].str.contains("no p_free: the covariates determine the variable").all()


@pytest.mark.parametrize("name", ["site", "city"])
def test_a_variable_that_follows_site_has_no_blocked_p_value(name):
    people = make_people(site_shift=1.5, city=lambda rng, rows: rows["site"].map({"A": 1.5, "B": 2.5, "C": 7.25}))
    links, sites, _ = link(people, [name, "other"], ["age"])
    of_site = links[links["variable"] == name]
    assert of_site[["p_value", "p_fwe", "p_fdr", "statistic"]].isna().all(axis=None)
    assert (of_site["p_free"] == 0.002).all()
    assert of_site["note"].str.contains("does not vary within site").all()
    assert set(sites["variable"]) == {"other"}
    # What is not tested does not make the others pay for it.
    alone, _, _ = link(people, ["other"], ["age"])
    assert links.loc[links["variable"] == "other", "p_fdr"].tolist() == alone["p_fdr"].tolist()


def test_without_blocks_the_two_p_values_are_one():
    links, sites, notes = link(make_people(), ["score"], ["age"], [])
    assert (links["p_value"] == links["p_free"]).all()
    assert notes[0] == "Permuted freely: there are no blocks; adjusted for age."
    assert set(sites["site"]) == {"A", "B", "C", "pooled"}


def test_missing_values_are_counted_and_do_not_touch_other_variables():
    people = make_people()
    people.rows.loc[:9, "score"] = np.nan
    people.rows.loc[5:14, "age"] = np.nan
    people.rows.loc[20, "site"] = None
    people.rows.loc[21, "other"] = np.inf
    people.spaces["salient"][30, 0] = np.nan
    links, _, notes = link(people, ["score", "other"], ["age"])
    counts = links.groupby("variable")[["n", "n_missing"]].first()
    assert counts.loc["score"].tolist() == [183, 17]
    assert counts.loc["other"].tolist() == [187, 13]
    assert "Of 200 participants some lack the variable, a covariate or a block: score 17, other 13." in notes
    assert any(note.startswith("1 participants have a factor") for note in notes)
    alone, _, _ = link(people, ["other"], ["age"])
    columns = ["estimate", "p_value", "p_free", "p_fwe"]
    pd.testing.assert_frame_equal(
        links.loc[links["variable"] == "other", columns].reset_index(drop=True), alone[columns]
    )


def test_the_variable_itself_and_what_others_determine_leave_the_covariates():
    people = make_people(months=lambda rng, rows: rows["age"] * 12, constant=1.0)
    links, _, notes = link(people, ["age", "score"], ["age", "months", "constant"])
    of_score = links[links["variable"] == "score"]
    assert of_score["note"].str.contains("months, constant \\(one value only\\)").all()
    assert any("not adjusted for itself" in note for note in notes)
    plain, _, _ = link(people, ["score"], ["age"])
    np.testing.assert_allclose(of_score["statistic"], plain["statistic"])


def test_numbered_sites_are_names():
    people = make_people(site_shift=0.8)
    numbered = make_people(site_shift=0.8)
    numbered.rows["site"] = people.rows["site"].map({"A": 1.0, "B": 3.0, "C": 2.0})
    for covariates in (["age"], ["age", "site"]):
        expected, _, _ = link(people, ["score"], covariates)
        found, _, _ = link(numbered, ["score"], covariates)
        np.testing.assert_allclose(found["statistic"], expected["statistic"])
        np.testing.assert_allclose(found["p_free"], expected["p_free"], atol=0.06)


def test_several_blocks_are_crossed():
    people = make_people(scanner=lambda rng, rows: rng.choice(["x", "y"], len(rows)))
    people.rows["score"] += 3 * ((people.rows["scanner"] == "x") & (people.rows["site"] == "B"))
    links, _, notes = link(people, ["score"], [], ["site", "scanner"])
    design = pd.get_dummies(people.rows["site"] + people.rows["scanner"]).to_numpy(dtype=float)
    expected = slow_statistics(people.spaces["salient"], people.rows["score"].to_numpy(), design)
    np.testing.assert_allclose(links["statistic"], expected, atol=1e-8)
    assert notes[0] == "Permuted within site and scanner; adjusted for site, scanner."


def test_twins_do_not_count_twice():
    """Factor and score are those of the family: with every twin a copy there is half the evidence."""
    rng = np.random.default_rng(13)
    n_families = 40
    factor, score = rng.normal(size=(2, n_families))
    score = score + 0.45 * factor
    rows = pd.DataFrame({"score": np.repeat(score, 2), "family_id": np.repeat(np.arange(n_families), 2)})
    people = Participants(rows, {"salient": np.repeat(factor, 2)[:, None]}, {"salient": ["f"]}, np.ones(80, dtype=bool))
    whole, _, notes = link(people, ["score"], families="family_id", n_permutations=4999)
    single = stats.pearsonr(factor, score).pvalue
    assert whole["p_value"][0] == pytest.approx(single, abs=0.012)
    assert whole["p_free"][0] < single / 3
    assert "families (family_id) as wholes" in notes[0]


def test_declared_families_share_the_false_discovery_rate():
    people = make_people()
    links, _, _ = link(people, ["score", "other", "age"], family_of={"score": "clinical", "other": "clinical"})
    assert links.groupby("variable")["family"].first().to_dict() == {
        "age": "others",
        "other": "clinical",
        "score": "clinical",
    }
    best = links.groupby("variable")[["p_fwe", "p_fdr"]].min()
    assert best.loc["age", "p_fdr"] == best.loc["age", "p_fwe"]
    np.testing.assert_allclose(
        best.loc[["other", "score"], "p_fdr"],
        stats.false_discovery_control(best.loc[["other", "score"], "p_fwe"]),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.assign(score=rows["score"].where(rows.index < 8)), "8 participants are too few"),
        (lambda rows: rows.assign(score=3.0), "one value only"),
        (lambda rows: rows.assign(site=[f"{i // 2}" for i in range(len(rows))]).head(11), "columns of covariates"),
    ],
    ids=["few", "constant", "too many sites"],
)
def test_too_little_is_said_and_nothing_is_claimed(change, said):
    people = make_people()
    rows = change(people.rows)
    few = people.take(np.arange(200) < len(rows))
    few = Participants(rows, few.spaces, few.factors, few.is_target)
    links, _, _ = link(few, ["score"], ["age"])
    assert links["p_value"].isna().all()
    assert links["note"].str.contains(said).all()
    assert len(links) == 4


def test_few_distinct_permutations_are_said():
    few = make_people().take(np.arange(200) < 10)
    few.rows["site"] = ["a"] * 3 + ["b"] * 3 + ["c"] * 4
    links, _, _ = link(few, ["score"])
    assert links["note"].str.contains("only 864 permutations within site").all()
    few.rows["kin"] = [None, None, "f", "f", "f", "g", "g", None, None, None]
    links, _, _ = link(few, ["score"], blocks=[], families="kin")
    assert not links["note"].str.contains("only").any()
    few.rows["kin"] = list("aaabbcccde")
    links, _, _ = link(few, ["score"], blocks=[], families="kin")
    assert links["note"].str.contains("only 288 distinct permutations").all()


def test_every_bad_name_is_reported_at_once():
    with pytest.raises(ManifestError) as error:
        link(make_people(), ["scor", "participant_id"], ["agee"], ["sites"], families="kin", family_of={"othr": "x"})
    assert len(error.value.problems) == 6
    assert 'did you mean "score"?' in str(error.value)


def test_measures_that_do_not_fit_are_refused_together():
    with pytest.raises(ManifestError) as error:
        link(make_people(), ["sex", "site"], measures={"sex": "continuous", "site": "ordinal"})
    assert [problem.column for problem in error.value.problems] == ["sex", "site"]


@pytest.mark.parametrize(
    "options", [{"n_permutations": 0}, {"seed": -1}, {"space": "commn"}], ids=["permutations", "seed", "space"]
)
def test_settings_that_cannot_be_used_are_refused(options):
    with pytest.raises(UserError, match="link"):
        link_factors(make_people(), options.pop("space", "salient"), ["score"], **options)


def test_the_sidecar_decides_what_a_variable_measures():
    people = make_people(stage=lambda rng, rows: rng.choice(["mild", "severe", "worst"], len(rows)))
    described = {"stage": {"Levels": {"mild": "", "severe": "", "worst": ""}}}
    links, _, _ = link(people, ["stage"], measures={"stage": "ordinal"}, described=described)
    assert set(links["measure"]) == {"ordinal"}
    assert set(links["effect"]) == {"rho"}


def test_the_sign_of_a_binary_link_follows_the_numbers():
    people = make_people()
    people.rows["dose"] = np.where(people.spaces["salient"][:, 0] > 0, 10, 2)
    links, _, _ = link(people, ["dose"])
    assert links["measure"][0] == "binary"
    assert links["estimate"][0] > 1


def test_the_same_seed_gives_the_same_table():
    people = make_people()
    one, other = (link(people, ["score"], ["age"], seed=3)[0] for _ in range(2))
    different = link(people, ["score"], ["age"], seed=4)[0]
    pd.testing.assert_frame_equal(one, other)
    assert (one["p_value"] != different["p_value"]).any()
    assert (one["statistic"] == different["statistic"]).all()


def test_importing_associations_does_not_import_what_is_heavy():
    heavy = "{'torch', 'monai', 'statsmodels', 'sklearn', 'matplotlib'}"
    code = f"import sys, sepclr_med.analysis.associations.testing; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = f"import sys, sepclr_med.analysis.associations.links; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "monai" not in done.stdout


# ---------------------------------------------------------------- relatives, unequal sites, and what is claimed


def test_intervals_of_relatives_hold_the_truth():
    """Families of three who share most of factor and variable: plain intervals hold zero in 84 of 100."""
    held, apart = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        family = np.repeat(np.arange(20), 3)
        shared, own = rng.normal(size=(20, 9)), rng.normal(size=(60, 9))
        values = 1.33 * shared[family] + own
        rows = pd.DataFrame({"participant_id": np.arange(60).astype(str), "score": values[:, 0]})
        rows["family_id"] = family.astype(str)
        names = [f"salient_{k:03}" for k in range(8)]
        people = Participants(rows, {"salient": values[:, 1:]}, {"salient": names}, np.ones(60, dtype=bool))
        for found, options in ((held, {"families": "family_id"}), (apart, {})):
            links, _, _ = link(people, ["score"], blocks=[], n_permutations=299, **options)
            found.append(((links["ci_low"] <= 0) & (links["ci_high"] >= 0)).mean())
    assert np.mean(held) > 0.92
    assert np.mean(apart) < 0.90


def test_independent_participants_have_no_excess():
    rng = np.random.default_rng(0)
    design, factors, score = np.ones((100, 1)), rng.normal(size=(100, 5)), rng.normal(size=100)
    permutations = np.argsort(rng.random((2000, 100)), axis=1)
    assert run_tests(factors, score, design, permutations).excess == pytest.approx(np.ones(5), abs=0.05)


def test_links_of_noise_seldom_vanish():
    single, said = 0, []
    for seed in range(30):
        links, _, _ = link(make_people(n=80, n_factors=32, seed=seed), ["score"], ["age", "sex"])
        single += int(((links["p_free"] <= 0.05) & (links["p_value"] > 0.05)).any())
        said += [verdict["level"] for verdict in describe_links(links, {"blocks": ["site"]})]
    # One factor of thirty-two crosses the line by chance in many studies.
    assert single >= 3
    assert said.count("warning") <= 2


def test_a_sentence_pays_for_every_set_of_tests_it_chooses_from():
    row = {"factor": "salient_000", "space": "salient", "variable": "score", "effect": "r", "n": 90, "statistic": 0.2}
    row |= {"estimate": 0.5, "ci_low": 0.3, "ci_high": 0.6, "p_value": 0.01, "p_free": 0.01, "p_fdr": 0.03}
    row |= {"family": "clinical", "mde": 0.3}
    links = pd.DataFrame([row, {**row, "factor": "canonical_000", "space": "canonical", "p_fdr": 0.9}])
    assert describe_links(links[:1], {"blocks": []})[0]["level"] == "good"
    said = describe_links(links, {"blocks": []})[0]
    assert said["level"] == "info"
    assert "p FDR times 2 sets = 0.06" in said["text"]


def test_where_nothing_passes_the_nearest_factor_is_that_of_p_fwe():
    row = {"factor": "salient_030", "space": "salient", "variable": "score", "effect": "r", "n": 10, "statistic": 0.67}
    row |= {"estimate": -0.82, "ci_low": -0.97, "ci_high": -0.27, "p_value": 0.015, "p_free": 0.015, "p_fwe": 0.24}
    row |= {"p_fdr": 0.70, "family": "clinical", "mde": 0.85}
    other = {**row, "factor": "canonical_028", "space": "canonical", "p_fwe": 0.06, "p_fdr": 0.73, "estimate": -0.91}
    said = describe_links(pd.DataFrame([row, other]), {"blocks": []})[0]["text"]
    assert "nearest canonical_028: partial r -0.91" in said
    assert "p FDR times 2 sets = 1.00" in said
    # What passes comes first, though another set has a smaller p FWE.
    passed = {**row, "p_fwe": 0.02, "p_fdr": 0.02}
    other |= {"p_fwe": 0.01, "p_fdr": 0.12}
    assert describe_links(pd.DataFrame([passed, other]), {"blocks": []})[0]["text"].startswith(
        "score goes with salient_030"
    )


def test_a_factor_that_is_the_class_has_no_number_and_one_that_is_the_age_says_why():
    people = make_people(answer=lambda rng, rows: np.where(rng.random(len(rows)) < 0.5, "yes", "no"))
    people.spaces["salient"][:, 0] = people.rows["answer"] == "yes"
    people.spaces["salient"][:, 1] = people.rows["age"]
    links, _, _ = link(people, ["answer"], ["age"])
    assert np.isnan(links["estimate"][0])
    assert "do not overlap" in links["note"][0]
    assert "classes that do not overlap" in describe_links(links, {"blocks": []})[0]["text"]
    assert np.isnan(links["mde"][1])
    assert "nothing is left of this factor" in links["note"][1]
