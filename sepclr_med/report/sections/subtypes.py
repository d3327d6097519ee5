"""Groups among target participants, where any were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sepclr_med.analysis.participants import Participants
from sepclr_med.report import blocks
from sepclr_med.report.collect import records, texts
from sepclr_med.report.figures import Curve, draw_curves
from sepclr_med.report.scatter import (
    choose_shown,
    describe_far,
    describe_groups,
    draw_legend,
    draw_plane,
    find_plane,
    group_values,
)
from sepclr_med.report.sections.card import interval_column
from sepclr_med.report.sections.forests import unit
from sepclr_med.report.tables import Column, count_column, has_values, make_table, number_column, p_column, text_column
from sepclr_med.report.wording import as_number, format_count, format_p, say_list, without_participants

MODELS = {"kmeans": "k-means", "k-means": "k-means", "gmm": "Gaussian mixture", "gaussian_mixture": "Gaussian mixture"}
MIN_DRAWN = 5


def describe_subtypes(data: Mapping[str, Any], people: Participants | None) -> blocks.Block | None:
    """Return the section on groups, or None when they were not looked for.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.
    people : Participants or None

    Returns
    -------
    dict or None
    """
    found, criteria = data["objects"].get("subtypes", {}), data["tables"].get("criteria")
    if not found and criteria is None:
        return None
    n_groups = as_number(found.get("n_groups"))
    words = found.get("verdict")
    said = [blocks.verdict(words, "info")] if isinstance(words, str) and words else []
    parts = [
        blocks.paragraph(
            "Whether target participants fall into groups in the salient space. A clustering algorithm returns groups "
            "from any data; only agreement of the criteria below, against what one cloud or a continuum would give, is "
            "evidence for them. That none were found does not prove a continuum."
        ),
        blocks.verdicts(said),
        blocks.facts(_facts(found)),
        _criteria_figure(criteria),
        blocks.table(_criteria_table(criteria, as_number(found.get("n_fitted")))),
        _group_figure(data["assignments"], people) if n_groups != 1 else None,
        blocks.table(_links_table(data["tables"].get("subtype_links"))),
        blocks.notes(texts(found, "notes")),
    ]
    return blocks.section("subtypes", "Subtypes", parts, said)


def group_column(assignments: pd.DataFrame) -> str | None:
    """Return the column of ``subtypes.tsv`` that holds the group.

    Examples
    --------
    >>> group_column(pd.DataFrame(columns=["participant_id", "group", "probability"]))
    'group'
    """
    for name in ("group", "subtype", "class", "cluster", "label"):
        if name in assignments:
            return name
    return None


def _model(name: Any) -> str:
    return MODELS.get(str(name), str(name).replace("_", " "))


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    n_groups, fitted, sizes = (
        as_number(found.get("n_groups")),
        as_number(found.get("n_fitted")),
        found.get("group_sizes"),
    )
    return [
        ("groups", "" if n_groups is None else "none found" if n_groups <= 1 else f"{n_groups:.0f}"),
        ("model", _model(found["model"]) if found.get("model") and n_groups != 1 else ""),
        ("sizes in the fit", say_list(map(format_count, sizes)) if isinstance(sizes, list) and sizes else ""),
        ("fitted on", " ".join([format_count(fitted), str(found.get("fitted_on", "participants"))]) if fitted else ""),
        *[(f"gap in {gap.get('geometry')}, p", format_p(gap.get("p_value"))) for gap in records(found, "gaps")],
    ]


def _criteria_figure(criteria: pd.DataFrame | None) -> blocks.Block | None:
    if criteria is None or not len(criteria):
        return None
    models = list(dict.fromkeys(criteria["model"]))
    drawings = []
    for title, solid, dashed in (
        ("BIC (lower is better)", "bic", None),
        ("silhouette", "silhouette", "silhouette_null_95"),
        ("stability (adjusted Rand)", "stability_bootstrap", "stability_split_half"),
    ):
        curves = []
        for style, model in enumerate(models):
            rows = criteria[criteria["model"] == model].sort_values("k")
            curves.append(Curve(_model(model), rows["k"].tolist(), rows[solid].tolist(), style))
            if dashed:
                curves.append(Curve("", rows["k"].tolist(), rows[dashed].tolist(), style, dashed=True))
        if any(as_number(y) is not None for curve in curves for y in curve.y):
            drawings.append(
                draw_curves(curves, title, "Values are in the table of criteria below.", "number of groups")
            )
    caption = (
        "Criteria against the number of groups. Dashed: for the silhouette, the 95th percentile under one Gaussian of "
        "the same covariance; for stability, split halves instead of bootstrap samples."
    )
    return blocks.figure(drawings, caption)


def _criteria_table(criteria: pd.DataFrame | None, n: float | None) -> blocks.Block | None:
    if criteria is None:
        return None
    criteria = criteria.assign(smallest=(criteria["smallest_share"] * n).round() if n else float("nan"))
    columns = [
        Column("model", lambda row: _model(row["model"])),
        count_column("k", "k", "number of groups"),
        number_column("BIC", "bic", 1, "Bayesian information criterion; lower is better"),
        count_column("smallest", "smallest", "participants in the smallest group; one or two are outliers, no group"),
        number_column("silhouette", "silhouette", 3),
        number_column("null 95%", "silhouette_null_95", 3, "95th percentile of the silhouette under one Gaussian"),
        p_column("p", "p_value", "of the silhouette under one Gaussian"),
        number_column("bootstrap", "stability_bootstrap", 2, "adjusted Rand index between bootstrap samples"),
        number_column("split half", "stability_split_half", 2, "adjusted Rand index between halves"),
    ]
    caption = "Criteria for the number of groups."
    kept = [c for c in columns if c.heading != "smallest" or has_values(criteria, "smallest")]
    return make_table("criteria", caption, kept, criteria, "analysis/subtypes_criteria.tsv")


def _group_figure(assignments: pd.DataFrame | None, people: Participants | None) -> blocks.Block | None:
    if assignments is None or people is None or "participant_id" not in assignments:
        return None
    column = group_column(assignments)
    spaces = [space for space in ("canonical", "salient") if space in people.spaces]
    plane = find_plane(people, spaces[0]) if column and spaces else None
    if plane is None:
        return None
    named = assignments.drop_duplicates("participant_id").set_index("participant_id")[column]
    groups_of = people.rows["participant_id"].map(named)
    who = groups_of.notna().to_numpy()
    if who.sum() < MIN_DRAWN or groups_of.nunique() < 2:
        return None
    shown, words = choose_shown(people)
    is_held_out = not words.startswith("All") and (who & shown).sum() >= MIN_DRAWN
    shown = who & shown if is_held_out else who
    groups, is_scale = group_values(groups_of.astype(object), "categorical")
    words = describe_groups(groups, is_scale, shown)
    drawing = draw_plane(plane, shown, groups, "Groups in the salient space", words, width=320)
    whom = f"the {int(shown.sum())} {'held-out ' if is_held_out else ''}participants with a group"
    caption = f"The groups: {whom}, on {plane.words}. {describe_far([plane], shown)}"
    return blocks.figure([drawing], caption, draw_legend(groups, is_scale, shown), "pair")


def _links_table(links: pd.DataFrame | None) -> blocks.Block | None:
    if links is None or not len(links):
        return None
    columns = [
        text_column("variable", "variable"),
        text_column("group", "factor"),
        count_column("n", "n"),
        interval_column("estimate [95% CI]", "estimate"),
        Column("unit", lambda row: unit(row["effect"])),
        p_column("p", "p_value", "permutations within blocks, where there are any"),
        p_column("p free", "p_free", "free permutations: a warning, not a result"),
        p_column("p FWE", "p_fwe"),
        p_column("p FDR", "p_fdr"),
        Column("note", lambda row: without_participants(row["note"])),
    ]
    kept = [c for c in columns if c.heading != "note" or has_values(links, "note")]
    caption = "Groups against clinical variables."
    return make_table("subtype-links", caption, kept, links, "analysis/subtypes_links.tsv")
