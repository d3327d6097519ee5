"""Reading one image, whole and checked, and saying plainly what is wrong with one that cannot be used."""

from __future__ import annotations

import gzip
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import NibabelReader, NumpyReader, PILReader
from monai.transforms import LoadImage, MapTransform
from nibabel.filebasedimages import ImageFileError

from sepclr_med.errors import Problem

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ARRAYS = (".npy", ".npz")
GZIPPED = (".gz", ".mgz")


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
        "is a folder, not an image" if Path(path).is_dir() else "no such file",
        file=str(path),
        fix="correct the path in the manifest, or give --bids-root",
        code="missing_file",
    )


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
        raise
    except Exception as error:
        raise UnusableImageError(unreadable_file(path, error)) from error


def _reader(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return PILReader()
    return NumpyReader() if suffix in ARRAYS else _WholeFileReader()


class _WholeFileReader(NibabelReader):
    """Unpack compressed images in one go: twice as fast as nibabel's stream, and the checksum at the end is tested."""

    def read(self, data: Any, **kwargs: Any) -> Any:
        path = Path(data[0])
        if path.suffix.lower() not in GZIPPED:
            return super().read(data, **kwargs)
        content = gzip.decompress(path.read_bytes())
        self.filenames = (str(path),)
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            if kind.header_class.may_contain_header(content[: kind.header_class.sizeof_hdr]):
                return kind.from_bytes(content)
        if path.suffix.lower() == ".mgz":
            return nib.MGHImage.from_bytes(content)
        if not content:
            raise ImageFileError("empty file")
        return super().read(data, **kwargs)


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
