r"""Probabilistic contrastive principal components (Li, Jones, Engelhardt 2020, arXiv 2012.07977).

Maximises the target's likelihood over a power of the background's under one factor model
:math:`x = W z + \varepsilon`; the maximiser is

.. math:: W = U_k (\Lambda_k - \sigma^2 I)^{1/2}, \qquad
   \frac{n \, C_{target} - \gamma m \, C_{background}}{n - \gamma m} = U \Lambda U^T

with n target and m background rows, U_k the k leading eigenvectors, and the noise :math:`\sigma^2` the mean of the
remaining eigenvalues. What is exported is the posterior mean of z, scores on U_k scaled by :math:`(\Lambda_k -
\sigma^2)^{1/2} / \Lambda_k`.

Ours: ``contrast`` is :math:`\gamma m / n`, below 1 (larger values are cut to 0.9); ``auto`` chooses among 0 to 0.9 as
:mod:`sepclr_med.methods.cpca` does; and there are common axes, those of the background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.config import Config
from sepclr_med.methods.cpca import SPACES, build_network
from sepclr_med.methods.linear import LinearNetwork, Moments, covariance, fit_contrastive, leading_axes
from sepclr_med.volumes.reader import VolumeReader

__all__ = ["SPACES", "build_network", "fit_network"]

SWEEP = np.linspace(0, 0.9, 10)
LARGEST_CONTRAST = 0.9


def fit_network(
    network: LinearNetwork,
    read: VolumeReader,
    table: pd.DataFrame,
    train: np.ndarray,
    is_target: np.ndarray,
    config: Config,
) -> dict[str, Any]:
    """Put background axes and scaled probabilistic contrastive axes of the training rows into the network."""

    def find_axes(moments: Moments, contrast: float, k: int) -> np.ndarray:
        return scaled_axes(moments, contrast, k, network.mean.numel())

    return fit_contrastive(network, read, train, is_target[train], config.method, SWEEP, find_axes, LARGEST_CONTRAST)


def scaled_axes(moments: Moments, contrast: float, k: int, n_voxels: int) -> np.ndarray:
    """Return axes whose scores are the posterior means of the k factors; eigenvalues beyond the images' span are 0."""
    combined = (covariance(moments.target) - contrast * covariance(moments.background)) / (1 - contrast)
    values = np.sort(np.linalg.eigvalsh(combined))[::-1]
    k = min(k, len(values) - 1)
    noise = max(float(values[k:].sum()) / (n_voxels - k), 1e-12)
    leading = np.maximum(values[:k], noise * (1 + 1e-9))
    return (np.sqrt(leading - noise) / leading)[:, None] * leading_axes(combined, k)
