"""Every test of factors against variables as one picture of glyphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sepclr_med.report.svg import Canvas
from sepclr_med.report.wording import shorten


@dataclass(frozen=True)
class Cell:
    """A test in the overview: its direction, and how far it stands up (0 none, 1 uncorrected, 2 factors, 3 family)."""

    row: str
    column: str
    positive: bool | None
    level: int


def draw_overview(cells: Sequence[Cell], title: str, description: str) -> Markup:
    """Draw every test of factors (columns) against variables (rows) as a glyph.

    Triangles point up or down with the sign of the estimate, and are diamonds where there is none; filled where the
    corrected p-value is at most 0.05, outlined where only the correction across factors holds, and small where the
    uncorrected one alone does. Everything else is a faint dot.

    Parameters
    ----------
    cells : sequence of Cell
    title, description : str
        The alternative text.

    Returns
    -------
    Markup
        A drawing of fixed size, wider than a phone when there are many factors.
    """
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    left = min(170.0, 10 + 6.0 * max((len(row) for row in rows), default=0))
    head = 14 + 6.2 * max((len(column) for column in columns), default=0)
    side = 17.0
    canvas = Canvas(left + side * len(columns) + 6, head + side * len(rows) + 4)
    for number, column in enumerate(columns):
        x = left + side * (number + 0.5) + 4
        canvas.text(0, 0, column, "label", transform=f"translate({x:.1f} {head - 6:.1f}) rotate(-90)")
    for number, row in enumerate(rows):
        y = head + side * (number + 0.5)
        canvas.line(left, y, left + side * len(columns), y, "grid")
        canvas.text(left - 6, y + 4, shorten(row, int((left - 8) / 6.0)), "label end")
    for cell in cells:
        x = left + side * (columns.index(cell.column) + 0.5)
        y = head + side * (rows.index(cell.row) + 0.5)
        _draw_cell(canvas, cell, x, y)
    drawn = canvas.markup(title, description, "fixed")
    return Markup(str(drawn).replace("<svg ", f'<svg width="{canvas.width:.0f}" height="{canvas.height:.0f}" ', 1))


def _draw_cell(canvas: Canvas, cell: Cell, x: float, y: float) -> None:
    if cell.level == 0:
        canvas.marks([(x, y)], "circle", 0.9, "c0")
        return
    shape = "diamond" if cell.positive is None else "triangle" if cell.positive else "down"
    colour = "c3" if cell.positive is None else "c1" if cell.positive else "c2"
    size = 2.8 if cell.level == 1 else 5.2
    canvas.marks([(x, y)], shape, size, colour if cell.level != 2 else f"{colour} hollow")
