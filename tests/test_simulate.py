import gzip
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sepclr_med.cohort.simulate import simulate
from sepclr_med.cohort.simulation.brains import SmoothField, template_on_grid, ventricles_on_grid
from sepclr_med.cohort.simulation.people import Design, draw_people
from sepclr_med.cohort.simulation.planting import component_map, plant_atrophy
from sepclr_med.errors import ConfigError, ManifestError, VolumeError

COARSE = {"spacing": 12.0, "n_train": 6, "n_test": 4}
SILENT = {
    "noise": 0.0,
    "white_noise": 0.0,
    "site_gain": 0.0,
    "site_bias": 0.0,
    "deformation": 0.0,
    "ventricle_effect": 0.0,
    "ventricle_sd": 0.0,
    "sex_effect": 0.0,
    "head_size_sd": 0.0,
    "age_effect": 0.0,
    "pattern_effect": 0.0,
}
DESIGN = Design(
    n_sites=3,
    age_range=(20.0, 80.0),
    age_gap=0.0,
    site_imbalance=0.0,
    sex_effect=0.12,
    head_size_sd=0.06,
    min_severity=0.2,
    score_correlation=0.8,
)


def volume(path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


def people(n, seed=0, **changes) -> pd.DataFrame:
    return draw_people({"train": n}, Design(**{**DESIGN.__dict__, **changes}), seed)


def file_bytes(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, simulate(folder, **COARSE)


@pytest.fixture
def base(tmp_path):
    """Real-like maps of odd shape and anisotropic voxels, two of them sessions of one participant."""
    template, affine = template_on_grid(6.0)
    rows = []
    for number in range(13):
        first = "sub-00" if number in (0, 12) else f"sub-{number:02d}"
        path = tmp_path / "real" / f"{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        data = template[:-1, :, 1:] * (0.9 + 0.02 * number)
        shifted = affine.copy()
        shifted[:3, 3] += affine[:3, 2]
        image = nib.Nifti1Image((data * 200).astype(np.uint8), shifted)
        image.header.set_slope_inter(1 / 200, 0)
        nib.save(image, path)
        rows.append(
            {
                "participant_id": first,
                "session_id": "ses-2" if number == 12 else "ses-1",
                "image_path": str(path),
                "diagnosis": "healthy",
                "age": 20.0 + number,
                "sex": "FM"[number % 2],
                "site": "east" if number < 6 or number == 12 else "west",
                "severity": 5.0,
                "iq": 100.0 + number,
            }
        )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------- the table


def test_groups_sites_and_sexes_are_balanced_and_truth_belongs_to_patients():
    table = people(240)
    counts = pd.crosstab(table["diagnosis"], [table["site"], table["sex"]])
    assert counts.shape == (2, 6)
    assert (counts == 20).all(axis=None)
    patients = table["diagnosis"] == "patient"
    for column in ("subtype", "severity", "score"):
        assert (table[column].notna() == patients).all()
    assert table.loc[patients, "severity"].between(0.2, 1).all()
    assert table.loc[patients, "subtype"].value_counts().to_dict() == {"A": 60, "B": 60}


def test_variables_are_tied_only_as_documented():
    table = people(4000)
    patients = table[table["diagnosis"] == "patient"]
    assert np.corrcoef(patients["severity"], patients["score"])[0, 1] == pytest.approx(0.8, abs=0.03)
    codes = table.assign(
        sex=table["sex"] == "M", diagnosis=table["diagnosis"] == "patient", site=table["site"] == "site1"
    )
    tied = codes[["age", "shared_pattern", "diagnosis", "site", "sex", "severity"]].astype(float).corr().to_numpy()
    assert np.nanmax(np.abs(tied - np.diag(np.diag(tied)))) < 0.06
    men, women = (table.loc[table["sex"] == sex, "tiv"].mean() for sex in "MF")
    assert men / women - 1 == pytest.approx(0.12, abs=0.02)


def test_age_gap_and_site_imbalance_confound_the_groups():
    plain, gapped = people(600), people(600, age_gap=10.0, site_imbalance=1.0)
    groups = gapped.groupby("diagnosis")
    assert groups["age"].mean().diff().iloc[-1] - plain.groupby("diagnosis")["age"].mean().diff().iloc[-1] == (
        pytest.approx(10, abs=0.01)
    )
    assert groups["site"].unique().map(list).to_dict() == {"control": ["site3"], "patient": ["site1"]}
    pd.testing.assert_series_equal(plain["severity"], gapped["severity"])


def test_participants_do_not_depend_on_how_many_follow():
    pd.testing.assert_frame_equal(people(30), people(100).head(30))
    assert not people(30, seed=1)["age"].equals(people(30)["age"])


# ------------------------------------------------------------------------------------------------ the images


def test_smooth_fields_have_unit_variance_and_the_asked_smoothness():
    field = SmoothField((10, 12, 9), np.diag([6.0, 5.0, 8.0, 1.0]), length=20.0)
    rng = np.random.default_rng(0)
    draws = np.stack([field.draw(rng) for _ in range(1500)])
    assert draws.shape[1:] == (10, 12, 9)
    assert np.abs(draws.std(axis=0) - 1).max() < 0.1
    near = np.mean(draws[:, 4, 5, 4] * draws[:, 5, 5, 4])
    far = np.mean(draws[:, 0, 5, 4] * draws[:, 9, 5, 4])
    assert near > 0.9
    assert abs(far) < 0.15


def test_template_is_symmetric_smooth_and_whole():
    data, affine = template_on_grid(12.0)
    fine, fine_affine = template_on_grid(6.0)
    assert all(size % 2 == 0 for size in data.shape)
    assert np.abs(data - data[::-1]).max() < 0.02
    for axis in range(3):
        assert np.take(data, [0, -1], axis).max() < 0.1
    assert data.sum() * 12**3 == pytest.approx(fine.sum() * 6**3, rel=0.02)
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    np.testing.assert_allclose(fine_affine[:3, 3] % 6, (np.array([0.0, -17.0, 5.0]) - 3) % 6)


@pytest.mark.parametrize(
    ("subtype", "inside", "outside"), [("A", (26, -20, -16), (8, 42, 14)), ("B", (8, 42, 14), (26, -20, -16))]
)
def test_each_subtype_loses_its_own_regions_on_both_sides(subtype, inside, outside):
    for x, y, z in (inside, (-inside[0], *inside[1:])):
        affine = np.eye(4)
        affine[:3, 3] = x, y, z
        kept = plant_atrophy(np.ones((1, 1, 1)), affine, subtype, 1.0, atrophy=0.35, common_atrophy=0.0)
        assert kept.item() == pytest.approx(0.65, abs=0.01)
    affine[:3, 3] = outside
    assert plant_atrophy(np.ones((1, 1, 1)), affine, subtype, 1.0, common_atrophy=0.0).item() > 0.95


def test_component_maps_agree_between_grids():
    affine = np.diag([-4.0, 5.0, 6.0, 1.0])
    affine[:3, 3] = 80, -100, -70
    flipped = component_map("common", (40, 36, 24), affine)
    affine2 = affine.copy()
    affine2[0] = [4, 0, 0, 80 - 39 * 4]
    np.testing.assert_allclose(flipped[::-1], component_map("common", (40, 36, 24), affine2), atol=1e-5)
    assert flipped.max() <= 1


def test_only_patients_lose_and_exactly_the_planted_fraction(tmp_path):
    table = simulate(tmp_path / "a", n_train=8, n_test=0, **{"spacing": 12.0, **SILENT})
    truth = {p.name.split("_")[0].removeprefix("desc-"): volume(p) for p in (tmp_path / "a" / "truth").iterdir()}
    whole, _ = template_on_grid(12.0)
    for row in table.itertuples():
        expected = whole.copy()
        if row.diagnosis == "patient":
            lost = truth[f"subtype{row.subtype}"]
            expected *= (1 - row.severity * truth["common"]) * (1 - row.severity * lost)
        # Half a step of the uint8 coding, and the spline's rounding.
        assert np.abs(volume(row.image_path) - expected).max() < 0.004


@pytest.mark.parametrize(
    "effect",
    [
        {"age_effect": 0.05},
        {"pattern_effect": 0.1},
        {"head_size_sd": 0.05},
        {"sex_effect": 0.1},
        {"deformation": 1.0},
        {"ventricle_effect": 0.6},
        {"ventricle_sd": 1.0},
        {"site_gain": 0.05},
        {"site_bias": 0.05},
        {"noise": 0.05},
        {"white_noise": 0.05},
    ],
    ids=lambda effect: next(iter(effect)),
)
def test_every_shared_component_changes_controls(tmp_path, effect):
    table = simulate(tmp_path, n_train=4, n_test=0, **{"spacing": 12.0, **SILENT, **effect})
    whole, _ = template_on_grid(12.0)
    controls = table[table["diagnosis"] == "control"]
    assert max(np.abs(volume(path) - whole).max() for path in controls["image_path"]) > 0.01


def test_ventricles_widen_and_grey_matter_thins_with_age(tmp_path):
    table = simulate(
        tmp_path, n_train=40, n_test=0, **{"spacing": 6.0, **SILENT, "age_effect": 0.035, "ventricle_effect": 0.6}
    )
    controls = table[table["diagnosis"] == "control"].sort_values("age")
    young, old = volume(controls["image_path"].iloc[0]), volume(controls["image_path"].iloc[-1])
    affine = nib.load(controls["image_path"].iloc[0]).affine
    near = ventricles_on_grid(6.0) > 0.5 * ventricles_on_grid(6.0).max()
    ageing = component_map("age", young.shape, affine) > 0.5
    assert old[near].sum() < 0.8 * young[near].sum()
    assert old[ageing].sum() < 0.9 * young[ageing].sum()
    assert old.sum() > 0.8 * young.sum()


# ------------------------------------------------------------------------------------------------ the folder


def test_the_folder_is_bids_like(cohort):
    folder, table = cohort
    assert table["split"].value_counts().to_dict() == {"train": 6, "test": 4}
    assert pd.crosstab(table["split"], table["diagnosis"]).loc[["train", "test"]].to_numpy().tolist() == [
        [3, 3],
        [2, 2],
    ]
    for name in (".", "derivatives/simulated"):
        description = json.loads((folder / name / "dataset_description.json").read_text())
        assert {"Name", "BIDSVersion", "DatasetType", "GeneratedBy"} <= set(description)
    participants = pd.read_csv(folder / "participants.tsv", sep="\t", keep_default_na=False)
    assert participants["participant_id"].tolist() == table["participant_id"].tolist()
    assert participants["subtype"].iloc[0] == "n/a"
    dictionary = json.loads((folder / "participants.json").read_text())
    assert set(dictionary) == set(participants)
    assert all(entry["Description"] for entry in dictionary.values())
    assert str(folder) not in (folder / "manifest.tsv").read_text()


def test_the_bids_reader_finds_every_image(cohort):
    bids = pytest.importorskip("sepclr_med.cohort.bids")
    folder, table = cohort
    found, problems = bids.find_images(folder, suffix="probseg", derivative="simulated")
    assert not [p for p in problems if p.severity == "error"]
    assert found["image_path"].tolist() == table["image_path"].tolist()


def test_images_are_small_uint8_with_a_slope(cohort):
    image = nib.load(cohort[1]["image_path"].iloc[0])
    assert image.get_data_dtype() == np.uint8
    assert 0.3 < image.get_fdata().max() < 2
    assert image.header["sform_code"] == image.header["qform_code"] == 4


def test_same_seed_same_bytes_whatever_the_processes(cohort, tmp_path):
    simulate(tmp_path, **COARSE, n_jobs=1)
    assert file_bytes(tmp_path) == file_bytes(cohort[0])
    more = simulate(tmp_path / "more", **{**COARSE, "n_train": 20}, n_jobs=2)
    first = more["image_path"].iloc[0]
    with gzip.open(first) as new, gzip.open(cohort[1]["image_path"].iloc[0]) as old:
        assert new.read() == old.read()
    simulate(tmp_path / "other", **COARSE, seed=1)
    assert file_bytes(tmp_path / "other")["manifest.tsv"] != file_bytes(cohort[0])["manifest.tsv"]


def test_a_finished_cohort_is_returned_untouched(tmp_path):
    first = simulate(tmp_path, **COARSE)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    pd.testing.assert_frame_equal(simulate(tmp_path, **COARSE), first)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}


def test_an_interrupted_cohort_is_finished_by_the_same_call(cohort, tmp_path):
    table = simulate(tmp_path, **COARSE)
    (tmp_path / "manifest.tsv").unlink()
    images = [tmp_path / path for path in table["image_path"]]
    images[3].unlink()
    (images[5].parent / f".{images[5].name}.x1.gz").write_bytes(b"half")
    kept = images[0].stat().st_mtime_ns
    simulate(tmp_path, **COARSE)
    assert file_bytes(tmp_path) == file_bytes(cohort[0])
    assert images[0].stat().st_mtime_ns == kept


def test_foreign_folders_and_other_simulations_are_refused(cohort, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no simulation"):
        simulate(tmp_path, **COARSE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    before = file_bytes(cohort[0])
    with pytest.raises(ConfigError, match=r"atrophy differs.*0\.5.*0\.4"):
        simulate(cohort[0], **COARSE, atrophy=0.5)
    assert file_bytes(cohort[0]) == before


def test_overwrite_replaces_a_simulation_and_nothing_else(tmp_path):
    simulate(tmp_path, **COARSE)
    (tmp_path / "thesis.tex").write_text("mine")
    table = simulate(tmp_path, n_train=2, n_test=0, spacing=12.0, overwrite=True)
    assert len(table) == len(list(tmp_path.glob("derivatives/**/*.nii.gz"))) == 2
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_all_wrong_arguments_are_named_at_once(tmp_path):
    wrong = {"n_train": 2.5, "spacing": "six", "atrophy": 1.2, "noise": float("nan"), "n_jobs": 0}
    with pytest.raises(ConfigError) as caught:
        simulate(tmp_path / "out", **wrong)
    for name in wrong:
        assert f"{name} is not accepted" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"n_train": 1, "n_test": 0}, {"age_range": (60, 20)}, {"age_range": 50}, {"age_range": (5, 80), "age_gap": 20}],
)
def test_arguments_that_do_not_fit_together_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError):
        simulate(tmp_path / "out", **wrong)


