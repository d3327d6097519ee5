import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sepclr_med.cohort.columns import KNOWN_COLUMNS, describe_columns
from sepclr_med.cohort.manifest import assign_roles, manifest_hash, read_manifest, write_manifest
from sepclr_med.errors import ManifestError, RunError
from sepclr_med.pipeline import run_recipe

HEADER = "participant_id,image_path,diagnosis,age,sex\n"
ROWS = "001,a.nii.gz,control,30.5,F\n002,sub/b.nii.gz,patient,n/a,m\n"
TEMPLATE = Path(__file__).parents[1] / "data_manifests" / "template.csv"


def save(folder, content, name="manifest.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder, content, name="manifest.csv", **options):
    return read_manifest(save(folder, content, name), **options)


def refuse(folder, content, name="manifest.csv", **options):
    with pytest.raises(ManifestError) as error:
        read(folder, content, name, **options)
    return error.value.problems


def remarks(manifest, code):
    return [problem for problem in manifest.attrs["problems"] if problem.code == code]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", HEADER + ROWS),
        ("plain.tsv", (HEADER + ROWS).replace(",", "\t")),
        ("crlf.csv", (HEADER + ROWS).replace("\n", "\r\n")),
        ("old_mac.csv", (HEADER + ROWS).replace("\n", "\r")),
        ("bom.csv", b"\xef\xbb\xbf" + (HEADER + ROWS).encode()),
        ("bom_crlf_quoted.csv", b'\xef\xbb\xbf"participant_id"' + (HEADER + ROWS)[14:].replace("\n", "\r\n").encode()),
        ("excel_unicode_text.txt", (HEADER + ROWS).replace(",", "\t").encode("utf-16")),
        ("european.csv", (HEADER + ROWS).replace(",", ";")),
        ("commas_named.tsv", HEADER + ROWS),
        ("no_extension", (HEADER + ROWS).replace(",", "\t")),
        ("no_last_line_end.csv", (HEADER + ROWS).rstrip("\n")),
        ("blank_lines.csv", "\n" + HEADER + "\n" + ROWS + ",,,,\n  \n\n"),
        ("spaces.csv", (HEADER + ROWS).replace(",", " , ")),
        ("quoted.csv", '"participant_id","image_path","diagnosis","age","sex"\n' + ROWS.replace("001", '"001"')),
    ],
)
def test_every_dialect_gives_the_same_table(tmp_path, name, content):
    manifest = read(tmp_path, content, name)
    assert manifest.columns.tolist() == ["participant_id", "image_path", "diagnosis", "age", "sex"]
    assert manifest["participant_id"].tolist() == ["001", "002"]
    assert manifest["image_path"].tolist() == [str(tmp_path / "a.nii.gz"), str(tmp_path / "sub" / "b.nii.gz")]
    assert manifest["diagnosis"].tolist() == ["control", "patient"]
    assert manifest["age"].iloc[0] == 30.5
    assert np.isnan(manifest["age"].iloc[1])
    assert manifest["sex"].tolist() == ["F", "M"]
    assert manifest.index.tolist() == [0, 1]


@pytest.mark.parametrize("missing", ["n/a", "N/A", "NA", "NaN", "nan", "", ".", "-", "null", "None", " n/a "])
def test_missing_dialects_are_missing_silently(tmp_path, missing):
    content = "participant_id,image_path,diagnosis,session_id,site,age,tiv,sex,score,note\n"
    manifest = read(tmp_path, content + f"1,a,c{f',{missing}' * 7}\n2,b,c,ses-1,x,30,1500,F,2.5,word\n")
    assert manifest.drop(columns=["participant_id", "image_path", "diagnosis"]).iloc[0].isna().all()
    assert manifest["score"].dtype == float
    assert manifest["note"].iloc[1] == "word"
    assert manifest.attrs["problems"] == []


@pytest.mark.parametrize("code", ["-9", "-999", "-9999", "999"])
def test_codes_for_missing_are_kept_and_warned_about(tmp_path, code):
    rows = "1,a,c,30,1.5\n2,b,c,31,2\n" + f"3,d,c,{code},{code}\n"
    content = "participant_id,image_path,diagnosis,age,score\n" + rows
    manifest = read(tmp_path, content)
    assert manifest["score"].tolist() == [1.5, 2, float(code)]
    warned = remarks(manifest, "missing_code")
    assert [(p.column, p.row, p.got, p.severity) for p in warned] == [
        ("age", 4, code, "warning"),
        ("score", 4, code, "warning"),
    ]
    blanked = read(tmp_path, content, missing_codes=[float(code)])
    assert blanked[["age", "score"]].iloc[2].isna().all()
    assert remarks(blanked, "missing_code") == []


