"""Delimited text as researchers' programs leave it, read as it is: a frame of strings and a list of what is odd.

The index of every frame here is the row as a spreadsheet shows it (header 1, first row 2), so that any later message
about a cell can say where to look.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.cells import locate
from sepclr_med.errors import ManifestError, Problem, did_you_mean

MISSING = ("", "n/a", "N/A", "NA", "NaN", "nan", ".", "-", "null", "NULL", "None", "#N/A", "<NA>")
SEPARATORS = {".tsv": "\t", ".csv": ","}
SEPARATOR_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons"}
ID_COLUMN = "participant_id"
IMAGE_ENDINGS = (".nii", ".nii.gz", ".mgz", ".mgh", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
MOST_COLUMNS = 5_000
# A table may be ragged, within reason: cells missing for one that is there, and how many in all.
MOST_MISSING, MISSING_ALLOWED = 10, 1_000_000
EMPTY = ("is empty", "write a header line and one line per row")
EXCEL_FIX = 'in Excel: File > Save As > "CSV UTF-8 (Comma delimited)"'


def read_table(
    path: str | Path, strict: bool = True, first_column: str | None = None
) -> tuple[pd.DataFrame, list[Problem]]:
    r"""Read a CSV or TSV as strings, every dialect of a missing value as missing.

    The separator follows the extension, then the header line (tab, comma or semicolon). Byte order marks, UTF-16,
    CRLF and CR line ends, quoted cells, blank lines and spaces around cells are understood.

    Parameters
    ----------
    path : path
        The file.
    strict : bool, default=True
        Whether what would need a guess (another encoding, rows with missing cells, repeated columns) is an error, as
        in a file of the user's own, or a warning, as in a published dataset.
    first_column : str or None, default=None
        Name of the first column where the header leaves it empty; none means that it is left out.

    Returns
    -------
    table : DataFrame
        Strings, missing where empty; indexed by the row of a spreadsheet.
    problems : list of Problem
        Everything odd; with ``strict``, errors among them.

    Raises
    ------
    ManifestError
        When the file cannot be read as a table at all.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.csv"
    ...     _ = path.write_text("participant_id;age\r\n001;n/a\r\n")
    ...     table, problems = read_table(path)
    >>> table.loc[2, "participant_id"], bool(table.loc[2, "age"] != table.loc[2, "age"]), problems
    ('001', True, [])
    """
    path = Path(path)
    severity = "error" if strict else "warning"
    text, problems = _decode(path, strict)
    separator, found = _sniff(text, path)
    cells, odd = _parse(text, separator, path, severity)
    if first_column is not None and cells.iloc[0, 0] == "":
        cells.iloc[0, 0] = first_column
    table, named = _name_columns(cells, path, severity)
    return table, problems + found + odd + named


def raise_errors(summary: str, problems: list[Problem]) -> None:
    """Raise a :class:`ManifestError` with the problems of severity ``error``, if any.

    Examples
    --------
    >>> raise_errors("a.csv", [Problem("odd", severity="warning")])
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ManifestError(f"{summary}: {len(errors)} problem(s) to mend", errors)


def _refuse(path: Path, message: str, fix: str, row: int | None = None, got: str = "") -> ManifestError:
    problem = Problem(message, file=str(path), row=row, got=got, fix=fix, code="unreadable_table")
    return ManifestError(f"{path}: cannot be read as a table", [problem])


def _decode(path: Path, strict: bool) -> tuple[str, list[Problem]]:
    content = _read_bytes(path)
    problems = []
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            problems.append(_encoding_problem(path, content, error.start, strict))
            text = content.decode("cp1252", errors="replace")
    # Programs that write a byte order mark into a file that has one leave two.
    text = text.lstrip("\ufeff")
    if not text.strip():
        raise _refuse(path, *EMPTY)
    if "\x00" in text:
        row = text.count("\n", 0, text.index("\x00")) + 1
        raise _refuse(path, "is not text: it holds NUL characters", "give a CSV or TSV file", row=row)
    return text.replace("\r\n", "\n").replace("\r", "\n"), problems


def _read_bytes(path: Path) -> bytes:
    try:
        # A pipe or a device would be waited for, or read for ever.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise _refuse(path, "is no ordinary file", "write the table to a file")
        with open(path, "rb") as stream:
            _refuse_other_files(path)
            head = stream.read(4096)
            _require_text(path, head)
            return head + stream.read()
    except FileNotFoundError:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise _refuse(path, "no such file", did_you_mean(path.name, beside) or "check the path") from None
    except IsADirectoryError:
        fix = "give the table itself; for a BIDS folder use `sepclr-med manifest BIDS_DIR -o FILE`"
        raise _refuse(path, "is a folder", fix) from None
    except OSError as error:
        raise _refuse(path, f"cannot be opened: {error.strerror}", "check permissions and the disk") from None