# ------------------------------------------------------------------------------------------ real images as base


def test_planting_into_real_maps_touches_patients_only_and_as_much_as_the_truth_says(base, tmp_path):
    table = simulate(tmp_path / "out", n_train=2, n_test=1, base=base, base_diagnosis="healthy")
    truth = {p.name.split("_")[0].removeprefix("desc-"): volume(p) for p in (tmp_path / "out" / "truth").iterdir()}
    assert set(truth) == {"common", "subtypeA", "subtypeB"}
    for (_, row), before in zip(table.iterrows(), base["image_path"], strict=True):
        old, new = volume(before), volume(row["image_path"])
        expected = old
        if row["diagnosis"] == "patient":
            lost = 1 - row["severity"] * truth["common"], 1 - row["severity"] * truth[f"subtype{row['subtype']}"]
            expected = old * lost[0] * lost[1]
            assert new.sum() < 0.995 * old.sum()
        assert np.abs(new - expected).max() < 0.004
        assert nib.load(row["image_path"]).get_data_dtype() == np.uint8
        np.testing.assert_array_equal(nib.load(row["image_path"]).affine, nib.load(before).affine)


def test_a_base_keeps_its_columns_and_balances_groups_within_sites(base, tmp_path):
    table = simulate(tmp_path / "out", n_train=2, n_test=1, base=base, base_diagnosis=["healthy"])
    for column in ("participant_id", "session_id", "age", "sex", "site", "iq"):
        assert table[column].tolist() == base[column].tolist()
    assert table["base_severity"].tolist() == [5.0] * 13
    assert set(table["base_diagnosis"]) == {"healthy"}
    persons = table.drop_duplicates("participant_id")
    assert (pd.crosstab(persons["site"], persons["diagnosis"]) == 3).all(axis=None)
    assert persons["subtype"].value_counts().to_dict() == {"A": 3, "B": 3}
    sessions = table[table["participant_id"] == "sub-00"]
    assert len(sessions) == 2
    assert len(sessions[["diagnosis", "split", "severity"]].drop_duplicates()) == 1
    assert persons["split"].value_counts().to_dict() == {"train": 8, "test": 4}
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "out").rglob("*.[tj]s*"))


