r"""Principal component analysis of everyone's preprocessed voxels, each group about its own mean. One space. No paper.

With U the leading eigenvectors of the pooled covariance within groups of training rows, :math:`s = U^T (x - mean)`. The
groups' difference of means is thereby no axis by itself, as it would be in plain PCA.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sepclr_med.config import Config
from sepclr_med.methods.linear import LinearNetwork, build_linear, covariance, leading_axes, measure_moments, put_axes
from sepclr_med.volumes.reader import VolumeReader

SPACES = ("salient",)


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> LinearNetwork:
    """Return one set of axes."""
    return build_linear(config, in_channels, spatial_size, "salient")


def fit_network(
    network: LinearNetwork,
    read: VolumeReader,
    table: pd.DataFrame,
    train: np.ndarray,
    is_target: np.ndarray,
    config: Config,
) -> None:
    """Put the leading principal axes of the training rows into the network."""
    moments = measure_moments(read, train, is_target[train])
    axes = leading_axes(covariance(np.vstack([moments.background, moments.target])), config.method.salient_dim)
    put_axes(network, read, train, moments.mean, {"salient": axes @ moments.basis})
