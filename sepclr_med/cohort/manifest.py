"""The manifest: one table, one row per image, read strictly and written so that it reads back the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sepclr_med.atomic import atomic_path
from sepclr_med.cohort.cells import convert_cells, count_values, locate
from sepclr_med.cohort.columns import PATHS, REQUIRED, find_absent_columns, read_dictionary, recognise_columns
from sepclr_med.cohort.control_names import suggest_groups
from sepclr_med.cohort.rows import KEY, check_rows
from sepclr_med.cohort.tables import SEPARATORS, raise_errors, read_table
from sepclr_med.errors import ManifestError, Problem
from sepclr_med.settings import CohortConfig

__all__ = ["KEY", "assign_roles", "manifest_hash", "read_manifest", "write_manifest"]


def read_manifest(
    path: str | Path,
    bids_root: str | Path | None = None,
    missing_codes: Sequence[float | str] = (),
    required: Sequence[str] = REQUIRED,
) -> pd.DataFrame:
    r"""Read a table with one row per image and validate it whole.

    Parameters
    ----------
    path : path
        CSV or TSV; the separator follows the extension, then the header. UTF-8 with or without byte order mark.
    bids_root : path or None, default=None
        Folder that image paths are relative to, and that no relative path leaves; none means the folder of ``path``.
    missing_codes : sequence of float or str, default=()
        Values that mean missing in this table, such as -9. Without, they are kept and a warning says so.
    required : sequence of str, default=("participant_id", "image_path", "diagnosis")
        Columns without which the table is refused; statistics need ``participant_id`` only.

    Returns
    -------
    DataFrame
        One row per image in the order of the file, columns in the order of the file. Known columns are text, ``age``
        (years) and ``tiv`` (mL) float, ``sex`` F, M or O; ``image_path`` is absolute, whether the file exists or not.
        Any other column is float when all its values are numbers (never when they have leading zeros), else text.
        Warnings and remarks are in ``attrs["problems"]``, a list of :class:`sepclr_med.errors.Problem`;
        ``attrs["dictionary"]`` has what the JSON file beside the table, its BIDS sidecar, says of the columns;
        ``attrs["ledger"]`` names the ledger beside it, which is there when the test part is sealed.

    Raises
    ------
    ManifestError
        With every problem of the file: row, column, value, what is allowed and how to mend it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "manifest.csv"
    ...     _ = path.write_text("participant_id,image_path,diagnosis,age\n001,001.nii.gz,control,n/a\n")
    ...     manifest = read_manifest(path)
    >>> manifest["participant_id"].tolist(), manifest["age"].tolist()
    (['001'], [nan])
    """
    path = Path(path)
    raw, problems = read_table(path)
    renamed, found = recognise_columns(raw.columns, str(path))
    raw = raw.rename(columns=renamed)
    problems += found + find_absent_columns(raw.columns, str(path), required)
    manifest, found = convert_cells(raw, str(path), missing_codes)
    problems += found + check_rows(manifest, str(path))
    base, found = _find_base(path, bids_root)
    problems += found
    problems += [] if bids_root is None else _find_leaving(manifest, base, str(path))
    raise_errors(str(path), _with_misspelt(problems))
    for column in manifest.columns.intersection(PATHS):
        manifest[column] = [
            _absolute(name, base) if isinstance(name, str) else name for name in manifest[column].tolist()
        ]
    manifest = manifest.reset_index(drop=True)
    dictionary = read_dictionary(path.with_suffix(".json"), problems)
    manifest.attrs = {"problems": problems, "dictionary": dictionary}
    manifest.attrs["ledger"] = str(ledger_path(path))
    return manifest


def ledger_path(path: str | Path) -> Path:
    """Name the ledger of a manifest's sealed test set.

    Examples
    --------
    >>> ledger_path("study/manifest.tsv").as_posix()
    'study/manifest.ledger.jsonl'
    """
    return Path(path).with_suffix(".ledger.jsonl")


def write_manifest(manifest: pd.DataFrame, path: str | Path, bids_root: str | Path | None = None) -> Path:
    """Write a manifest that :func:`read_manifest` reads back the same: UTF-8, ``n/a`` for missing, atomic.

    Parameters
    ----------
    manifest : DataFrame
        From ``read_manifest`` or ``find_images``, ``image_path`` absolute.
    path : path
        ``.tsv`` or ``.csv``.
    bids_root : path or None, default=None
        Folder that the written image paths are relative to; those of images outside it are absolute. None means the
        folder of ``path``, which paths may leave.

    Returns
    -------
    Path
        The file written. Paths in it have forward slashes and name nothing above what they need.

    Raises
    ------
    ManifestError
        When the extension is neither.
    RunError
        When the file cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = pd.DataFrame({"participant_id": ["01"], "image_path": [f"{folder}/01.nii"], "diagnosis": [None]})
    ...     print(write_manifest(table, Path(folder) / "m.tsv").read_text().replace(chr(9), " "))
    participant_id image_path diagnosis
    01 01.nii n/a
    """
    path = Path(path)
    separator = SEPARATORS.get(path.suffix.lower())
    if separator is None:
        wrong = Problem("not a name for a manifest", got=path.name, allowed=".tsv or .csv", fix="change the extension")
        raise ManifestError(f"{path}: nothing was written", [wrong])
    base = os.path.realpath(bids_root if bids_root is not None else path.parent)
    relative = {
        column: [
            _name_from(name, base, bids_root is not None) if isinstance(name, str) else name
            for name in manifest[column].tolist()
        ]
        for column in manifest.columns.intersection(PATHS)
    }
    text = _format(manifest.assign(**relative), separator)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def assign_roles(manifest: pd.DataFrame, background: Sequence[str], target: Sequence[str]) -> pd.Series:
    """Return the role of every row: ``background`` (controls), ``target`` (patients) or missing (neither).

    Parameters
    ----------
    manifest : DataFrame
        With a ``diagnosis`` column.
    background, target : sequence of str
        Values of ``diagnosis`` that make each role.

    Returns
    -------
    Series
        Named ``role``, indexed as the manifest.

    Raises
    ------
    ManifestError
        When no column, no value or no row is found for a role, or one value is given for both.

    Examples
    --------
    >>> table = pd.DataFrame({"diagnosis": ["HC", "MDD", "other"]})
    >>> assign_roles(table, ["HC"], ["MDD"]).tolist()[:2]
    ['background', 'target']
    """
    if "diagnosis" not in manifest:
        raise ManifestError("the manifest has no diagnosis", find_absent_columns(manifest.columns, "")[-1:])
    seen = manifest["diagnosis"]
    roles = {"background": [str(value) for value in background], "target": [str(value) for value in target]}
    problems = [problem for role in roles for problem in _check_role(role, roles, seen)]
    problems += [
        Problem(f'diagnosis "{value}" is given for background and target', fix="keep it in one")
        for value in roles["background"]
        if value in roles["target"]
    ]
    if problems:
        raise ManifestError("groups cannot be formed", problems)
    role_of = {value: role for role, values in roles.items() for value in values}
    return seen.map(role_of).astype(object).rename("role")


def manifest_hash(manifest: pd.DataFrame) -> str:
    """Return the SHA-256 of what a manifest says, the same after writing and reading, wherever its images lie.

    Rows count in their order, columns in any; of an image's path only the file name counts.

    Parameters
    ----------
    manifest : DataFrame

    Returns
    -------
    str
        64 hex digits.

    Examples
    --------
    >>> one, other = (pd.DataFrame({"image_path": [f"/{disk}/01.nii"], "age": [30.0]}) for disk in "ab")
    >>> manifest_hash(one) == manifest_hash(other)
    True
    """
    names = {
        column: [str(path).rsplit("/", 1)[-1] for path in manifest[column].tolist()]
        for column in manifest.columns.intersection(PATHS)
    }
    content = _format(manifest.assign(**names)[sorted(manifest.columns)], "\t")
    return hashlib.sha256(content.encode()).hexdigest()


def _check_role(role: str, roles: dict[str, list[str]], seen: pd.Series) -> list[Problem]:
    known = seen.dropna().unique().tolist()
    if not known:
        empty = Problem("every diagnosis is empty", column="diagnosis", fix="fill the column", code="unknown_diagnosis")
        return [empty] if role == "background" else []
    groups = suggest_groups(known, roles["background"], roles["target"])
    if not roles[role]:
        return [Problem(f"no diagnosis is given for {role}", allowed=", ".join(known), fix=groups)]
    usual = roles[role] == CohortConfig.model_fields[role].default
    said = f"no row has the diagnosis {'that is the default' if usual else 'given'} for {role}"
    message = f"{said}; there are {count_values(seen, 20)}"
    unknown = [value for value in roles[role] if value not in known]
    return [Problem(message, column="diagnosis", got=v, fix=groups, code="unknown_diagnosis") for v in unknown]


def _with_misspelt(problems: list[Problem]) -> list[Problem]:
    """Return the problems, names of columns that nearly are known ones among the errors where a column is absent."""
    absent = " ".join(problem.fix for problem in problems if problem.code == "missing_column")

    def belongs(problem: Problem) -> bool:
        misspelt = problem.code == "column_name" and problem.severity == "warning"
        return bool(absent) and misspelt and f'"{problem.column}"' not in absent

    return [replace(problem, severity="error") if belongs(problem) else problem for problem in problems]


def _find_base(path: Path, bids_root: str | Path | None) -> tuple[str, list[Problem]]:
    # Resolved, so that paths with .. mean the same through a linked folder as without.
    if bids_root is None:
        return os.path.realpath(path.parent), []
    absent = Problem("--bids-root is not a folder", got=str(bids_root), fix="check the path", code="bids_root")
    return os.path.realpath(bids_root), [] if Path(bids_root).is_dir() else [absent]


def _find_leaving(manifest: pd.DataFrame, base: str, file: str) -> list[Problem]:
    """Return an error for every relative path that leaves the folder it is relative to."""
    ids = manifest.get("participant_id", pd.Series(index=manifest.index, dtype=object))
    problems = []
    for column in manifest.columns.intersection(PATHS):
        names = manifest[column].dropna().astype(str)
        leaving = names[[not _stays(name, base) for name in names]]
        problem = Problem(
            "a relative path leaves the folder of --bids-root",
            file=file,
            column=column,
            allowed=f"a path within {base}, or an absolute one",
            fix="correct it, write it from / on, or give a folder that holds all images as --bids-root",
            code="outside",
        )
        problems += locate(problem, leaving, ids) if len(leaving) else []
    return problems


def _stays(image: str, base: str) -> bool:
    return os.path.isabs(forward(image)) or Path(_absolute(image, base)).is_relative_to(base)


def _absolute(image: str, base: str) -> str:
    image = forward(image)
    return os.path.normpath(os.path.join(base, os.path.expanduser(image) if image.startswith("~") else image))


def forward(path: str) -> str:
    r"""Return a path with forward slashes, which every system reads.

    Examples
    --------
    >>> forward(r"..\images\01.nii.gz")
    '../images/01.nii.gz'
    """
    return path.replace("\\", "/")


def relative_path(path: str, base: str) -> str:
    """Return a path relative to a folder, with forward slashes.

    Examples
    --------
    >>> relative_path("/data/study/a/01.nii", "/data/study/tables")
    '../a/01.nii'
    """
    try:
        return Path(os.path.relpath(path, base)).as_posix()
    except ValueError:  # another drive on Windows: there is no relative path
        return Path(path).as_posix()


def _name_from(path: str, base: str, within: bool) -> str:
    relative = relative_path(path, base)
    return Path(os.path.abspath(path)).as_posix() if within and relative.startswith("../") else relative


def _format(manifest: pd.DataFrame, separator: str) -> str:
    # A double always keeps 15 digits, so that writing and reading change nothing.
    return manifest.to_csv(sep=separator, index=False, na_rep="n/a", float_format="%.15g", lineterminator="\n")
