"""From a published dataset's words to the manifest's: which column is the diagnosis, what codes and pooled ages mean.

The manifest's own reader is strict, because its file is the user's to mend. A published table is not, so what has one
meaning is translated and said, and only what needs a decision stops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.bids_tables import Table
from sepclr_med.cohort.cells import POOLED_AGE, SEX_OF, convert_cells, count_values, locate
from sepclr_med.cohort.columns import KNOWN_COLUMNS, OTHER_NAMES, fold_name
from sepclr_med.errors import Problem, did_you_mean

LIKELY = re.compile("diag|dx|group|patient|disease|disorder|status|case|control|clinical|cohort", re.IGNORECASE)
SHOWN_CANDIDATES = 8
OWN_TABLES = ("sessions", "participants")
PER_SESSION = ("age", "tiv", "site", "scanner")


def choose_diagnosis(tables: Sequence[Table], wanted: str | None = None) -> list[Problem]:
    """Name one column of the tables ``diagnosis``, in place.

    Parameters
    ----------
    tables : sequence of Table
        In the order in which they are looked through.
    wanted : str or None, default=None
        The column, as in its file; none means the usual names, outside phenotype tables.

    Returns
    -------
    list of Problem
        ``info`` on the choice with its values, ``warning`` when other columns have a usual name too, or errors when
        there is none: one per column that could be it.
    """
    found = _find_wanted(tables, wanted) if wanted else _find_usual(tables)
    if not found:
        return _say_none(tables, wanted)
    table, column = found[0]
    for other in tables:
        if "diagnosis" in other.cells and column != "diagnosis":
            other.rename({"diagnosis": f"{other.name}_diagnosis"})
    values = describe_values(table.cells[column], table.dictionary.get(column, {}))
    if column != "diagnosis":
        table.rename({column: "diagnosis"})
    place = Problem("holds the diagnosis", table.file, column=column, got=values, code="diagnosis", severity="info")
    rest = [name for _, name in found[1:] if name != column]
    if wanted or not rest:
        return [place]
    fix = f"if another one is meant: --diagnosis-column {rest[0]}"
    return [replace(place, message=f"holds the diagnosis, not {', '.join(rest)}", fix=fix, severity="warning")]


def check_rename(rename: Mapping[str, str], tables: Sequence[Table]) -> list[Problem]:
    """Return an error for every column to rename that no table has."""
    columns = sorted({column for table in tables for column in table.names})
    return [
        Problem(
            "--rename names a column that is in no table",
            got=f"{old}={new}",
            allowed=", ".join(columns[:20]),
            fix=did_you_mean(old, columns) or "check the spelling",
            code="rename",
        )
        for old, new in rename.items()
        if old not in columns
    ]


def translate(table: Table) -> list[Problem]:
    """Bring a table's cells to the manifest's types and words, in place.

    Codes of the sex column become F and M when the JSON sidecar says which is which; pooled ages (``89+``) become
    their limit.

    Parameters
    ----------
    table : Table
        Changed in place.

    Returns
    -------
    list of Problem
        What was translated (``info``, ``warning``) and what cannot be (``error``).
    """
    problems = _translate_sex(table) if "sex" in table.cells else []
    problems += _translate_age(table) if "age" in table.cells else []
    table.cells, found = convert_cells(table.cells, table.file)
    return [_at_origin(problem, table) for problem in problems + found]


def pick_session_columns(manifest: pd.DataFrame) -> list[Problem]:
    """Fill ``age`` (``tiv``, ``site``, ``scanner``) from ``age_ses-T1``, ``age_ses-T2``, ... by each image's session.

    Parameters
    ----------
    manifest : DataFrame
        Changed in place; the original columns stay.

    Returns
    -------
    list of Problem
        ``info`` on each column filled.

    Examples
    --------
    >>> manifest = pd.DataFrame({"session_id": ["ses-1", "ses-2"], "age_ses-1": [8.0, 8.5], "age_ses-2": [9.0, 9.5]})
    >>> _ = pick_session_columns(manifest)
    >>> manifest["age"].tolist()
    [8.0, 9.5]
    """
    problems = []
    for name in PER_SESSION if "session_id" in manifest else ():
        sources = {
            session: f"{name}_{session}"
            for session in manifest["session_id"].dropna().unique()
            if f"{name}_{session}" in manifest
        }
        if name in manifest or not sources:
            continue
        picked = [manifest[column].where(manifest["session_id"] == session) for session, column in sources.items()]
        filled = picked[0]
        for values in picked[1:]:
            filled = filled.fillna(values)
        manifest[name] = filled
        said = ", ".join(sources.values())
        problems.append(Problem(f"{name} is that of each image's session", got=said, code="session", severity="info"))
    return problems


def describe_values(values: pd.Series, entry: Mapping[str, Any]) -> str:
    """Return the values of a column with their counts and what the sidecar calls them.

    Examples
    --------
    >>> describe_values(pd.Series(["1", "1", "0"]), {"Levels": {"1": "yes"}})
    '1 (yes): 2, 0: 1'
    """
    levels = _levels(entry)
    return count_values(values.map(lambda value: f"{value} ({levels[value]})" if levels.get(value) else value), 10)


def _find_wanted(tables: Sequence[Table], wanted: str) -> list[tuple[Table, str]]:
    exact = [(table, table.names[wanted]) for table in tables if wanted in table.names]
    exact += [(table, wanted) for table in tables if wanted in table.cells]
    return exact or [
        (table, name)
        for table in tables
        for column, name in table.names.items()
        if fold_name(wanted) == fold_name(column) and name in table.cells
    ]


def _find_usual(tables: Sequence[Table]) -> list[tuple[Table, str]]:
    usual = ["diagnosis", *(fold_name(name) for name in OTHER_NAMES["diagnosis"])]
    own = [table for table in tables if table.name in OWN_TABLES]
    return [
        (table, column)
        for name in dict.fromkeys(usual)
        for table in own
        for column in table.cells.columns
        if fold_name(column) == name and table.cells[column].notna().any()
    ]


def _say_none(tables: Sequence[Table], wanted: str | None) -> list[Problem]:
    columns = [column for table in tables for column in table.names]
    fix = "choose one of the columns below" if (candidates := _list_candidates(tables)) else "add such a column"
    unread = all(table.name in OWN_TABLES for table in tables)
    if unread and (Path(tables[0].file).parent / "phenotype").is_dir():
        fix += ", or look in phenotype/ too with --phenotype"
    hint = did_you_mean(wanted, columns) if wanted else ""
    message = "no such column for the diagnosis" if wanted else "no column says who is a patient and who a control"
    return [
        Problem(
            message,
            file=tables[0].file,
            row=1,
            got=wanted or ", ".join(columns[:12]),
            allowed="" if wanted else f"diagnosis, {', '.join(OTHER_NAMES['diagnosis'])}",
            fix=hint or f"{fix}; if all belong to one group, --diagnosis NAME",
            code="no_diagnosis",
        ),
        *candidates,
    ]


def _list_candidates(tables: Sequence[Table]) -> list[Problem]:
    """Return one line per column with a few repeated values: those with a likely name, if there are any."""
    found = []
    for table in tables:
        for column in table.cells.columns.difference(list(KNOWN_COLUMNS), sort=False):
            values = table.cells[column].dropna()
            if 2 <= values.nunique() <= 10 and values.nunique() < len(values):
                found.append((table, column, values))
    likely = [each for each in found if LIKELY.search(each[1])]
    return [
        Problem(
            "could hold the diagnosis",
            file=table.file,
            column=column,
            got=describe_values(values, table.dictionary.get(column, {})),
            fix=f"--diagnosis-column {column}",
            code="candidate",
        )
        for table, column, values in (likely or found)[:SHOWN_CANDIDATES]
    ]


def _translate_sex(table: Table) -> list[Problem]:
    words = {code: word.split(" ")[0].casefold() for code, word in _levels(table.dictionary.get("sex", {})).items()}
    sexes = {code: SEX_OF[word] for code, word in words.items() if word in SEX_OF and code.casefold() not in SEX_OF}
    translated = table.cells["sex"].str.replace(r"\.0+$", "", regex=True).map(sexes)
    if translated.isna().all():
        return []
    table.cells["sex"] = table.cells["sex"].where(translated.isna(), translated)
    said = ", ".join(f"{code} = {sex}" for code, sex in sexes.items())
    message = f"codes translated as the JSON sidecar says: {said}"
    return [Problem(message, table.file, column="sex", code="levels", severity="info")]


def _translate_age(table: Table) -> list[Problem]:
    ages = table.cells["age"]
    pooled = ages.str.match(POOLED_AGE, na=False)
    message = "age pooled above a limit, for privacy; read as the limit itself"
    fix = "nothing, or write n/a in the manifest if the limit will not do"
    place = Problem(message, table.file, column="age", fix=fix, code="pooled_age", severity="warning")
    table.cells["age"] = ages.where(~pooled, ages.str.extract(r"(\d+(?:\.\d+)?)", expand=False))
    return locate(place, ages[pooled], table.cells["participant_id"])


def _levels(entry: Mapping[str, Any]) -> dict[str, str]:
    levels = entry.get("Levels")
    if not isinstance(levels, dict):
        return {}
    words = {code: text.get("Description", "") if isinstance(text, dict) else text for code, text in levels.items()}
    return {str(code): str(word) for code, word in words.items() if str(word) not in ("", str(code))}


def _at_origin(problem: Problem, table: Table) -> Problem:
    if problem.row is None or not table.origins:
        return problem
    file, row = table.origins[problem.row]
    return replace(problem, file=file, row=row)
