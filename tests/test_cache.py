"""The cache: never stale, never half-written, the same after kills, under several writers and on a full disk."""

from __future__ import annotations

import errno
import gzip
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sepclr_med.errors import ConfigError, VolumeError
from sepclr_med.settings import VolumesConfig
from sepclr_med.volumes import cache as cache_module
from sepclr_med.volumes import sources
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.fingerprints import ContentHashes, file_looks
from sepclr_med.volumes.preprocessing import build_preprocessing, preprocess
from sepclr_med.volumes.store import VolumeCache

COARSE = VolumesConfig(preset="vbm", spacing=12.0, n_jobs=2)
AFFINE = np.array([[15.0, 0, 0, -70], [0, 14, 0, -95], [0, 0, 16, -60], [0, 0, 0, 1]])
KEYS = ["a" * 64, "b" * 64, "c" * 64]


def write_image(path, seed, shape=(10, 12, 9), scale=1.0):
    values = np.random.default_rng(seed).random(shape, np.float32) * scale
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return str(path)


def make_manifest(folder, n_images, **columns):
    folder.mkdir(exist_ok=True)
    paths = [write_image(folder / f"sub-{n:03d}.nii.gz", n) for n in range(n_images)]
    return pd.DataFrame({"participant_id": [f"{n:03d}" for n in range(n_images)], "image_path": paths} | columns)


def folder_of(cache_dir) -> Path:
    return next(path.parent for path in Path(cache_dir).glob("*/volumes.f16"))


def files_under(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def counted(monkeypatch):
    """Count images preprocessed and files hashed."""
    counts = {"preprocessed": 0, "hashed": 0}

    def count(module, name, key):
        real = getattr(module, name)

        def counting(*args, **kwargs):
            counts[key] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)

    count(cache_module, "preprocess", "preprocessed")
    from sepclr_med.volumes import fingerprints

    count(fingerprints, "file_sha256", "hashed")
    return counts


@pytest.fixture
def settled(monkeypatch):
    """Let hashes be remembered for files a twentieth of a second old; returns the wait until they are."""
    monkeypatch.setattr("sepclr_med.volumes.fingerprints.SETTLED_NS", 20_000_000)
    return lambda: time.sleep(0.05)


def test_volumes_are_those_of_preprocessing(tmp_path):
    manifest = make_manifest(tmp_path / "images", 5)
    cached = cache_volumes(manifest, COARSE, tmp_path / "cache")
    pipeline = build_preprocessing("vbm", 12.0)
    expected = np.stack([preprocess(pipeline, path) for path in manifest["image_path"]])
    assert cached.spatial_size == (16, 24, 16)
    assert (cached.array.dtype, cached.array.shape) == (np.float16, (5, 1, 16, 24, 16))
    np.testing.assert_array_equal(cached.load([3, 0, 3]), expected[[3, 0, 3]])
    assert cached.load(np.array([1])).flags.c_contiguous
    assert type(cached.load([1])) is np.ndarray
    assert not cached.array.flags.writeable
    np.testing.assert_array_equal(cached.affine[:3, 3], [-90, -155, -85])
    assert cached.problems == []


def test_a_second_call_does_no_work_and_changes_no_byte(tmp_path, counted, settled):
    manifest = make_manifest(tmp_path / "images", 4)
    settled()
    cache_volumes(manifest, COARSE, tmp_path / "cache")
    assert counted == {"preprocessed": 4, "hashed": 4}
    before = files_under(tmp_path / "cache")
    cache_volumes(manifest, COARSE, tmp_path / "cache")
    assert counted == {"preprocessed": 4, "hashed": 4}
    assert files_under(tmp_path / "cache") == before


def test_new_images_are_added_to_old(tmp_path, counted):
    manifest = make_manifest(tmp_path / "images", 6)
    first = cache_volumes(manifest[:4], COARSE, tmp_path / "cache")
    old = np.array(first.array)
    more = cache_volumes(manifest[::-1], COARSE, tmp_path / "cache")
    assert counted["preprocessed"] == 6
    np.testing.assert_array_equal(more.array[:4], old)
    np.testing.assert_array_equal(more.load([5, 4, 3, 2]), old)
    np.testing.assert_array_equal(first.array, old)


