"""Controls of the method: what must show nothing, and from which strength on planted atrophy is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepclr_med.report import blocks
from sepclr_med.report.collect import records
from sepclr_med.report.figures import Mark, Row, draw_intervals
from sepclr_med.report.sections.card import interval_column
from sepclr_med.report.tables import count_column, make_table, number_column, text_column
from sepclr_med.report.wording import as_number, format_number

KINDS = {"permuted": "labels exchanged within site", "pseudo": "pseudo-patients", "planted": "planted atrophy"}
CHANCE, POWER = 0.05, 0.8


def describe_controls(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on controls, or None when none was run.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    rows = [
        row | {"name": name_control(row), "share": as_number(row.get("n_found", 0)) / row["n_runs"]}
        for row in records(data["objects"].get("controls", {}), "summary")
        if as_number(row.get("n_runs"))
    ]
    if not rows:
        return None
    said = say_controls(rows)
    lines = [
        Row(row["name"], (Mark(row["share"], as_number(row.get("found_low")), as_number(row.get("found_high"))),),
            f"{row['n_found']} of {row['n_runs']}", CHANCE)
        for row in rows
    ]  # fmt: skip
    drawn = draw_intervals(
        lines, "Controls", "Share of runs, by control.", "share of runs in which it is found", (0, 1)
    )
    columns = [
        text_column("control", "name"),
        count_column("runs", "n_runs"),
        number_column("accuracy", "accuracy", 2, "balanced, of the made-up diagnosis in held-out people; chance 0.50"),
        number_column("SD", "accuracy_sd", 2, "over runs"),
        number_column("AUC of length", "norm_auc", 2, "from the mean of training controls; chance 0.50"),
        number_column("severity R\u00b2", "severity_r2"),
        interval_column("found [95% CI]", "share", "share of runs with p of 0.05 or less", ("found_low", "found_high")),
    ]
    parts = [
        blocks.paragraph(
            "The same method and settings, trained on this cohort's images where the answer is known. Diagnoses that "
            "were exchanged within site, and healthy people half of whom were called patients, should be found in one "
            "run of twenty, which is chance. Test participants took no part."
        ),
        blocks.verdicts(said),
        blocks.figure([drawn], "Share of runs with 95% intervals; the vertical tick is chance.", layout="forests"),
        blocks.table(
            make_table("controls-table", "Means over runs.", columns, rows, "controls/controls.tsv", sortable=False)
        ),
    ]
    return blocks.section("controls", "Controls of the method", parts, said)


def name_control(row: Mapping[str, Any]) -> str:
    """Return what a control is called.

    Examples
    --------
    >>> name_control({"kind": "planted", "strength": 0.2})
    'planted atrophy 0.2'
    """
    name = KINDS.get(str(row.get("kind")), str(row.get("kind", "")))
    strength = as_number(row.get("strength"))
    return f"{name} {strength:g}" if strength else name


def say_controls(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Say whether nothing was found where nothing is, and what could have been found.

    Examples
    --------
    >>> rows = [{"kind": "pseudo", "name": "pseudo-patients", "share": 0.05, "n_found": 1, "n_runs": 20,
    ...          "found_low": 0.001, "found_high": 0.25}]
    >>> say_controls(rows)[0]["text"]
    'Pseudo-patients: found in 1 of 20 runs, no more than chance.'
    """
    said = []
    for row in (row for row in rows if row["kind"] != "planted"):
        fine = (as_number(row.get("found_low")) or 0) <= CHANCE
        words = "no more than chance" if fine else "more than chance: this method finds what is not there"
        name = f"{row['name'][:1].upper()}{row['name'][1:]}"
        text = f"{name}: found in {row['n_found']} of {row['n_runs']} runs, {words}."
        said.append(blocks.verdict(text, "info" if fine else "error"))
    planted = [row for row in rows if row["kind"] == "planted"]
    enough = [row["strength"] for row in planted if row["share"] >= POWER]
    if enough:
        words = f"Planted atrophy of {format_number(min(enough))} or more in the core of a region is found four times"
        said.append(blocks.verdict(f"{words} in five: a weaker disease could have been missed."))
    elif planted:
        strongest = format_number(max(row["strength"] for row in planted))
        words = f"Even the strongest planted atrophy ({strongest}) was found in fewer than four runs of five"
        said.append(blocks.verdict(f"{words}: finding nothing in this cohort says little.", "warning"))
    return said
