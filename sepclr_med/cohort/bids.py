"""From a BIDS folder to a manifest: images by their entities, joined with what the dataset's tables say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.bids_files import Scan, find_ambiguous, report_runs, scan_images, select_images
from sepclr_med.cohort.bids_tables import Table, join, read_participants, read_phenotypes, read_sessions
from sepclr_med.cohort.bids_words import check_rename, choose_diagnosis, pick_session_columns, translate
from sepclr_med.cohort.cells import locate
from sepclr_med.cohort.columns import KNOWN_COLUMNS
from sepclr_med.cohort.misplaced import holds_dicom
from sepclr_med.cohort.rows import KEY, find_near_ids
from sepclr_med.cohort.tables import raise_errors
from sepclr_med.errors import ManifestError, Problem, did_you_mean

SHOWN_IMAGES = 20


def find_images(
    bids_dir: str | Path,
    suffix: str = "T1w",
    derivative: str | None = None,
    entities: Mapping[str, str | None] | None = None,
    diagnosis_column: str | None = None,
    rename: Mapping[str, str] | None = None,
    phenotype: bool = False,
    sessions: bool = False,
    diagnosis: str | None = None,
) -> tuple[pd.DataFrame, list[Problem]]:
    r"""Make the manifest of a BIDS folder: one row per image, with what the tables say of its participant.

    Parameters
    ----------
    bids_dir : path
        The dataset: the folder with ``participants.tsv`` and ``sub-*``.
    suffix : str, default="T1w"
        Suffix of the images, such as ``T1w`` or ``probseg``.
    derivative : str or None, default=None
        Folder under ``derivatives/`` to take the images from; none means the raw images.
    entities : mapping or None, default=None
        Entities that an image must carry, by short or long name, such as ``{"desc": "mod", "session": "T1"}``. Commas
        separate alternatives, ``none`` means that the name lacks the entity, a value None asks for nothing.
    diagnosis_column : str or None, default=None
        Column that holds the diagnosis; none means ``diagnosis`` or another of the usual names.
    rename : mapping or None, default=None
        Columns to rename, such as ``{"gender": "sex"}``. Other spellings of known columns (``Age``, ``gender``) are
        recognised without.
    phenotype : bool, default=False
        Also join ``phenotype/*.tsv`` and the tables in its sub-folders.
    sessions : bool, default=False
        Also join ``sub-*/sub-*_sessions.tsv``; what they say goes before what ``participants.tsv`` says.
    diagnosis : str or None, default=None
        Diagnosis of everyone, for a dataset of one group.

    Returns
    -------
    manifest : DataFrame
        As :func:`sepclr_med.read_manifest` gives it, sorted by path, images absolute; ``attrs["dictionary"]`` has the
        columns' descriptions from the JSON sidecars (:func:`sepclr_med.cohort.columns.describe_columns`).
    problems : list of Problem
        Warnings and remarks: rows without image, images without row (they stay, without diagnosis), columns
        recognised, values translated.

    Raises
    ------
    ManifestError
        When a decision is needed or something is absent; every problem says which option to give or what to write.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     root = Path(folder)
    ...     (root / "sub-01" / "anat").mkdir(parents=True)
    ...     (root / "sub-01" / "anat" / "sub-01_T1w.nii.gz").touch()
    ...     _ = (root / "participants.tsv").write_text("participant_id\tgroup\tgender\nsub-01\tHC\tfemale\n")
    ...     manifest, problems = find_images(root)
    >>> manifest[["participant_id", "diagnosis", "sex"]].values.tolist()
    [['sub-01', 'HC', 'F']]
    """
    bids_dir = Path(os.path.realpath(bids_dir))
    if diagnosis is not None and diagnosis_column is not None:
        message, fix = "--diagnosis and --diagnosis-column exclude each other", "give one of them"
        raise ManifestError(f"{bids_dir}: two sources of the diagnosis", [Problem(message, fix=fix)])
    root = _find_root(bids_dir, derivative)
    scan = scan_images(root, suffix)
    if not scan.participants:
        raise_errors(str(root), scan.problems)
        raise ManifestError(f"{root}: no participants", [_no_participants(root)])
    images = select_images(scan, suffix, entities or {}, root)
    problems = [*scan.problems, *find_ambiguous(images, suffix), *report_runs(images)]
    images = images[[column for column in [*KEY, "image_path"] if column in images]]
    tables, found = _read_tables(bids_dir, root, scan, images, dict(rename or {}), phenotype, sessions)
    problems += [*found, *check_rename(rename or {}, tables)]
    if diagnosis is not None:
        images = images.assign(diagnosis=diagnosis)
    elif any(table.name == "participants" for table in tables):
        problems += choose_diagnosis(tables, diagnosis_column)
    elif not any(problem.code == "missing_column" for problem in found):
        problems.append(_no_table(bids_dir, images))
    for table in tables:
        problems += [*_compare(table, images, scan, suffix), *translate(table)]
    raise_errors(str(bids_dir), problems)
    manifest, dictionary, found = join(images, tables)
    problems += [*found, *pick_session_columns(manifest), *find_near_ids(manifest["participant_id"], str(bids_dir))]
    manifest = _order(manifest)
    manifest.attrs = {"dictionary": dictionary, "problems": problems}
    return manifest, problems


def _read_tables(
    bids_dir: Path,
    root: Path,
    scan: Scan,
    images: pd.DataFrame,
    rename: Mapping[str, str],
    phenotype: bool,
    sessions: bool,
) -> tuple[list[Table], list[Problem]]:
    """Read what was asked for, in the order of precedence: sessions, participants, phenotype."""
    folders = [bids_dir, root, *([bids_dir.parent.parent] if bids_dir.parent.name == "derivatives" else [])]
    tables: list[Table | None] = []
    problems: list[Problem] = []
    if sessions:
        table, found = read_sessions(bids_dir, scan.participants, rename, images)
        tables, problems = [table], found
    table, found = read_participants(folders, rename, images, scan.participants)
    tables, problems = [*tables, table], problems + found
    if phenotype:
        measures, found = read_phenotypes(bids_dir / "phenotype", rename, images, scan.participants)
        tables, problems = [*tables, *measures], problems + found
    return [table for table in tables if table is not None], problems


def _find_root(bids_dir: Path, derivative: str | None) -> Path:
    if not bids_dir.is_dir():
        beside = [entry.name for entry in bids_dir.parent.iterdir()] if bids_dir.parent.is_dir() else []
        message = "is a file, not a folder" if bids_dir.exists() else "no such folder"
        fix = did_you_mean(bids_dir.name, beside) or "give the folder that holds participants.tsv and sub-*"
        raise ManifestError(f"{bids_dir}: no BIDS folder", [Problem(message, str(bids_dir), fix=fix, code="no_folder")])
    if derivative is None:
        return bids_dir
    root = bids_dir / "derivatives" / derivative
    if ".." in root.parts or Path(derivative).is_absolute():
        fix = "give the name of a folder under derivatives/"
        climbs = Problem("leads out of the dataset", str(bids_dir), got=derivative, fix=fix, code="no_derivative")
        raise ManifestError(f"{bids_dir}: no derivative {derivative}", [climbs])
    if root.is_dir():
        return root
    there = sorted(entry.name for entry in root.parent.iterdir() if entry.is_dir()) if root.parent.is_dir() else []
    fix = did_you_mean(derivative, there) or "leave out --derivative for the raw images, or give one of these"
    absent = Problem("no such derivative", str(root), got=derivative, allowed=", ".join(there) or "none here", fix=fix)
    raise ManifestError(f"{bids_dir}: no derivative {derivative}", [replace(absent, code="no_derivative")])


def _no_participants(root: Path) -> Problem:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    inner = [folder.name for folder in folders if any(entry.is_dir() for entry in folder.glob("sub-*"))]
    if root.name.startswith("sub-"):
        message, fix = "this is the folder of one participant", f"give the dataset, {root.parent}"
    elif len(inner) > 1:
        message = f"{len(inner)} datasets lie in this folder, none at its top"
        fix = f"run the command on each, such as {root / inner[0]}"
    elif inner:
        message, fix = "the participants are one folder further down", f"give {root / inner[0]}"
    elif holds_dicom(root):
        message = "this folder holds DICOM files, as scanners write them, not NIfTI images in BIDS"
        fix = "convert them first, for example with dcm2bids or HeuDiConv; then give the BIDS folder they make"
    else:
        message = "no folder is named sub-LABEL, so there are no images to list"
        fix = "fetch the images, or, if the folder is not BIDS, write the manifest yourself (docs/manifests.md)"
    got = ", ".join((inner or [folder.name for folder in folders])[:8]) or "no folders"
    return Problem(message, file=str(root), got=got, allowed="sub-*", fix=fix, code="no_participants")


def _no_table(bids_dir: Path, images: pd.DataFrame) -> Problem:
    like = sorted(entry.name for entry in bids_dir.glob("[Pp]articipants.*") if entry.suffix != ".json")
    example = f"participant_id<tab>diagnosis<tab>age<tab>sex and one line per participant, {images.iloc[0, 0]} first"
    return Problem(
        f"the images of {images['participant_id'].nunique():,} participants are there, but no table says who they are",
        file=str(bids_dir / "participants.tsv"),
        got=", ".join(like),
        allowed="participants.tsv",
        fix=f"save {like[0]} as participants.tsv" if like else f"write this file: {example}; n/a where unknown",
        code="no_participants_table",
    )


def _compare(table: Table, images: pd.DataFrame, scan: Scan, suffix: str) -> list[Problem]:
    """Say which rows of the participants' table have no image, and which images have no row."""
    if table.name != "participants":
        return []
    key = table.key
    rows = pd.MultiIndex.from_frame(table.cells[key])
    with_image = rows.isin(pd.MultiIndex.from_frame(images[key]))
    if not with_image.any():
        return [_nothing_joins(table, images)]
    ids = table.cells["participant_id"]
    place = Problem("", table.file, column="participant_id", code="row_without_image", severity="warning")
    has_folder = ids.isin(scan.participants)
    fix = "fetch it, or nothing if it was never there; it is not in the manifest"
    message = f"row without image: the participant has a folder, but no {suffix} image of those asked for"
    problems = locate(replace(place, message=message, fix=fix), ids[~with_image & has_folder], ids)
    message = "row without image: there is no folder of this name"
    problems += locate(replace(place, message=message, fix=fix), ids[~with_image & ~has_folder], ids)
    if "diagnosis" in table.cells:
        fix = "nothing, if it is only to be embedded: it is in neither group"
        unknown = replace(place, message="no diagnosis", column="diagnosis", fix=fix, code="empty")
        problems += locate(unknown, table.cells["diagnosis"][with_image & table.cells["diagnosis"].isna()], ids)
    alone = images[~pd.MultiIndex.from_frame(images[key]).isin(rows)]
    return problems + _say_images_without_row(alone, table)


