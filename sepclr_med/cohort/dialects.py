"""A published table in the manifest's words, as an importer says: rows, ids, codes, units, names."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from sepclr_med.cohort.cells import as_numbers, blank_codes, count_values
from sepclr_med.cohort.columns import fold_name
from sepclr_med.cohort.importers import UNITS, TableRules
from sepclr_med.cohort.name_patterns import compile_pattern, rewrite_name
from sepclr_med.errors import ManifestError, Problem, did_you_mean


def translate_table(cells: pd.DataFrame, rules: TableRules, file: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Apply the rules of an importer to the cells of a table.

    Parameters
    ----------
    cells : DataFrame
        Strings under the published names, missing where empty.
    rules : TableRules
    file : str
        For the messages.

    Returns
    -------
    cells : DataFrame
        Strings under the manifest's names; ``participant_id`` and, where rows are sessions, ``session_id`` among them.
    problems : list of Problem
        Columns that the importer knows and the table lacks, codes that it does not know.

    Raises
    ------
    ManifestError
        When the column of participants is not there, no row is left, or two columns would have one name.

    Examples
    --------
    >>> rules = TableRules(files=["a.csv"], key="SUB_ID", rename={"DX": "diagnosis"}, levels={"DX": {"1": "autism"}})
    >>> cells = pd.DataFrame({"SUB_ID": ["7", "8"], "DX": ["1", "-9999"]}, index=[2, 3])
    >>> translate_table(cells, rules.model_copy(update={"missing": ["-9999"]}), "a.csv")[0].values.tolist()
    [['7', 'autism'], ['8', nan]]
    """
    written, problems = _find_columns(cells, rules, file)
    cells = cells.rename(columns={actual: name for name, actual in written.items()})
    _require_key(cells, rules, file)
    cells = _keep_rows(cells, rules, file)
    if rules.columns:
        wanted = [rules.key, rules.session, *rules.columns]
        cells = cells[[column for column in cells.columns if column in wanted]]
    names = _new_names(cells, rules)
    _refuse_taken(cells, rules, names, file)
    values = cells.columns.difference([rules.key, rules.session], sort=False)
    cells = cells.assign(**{column: blank_codes(cells[column], rules.missing) for column in values})
    cells = _rewrite(cells, rules)
    for column, unit in rules.units.items():
        if column in cells:
            cells[column] = _as_text(as_numbers(cells[column]) * UNITS[unit], cells[column])
    for column, parts in rules.sums.items():
        if set(parts) <= set(cells.columns):
            total = pd.concat([as_numbers(cells[part]) for part in parts], axis=1).sum(axis=1, skipna=False)
            cells[column] = _as_text(total, pd.Series(index=cells.index, dtype=object))
    for column, levels in rules.levels.items():
        if column in cells:
            cells[column], found = _name_levels(cells[column], levels, Problem("", file, column=column))
            problems += found
    return cells.rename(columns=names), problems


def _find_columns(cells: pd.DataFrame, rules: TableRules, file: str) -> tuple[dict[str, str], list[Problem]]:
    """Return published name to name in the table, for names that differ by case and punctuation alone."""
    parts = [part for parts in rules.sums.values() for part in parts]
    known = [rules.session, *rules.columns, *rules.keep, *rules.rename, *rules.levels, *rules.units, *parts]
    folded: dict[str, list[str]] = {}
    for column in cells.columns:
        folded.setdefault(fold_name(column), []).append(column)
    names, absent = {}, []
    for name in dict.fromkeys([rules.key, *filter(None, known)]):
        alike = folded.get(fold_name(name), [])
        if name not in cells and len(alike) == 1 and alike[0] not in known:
            names[name] = alike[0]
        elif name not in cells and name != rules.key:
            absent.append(name)
    if not absent:
        return names, []
    message = "columns that the importer knows are not in this table"
    fix = "nothing, if this release lacks them; else look up their names and write them into a copy of the importer"
    got = ", ".join(absent[:12])
    return names, [Problem(message, file, 1, got=got, fix=fix, code="absent_columns", severity="warning")]