def test_a_number_within_the_range_of_its_column_is_no_code(tmp_path):
    rows = "".join(f"{i},{i}.nii,c,{time}\n" for i, time in enumerate([700, 999, 1500]))
    assert read(tmp_path, "participant_id,image_path,diagnosis,rt\n" + rows).attrs["problems"] == []


def test_ids_stay_text_and_only_numbers_become_numbers(tmp_path):
    header = "participant_id,session_id,run,image_path,diagnosis,site,fold,padded,long,count,mixed,date\n"
    rows = [
        f"00{i},01,1,{i}.nii,0,{i},0,0{i},1234567890123456{i},{i},{'x' if i == 3 else i},2020010{i}\n"
        for i in range(1, 6)
    ]
    manifest = read(tmp_path, header + "".join(rows))
    first = manifest.iloc[0].to_dict()
    texts = {"participant_id": "001", "session_id": "01", "run": "1", "diagnosis": "0", "site": "1", "fold": "0"}
    texts |= {"padded": "01", "long": "12345678901234561", "mixed": "1"}
    assert {name: first[name] for name in texts} == texts
    assert manifest[["count", "date"]].dtypes.tolist() == [float, float]
    assert [(p.column, p.row, p.got) for p in remarks(manifest, "mixed_column")] == [("mixed", 4, "x")]


def test_decimal_commas_are_warned_about(tmp_path):
    manifest = read(tmp_path, "participant_id;image_path;diagnosis;score\n1;a;c;1,5\n2;b;c;n/a\n3;d;c;2,25\n")
    assert manifest["score"].iloc[0] == "1,5"
    assert [(p.column, p.row, p.fix[:21]) for p in remarks(manifest, "decimal_comma")] == [
        ("score", 2, "write a decimal point")
    ]


def test_columns_keep_their_order_and_other_spellings_are_recognised(tmp_path):
    header = "SubjectScore,Diagnosis,Participant_ID,Image Path,gender,AGE,sites\n"
    manifest = read(tmp_path, header + "1,c,001,a.nii,female,30,x\n2,c,002,b.nii,male,31,y\n")
    names = ["SubjectScore", "diagnosis", "participant_id", "image_path", "sex", "age", "sites"]
    assert manifest.columns.tolist() == names
    said = {p.column: (p.severity, p.message, p.fix) for p in remarks(manifest, "column_name")}
    assert said["gender"][:2] == ("info", "read as sex")
    assert said["AGE"][:2] == ("info", "read as age")
    assert said["sites"][0] == "warning"
    assert 'did you mean "site"?' in said["sites"][2]
    assert "SubjectScore" not in said


def test_two_columns_for_one_are_not_guessed(tmp_path):
    manifest = read(tmp_path, "participant_id,image_path,diagnosis,Sex,gender\n1,a,c,F,M\n2,b,c,M,F\n")
    assert "sex" not in manifest
    assert {(p.column, p.severity) for p in remarks(manifest, "column_name")} == {
        ("Sex", "warning"),
        ("gender", "warning"),
    }


def test_every_problem_is_said_at_once_with_its_place(tmp_path):
    rows = [
        "1,a.nii,c,30,F,train",
        "2,b.nii,c,old,F,train",
        "3,c.nii,c,31,xx,train",
        "4,,c,31,F,training",
        ",e.nii,c,31,F,",
        "1,f.nii,c,31,F,val",
        "2,a.nii,c,31,F,test",
        "1,a.nii,c,30,F,train",
    ]
    problems = refuse(tmp_path, HEADER.replace("\n", ",split\n") + "\n".join(rows))
    found = {(p.row, p.column, p.got, p.code) for p in problems}
    assert found == {
        (3, "age", "old", "not_a_number"),
        (4, "sex", "xx", "sex"),
        (5, "split", "training", "split"),
        (5, "image_path", "", "empty"),
        (6, "participant_id", "", "empty"),
        (7, "", "", "duplicate_id"),
        (8, "", "", "duplicate_id"),
        (9, "", "", "duplicate_row"),
    }
    assert all(p.file == str(tmp_path / "manifest.csv") and p.fix for p in problems)
    by_row = {(p.row, p.code): p for p in problems}
    assert by_row[3, "not_a_number"].participant_id == "2"
    assert by_row[3, "not_a_number"].allowed == "a number (year) or n/a"
    assert by_row[5, "split"].fix == 'did you mean "train"?'
    assert "the first is row 2" in by_row[9, "duplicate_row"].message


