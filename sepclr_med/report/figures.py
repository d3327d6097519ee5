"""The page's drawings of numbers: estimates with their intervals, and curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sepclr_med.report.svg import (
    SERIES,
    SHAPES,
    Canvas,
    limits_of,
    scale_between,
    tick_label,
    tick_values,
)
from sepclr_med.report.wording import as_number, shorten

# (class of the style sheet, shape) of each space, the same in every figure.
SPACE_STYLES = {
    "common": ("c1", "circle"),
    "salient": ("c2", "square"),
    "canonical": ("c2", "square"),
    "both": ("c4", "diamond"),
    "covariates": ("c3", "triangle"),
    "voxel_pca": ("c0", "down"),
}
CHARACTER = 5.6


@dataclass(frozen=True)
class Mark:
    """One estimate with its interval; ``series`` names its style."""

    value: float | None
    low: float | None = None
    high: float | None = None
    series: str = "salient"


@dataclass(frozen=True)
class Row:
    """One line of an interval plot.

    Parameters
    ----------
    label : str
        Left of the axis.
    marks : tuple of Mark
        Estimates, drawn below each other.
    words : str, default=""
        Right of the axis.
    chance : float or None, default=None
        Where a short vertical line stands.
    band : float or None, default=None
        Half-width of a shaded zone around zero, such as the minimum detectable effect.
    pooled : bool, default=False
        Whether the row sums up the ones above.
    """

    label: str
    marks: tuple[Mark, ...]
    words: str = ""
    chance: float | None = None
    band: float | None = None
    pooled: bool = False


def draw_intervals(
    rows: Sequence[Row],
    title: str,
    description: str,
    axis: str,
    limits: tuple[float, float] | None = None,
    zero: float | None = None,
    stacked: bool = False,
    width: float = 420,
) -> Markup:
    """Draw estimates with intervals, one row per label; ends outside the limits are cut and marked by an arrow.

    Parameters
    ----------
    rows : sequence of Row
    title, description : str
        The alternative text.
    axis : str
        What the horizontal axis measures.
    limits : pair of float or None, default=None
        Of the axis; none means those of the data.
    zero : float or None, default=None
        Where a vertical line runs through all rows.
    stacked : bool, default=False
        Label and words above each line instead of beside it, which leaves the whole width to the axis.
    width : float, default=420
        Of the view box; at that size text is 11 px high.

    Returns
    -------
    Markup
    """
    low, high = limits or _data_limits(rows, zero)
    left = min(175.0, 12 + CHARACTER * max((len(row.label) + row.pooled for row in rows), default=0))
    right = 8 + CHARACTER * max((len(row.words) for row in rows), default=0)
    if stacked:
        left = right = 0.0
    most = max((len(row.marks) for row in rows), default=1)
    step = 34.0 if stacked else 17.0 if most == 1 else 9.0 * most + 8
    foot = 6 + step * len(rows)
    canvas = Canvas(width, foot + 34)
    place = scale_between(low, high, left + 6, width - right - 6)
    for value in tick_values(low, high, 4):
        canvas.line(place(value), 4, place(value), foot, "grid")
        canvas.text(place(value), foot + 13, tick_label(value), "tick middle")
    if zero is not None:
        canvas.line(place(zero), 4, place(zero), foot, "zero")
    canvas.text(place((low + high) / 2), foot + 28, axis, "axis middle")
    for number, row in enumerate(rows):
        top = 6 + step * number
        if stacked:
            canvas.text(0, top + 12, shorten(row.label, 30), "label strong")
            canvas.text(width, top + 12, row.words, "figure end")
            _draw_row(canvas, row, top + 15, step - 17, place, (low, high))
            continue
        canvas.text(left - 4, top + step / 2 + 4, shorten(row.label, int((left - 8) / CHARACTER)), _kind(row))
        canvas.text(width, top + step / 2 + 4, row.words, "figure end")
        _draw_row(canvas, row, top, step, place, (low, high))
    return canvas.markup(title, description)


def _kind(row: Row) -> str:
    return "label end strong" if row.pooled else "label end"


def _draw_row(
    canvas: Canvas,
    row: Row,
    top: float,
    step: float,
    place: Callable[[float], float],
    limits: tuple[float, float],
) -> None:
    middle = top + step / 2
    if row.band:
        edges = place(max(-row.band, limits[0])), place(min(row.band, limits[1]))
        canvas.add("rect", x=f"{edges[0]:.1f}", y=f"{top + 1:.1f}", width=f"{edges[1] - edges[0]:.1f}",
                   height=f"{step - 2:.1f}", kind="band")  # fmt: skip
    if row.chance is not None:
        canvas.line(place(row.chance), top + 1, place(row.chance), top + step - 1, "chance")
    for number, mark in enumerate(row.marks):
        y = middle + (number - (len(row.marks) - 1) / 2) * 9
        _draw_mark(canvas, mark, y, place, limits, row.pooled)


def _draw_mark(
    canvas: Canvas, mark: Mark, y: float, place: Callable[[float], float], limits: tuple[float, float], pooled: bool
) -> None:
    if mark.value is None:
        return
    colour, shape = SPACE_STYLES.get(mark.series, ("c0", "diamond"))
    shape = "diamond" if pooled else shape
    if mark.low is not None and mark.high is not None:
        canvas.line(place(mark.low), y, place(mark.high), y, f"interval {colour}")
    for outside, edge, turn in ((mark.value < limits[0], limits[0], -1), (mark.value > limits[1], limits[1], 1)):
        if outside:
            x = place(edge)
            canvas.add("path", d=f"M{x:.1f} {y - 4:.1f}l{6 * turn} 4l{-6 * turn} 4z", kind=f"shapes {colour}")
            return
    canvas.marks([(place(mark.value), y)], shape, 5 if pooled else 3.5, colour)


def _data_limits(rows: Sequence[Row], zero: float | None) -> tuple[float, float]:
    ends = [end for row in rows for mark in row.marks for end in (mark.value, mark.low, mark.high) if end is not None]
    ends += [row.chance for row in rows if row.chance is not None] + ([zero] if zero is not None else [])
    return limits_of(ends, 0.03)


@dataclass(frozen=True)
class Curve:
    """A line of a curve plot; missing values are left out, and few points are marked."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    dashed: bool = False


