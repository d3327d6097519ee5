import json
import os
from pathlib import Path

import pandas as pd
import pytest

from sepclr_med.cohort.bids import find_images
from sepclr_med.cohort.bids_files import parse_name
from sepclr_med.cohort.columns import describe_columns
from sepclr_med.cohort.manifest import manifest_hash, read_manifest, write_manifest
from sepclr_med.errors import ManifestError

PARTICIPANTS = "participant_id\tdiagnosis\tage\tsex\nsub-01\tHC\t30\tF\nsub-02\tMDD\t41.5\tM\n"
IMAGES = ["sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz"]


def build(root, images=IMAGES, participants=PARTICIPANTS, **files):
    """Write a dataset; ``files`` are further files, their names with __ for / and a content to be dumped or written."""
    if participants is not None:
        files["participants.tsv"] = participants
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def refuse(root, **options):
    with pytest.raises(ManifestError) as error:
        find_images(root, **options)
    return error.value.problems


def names(manifest):
    return [Path(path).name for path in manifest["image_path"]]


def coded(problems, code):
    return [problem for problem in problems if problem.code == code]


def test_a_plain_dataset_becomes_a_manifest(tmp_path):
    manifest, problems = find_images(build(tmp_path))
    assert manifest.columns.tolist() == ["participant_id", "image_path", "diagnosis", "age", "sex"]
    assert manifest["participant_id"].tolist() == ["sub-01", "sub-02"]
    assert manifest["image_path"].tolist() == [str(tmp_path / name) for name in IMAGES]
    assert manifest["diagnosis"].tolist() == ["HC", "MDD"]
    assert manifest["age"].tolist() == [30, 41.5]
    assert [p.severity for p in problems] == ["info"]
    assert manifest.attrs["problems"] == problems
    written = read_manifest(write_manifest(manifest, tmp_path / "manifest.tsv"))
    pd.testing.assert_frame_equal(written, manifest)
    assert manifest_hash(written) == manifest_hash(manifest)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("sub-01_T1w.nii.gz", ({"sub": "01"}, "T1w", ".nii.gz")),
        ("sub-a1_ses-2_acq-x_run-01_T1w.nii", ({"sub": "a1", "ses": "2", "acq": "x", "run": "01"}, "T1w", ".nii")),
        ("sub-01_desc-brain_T1w.mgz", ({"sub": "01", "desc": "brain"}, "T1w", ".mgz")),
        ("sub-01_T1w.json", None),
        ("sub-01_brain_T1w.nii.gz", None),
        ("T1w.nii.gz", None),
        ("mwp1sub-01_T1w.nii", None),
        ("sub-01_acq-_T1w.nii", None),
    ],
)
def test_names_are_taken_apart(name, parsed):
    assert parse_name(name) == parsed


def test_only_the_folders_of_images_are_read(tmp_path):
    elsewhere = [
        "sub-01/anat/deeper/sub-01_acq-deep_T1w.nii.gz",
        "sub-01/figures/sub-01_acq-figure_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_acq-source_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_acq-derived_T1w.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
    ]
    manifest, problems = find_images(build(tmp_path, [*IMAGES, *elsewhere]))
    assert names(manifest) == ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"]
    assert coded(problems, "odd_name") == []


def test_sessions_flat_folders_and_extensions(tmp_path):
    images = [
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/sub-01_ses-2_T1w.nii",
        "sub-02/sub-02_T1w.mgz",
    ]
    manifest, _ = find_images(build(tmp_path, images))
    assert manifest["session_id"].fillna("none").tolist() == ["ses-1", "ses-2", "none"]
    assert manifest["age"].tolist() == [30, 30, 41.5]
    one, problems = find_images(tmp_path, entities={"session": "ses-2"})
    assert names(one) == ["sub-01_ses-2_T1w.nii"]
    (absent,) = coded(problems, "row_without_image")
    assert (absent.participant_id, absent.row) == ("sub-02", 3)
    assert "has a folder" in absent.message


def test_links_are_followed_but_never_in_circles(tmp_path):
    build(tmp_path, [IMAGES[0], "elsewhere/anat/sub-02_T1w.nii.gz"])
    os.symlink(tmp_path / "elsewhere", tmp_path / "sub-02")
    os.symlink(tmp_path / "sub-01", tmp_path / "sub-01" / "up")
    os.symlink("itself", tmp_path / "sub-01" / "itself")
    os.symlink(tmp_path, tmp_path / "sub-01" / "ses-1")
    manifest, problems = find_images(tmp_path)
    assert names(manifest) == ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"]
    assert {problem.severity for problem in problems} == {"info"}