def _refuse_other_files(path: Path) -> None:
    if path.name.lower().endswith(IMAGE_ENDINGS):
        fix = "give the table that lists the images; `sepclr-med manifest BIDS_DIR -o FILE` writes one"
        raise _refuse(path, "is an image, not a table", fix)
    if path.suffix.lower() in (".yaml", ".yml"):
        fix = f"give the table here and the recipe as --config {path}; `sepclr-med run {path} RUN_DIR` needs no table"
        raise _refuse(path, "is a recipe, not a table", fix)


def _require_text(path: Path, head: bytes) -> None:
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise _refuse(path, "is a workbook, not a text table", EXCEL_FIX)
    if head.startswith(b"\x1f\x8b"):
        raise _refuse(path, "is compressed", "decompress it (gunzip)")
    if b"\x00" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise _refuse(path, "is not text", "give a CSV or TSV file")
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise _refuse(path, *EMPTY)


def _encoding_problem(path: Path, content: bytes, position: int, strict: bool) -> Problem:
    start = content.rfind(b"\n", 0, position) + 1
    return Problem(
        "a character is not UTF-8" + ("" if strict else "; the file was read as Windows-1252, so look at accents"),
        file=str(path),
        row=content.count(b"\n", 0, position) + 1,
        got=content[max(start, position - 20) : position + 10].splitlines()[0].decode("cp1252", errors="replace"),
        allowed="UTF-8",
        fix=f"save it as UTF-8: {EXCEL_FIX}, or `iconv -f WINDOWS-1252 -t UTF-8`",
        code="encoding",
        severity="error" if strict else "warning",
    )


def _sniff(text: str, path: Path) -> tuple[str, list[Problem]]:
    header = next(line for line in text.split("\n") if line.strip())
    usual = SEPARATORS.get(path.suffix.lower(), "\t")
    order = [usual, *(separator for separator in SEPARATOR_NAMES if separator != usual)]
    counts = {separator: _count_columns(header, separator) for separator in order}
    holds_id = [s for s in order if counts[s] <= MOST_COLUMNS and ID_COLUMN in _split_header(header, s)]
    separator = holds_id[0] if holds_id else max(order, key=lambda s: counts[s])
    if counts[separator] > MOST_COLUMNS:
        fix = f"keep those the study needs, {MOST_COLUMNS:,} at most"
        raise _refuse(path, "has too many columns", fix, row=1, got=f"{counts[separator]:,}")
    if counts[separator] == 1 and len(header.split()) > 1:
        names = ", ".join(SEPARATOR_NAMES.values())
        raise _refuse(path, "columns are separated by spaces", f"separate them by {names}", row=1, got=header[:60])
    if separator == usual or path.suffix.lower() != ".tsv" or counts[separator] == 1:
        return separator, []
    message = f"named .tsv but separated by {SEPARATOR_NAMES[separator]}; read accordingly"
    return separator, [Problem(message, file=str(path), code="separator", severity="info")]


def _count_columns(header: str, separator: str) -> int:
    """Count the cells without taking them apart: there can be tens of millions."""
    quoted = rf'(?<![^{separator}])"[^"]*(?:""[^"]*)*"'
    return re.sub(quoted, "", header).count(separator) + 1


def _split_header(header: str, separator: str) -> list[str]:
    try:
        return [cell.strip().lower() for cell in next(csv.reader([header], delimiter=separator))]
    except csv.Error:  # A cell that is endlessly long: this is not what separates them.
        return []


