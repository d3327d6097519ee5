"""Preprocessing: geometry against independent resampling, both presets, lists from recipes, and bad images."""

from __future__ import annotations

import gzip
import json
import warnings

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import resample_img
from PIL import Image
from scipy import ndimage

from sepclr_med.errors import ConfigError
from sepclr_med.volumes.custom import DENIED, allowed_transforms, build_transforms
from sepclr_med.volumes.grids import BRAIN_BOX, head_size, template_grid
from sepclr_med.volumes.loading import UnusableImageError
from sepclr_med.volumes.preprocessing import (
    build_preprocessing,
    describe_preprocessing,
    parameters_hash,
    preprocess,
    uses_mask,
)
from sepclr_med.volumes.steps import find_foreground

RNG = np.random.default_rng(7)


def save(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def rotation(degrees, axis):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    i, j = [n for n in range(3) if n != axis]
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def template_map(path, spacing=4.0, orientation="RAS", dtype=np.float32):
    """A smooth map over the brain's box whose value tells the world coordinate, so that a flip or shift shows."""
    affine, size = template_grid(spacing)
    mm = nib.affines.apply_affine(affine, np.moveaxis(np.indices(size), 0, -1))
    values = np.exp(-(((mm - [20, -40, 30]) / 30) ** 2).sum(-1)).astype(dtype)
    image = nib.Nifti1Image(values, affine)
    change = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(orientation))
    )
    nib.save(image.as_reoriented(change), path)
    return path


def head(shape=(60, 70, 64), affine=None, noise=4.0, skull=True, seed=0):
    """A crude whole head: brain, dark gap, scalp, neck, noisy air; returns image and brain."""
    affine = np.diag([3.0, 3.0, 3.0, 1]) if affine is None else affine
    rng = np.random.default_rng(seed)
    grid = np.moveaxis(np.indices(shape), 0, -1) - np.array([shape[0] / 2, shape[1] / 2, shape[2] * 0.66])
    radius = np.sqrt(((grid / [20, 25, 19]) ** 2).sum(-1))
    brain = radius < 0.8
    image = np.where(brain, 160 - 100 * radius, 0.0)
    if skull:
        neck = (np.hypot(grid[..., 0] / 12, grid[..., 1] / 12) < 1) & (grid[..., 2] < -10)
        image = np.where(((radius > 0.9) & (radius < 1)) | (neck & (radius >= 1)), 140, image)
    image = image + np.abs(rng.normal(0, noise, shape)) * (1 if skull else brain)
    return image.astype(np.float32), brain, affine


def test_brain_box_is_that_of_the_template():
    from nilearn.datasets import load_mni152_brain_mask

    mask = load_mni152_brain_mask(resolution=1)
    inside = nib.affines.apply_affine(mask.affine, np.argwhere(mask.get_fdata() > 0))
    derived = np.stack([inside.min(axis=0) - 0.5, inside.max(axis=0) + 0.5], axis=1)
    np.testing.assert_array_equal(derived, BRAIN_BOX)


@pytest.mark.parametrize("spacing", [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0])
def test_template_grid_holds_the_brain_in_blocks_of_eight(spacing):
    affine, size = template_grid(spacing)
    low, high = affine[:3, 3] - spacing / 2, affine[:3, 3] + (np.array(size) - 0.5) * spacing
    assert all(n % 8 == 0 for n in size)
    assert (low <= BRAIN_BOX[:, 0] - 6).all()
    assert (high >= BRAIN_BOX[:, 1] + 6).all()
    assert (high - low - np.ptp(BRAIN_BOX, axis=1) - 12 < 8 * spacing).all()


