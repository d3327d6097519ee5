"""What of a run's results may be looked at: everything, or, while its test set is sealed, everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.cohort.ledger import append_event, hash_hypotheses, read_ledger
from sepclr_med.errors import UserError
from sepclr_med.rundir import RunDir, read_json, write_json

SEALED = "The test set is sealed and took no part; --open-test REASON opens it, and is written down"


def guard_test(
    tables: Mapping[str, pd.DataFrame],
    run: RunDir,
    verb: str,
    reason: str | None = None,
    hypotheses: Mapping[str, Any] | None = None,
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return what may be seen of a run's embeddings: a sealed test set only with a reason, written down first.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Embeddings by space.
    run : RunDir
    verb : str
        What is about to be done.
    reason : str or None, default=None
        Why the test set is opened.
    hypotheses : mapping or None, default=None
        What is asked, to be compared with what was frozen.

    Returns
    -------
    dict of str to DataFrame
        Without the rows of a sealed test set, unless it is opened.
    list of str
        What must be said of it.

    Raises
    ------
    UserError
        With a reason where nothing is sealed, or an empty one.
    RunError
        When the ledger is gone or was changed.
    """
    # The embeddings of a cross-fit hold nobody of the test set, though all of them are held out.
    if not run.seal.is_file() or run.cross_fit.is_file():
        if reason is not None:
            raise UserError(f"{verb}: --open-test, but no test set is sealed in {run.path} (sepclr-med seal MANIFEST)")
        return dict(tables), []
    ledger = run.path / read_json(run.seal)["ledger"]
    if reason is not None:
        return dict(tables), [_open(run, ledger, verb, reason, hypotheses)]
    write_json(run.analysis("ledger.json"), {"entries": read_ledger(ledger)})
    return {space: table[table["split"].ne("test")].reset_index(drop=True) for space, table in tables.items()}, [SEALED]


def _open(run: RunDir, ledger: Path, verb: str, reason: str, hypotheses: Mapping[str, Any] | None) -> str:
    if not reason.strip():
        raise UserError("--open-test: say why the test set is opened")
    asked = hash_hypotheses(hypotheses) if hypotheses else None
    model = read_embeddings(run.embeddings)["salient"]["model_id"].iloc[0]
    facts = {"verb": verb, "run": run.path.resolve().name, "model_id": model, "reason": reason.strip()}
    append_event(ledger, "opened", {**facts, "hypotheses": asked})
    entries = read_ledger(ledger)
    write_json(run.analysis("ledger.json"), {"entries": entries})
    events = [entry["event"] for entry in entries]
    first, n = events.index("opened"), events.count("opened")
    frozen = [entry["at"] for entry in entries[:first] if entry.get("sha256") == asked and asked]
    times = "for the first time" if n == 1 else f"for the {n}. time, as the ledger shows"
    words = f"The sealed test set was opened {times} ({reason.strip()})"
    if verb != "link":
        return words
    return (
        f"{words}; confirmatory: these hypotheses were frozen on {frozen[0][:10]}, before the first opening"
        if frozen
        else f"{words}; exploratory: these hypotheses were not frozen before the first opening"
    )
