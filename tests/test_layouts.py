"""Folders that are not BIDS: CAPS of Clinica and CAT12's, as real trees of small NIfTI files."""

import nibabel as nib
import numpy as np
import pytest

from sepclr_med.cohort.bids import find_images
from sepclr_med.cohort.manifest import read_manifest, write_manifest
from sepclr_med.cohort.preflight import check_cohort
from sepclr_med.errors import ManifestError

TABLE = "participant_id\tdiagnosis\tage\tsex\n" + "".join(
    f"sub-{n:02d}\t{'MDD' if n % 2 else 'HC'}\t{30 + n}\t{'F' if n % 3 else 'M'}\n" for n in range(1, 5)
)
PEOPLE = [f"sub-{n:02d}" for n in range(1, 5)]


def write_image(path, value=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(int(value)).random((6, 7, 6), dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), path)


@pytest.fixture
def caps(tmp_path):
    """What t1-linear and t1-volume leave, with the names of Clinica's specification."""
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "participants.tsv").write_text(TABLE)
    root = tmp_path / "caps"
    (root / "groups" / "group-all").mkdir(parents=True)
    for n, person in enumerate(PEOPLE):
        session = root / "subjects" / person / "ses-M000"
        name = f"{person}_ses-M000"
        spm = session / "t1" / "spm"
        files = [session / "t1_linear" / f"{name}_space-MNI152NLin2009cSym_{crop}res-1x1x1_T1w.nii.gz"
                 for crop in ("", "desc-Crop_")]  # fmt: skip
        for tissue in ("graymatter", "whitematter"):
            mapped = f"{name}_T1w_segm-{tissue}"
            files += [
                spm / "segmentation" / "native_space" / f"{mapped}_probability.nii.gz",
                spm
                / "segmentation"
                / "normalized_space"
                / f"{mapped}_space-Ixi549Space_modulated-off_probability.nii.gz",
                spm / "segmentation" / "dartel_input" / f"{mapped}_dartelinput.nii.gz",
                spm / "dartel" / "group-all" / f"{mapped}_space-Ixi549Space_modulated-on_probability.nii.gz",
                spm / "dartel" / "group-all" / f"{mapped}_space-Ixi549Space_modulated-on_fwhm-8mm_probability.nii.gz",
            ]
        for path in files:
            write_image(path, n)
        (session / "t1_linear" / f"{name}_space-MNI152NLin2009cSym_res-1x1x1_affine.mat").touch()
        (session / "t1" / "freesurfer_cross_sectional" / name / "mri").mkdir(parents=True)
        (session / "t1" / "freesurfer_cross_sectional" / name / "mri" / "T1.mgz").touch()
    return root


def test_maps_of_a_dartel_group_become_a_manifest_that_passes_the_check(caps, tmp_path):
    wanted = {"group": "all", "segm": "graymatter", "fwhm": "none"}
    table = tmp_path / "bids" / "participants.tsv"
    manifest, problems = find_images(caps, suffix="probability", entities=wanted, participants=table)
    assert manifest["participant_id"].tolist() == PEOPLE
    assert manifest["session_id"].unique().tolist() == ["ses-M000"]
    assert manifest["diagnosis"].tolist() == ["MDD", "HC", "MDD", "HC"]
    assert manifest["image_path"].str.contains("dartel/group-all/.*modulated-on_probability").all()
    assert [problem.message[:12] for problem in problems if problem.code == "layout"] == ["read as CAPS"]
    written = read_manifest(write_manifest(manifest, tmp_path / "manifest.tsv"))
    result = check_cohort(written, ["HC"], ["MDD"], n_jobs=1)
    assert not [problem for problem in result.problems if problem.code in ("missing_file", "unreadable_image")]


@pytest.mark.parametrize(
    ("suffix", "entities", "ends"),
    [
        ("T1w", {"desc": "Crop"}, "_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz"),
        ("T1w", {"desc": "none"}, "_space-MNI152NLin2009cSym_res-1x1x1_T1w.nii.gz"),
        (
            "probability",
            {"segm": "whitematter", "modulated": "off"},
            "_space-Ixi549Space_modulated-off_probability.nii.gz",
        ),
        ("probability", {"segm": "graymatter", "space": "none"}, "_T1w_segm-graymatter_probability.nii.gz"),
        ("dartelinput", {"segm": "graymatter"}, "_T1w_segm-graymatter_dartelinput.nii.gz"),
        ("probability", {"segm": "graymatter", "fwhm": "8mm"}, "_modulated-on_fwhm-8mm_probability.nii.gz"),
    ],
)
def test_every_kind_of_image_of_caps_is_chosen_by_its_entities(caps, suffix, entities, ends):
    for folder in (caps, caps / "subjects"):
        manifest, _ = find_images(folder, suffix=suffix, entities=entities, diagnosis="HC")
        assert len(manifest) == 4
        assert manifest["image_path"].str.endswith(ends).all()


def test_caps_says_what_is_there_and_what_to_type(caps):
    with pytest.raises(ManifestError) as error:
        find_images(caps, suffix="probseg", diagnosis="HC")
    said = str(error.value)
    assert "read as CAPS (Clinica): subjects/sub-*/ses-*" in said
    assert "probability: 32" in said
    assert "choose with --suffix probability" in said
    with pytest.raises(ManifestError, match="several probability images") as error:
        find_images(caps, suffix="probability", diagnosis="HC")
    assert "--entity segm=graymatter" in str(error.value)
    assert "--entity modulated=" in str(error.value)
    with pytest.raises(ManifestError, match="--participants FILE"):
        find_images(caps, entities={"desc": "Crop"})