def test_the_same_image_twice_is_refused(tmp_path):
    (problem,) = refuse(tmp_path, HEADER + "1,a.nii,c,30,F\n2,a.nii,c,31,M\n")
    assert (problem.row, problem.column, problem.participant_id) == (3, "image_path", "2")


def test_sessions_and_runs_tell_rows_apart(tmp_path):
    header = "participant_id,session_id,run,image_path,diagnosis\n"
    assert len(read(tmp_path, header + "1,1,1,a,c\n1,1,2,b,c\n1,2,1,d,c\n1,n/a,1,e,c\n")) == 4
    (problem,) = refuse(tmp_path, header + "1,n/a,1,a,c\n1,n/a,1,b,c\n")
    assert problem.code == "duplicate_id"


def test_one_participant_under_two_names_is_warned_about(tmp_path):
    manifest = read(tmp_path, HEADER + "sub-01,a,c,30,F\n1,b,c,30,F\nsub-02,d,c,30,F\n")
    (warning,) = remarks(manifest, "near_ids")
    assert warning.got == "sub-01 and 1"


def test_a_diagnosis_that_no_option_can_name_is_warned_about_once(tmp_path):
    manifest = read(tmp_path, HEADER + '1,a,"MDD, recurrent",30,F\n2,b,"MDD, recurrent",31,F\n3,d,control,32,M\n')
    (warning,) = remarks(manifest, "comma")
    assert (warning.severity, warning.column, warning.got) == ("warning", "diagnosis", "MDD, recurrent")
    assert "rename" in warning.fix


def test_a_wrong_column_is_one_problem_not_a_hundred_thousand(tmp_path):
    rows = "".join(f"{i},{i}.nii,c,old,{1 + i % 2}\n" for i in range(1000))
    problems = refuse(tmp_path, HEADER + rows)
    assert [(p.column, p.row) for p in problems] == [("age", 2), ("sex", 2)]
    assert problems[0].got == "old: 1,000"
    assert problems[1].got == "1: 500, 2: 500"


@pytest.mark.parametrize(
    ("value", "code", "hint"),
    [
        ("89+", "ages pooled", "write the limit itself (89 for 89+)"),
        (">89", "ages pooled", "write the limit itself"),
        ('"30,5"', "decimal comma", "decimal point"),
        ("thirty", "not a number", "n/a"),
        ("inf", "not a number", "n/a"),
    ],
)
def test_ages_that_are_no_numbers_are_explained(tmp_path, value, code, hint):
    (problem,) = refuse(tmp_path, HEADER + f"1,a.nii,c,{value},F\n")
    assert code in problem.message
    assert hint in problem.fix
    assert (problem.row, problem.column, problem.got) == (2, "age", value.strip('"'))


@pytest.mark.parametrize(("column", "value"), [("age", "361"), ("age", "-1"), ("tiv", "1450000"), ("tiv", "1.45")])
def test_implausible_units_are_warned_about(tmp_path, column, value):
    header = f"participant_id,image_path,diagnosis,{column}\n"
    (warning,) = remarks(read(tmp_path, header + f"1,a,c,{value}\n"), "implausible")
    assert (warning.column, warning.row, warning.got, warning.severity) == (column, 2, value, "warning")


@pytest.mark.parametrize(
    ("spelled", "sex"),
    [("F", "F"), ("f", "F"), ("Female", "F"), ("woman", "F"), ("M", "M"), ("MALE", "M"), ("o", "O"), ("Other", "O")],
)
def test_common_spellings_of_sex_are_read(tmp_path, spelled, sex):
    assert read(tmp_path, HEADER + f"1,a.nii,c,30,{spelled}\n")["sex"].tolist() == [sex]