def test_sizes_survive_rounding():
    assert head_size(0.8) == (240, 280, 240)
    assert template_grid(6.0)[1] == (32, 40, 32)
    assert template_grid(6.0, [20, 21, 22])[1] == (20, 21, 22)


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "PIR", "SRP"])
def test_vbm_ignores_how_the_file_is_stored(tmp_path, orientation):
    reference = preprocess(build_preprocessing("vbm", 4.0), template_map(tmp_path / "a.nii"))
    stored = template_map(tmp_path / "b.nii.gz", orientation=orientation)
    np.testing.assert_allclose(preprocess(build_preprocessing("vbm", 4.0), stored), reference, atol=1e-3)


def test_vbm_equals_nilearn_after_the_same_blur(tmp_path):
    source = rotation(11, 2) @ rotation(-7, 0) @ np.diag([2.0, 3.0, 2.5, 1])
    source[:3, 3] = [-60, -80, -40]
    values = ndimage.gaussian_filter(RNG.random((50, 43, 37)), 2).astype(np.float32)
    path = save(tmp_path / "a.nii.gz", values, source)
    affine, size = template_grid(5.0)
    sigma = np.sqrt((25 - np.array([2.0, 3.0, 2.5]) ** 2) / (8 * np.log(2))) / [2.0, 3.0, 2.5]
    blurred = nib.Nifti1Image(ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3), source)
    expected = resample_img(
        blurred, affine, size, interpolation="linear", fill_value=0, force_resample=True, copy_header=True
    ).get_fdata()
    got = preprocess(build_preprocessing("vbm", 5.0), path)[0].astype(float)
    # Half a voxel at the image's edge is faded out by one and cut by the other.
    inside = ndimage.binary_erosion(expected > 0, iterations=2)
    assert inside.sum() > 2000
    np.testing.assert_allclose(got[inside], expected[inside], atol=2e-3)


def test_vbm_keeps_the_amount_of_tissue(tmp_path):
    affine, size = template_grid(2.0)
    fine = np.zeros(size, np.float32)
    fine[20:60, 20:80, 20:60] = RNG.random((40, 60, 40)) < 0.5
    path = save(tmp_path / "a.nii.gz", fine, affine)
    coarse = preprocess(build_preprocessing("vbm", 6.0), path).astype(float)
    assert coarse.sum() * 6**3 == pytest.approx(fine.sum() * 2**3, rel=0.02)


def test_vbm_keeps_global_atrophy(tmp_path):
    path = template_map(tmp_path / "a.nii")
    image = nib.load(path)
    thinner = save(tmp_path / "b.nii", 0.8 * image.get_fdata(dtype=np.float32), image.affine)
    pipeline = build_preprocessing("vbm", 6.0)
    ratio = preprocess(pipeline, thinner).sum(dtype=float) / preprocess(pipeline, path).sum(dtype=float)
    assert ratio == pytest.approx(0.8, abs=1e-3)


def test_t1w_brain_is_upright_whole_and_scaled(tmp_path):
    image, brain, affine = head(skull=False)
    image[:30][brain[:30]] += 50  # the left half is brighter
    path = save(tmp_path / "a.nii.gz", image[::-1], affine @ np.diag([-1.0, 1, 1, 1]))
    volume = preprocess(build_preprocessing("t1w", 3.0), path)[0].astype(float)
    assert volume.shape == (64, 80, 64)
    assert volume.min() == 0
    assert 0.95 < volume.max() <= 1
    assert (volume > 0).sum() == pytest.approx(brain.sum(), rel=0.15)
    assert volume[:32].sum() > 1.2 * volume[32:].sum()
    occupied = np.argwhere(volume > 0)
    np.testing.assert_allclose((occupied.min(0) + occupied.max(0)) / 2, [31.5, 39.5, 31.5], atol=1)


def test_t1w_follows_the_axes_of_an_oblique_scan(tmp_path):
    image, _, affine = head(skull=False)
    straight = save(tmp_path / "a.nii.gz", image, affine)
    oblique = save(tmp_path / "b.nii.gz", image, rotation(9, 2) @ rotation(-5, 1) @ affine)
    pipeline = build_preprocessing("t1w", 4.0)
    np.testing.assert_allclose(preprocess(pipeline, oblique), preprocess(pipeline, straight), atol=2e-3)


