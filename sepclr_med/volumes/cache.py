"""Preprocess every image of a manifest once, and hand out the result as one memory-mapped array.

A volume is known by the content of its file (and of its mask, where that is used), never by its path, and lies in a
folder named after the parameters it was made with. So neither a changed file nor a changed transform meets a stale one.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.transforms import Compose

from sepclr_med.errors import SHOWN_PROBLEMS, Problem, VolumeError
from sepclr_med.settings import VolumesConfig
from sepclr_med.volumes.fingerprints import ContentHashes, file_looks
from sepclr_med.volumes.loading import UnusableImageError
from sepclr_med.volumes.parallel import Clock, in_parallel
from sepclr_med.volumes.preprocessing import (
    build_preprocessing,
    describe_preprocessing,
    output_affine,
    parameters_hash,
    preprocess,
    uses_mask,
)
from sepclr_med.volumes.sources import Content, find_contents, list_sources
from sepclr_med.volumes.store import VolumeCache

logger = logging.getLogger(__name__)

BATCH_BYTES = 64 << 20
BATCH_SECONDS = 5.0
UNUSUAL_VBM_VALUE = 10.0
VOLUMES_LOOKED_AT = 8


@dataclass(frozen=True)
class CachedVolumes:
    """Preprocessed volumes of a manifest.

    Parameters
    ----------
    array : memmap (rows, C, X, Y, Z), float16, read-only
        Every volume of the cache, also those of other manifests.
    rows : ndarray of int
        For each manifest row its row in ``array``; -1 when the image was skipped.
    affine : ndarray (4, 4) or None
        Voxel to mm of the grid all volumes share; None where each image keeps its own space (``t1w``, transforms).
    problems : list of Problem
        The images that were skipped, and warnings.
    spatial_size : tuple of int
        Voxels per axis.
    keys : tuple of str
        For each manifest row what its file holds, as a hash; empty when the image was skipped.
    """

    array: np.ndarray
    rows: np.ndarray
    affine: np.ndarray | None
    problems: list[Problem]
    spatial_size: tuple[int, ...]
    keys: tuple[str, ...]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the voxels in their file, so that other processes can be told of a cohort of any size."""
        state = dict(self.__dict__)
        if isinstance(self.array, np.memmap):
            state["array"] = (str(self.array.filename), self.array.dtype.str, self.array.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["array"], tuple):
            path, dtype, shape = state["array"]
            state["array"] = np.memmap(path, dtype=dtype, mode="r", shape=shape)
        self.__dict__.update(state)

    def load(self, indices: Sequence[int] | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the volumes of manifest rows ``indices`` (counted from 0), in that order.

        Parameters
        ----------
        indices : sequence of int
        out : ndarray or None, default=None
            Array of the result's shape and type to write to, instead of a new one.

        Returns
        -------
        ndarray (n, C, X, Y, Z), float16, contiguous

        Raises
        ------
        VolumeError
            When one of them was skipped.
        """
        indices = np.asarray(indices, dtype=np.intp)
        rows = self.rows[indices]
        if (rows < 0).any():
            fix = "take only rows where `rows` is not negative"
            skipped = [Problem("the image was skipped", row=int(i) + 2, fix=fix) for i in indices[rows < 0]]
            raise VolumeError(f"{len(skipped)} of the volumes asked for are not in the cache", skipped)
        volumes = np.take(self.array, rows, axis=0, out=out, mode="clip")
        self._let_pages_go()
        return np.asarray(volumes)

    def _let_pages_go(self) -> None:
        """Let the system keep what was read, if it likes, but not count it as this process's memory."""
        mapped = getattr(self.array, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def cache_volumes(
    manifest: pd.DataFrame, volumes: VolumesConfig, cache_dir: str | Path, spatial_dims: int = 3
) -> CachedVolumes:
    """Preprocess what is not in the cache yet, and return the manifest's volumes.

    Killed at any moment, the same call goes on where it was. Several processes may use one folder at a time.

    Parameters
    ----------
    manifest : DataFrame
        One row per image, ``image_path`` absolute; a brain mask in ``mask_path`` is used by the ``t1w`` preset and by
        transforms that name ``mask``.
    volumes : VolumesConfig
        Preset or transforms, spacing, size, ``on_error`` and ``n_jobs``.
    cache_dir : path
        Folder of caches; each set of parameters has a folder of its own in it.
    spatial_dims : {2, 3}, default=3
        Dimensions of an image.

    Returns
    -------
    CachedVolumes

    Raises
    ------
    ConfigError
        For transforms that cannot be used.
    VolumeError
        With every image that cannot be used, when ``on_error`` is ``stop`` (the others are cached by then) or when
        none is left; when the disk is full, with the space that is needed and free.
    """
    pipeline = build_preprocessing(*_choice(volumes), spatial_dims)
    store = _open_store(volumes, cache_dir, spatial_dims)
    contents, problems = _find_contents(manifest, volumes, cache_dir)
    _forget_damaged(store, contents, volumes.n_jobs)
    problems += _fill(store, pipeline, contents, volumes.n_jobs)
    rows = np.full(len(manifest), -1, dtype=np.int64)
    keys = [""] * len(manifest)
    for content in contents:
        rows[content.source.position] = store.rows.get(content.key, -1)
        keys[content.source.position] = content.key if content.key in store.rows else ""
    problems.sort(key=lambda problem: problem.row or 0)
    if problems and (volumes.on_error == "stop" or (rows < 0).all()):
        raise VolumeError(f"{len(problems)} of {len(manifest)} images cannot be used", problems)
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
        logger.warning("%d of %d images skipped:\n%s", (rows < 0).sum(), len(manifest), shown)
    array = store.array()
    if volumes.chain is None and volumes.preset == "vbm":
        problems += _unusual_values(array, rows)
    return CachedVolumes(array, rows, output_affine(*_choice(volumes)), problems, tuple(array.shape[2:]), tuple(keys))


def identify_volumes(
    manifest: pd.DataFrame, volumes: VolumesConfig, cache_dir: str | Path, spatial_dims: int = 3
) -> tuple[str, ...] | None:
    """Return the ``keys`` that :func:`cache_volumes` would, without preprocessing anything.

    Parameters
    ----------
    manifest, volumes, cache_dir, spatial_dims
        As for :func:`cache_volumes`.

    Returns
    -------
    tuple of str or None
        None when it cannot be told: images cannot be read any more, or the cache is gone.
    """
    store = _open_store(volumes, cache_dir, spatial_dims)
    if not store.rows:
        return None
    contents, problems = _find_contents(manifest, volumes, cache_dir)
    if problems:
        return None
    skips = volumes.on_error == "skip"
    return tuple("" if skips and content.key not in store.rows else content.key for content in contents)


def _choice(volumes: VolumesConfig) -> tuple[Any, ...]:
    return volumes.preset, volumes.spacing, volumes.spatial_size, volumes.chain


def _open_store(volumes: VolumesConfig, cache_dir: str | Path, spatial_dims: int) -> VolumeCache:
    parameters = describe_preprocessing(*_choice(volumes), spatial_dims)
    shape = (1, *parameters["spatial_size"]) if volumes.chain is None else None
    return VolumeCache(Path(cache_dir) / parameters_hash(parameters), parameters, shape)


def _find_contents(
    manifest: pd.DataFrame, volumes: VolumesConfig, cache_dir: str | Path
) -> tuple[list[Content], list[Problem]]:
    sources = list_sources(manifest, with_mask=uses_mask(volumes.preset, volumes.chain))
    return find_contents(sources, ContentHashes(Path(cache_dir) / "files.tsv"), volumes.n_jobs)


def _forget_damaged(store: VolumeCache, contents: Sequence[Content], n_jobs: int) -> None:
    keys = sorted({content.key for content in contents if content.key in store.rows}, key=store.rows.__getitem__)
    for key, whole in in_parallel(store.is_whole, keys, n_jobs, "checking cached volumes"):
        if not whole:
            store.forget(key)


def _fill(store: VolumeCache, pipeline: Compose, contents: Sequence[Content], n_jobs: int) -> list[Problem]:
    owners: dict[str, list[Content]] = {}
    for content in contents:
        if content.key not in store.rows:
            owners.setdefault(content.key, []).append(content)
    if not owners:
        return []
    store.check_space(len(owners))
    filled_before = bool(store.rows)
    problems: list[Problem] = []
    pending: list[tuple[str, np.ndarray]] = []
    clock = Clock(BATCH_SECONDS)
    made_from = [same[0] for same in owners.values()]
    for content, made in in_parallel(lambda c: _make(pipeline, c), made_from, n_jobs, "preprocessing images"):
        if not isinstance(made, Problem) and store.shape is None:
            store.fix_shape(made.shape)
            store.check_space(len(owners))
        if not isinstance(made, Problem) and made.shape != store.shape:
            made = _wrong_shape(made.shape, store.shape, filled_before)
        if isinstance(made, Problem):
            problems += [same.source.blame(made) for same in owners[content.key]]
            continue
        pending.append((content.key, made))
        if clock.rings() or len(pending) * store.row_bytes >= BATCH_BYTES:
            store.append(pending)
            pending = []
    store.append(pending)
    return problems


def _make(pipeline: Compose, content: Content) -> np.ndarray | Problem:
    source = content.source
    try:
        volume = preprocess(pipeline, source.image, source.mask)
    except UnusableImageError as error:
        return error.problem
    if any(file_looks(found.path) != found.looks for found in content.hashes):
        return Problem("changed while it was being read", fix="run the same command again", code="changed_file")
    return volume


def _wrong_shape(shape: Sequence[int], expected: Sequence[int], filled_before: bool) -> Problem:
    others = "images made before with the same volumes.transforms" if filled_before else "the first image"
    mend = "set volumes.spatial_size, or end volumes.transforms with Resized or ResizeWithPadOrCropd"
    if shape[0] != expected[0]:
        mend = "convert the images to one number of channels"
    if filled_before:
        mend = f"if those are another dataset's, set another volumes.cache_dir; otherwise {mend}"
    return Problem(
        f"comes out of preprocessing in another shape than {others}",
        got=" x ".join(map(str, shape)),
        allowed=" x ".join(map(str, expected)),
        fix=mend,
        code="wrong_shape",
    )


def _unusual_values(array: np.ndarray, rows: np.ndarray) -> list[Problem]:
    largest = max(float(array[row].max()) for row in rows[rows >= 0][:VOLUMES_LOOKED_AT])
    if largest <= UNUSUAL_VBM_VALUE:
        return []
    return [
        Problem(
            "the vbm preset expects modulated grey-matter maps, and these values are no tissue densities",
            got=f"up to {largest:.6g}",
            allowed=f"about 0 to 2, at most {UNUSUAL_VBM_VALUE:g}",
            fix="check image_path; T1w images need preset t1w; maps in other units (such as 0 to 255) can be used with "
            "volumes.standardise=voxelwise",
            code="unusual_values",
            severity="warning",
        )
    ]
