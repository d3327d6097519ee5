"""What of a run's results may be looked at: everything, or, while its test set is sealed, everything else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.cohort.ledger import append_event, hash_hypotheses, read_ledger
from sepclr_med.cohort.splits import without_test
from sepclr_med.errors import RunError, UserError
from sepclr_med.rundir import RunDir, read_json

SEALED = "The test set is sealed and took no part; --open-test REASON opens it, and is written down"


def guard_test(
    tables: Mapping[str, pd.DataFrame],
    manifest: pd.DataFrame,
    run: RunDir,
    verb: str,
    reason: str | None = None,
    hypotheses: Mapping[str, Any] | None = None,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, list[str]]:
    """Return what may be seen of a run: a sealed test set only with a reason, which is written down first.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Embeddings by space.
    manifest : DataFrame
        Of the run.
    run : RunDir
    verb : str
        What is about to be done.
    reason : str or None, default=None
        Why the test set is opened.
    hypotheses : mapping or None, default=None
        What is asked, to be compared with what was frozen.

    Returns
    -------
    dict of str to DataFrame, DataFrame
        Embeddings and manifest, without the rows of a sealed test set unless it is opened.
    list of str
        What must be said of it.

    Raises
    ------
    UserError
        With a reason where nothing is sealed, or an empty one.
    RunError
        When the ledger is gone or was changed, or a table does not say who is in the test set.
    """
    entries = sealed_entries(run)
    if entries is None:
        if reason is not None:
            raise UserError(f"{verb}: --open-test, but no test set is sealed in {run.path} (sepclr-med seal MANIFEST)")
        return dict(tables), manifest, []
    if reason is not None:
        return dict(tables), manifest, [_open(run, verb, reason, hypotheses)]
    if unknown := [space for space, table in tables.items() if "split" not in table]:
        said = "embeddings without a column split do not say whose are sealed; embed again"
        raise RunError(f"{run.path}: {', '.join(unknown)}: {said}")
    return {space: without_test(table) for space, table in tables.items()}, without_test(manifest), [SEALED]


def sealed_entries(run: RunDir) -> list[dict[str, Any]] | None:
    """Return the ledger of a run's sealed test set; None where none is sealed.

    Raises
    ------
    RunError
        When the ledger is gone or was changed.
    """
    # The embeddings of a cross-fit hold nobody of the test set, though all of them are held out.
    if not run.seal.is_file() or run.cross_fit.is_file():
        return None
    ledger, is_sealed = _sealed_by(run)
    return read_ledger(ledger) if is_sealed or os.path.isfile(ledger) else None


def _sealed_by(run: RunDir) -> tuple[Path, bool]:
    """Return the ledger that a run names, and whether it was there when the run was made."""
    seal = read_json(run.seal, {"ledger": str})
    if not seal["ledger"].endswith(".ledger.jsonl"):
        raise RunError(f"{run.seal}: names no ledger ({seal['ledger'][:80]}); mend or delete it")
    return run.path / seal["ledger"], seal.get("test_sha256") is not None


def _open(run: RunDir, verb: str, reason: str, hypotheses: Mapping[str, Any] | None) -> str:
    if not reason.strip():
        raise UserError("--open-test: say why the test set is opened")
    ledger, _ = _sealed_by(run)
    asked = hash_hypotheses(hypotheses) if hypotheses else None
    model = read_embeddings(run.embeddings)["salient"]["model_id"].iloc[0]
    facts = {"verb": verb, "run": run.path.resolve().name, "model_id": model, "reason": reason.strip()}
    append_event(ledger, "opened", {**facts, "hypotheses": asked})
    entries = read_ledger(ledger)
    events = [entry["event"] for entry in entries]
    first, n = events.index("opened"), events.count("opened")
    frozen = [entry.get("at", "") for entry in entries[:first] if entry.get("sha256") == asked and asked]
    times = "for the first time" if n == 1 else f"again, the opening number {n} in its ledger"
    words = f"The sealed test set was opened {times} ({reason.strip()})"
    if verb != "link":
        return words
    return (
        f"{words}; confirmatory: these hypotheses were frozen on {frozen[0][:10]}, before the first opening"
        if frozen
        else f"{words}; exploratory: these hypotheses were not frozen before the first opening"
    )
