"""What a cohort covers, in covariates and in the geometry of its images, and what of a new image lies outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.cohort.images import ImageFacts

# Voxels and fields of view of one protocol differ by rounding and by head size.
TOLERANCE = 0.1
OBLIQUE_DEGREES = 5.0
AXES = ("left to right", "back to front", "bottom to top")
OF_VOLUMES = {"spacing", "extent", "orientation", "obliquity", "all_placed"}
AXIS_OF = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def learn_ranges(rows: pd.DataFrame, covariates: Sequence[str]) -> dict[str, Any]:
    """Return the range of each number and the classes of each other covariate, as far as the rows have them.

    Examples
    --------
    >>> learn_ranges(pd.DataFrame({"age": [30.0, 50.0], "sex": ["F", "M"]}), ["age", "sex", "tiv"])
    {'age': {'low': 30.0, 'high': 50.0}, 'sex': {'classes': ['F', 'M']}}
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(covariates):
        values = rows[name].dropna() if name in rows else pd.Series(dtype=float)
        if values.empty:
            continue
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            found[name] = {"low": float(values.min()), "high": float(values.max())}
        else:
            found[name] = {"classes": sorted(values.astype(str).unique())}
    return found


def compare_ranges(row: Mapping[str, Any], ranges: Mapping[str, Any]) -> list[str]:
    """Say which covariates of a new row are missing or outside what was learnt.

    Examples
    --------
    >>> compare_ranges({"age": 81.0, "sex": None}, {"age": {"low": 30, "high": 50}, "sex": {"classes": ["F"]}})
    ['age 81 is outside the training range, 30 to 50', 'no value of sex']
    """
    said = []
    for name, known in ranges.items():
        value = row.get(name)
        if value is None or pd.isna(value):
            said.append(f"no value of {name}")
        elif "classes" in known:
            if str(value) not in known["classes"]:
                said.append(f"{name} {value} was not in training ({', '.join(known['classes'])})")
        else:
            low, high = known["low"], known["high"]
            number = pd.to_numeric(value, errors="coerce")
            if not low <= number <= high:
                got = str(value) if np.isnan(number) else f"{number:g}"
                said.append(f"{name} {got} is outside the training range, {low:g} to {high:g}")
    return said


def learn_geometry(facts: Sequence[ImageFacts]) -> dict[str, Any]:
    """Return the geometry of the images that could be read: ranges of voxel size and field of view, orientations.

    Axes run from left to right, back to front and bottom to top, however they are stored.

    Examples
    --------
    >>> image = ImageFacts("a.nii", shape=(10, 20, 30), spacing=(3.0, 2.0, 1.0), orientation="SAR")
    >>> learn_geometry([image])["spacing"]
    [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    """
    volumes = [_measure(found) for found in facts if _is_placed_volume(found)]
    pictures = [found for found in facts if found.is_picture and not found.failure]
    geometry: dict[str, Any] = {"n": len(volumes) + len(pictures)}
    if volumes:
        for name in ("spacing", "extent"):
            values = np.array([found[name] for found in volumes])
            geometry[name] = np.column_stack([values.min(axis=0), values.max(axis=0)]).tolist()
        read = [found for found in facts if _is_placed_volume(found)]
        geometry["orientation"] = dict(Counter(found.orientation for found in read).most_common())
        geometry["obliquity"] = max(found.obliquity for found in read)
        geometry["all_placed"] = all(found.placed for found in read)
    if pictures:
        geometry["mode"] = dict(Counter(found.mode for found in pictures).most_common())
    return geometry


def compare_geometry(found: ImageFacts, known: Mapping[str, Any]) -> list[str]:
    """Say in what the header of a new image is unlike those of the training images.

    Examples
    --------
    >>> image = ImageFacts("a.nii", shape=(10, 20, 30), spacing=(3.0, 2.0, 1.0), orientation="RAS")
    >>> known = learn_geometry([image])
    >>> other = ImageFacts("b.nii", shape=(10, 20, 30), spacing=(3.0, 2.0, 5.0), orientation="LAS")
    >>> for words in compare_geometry(other, known):
    ...     print(words)
    orientation LAS, training images are RAS
    voxels of 5 mm from bottom to top, training 1 to 1
    a field of view of 150 mm from bottom to top, training 30 to 30
    """
    if not known.get("n"):
        return []
    if found.failure:
        return [f"the header cannot be read: {found.detail or found.failure}"]
    if found.is_picture:
        modes = known.get("mode", {})
        return [] if found.mode in modes else [f"colour mode {found.mode}, training images are {', '.join(modes)}"]
    if not known.keys() >= OF_VOLUMES or not _is_placed_volume(found):
        return ["no volume as the training images are"]
    said = []
    if found.orientation not in known["orientation"]:
        said.append(f"orientation {found.orientation}, training images are {', '.join(known['orientation'])}")
    measured = _measure(found)
    for name, words in (("spacing", "voxels"), ("extent", "a field of view")):
        for axis, value, (low, high) in zip(AXES, measured[name], known[name], strict=True):
            if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE):
                said.append(f"{words} of {value:g} mm from {axis}, training {low:g} to {high:g}")
    if found.obliquity > known["obliquity"] + OBLIQUE_DEGREES:
        said.append(f"oblique by {found.obliquity:g} degrees, training at most {known['obliquity']:g}")
    if known["all_placed"] and not found.placed:
        said.append("the header does not say how the image lies in space, so that its orientation is a guess")
    return said


def _is_placed_volume(found: ImageFacts) -> bool:
    return (
        not found.failure and not found.is_picture and sorted(AXIS_OF.get(c, 3) for c in found.orientation) == [0, 1, 2]
    )


def _measure(found: ImageFacts) -> dict[str, list[float]]:
    """Return voxel size and field of view in mm by anatomical axis."""
    order = np.argsort([AXIS_OF[letter] for letter in found.orientation])
    spacing = np.array(found.spacing, dtype=float)[order]
    return {"spacing": spacing.tolist(), "extent": (spacing * np.array(found.shape[:3])[order]).round(1).tolist()}
