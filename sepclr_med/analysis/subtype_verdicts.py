"""From criteria to an answer: how many groups, or what is missing for any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.analysis.subtype_frame import Geometry
from sepclr_med.analysis.subtype_gap import Gap
from sepclr_med.analysis.subtype_models import GroupModel, Kind

LEVEL = 0.05
MIN_BOOTSTRAP = 0.7
MIN_SPLIT_HALF = 0.5
TIE = 0.03
WIDEST_ANGLE = 120.0
# Fewer than this, in participants or as a share, are outliers.
FEWEST, FEWEST_SHARE = 3, 0.05
ASKED = {"direction": "direction from the background", "position": "place in the space"}
PLAIN = {"kmeans": "k-means", "gaussian_mixture": "Gaussian mixture"}


@dataclass(frozen=True)
class Judgement:
    """The answer and what it rests on.

    Parameters
    ----------
    n_groups : int
        1 where none were found.
    kind : str
        How groups were found.
    reasons : tuple of str
        Where none were found: what was missing.
    notes : tuple of str
        What should be known beside the verdict.
    """

    n_groups: int
    kind: Kind
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


def judge(
    criteria: pd.DataFrame,
    models: Mapping[tuple[Kind, int], GroupModel],
    gap: Gap,
    geometry: Geometry,
    level: float,
    smallest: float,
) -> Judgement:
    """Decide whether there are groups; all of the conditions must hold.

    Parameters
    ----------
    criteria : DataFrame
        From :func:`sepclr_med.analysis.subtype_criteria.measure_criteria`.
    models : mapping
        The fitted groups.
    gap : Gap
        Of the same coordinates.
    geometry : {"position", "direction"}
        What the coordinates are.
    level : float
        Largest p-value of the gap.
    smallest : float
        Smallest share of a group.

    Returns
    -------
    Judgement
    """
    mixtures = criteria[criteria["model"] == "gaussian_mixture"].set_index("k")["bic"]
    several = criteria[criteria["k"] > 1]
    passed = several[
        (several["p_value"] <= LEVEL)
        & (several["stability_bootstrap"] >= MIN_BOOTSTRAP)
        & (several["stability_split_half"] >= MIN_SPLIT_HALF)
        & (several["smallest_share"] >= smallest)
    ]
    angles = {(line.model, line.k): _widest_angle(models[line.model, line.k]) for line in passed.itertuples()}
    reasons, notes = [], []
    if gap.p_value > level:
        reasons.append(f"no gap beyond that of a continuum, p = {gap.p_value:.3f} at {level:g}")
    if mixtures.idxmin() == 1:
        reasons.append("BIC prefers one Gaussian")
    if passed.empty:
        reasons.append("no number of groups is tighter than one Gaussian and found again in resamples and halves")
    elif geometry == "direction":
        apart = [key for key, angle in angles.items() if angle <= WIDEST_ANGLE]
        passed = passed[[(line.model, line.k) in apart for line in passed.itertuples()]]
        if passed.empty:
            reasons.append("the directions are opposite ends of one axis through the background")
    if reasons:
        return Judgement(1, "kmeans", tuple(reasons))
    steady = passed["stability_bootstrap"] + passed["stability_split_half"]
    near = passed[steady >= steady.max() - 2 * TIE]
    best = near.sort_values("silhouette", ascending=False, kind="stable").iloc[0]
    others = sorted(set(passed["k"]) - {best["k"]})
    if others:
        notes.append(f"Also meets the criteria: {', '.join(str(k) for k in others)} groups.")
    return Judgement(int(best["k"]), best["model"], (), tuple(notes))


def describe(
    judged: Judgement,
    criteria: pd.DataFrame,
    gaps: Mapping[Geometry, Gap],
    geometry: Geometry,
    n: int,
    sizes: list[int],
) -> str:
    """Say the answer in plain words, with the figures it rests on."""
    if judged.n_groups > 1:
        line = criteria[(criteria["model"] == judged.kind) & (criteria["k"] == judged.n_groups)].iloc[0]
        what = "kind (direction from the background)" if geometry == "direction" else "position"
        return (
            f"{judged.n_groups} groups among {n} target participants ({', '.join(map(str, sizes))}; "
            f"{PLAIN[judged.kind]}), which differ in {what}: silhouette {line['silhouette']:.2f} against "
            f"{line['silhouette_null_95']:.2f} (95%) under one Gaussian, gap p = {gaps[geometry].p_value:.3f} against "
            f"a continuum, adjusted Rand index {line['stability_bootstrap']:.2f} between resamples and "
            f"{line['stability_split_half']:.2f} between halves."
        )
    asked = " and by ".join(ASKED[name] for name in gaps)
    return (
        f"No evidence of groups (n = {n} target participants, sought by {asked}). "
        f"Missing: {'; '.join(judged.reasons)}. "
        f"Groups that overlap, or a group of few, would not be seen.{_say_outliers(criteria, n)}"
    )


def _say_outliers(criteria: pd.DataFrame, n: int) -> str:
    """Say whose silhouette is high because a few lie far from the rest."""
    few = criteria["smallest_share"] * n < max(FEWEST, FEWEST_SHARE * n)
    high = criteria[(criteria["k"] > 1) & few & (criteria["silhouette"] > criteria["silhouette_null_95"])]
    if high.empty:
        return ""
    line = high.loc[high["silhouette"].idxmax()]
    apart = round(line["smallest_share"] * n)
    people = "participant" if apart == 1 else "participants"
    return (
        f" The silhouette of {line['silhouette']:.2f} with {line['k']} groups sets {apart} {people} apart from the "
        "others: outliers, no group."
    )


def _widest_angle(model: GroupModel) -> float:
    means = model.means / np.maximum(np.linalg.norm(model.means, axis=1, keepdims=True), 1e-12)
    return float(np.degrees(np.arccos(np.clip(means @ means.T, -1, 1).min())))
