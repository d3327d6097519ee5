"""Controls of the method: cohorts whose diagnosis means nothing, planted ones, and what is said of them."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sepclr_med import read_manifest, simulate, write_manifest
from sepclr_med.controls import make_cohort, run_controls, summarise
from sepclr_med.errors import ConfigError, ManifestError, RunError, VolumeError
from sepclr_med.report.sections.controls import describe_controls

SMALL = [
    *("volumes.spacing=12", "method.name=cpca", "method.common_dim=4", "method.salient_dim=4"),
    *("evaluation.voxel_pca_components=4", "volumes.n_jobs=1"),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    write_manifest(simulate(folder / "cohort", n_train=66, n_test=10, spacing=12.0, seed=3), folder / "study.tsv")
    (folder / "recipe.yaml").write_text("cohort: {manifest: study.tsv}\n")
    return folder


def people(n=60, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"participant_id": [f"{i:02}" for i in range(n)], "site": rng.choice(["a", "b", "c"], n)})
    table["diagnosis"] = np.where((rng.random(n) < 0.5) | (table["site"] == "c"), "patient", "control")
    return table


def test_exchanged_labels_keep_their_number_at_each_site_and_relatives_their_own():
    rows = people()
    rows["family_id"] = None
    rows.loc[:1, ["family_id", "site", "diagnosis"]] = ["f", "a", "patient"]
    rows.loc[1, "diagnosis"] = "control"
    drawn = [make_cohort(rows, "permuted", run, 0.0, None) for run in range(20)]
    before = rows.groupby(["site", "diagnosis"]).size()
    for made in drawn:
        assert made.groupby(["site", "diagnosis"]).size().equals(before)
        assert set(made.loc[:1, "diagnosis"]) == {"patient", "control"}
    same = np.mean([(made["diagnosis"] == rows["diagnosis"]).mean() for made in drawn])
    assert same < 0.75
    assert len({tuple(made["diagnosis"]) for made in drawn}) == 20


def test_half_of_the_controls_of_each_site_become_pseudo_patients():
    rows = people(80)
    drawn = [make_cohort(rows, "pseudo", run, 0.0, None) for run in range(40)]
    controls = set(rows.loc[rows["diagnosis"] == "control", "participant_id"])
    for made in drawn:
        assert set(made["participant_id"]) == controls
        counts = made.groupby(["site", "diagnosis"]).size().unstack()  # noqa: PD010
        assert (counts["patient"] - counts["control"]).abs().max() <= 1
        assert set(made["split"]) == {"train", "test"}
    chosen = pd.concat(drawn).groupby("participant_id")["diagnosis"].apply(lambda d: (d == "patient").mean())
    assert chosen.between(0.15, 0.85).all()


def test_nothing_is_found_where_nothing_is_and_planted_atrophy_is(study):
    recipe, out = study / "recipe.yaml", study / "run" / "controls"
    table = run_controls(recipe, out, ["pseudo", "permuted", "planted"], 2, [1.0], SMALL)
    assert table.groupby("kind").size().to_dict() == {"pseudo": 2, "permuted": 2, "planted": 2}
    # Eleven held-out people: 0.75 is beyond what chance gives twice.
    found = table.groupby("kind")["accuracy"].mean()
    assert found["planted"] > 0.75
    assert found[["pseudo", "permuted"]].max() < 0.7
    assert table.loc[table["kind"] == "planted", "severity_r2"].notna().all()
    # Held-out test participants of the cohort took no part.
    assert table.loc[table["kind"] == "permuted", "n"].max() <= 66 // 3 + 2
    assert sorted(path.name for path in (out / "runs").iterdir())[0] == "permuted_0.tsv"
    assert not list((out / "planted").iterdir())
    said = []
    run_controls(recipe, out, ["pseudo"], 3, [0.8], SMALL, say=said.append)
    again = pd.read_csv(out / "runs" / "pseudo_1.tsv", sep="\t")
    assert again["accuracy"].iloc[0] == table[(table["kind"] == "pseudo") & (table["run"] == 1)]["accuracy"].iloc[0]
    assert len(said) == 3
    # What the call before it did is still told.
    told = {(row["kind"], row["n_runs"]) for row in json.loads((out / "controls.json").read_text())["summary"]}
    assert told == {("permuted", 2), ("pseudo", 3), ("planted", 2)}
    assert len(pd.read_csv(out / "controls.tsv", sep="\t")) == 7
    with pytest.raises(RunError, match="other settings"):
        run_controls(recipe, out, ["pseudo"], 3, [0.8], [*SMALL, "method.contrast=0.5"])
    assert (out / "controls.png").stat().st_size > 1000


def test_what_is_said_of_them():
    runs = pd.DataFrame({"kind": ["pseudo"] * 20 + ["planted"] * 20, "strength": [0.0] * 20 + [0.2] * 10 + [0.4] * 10})
    runs = runs.assign(accuracy=0.5, norm_auc=0.5, severity_r2=np.nan)
    runs["p_value"] = [0.01] * 8 + [0.5] * 12 + [0.5] * 10 + [0.01] * 9 + [0.5]
    section = describe_controls({"objects": {"controls": {"summary": json.loads(json.dumps(summarise(runs)))}}})
    texts = [entry["text"] for entry in section["brief"]]
    assert "found in 8 of 20 runs, more than chance" in texts[0]
    assert section["brief"][0]["level"] == "error"
    assert "Planted atrophy of 0.40 or more" in texts[1]
    assert describe_controls({"objects": {}}) is None


def test_images_that_nothing_can_be_planted_into_are_refused_before_anything_is_trained(study, tmp_path):
    table = read_manifest(study / "study.tsv")
    images = tmp_path / "images"
    images.mkdir()
    for row, path in table["image_path"].items():
        image = nib.load(path)
        # Elsewhere: no template space.
        moved = image.affine.copy()
        moved[:3, 3] += 200
        table.loc[row, "image_path"] = str(images / f"{row}.nii.gz")
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), moved), images / f"{row}.nii.gz")
    write_manifest(table, tmp_path / "study.tsv")
    (tmp_path / "recipe.yaml").write_text("cohort: {manifest: study.tsv}\n")
    with pytest.raises(VolumeError, match="--kinds permuted,pseudo does without") as caught:
        run_controls(tmp_path / "recipe.yaml", tmp_path / "out", n_runs=1, overrides=SMALL)
    assert len(caught.value.problems) == 33
    assert not list((tmp_path / "out").glob("runs/*"))
    assert not (tmp_path / "out" / "plan.json").exists()


def test_what_cannot_be_run_is_refused(study, tmp_path):
    with pytest.raises(ConfigError, match="did you mean"):
        run_controls(study / "recipe.yaml", tmp_path / "out", ["pseudos"], overrides=SMALL)
    with pytest.raises(ConfigError, match="up to 1"):
        run_controls(study / "recipe.yaml", tmp_path / "out", ["planted"], 1, [1.2], SMALL)
    write_manifest(simulate(tmp_path / "few", n_train=30, n_test=4, spacing=12.0), tmp_path / "study.tsv")
    (tmp_path / "recipe.yaml").write_text("cohort: {manifest: study.tsv}\n")
    with pytest.raises(ManifestError, match="15 controls outside the test part"):
        run_controls(tmp_path / "recipe.yaml", tmp_path / "out", ["pseudo"], overrides=SMALL)
    wrong = [sys.executable, "-m", "sepclr_med", "controls", str(study / "recipe.yaml"), "-o", str(tmp_path / "out")]
    called = subprocess.run([*wrong, "--strengths", "a"], capture_output=True, text=True)
    assert called.returncode == 1
    assert "--strengths: cannot be understood" in called.stderr
    assert not (tmp_path / "out").exists()
