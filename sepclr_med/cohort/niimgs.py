"""Images as nilearn takes them: paths, images in memory, or one 4-D image; as rows of a manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import pandas as pd
from nibabel.spatialimages import SpatialImage
from nilearn.image import iter_img

from sepclr_med.errors import Problem, VolumeError
from sepclr_med.rundir import atomic_path, file_sha256

ALLOWED = "a list of paths or of nibabel images, or one 4-D image"


def tabulate_images(images: Any, folder: str | Path) -> pd.DataFrame:
    """Return a row for each image: a path, and an id that is made of what the file holds.

    Parameters
    ----------
    images : sequence of path or SpatialImage, path of a 4-D image, or SpatialImage of four dimensions
    folder : path
        Where images in memory are written, under the hash of their content.

    Returns
    -------
    DataFrame
        Columns ``participant_id`` and ``image_path``. The same image has the same id wherever it lies.

    Raises
    ------
    VolumeError
        With everything that is no image.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> four = nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32) + np.arange(3, dtype=np.float32), np.eye(4))
    >>> table = tabulate_images(four, tempfile.mkdtemp())
    >>> len(table), table["participant_id"].nunique()
    (3, 3)
    """
    rows, problems = [], []
    for number, image in enumerate(list_images(images)):
        try:
            path = write_image(image, Path(folder)) if isinstance(image, SpatialImage) else Path(image).absolute()
            rows.append({"participant_id": f"img-{file_sha256(path)[:16]}", "image_path": str(path)})
        except (OSError, TypeError) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else "no image"
            got = str(image) if isinstance(image, str | os.PathLike) else type(image).__name__
            problems.append(Problem(f"image {number}: {said}", got=got[:120], allowed=ALLOWED))
    if problems:
        raise VolumeError(f"{len(problems)} of the images cannot be used", problems)
    return pd.DataFrame(rows, columns=["participant_id", "image_path"])


def list_images(images: Any) -> Sequence[Any]:
    """Return the images one by one: those of a sequence, or of one 4-D image.

    Raises
    ------
    VolumeError
        For anything else.
    """
    if isinstance(images, str | os.PathLike):
        try:
            images = nibabel.load(images)
        except (OSError, nibabel.filebasedimages.ImageFileError) as error:
            raise VolumeError("not an image", [Problem(str(error), got=str(images), allowed=ALLOWED)]) from None
    if isinstance(images, SpatialImage):
        if len(images.shape) != 4:
            raise VolumeError("one image", [Problem(f"{len(images.shape)} dimensions", allowed=ALLOWED, fix="[image]")])
        return list(iter_img(images))
    if not isinstance(images, Iterable) or getattr(images, "ndim", 1) != 1:
        got = f"{type(images).__name__} of shape {getattr(images, 'shape', 'none')}"
        raise VolumeError("not images", [Problem("no sequence of images", got=got, allowed=ALLOWED)])
    return list(images)


def write_image(image: SpatialImage, folder: Path) -> Path:
    """Write an image under the hash of its content, unless it is there already."""
    content = nibabel.Nifti1Image.from_image(image).to_bytes()
    path = folder / f"{hashlib.sha256(content).hexdigest()}.nii"
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path
