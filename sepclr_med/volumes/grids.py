"""The boxes that volumes are brought to: a brain in template space, a head in its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Outer edges, in mm, of the brain in MNI152 space: the first and last millimetre that nilearn's
# load_mni152_brain_mask(resolution=1) covers on each axis (a test derives them again).
BRAIN_BOX = np.array([[-72.5, 72.5], [-107.5, 73.5], [-72.5, 82.5]])
# Grey-matter maps reach beyond the mask: smoothing, the cerebellum below the template's cut, other MNI versions.
BOX_MARGIN = 6.0
# A head in its own space: left-right, back-front, bottom-top, in mm.
HEAD_BOX = np.array([192.0, 224.0, 192.0])
SIZE_MULTIPLE = 8


def template_grid(spacing: float, spatial_size: Sequence[int] | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the fixed grid over the brain in template space.

    Parameters
    ----------
    spacing : float
        Voxel size in mm.
    spatial_size : sequence of 3 int or None, default=None
        Voxels per axis, centred on the brain; none means the MNI152 brain box with 6 mm around it, rounded up to a
        multiple of 8 voxels.

    Returns
    -------
    affine : ndarray (4, 4)
        Voxel to mm, RAS, no rotation.
    spatial_size : tuple of 3 int

    Examples
    --------
    >>> affine, size = template_grid(6.0)
    >>> size, affine[:3, 3].tolist()
    ((32, 40, 32), [-93.0, -134.0, -88.0])
    """
    extent = np.ptp(BRAIN_BOX, axis=1) + 2 * BOX_MARGIN
    size = _rounded_up(extent / spacing) if spatial_size is None else tuple(int(n) for n in spatial_size)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = BRAIN_BOX.mean(axis=1) - (np.array(size) - 1) / 2 * spacing
    return affine, size


def head_size(spacing: float, spatial_size: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the voxels per axis of a head's box: 192 x 224 x 192 mm, rounded up to a multiple of 8 voxels.

    Examples
    --------
    >>> head_size(3.0), head_size(1.0)
    ((64, 80, 64), (192, 224, 192))
    """
    return _rounded_up(HEAD_BOX / spacing) if spatial_size is None else tuple(int(n) for n in spatial_size)


def _rounded_up(voxels: np.ndarray) -> tuple[int, ...]:
    # A whole number of voxels may be off by rounding: 192 / 0.8 must not become 241.
    return tuple(int(np.ceil(round(n / SIZE_MULTIPLE, 9))) * SIZE_MULTIPLE for n in voxels)
