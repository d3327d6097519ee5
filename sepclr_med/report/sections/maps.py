"""Where in the brain each factor lives: maps, clusters, regions, and agreement with a planted truth."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.analysis.associations.claims import by_strength
from sepclr_med.report import blocks
from sepclr_med.report.collect import dig, records, texts
from sepclr_med.report.sections.forests import unit
from sepclr_med.report.tables import Column, make_table, number_column, text_column
from sepclr_med.report.wording import (
    as_number,
    format_count,
    format_figure,
    format_interval,
    format_number,
    format_p,
    is_missing,
    say_list,
)

PNG = b"\x89PNG\r\n\x1a\n"
MOST_MAPS = 12
KINDS = {"max_t": "max-t", "tfce": "TFCE"}
MAPS = {"t": "t map", "ig": "integrated gradients", "occlusion": "occlusion"}


def describe_maps(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on maps, or None when ``explain`` was not run.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`; faults met in the tables of maps are added to it.

    Returns
    -------
    dict or None
    """
    folder, facts = data["path"] / "maps", data["objects"].get("maps", {})
    entries = list_maps(facts, folder)
    if not entries:
        return None
    parts: list[blocks.Block | None] = [
        blocks.paragraph(
            "Voxelwise regression of the preprocessed images on each factor, with the covariates named, and what the "
            "encoder is sensitive to. A map shows where images vary with the factor, not what causes it. Correction "
            "over the brain allows the claim that some voxel of a region goes with the factor, not one about each "
            "voxel or the region's exact edge."
        ),
        blocks.paragraph(
            "Which factors: run maps those nearest to a clinical variable (canonical ones where they were tested), "
            "whether or not any link passed; explain maps those it was given, or else the first canonical ones. Beside "
            "each is its own nearest clinical variable. Mapping a factor does not make it a finding."
        ),
        blocks.facts(_settings(dig(facts, "settings", default={}))),
    ]
    for entry in entries[:MOST_MAPS]:
        nearest = _nearest(data["tables"].get("links"), entry["factor"])
        parts += _one_map(folder, {**entry, "nearest": nearest}, data["faults"])
    if len(entries) > MOST_MAPS:
        parts.append(blocks.paragraph(f"Not shown: {say_list(e['factor'] for e in entries[MOST_MAPS:])}; see maps/."))
    parts.append(blocks.notes(texts(facts, "notes")))
    return blocks.section("maps", "Anatomy of the factors", parts, [v for e in entries for v in _verdicts(e)[:1]])


