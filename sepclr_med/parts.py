"""``use``: transforms, views and encoders that are Python objects, or MONAI's by name, in a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from sepclr_med.config import Config, parse_config
from sepclr_med.encoders import check_builder, monai_builder
from sepclr_med.own_code import find_own, register, trusting_if_used
from sepclr_med.settings import OwnCode
from sepclr_med.volumes.chains import list_steps, view_steps
from sepclr_med.volumes.custom import build_transforms


def use(
    config: Config,
    transforms: Callable[..., Any] | Sequence[Any] | str | None = None,
    views: Callable[..., Any] | Sequence[Any] | str | None = None,
    network: Callable[..., nn.Module] | Mapping[str, Any] | str | None = None,
) -> Config:
    """Return a configuration with transforms, views or an encoder of one's own.

    What is given replaces ``volumes.preset``, the section ``views`` or ``network.backbone``. Settings of MONAI by name
    are written into the configuration. An object leaves its fingerprint there (which the cache of volumes and resuming
    go by) and the name it can be imported by; one without such a name (a ``Compose`` made in a session, a lambda) can
    be embedded with in this process, or after the same ``use`` in another.

    Parameters
    ----------
    config : Config
        From :func:`sepclr_med.load_config`.
    transforms : Compose, sequence of transforms, function without arguments, str or None, default=None
        Deterministic MONAI dictionary transforms from ``{"image": MetaTensor (C, X, Y, Z)}`` to the same; loading and
        checks are added in front. A sequence of mappings ``{"name": ..., argument: value}`` is as in a recipe; a text
        names an object, ``package.module:name``.
    views : likewise
        Random dictionary transforms, each volume with a seed of its own.
    network : callable, mapping, str or None, default=None
        A function of ``spatial_dims``, ``in_channels`` and ``n_features`` that returns an encoder; or
        ``{"_target_": "DenseNet121", argument: value}`` of :mod:`monai.networks.nets`
        (:func:`sepclr_med.encoders.monai_builder`).

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        For what cannot be used, with what to do.

    Examples
    --------
    >>> from monai.transforms import Compose, RandFlipd, Resized, ScaleIntensityd
    >>> chain = Compose([ScaleIntensityd("image"), Resized("image", (32, 32, 32))])
    >>> encoder = {"_target_": "DenseNet121", "spatial_dims": 3, "in_channels": "@in_channels",
    ...            "out_channels": "@n_features"}
    >>> config = use(Config(), transforms=chain, views=[RandFlipd("image", prob=0.5, spatial_axis=0)], network=encoder)
    >>> config.volumes.code.python, config.network.encoder["_target_"]
    (None, 'DenseNet121')
    """
    values = config.model_dump(mode="json")
    with trusting_if_used():
        if transforms is not None:
            values["volumes"] |= _choose(transforms, "transforms", "volumes")
        if views is not None:
            values["views"] |= _choose(views, "transforms", "views")
        if network is not None:
            values["network"] |= _choose(network, "encoder", "network")
        used = parse_config(values, "use")
        _require_buildable(used)
    return used


def _choose(part: Any, field: str, section: str) -> dict[str, Any]:
    """Return the fields of a section: settings as they are, an object by what is said of it."""
    is_settings = isinstance(part, Mapping) or (
        isinstance(part, list | tuple) and all(isinstance(entry, Mapping) for entry in part)
    )
    if is_settings:
        return {field: dict(part) if isinstance(part, Mapping) else list(part), "code": None}
    return {field: None, "code": register(part, section).model_dump()}


def _require_buildable(config: Config) -> None:
    chain, network = config.volumes.chain, config.network
    if isinstance(chain, OwnCode):
        list_steps(find_own(chain, "volumes"), "volumes", random=False)
    elif chain is not None:
        build_transforms(chain)
    view_steps(config.views.chain)
    if network.code is not None:
        check_builder(find_own(network.code, "network"))
    elif network.encoder is not None:
        monai_builder(network.encoder)
