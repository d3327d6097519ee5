"""Voxelwise standardisation, fitted on training background rows only and saved with the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = 64
# Voxels that hardly vary among controls would be divided by almost nothing.
SMALLEST_RELATIVE_STD = 0.1
LARGEST_SCORE = 10.0


@dataclass(frozen=True)
class Standardisation:
    """``clip((x - mean) * inverse_std)``, zero where the background never varies.

    Parameters
    ----------
    mean, inverse_std : Tensor of shape (C, X, Y, Z)
        Float32, on any device.
    """

    mean: Tensor
    inverse_std: Tensor

    def __call__(self, volumes: Tensor) -> Tensor:
        """Standardise a batch of shape (B, C, X, Y, Z)."""
        return ((volumes - self.mean) * self.inverse_std).clamp_(-LARGEST_SCORE, LARGEST_SCORE)

    def to(self, device: torch.device) -> Standardisation:
        """Return the same standardisation on another device."""
        return Standardisation(self.mean.to(device), self.inverse_std.to(device))


def fit_standardisation(load: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> Standardisation:
    """Fit mean and standard deviation of each voxel over the given rows, in one pass and bounded memory.

    Parameters
    ----------
    load : callable
        Maps row numbers to an array of shape (n, C, X, Y, Z).
    rows : int array
        Training background rows, at least two.

    Returns
    -------
    Standardisation
        Standard deviations below a tenth of the median one are raised to it; voxels that are constant over the
        background map to zero.

    Raises
    ------
    ValueError
        With fewer than two rows.

    Examples
    --------
    >>> volumes = np.array([[[0.0, 1.0]], [[2.0, 1.0]]])
    >>> fit_standardisation(lambda rows: volumes[rows], np.array([0, 1]))(torch.tensor([[[2.0, 5.0]]]))
    tensor([[[1., 0.]]])
    """
    if rows.size < 2:
        raise ValueError(f"voxelwise standardisation needs at least 2 background rows, got {rows.size}")
    # Deviations from the first volume keep the sums of squares small enough to subtract safely.
    origin = load(rows[:1]).astype(np.float64)[0]
    total, squares = np.zeros_like(origin), np.zeros_like(origin)
    for start in range(0, rows.size, CHUNK):
        deviations = load(rows[start : start + CHUNK]).astype(np.float64) - origin
        total += deviations.sum(axis=0)
        squares += np.square(deviations).sum(axis=0)
    mean = total / rows.size
    std = np.sqrt(np.clip(squares / rows.size - mean**2, 0, None))
    varies = std > 1e-6
    floor = SMALLEST_RELATIVE_STD * np.median(std[varies]) if varies.any() else 1.0
    inverse = np.where(varies, 1 / np.maximum(std, floor), 0.0)
    return Standardisation(
        torch.from_numpy((origin + mean).astype(np.float32)), torch.from_numpy(inverse.astype(np.float32))
    )
