"""The sealed test set: when it was sealed, what was frozen, and every time it was opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepclr_med.report import blocks
from sepclr_med.report.collect import records
from sepclr_med.report.tables import Column, make_table, text_column
from sepclr_med.report.wording import plural

EVENTS = {"sealed": "sealed", "hypotheses": "hypotheses frozen", "opened": "opened"}


def describe_ledger(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on the sealed test set, or None where none is sealed.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    entries = records(data["objects"].get("ledger", {}), "entries")
    if not entries:
        return None
    said = say_ledger(entries)
    columns = [
        Column("when", lambda row: str(row.get("at", ""))[:16].replace("T", " ") + " UTC"),
        Column("what", lambda row: EVENTS.get(str(row.get("event")), str(row.get("event", "")))),
        text_column("by", "verb"),
        text_column("run", "run"),
        text_column("model", "model_id"),
        text_column("reason", "reason"),
        Column(
            "hash", lambda row: str(row.get("test_sha256") or row.get("sha256") or row.get("hypotheses") or "")[:12]
        ),
    ]
    caption = "The ledger, oldest first. Hash: of the sealed rows, or of the hypotheses that were frozen or asked."
    parts = [
        blocks.verdicts(said),
        blocks.table(make_table("ledger", caption, columns, entries, "", sortable=False)),
    ]
    return blocks.section("ledger", "Sealed test set", parts, said)


def say_ledger(entries: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Say how often the test set was opened, and whether what was asked had been frozen.

    Examples
    --------
    >>> say_ledger([{"event": "sealed"}, {"event": "opened", "hypotheses": None}])[0]["text"]
    'The test set was sealed and has been opened once; no hypotheses were frozen before.'
    """
    events = [entry.get("event") for entry in entries]
    n = events.count("opened")
    if not n:
        return [blocks.verdict("The test set is sealed and was never opened: no figure here is of it.")]
    before = events[: events.index("opened")]
    frozen = "hypotheses were frozen before" if "hypotheses" in before else "no hypotheses were frozen before"
    times = "once" if n == 1 else plural(n, "time")
    level = "info" if n == 1 else "warning"
    words = f"The test set was sealed and has been opened {times}; {frozen}."
    more = " What was decided after the first opening has seen it." if n > 1 else ""
    return [blocks.verdict(words + more, level)]