LOOPS = {
    "to itself": {"{0}": "{0}"},
    "to the folder it is in": {"{0}": "."},
    "to the parent": {"{0}": ".."},
    "of two to one another": {"{0}": "{1}", "{1}": "{0}"},
    "of two folders that hold one another": {"first/{0}": "../second", "second/{1}": "../first"},
}


@pytest.mark.parametrize("place", ["", "sub-01", "sub-01/anat"])
@pytest.mark.parametrize("named", [("sub-02", "sub-03"), ("ses-1", "ses-2"), ("func", "dwi"), ("up", "down")])
@pytest.mark.parametrize("loop", LOOPS)
def test_loops_of_links_end_and_add_no_image(tmp_path, loop, named, place):
    build(tmp_path, [IMAGES[0]])
    for link, target in LOOPS[loop].items():
        path = tmp_path / place / link.format(*named)
        path.parent.mkdir(exist_ok=True)
        os.symlink(target.format(*named), path)
    manifest, _ = find_images(tmp_path)
    assert names(manifest) == ["sub-01_T1w.nii.gz"]


def test_files_not_fetched_and_odd_names_are_warned_about(tmp_path):
    build(tmp_path, [IMAGES[0], "sub-01/anat/sub-01_brain_T1w.nii.gz"])
    (tmp_path / "sub-02" / "anat").mkdir(parents=True)
    os.symlink("../../.git/annex/objects/x.nii.gz", tmp_path / IMAGES[1])
    manifest, problems = find_images(tmp_path)
    assert len(manifest) == 2
    (broken,) = coded(problems, "broken_link")
    assert "sub-02/anat/sub-02_T1w.nii.gz" in broken.got
    assert "datalad get" in broken.fix
    (odd,) = coded(problems, "odd_name")
    assert "sub-01_brain_T1w.nii.gz" in odd.got


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for the superuser")
@pytest.mark.parametrize("folder", ["sub-02/anat", "sub-02", "."])
def test_an_unreadable_folder_stops(tmp_path, folder):
    closed = build(tmp_path) / folder
    closed.chmod(0)
    try:
        (problem,) = refuse(tmp_path)
    finally:
        closed.chmod(0o755)
    assert problem.code == "unreadable_folder"
    assert problem.file == str(closed.resolve())


def test_an_image_in_another_participants_folder_stops(tmp_path):
    (problem,) = refuse(build(tmp_path, [*IMAGES, "sub-01/anat/sub-02_run-2_T1w.nii.gz"]))
    assert (problem.code, problem.participant_id) == ("misplaced_image", "sub-01")
    assert problem.file.endswith("sub-02_run-2_T1w.nii.gz")


DERIVED = [
    f"derivatives/fmriprep/sub-{sub}/anat/sub-{sub}_{rest}.nii.gz"
    for sub in ("01", "02")
    for rest in (
        "desc-preproc_T1w",
        "space-MNI_res-2_desc-preproc_T1w",
        "label-GM_probseg",
        "label-WM_probseg",
        "space-MNI_label-GM_probseg",
    )
]


@pytest.mark.parametrize(
    ("suffix", "entities", "found"),
    [
        ("T1w", {"space": "MNI"}, "space-MNI_res-2_desc-preproc_T1w"),
        ("T1w", {"space": "none"}, "desc-preproc_T1w"),
        ("T1w", {"resolution": "2", "desc": None}, "space-MNI_res-2_desc-preproc_T1w"),
        ("probseg", {"label": "GM", "space": "MNI,T1w"}, "space-MNI_label-GM_probseg"),
        ("probseg", {"label": "label-WM"}, "label-WM_probseg"),
    ],
)
def test_entities_choose(tmp_path, suffix, entities, found):
    manifest, _ = find_images(build(tmp_path, DERIVED), suffix, "fmriprep", entities)
    assert names(manifest) == [f"sub-01_{found}.nii.gz", f"sub-02_{found}.nii.gz"]


