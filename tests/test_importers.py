"""Known cohorts: every importer is valid, reads the columns its cohort is published with, and is in the docs."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from importer_cases import CASES
from typer.testing import CliRunner

from sepclr_med.cli import app
from sepclr_med.cohort.bids import find_images
from sepclr_med.cohort.columns import KNOWN_COLUMNS, NUMBERS
from sepclr_med.cohort.dialects import translate_table
from sepclr_med.cohort.importers import (
    ImageRules,
    Importer,
    TableRules,
    describe_importers,
    list_importers,
    read_importer,
)
from sepclr_med.cohort.manifest import assign_roles, read_manifest, write_manifest
from sepclr_med.cohort.name_patterns import compile_pattern, rewrite_name
from sepclr_med.errors import ConfigError, ManifestError
from sepclr_med.pipeline import find_cohort
from sepclr_med.rundir import RunDir
from sepclr_med.settings import BidsConfig, CohortConfig

ROOT = Path(__file__).parents[1]
KNOWN = sorted(list_importers())
REAL = {"ds000030", "ds002748"}


def build(folder, case):
    for name, text in case.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in case.images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def own(tmp_path, **changes):
    """Write an importer of one's own: that of ds002748 with changes."""
    values = yaml.safe_load(list_importers()["ds002748"].read_text())
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    return path


def test_no_cohort_is_without_a_case():
    assert set(CASES) == set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_every_importer_reads_the_published_columns(tmp_path, name):
    case = CASES[name]
    manifest, problems = find_images(build(tmp_path, case), cohort=name)
    shown = {
        column: manifest[column].astype(object).where(manifest[column].notna(), None).tolist()
        for column in case.expected
    }
    assert shown == {
        column: pytest.approx(values) if column in NUMBERS else values for column, values in case.expected.items()
    }
    assert not [problem for problem in problems if problem.code in ("absent_columns", "row_without_image", "levels")]
    written = read_manifest(write_manifest(manifest, tmp_path / "manifest.tsv"))
    pd.testing.assert_frame_equal(written, manifest)
    importer = read_importer(name)
    if importer.background and importer.target:
        roles = assign_roles(
            written, importer.background, [d for d in importer.target if d in set(written["diagnosis"])]
        )
        assert set(roles.dropna()) == {"background", "target"}


@pytest.mark.parametrize("name", KNOWN)
def test_every_importer_says_where_it_is_from_and_whether_it_was_tested(name):
    importer = read_importer(name)
    assert importer.home.startswith("https://")
    assert importer.is_tested == (name in REAL)


def test_the_real_table_of_cnp(shared_data, tmp_path):
    root = tmp_path / "ds000030"
    shutil.copytree(shared_data / "bids_dialects" / "ds000030", root, copy_function=shutil.copyfile)
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    for image in (root / "T1w_paths.txt").read_text().split():
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).touch()
    manifest, problems = find_images(root, cohort="ds000030")
    counts = {"control": 125, "schizophrenia": 50, "bipolar": 49, "adhd": 41}
    assert manifest["diagnosis"].value_counts().to_dict() == counts
    assert manifest["sex"].value_counts().to_dict() == {"M": 153, "F": 112}
    assert set(manifest["scanner"]) == {"35343", "35426"}
    assert {problem.code for problem in problems} == {"importer", "diagnosis", "row_without_image"}


def test_the_real_tables_of_ds002748(shared_data):
    raw, _ = find_images(shared_data / "ds002748", cohort="ds002748")
    assert raw["diagnosis"].value_counts().to_dict() == {"depression": 4, "control": 4}
    entities = {"label": "GM", "desc": "mod"}
    maps, problems = find_images(
        shared_data / "ds002748", "probseg", "ants_quickvbm", entities, cohort=list_importers()["ds002748"]
    )
    assert maps["diagnosis"].value_counts().to_dict() == {"depression": 51, "control": 21}
    assert maps["sex"].value_counts().to_dict() == {"F": 53, "M": 19}
    assert {problem.severity for problem in problems} == {"info"}