def test_t1w_cuts_the_neck_and_never_the_top(tmp_path):
    image, _, affine = head(shape=(60, 70, 110))
    image[:, :, :40] = np.where(np.hypot(*np.indices((60, 70)) - np.array([30, 35])[:, None, None]) < 12, 140, 2)[
        :, :, None
    ]
    path = save(tmp_path / "a.nii.gz", image, affine)
    volume = preprocess(build_preprocessing("t1w", 4.0, [48, 56, 40]), path)[0]
    areas = (volume > 0.2).sum(axis=(0, 1))
    assert areas[0] > 0  # the box is full of head, down to the neck
    assert 0 < areas[-2:].max() < 0.3 * areas.max()  # and ends with the crown


def test_t1w_sets_the_air_around_a_head_to_zero(tmp_path):
    image, _, affine = head()
    volume = preprocess(build_preprocessing("t1w", 3.0), save(tmp_path / "a.nii.gz", image, affine))[0]
    assert (volume[:4] == 0).all()
    assert 0.1 < (volume > 0).mean() < 0.4


def test_t1w_uses_the_mask_given_on_another_grid(tmp_path):
    image, brain, affine = head()
    path = save(tmp_path / "a.nii.gz", image, affine)
    coarse = save(tmp_path / "m.nii.gz", brain[::2, ::2, ::2].astype(np.uint8), affine @ np.diag([2.0, 2, 2, 1]))
    same = save(tmp_path / "n.nii.gz", brain.astype(np.uint8), affine)
    pipeline = build_preprocessing("t1w", 3.0)
    exact = preprocess(pipeline, path, same)[0]
    assert (exact > 0).sum() == pytest.approx(brain.sum(), rel=0.15)
    rough = preprocess(pipeline, path, coarse)[0]
    assert (rough > 0).sum() == pytest.approx(brain.sum(), rel=0.25)
    assert (preprocess(pipeline, path)[0] > 0).sum() > 1.6 * brain.sum()


def test_t1w_refuses_a_mask_of_another_place(tmp_path):
    image, brain, affine = head()
    away = affine.copy()
    away[:3, 3] = 5000
    mask = save(tmp_path / "m.nii.gz", brain.astype(np.uint8), away)
    with pytest.raises(UnusableImageError, match="no voxel of the image"):
        preprocess(build_preprocessing("t1w", 3.0), save(tmp_path / "a.nii.gz", image, affine), mask)


def test_t1w_does_not_depend_on_units_or_offset(tmp_path):
    image, brain, affine = head(skull=False)
    pipeline = build_preprocessing("t1w", 4.0)
    one = preprocess(pipeline, save(tmp_path / "a.nii.gz", image, affine))
    scored = np.where(brain, (image - image[brain].mean()) / image[brain].std(), -9).astype(np.float32)
    other = preprocess(pipeline, save(tmp_path / "b.nii.gz", scored, affine))
    core = ndimage.binary_erosion(one[0] > 0, iterations=3)
    np.testing.assert_allclose(other[0][core], one[0][core], atol=0.01)


def test_foreground_of_a_zero_padded_head_is_the_head(tmp_path):
    image, _, affine = head(noise=5.0)
    expected = find_foreground(image, affine)
    padded = np.pad(image, 12)
    found = find_foreground(padded, affine)[12:-12, 12:-12, 12:-12]
    assert (found ^ expected).mean() < 0.02
    assert not found.all()


