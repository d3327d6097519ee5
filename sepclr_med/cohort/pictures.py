"""Two-dimensional pictures, read whole and checked by Pillow."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
PALETTES = ("P", "PA")


class DamagedPictureError(Exception):
    """A file that begins as a picture and does not go on as one."""


class Picture(NamedTuple):
    """What one file holds.

    ``mode`` is Pillow's name of the colours (``L`` grey, ``RGB``, ``I;16`` grey of 16 bits, ``P`` a palette);
    ``pixels`` are those of the first of ``n_pictures``, in the order of axes that preprocessing gives them: (width,
    height), or (width, height, channels).
    """

    mode: str
    n_pictures: int
    pixels: np.ndarray


def is_picture(path: str | Path) -> bool:
    """Return whether a file is read as a picture, by its name.

    Examples
    --------
    >>> is_picture("face.JPG"), is_picture("sub-01_T1w.nii.gz")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


def read_picture(path: str | Path) -> Picture:
    """Read a picture to its end, with the checksums of a PNG.

    Raises
    ------
    UnidentifiedImageError
        When it is no picture at all.
    DamagedPictureError
        When it is cut short or its checksums are wrong.
    """
    try:
        # Of large pictures and of a camera's notes, which are not read here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path)
    except (UnidentifiedImageError, Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:
        raise DamagedPictureError(str(error)) from error


def _read(path: str | Path) -> Picture:
    with Image.open(path) as image:
        image.verify()
    # Pillow wants a file opened anew after that.
    with Image.open(path) as image:
        pixels = np.moveaxis(np.asarray(image), 0, 1)
        return Picture(image.mode, int(getattr(image, "n_frames", 1)), pixels)
