"""How good is a number of groups: likelihood, tightness beside a single Gaussian, and whether it can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.subtype_models import KINDS, GroupModel, Kind, fit_groups, label_quickly

COLUMNS = [
    "model",
    "k",
    "bic",
    "silhouette",
    "silhouette_null_95",
    "p_value",
    "stability_bootstrap",
    "stability_split_half",
    "smallest_share",
]
RESAMPLE_STARTS = 1


def measure_criteria(
    points: np.ndarray,
    draw_gaussian: Callable[[np.random.Generator], np.ndarray],
    max_groups: int = 6,
    n_null: int = 99,
    n_resamples: int = 40,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[tuple[Kind, int], GroupModel]]:
    """Measure every number of groups by k-means and by Gaussian mixtures.

    Parameters
    ----------
    points : array of shape (n, d)
        Participants.
    draw_gaussian : callable
        Gives a sample of n participants from one Gaussian, in the same coordinates.
    max_groups : int, default=6
        From one group up to this, as far as there are eight participants to a group.
    n_null : int, default=99
        Samples from one Gaussian behind the silhouette's p-value. They are grouped by k-means, which gives the highest
        silhouettes, so for mixtures the p-value is careful.
    n_resamples : int, default=40
        Bootstrap resamples, and half as many divisions into halves.
    seed : int, default=0
        Seed of everything random.

    Returns
    -------
    DataFrame
        ``model k bic silhouette silhouette_null_95 p_value stability_bootstrap stability_split_half smallest_share``.
        Stabilities are mean adjusted Rand indices: between the groups of all participants and those of a resample
        applied to all, and between the groups of two halves, each applied to all.
    dict
        The fitted models by kind and number.

    References
    ----------
    Rousseeuw (1987), silhouettes; Hubert and Arabie (1985), adjusted Rand; Hennig (2007), bootstrap stability;
    Huang, Liu, Yuan and Marron (2015), one Gaussian as the null.
    """
    rng = np.random.default_rng(seed)
    counts = range(1, max(min(max_groups, len(points) // 8), 1) + 1)
    nulls = _null_silhouettes(draw_gaussian, counts, n_null, rng)
    lines, models = [], {}
    for kind in KINDS:
        for k in counts:
            model = models[kind, k] = fit_groups(points, kind, k, seed)
            line: dict[str, Any] = {"model": kind, "k": k, "bic": model.bic, "smallest_share": 1.0}
            if k > 1:
                labels = model.labels(points)
                line["silhouette"] = found = silhouette(points, labels)
                line["silhouette_null_95"] = float(np.quantile(nulls[k], 0.95))
                line["p_value"] = (1 + int((nulls[k] >= found - 1e-12).sum())) / (n_null + 1)
                line["stability_bootstrap"] = _bootstrap_stability(points, labels, kind, k, n_resamples, rng)
                line["stability_split_half"] = _split_stability(points, kind, k, (n_resamples + 1) // 2, rng)
                line["smallest_share"] = float(np.bincount(labels, minlength=k).min() / len(points))
            lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS), models


def silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette, or NaN when all points are in one group.

    Examples
    --------
    >>> round(silhouette(np.array([[0.0], [1.0], [9.0], [10.0]]), np.array([0, 0, 1, 1])), 3)
    0.889
    """
    from scipy.spatial.distance import cdist

    found, labels = np.unique(labels, return_inverse=True)
    if not 2 <= len(found) < len(points):
        return float("nan")
    member = np.eye(len(found))[labels]
    counts = member.sum(axis=0)
    totals = cdist(points, points) @ member
    own = np.take_along_axis(totals, labels[:, None], axis=1)[:, 0] / np.maximum(counts[labels] - 1, 1)
    others = np.where(member > 0, np.inf, totals / counts).min(axis=1)
    # A group of one has a silhouette of zero by convention.
    values = np.where(counts[labels] > 1, (others - own) / np.maximum(np.maximum(own, others), 1e-300), 0.0)
    return float(values.mean())


def _null_silhouettes(
    draw: Callable[[np.random.Generator], np.ndarray], counts: range, n_null: int, rng: np.random.Generator
) -> dict[int, np.ndarray]:
    found: dict[int, list[float]] = {k: [] for k in counts if k > 1}
    for number in range(n_null):
        sample = draw(rng)
        for k, values in found.items():
            values.append(silhouette(sample, label_quickly(sample, k, number)))
    return {k: np.array(values) for k, values in found.items()}


def _bootstrap_stability(
    points: np.ndarray, labels: np.ndarray, kind: Kind, k: int, n: int, rng: np.random.Generator
) -> float:
    from sklearn.metrics import adjusted_rand_score

    agreements = []
    for number in range(n):
        drawn = np.unique(rng.integers(len(points), size=len(points)), return_counts=True)
        chosen = np.repeat(*drawn)
        if len(drawn[0]) < k:
            continue
        again = fit_groups(points[chosen], kind, k, number, RESAMPLE_STARTS).labels(points)
        agreements.append(adjusted_rand_score(labels, again))
    return float(np.mean(agreements)) if agreements else float("nan")


def _split_stability(points: np.ndarray, kind: Kind, k: int, n: int, rng: np.random.Generator) -> float:
    from sklearn.metrics import adjusted_rand_score

    agreements = []
    for number in range(n):
        order = rng.permutation(len(points))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        first, second = (
            fit_groups(points[np.sort(half)], kind, k, number, RESAMPLE_STARTS).labels(points) for half in halves
        )
        agreements.append(adjusted_rand_score(first, second))
    return float(np.mean(agreements))