def test_images_that_entities_leave_ambiguous_name_the_options(tmp_path):
    (problem,) = refuse(build(tmp_path, DERIVED), suffix="probseg", derivative="fmriprep")
    assert problem.message.startswith("2 participant(s) have several probseg images, such as sub-01")
    assert "--label GM (label is GM: 4, WM: 2)" in problem.fix
    assert "--space none (space is none: 4, MNI: 2)" in problem.fix
    assert "desc" not in problem.fix


def test_other_entities_and_extensions_can_be_chosen_too(tmp_path):
    images = ["sub-01/anat/sub-01_acq-mprage_T1w.nii.gz", "sub-01/anat/sub-01_acq-spgr_T1w.nii.gz", IMAGES[1]]
    (problem,) = refuse(build(tmp_path, images))
    assert "--entity acq=mprage" in problem.fix
    manifest, _ = find_images(tmp_path, entities={"acquisition": "mprage,none"})
    assert names(manifest) == ["sub-01_acq-mprage_T1w.nii.gz", "sub-02_T1w.nii.gz"]
    (tmp_path / "sub-02/anat/sub-02_T1w.nii").touch()
    (problem,) = refuse(tmp_path, entities={"acq": "none"})
    assert "--entity extension=" in problem.fix
    assert names(find_images(tmp_path, entities={"acq": "none", "extension": ".nii"})[0]) == ["sub-02_T1w.nii"]


def test_runs_are_rows_and_said(tmp_path):
    images = ["sub-01/anat/sub-01_run-01_T1w.nii.gz", "sub-01/anat/sub-01_run-02_T1w.nii.gz", IMAGES[1]]
    manifest, problems = find_images(build(tmp_path, images))
    assert manifest["run"].fillna("none").tolist() == ["01", "02", "none"]
    (warning,) = coded(problems, "runs")
    assert "--entity run=01" in warning.fix
    one, _ = find_images(tmp_path, entities={"run": "2,none"})
    assert names(one) == ["sub-01_run-02_T1w.nii.gz", "sub-02_T1w.nii.gz"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"suffix": "t1w"}, ['did you mean "T1w"?', "T1w: 2", "--derivative fmriprep"]),
        ({"suffix": "bold"}, ["none of 2 participant folders", "--suffix T1w"]),
        ({"derivative": "fmriprp"}, ['did you mean "fmriprep"?']),
        ({"derivative": "fmriprep", "entities": {"desc": "preprc"}}, ['did you mean "preproc"?', "preproc: 4"]),
        ({"derivative": "fmriprep", "entities": {"desk": "x"}}, ["no T1w image has the entity desk", '"desc"']),
        ({"entities": {"session": "1"}}, ["no T1w image has the entity session"]),
    ],
)
def test_what_is_not_there_names_what_is(tmp_path, options, said):
    build(tmp_path, [*IMAGES, *DERIVED])
    with pytest.raises(ManifestError) as error:
        find_images(tmp_path, **options)
    assert [text for text in said if text not in str(error.value)] == []


def test_folders_that_are_no_dataset_say_what_to_give(tmp_path):
    build(tmp_path / "study_a" / "rawdata")
    build(tmp_path / "study_b")
    for folder, said in [
        (tmp_path / "study_c", 'did you mean "study_b"?|did you mean "study_a"?'),
        (tmp_path / "study_b" / "participants.tsv", "is a file"),
        (tmp_path / "study_a", "give .*rawdata"),
        (tmp_path / "study_b" / "sub-01", "folder of one participant"),
        (tmp_path / "study_b" / "sub-01" / "anat", "no folder is named sub-LABEL"),
    ]:
        with pytest.raises(ManifestError, match=said):
            find_images(folder)
    build(tmp_path / "study_c")
    with pytest.raises(
        ManifestError, match=r"2 datasets lie in this folder.*study_b, study_c.*run the command on each"
    ):
        find_images(tmp_path)


def test_a_derivative_finds_the_table_of_its_dataset(tmp_path):
    build(tmp_path, DERIVED)
    inside, _ = find_images(tmp_path / "derivatives" / "fmriprep", entities={"space": "MNI"})
    beside, _ = find_images(tmp_path, derivative="fmriprep", entities={"space": "MNI"})
    pd.testing.assert_frame_equal(inside, beside)


