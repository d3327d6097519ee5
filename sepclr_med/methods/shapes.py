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


def name_salient_parts(config: Config) -> dict[str, str]:
    """Return the first and last factor of each part of the salient space; empty where it has one part.

    Examples
    --------
    >>> from sepclr_med.config import load_config
    >>> groups = ["cohort.target=[SZ,BD]", "method.salient_dim=4", "method.disorder_dim=2"]
    >>> name_salient_parts(load_config(overrides=groups))["BD"]
    'salient_006 ... salient_007'
    """
    if not count_disorders(config):
        return {}
    start, parts = 0, {}
    sizes = [("shared by all targets", config.method.salient_dim)]
    sizes += [(name, config.method.disorder_dim) for name in config.cohort.target]
    for name, size in sizes:
        parts[name] = f"salient_{start:03d} ... salient_{start + size - 1:03d}"
        start += size
    return parts


def count_salient(config: Config) -> int:
    """Return the size of the salient space: shared factors and those of each disorder.

    Examples
    --------
    >>> count_salient(Config())
    32
    """
    return config.method.salient_dim + config.method.disorder_dim * count_disorders(config)


def count_disorders(config: Config) -> int:
    """Return how many diagnoses have salient factors of their own."""
    return len(config.cohort.target) if config.method.disorder_dim else 0