def test_equal_content_under_two_names_is_kept_once(tmp_path, counted):
    manifest = make_manifest(tmp_path / "images", 3)
    shutil.copy(manifest["image_path"][0], manifest["image_path"][2])
    cached = cache_volumes(manifest, COARSE, tmp_path / "cache")
    assert counted["preprocessed"] == 2
    assert cached.rows.tolist() == [0, 1, 0]


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_under_the_same_path_misses(tmp_path, keep_times, settled):
    manifest = make_manifest(tmp_path / "images", 2)
    path = tmp_path / "images" / "sub-001.nii"
    manifest.loc[1, "image_path"] = write_image(path, 1)
    settled()
    before = cache_volumes(manifest, COARSE, tmp_path / "cache").load([0, 1])
    status = path.stat()
    with open(path, "r+b") as stream:  # in place: name, size and inode stay
        stream.seek(-4000, os.SEEK_END)
        stream.write(np.zeros(500, np.float32).tobytes())
    if keep_times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (status.st_size, status.st_ino)
    after = cache_volumes(manifest, COARSE, tmp_path / "cache").load([0, 1])
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], preprocess(build_preprocessing("vbm", 12.0), path))
    assert (after[1] != before[1]).any()


def test_a_file_rewritten_within_a_clock_tick_misses(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("one")
    hashes = ContentHashes(tmp_path / "files.tsv")
    first = hashes.find(path)
    hashes.remember([first])
    path.write_text("two")
    monkeypatch.setattr("sepclr_med.volumes.fingerprints.file_looks", lambda _: first.looks)
    assert ContentHashes(tmp_path / "files.tsv").find(path).sha256 != first.sha256


def test_a_moved_file_hits(tmp_path, counted):
    manifest = make_manifest(tmp_path / "images", 3)
    before = cache_volumes(manifest, COARSE, tmp_path / "cache").load([0, 1, 2])
    (tmp_path / "images").rename(tmp_path / "moved")
    manifest["image_path"] = manifest["image_path"].str.replace("images", "moved")
    np.testing.assert_array_equal(cache_volumes(manifest, COARSE, tmp_path / "cache").load([0, 1, 2]), before)
    assert counted["preprocessed"] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": 11.0},
        {"spatial_size": [16, 16, 16]},
        {"preset": "t1w"},
        {"transforms": [{"name": "Resized", "spatial_size": [16, 24, 16]}]},
    ],
)
def test_a_changed_transform_misses(tmp_path, change, counted):
    manifest = make_manifest(tmp_path / "images", 2)
    before = cache_volumes(manifest, COARSE, tmp_path / "cache")
    after = cache_volumes(manifest, COARSE.model_copy(update=change), tmp_path / "cache")
    assert counted["preprocessed"] == 4
    assert after.array.shape != before.array.shape or (after.load([0]) != before.load([0])).any()


def test_another_release_of_monai_misses(tmp_path, counted, monkeypatch):
    manifest = make_manifest(tmp_path / "images", 1)
    cache_volumes(manifest, COARSE, tmp_path / "cache")
    monkeypatch.setattr("monai.__version__", "1.99.0")
    cache_volumes(manifest, COARSE, tmp_path / "cache")
    assert counted["preprocessed"] == 2


def test_the_folder_says_what_it_holds(tmp_path):
    cache_volumes(make_manifest(tmp_path / "images", 1), COARSE, tmp_path / "cache")
    content = json.loads((folder_of(tmp_path / "cache") / "preprocessing.json").read_text())
    assert content["parameters"]["preset"] == "vbm"
    assert content["shape"] == [1, 16, 24, 16]
    everything = b"".join(files_under(tmp_path / "cache").values())
    assert str(tmp_path).encode() not in everything


