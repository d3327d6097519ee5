"""How numbers, intervals, p-values, lists and paths are written on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

MINUS = "\u2212"
MISSING = "n/a"
SMALLEST_P = 0.00005
# A folder's name may hold blanks where a separator follows; none after a file's ending ("m.tsv and/or a/b").
WORD = r"[^\s/\\\"',;:()<>]+"
FOLDER = rf"{WORD}(?:(?<!\.[A-Za-z]{{2}})(?<!\.[A-Za-z]{{3}})(?<!\.[A-Za-z]{{4}}) (?!and/or|n/a){WORD}){{0,3}}"
# Two parts at least where nothing else tells a path, so that "and/or" and a lone "/" stay; not after a letter, a dot or
# "://", but that of a file.
UNIX_PATH = re.compile(
    rf"(?<![\w.:/~])(?:(?:file:/{{2,3}})?[A-Za-z]:|file://[\w.-]*|~(?:[A-Za-z][\w.-]*)?|\.\.|(?=/{WORD}/{WORD}))"
    rf"(?:/{FOLDER}(?=/))*/{WORD}/?"
)
WINDOWS_PATH = re.compile(rf"(?:\b[A-Za-z]:|(?<![\w\\])\\(?=\\))(?:\\{FOLDER}(?=\\))*\\{WORD}\\?")
SEPARATORS = re.compile(r"[/\\]")
# --manifest=, --set=volumes.cache_dir= or, of --set, volumes.cache_dir=
OPTION = re.compile(r"^(?:--set=(?:[a-z_.]+=)?|--?[\w-]+=|[a-z_]+(?:\.[a-z_]+)+=)")
HYPHENS = re.compile(r"(?<![\w.,)\]-])-(?=\d)")
PARTICIPANT = re.compile(r"\bsub-[A-Za-z0-9]+(?:[_/][^\s,;:]*)?")


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing: None, NaN, infinite, or an empty text.

    Examples
    --------
    >>> [is_missing(value) for value in (None, float("nan"), "", 0, "a")]
    [True, True, True, False, False]
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    try:
        return not math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def as_number(value: Any) -> float | None:
    """Return a finite number, or None.

    Examples
    --------
    >>> as_number("0.5"), as_number("a"), as_number(None)
    (0.5, None, None)
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def format_number(value: Any, digits: int = 2) -> str:
    """Write a number with a true minus sign and a fixed number of decimals.

    Examples
    --------
    >>> format_number(-0.314), format_number(-0.001), format_number(None)
    ('−0.31', '0.00', 'n/a')
    """
    number = as_number(value)
    if number is None:
        return MISSING
    text = f"{number:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def format_figure(value: Any) -> str:
    """Write a number of unknown size with three significant digits.

    Examples
    --------
    >>> format_figure(1480.43), format_figure(0.01234), format_figure(12.0)
    ('1,480', '0.0123', '12')
    """
    number = as_number(value)
    if number is None:
        return MISSING
    text = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    return text.replace("-", MINUS)


def format_count(value: Any) -> str:
    """Write a whole number with thousands separated.

    Examples
    --------
    >>> format_count(10000.0)
    '10,000'
    """
    number = as_number(value)
    return MISSING if number is None else f"{round(number):,}".replace("-", MINUS)


def format_p(value: Any) -> str:
    """Write a p-value as journals ask: three decimals, four when small, never zero.

    Examples
    --------
    >>> format_p(0.0414), format_p(0.00012), format_p(0.000001), format_p(1.0)
    ('0.041', '0.0001', '<0.0001', '1.000')
    """
    number = as_number(value)
    if number is None:
        return MISSING
    if number < SMALLEST_P:
        return "<0.0001"
    return f"{number:.3f}" if number >= 0.01 else f"{number:.4f}"


def format_interval(value: Any, low: Any, high: Any, digits: int = 2) -> str:
    """Write an estimate with its 95% interval.

    Examples
    --------
    >>> format_interval(0.42, -0.1, 0.51), format_interval(0.42, None, None)
    ('0.42 [−0.10, 0.51]', '0.42')
    """
    if as_number(low) is None or as_number(high) is None:
        return format_number(value, digits)
    return f"{format_number(value, digits)} [{format_number(low, digits)}, {format_number(high, digits)}]"


def format_seconds(value: Any) -> str:
    """Write a duration.

    Examples
    --------
    >>> format_seconds(5.6), format_seconds(356.4), format_seconds(7300)
    ('5.6 s', '5 min 56 s', '2 h 1 min')
    """
    seconds = as_number(value)
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def say_list(words: Iterable[Any], most: int = 12) -> str:
    """Join words as a sentence does.

    Examples
    --------
    >>> say_list(["age"]), say_list(["age", "sex", "site"]), say_list("abcd", most=2)
    ('age', 'age, sex and site', 'a, b and 2 more')
    """
    names = [str(word) for word in words]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def plural(count: Any, one: str, many: str | None = None) -> str:
    """Write a count with its noun.

    Examples
    --------
    >>> plural(1, "site"), plural(2000, "site")
    ('1 site', '2,000 sites')
    """
    return f"{format_count(count)} {one if count == 1 else many or one + 's'}"


def shorten(text: str, most: int) -> str:
    """Cut a text for a figure.

    Examples
    --------
    >>> shorten("Beck Depression Inventory", 10)
    'Beck Depr…'
    """
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def without_paths(text: Any) -> str:
    """Return a text in which absolute paths of the user's disk, and those that climb, are cut to their last part.

    Examples
    --------
    >>> without_paths("run /home/ann/study/recipe.yaml and/or https://arxiv.org/abs/1")
    'run recipe.yaml and/or https://arxiv.org/abs/1'
    >>> without_paths("/data/Mood Clinic/Ann 2019/m.tsv: read, as file:///home/ann/x/y.nii and ~/my study/a.yaml")
    'm.tsv: read, as y.nii and a.yaml'
    """
    cut = UNIX_PATH.sub(lambda found: found[0].rstrip("/").rsplit("/", 1)[-1], str(text))
    return WINDOWS_PATH.sub(lambda found: found[0].rstrip("\\").rsplit("\\", 1)[-1], cut)


def without_folders(argument: str) -> str:
    """Return a word of a command, of a path in it the last part only: where it is one whole, nothing is guessed.

    Examples
    --------
    >>> [without_folders(word) for word in ("fit", "Mood Clinic/m.tsv", "--manifest=../Ann Huber/m.tsv", "age,sex")]
    ['fit', 'm.tsv', '--manifest=m.tsv', 'age,sex']
    """
    value = OPTION.sub("", argument)
    return argument.removesuffix(value) + SEPARATORS.split(value.rstrip("/\\"))[-1]


def set_signs(text: str) -> str:
    """Write minus signs and inequalities as type does.

    Examples
    --------
    >>> set_signs("t -14.1 at (33, -2, -10), p <= 0.05, ds-01, --covariates")
    't −14.1 at (33, −2, −10), p ≤ 0.05, ds-01, --covariates'
    """
    return HYPHENS.sub(MINUS, text).replace("<=", "≤").replace(">=", "≥")


def without_participants(text: Any) -> str:
    """Return a text without paths and without BIDS participant labels: the page is passed on, the tables are not.

    Examples
    --------
    >>> without_participants("sub-0412 has two sites")
    'a participant has two sites'
    """
    return PARTICIPANT.sub("a participant", without_paths(text))
