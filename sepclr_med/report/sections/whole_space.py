"""Whole spaces against variables: prediction out of sample, and similarity of patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from sepclr_med.report import blocks
from sepclr_med.report.figures import SPACE_STYLES, Mark, Row, draw_intervals
from sepclr_med.report.sections.card import MAIN, METRICS, interval_column, space_legend
from sepclr_med.report.tables import Column, count_column, has_values, make_table, number_column, p_column, text_column
from sepclr_med.report.wording import as_number, format_number, say_list

SCHEMES = {
    "cross-validated": "Cross-validated over participants.",
    "leave-site-out": "Each site predicted from the others.",
}
CONTRAST = "contrast"


def describe_whole_space(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on tests of a whole space, or None when none was run.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    prediction, similarity = data["tables"].get("prediction"), data["tables"].get("similarity")
    parts: list[blocks.Block | None] = []
    if prediction is not None and len(prediction):
        parts += [
            blocks.heading("Prediction"),
            blocks.paragraph(
                "How well a variable is predicted in participants left out of the fit, from covariates alone, from "
                "the space, and from both. What the space adds is the difference to the covariates alone."
            ),
            *[_prediction_figure(prediction, scheme) for scheme in SCHEMES],
            blocks.table(_prediction_table(prediction)),
        ]
    if similarity is not None and len(similarity):
        parts += [
            blocks.heading("Similarity"),
            blocks.paragraph(
                "Whether participants who are alike in a variable lie close together in a space: rank correlation of "
                "the two sets of pairwise dissimilarities, tested by permuting participants. The "
                "size of such a correlation does not compare with that of a single factor."
            ),
            *_similarity_figures(similarity),
            blocks.table(_similarity_table(similarity)),
        ]
    return blocks.section("whole-space", "Whole spaces", parts) if parts else None


def _style(predictors: str) -> str:
    """Return the space whose style a set of predictors gets."""
    if predictors in SPACE_STYLES:
        return predictors
    return "both" if "+" in predictors else "salient"


def _prediction_figure(table: pd.DataFrame, scheme: str) -> blocks.Block | None:
    rows = table[(table["scheme"] == scheme) & table["value"].notna()]
    drawings: list[Markup] = []
    shown: dict[str, str] = {}
    for metric, (name, limits) in MAIN.items():
        mine = rows[rows["metric"] == metric]
        if not len(mine):
            continue
        lines, said = [], []
        for variable, group in mine.groupby("variable", sort=False):
            group = group.drop_duplicates("predictors")
            shown |= {p: _style(p) for p in group["predictors"]}
            marks = [
                Mark(r["value"], as_number(r["ci_low"]), as_number(r["ci_high"]), _style(r["predictors"]))
                for r in group.to_dict("records")
            ]
            lines.append(Row(str(variable), tuple(marks), chance=as_number(group["chance"].iloc[0])))
            pairs = zip(group["predictors"], group["value"], strict=True)
            said.append(f"{variable} {', '.join(f'{format_number(v)} from {p}' for p, v in pairs)}")
        drawings.append(draw_intervals(lines, f"{name}, {scheme}", say_list(said, 40), name, limits))
    if not drawings:
        return None
    marks_of = {entry["words"]: entry["mark"] for entry in space_legend(list(dict.fromkeys(shown.values())))}
    legend = [
        {"before": "", "mark": marks_of[style.replace("_", " ")], "words": p.replace("_", " ")}
        for p, style in shown.items()
    ]
    return blocks.figure(
        drawings, f"{SCHEMES[scheme]} Points with 95% intervals; the vertical tick is chance.", legend, "forests"
    )


def _prediction_table(table: pd.DataFrame) -> blocks.Block:
    columns = [
        text_column("variable", "variable"),
        text_column("scheme", "scheme"),
        Column("predictors", lambda row: row["predictors"].replace("_", " ")),
        Column("metric", lambda row: METRICS.get(row["metric"], row["metric"])),
        interval_column("value [95% CI]", "value"),
        number_column("chance", "chance"),
        p_column("p", "p_value", "permutations within blocks, where there are any"),
        p_column("p free", "p_free", "the same with free permutations: a warning, not a result"),
        count_column("n", "n"),
    ]
    kept = [
        c
        for c in columns
        if c.heading not in ("p", "p free") or has_values(table, {"p": "p_value"}.get(c.heading, "p_free"))
    ]
    return make_table("prediction", "Prediction out of sample.", kept, table, "analysis/prediction.tsv")


def _similarity_figures(table: pd.DataFrame) -> list[blocks.Block | None]:
    rows = table[table["estimate"].notna()]
    drawings = []
    keys = ["dissimilarity", "method"]
    for (dissimilarity, method), group in rows.groupby(keys, sort=False):
        spaces = group[~group["space"].str.contains(CONTRAST) & group["space"].isin(SPACE_STYLES)]
        if not len(spaces):
            continue
        lines = [
            Row(
                str(variable),
                tuple(
                    Mark(r["estimate"], as_number(r["ci_low"]), as_number(r["ci_high"]), r["space"])
                    for r in mine.drop_duplicates("space").to_dict("records")
                ),
            )
            for variable, mine in spaces.groupby("variable", sort=False)
        ]
        axis = f"{method} ({dissimilarity})"
        said = [f"{r['variable']} in {r['space']} {format_number(r['estimate'])}" for r in spaces.to_dict("records")]
        drawings.append(draw_intervals(lines, axis, say_list(said, 40), axis, zero=0.0))
    if not drawings:
        return []
    shown = [space for space in dict.fromkeys(rows["space"]) if space in SPACE_STYLES]
    caption = "Similarity of participants in each space and in each variable, with 95% intervals over participants."
    return [blocks.figure(drawings[:2], caption, space_legend(shown), "forests")]


def _similarity_table(table: pd.DataFrame) -> blocks.Block:
    columns = [
        text_column("variable", "variable"),
        Column("space", lambda row: row["space"].replace("_", " ")),
        text_column("dissimilarity", "dissimilarity"),
        text_column("method", "method"),
        count_column("n", "n"),
        interval_column("estimate [95% CI]", "estimate", "intervals from a bootstrap over participants"),
        p_column("p", "p_value", "permutations of participants within blocks (Mantel)"),
        p_column("p free", "p_free", "the same with free permutations: a warning, not a result"),
        text_column("note", "note"),
    ]
    kept = [c for c in columns if c.heading != "note" or has_values(table, "note")]
    return make_table("similarity", "Similarity (RSA).", kept, table, "analysis/similarity.tsv")
