"""A sealed test set: what was sealed, what was asked of it beforehand, and every time it was opened.

A cohort without a test part, for a cross-fit, has the hypotheses alone, and a line for every cross-fit that was begun.

The ledger lies beside the manifest, ``STEM.ledger.jsonl``, one event a line. Every line holds the SHA-256 of the line
before it, so that none can be changed or taken out without the next one saying so. It keeps honest people honest; who
deletes the whole file leaves no trace.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from sepclr_med.atomic import describe_refusal
from sepclr_med.cohort.manifest import ledger_path, manifest_hash
from sepclr_med.config import parse_config, read_yaml
from sepclr_med.errors import ConfigError, ManifestError, Problem, RunError, did_you_mean
from sepclr_med.rundir import write_text

# What decides, beside the variables, which tests there are and how each is made: a key and the section of settings that
# it is of. The number of permutations and their seed move a p-value only within its own error.
HYPOTHESES = {
    **dict.fromkeys(
        ("variables", "covariates", "blocks", "families", "batteries", "factors", "measures"), "evaluation"
    ),
    **dict.fromkeys(("canonical", "smallest_icc"), "evaluation"),
    "target": "cohort",
}
LIST = (list, "a list, such as [MADRS, BDI]")
KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("families", "batteries", "measures"), (dict, "a mapping")),
    "canonical": (str, "pca or varimax"),
    "smallest_icc": ((int, float), "a number from 0 to 1"),
}
# What a ledger may begin with, and the hash that says of what.
BEGINNINGS = {"sealed": "test_sha256", "hypotheses": "sha256"}


def seal(manifest: pd.DataFrame, path: str | Path, hypotheses: str | Path | None = None) -> Path:
    """Write down what the test part of a manifest is, and what will be asked of it.

    Parameters
    ----------
    manifest : DataFrame
        With its ``split`` column.
    path : path
        Where it is written; the ledger lies beside it.
    hypotheses : path or None, default=None
        YAML file for ``link``, whose content is written down before anything is opened. It can also be added later.
        Of a manifest without a test part it is all that is written down.

    Returns
    -------
    Path
        The ledger.

    Raises
    ------
    ManifestError
        Without a test part and hypotheses, or when the test part sealed before is another.
    RunError
        When it is sealed already and nothing is added; when hypotheses were frozen before there was a test part.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> rows = pd.DataFrame({"participant_id": ["01", "02"], "split": ["train", "test"]})
    >>> with TemporaryDirectory() as folder:
    ...     ledger = seal(rows, Path(folder) / "study.tsv")
    ...     ledger.name, [entry["event"] for entry in read_ledger(ledger)]
    ('study.ledger.jsonl', ['sealed'])
    """
    asked = read_hypotheses(hypotheses) if hypotheses is not None else None
    ledger = ledger_path(path)
    n = int((_split(manifest) == "test").sum())
    if ledger.is_file():
        sealed = require_sealed_rows(ledger, manifest) is not None
        if n and not sealed:
            raise RunError(f"{ledger}: was begun before there was a test part; seal that under another name")
        if asked is None:
            raise RunError(f"{ledger}: {'sealed' if sealed else 'hypotheses are frozen'} already; nothing to do")
    elif n:
        append_event(ledger, "sealed", {"test_sha256": _test_hash(manifest), "n_images": n})
    elif asked is None:
        fix = "divide it first: sepclr-med split MANIFEST --seal; or, for a cross-fit, freeze --hypotheses FILE alone"
        nothing = Problem("no row is test", column="split", fix=fix)
        raise ManifestError(f"{path}: nothing to seal", [nothing])
    if asked is not None:
        append_event(ledger, "hypotheses", {"sha256": hash_hypotheses(asked), "hypotheses": asked})
    return ledger


def require_unsealed(path: str | Path) -> None:
    """Refuse to divide anew, or to replace, what is sealed.

    Raises
    ------
    RunError
        When a ledger lies beside the manifest.
    """
    if (ledger := ledger_path(path)).is_file():
        what = "its test part is sealed" if is_sealed(read_ledger(ledger)) else "hypotheses were frozen for it"
        raise RunError(f"{path}: {what} ({ledger.name}); other rows or a new division need another name (-o)")


def is_sealed(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a ledger is of a sealed test part, and not of hypotheses alone."""
    return bool(entries) and entries[0]["event"] == "sealed"


