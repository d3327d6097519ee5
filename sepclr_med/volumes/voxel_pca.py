"""The plain baseline: principal components of the preprocessed voxels, fitted on training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import IncrementalPCA
from sklearn.utils import gen_batches
from torch import Tensor

# scikit-learn holds several float64 copies of a chunk.
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class VoxelPCA:
    """Scores are ``(x - mean) @ components.T`` over all voxels.

    Parameters
    ----------
    mean : Tensor of shape (C * X * Y * Z,)
    components : Tensor of shape (k, C * X * Y * Z)
    """

    mean: Tensor
    components: Tensor

    def __call__(self, volumes: Tensor) -> Tensor:
        """Return scores of shape (B, k)."""
        return (volumes.flatten(1) - self.mean) @ self.components.T


def fit_voxel_pca(read: Callable[[np.ndarray], Tensor], rows: np.ndarray, n_components: int) -> VoxelPCA:
    """Fit the components in chunks of rows, so that memory does not grow with the cohort.

    Parameters
    ----------
    read : callable
        Maps row numbers to volumes of shape (n, C, X, Y, Z).
    rows : int array
        Training rows.
    n_components : int
        At most the number of rows less one.

    Returns
    -------
    VoxelPCA

    Examples
    --------
    >>> volumes = torch.randn(10, 1, 4, 4, 4)
    >>> fit_voxel_pca(lambda rows: volumes[rows], np.arange(10), 3)(volumes).shape
    torch.Size([10, 3])
    """
    n_components = max(1, min(n_components, rows.size - 1))
    pca = IncrementalPCA(n_components)
    volume_bytes = read(rows[:1]).numel() * 4
    chunk_rows = max(2 * n_components, CHUNK_BYTES // volume_bytes)
    for chunk in gen_batches(rows.size, chunk_rows, min_batch_size=n_components):
        pca.partial_fit(read(rows[chunk]).flatten(1).cpu().numpy(), check_input=False)
    return VoxelPCA(torch.from_numpy(pca.mean_).float(), torch.from_numpy(pca.components_).float())
