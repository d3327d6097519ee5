"""Small pieces of SVG: escaped, themed by the page's style sheet, readable without colour.

Not matplotlib's SVG, for three reasons: its colours are fixed, so that a dark page would show white sheets; its text
does not keep a readable size on a phone; and it spends some hundred bytes on each point of a scatter plot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

# Okabe and Ito's colours as classes of the style sheet, which has a light and a dark value of each; shapes as well, so
# that nothing depends on colour alone.
SERIES = ("c1", "c2", "c3", "c4", "c5", "c6")
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross")
OUTLINES = {
    "square": "m-{r} -{r}h{d}v{d}h-{d}z",
    "triangle": "m0 -{r}l{r} {d}h-{d}z",
    "down": "m0 {r}l{r} -{d}h-{d}z",
    "diamond": "m0 -{r}l{r} {r}l-{r} {r}l-{r} -{r}z",
    "cross": "m-{r} -{r}l{d} {d}m0 -{d}l-{d} {d}",
}


@dataclass
class Canvas:
    """A drawing under construction.

    Parameters
    ----------
    width, height : float
        Of the view box; the drawing scales with the page.

    Examples
    --------
    >>> canvas = Canvas(20, 10)
    >>> canvas.text(1, 2, "<b>")
    >>> print(canvas.markup("A title", "What it shows"))
    <svg viewBox="0 0 20 10" role="img" aria-label="A title. What it shows"><text x="1" y="2">&lt;b&gt;</text></svg>
    """

    width: float
    height: float
    parts: list[Markup] = field(default_factory=list)

    def add(self, tag: str, content: Any = None, **attributes: Any) -> None:
        """Add an element; attribute names are written with ``_`` for ``-``, and ``kind`` for ``class``."""
        self.parts.append(element(tag, content, **attributes))

    def text(self, x: float, y: float, words: Any, kind: str | None = None, **attributes: Any) -> None:
        """Add a line of text."""
        self.add("text", words, x=_short(x), y=_short(y), kind=kind, **attributes)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Add a straight line."""
        self.add("path", d=f"M{_short(x1)} {_short(y1)}L{_short(x2)} {_short(y2)}", kind=kind)

    def curve(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """Add a line through points."""
        steps = "L".join(f"{_short(x)} {_short(y)}" for x, y in points)
        if steps:
            self.add("path", d=f"M{steps}", kind=kind)

    def marks(self, points: Iterable[tuple[float, float]], shape: str, radius: float, kind: str) -> None:
        """Add any number of equal marks as one path."""
        if path := mark_path(points, shape, radius):
            width = {"stroke_width": _short(2 * radius)} if shape == "circle" else {}
            role = "dots" if shape == "circle" else "strokes" if shape == "cross" else "shapes"
            self.add("path", d=path, kind=f"{role} {kind}", **width)

    def markup(self, title: str, description: str = "", kind: str | None = None) -> Markup:
        """Return the drawing, named for those who hear the page."""
        label = f"{title}. {description}" if description else title
        body = Markup("").join(self.parts)
        box = f"0 0 {_short(self.width)} {_short(self.height)}"
        return element("svg", body, viewBox=box, kind=kind, role="img", aria_label=label)


def element(tag: str, content: Any = None, **attributes: Any) -> Markup:
    """Return one element with everything in it escaped.

    Examples
    --------
    >>> print(element("path", d="M0 0", kind='a"b'))
    <path d="M0 0" class="a&#34;b"></path>
    """
    named = {"class" if name == "kind" else name.replace("_", "-"): value for name, value in attributes.items()}
    written = Markup("").join(Markup(' {}="{}"').format(Markup(n), v) for n, v in named.items() if v is not None)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, "" if content is None else content)


def mark_path(points: Iterable[tuple[float, float]], shape: str, radius: float) -> str:
    """Return the path of equal marks; a circle is a dot of a round-ended stroke, eleven bytes each.

    Examples
    --------
    >>> mark_path([(1, 2)], "circle", 3)
    'M1 2h0'
    """
    sizes = {"r": _short(radius), "d": _short(2 * radius)}
    outline = "h0" if shape == "circle" else OUTLINES[shape].format(**sizes)
    return "".join(f"M{_short(x)} {_short(y)}{outline}" for x, y in points)


def tick_values(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers within the limits.

    Examples
    --------
    >>> tick_values(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * max(high - low, 1e-12)
    return [round(float(v), 10) + 0.0 for v in values if low - slack <= v <= high + slack]


def tick_label(value: float) -> str:
    """Write a tick's number.

    Examples
    --------
    >>> tick_label(-0.5), tick_label(12000.0), tick_label(0.0)
    ('−0.5', '12,000', '0')
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "0" if float(text.replace(",", "")) == 0 else text.replace("-", "\u2212")


def scale_between(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Return the function from data to drawing, cut at the limits.

    Examples
    --------
    >>> to_x = scale_between(0, 1, 100, 200)
    >>> to_x(0.5), to_x(7)
    (150.0, 200.0)
    """
    span = (high - low) or 1.0

    def place(value: float) -> float:
        share = min(max((value - low) / span, 0.0), 1.0)
        return start + share * (stop - start)

    return place


def limits_of(values: Sequence[float], pad: float = 0.04) -> tuple[float, float]:
    """Return limits around values, a little wider.

    Examples
    --------
    >>> limits_of([0.0, 10.0], pad=0.1), limits_of([])
    ((-1.0, 11.0), (0.0, 1.0))
    """
    if not len(values):
        return 0.0, 1.0
    low, high = float(min(values)), float(max(values))
    margin = pad * (high - low) if high > low else max(abs(high), 1.0) * 0.1
    return low - margin, high + margin


def _short(number: float) -> str:
    text = f"{number:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