def _parse(text: str, separator: str, path: Path, severity: str) -> tuple[pd.DataFrame, list[Problem]]:
    leading = len(text) - len(text.lstrip("\n"))
    text = text.strip("\n")
    try:
        # The header is parsed as a row, so that a longer row is passed over and not taken for an index.
        options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
        counts = _count_cells(text, separator)
        _require_cells(counts, path)
        cells = pd.read_csv(io.StringIO(text), sep=separator, on_bad_lines="skip", **options)
    except pd.errors.EmptyDataError:
        raise _refuse(path, *EMPTY) from None
    except (pd.errors.ParserError, csv.Error) as error:
        row = re.search(r"EOF inside string starting at row (\d+)", str(error))
        fix = "close or remove it"
        raise _refuse(path, 'a quote (") is never closed', fix, row=row and int(row[1]) + 1 + leading) from None
    counts.index += leading
    kept = counts <= counts.iloc[0]
    if kept.sum() != len(cells):
        raise _refuse(path, 'quotes (") are used in a way that can be read in two ways', "remove them")
    cells.index = counts.index[kept]
    cells = _strip(cells)
    cells = cells[(cells != "").any(axis=1)]
    if cells.empty:
        raise _refuse(path, *EMPTY)
    problems = _say_ragged(counts.loc[counts.index.isin(cells.index) | ~kept], path, severity)
    return cells, problems + (_swallowed_rows(cells, separator, path) if '"' in text else [])


def _count_cells(text: str, separator: str) -> pd.Series:
    if '"' in text:
        counts = [len(row) for row in csv.reader(io.StringIO(text), delimiter=separator)]
    else:
        counts = [line.count(separator) + 1 for line in text.split("\n")]
    return pd.Series(counts, index=pd.RangeIndex(1, len(counts) + 1))


def _require_cells(counts: pd.Series, path: Path) -> None:
    """Refuse a table nearly all of whose cells are not there: filling them would take any amount of memory."""
    asked, there = len(counts) * int(counts.iloc[0]), int(counts.sum())
    if asked > max(MOST_MISSING * there, MISSING_ALLOWED):
        got = f"{counts.iloc[0]:,} columns, {len(counts):,} rows and only {there:,} of {asked:,} cells"
        raise _refuse(path, "most of its cells are missing", "write one cell per column and row", got=got)


def _say_ragged(counts: pd.Series, path: Path, severity: str) -> list[Problem]:
    wanted, ids = counts.iloc[0], pd.Series(dtype=object)
    place = Problem("more cells than the header", str(path), allowed=str(wanted), code="ragged_row")
    long = replace(place, fix="remove the extra cells, or put quotes around a cell that holds the separator")
    message, fix = "fewer cells than the header; was the file cut off?", "write n/a in the missing cells"
    short = replace(place, message=message, fix=fix, severity=severity)
    return locate(long, counts[counts > wanted], ids) + locate(short, counts[counts < wanted], ids)


def _strip(cells: pd.DataFrame) -> pd.DataFrame:
    # As plain objects until the columns are named: text columns are handled one by one, which takes long where many.
    values = cells.to_numpy(object, copy=True)
    stripped = [value.strip() if isinstance(value, str) else "" for value in values.ravel().tolist()]
    values.flat = stripped  # type: ignore[misc, assignment]  # the stubs lack the setter of flat
    return pd.DataFrame(values, index=cells.index, columns=cells.columns, dtype=object)


def _swallowed_rows(cells: pd.DataFrame, separator: str, path: Path) -> list[Problem]:
    fix = 'remove the quote (") that opens this cell'
    place = Problem("a quote swallowed the rows below", str(path), fix=fix, code="quote")
    problems = []
    for column in cells.columns if cells.shape[1] > 1 else ():
        values = cells[column]
        # Most columns hold nothing of the kind, and are passed over several times faster.
        if not any("\n" in value for value in values.tolist()):
            continue
        folded = values[values.str.contains("\n", regex=False)]
        swallowed = folded[folded.str.count(f"\\{separator}") >= cells.shape[1] - 1]
        shown = swallowed.map(lambda value: " ".join(value.split())[:40])
        problems += locate(place, shown, pd.Series(dtype=object))
    return problems


def _name_columns(cells: pd.DataFrame, path: Path, severity: str) -> tuple[pd.DataFrame, list[Problem]]:
    names = cells.iloc[0]
    table = cells.iloc[1:]
    table = table.mask(table.isin(MISSING))
    repeated = names.duplicated() & (names != "")
    unnamed = names == ""
    problems = [
        Problem("column appears twice", str(path), 1, name, fix="rename one of them", code="columns", severity=severity)
        for name in names[repeated].unique()
    ]
    problems += [
        Problem(f"column {position + 1} has no name and is left out", str(path), 1, code="columns", severity="warning")
        for position in names.index[unnamed]
        if table[position].notna().any()
    ]
    table = table.loc[:, ~(repeated | unnamed)]
    table.columns = pd.Index(names[~(repeated | unnamed)].tolist())
    table = table.astype(str)
    if table.empty:
        raise _refuse(path, "has a header and no rows", "write one line per row")
    return table, problems
