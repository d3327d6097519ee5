from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn import metrics as sklearn_metrics

from sepclr_med.analysis import metrics, resampling
from sepclr_med.analysis.probes import fit_probe, predict_out_of_sample
from sepclr_med.analysis.separation import evaluate as evaluate_all
from sepclr_med.analysis.separation import format_separation
from sepclr_med.analysis.units import Units, average_sessions, cross_folds, held_out_fold
from sepclr_med.cohort.embeddings import read_embeddings, write_embeddings
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.errors import ManifestError, UserError

pytestmark = pytest.mark.filterwarnings("error")

COLUMNS = [
    *("variable", "measure", "space", "scheme", "metric", "value", "ci_low", "ci_high", "chance", "p_value", "n"),
]


def evaluate(*arguments, **options):
    """P-values and sites have tests of their own, in test_card.py."""
    return evaluate_all(*arguments, **{"n_permutations": 0, **options})


def make_cohort(n=240, seed=0, n_test=80):
    """Half patients; age and scanner in everyone, subtype and severity in patients, a score that depends on nothing."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) % 2 == 1
    manifest = pd.DataFrame(
        {
            "participant_id": [f"{i:04}" for i in range(n)],
            "image_path": [f"/data/{i}.nii.gz" for i in range(n)],
            "diagnosis": np.where(patient, "patient", "control"),
            "age": rng.uniform(20, 80, n),
            "sex": rng.choice(["F", "M"], n),
            "scanner": rng.choice(["A", "B", "C"], n),
            "subtype": np.where(patient, rng.choice(["one", "two"], n), None),
            "severity": np.where(patient, rng.normal(size=n), np.nan),
            "unrelated": rng.normal(size=n),
        }
    )
    return manifest, np.where(np.arange(n) < n - n_test, "train", "test")


def make_space(manifest, split, signals=(), noise=0.5, dim=8, seed=1, name="salient"):
    """Noise, with each given signal added to a factor of its own."""
    rng = np.random.default_rng(seed)
    factors = noise * rng.normal(size=(len(manifest), dim))
    for k, signal in enumerate(signals):
        factors[:, k] += np.nan_to_num(np.asarray(signal, dtype=float))
    table = manifest[[c for c in ("participant_id", "session_id", "run") if c in manifest]].copy()
    table["split"], table["fold"], table["model_id"] = split, "n/a", "0123456789ab"
    return pd.concat([table, pd.DataFrame(factors, columns=[f"{name}_{k:03}" for k in range(dim)])], axis=1)


def standardised(values):
    return (values - values.mean()) / values.std()


def line(table, variable, metric, space="salient", elsewhere=False):
    chosen = table[(table.variable == variable) & (table.metric == metric) & (table.space == space)]
    chosen = chosen[(chosen.scheme == "leave-site-out") == elsewhere]
    assert len(chosen) == 1
    return chosen.iloc[0]


def notes_about(table, word):
    return [note for note in table.attrs["notes"] if word in note]


# ---------------------------------------------------------------- what is found, what is not


def test_planted_signal_is_recovered_within_its_interval():
    manifest, split = make_cohort(n=900, n_test=300)
    space = make_space(manifest, split, [standardised(manifest.age), manifest.subtype == "two", manifest.severity])

    table = evaluate({"salient": space}, manifest, target=["patient"], n_bootstrap=400)

    assert table.columns.tolist() == COLUMNS
    # A factor that is age plus noise of half its size: the best linear R2 is 1 / (1 + 0.25).
    age = line(table, "age", "r2")
    assert age.ci_low < 0.8 < age.ci_high
    assert 0.02 < age.ci_high - age.ci_low < 0.15
    assert line(table, "severity", "r2").value == pytest.approx(0.8, abs=0.08)
    assert line(table, "age", "mae").value < 0.6 * line(table, "age", "mae").chance
    # Two normal clouds one apart with spread 0.5: the best accuracy is Phi(1), the area Phi(sqrt 2).
    subtype = line(table, "subtype", "balanced_accuracy")
    assert subtype.ci_low < 0.841 < subtype.ci_high
    assert line(table, "subtype", "auc").value == pytest.approx(0.921, abs=0.04)
    assert line(table, "subtype", "auc").chance == 0.5


def test_null_data_are_near_chance_and_intervals_cover_it():
    covered, values = [], []
    for seed in range(8):
        manifest, split = make_cohort(n=240, n_test=120, seed=seed)
        # Without covariates there is one space only.
        manifest = manifest.drop(columns=["age", "sex"])
        space = make_space(manifest, split, seed=seed + 100)
        table = evaluate(
            {"salient": space}, manifest, ["diagnosis", "scanner", "unrelated"], n_bootstrap=300, seed=seed
        )
        for variable, metric in (("diagnosis", "balanced_accuracy"), ("diagnosis", "auc"), ("scanner", "auc")):
            row = line(table, variable, metric)
            covered.append(row.ci_low <= row.chance <= row.ci_high)
            values.append(row.value - row.chance)
        assert line(table, "unrelated", "r2").value < 0.05
    assert np.mean(covered) > 0.8
    assert abs(np.mean(values)) < 0.03


def test_chance_is_what_ignoring_the_features_scores():
    manifest, split = make_cohort()
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["scanner", "age"], n_bootstrap=0)
    train, test = manifest.age[split == "train"], manifest.age[split == "test"]
    blind = np.full(len(test), train.mean())
    assert line(table, "scanner", "balanced_accuracy").chance == pytest.approx(1 / 3)
    assert line(table, "age", "r2").chance == pytest.approx(sklearn_metrics.r2_score(test, blind))
    assert line(table, "age", "mae").chance == pytest.approx(sklearn_metrics.mean_absolute_error(test, blind))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_of_classes_equal_scikit_learn_s_with_weights(n_classes):
    rng = np.random.default_rng(0)
    truth = np.append(np.arange(n_classes), rng.integers(n_classes, size=60))
    scores = rng.dirichlet(np.ones(n_classes), len(truth)).round(1) + 1e-9
    scores /= scores.sum(axis=1, keepdims=True)
    weights = rng.integers(1, 4, size=(5, len(truth))).astype(float)

    accuracy, area = metrics.balanced_accuracy(truth, scores, weights), metrics.auc(truth, scores, weights)

    for k, weight in enumerate(weights):
        guess = scores.argmax(axis=1)
        wanted = sklearn_metrics.balanced_accuracy_score(truth, guess, sample_weight=weight)
        assert accuracy[k] == pytest.approx(wanted)
        each = [sklearn_metrics.roc_auc_score(truth == c, scores[:, c], sample_weight=weight) for c in range(n_classes)]
        assert area[k] == pytest.approx(np.mean(each))


def test_scores_of_numbers_equal_scikit_learn_s_with_weights():
    rng = np.random.default_rng(0)
    truth = 1e4 + rng.normal(size=50)
    guess = truth + rng.normal(size=50)
    weights = rng.integers(0, 4, size=(5, 50)).astype(float)
    r2, mae = metrics.r2(truth, guess, weights), metrics.mae(truth, guess, weights)
    for k, weight in enumerate(weights):
        assert r2[k] == pytest.approx(sklearn_metrics.r2_score(truth, guess, sample_weight=weight))
        assert mae[k] == pytest.approx(sklearn_metrics.mean_absolute_error(truth, guess, sample_weight=weight))


def test_interval_is_that_of_a_plain_loop_over_resamples():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=80)
    guess = truth + rng.normal(size=80)
    people = np.arange(80)
    draws = []
    for _ in range(2000):
        picked = rng.integers(80, size=80)
        draws.append(np.abs(truth[picked] - guess[picked]).mean())

    scored = resampling.score_with_intervals({"mae": metrics.mae}, truth, guess, people, 2000, rng)

    np.testing.assert_allclose(scored["mae"][1:], np.quantile(draws, [0.025, 0.975]), atol=0.015)


def test_resamples_draw_participants_with_all_their_rows():
    truth = np.repeat(np.arange(30.0), 20)
    guess = truth + np.repeat(np.random.default_rng(0).normal(size=30), 20)
    rows, people = np.arange(600), np.repeat(np.arange(30), 20)

    def width(groups):
        scored = resampling.score_with_intervals(
            {"mae": metrics.mae}, truth, guess, groups, 500, np.random.default_rng(1)
        )
        return scored["mae"][2] - scored["mae"][1]

    assert width(people) > 3 * width(rows)


def test_resamples_made_in_blocks_are_as_many_as_asked(monkeypatch):
    truth, people = np.arange(10.0), np.arange(10)
    counted = []

    def count(truth, scores, weights):
        counted.append(len(weights))
        return metrics.mae(truth, scores, weights)

    monkeypatch.setattr(resampling, "NUMBERS_AT_ONCE", 30)
    resampling.score_with_intervals({"mae": count}, truth, truth, people, 10, np.random.default_rng(0))
    assert counted == [1, 3, 3, 3, 1]


# ---------------------------------------------------------------- no leak


def test_probe_is_fitted_on_training_participants_alone():
    manifest, split = make_cohort()
    clean = make_space(manifest, split, [standardised(manifest.age), manifest.diagnosis == "patient"])
    for variable, kind in (("age", "regression"), ("diagnosis", "classification")):
        spoiled, answers = clean.copy(), manifest[variable].copy()
        last = manifest.index[-40:]
        spoiled.loc[last, "salient_000":"salient_007"] = 1e6
        answers.loc[last] = 1e6 if kind == "regression" else "patient"

        def predictions(space, values, kind=kind, last=last):
            features = space.loc[:, "salient_000":"salient_007"].to_numpy()
            units = average_sessions(features, values, space.participant_id, space.split, kind)
            prediction = predict_out_of_sample(units, kind, held_out_fold(units, "test"))
            kept = ~np.isin(units.participants[prediction.rows], manifest.participant_id[last])
            return prediction.scores[kept]

        np.testing.assert_array_equal(predictions(clean, manifest[variable]), predictions(spoiled, answers))


def test_shuffled_test_answers_score_at_chance():
    manifest, split = make_cohort(n=400, n_test=200)
    space = make_space(manifest, split, [standardised(manifest.age), manifest.diagnosis == "patient"])
    shuffled = manifest.copy()
    test = np.flatnonzero(split == "test")
    order = np.random.default_rng(0).permutation(test)
    for variable in ("age", "diagnosis"):
        shuffled.loc[test, variable] = manifest[variable].to_numpy()[order]

    honest = evaluate({"salient": space}, manifest, ["age", "diagnosis"], n_bootstrap=0)
    lost = evaluate({"salient": space}, shuffled, ["age", "diagnosis"], n_bootstrap=0)

    assert line(honest, "age", "r2").value > 0.7
    assert line(lost, "age", "r2").value < 0
    assert line(honest, "diagnosis", "auc").value > 0.85
    assert line(lost, "diagnosis", "auc").value == pytest.approx(0.5, abs=0.12)


def test_memorised_participants_cannot_be_recognised_again():
    # More factors than participants: a probe that saw the rows it is scored on would be perfect.
    manifest, split = make_cohort(n=90, n_test=30)
    table = evaluate({"salient": make_space(manifest, split, dim=200)}, manifest, ["diagnosis", "unrelated"])
    assert line(table, "diagnosis", "balanced_accuracy").value < 0.75
    assert line(table, "unrelated", "r2").value < 0.3


def test_validation_rows_are_neither_fitted_nor_scored_beside_a_test_split():
    manifest, split = make_cohort()
    split = np.where(np.arange(len(split)) % 5 == 0, "val", split)
    space = make_space(manifest, split, [standardised(manifest.age)])
    spoiled = space.copy()
    spoiled.loc[spoiled.split == "val", "salient_000"] = 1e5
    frames = [evaluate({"salient": table}, manifest, ["age"]) for table in (space, spoiled)]
    pd.testing.assert_frame_equal(*frames)
    assert frames[0].n.unique().tolist() == [int((split == "test").sum())]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_folds_never_divide_a_participant(kind):
    rng = np.random.default_rng(0)
    people = np.repeat([f"{i:02}" for i in range(20)], 2 if kind == "classification" else 1).astype(object)
    answers = np.tile(["a", "b"], 20) if kind == "classification" else rng.normal(size=20)
    units = Units(rng.normal(size=(len(people), 2)), answers, people, np.full(len(people), "all"))
    folds = cross_folds(units, kind)
    assert sorted(np.concatenate([scored for _, scored in folds])) == list(range(len(people)))
    for fitted, scored in folds:
        assert not set(people[fitted]) & set(people[scored])


@pytest.mark.parametrize(("column", "named"), [("participant_id", "0000"), ("family_id", "0059.*family")])
def test_participant_or_family_in_two_splits_is_refused(column, named):
    manifest, split = make_cohort(n=60, n_test=20)
    if column == "family_id":
        manifest["family_id"] = [f"fam{i}" for i in range(60)]
        manifest.loc[59, "family_id"] = manifest.loc[0, "family_id"]
    else:
        manifest["session_id"] = "1"
        manifest.loc[59, ["participant_id", "session_id"]] = [manifest.loc[0, "participant_id"], "2"]
    with pytest.raises(ManifestError, match=named):
        evaluate({"salient": make_space(manifest, split)}, manifest)


# ---------------------------------------------------------------- participants and sessions


def two_sessions(manifest, split):
    twice = pd.concat([manifest, manifest], ignore_index=True)
    twice.insert(1, "session_id", np.repeat(["1", "2"], len(manifest)))
    return twice, np.tile(split, 2)


def test_sessions_are_averaged_and_count_once():
    manifest, split = make_cohort()
    once = make_space(manifest, split, [standardised(manifest.age)])
    both, both_split = two_sessions(manifest, split)
    twice = make_space(both, both_split)
    factors = [c for c in once if c.startswith("salient_")]
    wobble = np.random.default_rng(5).normal(size=once[factors].shape)
    twice[factors] = np.concatenate([once[factors] + wobble, once[factors] - wobble])
    # The mean of the two sessions' ages is the age of the single session.
    both["age"] += np.repeat([-1.0, 1.0], len(manifest))

    alone = evaluate({"salient": once}, manifest, ["age", "sex", "severity"], target=["patient"])
    averaged = evaluate({"salient": twice}, both, ["age", "sex", "severity"], target=["patient"])

    pd.testing.assert_frame_equal(alone, averaged, rtol=1e-6)
    assert line(averaged, "age", "r2").n == 80


def test_a_session_without_a_value_does_not_remove_its_participant():
    manifest, split = make_cohort()
    both, both_split = two_sessions(manifest, split)
    both.loc[both.session_id == "2", "age"] = np.nan
    table = evaluate({"salient": make_space(both, both_split)}, both, ["age"], n_bootstrap=10)
    assert line(table, "age", "r2").n == 80


def test_participant_scanned_at_two_sites_is_one_participant_with_two_classes():
    manifest, split = make_cohort()
    both, both_split = two_sessions(manifest, split)
    both["scanner"] = np.where(both.session_id == "1", "old", "new")
    space = make_space(both, both_split, [both.scanner == "old"], noise=0.1)
    row = line(evaluate({"salient": space}, both, ["scanner"]), "scanner", "balanced_accuracy")
    assert row.value > 0.95
    assert row.n == 80


def test_order_of_rows_does_not_matter():
    manifest, split = make_cohort()
    space = make_space(manifest, split, [standardised(manifest.age)])
    shuffled = manifest.sample(frac=1, random_state=1).reset_index(drop=True)
    mixed = space.sample(frac=1, random_state=2)
    names = ["diagnosis", "age", "severity"]
    tables = [evaluate({"salient": space}, manifest, names), evaluate({"salient": mixed}, shuffled, names)]
    pd.testing.assert_frame_equal(*tables)


def test_same_seed_same_table_and_a_variable_s_interval_stands_alone():
    manifest, split = make_cohort()
    space = make_space(manifest, split, [standardised(manifest.age)])
    options = {"variables": ["age", "diagnosis", "unrelated"], "n_bootstrap": 50, "n_permutations": 19}
    whole = evaluate({"salient": space}, manifest, **options)
    pd.testing.assert_frame_equal(whole, evaluate({"salient": space}, manifest, **options))
    alone = evaluate({"salient": space}, manifest, **options | {"variables": ["age"]})
    together = whole[whole.variable == "age"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, together)
    other = evaluate({"salient": space}, manifest, ["age"], n_bootstrap=50, seed=1)
    assert line(other, "age", "mae").ci_low != line(alone, "age", "mae").ci_low


# ---------------------------------------------------------------- which variables, over whom


def test_default_variables_and_what_is_left_out_with_reasons():
    manifest, split = make_cohort()
    n = len(manifest)
    manifest["run"], manifest["family_id"], manifest["qc"] = "1", [f"f{i}" for i in range(n)], "pass"
    manifest["remarks"] = [f"seen on day {i}" for i in range(n)]
    manifest["centre"] = "here"
    manifest["rare"] = np.where(np.arange(n) < 5, 1.0 * np.arange(n), np.nan)
    manifest["empty"] = np.nan

    table = evaluate({"salient": make_space(manifest, split)}, manifest, target=["patient"], n_bootstrap=0)

    assert table.variable.drop_duplicates().tolist() == [
        *("diagnosis", "age", "sex", "scanner", "subtype", "severity", "unrelated"),
        "unrelated (background)",
    ]
    (left_out,) = notes_about(table, "Not tested")
    for text in (
        "remarks (text with 240 values",
        "centre (one value",
        "qc (one value",
        "rare (values of 5",
        "empty (values of 0",
    ):
        assert text in left_out
    (within,) = notes_about(table, "target participants only")
    assert within.endswith("subtype, severity.")


def test_within_patient_variables_use_target_rows_and_the_rest_everyone():
    manifest, split = make_cohort()
    manifest["duration"] = manifest.severity.fillna(0.0)
    manifest["medicated"] = np.where(manifest.diagnosis == "control", "no", np.where(manifest.age > 50, "yes", "no"))
    manifest["handedness"] = np.where(manifest.diagnosis == "control", "right", None)
    manifest.loc[(manifest.diagnosis == "control") & (manifest.index % 4 == 0), "handedness"] = "left"
    table = evaluate({"salient": make_space(manifest, split)}, manifest, target=["patient"], n_bootstrap=0)
    n = table.groupby("variable")["n"].first()
    assert n[["diagnosis", "age", "sex", "scanner"]].tolist() == [80] * 4
    assert n[["subtype", "severity", "duration", "medicated"]].tolist() == [40] * 4
    assert n[["unrelated", "unrelated (background)"]].tolist() == [40, 40]
    assert n["handedness (background)"] == 40, "values in controls only: over the rows that have one"
    assert not {"duration (background)", "severity (background)", "handedness"} & set(n.index)

    everyone = evaluate({"salient": make_space(manifest, split)}, manifest, ["duration", "severity"], n_bootstrap=0)
    assert everyone.groupby("variable")["n"].first().to_dict() == {"duration": 80, "severity": 40}


def test_a_scanner_that_holds_all_controls_is_still_asked_of_everyone():
    manifest, split = make_cohort()
    manifest.loc[manifest.diagnosis == "control", "scanner"] = "A"
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["scanner"], target=["patient"], n_bootstrap=0)
    assert table.n.unique().tolist() == [80]


def test_kind_of_a_variable_follows_its_values():
    manifest, split = make_cohort()
    n = len(manifest)
    manifest["level"] = np.arange(n) % 3 + 1.0
    manifest["flag"] = np.arange(n) % 2 + 0.0
    manifest["truth"] = np.arange(n) % 3 == 0
    manifest["code"] = np.array(["001", "002", "010"])[np.arange(n) % 3]
    manifest["group"] = pd.Categorical(np.array(["x", "y"])[np.arange(n) // 2 % 2])
    names = ["level", "flag", "truth", "code", "group"]
    table = evaluate({"salient": make_space(manifest, split)}, manifest, names, n_bootstrap=0)
    found = table[table.space == "salient"].groupby("variable")["metric"].apply(list).to_dict()
    assert found == {"level": ["spearman", "mae", "r2"]} | {name: ["balanced_accuracy", "auc"] for name in names[1:]}
    assert table.groupby("variable")["measure"].first().to_dict() == {
        "level": "ordinal",
        "flag": "binary",
        "truth": "binary",
        "code": "categorical",
        "group": "binary",
    }
    assert line(table, "code", "balanced_accuracy").chance == pytest.approx(1 / 3)
    assert table["value"].notna().all()


def test_missing_and_infinite_values_are_left_out_of_fit_and_score():
    manifest, split = make_cohort()
    space = make_space(manifest, split, [standardised(manifest.age)])
    manifest.loc[manifest.index % 4 == 0, "age"] = np.nan
    manifest.loc[1, "age"], manifest.loc[239, "age"] = np.inf, -np.inf
    row = line(evaluate({"salient": space}, manifest, ["age"]), "age", "r2")
    assert row.n == 59
    assert row.value > 0.7


def test_unknown_names_are_refused_all_at_once_with_the_nearest_known():
    manifest, split = make_cohort(n=40, n_test=10)
    space = {"salient": make_space(manifest, split)}
    with pytest.raises(ManifestError) as caught:
        evaluate(space, manifest, ["age", "severty", "image_path"], target=["patiend"])
    text = str(caught.value)
    assert 'did you mean "severity"?' in text
    assert 'did you mean "patient"?' in text
    assert len(caught.value.problems) == 3
    assert "not a variable" in text


def test_target_without_a_diagnosis_column_is_refused():
    manifest, split = make_cohort(n=40, n_test=10)
    manifest = manifest.drop(columns="diagnosis")
    with pytest.raises(ManifestError, match="no such diagnosis"):
        evaluate({"salient": make_space(manifest, split)}, manifest, ["age"], target=["patient"])


def test_one_name_may_be_given_without_a_list():
    manifest, split = make_cohort(n=60, n_test=20)
    table = evaluate({"salient": make_space(manifest, split)}, manifest, "age", target="patient", n_bootstrap=0)
    assert table.variable.unique().tolist() == ["age"]


@pytest.mark.parametrize("wrong", [{"n_bootstrap": -1}, {"seed": -1}])
def test_negative_counts_are_refused(wrong):
    manifest, split = make_cohort(n=40, n_test=10)
    with pytest.raises(UserError, match="0 or more"):
        evaluate({"salient": make_space(manifest, split)}, manifest, **wrong)


# ---------------------------------------------------------------- too little data


def test_too_few_test_participants_give_na_with_the_reason():
    manifest, split = make_cohort(n=60, n_test=20)
    space = {"salient": make_space(manifest, split)}
    manifest.loc[42:, "unrelated"] = np.nan
    table = evaluate(space, manifest, ["unrelated", "age"], n_bootstrap=10)
    row = line(table, "unrelated", "r2")
    assert row[["value", "ci_low", "ci_high", "chance"]].isna().all()
    assert row.n == 2
    assert notes_about(table, "unrelated: n/a, 2 test participants with a value, 3 needed")
    assert line(table, "age", "r2").value == line(table, "age", "r2").value


@pytest.mark.parametrize("part", ["train", "test"])
def test_class_missing_on_one_side_gives_na_with_the_reason(part):
    manifest, split = make_cohort(n=60, n_test=20)
    manifest.loc[split == part, "sex"] = "F"
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["sex"])
    assert table.space.tolist() == ["salient"] * 2 + ["covariates"] * 2
    assert table["value"].isna().all()
    (note,) = notes_about(table, "sex: n/a")
    assert "M (" in note


def test_one_value_among_the_scored_has_no_r2():
    manifest, split = make_cohort(n=60, n_test=20)
    manifest.loc[split == "test", "age"] = 40.0
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["age"])
    assert table["value"].isna().all()
    assert notes_about(table, "same value")


def test_a_rare_class_is_set_aside_by_name_and_does_not_cost_the_variable():
    manifest, split = make_cohort()
    manifest.loc[0, "sex"] = "O"
    manifest.loc[239, "scanner"] = "unseen"
    space = make_space(manifest, split, [manifest.sex == "F"], noise=0.2)
    table = evaluate({"salient": space}, manifest, ["sex", "scanner"], n_bootstrap=10)
    assert line(table, "sex", "balanced_accuracy").value > 0.9
    assert line(table, "sex", "balanced_accuracy").chance == 0.5
    assert line(table, "scanner", "auc").n == 79
    assert "O (1 to fit on and 0 in test)" in notes_about(table, "sex:")[0]
    assert "unseen (0 to fit on and 1 in test)" in notes_about(table, "scanner:")[0]


def test_few_scored_participants_of_a_class_are_pointed_out():
    manifest, split = make_cohort(n=60, n_test=20)
    manifest["sex"] = "F"
    manifest.loc[[0, 1, 2, 50, 51], "sex"] = "M"
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["sex"])
    assert line(table, "sex", "auc").value >= 0
    assert notes_about(table, "few participants are scored in M (2)")


def test_collapsed_space_scores_chance_instead_of_failing():
    manifest, split = make_cohort()
    space = make_space(manifest, split, noise=0.0)
    table = evaluate({"salient": space}, manifest, ["diagnosis", "age"], n_bootstrap=20)
    assert line(table, "diagnosis", "balanced_accuracy").value == 0.5
    assert line(table, "diagnosis", "auc").value == 0.5
    assert line(table, "age", "r2").value == pytest.approx(line(table, "age", "r2").chance)


# ---------------------------------------------------------------- without a test split


def test_without_test_split_the_validation_split_is_scored_and_said():
    manifest, split = make_cohort()
    split = np.where(split == "test", "val", split)
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["age"], n_bootstrap=0)
    assert line(table, "age", "r2").n == 80
    assert notes_about(table, "val split")


@pytest.mark.parametrize(("given", "in_sample"), [("train", True), ("n/a", False), ("test", False), (None, False)])
def test_without_held_out_rows_probes_are_cross_validated_and_it_is_said(given, in_sample):
    manifest, _ = make_cohort()
    signals = [standardised(manifest.age), manifest.diagnosis == "patient"]
    space = make_space(manifest, given, signals)
    table = evaluate({"salient": space}, manifest, ["age", "diagnosis", "unrelated"], n_bootstrap=200)
    assert set(table.scheme) == {"cross-validated"}
    assert line(table, "age", "r2").n == 240
    assert line(table, "age", "r2").ci_low < 0.8 < line(table, "age", "r2").ci_high
    assert line(table, "unrelated", "r2").value < 0.05
    assert line(table, "unrelated", "r2").chance < 0
    assert line(table, "diagnosis", "auc").value > 0.85
    assert notes_about(table, "cross-validation")
    assert bool(notes_about(table, "encoder saw these rows")) == in_sample


def test_cross_validation_with_too_few_participants_gives_na():
    manifest, _ = make_cohort(n=7)
    table = evaluate({"salient": make_space(manifest, "n/a")}, manifest, ["age", "diagnosis"])
    assert table["value"].isna().all()
    assert len(table[table.space == "salient"]) == 5


# ---------------------------------------------------------------- joining by ids


def test_leading_zeros_and_sessions_join_exactly_through_files(tmp_path):
    manifest, split = make_cohort(n=60, n_test=20)
    manifest, split = two_sessions(manifest, split)
    manifest["session_id"] = manifest.session_id.replace({"1": "01", "2": "1"})
    manifest["image_path"] = [f"{i}.nii.gz" for i in range(len(manifest))]
    manifest.to_csv(tmp_path / "manifest.tsv", sep="\t", index=False, na_rep="n/a")
    space = make_space(manifest, split, [standardised(manifest.age)])
    tables = {"salient": space, "common": space.rename(columns=lambda c: c.replace("salient", "common"))}
    write_embeddings(tables, tmp_path / "embeddings", {})

    table = evaluate(
        read_embeddings(tmp_path / "embeddings"), read_manifest(tmp_path / "manifest.tsv"), ["age"], n_bootstrap=0
    )

    assert table.n.unique().tolist() == [20]
    assert list(dict.fromkeys(table.space)) == ["common", "salient", "both", "covariates"]
    assert line(table, "age", "r2").value > 0.7


def test_embedding_without_manifest_row_is_refused_naming_it():
    manifest, split = make_cohort(n=40, n_test=10)
    space = make_space(manifest, split)
    space.loc[[0, 7], "participant_id"] = ["0", "stranger"]
    with pytest.raises(ManifestError) as caught:
        evaluate({"salient": space}, manifest)
    assert [problem.participant_id for problem in caught.value.problems] == ["0", "stranger"]
    assert "salient embedding, row 9" in str(caught.value)


def test_session_and_run_are_part_of_the_id():
    manifest, split = make_cohort(n=40, n_test=10)
    manifest["session_id"], manifest["run"] = "pre", "1"
    space = make_space(manifest, split)
    evaluate({"salient": space}, manifest, ["age"], n_bootstrap=0)
    with pytest.raises(ManifestError, match="run=2"):
        evaluate({"salient": space.assign(run="2")}, manifest)
    with pytest.raises(ManifestError, match="session_id=post"):
        evaluate({"salient": space.assign(session_id="post")}, manifest)


@pytest.mark.parametrize("missing", ["n/a", None, np.nan])
def test_an_absent_session_is_the_same_however_it_is_written(missing):
    manifest, split = make_cohort(n=40, n_test=10)
    space = make_space(manifest, split).assign(session_id=missing)
    assert line(evaluate({"salient": space}, manifest, ["age"], n_bootstrap=0), "age", "r2").n == 10


@pytest.mark.parametrize("which", ["embedding", "manifest"])
def test_ids_read_as_numbers_are_refused(which):
    manifest, split = make_cohort(n=40, n_test=10)
    space = make_space(manifest, split)
    table = space if which == "embedding" else manifest
    table["participant_id"] = table.participant_id.astype(int)
    with pytest.raises(ManifestError, match="001 must stay 001"):
        evaluate({"salient": space}, manifest)


@pytest.mark.parametrize("which", ["embedding", "manifest"])
def test_repeated_rows_are_refused(which):
    manifest, split = make_cohort(n=40, n_test=10)
    space = make_space(manifest, split)
    if which == "embedding":
        space = pd.concat([space, space.iloc[[3]]], ignore_index=True)
    else:
        manifest = pd.concat([manifest, manifest.iloc[[3]]], ignore_index=True)
    with pytest.raises(ManifestError, match=r"row 42.*twice.*0003"):
        evaluate({"salient": space}, manifest)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda table: table.assign(age=1.0), "not a factor"),
        (lambda table: table.assign(salient_000="x"), "not a factor"),
        (lambda table: table.loc[:, :"model_id"], "no factors"),
        (lambda table: table.assign(salient_000=table.salient_000.where(table.index != 4)), "row 6, 0004"),
        (lambda table: table.assign(split="training"), "unknown split"),
        (lambda table: table.drop(columns="participant_id"), "no participant_id"),
    ],
)
def test_tables_that_are_no_embeddings_are_refused(spoil, said):
    manifest, split = make_cohort(n=40, n_test=10)
    with pytest.raises(ManifestError, match=said):
        evaluate({"salient": spoil(make_space(manifest, split))}, manifest)


def test_no_embeddings_at_all_are_refused():
    with pytest.raises(ManifestError, match="no embeddings"):
        evaluate({}, make_cohort(n=40)[0])


def test_uneven_coverage_is_said():
    manifest, split = make_cohort(n=60, n_test=20)
    space = make_space(manifest, split)
    manifest["split"] = split
    manifest.loc[3, "split"] = "test"
    table = evaluate({"salient": space.iloc[:-2], "common": space.iloc[:-3]}, manifest, ["age"], n_bootstrap=0)
    assert notes_about(table, "2 of 60 images of the manifest have no embedding")
    assert notes_about(table, "common has no row for 1 images")
    assert notes_about(table, "1 images have another split")
    assert table.groupby("space")["n"].first()[["common", "salient", "both"]].tolist() == [17, 18, 17]


# ---------------------------------------------------------------- for people


def render(table, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(format_separation(table))
    return console.export_text()


def test_layout_shows_a_line_per_variable_with_chance_and_notes():
    manifest, split = make_cohort()
    manifest.loc[split == "test", "sex"] = "F"
    manifest["[bold]odd"] = manifest.unrelated
    table = evaluate(
        {"common": make_space(manifest, split), "salient": make_space(manifest, split)},
        manifest,
        ["diagnosis", "sex", "[bold]odd"],
        n_bootstrap=50,
    )
    text = render(table, 120)
    lines = {words[0]: words for words in map(str.split, text.splitlines()) if words}
    assert lines["diagnosis"][1] == "acc"
    assert lines["diagnosis"][-2:] == ["0.50", "80"]
    assert lines["sex"][1:] == ["acc", *["n/a"] * 5, "80"]
    assert "[bold]odd" in lines
    assert "- sex: n/a" in text
    assert "-0.00" not in text


def test_layout_keeps_every_figure_in_a_narrow_terminal():
    manifest, split = make_cohort()
    spaces = {name: make_space(manifest, split) for name in ("common", "salient", "voxel_pca")}
    table = evaluate(spaces, manifest, ["diagnosis", "unrelated"], n_bootstrap=50)
    text = render(table, 100)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    for word in ("common", "salient", "both", "covariates", "voxel_pca", "chance", " n "):
        assert word in text
    assert text.count("[") == 1 + 2 * 5


def test_layout_of_a_table_read_back_from_its_file(tmp_path):
    manifest, split = make_cohort(n=60, n_test=20)
    manifest.loc[split == "test", "sex"] = "F"
    table = evaluate({"salient": make_space(manifest, split)}, manifest, ["sex", "age"], n_bootstrap=0)
    table.to_csv(tmp_path / "separation.tsv", sep="\t", index=False, na_rep="n/a")
    back = pd.read_csv(tmp_path / "separation.tsv", sep="\t", na_values=["n/a"])
    assert "n/a" in render(back, 100)


def test_import_is_light():
    code = (
        "import sys, sepclr_med.analysis.separation as s; "
        "print([m for m in ('torch', 'monai', 'sklearn', 'nilearn', 'statsmodels') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_probe_weighs_classes_alike():
    rng = np.random.default_rng(0)
    answers = np.array(["few"] * 10 + ["many"] * 190, dtype=object)
    features = (answers == "few")[:, None] * 1.0 + rng.normal(size=(200, 1))
    people = np.arange(200).astype(str)
    guess = fit_probe(Units(features, answers, people, people), "classification").predict(features)
    assert sklearn_metrics.recall_score(answers, guess, pos_label="few") > 0.5
