"""Participants in both spaces, coloured by each variable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from sepclr_med.analysis.measures import find_outlying
from sepclr_med.analysis.participants import Participants
from sepclr_med.report.svg import SERIES, SHAPES, Canvas, limits_of, scale_between
from sepclr_med.report.wording import format_figure, say_list

STEPS = 6
MOST_CLASSES = 5
MIN_HELD_OUT = 20
MIN_FITTED = 10
MOST_NEAR = 0.95
SPACE_NAMES = {"canonical": "salient space, canonical factors"}
SHOWN_SPACES = ("common", "salient", "canonical")


@dataclass(frozen=True)
class Plane:
    """Two axes of a space and everyone's place on them.

    Parameters
    ----------
    space : str
    points : array of shape (n, 2)
    axes : tuple of str
        What each axis is.
    words : str
        How the axes were found.
    """

    space: str
    points: np.ndarray
    axes: tuple[str, str]
    words: str


@dataclass(frozen=True)
class Group:
    """Participants drawn alike: a class, or a step of a number's range."""

    name: str
    mask: np.ndarray
    kind: str
    shape: str = "circle"


def choose_shown(people: Participants) -> tuple[np.ndarray, str]:
    """Return who is drawn: held-out participants when there are twenty, else everyone, and the words for it.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a", "b"], "split": ["train", "test"]})
    >>> choose_shown(Participants(rows, {}, {}, np.ones(2, dtype=bool)))[1]
    'All 2 participants, training ones included: what the encoders were fitted on looks better separated than it is.'
    """
    split = people.rows["split"].to_numpy() if "split" in people.rows else np.full(len(people), "")
    for part, words in (("test", "held out"), ("val", "used for validation")):
        mask = split == part
        if mask.sum() >= MIN_HELD_OUT:
            return mask, f"The {mask.sum()} participants {words}; none of them trained the encoders."
    everyone = np.ones(len(people), dtype=bool)
    seen = ", training ones included: what the encoders were fitted on looks better separated than it is"
    return everyone, f"All {len(people)} participants{seen if (split == 'train').any() else ''}."


def find_plane(people: Participants, space: str) -> Plane | None:
    """Return the first two axes of a space.

    Canonical factors are taken as they are. Otherwise the axes are the first two principal components, of target
    participants of the training part in the salient space and of all training participants elsewhere; everyone when
    fewer than ten would be left.

    Parameters
    ----------
    people : Participants
    space : str

    Returns
    -------
    Plane or None
        None for a space of one factor.
    """
    values = np.asarray(people.spaces[space], dtype=float)
    if values.shape[1] < 2 or len(values) < 3:
        return None
    if space == "canonical":
        names = people.factors[space][:2]
        return Plane(space, values[:, :2], (names[0], names[1]), "the first two canonical factors")
    from sklearn.decomposition import PCA

    split = people.rows["split"].to_numpy() if "split" in people.rows else np.full(len(people), "")
    rows, whom = split == "train", "training participants"
    if space == "salient" and not people.is_target.all():
        rows, whom = rows & people.is_target, "target participants of the training part"
    if rows.sum() < MIN_FITTED:
        rows, whom = np.ones(len(people), dtype=bool), "everyone"
    pca = PCA(2, svd_solver="full").fit(values[rows])
    shares = [f"component {k + 1} ({100 * share:.0f}%)" for k, share in enumerate(pca.explained_variance_ratio_)]
    words = f"the first two principal components of {whom} (share of variance in brackets)"
    return Plane(space, pca.transform(values), (shares[0], shares[1]), words)


