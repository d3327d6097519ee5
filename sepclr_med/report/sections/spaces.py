"""Participants in both spaces, coloured by variable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sepclr_med.analysis.measures import measure_of
from sepclr_med.analysis.participants import Participants, gather_participants
from sepclr_med.errors import UserError
from sepclr_med.report import blocks
from sepclr_med.report.collect import dig, texts
from sepclr_med.report.scatter import (
    SPACE_NAMES,
    choose_shown,
    describe_far,
    describe_groups,
    draw_legend,
    draw_plane,
    find_plane,
    group_values,
    spaces_to_draw,
)
from sepclr_med.report.wording import say_list

FIRST = ("diagnosis",)
LAST = ("age", "sex", "site", "scanner", "tiv")
NEVER = (
    "participant_id",
    "session_id",
    "run",
    "image_path",
    "mask_path",
    "split",
    "fold",
    "family_id",
    "model_id",
    "role",
)
OPEN, MOST = 4, 12
MIN_KNOWN = 8


def gather(data: Mapping[str, Any]) -> Participants | None:
    """Return one row per participant, or None with a fault noted when embeddings and manifest do not fit.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`; its ``faults`` may grow.

    Returns
    -------
    Participants or None
    """
    manifest = data["manifest"]
    if manifest is None or not data["embeddings"] or "participant_id" not in manifest:
        return None
    wanted = texts(dig(data["config"], "cohort"), "target")
    seen = set(manifest["diagnosis"].dropna()) if "diagnosis" in manifest else set()
    target = wanted if wanted and set(wanted) <= seen else None
    try:
        return gather_participants(data["embeddings"], manifest, target)
    except (UserError, ValueError, KeyError) as error:
        # A hand-edited table must cost its own figures, not the page.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        data["faults"].append(f"embeddings and data/manifest.tsv do not fit each other ({reason}).")
        return None


def describe_spaces(data: Mapping[str, Any], people: Participants | None) -> blocks.Block | None:
    """Return the section of scatter plots, or None without embeddings.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.
    people : Participants or None

    Returns
    -------
    dict or None
    """
    if people is None or len(people) < 3:
        return None
    planes = [plane for plane in (find_plane(people, space) for space in spaces_to_draw(people.spaces)) if plane]
    names = choose_names(people, data["tables"].get("links"))
    if not planes or not names:
        return None
    shown, whom = choose_shown(people)
    figures = []
    for name in names[:MOST]:
        values = people.rows[name]
        groups, is_scale = group_values(values, measure_of(values)[0])
        words = describe_groups(groups, is_scale, shown)
        drawings = [draw_plane(p, shown, groups, f"{_space(p.space)} by {name}", words) for p in planes]
        figures.append(blocks.figure(drawings, name, draw_legend(groups, is_scale, shown), "pair"))
    left = names[MOST:]
    axes = "; ".join(f"{_space(plane.space)}: {plane.words}" for plane in planes)
    rest = f" Not drawn: {say_list(left)}." if left else ""
    parts = [
        blocks.paragraph(
            f"{whom} One mark is one participant, the same place in every picture of a space. Axes: {axes}. Axes of a "
            f"space are arbitrary up to rotation, and two of them are not the whole of it: groups that overlap here "
            f"may still be apart, and a pattern seen here is no test.{rest}"
        ),
        blocks.paragraph(describe_far(planes, shown)),
        *figures[:OPEN],
        blocks.details(f"{len(figures) - OPEN} more variables", figures[OPEN:]) if len(figures) > OPEN else None,
    ]
    return blocks.section("spaces", "The two spaces", parts)


def choose_names(people: Participants, links: pd.DataFrame | None) -> list[str]:
    """Return the variables worth a colour: the diagnosis, those that were linked, other clinical ones, then the rest.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": list("abcdefgh"), "age": range(8), "MADRS": range(8)})
    >>> choose_names(Participants(rows, {}, {}, rows["age"].to_numpy() > 0), None)
    ['MADRS', 'age']
    """
    linked = list(dict.fromkeys(links["variable"])) if links is not None else []
    columns = [c for c in people.rows.columns if c not in (*NEVER, *FIRST, *LAST)]
    order = dict.fromkeys([*FIRST, *(n for n in linked if n not in LAST), *columns, *LAST])
    return [name for name in order if name in people.rows and _worth(people.rows[name], len(people))]


def _worth(values: pd.Series, n: int) -> bool:
    known = values.dropna()
    if len(known) < MIN_KNOWN or known.nunique() < 2:
        return False
    return pd.api.types.is_numeric_dtype(values) or known.nunique() <= n / 2


def _space(name: str) -> str:
    return SPACE_NAMES.get(name, f"{name.replace('_', ' ')} space")
