"""What the maps of a factor say, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Rank correlation with the map of an untrained network: above the first nearly the same map, above the second partly.
MUCH_ALIKE, PARTLY_ALIKE = 0.7, 0.4


def judge(entry: Mapping[str, Any], alpha: float = 0.05) -> list[dict[str, str]]:
    """Return sentences about one factor's maps.

    Parameters
    ----------
    entry : mapping
        Facts of one factor, as in ``maps.json``.
    alpha : float, default=0.05

    Returns
    -------
    list of {"level", "text"}
        ``level`` is ``good``, ``info`` or ``warning``.

    Examples
    --------
    >>> entry = {"factor": "severity", "n": 40, "p_fwe": 0.3, "n_significant_voxels": {"max_t": 0}}
    >>> judge(entry)[0]["text"]
    'severity: no voxel survives correction over the brain (n = 40, smallest corrected p 0.3): not detected'
    """
    said = []
    if entry.get("p_fwe") is not None:
        said += _about_regression(entry, alpha)
    sanity = entry.get("sensitivity", {}).get("random_correlation")
    if sanity is not None:
        said.append(_about_sanity(entry["factor"], sanity, entry["sensitivity"]["input_correlation"]))
    rows = [row for row in entry.get("overlap", []) if row["map"] == "t"] or entry.get("overlap", [])
    if rows:
        best = max(rows, key=lambda row: row["dice_equal_volume"])
        text = (
            f"{entry['factor']}: of what was planted, {best['truth']} is matched best: Dice "
            f"{best['dice_equal_volume']:.2f} at equal volume (chance {best['dice_chance']:.2f}), peak "
            f"{best['peak_distance_mm']:.0f} mm from it"
        )
        said.append({"level": "info", "text": text})
    return said


def _about_regression(entry: Mapping[str, Any], alpha: float) -> list[dict[str, str]]:
    name, counts = entry["factor"], entry["n_significant_voxels"]
    if not any(counts.values()):
        smallest = min(p for p in (entry["p_fwe"], entry.get("p_tfce")) if p is not None)
        text = (
            f"{name}: no voxel survives correction over the brain (n = {entry['n']}, smallest corrected p "
            f"{smallest:.2g}): not detected"
        )
        return [{"level": "info", "text": text}]
    place = ", ".join(f"{value:.0f}" for value in entry["peak_mm"])
    found = " and ".join(
        f"{count} by {'max-t' if kind == 'max_t' else 'TFCE'}" for kind, count in counts.items() if count
    )
    text = f"{name}: {found} voxels with corrected p <= {alpha:g}; strongest at ({place}) mm, t {entry['max_t']:.1f}"
    said = [{"level": "good", "text": text}]
    within = entry.get("p_within_site")
    if within is not None and entry["p_fwe"] <= alpha < within:
        text = f"{name}: vanishes once permutations stay within site (p {entry['p_fwe']:.2g} becomes {within:.2g})"
        said = [{"level": "warning", "text": text}]
    return said


def _about_sanity(name: str, correlation: float, images: float) -> dict[str, str]:
    if correlation > MUCH_ALIKE:
        text = (
            f"{name}: its sensitivity map is much like that of an untrained network (rank correlation "
            f"{correlation:.2f}): it shows where images differ more than what was learned"
        )
        return {"level": "warning", "text": text}
    how = "is partly like" if correlation > PARTLY_ALIKE else "differs from"
    text = (
        f"{name}: its sensitivity map {how} that of an untrained network (rank correlation {correlation:.2f}, "
        f"and {images:.2f} with where the images differ)"
    )
    return {"level": "info", "text": text}