def test_names_are_recognised_however_they_are_written():
    assert read_importer("OASIS-1") == read_importer("oasis1")
    assert read_importer("UK Biobank").title.startswith("UK Biobank")
    for wanted, meant in (("abide", "abide1"), ("cnp", "ds000030"), ("OpenBBH", "openbhb")):
        with pytest.raises(ConfigError, match=f'did you mean "{meant}"') as error:
            read_importer(wanted)
        assert ", ".join(KNOWN) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"licens": "CC0"}, 'unknown key licens; allowed: .*did you mean "licence"'),
        ({"images": {"sufix": "T1w"}}, 'unknown key images.sufix; .*did you mean "suffix"'),
        ({"tables": [{"files": ["a.tsv"], "renam": {}}]}, 'unknown key tables.0.renam; .*did you mean "rename"'),
        ({"tables": [{"files": ["a.tsv"], "units": {"age": "month"}}]}, 'did you mean "months"'),
        ({"tables": []}, "tables: List should have at least 1 item"),
        ({"title": ""}, "title: .*at least 1 character"),
        ({"tested": "it works"}, "begins with the word tested or untested"),
        ({"target": ["control"]}, "in background and in target: control"),
        ({"images": {"patterns": ["{site}/T1.nii"]}}, "no {participant_id}"),
        ({"images": {"patterns": ["{participant_id/T1.nii"]}}, "a brace is not closed"),
        ({"tables": [{"files": ["a.tsv"], "ids": {"S{n}": "{m}"}}]}, "has places that S{n} has not: m"),
        ({"tables": [{"files": ["a.tsv"], "rename": {"a": "age", "b": "age"}}]}, "two columns become age"),
        ({"tables": [{"files": ["../a.tsv"]}]}, "a file in the folder is meant"),
        ({"tables": [{"files": ["/etc/passwd"]}]}, "a file in the folder is meant"),
        ({"background": "control"}, "background: not a list: write"),
    ],
)
def test_an_importer_of_ones_own_is_refused_with_the_key_and_what_is_allowed(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        read_importer(own(tmp_path, **changes))


def test_a_recipe_takes_what_the_command_takes():
    parameters = set(inspect.signature(find_images).parameters) - {"bids_dir"}
    assert parameters == set(BidsConfig.model_fields) - {"root"}


def test_what_differs_from_the_published_table_is_said(tmp_path):
    case = CASES["ds002748"]
    build(tmp_path, case)
    text = case.files["participants.tsv"].replace("gender", "Gender ").replace("depr", "MDD")
    (tmp_path / "participants.tsv").write_text(text)
    manifest, problems = find_images(tmp_path, cohort="ds002748")
    assert manifest["sex"].tolist() == ["M", "F"]
    (unknown,) = [problem for problem in problems if problem.code == "levels"]
    assert (unknown.column, unknown.got, unknown.severity) == ("group", "MDD", "warning")
    (tmp_path / "participants.tsv").write_text(text.replace("Gender ", "sexe"))
    _, problems = find_images(tmp_path, cohort="ds002748")
    assert [problem.got for problem in problems if problem.code == "absent_columns"] == ["gender"]
    (tmp_path / "participants.tsv").write_text(text.replace("participant_id", "subj"))
    with pytest.raises(ManifestError, match='no column of participants; got "subj, age'):
        find_images(tmp_path, cohort="ds002748")


def test_tables_that_are_elsewhere_several_or_not_there(tmp_path):
    case = CASES["hcp"]
    folder = tmp_path / "images"
    folder.mkdir()
    build(folder, case)
    unrestricted = folder / "unrestricted_someone_1_2_2024.csv"
    moved = shutil.move(unrestricted, tmp_path / "unrestricted_moved.csv")
    manifest, problems = find_images(folder, cohort="hcp", participants=moved)
    assert manifest["age"].tolist() == [24, 27]
    assert manifest["age_range"].tolist() == ["22-25", "26-30"]
    manifest, problems = find_images(folder, cohort="hcp")
    assert [problem.got for problem in problems if problem.code == "absent_tables"] == ["unrestricted_*.csv"]
    shutil.copy(moved, folder / "unrestricted_a.csv")
    shutil.copy(moved, folder / "unrestricted_b.csv")
    with pytest.raises(ManifestError, match=r"several files are named unrestricted_\*.csv"):
        find_images(folder, cohort="hcp")
    manifest, _ = find_images(folder, cohort="hcp", participants="unrestricted_b.csv")
    assert manifest["age"].tolist() == [24, 27]
    for path in folder.glob("*.csv"):
        path.unlink()
    with pytest.raises(ManifestError, match="none of the tables that the importer knows is there") as error:
        find_images(folder, cohort="hcp")
    assert "--participants FILE, wherever it lies; register at" in str(error.value)
    (folder / "unrestricted_link.csv").symlink_to(moved)
    with pytest.raises(ManifestError, match="leads out of the dataset"):
        find_images(folder, cohort="hcp")


def test_rules_are_applied_to_rows_codes_units_and_sums():
    rules = TableRules(
        files=["a.csv"],
        key="ID",
        session="Visit",
        keep={"ID": ["P*"]},
        ids={"P_{n:2}": "P0{n}", "P_{n}": "P{n}"},
        sessions={"v{n}": "{n}"},
        missing=[-9, "unknown"],
        units={"Months": "months", "Volume": "mm3"},
        sums={"age": ["Months", "Since"]},
        levels={"Code": {1: "one"}},
        rename={"Volume": "tiv", "Code": "diagnosis"},
    )
    cells = pd.DataFrame(
        {
            "ID": ["P_07", "P_123", "Q_1"],
            "visit": ["v1", "v2", "v3"],
            "Months": ["120", "-9", "1"],
            "Since": ["0.5", "1", "1"],
            "Volume": ["1500000", "unknown", "1"],
            "Code": ["1.0", "2", "1"],
        },
        index=[2, 3, 4],
    )
    table, problems = translate_table(cells, rules, "a.csv")
    assert table.columns.tolist() == ["participant_id", "session_id", "Months", "Since", "tiv", "diagnosis", "age"]
    assert table.fillna("").to_numpy().tolist() == [
        ["P007", "1", "10", "0.5", "1500", "one", "10.5"],
        ["P123", "2", "", "1", "", "2", ""],
    ]
    assert [(problem.code, problem.got) for problem in problems] == [("levels", "2")]
    with pytest.raises(ManifestError, match="no row is left"):
        translate_table(cells, rules.model_copy(update={"keep": {"ID": ["Z*"]}}), "a.csv")


def test_a_column_with_the_name_of_one_that_is_made_is_refused():
    rules = TableRules(files=["a.csv"], key="ID", rename={"DX": "diagnosis"}, sums={"age": ["First", "Since"]})
    cells = pd.DataFrame(
        [["7", "1", "old", "30", "1", "2"]], columns=["ID", "DX", "diagnosis", "First", "Since", "age"]
    )
    with pytest.raises(ManifestError) as refused:
        translate_table(cells, rules, "a.csv")
    assert [(problem.column, problem.got) for problem in refused.value.problems] == [
        ("diagnosis", "of DX"),
        ("age", "of First + Since"),
    ]
    # One that is itself renamed is not in the way, nor one that nothing is made of.
    swapped = rules.model_copy(update={"rename": {"DX": "diagnosis", "diagnosis": "note"}, "sums": {"age": ["Gone"]}})
    assert list(translate_table(cells, swapped, "a.csv")[0])[:3] == ["participant_id", "diagnosis", "note"]


@pytest.mark.parametrize(
    ("pattern", "name", "held"),
    [
        ("{a}/{a}_T1", "x/x_T1", {"a": "x"}),
        ("{a}/{a}_T1", "x/y_T1", None),
        ("{a:3}*", "0021", {"a": "002"}),
        ("*.nii", "a/b.nii", None),
        ("a.b", "axb", None),
        ("{a}", "x_y", None),
    ],
)
def test_patterns_mean_nothing_but_their_places(pattern, name, held):
    found = compile_pattern(pattern).fullmatch(name)
    assert (found and found.groupdict()) == held
    assert rewrite_name(name, {pattern: "changed"}) == (name if held is None else "changed")


def test_an_importer_beside_a_recipe_is_found_from_anywhere(tmp_path, monkeypatch):
    for name in ("data", "elsewhere"):
        (tmp_path / name).mkdir()
    build(tmp_path / "data", CASES["ds002748"])
    own = list_importers()["ds002748"].read_text().replace("depression", "sadness")
    (tmp_path / "own.yaml").write_text(own)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for cohort, patients in (("own.yaml", "sadness"), ("ds002748", "depression")):
        bids = BidsConfig(root="data", cohort=cohort)
        found = find_cohort(CohortConfig(bids=bids), tmp_path / "recipe.yaml", RunDir(tmp_path / "run"))
        assert set(found["diagnosis"]) == {"control", patients}


def test_openbhb_is_read_from_the_folder_it_is_downloaded_to(tmp_path):
    case = CASES["openbhb"]
    parts = dict(zip(("999000000001", "999000000002"), ("train", "val"), strict=True))
    paths = [f"{parts[path[4:16]]}/derivatives/{path}" for path in case.images]
    build(tmp_path, replace(case, images=paths))
    found = find_images(tmp_path, cohort="openbhb")[0]
    assert found["participant_id"].tolist() == ["sub-999000000001", "sub-999000000002"]
    assert found["session_id"].tolist() == ["ses-1", "ses-1"]
    assert found["sex"].tolist() == ["M", "F"]
    assert all("cat12vbm" in path for path in found["image_path"])


def test_the_next_command_can_be_pasted_where_a_diagnosis_has_two_words(tmp_path):
    build(tmp_path, CASES["ds002748"])
    own = tmp_path / "own.yaml"
    own.write_text(list_importers()["ds002748"].read_text().replace("depression", "major depression"))
    run = CliRunner().invoke(app, ["manifest", str(tmp_path), "-o", str(tmp_path / "m.tsv"), "--cohort", str(own)])
    assert run.exit_code == 0, run.output
    assert "--background control --target 'major depression'" in run.output


def test_the_command_lists_reads_and_says_what_comes_next(tmp_path):
    shown = CliRunner().invoke(app, ["manifest", "--cohort", "list"])
    assert shown.exit_code == 0
    for name in KNOWN:
        assert name in shown.output
    build(tmp_path, CASES["ds002748"])
    output = tmp_path / "manifest.tsv"
    run = CliRunner().invoke(app, ["manifest", str(tmp_path), "-o", str(output), "--cohort", "ds002748"])
    assert run.exit_code == 0, run.output
    assert f"next: sepclr-med check {output} --background control --target depression" in run.output
    assert json.loads(output.with_suffix(".json").read_text())["age"]["Units"] == "year"
    untested = CliRunner().invoke(
        app, ["manifest", str(tmp_path), "-o", str(output), "--overwrite", "--cohort", "camcan"]
    )
    assert "warning: importer of Cam-CAN" in untested.output


def test_the_user_goes_before_the_importer(tmp_path):
    build(tmp_path, CASES["ds002748"])
    manifest, _ = find_images(tmp_path, cohort="ds002748", diagnosis_column="sex", rename={"MADRS": "madrs"})
    assert manifest["diagnosis"].tolist() == ["m", "f"]
    assert "madrs" in manifest
    manifest, _ = find_images(tmp_path, cohort="ds002748", diagnosis="everyone")
    assert manifest["diagnosis"].tolist() == ["everyone"] * 2


def write_table():
    """The table of cohorts in docs/manifests.md."""
    rows = describe_importers().itertuples(index=False)
    lines = [f"| `{row.name}` | [{row.cohort}]({row.home}) | {row.tested} |" for row in rows]
    return "\n".join(["| `--cohort` | cohort | |", "|---|---|---|", *lines]) + "\n"


def write_sections():
    """What docs/cohorts.md says of every cohort."""
    return "\n".join(write_section(name, read_importer(name)) for name in KNOWN)


def write_section(name, importer):
    groups = [f"controls `{','.join(importer.background)}`"] if importer.background else []
    groups += [f"patients `{','.join(importer.target)}`"] if importer.target else []
    said = {
        "Tables": "; ".join(" or ".join(f"`{file}`" for file in rules.files) for rules in importer.tables),
        "Images": " or ".join(f"`{pattern}`" for pattern in importer.images.patterns) or "BIDS",
        "Diagnoses": "; ".join(groups) or "as they are in the table",
        "Access": importer.access,
        "Licence": importer.licence,
        "Tested": importer.tested,
        "Note": importer.notes,
    }
    lines = [f"- {key}: {value}".rstrip(".") + "." for key, value in said.items() if value]
    return f"## {importer.title}\n\n`--cohort {name}`, <{importer.home}>\n\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(("page", "write"), [("manifests.md", write_table), ("cohorts.md", write_sections)])
def test_the_documentation_says_of_every_cohort_what_its_importer_does(page, write):
    assert write() in (ROOT / "docs" / page).read_text(), f"put this into docs/{page}:\n{write()}"


def test_the_importer_in_the_documentation_works(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "manifests.md").read_text(), re.DOTALL)
    (tmp_path / "study.yaml").write_text(text)
    (tmp_path / "clinical.csv").write_text("Patient,Dx,AgeMonths,Sex,Centre\nP_007,1,366,2,Rome\nP_008,0,-9,1,Lyon\n")
    for person in ("sub-P007", "sub-P008"):
        (tmp_path / person / "anat").mkdir(parents=True)
        (tmp_path / person / "anat" / f"{person}_T1w.nii.gz").touch()
    manifest, _ = find_images(tmp_path, cohort=tmp_path / "study.yaml")
    shown = (
        manifest[["participant_id", "diagnosis", "age", "sex", "site"]].astype(object).fillna("n/a").to_numpy().tolist()
    )
    assert shown == [["sub-P007", "patient", 30.5, "F", "Rome"], ["sub-P008", "control", "n/a", "M", "Lyon"]]


