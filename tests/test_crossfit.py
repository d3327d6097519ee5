"""Cross-fitting: nobody is embedded by a model that saw them, spaces are laid over one another, and jobs may fail."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist

from sepclr_med import crossfitting, explain, load_config, read_manifest, simulate, write_manifest
from sepclr_med.analysis.alignment import align, align_tables
from sepclr_med.analysis.norms import load_norms
from sepclr_med.checkpoint import load_checkpoint
from sepclr_med.cohort import embeddings
from sepclr_med.cohort.crossfolds import Job, assign_crossfolds, assign_site_folds, leave_out
from sepclr_med.cohort.embeddings import (
    embedding_path,
    factor_columns,
    read_embeddings,
    read_replicates,
    write_embeddings,
)
from sepclr_med.crossfitting import cross_fit, plan_cross_fit
from sepclr_med.embedding import embed
from sepclr_med.ensembles import embed_cross_fitted
from sepclr_med.errors import ConfigError, ManifestError, PreemptedError, RunError
from sepclr_med.new_participants import SITE_FILE, embed_new
from sepclr_med.onboarding import FEWEST_CONTROLS
from sepclr_med.provenance import record_step
from sepclr_med.report.collect import collect_run
from sepclr_med.report.not_run import find_not_run
from sepclr_med.rundir import RunDir
from sepclr_med.standing import find_standing
from sepclr_med.volumes import loading
from sepclr_med.volumes.journal import Journal

SMALL = [
    "volumes.spacing=12",
    "network.backbone=small",
    "training.epochs=2",
    "training.batch_size=8",
    "volumes.normative.folds=2",
    "method.common_dim=4",
    "method.salient_dim=4",
    "evaluation.voxel_pca_components=4",
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    table = simulate(folder, n_train=54, n_test=6, spacing=12.0, seed=2)
    # Two sessions of one participant, and a family.
    again = table[table["participant_id"] == "sub-0003"].assign(session_id="ses-02")
    image = again["image_path"].iloc[0]
    again["image_path"] = shutil.copy(image, image.replace(".nii.gz", "_again.nii.gz"))
    table = pd.concat([table.assign(session_id="ses-01"), again], ignore_index=True)
    table["family_id"] = None
    related = table.index[(table["site"] == "site1") & (table["split"] == "train")][2:4]
    table.loc[related, "family_id"] = "f1"
    return table


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossfit") / "run"
    cross_fit(cohort, load_config(overrides=SMALL), folder, n_folds=3, n_seeds=2, jobs=2)
    embed_cross_fitted(folder)
    return folder


# Whom a model sees.


def test_sessions_and_families_are_left_out_together_and_test_rows_take_no_part(cohort):
    rows = assign_crossfolds(cohort, 3, ["diagnosis", "site"])
    assert len(rows) == 55
    assert rows["fold"].notna().all()
    assert rows.groupby("participant_id")["fold"].nunique().max() == 1
    assert len(set(rows.loc[rows["family_id"] == "f1", "fold"])) == 1
    for fold in "012":
        parts = leave_out(rows, fold)
        assert set(parts.loc[parts["split"] == "test", "participant_id"]) == set(
            rows.loc[rows["fold"] == fold, "participant_id"]
        )
        assert set(parts["split"]) == {"train", "test"}
        counts = parts[parts["split"] == "test"].drop_duplicates("participant_id")["diagnosis"].value_counts()
        assert counts.max() - counts.min() <= 2


def test_folds_of_the_manifest_are_kept_and_others_refused(cohort):
    own = cohort.assign(fold=np.where(cohort["participant_id"] < "sub-0030", "a", "b"))
    assert assign_crossfolds(own, 2, [])["fold"].tolist() == own.loc[own["split"] != "test", "fold"].tolist()
    with pytest.raises(ConfigError, match=r"2 folds, 0 images without.*--folds 2"):
        assign_crossfolds(own, 3, [])


def test_folds_of_the_manifest_that_part_a_family_are_refused(cohort, tmp_path):
    own = cohort.assign(fold=pd.Categorical(cohort["participant_id"]).codes % 3)
    one, other = own.index[own["family_id"] == "f1"]
    own["fold"] = own["fold"].astype(str)
    own.loc[one, "fold"], own.loc[other, "fold"] = "0", "1"
    with pytest.raises(ManifestError, match="family is in several folds"):
        plan_cross_fit(own, load_config(overrides=SMALL), tmp_path / "run", 3)


def move_to_the_test_part(cohort, whose):
    """Give the test part a relative, or another session, of somebody who stays outside it."""
    moved = cohort["family_id"].eq("f1") if whose == "family" else cohort["session_id"].eq("ses-02")
    return cohort.assign(split=cohort["split"].mask(moved & ~moved.duplicated(), "test"))


@pytest.mark.parametrize("whose", ["family", "participant"])
@pytest.mark.parametrize("words", [("--folds", 3), ("--folds", 3, "--plan-only"), ("--leave-site-out",)])
def test_a_test_part_with_relatives_or_sessions_of_those_trained_on_is_refused_in_the_words_of_fit(
    cohort, tmp_path, run_verb, whose, words
):
    table = write_manifest(move_to_the_test_part(cohort, whose), tmp_path / "manifest.tsv")
    settings = [f"--set={setting}" for setting in (*SMALL, "volumes.normative.covariates=[age,sex,tiv]")]
    plain, crossed = (run_verb("fit", table, tmp_path / "run", *how, *settings) for how in ((), words))
    assert (plain[0], crossed[0]) == (1, 1)
    assert f"{whose} is in several splits" in plain[2]
    assert crossed[2].partition("error:")[2] == plain[2].partition("error:")[2]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["val", None])
def test_whoever_is_not_in_the_test_part_is_trained_on_and_has_no_relatives_there(cohort, tmp_path, part):
    mixed = move_to_the_test_part(cohort, "family")
    mixed.loc[mixed["family_id"].eq("f1") & mixed["split"].ne("test"), "split"] = part
    with pytest.raises(ManifestError, match="family is in several splits"):
        plan_cross_fit(mixed, load_config(overrides=SMALL), tmp_path / "run", 3)
    # Between train and val nothing is asked: the cross-fit has parts of its own.
    kept = cohort.copy()
    kept.loc[kept.index[kept["family_id"].eq("f1")][0], "split"] = part
    assert len(plan_cross_fit(kept, load_config(overrides=SMALL), tmp_path / "run", 3, 1)) == 3


def test_sites_are_left_out_whole_and_families_across_sites_refused(cohort):
    rows = assign_site_folds(cohort)
    assert (rows["fold"] == rows["site"]).all()
    moved = cohort.copy()
    one, other = moved.loc[moved["family_id"] == "f1", "participant_id"]
    moved.loc[moved["participant_id"] == other, "site"] = "site2"
    with pytest.raises(ManifestError, match=one) as caught:
        assign_site_folds(moved)
    assert other in str(caught.value)
    with pytest.raises(ManifestError, match="fewer than two sites"):
        assign_site_folds(cohort.assign(site="A"))


def test_a_site_that_the_reference_could_not_render_is_refused_before_anything_is_written(cohort, tmp_path):
    with pytest.raises(ConfigError, match=r"volumes.normative.covariates=\[age,sex,tiv\]"):
        plan_cross_fit(cohort, load_config(overrides=SMALL), tmp_path / "run", n_folds=None)
    assert not (tmp_path / "run").exists()


def test_left_out_whole_a_site_is_embedded_by_the_model_that_never_saw_it_also_without_controls(
    cohort, tmp_path, run_verb
):
    patients_only = cohort[(cohort["site"] != "site3") | (cohort["diagnosis"] == "patient")].reset_index(drop=True)
    own = patients_only[patients_only["split"] != "test"]
    table, run = write_manifest(patients_only, tmp_path / "manifest.tsv"), tmp_path / "run"
    settings = [*SMALL, "network.width=2", "training.epochs=1", "volumes.normative.covariates=[age,sex,tiv]"]
    words = [word for setting in settings for word in ("--set", setting)]
    code, planned, err = run_verb("fit", table, run, "--leave-site-out", "--seeds", 1, "--plan-only", *words)
    assert code == 0, err
    # Here and not in processes of their own, which would take longer to begin than to train.
    for command in [*map(shlex.split, planned.splitlines()), ["sepclr-med", "embed", run]]:
        code, _, err = run_verb(*command[1:])
        assert code == 0, err
    found = read_embeddings(run / "embeddings")["salient"]
    assert found["participant_id"].tolist() == own["participant_id"].tolist()
    assert found["fold"].tolist() == own["site"].tolist()
    factors = factor_columns(found)
    assert found[factors].notna().all(axis=None)
    for site in ("site1", "site2", "site3"):
        model = run / "models" / Job(site, 0).name
        used = read_manifest(model / "data" / "train.tsv")
        assert site not in set(used["site"])
        assert set(used["participant_id"]) == set(own.loc[own["site"] != site, "participant_id"])
    # Laying spaces over one another turns and stretches them: which model embedded a site is seen by its distances.
    theirs = embed(model, own[own["site"] == site].reset_index(drop=True), tmp_path / site)["salient"]
    distances = pdist(found.loc[found["fold"] == site, factors]), pdist(theirs[factors])
    assert np.corrcoef(*distances)[0, 1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n_folds", [2, None])
def test_two_folds_share_nobody_and_are_refused(cohort, tmp_path, n_folds):
    two = cohort[cohort["site"] != "site3"] if n_folds is None else cohort
    plain = load_config(overrides=[*SMALL, "method.name=sepclr_paper"])
    with pytest.raises(ConfigError, match='"2 folds"; allowed: 3 or more'):
        plan_cross_fit(two, plain, tmp_path / "run", n_folds=n_folds)
    assert not (tmp_path / "run").exists()


def test_folds_whose_folders_would_be_one_are_refused(cohort, tmp_path):
    own = cohort.assign(fold=np.array(["a b", "a/b", "c"])[np.arange(len(cohort)) % 3])
    own["fold"] = own.groupby("participant_id")["fold"].transform("first")
    with pytest.raises(ConfigError, match="a b, a/b"):
        plan_cross_fit(own, load_config(overrides=SMALL), tmp_path / "run", 3)


@pytest.mark.parametrize("n_folds", [3, None])
def test_names_with_points_have_files_of_their_own(cohort, tmp_path, n_folds):
    names = ["0.0", "1.0", "2.0"] if n_folds else ["GE-1.5T", "GE-1.0T", "b.2"]
    number = cohort["site"].rank(method="dense").astype(int) - 1
    rows = cohort.assign(**{"fold" if n_folds else "site": number.map(names.__getitem__)})
    plain = load_config(overrides=[*SMALL, "method.name=sepclr_paper"])
    run = RunDir(tmp_path / "a run")
    jobs = plan_cross_fit(rows, plain, run.path, n_folds, n_seeds=2)
    assert len({job.name for job in jobs}) == 6
    for job in jobs:
        parts = read_manifest(run.job_file(job.name, ".tsv"))
        assert set(parts.loc[parts["split"] == "test", "fold"]) == {job.fold}
        assert load_config(run.job_file(job.name, ".yaml")).training.seed == job.seed


def test_a_planned_cross_fit_is_described_as_such_and_a_trained_one_is_not_trained_again(cohort, tmp_path):
    run = RunDir(tmp_path / "a run")
    jobs = plan_cross_fit(cohort, load_config(overrides=SMALL), run.path, 3, n_seeds=2)
    command = f"fit MANIFEST '{run.path}' --config '{run.path}'/config.yaml --folds 3 --seeds 2"
    assert plan_cross_fit(cohort, load_config(run.config), run.path, 3, n_seeds=2) == jobs
    for done, job in enumerate(jobs):
        standing = find_standing(run.path)
        assert ("not run", f"training of {6 - done} of 6 models") in standing.facts
        assert standing.follows == f"sepclr-med {command}"
        started = datetime.now(timezone.utc)
        record_step(RunDir(run.job(job.name)).provenance, "fit", started, {})
        record_step(run.provenance, "fit", started, {"failed": {} if done == 5 else {jobs[-1].name: "died"}})
    standing = find_standing(run.path)
    ended = [found.partition(" 2")[0] for what, found in standing.facts if what == "fit"]
    assert ended == [*5 * ["in part failed"], "done"]
    assert standing.follows == f"sepclr-med embed '{run.path}'"
    assert not [entry for entry in find_not_run(collect_run(run.path)) if "training" in entry["name"]]


def test_settings_that_weights_do_not_depend_on_may_change_for_the_jobs_that_are_left(cohort, tmp_path):
    run = RunDir(tmp_path / "run")
    for settings, wanted in (([], None), (["training.micro_batch=4"], 4)):
        jobs = plan_cross_fit(cohort, load_config(overrides=[*SMALL, *settings]), run.path, 3, n_seeds=1)
        recipes = [load_config(run.job_file(job.name, ".yaml")) for job in jobs]
        assert [recipe.training.micro_batch for recipe in recipes] == [wanted] * 3


@pytest.mark.parametrize("make", [embed, embed_cross_fitted, embed_new])
def test_new_images_never_take_the_place_of_the_runs_own_embeddings(cohort, tmp_path, make):
    with pytest.raises(RunError, match="is for the run's own cohort"):
        make(tmp_path / "run", cohort, tmp_path / "elsewhere" / ".." / "run" / "embeddings")


# Spaces laid over one another.


def test_alignment_undoes_rotation_reflection_shift_and_size_and_does_not_shrink_what_agrees_badly():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(40, 3)) * [3, 2, 1]
    turned = 0.2 * reference @ np.linalg.qr(rng.normal(size=(3, 3)))[0] * [1, 1, -1] + [5, 0, 1]
    np.testing.assert_allclose(align(turned, reference)(turned), reference, atol=1e-9)
    noise = rng.normal(size=(40, 3))
    moved = align(noise, reference)(noise)
    assert np.linalg.norm(moved - moved.mean(axis=0)) == pytest.approx(
        np.linalg.norm(reference - reference.mean(axis=0))
    )
    np.testing.assert_allclose(moved.mean(axis=0), reference.mean(axis=0), atol=1e-9)


def test_only_rows_that_both_models_were_trained_on_lay_spaces_over_one_another():
    rng = np.random.default_rng(1)
    ids = [f"{i:02}" for i in range(30)]
    reference = pd.DataFrame(rng.normal(size=(30, 2)), columns=["salient_000", "salient_001"])
    ours = -2 * reference
    ours.iloc[20:] = 1000.0
    first = reference.assign(participant_id=ids, session_id=None, split=["test"] * 5 + ["train"] * 25)
    second = ours.assign(participant_id=ids, session_id=None, split=["train"] * 20 + ["test"] * 10)
    # Other rows, in another order, change nothing.
    found = align_tables({"salient": second.sample(frac=1, random_state=0)}, {"salient": first})["salient"]
    np.testing.assert_allclose(found(ours.to_numpy()[:20]), reference.to_numpy()[:20], atol=1e-9)


# Faults.


def wait_for(path, process):
    while process.poll() is None and not path.is_file():
        time.sleep(0.05)


def wait_until(holds):
    latest = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_told_to_stop_the_models_in_training_are_saved_and_the_code_is_that_of_requeueing(cohort, tmp_path, number):
    run, table = tmp_path / "run", write_manifest(cohort, tmp_path / "manifest.tsv")
    sets = [word for setting in [*SMALL, "training.epochs=2000", "training.threads=1"] for word in ("--set", setting)]
    command = [sys.executable, "-m", "sepclr_med", "fit", str(table), str(run), "--folds", "3", "--seeds", "1"]
    process = subprocess.Popen([*command, *sets], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    state = run / "models" / "fold-0_seed-0" / "checkpoints" / "last.json"
    wait_for(state, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 75, said
    assert "stopped: told to stop; the same command goes on from there" in said
    assert "Traceback" not in said
    facts = load_checkpoint(state.with_suffix(".safetensors"))[1]
    assert 0 < facts["epoch"] < 2000
    assert "told to stop" in (run / "logs" / "fold-0_seed-0.log").read_text()
    assert sorted(path.name for path in (run / "models").iterdir() if path.is_dir()) == ["fold-0_seed-0"]
    assert not list(run.glob("**/.working.json"))


@pytest.mark.parametrize(
    ("where", "name"), [(crossfitting, "cache_volumes"), (loading.LoadImage, "__call__"), (Journal, "append")]
)
def test_told_to_stop_while_preprocessing_a_cross_fit_stops_at_once(cohort, tmp_path, signal_after, where, name):
    # With one thread images are read in the one that hears signals: an image must not be blamed, nor the disk.
    config = load_config(overrides=[*SMALL, "volumes.n_jobs=1"])
    handlers = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)]
    signal_after(where, name)
    with pytest.raises(PreemptedError, match=r"^told to stop; the same command goes on"):
        cross_fit(cohort, config, tmp_path / "run", n_folds=3, n_seeds=1)
    assert not list((tmp_path / "run").glob("models/*/"))
    assert handlers == [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)]


def test_told_to_stop_while_only_planning_the_code_is_that_of_requeueing(cohort, tmp_path, monkeypatch, run_verb):
    table, words = write_manifest(cohort, tmp_path / "manifest.tsv"), [f"--set={setting}" for setting in SMALL]
    with monkeypatch.context() as patched:
        patched.setattr(crossfitting, "cache_volumes", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
        code, planned, err = run_verb("fit", table, tmp_path / "run", "--folds", 3, "--plan-only", *words)
    assert (code, planned) == (75, "")
    assert "stopped: told to stop; the same command goes on" in err


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_the_same_command_ends_with_the_same_embeddings(cohort, tmp_path, signal_number):
    config = load_config(overrides=[*SMALL, "training.epochs=20", "training.threads=1"])
    table = write_manifest(cohort, tmp_path / "manifest.tsv")
    sets = [word for setting in [*SMALL, "training.epochs=20", "training.threads=1"] for word in ("--set", setting)]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "sepclr_med", "fit", str(table), str(run), "--folds", "3", "--seeds", "1"]
    process = subprocess.Popen([*command, "--jobs", "2", *sets], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    state = run / "models" / "fold-0_seed-0" / "checkpoints" / "last.json"
    wait_for(state, process)
    with pytest.raises(RunError, match=rf"process {process.pid} on .* is working there"):
        cross_fit(cohort, config, run, 3, 1)
    process.send_signal(signal_number)
    _, said = process.communicate(timeout=100)
    if signal_number == signal.SIGTERM:
        assert process.returncode == 75, said
    assert b"Traceback" not in said
    assert 0 < json.loads(state.read_text())["epoch"] < 20
    # Models whose parent was killed go on alone; told to stop they have stopped.
    while signal_number == signal.SIGKILL and list(run.glob("models/*/.working.json")):
        time.sleep(0.5)
    assert not list(run.glob("models/*/.working.json"))
    whole = tmp_path / "whole"
    for folder in (run, whole):
        cross_fit(read_manifest(table), config, folder, 3, 1, jobs=2)
        embed_cross_fitted(folder)
    ours, theirs = (read_embeddings(folder / "embeddings")["salient"] for folder in (run, whole))
    np.testing.assert_allclose(ours[factor_columns(ours)], theirs[factor_columns(ours)], atol=1e-5)


# The whole.


def test_every_image_is_embedded_once_by_models_that_never_saw_its_participant(cohort, run):
    tables = read_embeddings(run / "embeddings")
    assert set(tables) == {"common", "salient", "voxel_pca"}
    own = cohort[cohort["split"] != "test"]
    for table in tables.values():
        assert table["participant_id"].tolist() == own["participant_id"].tolist()
        assert table["session_id"].tolist() == own["session_id"].tolist()
        assert (table["split"] == "test").all()
        assert table[factor_columns(table)].notna().all(axis=None)
        assert len(set(table["model_id"])) == 1
    fold_of = tables["salient"].set_index("participant_id")["fold"]
    for fold in "012":
        for seed in (0, 1):
            seen = read_manifest(run / "models" / Job(fold, seed).name / "data" / "train.tsv")["participant_id"]
            assert not set(seen) & set(fold_of[fold_of == fold].index)
            assert set(seen) == set(fold_of[fold_of != fold].index)


def test_the_mean_is_that_of_aligned_models_and_the_spread_their_standard_deviation(run):
    tables = [read_embeddings(run / "embeddings" / f"seed-{seed}")["salient"] for seed in (0, 1)]
    mean = read_embeddings(run / "embeddings")["salient"]
    factors = factor_columns(mean)
    ids = ["participant_id", "session_id"]
    one, two = (table.set_index(ids)[factors] for table in tables)
    np.testing.assert_allclose(
        mean.set_index(ids)[factors],
        (one + two.loc[one.index]).loc[mean.set_index(ids).index] / 2,
        rtol=1e-4,
        atol=1e-6,
    )
    spread = pd.read_csv(run / "embeddings" / "desc-salient_spread.tsv", sep="\t", dtype={"participant_id": str})
    assert (spread["n_models"] == 2).all()
    found = spread.set_index(ids)[factors].loc[one.index]
    np.testing.assert_allclose(found, (one - two.loc[one.index]).abs() / np.sqrt(2), rtol=1e-3, atol=1e-5)


def test_the_same_call_trains_nothing_again_and_repeats_only_what_is_missing(cohort, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = load_config(overrides=SMALL)
    whole = {
        job.name: (RunDir(copy / "models" / job.name).checkpoint().stat().st_mtime_ns)
        for job in plan_cross_fit(cohort, config, copy, 3, 2)
    }
    gone = copy / "models" / "fold-1_seed-1"
    before = load_checkpoint(RunDir(gone).checkpoint())[1]["model_id"]
    shutil.rmtree(gone)
    said = []
    cross_fit(cohort, config, copy, 3, 2, jobs=2, say=said.append)
    assert said == ["fold-1_seed-1: done"]
    assert load_checkpoint(RunDir(gone).checkpoint())[1]["model_id"] == before
    for name, stamp in whole.items():
        if name != gone.name:
            assert RunDir(copy / "models" / name).checkpoint().stat().st_mtime_ns == stamp


def test_other_settings_are_refused_and_more_seeds_are_added(cohort, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with pytest.raises(RunError, match=r"training\.epochs: 2 -> 3"):
        plan_cross_fit(cohort, load_config(overrides=[*SMALL, "training.epochs=3"]), copy, 3, 2)
    with pytest.raises(RunError):
        plan_cross_fit(cohort, load_config(overrides=SMALL), copy, 4, 2)
    assert len(plan_cross_fit(cohort, load_config(overrides=SMALL), copy, 3, 3)) == 9
    # Fewer seeds later forget none.
    plan_cross_fit(cohort, load_config(overrides=SMALL), copy, 3, 1)
    assert json.loads((copy / "crossfit.json").read_text())["seeds"] == [0, 1, 2]


def test_a_model_that_fails_is_named_with_its_last_word_and_the_others_are_kept(cohort, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = load_config(overrides=SMALL)
    for name in ("fold-0_seed-0", "fold-2_seed-1"):
        shutil.rmtree(copy / "models" / name)
    # A file where the run folder should be.
    (copy / "models" / "fold-0_seed-0").write_text("")
    with pytest.raises(RunError, match=r"1 of 6 models failed.*\n  fold-0_seed-0: .*is a file, not a folder"):
        cross_fit(cohort, config, copy, 3, 2)
    assert RunDir(copy / "models" / "fold-2_seed-1").checkpoint().is_file()
    # What there is of each fold is still enough to embed everyone.
    shutil.rmtree(copy / "embeddings")
    tables = embed_cross_fitted(copy)
    assert len(tables["salient"]) == 55
    sidecar = json.loads((copy / "embeddings" / "desc-salient_embedding.json").read_text())
    assert "fold-0_seed-0" not in sidecar["Models"]
    shutil.rmtree(copy / "models" / "fold-0_seed-1")
    with pytest.raises(RunError, match="no finished model of fold 0"):
        embed_cross_fitted(copy)


def test_a_model_that_is_told_to_stop_alone_has_failed_and_the_others_go_on(cohort, run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    begun = []
    for name in ("fold-0_seed-0", "fold-2_seed-1"):
        shutil.rmtree(copy / "models" / name)

    def train(run, job, *others):
        begun.append(job.name)
        return (75, "told to stop") if job.name == "fold-0_seed-0" else (0, "")

    monkeypatch.setattr(crossfitting, "_train_apart", train)
    with pytest.raises(RunError, match=r"1 of 6 models failed.*\n  fold-0_seed-0: told to stop") as caught:
        cross_fit(cohort, load_config(overrides=SMALL), copy, 3, 2)
    assert caught.value.exit_code == 1
    assert begun == ["fold-0_seed-0", "fold-2_seed-1"]


@pytest.fixture
def one_to_train(run, tmp_path):
    """Give the names of a cross-fit that lacks one model: its folder, its log, and the file that says who trains it."""
    copy, name = tmp_path / "run", "fold-0_seed-0"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "models" / name)
    return copy, copy / "logs" / f"{name}.log", copy / "models" / name / ".working.json"


@pytest.mark.slow
def test_a_model_whose_parent_was_killed_goes_on_and_the_same_command_names_it_and_leaves_its_log(
    cohort, one_to_train, tmp_path
):
    run, log, working = one_to_train
    log.write_text("an earlier attempt\n")
    table, config = write_manifest(cohort, tmp_path / "manifest.tsv"), load_config(overrides=SMALL)
    command = [sys.executable, "-m", "sepclr_med", "fit", str(table), str(run), "--folds", "3", "--seeds", "2"]
    with open(tmp_path / "parent.log", "w") as said:
        parent = subprocess.Popen([*command, *(f"--set={setting}" for setting in SMALL)], stdout=said, stderr=said)
    wait_for(working, parent)
    orphan = json.loads(working.read_text())["process"]
    # Held, so that it is still training however long the others take.
    os.kill(orphan, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    try:
        there = (
            rf"\n  fold-0_seed-0: \S+fold-0_seed-0: process {orphan} on .* is working there; wait for it, or stop it$"
        )
        with pytest.raises(RunError, match=rf"1 of 6 models failed.*{there}"):
            cross_fit(read_manifest(table), config, run, 3, 2)
    finally:
        os.kill(orphan, signal.SIGCONT)
    wait_until(lambda: "trained for 2 epochs" in log.read_text())
    first, *others = log.read_text().splitlines()
    assert first == "an earlier attempt"
    assert any(f"process {orphan} on" in line and "is working there" in line for line in others)
    assert others[-1].startswith("trained for 2 epochs")
    assert "\0" not in log.read_text()
    said = []
    cross_fit(read_manifest(table), config, run, 3, 2, say=said.append)
    assert not said


def test_a_model_that_is_killed_is_told_apart_with_advice_that_can_be_followed(cohort, one_to_train):
    run, log, working = one_to_train

    def kill():
        wait_until(working.exists)
        os.kill(json.loads(working.read_text())["process"], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    advice = "most likely because memory ran out: fewer --jobs, or --set training.micro_batch=N"
    with pytest.raises(RunError) as caught:
        cross_fit(cohort, load_config(overrides=SMALL), run, 3, 2)
    killer.join()
    assert str(caught.value).splitlines()[1:] == [f"  fold-0_seed-0: killed from outside, {advice} ({log})"]
    said = []
    cross_fit(cohort, load_config(overrides=[*SMALL, "training.micro_batch=4"]), run, 3, 2, say=said.append)
    assert said == ["fold-0_seed-0: done"]
    assert "ended without a word" in log.read_text()


def test_axes_stay_those_of_the_first_embedding_when_a_model_is_repaired(cohort, run, tmp_path, caplog):
    copy, aside = tmp_path / "run", tmp_path / "aside"
    shutil.copytree(run, copy)

    def reference():
        return json.loads((copy / "crossfit.json").read_text())["reference"]["model"]

    def embed_again(new=None):
        caplog.clear()
        embed_cross_fitted(copy, new, tmp_path / "new" if new is not None else None)
        return json.loads((copy / "embeddings" / "desc-salient_embedding.json").read_text())["Reference"]

    assert reference() == "fold-0_seed-0"
    shutil.move(copy / "models" / "fold-0_seed-0", aside)
    # New images are told of it, and the record waits for the cohort.
    embed_again(cohort[cohort["split"] == "test"])
    assert "fold-0_seed-0, over which all models were laid, is gone" in caplog.text
    assert reference() == "fold-0_seed-0"
    assert embed_again() == reference() == "fold-1_seed-0"
    assert "factors are other axes" in caplog.text
    shutil.move(aside, copy / "models" / "fold-0_seed-0")
    plan_cross_fit(cohort, load_config(overrides=SMALL), copy, 3, 2)
    assert embed_again() == reference() == "fold-1_seed-0"
    assert not caplog.text
    plan = json.loads((copy / "crossfit.json").read_text())
    plan["reference"]["model_id"] = "another"
    (copy / "crossfit.json").write_text(json.dumps(plan))
    assert embed_again() == "fold-1_seed-0"
    assert "was trained anew" in caplog.text


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_seed_that_is_no_longer_whole_leaves_nothing_behind_that_could_be_compared(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    folder = copy / "embeddings"
    write_embeddings({"canonical": read_embeddings(folder)["salient"]}, folder, {})
    (folder / "seed-of-mine").mkdir()
    shutil.rmtree(copy / "models" / "fold-0_seed-0")
    seed_1 = read_embeddings(folder / "seed-1")["salient"]
    embed_cross_fitted(copy)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["seed-1", "seed-of-mine", "seen"]
    assert not embedding_path(folder, "canonical").exists()
    assert list(read_replicates(folder)) == ["folds"]
    # The model over which all were laid is gone: what is left lies on other axes, the replicates with the rest.
    now = read_embeddings(folder / "seed-1")["salient"]
    factors = factor_columns(now)
    assert not np.allclose(now[factors], seed_1[factors])
    # What cannot be embedded loses nothing.
    before = contents(folder)
    shutil.rmtree(copy / "models" / "fold-0_seed-1")
    with pytest.raises(RunError, match="no finished model of fold 0"):
        embed_cross_fitted(copy)
    assert contents(folder) == before


def test_embeddings_of_two_runs_of_embed_are_not_compared_wherever_the_second_was_killed(run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    plan = json.loads((copy / "crossfit.json").read_text())
    name = {"model": "fold-1_seed-1"}
    other = read_embeddings(copy / "models" / name["model"] / "embeddings")["salient"]["model_id"].iloc[0]
    (copy / "crossfit.json").write_text(json.dumps(plan | {"reference": name | {"model_id": other}}))
    before, after = contents(copy / "embeddings"), None
    refused = []
    for last in (0, 3, 10, 19, 31, 99):
        shutil.rmtree(copy / "embeddings")
        shutil.copytree(run / "embeddings", copy / "embeddings")
        writes = iter(range(last))

        def write(*words, make=embeddings.write_table, writes=writes):
            if next(writes, None) is None:
                raise KeyboardInterrupt
            return make(*words)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            for kind in ("write_table", "write_json"):
                patched.setattr(embeddings, kind, partial(write, make=getattr(embeddings, kind)))
            embed_cross_fitted(copy)
            after = contents(copy / "embeddings")
        try:
            seeds = read_replicates(copy / "embeddings")["seeds"]
        except RunError as error:
            refused.append(str(error))
            continue
        ids, mean = ["participant_id", "session_id"], read_embeddings(copy / "embeddings")
        for space in ("common", "salient"):
            tables = [each[space].set_index(ids)[factor_columns(each[space])] for each in (*seeds, mean)]
            np.testing.assert_allclose((tables[0] + tables[1].loc[tables[0].index]) / 2,
                                       tables[2].loc[tables[0].index], rtol=1e-4, atol=1e-6)  # fmt: skip
    assert len(refused) == 4
    assert all(f"run `sepclr-med embed {copy}` again" in said for said in refused)
    assert after is not None
    assert after.keys() == before.keys()


def test_each_model_gets_one_of_the_gpus_that_may_be_seen_by_turns(monkeypatch):
    for n, visible, wanted in (
        (0, None, [None] * 3),
        (1, "3", [None] * 3),
        (2, None, ["0", "1", "0"]),
        (2, "5,7", ["5", "7", "5"]),
    ):
        monkeypatch.setattr("torch.cuda.device_count", lambda n=n: n)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [crossfitting._gpu(index) for index in range(3)] == wanted


def test_new_images_get_the_mean_of_all_models(cohort, run, tmp_path):
    new = cohort[cohort["split"] == "test"]
    tables = embed_cross_fitted(run, new, tmp_path / "new")
    assert tables["salient"]["participant_id"].tolist() == new["participant_id"].tolist()
    spread = pd.read_csv(tmp_path / "new" / "desc-salient_spread.tsv", sep="\t")
    assert (spread["n_models"] == 6).all()
    assert tables["salient"]["split"].isna().all()
    # An image of the cohort, asked for as if it were new, is not what models that held it out say.
    own = cohort[cohort["split"] == "train"].iloc[:3]
    again = embed_cross_fitted(run, own, tmp_path / "again")["voxel_pca"]
    assert (again["split"] == "train").all()
    assert not list((run / "models").glob("*/new"))
    alone = embed(run / "models" / "fold-0_seed-0", own, tmp_path / "alone")["voxel_pca"]
    assert not np.allclose(again[factor_columns(again)], alone[factor_columns(alone)])


def test_new_people_of_a_new_site_are_placed_among_those_embedded_out_of_fold(cohort, run, tmp_path):
    people = cohort[cohort["split"] == "train"].drop(columns=["split", "family_id"])
    parts = [people[people["diagnosis"] == name].head(n) for name, n in (("control", FEWEST_CONTROLS), ("patient", 2))]
    new = pd.concat(parts, ignore_index=True).assign(site="elsewhere")
    new["participant_id"] = "new-" + new["participant_id"]
    found = embed_new(run, new, tmp_path / "out", onboard_site=True)
    salient = found.percentiles[found.percentiles["space"] == "salient"]
    assert set(salient["norm_part"]) == {"held-out"}
    assert (salient["models_low"] <= salient["percentile"]).all()
    assert (salient["percentile"] <= salient["models_high"]).all()
    assert (salient["value_low"] < salient["value_high"]).all()
    norms = load_norms(RunDir(run))
    assert norms.n_calibration == people["participant_id"].nunique()
    assert "never saw them" in found.notes[1]
    state = json.loads((tmp_path / "out" / SITE_FILE).with_suffix(".json").read_text())
    assert {entry["model"] for entry in state["effects"]} == {path.name for path in (run / "models").glob("*/")}
    again = embed_new(run, new, tmp_path / "again", site_effect=tmp_path / "out" / SITE_FILE)
    ours, theirs = (tables["salient"][factor_columns(tables["salient"])] for tables in (found.tables, again.tables))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_factors_are_mapped_over_everyone_without_a_sensitivity_of_one_encoder(run):
    found = explain(run, factors=["salient_000"], n_permutations=99, tfce=False, n_jobs=1)
    assert found["n"].tolist() == [27]
    assert np.isfinite(found["max_t"]).all()
    assert found["random_correlation"].isna().all()
    assert any("means over several encoders" in note for note in found.attrs["notes"])


def test_from_the_command_line(cohort, run, tmp_path, run_verb):
    table = write_manifest(cohort, tmp_path / "manifest.tsv")
    sets = [word for setting in SMALL for word in ("--set", setting)]
    code, planned, _ = run_verb("fit", table, tmp_path / "a run", "--folds", 3, "--seeds", 1, "--plan-only", *sets)
    lines = [shlex.split(line) for line in planned.splitlines()]
    assert (code, len(lines)) == (0, 3)
    assert lines[0][:2] == ["sepclr-med", "fit"]
    one = subprocess.run([sys.executable, "-m", "sepclr_med", *lines[0][1:]], capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    assert RunDir(tmp_path / "a run" / "models" / "fold-0_seed-0").checkpoint().is_file()
    for words in (("--folds", 3, "--leave-site-out"), ("--seeds", 2)):
        code, _, err = run_verb("fit", table, tmp_path / "other", *words, *sets)
        assert code == 1
        assert "either --folds or --leave-site-out" in err
    code, _, err = run_verb("embed", run, "--checkpoint", "best")
    assert code == 1
    assert "is a cross-fit" in err
    code, out, _ = run_verb("embed", run)
    assert code == 0
    assert "55 images" in out
