"""The preprocessed images of a run: their grid, the mask maps are made in, and a matrix of voxels per participant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sepclr_med.config import Config
from sepclr_med.errors import UserError
from sepclr_med.rundir import RunDir
from sepclr_med.runs import cache_folder
from sepclr_med.volumes.cache import CachedVolumes, cache_volumes

CHUNK = 64
# Share of the 99th percentile of the mean image above which a voxel is tissue.
MASK_SHARE = 0.1


@dataclass(frozen=True)
class RunImages:
    """Images of a run and the mask that maps are made in.

    Parameters
    ----------
    cached : CachedVolumes
        In the manifest's order.
    mean : float32 array (X, Y, Z)
        Of the training images, over channels and images.
    mask : bool array (X, Y, Z)
        Where ``mean`` exceeds a tenth of its 99th percentile.
    affine : float array (4, 4)
        Voxel to mm.
    template : bool
        Whether voxels of different images are the same place (one template space).
    """

    cached: CachedVolumes
    mean: np.ndarray
    mask: np.ndarray
    affine: np.ndarray
    template: bool

    @property
    def spacing(self) -> float:
        """Largest voxel edge in mm."""
        return float(np.linalg.norm(self.affine[:3, :3], axis=0).max())

    @property
    def has_image(self) -> np.ndarray:
        """For each manifest row whether there is an image, bool array (n_rows,)."""
        return self.cached.rows >= 0

    def participant_voxels(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the voxels of the mask, averaged over each participant's images, float32 array (n, V)."""
        found = np.empty((len(images), int(self.mask.sum())), dtype=np.float32)
        for place, rows in enumerate(images):
            volumes = self.cached.load(rows)[:, 0].astype(np.float32)
            found[place] = volumes[:, self.mask].mean(axis=0)
        return found


def open_images(run: RunDir, config: Config, manifest: pd.DataFrame, cache_dir: str | Path | None = None) -> RunImages:
    """Return the run's images from its cache, making again what is not there.

    Parameters
    ----------
    run : RunDir
    config : Config
    manifest : DataFrame
        Of the run, with ``split``.
    cache_dir : path or None, default=None
        None means the run's.

    Raises
    ------
    UserError
        For two-dimensional images, or without a training image.
    VolumeError
        When images cannot be read and ``volumes.on_error`` is ``stop``.
    """
    if config.network.spatial_dims != 3:
        raise UserError("explain: maps are made of 3-D images; this run is of 2-D ones")
    folder = Path(cache_dir) if cache_dir else cache_folder(run, config)
    cached = cache_volumes(manifest, config.volumes, folder, config.network.spatial_dims)
    # Everyone of a cross-fit is embedded by models that held them out, and nobody else is in its manifest.
    known = True if run.cross_fit.is_file() else (manifest["split"] == "train").to_numpy()
    train = np.flatnonzero(known & (cached.rows >= 0))
    if not train.size:
        raise UserError("explain: no training image is left to make a mask from")
    mean = mean_volume(cached, train)
    mask = mean > MASK_SHARE * np.percentile(mean, 99)
    affine = cached.affine if cached.affine is not None else _centred(mean.shape, config.volumes.spacing)
    return RunImages(cached, mean, mask, affine, cached.affine is not None)


def mean_volume(cached: CachedVolumes, rows: np.ndarray) -> np.ndarray:
    """Return the mean over images and channels of these manifest rows, float32 array (X, Y, Z)."""
    total = np.zeros(cached.array.shape[2:], dtype=np.float64)
    for start in range(0, rows.size, CHUNK):
        total += cached.load(rows[start : start + CHUNK]).astype(np.float32).mean(axis=1).sum(axis=0)
    return (total / rows.size).astype(np.float32)


def _centred(shape: Sequence[int], spacing: float) -> np.ndarray:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return affine
