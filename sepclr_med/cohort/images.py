"""What one image file holds: whether it can be read, its geometry, and a summary of its voxels."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import stat
import zlib
from dataclasses import dataclass
from math import prod
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from nibabel.filebasedimages import ImageFileError
from PIL import UnidentifiedImageError

from sepclr_med.cohort.image_files import DamagedImageError, ImageFile, open_image
from sepclr_med.cohort.pictures import DamagedPictureError, is_picture, read_picture

THUMBNAIL_SPACING = 12.0
MIN_BLOCKS = 8
# A percentile of a million of evenly spaced voxels is that of all of them.
ENOUGH_VOXELS = 1_000_000
# In mm. From histology to a head in two voxels; beyond, a header is wrong, and blurs and boxes would be endless.
SMALLEST_VOXEL, LARGEST_VOXEL = 0.01, 200.0


@dataclass(frozen=True)
class ImageFacts:
    """What was found in one file.

    Parameters
    ----------
    path : str
        The file.
    size, mtime_ns : int
        Bytes and time of last change, by which a changed file is recognised.
    failure, detail : str
        Code of what kept the file from being read ("" when it was read) and the reason in words.
    shape : tuple of int
        As stored, trailing axes of length 1 included. Of a picture: width, height and, if several, channels.
    spacing : tuple of float
        Voxel size in mm.
    orientation : str
        Nearest axes such as ``RAS``.
    obliquity : float
        Largest angle between a voxel axis and its nearest scanner axis, in degrees.
    placed : bool
        False when a NIfTI header has neither an sform nor a qform, so that the orientation is a guess.
    grid : str
        Digest of shape and affine: equal for images resampled to one template.
    digest : str
        Digest of the voxel values in RAS directions: equal for copies, even if stored in another type or orientation.
    n_nonfinite : int
        Voxels that are NaN or infinite.
    constant, zero : bool
        All voxels have one value; that value is zero.
    mean, spread, bright, filled : float
        Of the absolute values of non-zero voxels: mean, standard deviation, 99th percentile; and their volume in mL.
    thumbnail : str
        The image averaged over blocks of about 12 mm (smaller in small images), in 256 steps; see :meth:`pattern`.
    mode : str
        Colours of a picture, as Pillow calls them; "" for a volume. Pictures have no spacing, orientation or grid, and
        nothing is said of their intensities, which depend on the exposure.
    n_pictures : int
        Pictures in the file, of which the first is used.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    failure: str = ""
    detail: str = ""
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    obliquity: float = 0.0
    placed: bool = True
    grid: str = ""
    digest: str = ""
    n_nonfinite: int = 0
    constant: bool = False
    zero: bool = False
    mean: float = 0.0
    spread: float = 0.0
    bright: float = 0.0
    filled: float = 0.0
    thumbnail: str = ""
    mode: str = ""
    n_pictures: int = 1

    @property
    def is_picture(self) -> bool:
        """Whether this is a two-dimensional picture, not a volume."""
        return bool(self.mode)

    @property
    def usable(self) -> bool:
        """Whether the image can be compared with others."""
        return not self.failure and not self.n_nonfinite and not self.constant

    def pattern(self) -> np.ndarray:
        """Return the thumbnail as a flat vector with mean 0 and standard deviation 1."""
        # There are never more blocks than voxels: what does not end by then was written about another shape.
        unpacking = zlib.decompressobj()
        steps = unpacking.decompress(base64.b64decode(self.thumbnail), max(0, prod(self.shape)) + 1)
        if not steps or not unpacking.eof:
            raise ValueError("no thumbnail")
        values = np.frombuffer(steps, dtype=np.uint8).astype(np.float32)
        return (values - values.mean()) / (values.std() or 1.0)


