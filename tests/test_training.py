import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import sepclr_med.training
from sepclr_med import embed, fit, load_config, read_manifest, simulate
from sepclr_med.checkpoint import load_checkpoint, network_weights
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.curves import draw_progress
from sepclr_med.errors import ManifestError, RunError, VolumeError
from sepclr_med.methods.sepclr import SepCLRObjective
from sepclr_med.rundir import RunDir

SETTINGS = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=6",
    "training.batch_size=8",
    "training.validate_every=2",
    "training.threads=1",
    "method.common_dim=4",
    "method.salient_dim=3",
    "evaluation.voxel_pca_components=5",
    "evaluation.n_bootstrap=20",
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    simulate(folder, n_train=24, n_val=8, n_test=11, spacing=12.0, seed=0)
    return folder / "manifest.tsv"


@pytest.fixture(scope="module")
def config():
    return load_config(overrides=SETTINGS)


@pytest.fixture(scope="module")
def trained(cohort, config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    fit(read_manifest(cohort), config, run)
    embed(run)
    return run


def embeddings_of(run):
    return {
        space: table[factor_columns(table)].to_numpy() for space, table in read_embeddings(run / "embeddings").items()
    }


CHECKPOINTS = ("last", "best", "voxel_pca", "reference", "erasure_last", "erasure_best")


def visible_files(folder):
    """Return every file but locks, which are hidden."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in found if path.name.startswith(".")} <= {".lock", ".provenance.json.lock"}
    return [path for path in found if not path.name.startswith(".")]


def test_a_run_folder_holds_what_it_should_and_no_leftovers(trained):
    names = {path.relative_to(trained).as_posix() for path in visible_files(trained)}
    expected = {
        *("config.yaml", "provenance.json", "history.tsv", "progress.png"),
        *(f"data/{name}.tsv" for name in ("manifest", "train", "val", "test")),
        *("data/manifest.json", "data/seal.json"),
        *(f"checkpoints/{name}.{kind}" for name in CHECKPOINTS for kind in ("safetensors", "json")),
        "checkpoints/previous.safetensors",
        "embeddings/dataset_description.json",
        *(
            f"embeddings/desc-{space}_embedding.{kind}"
            for space in ("common", "salient", "voxelpca", "image")
            for kind in ("tsv", "json")
        ),
    }
    assert names == expected


def test_every_term_is_logged_and_the_objective_falls(trained):
    history = pd.read_csv(trained / "history.tsv", sep="\t", na_values="n/a")
    assert list(history["epoch"]) == list(range(1, 7))
    for term in ("total", "null_salient", "joint_entropy", "salient_norm_background", "gradient_norm"):
        assert np.isfinite(history[f"train_{term}"]).all()
    assert list(history["epoch"][history["val_total"].notna()]) == [2, 4, 6]
    assert history["train_total"].iloc[-1] < history["train_total"].iloc[0]


def test_ids_come_in_the_manifests_order_whatever_the_batch_size(trained, cohort, tmp_path):
    manifest = read_manifest(cohort)
    shuffled = manifest.sample(frac=1, random_state=0).reset_index(drop=True)
    small = embed(trained, shuffled, tmp_path / "a", batch_size=1)["salient"]
    large = embed(trained, shuffled, tmp_path / "b", batch_size=64)["salient"]
    assert list(small["participant_id"]) == list(large["participant_id"]) == list(shuffled["participant_id"])
    np.testing.assert_allclose(small[factor_columns(small)], large[factor_columns(large)], atol=1e-5)
    own = read_embeddings(trained / "embeddings")["salient"].set_index("participant_id")
    again = large.set_index("participant_id").loc[own.index]
    np.testing.assert_allclose(own[factor_columns(large)], again[factor_columns(large)], atol=1e-5)


def test_neither_derivative_nor_checkpoint_names_a_path_of_the_users_disk(trained, cohort):
    for path in [*(trained / "embeddings").iterdir(), *(trained / "checkpoints").iterdir()]:
        text = path.read_bytes().decode(errors="replace")
        assert str(trained) not in text
        assert str(cohort.parent) not in text
    table = pd.read_csv(
        trained / "embeddings" / "desc-salient_embedding.tsv", sep="\t", dtype=str, keep_default_na=False
    )
    expected = [
        "participant_id",
        "session_id",
        "split",
        "fold",
        "model_id",
        "salient_000",
        "salient_001",
        "salient_002",
    ]
    assert list(table.columns) == expected
    assert set(table["session_id"]) == {"n/a"}
    description = json.loads((trained / "embeddings" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"


def test_the_split_of_an_embedding_is_the_runs_own_whatever_a_new_manifest_says(trained, cohort, tmp_path):
    manifest = read_manifest(cohort)
    truth = manifest["split"]
    manifest["split"] = "test"
    manifest.loc[0, "participant_id"] = "sub-stranger"
    table = embed(trained, manifest, tmp_path / "new")["common"]
    assert table["split"].tolist()[1:] == truth.tolist()[1:]
    assert pd.isna(table["split"][0])


def test_a_run_embeds_without_its_training_images(trained, cohort, tmp_path):
    import shutil

    moved = shutil.copytree(trained, tmp_path / "elsewhere" / "run")
    new = simulate(tmp_path / "new_cohort", n_train=0, n_test=4, spacing=12.0, seed=9)
    table = embed(moved, new, tmp_path / "out")["salient"]
    assert len(table) == 4
    assert np.isfinite(table[factor_columns(table)].to_numpy(dtype=float)).all()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, cohort, config, tmp_path):
    again = fit(read_manifest(cohort), config, tmp_path / "again")
    other = load_config(overrides=[*SETTINGS, "training.seed=1"])
    fit(read_manifest(cohort), other, tmp_path / "other")
    first, second, third = (
        network_weights(load_checkpoint(RunDir(run).checkpoint())[0]) for run in (trained, again, tmp_path / "other")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    embed(again)
    for name in ("common", "salient", "voxelpca"):
        file = f"embeddings/desc-{name}_embedding.tsv"
        assert (again / file).read_bytes() == (trained / file).read_bytes()
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_a_finished_run_is_left_as_it_is(trained, cohort, config):
    before = {path: path.stat().st_mtime_ns for path in visible_files(trained)}
    fit(read_manifest(cohort), config, trained)
    assert before == {path: path.stat().st_mtime_ns for path in visible_files(trained)}


def test_the_test_rows_have_no_part_in_training(trained, cohort, config, tmp_path):
    """The same run with other test images has the same weights and the same baseline."""
    manifest = read_manifest(cohort)
    without = manifest[manifest["split"] != "test"].reset_index(drop=True)
    fit(without, config, tmp_path / "without")
    for name in ("last", "best", "voxel_pca"):
        ours, _ = load_checkpoint(RunDir(trained).checkpoint(name))
        theirs, _ = load_checkpoint(RunDir(tmp_path / "without").checkpoint(name))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_diagnosis_of_held_out_participants_changes_nothing_of_their_embeddings(trained, cohort, tmp_path):
    manifest = read_manifest(cohort)
    is_test = manifest["split"] == "test"
    other = manifest["diagnosis"].map({"patient": "control", "control": "patient"})
    exchanged = manifest.assign(diagnosis=manifest["diagnosis"].where(~is_test, other))
    found = embed(trained, exchanged, tmp_path / "exchanged")
    for space, ours in embed(trained, manifest, tmp_path / "as_they_are").items():
        np.testing.assert_array_equal(ours[factor_columns(ours)], found[space][factor_columns(ours)])


def test_another_configuration_or_manifest_is_refused_with_the_difference(trained, cohort):
    manifest = read_manifest(cohort)
    with pytest.raises(RunError, match=r"training\.learning_rate: 0\.001 -> 0\.01"):
        fit(manifest, load_config(overrides=[*SETTINGS, "training.learning_rate=0.01"]), trained)
    with pytest.raises(RunError, match="the manifest: participants gone: sub-0001"):
        fit(manifest.iloc[1:], load_config(overrides=SETTINGS), trained)
    older = manifest.assign(age=manifest["age"] + 1)
    with pytest.raises(RunError, match="the manifest: column age has other values"):
        fit(older, load_config(overrides=SETTINGS), trained)
    elsewhere = load_config(overrides=[*SETTINGS, "evaluation.n_bootstrap=7"])
    assert fit(manifest, elsewhere, trained) == trained


def test_a_folder_with_something_else_in_it_is_left_alone(cohort, config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="not a"):
            fit(read_manifest(cohort), config, tmp_path, overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_start_that_was_killed_or_failed_before_training_does_not_lock_the_folder(cohort, config, tmp_path):
    run = RunDir(tmp_path / "run")
    run.part("train").parent.mkdir(parents=True)
    run.part("train").write_text("half")
    manifest = read_manifest(cohort)
    broken = manifest.assign(image_path=[str(tmp_path / "absent.nii.gz"), *manifest["image_path"][1:]])
    with pytest.raises(VolumeError, match="absent"):
        fit(broken, config, run.path)
    one = load_config(overrides=[*SETTINGS, "training.epochs=1"])
    assert len(embed(fit(manifest, one, run.path))["salient"]) == len(manifest)


def test_other_images_under_the_same_names_are_refused_on_resume(cohort, tmp_path):
    import shutil

    copy = shutil.copytree(cohort.parent, tmp_path / "cohort")
    kill_during_training(copy / "manifest.tsv", tmp_path / "run", after_epochs=1)
    manifest = read_manifest(copy / "manifest.tsv")
    shutil.copy(manifest["image_path"][0], manifest["image_path"][1])
    config = load_config(overrides=[*SETTINGS, "training.epochs=40"])
    with pytest.raises(RunError, match="training images are not those"):
        fit(manifest, config, tmp_path / "run")


def test_overwrite_starts_over_and_leaves_the_users_files(cohort, config, tmp_path):
    one = load_config(overrides=[*SETTINGS, "training.epochs=1"])
    fit(read_manifest(cohort), one, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    two = load_config(overrides=[*SETTINGS, "training.epochs=2"])
    fit(read_manifest(cohort), two, tmp_path / "run", overwrite=True)
    assert len(pd.read_csv(tmp_path / "run" / "history.tsv", sep="\t")) == 2
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(cohort, config, tmp_path, monkeypatch):
    manifest, run, forward = read_manifest(cohort), RunDir(tmp_path / "run"), SepCLRObjective.forward

    def spoiled(*arguments):
        terms = forward(*arguments)
        kept = run.checkpoint().with_suffix(".json")
        late = kept.is_file() and json.loads(kept.read_text())["epoch"] >= 2
        return terms._replace(total=terms.total * float("nan")) if late else terms

    with monkeypatch.context() as patched:
        patched.setattr(SepCLRObjective, "forward", spoiled)
        with pytest.raises(RunError, match=r"epoch 3: .*not finite.*epoch 2 is kept"):
            fit(manifest, config, run.path)
    assert_kept_and_goes_on(run, manifest, config, epoch=2)


def assert_kept_and_goes_on(run, manifest, config, epoch):
    tensors, state = load_checkpoint(run.checkpoint())
    assert state["epoch"] == epoch
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    fit(manifest, config, run.path)
    assert len(pd.read_csv(run.history, sep="\t")) == config.training.epochs


# AdamW moves every weight by the learning rate: by 1e30 weights stay finite and losses do not, by 1e39 neither does.
@pytest.mark.parametrize(("rate", "named"), [("1e30", "val_total"), ("1e39", r"tensors of weights \(first [\w.]+\)")])
def test_what_is_no_longer_finite_after_the_last_step_of_an_epoch_is_not_saved(cohort, config, tmp_path, rate, named):
    manifest, run = read_manifest(cohort), RunDir(tmp_path / "run")
    one_step = [*SETTINGS, "training.batch_size=48", "training.warmup=0", "training.validate_every=1"]
    too_fast = load_config(overrides=[*one_step, f"training.learning_rate={rate}"])
    with pytest.raises(RunError, match=f"epoch 1: .*{named}.* not finite, training stopped; nothing was saved"):
        fit(manifest, too_fast, run.path)
    assert not run.checkpoint().exists()
    assert not run.checkpoint("best").exists()


@pytest.mark.parametrize("spoilt", ["validation", "weight"])
def test_a_validation_or_a_weight_that_is_not_finite_keeps_the_last_good_checkpoint(
    cohort, config, tmp_path, monkeypatch, spoilt
):
    manifest, run, whole = read_manifest(cohort), RunDir(tmp_path / "run"), sepclr_med.training.validate

    def validate(tools, cohort):
        row = whole(tools, cohort)
        if not run.checkpoint().is_file():
            return row
        if spoilt == "weight":
            next(tools.network.parameters()).data[0] = float("inf")
            return row
        return row | {"val_total": float("nan")}

    each = load_config(overrides=[*SETTINGS, "training.validate_every=1"])
    with monkeypatch.context() as patched:
        patched.setattr(sepclr_med.training, "validate", validate)
        name = {"validation": "val_total", "weight": r"1 of \d+ tensors of weights \([\w. ]+\)"}[spoilt]
        with pytest.raises(RunError, match=rf"epoch 2: {name} not finite.*epoch 1 is kept"):
            fit(manifest, each, run.path)
    assert_kept_and_goes_on(run, manifest, each, epoch=1)


def test_embedding_an_unfinished_run_is_refused(cohort, config, tmp_path):
    kill_during_training(cohort, tmp_path / "run", after_epochs=1)
    with pytest.raises(RunError, match="training stopped at epoch"):
        embed(tmp_path / "run")


def test_a_manifest_that_cannot_be_trained_on_is_a_message(cohort, config, tmp_path):
    manifest = read_manifest(cohort)
    with pytest.raises(ManifestError, match="sepclr-med split"):
        fit(manifest.drop(columns="split"), config, tmp_path / "a")
    twice = pd.concat([manifest, manifest[manifest["split"] == "train"].iloc[:2].assign(split="test", session_id="2")])
    with pytest.raises(ManifestError, match="several splits"):
        fit(twice.reset_index(drop=True), config, tmp_path / "b")
    few = manifest[(manifest["diagnosis"] == "patient") | (manifest["split"] == "test")]
    with pytest.raises(ManifestError, match="0 background rows"):
        fit(few.reset_index(drop=True), config, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_stop_the_run_or_are_skipped_by_policy(cohort, config, tmp_path, caplog):
    manifest = read_manifest(cohort)
    broken = tmp_path / "broken.nii.gz"
    broken.write_text("not an image")
    manifest.loc[3, "image_path"] = str(broken)
    with pytest.raises(VolumeError, match=r"sub-0004.*" + str(broken).replace("/", ".") + "|broken"):
        fit(manifest, config, tmp_path / "stop")
    skipping = load_config(overrides=[*SETTINGS, "volumes.on_error=skip", "training.epochs=1"])
    run = fit(manifest, skipping, tmp_path / "skip")
    tables = embed(run)
    assert len(tables["salient"]) == len(manifest) - 1
    assert f"1 of {len(manifest)} images skipped" in caplog.text
    assert "broken.nii.gz" in (run / "provenance.json").read_text()


def test_a_full_disk_is_a_message_and_the_same_call_goes_on_elsewhere(cohort, small_disk, tmp_path):
    config = load_config(overrides=[*SETTINGS, f"volumes.cache_dir={tmp_path / 'cache'}", "training.epochs=1"])
    with pytest.raises(RunError, match=r"reference\.safetensors: cannot be written: .*[Nn]o space left"):
        fit(read_manifest(cohort), config, small_disk / "run")
    assert list((small_disk / "run" / "checkpoints").iterdir()) == []
    run = fit(read_manifest(cohort), config, tmp_path / "run")
    with pytest.raises(RunError, match="cannot be written"):
        embed(run, output_dir=fill(small_disk))
    assert not list((small_disk / "out").rglob("*.*"))


def fill(folder):
    with pytest.raises(OSError, match="No space"):
        (folder / "filler").write_bytes(bytes(1_000_000))
    return folder / "out"


def test_a_truncated_checkpoint_is_named(trained, tmp_path):
    path = RunDir(trained).checkpoint()
    cut = tmp_path / "last.safetensors"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RunError, match=r"last\.safetensors: not a readable checkpoint"):
        load_checkpoint(cut)


def kill_during_training(cohort, run, after_epochs, delay=0.0, meanwhile=lambda process: None, threads=1):
    """Start the command line, kill -9 it once the given number of epochs is saved and some seconds later."""
    command = [sys.executable, "-m", "sepclr_med", "fit", str(cohort), str(run)]
    asked = [*SETTINGS, "training.epochs=40", f"training.threads={threads}"]
    settings = [word for setting in asked for word in ("--set", setting)]
    process = subprocess.Popen([*command, *settings], stderr=subprocess.DEVNULL)
    state = run / "checkpoints" / "last.json"
    while process.poll() is None:
        if after_epochs == 0 or (state.is_file() and json.loads(state.read_text())["epoch"] >= after_epochs):
            break
        time.sleep(0.01)
    meanwhile(process)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_embeddings(cohort, tmp_path):
    config = load_config(overrides=[*SETTINGS, "training.epochs=40"])
    manifest = read_manifest(cohort)
    whole = fit(manifest, config, tmp_path / "whole")
    embed(whole)
    rng = np.random.default_rng(0)
    for attempt in range(10):
        run = tmp_path / f"run{attempt}"
        for _ in range(int(rng.integers(1, 3))):
            kill_during_training(cohort, run, int(rng.integers(0, 30)), rng.uniform(0, 0.2))
        fit(manifest, config, run)
        embed(run)
        for space, expected in embeddings_of(whole).items():
            np.testing.assert_array_equal(embeddings_of(run)[space], expected, err_msg=space)


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_once_the_same_command_ends_with_the_same_embeddings(cohort, tmp_path, threads):
    config = load_config(overrides=[*SETTINGS, "training.epochs=40", f"training.threads={threads}"])
    manifest = read_manifest(cohort)

    def another(process):
        with pytest.raises(RunError, match=rf"process {process.pid} on .* is working there"):
            fit(manifest, config, tmp_path / "killed")

    kill_during_training(cohort, tmp_path / "killed", after_epochs=3, delay=0.05, meanwhile=another, threads=threads)
    stopped_at = load_checkpoint(RunDir(tmp_path / "killed").checkpoint())[1]["epoch"]
    assert 3 <= stopped_at < 40
    for name in ("killed", "whole"):
        embed(fit(manifest, config, tmp_path / name))
    ours, theirs = embeddings_of(tmp_path / "killed"), embeddings_of(tmp_path / "whole")
    for space in ours:
        np.testing.assert_array_equal(ours[space], theirs[space], err_msg=space)


def test_the_curves_show_every_panel_also_where_a_method_logs_terms_of_its_own(tmp_path):
    terms = ["total", "common_alignment", "salient_alignment", "joint_entropy", "salient_norm_target", "critic"]
    history = pd.DataFrame({"epoch": [1, 2], "learning_rate": [1e-3, 0], **{f"train_{t}": [2.0, 1.0] for t in terms}})
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
        draw_progress(history, tmp_path / "progress.png")
    titles = [axes.get_title() for axes in drawn[0].axes if axes.get_visible()]
    assert len(titles) == 7
    assert titles[-2:] == ["other terms", "learning rate"]