def test_presets_do_not_warn(tmp_path):
    image, _, affine = head()
    path = save(tmp_path / "a.nii.gz", image, affine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for preset in ("t1w", "vbm"):
            preprocess(build_preprocessing(preset, 6.0), path)


@pytest.mark.parametrize("preset", ["t1w", "vbm"])
def test_odd_sizes_and_spacings_come_out_in_one_shape(tmp_path, preset):
    pipeline = build_preprocessing(preset, 8.0)
    shapes = set()
    for n, (shape, zooms) in enumerate(
        [((10, 12, 9), (15, 14, 16)), ((31, 7, 20), (5, 25, 8)), ((9, 9, 90), (16, 20, 2))]
    ):
        affine = np.diag([*zooms, 1.0]).astype(float)
        affine[:3, 3] = [-70, -90, -60]
        shapes.add(preprocess(pipeline, save(tmp_path / f"{n}.nii", RNG.random(shape, np.float32), affine)).shape)
    assert len(shapes) == 1


def test_big_endian_scaled_integers_and_mgz(tmp_path):
    affine, size = template_grid(8.0)
    values = RNG.integers(0, 200, size).astype(">i2")
    plain = save(tmp_path / "a.nii", values.astype(np.float32) * 0.01, affine)
    swapped = nib.Nifti1Image(values, affine, nib.Nifti1Header(endianness=">"))
    swapped.header.set_slope_inter(0.01, 0)
    nib.save(swapped, tmp_path / "b.nii.gz")
    nib.save(nib.MGHImage(values.astype(np.float32) * np.float32(0.01), affine), tmp_path / "c.mgz")
    nib.save(nib.Nifti2Image(nib.load(plain).get_fdata(dtype=np.float32), affine), tmp_path / "d.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").header.endianness == ">"
    expected = preprocess(build_preprocessing("vbm", 8.0), plain)
    for name in ("b.nii.gz", "c.mgz", "d.nii.gz"):
        np.testing.assert_allclose(preprocess(build_preprocessing("vbm", 8.0), tmp_path / name), expected, atol=2e-2)


def break_truncated(path):
    content = template_map(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def break_last_byte_lost(path):
    path.write_bytes(template_map(path).read_bytes()[:-1])


def break_bit_flipped(path):
    content = bytearray(template_map(path, dtype=np.float64).read_bytes())
    content[-6] ^= 1  # in the checksum: the data unpack, and are not what was packed
    path.write_bytes(content)


def break_uncompressed_truncated(path):
    path.write_bytes(gzip.decompress(template_map(path).read_bytes())[:2000])


def break_nan(path):
    image = nib.load(template_map(path))
    values = image.get_fdata(dtype=np.float32)
    values[0, 0, :3] = np.nan
    save(path, values, image.affine)


BAD = {
    "truncated gzip": (break_truncated, "unreadable_file", "Compressed file ended"),
    "last byte lost": (break_last_byte_lost, "unreadable_file", "ended"),
    "bit flipped": (break_bit_flipped, "unreadable_file", "CRC"),
    "not packed": (break_uncompressed_truncated, "unreadable_file", "gzip"),
    "text": (lambda p: p.write_text("participant_id\tage\n"), "unreadable_file", "gzip"),
    "packed text": (lambda p: p.write_bytes(gzip.compress(b"no image" * 99)), "unreadable_file", "file type"),
    "empty": (lambda p: p.write_bytes(b""), "unreadable_file", "mpty"),
    "folder": (lambda p: p.mkdir(), "missing_file", "folder"),
    "missing": (lambda p: None, "missing_file", "no such file"),
    "nan": (break_nan, "not_finite", "3 of"),
    "zero": (lambda p: save(p, np.zeros((9, 8, 7), np.float32), np.eye(4)), "constant", "same value"),
    "4-D": (lambda p: save(p, np.ones((9, 8, 7, 5), np.float32), np.eye(4)), "wrong_dimensions", "9 x 8 x 7 x 5"),
    "5-D": (lambda p: save(p, np.ones((9, 8, 7, 1, 3), np.float32), np.eye(4)), "wrong_dimensions", "dimensions"),
    "2-D": (lambda p: save(p, np.ones((9, 8), np.float32), np.eye(4)), "wrong_dimensions", "9 x 8"),
}


@pytest.mark.parametrize("preset", ["vbm", "t1w"])
@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_named(tmp_path, case, preset):
    make, code, said = BAD[case]
    path = tmp_path / "sub-01_T1w.nii.gz"
    make(path)
    with pytest.raises(UnusableImageError) as caught:
        preprocess(build_preprocessing(preset, 8.0), path)
    problem = caught.value.problem
    assert problem.code == code
    assert said in str(problem)
    assert problem.fix
    assert "\n" not in str(problem)


def test_a_trailing_singleton_axis_is_no_series(tmp_path):
    image = nib.load(template_map(tmp_path / "a.nii"))
    values = image.get_fdata(dtype=np.float32)
    path = save(tmp_path / "b.nii.gz", values[..., None], image.affine)
    pipeline = build_preprocessing("vbm", 8.0)
    np.testing.assert_array_equal(preprocess(pipeline, path), preprocess(pipeline, tmp_path / "a.nii"))


def test_values_beyond_float16_are_refused(tmp_path):
    image = nib.load(template_map(tmp_path / "a.nii"))
    path = save(tmp_path / "b.nii", image.get_fdata(dtype=np.float32) * 1e6, image.affine)
    with pytest.raises(UnusableImageError, match="too large for float16"):
        preprocess(build_preprocessing("vbm", 8.0), path)


# Lists from a recipe ------------------------------------------------------------------------------------------------

RAS = {"name": "Orientationd", "axcodes": "RAS"}
SPACING = {"name": "Spacingd", "pixdim": [4.0, 4.0, 4.0]}
SIZE = {"name": "ResizeWithPadOrCropd", "spatial_size": [16, 16, 16]}


def test_a_list_replaces_the_preset(tmp_path):
    path = template_map(tmp_path / "a.nii", orientation="LPS")
    volume = preprocess(build_preprocessing("vbm", 1.0, None, [RAS, SPACING, SIZE]), path)
    assert volume.shape == (1, 16, 16, 16)
    loader = [{"name": "LoadImaged", "reader": "NibabelReader"}, {"name": "EnsureChannelFirstd"}]
    for start in (loader, loader[:1], loader[1:]):
        again = preprocess(build_preprocessing("vbm", 1.0, None, [*start, RAS, SPACING, SIZE]), path)
        np.testing.assert_array_equal(again, volume)


def test_spatial_size_ends_a_list(tmp_path):
    pipeline = build_preprocessing("vbm", 1.0, [9, 10, 11], [RAS])
    assert preprocess(pipeline, template_map(tmp_path / "a.nii")).shape == (1, 9, 10, 11)


def test_every_transform_allowed_is_deterministic_and_none_runs_code():
    allowed = allowed_transforms()
    assert len(allowed) > 50
    assert not [name for name in allowed if name.startswith(("Rand", "Lambda", "Save", "Write")) or name in DENIED]
    assert not {"TorchVisiond", "TorchIOd", "Invertd", "MixUpd", "CutOutd", "SplitDimd", "Zoom", "ZoomD"} & set(allowed)
    assert {"LoadImaged", "Spacingd", "Orientationd", "CropForegroundd", "ScaleIntensityRanged"} <= set(allowed)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "Orientationdd", "axcodes": "RAS"}, 'did you mean "Orientationd"?'),
        ({"name": "orientationd", "axcodes": "RAS"}, 'did you mean "Orientationd"?'),
        ({"name": "Lambdad", "func": "print"}, "runs code"),
        ({"name": "SaveImaged"}, "writes files"),
        ({"name": "RandFlipd"}, "deterministic"),
        ({"name": "__import__"}, "unknown transform"),
        ({"name": "os.system"}, "unknown transform"),
        ({"name": "Spacingd", "pixdims": [2, 2, 2]}, 'did you mean "pixdim"?'),
        ({"name": "Spacingd"}, "pixdim"),
        ({"name": "CastToTyped", "dtype": "os.system"}, "unknown dtype"),
        ({"axcodes": "RAS"}, "has no name"),
        ("Orientationd", "has no name"),
    ],
)
def test_transforms_that_cannot_be_used_are_refused(entry, said):
    with pytest.raises(ConfigError) as caught:
        build_preprocessing("vbm", 1.0, None, [RAS, entry, SIZE])
    assert said in str(caught.value)
    assert "number 2" in str(caught.value)


