"""What networks of several methods are built from, as plain numbers out of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sepclr_med.config import Config
from sepclr_med.encoders import check_builder, monai_builder
from sepclr_med.own_code import find_own


def encoder_shape(config: Config, in_channels: int, spatial_size: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the arguments that every encoder shares.

    Raises
    ------
    ConfigError, RunError
        When the encoder is one of MONAI's or of your own, and cannot be found.

    Examples
    --------
    >>> encoder_shape(Config(), 1)["backbone"]
    'resnet18'
    """
    network = config.network
    return {
        "backbone": find_backbone(config, spatial_size),
        "spatial_dims": network.spatial_dims,
        "in_channels": in_channels,
        "width": network.width,
        "norm": network.norm,
    }


def find_backbone(config: Config, spatial_size: tuple[int, ...] = ()) -> str | Callable[..., nn.Module]:
    """Return the name of a backbone, or what builds one of MONAI's or of your own."""
    network = config.network
    if network.code is not None:
        return check_builder(find_own(network.code, "network"))
    if network.encoder is not None:
        return monai_builder(network.encoder, spatial_size)
    return network.backbone


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
