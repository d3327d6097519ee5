r"""Contrastive principal components (Abid, Zhang, Bagaria, Zou, Nat Commun 2018, doi:10.1038/s41467-018-04608-8).

Salient axes are the leading eigenvectors of

.. math:: C_{target} - \alpha \, C_{background}

and common axes those of the background's covariance. With ``contrast: auto`` the sweep is the paper's (40 values of
alpha from 0.1 to 1,000); where the paper shows several spectral clusters of subspaces to its reader, the alpha is taken
here whose axes hold the most target variance that is not background variance, the sum over axes of the target's
variance less the background's, each as a share of its total. Each group is centred on its own mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.config import Config
from sepclr_med.methods.linear import LinearNetwork, build_linear, contrastive_axes, fit_contrastive
from sepclr_med.volumes.reader import VolumeReader

SPACES = ("common", "salient")
SWEEP = np.logspace(-1, 3, 40)


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> LinearNetwork:
    """Return axes of both spaces."""
    return build_linear(config, in_channels, spatial_size, "common", "salient")


def fit_network(
    network: LinearNetwork,
    read: VolumeReader,
    table: pd.DataFrame,
    train: np.ndarray,
    is_target: np.ndarray,
    config: Config,
) -> dict[str, Any]:
    """Put background axes and contrastive axes of the training rows into the network."""
    return fit_contrastive(network, read, train, is_target[train], config.method, SWEEP, contrastive_axes)
