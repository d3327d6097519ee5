"""The separation card: what can be read from each space, and how far apart the spaces are."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import pandas as pd
from markupsafe import Markup

from sepclr_med.report import blocks
from sepclr_med.report.brief import without_nulls
from sepclr_med.report.collect import dig, records, texts
from sepclr_med.report.figures import SPACE_STYLES, Mark, Row, draw_intervals
from sepclr_med.report.svg import Canvas
from sepclr_med.report.tables import (
    Column,
    count_column,
    has_values,
    make_table,
    number_column,
    p_column,
    text_column,
)
from sepclr_med.report.wording import as_number, format_interval, format_number, plural, say_list

# Main metrics, one of which each variable has; the others are said beside them.
MAIN = {"balanced_accuracy": ("balanced accuracy", (0.0, 1.0)), "r2": ("R²", (-0.5, 1.0))}
METRICS = {"auc": "AUC", "mae": "MAE", "spearman": "Spearman", "r2": "R²", "balanced_accuracy": "balanced accuracy"}
SCHEMES = ("held-out", "cross-validated", "")
LEAVE_SITE_OUT = "leave-site-out"
CHANCE_OF_R2 = (
    "Chance of an R² is that of guessing the training participants' mean: below zero where the mean of those scored is "
    "another, far below where they are few and alike."
)
# More rows than this stand in several drawings, so that the columns of the page can be balanced.
MOST_ROWS = 6
ORDER = {"warning": 0, "error": 0, "info": 1, "good": 2}
MEASURES = {
    "distance_correlation": "distance correlation",
    "hsic": "HSIC",
    "salient_from_common": "R² of salient, predicted from common",
    "common_from_salient": "R² of common, predicted from salient",
}
GROUPS = {"target": "target participants", "background": "background participants", "everyone": "everyone"}


def describe_card(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the separation card, or None when ``evaluate`` was not run.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    table, card = data["tables"].get("separation"), data["objects"].get("card", {})
    if table is None and not card:
        return None
    said = [blocks.verdict(entry.get("text", ""), entry.get("level")) for entry in records(card, "verdicts")]
    said.sort(key=lambda entry: ORDER[entry["level"]])
    parts = [
        blocks.paragraph(
            "How much of each variable a linear probe reads from each space, in participants it was not fitted on. "
            "The salient space should carry what varies among patients only; age, sex, site and head size read from "
            "it are leaks that later associations must be adjusted for. A high figure for the diagnosis is no "
            "finding: training used it."
        ),
        blocks.verdicts(said),
    ]
    if table is not None and len(table):
        main = main_scheme(table)
        drawings = draw_separation(main)
        legend = space_legend(list(dict.fromkeys(main["space"])))
        caption = f"{scheme_words(main)} Points with 95% intervals; the vertical tick is chance.{_say_cut(main)}"
        parts += [
            blocks.figure(drawings, caption, legend, "forests"),
            blocks.table(separation_table(table)),
        ]
    parts += [
        blocks.table(_dependence_table(records(card, "dependence"))),
        blocks.table(_norm_table(dig(card, "salient_norm"))),
        blocks.notes(texts(card, "notes") or _step_notes(data)),
    ]
    brief = sorted(without_nulls(records(card, "verdicts")), key=lambda entry: ORDER[entry["level"]])
    return blocks.section("card", "Separation card", parts, brief)


def _say_cut(rows: pd.DataFrame) -> str:
    """Say what an R2 below zero is, and how many are cut off."""
    values = rows.loc[rows["metric"] == "r2", "value"].dropna()
    lowest = MAIN["r2"][1][0]
    if not len(values):
        return ""
    cut = int((values < lowest).sum())
    shown = f" {plural(cut, 'estimate')} below {format_number(lowest, 1)} stand as arrows at the edge." if cut else ""
    return f" {CHANCE_OF_R2} An R² below zero is worse than the mean of those scored; how far below says little.{shown}"


def main_scheme(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the scheme that is shown: held out, else cross-validated.

    Examples
    --------
    >>> main_scheme(pd.DataFrame({"scheme": ["leave-site-out", "held-out"], "value": [1, 2]}))["value"].tolist()
    [2]
    """
    for scheme in SCHEMES:
        if (table["scheme"] == scheme).any():
            return table[table["scheme"] == scheme]
    return table


def scheme_words(rows: pd.DataFrame) -> str:
    """Say who was scored."""
    scheme = rows["scheme"].iloc[0] if len(rows) else ""
    return {
        "held-out": "Scored on held-out participants.",
        "cross-validated": "Cross-validated over participants: there was no held-out part.",
        LEAVE_SITE_OUT: "Each site scored by probes fitted on the others.",
    }.get(scheme, "Linear probes.")


def draw_separation(rows: pd.DataFrame) -> list[Markup]:
    """Return drawings for each main metric: every variable, every space."""
    drawings = []
    for metric, (name, limits) in MAIN.items():
        mine = rows[(rows["metric"] == metric) & rows["value"].notna()]
        if not len(mine):
            continue
        lines, said = [], []
        for variable, group in mine.groupby("variable", sort=False):
            marks = [
                Mark(r["value"], as_number(r["ci_low"]), as_number(r["ci_high"]), r["space"])
                for r in group.drop_duplicates("space").to_dict("records")
            ]
            lines.append(Row(str(variable), tuple(marks), chance=as_number(group["chance"].iloc[0])))
            best = as_number(group.loc[group["space"] == "salient", "value"].max())
            said.append(f"{variable} {format_number(best)}")
        cut = f" (cut at {format_number(limits[0], 1)})" if (mine["value"] < limits[0]).any() else ""
        # As even as they come: no drawing of a single line beside full ones.
        size = ceil(len(lines) / ceil(len(lines) / MOST_ROWS))
        for start in range(0, len(lines), size):
            part = lines[start : start + size]
            values = say_list(said[start : start + size])
            description = f"{plural(len(part), 'variable')}. From the salient space: {values}."
            drawings.append(draw_intervals(part, name, description, name + cut, limits))
    return drawings