def group_values(values: pd.Series, measure: str) -> tuple[list[Group], bool]:
    """Divide participants by class, or by steps of a number's range between its 2nd and 98th percentile.

    Parameters
    ----------
    values : Series
        One value per participant, missing where not known.
    measure : {"continuous", "ordinal", "binary", "categorical"}

    Returns
    -------
    list of Group
        Those without a value first, so that they lie below.
    bool
        Whether the groups are steps of one scale.

    Examples
    --------
    >>> groups, is_scale = group_values(pd.Series(["F", "M", None]), "binary")
    >>> [(group.name, group.mask.tolist()) for group in groups], is_scale
    ([('no value', [False, False, True]), ('F', [True, False, False]), ('M', [False, True, False])], False)
    """
    missing = values.isna().to_numpy()
    without = [Group("no value", missing, "none")] if missing.any() else []
    if measure == "continuous" or (measure == "ordinal" and pd.api.types.is_numeric_dtype(values)):
        numbers = values.to_numpy(dtype=float)
        low, high = np.nanpercentile(numbers, [2, 98]) if (~missing).any() else (0.0, 1.0)
        share = (numbers - low) / ((high - low) or 1.0)
        step = np.clip(np.nan_to_num(share) * STEPS, 0, STEPS - 1).astype(int)
        names = [format_figure(low)] + [""] * (STEPS - 2) + [format_figure(high)]
        return without + [Group(names[k], (step == k) & ~missing, f"s{k + 1}") for k in range(STEPS)], True
    named = values.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
    levels = sorted(named[~missing].unique())
    if len(levels) > MOST_CLASSES + 1:
        # The commonest keep their own mark; ties go by name, so that the picture does not depend on row order.
        counts = named[~missing].value_counts()
        kept = sorted(levels, key=lambda level: (-counts[level], level))[:MOST_CLASSES]
        levels = [*sorted(kept), f"{len(counts) - MOST_CLASSES} other"]
        named = named.where(named.isin(kept), levels[-1])
    groups = [
        Group(level, (named == level).to_numpy() & ~missing, SERIES[k], SHAPES[k]) for k, level in enumerate(levels)
    ]
    return without + groups, False


def draw_plane(
    plane: Plane, shown: np.ndarray, groups: Sequence[Group], title: str, description: str, width: float = 320
) -> Markup:
    """Draw participants on a plane.

    Parameters
    ----------
    plane : Plane
    shown : bool array of shape (n,)
        Who is drawn.
    groups : sequence of Group
        How.
    title, description : str
        The alternative text.
    width : float, default=320
        Of the view box.

    Returns
    -------
    Markup
    """
    height = width * 0.78 + 16
    canvas = Canvas(width, height)
    canvas.text(20, 11, SPACE_NAMES.get(plane.space, f"{plane.space.replace('_', ' ')} space"), "heading")
    far = find_far(plane, shown)
    points = plane.points[shown & ~far.any(axis=1)]
    to_x = scale_between(*limits_of(points[:, 0].tolist()), 24, width - 8)
    to_y = scale_between(*limits_of(points[:, 1].tolist()), height - 30, 24)
    canvas.add("rect", x=20, y=18, width=f"{width - 24:.0f}", height=f"{height - 44:.0f}", kind="frame")
    canvas.text((20 + width) / 2, height - 12, plane.axes[0], "axis middle")
    canvas.text(0, 0, plane.axes[1], "axis middle", transform=f"translate(12 {(height - 8) / 2:.0f}) rotate(-90)")
    radius = 2.6 if shown.sum() <= 400 else 1.9
    for group in groups:
        chosen = shown & group.mask
        places = [(to_x(x), to_y(y)) for x, y in plane.points[chosen & ~far.any(axis=1)]]
        canvas.marks(places, group.shape, radius if group.kind != "none" else radius * 0.7, group.kind)
        for place in np.flatnonzero(chosen & far.any(axis=1)):
            x, y = plane.points[place]
            _draw_arrow(
                canvas, to_x(x), to_y(y), np.sign(plane.points[place] - points.mean(axis=0)) * far[place], group
            )
    return canvas.markup(title, description)


def _draw_arrow(canvas: Canvas, x: float, y: float, way: np.ndarray, group: Group) -> None:
    """Draw who lies beyond the rim as an arrow that points there."""
    turn = math.degrees(math.atan2(-way[1], way[0]))
    canvas.add("path", d="M7 0l-8 -4.5v9z", transform=f"translate({x:.1f} {y:.1f}) rotate({turn:.0f})",
               kind=f"shapes {group.kind}")  # fmt: skip


