"""The scripts of the ablation, each run at its smallest, and the batches of its variants."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from sepclr_med import epochs
from sepclr_med.volumes.batches import draw_batches

ABLATION = Path(__file__).parents[1] / "pipelines" / "ablation"
TINY = {
    "training.epochs": 1,
    "training.threads": 1,
    "training.batch_size": 16,
    "volumes.spacing": 12,
    "cohort.simulate.spacing": 12,
    "cohort.simulate.n_train": 48,
    "cohort.simulate.n_test": 24,
}
TRUTH = ["severity", "subtype", "age", "sex", "site", "shared_pattern"]


def run(script, *words):
    command = [sys.executable, ABLATION / script, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run_arms(folder, names):
    run("run.py", folder, "--arms", ",".join(names), *(f"--set={key}={value}" for key, value in TINY.items()))
    return pd.read_csv(folder / "ablation.tsv", sep="\t")


@pytest.mark.slow
def test_every_variant_of_the_ablation_runs(tmp_path):
    arms = yaml.safe_load((ABLATION / "arms.yaml").read_text())
    names = [name for name, settings in arms.items() if any(setting.startswith("variant=") for setting in settings)]
    assert set(run_arms(tmp_path, names)["arm"]) == set(names)


@pytest.mark.slow
def test_erasing_and_dropping_axes_begin_at_what_the_run_itself_was_scored(tmp_path):
    scored = run_arms(tmp_path, ["default"])
    said = run("tradeoff.py", tmp_path)
    found = pd.read_csv(tmp_path / "tradeoff.tsv", sep="\t")
    degrees = {how: len(set(rows["much"])) for how, rows in found.groupby("how")}
    assert degrees == {"erased": 5, "leading axes kept": 5, "leading axes with a share of variance": 4}
    assert said.count("| erased: ") == 5
    assert (tmp_path / "tradeoff.png").stat().st_size > 1000
    keys = ["people", "variable", "metric"]
    untouched = found[(found["how"] == "erased") & (found["much"] == 0)].set_index(keys)["value"]
    itself = scored[scored["space"] == "salient"].set_index(keys)["value"]
    pd.testing.assert_series_equal(untouched.sort_index(), itself.sort_index())
    sex = found[(found["how"] == "erased") & (found["variable"] == "sex") & (found["people"] == "patients")]
    # What no straight line reads in training patients is at chance in others, give or take two of twelve.
    assert float(sex.loc[sex["much"] == 1, "value"].iloc[0]) == pytest.approx(0.5, abs=0.17)


@pytest.mark.slow
def test_the_reference_of_more_controls_flatters_them_less_and_cross_fitted_it_does_not(tmp_path):
    run("reference.py", tmp_path, "--sizes", "24,72", "--spacing", 12, "--new", 40)
    found = pd.read_csv(tmp_path / "reference.tsv", sep="\t")
    assert list(found["n"]) == [24, 72]
    kept = found[["kept_common", "kept_subtypeA", "kept_subtypeB"]]
    assert ((kept > 0.3) & (kept <= 1)).all(axis=None)
    assert (found["auc_norm"] > 0.6).all()
    assert np.isfinite(found[TRUTH]).all(axis=None)
    assert found["plain_in_sample"].iloc[0] < found["plain_in_sample"].iloc[1] < 0.9
    assert (found["cross_fitted_in_sample"] > 0.9).all()


@pytest.mark.slow
def test_more_controls_and_borrowing_from_patients_make_effects_less_wrong(tmp_path):
    run("effects.py", tmp_path, "--sizes", "24,60", "--spacing", 12, "--new", 60)
    found = pd.read_csv(tmp_path / "effects.tsv", sep="\t").set_index(["effects", "n_controls"])
    assert set(found.index) == {(how, n) for how in ("controls alone", "site pooled", "borrowed") for n in (24, 60)}
    alone, borrowed = found.loc["controls alone"], found.loc["borrowed"]
    errors = ["error_age", "error_sex", "error_site"]
    assert (alone.loc[60, errors] < alone.loc[24, errors]).all()
    assert (borrowed[errors] < alone[errors]).all(axis=None)
    for name in ("borrowed_age", "borrowed_sex"):
        assert borrowed[name].between(0.1, 0.5).all()
        assert (found.drop("borrowed", level="effects")[name] == 0).all()
    assert (found["borrowed_site"] == 0).all()


@pytest.mark.slow
def test_an_autoencoder_and_components_both_take_away_some_of_unseen_controls_and_nothing_nothing(tmp_path):
    run("autoencoder.py", tmp_path, "--sizes", 30, "--spacing", 12, "--new", 40, "--epochs", 50)
    found = pd.read_csv(tmp_path / "autoencoder.tsv", sep="\t").set_index("model")
    assert set(found.index) == {"nothing", "autoencoder", "principal components"}
    assert found.loc["nothing", "explained_unseen"] == pytest.approx(0, abs=1e-6)
    taken = found["explained_unseen"].drop("nothing")
    assert ((taken > 0.2) & (taken < 0.8)).all()
    assert (found["auc_norm"] > 0.6).all()
    assert np.isfinite(found[TRUTH]).all(axis=None)


def test_of_independent_spaces_the_corrected_hsic_is_zero_on_average_and_the_plain_one_far_above_it_in_few_rows():
    lines = [line.replace("(sd", "").replace(")", "").split() for line in run("dependence.py").splitlines()[1:]]
    rows, plain, _, corrected, _ = np.array(lines, dtype=float).T
    assert list(rows) == [8, 16, 32, 64, 128]
    assert (np.diff(plain) < 0).all()
    assert (plain[0], plain[-1]) == (pytest.approx(0.63, abs=0.02), pytest.approx(0.11, abs=0.02))
    assert (np.abs(corrected) < 0.05).all()


# Batches of variants.


@pytest.fixture(scope="module")
def variants():
    sys.path.insert(0, str(ABLATION))
    yield pytest.importorskip("variants")
    sys.path[:] = [path for path in sys.path if path != str(ABLATION)]


def groups(rows):
    return (rows["diagnosis"] == "patient").to_numpy()


def test_batches_of_a_site_are_of_both_its_groups_and_show_everyone_in_a_mixed_order(variants):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"diagnosis": ["control", "patient"] * 30, "site": rng.choice(["a", "b", "c"], 60)})
    is_target, draw = groups(rows), variants.draw_site_batches(rows)
    orders = []
    for epoch in range(3):
        batches = draw(is_target, 8, 5, epoch)
        for batch in batches:
            assert len(set(rows["site"].iloc[batch])) == 1
            assert 0 < is_target[batch].sum() < len(batch) <= 8
            assert len(set(batch)) == len(batch)
        assert set(np.concatenate(batches)) == set(range(60))
        again = draw(is_target, 8, 5, epoch)
        assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))
        orders.append([rows["site"].iloc[batch[0]] for batch in batches])
    assert orders[0] != sorted(orders[0])
    assert orders[0] != orders[1]


@pytest.fixture
def twins():
    """Patients, a control a little older for each, and controls of a patient's age but of another sex or site."""
    rng = np.random.default_rng(0)
    patients = pd.DataFrame({"age": rng.permutation(24) + 40.0, "sex": list("FM") * 12, "site": ["a", "b", "b"] * 8})
    others = patients.assign(sex=patients["sex"].map({"F": "M", "M": "F"}))
    elsewhere = patients.assign(site="c")
    parts = [patients.assign(age=patients["age"] + 0.1), others, elsewhere]
    controls = pd.concat(parts).assign(diagnosis="control")
    return pd.concat([patients.assign(diagnosis="patient"), controls], ignore_index=True)