def test_a_mask_is_part_of_the_key_where_it_is_used(tmp_path, counted):
    manifest = make_manifest(tmp_path / "images", 1)
    masks = []
    for n in range(2):
        mask = np.zeros((10, 12, 9), np.uint8)
        mask[2:8, 2 : 9 + n, 2:7] = 1
        nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / f"mask{n}.nii.gz")
        masks.append(str(tmp_path / f"mask{n}.nii.gz"))
    t1w = COARSE.model_copy(update={"preset": "t1w"})
    volumes = [
        cache_volumes(manifest.assign(mask_path=mask), t1w, tmp_path / "cache").load([0]) for mask in [pd.NA, *masks]
    ]
    assert counted["preprocessed"] == 3
    assert (volumes[0] != volumes[1]).any()
    assert (volumes[1] != volumes[2]).any()
    for mask in masks:
        cache_volumes(manifest.assign(mask_path=mask), COARSE, tmp_path / "cache")
    assert counted["preprocessed"] == 4


# Bad images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(tmp_path):
    """Eight images, four of them bad in different ways."""
    manifest = make_manifest(tmp_path / "images", 8)
    paths = [Path(path) for path in manifest["image_path"]]
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[3].unlink()
    paths[4].write_text("no image")
    nib.save(nib.Nifti1Image(np.full((10, 12, 9), np.nan, np.float32), AFFINE), paths[6])
    return manifest


BAD_ROWS = [3, 5, 6, 8]


def test_stop_names_every_bad_image_and_keeps_the_good(tmp_path, spoilt, counted):
    with pytest.raises(VolumeError) as caught:
        cache_volumes(spoilt, COARSE, tmp_path / "cache")
    problems = caught.value.problems
    assert "4 of 8" in str(caught.value)
    assert [problem.row for problem in problems] == BAD_ROWS
    assert [problem.participant_id for problem in problems] == ["001", "003", "004", "006"]
    assert [problem.code for problem in problems] == [
        "unreadable_file", "missing_file", "unreadable_file", "not_finite",
    ]  # fmt: skip
    assert all(problem.file == spoilt["image_path"][problem.row - 2] for problem in problems)
    done = counted["preprocessed"]
    cached = cache_volumes(spoilt.drop(index=[1, 3, 4, 6]), COARSE, tmp_path / "cache")
    assert counted["preprocessed"] == done
    assert (cached.rows >= 0).all()


def test_skip_names_and_counts_them(tmp_path, spoilt):
    cached = cache_volumes(spoilt, COARSE.model_copy(update={"on_error": "skip"}), tmp_path / "cache")
    assert np.flatnonzero(cached.rows < 0).tolist() == [1, 3, 4, 6]
    assert [problem.row for problem in cached.problems] == BAD_ROWS
    assert cached.load([0, 2, 5, 7]).shape[0] == 4
    with pytest.raises(VolumeError, match="row 3"):
        cached.load([0, 1])


def test_rows_are_those_of_the_table_after_a_selection(tmp_path, spoilt):
    with pytest.raises(VolumeError) as caught:
        cache_volumes(spoilt[4:], COARSE, tmp_path / "cache")
    assert [problem.row for problem in caught.value.problems] == [6, 8]


def test_nothing_left_stops_even_when_skipping(tmp_path, spoilt):
    with pytest.raises(VolumeError, match="2 of 2"):
        cache_volumes(spoilt.loc[[1, 3]], COARSE.model_copy(update={"on_error": "skip"}), tmp_path / "cache")


def test_bad_content_under_two_ids_names_both(tmp_path):
    manifest = make_manifest(tmp_path / "images", 3)
    for path in manifest["image_path"][:2]:
        Path(path).write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(VolumeError) as caught:
        cache_volumes(manifest, COARSE, tmp_path / "cache")
    assert [problem.participant_id for problem in caught.value.problems] == ["000", "001"]


