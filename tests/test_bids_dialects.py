"""Tables of real datasets, each with its own dialect: every one becomes a manifest, or a message on what to do."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd
import pytest

from sepclr_med.cohort.bids import find_images
from sepclr_med.cohort.columns import describe_columns
from sepclr_med.cohort.manifest import assign_roles, manifest_hash, read_manifest, write_manifest
from sepclr_med.errors import ManifestError
from sepclr_med.rundir import write_json


@dataclass(frozen=True)
class Expected:
    rows: int
    diagnoses: dict[str, int]
    sexes: dict[str, int]
    ages_missing: int = 0
    mean_age: float = 0.0
    remarks: dict[str, int] = field(default_factory=dict)


# Counted in the tables by other means than the code under test.
CASES = {
    "ds000030": (
        {},
        Expected(
            265,
            {"CONTROL": 125, "SCHZ": 50, "BIPOLAR": 49, "ADHD": 41},
            {"M": 153, "F": 112},
            mean_age=33.2792,
            remarks={"column_name": 1, "diagnosis": 1, "row_without_image": 7},
        ),
    ),
    "ds002424": (
        {"diagnosis_column": "ADHD_diagnosis"},
        Expected(
            79,
            {"0": 44, "1": 35},
            {"M": 65, "F": 14},
            mean_age=10.3916,
            remarks={"diagnosis": 1, "levels": 1, "session": 1},
        ),
    ),
    "ds003653": (
        {},
        Expected(
            88,
            {"HC": 47, "UD": 39, "HCconvertedMDD": 2},
            {"F": 65, "M": 23},
            mean_age=28.7420,
            remarks={"diagnosis": 1},
        ),
    ),
    "ds004302": (
        {},
        Expected(
            71, {"HC": 25, "AVH-": 23, "AVH+": 23}, {"M": 54, "F": 17}, mean_age=41.5634, remarks={"diagnosis": 1}
        ),
    ),
    "ds005602": ({"diagnosis": "epilepsy"}, Expected(542, {"epilepsy": 542}, {})),
}

MESSAGES = {
    "bids-examples_genetics_ukbb": ["no folder is named sub-LABEL", "fetch the images", "docs/manifests.md"],
    "ds002424": [
        "no column says who is a patient and who a control",
        'column "ADHD_diagnosis": could hold the diagnosis; got "0 (no): 44, 1 (yes): 35"',
        "fix: --diagnosis-column ADHD_diagnosis",
    ],
    "ds005602": [
        "the images of 542 participants are there, but no table says who they are",
        "write this file: participant_id<tab>diagnosis<tab>age<tab>sex and one line per participant, sub-1 first",
    ],
}


@pytest.fixture
def dataset(shared_data, tmp_path):
    def build(name, images=()):
        root = tmp_path / name
        # Contents only: the originals may be read-only.
        shutil.copytree(shared_data / "bids_dialects" / name, root, copy_function=shutil.copyfile)
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        listed = root / "T1w_paths.txt"
        for image in [*images, *(listed.read_text().split() if listed.exists() else ())]:
            (root / image).parent.mkdir(parents=True, exist_ok=True)
            (root / image).touch()
        return root

    return build


def test_no_dataset_is_forgotten(shared_data):
    assert {path.name for path in (shared_data / "bids_dialects").iterdir() if path.is_dir()} == {*CASES, *MESSAGES}


@pytest.mark.parametrize("name", CASES)
def test_dataset_becomes_a_manifest(dataset, tmp_path, name):
    options, expected = CASES[name]
    manifest, problems = find_images(dataset(name), **options)
    assert len(manifest) == expected.rows
    assert manifest["diagnosis"].value_counts().to_dict() == expected.diagnoses
    assert manifest["image_path"].is_unique
    if expected.sexes:
        assert manifest["sex"].value_counts().to_dict() == expected.sexes
        assert manifest["age"].isna().sum() == expected.ages_missing
        assert manifest["age"].mean() == pytest.approx(expected.mean_age, abs=1e-4)
    assert Counter(problem.code for problem in problems) == expected.remarks
    written = read_manifest(write_manifest(manifest, tmp_path / "tables" / "manifest.csv"))
    assert manifest_hash(written) == manifest_hash(manifest)
    pd.testing.assert_frame_equal(written, manifest)


@pytest.mark.parametrize("name", MESSAGES)
def test_dataset_says_what_to_do(dataset, name):
    with pytest.raises(ManifestError) as error:
        find_images(dataset(name))
    assert [text for text in MESSAGES[name] if text not in str(error.value)] == []
    assert all(problem.fix for problem in error.value.problems)


def test_pooled_ages_of_the_genetics_example(dataset):
    images = [f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz" for i in range(1, 16)]
    manifest, problems = find_images(dataset("bids-examples_genetics_ukbb", images))
    assert manifest["diagnosis"].value_counts(dropna=False).tolist() == [7, 7, 1]
    assert (manifest["age"] == 89).sum() == 4
    pooled = [problem for problem in problems if problem.code == "pooled_age"]
    assert [problem.row for problem in pooled] == [6, 7, 8, 14]
    assert [problem.participant_id for problem in problems if problem.code == "image_without_row"] == ["sub-15"]


def test_phenotypes_of_one_dataset_clash_with_its_participants(dataset):
    manifest, problems = find_images(dataset("ds000030"), phenotype=True)
    assert manifest.shape == (265, 161)
    (clash,) = [problem for problem in problems if problem.code == "clash"]
    assert clash.got == "sex as demographics_sex, age as demographics_age"
    both = manifest[["age", "demographics_age"]].dropna()
    assert len(both) > 250
    assert (both["age"] - both["demographics_age"]).abs().max() <= 1
    agree = manifest["sex"] == manifest["demographics_sex"]
    assert agree[manifest["demographics_sex"].notna()].mean() > 0.95
    assert describe_columns(manifest)["school_yrs"]["Description"]


def test_phenotypes_in_session_folders(dataset, shared_data):
    manifest, problems = find_images(dataset("ds002424"), diagnosis_column="ADHD_diagnosis", phenotype=True)
    assert len(manifest) == 79
    tables = {
        session: pd.read_csv(
            shared_data / "bids_dialects" / "ds002424" / "phenotype" / session / "wasi.tsv", sep="\t", na_values="n/a"
        )
        for session in ("ses-T1", "ses-T2")
    }
    pd.testing.assert_series_equal(manifest["WASI_FSIQ"], tables["ses-T1"]["WASI_FSIQ"], check_dtype=False)
    pd.testing.assert_series_equal(
        manifest["ses-T2_WASI_FSIQ"], tables["ses-T2"]["WASI_FSIQ"], check_dtype=False, check_names=False
    )
    (encoding,) = [problem for problem in problems if problem.code == "encoding"]
    assert encoding.file.endswith("ses-T1/ksads-pl.tsv")
    assert encoding.severity == "warning"


def test_two_sessions_of_one_participant_share_what_is_said_of_them(dataset):
    manifest, _ = find_images(dataset("ds003653"))
    twice = manifest[manifest["participant_id"].duplicated(keep=False)]
    assert twice["participant_id"].unique().tolist() == ["sub-719313"]
    assert twice["session_id"].tolist() == ["ses-01", "ses-02"]
    assert twice["diagnosis"].tolist() == ["HCconvertedMDD"] * 2
    one, _ = find_images(manifest["image_path"].iloc[0].split("/sub-")[0], entities={"session": "01"})
    assert len(one) == 87
    chosen, _ = find_images(manifest["image_path"].iloc[0].split("/sub-")[0], diagnosis_column="group_dx")
    assert chosen["diagnosis"].value_counts().to_dict() == {"HC": 47, "MDD": 26, "PDD": 13, "HCconvertedMDD": 2}
    assert "group" in chosen


def test_a_folder_of_several_datasets_says_so(dataset):
    roots = [dataset(name) for name in ("ds003653", "ds004302")]
    with pytest.raises(ManifestError, match="2 datasets lie in this folder") as error:
        find_images(roots[0].parent)
    assert "ds003653, ds004302" in str(error.value)


def test_grey_matter_maps_of_a_real_derivative(shared_data, tmp_path):
    manifest, problems = find_images(
        shared_data / "ds002748",
        suffix="probseg",
        derivative="ants_quickvbm",
        entities={"label": "GM", "desc": "mod", "space": None, "session": None},
        diagnosis_column="group",
        rename={"gender": "sex"},
    )
    assert len(manifest) == 72
    assert manifest["diagnosis"].value_counts().to_dict() == {"depr": 51, "control": 21}
    assert manifest["sex"].value_counts().to_dict() == {"F": 53, "M": 19}
    assert manifest["age"].isna().sum() == 0
    assert manifest["BDI"].dtype == float
    assert manifest["ICD-10"].value_counts().to_dict() == {"F32.0": 28, "F32.1": 20, "F34.1": 1, "F34.9": 1}
    assert [problem.severity for problem in problems] == ["info"]
    roles = assign_roles(manifest, ["control"], ["depr"])
    assert roles.value_counts().to_dict() == {"target": 51, "background": 21}
    path = write_manifest(manifest, tmp_path / "manifest.tsv", bids_root=shared_data)
    write_json(path.with_suffix(".json"), describe_columns(manifest))
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["diagnosis"]["Levels"]["depr"] == "patients with depression"
    assert sidecar["sex"]["Levels"] == {"F": "female", "M": "male", "O": "other"}
    assert sidecar["BDI"] == {"Description": "Beck Depression Inventory", "Units": "scores"}
    assert path.read_text().splitlines()[1].split("\t")[1].startswith("ds002748/derivatives/ants_quickvbm/sub-01/anat/")
    read = read_manifest(path, bids_root=shared_data)
    assert manifest_hash(read) == manifest_hash(manifest)
    assert read["image_path"].str.endswith("desc-mod_label-GM_probseg.nii.gz").all()


def test_raw_images_of_some_participants(shared_data):
    manifest, problems = find_images(shared_data / "ds002748")
    assert manifest["diagnosis"].value_counts().to_dict() == {"depr": 4, "control": 4}
    (absent,) = [problem for problem in problems if problem.code == "row_without_image"]
    assert "64 rows" in absent.message


def test_a_dataset_of_controls_only(shared_data):
    with pytest.raises(ManifestError, match="if all belong to one group, --diagnosis NAME"):
        find_images(shared_data / "ds000011")
    manifest, problems = find_images(shared_data / "ds000011", diagnosis="control")
    assert manifest["diagnosis"].tolist() == ["control"] * 3
    assert manifest["age"].tolist() == [35, 34, 29]
    assert Counter(problem.code for problem in problems) == {"row_without_image": 11}


def test_two_datasets_become_one_manifest(shared_data, tmp_path):
    patients, _ = find_images(shared_data / "ds002748")
    controls, _ = find_images(shared_data / "ds000011", diagnosis="control")
    clash = write_manifest(pd.concat([patients, controls]), tmp_path / "clash.tsv")
    with pytest.raises(ManifestError, match="another row has the same participant_id; the first is row 2"):
        read_manifest(clash)
    apart = controls.assign(participant_id="second-" + controls["participant_id"], site="second")
    path = write_manifest(pd.concat([patients.assign(site="first"), apart]), tmp_path / "two_sites.tsv")
    both = read_manifest(path)
    assert both.groupby(["site", "diagnosis"]).size().to_dict() == {
        ("first", "control"): 4,
        ("first", "depr"): 4,
        ("second", "control"): 3,
    }
    assert both["image_path"].tolist() == [*patients["image_path"], *controls["image_path"]]
