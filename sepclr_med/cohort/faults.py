"""What is wrong with one image on its own, in words."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sepclr_med.cohort.images import ImageFacts
from sepclr_med.cohort.pictures import PALETTES


@dataclass(frozen=True)
class Fault:
    """Words of a :class:`~sepclr_med.errors.Problem` that are the same for every image."""

    message: str
    allowed: str
    fix: str
    severity: str = "error"


GET_IT_AGAIN = "copy or convert it again from the source, or remove the row"
READABLE = "NIfTI, MGH or another format that nibabel reads; PNG, JPEG, BMP or TIFF under a name that says so"
ONE_VOLUME = "one 3-D volume with a number per voxel"

FAULTS = {
    "missing_file": Fault(
        "there is no such file",
        "a file",
        "correct the path or --bids-root, or fetch it (`datalad get` in a datalad set)",
    ),
    "unreadable_file": Fault("the system does not let it be read", "a readable file", "ask for access to its folder"),
    "empty_file": Fault("the file has no bytes", "an image", GET_IT_AGAIN),
    "damaged_file": Fault("the file is cut short or damaged", "a complete file", GET_IT_AGAIN),
    "not_an_image": Fault("this is not an image", READABLE, GET_IT_AGAIN),
    "unreadable_image": Fault("the image cannot be read", READABLE, GET_IT_AGAIN),
    "not_scalar": Fault("voxels are not plain numbers", ONE_VOLUME, "convert it to a scalar image"),
    "four_d": Fault("the image has more than three dimensions", ONE_VOLUME, "take one volume of it, or the mean"),
    "bad_affine": Fault("the header does not say where the voxels lie", "an affine with an inverse", GET_IT_AGAIN),
    "nonfinite": Fault("voxels are NaN or infinite", "finite numbers", "replace them (often by 0 outside the brain)"),
    "zero_image": Fault("all voxels are zero", "an image with content", GET_IT_AGAIN),
    "constant_image": Fault("all voxels have one value", "an image with content", GET_IT_AGAIN),
    "trailing_axes": Fault("the image has further axes of length one, which are ignored", "", "", severity="info"),
    "no_orientation": Fault(
        "the header has neither sform nor qform: what is left and right is a guess",
        "an sform or qform",
        "convert it again from the source with orientation",
        severity="warning",
    ),
    "several_pictures": Fault(
        "the file holds several pictures, of which the first is used",
        "one picture",
        "save the one that is meant to a file of its own, if it is not the first",
        severity="warning",
    ),
    "palette": Fault(
        "pixels are numbers of a palette, not intensities",
        "grey or colours",
        "convert it to grey or to RGB",
        severity="warning",
    ),
}


def find_faults(facts: ImageFacts) -> dict[str, str]:
    """Return the faults of one image: a key of ``FAULTS`` and what was got, in words.

    Examples
    --------
    >>> find_faults(ImageFacts("a.nii", shape=(2, 2, 2), n_nonfinite=3))
    {'nonfinite': '3 of 8 voxels'}
    """
    if facts.failure:
        return {facts.failure: facts.detail}
    found = {}
    if facts.n_nonfinite:
        found["nonfinite"] = f"{facts.n_nonfinite} of {prod(facts.shape)} voxels"
    if facts.zero:
        found["zero_image"] = ""
    elif facts.constant:
        found["constant_image"] = ""
    if len(facts.shape) > 3:
        found["trailing_axes"] = f"shape {facts.shape}"
    if facts.n_pictures > 1:
        found["several_pictures"] = f"{facts.n_pictures} pictures"
    if facts.mode in PALETTES:
        found["palette"] = f"mode {facts.mode}"
    if not facts.placed:
        found["no_orientation"] = f"orientation {facts.orientation}"
    return found