def test_an_odd_shape_is_a_problem_of_its_image(tmp_path):
    manifest = make_manifest(tmp_path / "images", 4)
    write_image(manifest["image_path"][2], 2, shape=(10, 12, 8))
    as_is = COARSE.model_copy(update={"transforms": [{"name": "Orientationd", "axcodes": "RAS"}], "on_error": "skip"})
    cached = cache_volumes(manifest, as_is, tmp_path / "cache")
    assert cached.rows.tolist() == [0, 1, -1, 2]
    assert cached.problems[0].code == "wrong_shape"
    assert (cached.problems[0].got, cached.problems[0].allowed) == ("1 x 10 x 12 x 8", "1 x 10 x 12 x 9")
    assert cached.affine is None
    sized = as_is.model_copy(update={"spatial_size": [9, 9, 9]})
    assert (cache_volumes(manifest, sized, tmp_path / "cache").rows >= 0).all()


def test_values_that_are_no_tissue_density_are_warned_about(tmp_path):
    manifest = make_manifest(tmp_path / "images", 1)
    write_image(manifest["image_path"][0], 0, scale=255)
    warnings = cache_volumes(manifest, COARSE, tmp_path / "cache").problems
    assert [(problem.code, problem.severity) for problem in warnings] == [("unusual_values", "warning")]


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    manifest = make_manifest(tmp_path / "images", 2)
    real = cache_module.preprocess

    def slow_writer(pipeline, image, mask):
        if image == manifest["image_path"][1]:
            write_image(image, 99)
        return real(pipeline, image, mask)

    monkeypatch.setattr(cache_module, "preprocess", slow_writer)
    with pytest.raises(VolumeError, match="changed while it was being read"):
        cache_volumes(manifest, COARSE, tmp_path / "cache")
    monkeypatch.undo()
    cached = cache_volumes(manifest, COARSE, tmp_path / "cache")
    expected = preprocess(build_preprocessing("vbm", 12.0), manifest["image_path"][1])
    np.testing.assert_array_equal(cached.load([1])[0], expected)


def test_a_bad_recipe_touches_nothing(tmp_path):
    manifest = make_manifest(tmp_path / "images", 1)
    with pytest.raises(ConfigError):
        cache_volumes(manifest, COARSE.model_copy(update={"transforms": [{"name": "No"}]}), tmp_path / "cache")
    with pytest.raises(ConfigError, match="2-D"):
        cache_volumes(manifest, COARSE, tmp_path / "cache", spatial_dims=2)
    assert not (tmp_path / "cache").exists()


# Damage, kills and several writers ------------------------------------------------------------------------------------


def volume(seed, shape=(1, 3, 4, 5)):
    return np.random.default_rng(seed).random(shape).astype(np.float16)


def test_a_row_without_its_line_is_overwritten(tmp_path):
    first = VolumeCache(tmp_path, {})
    first.append([(KEYS[0], volume(0))])
    with open(first.data, "ab") as stream:
        stream.write(os.urandom(first.row_bytes + 17))
    again = VolumeCache(tmp_path, {})
    assert again.rows == {KEYS[0]: 0}
    again.append([(KEYS[1], volume(1))])
    np.testing.assert_array_equal(VolumeCache(tmp_path, {}).array(), np.stack([volume(0), volume(1)]))


@pytest.mark.parametrize("n_kept", [1, 30, 64, 66, 74])
def test_a_torn_line_is_not_read_and_is_cut(tmp_path, n_kept):
    first = VolumeCache(tmp_path, {})
    first.append([(KEYS[0], volume(0)), (KEYS[1], volume(1))])
    whole, torn = first.index.path.read_bytes().splitlines(keepends=True)
    first.index.path.write_bytes(whole + torn[:n_kept])
    again = VolumeCache(tmp_path, {})
    assert again.rows == {KEYS[0]: 0}
    again.append([(KEYS[2], volume(2))])
    final = VolumeCache(tmp_path, {})
    assert final.rows == {KEYS[0]: 0, KEYS[2]: 1}
    np.testing.assert_array_equal(final.array()[1], volume(2))


def test_lost_rows_are_not_believed(tmp_path):
    first = VolumeCache(tmp_path, {})
    first.append([(key, volume(n)) for n, key in enumerate(KEYS)])
    os.truncate(first.data, 2 * first.row_bytes + 5)
    again = VolumeCache(tmp_path, {})
    assert again.rows == {KEYS[0]: 0, KEYS[1]: 1}
    again.append([(KEYS[2], volume(2))])
    np.testing.assert_array_equal(again.array()[again.rows[KEYS[2]]], volume(2))


