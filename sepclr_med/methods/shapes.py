"""What networks of several methods are built from, as plain numbers out of a configuration."""

from __future__ import annotations

from typing import Any

from sepclr_med.config import Config


def encoder_shape(config: Config, in_channels: int) -> dict[str, Any]:
    """Return the arguments that every encoder shares.

    Examples
    --------
    >>> encoder_shape(Config(), 1)["backbone"]
    'resnet18'
    """
    network = config.network
    return {
        "backbone": network.backbone,
        "spatial_dims": network.spatial_dims,
        "in_channels": in_channels,
        "width": network.width,
        "norm": network.norm,
    }


def count_disorders(config: Config) -> int:
    """Return how many diagnoses have salient factors of their own."""
    return len(config.cohort.target) if config.method.disorder_dim else 0
