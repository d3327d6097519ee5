"""Pictures instead of volumes: what the check finds in them, and a whole run on a few."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sepclr_med import read_manifest, write_manifest
from sepclr_med.cohort.facts_file import FactsFile
from sepclr_med.cohort.images import read_facts
from sepclr_med.cohort.preflight import check_cohort
from sepclr_med.config import VolumesConfig
from sepclr_med.errors import ManifestError, VolumeError
from sepclr_med.pipeline import run_recipe
from sepclr_med.volumes.cache import cache_volumes

RECIPE = Path(__file__).parents[1] / "pipelines" / "paper" / "cifar_mnist" / "recipe_cpu.yaml"
SUFFIXES = ("png", "jpg", "bmp", "tif")
SCALED = [{"name": "ScaleIntensityRanged", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}]


def draw(rng, size=(20, 24), colours=3):
    """Return a noisy picture of ``size`` (width, height)."""
    shape = size[::-1] + ((colours,) if colours > 1 else ())
    return rng.integers(1, 255, shape, dtype=np.uint8)


def save(pixels, path):
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def cohort(tmp_path):
    """Return twelve controls and twelve patients, in all four formats, some very dark and some very bright."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"participant_id": [f"{i:02d}" for i in range(24)], "diagnosis": np.tile(["control", "patient"], 12)}
    )
    rows["image_path"] = [
        save((draw(rng) * rng.choice([0.1, 0.5, 1.0])).astype(np.uint8), tmp_path / f"{name}.{SUFFIXES[i // 6]}")
        for i, name in enumerate(rows["participant_id"])
    ]
    return rows


def check(rows, **options):
    return check_cohort(rows, ["control"], ["patient"], **{"n_jobs": 1, **options})


def found(rows, **options):
    """Return code and participant of all findings about single images."""
    return {(problem.code, problem.participant_id) for problem in check(rows, **options).problems if problem.row}


def codes(rows):
    return {problem.code for problem in check(rows).problems}


def path_of(rows, name):
    return Path(rows.set_index("participant_id").loc[name, "image_path"])


# ------------------------------------------------------------------------------------------------------ check


def test_sound_pictures_of_all_formats_give_no_finding_whatever_their_brightness(cohort):
    result = check(cohort)
    assert found(cohort) == set()
    assert result.ok
    assert (result.n_images, result.n_usable) == (24, 24)
    assert not {"oblique", "mixed_orientation", "mixed_voxel_size", "mixed_shape"} & codes(cohort)


def test_facts_are_those_of_the_picture_and_of_nothing_else(tmp_path):
    pixels = draw(np.random.default_rng(0))
    colour, grey = (read_facts(save(p, tmp_path / f"{p.ndim}.PNG")) for p in (pixels, pixels[..., 0]))
    assert (colour.shape, colour.mode, colour.is_picture) == ((20, 24, 3), "RGB", True)
    assert (grey.shape, grey.mode) == ((20, 24), "L")
    assert (colour.spacing, colour.orientation, colour.grid, colour.placed) == ((), "", "", True)
    deep = read_facts(save(pixels[..., 0].astype(np.uint16) * 200, tmp_path / "deep.png"))
    assert deep.mode == "I;16"
    assert deep.usable


def cut(share):
    def spoil(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return spoil


def spoil_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def spoil_to_nifti(path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(5, 5, 5)), np.eye(4)), path.with_suffix(".nii"))
    path.with_suffix(".nii").rename(path)


def spoil_pixels(change):
    return lambda path: save(np.ascontiguousarray(change(np.asarray(Image.open(path)).copy())), path)


def red(pixels):
    pixels[:] = (255, 0, 0)
    return pixels