def space_legend(spaces: list[str]) -> list[dict[str, Any]]:
    """Return the marks of spaces with their names."""
    entries = []
    for space in spaces:
        colour, shape = SPACE_STYLES.get(space, ("c0", "diamond"))
        canvas = Canvas(12, 12)
        canvas.marks([(6, 6)], shape, 3.8, colour)
        mark = Markup('<svg viewBox="0 0 12 12" aria-hidden="true">{}</svg>').format(Markup("").join(canvas.parts))
        entries.append({"before": "", "mark": mark, "words": space.replace("_", " ")})
    return entries


def separation_table(table: pd.DataFrame) -> blocks.Block:
    """Return one row for each variable and space: the main metric, the others beside it, leave-site-out."""
    rows = []
    main = main_scheme(table)
    elsewhere = (
        table[table["scheme"] == LEAVE_SITE_OUT] if len(main) and main["scheme"].iloc[0] != LEAVE_SITE_OUT else None
    )
    for (variable, space), group in main.groupby(["variable", "space"], sort=False):
        chosen = next((m for m in MAIN if (group["metric"] == m).any()), group["metric"].iloc[0])
        row = group[group["metric"] == chosen].iloc[0].to_dict()
        others = group[(group["metric"] != chosen) & group["value"].notna()]
        row["also"] = ", ".join(
            f"{METRICS.get(m, m)} {format_number(v)}" for m, v in zip(others["metric"], others["value"], strict=True)
        )
        if elsewhere is not None:
            same = elsewhere[
                (elsewhere["variable"] == variable) & (elsewhere["space"] == space) & (elsewhere["metric"] == chosen)
            ]
            row["elsewhere"] = as_number(same["value"].iloc[0]) if len(same) else None
        rows.append(row)
    columns = [
        text_column("variable", "variable"),
        Column("space", lambda r: r["space"].replace("_", " ")),
        Column("metric", lambda r: METRICS.get(r["metric"], r["metric"])),
        interval_column("value [95% CI]", "value"),
        number_column("chance", "chance", 2, f"what ignoring the image scores. {CHANCE_OF_R2.rstrip('.')}"),
        number_column(
            "other sites", "elsewhere", 2, "leave-site-out: each site predicted by probes fitted on the other sites"
        ),
        text_column("further metrics", "also"),
        count_column("n", "n", "participants scored"),
    ]
    if has_values(table, "p_value"):
        columns.insert(5, p_column("p", "p_value", "permutation of the scored participants' truth, uncorrected"))
    if not any(row.get("elsewhere") is not None for row in rows):
        columns = [column for column in columns if column.heading != "other sites"]
    caption = f"What each space carries. {scheme_words(main)}"
    return make_table("separation", caption, columns, rows, "analysis/separation.tsv")


def interval_column(
    heading: str, value: str, meaning: str = "", ends: tuple[str, str] = ("ci_low", "ci_high"), digits: int = 2
) -> Column:
    """Return a column of estimates with intervals, sorted by the estimate."""
    return Column(
        heading,
        lambda row: format_interval(row.get(value), row.get(ends[0]), row.get(ends[1]), digits),
        lambda row: as_number(row.get(value)),
        meaning,
    )


def _dependence_table(rows: list[dict[str, Any]]) -> blocks.Block | None:
    columns = [
        Column("measure", lambda r: MEASURES.get(str(r.get("measure")), str(r.get("measure", "")).replace("_", " "))),
        Column("among", lambda r: GROUPS.get(str(r.get("group")), str(r.get("group", "")).replace("_", " "))),
        number_column("value", "value", 3),
        number_column("chance", "chance", 3, "mean over permutations of one space against the other"),
        p_column("p", "p_value"),
        count_column("n", "n"),
    ]
    caption = "Dependence between the common and the salient space. Zero or chance is what separation aims at."
    return make_table("dependence", caption, columns, rows, "analysis/card.json") if rows else None


def _norm_table(norm: Any) -> blocks.Block | None:
    if as_number(dig(norm, "auc")) is None:
        return None
    rows = [{"about": "the null vector", **norm}]
    centred = dig(norm, "from_background_mean")
    rows += [{"about": "the mean of fitted background", **centred}] if isinstance(centred, Mapping) else []
    columns = [
        text_column("measured from", "about"),
        number_column("median background", "median_background"),
        number_column("median target", "median_target"),
        interval_column("AUC [95% CI]", "auc", "of telling target from background by the length alone"),
        p_column("p", "p_value"),
        count_column("n background", "n_background"),
        count_column("n target", "n_target"),
    ]
    caption = "Length of the salient embedding; training drew the background to the null vector."
    return make_table("norm", caption, columns, rows, "analysis/card.json", sortable=False)


def _step_notes(data: Mapping[str, Any]) -> list[str]:
    steps = [step for step in data["steps"] if step.get("step") == "evaluate"]
    return texts(steps[-1], "notes") if steps else []
