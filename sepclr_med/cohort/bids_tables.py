"""The tables of a BIDS folder: participants, sessions and phenotype, keyed as the images are and joined to them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.bids_files import leads_out
from sepclr_med.cohort.cells import locate
from sepclr_med.cohort.columns import OTHER_NAMES, fold_name, read_dictionary, recognise_columns
from sepclr_med.cohort.dialects import translate_table
from sepclr_med.cohort.importers import TableRules
from sepclr_med.cohort.tables import read_table
from sepclr_med.errors import ManifestError, Problem
from sepclr_med.progress import report_progress

SESSION_NAMES = ("session_id", "session", "ses")
RESERVED = ("image_path", "session_id", "run")


@dataclass
class Table:
    """One table of the dataset.

    Parameters
    ----------
    file : str
        Where it is, for messages.
    name : str
        ``participants``, ``sessions`` or the measure; the prefix of its columns where names clash.
    cells : DataFrame
        Indexed by spreadsheet row; ``participant_id`` as the folders have it; ``session_id`` when rows are sessions.
    dictionary : dict
        Column to what the JSON sidecar says.
    names : dict
        Column in the file to column in ``cells``.
    origins : list of (str, int)
        File and row of each row when several files were put together; empty for one file.
    """

    file: str
    name: str
    cells: pd.DataFrame
    dictionary: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    origins: list[tuple[str, int]] = field(default_factory=list)

    @property
    def key(self) -> list[str]:
        """Columns that say which images a row belongs to."""
        return [column for column in ("participant_id", "session_id") if column in self.cells]

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename columns wherever they are named."""
        self.cells = self.cells.rename(columns=dict(names))
        self.dictionary = {names.get(column, column): entry for column, entry in self.dictionary.items()}
        self.names = {column: names.get(name, name) for column, name in self.names.items()}


def read_participants(
    folders: Sequence[Path], rename: Mapping[str, str], images: pd.DataFrame, participants: Sequence[str]
) -> tuple[Table | None, list[Problem]]:
    """Read the first ``participants.tsv`` of the folders, keyed as the images are.

    Parameters
    ----------
    folders : sequence of Path
        Looked through in order.
    rename : mapping
        Name in the table to name in the manifest.
    images : DataFrame
        ``participant_id`` and, when there are sessions, ``session_id``.
    participants : sequence of str
        Participant folders, with or without an image.

    Returns
    -------
    (Table or None, list of Problem)
        None when there is no such file, or no column ``participant_id`` in it (an error).
    """
    path = next((folder / "participants.tsv" for folder in folders if (folder / "participants.tsv").is_file()), None)
    if path is None:
        return None, []
    require_inside(path, folders)
    return read_keyed(path, "participants", rename, images, participants)


def read_phenotypes(
    folder: Path, rename: Mapping[str, str], images: pd.DataFrame, participants: Sequence[str]
) -> tuple[list[Table], list[Problem]]:
    """Read every table in ``phenotype/`` and its sub-folders.

    A sub-folder named as a session of the images holds rows of that session; one named as any other session gives
    columns with its name in front (a follow-up without an image).

    Parameters
    ----------
    folder : Path
        The ``phenotype`` folder.
    rename, images, participants
        As for :func:`read_participants`.

    Returns
    -------
    (list of Table, list of Problem)
        Tables that cannot be joined are left out, with a warning.
    """
    found_paths = sorted([*folder.glob("*.tsv"), *folder.glob("*/*.tsv")])
    paths = [path for path in found_paths if str(path).isprintable()]
    absent = Problem(
        "no phenotype table", str(folder), fix="leave out --phenotype", code="phenotype", severity="warning"
    )
    problems = [] if found_paths else [absent]
    fix = "rename the file or its folder"
    problems += [
        Problem(
            "a phenotype table whose name is no text, left out", str(path), fix=fix, code="odd_name", severity="warning"
        )
        for path in found_paths
        if path not in paths
    ]
    sessions = set(images["session_id"].dropna()) if "session_id" in images else set()
    found: dict[str, list[Table]] = {}
    for path in paths:
        require_inside(path, [folder.parent])
        table, said = _read(path, path.stem, rename)
        problems += said
        inner = "" if path.parent == folder else path.parent.name
        if "participant_id" not in table.cells:
            problems.append(_no_id_column(table, "warning"))
            continue
        if inner in sessions:
            table.cells["session_id"] = inner
        elif inner:
            table.rename({column: f"{inner}_{column}" for column in table.cells.columns if column != "participant_id"})
            table.name = f"{inner}_{table.name}"
        said = _align(table, images, participants, "warning")
        problems += said
        if not any(problem.code == "repeated_rows" for problem in said):
            found.setdefault(table.name, []).append(table)
    return [_stack(tables) for tables in found.values()], problems


