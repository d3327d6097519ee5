"""What a machine does to a run: damaged files, memory that runs out, lost processes, a clock that goes backwards."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from sepclr_med import embed, explain, fit, load_config, read_manifest, simulate
from sepclr_med.analysis.evaluation import evaluate_run
from sepclr_med.analysis.linking import link_run
from sepclr_med.checkpoint import load_checkpoint
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.cohort.manifest import write_manifest
from sepclr_med.errors import RunError
from sepclr_med.methods.sepclr import SepCLRObjective
from sepclr_med.occupancy import WHO, working_in
from sepclr_med.pipeline import interpret, run_recipe
from sepclr_med.provenance import record_step
from sepclr_med.report.render import report
from sepclr_med.rundir import RunDir
from sepclr_med.standing import find_standing

SETTINGS = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=6",
    "training.batch_size=8",
    "training.threads=1",
    "method.common_dim=4",
    "method.salient_dim=3",
    "evaluation.voxel_pca_components=5",
]
WORDS = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    simulate(folder, n_train=24, n_val=8, n_test=11, spacing=12.0, seed=0)
    return folder / "manifest.tsv"


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    embed(fit(read_manifest(cohort), load_config(overrides=SETTINGS), run))
    return run


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def salient(run):
    table = read_embeddings(run / "embeddings")["salient"]
    return table[factor_columns(table)].to_numpy()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit_of_the_weights(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


# ---------------------------------------------------------------- checkpoints


def test_the_checkpoint_before_is_the_one_before(trained):
    facts = [load_checkpoint(RunDir(trained).checkpoint(which))[1] for which in ("previous", "last")]
    assert [found["epoch"] for found in facts] == [5, 6]


@pytest.mark.parametrize("damage", [cut, flip_a_bit_of_the_weights, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before_with_the_same_end(cohort, trained, copy, damage, caplog):
    damage(RunDir(copy).checkpoint())
    with pytest.raises(RunError, match=r"last\.safetensors: not a readable checkpoint .* goes on from the checkpoint"):
        embed(copy)
    fit(read_manifest(cohort), load_config(overrides=SETTINGS), copy)
    assert "the checkpoint after epoch 5 takes its place" in caplog.text
    shutil.rmtree(copy / "embeddings")
    embed(copy)
    np.testing.assert_array_equal(salient(copy), salient(trained))
    epochs = pd.read_csv(copy / "history.tsv", sep="\t")["epoch"]
    assert list(epochs) == [1, 2, 3, 4, 5, 6]


def test_where_none_before_can_be_read_it_is_said_what_is_left(cohort, copy):
    run, call = RunDir(copy), lambda: fit(read_manifest(cohort), load_config(overrides=SETTINGS), copy)
    cut(run.checkpoint())
    cut(run.checkpoint("previous"))
    with pytest.raises(RunError, match=r"previous\.safetensors: not a readable checkpoint .* --overwrite"):
        call()
    run.checkpoint("previous").unlink()
    with pytest.raises(RunError, match="there is none before: start over with --overwrite"):
        call()


@pytest.mark.parametrize("name", ["voxel_pca", "reference"])
def test_what_was_fitted_beside_it_is_named_when_damaged_and_made_again_when_deleted(cohort, trained, copy, name):
    path = copy / "checkpoints" / f"{name}.safetensors"
    # Tensors lie in the file until they are copied.
    before = {name: tensor.clone() for name, tensor in load_checkpoint(path)[0].items()}
    flip_a_bit_of_the_weights(path)
    with pytest.raises(RunError, match=rf"{name}\.safetensors: not a readable .* delete it and run the same"):
        embed(copy)
    path.unlink()
    fit(read_manifest(cohort), load_config(overrides=SETTINGS), copy)
    after = load_checkpoint(path)[0]
    for key, tensor in before.items():
        np.testing.assert_array_equal(after[key], tensor, err_msg=key)
    shutil.rmtree(copy / "embeddings")
    embed(copy)
    np.testing.assert_array_equal(salient(copy), salient(trained))


# ---------------------------------------------------------------- the folder


def test_a_folder_that_turns_read_only_in_mid_run_is_a_message_and_the_same_command_ends_the_same(
    cohort, trained, tmp_path, monkeypatch, read_only
):
    manifest, config, run = read_manifest(cohort), load_config(overrides=SETTINGS), RunDir(tmp_path / "run")
    forward = SepCLRObjective.forward
    with ExitStack() as closed, monkeypatch.context() as patched:

        def close_after_two_epochs(*arguments):
            kept = run.checkpoint().with_suffix(".json")
            if os.access(run.path, os.W_OK) and kept.is_file() and json.loads(kept.read_text())["epoch"] == 2:
                closed.enter_context(read_only(run.path))
            return forward(*arguments)

        patched.setattr(SepCLRObjective, "forward", close_after_two_epochs)
        for place in (r"checkpoints/\w+\.safetensors", r"run(/\.working\.json)?"):
            with pytest.raises(RunError, match=place + ": cannot be written: .*, then run the same command again"):
                fit(manifest, config, run.path)
    assert load_checkpoint(run.checkpoint())[1]["epoch"] == 2
    embed(fit(manifest, config, run.path))
    np.testing.assert_array_equal(salient(run.path), salient(trained))


# ---------------------------------------------------------------- processes


def test_a_process_that_ended_without_a_word_is_told_of_by_the_next(tmp_path, caplog):
    with working_in(tmp_path):
        kept = (tmp_path / WHO).read_text()
    assert not caplog.text
    (tmp_path / WHO).write_text(kept)
    with working_in(tmp_path):
        pass
    assert f"process {os.getpid()}" in caplog.text
    assert "memory ran out" in caplog.text


HOLD = """
import sys
from sepclr_med.occupancy import working_in
with working_in(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate("", timeout=60)


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def test_whatever_writes_into_a_run_folder_is_refused_while_another_process_works_there(cohort, copy, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"cohort: {{manifest: {cohort}}}\n")
    verbs = [evaluate_run, link_run, explain, report, interpret, embed, lambda run: run_recipe(recipe, run, SETTINGS)]
    with held_by_another(copy) as process:
        before = files_of(copy)
        for verb in verbs:
            with pytest.raises(RunError, match=rf"process {process.pid} on .* is working there; wait for it, or stop"):
                verb(copy)
        assert files_of(copy) == before
        # What only reads the run goes on, also for several at a time.
        assert find_standing(copy).facts
        assert len(embed(copy, read_manifest(cohort).iloc[:2], tmp_path / "elsewhere")["salient"]) == 2
    assert report(copy).is_file()


def test_of_two_commands_on_one_run_the_second_is_refused_and_the_first_ends_well(copy):
    with start("link", copy, "--permutations", 20000, "--parts", "none", "--over", "all") as first:
        while first.poll() is None and not (copy / WHO).is_file():
            time.sleep(0.02)
        with suspended(first), start("link", copy, "--permutations", 99) as second:
            _, said = second.communicate(timeout=100)
        assert second.returncode == 1
        assert f"process {first.pid} on" in said
        assert "Traceback" not in said
        _, said = first.communicate(timeout=100)
    assert first.returncode == 0, said
    assert json.loads((copy / "analysis" / "link.json").read_text())["settings"]["n_permutations"] == 20000


@contextmanager
def suspended(process):
    """Keep a process from ending before another was refused because of it."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_run_holds_its_folder_for_all_its_steps(cohort, tmp_path):
    recipe, run, refused = tmp_path / "recipe.yaml", tmp_path / "run", []
    recipe.write_text(f"cohort: {{manifest: {cohort}}}\nevaluation: {{explain: 0, n_permutations: 99}}\n")

    def say(text):
        other = subprocess.run(
            [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        refused.append((text.split(":")[0].split(" ->")[0].strip(), f"process {os.getpid()} on" in other.stderr))

    run_recipe(recipe, run, SETTINGS, say=say)
    steps = ("cohort", "check", "split", "fit", "embed", "evaluate", "link")
    assert [(step, True) for step in steps] == [entry for entry in refused if entry[0] in steps]
    assert not (run / WHO).exists()


def test_asked_for_what_is_no_run_nothing_is_left_in_the_folder(tmp_path):
    (tmp_path / "study").mkdir()
    for verb in (evaluate_run, link_run, explain, report, embed):
        with pytest.raises(RunError):
            verb(tmp_path / "study")
        with pytest.raises(RunError):
            verb(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.rglob("*")] == ["study"]


def start(*words, **options):
    command = [sys.executable, "-m", "sepclr_med", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_second_run_is_refused_at_every_step_and_whoever_works_there_may_go_on(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("cohort: {simulate: {n_train: 8, n_val: 0, n_test: 4, spacing: 16.0}}\n")
    with working_in(tmp_path / "run"), working_in(tmp_path / "run"):
        second = start("run", recipe, tmp_path / "run")
        said = second.communicate()[1]
    assert second.returncode == 1
    assert f"process {os.getpid()}" in said
    assert not (tmp_path / "run" / "cohort").exists()


@pytest.mark.slow
def test_memory_that_runs_out_is_a_message_with_advice(cohort, tmp_path):
    script = """
import re, resource, sys
import torch, sepclr_med.training
from sepclr_med.cli import main
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20),) * 2)
main()
"""
    large = ["volumes.spacing=4", "network.width=32", "training.batch_size=24", "volumes.n_jobs=1"]
    words = [*WORDS, *(word for setting in large for word in ("--set", setting))]
    command = [sys.executable, "-c", script, "fit", str(cohort), str(tmp_path / "run"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "error: memory ran out" in done.stderr
    assert "training.micro_batch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / WHO).exists()


@pytest.mark.slow
def test_a_process_lost_from_training_is_a_message_and_the_same_command_goes_on(cohort, trained, tmp_path):
    run = tmp_path / "run"
    many = [*WORDS, "--set", "training.epochs=2000", "--set", "training.devices=2"]
    process = start("fit", cohort, run, *many)
    while not (run / "checkpoints" / "last.json").is_file() and process.poll() is None:
        time.sleep(0.1)
    psutil.Process(process.pid).children()[-1].kill()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert said.count("error: another process of this training was killed") == 1
    assert "Traceback" not in said
    assert load_checkpoint(RunDir(run).checkpoint())[1]["epoch"] >= 1


@pytest.mark.slow
def test_a_worker_killed_while_it_reads_images_is_a_message_with_advice(cohort, tmp_path):
    rows = pd.concat([read_manifest(cohort)] * 40, ignore_index=True)
    rows["participant_id"] = [f"sub-x{number:05}" for number in range(len(rows))]
    for number, image in enumerate(rows["image_path"]):
        os.link(image, tmp_path / f"{number}.nii.gz")
    rows["image_path"] = [f"{number}.nii.gz" for number in range(len(rows))]
    table = write_manifest(rows, tmp_path / "many.tsv")
    process = start("check", table, "--jobs", "2", "--background", "control", "--target", "patient")
    workers = []
    while not workers and process.poll() is None:
        found = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in found if "popen_loky" in " ".join(child.cmdline())]
        time.sleep(0.02)
    workers[0].kill()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1, said
    assert "a process that read images was killed" in said
    assert "Traceback" not in said


# ---------------------------------------------------------------- the clock


def test_images_from_the_future_are_cached_and_seen_to_change(cohort, trained, tmp_path):
    """The clock was set back after the images were written."""
    study = shutil.copytree(cohort.parent, tmp_path / "study")
    later = time.time() + 10_000
    for image in study.rglob("*.nii.gz"):
        os.utime(image, (later, later))
    config = load_config(overrides=SETTINGS)
    run = fit(read_manifest(study / cohort.name), config, tmp_path / "runs" / "run")
    embed(run)
    np.testing.assert_array_equal(salient(run), salient(trained))
    first, second = sorted(study.rglob("*.nii.gz"))[:2]
    first.write_bytes(second.read_bytes())
    os.utime(first, (later, later))
    cut(RunDir(run).checkpoint())
    with pytest.raises(RunError, match="the training images are not those this run began with"):
        fit(read_manifest(study / cohort.name), config, run)


def test_a_clock_that_goes_back_all_the_while_changes_no_number(cohort, trained, tmp_path, monkeypatch):
    class Backwards(datetime):
        calls = itertools.count()

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(hours=next(cls.calls))

    for module in ("training", "embedding", "provenance", "occupancy"):
        monkeypatch.setattr(f"sepclr_med.{module}.datetime", Backwards)
    run = fit(read_manifest(cohort), load_config(overrides=SETTINGS), tmp_path / "runs" / "run")
    embed(run)
    assert next(Backwards.calls) > 5
    np.testing.assert_array_equal(salient(run), salient(trained))
    steps = json.loads((run / "provenance.json").read_text())["steps"]
    assert [(step["step"], step["seconds"]) for step in steps] == [("fit", None), ("embed", None)]


def test_a_finished_run_meets_an_image_replaced_under_the_same_path(cohort, tmp_path, caplog):
    study = shutil.copytree(cohort.parent, tmp_path / "study")
    config = load_config(overrides=SETTINGS)
    manifest = read_manifest(study / cohort.name)
    run = fit(manifest, config, tmp_path / "runs" / "run")
    weights = RunDir(run).checkpoint().read_bytes()
    first, second = manifest.loc[manifest["split"] == "train", "image_path"].head(2).map(Path)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(RunError, match="the training images are not those this run began with"):
        fit(manifest, config, run)
    first.write_bytes(kept)
    fit(manifest, config, run)
    assert "already trained" in caplog.text
    # What is gone cannot be compared: the run is still what it was.
    first.unlink()
    fit(manifest, config, run)
    shutil.rmtree(run.parent / "cache")
    fit(manifest, config, run)
    assert RunDir(run).checkpoint().read_bytes() == weights


def test_a_step_that_ends_before_it_began_has_no_duration(tmp_path):
    record_step(tmp_path / "provenance.json", "fit", datetime.now(timezone.utc) + timedelta(hours=3), {})
    assert json.loads((tmp_path / "provenance.json").read_text())["steps"][0]["seconds"] is None
