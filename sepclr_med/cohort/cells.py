"""What the cells of a manifest may hold: text to text, numbers and sexes, and what is said about the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.cohort.columns import KNOWN_COLUMNS, NUMBERS, SPLITS, TEXTS
from sepclr_med.errors import Problem, did_you_mean

MISSING_CODES = (-9, -99, -999, -9999, 999, 9999)
UNCODED = ("participant_id", "session_id", "run", "image_path", "mask_path", "family_id", "fold", "split")
# Younger than newborn or larger than any head: another unit, not another brain.
PLAUSIBLE = {"age": (0.0, 120.0), "tiv": (100.0, 3000.0)}
SEXES = {
    "F": ("f", "female", "woman", "women", "girl", "females"),
    "M": ("m", "male", "man", "men", "boy", "males"),
    "O": ("o", "other", "intersex", "non-binary", "nonbinary", "diverse"),
}
SEX_OF = {word: sex for sex, words in SEXES.items() for word in words}
SHOWN_CELLS = 20
MOSTLY = 0.5

# Identifiers that only look like numbers: leading zeros, or more digits than a float keeps.
LOOKS_LIKE_CODE = re.compile(r"[+-]?(0\d|\d{16,}$)").match
DECIMAL_COMMA = r"^[+-]?\d+,\d+$"
POOLED_AGE = r"^(?:>=?|≥)\s*\d|.*\d\s*\+$"


def convert_cells(
    raw: pd.DataFrame, file: str, missing_codes: Sequence[float | str] = ()
) -> tuple[pd.DataFrame, list[Problem]]:
    """Give every column of a table of strings its type, with everything that is wrong or odd about the cells.

    Parameters
    ----------
    raw : DataFrame
        Strings under the known names, missing where empty, indexed by spreadsheet row.
    file : str
        For the messages.
    missing_codes : sequence of float or str, default=()
        Values that mean missing, such as -9, outside columns of identifiers.

    Returns
    -------
    table : DataFrame
        Known columns as text or number; any other is float when every value that is there is a number, else text.
    problems : list of Problem

    Examples
    --------
    >>> raw = pd.DataFrame({"age": ["30", "31.5"], "sex": ["male", "F"], "code": ["001", "2"]}, index=[2, 3], dtype=str)
    >>> table, problems = convert_cells(raw, "a.tsv")
    >>> table.to_dict("list"), problems
    ({'age': [30.0, 31.5], 'sex': ['M', 'F'], 'code': ['001', '2']}, [])
    """
    ids = raw["participant_id"] if "participant_id" in raw else pd.Series(index=raw.index, dtype=object)
    typed, problems = {}, []
    for column in raw.columns:
        values = raw[column] if column in UNCODED else blank_codes(raw[column], missing_codes)
        place = Problem("", file=file, column=column)
        typed[column], found = _convert(values, place, ids)
        problems += found
    return pd.DataFrame(typed, index=raw.index), problems


def locate(problem: Problem, cells: pd.Series, ids: pd.Series) -> list[Problem]:
    """Say a problem once per cell, or once for the whole column when there are more than 20.

    Parameters
    ----------
    problem : Problem
        What is wrong, without row and value.
    cells : Series
        The values concerned, indexed by spreadsheet row.
    ids : Series
        Participants, indexed by spreadsheet row.

    Returns
    -------
    list of Problem

    Examples
    --------
    >>> cells = pd.Series(["old"], index=[7])
    >>> [str(p) for p in locate(Problem("not a number"), cells, pd.Series(["sub-01"], index=[7]))]
    ['row 7, sub-01: not a number; got "old"']
    """
    if len(cells) <= SHOWN_CELLS:
        return [
            replace(problem, row=int(row), got="" if pd.isna(value) else str(value), participant_id=_text(ids.get(row)))
            for row, value in zip(cells.index, cells, strict=True)
        ]
    first = cells.index[0]
    message = f"{problem.message} (in {len(cells):,} rows, first in this one)"
    got = count_values(cells, SHOWN_CELLS if cells.is_unique else 6)
    return [replace(problem, message=message, row=int(first), got=got, participant_id=_text(ids.get(first)))]


def count_values(values: pd.Series, shown: int = 6) -> str:
    """Return the commonest values with their counts, unless each is there once.

    Examples
    --------
    >>> count_values(pd.Series(["a", "a", "b"]))
    'a: 2, b: 1'
    >>> count_values(pd.Series(["a", "b"]))
    'a, b'
    """
    counts = values.value_counts()
    more = f", and {len(counts) - shown:,} others" if len(counts) > shown else ""
    once = counts.max() == 1
    return ", ".join(str(value) if once else f"{value}: {n:,}" for value, n in counts.head(shown).items()) + more


def as_numbers(values: pd.Series) -> pd.Series:
    """Return finite floats, missing where a text is no number.

    Examples
    --------
    >>> as_numbers(pd.Series(["1.5", "abc", "inf", "-0"])).tolist()
    [1.5, nan, nan, 0.0]
    """
    # Adding zero makes the negative zero, which is written as 0 and would read back as another value, an ordinary one.
    numbers = pd.to_numeric(values, errors="coerce").astype(float) + 0.0
    return numbers.where(np.isfinite(numbers))


def blank_codes(values: pd.Series, codes: Sequence[float | str]) -> pd.Series:
    """Return texts, missing where they are one of the codes or a number equal to one.

    Examples
    --------
    >>> blank_codes(pd.Series(["-9", "-9.0", "9"]), [-9]).tolist()
    [nan, nan, '9']
    """
    if not len(codes):
        return values
    numbers = pd.to_numeric(pd.Series([str(code) for code in codes]), errors="coerce").dropna()
    return values.mask(values.isin([str(code) for code in codes]) | as_numbers(values).isin(numbers))


def _convert(values: pd.Series, place: Problem, ids: pd.Series) -> tuple[pd.Series, list[Problem]]:
    if place.column == "sex":
        return _convert_sex(values, place, ids)
    if place.column == "split":
        return values, _check_split(values, place, ids)
    if place.column in TEXTS:
        codes = as_numbers(values.where(values.isin([str(code) for code in MISSING_CODES])))
        return values, [] if place.column in UNCODED else _find_codes(values, codes, place)
    if place.column in NUMBERS:
        return _convert_number(values, place, ids)
    return _convert_variable(values, place)


def _convert_number(values: pd.Series, place: Problem, ids: pd.Series) -> tuple[pd.Series, list[Problem]]:
    numbers = as_numbers(values)
    bad = values[values.notna() & numbers.isna()]
    unit = KNOWN_COLUMNS[place.column]["Units"]
    wrong = replace(
        place,
        message="not a number",
        allowed=f"a number ({unit}) or n/a",
        fix="write a number or n/a, or give the column another name to keep it as it is",
        code="not_a_number",
    )
    comma = bad.str.match(DECIMAL_COMMA)
    pooled = bad.str.match(POOLED_AGE) & (place.column == "age")
    said = locate(replace(wrong, message="a decimal comma", fix="write a decimal point"), bad[comma], ids)
    fix = "write the limit itself (89 for 89+), as BIDS recommends, or n/a"
    said += locate(replace(wrong, message="ages pooled above a limit, for privacy", fix=fix), bad[pooled], ids)
    said += locate(wrong, bad[~comma & ~pooled], ids)
    return numbers, said + _find_codes(values, numbers, place) + _find_implausible(values, numbers, place, ids)


def _find_implausible(values: pd.Series, numbers: pd.Series, place: Problem, ids: pd.Series) -> list[Problem]:
    low, high = PLAUSIBLE[place.column]
    odd = values[((numbers < low) | (numbers > high)) & ~numbers.isin(MISSING_CODES)]
    unit = KNOWN_COLUMNS[place.column]["Units"]
    problem = replace(place, message=f"not plausible in {unit}", allowed=f"{low:g} to {high:g}", severity="warning")
    return locate(replace(problem, fix="check the unit", code="implausible"), odd, ids)


def _convert_variable(values: pd.Series, place: Problem) -> tuple[pd.Series, list[Problem]]:
    numbers = as_numbers(values)
    present = values.notna()
    coded = any(map(LOOKS_LIKE_CODE, values[present].tolist()))
    codes = _find_codes(values, numbers, place)
    if not coded and numbers.notna().equals(present):
        return numbers, codes
    bad = values[present & numbers.isna()]
    if coded or present.sum() < 4 or not MOSTLY <= numbers.notna().sum() / present.sum() < 1:
        return values, codes + _decimal_commas(bad, place)
    odd = replace(
        place,
        message=f"mostly numbers, kept as text because of {len(bad)} value(s)",
        row=int(bad.index[0]),
        got=count_values(bad),
        fix="write n/a or a number there if it is meant to be a number",
        code="mixed_column",
        severity="warning",
    )
    return values, [*codes, odd]


def _decimal_commas(bad: pd.Series, place: Problem) -> list[Problem]:
    if bad.empty or not bad.str.match(DECIMAL_COMMA).all():
        return []
    fix = "write a decimal point if it is meant to be a number"
    odd = replace(place, message="decimal commas, kept as text", row=int(bad.index[0]), got=bad.iloc[0], fix=fix)
    return [replace(odd, code="decimal_comma", severity="warning")]


def _convert_sex(values: pd.Series, place: Problem, ids: pd.Series) -> tuple[pd.Series, list[Problem]]:
    sexes = values.str.casefold().map(SEX_OF).astype(values.dtype)
    bad = values[values.notna() & sexes.isna()]
    wrong = replace(place, message="not a sex", allowed="F, M, O or n/a", code="sex")
    coded = as_numbers(bad).notna()
    fix = "codes are not guessed, studies differ: look it up and write F or M, or give the column another name"
    said = locate(replace(wrong, message="a code, not a sex", fix=fix), bad[coded], ids)
    fix = "write F, M, O or n/a, or give the column another name to keep it as it is"
    return sexes, said + locate(replace(wrong, fix=fix), bad[~coded], ids)


def _check_split(values: pd.Series, place: Problem, ids: pd.Series) -> list[Problem]:
    bad = values[values.notna() & ~values.isin(SPLITS)]
    hints = {did_you_mean(value, SPLITS) for value in bad.unique()[:3]} - {""}
    fix = " ".join(sorted(hints)) or "write one of these, or run `sepclr-med split` to have it done"
    allowed = f"{', '.join(SPLITS)} or n/a"
    return locate(replace(place, message="not a part", allowed=allowed, fix=fix, code="split"), bad, ids)


def _find_codes(values: pd.Series, numbers: pd.Series, place: Problem) -> list[Problem]:
    """Warn of values such as -999 that stand apart from the others of the column."""
    is_code = numbers.isin(MISSING_CODES)
    if not is_code.any():
        return []
    rest = numbers[~is_code]
    apart = is_code & ~numbers.between(rest.min(), rest.max())
    return [
        replace(
            place,
            message=f"{code:g} may mean missing ({len(rows):,} row(s))",
            row=int(rows[0]),
            got=str(values[rows[0]]),
            fix=f"write n/a if it does; split --missing-codes={code:g} writes it for you",
            code="missing_code",
            severity="warning",
        )
        for code, rows in numbers[apart].groupby(numbers[apart]).groups.items()
    ]


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)