def test_a_base_is_reproducible_and_a_changed_base_is_another_cohort(base, tmp_path):
    for name in ("a", "b"):
        simulate(tmp_path / name, n_train=2, n_test=1, base=base, base_diagnosis=None)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    nib.save(nib.load(base["image_path"][1]), base["image_path"][0])
    with pytest.raises(ConfigError, match="base differs"):
        simulate(tmp_path / "a", n_train=2, n_test=1, base=base, base_diagnosis=None)


def test_a_base_without_the_named_controls_lists_those_seen(base, tmp_path):
    with pytest.raises(ManifestError, match=r"healthy \(13\)"):
        simulate(tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


def test_unusable_base_tables_are_refused(base, tmp_path):
    with pytest.raises(ManifestError, match="image_path"):
        simulate(tmp_path / "out", base=base.drop(columns="image_path"), base_diagnosis=None)
    with pytest.raises(ManifestError, match="too few"):
        simulate(tmp_path / "out", base=base.head(3), base_diagnosis=None)
    with pytest.raises(ManifestError, match="same file name"):
        simulate(tmp_path / "out", base=base.replace({"participant_id": {"sub-02": "sub-0.1"}}), base_diagnosis=None)
    inside = simulate(tmp_path / "made", **COARSE)
    with pytest.raises(ConfigError, match="over its base"):
        simulate(tmp_path / "made", base=inside, base_diagnosis=None, overwrite=True)
    assert (tmp_path / "made" / "manifest.tsv").is_file()


def test_all_unusable_base_images_are_named(base, tmp_path):
    paths = base["image_path"]
    good = nib.load(paths[4])
    (tmp_path / "real" / "0.nii.gz").write_bytes((tmp_path / "real" / "1.nii.gz").read_bytes()[:200])
    (tmp_path / "real" / "2.nii.gz").write_text("not an image")
    nib.save(nib.Nifti1Image(np.full((5, 4, 3), np.nan, np.float32), good.affine), paths[3])
    moved = good.affine.copy()
    moved[:3, 3] += 200
    nib.save(nib.Nifti1Image(good.get_fdata(dtype=np.float32), moved), paths[4])
    nib.save(nib.Nifti1Image(np.ones((5, 4, 3, 2), np.float32), good.affine), paths[5])
    with pytest.raises(VolumeError) as caught:
        simulate(tmp_path / "out", base=base, base_diagnosis=None)
    assert [problem.file for problem in caught.value.problems] == [paths[row] for row in (0, 2, 3, 4, 5)]
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    (tmp_path / "real" / "6.nii.gz").unlink()
    with pytest.raises(VolumeError, match=r"6\.nii\.gz: cannot be opened"):
        simulate(tmp_path / "out2", base=base, base_diagnosis=None)


def test_real_grey_matter_maps_serve_as_base(shared_data, tmp_path):
    folder = shared_data / "ds002748" / "derivatives" / "ants_quickvbm"
    people = pd.read_csv(shared_data / "ds002748" / "participants.tsv", sep="\t", na_values="n/a")
    people = people[people["group"] == "control"].head(6) if "group" in people else people.tail(6)
    found = {name: sorted(folder.glob(f"{name}/**/*label-GM_probseg.nii.gz"))[0] for name in people["participant_id"]}
    manifest = people[["participant_id", "age"]].assign(image_path=list(map(str, found.values())), diagnosis="control")
    table = simulate(tmp_path / "out", n_train=2, n_test=1, base=manifest, common_atrophy=0.3)
    for row, before in zip(table.itertuples(), manifest["image_path"], strict=True):
        change = volume(row.image_path).sum() / volume(before).sum()
        assert (0.8 < change < 0.99) if row.diagnosis == "patient" else change == pytest.approx(1, abs=1e-3)
