"""Covariates only: the coded columns as the embedding, what any image method must beat. No paper.

s = (numbers, their squares, classes): the columns of ``volumes.normative.covariates`` that the manifest has (age, sex,
site and tiv by default), standardised and coded over training rows of both groups, exported as the salient space. No
image has a part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from sepclr_med.config import Config
from sepclr_med.errors import ManifestError, Problem
from sepclr_med.methods.linear import LinearSpaces
from sepclr_med.volumes.normative_design import Design, code_covariates
from sepclr_med.volumes.reader import VolumeReader

SPACES = ("salient",)


class CovariatesNetwork(nn.Module):
    """Looks at nothing."""

    def forward(self, volumes: Tensor) -> LinearSpaces:
        """Return no space: the table gives it."""
        return LinearSpaces({})


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> CovariatesNetwork:
    """Return a network that looks at nothing."""
    return CovariatesNetwork()


def fit_network(
    network: CovariatesNetwork,
    read: VolumeReader,
    table: pd.DataFrame,
    train: np.ndarray,
    is_target: np.ndarray,
    config: Config,
) -> dict[str, Any]:
    """Learn how covariates are coded, and return that."""
    names = [name for name in config.volumes.normative.covariates if name in table]
    if not names:
        fix = "name columns of the manifest in volumes.normative.covariates"
        raise ManifestError("method covariates: nothing to use", [Problem("no covariate is in the manifest", fix=fix)])
    return {"design": code_covariates(table.iloc[train], names).state()}


def embed_table(fitted: Mapping[str, Any], table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the coded covariates of these rows, without the intercept."""
    return {"salient": Design.from_state(fitted["design"]).encode(table)[:, 1:]}