def _require_key(cells: pd.DataFrame, rules: TableRules, file: str) -> None:
    if rules.key in cells:
        return
    columns = list(cells.columns)
    fix = did_you_mean(rules.key, columns) or "is it another table? --participants FILE says which"
    got = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
    problem = Problem("no column of participants", file, 1, rules.key, got=got, fix=fix, code="missing_column")
    raise ManifestError(f"{file}: not the table that the importer knows", [problem])


def _new_names(cells: pd.DataFrame, rules: TableRules) -> dict[str, str]:
    """Return published name to the manifest's, of the columns that are there."""
    names = {**rules.rename, rules.key: "participant_id"}
    if rules.session is not None:
        names[rules.session] = "session_id"
    return {old: new for old, new in names.items() if old in cells}


def _refuse_taken(cells: pd.DataFrame, rules: TableRules, names: dict[str, str], file: str) -> None:
    """Refuse a column that has the name of one that the importer makes: which of the two is meant is not guessed."""
    made = {new: old for old, new in names.items() if old != new}
    made |= {new: " + ".join(parts) for new, parts in rules.sums.items() if set(parts) <= set(cells.columns)}
    fix = "take one of the two out of the table or rename it there, or change `rename` in a copy of the importer"
    problems = [
        Problem("the table has such a column, and the importer makes one", file, 1, new, got=f"of {old}", fix=fix)
        for new, old in made.items()
        if new in cells and new not in names
    ]
    if problems:
        raise ManifestError(f"{file}: two columns of one name", problems)


def _keep_rows(cells: pd.DataFrame, rules: TableRules, file: str) -> pd.DataFrame:
    for column, patterns in rules.keep.items():
        if column not in cells:
            continue
        wanted = [compile_pattern(pattern) for pattern in patterns]
        values = cells[column].fillna("n/a")
        kept = cells[[any(each.fullmatch(value) for each in wanted) for value in values]]
        if kept.empty:
            allowed, got = ", ".join(patterns), count_values(values)
            fix = "look at the column, and mend `keep` in a copy of the importer"
            problem = Problem("no row is left", file, column=column, got=got, allowed=allowed, fix=fix, code="keep")
            raise ManifestError(f"{file}: no row that the importer keeps", [problem])
        cells = kept
    return cells.copy()


def _rewrite(cells: pd.DataFrame, rules: TableRules) -> pd.DataFrame:
    for column, patterns in ((rules.key, rules.ids), (rules.session, rules.sessions)):
        if patterns and column in cells:
            written = {name: rewrite_name(name, patterns) for name in cells[column].dropna().unique()}
            cells[column] = cells[column].map(written)
    return cells


def _name_levels(values: pd.Series, levels: dict[str, str], place: Problem) -> tuple[pd.Series, list[Problem]]:
    # Programs write the code 1 as 1.0 where a column has gaps.
    codes = values.str.replace(r"^([+-]?\d+)\.0+$", r"\1", regex=True)
    named = codes.map(levels)
    unknown = values[values.notna() & named.isna() & ~values.isin(list(levels.values()))]
    message = "values that the importer does not know, kept as they are"
    fix = "look them up in the cohort's documentation"
    odd = replace(place, message=message, got=count_values(unknown) if len(unknown) else "", allowed=", ".join(levels))
    problems = [replace(odd, fix=fix, code="levels", severity="warning")] if len(unknown) else []
    return named.where(named.notna(), values), problems


def _as_text(numbers: pd.Series, instead: pd.Series) -> pd.Series:
    """Return numbers as the texts of a table, what is no number as it was."""
    texts = numbers.map(lambda number: f"{number:.10g}", na_action="ignore").astype(object)
    return texts.where(numbers.notna(), instead)