def test_codes_of_sex_are_not_guessed(tmp_path):
    problems = refuse(tmp_path, HEADER + "1,a.nii,c,30,1\n2,b.nii,c,30,2.0\n")
    assert [(p.row, p.got, "not guessed" in p.fix) for p in problems] == [(2, "1", True), (3, "2.0", True)]


@pytest.mark.parametrize(
    ("header", "column", "hint"),
    [
        ("participant,image_path,diagnosis", "participant_id", 'rename column "participant"'),
        ("participant_idd,image_path,diagnosis", "participant_id", 'rename column "participant_idd" to participant_id'),
        ("participant_id,image_pth,diagnosis", "image_path", 'rename column "image_pth" to image_path'),
        ("participant_id,image_path,DX_GROUP", "diagnosis", 'rename column "DX_GROUP"'),
        ("participant_id,image_path,score", "diagnosis", "add a column diagnosis"),
    ],
)
def test_absent_columns_name_the_one_that_may_be_meant(tmp_path, header, column, hint):
    (problem,) = refuse(tmp_path, f"{header}\n1,a.nii,c\n")
    assert (problem.code, problem.column, problem.row) == ("missing_column", column, 1)
    assert hint in problem.fix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 workbook", "workbook"),
        (gzip.compress(b"participant_id", mtime=0), "compressed"),
        (b"\x5c\x01\x00\x00 an image", "not text"),
        (b"", "empty"),
        (b"\xef\xbb\xbf\n\n", "empty"),
        (HEADER, "no rows"),
        ("participant_id  image_path  diagnosis\n1  a  c\n", "separated by spaces"),
        (HEADER + '1,"a.nii,c,30,F\n2,b.nii,c,31,F\n', "never closed"),
    ],
)
def test_what_is_no_table_is_said_to_be_none(tmp_path, content, message):
    (problem,) = refuse(tmp_path, content)
    assert message in problem.message
    assert problem.fix


def test_a_missing_file_names_its_neighbour_and_a_folder_is_no_table(tmp_path):
    save(tmp_path, HEADER + ROWS)
    with pytest.raises(ManifestError, match=r'did you mean "manifest\.csv"'):
        read_manifest(tmp_path / "manifset.csv")
    with pytest.raises(ManifestError, match="is a folder"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="--bids-root is not a folder"):
        read_manifest(tmp_path / "manifest.csv", bids_root=tmp_path / "nowhere")


def test_another_encoding_is_named_with_its_row(tmp_path):
    (problem,) = refuse(tmp_path, (HEADER + ROWS + "003,é.nii,c,30,F\n").encode("cp1252"))
    assert (problem.row, problem.code) == (4, "encoding")
    assert "é" in problem.got
    assert "UTF-8" in problem.fix


@pytest.mark.parametrize(
    ("rows", "row", "message"),
    [
        ("1,a,c,30,F\n2,b,c,31,F,extra\n", 3, "more cells"),
        ("1,a,c,30,F\n\n2,b,c\n", 4, "fewer cells"),
        ('1,"a, with comma",c,30,F\n2,b,c\n', 3, "fewer cells"),
        ('1,a,c,30,F\n2,"b,c,30,F\n3,d"",c,30,F\n4,e",c,30,F\n', 3, "swallowed"),
    ],
)
def test_ragged_rows_are_found(tmp_path, rows, row, message):
    (problem,) = refuse(tmp_path, HEADER + rows)
    assert problem.row == row
    assert message in problem.message


def test_row_numbers_are_a_spreadsheets(tmp_path):
    rows = '1,"line\nbreak",c,30,F\n\n,,,,\n2,b,c,31,F,extra\n3,c,c,old,F\n'
    problems = refuse(tmp_path, HEADER + rows)
    assert [(p.row, p.code) for p in problems] == [(5, "ragged_row"), (6, "not_a_number")]


def test_columns_twice_are_refused_and_columns_without_name_left_out(tmp_path):
    header = ",participant_id,image_path,diagnosis,age,age\n"
    (problem,) = refuse(tmp_path, header + "0,1,a.nii,c,30,31\n")
    assert (problem.column, problem.row) == ("age", 1)
    manifest = read(tmp_path, ",participant_id,image_path,diagnosis,\n0,1,a.nii,c,\n")
    assert manifest.columns.tolist() == ["participant_id", "image_path", "diagnosis"]
    assert len(manifest.attrs["problems"]) == 1