SPOILT = {
    "missing": ("00", lambda path: path.unlink(), "missing_file"),
    "png cut in half": ("00", cut(0.5), "damaged_file"),
    "png without its end": ("00", cut(0.98), "damaged_file"),
    "png with a wrong byte": ("00", spoil_byte, "damaged_file"),
    "jpg cut in half": ("06", cut(0.5), "damaged_file"),
    "jpg without its end": ("06", cut(0.98), "damaged_file"),
    "bmp cut in half": ("12", cut(0.5), "damaged_file"),
    "tif cut in half": ("18", cut(0.5), "damaged_file"),
    "no bytes": ("06", lambda path: path.write_bytes(b""), "empty_file"),
    "text": ("06", lambda path: path.write_text("no photo was taken\n" * 40), "not_an_image"),
    "volume under a picture's name": ("00", spoil_to_nifti, "not_an_image"),
    "black": ("00", spoil_pixels(np.zeros_like), "zero_image"),
    "white": ("06", spoil_pixels(lambda pixels: np.full_like(pixels, 255)), "constant_image"),
    "red": ("00", spoil_pixels(red), "constant_image"),
    "NaN": ("18", spoil_pixels(lambda pixels: np.where(pixels[..., 0] > 9, np.nan, 1.0).astype("f4")), "nonfinite"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_picture_is_named_with_row_and_remedy(cohort, kind):
    name, spoil, code = SPOILT[kind]
    spoil(path_of(cohort, name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = check(cohort)
    assert found(cohort) == {(code, name)}
    problem = next(problem for problem in result.problems if problem.code == code)
    assert (problem.severity, problem.row) == ("error", int(name) + 2)
    assert problem.fix
    assert not result.ok
    assert result.n_usable == 23


def test_a_palette_and_a_file_of_several_pictures_are_warned_about(cohort):
    rng = np.random.default_rng(9)
    Image.fromarray(draw(rng)).convert("P").save(path_of(cohort, "00"))
    pages = [Image.fromarray(draw(rng)) for _ in range(3)]
    pages[0].save(path_of(cohort, "18"), save_all=True, append_images=pages[1:])
    assert {("palette", "00"), ("several_pictures", "18")} <= found(cohort)
    assert check(cohort).ok


def test_copies_are_found_whatever_format_they_are_stored_in(cohort):
    save(np.asarray(Image.open(path_of(cohort, "00"))), path_of(cohort, "13"))
    problem = next(problem for problem in check(cohort).problems if problem.code == "duplicate_content")
    assert (problem.participant_id, problem.severity) == ("13", "error")


def test_an_odd_size_and_a_grey_picture_among_coloured_ones_are_named(cohort):
    rng = np.random.default_rng(9)
    save(draw(rng, size=(20, 23)), path_of(cohort, "03"))
    save(draw(rng, colours=1), path_of(cohort, "04"))
    assert found(cohort) == {("odd_shape", "03"), ("odd_colour_mode", "04")}
    by_code = {problem.code: problem for problem in check(cohort).problems}
    assert (by_code["odd_shape"].got, by_code["odd_shape"].allowed) == ("20 x 23", "20 x 24")
    assert by_code["mixed_shape"].severity == "info"
    assert by_code["mixed_colour_mode"].severity == "warning"
    assert "Resized" in by_code["odd_shape"].fix


@pytest.mark.parametrize("change", [{"colours": 1}, {"size": (40, 48)}])
def test_colours_or_sizes_that_go_with_the_group_are_a_verdict(cohort, change):
    rng = np.random.default_rng(9)
    for path in cohort.loc[cohort["diagnosis"] == "control", "image_path"]:
        save(draw(rng, **change), path)
    assert any("colours of the pictures goes with the group" in verdict for verdict in check(cohort).verdicts)


def test_pictures_cut_to_sizes_of_their_own_are_no_verdict(cohort):
    rng = np.random.default_rng(9)
    for i, path in enumerate(cohort["image_path"]):
        save(draw(rng, size=(100 + i, 100 - i)), path)
    assert not any("goes with the group" in verdict for verdict in check(cohort).verdicts)


def test_what_was_read_is_remembered(cohort, tmp_path):
    memory = tmp_path / "facts.jsonl"
    cut(0.5)(path_of(cohort, "05"))
    assert found(cohort, cache_file=memory) == {("damaged_file", "05")}
    remembered = FactsFile(memory)
    for path in cohort["image_path"]:
        assert (remembered.get(path) is None) == (path == str(path_of(cohort, "05")))
    path = cohort["image_path"][0]
    assert remembered.get(path) == read_facts(path)


# ------------------------------------------------------------------------------------------------------ cache


def cache(rows, folder, **changes):
    options = {"transforms": SCALED, "n_jobs": 1, **changes}
    return cache_volumes(rows, VolumesConfig(**options), folder, spatial_dims=2)


@pytest.mark.parametrize(
    ("change", "mend"), [({"size": (30, 30)}, "set volumes.spatial_size"), ({"colours": 1}, "one number of channels")]
)
def test_another_dataset_in_the_same_cache_is_a_message_that_says_how_to_mend_it(cohort, tmp_path, change, mend):
    cache(cohort[:18], tmp_path / "cache")
    rng = np.random.default_rng(9)
    others = cohort.assign(image_path=[save(draw(rng, **change), tmp_path / f"other_{i}.png") for i in range(24)])
    with pytest.raises(VolumeError, match="images made before with the same") as caught:
        cache(others, tmp_path / "cache")
    assert len(caught.value.problems) == 24
    fix = caught.value.problems[0].fix
    assert "if those are another dataset's, set another volumes.cache_dir" in fix
    assert mend in fix
    assert (cache(others, tmp_path / "other").rows >= 0).all()


def test_an_odd_picture_of_one_dataset_is_told_to_be_resized(cohort, tmp_path):
    save(draw(np.random.default_rng(9), size=(20, 23)), path_of(cohort, "03"))
    with pytest.raises(VolumeError, match="another shape than the first image") as caught:
        cache(cohort[:18], tmp_path / "cache")
    assert [problem.participant_id for problem in caught.value.problems] == ["03"]
    assert caught.value.problems[0].fix.startswith("set volumes.spatial_size")


def test_all_formats_that_are_checked_can_be_cached(cohort, tmp_path):
    by_pillow = [{"name": "LoadImaged", "reader": "PILReader"}, *SCALED]
    cached = cache(cohort, tmp_path / "cache", transforms=by_pillow)
    pixels = np.array([np.asarray(Image.open(path)) for path in cohort["image_path"]]).transpose(0, 3, 2, 1)
    np.testing.assert_allclose(cached.load(np.arange(24)).astype(float), pixels / 255, atol=5e-4)


# ------------------------------------------------------------------------------------------------------ run


@pytest.fixture
def photos(tmp_path):
    """Return a manifest as of cifar_mnist: noise, and noise with a bright bar whose side is the salient truth."""
    rng, rows = np.random.default_rng(0), []
    for split, n in {"train": 12, "val": 4, "test": 10}.items():
        for i in range(2 * n):
            pixels = draw(rng, size=(32, 32)) // 2
            digit = None if i < n else f"d{i % 2}"
            if digit is not None:
                pixels[8:24, slice(4, 8) if digit == "d0" else slice(24, 28)] += 120
            path = save(pixels, tmp_path / f"{split}{i:02d}.{('png', 'jpg')[i % 2]}")
            truth = {"object": ("cat", "dog")[i % 2], "digit": digit}
            group = "control" if digit is None else "patient"
            rows.append(
                {"participant_id": path[-10:-4], "image_path": path, "diagnosis": group, "split": split} | truth
            )
    return write_manifest(pd.DataFrame(rows), tmp_path / "manifest.tsv")


def test_a_recipe_of_pictures_runs_from_check_to_report(photos, tmp_path):
    settings = [
        f"cohort.manifest={photos}",
        "network.width=8",  # 2-D and channels last, with 4 or fewer channels torch 2.13 corrupts memory on one thread
        "method.common_dim=4",
        "method.salient_dim=4",
        "training.epochs=2",
        "training.batch_size=8",
        "training.threads=1",
        "evaluation.variables=[object,digit]",
        "evaluation.voxel_pca_components=4",
        "evaluation.n_bootstrap=0",
        "evaluation.n_permutations=99",
    ]
    said = []
    table = run_recipe(RECIPE, tmp_path / "run", settings, say=said.append)
    assert "check: 52 images" in said
    assert set(table["variable"]) == {"digit", "object", "object (background)"}
    assert {"common", "salient", "voxel_pca"} <= set(table["space"])
    assert (tmp_path / "run" / "report.html").is_file()
    run_again = []
    run_recipe(RECIPE, tmp_path / "run", settings, say=run_again.append)
    assert "embed" not in run_again


def test_a_run_stops_at_the_check_and_names_the_damaged_photo(photos, tmp_path):
    path = read_manifest(photos)["image_path"][3]
    cut(0.5)(Path(path))
    with pytest.raises(ManifestError, match="check: 1 problem") as caught:
        run_recipe(RECIPE, tmp_path / "run", [f"cohort.manifest={photos}"])
    assert caught.value.problems[0].file == path
    assert not (tmp_path / "run" / "checkpoints").exists()
