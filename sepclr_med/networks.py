"""Encoders: a MONAI backbone per space, a representation each, and a head each for the losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from monai.networks import nets
from monai.networks.nets.densenet import _DenseLayer
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from monai.networks.utils import replace_modules
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.nn.modules.batchnorm import _BatchNorm

from sepclr_med.encoders import build_encoder

ModuleOrTensor = TypeVar("ModuleOrTensor", nn.Module, Tensor)

BACKBONES = ("small", "resnet10", "resnet18", "resnet50", "densenet121")
NORMS = ("batch", "group")
LARGEST_NUMBER_OF_GROUPS = 8
BLOCKS = (ResNetBlock, ResNetBottleneck, _DenseLayer)


class Embeddings(NamedTuple):
    """What the network gives for a batch: representations are exported, heads feed the losses."""

    common: Tensor
    salient: Tensor
    common_head: Tensor
    salient_head: Tensor

    @property
    def rows(self) -> Tensor:
        """What losses see of each image: both heads side by side."""
        return torch.cat([self.common_head, self.salient_head], dim=1)

    @property
    def spaces(self) -> dict[str, Tensor]:
        """What is exported."""
        return {"common": self.common, "salient": self.salient}


class SingleEmbeddings(NamedTuple):
    """What a network of one space gives for a batch."""

    representation: Tensor
    head: Tensor

    @property
    def rows(self) -> Tensor:
        """What losses see of each image."""
        return self.head

    @property
    def spaces(self) -> dict[str, Tensor]:
        """What is exported: one space, in the place of the salient one."""
        return {"salient": self.representation}


def build_backbone(
    name: str | Callable[..., nn.Module],
    n_features: int,
    spatial_dims: int = 3,
    in_channels: int = 1,
    width: int = 8,
    norm: str = "batch",
) -> nn.Module:
    """Return an encoder from images to a representation.

    Parameters
    ----------
    name : {"small", "resnet10", "resnet18", "resnet50", "densenet121"} or callable
        ``small`` is a four-stage residual encoder with a stride-2 stem that trains on a CPU. Anything else is called
        with ``spatial_dims``, ``in_channels`` and ``n_features`` (:mod:`sepclr_med.encoders`).
    n_features : int
        Size of the representation.
    spatial_dims : {2, 3}, default=3
        Images or volumes.
    in_channels : int, default=1
        Channels of the input.
    width : int, default=8
        Channels of the first stage of ``small``; doubled at each stage.
    norm : {"batch", "group"}, default="batch"
        Normalisation between convolutions. Group normalisation (8 groups, fewer where the channels are not a multiple)
        treats each image alone, so that nothing depends on how a batch is divided.

    Returns
    -------
    nn.Module
        Maps ``(B, in_channels, X, Y, Z)`` to ``(B, n_features)``.

    Raises
    ------
    ValueError
        For an unknown name or normalisation.

    Examples
    --------
    >>> build_backbone("small", 5)(torch.zeros(2, 1, 16, 20, 16)).shape
    torch.Size([2, 5])
    """
    if callable(name):
        network = build_encoder(name, spatial_dims, in_channels, n_features)
        if norm == "group":
            _use_group_norm(network)
        return network
    if name not in BACKBONES:
        raise ValueError(f'unknown backbone "{name}"; allowed: {", ".join(BACKBONES)}')
    if norm not in NORMS:
        raise ValueError(f'unknown normalisation "{norm}"; allowed: {", ".join(NORMS)}')
    common = {"spatial_dims": spatial_dims, "n_input_channels": in_channels, "num_classes": n_features}
    if name == "densenet121":
        network = nets.DenseNet121(spatial_dims=spatial_dims, in_channels=in_channels, out_channels=n_features)
    elif name == "small":
        planes = [width, 2 * width, 4 * width, 8 * width]
        stem = {"conv1_t_size": 3, "conv1_t_stride": 2, "no_max_pool": True}
        network = nets.ResNet("basic", [1, 1, 1, 1], planes, **stem, **common)
    else:
        network = getattr(nets, name)(conv1_t_stride=2, **common)
    if norm == "group":
        _use_group_norm(network)
    return network


def _use_group_norm(network: nn.Module) -> None:
    # MONAI's ResNet keeps batch norm in its first stage whatever its argument `norm` says.
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    for name, layer in layers:
        n_groups = math.gcd(LARGEST_NUMBER_OF_GROUPS, layer.num_features)
        replace_modules(network, name, nn.GroupNorm(n_groups, layer.num_features))


def build_head(n_features: int, hidden: int = 128, norm: str = "batch", n_outputs: int | None = None) -> nn.Sequential:
    """Return the projector of the paper: ``d -> hidden -> batch norm -> ReLU -> d``, or another number of outputs.

    With ``norm="group"`` layer normalisation stands for batch normalisation, so that each row is treated alone.

    Examples
    --------
    >>> build_head(4)(torch.zeros(3, 4)).shape
    torch.Size([3, 4])
    """
    layer = nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden)
    last = nn.Linear(hidden, n_outputs or n_features)
    return nn.Sequential(nn.Linear(n_features, hidden), layer, nn.ReLU(inplace=True), last)


class SepCLRNetwork(nn.Module):
    """Two encoders, one per space, as in the paper.

    Parameters
    ----------
    backbone : str or callable, default="resnet18"
        As for :func:`build_backbone`, the same for both spaces.
    common_dim, salient_dim : int, default=32
        Sizes of the representations.
    spatial_dims : {2, 3}, default=3
    in_channels : int, default=1
        Channels that each encoder sees.
    width : int, default=8
        First-stage channels of ``small``.
    head_hidden : int, default=128
        Hidden units of the heads.
    norm : {"batch", "group"}, default="batch"
        As for :func:`build_backbone`, in the heads as for :func:`build_head`.
    salient_projector : bool, default=True
        Whether the salient space has a head of its own; without, what is exported is what the losses see.

    Examples
    --------
    >>> volumes = torch.zeros(2, 1, 16, 16, 16)
    >>> SepCLRNetwork("small", common_dim=3, salient_dim=2)(volumes).salient.shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        backbone: str | Callable[..., nn.Module] = "resnet18",
        common_dim: int = 32,
        salient_dim: int = 32,
        spatial_dims: int = 3,
        in_channels: int = 1,
        width: int = 8,
        head_hidden: int = 128,
        norm: str = "batch",
        salient_projector: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.common_encoder = build_backbone(backbone, common_dim, spatial_dims, in_channels, width, norm)
        self.salient_encoder = build_backbone(backbone, salient_dim, spatial_dims, in_channels, width, norm)
        self.common_head = build_head(common_dim, head_hidden, norm)
        self.salient_head = build_head(salient_dim, head_hidden, norm) if salient_projector else nn.Identity()

    def forward(self, volumes: Tensor) -> Embeddings:
        """Embed a batch; the two encoders may see two renderings of the same images.

        Parameters
        ----------
        volumes : Tensor of shape (B, in_channels, X, Y, Z) or (B, 2 * in_channels, X, Y, Z)
            One rendering for both encoders, or plain channels and then deviations.

        Returns
        -------
        Embeddings
            ``common_head`` is L2-normalised (in float32), ``salient_head`` is not.
        """
        plain, deviation = split_inputs(volumes, self.in_channels)
        common = self.common_encoder(channels_last(plain))
        salient = self.salient_encoder(channels_last(deviation))
        common_head = nn.functional.normalize(self.common_head(common).float(), dim=1)
        return Embeddings(common, salient, common_head, self.salient_head(salient).float())


