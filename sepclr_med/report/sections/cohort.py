"""Who was studied: the flow from images to the parts of the analysis, what the check found, and table 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sepclr_med.report import blocks
from sepclr_med.report.collect import dig, texts
from sepclr_med.report.tables import Column, count_column, make_table, number_column, text_column
from sepclr_med.report.wording import (
    as_number,
    format_count,
    format_number,
    is_missing,
    plural,
    say_list,
    without_participants,
)

PARTS = (("train", "training"), ("val", "validation"), ("test", "held out"))
NO_ROLE = "other diagnoses"


def describe_cohort(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on the cohort, or None when neither a manifest nor a check is there.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    manifest, check, tables = data["manifest"], data["objects"].get("check", {}), data["tables"]
    stages = _stages(data)
    if not stages and "table_one" not in tables and not check:
        return None
    brief = _check_verdicts(check)
    parts = [
        blocks.paragraph(_simulated(data)),
        {"kind": "flow", "stages": stages} if stages else None,
        blocks.table(_split_table(manifest, data["config"])) if manifest is not None else None,
        blocks.heading("What the check says about the design") if brief else None,
        blocks.verdicts(brief),
        blocks.table(_problem_table(tables.get("problems"))),
        blocks.table(_table_one(tables.get("table_one"))),
    ]
    return blocks.section("cohort", "Cohort and design", parts, brief)


def roles_of(manifest: pd.DataFrame, config: Mapping[str, Any]) -> pd.Series:
    """Return ``background``, ``target`` or ``other diagnoses`` for every row; empty words without a configuration.

    Examples
    --------
    >>> table = pd.DataFrame({"diagnosis": ["HC", "MDD", None]})
    >>> roles_of(table, {"cohort": {"background": ["HC"], "target": ["MDD"]}}).tolist()
    ['background', 'target', 'other diagnoses']
    """
    named = {str(value): role for role in ("background", "target") for value in texts(dig(config, "cohort"), role)}
    if "diagnosis" not in manifest or not named:
        return pd.Series("", index=manifest.index)
    return manifest["diagnosis"].astype(object).map(lambda value: named.get(str(value), NO_ROLE))


def _simulated(data: Mapping[str, Any]) -> str:
    if not data["objects"].get("simulation") and not dig(data["config"], "cohort", "simulate"):
        return ""
    return (
        "This cohort was simulated: the disease change in its images was planted, and its clinical variables were "
        "drawn with it. Nothing here is a finding about patients."
    )


def _stages(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    manifest, check = data["manifest"], data["objects"].get("check", {})
    stages: list[dict[str, Any]] = []
    n_images, n_usable = as_number(check.get("n_images")), as_number(check.get("n_usable"))
    if n_images is not None:
        stages.append({"name": "images in the manifest", "count": format_count(n_images), "note": ""})
        if n_usable is not None:
            lost = n_images - n_usable
            note = f"{plural(lost, 'image')} could not be used" if lost else "every image can be read"
            stages.append({"name": "images usable", "count": format_count(n_usable), "note": note})
    if manifest is not None and "participant_id" in manifest:
        people = manifest["participant_id"].nunique()
        note = "one image each" if people == len(manifest) else f"{plural(len(manifest), 'image')} between them"
        stages.append({"name": "participants in the run", "count": format_count(people), "note": note})
        stages += _group_stage(manifest, data["config"])
    shown = next((table for table in data["embeddings"].values()), None)
    if shown is not None:
        skipped = len(manifest) - len(shown) if manifest is not None else 0
        note = f"{plural(skipped, 'image')} without one" if skipped > 0 else "none skipped"
        stages.append({"name": "images with an embedding", "count": format_count(len(shown)), "note": note})
    return stages


def _group_stage(manifest: pd.DataFrame, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = roles_of(manifest, config)
    groups = []
    for name in ("background", "target", NO_ROLE):
        rows = manifest[role == name]
        if len(rows):
            diagnoses = say_list(sorted(rows["diagnosis"].dropna().astype(str).unique()), 4)
            groups.append(
                {"name": name, "count": format_count(rows["participant_id"].nunique()), "note": diagnoses or "n/a"}
            )
    return [{"name": "groups", "groups": groups}] if groups else []


def _split_table(manifest: pd.DataFrame, config: Mapping[str, Any]) -> blocks.Block | None:
    if "split" not in manifest or "participant_id" not in manifest:
        return None
    role = roles_of(manifest, config)
    names = [name for name in ("background", "target", NO_ROLE) if (role == name).any()]
    rows = []
    for part, words in PARTS:
        mine = manifest["split"] == part
        if mine.any():
            people = {name: manifest.loc[mine & (role == name), "participant_id"].nunique() for name in names}
            sites = manifest.loc[mine, "site"].nunique() if "site" in manifest else None
            rows.append(
                {
                    "part": words,
                    "participants": manifest.loc[mine, "participant_id"].nunique(),
                    "images": int(mine.sum()),
                    "sites": sites,
                    **people,
                }
            )
    columns = [text_column("part", "part"), *(count_column(name, name) for name in names)]
    columns += [count_column("participants", "participants"), count_column("images", "images")]
    columns += [count_column("sites", "sites")] if "site" in manifest else []
    caption = "Parts of the cohort, counted in participants. Whatever is fitted is fitted on training participants."
    return make_table("parts", caption, columns, rows, "data/manifest.tsv", sortable=False)


def _check_verdicts(check: Mapping[str, Any]) -> list[dict[str, str]]:
    if not check:
        return []
    failed = [blocks.verdict("The check found errors that had to be mended first.", "error")] * (
        not check.get("ok", True)
    )
    said = texts(check, "verdicts")
    good = len(said) == 1 and said[0].startswith("Nothing in the design stands out")
    return failed + [blocks.verdict(text, "good" if good else "warning") for text in said]


def _problem_table(problems: pd.DataFrame | None) -> blocks.Block | None:
    if problems is None or not len(problems):
        return None
    grouped = [
        {
            "severity": severity,
            "column": column,
            "message": without_participants(rows["message"].iloc[0]),
            "fix": without_participants(rows["fix"].iloc[0]),
            "count": len(rows),
        }
        for (severity, _, column), rows in problems.groupby(["severity", "code", "column"], sort=False)
    ]
    columns = [
        text_column("severity", "severity"),
        text_column("column", "column"),
        count_column("times", "count"),
        text_column("what (first of its kind)", "message"),
        text_column("what can be done", "fix"),
    ]
    caption = "Problems found by the check, by kind; rows and participants concerned are in the file."
    return make_table("problems", caption, columns, grouped, "check/problems.tsv")


def _table_one(table: pd.DataFrame | None) -> blocks.Block | None:
    if table is None:
        return None

    def name(row: Mapping[str, Any]) -> str:
        return str(row["variable"]) if row["level"] == "" else str(row["level"])

    def missing(row: Mapping[str, Any]) -> str:
        counts = [row["missing_background"], row["missing_target"]]
        return "" if all(map(is_missing, counts)) else " / ".join(map(format_count, counts))

    columns = [
        Column("variable", name),
        text_column("statistic", "statistic"),
        Column("background", lambda row: _figure(row, "background")),
        Column("target", lambda row: _figure(row, "target")),
        Column("missing", missing, None, "values missing in background / target"),
        number_column("SMD", "smd", 2, "standardised mean difference; below 0.1 is usually called balanced"),
    ]
    columns[-1] = Column(
        "SMD", lambda row: "" if is_missing(row["smd"]) else format_number(row["smd"]), None, columns[-1].meaning
    )
    caption = "Table 1. Background and target, counted in participants."
    made = make_table(
        "table-one", caption, columns, table, "check/table_one.tsv",
        mark=lambda row: "level" if row["level"] != "" else "", sortable=False,
    )  # fmt: skip
    for column in made["columns"][2:]:
        column["numeric"] = True
    return made


def _figure(row: Mapping[str, Any], role: str) -> str:
    value, spread = row[role], row[f"{role}_spread"]
    if is_missing(value):
        return "n/a"
    if is_missing(spread):
        return format_count(value) if float(value).is_integer() else format_number(value)
    if str(row["statistic"]).startswith("mean"):
        digits = 2 if abs(float(spread)) < 10 else 1
        return f"{format_number(value, digits)} ({format_number(spread, digits)})"
    return f"{format_count(value)} ({float(spread):.0f}%)"
