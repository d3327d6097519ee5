"""Real controls as the base of a cohort: half of them become patients of known place and amount of atrophy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from sepclr_med.cohort.manifest import manifest_hash, read_manifest
from sepclr_med.cohort.simulation.files import encode, image_name
from sepclr_med.cohort.simulation.people import GROUP_STREAM, PERSON_STREAM, draw_disease, no_disease, stream
from sepclr_med.cohort.simulation.planting import SUBTYPES, component_map, plant_atrophy, salient_maps
from sepclr_med.cohort.splits import assign_splits
from sepclr_med.errors import ManifestError, Problem, VolumeError
from sepclr_med.rundir import file_sha256

PLANTED = ("diagnosis", "subtype", "severity", "score")
# Mean grey matter under a region over the mean of the image; maps in template space have 0.6 and more.
LEAST_COVERAGE = 0.3


def read_base(base: str | Path | pd.DataFrame, diagnoses: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows of a manifest that serve as base, with absolute ``image_path``.

    Parameters
    ----------
    base : path or DataFrame
        Manifest of real grey-matter maps in MNI space.
    diagnoses : sequence of str or None
        Values of ``diagnosis`` to use; None takes every row.

    Raises
    ------
    ManifestError
        When columns or the named diagnoses are missing, when fewer than four participants are left, or when two rows
        would get the same file name.
    """
    rows = base.copy() if isinstance(base, pd.DataFrame) else read_manifest(base)
    source = "base" if isinstance(base, pd.DataFrame) else str(base)
    columns = ["participant_id", "image_path", *(["diagnosis"] if diagnoses is not None else [])]
    problems = [Problem("column is missing", file=source, column=c) for c in columns if c not in rows]
    problems = problems or _empty_cells(rows, columns[:2], source)
    if not problems and diagnoses is not None:
        problems = _absent_diagnoses(rows, diagnoses, source)
        rows = rows[rows["diagnosis"].isin(list(diagnoses))]
    if not problems:
        rows = rows.reset_index(drop=True)
        rows["image_path"] = [str(Path(path).resolve()) for path in rows["image_path"]]
        problems = _unusable_ids(rows, source)
    if problems:
        raise ManifestError(f"{source}: cannot serve as base", problems)
    return rows


def assign_patients(
    base: pd.DataFrame, shares: Mapping[str, int], seed: int, min_severity: float, score_correlation: float
) -> pd.DataFrame:
    """Make half of the participants of each site patients, draw their disease, and split the cohort.

    Parameters
    ----------
    base : DataFrame
        Rows of :func:`read_base`; a participant's sessions share one disease.
    shares : mapping of str to int
        Relative sizes of ``train``, ``val`` and ``test``.
    seed : int
        Seed of groups, disease and splits.
    min_severity, score_correlation : float
        As in :func:`sepclr_med.cohort.simulate.simulate`.

    Returns
    -------
    DataFrame
        The base's own columns with new ``image_path`` (relative), ``diagnosis``, ``split`` and the planted columns; a
        base's own ``diagnosis``, and its columns of a planted name, are kept as ``base_<name>``.
    """
    people = base.drop(columns=["split", "fold"], errors="ignore")
    people = people.rename(columns={name: f"base_{name}" for name in PLANTED})
    subtypes = _choose_patients(people, seed)
    names = people["participant_id"].unique()
    disease = {
        name: draw_disease(stream(seed, PERSON_STREAM, number), subtypes[name], min_severity, score_correlation)
        if name in subtypes
        else no_disease()
        for number, name in enumerate(names)
    }
    people["diagnosis"] = ["patient" if name in subtypes else "control" for name in people["participant_id"]]
    people["image_path"] = image_names(people)
    planted = pd.DataFrame([disease[name] for name in people["participant_id"]], index=people.index)
    people = pd.concat([people, planted], axis=1)
    total = sum(shares.values())
    return assign_splits(
        people,
        test_size=shares["test"] / total,
        val_size=shares["val"] / total,
        stratify=("diagnosis", "site", "subtype"),
        seed=seed,
    )


def image_names(rows: pd.DataFrame) -> list[str]:
    """Return the file of each row in the new cohort."""
    keys = [c for c in ("participant_id", "session_id", "run") if c in rows]
    present = rows[keys].astype(object).where(rows[keys].notna(), None)
    return [image_name(**key) for key in present.to_dict("records")]


def check_base_images(paths: Sequence[str]) -> None:
    """Refuse images that cannot be read or do not cover the planted regions.

    Raises
    ------
    VolumeError
        With all of them.
    """
    problems = [problem for path in paths if (problem := _image_problem(path)) is not None]
    if problems:
        raise VolumeError(f"base: {len(problems)} of {len(paths)} image(s) cannot be planted into", problems)


