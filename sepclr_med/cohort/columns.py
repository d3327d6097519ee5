"""The columns a manifest knows, what they mean, and how to recognise them under another spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.errors import Problem, RunError, did_you_mean
from sepclr_med.rundir import read_json

# Whose a row is and what it is used for: nothing to ask about.
STRUCTURE = ("participant_id", "session_id", "run", "image_path", "split", "fold", "family_id")
REQUIRED = ("participant_id", "image_path", "diagnosis")
NUMBERS = ("age", "tiv")
PATHS = ("image_path", "mask_path")
SPLITS = ("train", "val", "test")
SAME_COLUMN = {"gender": "sex"}
NEAR = 0.8

KNOWN_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "participant_id": {"Description": "Participant; the same string in every row of one participant."},
    "session_id": {"Description": "Session (visit) of the image."},
    "run": {"Description": "Repetition of the image within a session."},
    "image_path": {"Description": "Image file, relative to the folder of this table or to the folder of --bids-root."},
    "mask_path": {"Description": "Brain mask of the image, a path like image_path; optional, used by t1w."},
    "diagnosis": {"Description": "Diagnosis; --background and --target say which values are controls and patients."},
    "site": {"Description": "Place of acquisition."},
    "scanner": {"Description": "Scanner of the image."},
    "age": {"Description": "Age at the time of the image.", "Units": "year"},
    "sex": {"Description": "Sex.", "Levels": {"F": "female", "M": "male", "O": "other"}},
    "tiv": {"Description": "Total intracranial volume.", "Units": "mL"},
    "qc": {"Description": "Outcome of a visual or automatic quality control."},
    "family_id": {"Description": "Family; relatives are never divided between training and test."},
    "split": {
        "Description": "Use of the row.",
        "Levels": {"train": "model fitting", "val": "watched during fitting", "test": "held out"},
    },
    "fold": {"Description": "Cross-validation fold in which the row is held out."},
}
TEXTS = tuple(name for name in KNOWN_COLUMNS if name not in NUMBERS)

OTHER_NAMES = {
    "participant_id": (
        "participant",
        "subject",
        "subject_id",
        "sub",
        "sub_id",
        "subj",
        "id",
        "src_subject_id",
        "patient_id",
    ),
    "image_path": ("image", "path", "file", "filename", "filepath", "file_path", "scan", "nifti", "img"),
    "diagnosis": (
        "dx",
        "diag",
        "group",
        "dx_group",
        "diagnostic_group",
        "patient_group",
        "clinical_group",
        "study_group",
    ),
}


def fold_name(name: str) -> str:
    """Return a column name without case and punctuation.

    Examples
    --------
    >>> fold_name("DX_Group ")
    'dxgroup'
    """
    return re.sub(r"[\W_]+", "", name).casefold()


def suggest_column(name: str, columns: Iterable[str]) -> str:
    """Return a hint naming the column that is meant, or an empty string.

    Examples
    --------
    >>> suggest_column("Gender", ["age", "sex"]), suggest_column("scaner", ["age", "scanner"])
    ('did you mean "sex"?', 'did you mean "scanner"?')
    """
    columns = list(columns)
    spellings = {fold_name(name), SAME_COLUMN.get(fold_name(name))}
    same = [column for column in columns if fold_name(column) in spellings]
    return did_you_mean(same[0] if same else name, columns)


def recognise_columns(columns: Iterable[str], file: str) -> tuple[dict[str, str], list[Problem]]:
    """Map other spellings (``Age``, ``gender``, ``participantID``) to the known names, when only one column fits.

    Parameters
    ----------
    columns : iterable of str
        Names in the table.
    file : str
        For the messages.

    Returns
    -------
    renamed : dict
        Name in the table to known name.
    problems : list of Problem
        ``info`` for each recognised column; ``warning`` for a column that looks like a misspelt known one, or when
        two columns could be the same known one.

    Examples
    --------
    >>> recognise_columns(["participant_id", "Age", "gender"], "a.tsv")[0]
    {'Age': 'age', 'gender': 'sex'}
    """
    columns = list(columns)
    known = {fold_name(name): name for name in KNOWN_COLUMNS} | SAME_COLUMN
    meant = {column: known.get(fold_name(column)) for column in columns if column not in KNOWN_COLUMNS}
    renamed, problems = {}, []
    for column, name in meant.items():
        if name is None:
            problems += _near_miss(column, columns, file)
        elif name in columns:
            continue
        elif list(meant.values()).count(name) > 1:
            message = f"several columns could be {name}; none is used as such"
            fix = f"rename the right one to {name}"
            problems.append(Problem(message, file, 1, column, fix=fix, code="column_name", severity="warning"))
        else:
            renamed[column] = name
            problems.append(Problem(f"read as {name}", file, 1, column, code="column_name", severity="info"))
    return renamed, problems


def find_absent_columns(columns: Iterable[str], file: str, required: Iterable[str] = REQUIRED) -> list[Problem]:
    """Return an error for every required column that is absent, naming the column that may be meant."""
    columns = list(columns)
    return [
        Problem(
            "required column is absent",
            file=file,
            row=1,
            column=name,
            got=", ".join(columns[:12]) + (", ..." if len(columns) > 12 else ""),
            fix=_suggest(name, columns),
            code="missing_column",
        )
        for name in required
        if name not in columns
    ]


def describe_columns(manifest: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the data dictionary of a manifest, ready to be written as JSON beside it.

    Known columns have their fixed description; others what the dataset's own dictionaries say, when the manifest comes
    from :func:`sepclr_med.find_images`.

    Parameters
    ----------
    manifest : DataFrame
        From ``read_manifest`` or ``find_images``.

    Returns
    -------
    dict
        Column to ``Description``, ``Units``, ``Levels``, ... as in a BIDS sidecar.

    Examples
    --------
    >>> describe_columns(pd.DataFrame(columns=["age"]))
    {'age': {'Description': 'Age at the time of the image.', 'Units': 'year'}}
    """
    given = manifest.attrs.get("dictionary", {})
    described = {}
    for column in manifest.columns:
        known, own = KNOWN_COLUMNS.get(column, {}), given.get(column, {})
        # Values of every known column are translated on reading, except those of the diagnosis.
        described[column] = {**known, **own} if column == "diagnosis" else {**own, **known}
    return {column: entry for column, entry in described.items() if entry}