@pytest.mark.parametrize(
    ("ids", "warned"),
    [
        (("sub-01", "sub-02"), []),
        (("01", "02"), []),
        (("1", "2"), ["1 for sub-01"]),
        (("sub-1", "sub-002"), ["002 for sub-02"]),
        (("Sub01", "SUB_02"), ["SUB_02 for sub-02"]),
    ],
)
def test_ids_are_matched_as_the_folders_spell_them(tmp_path, ids, warned):
    table = PARTICIPANTS.replace("sub-01", ids[0]).replace("sub-02", ids[1])
    manifest, problems = find_images(build(tmp_path, participants=table))
    assert manifest["participant_id"].tolist() == ["sub-01", "sub-02"]
    assert manifest["diagnosis"].tolist() == ["HC", "MDD"]
    assert [p.got for p in coded(problems, "spelled_labels")] == warned
    assert coded(problems, "row_without_image") == []


def test_ids_that_fit_nothing_show_both_sides(tmp_path):
    table = PARTICIPANTS.replace("sub-01", "A").replace("sub-02", "B")
    (problem,) = refuse(build(tmp_path, participants=table))
    assert (problem.code, problem.got, problem.allowed) == ("nothing_joins", "sub-A, sub-B, ...", "sub-01, sub-02, ...")


def test_ids_that_fit_two_folders_are_not_guessed(tmp_path):
    images = [*IMAGES, "sub-1/anat/sub-1_T1w.nii.gz"]
    manifest, problems = find_images(build(tmp_path, images, PARTICIPANTS + "001\tHC\t20\tF\n"))
    assert manifest["diagnosis"].fillna("none").tolist() == ["HC", "MDD", "none"]
    assert [p.participant_id for p in coded(problems, "row_without_image")] == ["sub-001"]
    assert [p.participant_id for p in coded(problems, "image_without_row")] == ["sub-1"]
    assert [p.got for p in coded(problems, "near_ids")] == ["sub-01 and sub-1"]


def test_rows_and_images_without_each_other_are_all_named(tmp_path):
    images = [*IMAGES, *(f"sub-x{i:02d}/anat/sub-x{i:02d}_T1w.nii.gz" for i in range(25))]
    table = PARTICIPANTS + "sub-03\tn/a\t20\tF\n" + "".join(f"sub-y{i:02d}\tHC\t20\tF\n" for i in range(25))
    manifest, problems = find_images(build(tmp_path, [*images, "sub-03/anat/sub-03_T2w.nii.gz"], table))
    assert len(manifest) == 27
    folder, none = coded(problems, "row_without_image")
    assert (folder.participant_id, folder.row) == ("sub-03", 4)
    assert "25 rows" in none.message
    (alone,) = coded(problems, "image_without_row")
    assert alone.message == "25 images without row"
    assert {p.severity for p in (folder, none, alone)} == {"warning"}


def test_an_empty_diagnosis_is_warned_about(tmp_path):
    manifest, problems = find_images(build(tmp_path, participants=PARTICIPANTS.replace("MDD", "n/a")))
    assert manifest["diagnosis"].isna().tolist() == [False, True]
    assert [(p.row, p.participant_id, p.severity) for p in coded(problems, "empty")] == [(3, "sub-02", "warning")]


@pytest.mark.parametrize("name", ["group", "Group", "dx", "DX_GROUP", "diag", "Diagnosis", "patient_group"])
def test_the_usual_names_of_the_diagnosis_are_known(tmp_path, name):
    manifest, problems = find_images(build(tmp_path, participants=PARTICIPANTS.replace("diagnosis", name)))
    assert manifest["diagnosis"].tolist() == ["HC", "MDD"]
    assert [p.severity for p in coded(problems, "diagnosis")] == ["info"]


def test_several_usual_names_are_warned_about_and_an_option_chooses(tmp_path):
    table = "participant_id\tdiagnosis\tgroup\nsub-01\tHC\tA\nsub-02\tMDD\tB\n"
    manifest, problems = find_images(build(tmp_path, participants=table))
    assert manifest["diagnosis"].tolist() == ["HC", "MDD"]
    (warning,) = coded(problems, "diagnosis")
    assert (warning.severity, "--diagnosis-column group" in warning.fix) == ("warning", True)
    manifest, _ = find_images(tmp_path, diagnosis_column="group")
    assert manifest["diagnosis"].tolist() == ["A", "B"]
    assert manifest["participants_diagnosis"].tolist() == ["HC", "MDD"]


