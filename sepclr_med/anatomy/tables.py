"""NIfTI files and tables of a map: clusters with their peaks, and regions of the user's atlas."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from sepclr_med.atomic import atomic_path
from sepclr_med.errors import ManifestError, Problem, UserError

CLUSTER_COLUMNS = ["factor", "map", "cluster", "x", "y", "z", "peak_t", "p_fwe", "size_mm3"]
# In nilearn's words: the closest that two peaks of a table may lie, in mm. One row per cluster is kept.
PEAK_DISTANCE = 1000.0
# What tools write for the index and the name of a region; BIDS's own first.
INDEX_NAMES = ("index", "label", "id", "value")
REGION_NAMES = ("name", "region", "label_name", "structure", "label")


def save_map(values: np.ndarray, affine: np.ndarray, path: Path, template: bool = True) -> Path:
    """Write a float32 NIfTI image, atomically; the same map is the same bytes whenever it is written.

    Parameters
    ----------
    values : array (X, Y, Z)
    affine : array (4, 4)
        Voxel to mm.
    path : Path
        Ends in ``.nii.gz``.
    template : bool, default=True
        Whether coordinates are those of the template (MNI); otherwise of the scanner.
    """
    image = nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine)
    for form in (image.set_sform, image.set_qform):
        form(affine, code="mni" if template else "scanner")
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
    return path


def cluster_table(
    factor: str, t: np.ndarray, affine: np.ndarray, claims: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> pd.DataFrame:
    """List the clusters of significant voxels with the place and size of their peak.

    Parameters
    ----------
    factor : str
    t : float array (X, Y, Z)
    affine : float array (4, 4)
    claims : mapping of str to (bool array, float array)
        By kind of test (``max_t``, ``tfce``): the significant voxels, and -log10 of the corrected p.

    Returns
    -------
    DataFrame
        ``factor map cluster x y z peak_t p_fwe size_mm3``, largest |t| first; coordinates in mm. ``p_fwe``
        is the smallest corrected p in the cluster. No rows where nothing is significant.

    Examples
    --------
    >>> t = np.zeros((5, 5, 5))
    >>> t[2, 2, 1:3] = -5, -6
    >>> table = cluster_table("severity", t, np.diag([2.0, 2, 2, 1]), {"max_t": (t != 0, np.full(t.shape, 2.0))})
    >>> table[["x", "y", "z", "peak_t", "size_mm3"]].to_numpy().tolist()
    [[4.0, 4.0, 4.0, -6.0, 16.0]]
    """
    import warnings

    from nilearn.reporting import get_clusters_table

    records = []
    for kind, (significant, neglogp) in claims.items():
        if not significant.any():
            continue
        image = nib.Nifti1Image(np.where(significant, t, 0).astype(np.float32), affine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, labels = get_clusters_table(
                image, 1e-6, two_sided=True, min_distance=PEAK_DISTANCE, return_label_maps=True
            )
        smallest = _smallest_p(found, labels, affine, neglogp)
        main = found[pd.to_numeric(found["Cluster ID"], errors="coerce").notna()]
        for index, row in main.iterrows():
            place = [float(row[axis]) for axis in "XYZ"]
            peak, size = float(row["Peak Stat"]), float(row["Cluster Size (mm3)"])
            records.append([factor, kind, 0, *place, round(peak, 3), smallest[index], size])
    table = pd.DataFrame(records, columns=CLUSTER_COLUMNS)
    table = table.sort_values("peak_t", key=np.abs, ascending=False, kind="stable")
    table = table.sort_values("map", kind="stable").reset_index(drop=True)
    return table.assign(cluster=table.groupby("map").cumcount() + 1)


def read_atlas(
    path: str | Path, labels: str | Path | None, mask: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, dict[int, str]]:
    """Return an atlas on the maps' grid, and the names of its regions.

    Parameters
    ----------
    path : path
        Label image in template space: whole numbers, 0 is outside.
    labels : path or None
        TSV or CSV with columns ``index`` and ``name`` (the BIDS form); none names regions by their number.
    mask : bool array (X, Y, Z)
    affine : float array (4, 4)

    Returns
    -------
    array of int (X, Y, Z)
        Nearest label of each voxel.
    dict of int to str

    Raises
    ------
    UserError
        When the image cannot be read, is not of whole numbers, or nothing of it lies in the mask.
    ManifestError
        When the table has not these columns.
    """
    from nilearn.image import resample_to_img

    try:
        atlas = nib.load(path)
        found = atlas.get_fdata(dtype=np.float32)
    except Exception as error:
        raise UserError(f"{path}: cannot be read as an atlas ({error}); give a 3-D label image") from None
    if found.ndim != 3 or not np.array_equal(found, np.round(found)):
        raise UserError(f"{path}: not a 3-D image of whole numbers; give a label image, not probabilities")
    grid = nib.Nifti1Image(mask.astype(np.float32), affine)
    there = resample_to_img(
        nib.Nifti1Image(found, atlas.affine), grid, interpolation="nearest", force_resample=True, copy_header=True
    )
    regions = np.round(there.get_fdata()).astype(int) * mask
    if not regions.any():
        raise UserError(f"{path}: nothing of this atlas lies in the maps' mask; give one in the same space (MNI152)")
    names = _read_names(Path(labels)) if labels else {}
    return regions, {int(label): names.get(int(label), f"region {int(label)}") for label in np.unique(found) if label}


def atlas_table(
    factor: str,
    maps: Mapping[str, np.ndarray],
    regions: np.ndarray,
    names: Mapping[int, str],
    affine: np.ndarray,
    significant: np.ndarray | None,
) -> pd.DataFrame:
    """Summarise maps over the regions of an atlas.

    Parameters
    ----------
    factor : str
    maps : mapping of str to float array (X, Y, Z)
        ``t`` when there is one, and sensitivity maps.
    regions : array of int (X, Y, Z)
    names : mapping of int to str
    affine : float array (4, 4)
    significant : bool array (X, Y, Z) or None

    Returns
    -------
    DataFrame
        ``factor label region n_voxels size_mm3``; with a t map ``mean_t peak_t x y z share_significant``;
        ``mean_<map>`` for the others. A region too small for the grid has ``n_voxels`` 0 and nothing else.

    Examples
    --------
    >>> t, regions = np.arange(8.0).reshape(2, 2, 2), np.ones((2, 2, 2), int)
    >>> table = atlas_table("severity", {"t": t}, regions, {1: "insula"}, np.eye(4), t > 5)
    >>> table[["region", "n_voxels", "peak_t"]].to_numpy().tolist()
    [['insula', 8, 7.0]]
    """
    voxel = abs(np.linalg.det(affine[:3, :3]))
    records = []
    for label, name in names.items():
        inside = regions == label
        n_voxels = int(inside.sum())
        record = {"factor": factor, "label": label, "region": name, "n_voxels": n_voxels, "size_mm3": n_voxels * voxel}
        if n_voxels and "t" in maps:
            t = np.where(inside, maps["t"], 0)
            peak = np.unravel_index(np.argmax(np.abs(t)), t.shape)
            place = nib.affines.apply_affine(affine, peak)
            record |= {"mean_t": float(maps["t"][inside].mean()), "peak_t": float(t[peak])}
            record |= dict(zip("xyz", (float(value) for value in place), strict=True))
            if significant is not None:
                record["share_significant"] = float(significant[inside].mean())
        if n_voxels:
            record |= {f"mean_{kind}": float(values[inside].mean()) for kind, values in maps.items() if kind != "t"}
        records.append(record)
    table = pd.DataFrame(records)
    return table.sort_values("peak_t", key=np.abs, ascending=False, kind="stable") if "peak_t" in table else table


def _smallest_p(
    found: pd.DataFrame, labels: list[nib.Nifti1Image], affine: np.ndarray, neglogp: np.ndarray
) -> dict[int, float]:
    """Return for each row of nilearn's table the smallest corrected p of its cluster."""
    smallest = {}
    for index, row in found.iterrows():
        place = np.round(nib.affines.apply_affine(np.linalg.inv(affine), [row["X"], row["Y"], row["Z"]])).astype(int)
        label_maps = [image.get_fdata() for image in labels]
        mine = next((m == m[tuple(place)] for m in label_maps if m[tuple(place)] > 0), None)
        top = neglogp[tuple(place)] if mine is None else neglogp[mine].max()
        smallest[index] = float(f"{10.0**-top:.4g}")
    return smallest


def _read_names(path: Path) -> dict[int, str]:
    try:
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else None, engine="python", dtype=str)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from None
    lower = {str(column).strip().lower(): column for column in table.columns}
    index = next((lower[name] for name in INDEX_NAMES if name in lower), None)
    region = next((lower[name] for name in REGION_NAMES if name in lower and lower[name] != index), None)
    numbers = pd.to_numeric(table[index], errors="coerce") if index else pd.Series(dtype=float)
    if index is None or region is None or numbers.isna().any():
        got = ", ".join(map(str, table.columns))
        problem = Problem("not a table of regions", file=str(path), got=got, allowed="columns index (numbers) and name")
        raise ManifestError("explain: the atlas's names cannot be read", [problem])
    return dict(zip(numbers.astype(int), table[region].astype(str), strict=True))
