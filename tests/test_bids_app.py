"""The BIDS App, on a simulated BIDS folder."""

import subprocess
import sys

import pandas as pd
import pytest

from sepclr_med import simulate
from sepclr_med.cli import main

RECIPE = """
cohort:
  bids: {root: elsewhere, derivative: simulated, suffix: probseg, entities: {label: GM, desc: mod}}
volumes: {spacing: 12.0}
network: {backbone: small, width: 2}
training: {epochs: 1, batch_size: 8, threads: 1}
method: {common_dim: 3, salient_dim: 3}
evaluation: {n_permutations: 99, n_bootstrap: 20, voxel_pca_components: 4, explain: 0}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("bids"), n_train=6, n_test=2)


@pytest.fixture
def call(study, monkeypatch, capsys):
    """Run the program in this process; gives the exit code, standard output and standard error."""

    def run(*words):
        monkeypatch.chdir(study)
        monkeypatch.setattr(sys, "argv", ["sepclr-med", "bids-app", *words, "--recipe", "recipe.yaml"])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def make_study(folder, **sizes):
    simulate(folder / "study", **sizes, spacing=12.0, seed=3)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def participants(study):
    return sorted((study / "study" / "derivatives" / "simulated").glob("sub-*"))


@pytest.mark.slow
def test_a_container_trains_on_a_group_and_embeds_participants(tmp_path):
    study = make_study(tmp_path, n_train=40, n_val=4, n_test=32)

    def start(*words):
        command = [sys.executable, "-m", "sepclr_med", "bids-app", "study", "out", *words, "--recipe", "recipe.yaml"]
        done = subprocess.run(command, cwd=study, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    before = sorted((study / "study").rglob("*"))
    start("group", "--background", "control", "--target", "patient")
    run = study / "out" / "run"
    made = ("report.html", "analysis/separation.tsv", "embeddings/desc-salient_embedding.tsv")
    assert all((run / name).is_file() for name in made)
    own = pd.read_csv(run / "embeddings" / "desc-salient_embedding.tsv", sep="\t")
    assert len(own) == 76
    first, second = (path.name for path in participants(study)[:2])
    said = start("participant", "--participant_label", first.removeprefix("sub-"), second, "--run", str(run))
    for name in (first, second):
        assert f"1 of 1 images can be used -> out/{name}/manifest.tsv" in said
        embedded = pd.read_csv(study / "out" / name / "embeddings" / "desc-salient_embedding.tsv", sep="\t")
        assert embedded["participant_id"].tolist() == [name]
        assert set(embedded["model_id"]) == set(own["model_id"])
    assert sorted((study / "study").rglob("*")) == before, "a BIDS folder is only read"


def test_one_participant_has_a_folder_of_its_own_and_a_broken_image_is_named(call, study):
    last = participants(study)[-1]
    label = last.name.removeprefix("sub-")
    code, out, err = call("study", "out", "participant", f"--participant-label={label}")
    assert code == 0, err
    assert out.startswith("1 of 1 images can be used")
    assert len(pd.read_csv(study / "out" / last.name / "manifest.tsv", sep="\t")) == 1
    image = next(last.rglob("*.nii.gz"))
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    code, out, err = call("study", "out", "participant", "--participant-label", label)
    image.write_bytes(whole)
    assert (code, out) == (1, "")
    assert last.name in err
    assert "error" in set(pd.read_csv(study / "out" / last.name / "problems.tsv", sep="\t")["severity"])


def test_everyone_is_looked_at_unless_some_are_named(call, study):
    code, out, err = call("study", "out", "participant")
    assert code == 0, err
    assert out.startswith("8 of 8 images can be used")
    first, second = participants(study)[:2]
    labels = [path.name.removeprefix("sub-") for path in (first, second)]
    image = next(first.rglob("*.nii.gz"))
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    code, out, err = call("study", "out", "participant", "--participant_label", *labels)
    image.write_bytes(whole)
    assert code == 1
    assert first.name in err
    assert out.startswith("1 of 1 images can be used")
    assert [len(pd.read_csv(study / "out" / path.name / "manifest.tsv", sep="\t")) for path in (first, second)] == [
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        (("participant", "--participant-label", "absent"), 1, "absent"),
        (("participant", "01"), 2, "--participant-label"),
        (("session",), 2, "'participant'"),
        (("group", "--run", "somewhere"), 1, "--recipe"),
    ],
)
def test_what_cannot_be_done_is_said(call, words, expected, said):
    code, _, err = call("study", "out", *words)
    assert code == expected
    assert said in err
