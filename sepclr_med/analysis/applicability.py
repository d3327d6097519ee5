"""Does a model apply to a new image: is it like those of the people it was made for, and if not, in what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.conformal import conformal_any, conformal_p
from sepclr_med.analysis.norms import COMPARED, Norms
from sepclr_med.cohort.coverage import compare_geometry, compare_ranges
from sepclr_med.cohort.embeddings import ID_COLUMNS
from sepclr_med.cohort.images import read_header

ALPHA = 0.05
SPACE_WORDS = {
    "common": "its common factors lie",
    "salient": "its salient factors lie",
    "image": "the intensities of the preprocessed image lie",
}
FLAGS = {
    "common": "common factors are unusual",
    "salient": "salient factors are unusual",
    "image": "intensities of the preprocessed image are unusual",
    "geometry": "the raw image has another geometry than the training images",
    "covariates": "a covariate is missing, or outside what was in training",
    "new_site": "the site was not in training; its effect was estimated from its own controls",
    "in_cohort": "the participant is of the run's own cohort: figures are not those of a new one",
}
APPLICABILITY_COLUMNS = {
    **dict.fromkeys(ID_COLUMNS[:3], "As in the manifest."),
    "split": "Part the participant had in the run, n/a for new ones.",
    **{
        f"{space}_distance": f"Mahalanobis distance of the {space} statistics from the nearer of controls and patients "
        "of the training cohort (covariance of Ledoit and Wolf)."
        for space in COMPARED
    },
    **{
        f"{space}_p": f"Conformal p-value of {space}_distance: its rank among people of the cohort."
        for space in COMPARED
    },
    "p_any": "Conformal p-value of the strangest of the distances.",
    "unusual": f"yes where p_any is {ALPHA:g} or less: {100 * ALPHA:g}% of new people like the cohort are.",
    "flags": "What was noticed, comma-separated: "
    + "; ".join(f"{name}: {words}" for name, words in FLAGS.items())
    + ".",
    "words": "The same in sentences.",
}


def judge_applicability(
    tables: Mapping[str, pd.DataFrame],
    manifest: pd.DataFrame,
    norms: Norms | None,
    statistic_words: Mapping[str, str],
    onboarded: Mapping[str, int],
) -> pd.DataFrame:
    """Say of each new image whether, and in what, it is unlike what the model was made for.

    Parameters
    ----------
    tables : mapping of {"common", "salient", "image"} to DataFrame
        New embeddings, as far as there are.
    manifest : DataFrame
        The rows of the same images, in the same order.
    norms : Norms or None
        None leaves only what needs no cohort: nothing.
    statistic_words : mapping of str to str
        Names of image statistics for people.
    onboarded : mapping of site to int
        Controls that the effect of a new site was estimated from.

    Returns
    -------
    DataFrame
        A row for each image, with the columns of ``APPLICABILITY_COLUMNS``.
    """
    first = next(iter(tables.values()))
    found = first[[name for name in (*ID_COLUMNS[:3], "split") if name in first]].reset_index(drop=True)
    said: list[dict[str, list[str]]] = [{} for _ in range(len(found))]
    spaces = [space for space in COMPARED if norms is not None and space in norms.distances and space in tables]
    distances = {space: _distances(norms, space, tables[space]) for space in spaces} if norms is not None else {}
    for space in COMPARED:
        found[f"{space}_distance"] = distances.get(space, np.nan)
        found[f"{space}_p"] = np.nan
        if norms is not None and space in spaces:
            found[f"{space}_p"] = conformal_p(distances[space], np.array(norms.scores[space]))
    found["p_any"] = np.nan
    if norms is not None and spaces:
        calibration = np.column_stack([norms.scores[space] for space in spaces])
        found["p_any"] = conformal_any(np.column_stack([distances[space] for space in spaces]), calibration)
    unusual = (found["p_any"] <= ALPHA).to_numpy()
    unknown: Any = None
    found["unusual"] = np.where(found["p_any"].isna(), unknown, np.where(unusual, "yes", "no"))
    for place in np.flatnonzero(unusual):
        p = {space: found[f"{space}_p"].iloc[place] for space in spaces}
        for space in spaces:
            if norms is not None and p[space] <= max(ALPHA, min(p.values())):
                said[place][space] = [_say_distance(norms, space, tables[space].iloc[place], distances[space][place],
                                                    statistic_words)]  # fmt: skip
    for number, row in enumerate(manifest.to_dict("records")):
        said[number] |= _judge_row(row, norms, found["split"].iloc[number], onboarded)
    found["flags"] = [",".join(flags) or None for flags in said]
    found["words"] = ["; ".join(text for texts in flags.values() for text in texts) or None for flags in said]
    return found


def summarise(table: pd.DataFrame, norms: Norms | None) -> list[str]:
    """Say how many images were flagged for what, and how many would be by chance.

    Parameters
    ----------
    table : DataFrame
        From :func:`judge_applicability`.
    norms : Norms or None
    """
    if norms is None:
        return [
            "No flags and no percentiles: the run has no embeddings of its own cohort; `sepclr-med embed RUN_DIR` first"
        ]
    lines = [f"{norms.words}."]
    smallest = 1 / (norms.n_calibration + 1)
    if smallest > ALPHA:
        lines.append(
            f"{norms.n_calibration} people are too few to call anything unusual at {100 * ALPHA:g}%: the smallest "
            f"p-value is {smallest:.2f}. Give the run a larger validation or test part."
        )
    if not norms.geometry.get("n"):
        lines.append("Headers are not compared: the training images were not at hand when the run was embedded.")
    if "image" not in norms.distances:
        lines.append("Intensities are not compared: embed the run's own cohort again (`sepclr-med embed RUN_DIR`).")
    n_unusual = int((table["unusual"] == "yes").sum())
    expected = ALPHA * len(table)
    lines.append(
        f"{n_unusual} of {len(table)} images are unlike the cohort's (p at most {ALPHA:g}; about {expected:.1f} would "
        "be by chance)."
    )
    flags = table["flags"].dropna().str.split(",").explode().value_counts()
    lines += [f"{flags[name]} of {len(table)}: {FLAGS[name]}." for name in FLAGS if name in flags]
    return lines


def _distances(norms: Norms, space: str, table: pd.DataFrame) -> np.ndarray:
    return norms.distance(space)(table[norms.columns[space]].to_numpy(dtype=float))


def _say_distance(norms: Norms, space: str, row: pd.Series, distance: float, statistic_words: Mapping[str, str]) -> str:
    scores = np.array(norms.scores[space])
    closer = (scores < distance).sum()
    text = (
        f"{SPACE_WORDS[space]} further from the training cohort than those of {closer} of the {len(scores)} people it "
    )
    text += "was compared with"
    if closer == len(scores) and scores.max() > 0:
        text += f", {distance / scores.max():.1f} times as far as the furthest"
    if space == "image":
        values = row[norms.columns[space]].to_numpy(dtype=float)[None]
        away = norms.distance(space).standard_scores(values)[0]
        name = norms.columns[space][int(np.abs(away).argmax())]
        size, side = np.abs(away).max(), "above" if away[np.abs(away).argmax()] > 0 else "below"
        text += f" (most of all its {statistic_words.get(name, name)}, {size:.1f} standard deviations {side} the mean)"
    return text


def _judge_row(
    row: Mapping[Any, Any], norms: Norms | None, split: object, onboarded: Mapping[str, int]
) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {}
    site = str(row.get("site"))
    if norms is not None:
        ranges = {name: known for name, known in norms.ranges.items() if not (name == "site" and site in onboarded)}
        said["geometry"] = compare_geometry(read_header(str(row["image_path"])), norms.geometry)
        said["covariates"] = compare_ranges(row, ranges)
    if site in onboarded:
        said["new_site"] = [
            f"site {site} was not in training; its effect was estimated from {onboarded[site]} controls"
        ]
    if isinstance(split, str):
        said["in_cohort"] = [f"of the run's own cohort ({split}): these are not the figures of a new person"]
    return {flag: texts for flag, texts in said.items() if texts}