def read_sessions(
    root: Path, participants: Sequence[str], rename: Mapping[str, str], images: pd.DataFrame
) -> tuple[Table | None, list[Problem]]:
    """Read ``sub-*/sub-*_sessions.tsv`` into one table.

    Parameters
    ----------
    root : Path
        The dataset.
    participants, rename, images
        As for :func:`read_participants`.

    Returns
    -------
    (Table or None, list of Problem)
    """
    tables: list[Table] = []
    problems: list[Problem] = []
    with report_progress("reading sessions", len(participants)) as advance:
        for participant in participants:
            path = root / participant / f"{participant}_sessions.tsv"
            if path.is_file():
                require_inside(path, [root])
                table, said = _read(path, "sessions", rename)
                table.cells.insert(0, "participant_id", participant)
                tables.append(table)
                problems += said + _align(table, images, participants, "error")
            advance()
    if not tables:
        fix = "leave out --sessions"
        problems.append(Problem("no *_sessions.tsv", str(root), fix=fix, code="sessions", severity="warning"))
        return None, problems
    stacked = _stack(tables)
    stacked.dictionary = {**read_dictionary(root / "sessions.json", problems), **stacked.dictionary}
    # The same remark about every participant's file is one remark.
    distinct = {(p.message, p.column, p.file if p.severity != "info" else "", p.row): p for p in reversed(problems)}
    return stacked, list(reversed(distinct.values()))


