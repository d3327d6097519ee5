"""``report``: the run folder as data, the data as sections, the sections as one page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sepclr_med import __version__
from sepclr_med.cohort.embeddings import factor_columns
from sepclr_med.occupancy import alone_in
from sepclr_med.report.brief import say_bottom_line
from sepclr_med.report.collect import collect_run, texts
from sepclr_med.report.methods import describe_methods
from sepclr_med.report.not_run import describe_not_run
from sepclr_med.report.participants import write_participants
from sepclr_med.report.sections.card import describe_card
from sepclr_med.report.sections.cohort import describe_cohort
from sepclr_med.report.sections.controls import describe_controls
from sepclr_med.report.sections.glossary import describe_glossary
from sepclr_med.report.sections.ledger import describe_ledger
from sepclr_med.report.sections.links import describe_links
from sepclr_med.report.sections.maps import describe_maps
from sepclr_med.report.sections.spaces import describe_spaces, gather
from sepclr_med.report.sections.stability import describe_stability
from sepclr_med.report.sections.steps import describe_steps, last_date
from sepclr_med.report.sections.subtypes import describe_subtypes
from sepclr_med.report.sections.training import describe_training
from sepclr_med.report.sections.whole_space import describe_whole_space
from sepclr_med.rundir import RunDir, write_text

MOST_BRIEF = 6


def report(run_dir: str | Path, output: str | Path | None = None) -> Path:
    r"""Write everything a run found as one HTML file, and one table of all its participants.

    The page holds its own style, figures and script: it opens offline, asks nothing of any server, and names no
    participant and no path of the disk it was made on. Steps that were not run are listed with their commands. The same
    run folder gives the same bytes.

    Parameters
    ----------
    run_dir : path
        Folder of the run; any of its files may be absent.
    output : path or None, default=None
        The page; none means ``RUN_DIR/report.html``. ``analysis/participants.tsv`` and ``analysis/README.md`` are
        written in the run folder in either case, when there are embeddings.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunError
        When the folder does not exist, holds nothing, or cannot be written, or another process works in it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "history.tsv").write_text("epoch\ttrain_total\n1\t2.5\n2\t2.0\n")
    ...     page = report(folder).read_text()
    >>> "Training" in page and "sepclr-med evaluate RUN_DIR" in page
    True
    """
    run = RunDir(run_dir)
    with alone_in(run.path):
        data = collect_run(run.path)
        written = write_participants(data, run.path / "analysis")
        data["files"] += [path.relative_to(run.path).as_posix() for path in written]
        page = render_page(describe_run(data))
        return write_text(Path(output) if output is not None else run.path / "report.html", page)


def describe_run(data: dict[str, Any]) -> dict[str, Any]:
    """Return the page as plain values: title, facts, the verdicts in brief, and the sections.

    Parameters
    ----------
    data : dict
        From :func:`sepclr_med.report.collect.collect_run`; faults met on the way are added to it.

    Returns
    -------
    dict
    """
    people = gather(data)
    found = [
        describe_cohort(data),
        describe_training(data),
        describe_card(data),
        describe_spaces(data, people),
        describe_stability(data),
        describe_ledger(data),
        describe_links(data),
        describe_whole_space(data),
        describe_subtypes(data, people),
        describe_maps(data),
        describe_controls(data),
        describe_methods(data),
        describe_steps(data),
        describe_glossary(),
    ]
    sections = [section for section in found if section]
    # Last, because reading the others may have found files that cannot be read; before the methods on the page.
    place = next(number for number, section in enumerate(sections) if section["id"] == "methods")
    sections.insert(place, describe_not_run(data))
    return {
        "title": data["name"],
        "date": last_date(data),
        "version": __version__,
        "is_simulated": bool(data["objects"].get("simulation")),
        "bottom_line": say_bottom_line(data),
        "facts": _headline(data),
        "brief": [_brief(section) for section in sections if section["brief"]],
        "sections": sections,
    }


def render_page(page: Mapping[str, Any]) -> str:
    """Return the page as HTML; every value is escaped.

    Parameters
    ----------
    page : mapping
        From :func:`describe_run`.

    Returns
    -------
    str
    """
    style, script = (_asset(name) for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The page may run its own script, show its own pictures, and load nothing from anywhere.
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
    return (
        _environment()
        .get_template("report.html")
        .render(page=page, style=Markup(style), script=Markup(script), policy=policy)
    )


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("sepclr_med.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (files("sepclr_med.report") / "templates" / name).read_text(encoding="utf-8")


def _brief(section: Mapping[str, Any]) -> dict[str, Any]:
    shown = section["brief"][:MOST_BRIEF]
    return {
        "id": section["id"],
        "title": section["title"],
        "items": shown,
        "more": len(section["brief"]) - len(shown),
    }


def _headline(data: Mapping[str, Any]) -> list[dict[str, str]]:
    cohort = describe_cohort(data)
    stages = [s for block in (cohort or {"blocks": []})["blocks"] if block["kind"] == "flow" for s in block["stages"]]
    items = [(s["name"], s["count"]) for s in stages if s["name"] == "participants in the run"]
    items += [(group["name"], group["count"]) for s in stages for group in s.get("groups", [])]
    items += [(f"{space.replace('_', ' ')} factors", _factors(data, space)) for space in ("common", "salient")]
    link = texts(data["objects"].get("link", {}).get("settings"), "n")
    items += [("participants in the link tests", number) for number in link]
    return [{"term": term, "words": words} for term, words in items if words]


def _factors(data: Mapping[str, Any], space: str) -> str:
    table = data["embeddings"].get(space)
    return "" if table is None else str(len(factor_columns(table)))
