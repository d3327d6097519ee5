"""Methods that fit behind the same ``fit`` and ``embed``: one module each, found by ``method.name``.

A module that trains by steps has ``build_network(config, in_channels, spatial_size)``, whose output has ``rows`` (what
the loss sees of each view) and ``spaces`` (what is exported), ``build_loss(config, labels, shape)``, and says
``SPACES``, ``N_VIEWS`` and, where it needs labels, ``find_labels(config)``. One that is fitted in closed form has
``build_network`` and ``fit_network``.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from torch import nn

from sepclr_med.config import Config

MODULES = {"sepclr_paper": "sepclr"}
# Chosen on simulated cohorts, docs/ablation.md.
LEADING_SHARE = 0.995


def find_method(config: Config) -> ModuleType:
    """Return the module of a configuration's method.

    Examples
    --------
    >>> find_method(Config()).SPACES
    ('common', 'salient')
    """
    name = config.method.name
    return import_module(f"sepclr_med.methods.{MODULES.get(name, name)}")


def build_network(config: Config, in_channels: int = 1, spatial_size: tuple[int, ...] = ()) -> nn.Module:
    """Return the untrained network that a configuration describes.

    Parameters
    ----------
    config : Config
    in_channels : int, default=1
        Channels of one rendering of an image.
    spatial_size : tuple of int, default=()
        Voxels per axis, which decoders and linear methods need.
    """
    return find_method(config).build_network(config, in_channels, tuple(spatial_size))


def erases(config: Config) -> bool:
    """Say whether something is taken out of the exported spaces."""
    return bool(config.method.erase or config.method.erase_salient or salient_share(config) < 1)


def salient_share(config: Config) -> float:
    """Return the share of the salient variance whose leading axes are exported.

    Examples
    --------
    >>> salient_share(Config())
    0.995
    """
    method = config.method
    if method.salient_variance != "auto":
        return method.salient_variance
    mixed = method.attributes or method.disorder_dim
    return LEADING_SHARE if method.name == "sepclr" and needs_reference(config) and not mixed else 1.0


def needs_reference(config: Config) -> bool:
    """Say whether the method looks at deviations from the normative reference.

    Examples
    --------
    >>> needs_reference(Config())
    True
    """
    if config.method.salient_input == "auto":
        return config.network.spatial_dims == 3 and config.volumes.standardise == "voxelwise"
    return config.method.salient_input == "deviation" and config.method.name != "covariates"