def require_inside(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a table that a link in a dataset takes from elsewhere: its text would be shown and copied.

    Raises
    ------
    ManifestError
        Naming the link and where it leads.
    """
    if not leads_out(path, roots):
        return
    fix = "copy the table into the dataset, if it is meant"
    problem = Problem(
        "a link that leads out of the dataset", str(path), got=os.path.realpath(path), fix=fix, code="link_outside"
    )
    raise ManifestError(f"{path}: a table that is not of the dataset", [problem])


def join(images: pd.DataFrame, tables: Iterable[Table]) -> tuple[pd.DataFrame, dict[str, Any], list[Problem]]:
    """Add the columns of the tables to the images, names that clash with the table's name in front.

    Parameters
    ----------
    images : DataFrame
        ``participant_id``, ``image_path`` and, when present, ``session_id`` and ``run``.
    tables : iterable of Table
        The first one that has a column keeps its plain name.

    Returns
    -------
    manifest : DataFrame
        Rows as ``images``.
    dictionary : dict
        Column to what the sidecars say.
    problems : list of Problem
        ``info`` on every prefixed column.

    Examples
    --------
    >>> images = pd.DataFrame({"participant_id": ["sub-01"], "image_path": ["01.nii"], "age": [30.0]})
    >>> table = Table("wasi.tsv", "wasi", pd.DataFrame({"participant_id": ["sub-01"], "age": [31.0], "iq": [100.0]}))
    >>> join(images, [table])[0].columns.tolist()
    ['participant_id', 'image_path', 'age', 'wasi_age', 'iq']
    """
    manifest, problems = images, []
    dictionary: dict[str, Any] = {}
    for table in tables:
        taken = {*manifest.columns, *RESERVED} - set(table.key)
        clashing = {c: f"{table.name}_{c}" for c in table.cells.columns if c in taken}
        if clashing:
            said = ", ".join(f"{old} as {new}" for old, new in clashing.items())
            message = "columns that another table has too were kept under other names"
            problems.append(Problem(message, table.file, got=said, code="clash", severity="info"))
        cells = table.cells.rename(columns=clashing)
        dictionary |= {clashing.get(column, column): entry for column, entry in table.dictionary.items()}
        manifest = manifest.merge(cells, how="left", on=table.key, validate="many_to_one")
    return manifest, {column: entry for column, entry in dictionary.items() if column in manifest}, problems


def read_keyed(
    path: Path,
    name: str,
    rename: Mapping[str, str],
    images: pd.DataFrame,
    participants: Sequence[str],
    severity: str = "error",
    rules: TableRules | None = None,
) -> tuple[Table | None, list[Problem]]:
    """Read a table and key it as the images are.

    Parameters
    ----------
    path : Path
    name : str
        Name of the table, for messages and columns that clash.
    rename, images, participants
        As for :func:`read_participants`.
    severity : {"error", "warning"}, default="error"
        Of what makes the table useless: no ids, or several rows of one participant.
    rules : TableRules or None, default=None
        What an importer knows of the table.

    Returns
    -------
    (Table or None, list of Problem)
        None when it has no column ``participant_id``.
    """
    table, problems = _read(path, name, rename, rules)
    if "participant_id" not in table.cells:
        return None, [*problems, _no_id_column(table, severity)]
    return table, problems + _align(table, images, participants, severity)


def _read(
    path: Path, name: str, rename: Mapping[str, str], rules: TableRules | None = None
) -> tuple[Table, list[Problem]]:
    cells, problems = read_table(path, strict=False, first_column=rules.first_column if rules else None)
    if rules is not None:
        cells, found = translate_table(cells, rules, str(path))
        problems += found
    dictionary = read_dictionary(path.with_suffix(".json"), problems)
    here = {old: new for old, new in rename.items() if old in cells}
    for old, new in here.items():
        if new in cells and new not in here:
            fix = f"rename that one too, for example --rename {new}={new}_original"
            message = f"--rename {old}={new}: the table already has a column {new}"
            raise ManifestError(f"{path}: columns cannot be renamed", [Problem(message, str(path), 1, new, fix=fix)])
    recognised, found = recognise_columns([here.get(column, column) for column in cells.columns], str(path))
    names = {column: recognised.get(here.get(column, column), here.get(column, column)) for column in cells.columns}
    table = Table(str(path), name, cells, dictionary, {column: column for column in cells.columns})
    table.rename(names)
    # A variable of the dataset is no misspelt manifest column: here only what was recognised is worth a word.
    return table, problems + [problem for problem in found if problem.severity == "info"]


def _no_id_column(table: Table, severity: str) -> Problem:
    names = [fold_name(name) for name in OTHER_NAMES["participant_id"]]
    likely = [column for column in table.cells.columns if fold_name(column) in names] or list(table.cells.columns[:1])
    return Problem(
        "no column participant_id" + ("" if severity == "error" else "; the table is left out"),
        file=table.file,
        row=1,
        got=", ".join(table.cells.columns[:12]),
        fix=f"--rename {likely[0]}=participant_id",
        code="missing_column",
        severity=severity,
    )


def _align(table: Table, images: pd.DataFrame, participants: Sequence[str], severity: str) -> list[Problem]:
    """Write ids as the folders do and see to it that a row belongs to one participant (and session)."""
    place = Problem("", table.file, column="participant_id", severity="warning")
    empty = table.cells[table.cells["participant_id"].isna()]
    without_id = replace(place, message="no participant; the row is left out", code="empty")
    problems = locate(without_id, empty["participant_id"], empty["participant_id"])
    cells = table.cells.drop(index=empty.index)
    cells["participant_id"], found = _match_labels(cells["participant_id"], "sub-", participants, place)
    problems += found
    session = next((name for name in SESSION_NAMES if name in cells), None)
    if session and (session == "session_id" or cells["participant_id"].duplicated().any()) and "session_id" in images:
        cells = cells.rename(columns={session: "session_id"})
        known = sorted(images["session_id"].dropna().unique())
        cells["session_id"], found = _match_labels(cells["session_id"], "ses-", known, replace(place, column=session))
        problems += found
    elif "session_id" in cells:
        cells = cells.rename(columns={"session_id": f"{table.name}_session_id"})
    table.cells = cells.drop_duplicates()
    repeated = table.cells[table.cells.duplicated(table.key)]
    fix = "keep one row per participant, or add a column session_id that agrees with the images"
    fix = fix if severity == "error" else f"the table is left out; {fix}"
    again = replace(place, message="another row of the same participant differs", fix=fix, code="repeated_rows")
    return problems + locate(replace(again, severity=severity), repeated["participant_id"], repeated["participant_id"])


def _match_labels(
    values: pd.Series, prefix: str, known: Sequence[str], place: Problem
) -> tuple[pd.Series, list[Problem]]:
    """Return values as the folders spell them: exactly, else without zeros, case and signs when only one fits."""
    labels = prefix + values.str.removeprefix(prefix)
    loose: dict[str, set[str]] = {}
    for name in (*known, *labels.dropna().unique()):
        loose.setdefault(_loosen(name, prefix), set()).add(name)
    unknown = set(labels.dropna()) - set(known)
    spelled: dict[str, str] = {}
    for name in unknown:
        candidates = loose[_loosen(name, prefix)] - {name}
        if len(candidates) == 1 and candidates <= set(known):
            spelled[name] = candidates.pop()
    if not spelled:
        return labels, []
    old, new = min(spelled.items())
    message = (
        f"{len(spelled):,} label(s) are written otherwise than in the folders' names (programs drop the zeros of 01); "
        "matched, since only one folder fits each"
    )
    got = f"{old.removeprefix(prefix)} for {new}"
    return labels.replace(spelled), [replace(place, message=message, got=got, code="spelled_labels")]


def _loosen(name: str, prefix: str) -> str:
    """Return a label without prefix (in any spelling: ``sub_``, ``Sub``), signs, case and leading zeros."""
    bare = re.sub(r"[\W_]", "", name.removeprefix(prefix)).casefold()
    return bare.removeprefix(prefix[:-1]).lstrip("0")


def _stack(tables: list[Table]) -> Table:
    """Put the tables of one measure, each of another session or participant, below each other."""
    first = tables[0]
    if len(tables) == 1:
        return first
    cells = pd.concat([table.cells for table in tables], ignore_index=True)
    dictionary = {column: entry for table in reversed(tables) for column, entry in table.dictionary.items()}
    names = {column: name for table in reversed(tables) for column, name in table.names.items()}
    origins = [(table.file, int(row)) for table in tables for row in table.cells.index]
    return Table(first.file, first.name, cells, dictionary, names, origins)
