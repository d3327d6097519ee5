"""How well a map finds what was planted into a simulated cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

# Of the largest planted change: inside it a region counts as planted.
TRUTH_SHARE = 0.5
UNIONS = {"subtypes": ("subtypeA", "subtypeB"), "disease": ("common", "subtypeA", "subtypeB")}


def find_truth(run_dir: Path, image_paths: Sequence[str]) -> Path | None:
    """Return the folder with the planted maps, when the run's cohort was simulated.

    Parameters
    ----------
    run_dir : Path
        ``RUN_DIR/cohort/truth`` is looked at first.
    image_paths : sequence of str
        Absolute; then the folders above the first image, up to one that ``simulate`` made.

    Returns
    -------
    Path or None
    """
    above = list(Path(image_paths[0]).parents)[:6] if len(image_paths) else []
    for folder in (run_dir / "cohort", *above):
        if (folder / "simulation.json").is_file() and (folder / "truth").is_dir():
            return folder / "truth"
    return None


def read_truth(folder: Path, mask: np.ndarray, affine: np.ndarray) -> dict[str, np.ndarray]:
    """Return where each component was planted: more than half of its largest change, inside the mask.

    Parameters
    ----------
    folder : Path
        With ``desc-<name>_atrophy.nii.gz`` in template space.
    mask : bool array (X, Y, Z)
    affine : float array (4, 4)

    Returns
    -------
    dict of str to bool array (X, Y, Z)
        By component; ``subtypes`` is the union of both subtypes (what a factor that tells them apart should show), and
        ``disease`` that of all that patients alone have.
    """
    from nilearn.image import resample_to_img

    grid = nib.Nifti1Image(mask.astype(np.float32), affine)
    found = {}
    for path in sorted(folder.glob("desc-*_atrophy.nii.gz")):
        there = resample_to_img(nib.load(path), grid, interpolation="continuous", force_resample=True, copy_header=True)
        change = np.abs(there.get_fdata(dtype=np.float32)) * mask
        found[path.name.split("_")[0].removeprefix("desc-")] = change > TRUTH_SHARE * change.max()
    for union, names in UNIONS.items():
        if all(name in found for name in names):
            found[union] = np.any([found[name] for name in names], axis=0)
    return {name: places for name, places in found.items() if places.any()}


def compare_with_truth(
    values: np.ndarray,
    truth: Mapping[str, np.ndarray],
    mask: np.ndarray,
    affine: np.ndarray,
    significant: np.ndarray | None = None,
) -> list[dict[str, str | float | int | None]]:
    """Compare one map with every planted region.

    Parameters
    ----------
    values : float array (X, Y, Z)
        Larger absolute values mean more.
    truth : mapping of str to bool array (X, Y, Z)
    mask : bool array (X, Y, Z)
    affine : float array (4, 4)
    significant : bool array (X, Y, Z) or None, default=None
        Voxels claimed.

    Returns
    -------
    list of dict
        ``truth, n_truth_voxels, dice_equal_volume`` (of as many voxels as were planted, those with the largest absolute
        values), ``dice_chance`` (of as many voxels drawn at random), ``dice_significant`` (None without a claim or
        where nothing is claimed), ``peak_distance_mm`` (from the largest absolute value to the nearest planted voxel, 0
        inside).

    Examples
    --------
    >>> values = np.zeros((3, 3, 3))
    >>> values[0, 0, 0], values[2, 2, 2] = 2, 1
    >>> planted = values == 1
    >>> found = compare_with_truth(values, {"A": planted}, np.ones((3, 3, 3), bool), np.diag([2.0, 2, 2, 1]))[0]
    >>> found["dice_equal_volume"], found["peak_distance_mm"]
    (0.0, 6.93)
    """
    size = np.where(mask, np.abs(values), -np.inf)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    peak = np.unravel_index(np.argmax(size), size.shape)
    ranked = np.argsort(size, axis=None, kind="stable")[::-1]
    rows = []
    for name, planted in truth.items():
        n_planted = int(planted.sum())
        largest = np.zeros(mask.size, dtype=bool)
        largest[ranked[:n_planted]] = True
        rows.append(
            {
                "truth": name,
                "n_truth_voxels": n_planted,
                "dice_equal_volume": _dice(largest.reshape(mask.shape), planted),
                "dice_chance": round(n_planted / int(mask.sum()), 3),
                "dice_significant": None
                if significant is None or not significant.any()
                else _dice(significant, planted),
                "peak_distance_mm": round(float(ndimage.distance_transform_edt(~planted, spacing)[peak]), 2),
            }
        )
    return rows


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return round(2 * int((first & second).sum()) / max(1, int(first.sum()) + int(second.sum())), 3)
