"""From a BIDS folder to a manifest: images by their entities, joined with what the dataset's tables say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.bids_files import Scan, find_ambiguous, report_runs, select_images
from sepclr_med.cohort.bids_tables import Table, join, read_keyed, read_participants, read_phenotypes, read_sessions
from sepclr_med.cohort.bids_words import check_rename, choose_diagnosis, pick_session_columns, translate
from sepclr_med.cohort.cells import locate
from sepclr_med.cohort.cohort_tables import find_diagnosis, read_cohort_tables, say_origin
from sepclr_med.cohort.columns import KNOWN_COLUMNS
from sepclr_med.cohort.importers import ImageRules, Importer, read_importer
from sepclr_med.cohort.layouts import say_empty, scan_layout
from sepclr_med.cohort.manifest import forward
from sepclr_med.cohort.rows import KEY, find_near_ids
from sepclr_med.cohort.tables import raise_errors
from sepclr_med.errors import ManifestError, Problem, did_you_mean
from sepclr_med.settings import BidsConfig

SHOWN_IMAGES = 20
# What a published path may say beside whose image it is.
FROM_NAMES = ("site", "scanner")


def find_images(
    bids_dir: str | Path,
    suffix: str | None = None,
    derivative: str | None = None,
    entities: Mapping[str, str | None] | None = None,
    diagnosis_column: str | None = None,
    rename: Mapping[str, str] | None = None,
    phenotype: bool = False,
    sessions: bool = False,
    diagnosis: str | None = None,
    cohort: str | Path | None = None,
    participants: str | Path | None = None,
) -> tuple[pd.DataFrame, list[Problem]]:
    r"""Make the manifest of a BIDS folder: one row per image, with what the tables say of its participant.

    CAPS folders of Clinica and folders of CAT12 are read too, and cohorts as they are published when an importer knows
    them.

    Parameters
    ----------
    bids_dir : path
        The dataset: the folder with ``participants.tsv`` and ``sub-*`` (CAPS: with ``subjects``; CAT12: with ``mri``).
    suffix : str or None, default=None
        Suffix of the images, such as ``T1w`` or ``probseg``, or prefix of CAT12's, such as ``mwp1``; none means what
        the cohort's importer says, else ``T1w``.
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
    cohort : str, path or None, default=None
        Importer of a known cohort, or the path of one (:func:`sepclr_med.cohort.importers.read_importer`): where its
        tables lie, what their columns and codes mean. Other arguments go before what it says.
    participants : path or None, default=None
        The table of participants, absolute or relative to ``bids_dir``; none means ``participants.tsv``, or what the
        importer says.

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
    importer = None if cohort is None else read_importer(cohort)
    rules = ImageRules() if importer is None else importer.images
    suffix = suffix or rules.suffix
    root = _find_root(bids_dir, derivative or rules.derivative)
    scan, images, problems = _choose_images(root, suffix, rules, entities or {})
    tables, found = _read_tables(
        _Source(bids_dir, root, scan.participants, images, dict(rename or {})),
        importer,
        None if participants is None else bids_dir / participants,
        phenotype,
        sessions,
    )
    problems += [*found, *check_rename(rename or {}, tables)]
    if importer is not None:
        problems.append(say_origin(importer))
        diagnosis, diagnosis_column = find_diagnosis(importer, tables, diagnosis, diagnosis_column)
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


def bids_options(bids: BidsConfig, folder: Path) -> dict[str, Any]:
    """Return what a recipe in this folder asks of :func:`find_images`; an importer beside it is meant before a name.

    Examples
    --------
    >>> bids_options(BidsConfig(root="study", cohort="abide1"), Path("recipes"))["cohort"]
    'abide1'
    """
    options = bids.model_dump(exclude={"root"})
    own = folder / forward(bids.cohort) if bids.cohort else folder
    return {**options, "cohort": own} if own.is_file() else options


def _choose_images(
    root: Path, suffix: str, rules: ImageRules, entities: Mapping[str, str | None]
) -> tuple[Scan, pd.DataFrame, list[Problem]]:
    """Return what is in the folder, the images asked for, one per participant, session and run, and what is odd."""
    scan = scan_layout(root, suffix, rules)
    if not scan.participants:
        raise_errors(str(root), scan.problems)
        raise ManifestError(f"{root}: no participants", [say_empty(root, scan, suffix, rules.patterns)])
    of_bids = scan.layout == "BIDS"
    images = select_images(scan, suffix, {**(rules.entities if of_bids else {}), **entities}, root)
    problems = [*scan.problems, *find_ambiguous(images, suffix), *report_runs(images)]
    kept = [*KEY, "image_path", *(() if of_bids else FROM_NAMES)]
    return scan, images[[column for column in kept if column in images]], problems


@dataclass(frozen=True)
class _Source:
    """The dataset whose tables are read, and what they are keyed by."""

    bids_dir: Path
    root: Path
    participants: list[str]
    images: pd.DataFrame
    rename: dict[str, str]

    @property
    def folders(self) -> list[Path]:
        """Where tables of participants may lie, in order."""
        above = [self.bids_dir.parent.parent] if self.bids_dir.parent.name == "derivatives" else []
        return list(dict.fromkeys([self.bids_dir, self.root, *above]))


def _read_tables(
    source: _Source, importer: Importer | None, given: Path | None, phenotype: bool, sessions: bool
) -> tuple[list[Table], list[Problem]]:
    """Read what was asked for, in the order of precedence: sessions, participants, phenotype."""
    keyed = (source.rename, source.images, source.participants)
    tables: list[Table | None] = []
    problems: list[Problem] = []
    if sessions:
        table, found = read_sessions(source.bids_dir, source.participants, source.rename, source.images)
        tables, problems = [table], found
    if importer is not None:
        own, found = read_cohort_tables(importer, source.folders, given, *keyed)
        tables, problems = [*tables, *own], problems + found
    else:
        read = read_participants(source.folders, *keyed) if given is None else read_keyed(given, "participants", *keyed)
        tables, problems = [*tables, read[0]], problems + read[1]
    if phenotype:
        measures, found = read_phenotypes(source.bids_dir / "phenotype", *keyed)
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


def _no_table(bids_dir: Path, images: pd.DataFrame) -> Problem:
    like = sorted(entry.name for entry in bids_dir.glob("[Pp]articipants.*") if entry.suffix != ".json")
    first = images["participant_id"].iloc[0]
    example = f"participant_id<tab>diagnosis<tab>age<tab>sex and one line per participant, {first} first"
    return Problem(
        f"the images of {images['participant_id'].nunique():,} participants are there, but no table says who they are",
        file=str(bids_dir / "participants.tsv"),
        got=", ".join(like),
        allowed="participants.tsv",
        fix=f"save {like[0]} as participants.tsv"
        if like
        else f"write this file: {example}; n/a where unknown; or, if there is one elsewhere, --participants FILE",
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
    what = "folder" if scan.layout == "BIDS" else "image"
    message = f"row without image: there is no {what} of this name"
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
