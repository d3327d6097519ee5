"""Groups among target participants: sought with every doubt in favour of one continuum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from sepclr_med.analysis.subtype_criteria import measure_criteria
from sepclr_med.analysis.subtype_frame import Frame, Geometry, fit_direction, fit_leading, fit_position
from sepclr_med.analysis.subtype_gap import Gap, measure_gap
from sepclr_med.analysis.subtype_inputs import read_features, read_masks
from sepclr_med.analysis.subtype_models import GroupModel
from sepclr_med.analysis.subtype_verdicts import LEVEL, Judgement, describe, judge
from sepclr_med.cohort.covariates import refuse
from sepclr_med.errors import Problem

MIN_GROUP = 5
NEAR_BACKGROUND = 0.5


@dataclass(frozen=True)
class Subtypes:
    """What :func:`find_subtypes` found; assigns new participants.

    Parameters
    ----------
    n_groups : int
        1 where none were found.
    model : str
        ``kmeans``, ``gaussian_mixture``, or ``none``.
    verdict : str
        The finding in words.
    criteria : DataFrame
        ``model k bic silhouette silhouette_null_95 p_value stability_bootstrap stability_split_half smallest_share``,
        in the coordinates of ``facts["geometry"]``.
    facts : dict
        Plain values: ``geometry``, ``n_fitted``, ``n_factors``, ``gaps`` (geometry, depth, p_value), ``group_sizes``,
        ``notes``.
    features : list of str
        Names of the factors, in order.
    frame : Frame
        How factors become coordinates.
    groups : GroupModel or None
        None where none were found.
    """

    n_groups: int
    model: str
    verdict: str
    criteria: pd.DataFrame
    facts: dict[str, Any]
    features: list[str]
    frame: Frame
    groups: GroupModel | None

    def assign(self, features: pd.DataFrame | np.ndarray) -> pd.DataFrame:
        """Assign participants, new ones too, to the groups found.

        Parameters
        ----------
        features : DataFrame or array of shape (n, d)
            The factors the groups were sought in, by name or in order.

        Returns
        -------
        DataFrame
            ``group`` (``group_1`` the largest; missing where none were found), ``probability`` of that group,
            ``probability_group_1`` on, and where groups are directions ``distance`` from the background's centre in
            its standard deviations: near the background a direction means little.

        Raises
        ------
        ManifestError
            When factors are absent or values not finite.
        """
        values, _, index = read_features(features, self.features)
        if self.groups is None:
            return pd.DataFrame({"group": None, "probability": np.nan}, index=index).astype({"group": object})
        located = self.frame.locate(values)
        probabilities = self.groups.probabilities(self.frame.arrange(located))
        best = probabilities.argmax(axis=1)
        table = {
            "group": np.array([f"group_{number + 1}" for number in best], dtype=object),
            "probability": probabilities[np.arange(len(best)), best],
        }
        table |= {f"probability_group_{number + 1}": column for number, column in enumerate(probabilities.T)}
        if self.frame.geometry == "direction":
            table["distance"] = np.linalg.norm(located, axis=1)
        return pd.DataFrame(table, index=index)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        criteria = self.criteria.astype(object).where(self.criteria.notna(), None)
        return {
            "verdict": self.verdict,
            "n_groups": self.n_groups,
            "model": self.model,
            **self.facts,
            "features": self.features,
            "criteria": criteria.to_dict("records"),
            "frame": self.frame.to_dict(),
            "groups": None if self.groups is None else self.groups.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Subtypes:
        """Return what :meth:`to_dict` gave."""
        own = ("verdict", "n_groups", "model", "features", "criteria", "frame", "groups")
        numeric = [name for name in values["criteria"][0] if name != "model"] if values["criteria"] else []
        return cls(
            n_groups=int(values["n_groups"]),
            model=values["model"],
            verdict=values["verdict"],
            criteria=pd.DataFrame(values["criteria"]).astype({n: int if n == "k" else float for n in numeric}),
            facts={name: value for name, value in values.items() if name not in own},
            features=list(values["features"]),
            frame=Frame.from_dict(values["frame"]),
            groups=None if values["groups"] is None else GroupModel.from_dict(values["groups"]),
        )


def find_subtypes(
    features: pd.DataFrame | np.ndarray,
    fit_rows: Sequence[bool] | np.ndarray,
    background_rows: Sequence[bool] | np.ndarray | None = None,
    geometry: Literal["auto", "position", "direction"] = "auto",
    n_factors: int | None = None,
    max_groups: int = 6,
    min_share: float = 0.1,
    n_null: int = 199,
    n_resamples: int = 40,
    seed: int = 0,
) -> Subtypes:
    """Look for groups among target participants of the training set.

    Groups are claimed only when (1) a valley parts them that a continuum of the same shape rarely has
    (:func:`sepclr_med.analysis.subtype_gap.measure_gap`), (2) the best mixture needs more than one Gaussian by BIC,
    (3) their silhouette is beyond that of one Gaussian, (4) bootstrap resamples and halves of the participants find
    them again and (5) none is smaller than ``min_share``. Otherwise none are found, which proves no continuum, and
    the verdict says what was missing. Where several numbers of groups pass, the one found again most surely is taken,
    and the higher silhouette between equals.

    With background rows two questions are asked, each at 0.025: do participants differ in *kind* (directions from the
    background: severity is the length, and takes no part), or in *position*. Directions are preferred when both pass.

    Parameters
    ----------
    features : DataFrame or array of shape (n, d)
        Factors of participants, sessions averaged; salient or canonical, which differ by a rotation only.
    fit_rows : bool array of shape (n,)
        Target participants of the training set; everything is fitted on these, background's spread apart.
    background_rows : bool array of shape (n,) or None, default=None
        Background participants of the training set; without them, or with fewer than 20, positions only.
    geometry : {"auto", "position", "direction"}, default="auto"
        Which question is asked.
    n_factors : int or None, default=None
        Leading canonical factors used; none means those before the largest drop of variance, two to six.
    max_groups : int, default=6
        Largest number tried.
    min_share : float, default=0.1
        Smallest group as a share of participants; five participants at least.
    n_null : int, default=199
        Samples from the continuum.
    n_resamples : int, default=40
        Bootstrap resamples.
    seed : int, default=0
        Seed of everything random.

    Returns
    -------
    Subtypes

    Raises
    ------
    ManifestError
        When values are not finite, masks do not fit, or fewer than 20 target participants are there.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = rng.normal(size=(80, 4)) + np.repeat([[0, 0, 0, 0], [8, 0, 0, 0]], 40, axis=0)
    >>> found = find_subtypes(rows, np.ones(80, bool), n_null=39, n_resamples=2, max_groups=2)
    >>> found.n_groups, found.assign(rows[[0, 79]])["group"].nunique()
    (2, 2)
    >>> find_subtypes(rows[:40], np.ones(40, bool), n_null=39, n_resamples=2, max_groups=2).n_groups
    1
    """
    from threadpoolctl import threadpool_limits

    values, names, _ = read_features(features)
    fit_rows, background_rows = read_masks(len(values), fit_rows, background_rows)
    target = values[fit_rows]
    smallest = max(min_share, MIN_GROUP / len(target))
    # Matrices of a few rows: threads of linear algebra would only wait for one another.
    with threadpool_limits(1):
        frames, gaps, notes = seek_gaps(target, values[background_rows], geometry, n_factors, n_null, smallest, seed)
        level = LEVEL / len(frames)
        asked = [frame for frame in frames if gaps[frame.geometry].p_value <= level] or frames[:1]
        for frame in asked:
            located = frame.locate(target)
            points = frame.arrange(located)
            criteria, models = measure_criteria(
                points, _gaussian(frame, located), max_groups, min(n_null, 99), n_resamples, seed
            )
            judged = judge(criteria, models, gaps[frame.geometry], frame.geometry, level, smallest)
            if judged.n_groups > 1:
                break
    return _result(judged, criteria, models, frame, gaps, target, names, [*notes, *judged.notes])


def seek_gaps(
    target: np.ndarray,
    background: np.ndarray,
    geometry: Literal["auto", "position", "direction"] = "auto",
    n_factors: int | None = None,
    n_null: int = 199,
    smallest: float = 0.1,
    seed: int = 0,
) -> tuple[list[Frame], dict[Geometry, Gap], list[str]]:
    """Ask for a gap in every geometry that can be used: the condition that most continua fail.

    Parameters
    ----------
    target, background : array of shape (n, d)
        Factors of the participants fitted on; background may be empty.
    geometry, n_factors, n_null, smallest, seed
        As for :func:`find_subtypes`, ``smallest`` being ``min_share``.

    Returns
    -------
    list of Frame
        Directions first.
    dict of {"direction", "position"} to Gap
    list of str
        Why directions were not looked at.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(40, 3))
    >>> frames, gaps, notes = seek_gaps(rows, rows[:0], n_null=19)
    >>> list(gaps), notes
    (['position'], ['Directions from the background were not looked at: no background participants given.'])
    """
    frames, notes = _frames(target, background, fit_leading(target, n_factors), geometry)
    gaps = {
        frame.geometry: measure_gap(
            frame.arrange(frame.locate(target)), n_null, smallest, seed, on_sphere=frame.geometry == "direction"
        )
        for frame in frames
    }
    return frames, gaps, notes


def _result(
    judged: Judgement,
    criteria: pd.DataFrame,
    models: Mapping[Any, GroupModel],
    frame: Frame,
    gaps: Mapping[Geometry, Gap],
    target: np.ndarray,
    names: list[str],
    notes: list[str],
) -> Subtypes:
    groups = models[judged.kind, judged.n_groups] if judged.n_groups > 1 else None
    sizes = []
    if groups is not None:
        labels = groups.labels(frame.arrange(frame.locate(target)))
        sizes = np.bincount(labels, minlength=judged.n_groups).tolist()
    facts = {
        "geometry": frame.geometry,
        "n_fitted": len(target),
        "n_factors": int(frame.canonical.loadings_.shape[1]),
        "variance_of_factors": float(frame.canonical.variance_explained_.sum()),
        "gaps": [{"geometry": name, "depth": gap.depth, "p_value": gap.p_value} for name, gap in gaps.items()],
        "group_sizes": sizes,
        "notes": notes,
    }
    model = judged.kind if groups is not None else "none"
    verdict = describe(judged, criteria, gaps, frame.geometry, len(target), sizes)
    return Subtypes(judged.n_groups, model, verdict, criteria, facts, names, frame, groups)


def _frames(target: np.ndarray, background: np.ndarray, canonical: Any, geometry: str) -> tuple[list[Frame], list[str]]:
    if geometry == "position":
        return [fit_position(target, canonical)], []
    direction = fit_direction(background, canonical) if len(background) else None
    notes = []
    if direction is None:
        few = f"{len(background)} background participants" if len(background) else "no background participants given"
        notes.append(f"Directions from the background were not looked at: {few}.")
    else:
        near = float((np.linalg.norm(direction.locate(target), axis=1) < direction.usual_length).mean())
        if near > NEAR_BACKGROUND:
            notes.append(
                f"Directions from the background were not looked at: {near:.0%} of target participants lie within the "
                "background's own range."
            )
            direction = None
    if geometry == "direction" and direction is None:
        refuse("directions cannot be used", [Problem(notes[0], fix="use geometry='position'")])
    if geometry == "direction" and direction is not None:
        return [direction], notes
    return [*([direction] if direction else []), fit_position(target, canonical)], notes


def _gaussian(frame: Frame, located: np.ndarray) -> Any:
    centre, covariance = located.mean(axis=0), np.atleast_2d(np.cov(located.T))

    def draw(rng: np.random.Generator) -> np.ndarray:
        return frame.arrange(rng.multivariate_normal(centre, covariance, len(located)))

    return draw
