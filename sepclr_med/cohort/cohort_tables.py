"""The tables of a known cohort: found where its importer says, in the manifest's words, keyed as the images are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.bids_tables import Table, read_keyed, require_inside
from sepclr_med.cohort.importers import Importer, TableRules
from sepclr_med.errors import ManifestError, Problem


def read_cohort_tables(
    importer: Importer,
    folders: Sequence[Path],
    given: Path | None,
    rename: Mapping[str, str],
    images: pd.DataFrame,
    participants: Sequence[str],
) -> tuple[list[Table], list[Problem]]:
    """Read the tables of an importer that are there.

    Parameters
    ----------
    importer : Importer
    folders : sequence of Path
        Looked through in order.
    given : Path or None
        A table named by the user; it takes the place of the one it is named like, else of the first.
    rename : mapping
        Name in the table, once translated, to name in the manifest.
    images : DataFrame
        ``participant_id`` and, when there are sessions, ``session_id``.
    participants : sequence of str
        Participants with an image or a folder.

    Returns
    -------
    tables : list of Table
        The first is named ``participants``.
    problems : list of Problem

    Raises
    ------
    ManifestError
        When none is there, or a name fits several files.
    """
    own = None
    if given is not None:
        named = (n for n, rules in enumerate(importer.tables) if any(fnmatch(given.name, f) for f in _names(rules)))
        own = next(named, 0)
    paths = {n: given if n == own else _find_file(rules, folders) for n, rules in enumerate(importer.tables)}
    found = {position: path for position, path in paths.items() if path is not None}
    if not found:
        raise ManifestError(f"{folders[0]}: no table of {importer.title}", [_no_table(importer, folders)])
    tables: list[Table] = []
    problems: list[Problem] = []
    for position, path in found.items():
        if path != given:
            require_inside(path, folders)
        first = not tables
        name = "participants" if first else re.sub(r"\W+", "_", path.stem)
        severity = "error" if first else "warning"
        table, said = read_keyed(path, name, rename, images, participants, severity, importer.tables[position])
        problems += said
        # What repeats in the first table is an error; a further one that repeats is left out.
        if table is not None and (first or not any(problem.code == "repeated_rows" for problem in said)):
            tables.append(table)
    absent = [" or ".join(rules.files) for n, rules in enumerate(importer.tables) if n not in found]
    if absent:
        message = "tables that the importer knows are not there; their columns are missing"
        place = Problem(message, str(folders[0]), got="; ".join(absent), code="absent_tables", severity="info")
        problems.append(place)
    return tables, problems


def find_diagnosis(
    importer: Importer, tables: Sequence[Table], diagnosis: str | None, column: str | None
) -> tuple[str | None, str | None]:
    """Return the diagnosis of everyone or its column: as the user says, else as the importer does.

    Examples
    --------
    >>> from sepclr_med.cohort.importers import read_importer
    >>> find_diagnosis(read_importer("ixi"), [], None, None), find_diagnosis(read_importer("ixi"), [], None, "DX")
    (('control', None), (None, 'DX'))
    """
    if diagnosis is not None or column is not None:
        return diagnosis, column
    if any("diagnosis" in table.cells for table in tables):
        return None, "diagnosis"
    return importer.diagnosis, None


def say_origin(importer: Importer) -> Problem:
    """Say how far an importer can be trusted, and what binds the user of the cohort."""
    message = f"importer of {importer.title}: {importer.tested.rstrip('.')}. Use is bound by: {importer.licence}"
    if importer.is_tested:
        return Problem(message, code="importer", severity="info")
    fix = "compare a few rows of the manifest with the table"
    return Problem(message, fix=fix, code="importer", severity="warning")


def _find_file(rules: TableRules, folders: Sequence[Path]) -> Path | None:
    for pattern in rules.files:
        for folder in folders:
            paths = sorted(path for path in folder.glob(pattern) if path.is_file())
            if len(paths) > 1:
                got = ", ".join(path.name for path in paths[:5])
                fix = f"--participants {paths[-1]}, or keep one of them"
                problem = Problem(f"several files are named {pattern}", str(folder), got=got, fix=fix, code="tables")
                raise ManifestError(f"{folder}: which table?", [problem])
            if paths:
                return paths[0]
    return None


def _names(rules: TableRules) -> list[str]:
    return [pattern.rsplit("/", 1)[-1] for pattern in rules.files]


def _no_table(importer: Importer, folders: Sequence[Path]) -> Problem:
    there = sorted(
        path.name for folder in folders for path in folder.iterdir() if path.suffix in (".csv", ".tsv", ".txt")
    )
    return Problem(
        "none of the tables that the importer knows is there",
        file=str(folders[0]),
        got=", ".join(there[:8]) or "no table",
        allowed="; ".join(" or ".join(rules.files) for rules in importer.tables),
        fix=f"--participants FILE, wherever it lies; {importer.access}",
        code="no_participants_table",
    )
