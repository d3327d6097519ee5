from __future__ import annotations

import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from sepclr_med import read_manifest
from sepclr_med.analysis import metrics
from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.baselines import covariate_space
from sepclr_med.analysis.card import separation_card
from sepclr_med.analysis.dependence import cross_predict, distance_correlation, measure_dependence, normalised_hsic
from sepclr_med.analysis.evaluation import evaluate_run
from sepclr_med.analysis.figures import draw_separation
from sepclr_med.analysis.permuting import p_of_predictions, p_of_probes
from sepclr_med.analysis.probes import PENALTIES, predict_many
from sepclr_med.analysis.separation import evaluate, format_card, format_separation
from sepclr_med.analysis.space_verdicts import judge_dependence, judge_norm
from sepclr_med.analysis.spaces import join_spaces
from sepclr_med.analysis.units import Units, cross_folds, site_folds
from sepclr_med.analysis.variables import Groups, choose_variables, values_of
from sepclr_med.analysis.verdicts import give_verdicts
from sepclr_med.cohort.embeddings import write_embeddings
from sepclr_med.cohort.manifest import write_manifest
from sepclr_med.errors import ManifestError

pytestmark = pytest.mark.filterwarnings("error")


def make_cohort(n=240, seed=0, n_test=80, n_sites=3):
    """Half patients; age and site in everyone, severity in patients; no two of them go together."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) % 2 == 1
    manifest = pd.DataFrame(
        {
            "participant_id": [f"{i:04}" for i in range(n)],
            "diagnosis": np.where(patient, "patient", "control"),
            "age": rng.uniform(20, 80, n),
            "site": rng.choice([f"site{k}" for k in range(n_sites)], n),
            "severity": np.where(patient, rng.normal(size=n), np.nan),
        }
    )
    return manifest, np.where(np.arange(n) < n - n_test, "train", "test")


def make_space(manifest, split, signals=(), noise=0.5, dim=6, seed=1, name="salient"):
    rng = np.random.default_rng(seed)
    factors = noise * rng.normal(size=(len(manifest), dim))
    for k, signal in enumerate(signals):
        factors[:, k] += np.nan_to_num(np.asarray(signal, dtype=float))
    table = manifest[["participant_id"]].assign(split=split)
    return pd.concat([table, pd.DataFrame(factors, columns=[f"{name}_{k:03}" for k in range(dim)])], axis=1)


def standardised(values):
    return (values - values.mean()) / values.std()


def pick(table, variable, space="salient", scheme=None, metric=None):
    chosen = table[(table.variable == variable) & (table.space == space)]
    chosen = chosen[chosen.scheme == (scheme or table.scheme.iloc[0])]
    return chosen.iloc[0] if metric is None else chosen[chosen.metric == metric].iloc[0]


# ---------------------------------------------------------------- metrics and p-values


def test_spearman_equals_scipy_s_on_repeated_rows():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 5, 40).astype(float), rng.normal(size=40).round(1)
    weights = rng.integers(0, 4, size=(6, 40)).astype(float)
    found = metrics.spearman(truth, scores, weights)
    for k, weight in enumerate(weights.astype(int)):
        wanted = stats.spearmanr(np.repeat(truth, weight), np.repeat(scores, weight)).statistic
        assert found[k] == pytest.approx(wanted)


def test_spearman_of_a_constant_prediction_is_zero_and_of_a_constant_truth_missing():
    everyone, numbers, same = np.ones((1, 5)), np.arange(5.0), np.full(5, 3.0)
    assert metrics.spearman(numbers, same, everyone)[0] == 0
    assert np.isnan(metrics.spearman(same, numbers, everyone)[0])


@pytest.mark.parametrize("n_classes", [0, 2, 3], ids=["numbers", "two classes", "three classes"])
def test_p_of_predictions_is_that_of_a_plain_loop(n_classes):
    rng = np.random.default_rng(1)
    sites = np.repeat(["a", "b"], 15)
    orders = draw_permutations(99, sites, None, rng)
    if n_classes:
        truth = np.append(np.arange(n_classes), rng.integers(n_classes, size=30 - n_classes))
        scores = rng.dirichlet(np.ones(n_classes), 30).round(2)
        asked = range(n_classes) if n_classes > 2 else [1]

        def area(y):
            return np.mean([sklearn_metrics.roc_auc_score(y == c, scores[:, c]) for c in asked])

        def accuracy(y):
            # Ties are broken by the area under the curve.
            return sklearn_metrics.balanced_accuracy_score(y, scores.argmax(axis=1)) + 1e-6 * area(y)

        score_of = {"balanced_accuracy": accuracy, "auc": area}
    else:
        truth = rng.normal(size=30)
        scores = 0.3 * truth + rng.normal(size=30)
        score_of = {
            "r2": lambda y: sklearn_metrics.r2_score(y, scores),
            "mae": lambda y: -sklearn_metrics.mean_absolute_error(y, scores),
            "spearman": lambda y: stats.spearmanr(y, scores).statistic,
        }
    found = p_of_predictions(list(score_of), truth, scores, orders)
    for name, score in score_of.items():
        as_good = sum(score(truth[order]) >= score(truth) - 1e-12 for order in orders)
        assert found[name] == pytest.approx((1 + as_good) / 100), name


def test_many_targets_are_predicted_as_one_by_one():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(60, 5)) * [1, 10, 1, 1, 100], rng.normal(size=(60, 3))
    targets[:, 0] += features[:, 1]
    folds = [(np.arange(40), np.arange(40, 60))]
    scaler = StandardScaler().fit(features[:40])
    for k in range(3):
        ridge = RidgeCV(PENALTIES).fit(scaler.transform(features[:40]), targets[:40, k])
        wanted = ridge.predict(scaler.transform(features[40:]))
        np.testing.assert_allclose(predict_many(features, targets, folds)[:, k], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_p_of_probes_fits_anew_and_is_calibrated(kind):
    rejected = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        people = np.arange(40).astype(str)
        truth = rng.normal(size=40) if kind == "regression" else np.array(["a", "b"] * 20, dtype=object)
        units = Units(rng.normal(size=(40, 4)), truth, people, people)
        name = "spearman" if kind == "regression" else "auc"
        orders = draw_permutations(99, None, None, rng, 40)
        rejected.append(p_of_probes([name], units, kind, cross_folds(units, kind), orders)[name] <= 0.05)
    assert np.mean(rejected) <= stats.binom.ppf(0.999, 40, 0.05) / 40


def test_p_of_probes_finds_what_is_there():
    rng = np.random.default_rng(0)
    people = np.arange(60).astype(str)
    truth = np.array(["a", "b", "c"] * 20, dtype=object)
    features = rng.normal(size=(60, 3)) + 2 * (truth[:, None] == np.array(["a", "b", "c"]))
    units = Units(features, truth, people, people)
    orders = draw_permutations(99, None, None, rng, 60)
    found = p_of_probes(
        ["balanced_accuracy", "auc"], units, "classification", cross_folds(units, "classification"), orders
    )
    assert set(found.values()) == {0.01}


def test_site_alone_is_no_link():
    # The space and the variable both follow the site and nothing else: over everyone they go together.
    manifest, split = make_cohort(n=400, n_test=200)
    at = manifest.site.map({"site0": -2.0, "site1": 0.0, "site2": 2.0})
    manifest["score"] = at + np.random.default_rng(5).normal(size=400)
    space = make_space(manifest, split, [at])
    table = evaluate({"salient": space}, manifest, ["score"], n_bootstrap=0)
    row = pick(table, "score", metric="r2")
    assert row.value > 0.5
    assert row.p_value > 0.05
    free = evaluate({"salient": space}, manifest.drop(columns="site"), ["score"], n_bootstrap=0)
    assert pick(free, "score", metric="r2").p_value == pytest.approx(1 / 1001)


def test_what_does_not_vary_within_a_site_has_no_p_value_and_says_why():
    manifest, split = make_cohort(n_sites=2)
    manifest["site"] = np.where(manifest.diagnosis == "patient", "site0", "site1")
    space = make_space(manifest, split, [manifest.diagnosis == "patient"])
    table = evaluate({"salient": space}, manifest, ["diagnosis"], n_bootstrap=0)
    row = pick(table, "diagnosis")
    assert row.value > 0.7
    assert np.isnan(row.p_value)
    assert any("cannot be told apart from the site" in note for note in table.attrs["notes"])


def test_no_permutations_no_p_values():
    manifest, split = make_cohort(n=60, n_test=20)
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["age"], n_bootstrap=0, n_permutations=0)
    assert table.p_value.isna().all()


# ---------------------------------------------------------------- schemes, spaces and baselines


def test_leave_site_out_never_fits_on_the_scored_site():
    rng = np.random.default_rng(0)
    people = np.array([f"{i:02}" for i in range(40)], dtype=object)
    sites = rng.choice(["a", "b", "several sites"], 40).astype(object)
    families = people.copy()
    families[:6] = "one family"
    splits = np.array(["train", "test"] * 20, dtype=object)
    units = Units(rng.normal(size=(40, 2)), rng.normal(size=40), people, splits, sites, families)
    for held_out in (None, "test"):
        names, folds = site_folds(units, held_out)
        assert names == ["a", "b"]
        for name, (fitted, scored) in zip(names, folds, strict=True):
            assert set(sites[scored]) == {name}
            assert not set(sites[fitted]) & {name, "several sites"}
            assert not set(families[fitted]) & set(families[scored])
            if held_out:
                assert set(splits[fitted]), set(splits[scored]) == ({"train"}, {"test"})


@pytest.mark.parametrize("given", ["split", "none"])
def test_a_probe_that_reads_the_site_fails_at_other_sites(given):
    manifest, split = make_cohort(n=300, n_test=120)
    at = manifest.site.map({"site0": -2.0, "site1": 0.0, "site2": 2.0})
    manifest["through_site"] = at + 0.5 * np.random.default_rng(5).normal(size=300)
    # The site is there as three factors of its own, none of which says anything about an unseen site.
    flags = [4.0 * (manifest.site == site) for site in ("site0", "site1", "site2")]
    space = make_space(manifest, split if given == "split" else None, [*flags, standardised(manifest.age)], noise=0.2)
    table = evaluate({"salient": space}, manifest, ["through_site", "age"], n_bootstrap=0, n_permutations=99)
    assert pick(table, "through_site", metric="r2").value > 0.8
    assert pick(table, "through_site", scheme="leave-site-out", metric="r2").value < 0.4
    assert pick(table, "age", scheme="leave-site-out", metric="r2").value > 0.7
    assert pick(table, "age", scheme="leave-site-out", metric="r2").n == (120 if given == "split" else 300)
    assert pick(table, "age", scheme="leave-site-out", metric="r2").p_value == pytest.approx(0.01)


def test_site_itself_is_not_left_out_and_travellers_are_counted():
    manifest, split = make_cohort(n=90, n_test=30)
    both = pd.concat([manifest, manifest.iloc[[0]].assign(site="site1")], ignore_index=True)
    both.loc[0, "site"] = "site0"
    both.insert(1, "session_id", ["1"] * 90 + ["2"])
    space = make_space(both, np.append(split, split[0])).assign(session_id=both.session_id)
    table = evaluate({"salient": space}, both, ["site", "age"], n_bootstrap=0, n_permutations=0)
    assert set(table[table.variable == "site"].scheme) == {"held-out"}
    assert any("1 participants with several sites or none" in note for note in table.attrs["notes"])


def test_a_site_whose_probes_lack_a_class_is_named():
    manifest, split = make_cohort(n=240, n_test=80)
    manifest["kind"] = np.where(manifest.site == "site2", np.where(manifest.age > 50, "x", "y"), "y")
    # Without site2 one participant with x is left to fit on.
    manifest.loc[0, ["site", "kind"]] = ["site0", "x"]
    manifest.loc[239, ["site", "kind"]] = ["site1", "x"]
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["kind"], n_bootstrap=0, n_permutations=0)
    (note,) = [note for note in table.attrs["notes"] if note.startswith("kind: leave-site-out")]
    assert note.endswith("too little to fit on for site2.")
    assert pick(table, "kind", scheme="leave-site-out").n < pick(table, "kind").n


def test_both_is_common_and_salient_side_by_side_and_order_is_fixed():
    manifest, split = make_cohort()
    seen = standardised(manifest.age)
    tables = {
        "voxel_pca": make_space(manifest, split, name="voxel_pca", seed=3),
        "salient": make_space(manifest, split, [seen], seed=2, noise=1.0),
        "common": make_space(manifest, split, [seen], seed=1, noise=1.0, name="common"),
    }
    table = evaluate(tables, manifest, ["age"], n_bootstrap=0, n_permutations=0)
    assert list(dict.fromkeys(table.space)) == ["common", "salient", "both", "covariates", "voxel_pca"]
    value = {space: pick(table, "age", space, metric="r2").value for space in ("common", "salient", "both")}
    assert value["both"] > max(value["common"], value["salient"]) + 0.05


def test_covariates_alone_are_the_baseline_and_never_the_variable_itself():
    manifest, split = make_cohort()
    manifest["tiv"] = 1400 + 5 * manifest.age
    manifest.loc[manifest.index % 10 == 0, "age"] = np.nan
    table = evaluate(
        {"salient": make_space(manifest, split)}, manifest, ["tiv", "site"], n_bootstrap=0, n_permutations=0
    )
    assert pick(table, "tiv", "covariates", metric="r2").value > 0.7
    assert pick(table, "site", "covariates").value < 0.5
    assert any("Missing covariates (age of 24" in note for note in table.attrs["notes"])
    rows = manifest.assign(scanner=manifest.site)
    assert covariate_space(rows, "scanner").features.shape == (240, 2)
    assert covariate_space(rows, "severity").features.shape == (240, 5)
    assert covariate_space(manifest[["participant_id", "age"]], "age") is None


def test_clinical_columns_are_asked_among_patients_and_apart_among_controls():
    manifest, split = make_cohort()
    # Patients score ten more, and within the groups the space says nothing: over everyone R2 would be high.
    manifest["score"] = 10.0 * (manifest.diagnosis == "patient") + np.random.default_rng(3).normal(size=240)
    space = make_space(manifest, split, [manifest.diagnosis == "patient"], noise=0.1)
    apart = evaluate({"salient": space}, manifest, ["score"], ["patient"], n_bootstrap=0, n_permutations=99)
    assert apart.variable.unique().tolist() == ["score", "score (background)"]
    assert apart[apart.metric == "r2"].value.max() < 0.2
    assert apart.n.unique().tolist() == [40]
    together = evaluate({"salient": space}, manifest, ["score"], n_bootstrap=0, n_permutations=0)
    assert pick(together, "score", metric="r2").value > 0.9


def test_background_is_what_was_named():
    manifest, _ = make_cohort(n=60)
    manifest.loc[:19, "diagnosis"] = "other"
    manifest["score"] = np.arange(60.0)
    groups = Groups(["patient"], ["control"])
    (target, background), _, _ = choose_variables(manifest, ["score"], groups)
    assert values_of(manifest, background, groups).notna().sum() == (manifest.diagnosis == "control").sum() == 20
    assert values_of(manifest, target, groups).notna().sum() == 20
    everyone_else, _, _ = choose_variables(manifest, ["score"], Groups(["patient"]))
    assert values_of(manifest, everyone_else[1], Groups(["patient"])).notna().sum() == 40


def test_ordered_text_is_read_in_the_sidecar_s_order():
    manifest, split = make_cohort()
    level = pd.cut(manifest.age, 3, labels=["slight", "marked", "grave"]).astype(str)
    manifest["grade"] = level
    sidecar = {"grade": {"Levels": {"slight": "", "marked": "", "grave": ""}}}
    space = make_space(manifest, split, [standardised(manifest.age)], noise=0.2)
    options = {"measures": {"grade": "ordinal"}, "n_bootstrap": 0, "n_permutations": 99}
    table = evaluate({"salient": space}, manifest, ["grade"], described=sidecar, **options)
    row = pick(table, "grade")
    assert (row.measure, row.metric) == ("ordinal", "spearman")
    assert row.value > 0.8
    manifest.attrs["dictionary"] = sidecar
    pd.testing.assert_frame_equal(table, evaluate({"salient": space}, manifest, ["grade"], **options))


@pytest.mark.parametrize("name", ["z{}", "PC_{}", "dim{}", "{}", "Factor {}"])
def test_tables_of_other_programs_are_taken(name):
    manifest, _ = make_cohort(n=60)
    space = make_space(manifest, None, [standardised(manifest.age)], noise=0.1).drop(columns="split")
    space = space.rename(columns={f"salient_{k:03}": name.format(k) for k in range(6)})
    table = evaluate({"embedding": space}, manifest, ["age"], n_bootstrap=0, n_permutations=19)
    assert pick(table, "age", "embedding", metric="r2").value > 0.8
    assert set(table.space) == {"embedding", "covariates"}


@pytest.mark.parametrize(
    ("extra", "said"),
    [("severity", "not a factor"), ("icd10", "not a factor"), ("z99", "name of a column of the manifest")],
)
def test_answers_among_the_factors_are_refused(extra, said):
    manifest, _ = make_cohort(n=40)
    manifest["z99"] = 1.0
    space = make_space(manifest, None).rename(columns={f"salient_{k:03}": f"z{k}" for k in range(6)})
    with pytest.raises(ManifestError, match=said):
        join_spaces({"salient": space.assign(**{extra: 1.0})}, manifest)


# ---------------------------------------------------------------- dependence


def slow_distance_correlation(one, other):
    def centred(x):
        a = np.array([[np.linalg.norm(p - q) for q in x] for p in x])
        return a - a.mean(axis=0) - a.mean(axis=1)[:, None] + a.mean()

    a, b = centred(one), centred(other)
    return np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))


def slow_hsic(one, other):
    n = len(one)
    h = np.eye(n) - 1 / n

    def kernel(x):
        d = np.array([[np.linalg.norm(p - q) for q in x] for p in x])
        return np.exp(-(d**2) / (2 * np.median(d[np.triu_indices(n, 1)]) ** 2))

    k, m = kernel(one), kernel(other)
    return np.trace(k @ h @ m @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(m @ h @ m @ h))


def test_measures_of_dependence_follow_their_definitions_by_a_slow_loop():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(25, 3))
    other = np.column_stack([one[:, 0] ** 2, rng.normal(size=25)])
    assert distance_correlation(one, other) == pytest.approx(slow_distance_correlation(one, other))
    assert normalised_hsic(one, other) == pytest.approx(slow_hsic(one, other))


def test_dependence_is_compared_with_exchanged_participants():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    orders = draw_permutations(49, None, None, rng, 20)
    found = measure_dependence(one, other, orders)
    for name, measure in (("distance_correlation", distance_correlation), ("hsic", normalised_hsic)):
        drawn = [measure(one, other[order]) for order in orders]
        value, chance, p_value = found[name]
        assert value == pytest.approx(measure(one, other))
        assert chance == pytest.approx(np.mean(drawn))
        assert p_value == pytest.approx((1 + np.sum(np.array(drawn) >= value - 1e-9)) / 50)


def test_curved_dependence_is_found_that_a_line_misses():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(120, 2))
    other = one**2 + 0.1 * rng.normal(size=(120, 2))
    orders = draw_permutations(99, None, None, rng, 120)
    assert {p for *_, p in measure_dependence(one, other, orders).values()} == {0.01}
    held = draw_permutations(99, None, None, rng, 40)
    assert cross_predict(one, other, [(np.arange(80), np.arange(80, 120))], held, False)[0] < 0.2


def test_a_space_that_does_not_vary_has_no_dependence():
    orders = draw_permutations(9, None, None, np.random.default_rng(0), 10)
    found = measure_dependence(np.ones((10, 2)), np.random.default_rng(1).normal(size=(10, 2)), orders)
    assert all(np.isnan(figures).all() for figures in found.values())


@pytest.mark.parametrize("refits", [False, True])
def test_cross_prediction_is_the_r2_of_all_factors_together(refits):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(60, 3))
    other = one @ rng.normal(size=(3, 4)) + rng.normal(size=(60, 4))
    folds = [(np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(30))] if refits else None
    folds = folds or [(np.arange(30), np.arange(30, 60))]
    rows = np.concatenate([scored for _, scored in folds])
    orders = draw_permutations(49, None, None, rng, len(rows))
    value, chance, p_value = cross_predict(one, other, folds, orders, refits)
    predicted = predict_many(one, other, folds)
    wanted = sklearn_metrics.r2_score(other[rows], predicted, multioutput="variance_weighted")
    assert value == pytest.approx(wanted)
    assert p_value == 0.02
    assert chance < 0.05
    if refits:
        moved = [other[order] for order in orders]
        spread = np.square(other - other.mean(axis=0)).sum()
        drawn = [1 - np.square(y[rows] - predict_many(one, y, folds)).sum() / spread for y in moved]
        assert chance == pytest.approx(np.mean(drawn))
    else:
        drawn = [sklearn_metrics.r2_score(other[rows][o], predicted, multioutput="variance_weighted") for o in orders]
        assert chance == pytest.approx(np.mean(drawn))


# ---------------------------------------------------------------- the card


def two_spaces(manifest, split, shared=(), salient=(), common=()):
    return {
        "common": make_space(manifest, split, [*shared, *common], seed=1, name="common"),
        "salient": make_space(manifest, split, [*shared, *salient], seed=2),
    }


def make_card(tables, manifest, variables=None):
    options = {"n_bootstrap": 100, "n_permutations": 99}
    target = ["patient"]
    table = evaluate(tables, manifest, variables, target=target, **options)
    return table, separation_card(tables, manifest, table, target=target, **options)


def text_of(card, space, variable):
    chosen = [v for v in card["verdicts"] if (v["space"], v["variable"]) == (space, variable)]
    assert len(chosen) == 1, card["verdicts"]
    return chosen[0]["level"], chosen[0]["text"]


def test_card_says_what_each_space_carries():
    manifest, split = make_cohort(n=400, n_test=200)
    patient = manifest.diagnosis == "patient"
    tables = two_spaces(
        manifest,
        split,
        salient=[3 * patient, manifest.severity, 2 * (manifest.site == "site1")],
        common=[standardised(manifest.age)],
    )
    _, card = make_card(tables, manifest)

    level, text = text_of(card, "salient", "site")
    assert level == "warning"
    assert text.startswith("salient carries site: balanced accuracy 0.")
    assert "against chance 0.33 (n = 200): links below are permuted within site." in text
    level, text = text_of(card, "salient", "severity")
    assert level == "good"
    assert "salient carries severity: R2 0." in text
    assert "(n = 100)" in text
    assert "at sites the probe has not seen" in text
    assert "covariates alone" in text
    assert text_of(card, "salient", "diagnosis")[0] == "good"
    level, text = text_of(card, "salient", "age")
    assert (level, text.split(":")[0]) == ("good", "age not detected in salient")
    assert "(n = 200)" in text
    assert text_of(card, "common", "diagnosis")[1].startswith("diagnosis not detected in common")
    assert not any("no leak" in verdict["text"] for verdict in card["verdicts"])
    norm = card["salient_norm"]
    assert norm["median_target"] > norm["median_background"]
    assert norm["auc"] > 0.9
    assert norm["ci_low"] < norm["auc"] < norm["ci_high"]
    assert (norm["n_background"], norm["n_target"]) == (100, 100)
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("given", ["split", "none"])
def test_dependence_is_seen_among_target_and_everyone(given):
    manifest, split = make_cohort(n=160, n_test=80)
    split = split if given == "split" else None
    hidden = np.random.default_rng(9).normal(size=160)
    tied = two_spaces(manifest, split, shared=[hidden])
    _, card = make_card(tied, manifest[["participant_id", "diagnosis", "age"]], ["age"])
    rows = pd.DataFrame(card["dependence"])
    assert rows[["group", "n"]].drop_duplicates().to_numpy().tolist() == (
        [["target", 40], ["everyone", 80]] if given == "split" else [["target", 80], ["everyone", 160]]
    )
    assert set(rows.measure) == {"distance_correlation", "hsic", "salient_from_common", "common_from_salient"}
    assert (rows[rows.group == "everyone"].p_value == 0.01).all()
    assert (rows.value > rows.chance).all()
    assert "depend on one another" in text_of(card, "both", "")[1]


def test_independent_spaces_are_not_called_dependent_nor_proven_apart():
    manifest, split = make_cohort(n=160, n_test=80)
    _, card = make_card(two_spaces(manifest, split), manifest[["participant_id", "diagnosis", "age"]], ["age"])
    level, text = text_of(card, "both", "")
    assert level == "good"
    assert text.startswith("dependence of common and salient not detected among target participants (n = 40)")


def test_site_in_both_spaces_alone_is_no_dependence():
    rejected = []
    for seed in range(12):
        manifest, split = make_cohort(n=160, n_test=80, seed=seed)
        at = [3.0 * (manifest.site == "site0"), 3.0 * (manifest.site == "site1")]
        tables = {
            name: make_space(manifest, split, at, seed=seed + 50 * k, name=name)
            for k, name in enumerate(("common", "salient"))
        }
        table = pd.DataFrame(columns=["variable", "measure", "space", "scheme", "metric", "value", "p_value"])
        card = separation_card(tables, manifest, table, n_bootstrap=0, n_permutations=99)
        rejected += [row["p_value"] <= 0.05 for row in card["dependence"] if row["measure"] == "hsic"]
    assert sum(rejected) <= 3


def test_in_sample_figures_are_called_so():
    manifest, _ = make_cohort(n=60)
    tables = {"salient": make_space(manifest, "train")}
    table = evaluate(tables, manifest, ["age"], n_bootstrap=0, n_permutations=0)
    card = separation_card(tables, manifest, table, n_bootstrap=0, n_permutations=0)
    assert card["verdicts"][0]["level"] == "warning"
    assert "too good" in card["verdicts"][0]["text"]
    assert card["salient_norm"] == {}
    assert card["dependence"] == []


def verdict_for(**figures):
    row = {
        "variable": "age",
        "measure": "continuous",
        "metric": "r2",
        "space": "salient",
        "scheme": "held-out",
        "n": 40,
    }
    row |= {"value": 0.3, "ci_low": 0.1, "ci_high": 0.4, "chance": -0.01, "p_value": 0.001} | figures
    (verdict,) = give_verdicts(pd.DataFrame([row]), {})
    return verdict["level"], verdict["text"]


def test_a_wide_interval_is_not_reassuring():
    assert verdict_for(value=0.02, ci_low=-0.2, ci_high=0.1, p_value=0.4)[0] == "good"
    level, text = verdict_for(value=0.02, ci_low=-0.4, ci_high=0.35, p_value=0.4)
    assert level == "info"
    assert "too few participants to rule out more" in text


def test_few_participants_are_never_reassuring_whatever_the_interval():
    figures = {"value": -0.04, "ci_low": -0.67, "ci_high": 0.0, "chance": -0.04, "p_value": 0.4}
    level, text = verdict_for(**figures, n=14)
    assert level == "info"
    assert "too few participants to rule out more" in text
    assert verdict_for(**figures, n=37)[0] == "good"


def test_below_chance_is_no_sign_of_absence():
    figures = {"variable": "diagnosis", "measure": "binary", "metric": "balanced_accuracy", "space": "common"}
    level, text = verdict_for(**figures, value=0.25, ci_low=0.1, ci_high=0.4, chance=0.5, p_value=0.9, n=80)
    assert level == "info"
    assert "below chance" in text


def test_apart_by_distance_and_missed_by_the_probe_is_one_sentence():
    row = {"variable": "diagnosis", "measure": "binary", "metric": "balanced_accuracy", "space": "salient"}
    row |= {"scheme": "held-out", "n": 14, "value": 0.62, "ci_low": 0.33, "ci_high": 0.88, "chance": 0.5}
    norm = {"median_background": 0.09, "median_target": 0.17, "auc": 0.95, "ci_low": 0.78, "ci_high": 1.0}
    norm |= {"p_value": 0.003, "n_background": 4, "n_target": 10}
    missed, apart = give_verdicts(pd.DataFrame([row | {"p_value": 0.08}]), {"salient_norm": norm})
    assert missed["level"] == "warning"
    assert missed["text"].endswith("too few participants to say.")
    assert apart["level"] == "info"
    assert "Both can be" in apart["text"]


def test_no_dependence_among_few_is_no_praise():
    row = {"measure": "hsic", "group": "target", "value": 0.1, "chance": 0.1, "p_value": 0.5}
    levels = [judge_dependence([row | {"n": n}])[0]["level"] for n in (20, 40)]
    assert levels == ["info", "good"]


@pytest.mark.parametrize(
    ("figures", "level", "said"),
    [
        ({}, "warning", "--covariates age"),
        ({"variable": "site", "measure": "categorical", "metric": "balanced_accuracy"}, "warning", "--blocks site"),
        ({"variable": "BDI (background)"}, "warning", "among background participants"),
        ({"variable": "BDI"}, "good", "salient carries BDI: R2 0.30 [0.10, 0.40]"),
        ({"variable": "BDI", "p_value": 0.4}, "info", "BDI not detected in salient"),
        ({"variable": "diagnosis", "p_value": 0.4}, "warning", "not shown to carry over"),
    ],
    ids=["age", "site", "background", "clinical", "clinical-not", "diagnosis-not"],
)
def test_verdicts_in_words(figures, level, said):
    found, text = verdict_for(**figures)
    assert found == level
    assert said in text


def test_layout_of_the_card_fits_and_escapes():
    manifest, split = make_cohort(n=120, n_test=60)
    manifest["[red]odd"] = np.random.default_rng(0).normal(size=120)
    table, card = make_card(two_spaces(manifest, split), manifest, ["age", "[red]odd"])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(format_separation(table))
    console.print(format_card(card))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "[red]odd not detected in salient" in text.replace("\n", " ")
    assert "HSIC" in text


def test_picture_shows_every_scheme_but_leave_site_out(tmp_path):
    manifest, split = make_cohort(n=60, n_test=20)
    table = evaluate(two_spaces(manifest, split), manifest, ["age"], n_bootstrap=20, n_permutations=0)
    assert draw_separation(table, tmp_path / "a.png").stat().st_size > 5000


def test_nothing_of_a_picture_of_one_panel_is_cut_off(tmp_path):
    manifest, split = make_cohort(n=60, n_test=20)
    spaces = two_spaces(manifest, split)
    spaces["voxel_pca"] = spaces["common"].rename(columns=lambda name: name.replace("common", "pca"))
    table = evaluate(spaces, manifest, ["age"], n_bootstrap=20, n_permutations=0)
    assert table["space"].nunique() == 5
    pixels = plt.imread(draw_separation(table[table["metric"] == "r2"], tmp_path / "a.png"))[..., :3]
    assert (pixels[:, [0, -1]] == 1).all()


def test_evaluate_run_writes_table_card_and_picture(tmp_path):
    manifest, split = make_cohort(n=120, n_test=40)
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    manifest["image_path"] = [str(tmp_path / f"{i}.nii.gz") for i in range(120)]
    write_manifest(manifest, run / "data" / "manifest.tsv")
    write_embeddings(two_spaces(manifest, split), run / "embeddings", {})
    (run / "config.yaml").write_text("cohort: {background: [control], target: [patient]}\n")

    table = evaluate_run(run, ["age"], n_bootstrap=20, n_permutations=19)

    written = pd.read_csv(run / "analysis" / "separation.tsv", sep="\t", na_values="n/a")
    assert written.columns.tolist() == table.columns.tolist()
    card = json.loads((run / "analysis" / "card.json").read_text())
    assert card == table.attrs["card"]
    assert set(card) == {"verdicts", "salient_norm", "dependence", "scheme", "notes", "target", "not_tested"}
    assert card["target"] == ["patient"]
    assert (run / "analysis" / "separation.png").is_file()
    assert len(read_manifest(run / "data" / "manifest.tsv")) == 120


@pytest.mark.parametrize(("p_value", "level"), [(0.001, "good"), (1.0, "warning")])
def test_patients_who_stand_apart_between_sites_only_are_not_set_apart(p_value, level):
    norm = {"median_background": 0.8, "median_target": 4.6, "auc": 0.96, "ci_low": 0.93, "ci_high": 0.99}
    said = judge_norm(norm | {"n_background": 50, "n_target": 50, "p_value": p_value})[0]
    assert said["level"] == level
    assert ("not within sites" in said["text"]) == (level == "warning")
