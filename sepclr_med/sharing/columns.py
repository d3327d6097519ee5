"""Columns of a table of participants that could tell who they are, and ages beyond which few people live.

The identifiers of the HIPAA Privacy Rule's safe harbour, 45 CFR 164.514(b)(2), as far as a column's name or values
show them. Places of acquisition stay: whether a site names a place of residence is for the researcher to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pandas as pd

from sepclr_med.cohort.columns import PATHS, fold_name
from sepclr_med.sharing.words import holds_text

OLDEST_AGE = 89
LONGEST_LIFE = 125
# Ages as one word: dosage, stage and agency are none.
AGE = re.compile(
    r"(?:scan|mri|visit|onset|test|exam|entry|baseline|current|patient|subject|participant)?ages?(?:in)?"
    r"(y|yrs?|years?|mos?|mths?|months?|wks?|weeks?|days?)?(?:at\w*)?\d?"
)
NO_AGE = {"sq", "squared", "square", "gap", "z"}
PER_YEAR = {
    **dict.fromkeys(("month", "months", "mo", "mos", "mth", "mths"), 12.0),
    **dict.fromkeys(("week", "weeks", "wk", "wks"), 52.18),
    **dict.fromkeys(("day", "days"), 365.25),
}
KEPT = ("participant_id", "session_id", "run", "family_id", "split", "fold", "model_id", "diagnosis", "sex", "qc")
PLACES = ("site", "scanner")
# Attributes of DICOM that name a person, a visit or an object of one, PS3.15 annex E.
DICOM = {
    *("patientname", "patientid", "patientbirthdate", "patientbirthtime", "patientaddress", "patientsname"),
    *("otherpatientids", "otherpatientnames", "patienttelephonenumbers", "patientcomments", "patientmothersbirthname"),
    *("accessionnumber", "studyid", "studydate", "studytime", "seriesdate", "seriestime", "acquisitiondate"),
    *("acquisitiontime", "contentdate", "contenttime", "admissionid", "issuerofpatientid", "deviceserialnumber"),
    *("studyinstanceuid", "seriesinstanceuid", "sopinstanceuid", "frameofreferenceuid", "mediastoragesopinstanceuid"),
    *("referringphysicianname", "performingphysicianname", "operatorsname", "institutionname", "institutionaddress"),
    *("stationname", "requestingphysician", "militaryrank", "medicalrecordlocator"),
}
NAMES = {
    "a name": {"name", "names", "surname", "firstname", "lastname", "forename", "initials"},
    "a date": {"date", "dates", "datetime", "timestamp", "birth", "birthday", "birthdate", "dob"},
    "an address": {"address", "street", "city", "town", "county", "zip", "zipcode", "postcode", "postal"},
    "a way to reach someone": {"phone", "telephone", "mobile", "fax", "email", "mail", "url", "ip"},
    "a number of someone": {
        *("id", "ids", "uid", "uuid", "guid", "mrn", "ssn", "nhs", "nin", "insurance", "account", "licence"),
        *("license", "plate", "serial", "accession", "passport"),
    },
    "free text": {"comment", "comments", "remark", "remarks", "note", "notes", "text"},
}
UID = re.compile(r"(?<![\d.])(?=[\d.]{20,}|1\.2\.840\.)[0-2](?:\.(?:0|[1-9]\d*)){4,}(?![\d.]*\d)")
# How months begin in English, German, French, Spanish, Italian and Dutch.
MONTH = (
    r"(?:jan|gen|ene|feb|f[ée]v|m[aä]r|mrt|maa|apr|avr|abr|ma[iyg]|mei|jui?n|giu|juil?|lug|aug|ao[uû]|ago|sep|sett|o[ck]t"
    r"|ott|nov|de[cz]|d[ée]c|dic)"
)
MONTH_WORD, DAY, YEAR, APART = rf"{MONTH}[^\W\d_]*", r"\d{1,2}(?:st|nd|rd|th)?", r"(?:19|20)?\d\d", r"[-/.,\s]*"
WEEKDAY, TIME = r"(?:[^\W\d_]{2,10}[.,]*\s+)?", r"(?:[\s,T].*)?"
VALUES = {
    "dates": re.compile(
        r"(?:19|20)\d\d[-/]\d{1,2}(?:[-/]\d{1,2}.*)?|(?:19|20)\d\d\.\d{1,2}\.\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)?\d\d(?:\s.*)?"
        r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\.0*)?"
        rf"|{WEEKDAY}{DAY}{APART}(?:of\s+)?{MONTH_WORD}{APART}{YEAR}{TIME}"
        rf"|{WEEKDAY}{MONTH_WORD}{APART}{DAY}[-/.,\s]+(?:[\d:]+\s+)?{YEAR}{TIME}"
        rf"|{MONTH_WORD}{APART}(?:19|20)\d\d|{MONTH}[-/.'’\s]+\d\d",
        re.IGNORECASE,
    ),
    "unique identifiers": UID,
    "e-mail addresses": re.compile(r"\S+@\S+\.\w+"),
}
MOST_DISTINCT = 0.5
FEW_ROWS = 8
WORDS_OF_A_TEXT = 3
LONG_NUMBER = re.compile(r"\d{5,}(?:\.0*)?")


def find_dicom(table: pd.DataFrame) -> dict[str, str]:
    """Return columns that hold identifiers of DICOM or files, which never leave, and why.

    Examples
    --------
    >>> find_dicom(pd.DataFrame({"StudyInstanceUID": ["1"], "uid": ["1.2.840.113619.2.55.3"], "age": ["3.5"]}))
    {'StudyInstanceUID': 'an identifier of DICOM', 'uid': 'holds unique identifiers'}
    """
    found = {column: "a path" for column in table.columns if column in PATHS}
    found |= {column: "an identifier of DICOM" for column in table.columns if fold_name(column) in DICOM}
    texts = [column for column in table.columns if holds_text(table[column])]
    uids = {column for column in texts if table[column].dropna().map(lambda cell: bool(UID.search(cell))).any()}
    return found | {column: "holds unique identifiers" for column in table.columns if column in uids - set(found)}


def find_identifying(table: pd.DataFrame) -> dict[str, str]:
    """Return columns of a table of participants that could identify them, and why.

    Parameters
    ----------
    table : DataFrame
        Strings, missing where empty.

    Examples
    --------
    >>> table = pd.DataFrame({"scan": ["2019-03-01"], "initials": ["AB"], "madrs": ["12"]})
    >>> find_identifying(table)
    {'scan': 'holds dates', 'initials': 'a name'}
    """
    people = table.get("participant_id", pd.Series(table.index, table.index))
    reasons = {name: _judge(name, table[name], people) for name in table.columns if name not in KEPT}
    return {name: reason for name, reason in reasons.items() if reason} | find_dicom(table)


def cap_ages(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with every age over 89 years as 90, and the columns concerned.

    Examples
    --------
    >>> capped, columns = cap_ages(pd.DataFrame({"age": ["89.5", "41", None], "age_mo": ["1104", "60", "7"]}))
    >>> capped["age"].tolist()[:2], capped["age_mo"].tolist(), columns
    (['90', '41'], ['1080', '60', '7'], ['age', 'age_mo'])
    """
    capped, changed = table.copy(), []
    for column in table.columns:
        values = pd.to_numeric(table[column], errors="coerce")
        unit = _age_unit(str(column), values)
        if unit is not None and (values > OLDEST_AGE * unit).any():
            capped[column] = table[column].mask(values > OLDEST_AGE * unit, f"{(OLDEST_AGE + 1) * unit:.0f}")
            changed.append(str(column))
    return capped, changed


