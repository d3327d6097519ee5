"""Images as nilearn takes them (paths, images in memory, one 4-D image) and their covariates, as rows of a manifest."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import pandas as pd
from nibabel.spatialimages import SpatialImage
from nilearn.image import iter_img

from sepclr_med.atomic import atomic_path
from sepclr_med.cohort.columns import recognise_columns
from sepclr_med.cohort.covariates import refuse
from sepclr_med.cohort.manifest import read_manifest, write_manifest
from sepclr_med.errors import ManifestError, Problem, VolumeError
from sepclr_med.rundir import file_sha256

# Stands for a file in messages about rows that come as a table.
COVARIATES = "covariates"
# Columns that say whose an image is; all others are adjusted for.
IDENTITY = ("participant_id", "session_id", "family_id")
# Columns of a manifest that say what is done with an image, or what is to be learned: nothing to adjust for.
NO_COVARIATES = ("image_path", "mask_path", "diagnosis", "run", "qc", "split", "fold")
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


def tabulate_given(
    images: Any, covariates: pd.DataFrame | None, work: Path, diagnosis: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the manifest of images: read as any other, so that values are checked and understood as anywhere.

    Parameters
    ----------
    images
        As for :func:`tabulate_images`.
    covariates : DataFrame or None
        From :func:`name_covariates`; a row for each image.
    work : Path
        Images in memory are written to ``work/images``.
    diagnosis : sequence of str or None, default=None
        Of each image, where they are to be trained on.

    Returns
    -------
    DataFrame
        ``attrs["contents"]`` are the hashes of the images.

    Raises
    ------
    ManifestError
        When tables and images do not agree, or with every wrong cell.
    """
    table = tabulate_images(images, work / "images")
    wrong = [
        Problem(f"{len(rows)} rows of {name}", allowed=f"{len(table)}, as there are images")
        for name, rows in (("covariates", covariates), ("y", diagnosis))
        if rows is not None and len(rows) != len(table)
    ]
    if wrong or table.empty:
        raise ManifestError("images and tables do not agree", wrong or [Problem("no images", allowed="one or more")])
    contents = table["participant_id"].tolist()
    if covariates is not None:
        table = table.assign(**{str(name): covariates[name].to_numpy() for name in covariates})
    table = _number_repeats(table)
    if diagnosis is not None:
        table = table.assign(diagnosis=diagnosis, split="train")
    with tempfile.TemporaryDirectory(prefix="sepclr_med-") as folder:
        path = write_manifest(table, Path(folder) / "manifest.tsv")
        try:
            manifest = read_manifest(path, required=["participant_id", "image_path"])
        except ManifestError as error:
            problems = [replace(problem, file=COVARIATES) for problem in error.problems]
            raise ManifestError("covariates cannot be used", problems) from None
    manifest.attrs.pop("ledger", None)
    manifest.attrs["contents"] = contents
    return manifest


def _number_repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column ``run`` where a participant has several images of a session."""
    key = [name for name in ("participant_id", "session_id") if name in table]
    again = table[key].astype(str).groupby(key).cumcount()
    return table.assign(run=(again + 1).astype(str)) if again.any() else table


def name_covariates(covariates: Any) -> pd.DataFrame | None:
    """Return covariates under the names that a manifest's reader gives their columns.

    Raises
    ------
    ManifestError
        For anything but a table, columns named twice, and columns that are no covariates.

    Examples
    --------
    >>> list(name_covariates(pd.DataFrame({"AGE": [30.0], "Gender": ["F"]})))
    ['age', 'sex']
    """
    if covariates is None:
        return None
    if not isinstance(covariates, pd.DataFrame):
        raise ManifestError("covariates", [Problem(f"a {type(covariates).__name__}", allowed="a DataFrame")])
    table = covariates.set_axis([str(name).strip() for name in covariates], axis="columns")
    table = table.rename(columns=recognise_columns(table.columns, COVARIATES)[0])
    twice = list(dict.fromkeys(table.columns[table.columns.duplicated()]))
    problems = [Problem("column appears twice", column=name, fix="keep one of them") for name in twice]
    if found := [name for name in table if name in NO_COVARIATES]:
        fix = 'give what is adjusted for alone, such as covariates=table[["age", "sex", "site"]]'
        problems.append(Problem("not covariates", got=", ".join(found), fix=fix))
    refuse("covariates cannot be used", problems)
    return table


def require_values(manifest: pd.DataFrame, names: list[str]) -> None:
    """Refuse covariates that nothing could be adjusted for: a reference passes over them."""
    fix = "fill the column, or leave it out"
    empty = [name for name in names if name not in manifest or manifest[name].isna().all()]
    refuse("covariates cannot be used", [Problem("no value", column=name, fix=fix) for name in empty])


def list_adjusted(covariates: pd.DataFrame | None) -> list[str]:
    """Return the columns that are adjusted for: all but those that say whose an image is.

    Examples
    --------
    >>> list_adjusted(pd.DataFrame(columns=["participant_id", "age"]))
    ['age']
    """
    return [] if covariates is None else [str(name) for name in covariates if name not in IDENTITY]
