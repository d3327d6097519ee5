"""The separation card in words: a sentence for each space and variable that matters.

What was not found is "not detected", with the number of participants: a linear probe with few participants misses weak
and curved effects, so no figure shows that a space holds nothing of a variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sepclr_med.analysis.layout import headlines, short, stands_out
from sepclr_med.analysis.space_verdicts import FEWEST, judge_dependence, judge_norm

ACQUISITION = ("site", "scanner")
NUISANCE = ("age", "sex", "tiv", "qc")
NOT_LEARNED = ("both", "covariates", "voxel_pca")
WORDS = {"balanced_accuracy": "balanced accuracy", "r2": "R2", "spearman": "rank correlation"}
# An interval that reaches this far above chance leaves room for a leak that matters.
WIDE = 0.2


@dataclass(frozen=True)
class _Figures:
    """The headline figure of one variable from every space."""

    variable: str
    rows: Mapping[str, pd.Series]
    elsewhere: Mapping[str, pd.Series]
    has_sites: bool
    has_p_values: bool

    def found(self, space: str) -> bool:
        return space in self.rows and stands_out(self.rows[space])

    def figure(self, space: str) -> str:
        """Such as ``R2 0.42 [0.31, 0.52] against chance 0.00 (n = 200)``."""
        row = self.rows[space]
        interval = "" if pd.isna(row["ci_low"]) else f" [{short(row['ci_low'])}, {short(row['ci_high'])}]"
        said = f"{WORDS[row['metric']]} {short(row['value'])}{interval} against chance {short(row['chance'])}"
        return f"{said} (n = {row['n']})"

    def untested(self, space: str) -> bool:
        """Whether the variable has no p-value though others have one: it does not vary within any site."""
        return self.has_p_values and pd.isna(self.rows[space]["p_value"])

    def beside(self, *spaces: str) -> str:
        """What the other spaces give, such as ``common 0.06, covariates -0.01``."""
        names = {"covariates": "covariates alone", "voxel_pca": "voxel PCA"}
        known = [name for name in spaces if name in self.rows and pd.notna(self.rows[name]["value"])]
        return ", ".join(f"{names.get(name, name)} {short(self.rows[name]['value'])}" for name in known)

    def at_other_sites(self, space: str) -> str:
        """Whether probes of the other sites find it too, as the end of a sentence."""
        row = self.elsewhere.get(space)
        if row is None or pd.isna(row["value"]):
            return ""
        return f"; at sites the probe has not seen {short(row['value'])}" + (
            "" if stands_out(row) else ", not detected"
        )

    def lost_elsewhere(self, space: str) -> bool:
        row = self.elsewhere.get(space)
        return row is not None and pd.notna(row["value"]) and not stands_out(row)


def give_verdicts(
    table: pd.DataFrame, measured: Mapping[str, Any], in_sample: bool = False, has_sites: bool = False
) -> list[dict[str, str]]:
    """Judge each space and variable.

    Parameters
    ----------
    table : DataFrame
        From :func:`sepclr_med.evaluate`.
    measured : mapping
        ``salient_norm`` and ``dependence`` of the card.
    in_sample : bool, default=False
        Whether the encoder saw those who are scored.
    has_sites : bool, default=False
        Whether there are two sites or more, within which permutations stay.

    Returns
    -------
    list of dict
        ``space variable level text``; level is ``good``, ``info`` or ``warning``.

    Examples
    --------
    >>> row = {"variable": "site", "measure": "categorical", "space": "salient", "scheme": "held-out", "n": 200}
    >>> row |= {"metric": "balanced_accuracy", "value": 0.74, "ci_low": 0.6, "ci_high": 0.8, "chance": 1 / 3}
    >>> print(give_verdicts(pd.DataFrame([row | {"p_value": 0.001}]), {}, has_sites=True)[0]["text"])
    salient carries site: balanced accuracy 0.74 [0.60, 0.80] against chance 0.33 (n = 200): links below are permuted
    within site.
    """
    verdicts = []
    if in_sample:
        text = "The encoder saw these participants in training: every figure below is too good."
        verdicts.append(_verdict("", "", "warning", text))
    shown = headlines(table)
    main = shown[shown["scheme"] != "leave-site-out"]
    elsewhere = shown[shown["scheme"] == "leave-site-out"]
    names = set(table["variable"])
    has_p_values = bool(table["p_value"].notna().any())
    for variable, rows in main.groupby("variable", sort=False):
        beside = elsewhere[elsewhere["variable"] == variable]
        figures = _Figures(str(variable), _by_space(rows), _by_space(beside), has_sites, has_p_values)
        for space, row in figures.rows.items():
            if space not in NOT_LEARNED and pd.notna(row["value"]):
                level, text = _judge(figures, space, names)
                verdicts += [_verdict(space, str(variable), level, text)] if text else []
    missed = any(v["text"].startswith("diagnosis not detected in salient") for v in verdicts)
    norm = judge_norm(measured.get("salient_norm"), missed_by_probe=missed)
    return verdicts + norm + judge_dependence(measured.get("dependence"))


def _judge(figures: _Figures, space: str, names: set[str]) -> tuple[str, str]:
    variable = figures.variable
    if variable in (*ACQUISITION, *NUISANCE):
        return _judge_known(figures, space)
    if variable == "diagnosis":
        return _judge_diagnosis(figures, space)
    if variable.endswith(" (background)"):
        return _judge_background(figures, space)
    return _judge_clinical(figures, space, f"{variable} (background)" in names)


def _judge_known(figures: _Figures, space: str) -> tuple[str, str]:
    """Judge age, sex, head size, quality, site and scanner: in common they belong, elsewhere they are a leak."""
    variable = figures.variable
    if not figures.found(space):
        return ("", "") if space == "common" else _not_detected(figures, space)
    if space == "common":
        if variable not in ACQUISITION:
            return "", ""
        return (
            "info",
            f"common carries {variable}: {figures.figure(space)}: what common says of disease may be {variable}.",
        )
    if variable in ACQUISITION and figures.has_sites:
        end = "links below are permuted within site."
    elif variable in ACQUISITION:
        end = f"name it as a block when linking (--blocks {variable})."
    else:
        end = f"a link of {space} may be {variable} in disguise, adjust for it (--covariates {variable})."
    return "warning", f"{space} carries {variable}: {figures.figure(space)}: {end}"


def _judge_diagnosis(figures: _Figures, space: str) -> tuple[str, str]:
    said = figures.figure(space) + figures.at_other_sites(space)
    if figures.untested(space):
        return "warning", f"{space} and diagnosis: {said}: no p-value, as every site has one group only."
    if space == "common":
        if not figures.found(space):
            return _not_detected(figures, space)
        beside = figures.beside("salient", "covariates")
        return (
            "warning",
            f"common carries diagnosis: {said}; {beside}: part of what sets patients apart stayed in common.",
        )
    if not figures.found(space):
        lost = "; too few participants to say" if _doubts(figures.rows[space]) else ""
        end = f"what it learned was not shown to carry over to others{lost}"
        return "warning", f"diagnosis not detected in {space}: {said}: {end}."
    level = "warning" if figures.lost_elsewhere(space) else "good"
    return level, f"{space} carries diagnosis: {said}, as it was trained to; no finding in itself."


def _judge_background(figures: _Figures, space: str) -> tuple[str, str]:
    variable = figures.variable.removesuffix(" (background)")
    if space == "common" or not figures.found(space):
        return "", ""
    return "warning", (
        f"{space} carries {variable} among background participants, where it should hold nothing: "
        f"{figures.figure(space)}."
    )


def _judge_clinical(figures: _Figures, space: str, varies_in_background: bool) -> tuple[str, str]:
    variable = figures.variable
    if not figures.found(space):
        return ("", "") if space == "common" else _not_detected(figures, space, "info")
    said = figures.figure(space) + figures.at_other_sites(space)
    if space == "common":
        if varies_in_background:
            return "info", f"common carries {variable}: {said}."
        return (
            "info",
            f"common carries {variable}: {said}; {figures.beside('salient')}: it does not vary among controls.",
        )
    beside = figures.beside("common", "covariates", "voxel_pca")
    text = f"{space} carries {variable}: {said}" + (f"; {beside}" if beside else "")
    if figures.lost_elsewhere(space):
        return "warning", f"{text}: it may be site."
    if figures.found("covariates"):
        return "info", f"{text}: covariates carry part of it, so read the adjusted links."
    if varies_in_background:
        return "info", f"{text}: it varies among controls too, so it is no mark of disease."
    return "good", f"{text}."


def _not_detected(figures: _Figures, space: str, level: str = "good") -> tuple[str, str]:
    row = figures.rows[space]
    doubts = _doubts(row)
    return "info" if doubts else level, f"{figures.variable} not detected in {space}: {figures.figure(space)}{doubts}."


def _doubts(row: pd.Series) -> str:
    """Why a figure that does not stand out is no sign of absence, as the end of a sentence."""
    room = row["ci_high"] - max(row["chance"], 0.0)
    said = ""
    if pd.notna(row["ci_high"]) and row["ci_high"] < row["chance"]:
        said = "; below chance, as by accident or where the parts differ, which is no sign of absence"
    if pd.isna(room) or room > WIDE or row["n"] < FEWEST:
        said += "; too few participants to rule out more"
    return said


def _by_space(rows: pd.DataFrame) -> dict[str, pd.Series]:
    return {str(row["space"]): row for _, row in rows.iterrows()}


def _verdict(space: str, variable: str, level: str, text: str) -> dict[str, str]:
    return {"space": space, "variable": variable, "level": level, "text": text}