def test_image_paths_are_absolute_against_the_right_folder(tmp_path):
    paths = ["x/a.nii", "x\\b.nii", "../c.nii", "/elsewhere/d.nii"]
    rows = "".join(f"{i},{path},c,30,F\n" for i, path in enumerate(paths))
    here = tmp_path / "tables"
    here.mkdir()
    expected = [str(here / "x/a.nii"), str(here / "x/b.nii"), str(tmp_path / "c.nii"), "/elsewhere/d.nii"]
    assert read(here, HEADER + rows)["image_path"].tolist() == expected
    given = HEADER + rows.replace("../c.nii", "x/../c.nii")
    expected = [str(tmp_path / name) for name in ("x/a.nii", "x/b.nii", "c.nii")]
    assert read(here, given, bids_root=tmp_path)["image_path"].tolist() == [*expected, "/elsewhere/d.nii"]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset, and images that lie beside it and in the user's home."""
    for place in ("study/sub-01/a.nii", "secret/b.nii", "home/c.nii", "study_two/d.nii"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "study" / "linked.nii").symlink_to(tmp_path / "secret" / "b.nii")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "study"


LEAVING = ["../secret/b.nii", "sub-01/../../secret/b.nii", "..\\study_two\\d.nii", "~/c.nii", "~root/x.nii"]


def test_relative_paths_that_leave_the_bids_root_are_refused_all_at_once(tmp_path, dataset):
    rows = "".join(f"{i},{path},c,30,F\n" for i, path in enumerate(["sub-01/a.nii", *LEAVING]))
    problems = refuse(tmp_path, HEADER + rows, bids_root=dataset)
    assert [(p.row, p.column, p.got, p.code) for p in problems] == [
        (row, "image_path", path, "outside") for row, path in enumerate(LEAVING, 3)
    ]
    said = str(problems[0])
    assert said.startswith(f'{tmp_path / "manifest.csv"}, row 3, 1, column "image_path": a relative path leaves the')
    assert f"allowed: a path within {dataset}, or an absolute one; fix: " in said
    # Without a folder that is given, the table stands for itself.
    assert len(read(dataset, HEADER + rows)) == len(LEAVING) + 1


def test_masks_that_leave_the_bids_root_are_refused_too(tmp_path, dataset):
    content = "participant_id,image_path,mask_path,diagnosis\n01,sub-01/a.nii,../secret/b.nii,c\n02,a.nii,n/a,c\n"
    (problem,) = refuse(tmp_path, content, bids_root=dataset)
    assert (problem.row, problem.column, problem.code) == (2, "mask_path", "outside")


def test_absolute_paths_and_links_within_the_bids_root_are_the_authors_own(tmp_path, dataset):
    paths = ["linked.nii", str(tmp_path / "secret" / "b.nii"), "sub-01/../sub-01/a.nii"]
    rows = "".join(f"{i},{path},c,30,F\n" for i, path in enumerate(paths))
    (tmp_path / "alias").symlink_to(dataset)
    for root in (dataset, tmp_path / "alias"):
        manifest = read(tmp_path, HEADER + rows, bids_root=root)
        found = [str(dataset / "linked.nii"), paths[1], str(dataset / "sub-01" / "a.nii")]
        assert manifest["image_path"].tolist() == found
        # What is written with the same folder can be read with it.
        again = read_manifest(write_manifest(manifest, tmp_path / "again.tsv", bids_root=root), bids_root=root)
        assert again["image_path"].tolist() == found


def test_a_recipes_bids_root_is_not_left_either(tmp_path, dataset):
    save(tmp_path, HEADER + "01,../secret/b.nii,control,30,F\n02,~/c.nii,patient,30,F\n")
    recipe = save(tmp_path, "cohort: {manifest: manifest.csv, bids_root: study}\n", "recipe.yaml")
    with pytest.raises(ManifestError) as error:
        run_recipe(recipe, tmp_path / "run")
    assert [(p.row, p.code) for p in error.value.problems] == [(2, "outside"), (3, "outside")]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def manifest(tmp_path):
    values = {
        "participant_id": ["001", "002", "003"],
        "session_id": ["1", None, "2"],
        "image_path": [str(tmp_path / name) for name in ("bids/a.nii", "bids/b c.nii", "d.nii")],
        "diagnosis": ["HC", "MDD", None],
        "age": [30.1 + 1 / 3, np.nan, 60],
        "score": [1e-7, 123456789012.5, -0.1],
        "note": ['with "quotes"', "tab\tand, comma; é", None],
        "count": [1, 2, 3],
    }
    return pd.DataFrame(values)