def find_far(plane: Plane, shown: np.ndarray) -> np.ndarray:
    """Return who, on which axis, is drawn at the rim because the others would be squeezed.

    These are the participants more than five robust deviations (1.4826 MAD) from the median of those shown, who also
    lie more than twice as far from it as nineteen of twenty do: a cloud with long tails is drawn as it is.

    Examples
    --------
    >>> points = np.column_stack([[*range(30), 500], range(31)]).astype(float)
    >>> far = find_far(Plane("salient", points, ("x", "y"), ""), np.ones(31, dtype=bool))
    >>> far.sum(axis=0).tolist(), far[30].tolist()
    ([1, 0], [True, False])
    """
    far = np.zeros(plane.points.shape, dtype=bool)
    points = plane.points[shown]
    distance = np.abs(points - np.median(points, axis=0))
    outlying = np.column_stack([find_outlying(values) for values in points.T])
    far[shown] = outlying & (distance > 2 * np.quantile(distance, MOST_NEAR, axis=0))
    return far


def describe_far(planes: Sequence[Plane], shown: np.ndarray) -> str:
    """Say how many are drawn at the rim of which space; nothing where nobody is."""
    said = []
    for plane in planes:
        far = find_far(plane, shown)
        axes = [name for name, column in zip(plane.axes, far.T, strict=True) if column.any()]
        if axes:
            count = int(far.any(axis=1).sum())
            who = f"{count} of {shown.sum()} participants"
            place = SPACE_NAMES.get(plane.space, f"{plane.space.replace('_', ' ')} space")
            said.append(f"in the {place}, {who}, beyond five robust deviations from the median of {say_list(axes)}")
    return (
        f"Drawn at the rim as arrows, the axes being those of the others: {'; '.join(said)}. So few far out can turn "
        "the axes of a space to themselves, and carry a correlation: look at their images."
        if said
        else ""
    )


def draw_legend(groups: Sequence[Group], is_scale: bool, shown: np.ndarray) -> list[dict[str, Any]]:
    """Return the entries of a legend: a mark, words after it, and for a scale words before it.

    Examples
    --------
    >>> group = Group("F", np.array([True, False]), "c1")
    >>> draw_legend([group], False, np.array([True, True]))[0]["words"]
    'F (n = 1)'
    """
    counted = [(group, int((group.mask & shown).sum())) for group in groups]
    apart = [(group, count) for group, count in counted if count and not (is_scale and group.kind != "none")]
    entries = [
        {"before": "", "mark": _draw_marks([group]), "words": f"{group.name} (n = {count})"} for group, count in apart
    ]
    if is_scale:
        steps = [group for group in groups if group.kind != "none"]
        entries.append({"before": steps[0].name, "mark": _draw_marks(steps), "words": steps[-1].name})
    return entries


def _draw_marks(groups: Sequence[Group]) -> Markup:
    canvas = Canvas(12 * len(groups), 12)
    for number, group in enumerate(groups):
        canvas.marks([(6 + 12 * number, 6)], group.shape, 4, group.kind)
    drawn = Markup("").join(canvas.parts)
    return Markup('<svg viewBox="0 0 {0} 12" style="width:{1}rem" aria-hidden="true">{2}</svg>').format(
        12 * len(groups), 0.95 * len(groups), drawn
    )


def describe_groups(groups: Sequence[Group], is_scale: bool, shown: np.ndarray) -> str:
    """Say in words how participants are marked, for the alternative text."""
    known = [group for group in groups if group.kind != "none"]
    if is_scale:
        return f"from {known[0].name} (faint) to {known[-1].name} (strong)"
    return ", ".join(f"{group.name}: {int((group.mask & shown).sum())}" for group in known)


def spaces_to_draw(spaces: Mapping[str, Any]) -> list[str]:
    """Return the spaces to draw: the common one, and the salient one by canonical factors where there are any.

    Examples
    --------
    >>> spaces_to_draw({"common": 0, "salient": 0, "canonical": 0, "voxel_pca": 0})
    ['common', 'canonical']
    """
    found = [space for space in SHOWN_SPACES if space in spaces]
    if "canonical" in found and "salient" in found:
        found.remove("salient")
    return found or list(spaces)[:2]
