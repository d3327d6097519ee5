import gzip
import json
import os

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import ndimage

from sepclr_med.cohort.facts_file import FactsFile, read_images
from sepclr_med.cohort.images import read_facts
from sepclr_med.cohort.manifest import read_manifest, write_manifest
from sepclr_med.cohort.outliers import robust_z
from sepclr_med.cohort.preflight import NOT_JUDGED, check_cohort, format_check, problems_table
from sepclr_med.errors import Problem

AFFINE = np.diag([-9.0, 9.0, 12.0, 1.0])
AFFINE[:3, 3] = [85.0, -110.0, -70.0]
SHAPE = (19, 23, 17)


def head(rng, gain=1.0):
    """Return a blob with lobes that is recognisably itself and a little different each time."""
    centred = [np.linspace(-1, 1, length) for length in SHAPE]
    x, y, z = np.meshgrid(*centred, indexing="ij")
    body = np.clip(1.2 - (x**2 / 0.5 + y**2 / 0.7 + (z - 0.1) ** 2 / 0.4), 0, None)
    folds = 1 + 0.4 * np.sin(7 * x) * np.cos(5 * y + 1) + 0.3 * np.sin(6 * z)
    individual = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5) * 0.5
    return (gain * np.where(body > 0, body * (folds + individual), 0)).astype(np.float32)


def save(values, path, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), path)
    return str(path)


