from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sepclr_med.analysis.associations.batteries import add_batteries, check_batteries, fit_battery
from sepclr_med.analysis.associations.links import LINK_COLUMNS
from sepclr_med.analysis.associations.prediction import predict_variables
from sepclr_med.analysis.associations.predictors import predict_folds
from sepclr_med.analysis.associations.space_test import PENALTIES, cross_validated_shares, divide_rows
from sepclr_med.analysis.associations.space_test import test_space as run_test
from sepclr_med.analysis.associations.whole_space import COLUMNS
from sepclr_med.analysis.participants import Participants
from sepclr_med.analysis.probes import PENALTIES as PROBE_PENALTIES
from sepclr_med.analysis.units import Units
from sepclr_med.errors import ManifestError, UserError

pytestmark = pytest.mark.filterwarnings("error")


def make_people(n=120, seed=0, **columns):
    """Severity is in the first salient factor, the subtype in the second; three sites; nothing else is linked."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "participant_id": [f"{i:03}" for i in range(n)],
            "severity": rng.normal(size=n),
            "unrelated": rng.normal(size=n),
            "subtype": rng.choice(["one", "two"], n),
            "age": rng.uniform(20, 80, n),
            "sex": rng.choice(["F", "M"], n),
            "site": rng.choice(["A", "B", "C"], n, p=[0.5, 0.3, 0.2]),
        }
    )
    factors = rng.normal(size=(n, 4))
    factors[:, 0] += 1.5 * rows["severity"]
    factors[:, 1] += 2.0 * (rows["subtype"] == "one")
    for name, values in columns.items():
        rows[name] = values(rng, rows) if callable(values) else values
    return Participants(rows, {"salient": factors}, {"salient": [f"s_{k}" for k in range(4)]}, np.ones(n, dtype=bool))


def predict(people, variables, *arguments, **options):
    return predict_variables(people, "salient", variables, *arguments, **{"n_permutations": 199, **options})


def one(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


# ---------------------------------------------------------------- the permuted statistic, against a slow loop


def slow_share(factors, scores, covariates, folds):
    """Fit every fold by least squares, with the penalty of smallest generalised cross-validation error."""
    error = total = 0.0
    for labels in np.atleast_2d(folds):
        for label in np.unique(labels):
            out, fitted = labels == label, labels != label
            slopes, intercepts = (
                np.linalg.lstsq(covariates[fitted], values[fitted], rcond=None)[0] for values in (factors, scores)
            )
            z, e = factors - covariates @ slopes, scores - covariates @ intercepts
            z = z / np.sqrt(np.square(z[fitted]).mean(axis=0))
            gram = z[fitted].T @ z[fitted]
            best = np.inf
            for penalty in PENALTIES * np.linalg.eigvalsh(gram).mean():
                inverse = np.linalg.inv(gram + penalty * np.eye(len(gram)))
                weights = inverse @ z[fitted].T @ e[fitted]
                degrees = fitted.sum() - covariates.shape[1] - np.trace(inverse @ gram)
                gcv = np.square(e[fitted] - z[fitted] @ weights).sum() / degrees**2
                if gcv < best:
                    best, chosen = gcv, weights
            error += np.square(e[out] - z[out] @ chosen).sum()
            total += np.square(e[out]).sum()
    return 1 - error / total


def orthonormal(scores):
    values, vectors = np.linalg.eigh(scores.T @ scores)
    return scores @ vectors / np.sqrt(values)


@pytest.mark.parametrize("n_columns", [1, 3], ids=["one score", "three scores"])
def test_statistic_of_each_permutation_is_that_of_a_slow_loop(n_columns):
    rng = np.random.default_rng(n_columns)
    n = 40
    covariates = np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(2, size=n)])
    factors = rng.normal(size=(n, 5)) * [1, 10, 0.1, 1, 1] + covariates[:, 1:2]
    scores = rng.normal(size=(n, n_columns)) + factors[:, :1]
    scores -= covariates @ np.linalg.lstsq(covariates, scores, rcond=None)[0]
    folds = np.stack([divide_rows(np.zeros(n, dtype=int), None, 5, rng) for _ in range(2)])
    orders = np.array([np.arange(n), *(rng.permutation(n) for _ in range(6))])
    found = cross_validated_shares(factors, scores, covariates, folds, orders)
    expected = [slow_share(factors, orthonormal(scores)[order], covariates, folds) for order in orders]
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_p_value_counts_the_permutations_that_do_as_well():
    rng = np.random.default_rng(0)
    factors, covariates = rng.normal(size=(30, 3)), np.ones((30, 1))
    scores, folds = factors[:, 0] + 2 * rng.normal(size=30), np.arange(30) % 5
    orders = np.array([rng.permutation(30) for _ in range(60)])
    found = run_test(factors, scores, covariates, folds, orders)
    shares = cross_validated_shares(factors, scores, covariates, folds, orders)
    assert found.p_value == (1 + (shares >= found.statistic).sum()) / 61


def test_statistic_does_not_depend_on_scale_or_on_the_class_left_out():
    rng = np.random.default_rng(0)
    factors, covariates = rng.normal(size=(60, 4)), np.column_stack([np.ones(60), rng.normal(size=60)])
    member = np.eye(3)[rng.integers(3, size=60)]
    folds, order = np.arange(60) % 5, np.arange(60)[None]
    first = cross_validated_shares(factors, member[:, 1:], covariates, folds, order)
    second = cross_validated_shares(
        1e-6 * factors + 7, 1e5 * member[:, :2], covariates @ [[5, 3], [0, 9]], folds, order
    )
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_factors_that_the_covariates_determine_predict_nothing():
    rng = np.random.default_rng(0)
    covariates = np.column_stack([np.ones(30), rng.normal(size=30)])
    found = run_test(
        covariates @ rng.normal(size=(2, 2)), rng.normal(size=30), covariates, np.arange(30) % 5, np.arange(30)[None]
    )
    assert np.isnan(found.statistic)
    assert np.isnan(found.p_value)


def test_more_factors_than_participants_are_tested():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(40, 80))
    factors[:, :40] += 3 * factors[:, :1]
    orders = np.array([rng.permutation(40) for _ in range(199)])
    found = run_test(factors, factors[:, 0], np.ones((40, 1)), np.arange(40) % 5, orders)
    assert found.p_value == 0.005


def test_folds_keep_families_whole_and_spread_every_site():
    rng = np.random.default_rng(0)
    kin, sites = np.repeat(np.arange(50), 2), np.repeat([0, 1], [80, 20])
    fold = divide_rows(sites, kin, 5, rng)
    assert (fold[::2] == fold[1::2]).all()
    np.testing.assert_array_equal(np.bincount(fold), 20)
    np.testing.assert_array_equal(np.bincount(fold[sites == 1]), 4)


# ---------------------------------------------------------------- predictions inside folds


def make_units(factors, truth, **options):
    people = np.arange(len(truth)).astype(str)
    return Units(factors, np.asarray(truth), people, people, **options)


def five_folds(n):
    return [(np.flatnonzero(np.arange(n) % 5 != k), np.flatnonzero(np.arange(n) % 5 == k)) for k in range(5)]


def test_predictions_of_numbers_are_those_of_scikit_learn_fold_by_fold():
    rng = np.random.default_rng(0)
    covariates, factors = rng.normal(size=(60, 2)), rng.normal(size=(60, 3))
    truth = covariates[:, 0] + factors[:, 0] + rng.normal(size=60)
    design = np.column_stack([np.ones(60), covariates])
    found = predict_folds(make_units(factors, truth), "regression", design, five_folds(60))
    for fitted, scored in five_folds(60):
        to_factors = LinearRegression().fit(covariates[fitted], factors[fitted])
        to_truth = LinearRegression().fit(covariates[fitted], truth[fitted])
        left = factors - to_factors.predict(covariates)
        ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=PROBE_PENALTIES))
        baseline = to_truth.predict(covariates)
        rows = np.isin(found.rows, scored)
        ridge.fit(left[fitted], truth[fitted])
        np.testing.assert_allclose(found.scores["space"][rows], ridge.predict(left[scored]))
        np.testing.assert_allclose(found.scores["covariates"][rows], baseline[scored])
        ridge.fit(left[fitted], truth[fitted] - baseline[fitted])
        both = baseline[scored] + ridge.predict(left[scored])
        np.testing.assert_allclose(found.scores["covariates + space"][rows], both)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_nothing_about_those_left_out_reaches_their_prediction(kind):
    rng = np.random.default_rng(0)
    factors, age = rng.normal(size=(60, 3)), rng.normal(size=60)
    truth = factors[:, 0] + age
    truth = truth if kind == "regression" else np.where(truth > 0, "b", "a").astype(object)
    units, design, fold = make_units(factors, truth), np.column_stack([np.ones(60), age]), five_folds(60)[:1]
    scored = fold[0][1]
    changed = truth.copy()
    changed[scored] = changed[scored][::-1]
    first = predict_folds(units, kind, design, fold)
    second = predict_folds(replace(units, truth=changed), kind, design, fold)
    for name, said in first.scores.items():
        np.testing.assert_array_equal(said, second.scores[name])
    # Nor do the others left out: each is predicted the same alone.
    alone = predict_folds(units, kind, design, [(fold[0][0], scored[:1])])
    np.testing.assert_allclose(alone.scores["space"][0], first.scores["space"][0])


def test_space_alone_says_nothing_that_the_covariates_say():
    rng = np.random.default_rng(0)
    age = rng.normal(size=300)
    factors = rng.normal(size=(300, 3)) + 2 * age[:, None]
    design = np.column_stack([np.ones(300), age])
    found = predict_folds(make_units(factors, age + 0.1 * rng.normal(size=300)), "regression", design, five_folds(300))
    spread = {name: np.square(said - found.truth).mean() / found.truth.var() for name, said in found.scores.items()}
    assert spread["covariates"] < 0.05
    assert spread["space"] > 0.9


def test_without_covariates_the_space_is_the_only_predictor():
    people = make_people()
    table, _, _ = predict(people, ["severity"], blocks=(), n_bootstrap=0)
    assert set(table["predictors"]) == {"salient"}


# ---------------------------------------------------------------- the table


def test_planted_number_is_found_in_both_schemes():
    table, whole, _ = predict(make_people(), ["severity"], ["age", "sex"])
    assert list(table.columns) == COLUMNS
    assert list(whole.columns) == LINK_COLUMNS
    for scheme in ("cross-validated", "leave-site-out"):
        found = one(table, scheme=scheme, predictors="salient", metric="r2")
        assert 0.3 < found.ci_low < found.value < found.ci_high < 0.9
        assert found.p_value == 0.005
        assert abs(found.chance) < 0.2
        assert one(table, scheme=scheme, predictors="covariates", metric="r2").value < 0.1
        assert one(table, scheme=scheme, predictors="covariates + salient", metric="r2").value > 0.3
    row = whole.iloc[0]
    found = one(table, scheme="cross-validated", predictors="salient", metric="r2")
    assert (row.factor, row.effect, row.method) == ("salient (whole)", "r2", "ridge, cross-validated")
    assert (row.estimate, row.ci_low, row.p_value) == (found.value, found.ci_low, found.p_value)
    np.testing.assert_allclose(row.statistic, found.value, atol=0.15)


def test_planted_classes_are_found():
    table, whole, _ = predict(make_people(n=90), ["subtype"], ["age"], n_bootstrap=100)
    found = one(table, scheme="cross-validated", predictors="salient", metric="auc")
    assert found.ci_low > 0.6
    assert found.p_value == 0.005
    assert found.chance == 0.5
    assert one(table, scheme="leave-site-out", predictors="salient", metric="balanced_accuracy").value > 0.65
    assert (whole["effect"].iloc[0], whole["method"].iloc[0]) == ("auc", "logistic, cross-validated")


def test_what_is_not_linked_is_not_found():
    people = make_people(stage=lambda rng, rows: rng.integers(4, size=len(rows)))
    _, whole, _ = predict(people, ["unrelated", "stage"], ["age"], n_bootstrap=0)
    assert whole["measure"].tolist() == ["continuous", "ordinal"]
    assert (whole["p_value"] > 0.05).all()
    assert (whole["p_fdr"] >= whole["p_value"]).all()


def test_p_values_stand_in_the_rows_of_the_space_only():
    table, _, _ = predict(make_people(), ["severity"], ["age"], n_bootstrap=0)
    has_p = table["p_value"].notna()
    assert (has_p == (table["predictors"] == "salient")).all()
    assert table.loc[has_p].groupby("scheme")["p_value"].nunique().eq(1).all()
    assert (table["p_free"].notna() == (has_p & (table["scheme"] == "cross-validated"))).all()


def test_variable_that_follows_site_only_is_claimed_without_blocks_alone():
    def follow(rng, rows):
        return rows["site"].map({"A": 0.0, "B": 3.0, "C": -3.0}) + rng.normal(size=len(rows))

    people = make_people(follows=follow)
    people.spaces["salient"][:, 2] += people.rows["site"].map({"A": 0.0, "B": 4.0, "C": -4.0})
    _, whole, _ = predict(people, ["follows"], ["age"], n_bootstrap=0)
    assert whole["p_free"].iloc[0] == 0.005
    assert whole["p_value"].iloc[0] > 0.05


def test_site_itself_is_neither_tested_within_site_nor_left_out():
    table, whole, notes = predict(make_people(), ["site"], ["site"], n_bootstrap=0)
    assert table["p_value"].isna().all()
    assert whole["p_value"].isna().all()
    assert whole["p_free"].notna().all()
    assert set(table["scheme"]) == {"cross-validated"}
    assert any("does not vary within site" in note for note in notes)


def test_rare_classes_are_set_aside_and_named():
    people = make_people(group=lambda rng, rows: np.where(np.arange(len(rows)) < 3, "rare", rows["subtype"]))
    table, _, notes = predict(replace(people, rows=people.rows.drop(columns="site")), ["group"], n_bootstrap=0)
    assert set(table["n"]) == {117}
    assert any("rare (3)" in note for note in notes)


def test_missing_values_are_counted_per_variable():
    people = make_people()
    people.rows.loc[:19, "severity"] = np.nan
    people.rows.loc[20:24, "age"] = np.nan
    table, whole, _ = predict(people, ["severity", "unrelated"], ["age"], n_bootstrap=0)
    assert whole[["n", "n_missing"]].to_numpy().tolist() == [[95, 25], [115, 5]]
    assert set(table.loc[table["variable"] == "severity", "n"]) == {95}


@pytest.mark.parametrize("values", [np.nan, 3.0], ids=["nobody", "constant"])
def test_too_little_is_said_and_not_tested(values):
    people = make_people(empty=lambda rng, rows: np.where(np.arange(len(rows)) < 5, 3.0, values))
    table, whole, notes = predict(people, ["empty"], n_bootstrap=0)
    assert table.empty
    assert whole["p_value"].isna().all()
    assert any("not predicted" in note for note in notes)


def test_covariates_that_determine_a_variable_leave_nothing_to_test():
    people = make_people(twice=lambda rng, rows: 2 * rows["age"])
    _, whole, notes = predict(people, ["twice"], ["age"], n_bootstrap=0)
    assert whole["p_value"].isna().all()
    assert any("determine" in note for note in notes)


def test_result_does_not_depend_on_what_else_is_asked():
    people = make_people()
    alone = predict(people, ["unrelated"], n_bootstrap=50)[0]
    among = predict(people, ["severity", "unrelated"], n_bootstrap=50)[0]
    pd.testing.assert_frame_equal(alone, among[among["variable"] == "unrelated"].reset_index(drop=True))


def test_families_are_never_divided():
    """Twins who share factors and a score that depends on nothing: a divided family is recognised, not predicted."""
    people = make_people(n=60)
    twins = Participants(
        pd.concat([people.rows.assign(family_id=people.rows["participant_id"])] * 2, ignore_index=True),
        {"salient": np.vstack([np.random.default_rng(1).normal(size=(60, 100))] * 2)},
        {"salient": [f"s_{k}" for k in range(100)]},
        np.ones(120, dtype=bool),
    )
    whole = {
        families: predict(twins, ["unrelated"], blocks=(), families=families, n_bootstrap=0)[1].iloc[0]
        for families in ("family_id", None)
    }
    assert whole[None].estimate > 0.2
    assert whole["family_id"].estimate < 0.1
    assert whole["family_id"].p_value > 0.05


def test_unknown_names_are_refused():
    with pytest.raises(ManifestError, match='did you mean "severity"'):
        predict(make_people(), ["severty"])
    with pytest.raises(UserError, match='did you mean "salient"'):
        predict_variables(make_people(), "saliant", ["severity"])


# ---------------------------------------------------------------- batteries


def add_items(rng, rows, noise=0.7):
    return rows["severity"] + noise * rng.normal(size=len(rows))


ITEMS = {"item_1": add_items, "item_2": lambda rng, rows: -add_items(rng, rows), "item_3": add_items}
BATTERY = {"battery": ["item_1", "item_2", "item_3"]}


def test_component_is_that_of_scikit_learn_with_its_sign_fixed():
    rows = make_people(**ITEMS).rows
    component = fit_battery(rows, BATTERY["battery"])
    standard = StandardScaler().fit_transform(rows[BATTERY["battery"]])
    pca = PCA(1).fit(standard)
    expected = pca.transform(standard)[:, 0]
    expected *= np.sign(pca.components_[0].mean()) / expected.std()
    np.testing.assert_allclose(component.transform(rows), expected)
    np.testing.assert_allclose(component.share, pca.explained_variance_ratio_[0])
    assert component.loadings.mean() > 0


def test_component_is_fitted_on_training_rows_and_missing_items_stay_missing():
    rows = make_people(**ITEMS).rows.assign(split=np.where(np.arange(120) < 60, "train", "test"))
    rows.loc[5, "item_1"] = np.nan
    rows.loc[70, "item_2"] = np.inf
    added, notes = add_batteries(rows, BATTERY)
    assert added.index[added["battery"].isna()].tolist() == [5, 70]
    expected = fit_battery(rows.iloc[:60], BATTERY["battery"]).transform(rows)
    np.testing.assert_allclose(added["battery"], expected)
    assert "all 59 training participants" in notes[0]
    assert "2 lack an item" in notes[0]


def test_component_without_training_rows_is_said_to_be_fitted_on_the_tested():
    _, notes = add_batteries(make_people(**ITEMS).rows.assign(split="test"), BATTERY)
    assert "all 120 tested participants" in notes[0]


def test_component_of_patients_is_not_the_diagnosis():
    """Three items tell the groups apart, three follow severity among patients."""
    rng = np.random.default_rng(0)
    patient, severity = np.arange(200) % 2 == 1, rng.normal(size=200)
    rows = pd.DataFrame({f"i{k}": rng.normal(size=200) + 6 * patient for k in range(3)})
    rows = rows.assign(**{f"s{k}": severity + 0.8 * rng.normal(size=200) for k in range(3)}, split="train")
    among, _ = add_batteries(rows, {"b": list(rows.columns[:6])}, among=patient)
    whole, _ = add_batteries(rows, {"b": list(rows.columns[:6])})
    assert np.corrcoef(among["b"][patient], severity[patient])[0, 1] > 0.8
    assert abs(np.corrcoef(whole["b"], patient)[0, 1]) > 0.8


def test_the_sign_of_two_opposite_items_is_the_first_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    rows = pd.DataFrame({"bad": x + rng.normal(size=80), "good": -x + rng.normal(size=80)})
    assert all(fit_battery(rows.sample(60, random_state=k), ["bad", "good"]).loadings[0] > 0 for k in range(10))


def test_item_that_does_not_vary_counts_for_nothing():
    rows = make_people(**ITEMS, item_4=3.0).rows
    with_it = fit_battery(rows, [*BATTERY["battery"], "item_4"])
    assert with_it.loadings[3] == 0
    np.testing.assert_allclose(
        abs(np.corrcoef(with_it.transform(rows), fit_battery(rows, BATTERY["battery"]).transform(rows))[0, 1]), 1
    )


def test_battery_is_predicted_with_a_component_of_each_fold():
    people = make_people(**ITEMS)
    table, whole, notes = predict(people, ["battery"], ["age"], batteries=BATTERY, n_bootstrap=0)
    assert one(table, scheme="cross-validated", predictors="salient", metric="r2").value > 0.3
    assert whole["p_value"].iloc[0] == 0.005
    assert any("first component" in note for note in notes)
    # A component fitted once on everybody gives other truths, so another figure.
    added, _ = add_batteries(people.rows, BATTERY)
    fixed, _, _ = predict(replace(people, rows=added), ["battery"], ["age"], n_bootstrap=0)
    values = [each["value"].iloc[0] for each in (table, fixed)]
    assert values[0] != values[1]
    np.testing.assert_allclose(*values, atol=0.05)


def test_batteries_that_cannot_be_made_are_refused_all_at_once():
    rows = make_people(**ITEMS).rows
    with pytest.raises(ManifestError) as caught:
        check_batteries(rows, {"age": ["item_1", "item_2"], "mood": ["itm_3", "sex"]})
    assert len(caught.value.problems) == 3
    assert 'did you mean "item_3"' in str(caught.value)


def test_battery_that_nobody_has_whole_is_refused():
    rows = make_people(**ITEMS).rows
    rows["item_1"] = np.nan
    with pytest.raises(UserError, match="0 participants have every item"):
        add_batteries(rows, BATTERY)


# ---------------------------------------------------------------- calibration in small, and the house rules


@pytest.mark.slow
def test_whole_space_test_keeps_its_level_where_age_and_site_move_everything():
    sys.path.insert(0, "pipelines/benchmark")
    from calibration_space import study_space

    found = pd.DataFrame([{name: p for name, (p, _) in study_space(seed, 80).items()} for seed in range(100)])
    # 15 of 100 has a probability below 1e-4 at a level of 0.05, for each of the tests.
    assert ((found <= 0.05).sum() <= 14).all()


def test_importing_it_loads_neither_torch_nor_statsmodels():
    code = (
        "import sepclr_med.analysis.associations.prediction, sys; "
        "assert not {'torch', 'monai', 'statsmodels', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