def test_damaged_bytes_are_found_and_made_again(tmp_path, counted):
    manifest = make_manifest(tmp_path / "images", 4)
    before = cache_volumes(manifest, COARSE, tmp_path / "cache").load(range(4))
    data = folder_of(tmp_path / "cache") / "volumes.f16"
    with open(data, "r+b") as stream:
        stream.seek(2 * before[0].nbytes + 100)
        stream.write(b"\0\1\2\3")
    for _ in range(2):
        np.testing.assert_array_equal(cache_volumes(manifest, COARSE, tmp_path / "cache").load(range(4)), before)
    assert counted["preprocessed"] == 5


def test_a_damaged_row_is_made_again_in_a_later_batch(tmp_path):
    first = VolumeCache(tmp_path, {})
    first.append([(key, volume(n)) for n, key in enumerate(KEYS)])
    with open(first.data, "r+b") as stream:
        stream.write(os.urandom(first.row_bytes))
    again = VolumeCache(tmp_path, {})
    assert [again.is_whole(key) for key in KEYS] == [False, True, True]
    again.forget(KEYS[0])
    again.append([("d" * 64, volume(3))])
    again.append([(KEYS[0], volume(0))])
    np.testing.assert_array_equal(again.array()[again.rows[KEYS[0]]], volume(0))
    final = VolumeCache(tmp_path, {})
    np.testing.assert_array_equal(final.array()[final.rows[KEYS[0]]], volume(0))


def test_two_stores_open_at_once_do_not_overwrite_each_other(tmp_path):
    one, other = VolumeCache(tmp_path, {}), VolumeCache(tmp_path, {})
    one.append([(KEYS[0], volume(0))])
    other.append([(KEYS[1], volume(1)), (KEYS[0], volume(0))])
    one.append([(KEYS[2], volume(2))])
    final = VolumeCache(tmp_path, {})
    assert final.rows == {KEYS[0]: 0, KEYS[1]: 1, KEYS[2]: 2}
    np.testing.assert_array_equal(final.array(), np.stack([volume(n) for n in range(3)]))


def test_a_shape_that_does_not_fit_is_a_defect(tmp_path):
    keeper = VolumeCache(tmp_path, {}, shape=(1, 3, 4, 5))
    with pytest.raises(ValueError, match="shape"):
        keeper.append([(KEYS[0], volume(0, (1, 3, 4, 6)))])
    assert not keeper.data.exists()


def _cache_in_a_process(manifest, cache_dir):
    cache_module.BATCH_SECONDS = sources.REMEMBER_SECONDS = 0.0  # write after every image
    cache_volumes(manifest, COARSE, cache_dir)