@pytest.fixture
def cohort(tmp_path):
    """Return twelve controls and twelve patients at two sites, whose scanners differ in gain."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "participant_id": [f"{number:02d}" for number in range(24)],
            "diagnosis": np.tile(["control", "patient"], 12),
            "site": np.repeat(["A", "B"], 12),
            "age": rng.normal(40, 5, 24),
        }
    )
    gains = rows["site"].map({"A": 1.0, "B": 30.0})
    rows["image_path"] = [
        save(head(rng, gain), tmp_path / f"{name}.nii.gz")
        for name, gain in zip(rows["participant_id"], gains, strict=True)
    ]
    return rows


def check(rows, **options):
    return check_cohort(rows, ["control"], ["patient"], **{"n_jobs": 1, **options})


def found(rows, **options):
    """Return code and participant of all findings about single images."""
    return {(problem.code, problem.participant_id) for problem in check(rows, **options).problems if problem.row}


def test_a_sound_cohort_gives_no_error_and_names_no_image(cohort):
    result = check(cohort)
    assert found(cohort) == set()
    assert result.ok
    assert (result.n_images, result.n_usable) == (24, 24)


def spoil_truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def spoil_last_bytes(path):
    path.write_bytes(path.read_bytes()[:-4])


def spoil_checksum(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 255
    path.write_bytes(content)


def spoil_text(path):
    path.write_text("subject 3 was not scanned\n" * 40)


def spoil_zipped_text(path):
    path.write_bytes(gzip.compress(b"not an image\n" * 400))


def spoil_to_folder(path):
    path.unlink()
    path.mkdir()


def spoil_to_absent_annex_link(path):
    path.unlink()
    path.symlink_to("../.git/annex/objects/none")


def spoil_to_loop(path):
    path.unlink()
    path.symlink_to(path.name)


def spoil_shape(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def spoil_values(change):
    def spoil(path):
        values = np.asarray(nib.load(path).dataobj).copy()
        save(change(values), path)

    return spoil


def with_nan(values):
    values[3:5, 4, 4] = np.nan
    return values


def with_infinity(values):
    values[3, 4, 4] = -np.inf
    return values


SPOILT = {
    "missing": (lambda path: path.unlink(), "missing_file"),
    "cut in half": (spoil_truncated, "damaged_file"),
    "last bytes gone": (spoil_last_bytes, "damaged_file"),
    "wrong checksum": (spoil_checksum, "damaged_file"),
    "absurd header": (spoil_shape, "damaged_file"),
    "no bytes": (lambda path: path.write_bytes(b""), "empty_file"),
    "text": (spoil_text, "not_an_image"),
    "compressed text": (spoil_zipped_text, "not_an_image"),
    "folder": (spoil_to_folder, "not_an_image"),
    "not fetched": (spoil_to_absent_annex_link, "missing_file"),
    "NaN": (spoil_values(with_nan), "nonfinite"),
    "infinite": (spoil_values(with_infinity), "nonfinite"),
    "zero": (spoil_values(np.zeros_like), "zero_image"),
    "constant": (spoil_values(np.ones_like), "constant_image"),
    "4-D": (spoil_values(lambda values: np.stack([values, values], axis=-1)), "four_d"),
    "complex": (spoil_values(lambda values: values.astype(np.complex64)), "not_scalar"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_image_is_named_with_row_and_remedy(cohort, tmp_path, kind):
    spoil, code = SPOILT[kind]
    spoil(tmp_path / "05.nii.gz")
    result = check(cohort)
    assert found(cohort) == {(code, "05")}
    problem = next(problem for problem in result.problems if problem.code == code)
    assert not result.ok
    assert problem.severity == "error"
    assert problem.row == 7
    assert problem.file.endswith("05.nii.gz")
    assert problem.fix
    assert result.n_usable == 23


def test_an_unreadable_folder_is_not_called_missing(cohort, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    cohort.loc[4, "image_path"] = str(tmp_path / "loop" / "a.nii.gz")
    assert found(cohort) == {("unreadable_file", "04")}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_without_permission_is_said(cohort, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    cohort.loc[4, "image_path"] = save(head(np.random.default_rng(9)), closed / "a.nii.gz")
    closed.chmod(0)
    try:
        assert found(cohort) == {("unreadable_file", "04")}
    finally:
        closed.chmod(0o700)


def test_a_truncated_uncompressed_image_is_found(cohort, tmp_path):
    path = tmp_path / "plain.nii"
    save(head(np.random.default_rng(9)), path)
    cohort.loc[0, "image_path"] = str(path)
    assert found(cohort) == set()
    path.write_bytes(path.read_bytes()[:5000])
    assert found(cohort) == {("damaged_file", "00")}


def test_a_trailing_axis_is_a_remark(cohort, tmp_path):
    spoil_values(lambda values: values[..., np.newaxis])(tmp_path / "03.nii.gz")
    result = check(cohort)
    assert found(cohort) == {("trailing_axes", "03")}
    assert result.ok
    assert result.n_usable == 24


def test_when_no_image_is_there_the_paths_are_suspected(cohort):
    cohort["image_path"] = [f"/elsewhere/{name}.nii.gz" for name in cohort["participant_id"]]
    said = [problem.message for problem in check(cohort).problems]
    assert "none of the images is where the manifest says" in said


def test_the_same_voxels_under_two_ids_are_an_error_however_stored(cohort, tmp_path):
    values = np.asarray(nib.load(tmp_path / "02.nii.gz").dataobj)
    right_first = np.diag([9.0, 9.0, 12.0, 1.0])
    save(values.astype(np.float64)[::-1], tmp_path / "a.nii", right_first)
    cohort.loc[9, "image_path"] = str(tmp_path / "a.nii")
    problem = next(problem for problem in check(cohort).problems if problem.code == "duplicate_content")
    assert (problem.participant_id, problem.severity) == ("09", "error")
    assert problem.got.startswith("02, row 4")


def test_the_same_voxels_twice_for_one_participant_are_a_warning(cohort, tmp_path):
    copy = cohort.loc[[2]].assign(session_id="2", image_path=str(tmp_path / "copy.nii.gz"))
    (tmp_path / "copy.nii.gz").write_bytes((tmp_path / "02.nii.gz").read_bytes())
    rows = pd.concat([cohort.assign(session_id="1"), copy], ignore_index=True)
    result = check(rows)
    assert [p.severity for p in result.problems if p.code == "duplicate_content"] == ["warning"]


def test_odd_geometry_is_named(cohort, tmp_path):
    rng = np.random.default_rng(5)
    flipped = AFFINE.copy()
    flipped[0, 0] *= -1
    save(head(rng), tmp_path / "01.nii.gz", flipped)
    save(head(rng), tmp_path / "02.nii.gz", AFFINE @ np.diag([1, 1, 1.2, 1]))
    save(head(rng)[:, :-1], tmp_path / "03.nii.gz")
    assert found(cohort) == {("odd_orientation", "01"), ("odd_voxel_size", "02"), ("odd_shape", "03")}
    assert check(cohort).ok


def test_a_site_with_another_protocol_is_summed_up_not_named_image_by_image(cohort, tmp_path):
    rng = np.random.default_rng(5)
    for name in cohort.loc[cohort["site"] == "B", "participant_id"]:
        save(head(rng, 30.0)[:, :, :-1], tmp_path / f"{name}.nii.gz", AFFINE @ np.diag([1, 1, 0.9, 1]))
    result = check(cohort)
    assert found(cohort) == set()
    assert {"mixed_voxel_size", "mixed_shape"} <= {problem.code for problem in result.problems}


def test_a_change_of_protocol_within_a_site_is_summed_up_too(cohort, tmp_path):
    rng = np.random.default_rng(5)
    for name in cohort["participant_id"][:5]:
        save(head(rng)[:, :, :-1], tmp_path / f"{name}.nii.gz")
    result = check(cohort)
    assert found(cohort) == set()
    assert "mixed_shape" in {problem.code for problem in result.problems}


def test_voxel_size_that_goes_with_the_group_is_a_verdict(cohort, tmp_path):
    rng = np.random.default_rng(5)
    for name in cohort.loc[cohort["diagnosis"] == "control", "participant_id"]:
        save(head(rng), tmp_path / f"{name}.nii.gz", AFFINE @ np.diag([1, 1, 0.9, 1]))
    assert any("voxel size or orientation goes with the group" in verdict for verdict in check(cohort).verdicts)


def test_a_header_without_orientation_and_an_oblique_one_are_told(cohort, tmp_path):
    rng = np.random.default_rng(5)
    image = nib.Nifti1Image(head(rng), None)
    image.header.set_zooms((9, 9, 12))
    nib.save(image, tmp_path / "01.nii.gz")
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(x=np.deg2rad(5)))
    save(head(rng), tmp_path / "02.nii.gz", turn @ AFFINE)
    codes = {problem.code: problem for problem in check(cohort).problems}
    assert codes["no_orientation"].participant_id == "01"
    assert "1 images are oblique, by up to 5.0 degrees" in codes["oblique"].message


def test_intensity_outliers_are_judged_within_their_site(cohort, tmp_path):
    rng = np.random.default_rng(5)
    assert found(cohort) == set()
    save(head(rng, 30.0), tmp_path / "02.nii.gz")
    result = check(cohort)
    problem = next(problem for problem in result.problems if problem.code == "intensity_outlier")
    assert found(cohort) == {("intensity_outlier", "02")}
    assert "times the usual" in problem.message


def test_a_small_site_with_another_scanner_is_not_an_outlier(cohort, tmp_path):
    rng = np.random.default_rng(5)
    extra = cohort.loc[:2].assign(site="C", participant_id=["30", "31", "32"])
    extra["image_path"] = [save(head(rng, 400.0), tmp_path / f"{n}.nii.gz") for n in extra["participant_id"]]
    assert found(pd.concat([cohort, extra], ignore_index=True)) == set()


def shifted(values):
    return ndimage.shift(values, (3, 0, 0), order=1)


def turned(values):
    return ndimage.rotate(values, 35, axes=(1, 2), reshape=False, order=1)


@pytest.mark.parametrize("change", [shifted, turned])
def test_a_failed_registration_is_flagged(cohort, tmp_path, change):
    spoil_values(change)(tmp_path / "07.nii.gz")
    assert ("overlap_outlier", "07") in found(cohort)
    assert {name for _, name in found(cohort)} == {"07"}


def test_real_grey_matter_maps_raise_no_alarm_and_a_planted_failure_does(shared_data, tmp_path):
    folder = shared_data / "ds002748" / "derivatives" / "ants_quickvbm"
    files = sorted(folder.rglob("*GM_probseg.nii.gz"))
    rows = pd.DataFrame({"participant_id": [file.name[:6] for file in files], "image_path": [str(f) for f in files]})
    rows["diagnosis"] = np.where(rows["participant_id"] > "sub-51", "control", "patient")
    facts = tmp_path / "facts.jsonl"
    assert len(rows) == 72
    assert found(rows, cache_file=facts) == set()

    image = nib.load(files[30])
    moved = [(0, 0, 10), (12, 0, 0)]
    for number, by in enumerate(moved):
        values = ndimage.shift(image.get_fdata(dtype=np.float32), by, order=1)
        rows.loc[30 + number, "image_path"] = save(values, tmp_path / f"{number}.nii.gz", image.affine)
    values = ndimage.rotate(image.get_fdata(dtype=np.float32), 25, axes=(1, 2), reshape=False, order=1)
    rows.loc[40, "image_path"] = save(values, tmp_path / "turned.nii.gz", image.affine)
    assert found(rows, cache_file=facts) == {("overlap_outlier", rows.loc[i, "participant_id"]) for i in (30, 31, 40)}


def test_a_second_site_of_controls_is_told_in_plain_words(shared_data):
    patients = [f"sub-0{number}" for number in (1, 2)]
    rows = pd.DataFrame(
        {"participant_id": [*patients, "sub-52"], "site": "ds002748", "diagnosis": ["depr", "depr", "control"]}
    )
    rows["image_path"] = [
        str(shared_data / "ds002748" / n / "anat" / f"{n}_T1w.nii.gz") for n in rows["participant_id"]
    ]
    second = shared_data / "ds000011" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    other = {"participant_id": "x01", "site": "ds000011", "diagnosis": "control", "image_path": str(second)}
    result = check_cohort(pd.concat([rows, pd.DataFrame([other])], ignore_index=True), ["control"], ["depr"], n_jobs=1)
    verdict = next(verdict for verdict in result.verdicts if "one group only" in verdict)
    assert '"ds000011" (1 participants, background only)' in verdict
    assert "inseparable" in verdict
    assert result.ok


def test_robust_z_uses_own_spread_then_pooled_then_all():
    rng = np.random.default_rng(0)
    values = pd.Series(np.r_[rng.normal(0, 1, 20), rng.normal(100, 5, 10), [50.0, 50.5, 60.0], [7.0]])
    peers = pd.Series(["A"] * 20 + ["B"] * 10 + ["C"] * 3 + ["D"])
    z = robust_z(values, peers, floor=0.01)["z"]
    own = values[:20] - np.median(values[:20])
    assert z[0] == pytest.approx(own[0] / (1.4826 * np.median(np.abs(own))))
    pooled = np.concatenate([own, values[20:30] - np.median(values[20:30]), values[30:33] - 50.5])
    assert z[32] == pytest.approx(9.5 / (1.4826 * np.median(np.abs(pooled))))
    everyone = values - np.median(values)
    assert z[33] == pytest.approx(everyone[33] / (1.4826 * np.median(np.abs(everyone))))
    assert robust_z(pd.Series([1.0] * 9 + [1.001]), pd.Series(["A"] * 10), floor=0.1)["z"].iloc[-1] == pytest.approx(
        0.01
    )


def test_several_jobs_find_the_same(cohort, tmp_path):
    spoil_truncated(tmp_path / "05.nii.gz")
    assert check(cohort, n_jobs=2).to_dict() == check(cohort, n_jobs=1).to_dict()


def test_an_interrupted_reading_goes_on_where_it_was(cohort, tmp_path):
    memory, paths = tmp_path / "facts.jsonl", cohort["image_path"].tolist()
    complete, _ = read_images(paths, 1, tmp_path / "whole.jsonl")
    read_images(paths[:10], 1, memory)
    with open(memory, "r+", encoding="utf-8") as stream:
        stream.truncate(memory.stat().st_size - 100)

    assert [FactsFile(memory).get(path) is not None for path in paths] == [True] * 9 + [False] * 15
    resumed, trouble = read_images(paths, 1, memory)
    assert resumed == complete
    assert trouble == ""
    assert all(FactsFile(memory).get(path) for path in paths)


def test_only_new_and_changed_images_are_read_again(cohort, tmp_path):
    memory, paths = tmp_path / "facts.jsonl", cohort["image_path"].tolist()
    read_images(paths[:20], 1, memory)
    before = len([line for line in memory.read_text().splitlines() if line])
    rng = np.random.default_rng(7)
    save(head(rng, 2.0), paths[0])
    facts, _ = read_images(paths, 1, memory)
    after = len([line for line in memory.read_text().splitlines() if line])
    assert (before, after) == (20, 25)
    assert facts[paths[0]] == read_facts(paths[0])


def test_what_failed_is_tried_again(cohort, tmp_path):
    memory = tmp_path / "facts.jsonl"
    content = (tmp_path / "05.nii.gz").read_bytes()
    spoil_truncated(tmp_path / "05.nii.gz")
    assert found(cohort, cache_file=memory) == {("damaged_file", "05")}
    assert "05.nii.gz" not in memory.read_text()
    (tmp_path / "05.nii.gz").write_bytes(content)
    assert found(cohort, cache_file=memory) == set()


def test_a_memory_of_another_version_or_of_rubbish_is_passed_over(cohort, tmp_path):
    memory = tmp_path / "facts.jsonl"
    memory.write_bytes(b'{"path": "a", "colour": 3}\n[1, 2]\n\xff\xfe rubbish\n3\nnull\n{"path": "')
    assert found(cohort, cache_file=memory) == set()
    assert all(FactsFile(memory).get(path) for path in cohort["image_path"])


def test_a_memory_that_cannot_be_written_does_not_stop_the_check(cohort, tmp_path):
    (tmp_path / "file").write_text("")
    result = check(cohort, cache_file=tmp_path / "file" / "facts.jsonl")
    assert result.ok
    assert [problem.severity for problem in result.problems if "remembered" in problem.message] == ["info"]


def test_participants_and_images_in_two_splits_are_errors(cohort, tmp_path):
    visit = cohort.loc[[0]].assign(
        session_id="2", image_path=save(head(np.random.default_rng(3)), tmp_path / "v.nii.gz")
    )
    rows = pd.concat([cohort.assign(session_id="1", split="train"), visit.assign(split="test")], ignore_index=True)
    result = check(rows)
    problem = next(problem for problem in result.problems if problem.code == "split_overlap")
    assert not result.ok
    assert (problem.participant_id, problem.row, problem.got) == ("00", 26, "train (row 2), test (row 26)")


def test_a_participant_with_two_sexes_is_an_error(cohort, tmp_path):
    visit = cohort.loc[[0]].assign(sex="M", image_path=save(head(np.random.default_rng(3)), tmp_path / "v.nii.gz"))
    result = check(pd.concat([cohort.assign(sex="F"), visit], ignore_index=True))
    assert ("two_sexes", "error") in {(problem.code, problem.severity) for problem in result.problems}


def test_an_unknown_diagnosis_is_one_error_beside_the_images_faults(cohort, tmp_path):
    (tmp_path / "00.nii.gz").unlink()
    result = check_cohort(cohort, ["contrl"], ["patient"], n_jobs=1)
    errors = [problem for problem in result.problems if problem.severity == "error"]
    assert {"unknown_diagnosis", "missing_file"} == {problem.code for problem in errors}
    assert len(errors) == 2
    # That the group is empty follows from it: neither an error of its own, nor a design without a finding.
    assert result.verdicts == [NOT_JUDGED]
    assert not result.ok


def test_rows_in_neither_group_are_counted(cohort):
    cohort.loc[:2, "diagnosis"] = "other"
    assert any(p.code == "no_group" and p.got == "other (3 rows)" for p in check(cohort).problems)


def test_warnings_of_the_manifest_are_taken_over_and_errors_come_first(cohort, tmp_path):
    (tmp_path / "20.nii.gz").unlink()
    cohort.attrs["problems"] = [Problem("looks like a code", column="age", code="missing_code", severity="warning")]
    problems = check(cohort).problems
    ranks = [("error", "warning", "info").index(problem.severity) for problem in problems]
    assert ranks == sorted(ranks)
    assert "missing_code" in {problem.code for problem in problems}


def test_the_result_is_json_and_a_table_and_readable(cohort, tmp_path):
    spoil_text(tmp_path / "05.nii.gz")
    cohort["sex"] = np.where(cohort["diagnosis"] == "control", "F", "M")
    result = check(cohort)
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["ok"] is False
    assert content["n_usable"] == 23
    assert next(row for row in content["table_one"] if row["variable"] == "sex")["smd"] == "inf"
    assert content["problems"][0]["row"] == 7
    table = problems_table(result)
    assert table.columns.tolist() == [
        "severity", "code", "file", "row", "column", "participant_id", "message", "got", "allowed", "fix",
    ]  # fmt: skip
    assert len(table) == len(result.problems)

    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(format_check(result))
    text = console.export_text()
    assert "23 of 24 images can be used: 1 errors" in text
    assert "this is not an image" in text
    assert "What the design lets the method learn" in text


def test_a_manifest_from_a_file_is_checked(cohort, tmp_path):
    manifest = read_manifest(write_manifest(cohort, tmp_path / "manifest.tsv"))
    assert check(manifest).ok


def test_reading_stays_within_a_few_copies_of_the_image(tmp_path):
    import tracemalloc

    values = np.random.default_rng(0).normal(size=(120, 110, 100)).astype(np.float32)
    path = save(values, tmp_path / "large.nii.gz")
    read_facts(path)
    tracemalloc.start()
    facts = read_facts(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts.usable
    assert peak < 6 * values.nbytes
