"""Each image against the others: copies, odd geometry, odd intensities and failed registration.

What counts as usual is taken from images of the same site and scanner, so that a site with another scanner is not taken
for a fault. All thresholds are on robust z-scores (median and median absolute deviation), which a few bad images do not
shift. Pictures are compared by content, size and colour mode only: their brightness depends on the exposure, and they
share no space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from sepclr_med.cohort.images import ImageFacts
from sepclr_med.errors import Problem

MIN_IMAGES = 8
MIN_SITE = 3
SHOWN_VALUES = 5
FEW_ODD, ODD_SHARE = 3, 0.25
# The smallest spreads taken seriously: 5 % of an intensity, 0.1 of a correlation's Fisher z. Without them, cohorts
# whose images are nearly equal would raise alarms over nothing.
INTENSITY_FLOOR, OVERLAP_FLOOR = 0.05, 0.1
# Among 72 real grey-matter maps and their 72 T1w images the largest intensity z was 2.2 and the lowest overlap z -5.3;
# the same images shifted by 10 mm or turned by 20 degrees are at -8.9 and below.
INTENSITY_Z, OVERLAP_Z = 6.0, -7.0
LOW_OVERLAP, USUAL_OVERLAP = 0.6, 0.85
MAX_REFERENCE_MAPS = 500
INTENSITIES = {
    "mean": "mean intensity of non-zero voxels",
    "spread": "standard deviation of non-zero voxels",
    "bright": "99th percentile of non-zero voxels",
    "filled": "volume of non-zero voxels",
}

# Makes a Problem about one row of the manifest from a row label and the other fields.
Place = Callable[..., Problem]


class Advice(NamedTuple):
    """What to do about one odd image, and about a cohort of several kinds; how grave the latter is."""

    one: str
    several: str
    severity: str = "info"


GEOMETRY = Advice(
    "nothing, if the header is right (preprocessing resamples); otherwise convert it again from the source",
    "nothing, if it does not go with diagnosis: preprocessing brings all images to one grid",
)
PICTURE_SIZE = Advice(
    "nothing, if volumes.transforms bring all pictures to one size (Resized)",
    "nothing, if it does not go with diagnosis and volumes.transforms bring all pictures to one size (Resized)",
)
COLOURS = Advice(
    "convert it to the mode of the others: preprocessing keeps channels, and all images must have as many",
    "convert all to one mode: preprocessing keeps channels, and all images must have as many",
    "warning",
)


def find_outliers(rows: pd.DataFrame, facts: list[ImageFacts], place: Place) -> list[Problem]:
    """Compare the usable images of a cohort with each other.

    Parameters
    ----------
    rows : DataFrame
        Rows of the manifest, one per image, usable images only.
    facts : list of ImageFacts
        What was read, in the order of ``rows``.
    place : callable
        ``place(label, message=..., ...)`` makes a :class:`Problem` about the row with that index label.

    Returns
    -------
    list of Problem
        Copies of one image under two participants are errors, everything else is a warning or a remark.
    """
    if rows.empty:
        return []
    table = pd.DataFrame([_comparable(found) for found in facts], index=rows.index)
    peers = _peers(rows)
    is_volume = np.array([not found.is_picture for found in facts])
    return [
        *_find_copies(rows, table["digest"], place),
        *_find_odd(table["orientation"], pd.Series("", index=rows.index), "orientation", place),
        *_find_odd(table["spacing"], peers, "voxel size", place),
        *_find_odd(table["shape"], peers, "shape", place, GEOMETRY if is_volume.all() else PICTURE_SIZE),
        *_find_odd(table["mode"], peers, "colour mode", place, COLOURS),
        *_find_odd_intensities(table[is_volume], peers[is_volume], place),
        *_find_failed_registration(table["grid"], facts, peers, place),
    ]


def robust_z(values: pd.Series, peers: pd.Series, floor: float) -> pd.DataFrame:
    """Measure how far each value is from those of its peers, in robust standard deviations.

    With eight peers or more, centre and spread are theirs: z = (x - median) / max(1.4826 MAD, floor). With three to
    seven, the centre is theirs and the spread that of all values about their own centres. With fewer, both are the
    whole cohort's.

    Parameters
    ----------
    values : Series
        One number per image.
    peers : Series
        Label of the group that each image is compared within.
    floor : float
        Smallest spread, in the unit of ``values``.

    Returns
    -------
    DataFrame
        ``away``, the difference from the centre in the unit of ``values``, and ``z``.

    Examples
    --------
    >>> robust_z(pd.Series([0.0, 1, 2, 3, 4, 5, 6, 7, 80]), pd.Series(["A"] * 9), floor=0.1).iloc[-1].round(1).tolist()
    [76.0, 25.6]
    """
    size = values.groupby(peers).transform("count")
    from_peers = values - values.groupby(peers).transform("median")
    own = 1.4826 * from_peers.abs().groupby(peers).transform("median")
    from_all = values - values.median()
    known = size >= MIN_SITE
    pooled, overall = 1.4826 * from_peers[known].abs().median(), 1.4826 * from_all.abs().median()
    spread = own.where(size >= MIN_IMAGES, pooled).where(known, overall)
    away = from_peers.where(known, from_all)
    return pd.DataFrame({"away": away, "z": away / spread.clip(lower=floor)})


def _comparable(facts: ImageFacts) -> dict[str, object]:
    return {
        "digest": facts.digest,
        "orientation": facts.orientation or "none",
        "spacing": " x ".join(f"{length:.2f}" for length in facts.spacing) + " mm" if facts.spacing else "none",
        "shape": " x ".join(str(length) for length in facts.shape[: 2 if facts.is_picture else 3]),
        "mode": facts.mode or "none",
        "grid": facts.grid,
        **{name: np.log(max(getattr(facts, name), np.finfo(float).tiny)) for name in INTENSITIES},
    }


def _peers(rows: pd.DataFrame) -> pd.Series:
    columns = [name for name in ("site", "scanner") if name in rows]
    labels = [rows[name].astype(object).where(rows[name].notna(), "n/a").astype(str) for name in columns]
    return sum((" " + label for label in labels), start=pd.Series("", index=rows.index))


def _find_copies(rows: pd.DataFrame, digests: pd.Series, place: Place) -> list[Problem]:
    problems = []
    for same in digests.index[digests.duplicated(keep=False)].groupby(digests[digests.duplicated(keep=False)]).values():
        first, *copies = same
        for copy in copies:
            owner, other = rows.loc[[first, copy], "participant_id"]
            two = owner != other
            problems.append(
                place(
                    copy,
                    message="the voxels are the same as those of another " + ("participant" if two else "image"),
                    got=f"{owner}, row {first + 2}: {rows.loc[first, 'image_path']}",
                    allowed="an image of its own per row",
                    fix="find out whose image it is, and remove or replace the other row",
                    code="duplicate_content",
                    severity="error" if two else "warning",
                )
            )
    return problems


def _find_odd(values: pd.Series, peers: pd.Series, what: str, place: Place, advice: Advice = GEOMETRY) -> list[Problem]:
    """Name images whose geometry differs from the majority of their peers, and say once which values there are."""
    if values.nunique() < 2:
        return []
    site = peers.where(peers.groupby(peers).transform("size") >= MIN_SITE)
    compared = [(values[site == name], values[site == name]) for name in site.dropna().unique()]
    problems = []
    for group, usual in [*compared, (values[site.isna()], values)]:
        counts = usual.value_counts()
        if counts.iloc[0] <= len(usual) / 2:
            continue
        odd = group[group != counts.index[0]]
        # Many exceptions are a second protocol, not faults: the summary below names it.
        if len(odd) <= max(FEW_ODD, ODD_SHARE * len(usual)):
            problems += [
                place(
                    label,
                    message=f"{what} differs from most comparable images",
                    got=value,
                    allowed=counts.index[0],
                    fix=advice.one,
                    code=f"odd_{what.replace(' ', '_')}",
                    severity="warning",
                )
                for label, value in odd.items()
            ]
    return [*problems, _summarise(values, what, advice)]


def _summarise(values: pd.Series, what: str, advice: Advice) -> Problem:
    counts = values.value_counts()
    shown = ", ".join(f"{value} ({count} images)" for value, count in counts.head(SHOWN_VALUES).items())
    more = f" and {len(counts) - SHOWN_VALUES} more" if len(counts) > SHOWN_VALUES else ""
    return Problem(
        f"images differ in {what}",
        got=shown + more,
        fix=advice.several,
        code=f"mixed_{what.replace(' ', '_')}",
        severity=advice.severity,
    )


def _find_odd_intensities(table: pd.DataFrame, peers: pd.Series, place: Place) -> list[Problem]:
    if len(table) < MIN_IMAGES:
        return []
    scores = {name: robust_z(table[name], peers, INTENSITY_FLOOR) for name in INTENSITIES}
    z = pd.DataFrame({name: score["z"] for name, score in scores.items()})
    worst = z.abs().idxmax(axis=1)
    return [
        place(
            label,
            message=f"{INTENSITIES[name]} is {np.exp(scores[name].loc[label, 'away']):.3g} times the usual",
            got=f"robust z {z.loc[label, name]:.1f}",
            allowed=f"within {INTENSITY_Z:g} of comparable images",
            fix="look at it: wrong units, wrong modality, no skull-stripping, cut field of view or an artefact",
            code="intensity_outlier",
            severity="warning",
        )
        for label, name in worst[z.abs().max(axis=1) > INTENSITY_Z].items()
    ]


def _find_failed_registration(
    grids: pd.Series, facts: list[ImageFacts], peers: pd.Series, place: Place
) -> list[Problem]:
    by_label = dict(zip(grids.index, facts, strict=True))
    problems = []
    for grid, labels in grids.index.groupby(grids).items():  # type: ignore[attr-defined]  # not in the stubs
        if not grid or len(labels) < MIN_IMAGES:
            continue
        overlap = _overlap(pd.Series(by_label).loc[labels])
        fisher = np.arctanh(overlap.clip(-0.9999, 0.9999))
        z = robust_z(fisher, peers.loc[labels], OVERLAP_FLOOR)["z"]
        failed = (z < OVERLAP_Z) | ((overlap < LOW_OVERLAP) & (overlap.median() >= USUAL_OVERLAP))
        problems += [
            place(
                label,
                message="does not lie on the other images of its grid: registration has probably failed",
                got=f"correlation {overlap[label]:.2f} with their median, robust z {z[label]:.1f}",
                allowed=f"usual here: {overlap.median():.2f}",
                fix="look at it over the template; register it again, or leave it out",
                code="overlap_outlier",
                severity="warning",
            )
            for label in labels[failed]
        ]
    return problems


def _overlap(facts: pd.Series) -> pd.Series:
    """Return the correlation of each thumbnail with the voxelwise median of all (of 500 when there are more)."""
    step = -(-len(facts) // MAX_REFERENCE_MAPS)
    median = np.median([found.pattern() for found in facts.iloc[::step]], axis=0)
    median = (median - median.mean()) / (median.std() or 1.0)
    return facts.map(lambda found: float(found.pattern() @ median) / len(median))
