from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group
from sklearn.metrics import adjusted_rand_score, silhouette_score

from sepclr_med.analysis.subtype_criteria import silhouette
from sepclr_med.analysis.subtype_gap import measure_gap, valley_depth
from sepclr_med.analysis.subtype_models import fit_groups
from sepclr_med.analysis.subtypes import Subtypes, find_subtypes
from sepclr_med.analysis.subtyping import _follow_nuisances
from sepclr_med.errors import ManifestError

pytestmark = pytest.mark.filterwarnings("error")
QUICK = {"n_null": 39, "n_resamples": 4, "max_groups": 3}
DIM = 8


def embed(latent, seed=0, noise=0.05):
    """Put a latent cloud into eight factors by a random rotation, with a little noise."""
    rng = np.random.default_rng(seed)
    full = np.hstack([latent, np.zeros((len(latent), DIM - latent.shape[1]))])
    return (full + noise * rng.normal(size=full.shape)) @ ortho_group.rvs(DIM, random_state=seed) + 2


def groups(sizes, centres, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = np.asarray(centres, dtype=float)
    return centres[truth] + rng.normal(size=(len(truth), centres.shape[1])), truth


def find(latent, seed=0, **options):
    rows = embed(latent, seed)
    return find_subtypes(rows, np.ones(len(rows), bool), **{**QUICK, **options}), rows


# ---------------------------------------------------------------- groups that are there


@pytest.mark.parametrize(
    ("sizes", "centres"),
    [
        ([60, 60], [[0, 0, 0], [7, 0, 0]]),
        ([100, 20], [[0, 0, 0], [7, 0, 0]]),
        ([15, 15], [[0, 0], [9, 0]]),
        ([40, 40, 40], [[0, 0, 0], [8, 0, 0], [0, 8, 0]]),
    ],
    ids=["two", "unequal", "thirty", "three"],
)
def test_planted_groups_are_found_and_new_participants_assigned(sizes, centres):
    latent, truth = groups(sizes, centres)
    found, rows = find(latent)
    assert found.n_groups == len(sizes), found.verdict
    assert adjusted_rand_score(truth, found.assign(rows)["group"]) >= 0.9
    assert sum(found.facts["group_sizes"]) == len(truth)
    assert found.facts["group_sizes"] == sorted(found.facts["group_sizes"], reverse=True)
    assert found.verdict.startswith(f"{len(sizes)} groups among {len(truth)}")

    later, truth = groups(sizes, centres, seed=9)
    assigned = found.assign(embed(later))
    assert adjusted_rand_score(truth, assigned["group"]) >= 0.9
    probabilities = assigned.filter(like="probability_").to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(assigned["probability"], probabilities.max(axis=1))


# ---------------------------------------------------------------- continua


def curve(n, rng):
    angle = rng.uniform(0, np.pi, n)
    return np.stack([6 * np.cos(angle), 6 * np.sin(angle)], 1) + 0.8 * rng.normal(size=(n, 2))


CONTINUA = {
    "gaussian": lambda n, rng: rng.normal(size=(n, 3)),
    "long": lambda n, rng: rng.normal(size=(n, 3)) * [12, 1, 1],
    "even": lambda n, rng: np.hstack([rng.uniform(-15, 15, (n, 1)), rng.normal(size=(n, 2))]),
    "curved": curve,
    "skewed": lambda n, rng: np.hstack([rng.exponential(4, (n, 1)), rng.normal(size=(n, 2))]),
    "outliers": lambda n, rng: rng.standard_t(2, size=(n, 3)),
}


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("shape", CONTINUA)
def test_continua_are_not_cut_into_groups(shape, n):
    found, rows = find(CONTINUA[shape](n, np.random.default_rng(3)), max_groups=2)
    assert found.n_groups == 1, found.verdict
    assert found.model == "none"
    assert found.verdict.startswith(f"No evidence of groups (n = {n} ")
    assert "no gap beyond that of a continuum" in found.verdict
    assigned = found.assign(rows)
    assert assigned[["group", "probability"]].isna().all().all()


def test_a_high_silhouette_of_one_far_out_is_called_that():
    cloud = np.random.default_rng(0).normal(size=(40, 3))
    assert "outliers, no group" not in find(cloud, max_groups=2)[0].verdict
    cloud[0] = 60.0
    found, _ = find(cloud, max_groups=2)
    assert found.n_groups == 1
    assert re.search(r"The silhouette of 0\.9\d with 2 groups sets 1 participant apart", found.verdict)


def test_k_means_always_cuts_and_one_gaussian_shows_that_it_means_nothing():
    found, _ = find(np.random.default_rng(0).normal(size=(100, 3)))
    line = found.criteria.query("model == 'kmeans' and k == 2").iloc[0]
    assert line.silhouette > 0.2
    assert line.p_value > 0.05


# ---------------------------------------------------------------- directions from the background


def two_kinds(n=100, seed=0):
    """Patients leave the background in two directions 60 degrees apart, by severity; a third axis is noise."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    severity = rng.uniform(3, 20, n)
    angle = np.where(kind, 1, -1) * np.pi / 6
    latent = severity[:, None] * np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) + rng.normal(size=(n, 3))
    return (
        np.vstack([rng.normal(size=(60, 3)), latent]),
        np.append(np.full(60, -1), kind),
        np.append(np.zeros(60), severity),
    )


def test_kinds_of_varying_severity_are_found_by_direction():
    latent, truth, severity = two_kinds()
    rows, target = embed(latent), truth >= 0
    found = find_subtypes(rows, target, ~target, **QUICK)
    assert (found.n_groups, found.facts["geometry"]) == (2, "direction"), found.verdict
    assigned = found.assign(rows)
    assert adjusted_rand_score(truth[target], assigned["group"][target]) >= 0.9
    assert np.corrcoef(assigned["distance"][target], severity[target])[0, 1] > 0.95


def test_one_axis_through_the_background_is_no_two_kinds():
    rng = np.random.default_rng(0)
    latent = np.vstack([rng.normal(size=(100, 3)), rng.normal(size=(100, 3)) * [10, 1, 1]])
    target = np.arange(200) >= 100
    found = find_subtypes(embed(latent), target, ~target, **QUICK)
    assert found.n_groups == 1, found.verdict
    only = find_subtypes(embed(latent), target, ~target, geometry="direction", **QUICK)
    assert only.n_groups == 1, only.verdict


def test_patients_like_the_background_have_no_direction():
    rng = np.random.default_rng(0)
    rows, target = embed(rng.normal(size=(200, 3))), np.arange(200) >= 100
    found = find_subtypes(rows, target, ~target, **QUICK)
    assert found.n_groups == 1
    assert "within the background's own range" in found.facts["notes"][0]
    with pytest.raises(ManifestError, match="directions cannot be used"):
        find_subtypes(rows, target, ~target, geometry="direction", **QUICK)


# ---------------------------------------------------------------- nothing but the fitted rows


def test_only_the_fitted_rows_matter_and_the_axes_do_not():
    latent, _ = groups([60, 60], [[0, 0, 0], [7, 0, 0]])
    rows = np.vstack([embed(latent), 1e3 * np.ones((5, DIM))])
    fitted = np.arange(len(rows)) < 120
    found = find_subtypes(rows, fitted, **QUICK)
    alone = find_subtypes(rows[:120], np.ones(120, bool), **QUICK)
    pd.testing.assert_frame_equal(found.criteria, alone.criteria)
    turned = find_subtypes(rows @ ortho_group.rvs(DIM, random_state=5), fitted, **QUICK)
    np.testing.assert_allclose(found.criteria.silhouette, turned.criteria.silhouette, atol=1e-6)


def test_criteria_have_every_model_and_number_and_one_seed_gives_one_table():
    latent, _ = groups([40, 40], [[0, 0], [8, 0]])
    found, _ = find(latent, max_groups=3)
    assert found.criteria.columns.tolist()[:8] == [
        "model",
        "k",
        "bic",
        "silhouette",
        "silhouette_null_95",
        "p_value",
        "stability_bootstrap",
        "stability_split_half",
    ]
    assert found.criteria[["model", "k"]].value_counts().tolist() == [1] * 6
    assert found.criteria.query("model == 'gaussian_mixture'").set_index("k").bic.idxmin() == 2
    pd.testing.assert_frame_equal(found.criteria, find(latent, max_groups=3)[0].criteria)


def test_read_back_from_json_it_assigns_alike():
    for latent, extra in (
        (groups([40, 40], [[0, 0], [8, 0]])[0], {}),
        (np.random.default_rng(0).normal(size=(40, 2)), {}),
    ):
        found, rows = find(latent, max_groups=2, **extra)
        again = Subtypes.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
        pd.testing.assert_frame_equal(found.assign(rows), again.assign(rows))
        pd.testing.assert_frame_equal(found.criteria, again.criteria)
        assert (again.verdict, again.n_groups, again.facts) == (found.verdict, found.n_groups, found.facts)


def test_factors_are_found_by_name():
    latent, _ = groups([30, 30], [[0, 0], [8, 0]])
    table = pd.DataFrame(embed(latent), columns=[f"salient_{k:03}" for k in range(DIM)])
    found = find_subtypes(table, np.ones(60, bool), **{**QUICK, "max_groups": 2})
    shuffled = table.iloc[::-1, ::-1].assign(age=3.0)
    pd.testing.assert_frame_equal(found.assign(shuffled).iloc[::-1], found.assign(table))
    with pytest.raises(ManifestError, match="salient_003"):
        found.assign(table.drop(columns="salient_003"))


@pytest.mark.parametrize(
    ("rows", "fitted", "said"),
    [
        (np.ones((30, 2)), np.ones(29, bool), "fit_rows does not fit"),
        (np.ones((30, 2)), np.arange(30) < 12, 'too few target participants; got "12"; allowed: 20'),
        (np.full((30, 2), np.nan), np.ones(30, bool), "30 rows are not finite"),
        (np.ones((30, 2)), np.ones(30, bool), "collapsed"),
        (pd.DataFrame({"salient_000": ["a"] * 30}), np.ones(30, bool), "not a number"),
    ],
    ids=["mask", "few", "missing", "collapsed", "text"],
)
def test_what_cannot_be_asked_is_refused(rows, fitted, said):
    with pytest.raises(ManifestError, match=said):
        find_subtypes(rows, fitted)


# ---------------------------------------------------------------- parts


def test_silhouette_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(50, 3)), np.append(rng.integers(3, size=49), 3)
    assert silhouette(points, labels) == pytest.approx(silhouette_score(points, labels))


def test_valley_depth_of_two_gaussians_is_that_of_their_density():
    rng = np.random.default_rng(0)
    points = np.append(rng.normal(-2, 1, 400), rng.normal(2, 1, 400))[:, None]
    spread, width = points.std(), 0.3
    wide = 1 + width**2
    density = [np.exp(-((x - 2) ** 2) / (2 * wide)) + np.exp(-((x + 2) ** 2) / (2 * wide)) for x in (2, 0)]
    assert valley_depth(points, width / spread) == pytest.approx(np.log(density[0] / density[1]), abs=0.2)
    assert valley_depth(points, 4 / spread) == 0


def test_gap_of_a_few_outliers_is_none():
    rng = np.random.default_rng(0)
    points = np.vstack([rng.normal(size=(95, 2)), rng.normal(size=(5, 2)) + 15])
    assert measure_gap(points, 19).p_value == 1
    assert measure_gap(points, 19, min_share=0.04).p_value == 0.05


def test_mixture_and_k_means_read_back_give_the_same_labels_as_scikit_learn():
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    points, _ = groups([30, 20], [[0, 0], [3, 0]])
    ours = fit_groups(points, "kmeans", 2), fit_groups(points, "gaussian_mixture", 2)
    theirs = (
        KMeans(2, n_init=5, random_state=0).fit_predict(points),
        GaussianMixture(2, n_init=5, random_state=0).fit(points),
    )
    assert adjusted_rand_score(ours[0].labels(points), theirs[0]) == 1
    np.testing.assert_array_equal(ours[0].probabilities(points).argmax(axis=1), ours[0].labels(points))
    assert adjusted_rand_score(ours[1].labels(points), theirs[1].predict(points)) == 1
    assert ours[1].bic == pytest.approx(theirs[1].bic(points), rel=1e-2)


def test_import_is_light():
    code = (
        "import sys, sepclr_med.analysis.subtypes, sepclr_med.analysis.canonical; "
        "print([m for m in ('torch', 'monai', 'sklearn', 'nilearn', 'statsmodels') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_groups_that_are_sites_are_said_to_be():
    group = pd.Series(["group_1"] * 40 + ["group_2"] * 40)
    rows = pd.DataFrame({"site": ["a"] * 38 + ["b"] * 42, "sex": ["F", "M"] * 40})
    said = _follow_nuisances(group, rows)
    assert len(said) == 1
    assert "follow site" in said[0]