def before_first(entries: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    """Return what a ledger says before something happened for the first time: all of it, if it never did.

    Examples
    --------
    >>> [entry["event"] for entry in before_first([{"event": "sealed"}, {"event": "opened"}], "opened")]
    ['sealed']
    """
    return list(takewhile(lambda entry: entry.get("event") != event, entries))


def require_sealed_rows(ledger: str | Path, manifest: pd.DataFrame) -> str | None:
    """Return the hash of the test part, when it is the one that was sealed; None where hypotheses alone were frozen.

    Raises
    ------
    ManifestError
        When it is another.
    """
    entries, found = read_ledger(ledger), _test_hash(manifest)
    if not is_sealed(entries):
        return None
    sealed: str = entries[0]["test_sha256"]
    if sealed != found:
        fix = "restore the rows and columns that were sealed; a new study needs a manifest of another name"
        other = Problem("the test part is not the one that was sealed", file=str(ledger), got=found[:12],
                        allowed=sealed[:12], fix=fix)  # fmt: skip
        raise ManifestError("the test part was changed after it was sealed", [other])
    return sealed


def append_event(ledger: str | Path, event: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add a line, and return it.

    Raises
    ------
    RunError
        When the ledger cannot be written, or has been tampered with.
    """
    ledger = Path(ledger)
    try:
        with FileLock(ledger.with_name(f".{ledger.name}.lock")):
            if ledger.is_file():
                read_ledger(ledger)
            lines = _read_lines(ledger) if ledger.is_file() else []
            entry = {"event": event, "at": datetime.now(timezone.utc).isoformat(timespec="seconds"), **facts}
            entry |= {"previous": _hash(lines[-1]) if lines else ""}
            write_text(ledger, "".join(f"{line}\n" for line in [*lines, json.dumps(entry)]))
    except OSError as error:
        raise RunError(f"{ledger}: cannot be written: {describe_refusal(ledger, error)}") from error
    return entry


def read_ledger(path: str | Path) -> list[dict[str, Any]]:
    """Return every event, oldest first.

    Raises
    ------
    RunError
        When the file is absent, cannot be read, or a line does not follow from the one before it.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise RunError(f"{path}: the ledger of the sealed test set is gone; put it back where it was")
    previous, entries = "", []
    for number, line in enumerate(_read_lines(path), 1):
        try:
            entry = json.loads(line)
            chained = entry["previous"] == previous and isinstance(entry["event"], str)
        except (ValueError, KeyError, TypeError, RecursionError):
            chained = False
        if not chained:
            raise RunError(f"{path}, line {number}: was changed, or a line before it; restore the ledger from a copy")
        previous = _hash(line)
        entries.append(entry)
    if not entries or not isinstance(entries[0].get(BEGINNINGS.get(entries[0]["event"], "")), str):
        raise RunError(f"{path}: does not begin with a seal or with hypotheses; restore the ledger from a copy")
    return entries


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError:
        raise RunError(f"{path}: is not UTF-8 text; restore the ledger from a copy") from None
    # Not splitlines, to which some characters within a JSON text are ends of lines.
    return text.split("\n") if text else []


def read_hypotheses(path: str | Path) -> dict[str, Any]:
    """Read what ``link`` is to ask: names of its options, and their values.

    Raises
    ------
    ConfigError
        For anything but a mapping with these keys.
    """
    asked = read_yaml(path)
    wrong = [
        Problem("not an option of link that can be frozen", file=str(path), got=str(name),
                allowed=", ".join(HYPOTHESES), fix=did_you_mean(str(name), list(HYPOTHESES)))
        for name in asked
        if name not in HYPOTHESES
    ]  # fmt: skip
    for name, value in asked.items():
        kind, allowed = KINDS.get(name, LIST)
        if name in HYPOTHESES and (not isinstance(value, kind) or isinstance(value, bool)):
            wrong.append(Problem("of another kind", file=str(path), column=name, got=str(value), allowed=allowed))
    if not asked.get("variables"):
        wrong.append(Problem("no variables", file=str(path), fix="name what is to be tested: `variables: [MADRS]`"))
    if wrong:
        raise ConfigError(f"{path}: no hypotheses", wrong)
    # What a recipe would not take is no hypothesis either; of controls something may be asked as well.
    settings: dict[str, dict[str, Any]] = {"evaluation": {}, "cohort": {"background": []}}
    for name, value in asked.items():
        settings[HYPOTHESES[name]][name] = value
    parse_config(settings, str(path))
    return asked


def hash_hypotheses(asked: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what is asked, whatever the order of the keys."""
    return _hash(json.dumps(asked, sort_keys=True, ensure_ascii=False))


def _test_hash(manifest: pd.DataFrame) -> str:
    return manifest_hash(manifest[_split(manifest) == "test"])


def _split(manifest: pd.DataFrame) -> pd.Series:
    return manifest["split"] if "split" in manifest else pd.Series(None, index=manifest.index, dtype=object)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
