"""The few kinds of block a section is made of; the template knows how to write each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from sepclr_med.report.wording import set_signs, without_participants

# What stands before a verdict, so that its colour is not needed.
LEVELS = {"good": "Good", "info": "Note", "warning": "Caution", "error": "Problem"}
Block = dict[str, Any]


def section(name: str, title: str, blocks: Iterable[Block | None], brief: Sequence[Mapping[str, str]] = ()) -> Block:
    """Return a section: its anchor, heading, blocks, and the verdicts repeated at the top of the page."""
    return {"id": name, "title": title, "blocks": [b for b in blocks if b], "brief": [dict(entry) for entry in brief]}


def paragraph(words: str | Markup) -> Block | None:
    """Return running text; nothing for an empty one."""
    return {"kind": "paragraph", "words": words} if words else None


def heading(words: str) -> Block:
    """Return a heading within a section."""
    return {"kind": "heading", "words": words}


def verdict(text: Any, level: Any = "info") -> dict[str, str]:
    """Return one verdict: a level that is known, its label, and words that name no participant and no disk.

    Examples
    --------
    >>> verdict("site is read", "warning")
    {'level': 'warning', 'label': 'Caution', 'text': 'site is read'}
    """
    known = level if isinstance(level, str) and level in LEVELS else "info"
    return {"level": known, "label": LEVELS[known], "text": set_signs(without_participants(text))}


def verdicts(entries: Iterable[Mapping[str, str]]) -> Block | None:
    """Return a list of verdicts, nothing without any."""
    items = [dict(entry) for entry in entries]
    return {"kind": "verdicts", "items": items} if items else None


def notes(entries: Iterable[Any], title: str = "Notes") -> Block | None:
    """Return a folded list of remarks, nothing without any."""
    items = [set_signs(without_participants(entry)) for entry in entries]
    return details(f"{title} ({len(items)})", [{"kind": "list", "items": items}]) if items else None


def table(content: Block | None) -> Block | None:
    """Return the block of a table made by :func:`sepclr_med.report.tables.make_table`."""
    return {"kind": "table", "table": content} if content and content["rows"] else None


def figure(
    drawings: Sequence[Markup], caption: str, legend: Sequence[Mapping[str, Any]] = (), layout: str = "panels"
) -> Block | None:
    """Return drawings with one caption.

    ``layout``: ``panels`` (three side by side where there is room), ``forests`` (two), ``pair`` (two, the caption
    above) or ``scroll`` (of fixed size, in a box of its own).
    """
    kept = [drawing for drawing in drawings if drawing]
    return (
        {"kind": "figure", "drawings": kept, "caption": caption, "legend": legend, "layout": layout} if kept else None
    )


def image(source: str, alt: str, caption: str) -> Block | None:
    """Return a picture given as a data address."""
    return {"kind": "image", "source": source, "alt": alt, "caption": caption} if source else None


def facts(items: Iterable[tuple[str, str]]) -> Block | None:
    """Return terms and what they are."""
    kept = [{"term": term, "words": words} for term, words in items if words]
    return {"kind": "facts", "items": kept} if kept else None


def details(summary: str, blocks: Iterable[Block | None]) -> Block | None:
    """Return blocks folded away under a line."""
    kept = [block for block in blocks if block]
    return {"kind": "details", "summary": summary, "blocks": kept} if kept else None
