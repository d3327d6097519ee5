"""How far the models of a cross-fit agree: factors, whole spaces, and what is read from the salient one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sepclr_med.report import blocks
from sepclr_med.report.collect import dig
from sepclr_med.report.figures import Mark, Row, draw_intervals
from sepclr_med.report.sections.card import interval_column
from sepclr_med.report.tables import Column, count_column, make_table, number_column, text_column
from sepclr_med.report.wording import as_number, format_number, plural

MOST_DRAWN = 10
NAMES = ("salient", "canonical", "common")


def describe_stability(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on agreement of models, or None for a single model.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    factors = data["tables"].get("stability")
    if factors is None or not len(factors):
        return None
    smallest = as_number(dig(data["objects"].get("link", {}), "settings", "smallest_icc"))
    said = say_stability(factors, smallest)
    reading, spaces = (data["tables"].get(name) for name in ("reading_stability", "space_stability"))
    parts = [
        blocks.paragraph(
            "Models with other seeds, and models that did or did not see a participant, should give that participant "
            "the same score. ICC is the intraclass correlation, absolute agreement: 1 is perfect, 0 is what noise "
            "gives. Factors are axes of spaces laid over one another; a space may be stable though single axes of it, "
            "of little variance, are not."
        ),
        blocks.verdicts(said),
        blocks.paragraph(say_spread(factors)),
        _reading_figure(reading),
        blocks.table(_reading_table(reading)),
        blocks.table(_space_table(spaces)),
        blocks.table(_factor_table(factors)),
    ]
    return blocks.section("stability", "Stability across trainings", parts, said)


def say_stability(factors: pd.DataFrame, smallest: float | None) -> list[dict[str, str]]:
    """Say how many factors of each space are stable.

    Examples
    --------
    >>> factors = pd.DataFrame({"space": ["salient"] * 2, "factor": ["s_0", "s_1"], "stable": ["True", "False"]})
    >>> say_stability(factors, 0.75)[0]["text"]
    '1 of 2 salient factors is stable (agreement of 0.75 or more): the others were not tested one by one.'
    """
    said = []
    for space in NAMES:
        rows = factors[factors["space"] == space]
        if not len(rows):
            continue
        n = int((rows["stable"] == "True").sum())
        words = f"{n} of {plural(len(rows), f'{space} factor')} {'is' if n == 1 else 'are'} stable"
        words += f" (agreement of {format_number(smallest)} or more)" if smallest else ""
        untested = space != "common" and n < len(rows) and smallest
        said.append(
            blocks.verdict(
                f"{words}{': the others were not tested one by one' if untested else ''}.", "info" if n else "warning"
            )
        )
    return said


def say_spread(factors: pd.DataFrame) -> str:
    """Say how far seeds lie apart on one participant, beside how far participants do; empty where it is not known.

    Examples
    --------
    >>> names = ["s_0", "s_1", "s_2"]
    >>> say_spread(pd.DataFrame({"space": "salient", "factor": names, "seed_spread": [0.2, 0.9, 0.3]}))
    "SD of a participant's score over seeds, in SDs between participants (median): salient 0.30 (s_0 0.20 to s_1 0.90)."
    """
    said = []
    for space in NAMES:
        rows = factors[factors["space"].eq(space) & factors["seed_spread"].notna()].sort_values("seed_spread")
        if len(rows):
            ends = rows.iloc[[0, -1]][["factor", "seed_spread"]].to_numpy()
            least_to_most = " to ".join(f"{factor} {format_number(value)}" for factor, value in ends)
            said.append(f"{space} {format_number(rows['seed_spread'].median())} ({least_to_most})")
    what = "SD of a participant's score over seeds, in SDs between participants (median)"
    return f"{what}: {', '.join(said)}." if said else ""


def _reading_figure(reading: pd.DataFrame | None) -> blocks.Block | None:
    if reading is None or not len(reading):
        return None
    rows = reading.sort_values("r2", ascending=False, kind="stable").head(MOST_DRAWN)
    lines = [
        Row(str(r["variable"]), (Mark(r["icc"], as_number(r["icc_low"]), as_number(r["icc_high"])),),
            f"R\u00b2 {format_number(r['r2'])}")
        for r in rows.to_dict("records")
    ]  # fmt: skip
    drawn = draw_intervals(
        lines, "Agreement of what is read", "ICC of predictions, by variable.", "ICC of single seeds", (0, 1)
    )
    caption = (
        "What each seed's salient space predicts of a variable in participants left out of the probe, best read first."
    )
    return blocks.figure([drawn], f"{caption} What is hardly read (R\u00b2 near 0) need not agree.", layout="forests")


def _reading_table(reading: pd.DataFrame | None) -> blocks.Block | None:
    if reading is None or not len(reading):
        return None
    columns = [
        text_column("variable", "variable"),
        count_column("n", "n"),
        count_column("seeds", "n_seeds"),
        number_column("R\u00b2", "r2", 2, "of the mean prediction, cross-validated over participants"),
        interval_column("ICC [95% CI]", "icc", "of single seeds", ("icc_low", "icc_high")),
        number_column("ICC of mean", "icc_mean"),
    ]
    ordered = reading.sort_values("r2", ascending=False, kind="stable")
    return make_table(
        "reading-stability", "What is read from the salient space.", columns, ordered, "analysis/reading_stability.tsv"
    )


def _space_table(spaces: pd.DataFrame | None) -> blocks.Block | None:
    if spaces is None or not len(spaces):
        return None
    columns = [
        text_column("space", "space"),
        # Tables written before folds were compared have numbers of seeds alone.
        Column(
            "models",
            lambda row: row["compared"] or f"seeds {row['seeds']}",
            meaning="two seeds by their numbers, or models that never saw a participant and those that did",
        ),
        count_column("n", "n"),
        number_column(
            "CKA", "cka", 2, "centred kernel alignment without bias: 1 the same but for rotation, 0 unrelated"
        ),
        count_column("axes", "n_leading", "principal axes that hold 90% of the variance"),
        number_column("overlap", "overlap", 2, "mean squared cosine of the angles between those subspaces"),
        number_column("by chance", "overlap_chance"),
        Column("largest angle", lambda row: f"{format_number(row['largest_angle'], 0)}°"),
    ]
    return make_table(
        "space-stability", "Whole spaces, by pairs of models.", columns, spaces, "analysis/space_stability.tsv"
    )


def _factor_table(factors: pd.DataFrame) -> blocks.Block:
    columns = [
        text_column("factor", "factor"),
        count_column("n", "n"),
        interval_column("ICC, single seeds [95% CI]", "icc", "", ("icc_low", "icc_high")),
        number_column("ICC of mean", "icc_mean", 2, "of the mean over seeds, which is what is tested"),
        interval_column(
            "ICC, unseen against seen [95% CI]", "icc_folds",
            "models that never saw a participant against models that did", ("icc_folds_low", "icc_folds_high"),
        ),
        number_column(
            "spread", "seed_spread", 2,
            "SD of a participant's score over seeds, median over participants, in SDs between participants",
        ),
        Column("stable", lambda row: "yes" if row["stable"] == "True" else "no"),
    ]  # fmt: skip
    ordered = factors.assign(order=factors["space"].map(NAMES.index))
    ordered = ordered.sort_values(["order", "icc_mean", "icc_folds"], ascending=[True, False, False], kind="stable")
    return make_table(
        "stability-table", "All factors, the most stable first.", columns, ordered, "analysis/stability.tsv"
    )