class SingleNetwork(nn.Module):
    """One encoder and one head, for methods that know one space.

    Parameters
    ----------
    backbone : str or callable
        As for :func:`build_backbone`.
    dim : int
        Size of the representation.
    head_dim : int or None, default=None
        Outputs of the head; none means ``dim``.
    normalise : bool, default=True
        Whether heads are L2-normalised.
    spatial_dims, in_channels, width, head_hidden, norm
        As for :class:`SepCLRNetwork`.

    Examples
    --------
    >>> SingleNetwork("small", dim=3)(torch.zeros(2, 1, 16, 16, 16)).representation.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: str | Callable[..., nn.Module] = "resnet18",
        dim: int = 32,
        head_dim: int | None = None,
        normalise: bool = True,
        spatial_dims: int = 3,
        in_channels: int = 1,
        width: int = 8,
        head_hidden: int = 128,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.in_channels, self.normalise = in_channels, normalise
        self.salient_encoder = build_backbone(backbone, dim, spatial_dims, in_channels, width, norm)
        self.salient_head = build_head(dim, head_hidden, norm, head_dim)

    def forward(self, volumes: Tensor) -> SingleEmbeddings:
        """Embed a batch, which may have deviations beside plain channels: these are looked at then."""
        representation = self.salient_encoder(channels_last(split_inputs(volumes, self.in_channels)[1]))
        head = self.salient_head(representation).float()
        return SingleEmbeddings(representation, nn.functional.normalize(head, dim=1) if self.normalise else head)


def split_inputs(volumes: Tensor, in_channels: int) -> tuple[Tensor, Tensor]:
    """Return plain channels and deviations of a batch; where there are no deviations, the plain channels twice.

    Examples
    --------
    >>> plain, deviation = split_inputs(torch.zeros(1, 2, 8, 8), in_channels=1)
    >>> plain.shape[1], deviation.shape[1]
    (1, 1)
    """
    if volumes.shape[1] == in_channels:
        return volumes, volumes
    return volumes[:, :in_channels], volumes[:, in_channels:]


def channels_last(content: ModuleOrTensor) -> ModuleOrTensor:
    """Return a network or a batch in channels-last memory format, in which convolutions run fastest.

    Two-dimensional content stays as it is on a CPU.

    Examples
    --------
    >>> channels_last(torch.zeros(2, 3, 4, 5, 6)).stride()
    (360, 1, 90, 18, 3)
    """
    tensors = [content] if isinstance(content, Tensor) else [p for p in content.parameters() if p.ndim > 3]
    # Torch 2.13 writes beyond its memory on CPUs: 2-D, 1 x 1 kernels of stride 2 and few channels, one thread.
    if not tensors or (tensors[0].ndim == 4 and tensors[0].device.type == "cpu"):
        return content
    layout = torch.channels_last if tensors[0].ndim == 4 else torch.channels_last_3d
    return content.to(memory_format=layout)


@contextmanager
def running_statistics_frozen(network: nn.Module) -> Iterator[None]:
    """Let batch norm layers normalise as in training without counting this pass in their running statistics.

    Examples
    --------
    >>> layer = nn.BatchNorm1d(2)
    >>> with running_statistics_frozen(layer):
    ...     _ = layer(torch.ones(3, 2))
    >>> layer.running_mean
    tensor([0., 0.])
    """
    # Turning `track_running_stats` off would save other tensors for the backward pass than a pass that counts.
    layers = [(m, m.momentum) for m in network.modules() if isinstance(m, _BatchNorm)]
    for layer, _ in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum


def checkpoint_activations(network: nn.Module) -> None:
    """Make every residual or dense block keep its input only, and run again in the backward pass.

    Memory of activations falls several times for about a third more computation; values, gradients, running statistics
    and the names of weights stay.

    Examples
    --------
    >>> network = SepCLRNetwork("small", width=2)
    >>> checkpoint_activations(network)
    >>> "common_encoder.layer1.0.conv1.weight" in network.state_dict()
    True
    """

    def contexts() -> tuple[Any, Any]:
        # Running statistics would count every batch twice.
        return nullcontext(), running_statistics_frozen(network)

    apply_activation_checkpointing(
        network,
        checkpoint_wrapper_fn=partial(checkpoint_wrapper, context_fn=contexts),
        check_fn=lambda module: isinstance(module, BLOCKS),
    )