@pytest.fixture
def cat12(tmp_path):
    """A BIDS dataset with CAT12's derivatives, one folder mri per participant."""
    root = tmp_path / "bids"
    for n, person in enumerate(PEOPLE):
        write_image(root / person / "anat" / f"{person}_T1w.nii.gz", n)
        inner = root / "derivatives" / "CAT12.8" / person
        for prefix in ("mwp1", "mwp2", "wm", "p0", "s6mwp1"):
            write_image(inner / "mri" / f"{prefix}{person}_T1w.nii", n)
        write_image(inner / "mri" / f"rp1{person}_T1w_affine.nii", n)
        (inner / "report").mkdir()
        (inner / "report" / f"cat_{person}_T1w.xml").touch()
    (root / "participants.tsv").write_text(TABLE)
    return root


@pytest.mark.parametrize("prefix", ["mwp1", "mwp2", "wm", "s6mwp1", "rp1"])
def test_maps_of_cat12_in_a_derivative_become_a_manifest(cat12, prefix):
    manifest, problems = find_images(cat12, suffix=prefix, derivative="CAT12.8")
    assert manifest["participant_id"].tolist() == PEOPLE
    assert manifest["image_path"].str.contains(f"/mri/{prefix}sub-").all()
    assert manifest["age"].tolist() == [31, 32, 33, 34]
    assert [problem.code for problem in problems] == ["layout", "diagnosis"]


@pytest.mark.parametrize(
    "name",
    [
        "mwp1sub-01_ses-1_T1w.nii",
        "mri/mwp1sub-01_ses-1_T1w.nii",
        "sub-01/mwp1sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/mri/mwp1sub-01_ses-1_T1w.nii",
        "sub-01/ses-1/anat/mwp1sub-01_ses-1_T1w.nii",
        "sub-01/ses-1/anat/mri/mwp1sub-01_ses-1_T1w.nii",
        "one/mri/mwp1sub-01_ses-1_T1w.nii",
    ],
)
def test_every_folder_that_cat12_writes_to_is_read(tmp_path, name):
    write_image(tmp_path / name)
    manifest, _ = find_images(tmp_path, suffix="mwp1", diagnosis="HC")
    assert manifest[["participant_id", "session_id"]].values.tolist() == [["sub-01", "ses-1"]]


def test_sources_of_other_names_are_participants_by_their_whole_name(tmp_path):
    for name in ("IXI002-Guys-0828-T1", "patient_7"):
        write_image(tmp_path / "mri" / f"mwp1{name}.nii")
    (tmp_path / "participants.tsv").write_text("participant_id\tdiagnosis\nIXI002-Guys-0828-T1\tHC\npatient_7\tMDD\n")
    manifest, problems = find_images(tmp_path, suffix="mwp1")
    assert manifest["diagnosis"].tolist() == ["HC", "MDD"]
    assert not [problem for problem in problems if problem.severity == "warning"]


def test_cat12_says_what_is_there_and_what_to_type(cat12, tmp_path):
    with pytest.raises(ManifestError) as error:
        find_images(cat12, suffix="m0wp1", derivative="CAT12.8")
    assert "read as CAT12" in str(error.value)
    assert "mwp1: 4" in str(error.value)
    with pytest.raises(ManifestError) as error:
        find_images(cat12, derivative="CAT12.8")
    assert "choose with --suffix" in str(error.value)
    flat = tmp_path / "flat"
    write_image(flat / "mri" / "mwp1anna.nii")
    with pytest.raises(ManifestError, match="no T1w image, but images of CAT12 are here") as error:
        find_images(flat)
    assert "fix: choose with --suffix mwp1" in str(error.value)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ManifestError) as error:
        find_images(empty, suffix="mwp1")
    assert "subjects/sub-* (CAPS), mwp1*.nii (CAT12)" in str(error.value)


def test_images_of_cat12_that_links_take_from_elsewhere_are_warned_about(cat12, tmp_path):
    write_image(tmp_path / "elsewhere.nii")
    (cat12 / "derivatives" / "CAT12.8" / "sub-01" / "mri" / "mwp1sub-09_T1w.nii").symlink_to(tmp_path / "elsewhere.nii")
    _, problems = find_images(cat12, suffix="mwp1", derivative="CAT12.8")
    assert [problem.code for problem in problems if problem.severity == "warning"] == [
        "link_outside",
        "image_without_row",
    ]


def test_raw_images_stay_raw_where_cat12_wrote_beside_them(tmp_path):
    for person in PEOPLE:
        write_image(tmp_path / person / "anat" / f"{person}_T1w.nii")
        write_image(tmp_path / person / "anat" / "mri" / f"mwp1{person}_T1w.nii")
    raw, _ = find_images(tmp_path, diagnosis="HC")
    maps, _ = find_images(tmp_path, suffix="mwp1", diagnosis="HC")
    assert raw["image_path"].str.endswith("_T1w.nii").all()
    assert not raw["image_path"].str.contains("mwp1").any()
    assert maps["image_path"].str.contains("anat/mri/mwp1").all()
