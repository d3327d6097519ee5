"""Names with places in them, such as ``IXI{participant_id:3}-{site}-*-T1.nii.gz``: read, filled and rewritten.

``{name}`` stands for letters and digits, ``{name:3}`` for exactly three of them, ``*`` for anything; a place that is
there twice must hold the same. Nothing else has a meaning, so that a pattern is a value, not a program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PLACE = re.compile(r"\{(\w*)(?::(\d+))?\}|(\*)")
LONGEST = 300


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern.

    Raises
    ------
    ValueError
        When a brace is not closed, a place has no name, or the pattern is longer than 300 characters.

    Examples
    --------
    >>> compile_pattern("IXI{participant_id:3}-{site}-*-T1").fullmatch("IXI002-Guys-0828-T1").groupdict()
    {'participant_id': '002', 'site': 'Guys'}
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"a pattern of more than {LONGEST} characters")
    parts: list[str] = []
    seen: set[str] = set()
    end = 0
    for place in PLACE.finditer(pattern):
        parts.append(_literal(pattern[end : place.start()], pattern))
        parts.append("[^/]*" if place[3] else _group(place[1], place[2], seen, pattern))
        end = place.end()
    return re.compile("".join([*parts, _literal(pattern[end:], pattern)]))


def rewrite_name(name: str, patterns: Mapping[str, str]) -> str:
    """Return a name as the first pattern that fits says it is written; unchanged when none fits.

    Examples
    --------
    >>> rewrite_name("002_S_0295", {"{site}_S_{number}": "ADNI{site}S{number}"})
    'ADNI002S0295'
    """
    for old, new in patterns.items():
        found = compile_pattern(old).fullmatch(name)
        if found:
            return fill_pattern(new, found.groupdict())
    return name


def fill_pattern(pattern: str, held: Mapping[str, str]) -> str:
    """Return a pattern with its places filled.

    Examples
    --------
    >>> fill_pattern("IXI{participant_id}", {"participant_id": "002"})
    'IXI002'
    """
    return PLACE.sub(lambda place: held[place[1]], pattern)


def _group(name: str, length: str | None, seen: set[str], pattern: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"a place needs a name, such as {{participant_id}}, in {pattern}")
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>[0-9A-Za-z]{f'{{{length}}}' if length else '+'})"


def _literal(text: str, pattern: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError(f"a brace is not closed, or holds more than a name and a length, in {pattern}")
    return re.escape(text)
