"""The ledger: when the test set was sealed, what was frozen, every cross-fit and every opening."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepclr_med.cohort.ledger import HYPOTHESES, before_first, is_sealed
from sepclr_med.opening import UNSEEN
from sepclr_med.report import blocks
from sepclr_med.report.collect import records, texts
from sepclr_med.report.tables import Column, make_table, text_column
from sepclr_med.report.wording import plural

EVENTS = {"sealed": "sealed", "hypotheses": "hypotheses frozen", "cross-fit": "cross-fit begun", "opened": "opened"}
HASHES = ("test_sha256", "rows_sha256", "sha256", "hypotheses")


def describe_ledger(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on the sealed test set and on frozen hypotheses, or None where there is no ledger.

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
    said = say_ledger(entries, data["objects"].get("cross_fit"))
    # What was frozen need not be what was tested last.
    notes = texts(data["objects"].get("link"), "notes")
    said += [blocks.verdict(f"Links in this report: {note}") for note in notes if note.startswith(UNSEEN)]
    columns = [
        Column("when", lambda row: str(row.get("at", ""))[:16].replace("T", " ") + " UTC"),
        Column("what", lambda row: EVENTS.get(str(row.get("event")), str(row.get("event", "")))),
        text_column("by", "verb"),
        text_column("run", "run"),
        text_column("model", "model_id"),
        text_column("reason", "reason"),
        Column("hypotheses", lambda row: say_hypotheses(row.get("hypotheses"))),
        Column("hash", lambda row: next((str(row[name])[:12] for name in HASHES if row.get(name)), "")),
    ]
    caption = "The ledger, oldest first. Hash: of the rows, or of the hypotheses that were frozen or asked."
    parts = [
        blocks.verdicts(said),
        blocks.table(make_table("ledger", caption, columns, entries, "", sortable=False)),
    ]
    return blocks.section("ledger", "Sealed test set" if is_sealed(entries) else "Frozen hypotheses", parts, said)


def say_ledger(entries: list[dict[str, Any]], plan: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """Say how often the test set was opened, and what had been frozen before that and before a cross-fit.

    Parameters
    ----------
    entries : list of dict
        Of the ledger.
    plan : mapping or None, default=None
        Of the cross-fit, where the run is one.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> say_ledger([{"event": "sealed"}, {"event": "opened", "hypotheses": None}])[0]["text"]
    'The test set was sealed and has been opened once; no hypotheses were frozen before.'
    """
    said = [_say_openings(entries)] if is_sealed(entries) else []
    if plan:
        said.append(_say_cross_fit(entries, plan))
    return said or [blocks.verdict("Hypotheses were frozen, and no test set is sealed.")]


def say_hypotheses(asked: Any) -> str:
    """Name what was frozen, of families and batteries their names; "" for what are no hypotheses.

    Examples
    --------
    >>> say_hypotheses({"covariates": ["age", "sex"], "variables": ["MADRS"], "smallest_icc": 0.5})
    'variables: MADRS; covariates: age, sex; smallest_icc: 0.5'
    """
    frozen = {name: asked[name] for name in HYPOTHESES if name in asked} if isinstance(asked, Mapping) else {}
    words = {name: value if isinstance(value, (list, dict)) else [value] for name, value in frozen.items()}
    return "; ".join(f"{name}: {', '.join(map(str, value)) or 'none'}" for name, value in words.items())


def _say_openings(entries: list[dict[str, Any]]) -> dict[str, str]:
    n = sum(entry["event"] == "opened" for entry in entries)
    if not n:
        return blocks.verdict("The test set is sealed and was never opened: no figure here is of it.")
    before = any(entry["event"] == "hypotheses" for entry in before_first(entries, "opened"))
    frozen = "hypotheses were frozen before" if before else "no hypotheses were frozen before"
    times = "once" if n == 1 else plural(n, "time")
    level = "info" if n == 1 else "warning"
    words = f"The test set was sealed and has been opened {times}; {frozen}."
    more = " What was decided after the first opening has seen it." if n > 1 else ""
    return blocks.verdict(words + more, level)


def _say_cross_fit(entries: list[dict[str, Any]], plan: Mapping[str, Any]) -> dict[str, str]:
    """Say which tests were frozen before any cross-fit, and how many of those there were.

    Examples
    --------
    >>> frozen = {"event": "hypotheses", "hypotheses": {"variables": ["MADRS"]}}
    >>> _say_cross_fit([frozen, {"event": "cross-fit", "at": "now"}], {"begun": "now"})["text"].split(". ")[1]
    'Frozen before the first cross-fit, and confirmatory by link --hypotheses: variables: MADRS.'
    """
    begun = [entry.get("at") for entry in entries if entry["event"] == "cross-fit"]
    if plan.get("begun") not in begun:
        return blocks.verdict("The ledger does not have this cross-fit: all its tests are exploratory.", "warning")
    frozen = [
        say_hypotheses(entry.get("hypotheses"))
        for entry in before_first(entries, "cross-fit")
        if entry["event"] == "hypotheses"
    ]
    words = "Nobody of the test part is in this cross-fit, and everyone was embedded by models that never saw them."
    before = "Frozen before the first cross-fit, and confirmatory by link --hypotheses: "
    words += f" {before}{' | '.join(frozen)}." if frozen else " No hypotheses were frozen before the first cross-fit."
    n = len(begun)
    more = f" {n} cross-fits were begun: a paper names all that were looked at." if n > 1 else ""
    return blocks.verdict(words + more)
