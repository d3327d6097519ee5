"""Encoders beside the named backbones: any network of MONAI by name and arguments, or one that a function builds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from monai.networks import nets
from monai.utils import OptionalImportError
from torch import Tensor, nn

from sepclr_med.errors import ConfigError, Problem, did_you_mean

GIVEN = ("spatial_dims", "in_channels", "n_features")
# Arguments by which MONAI's networks read weights from a server or a file.
FETCHED = ("pretrained", "weights")
# In names of what always does; Transchex begins with those of a language model.
FETCHING = ("pretrained", "transchex")
NEEDED = "a function of spatial_dims, in_channels and n_features that returns a network"
EXAMPLE = "{_target_: DenseNet121, spatial_dims: 3, in_channels: '@in_channels', out_channels: '@n_features'}"


class RowEncoder(nn.Module):
    """A network that must give a row of ``n_features`` numbers for each image; of several outputs the first counts."""

    def __init__(self, network: nn.Module, n_features: int) -> None:
        super().__init__()
        self.network, self.n_features = network, n_features

    def forward(self, volumes: Tensor) -> Tensor:
        """Return the representation (B, n_features).

        Raises
        ------
        ConfigError
            When the network gives something else.
        """
        found = self.network(volumes)
        found = found[0] if isinstance(found, tuple | list) else found
        if not isinstance(found, Tensor) or tuple(found.shape) != (len(volumes), self.n_features):
            got = " x ".join(map(str, found.shape)) if isinstance(found, Tensor) else type(found).__name__
            allowed = f"{len(volumes)} x {self.n_features}: a row of n_features numbers for each image"
            fix = "end the network with pooling and a linear layer of n_features outputs, or a classification head"
            raise ConfigError("network: the encoder gives another shape", [Problem(got, allowed=allowed, fix=fix)])
        return found


def build_encoder(builder: Callable[..., nn.Module], spatial_dims: int, in_channels: int, n_features: int) -> nn.Module:
    """Build an encoder of one's own.

    Parameters
    ----------
    builder : callable
        Takes ``spatial_dims``, ``in_channels`` and ``n_features``.
    spatial_dims, in_channels, n_features : int
        As for :func:`sepclr_med.networks.build_backbone`.

    Returns
    -------
    nn.Module
        Maps ``(B, in_channels, X, Y, Z)`` to ``(B, n_features)``; of several outputs of a network the first counts.

    Raises
    ------
    ConfigError
        When something else is returned.
    """
    network = builder(spatial_dims=spatial_dims, in_channels=in_channels, n_features=n_features)
    if not isinstance(network, nn.Module):
        raise ConfigError("network: no encoder", [Problem(f"returned {type(network).__name__}", allowed=NEEDED)])
    return RowEncoder(network, n_features)


def check_builder(builder: Any) -> Callable[..., nn.Module]:
    """Return what builds encoders, or say why it cannot.

    Raises
    ------
    ConfigError
        For a network instead of what builds one, or a function of other arguments.

    Examples
    --------
    >>> check_builder(lambda spatial_dims, in_channels, n_features: nn.Linear(1, 1)) is not None
    True
    """
    if isinstance(builder, nn.Module):
        fix = "give a function that builds it: each space has an encoder of its own, with weights drawn by the seed"
        raise ConfigError("network: a network, not what builds one", [Problem("an instance", allowed=NEEDED, fix=fix)])
    try:
        inspect.signature(builder).bind(**dict.fromkeys(GIVEN))
    except (TypeError, ValueError) as error:
        wrong = Problem(str(error), got=repr(builder)[:80], allowed=NEEDED, fix=f"or a network of MONAI: {EXAMPLE}")
        raise ConfigError("network: cannot be built", [wrong]) from None
    return builder


def monai_builder(encoder: Mapping[str, Any], spatial_size: tuple[int, ...] = ()) -> Callable[..., nn.Module]:
    """Return what builds a network of :mod:`monai.networks.nets` from its name and plain arguments.

    Parameters
    ----------
    encoder : mapping
        ``_target_`` and arguments; ``"@spatial_dims"``, ``"@in_channels"``, ``"@n_features"`` and ``"@spatial_size"``
        stand for what the run needs.
    spatial_size : tuple of int, default=()
        Voxels per axis.

    Raises
    ------
    ConfigError
        For an unknown network, reference or argument, or one that would fetch weights.

    Examples
    --------
    >>> import torch
    >>> spec = {"_target_": "resnet10", "n_input_channels": "@in_channels", "num_classes": "@n_features"}
    >>> build_encoder(monai_builder(spec), 3, 1, 5)(torch.zeros(2, 1, 16, 16, 16)).shape
    torch.Size([2, 5])
    """
    name = str(encoder.get("_target_", "")).removeprefix("monai.networks.nets.")
    target = getattr(nets, name, None)
    known = [word for word, found in vars(nets).items() if _is_network(found)]
    if any(word in name.casefold() for word in FETCHING):
        raise _refuse_fetching(name)
    if target is None or name not in known:
        fix = did_you_mean(name, known) or EXAMPLE
        wrong = Problem("no network of monai.networks.nets", got=str(encoder.get("_target_")), fix=fix)
        raise ConfigError("network.encoder: unknown", [wrong])
    references = {f"@{word}" for word in (*GIVEN, "spatial_size")}
    strange = [v for v in encoder.values() if isinstance(v, str) and v[:1] in ("@", "$", "%") and v not in references]
    if strange:
        wrong = Problem("not a value", got=strange[0], allowed=", ".join(sorted(references)), fix="plain values only")
        raise ConfigError("network.encoder: cannot be used", [wrong])
    if asked := [key for key, value in encoder.items() if key.startswith(FETCHED) and value]:
        raise _refuse_fetching(f"{asked[0]}: {encoder[asked[0]]}")
    # Some networks of MONAI fetch weights unless they are told not to.
    offline = {"pretrained": False} if "pretrained" in inspect.signature(target).parameters else {}

    def build(**given: int) -> nn.Module:
        values = {f"@{word}": value for word, value in {**given, "spatial_size": tuple(spatial_size)}.items()}
        arguments = offline | {
            key: values.get(value, value) if isinstance(value, str) else value
            for key, value in encoder.items()
            if key != "_target_"
        }
        try:
            return target(**arguments)
        except OptionalImportError as error:
            needed = Problem(str(error).split("\n")[0], fix="install the package that it names")
            raise ConfigError(f"network.encoder: {name} needs a package that is not here", [needed]) from None
        except (TypeError, ValueError, AttributeError) as error:
            shown = f"{name}{inspect.signature(target)}"[:400]
            wrong = Problem(" ".join(str(error).split())[:200], got=str(arguments)[:200], allowed=shown)
            raise ConfigError(f"network.encoder: {name} cannot be built", [wrong]) from None

    return build


def _is_network(found: Any) -> bool:
    """Say whether something of MONAI is a network, or a function that is annotated to return one."""
    if not getattr(found, "__module__", "").startswith("monai.networks.nets") or not callable(found):
        return False
    built = found if isinstance(found, type) else inspect.signature(found).return_annotation
    built = getattr(nets, built, None) if isinstance(built, str) else built
    return isinstance(built, type) and issubclass(built, nn.Module)


def _refuse_fetching(got: str) -> ConfigError:
    fix = "leave it out; to begin with weights you have, give a function that builds the network (docs/own_code.md)"
    wrong = Problem("a recipe fetches no weights", got=got[:80], fix=fix)
    return ConfigError("network.encoder: cannot be used", [wrong])