def list_maps(facts: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Return the facts of each mapped factor; factors that have a picture and no facts come last.

    Examples
    --------
    >>> list_maps({"factors": [{"factor": "salient_003", "n": 50}]}, Path("nowhere"))
    [{'factor': 'salient_003', 'n': 50}]
    """
    found = {str(entry["factor"]): {**entry, "factor": str(entry["factor"])} for entry in records(facts, "factors")
             if entry.get("factor") is not None}  # fmt: skip
    shown = {_file(entry, "picture", f"{name}.png") for name, entry in found.items()}
    pictures = sorted(path for path in folder.glob("*.png")) if folder.is_dir() else []
    found |= {path.stem: {"factor": path.stem} for path in pictures if path.name not in shown}
    return list(found.values())


def read_picture(path: Path) -> str:
    """Return a PNG as a data address, and nothing when there is none or it is something else."""
    content = path.read_bytes() if path.is_file() else b""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}" if content.startswith(PNG) else ""


def _one_map(folder: Path, entry: Mapping[str, Any], faults: list[str]) -> list[blocks.Block | None]:
    name = entry["factor"]
    files = {kind: _file(entry, kind, f"{Path(name).name}{end}") for kind, end in
             (("picture", ".png"), ("clusters", "_clusters.tsv"), ("atlas", "_atlas.tsv"))}  # fmt: skip
    said = _verdicts(entry)
    alt = f"Slices of the brain with the maps of {name}. " + " ".join(verdict["text"] for verdict in said)
    tables = [
        blocks.table(_any_table(f"{kind}-{Path(name).name}", words, _read(folder / files[kind], faults), files[kind]))
        for kind, words in (("clusters", f"Clusters of {name}."), ("atlas", f"Regions of {name}."))
    ]
    tables.append(blocks.table(_overlap_table(name, records(entry, "overlap"))))
    return [
        blocks.heading(name),
        blocks.verdicts(said),
        blocks.image(
            read_picture(folder / files["picture"]), alt, f"Maps of {name}; the images themselves are in maps/."
        ),
        blocks.facts(_facts(entry)),
        blocks.details(f"Tables of {name}: clusters, regions, agreement with the truth", tables),
        blocks.notes(texts(entry, "notes")),
    ]


def _nearest(links: pd.DataFrame | None, factor: str) -> str:
    """Say which clinical variable a factor is nearest to; nothing where none was tested against it."""
    if links is None:
        return ""
    own = links[(links["factor"] == factor) & (links["family"] != "shared") & links["p_value"].notna()]
    if not len(own):
        return ""
    best = by_strength(own).iloc[0]
    extent = format_interval(best["estimate"], best["ci_low"], best["ci_high"])
    return f"{best['variable']} ({unit(best['effect'])} = {extent}, p FDR {format_p(best['p_fdr'])})"


def _verdicts(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    return [blocks.verdict(verdict.get("text", ""), verdict.get("level")) for verdict in records(entry, "verdicts")]


def _file(entry: Mapping[str, Any], kind: str, usual: str) -> str:
    # Names come from a file that may have been edited; none of them may lead out of the folder.
    return Path(str(dig(entry, "files", kind, default=usual))).name


def _settings(settings: Any) -> list[tuple[str, str]]:
    spacing = as_number(dig(settings, "spacing_mm"))
    return [
        ("mapped among", str(dig(settings, "over", default=""))),
        ("participants", _count(dig(settings, "n_participants"))),
        ("adjusted for", say_list(texts(settings, "covariates")) or "nothing"),
        ("space", str(dig(settings, "space", default="")) + (f", {spacing:g} mm" if spacing else "")),
        ("voxels in the mask", _count(dig(settings, "mask_voxels"))),
        ("permutations", _count(dig(settings, "n_permutations"))),
        ("seed", str(dig(settings, "seed", default=""))),
    ]


def _facts(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    place = texts(entry, "peak_mm")
    found = dig(entry, "n_significant_voxels", default={})
    counts = found.items() if isinstance(found, Mapping) else [("voxels", found)]
    missing = as_number(entry.get("n_missing"))
    return [
        ("nearest clinical variable", str(entry.get("nearest", ""))),
        ("participants", _count(entry.get("n")) + (f" ({format_count(missing)} without a value)" if missing else "")),
        ("strongest voxel", f"t {format_number(entry.get('max_t'))}" if entry.get("max_t") is not None else ""),
        ("at", f"({', '.join(format_figure(x) for x in place)}) mm" if len(place) == 3 else ""),
        ("t needed for corrected p 0.05", _maybe(entry.get("threshold_t"), format_number)),
        ("smallest corrected p, max-t", _maybe(entry.get("p_fwe"), format_p)),
        ("smallest corrected p, TFCE", _maybe(entry.get("p_tfce"), format_p)),
        ("the same within site, max-t", _maybe(entry.get("p_within_site"), format_p)),
        (
            "voxels with corrected p ≤ 0.05",
            say_list(f"{_count(n)} ({KINDS.get(k, k)})" for k, n in counts if _count(n)),
        ),
        (
            "sensitivity against random weights",
            _maybe(dig(entry, "sensitivity", "random_correlation"), lambda r: f"rank correlation {format_number(r)}"),
        ),
    ]


def _maybe(value: Any, form: Callable[[Any], str]) -> str:
    return "" if as_number(value) is None else form(value)


def _count(value: Any) -> str:
    return _maybe(value, format_count)


def _overlap_table(name: str, rows: list[dict[str, Any]]) -> blocks.Block:
    columns = [
        Column("map", lambda row: MAPS.get(str(row.get("map")), str(row.get("map")))),
        text_column("planted region", "truth"),
        number_column("Dice, equal volume", "dice_equal_volume", 2, "the strongest voxels, as many as were planted"),
        number_column("chance", "dice_chance", 2, "of as many voxels drawn at random"),
        number_column("Dice, corrected p ≤ 0.05", "dice_significant"),
        number_column("peak to truth (mm)", "peak_distance_mm", 0),
    ]
    return make_table(f"overlap-{name}", f"Agreement of {name} with what was planted.", columns, rows, "maps/maps.json")


def _read(path: Path, faults: list[str]) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return pd.read_csv(path, sep="\t", na_values=["n/a", ""], keep_default_na=False)
    except (OSError, ValueError) as error:
        faults.append(f"maps/{path.name}: cannot be read as a table ({str(error).splitlines()[0]}).")
        return None


def _any_table(name: str, caption: str, table: pd.DataFrame | None, file: str) -> blocks.Block | None:
    if table is None or not len(table):
        return None
    # The factor is in the caption.
    columns = [_column(str(column), table[column]) for column in table.columns if column != "factor"]
    return make_table(name, caption, columns, table, f"maps/{file}")


def _column(name: str, values: pd.Series) -> Column:
    heading = name.replace("_", " ").replace("mm3", "(mm³)")
    if not pd.api.types.is_numeric_dtype(values):
        return Column(heading, lambda row: "" if is_missing(row[name]) else KINDS.get(row[name], str(row[name])))
    form = format_p if "p_fwe" in name or name.startswith("p_") else format_figure
    return Column(heading, lambda row: form(row[name]), lambda row: as_number(row[name]))