@pytest.mark.parametrize(
    "loader",
    [
        {"name": "LoadImaged", "reader": "subprocess.Popen"},
        {"name": "LoadImaged", "reader": "NumpyReader", "allow_pickle": True},
    ],
)
def test_loading_imports_nothing_and_unpickles_nothing(loader):
    with pytest.raises(ConfigError, match="LoadImaged"):
        build_preprocessing("vbm", 1.0, None, [loader])


def test_all_problems_of_a_list_come_at_once():
    with pytest.raises(ConfigError) as caught:
        build_preprocessing("vbm", 1.0, None, [{"name": "Nothingd"}, RAS, {"name": "Spacingd", "typo": 1}])
    assert len(caught.value.problems) == 2
    assert "pixdim" in caught.value.problems[1].allowed


def test_a_pickled_array_is_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnusableImageError) as caught:
        preprocess(build_preprocessing("vbm", 1.0, None, [RAS]), tmp_path / "a.npy")
    assert caught.value.problem.code == "unreadable_file"


def test_dtype_names_reach_monai(tmp_path):
    pipeline = build_preprocessing("vbm", 8.0, [8, 8, 8], [{"name": "CastToTyped", "dtype": "float64"}])
    assert preprocess(pipeline, template_map(tmp_path / "a.nii")).dtype == np.float16


