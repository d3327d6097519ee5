"""Does a model apply to a new image: is it like those of the people it was made for, and if not, in what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.conformal import combine_p, conformal_any, conformal_p
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
    "relative": "a relative was in training: figures are not quite those of a new person",
    "in_cohort": "the participant is of the run's own cohort: figures are not those of a new one",
}
APPLICABILITY_COLUMNS = {
    **dict.fromkeys(ID_COLUMNS[:3], "As in the manifest."),
    "split": "Part the participant had in the run, n/a for new ones.",
    **{
        f"{space}_distance": f"Mahalanobis distance of the {space} statistics from the nearer of controls and patients "
        "of the training cohort (covariance of Ledoit and Wolf); of a cross-fit its mean over the models of each fold."
        for space in COMPARED
    },
    **{
        f"{space}_p": f"Conformal p-value of {space}_distance: its rank among people of the cohort; of a cross-fit "
        "those of all folds, combined (Cauchy)."
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
    by_fold: Mapping[str, Mapping[str, pd.DataFrame]],
    manifest: pd.DataFrame,
    norms: Norms | None,
    statistic_words: Mapping[str, str],
    onboarded: Mapping[str, int],
    families: Collection[str] = (),
) -> pd.DataFrame:
    """Say of each new image whether, and in what, it is unlike what the model was made for.

    Parameters
    ----------
    by_fold : mapping of fold to (mapping of {"common", "salient", "image"} to DataFrame)
        New embeddings by the models of each fold, as far as there are; those of a single run under ``""``.
    manifest : DataFrame
        The rows of the same images, in the same order.
    norms : Norms or None
        None leaves only what needs no cohort: nothing.
    statistic_words : mapping of str to str
        Names of image statistics for people.
    onboarded : mapping of site to int
        Controls that the effect of a new site was estimated from.
    families : collection of str, default=()
        ``family_id`` of whoever models were trained on.

    Returns
    -------
    DataFrame
        A row for each image, with the columns of ``APPLICABILITY_COLUMNS``.
    """
    first = next(iter(next(iter(by_fold.values())).values()))
    found = first[[name for name in (*ID_COLUMNS[:3], "split") if name in first]].reset_index(drop=True)
    said: list[dict[str, list[str]]] = [{} for _ in range(len(found))]
    distances = _distances(norms, by_fold) if norms is not None else {}
    spaces = list(distances)
    for space in COMPARED:
        found[[f"{space}_distance", f"{space}_p"]] = np.nan
        if norms is not None and space in distances:
            found[f"{space}_distance"] = distances[space].mean(axis=0)
            ranked = [conformal_p(scores, np.array(norms.scores[space])) for scores in distances[space]]
            found[f"{space}_p"] = combine_p(np.array(ranked))
    found["p_any"] = np.nan
    if norms is not None and spaces:
        calibration = np.column_stack([norms.scores[space] for space in spaces])
        each = zip(*distances.values(), strict=True)
        found["p_any"] = combine_p(np.array([conformal_any(np.column_stack(one), calibration) for one in each]))
    unusual = (found["p_any"] <= ALPHA).to_numpy()
    unknown: Any = None
    found["unusual"] = np.where(found["p_any"].isna(), unknown, np.where(unusual, "yes", "no"))
    if norms is not None:
        for place in np.flatnonzero(unusual).tolist():
            said[place] = _say_unusual(norms, spaces, found.iloc[place], by_fold, place, statistic_words)
    for number, row in enumerate(manifest.to_dict("records")):
        said[number] |= _judge_row(row, norms, found["split"].iloc[number], onboarded, families)
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
    if "image" not in norms.scores:
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


def _distances(norms: Norms, by_fold: Mapping[str, Mapping[str, pd.DataFrame]]) -> dict[str, np.ndarray]:
    """Return the distances of images by the models of each fold, (k, m), in each space that there is."""
    found = {}
    for space in COMPARED:
        if space in norms.columns and all(space in by_fold[fold] for fold in norms.distances):
            rows = {fold: by_fold[fold][space][norms.columns[space]].to_numpy(dtype=float) for fold in norms.distances}
            found[space] = np.array([norms.distance(fold, space)(values) for fold, values in rows.items()])
    return found


def _say_unusual(
    norms: Norms,
    spaces: list[str],
    row: pd.Series,
    by_fold: Mapping[str, Mapping[str, pd.DataFrame]],
    place: int,
    statistic_words: Mapping[str, str],
) -> dict[str, list[str]]:
    """Say in which spaces an image is unusual, or in which it is most of all."""
    said = {}
    least = min(row[f"{space}_p"] for space in spaces)
    for space in spaces:
        if row[f"{space}_p"] <= max(ALPHA, least):
            words = _say_distance(norms, space, row[f"{space}_p"], row[f"{space}_distance"])
            if space == "image":
                images = {fold: by_fold[fold][space].iloc[place] for fold in norms.distances}
                words += _say_statistic(norms, images, statistic_words)
            said[space] = [words]
    return said


def _say_distance(norms: Norms, space: str, p: float, distance: float) -> str:
    scores = np.array(norms.scores[space])
    closer = min(round((1 - p) * (len(scores) + 1)), len(scores))
    text = (
        f"{SPACE_WORDS[space]} further from the training cohort than those of {closer} of the {len(scores)} people it "
        "was compared with"
    )
    if closer == len(scores) and distance > scores.max() > 0:
        text += f", {distance / scores.max():.1f} times as far as the furthest"
    return text


def _say_statistic(norms: Norms, by_fold: Mapping[str, pd.Series], statistic_words: Mapping[str, str]) -> str:
    """Name the statistic of an image that is furthest from the cohort's mean."""
    columns = norms.columns["image"]
    scores = [
        norms.distance(fold, "image").standard_scores(row[columns].to_numpy(dtype=float)[None])[0]
        for fold, row in by_fold.items()
    ]
    away = np.mean(scores, axis=0)
    furthest = int(np.abs(away).argmax())
    name, side = columns[furthest], "above" if away[furthest] > 0 else "below"
    size = np.abs(away[furthest])
    return f" (most of all its {statistic_words.get(name, name)}, {size:.1f} standard deviations {side} the mean)"


def _judge_row(
    row: Mapping[Any, Any],
    norms: Norms | None,
    split: object,
    onboarded: Mapping[str, int],
    families: Collection[str],
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
    if not isinstance(split, str) and row.get("family_id") in families:
        said["relative"] = [f"a relative (family_id {row['family_id']}) was in training"]
    if isinstance(split, str):
        said["in_cohort"] = [f"of the run's own cohort ({split}): these are not the figures of a new person"]
    return {flag: texts for flag, texts in said.items() if texts}
