"""The key of a de-identified export: which new id stands for which original one. It stays with the researcher."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from sepclr_med.errors import RunError
from sepclr_med.rundir import read_json, write_json

# Column of ids: what new ones begin with, as in BIDS, and how many characters follow.
KINDS = {"participant_id": ("sub-", 8), "session_id": ("ses-", 4), "run": ("run-", 4), "family_id": ("fam-", 6)}
# BIDS labels are letters and digits; without vowels there are no words, without 0, 1 and l no mistakes.
LETTERS = "bcdfghjkmnpqrstvwxz23456789"
ABOUT = (
    "New ids of a sepclr_med export. Who has this file can name the participants: keep it apart from what is shared."
)

Key = dict[str, dict[str, str]]


def read_key(path: Path) -> Key:
    """Return the new ids of every column; empty ones where there is no such file yet.

    Raises
    ------
    RunError
        When the file is something else.
    """
    if not path.exists():
        return {column: {} for column in KINDS}
    content = read_json(path) if path.is_file() else None
    if not isinstance(content, dict) or content.get("about") != ABOUT or not _is_key(content.get("ids")):
        raise RunError(f"{path}: is there and is no key of an export; it is left alone: give another --key")
    return {column: dict(content["ids"].get(column, {})) for column in KINDS}


def extend_key(key: Mapping[str, Mapping[str, str]], originals: Mapping[str, Iterable[str]]) -> Key:
    """Return the key with a new random id for every original one that it does not know.

    Parameters
    ----------
    key : mapping of str to (mapping of str to str)
        From :func:`read_key`; what it knows stays.
    originals : mapping of str to iterable of str
        Ids by column.

    Examples
    --------
    >>> key = extend_key({}, {"participant_id": ["sub-01", "sub-02"]})
    >>> extend_key(key, {"participant_id": ["sub-01"]}) == key
    True
    """
    whole: Key = {}
    for column, (prefix, n) in KINDS.items():
        known, wanted = dict(key.get(column, {})), set(originals.get(column, ()))
        taken = {*known.values(), *known, *wanted}
        for original in sorted(wanted - set(known)):
            new = _draw(prefix, n)
            while new in taken:
                new = _draw(prefix, n)
            taken.add(new)
            known[original] = new
        whole[column] = known
    return whole


def write_key(path: Path, key: Key) -> Path:
    """Write the key so that nobody but its owner can read it."""
    return write_json(path, {"about": ABOUT, "ids": key}, mode=0o600)


def require_apart(key: Path, *shared: Path) -> None:
    """Refuse a key that would be passed on with what it is the key of.

    Raises
    ------
    RunError
        When it lies in one of the shared folders, or is one.
    """
    for folder in shared:
        if key.resolve().is_relative_to(folder.resolve()):
            raise RunError(
                f"{key}: the key must not lie in {folder}, which is passed on; put it elsewhere (--key FILE)"
            )


def _draw(prefix: str, n: int) -> str:
    return prefix + "".join(secrets.choice(LETTERS) for _ in range(n))


def _is_key(ids: object) -> bool:
    return isinstance(ids, dict) and all(
        isinstance(column, dict) and all(isinstance(new, str) for new in column.values()) for column in ids.values()
    )
