from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from sepclr_med.analysis.confounds import CovariateResidualizer
from sepclr_med.errors import ManifestError

pytestmark = pytest.mark.filterwarnings("error")
FACTORS = [f"salient_{k:03}" for k in range(3)]


def make_table(n=120, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "participant_id": [f"{i:03}" for i in range(n)],
            "age": rng.uniform(20, 80, n),
            "sex": rng.choice(["F", "M"], n),
            "site": rng.choice(["A", "B", "C"], n),
            "diagnosis": np.where(np.arange(n) % 3, "control", "patient"),
        }
    )
    shift = table["site"].map({"A": 0.0, "B": 1.0, "C": -2.0})
    for k, name in enumerate(FACTORS):
        table[name] = rng.normal(size=n) + 0.05 * k * table["age"] + shift + (table["sex"] == "M")
    return table


@pytest.mark.parametrize("keep_mean", [True, False])
def test_residuals_are_those_of_statsmodels(keep_mean):
    table = make_table()
    adjusted = CovariateResidualizer(["age", "sex", "site"], FACTORS, keep_mean=keep_mean).fit_transform(table)
    for name in FACTORS:
        wanted = smf.ols(f"{name} ~ age + sex + site", table).fit().resid
        np.testing.assert_allclose(adjusted[name], wanted + keep_mean * table[name].mean(), atol=1e-10)


def test_held_out_rows_take_the_training_rows_fit_and_change_nothing():
    table = make_table()
    train, test = table[:80], table[80:]
    fitted = CovariateResidualizer(["age", "sex"], FACTORS).fit(train)
    model = smf.ols(f"{FACTORS[2]} ~ age + sex", train).fit()
    wanted = test[FACTORS[2]] - model.predict(test) + train[FACTORS[2]].mean()
    np.testing.assert_allclose(fitted.transform(test)[FACTORS[2]], wanted, atol=1e-10)
    alone = pd.concat([fitted.transform(test.iloc[[i]]) for i in range(len(test))])
    pd.testing.assert_frame_equal(alone, fitted.transform(test))


def test_fitted_on_background_keeps_what_the_covariate_does_in_patients_alone():
    table = make_table()
    patient = table["diagnosis"] == "patient"
    table[FACTORS[0]] = 0.1 * table["age"] + 0.2 * patient * table["age"]
    fitted = CovariateResidualizer(["age"], FACTORS, background=("diagnosis", ["control"])).fit(table)
    assert fitted.n_fitted_ == (~patient).sum()
    left = fitted.transform(table)[FACTORS[0]]
    assert left[~patient].std() < 1e-10
    assert np.polyfit(table.age[patient], left[patient], 1)[0] == pytest.approx(0.2)


def test_features_are_the_other_numeric_columns_unless_named():
    table = make_table()
    fitted = CovariateResidualizer(["age", "site"], background=("diagnosis", "control")).fit(table)
    assert fitted.get_feature_names_out().tolist() == FACTORS
    assert CovariateResidualizer(["site"], FACTORS[:1]).fit_transform(table).columns.tolist() == FACTORS[:1]


def test_works_in_a_pipeline_cloned_and_with_set_output():
    table = make_table()
    residualizer = CovariateResidualizer(["age", "site"], FACTORS)
    assert clone(residualizer).get_params() == residualizer.get_params()
    predicted = cross_val_predict(make_pipeline(residualizer, Ridge()), table, table["age"], cv=4)
    assert np.corrcoef(predicted, table["age"])[0, 1] < 0.3
    shown = clone(residualizer).set_output(transform="pandas").fit_transform(table)
    assert shown.columns.tolist() == FACTORS
    assert shown.index.equals(table.index)


def test_classes_written_as_numbers_and_gaps_in_a_feature():
    table = make_table()
    table["centre"] = table["site"].map({"A": 1, "B": 2, "C": 10})
    table.loc[:9, FACTORS[0]] = np.nan
    adjusted = CovariateResidualizer(["centre"], FACTORS, classes=["centre"]).fit_transform(table)
    assert adjusted.groupby(table["centre"])[FACTORS].mean().std().max() < 1e-10
    assert adjusted[FACTORS[0]].isna().sum() == 10


def test_collinear_covariates_give_the_same_residuals():
    table = make_table()
    table["scanner"] = table["site"].str.lower()
    once = CovariateResidualizer(["site"], FACTORS).fit_transform(table)
    twice = CovariateResidualizer(["site", "scanner"], FACTORS).fit_transform(table)
    pd.testing.assert_frame_equal(once, twice)


def test_unseen_class_is_refused_saying_what_can_be_done():
    table = make_table()
    fitted = CovariateResidualizer(["site"], FACTORS).fit(table[table.site != "C"])
    with pytest.raises(
        ManifestError, match=r'got "C"; allowed: A, B; fix: fit on rows that include it, leave its rows'
    ):
        fitted.transform(table)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.assign(age=t.age.where(t.index != 4)), '"age": 1 of 80 rows have no value; got "004"'),
        (lambda t: t.assign(age=t.age.where(t.index != 4, np.inf)), "1 of 80 rows"),
        (lambda t: t.drop(columns="age"), "no such column"),
        (lambda t: t.assign(salient_000="x"), "feature is not numeric"),
        (lambda t: t.iloc[:3], "too few rows"),
        (lambda t: t.assign(diagnosis="patient"), "no background rows"),
        (lambda t: t.to_numpy(), "not a table"),
    ],
    ids=["missing", "infinite", "absent", "text", "few", "no_background", "array"],
)
def test_tables_that_cannot_be_used_are_refused(spoil, said):
    residualizer = CovariateResidualizer(["age", "sex", "site"], FACTORS, background=("diagnosis", ["control"]))
    with pytest.raises(ManifestError, match=said):
        residualizer.fit(spoil(make_table()))
