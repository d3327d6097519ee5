"""What the salient norm and the dependence of the spaces mean, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sepclr_med.analysis.layout import short

ALPHA = 0.05
# With fewer one test finds a correlation of 0.45 (R2 0.2) less than four times in five, so that finding nothing is no
# praise. The interval alone does not show it: a probe that learned nothing predicts the mean, and its R2 hardly varies.
FEWEST = 37


def judge_norm(norm: Mapping[str, Any] | None, missed_by_probe: bool = False) -> list[dict[str, str]]:
    """Judge how far patients lie from controls in the salient space.

    Parameters
    ----------
    norm : mapping or None
        ``salient_norm`` of the card.
    missed_by_probe : bool, default=False
        Whether the linear probe did not find the diagnosis in the salient space.

    Returns
    -------
    list of dict
        As for :func:`sepclr_med.analysis.verdicts.give_verdicts`; empty without two groups.

    Examples
    --------
    >>> norm = {"median_background": 0.8, "median_target": 4.6, "auc": 0.96, "ci_low": 0.93, "ci_high": 0.99}
    >>> judge_norm(norm | {"n_background": 100, "n_target": 100})[0]["level"]
    'good'
    """
    if not norm:
        return []
    # Before the head the null vector may lie anywhere: what counts is the distance from where controls are.
    chosen = norm.get("from_background_mean", norm)
    where = "from the controls' mean" if chosen is not norm else "from zero"
    interval = "" if pd.isna(chosen["ci_low"]) else f" [{short(chosen['ci_low'])}, {short(chosen['ci_high'])}]"
    said = (
        f"median distance {where} {short(chosen['median_target'])} in target, {short(chosen['median_background'])} in "
        f"background participants, AUC {short(chosen['auc'])}{interval} (n = {chosen['n_target']} and "
        f"{chosen['n_background']})"
    )
    if chosen["auc"] > 0.5 and (chosen["ci_low"] > 0.5 or pd.isna(chosen["ci_low"])):
        p_value = chosen.get("p_value", float("nan"))
        if p_value > ALPHA:
            text = (
                f"salient sets patients apart, but not within sites (p {short(p_value)}): it may be the site: {said}."
            )
            return [_verdict("salient", "warning", text)]
        if missed_by_probe:
            text = (
                f"salient sets patients apart by distance: {said}, though the linear probe did not find the diagnosis. "
                "Both can be: patients may lie further out, each in a direction of their own, and the probe needs one "
                "direction. Distance is what training asked for; links of factors need directions."
            )
            return [_verdict("salient", "info", text)]
        return [_verdict("salient", "good", f"salient sets patients apart: {said}.")]
    return [_verdict("salient", "warning", f"salient does not set patients apart: {said}.")]


def judge_dependence(rows: list[Mapping[str, Any]] | None) -> list[dict[str, str]]:
    """Judge whether the two spaces hold the same, among target participants where there are any.

    The measures share one error rate: the smallest p-value is multiplied by their number.

    Parameters
    ----------
    rows : list of mapping or None
        ``dependence`` of the card.

    Returns
    -------
    list of dict
        As for :func:`sepclr_med.analysis.verdicts.give_verdicts`; empty where nothing was tested.

    Examples
    --------
    >>> row = {"measure": "hsic", "group": "target", "value": 0.27, "chance": 0.06, "p_value": 0.001, "n": 100}
    >>> print(judge_dependence([row])[0]["text"])
    common and salient depend on one another among target participants (n = 100): HSIC 0.27 against chance 0.06: a link
    of one may be a link of the other.
    """
    asked = [row for row in rows if row["group"] == rows[0]["group"]] if rows else []
    tested = {row["measure"]: row for row in asked if pd.notna(row["p_value"])}
    if not tested:
        return []
    names = {
        "distance_correlation": "distance correlation {}",
        "hsic": "HSIC {}",
        "salient_from_common": "R2 of salient from common {}",
        "common_from_salient": "R2 of common from salient {}",
    }
    said = "; ".join(_measured(names[name], row) for name, row in tested.items())
    group = {"target": "target participants", "everyone": "everyone"}[asked[0]["group"]]
    smallest = min(row["p_value"] for row in tested.values()) * len(tested)
    among = f"among {group} (n = {asked[0]['n']})"
    if smallest <= ALPHA:
        text = f"common and salient depend on one another {among}: {said}: a link of one may be a link of the other."
        return [_verdict("both", "warning", text)]
    text = f"dependence of common and salient not detected {among}: {said}"
    if asked[0]["n"] < FEWEST:
        return [_verdict("both", "info", f"{text}; too few participants to rule out more.")]
    return [_verdict("both", "good", f"{text}.")]


def _measured(words: str, row: Mapping[str, Any]) -> str:
    # R2 has a zero of its own; what exchanged participants score is far below it and would only confuse.
    chance = "" if words.startswith("R2") else f" against chance {short(row['chance'])}"
    return words.format(short(row["value"])) + chance


def _verdict(space: str, level: str, text: str) -> dict[str, str]:
    return {"space": space, "variable": "", "level": level, "text": text}
