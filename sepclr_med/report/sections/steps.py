"""Versions, seeds, commands and files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from sepclr_med.report import blocks
from sepclr_med.report.collect import dig
from sepclr_med.report.tables import Column, make_table, text_column
from sepclr_med.report.wording import as_number, format_seconds, without_folders

RESULTS = (
    ("data/manifest.tsv", "every image with its participant, split and variables"),
    ("check/problems.tsv", "every problem the check found"),
    ("history.tsv", "the objective and its terms, per epoch"),
    ("embeddings/desc-common_embedding.tsv", "common factors, one row per image"),
    ("embeddings/desc-salient_embedding.tsv", "salient factors, one row per image"),
    ("embeddings/desc-canonical_embedding.tsv", "canonical factors, one row per image"),
    ("analysis/participants.tsv", "ids, variables and all factors in one table, one row per image"),
    ("analysis/separation.tsv", "what each space carries: every variable, scheme and metric"),
    ("analysis/links.tsv", "every factor against every variable"),
    ("analysis/sites.tsv", "the same site by site, and pooled"),
    ("analysis/prediction.tsv", "prediction from whole spaces"),
    ("analysis/similarity.tsv", "similarity of participants"),
    ("analysis/subtypes.tsv", "the group of every target participant"),
    ("analysis/subtypes_criteria.tsv", "criteria for the number of groups"),
    ("analysis/subtypes_links.tsv", "groups against variables"),
    ("maps/maps.json", "facts of every map"),
)


def describe_steps(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on where the results come from, or None when nothing says so.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    steps = [step for step in data["steps"] if step.get("step")]
    files = [{"file": file, "what": what} for file, what in RESULTS if file in data["files"]]
    parts = [
        blocks.table(_step_table(steps)),
        blocks.table(_version_table(steps)),
        blocks.table(_hash_table(steps)),
        blocks.table(
            make_table(
                "files",
                "Tables beside this page: tab-separated, UTF-8, n/a where missing. analysis/README.md shows how R "
                "reads them.",
                [text_column("file", "file"), text_column("what", "what")],
                files,
                sortable=False,
            )
        ),
    ]
    made = blocks.section("provenance", "Versions, seeds and files", parts)
    return made if made["blocks"] else None


def last_date(data: Mapping[str, Any]) -> str:
    """Return the day of the latest step, or nothing.

    Examples
    --------
    >>> last_date({"steps": [{"started": "2026-05-01T10:00:00+00:00"}]})
    '2026-05-01'
    """
    return max((str(step.get("started", ""))[:10] for step in data["steps"]), default="")


def _step_table(steps: list[dict[str, Any]]) -> blocks.Block | None:
    columns = [
        text_column("step", "step"),
        Column("started (UTC)", lambda s: str(s.get("started", ""))[:16].replace("T", " ")),
        Column("time", lambda s: format_seconds(s.get("seconds")), lambda s: as_number(s.get("seconds"))),
        Column("seed", lambda s: "" if s.get("seed") is None else str(s["seed"])),
        Column("device", lambda s: str(s.get("device") or "")),
        Column("command", lambda s: _command(s.get("command"))),
    ]
    return make_table("steps", "Steps, in the order in which they were run.", columns, steps) if steps else None


def _command(parts: Any) -> str:
    if not isinstance(parts, list):
        return ""
    return shlex.join(without_folders(part) for part in map(str, parts))


def _version_table(steps: list[dict[str, Any]]) -> blocks.Block | None:
    found: dict[str, list[str]] = {}
    for step in steps:
        for package, version in (dig(step, "versions", default={}) or {}).items():
            if str(version) not in found.setdefault(str(package), []):
                found[str(package)].append(str(version))
    rows = [{"package": package, "version": ", then ".join(versions)} for package, versions in found.items()]
    columns = [text_column("package", "package"), text_column("version", "version")]
    return make_table("versions", "Versions.", columns, rows, "provenance.json", sortable=False) if rows else None


def _hash_table(steps: list[dict[str, Any]]) -> blocks.Block | None:
    named = {
        key: value
        for step in steps
        for key, value in step.items()
        if key.endswith("_sha256") and isinstance(value, str)
    }
    rows = [{"what": key.removesuffix("_sha256").replace("_", " "), "hash": value[:16]} for key, value in named.items()]
    columns = [text_column("content", "what"), text_column("SHA-256 (first 16 digits)", "hash")]
    return (
        make_table("hashes", "Inputs, by their hash.", columns, rows, "provenance.json", sortable=False)
        if rows
        else None
    )