def draw_curves(
    curves: Sequence[Curve], title: str, description: str, axis: str, width: float = 300, height: float = 190
) -> Markup:
    """Draw lines against a common axis, each named at its end in the legend above.

    Parameters
    ----------
    curves : sequence of Curve
    title, description : str
        The title is shown and begins the alternative text.
    axis : str
        What the horizontal axis measures.
    width, height : float
        Of the view box.

    Returns
    -------
    Markup
    """
    known = [(c, [(as_number(x), as_number(y)) for x, y in zip(c.x, c.y, strict=True)]) for c in curves]
    kept = [(c, [(x, y) for x, y in points if x is not None and y is not None]) for c, points in known]
    kept = [(c, points) for c, points in kept if points]
    canvas = Canvas(width, height)
    canvas.text(0, 12, title, "heading")
    lows = limits_of([y for _, points in kept for _, y in points], 0.06)
    ends = [x for _, points in kept for x, _ in points] or [0.0, 1.0]
    to_x = scale_between(min(ends), max(ends), 46, width - 10)
    to_y = scale_between(*lows, height - 36, 36)
    for value in tick_values(*lows, 4):
        canvas.line(46, to_y(value), width - 10, to_y(value), "grid")
        canvas.text(42, to_y(value) + 4, tick_label(value), "tick end")
    for value in tick_values(min(ends), max(ends), 5):
        if float(value).is_integer():
            canvas.text(to_x(value), height - 20, tick_label(value), "tick middle")
    canvas.text((46 + width - 10) / 2, height - 5, axis, "axis middle")
    for curve, points in kept:
        places = [(to_x(x), to_y(y)) for x, y in points]
        canvas.curve(places, f"curve {SERIES[curve.style % 6]}{' dashed' if curve.dashed else ''}")
        if len(places) <= 12:
            canvas.marks(places, SHAPES[curve.style % 6], 2.6, SERIES[curve.style % 6])
    _draw_key(canvas, [c for c, _ in kept], width)
    return canvas.markup(title, description)


def _draw_key(canvas: Canvas, curves: Sequence[Curve], width: float) -> None:
    x = 0.0
    for curve in curves:
        if not curve.name:
            continue
        canvas.curve([(x, 23), (x + 16, 23)], f"curve {SERIES[curve.style % 6]}{' dashed' if curve.dashed else ''}")
        canvas.text(x + 20, 27, curve.name, "label")
        x += 32 + CHARACTER * len(curve.name)