@pytest.mark.parametrize("name", ["out.tsv", "deep/er/out.csv"])
def test_what_is_written_is_read_back_the_same(tmp_path, manifest, name):
    path = write_manifest(manifest, tmp_path / name)
    once = read_manifest(path)
    assert once["image_path"].tolist() == manifest["image_path"].tolist()
    for column in ("age", "score", "count"):
        np.testing.assert_allclose(once[column], manifest[column], rtol=1e-14)
    for column in ("participant_id", "session_id", "diagnosis", "note"):
        assert once[column].where(once[column].notna(), None).tolist() == manifest[column].tolist()
    assert manifest_hash(once) == manifest_hash(manifest)
    pd.testing.assert_frame_equal(read_manifest(write_manifest(once, path)), once)


def test_what_is_written_is_portable(tmp_path, manifest):
    path = write_manifest(manifest.iloc[:2], tmp_path / "bids" / "code" / "m.tsv", bids_root=tmp_path / "bids")
    text = path.read_bytes().decode()
    assert str(tmp_path) not in text
    assert "\r" not in text
    header, first, second = text.splitlines()
    assert dict(zip(header.split("\t"), first.split("\t"), strict=True))["image_path"] == "a.nii"
    assert "n/a" in second
    moved = (tmp_path / "bids").rename(tmp_path / "moved")
    read_again = read_manifest(moved / "code" / "m.tsv", bids_root=moved)
    assert read_again["image_path"].tolist() == [str(moved / "a.nii"), str(moved / "b c.nii")]


def test_a_linked_folder_changes_no_path(tmp_path, manifest):
    (tmp_path / "real" / "runs").mkdir(parents=True)
    os.symlink(tmp_path / "real" / "runs", tmp_path / "runs")
    write_manifest(manifest, tmp_path / "runs" / "m.tsv")
    for folder in (tmp_path / "runs", tmp_path / "real" / "runs"):
        assert read_manifest(folder / "m.tsv")["image_path"].tolist() == manifest["image_path"].tolist()


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path, manifest):
    path = write_manifest(manifest, tmp_path / "m.tsv")
    before = path.read_bytes()
    with pytest.raises(ManifestError, match=r"\.tsv or \.csv"):
        write_manifest(manifest, tmp_path / "m.xlsx")
    with pytest.raises(RunError):
        write_manifest(manifest, path / "below" / "m.tsv")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tsv"]


def test_the_hash_is_of_what_is_said(manifest):
    same = manifest_hash(manifest)
    assert manifest_hash(manifest[manifest.columns[::-1]]) == same
    assert manifest_hash(manifest.assign(image_path=["/x/a.nii", "/y/b c.nii", "d.nii"])) == same
    assert manifest_hash(manifest.assign(count=["1", "2", "3"])) == same
    assert manifest_hash(manifest.astype({"count": float})) == same
    changed = [
        manifest.iloc[::-1],
        manifest.iloc[:2],
        manifest.assign(count=[1, 2, 4]),
        manifest.assign(diagnosis=["HC", "HC", None]),
        manifest.assign(image_path=["other.nii", *manifest["image_path"].iloc[1:]]),
        manifest.drop(columns="note"),
    ]
    assert len({same, *map(manifest_hash, changed)}) == 1 + len(changed)


def test_roles():
    table = pd.DataFrame({"diagnosis": ["HC", "MDD", "PDD", "other", None]}, index=[5, 6, 7, 8, 9])
    roles = assign_roles(table, ["HC"], ["MDD", "PDD"])
    assert roles.name == "role"
    assert roles.dropna().to_dict() == {5: "background", 6: "target", 7: "target"}
    assert (roles == "target").to_numpy(bool).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("background", "target", "said"),
    [
        (
            ["contrl"],
            ["mdd", "PD"],
            ['got "mdd"', "--background HC --target MDD,PDD", 'got "PD"', "HC: 2, MDD: 1, PDD: 1"],
        ),
        ([], ["MDD"], ["no diagnosis is given for background", "--background"]),
        (["HC"], ["HC"], ['"HC" is given for background and target']),
    ],
)
def test_roles_that_cannot_be_formed_are_explained(background, target, said):
    table = pd.DataFrame({"diagnosis": ["HC", "HC", "MDD", "PDD", None]})
    with pytest.raises(ManifestError) as error:
        assign_roles(table, background, target)
    assert [text for text in said if text not in str(error.value)] == []


