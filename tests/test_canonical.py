from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

from sepclr_med.analysis.canonical import CanonicalFactors, canonical_table, count_leading_factors
from sepclr_med.errors import ManifestError

pytestmark = pytest.mark.filterwarnings("error")


def make_rows(n=150, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6)) * [5, 3, 2, 0.3, 0.2, 0.1] + 4


def make_tables(n=60, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"{i:03}" for i in range(n)]
    manifest = pd.DataFrame({"participant_id": ids, "diagnosis": np.where(np.arange(n) % 2, "patient", "control")})
    salient = pd.DataFrame(rng.normal(size=(n, 4)) * [4, 2, 1, 0.5], columns=[f"salient_{k:03}" for k in range(4)])
    salient.insert(0, "participant_id", ids)
    salient.insert(1, "split", np.where(np.arange(n) < n - 20, "train", "test"))
    return salient, manifest


def test_variance_and_subspace_are_those_of_scikit_learn():
    rows = make_rows()
    ours, theirs = CanonicalFactors().fit(rows), PCA().fit(rows)
    np.testing.assert_allclose(ours.variance_explained_, theirs.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(ours.transform(rows)), np.abs(theirs.transform(rows)), atol=1e-10)


def test_factors_do_not_depend_on_the_rotation_of_the_space():
    rows = make_rows()
    plain = CanonicalFactors().fit(rows)
    for seed in range(3):
        turned = rows @ ortho_group.rvs(6, random_state=seed)
        again = CanonicalFactors().fit(turned)
        np.testing.assert_allclose(np.abs(again.transform(turned)), np.abs(plain.transform(rows)), atol=1e-9)


@pytest.mark.parametrize("method", ["pca", "varimax"])
def test_sign_and_order_are_fixed(method):
    rows = make_rows()
    for data in (rows, -rows, rows[::-1]):
        fitted = CanonicalFactors(method).fit(data)
        largest = np.abs(fitted.loadings_).argmax(axis=0)
        assert (fitted.loadings_[largest, range(fitted.loadings_.shape[1])] > 0).all()
        assert (np.diff(fitted.variance_) <= 0).all()
        np.testing.assert_allclose(fitted.loadings_.T @ fitted.loadings_, np.eye(fitted.loadings_.shape[1]), atol=1e-9)


def test_varimax_finds_simple_axes_that_principal_axes_mix():
    rng = np.random.default_rng(0)
    simple = np.kron(np.eye(2), np.ones((3, 1))) / np.sqrt(3)
    rows = rng.normal(size=(3000, 2)) @ simple.T + 0.05 * rng.normal(size=(3000, 6))
    turned = CanonicalFactors("varimax").fit(rows)
    assert turned.loadings_.shape == (6, 2)
    agreement = np.abs(turned.loadings_.T @ simple)
    np.testing.assert_allclose(np.sort(agreement.max(axis=0)), 1, atol=0.01)
    assert turned.variance_.sum() == pytest.approx(CanonicalFactors(n_factors=2).fit(rows).variance_.sum())


@pytest.mark.parametrize("method", ["pca", "varimax"])
def test_read_back_from_json_it_transforms_new_participants_alike(method):
    rows = make_rows()
    fitted = CanonicalFactors(method).fit(rows[:100])
    again = CanonicalFactors.from_dict(json.loads(json.dumps(fitted.to_dict())))
    np.testing.assert_array_equal(fitted.transform(rows), again.transform(rows))


def test_fewer_rows_than_factors_and_a_constant_column():
    rows = make_rows()[:4]
    assert CanonicalFactors().fit(rows).loadings_.shape == (6, 3)
    rows = np.hstack([make_rows(), np.ones((150, 1))])
    assert CanonicalFactors().fit(rows).loadings_.shape == (7, 6)


def test_leading_factors_end_at_the_largest_drop():
    assert count_leading_factors(np.array([89, 4.8, 3.9, 1.6, 0.1, 0.09, 0.08, 0.07, 0.05, 0.04])) == 4
    assert count_leading_factors(np.array([2.0, 1.0, 0.9])) == 2
    assert count_leading_factors(np.array([9.0, 8, 7, 6, 0.1]), most=3) == 3


def test_table_is_fitted_on_target_training_participants_alone():
    salient, manifest = make_tables()
    table, facts = canonical_table(salient, manifest, ["patient"])
    spoiled = salient.copy()
    others = (salient["split"] == "test") | (manifest["diagnosis"] == "control")
    spoiled.loc[others, "salient_000":] += 1e3
    again, same = canonical_table(spoiled, manifest, ["patient"])
    assert facts == same
    assert facts["FittedParticipants"] == 20
    pd.testing.assert_frame_equal(table[~others], again[~others])
    assert table.columns.tolist() == ["participant_id", "split", *facts["Factors"]]
    chosen = PCA().fit(salient.loc[~others, "salient_000":])
    np.testing.assert_allclose(facts["VarianceExplained"], chosen.explained_variance_ratio_)
    mended = (salient.loc[:, "salient_000":].to_numpy() - facts["Centre"]) @ np.array(facts["Loadings"])
    np.testing.assert_allclose(table[facts["Factors"]], mended)
    json.dumps(facts)


def test_sessions_count_once_and_order_of_rows_does_not_matter():
    salient, manifest = make_tables()
    both = pd.concat([salient.assign(session_id=s) for s in ("1", "2")], ignore_index=True)
    twice = pd.concat([manifest.assign(session_id=s) for s in ("1", "2")], ignore_index=True)
    both = both.sample(frac=1, random_state=0).reset_index(drop=True)
    table, facts = canonical_table(both, twice, ["patient"])
    once = canonical_table(salient, manifest, ["patient"])[1]
    np.testing.assert_allclose(np.array(facts["Loadings"]), np.array(once["Loadings"]), atol=1e-9)
    assert table["participant_id"].tolist() == both["participant_id"].tolist()


def test_what_was_fitted_on_is_said_without_targets_or_training_rows():
    salient, manifest = make_tables()
    assert "all groups" in canonical_table(salient, manifest, None)[1]["Notes"][0]
    notes = canonical_table(salient.drop(columns="split"), manifest, ["patient"])[1]["Notes"]
    assert "no training split" in notes[0]


def test_what_cannot_be_fitted_is_refused():
    salient, manifest = make_tables()
    with pytest.raises(ManifestError, match="too few rows"):
        canonical_table(salient, manifest, ["nobody"])
    with pytest.raises(ManifestError, match="number of factors"):
        CanonicalFactors(n_factors=9).fit(make_rows())
    with pytest.raises(ManifestError, match="another space"):
        CanonicalFactors().fit(make_rows()).transform(np.ones((3, 2)))
    with pytest.raises(ManifestError, match="collapsed"):
        CanonicalFactors().fit(np.ones((9, 3)))
    with pytest.raises(ManifestError, match="unknown method"):
        CanonicalFactors("quartimax")