def read_facts(path: str) -> ImageFacts:
    """Open one image and return what it holds; never raises, whatever the file is.

    The voxels are read as float32, to the very end of a compressed file, so that its checksum is verified. A 4-D image
    is not read beyond its header. PNG, JPEG, BMP and TIFF are read by Pillow, everything else by nibabel.

    Examples
    --------
    >>> read_facts("absent.nii.gz").failure
    'missing_file'
    """
    return _read(path, with_voxels=True)


def read_header(path: str) -> ImageFacts:
    """Return what the header of one image says, without reading its voxels; never raises. Pictures are read whole.

    Examples
    --------
    >>> read_header("absent.nii.gz").failure
    'missing_file'
    """
    return _read(path, with_voxels=False)


def _read(path: str, with_voxels: bool) -> ImageFacts:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return ImageFacts(path, failure="not_an_image", detail="a pipe or a device, not a file")
        # nibabel calls a file it may not open "not an image": ask the system first.
        with open(path, "rb"):
            pass
    except OSError as error:
        return _explain_absence(path, error)
    known: dict[str, Any] = {"path": path, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    # Broken files raise nearly anything, a MemoryError for an absurd header included, and the file is at fault.
    try:
        return _read_picture(path, known) if is_picture(path) else _read_volume(path, known, with_voxels)
    except Exception as error:
        failure = _name_failure(path, error)
        return ImageFacts(**known, failure=failure, detail=" ".join(str(error).split()) or type(error).__name__)


def _explain_absence(path: str, error: OSError) -> ImageFacts:
    if isinstance(error, IsADirectoryError):
        return ImageFacts(path, failure="not_an_image", detail="a folder")
    if os.path.islink(path) and not os.path.exists(path):
        return ImageFacts(path, failure="missing_file", detail=f"a link to {os.readlink(path)}, which is not there")
    absent = isinstance(error, FileNotFoundError | NotADirectoryError)
    failure = "missing_file" if absent else "unreadable_file"
    return ImageFacts(path, failure=failure, detail="" if absent else error.strerror or str(error))


def _name_failure(path: str, error: Exception) -> str:
    broken = EOFError | zlib.error | gzip.BadGzipFile | DamagedPictureError | DamagedImageError
    if isinstance(error, broken) or "could the file be damaged" in str(error):
        return "damaged_file"
    if isinstance(error, ImageFileError | UnidentifiedImageError):
        return "not_an_image" if os.path.getsize(path) else "empty_file"
    return "unreadable_image"


def _read_picture(path: str, known: dict[str, Any]) -> ImageFacts:
    picture = read_picture(path)
    known |= {"shape": picture.pixels.shape, "mode": picture.mode, "n_pictures": picture.n_pictures}
    # A picture of one colour is constant, whatever its channels are.
    return ImageFacts(**known, **_describe_content(picture.pixels.astype(np.float32), axis=(0, 1)))


def _read_volume(path: str, known: dict[str, Any], with_voxels: bool) -> ImageFacts:
    image = open_image(path)
    if trouble := find_bad_affine(image.affine):
        return ImageFacts(**known, failure="bad_affine", detail=trouble)
    known |= _describe_header(image)
    if sum(length > 1 for length in image.shape[3:]):
        return ImageFacts(**known, failure="four_d", detail=f"shape {image.shape}")
    if image.dtype.kind not in "biuf":
        return ImageFacts(**known, failure="not_scalar", detail=f"voxels of type {image.dtype}")
    if not with_voxels:
        return ImageFacts(**known)
    with np.errstate(all="ignore"):
        return ImageFacts(**known, **_describe_voxels(image, _voxels(image)))


def find_bad_affine(affine: np.ndarray) -> str:
    """Return what is wrong with an affine, voxel to mm, or "".

    Examples
    --------
    >>> find_bad_affine(np.eye(4)), find_bad_affine(np.diag([1e-20, 1.0, 1.0, 1.0]))
    ('', 'voxels of 1e-20 x 1 x 1 mm')
    """
    if not np.isfinite(affine).all():
        return "the affine in the header is not finite"
    with np.errstate(all="ignore"):
        sizes = voxel_sizes(affine)
    if sizes.min() < SMALLEST_VOXEL or sizes.max() > LARGEST_VOXEL:
        return f"voxels of {' x '.join(f'{size:g}' for size in sizes)} mm"
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        return "the affine in the header has no inverse"
    return ""


def _describe_header(image: ImageFile) -> dict[str, Any]:
    header, affine = image.header, image.affine
    placed = not issubclass(image.kind, nib.Nifti1Pair) or bool(header["sform_code"] or header["qform_code"])
    grid = f"{image.shape[:3]} {np.round(affine, 2).tolist()}"
    with np.errstate(all="ignore"):
        return {
            "shape": tuple(map(int, image.shape)),
            "spacing": tuple(round(float(length), 3) for length in voxel_sizes(affine)),
            "orientation": "".join(str(axis or "?") for axis in nib.aff2axcodes(affine)),
            "obliquity": round(float(np.degrees(obliquity(affine).max())), 2),
            "placed": placed,
            "grid": hashlib.blake2b(grid.encode(), digest_size=8).hexdigest(),
        }


def _voxels(image: ImageFile) -> np.ndarray:
    """Return the voxels as float32, shape (X, Y, Z)."""
    values = image.load().get_fdata(dtype=np.float32, caching="unchanged")
    return values.reshape((*values.shape, 1, 1, 1)[:3])


def _describe_voxels(image: ImageFile, values: np.ndarray) -> dict[str, Any]:
    # Last axis first: the order of the file, in which a large volume need not be shuffled.
    values = np.ascontiguousarray(nib.apply_orientation(values, nib.io_orientation(image.affine)).T)
    found = _describe_content(values)
    if found["n_nonfinite"] or found["constant"]:
        return found
    filled = values[values != 0]
    np.abs(filled, out=filled)
    spacing = np.abs(voxel_sizes(image.affine))
    return found | {
        "mean": float(filled.mean(dtype=np.float64)),
        "spread": float(filled.std(dtype=np.float64)),
        "bright": float(np.percentile(filled[:: 1 + filled.size // ENOUGH_VOXELS], 99)),
        "filled": float(filled.size * np.prod(spacing) / 1000),
        "thumbnail": _shrink(values, THUMBNAIL_SPACING / spacing[::-1]),
    }


def _describe_content(values: np.ndarray, axis: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return what is asked of volumes and pictures alike; along ``axis`` a constant image has one value."""
    values = np.ascontiguousarray(values)
    digest = hashlib.blake2b(str(values.shape).encode(), digest_size=16)
    digest.update(values.data)
    lowest, highest = values.min(axis=axis), values.max(axis=axis)
    return {
        "digest": digest.hexdigest(),
        "n_nonfinite": int(values.size - np.count_nonzero(np.isfinite(values))),
        "constant": bool(np.all(lowest == highest)),
        "zero": bool(np.all(lowest == 0) and np.all(highest == 0)),
    }


def _shrink(values: np.ndarray, factors: np.ndarray) -> str:
    """Average over blocks of about ``factors`` voxels, in 256 steps from the lowest to the highest block, as text.

    Axes are given in the order of the file, the last one first, and written in the usual order.
    """
    for axis, factor in enumerate(factors):
        width = max(1.0, min(factor, values.shape[axis] / MIN_BLOCKS))
        starts = np.arange(0, values.shape[axis], width).astype(int)
        widths = np.diff([*starts, values.shape[axis]]).astype(values.dtype)
        shape = np.ones(3, dtype=int)
        shape[axis] = -1
        values = np.add.reduceat(values, starts, axis=axis) / widths.reshape(shape)
    lowest, highest = values.min(), values.max()
    steps = np.round((values - lowest) / ((highest - lowest) or 1.0) * 255).astype(np.uint8)
    return base64.b64encode(zlib.compress(steps.T.tobytes())).decode("ascii")