def test_a_word_that_is_only_the_default_is_said_to_be_it_with_the_diagnoses_that_are_there():
    table = pd.DataFrame({"diagnosis": ["control", "depr", "depr"]})
    with pytest.raises(ManifestError) as error:
        assign_roles(table, ["control"], ["patient"])
    (problem,) = error.value.problems
    assert problem.message == "no row has the diagnosis that is the default for target; there are depr: 2, control: 1"
    assert problem.fix == "--background control --target depr"


def test_a_misspelt_column_is_named_beside_the_one_that_is_absent(tmp_path):
    found = refuse(tmp_path, "participant_id,image_path,diagnosiss,agee\n1,a.nii,c,30\n")
    assert [(problem.column, problem.code) for problem in found] == [
        ("agee", "column_name"),
        ("diagnosis", "missing_column"),
    ]
    assert 'did you mean "age"?' in found[0].fix
    assert found[1].fix == 'rename column "diagnosiss" to diagnosis'


def test_roles_without_diagnosis_name_the_column():
    with pytest.raises(ManifestError, match='rename column "dx" to diagnosis'):
        assign_roles(pd.DataFrame({"dx": ["HC"]}), ["HC"], ["MDD"])


def test_the_template_is_a_manifest_and_its_dictionary_is_complete():
    template = read_manifest(TEMPLATE)
    assert template.attrs["problems"] == []
    dictionary = pd.read_json(TEMPLATE.with_suffix(".json"), typ="series").to_dict()
    assert list(dictionary) == template.columns.tolist()
    assert template.attrs["dictionary"] == dictionary
    assert describe_columns(template) == dictionary
    assert {name: dictionary[name] for name in KNOWN_COLUMNS if name in dictionary} == {
        name: dict(entry) for name, entry in KNOWN_COLUMNS.items() if name in dictionary
    }
    readme = (TEMPLATE.parent / "README.md").read_text()
    assert [name for name in KNOWN_COLUMNS if f"`{name}`" not in readme] == []


def test_a_hundred_thousand_rows_are_read_and_checked(tmp_path):
    rng = np.random.default_rng(0)
    n = 100_000
    ids = [f"{i:06d}" for i in range(n)]
    table = pd.DataFrame(
        {
            "participant_id": ids,
            "image_path": [f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in ids],
            "diagnosis": rng.choice(["control", "patient"], n),
            "age": rng.uniform(18, 90, n).round(1),
            "sex": rng.choice(["male", "female", "n/a"], n),
        }
    )
    table.loc[77_777, "participant_id"] = "000001"
    table.loc[88_888, "age"] = 199
    table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    with pytest.raises(ManifestError) as error:
        read_manifest(tmp_path / "m.tsv")
    assert [(p.row, p.code) for p in error.value.problems] == [(77_779, "duplicate_id")]
    table.drop(index=77_777).to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    manifest = read_manifest(tmp_path / "m.tsv")
    assert len(manifest) == n - 1
    assert set(manifest["sex"].dropna()) == {"F", "M"}
    assert [(p.row, p.got) for p in manifest.attrs["problems"]] == [(88_889, "199.0")]


def test_masks_are_paths_like_images_and_may_be_missing(tmp_path):
    path = tmp_path / "manifest.tsv"
    path.write_text("participant_id\timage_path\tmask_path\tdiagnosis\n01\ta.nii\tm/a.nii\tx\n02\tb.nii\tn/a\ty\n")
    manifest = read_manifest(path)
    assert manifest["mask_path"][0] == str(tmp_path / "m" / "a.nii")
    assert manifest["mask_path"].isna().tolist() == [False, True]
    (tmp_path / "sub").mkdir()
    written = write_manifest(manifest, tmp_path / "sub" / "copy.tsv")
    assert "../m/a.nii" in written.read_text()
    pd.testing.assert_frame_equal(read_manifest(written), manifest)