@pytest.fixture(scope="module")
def processes():
    """Real processes that start in milliseconds: the libraries are imported once, before they are born."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sepclr_med.volumes.cache"])
    return context


def test_killed_at_any_moment_the_next_call_finishes_the_same_cache(tmp_path, processes):
    manifest = make_manifest(tmp_path / "images", 24)
    _cache_in_a_process(manifest, tmp_path / "undisturbed")
    expected = files_under(folder_of(tmp_path / "undisturbed"))
    draw = random.Random(3)
    n_killed, seen = 0, set()
    for _ in range(60):
        process = processes.Process(target=_cache_in_a_process, args=(manifest, tmp_path / "killed"))
        process.start()
        index = next((tmp_path / "killed").glob("*/index.tsv"), None)
        before = index.stat().st_size if index else 0
        deadline = time.monotonic() + 30
        while process.is_alive() and time.monotonic() < deadline:
            index = index or next((tmp_path / "killed").glob("*/index.tsv"), None)
            if index and index.stat().st_size > before:
                break
        time.sleep(draw.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL) if process.is_alive() else None
        process.join()
        n_killed += process.exitcode == -signal.SIGKILL
        seen.add(index.stat().st_size if index else 0)
        if n_killed >= 10 or process.exitcode == 0:
            break
    assert n_killed >= 3
    assert len(seen) >= 3  # at different stages
    cached = cache_volumes(manifest, COARSE, tmp_path / "killed")
    assert cached.rows.tolist() == list(range(24))
    assert files_under(folder_of(tmp_path / "killed")) == expected


def test_two_processes_fill_one_cache(tmp_path, processes):
    manifest = make_manifest(tmp_path / "images", 20)
    both = [
        processes.Process(target=_cache_in_a_process, args=(rows, tmp_path / "cache"))
        for rows in (manifest, manifest[::-1])
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    cached = cache_volumes(manifest, COARSE, tmp_path / "cache")
    assert sorted(cached.rows) == list(range(20))
    pipeline = build_preprocessing("vbm", 12.0)
    expected = np.stack([preprocess(pipeline, path) for path in manifest["image_path"]])
    np.testing.assert_array_equal(cached.load(range(20)), expected)


# Disks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_too_small_is_refused_before_any_work(tmp_path, small_disk, counted):
    manifest = make_manifest(tmp_path / "images", 40)
    with pytest.raises(VolumeError) as caught:
        cache_volumes(manifest, COARSE, small_disk)
    problem = caught.value.problems[0]
    assert problem.code == "full_disk"
    assert problem.allowed == f"{40 * 16 * 24 * 16 * 2 / 1e6:.1f} MB needed"
    assert "MB free" in problem.got
    assert counted["preprocessed"] == 0
    some = cache_volumes(manifest[:5], COARSE, small_disk)
    assert some.rows.tolist() == list(range(5))


def test_a_disk_that_fills_up_leaves_whole_rows_only(tmp_path, small_disk):
    keeper = VolumeCache(small_disk / "cache", {})
    shape = (1, 16, 24, 16)
    volumes = [(f"{n:064x}", volume(n, shape)) for n in range(40)]
    keeper.append(volumes[:5])
    with pytest.raises(VolumeError) as caught:
        keeper.append(volumes[5:])
    assert caught.value.problems[0].code == "full_disk"
    assert keeper.data.stat().st_size == 5 * keeper.row_bytes
    again = VolumeCache(small_disk / "cache", {})
    assert len(again.rows) == 5
    again.append(volumes[5:9])
    np.testing.assert_array_equal(again.array(), np.stack([v for _, v in volumes[:9]]))


def test_a_disk_full_from_the_start_is_said(tmp_path, small_disk):
    manifest = make_manifest(tmp_path / "images", 2)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), open(small_disk / "filler", "wb") as stream:
        stream.write(bytes(1 << 20))
    as_is = COARSE.model_copy(update={"transforms": [{"name": "Orientationd", "axcodes": "RAS"}]})
    for config in (COARSE, as_is):
        with pytest.raises(VolumeError) as caught:
            cache_volumes(manifest, config, small_disk)
        assert caught.value.problems[0].code == "full_disk"


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VolumeError, match=r"volumes\.cache_dir"):
        cache_volumes(make_manifest(tmp_path / "images", 1), COARSE, tmp_path / "file" / "cache")


def test_looks_change_with_content_and_time(tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    looks = file_looks(path)
    path.write_text("three")
    assert file_looks(path) != looks


def test_real_cohort_of_mixed_scans(shared_data, tmp_path):
    paths = [
        shared_data / "ds002748" / "sub-54" / "anat" / "sub-54_T1w.nii.gz",
        shared_data / "ds000011" / "sub-02" / "anat" / "sub-02_T1w.nii.gz",
        next((shared_data / "format_zoo").rglob("test.mgz")),
    ]
    manifest = pd.DataFrame({"participant_id": ["54", "02", "zoo"], "image_path": [str(path) for path in paths]})
    skipping = VolumesConfig(preset="t1w", spacing=6.0, on_error="skip")
    cached = cache_volumes(manifest, skipping, tmp_path / "cache")
    assert cached.rows.tolist() == [0, 1, -1]
    assert cached.problems[0].participant_id == "zoo"
    assert (cached.spatial_size, cached.affine) == ((32, 40, 32), None)
