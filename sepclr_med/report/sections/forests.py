"""Tests of factors against variables: their order, their marks, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from sepclr_med.analysis.associations.claims import by_strength, vanishes
from sepclr_med.report import blocks
from sepclr_med.report.figures import Mark, Row, draw_intervals
from sepclr_med.report.overview import Cell, draw_overview
from sepclr_med.report.wording import as_number, format_count, format_interval, format_p, plural, say_list

LEVEL = 0.05
EFFECTS = {
    "r": "partial correlation r",
    "rho": "adjusted rank correlation ρ",
    "d": "standardised mean difference d",
    "eta2": "partial η²",
}
SYMBOLS = {"eta2": "η²", "rho": "ρ", "r2": "R²", "auc": "AUC"}
SIGNED = ("r", "rho", "d")
WHOLE = "(whole)"
POOLED = "pooled"
MOST_FORESTS = 12


def vanishing(links: pd.DataFrame) -> pd.Series:
    """Return which rows are significant, corrected over factors, in free permutations only and not within blocks."""
    if "p_fwe_free" not in links:
        return pd.Series(False, index=links.index)
    return pd.Series(vanishes(links), index=links.index)


def factor_rows(links: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of single factors, without those of the whole space."""
    return links[~links["factor"].str.endswith(WHOLE)]


def unit(effect: str) -> str:
    """Return the symbol of an effect size."""
    return SYMBOLS.get(effect, effect or "estimate")


def short_factor(name: str) -> str:
    """Return a factor's name as short as a figure needs.

    Examples
    --------
    >>> short_factor("salient_003"), short_factor("dim7")
    ('salient 3', 'dim7')
    """
    stem, _, number = name.rpartition("_")
    return f"{stem.replace('_', ' ')} {int(number)}" if stem and number.isdecimal() else name


def mark_row(row: Mapping[Any, Any]) -> str:
    """Return ``holds`` for p FDR of at most 0.05, ``lost`` for a link of free permutations only, else nothing."""
    holds = as_number(row["p_fdr"])
    if holds is not None and holds <= LEVEL:
        return "holds"
    free, own = as_number(row.get("p_fwe_free")), as_number(row.get("p_fwe"))
    return "lost" if free is not None and free <= LEVEL and own is not None and own > LEVEL else ""


def draw_tests(single: pd.DataFrame) -> blocks.Block | None:
    """Return all tests at a glance; nothing for fewer than three factors or two variables."""
    if single["factor"].nunique() < 3 or single["variable"].nunique() < 2:
        return None
    drawings = []
    for space, rows in single.groupby("space", sort=False):
        cells = [_cell(row) for row in rows.to_dict("records")]
        count = sum(cell.level == 3 for cell in cells)
        title = f"Every {space} factor against every variable".replace("  ", " ")
        words = f"{count} of {len(cells)} tests have p FDR of at most 0.05; all are in the table of links below."
        drawings.append(draw_overview(cells, title, words))
    caption = (
        "Every test at a glance. ▲ positive, ▼ negative, ◆ without sign. Filled: p FDR ≤ 0.05; outlined: p FWE ≤ 0.05 "
        "only; small: p ≤ 0.05 uncorrected only, of which one in twenty is expected by chance; dot: neither."
    )
    return blocks.figure(drawings, caption, layout="scroll")


def _cell(row: Mapping[Any, Any]) -> Cell:
    def passes(key: str) -> bool:
        value = as_number(row[key])
        return value is not None and value <= LEVEL

    level = 3 if passes("p_fdr") else 2 if passes("p_fwe") else 1 if passes("p_value") else 0
    estimate = as_number(row["estimate"])
    sign = None if estimate is None or row["effect"] not in SIGNED else estimate > 0
    return Cell(str(row["variable"]), short_factor(row["factor"]), sign, level)


def draw_strongest(single: pd.DataFrame) -> blocks.Block | None:
    """Return a forest plot of the strongest factor of each variable."""
    tested = single[single["estimate"].notna()]
    if not len(tested):
        return None
    order = list(dict.fromkeys(tested["variable"]))
    best = by_strength(tested).drop_duplicates("variable")
    best = best.sort_values("variable", key=lambda names: names.map(order.index))
    drawings = [_forest(rows, effect, _named, _factor_words, stacked=True) for effect, rows in _by_effect(best)]
    caption = (
        "The strongest factor of each variable with 95% intervals, chosen as in the sentences above: the smallest p "
        "FDR where it is at most 0.05, else the smallest p FWE. These intervals are not corrected for having picked "
        "the strongest factor, so the estimates are on the high side; the p-values are corrected. The shaded zone is "
        "below the smallest effect that one uncorrected test finds four times in five; corrected tests need more. "
        "● p FDR ≤ 0.05; † p FWE ≤ 0.05 in free permutations only, no link."
    )
    return blocks.figure(drawings, caption, layout="forests")