def _say_images_without_row(images: pd.DataFrame, table: Table) -> list[Problem]:
    fix = f"add the participant to {Path(table.file).name}; until then the image is in the manifest without diagnosis"
    place = Problem("image without row", fix=fix, code="image_without_row", severity="warning")
    if len(images) <= SHOWN_IMAGES:
        pairs = zip(images["participant_id"], images["image_path"], strict=True)
        return [replace(place, participant_id=participant, file=path) for participant, path in pairs]
    shown = ", ".join(images["participant_id"].unique()[:8])
    return [replace(place, message=f"{len(images):,} images without row", file=table.file, got=f"{shown}, ...")]


def _nothing_joins(table: Table, images: pd.DataFrame) -> Problem:
    shown, wanted = _sample(table.cells[table.key]), _sample(images[table.key])
    fix = "write the participants as the folders are named, with or without sub-"
    return Problem("no row fits any image", table.file, got=shown, allowed=wanted, fix=fix, code="nothing_joins")


def _sample(keys: pd.DataFrame) -> str:
    return ", ".join(keys.drop_duplicates().head(3).astype(str).agg(" ".join, axis=1)) + ", ..."


def _order(manifest: pd.DataFrame) -> pd.DataFrame:
    first = [column for column in [*KEY, "image_path", "diagnosis"] if column in manifest]
    known = [column for column in KNOWN_COLUMNS if column in manifest and column not in first]
    return manifest[[*first, *known, *manifest.columns.difference([*first, *known], sort=False)]]
