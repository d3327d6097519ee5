"""``maps.json`` and the printed summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.errors import RunError
from sepclr_med.rundir import read_json, write_json

COLUMNS = [
    *("factor", "space", "n", "n_missing", "covariates", "max_t", "x", "y", "z", "p_fwe", "p_tfce", "p_within_site"),
    *("n_significant_voxels", "random_correlation", "truth", "dice", "peak_distance_mm"),
]


def write_facts(
    folder: Path, model_id: str, settings: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], notes: list[str]
) -> Path:
    """Write ``maps.json``; entries of other factors of the same weights are kept.

    Parameters
    ----------
    folder : Path
    model_id : str
    settings : mapping
        Of this call.
    entries : sequence of mapping
        One per factor, in order.
    notes : list of str

    Returns
    -------
    Path
    """
    path = folder / "maps.json"
    before: dict[str, Any] = {}
    with suppress(RunError, OSError):
        before = read_json(path)
    mine = {entry["factor"] for entry in entries}
    kept = [entry for entry in before.get("factors", []) if entry["factor"] not in mine]
    if before.get("model_id") != model_id:
        kept = []
    own = [{**entry, "settings": dict(settings)} for entry in entries]
    return write_json(
        path, {"model_id": model_id, "settings": dict(settings), "factors": [*own, *kept], "notes": notes}
    )


def summarise(entries: Sequence[Mapping[str, Any]], notes: list[str]) -> pd.DataFrame:
    """Return one row per factor; ``attrs["notes"]`` has the notes and verdicts."""
    records = []
    for entry in entries:
        place = dict(zip("xyz", entry.get("peak_mm", []), strict=False))
        rows = [row for row in entry["overlap"] if row["map"] == "t"] or entry["overlap"]
        best = max(rows, key=lambda row: row["dice_equal_volume"], default={})
        records.append(
            {
                **{name: entry.get(name) for name in ("factor", "space", "n", "n_missing", "max_t", "p_fwe", "p_tfce")},
                **place,
                "p_within_site": entry.get("p_within_site"),
                "covariates": ",".join(entry.get("covariates", [])),
                "n_significant_voxels": entry.get("n_significant_voxels", {}).get("max_t"),
                "random_correlation": entry.get("sensitivity", {}).get("random_correlation"),
                "truth": best.get("truth"),
                "dice": best.get("dice_equal_volume"),
                "peak_distance_mm": best.get("peak_distance_mm"),
            }
        )
    table = pd.DataFrame(records, columns=COLUMNS)
    said = [verdict["text"] for entry in entries for verdict in entry["verdicts"]]
    table.attrs["notes"] = [*said, *(note for entry in entries for note in entry["notes"]), *notes]
    return table