def _by_effect(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    # The two correlations share an axis.
    scale = rows["effect"].where(rows["effect"] != "rho", "r")
    return [(str(effect), group) for effect, group in rows.groupby(scale, sort=False)]


def _named(row: Mapping[Any, Any]) -> str:
    sign = {"holds": " ●", "lost": " †"}.get(mark_row(row), "")
    return f"{row['variable']}{sign}"


def _forest(
    rows: pd.DataFrame,
    effect: str,
    label: Callable[[Mapping[Any, Any]], str],
    words: Callable[[Mapping[Any, Any]], str],
    stacked: bool = False,
) -> Markup:
    lines = [
        Row(
            label(row),
            (Mark(row["estimate"], as_number(row["ci_low"]), as_number(row["ci_high"]), _series(row)),),
            words(row),
            band=as_number(row.get("mde")),
        )
        for row in rows.to_dict("records")
    ]
    axis = say_list([EFFECTS.get(name, name or "estimate") for name in dict.fromkeys(rows["effect"])]).replace(
        " and ", " or "
    )
    said = say_list([f"{line.label} {line.words}" for line in lines], 40)
    limits = _forest_limits(lines, effect)
    return draw_intervals(lines, f"Forest plot, {axis}", said, axis, limits, zero=0.0, stacked=stacked)


def _series(row: Mapping[Any, Any]) -> str:
    return str(row.get("space") or "salient")


def _factor_words(row: Mapping[Any, Any]) -> str:
    extent = format_interval(row["estimate"], row["ci_low"], row["ci_high"])
    return f"{short_factor(row['factor'])}: {unit(row['effect'])} = {extent}"


def _forest_limits(lines: Sequence[Row], effect: str) -> tuple[float, float]:
    ends = [
        abs(end)
        for line in lines
        for mark in line.marks
        for end in (mark.value, mark.low, mark.high)
        if end is not None
    ]
    ends += [line.band for line in lines if line.band]
    most = max(ends, default=1.0)
    top = min(1.0, most * 1.05) if effect in ("r", "rho", "eta2") else most * 1.05
    return (-0.02 * top, top) if effect == "eta2" else (-top, top)


def draw_variables(single: pd.DataFrame, sites: pd.DataFrame | None) -> list[blocks.Block | None]:
    """Return, folded, a forest plot of each variable against every factor, and of its strongest factor at each site."""
    found: list[blocks.Block | None] = [blocks.heading("Variable by variable")]
    variables = list(dict.fromkeys(single["variable"]))
    for variable in variables[:MOST_FORESTS]:
        rows = single[(single["variable"] == variable) & single["estimate"].notna()]
        if not len(rows):
            continue
        drawn = [
            _forest(group, effect, lambda row: short_factor(row["factor"]), _p_words)
            for _, own in rows.groupby("space", sort=False)
            for effect, group in _by_effect(own)
        ]
        caption = f"{variable} against every factor: estimate, 95% interval, and p FWE beside it."
        best = by_strength(rows).iloc[0]
        across = _site_figure(sites, variable, best["factor"], best["effect"])
        summary = f"{variable}: {plural(len(rows), 'factor')}{', site by site' if across else ''}"
        found.append(blocks.details(summary, [blocks.figure(drawn, caption, layout="forests"), across]))
    if len(variables) > MOST_FORESTS:
        found.append(blocks.paragraph(f"Not drawn: {say_list(variables[MOST_FORESTS:])}; the table has them."))
    return found if len(found) > 1 else []


def _p_words(row: Mapping[Any, Any]) -> str:
    p = row["p_fwe"] if as_number(row["p_fwe"]) is not None else row["p_value"]
    return format_p(p)


def _site_figure(sites: pd.DataFrame | None, variable: str, factor: str, effect: str) -> blocks.Block | None:
    if sites is None:
        return None
    rows = sites[(sites["variable"].astype(str) == variable) & (sites["factor"].astype(str) == factor)]
    rows = rows[rows["estimate"].notna()]
    if len(rows) < 2:
        return None
    lines = [
        Row(
            str(row["site"]),
            (Mark(row["estimate"], as_number(row["ci_low"]), as_number(row["ci_high"]), "salient"),),
            f"n = {format_count(row['n'])}",
            pooled=row["site"] == POOLED,
        )
        for row in rows.to_dict("records")
    ]
    pooled = rows[rows["site"] == POOLED]
    words = ""
    if len(pooled):
        row = pooled.iloc[0]
        values = [f"{name} = {value:.2f}" for name, value in (("τ²", row["tau2"]),) if np.isfinite(value)]
        values += [f"I² = {100 * row['i2'] if row['i2'] <= 1 else row['i2']:.0f}%"] if np.isfinite(row["i2"]) else []
        values += (
            [f"p of heterogeneity {format_p(row['p_heterogeneity'])}"] if np.isfinite(row["p_heterogeneity"]) else []
        )
        extent = format_interval(row["estimate"], row["ci_low"], row["ci_high"])
        words = f" Pooled by random effects: {extent}; {', '.join(values)}."
    axis = EFFECTS.get(effect, effect or "estimate")
    drawing = draw_intervals(
        lines,
        f"{variable} against {factor}, site by site",
        words.strip(),
        axis,
        _forest_limits(lines, effect),
        zero=0.0,
    )
    return blocks.figure(
        [drawing], f"{variable} against {short_factor(factor)}, site by site.{words}", layout="forests"
    )