def test_no_diagnosis_lists_the_columns_that_could_be_it(tmp_path):
    images = [f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz" for i in range(1, 7)]
    rows = "".join(f"sub-{i:02d}\t{i % 2}\t{i}\t{'ab'[i % 2]}\n" for i in range(1, 7))
    table = "participant_id\tpatient\tscore\tsite\n" + rows
    build(tmp_path, images, table, **{"participants.json": {"patient": {"Levels": {"0": "no", "1": "yes"}}}})
    absent, candidate = refuse(tmp_path)
    assert (absent.code, "--diagnosis NAME" in absent.fix) == ("no_diagnosis", True)
    assert "--phenotype" not in absent.fix
    assert (candidate.column, candidate.got) == ("patient", "1 (yes): 3, 0 (no): 3")
    assert candidate.fix == "--diagnosis-column patient"
    assert find_images(tmp_path, diagnosis_column="Patient")[0]["diagnosis"].tolist() == ["1", "0"] * 3
    assert 'did you mean "patient"?' in refuse(tmp_path, diagnosis_column="patiet")[0].fix


def test_a_dataset_of_one_group_needs_no_column(tmp_path):
    manifest, _ = find_images(build(tmp_path), diagnosis="control")
    assert manifest["diagnosis"].tolist() == ["control", "control"]
    assert manifest["participants_diagnosis"].tolist() == ["HC", "MDD"]
    with pytest.raises(ManifestError, match="exclude each other"):
        find_images(tmp_path, diagnosis="control", diagnosis_column="diagnosis")
    (tmp_path / "participants.tsv").unlink()
    manifest, _ = find_images(tmp_path, diagnosis="control")
    assert manifest.columns.tolist() == ["participant_id", "image_path", "diagnosis"]


def test_without_participants_table_the_message_says_how_to_write_it(tmp_path):
    (problem,) = refuse(build(tmp_path, participants=None))
    assert "2 participants are there" in problem.message
    assert "participant_id<tab>diagnosis<tab>age<tab>sex and one line per participant, sub-01 first" in problem.fix
    (tmp_path / "participants.csv").touch()
    assert refuse(tmp_path)[0].fix == "save participants.csv as participants.tsv"


def test_a_table_without_ids_says_which_column_to_rename(tmp_path):
    table = PARTICIPANTS.replace("participant_id", "Subject")
    (problem,) = refuse(build(tmp_path, participants=table))
    assert problem.fix == "--rename Subject=participant_id"
    assert len(find_images(tmp_path, rename={"Subject": "participant_id"})[0]) == 2


def test_renaming(tmp_path):
    table = PARTICIPANTS.replace("sex", "gender").replace("age", "years")
    manifest, problems = find_images(build(tmp_path, participants=table), rename={"years": "age"})
    assert manifest["age"].tolist() == [30, 41.5]
    assert manifest["sex"].tolist() == ["F", "M"]
    assert [(p.column, p.message) for p in coded(problems, "column_name")] == [("gender", "read as sex")]
    (problem,) = refuse(tmp_path, rename={"yers": "age"})
    assert (problem.code, problem.got, problem.fix) == ("rename", "yers=age", 'did you mean "years"?')
    assert refuse(tmp_path, rename={"years": "gender"})[0].column == "gender"
    kept, _ = find_images(tmp_path, rename={"gender": "gender_at_birth"})
    assert kept["gender_at_birth"].tolist() == ["F", "M"]
    assert "sex" not in kept


def test_participants_in_two_rows_stop_unless_sessions_tell_them_apart(tmp_path):
    images = [f"sub-01/ses-0{i}/anat/sub-01_ses-0{i}_T1w.nii.gz" for i in (1, 2)]
    table = "participant_id\tsession\tdiagnosis\tage\nsub-01\t1\tHC\t30\nsub-01\t2\tMDD\t31\nsub-01\t3\tMDD\t32\n"
    manifest, problems = find_images(build(tmp_path, images, table))
    assert manifest["session_id"].tolist() == ["ses-01", "ses-02"]
    assert manifest["diagnosis"].tolist() == ["HC", "MDD"]
    assert manifest["age"].tolist() == [30, 31]
    assert [p.row for p in coded(problems, "row_without_image")] == [4]
    (tmp_path / "participants.tsv").write_text(table.replace("session", "visit"))
    problems = refuse(tmp_path)
    assert [(p.code, p.row) for p in problems] == [("repeated_rows", 3), ("repeated_rows", 4)]
    assert "session_id" in problems[0].fix


def test_age_is_that_of_the_session(tmp_path):
    images = [f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz" for s in ("T1", "T2", "T3")]
    table = "participant_id\tdiagnosis\tage_ses-T1\tage_ses-T2\nsub-01\tHC\t8\t9.5\n"
    manifest, _ = find_images(build(tmp_path, images, table))
    assert manifest["age"].fillna(-1).tolist() == [8, 9.5, -1]


def test_codes_of_sex_are_translated_only_by_the_dictionary(tmp_path):
    table = PARTICIPANTS.replace("\tF\n", "\t2.0\n").replace("\tM\n", "\t1\n")
    problems = refuse(build(tmp_path, participants=table))
    assert [(p.row, p.got, p.code) for p in problems] == [(2, "2.0", "sex"), (3, "1", "sex")]
    levels = {"1": "Male participants", "2": {"Description": "female"}}
    (tmp_path / "participants.json").write_text(json.dumps({"sex": {"Levels": levels}}))
    manifest, problems = find_images(tmp_path)
    assert manifest["sex"].tolist() == ["F", "M"]
    assert "1 = M, 2 = F" in coded(problems, "levels")[0].message
    kept, _ = find_images(tmp_path, rename={"sex": "sex_code"})
    assert kept["sex_code"].tolist() == [2, 1]


def test_pooled_ages_become_their_limit_and_other_texts_stop(tmp_path):
    manifest, problems = find_images(build(tmp_path, participants=PARTICIPANTS.replace("41.5", "89+")))
    assert manifest["age"].tolist() == [30, 89]
    assert [(p.row, p.got, p.severity) for p in coded(problems, "pooled_age")] == [(3, "89+", "warning")]
    (tmp_path / "participants.tsv").write_text(PARTICIPANTS.replace("41.5", "adult"))
    (problem,) = refuse(tmp_path)
    assert (problem.row, problem.got, problem.participant_id) == (3, "adult", "sub-02")


def test_published_tables_are_read_leniently(tmp_path):
    build(tmp_path)
    table = "participant_id\tdiagnosis\tnote\nsub-01\tHC\tcafé\nsub-02\tMDD\n"
    (tmp_path / "participants.tsv").write_bytes(table.replace("\n", "\r\n").encode("cp1252"))
    manifest, problems = find_images(tmp_path)
    assert manifest["note"].fillna("none").tolist() == ["café", "none"]
    assert {(p.code, p.row, p.severity) for p in problems if p.severity != "info"} == {
        ("encoding", 2, "warning"),
        ("ragged_row", 3, "warning"),
    }


def test_phenotype_tables_are_joined_on_request(tmp_path):
    files = {
        "phenotype__bdi.tsv": "participant_id\tbdi_total\tage\nsub-02\t21\t99\nsub-77\t3\t50\n",
        "phenotype__bdi.json": {"bdi_total": {"Description": "Beck Depression Inventory"}, "age": {"Units": "months"}},
        "phenotype__visits.tsv": "participant_id\tvisit\nsub-01\t1\nsub-01\t2\n",
        "phenotype__anonymous.tsv": "code\tvalue\nA\t1\n",
    }
    without, _ = find_images(build(tmp_path, **files))
    assert "bdi_total" not in without
    manifest, problems = find_images(tmp_path, phenotype=True)
    assert manifest.columns.tolist() == [*without.columns, "bdi_total", "bdi_age"]
    assert manifest["bdi_total"].fillna(-1).tolist() == [-1, 21]
    assert manifest["age"].tolist() == [30, 41.5]
    assert [p.got for p in coded(problems, "clash")] == ["age as bdi_age"]
    left_out = {Path(p.file).name: p.severity for p in problems if "left out" in p.message + p.fix}
    assert left_out == {"visits.tsv": "warning", "anonymous.tsv": "warning"}
    described = describe_columns(manifest)
    assert described["bdi_total"] == {"Description": "Beck Depression Inventory"}
    assert described["bdi_age"] == {"Units": "months"}
    assert described["age"]["Units"] == "year"


def test_phenotype_folders_of_sessions(tmp_path):
    images = [f"sub-0{i}/ses-{s}/anat/sub-0{i}_ses-{s}_T1w.nii.gz" for i in (1, 2) for s in ("a", "b")]
    files = {
        "phenotype__ses-a__iq.tsv": "participant_id\tiq\nsub-01\t100\nsub-02\t110\n",
        "phenotype__ses-b__iq.tsv": "participant_id\tiq\nsub-01\t101\nsub-02\tn/a\n",
        "phenotype__ses-later__iq.tsv": "participant_id\tiq\nsub-01\t102\nsub-02\t-999\n",
    }
    manifest, problems = find_images(build(tmp_path, images, **files), phenotype=True)
    assert manifest["iq"].fillna(-1).tolist() == [100, 101, 110, -1]
    assert manifest["ses-later_iq"].tolist() == [102, 102, -999, -999]
    (code,) = coded(problems, "missing_code")
    assert (Path(code.file).parent.name, code.row, code.column) == ("ses-later", 3, "ses-later_iq")


def test_a_diagnosis_may_come_from_a_phenotype_table(tmp_path):
    table = "participant_id\tage\nsub-01\t30\nsub-02\t41\n"
    files = {"phenotype__scid.tsv": "participant_id\tscid_dx\nsub-01\tnone\nsub-02\tMDD\n"}
    build(tmp_path, participants=table, **files)
    assert "--phenotype" in refuse(tmp_path, diagnosis_column="scid_dx")[0].fix
    assert "--phenotype" in refuse(tmp_path)[0].fix
    manifest, _ = find_images(tmp_path, diagnosis_column="scid_dx", phenotype=True)
    assert manifest["diagnosis"].tolist() == ["none", "MDD"]


def test_sessions_tables_go_before_participants(tmp_path):
    images = [f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz" for s in ("1", "2")] + [IMAGES[1]]
    files = {
        "sub-02__sub-02_sessions.tsv": "session_id\tAge\tmadrs\nses-1\t40\t2\n",
        "sub-01__sub-01_sessions.tsv": "session_id\tAge\tmadrs\nses-1\t30.5\t20\nses-2\t89+\tn/a\nses-3\t33\t1\n",
        "sessions.json": {"madrs": {"Description": "Montgomery"}},
    }
    manifest, problems = find_images(build(tmp_path, images, **files), sessions=True)
    assert manifest["age"].fillna(-1).tolist() == [30.5, 89, -1]
    assert manifest["participants_age"].tolist() == [30, 30, 41.5]
    assert manifest["madrs"].fillna(-1).tolist() == [20, -1, -1]
    (pooled,) = coded(problems, "pooled_age")
    assert (Path(pooled.file).name, pooled.row) == ("sub-01_sessions.tsv", 3)
    assert [p.message for p in coded(problems, "column_name")] == ["read as age"]
    assert describe_columns(manifest)["madrs"] == {"Description": "Montgomery"}
    for sub in ("sub-01", "sub-02"):
        (tmp_path / sub / f"{sub}_sessions.tsv").unlink()
    assert coded(find_images(tmp_path, sessions=True)[1], "sessions")[0].severity == "warning"


def test_a_broken_dictionary_is_a_warning(tmp_path):
    manifest, problems = find_images(build(tmp_path, **{"participants.json": "{not json"}))
    assert len(manifest) == 2
    assert [p.severity for p in coded(problems, "sidecar")] == ["warning"]


def test_columns_named_as_the_images_own_do_not_replace_them(tmp_path):
    table = "participant_id\tdiagnosis\trun\timage_path\tsession_id\nsub-01\tHC\t7\tx\t9\nsub-02\tMDD\t8\ty\t9\n"
    manifest, _ = find_images(build(tmp_path, participants=table))
    assert names(manifest) == ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"]
    assert not {"run", "session_id"} & set(manifest.columns)
    assert manifest["participants_run"].tolist() == ["7", "8"]


def test_all_that_needs_a_decision_is_said_at_once(tmp_path):
    images = [*IMAGES, "sub-01/anat/sub-01_acq-b_T1w.nii.gz"]
    problems = refuse(build(tmp_path, images, "participant_id\tage\nsub-01\told\nsub-02\t30\n"), rename={"x": "y"})
    assert [p.code for p in problems] == ["several_images", "rename", "no_diagnosis", "not_a_number"]