def test_a_transform_that_fails_at_work_is_a_problem_of_the_image(tmp_path):
    path = template_map(tmp_path / "a.nii")
    for transform, code in [
        ({"name": "Resized", "spatial_size": [4, 4]}, "preprocessing_failed"),
        ({"name": "MaskIntensityd", "mask_key": "mask"}, "missing_mask"),
        ({"name": "SelectItemsd", "keys": "mask"}, "missing_mask"),
        ({"name": "DeleteItemsd"}, "preprocessing_failed"),
    ]:
        with pytest.raises(UnusableImageError) as caught:
            preprocess(build_preprocessing("vbm", 8.0, None, [transform]), path)
        assert caught.value.problem.code == code


def test_two_dimensional_images_through_a_list(tmp_path):
    pixels = RNG.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    np.save(tmp_path / "grey.npy", pixels[..., 0].T)
    transforms = [{"name": "ScaleIntensityRanged", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}]
    pipeline = build_preprocessing("vbm", 1.0, [24, 24], transforms, spatial_dims=2)
    assert preprocess(pipeline, tmp_path / "colour.png").shape == (3, 24, 24)
    grey = preprocess(pipeline, tmp_path / "grey.png")
    assert grey.shape == (1, 24, 24)
    np.testing.assert_array_equal(preprocess(pipeline, tmp_path / "grey.npy"), grey)


def test_presets_are_for_volumes_and_sizes_fit_them():
    with pytest.raises(ConfigError, match="2-D"):
        build_preprocessing("vbm", 3.0, spatial_dims=2)
    with pytest.raises(ConfigError, match="spatial_size"):
        build_preprocessing("vbm", 3.0, [32, 32])
    with pytest.raises(ConfigError, match="vbm, t1w"):
        build_preprocessing("vmb", 3.0)


def test_description_tells_apart_what_differs_and_nothing_else():
    same = [describe_preprocessing("vbm", 3, None), describe_preprocessing("vbm", 3.0, [56, 72, 56])]
    assert parameters_hash(same[0]) == parameters_hash(same[1])
    json.dumps(same)
    different = [
        same[0],
        describe_preprocessing("vbm", 3.5, [56, 72, 56]),
        describe_preprocessing("t1w", 3.0, [56, 72, 56]),
        describe_preprocessing("vbm", 3.0, None, [RAS]),
        describe_preprocessing("vbm", 3.0, None, [RAS, SIZE]),
        describe_preprocessing("vbm", 3.0, [8, 8, 8], [RAS]),
        describe_preprocessing("vbm", 3.0, None, [RAS], spatial_dims=2),
        same[0] | {"monai": "1.99"},
    ]
    assert len({parameters_hash(parameters) for parameters in different}) == len(different)
    assert describe_preprocessing("vbm", 3.0, None, [RAS]) == describe_preprocessing("t1w", 4.0, None, [RAS])