def test_every_patient_is_joined_by_the_control_of_its_site_and_sex_that_is_nearest_in_age(variants, twins):
    is_target, draw = groups(twins), variants.draw_matched_batches(twins)
    batches, plain = draw(is_target, 8, 5, 1), draw_batches(is_target, 8, 5, 1)
    assert len(batches) == len(plain)
    for batch, expected in zip(batches, plain, strict=True):
        controls, ill = np.split(batch, 2)
        assert np.array_equal(ill, expected[is_target[expected]])
        assert not is_target[controls].any()
        assert len(set(controls)) == len(controls)
        for name in ("site", "sex"):
            assert list(twins[name].iloc[controls]) == list(twins[name].iloc[ill])
        apart = np.abs(twins["age"].to_numpy()[controls] - twins["age"].to_numpy()[ill])
        assert (apart < 0.1 + 1e-9).all()


def test_neighbours_are_training_controls_of_the_same_site_and_sex_and_never_the_participant(variants, twins):
    ids = [f"{number:02}" for number in range(len(twins))]
    split = np.where(np.arange(len(twins)) % 5, "train", "test")
    cohort = twins.assign(participant_id=ids, split=split, site=twins["site"].where(twins["site"] != "c", "a"))
    neighbours = variants.find_neighbours(cohort)
    assert neighbours.shape == (len(cohort), variants.NEIGHBOURS)
    found = cohort.iloc[neighbours.ravel()].reset_index(drop=True)
    asked = cohort.loc[np.repeat(cohort.index, variants.NEIGHBOURS)].reset_index(drop=True)
    assert (found["split"] == "train").all()
    assert (found["diagnosis"] == "control").all()
    assert (found["participant_id"] != asked["participant_id"]).all()
    for name in ("site", "sex"):
        assert (found[name] == asked[name]).all()


@pytest.mark.parametrize("name", ["site_batches", "matched_batches", "matched_negatives"])
def test_a_variant_s_batches_are_drawn_for_training_rows_while_it_is_in_force_and_never_else(variants, twins, name):
    is_target, validation = groups(twins), np.arange(20) >= 10
    elsewhere = twins["site"].where(twins["site"] != "c", "a")
    with variants.in_force(name, twins.assign(site=elsewhere, split="train"), 1, 8):
        batches = epochs.draw_batches(is_target, 8, 0, 0)
        plain = draw_batches(is_target, 8, 0, 0)
        assert [list(batch) for batch in batches] != [list(batch) for batch in plain]
        drawn = epochs.draw_batches(validation, 8, 0, 0)
        assert np.array_equal(np.concatenate(drawn), np.concatenate(draw_batches(validation, 8, 0, 0)))
    assert epochs.draw_batches is draw_batches