def test_the_readme_of_the_manifests_names_every_cohort_and_key():
    readme = (ROOT / "data_manifests" / "README.md").read_text()
    keys = {*Importer.model_fields, *ImageRules.model_fields, *TableRules.model_fields}
    assert [name for name in [*KNOWN, *keys] if f"`{name}`" not in readme] == []


def test_the_template_agrees_with_the_columns():
    template = ROOT / "data_manifests" / "template.json"
    described = json.loads(template.read_text())
    header = (ROOT / "data_manifests" / "template.csv").read_text().splitlines()[0].split(",")
    assert set(KNOWN_COLUMNS) - {"mask_path"} == set(header) - {"madrs"}
    assert {column: described[column] for column in header if column != "madrs"} == {
        column: KNOWN_COLUMNS[column] for column in header if column != "madrs"
    }
    readme = (ROOT / "data_manifests" / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) >= set(KNOWN_COLUMNS)
    manifest = read_manifest(ROOT / "data_manifests" / "template.csv")
    assert manifest.attrs["problems"] == []


@pytest.mark.slow
def test_a_wheel_carries_the_importers(tmp_path):
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    names = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "sepclr_med", "data_manifests"]
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name) if source.is_dir() else (source.mkdir(), copy(ROOT / name, source / name))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(source),
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    code = "from sepclr_med.cohort import importers; print(importers.__file__); print(*importers.list_importers())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    where, names = run.stdout.splitlines()
    assert where.startswith(str(site))
    assert names.split() == KNOWN
