"""Reading one image, whole and checked, and saying plainly what is wrong with one that cannot be used."""

from __future__ import annotations

import zipfile
from collections.abc import Hashable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from monai.data import NibabelReader, NumpyReader, PILReader
from monai.transforms import LoadImage, MapTransform

from sepclr_med.cohort.image_files import DEFLATE_RATIO, MAX_VOXELS, DamagedImageError, open_image
from sepclr_med.cohort.images import find_bad_affine
from sepclr_med.cohort.misplaced import suggest_path
from sepclr_med.errors import Problem

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ARRAYS = (".npy", ".npz")


class UnusableImageError(Exception):
    """An image that cannot be used; carries the :class:`~sepclr_med.errors.Problem`, without its manifest row."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


class LoadVolumed(MapTransform):
    """Load paths as float32 channel-first images with the reader their name asks for.

    Pictures are read by PIL, ``.npy`` and ``.npz`` by numpy (never unpickling), everything else by nibabel.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each path by a MetaTensor (C, X, Y, Z)."""
        data = dict(data)
        for key in self.key_iterator(data):
            data[key] = _load(Path(data[key]))
        return data


class CheckVolumed(MapTransform):
    """Refuse an image with the wrong number of dimensions, or with voxels that are not finite."""

    def __init__(self, keys: str | Sequence[str], spatial_dims: int = 3, allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each image as (C, X, Y[, Z]), or raise :class:`UnusableImageError`."""
        data = dict(data)
        for key in self.key_iterator(data):
            data[key] = self._checked(data[key])
        return data

    def _checked(self, image: torch.Tensor) -> torch.Tensor:
        while image.ndim > self.spatial_dims + 1 and image.shape[-1] == 1:
            image = image[..., 0]
        is_series = self.spatial_dims == 3 and image.shape[0] > 1
        if is_series or image.ndim != self.spatial_dims + 1:
            raise UnusableImageError(_wrong_dimensions(image.shape, self.spatial_dims))
        n_bad = image.numel() - int(np.count_nonzero(np.isfinite(image.numpy())))
        if n_bad:
            raise UnusableImageError(
                Problem(
                    f"{n_bad} of {image.numel()} voxels are NaN or infinite",
                    allowed="finite numbers",
                    fix="make the image again; replace such voxels yourself only where you know what they should be",
                    code="not_finite",
                )
            )
        return image


def missing_file(path: str | Path) -> Problem:
    """Return the problem of a path that is no file."""
    return Problem(
        _name_absence(Path(path)),
        file=str(path),
        fix=suggest_path(path) or "correct the path in the manifest, or give --bids-root",
        code="missing_file",
    )


def _name_absence(path: Path) -> str:
    if path.is_dir():
        return "is a folder, not an image"
    return "is a pipe or a device, not a file" if path.exists() else "no such file"


def unreadable_file(path: str | Path, error: BaseException) -> Problem:
    """Return the problem of a file that is there but gives no image."""
    said = " ".join(str(error).replace(str(path), Path(path).name).split())[:200]
    return Problem(
        f"cannot be read as an image ({said or type(error).__name__})",
        file=str(path),
        fix="copy or convert the file again, or leave its row out",
        code="unreadable_file",
    )


def _load(path: Path) -> torch.Tensor:
    if not path.is_file():
        raise UnusableImageError(missing_file(path))
    try:
        # A reader remembers the name it is reading, so threads must not share one.
        return LoadImage(ensure_channel_first=True)(path, reader=_reader(path))
    except (MemoryError, UnusableImageError):
        # Memory is short: what a file claims and does not hold was refused before.
        raise
    except Exception as error:
        raise UnusableImageError(unreadable_file(path, error)) from error


def _reader(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return PILReader()
    if suffix in ARRAYS:
        _require_honest_array(path)
        return NumpyReader()
    return _WholeFileReader()


def _require_honest_array(path: Path) -> None:
    """Refuse arrays whose headers claim more than is there, before numpy allocates it."""
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as stream:
            _require_held(stream, path.stat().st_size)
        return
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            # What a packed array may unpack to is bounded as for compressed images, by what deflate can do.
            if part.file_size > DEFLATE_RATIO * path.stat().st_size:
                raise DamagedImageError(f"{part.filename} claims {part.file_size:,} bytes")
            with archive.open(part) as stream:
                _require_held(stream, part.file_size)


def _require_held(stream: IO[bytes], n_bytes: int) -> None:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DamagedImageError(f"holds {dtype}, not numbers")
    if prod(shape) * dtype.itemsize > n_bytes or prod(shape) > MAX_VOXELS:
        raise DamagedImageError(f"claims a shape of {shape} and has {n_bytes:,} bytes")


class _WholeFileReader(NibabelReader):
    """Unpack compressed images in one go: twice as fast as nibabel's stream, and the checksum at the end is tested."""

    def read(self, data: Any, **kwargs: Any) -> Any:
        self.filenames = (str(data[0]),)
        image = open_image(data[0])
        if trouble := find_bad_affine(image.affine):
            raise DamagedImageError(trouble)
        if any(length > 1 for length in image.shape[3:]):
            raise UnusableImageError(_wrong_dimensions([1, *image.shape], 3))
        if image.dtype.kind not in "biuf":
            raise DamagedImageError(f"voxels of type {image.dtype}")
        return image.load()


def _wrong_dimensions(shape: Sequence[int], spatial_dims: int) -> Problem:
    channels, *sizes = shape
    found = sizes if channels == 1 else [*sizes, channels]
    return Problem(
        f"the image has {len(found)} dimensions",
        got=" x ".join(str(n) for n in found),
        allowed=f"one {spatial_dims}-D image per file",
        fix="write the one volume that is meant to a file of its own, and give its path",
        code="wrong_dimensions",
    )