def read_dictionary(path: Path, problems: list[Problem]) -> dict[str, Any]:
    """Read a JSON sidecar; empty when there is none, and with a warning when it is not readable.

    Parameters
    ----------
    path : Path
        The JSON file beside a table.
    problems : list of Problem
        Appended to.

    Returns
    -------
    dict
        Column to ``Description``, ``Units``, ``Levels``, ...
    """
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except RunError as error:
        message = f"is left out: {error}"
        problems.append(Problem(message, str(path), fix="mend the file", code="sidecar", severity="warning"))
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {column: entry for column, entry in entries if isinstance(entry, dict)}


def _near_miss(column: str, columns: list[str], file: str) -> list[Problem]:
    absent = [name for name in KNOWN_COLUMNS if name not in columns]
    near = get_close_matches(column.casefold(), absent, n=1, cutoff=NEAR)
    if not near:
        return []
    fix = f"{did_you_mean(column.casefold(), near)} If so, rename it; if not, nothing is to be done"
    message = "not a known column, kept as a variable"
    return [Problem(message, file, 1, column, fix=fix, code="column_name", severity="warning")]


def _suggest(name: str, columns: list[str]) -> str:
    unused = [column for column in columns if column not in KNOWN_COLUMNS]
    names = [fold_name(other) for other in OTHER_NAMES[name]]
    same = [column for column in unused if fold_name(column) in names]
    if same:
        return f'rename column "{same[0]}" to {name}'
    near = get_close_matches(name, unused, n=1)
    if near:
        return f'rename column "{near[0]}" to {name}'
    return f"add a column {name}: {KNOWN_COLUMNS[name]['Description']}"
