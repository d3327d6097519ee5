"""What the shell offers for an option's value: methods, settings, and columns and diagnoses of the table at hand.

It runs at each press of the tab key, so that a table is read with nothing but the standard library.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

MOST_ROWS = 5000


def complete_methods(incomplete: str) -> list[str]:
    """Offer the names of methods, in a comma-separated list."""
    from sepclr_med.method_settings import METHODS

    return extend_list(incomplete, METHODS)


def complete_settings(incomplete: str) -> list[str]:
    """Offer ``section.key=``; what follows the sign is the user's."""
    from sepclr_med.config import Config

    keys = [
        f"{section}.{key}="
        for section, field in Config.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    ]
    return [key for key in keys if key.startswith(incomplete)]


def complete_images(incomplete: str) -> list[str]:
    """Offer the presets of preprocessing."""
    return [name for name in ("vbm", "t1w") if name.startswith(incomplete)]


def complete_columns(incomplete: str) -> list[str]:
    """Offer the columns of the manifest that the command names, in a comma-separated list."""
    return extend_list(incomplete, next(iter(_read_rows(words_so_far())), {}))


def complete_diagnoses(incomplete: str) -> list[str]:
    """Offer the diagnoses of the manifest that the command names, in a comma-separated list."""
    rows = _read_rows(words_so_far())
    return extend_list(incomplete, dict.fromkeys(row["diagnosis"] for row in rows if row.get("diagnosis")))


def extend_list(incomplete: str, names: Iterable[str]) -> list[str]:
    """Return a comma-separated list with its last part completed in each possible way.

    Examples
    --------
    >>> extend_list("age,s", ["age", "sex", "site", "score"])
    ['age,sex', 'age,site', 'age,score']
    """
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [before + comma + name for name in names if name.startswith(last) and name not in taken]


def words_so_far() -> list[str]:
    """Return what has been typed, as bash (COMP_WORDS) and the other shells hand it over.

    The parsed arguments do not hold it: an option without its value, which is being typed, makes a parser give up.
    """
    text = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    try:
        return text.split("\n") if "\n" in text else shlex.split(text)
    except ValueError:
        return text.split()


def _read_rows(words: list[str]) -> list[dict[str, str]]:
    """Return rows of the first table that the words name: a manifest, or that of a run folder."""
    for word in words:
        try:
            path = Path(word).expanduser()
            path = path / "data" / "manifest.tsv" if path.is_dir() else path
            if path.suffix.lower() not in (".tsv", ".csv"):
                continue
            with open(path, encoding="utf-8-sig", newline="") as stream:
                header = stream.readline()
                separator = max("\t,;", key=header.count)
                stream.seek(0)
                return list(islice(csv.DictReader(stream, delimiter=separator), MOST_ROWS))
        except (OSError, RuntimeError, ValueError, csv.Error):
            # Nothing is offered; the command itself will say what is wrong.
            continue
    return []