def base_digest(base: pd.DataFrame) -> str:
    """Return one hash over the base's table and the content of its images.

    Raises
    ------
    VolumeError
        With every image that cannot be opened.
    """
    unreadable = []
    digest = hashlib.sha256(manifest_hash(base).encode())
    for path in base["image_path"]:
        try:
            digest.update(file_sha256(path).encode())
        except OSError as error:
            unreadable.append(Problem(f"cannot be opened: {error.strerror}", file=path, code="missing_file"))
    if unreadable:
        raise VolumeError(f"base: {len(unreadable)} of {len(base)} image(s) cannot be opened", unreadable)
    return digest.hexdigest()


class PlantedBrains:
    """Writes the base's images again, the patients' with atrophy planted on the image's own grid.

    Controls pass through the same encoding, so that storage does not tell the groups apart.

    Parameters
    ----------
    paths : sequence of str
        Base image of each row.
    people : DataFrame
        Rows of :func:`assign_patients`.
    atrophy, common_atrophy : float
        As in :func:`sepclr_med.cohort.simulation.planting.plant_atrophy`.
    """

    def __init__(self, paths: Sequence[str], people: pd.DataFrame, atrophy: float, common_atrophy: float):
        self.paths = list(paths)
        self.people = people.to_dict("records")
        self.lost = atrophy, common_atrophy

    def paint(self, row: int) -> nib.Nifti1Image:
        """Return the image of one row, in its base's data type."""
        image = nib.load(self.paths[row])
        data, person = image.get_fdata(dtype=np.float32), self.people[row]
        if person["diagnosis"] == "patient":
            data = plant_atrophy(data, image.affine, person["subtype"], person["severity"], *self.lost)
        return encode(data, image.affine, image.get_data_dtype())

    def truth_images(self) -> dict[str, nib.Nifti1Image]:
        """Return the fractions lost at severity 1 on the grid of the first image."""
        image = nib.load(self.paths[0])
        maps = salient_maps(image.shape, image.affine, *self.lost)
        return {name: encode(lost, image.affine, np.float32) for name, lost in maps.items()}


def _choose_patients(people: pd.DataFrame, seed: int) -> dict[str, str]:
    """Return the subtype of each participant who becomes a patient."""
    first = people.drop_duplicates("participant_id")
    site = first["site"].astype(object).where(first["site"].notna(), "") if "site" in first else ""
    persons = pd.DataFrame({"participant_id": first["participant_id"], "site": site})
    persons = persons.sample(frac=1, random_state=stream(seed, GROUP_STREAM)).sort_values("site", kind="stable")
    # Every second one along the sites: halves within each site and over all of them, and subtypes in the same way.
    patients = persons["participant_id"].iloc[1::2]
    return dict(zip(patients, cycle(SUBTYPES), strict=False))


def _empty_cells(rows: pd.DataFrame, columns: Sequence[str], source: str) -> list[Problem]:
    return [
        Problem("cell is empty", file=source, column=column, row=position + 2)
        for column in columns
        for position in np.flatnonzero(rows[column].isna())
    ]


def _absent_diagnoses(rows: pd.DataFrame, diagnoses: Sequence[str], source: str) -> list[Problem]:
    seen = ", ".join(f"{name} ({count})" for name, count in rows["diagnosis"].value_counts().items())
    return [
        Problem(
            "no row has this diagnosis",
            file=source,
            column="diagnosis",
            got=name,
            allowed=seen,
            fix="name the controls with base_diagnosis (--base-diagnosis)",
        )
        for name in diagnoses
        if not (rows["diagnosis"] == name).any()
    ]


def _unusable_ids(rows: pd.DataFrame, source: str) -> list[Problem]:
    if rows["participant_id"].nunique() < 4:
        few = f"{rows['participant_id'].nunique()} participant(s)"
        return [Problem("too few participants to make two groups", file=source, got=few, allowed="4 or more")]
    names = pd.Series(image_names(rows))
    return [
        Problem(
            "another row gets the same file name (letters and digits of participant, session and run)",
            file=source,
            participant_id=rows["participant_id"][row],
            fix="make the ids distinct",
        )
        for row in names.index[names.duplicated(keep=False)]
    ]


def _image_problem(path: str) -> Problem | None:
    fix = "give grey-matter maps in MNI space (millimetres of the template), one 3-D file per row"
    try:
        image = nib.load(path)
        data = image.get_fdata(dtype=np.float32)
    except Exception as error:  # nibabel and zlib raise a dozen unrelated types for broken files
        return Problem(f"cannot be read: {' '.join(str(error).split())[:120]}", file=path, fix=fix)
    if data.ndim != 3:
        return Problem("not a 3-D volume", file=path, got=f"shape {data.shape}", fix=fix)
    if not np.isfinite(data).all() or not (data > 0).any():
        return Problem("holds NaN or infinite values, or nothing above zero", file=path, fix=fix)
    level = float(data[data > 0].mean())
    for name in ("common", *SUBTYPES):
        weights = component_map(name, data.shape, image.affine)
        total = float(weights.sum())
        if total <= 0 or float((weights * data).sum()) / total < LEAST_COVERAGE * level:
            return Problem(f"has no grey matter where component {name} is planted", file=path, fix=fix)
    return None