def split_name(name: str) -> list[str]:
    """Return the words of a column's name.

    Examples
    --------
    >>> split_name("DateOfBirth"), split_name("scan_date2")
    (['date', 'of', 'birth'], ['scan', 'date'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", str(name))]


def _age_unit(name: str, values: pd.Series) -> float | None:
    """Return how many of a column's unit are a year; None for a column that holds no ages."""
    words, spelt = set(split_name(name)), AGE.fullmatch(fold_name(name))
    if not spelt and not words & {"age", "ages"}:
        return None
    unit = max(PER_YEAR.get(word, 1.0) for word in {*words, *(spelt.groups() if spelt else ())})
    # age2 is an age at a second visit, or its square, which nobody reaches.
    squared = name.endswith("2") and values.max() > LONGEST_LIFE * unit
    return None if squared or words & NO_AGE else unit


def _judge(name: str, column: pd.Series, people: pd.Series) -> str:
    cells = column.dropna()
    words = split_name(name)
    # PostCode, first_name: two words that are one elsewhere.
    said = {*words, *map("".join, pairwise(words))}
    reason = next((reason for reason, known in NAMES.items() if known & said), "")
    numbers = pd.to_numeric(cells, errors="coerce")
    # Decimals are measurements.
    if reason or (numbers.notna().all() and (numbers % 1 != 0).any()):
        return reason
    reason = next((f"holds {what}" for what, p in VALUES.items() if cells.map(_whole(p)).any()), "")
    if reason:
        return reason
    # What several participants share is a class.
    long = cells[cells.str.split().str.len() >= WORDS_OF_A_TEXT]
    if name not in PLACES and people[long.index].groupby(long).nunique().eq(1).any():
        return "free text"
    # Rows, not cells: a text of each of six participants identifies them among a hundred.
    if len(column) < FEW_ROWS or cells.empty:
        return ""
    if not numbers.notna().any() and cells.nunique() > MOST_DISTINCT * len(cells):
        return "text that differs between participants"
    if cells.is_unique and cells.map(_whole(LONG_NUMBER)).all():
        return "long numbers, each there once"
    return ""


def _whole(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda cell: pattern.fullmatch(cell) is not None