def test_masks_are_used_where_a_list_names_them(tmp_path):
    image, brain, affine = head()
    path = save(tmp_path / "a.nii.gz", image, affine)
    mask = save(tmp_path / "m.nii.gz", brain.astype(np.uint8), affine)
    transforms = [{"name": "MaskIntensityd", "mask_key": "mask"}]
    assert uses_mask("vbm", transforms)
    masked = preprocess(build_preprocessing("vbm", 3.0, None, transforms), path, mask)[0]
    assert (masked[~brain] == 0).all()
    assert (masked[brain] > 0).any()


# Real images ----------------------------------------------------------------------------------------------------------


def test_real_grey_matter_maps(shared_data):
    folder = shared_data / "ds002748" / "derivatives" / "ants_quickvbm"
    path = next(folder.glob("sub-01/anat/*probseg.nii.gz"))
    volume = preprocess(build_preprocessing("vbm", 3.0), path)[0].astype(float)
    image = nib.load(path)
    millilitres = image.get_fdata().sum() * 8 / 1000
    assert volume.sum() * 27 / 1000 == pytest.approx(millilitres, rel=0.01)
    edges = [np.take(volume, end, axis=axis).max() for axis in range(3) for end in (0, -1)]
    assert max(edges) < 0.02  # nothing of the brain is cut


def test_real_skull_stripped_oblique_scan(shared_data):
    path = shared_data / "ds002748" / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
    volume = preprocess(build_preprocessing("t1w", 4.0), path)[0].astype(float)
    litres = (volume > 0.1).sum() * 4**3 / 1e6
    assert 1.0 < litres < 1.8
    edges = [np.take(volume, end, axis=axis).max() for axis in range(3) for end in (0, -1)]
    assert max(edges) == 0
    assert np.corrcoef(volume.ravel(), volume[::-1].ravel())[0, 1] > 0.85  # straight: left mirrors right
    areas = (volume > 0).sum(axis=(0, 1))
    areas = areas[areas > 0]
    assert areas[round(0.6 * len(areas))] > 2 * areas[round(0.15 * len(areas))]  # the cerebrum is above the stem


def test_real_whole_head(shared_data):
    path = shared_data / "ds000011" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    volume = preprocess(build_preprocessing("t1w", 4.0), path)[0].astype(float)
    assert volume.shape == head_size(4.0)
    occupied = np.flatnonzero(volume.any(axis=(0, 1)))
    assert occupied[-1] == pytest.approx(volume.shape[2] - 1, abs=1)
    assert 0.1 < (volume > 0.1).mean() < 0.45


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii"])
def test_real_formats(shared_data, name):
    path = next((shared_data / "format_zoo").rglob(name))
    pipeline = build_preprocessing("t1w", 4.0, None)
    volume = preprocess(pipeline, path)
    assert 0.001 < (volume > 0).mean() < 0.2


def test_real_four_dimensional_mgz_and_nan_volume(shared_data):
    zoo = shared_data / "format_zoo"
    with pytest.raises(UnusableImageError, match="3 x 4 x 5 x 2"):
        preprocess(build_preprocessing("t1w", 4.0), next(zoo.rglob("test.mgz")))
    with pytest.raises(UnusableImageError, match="NaN"):
        preprocess(build_preprocessing("vbm", 4.0), next(zoo.rglob("resampled_anat_moved.nii")))


def test_what_monai_tells_programmers_of_its_defaults_is_not_shown_to_who_writes_a_recipe():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(build_transforms([RAS])) == 1
