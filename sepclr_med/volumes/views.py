"""Random views of a whole batch at once, on the batch's device.

:func:`draw_parameters` draws everything random, one set per volume; :func:`apply_views` acts on all volumes in a few
kernels. The two are apart so that the parts of a batch, on one device or several, get the views the whole batch would
get. A part whose probability is zero costs nothing. Rotation, scaling, shift, flip, resized crop and elastic
deformation are one interpolation. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace

import torch
from sklearn.utils import gen_batches
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812

from sepclr_med.settings import ViewsConfig
from sepclr_med.volumes.chains import ChainParameters, draw_seeds

# Noise of a batch is cut from this many volumes of white noise: generators are serial on CPUs.
NOISE_VOLUMES = 8
# On CPUs: the memory allocator keeps blocks of this size, and gives larger ones back to the system each time.
VOXELS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class ViewParameters:
    """What one random view of each of n volumes is made with; None where a part is off.

    Parameters
    ----------
    control_points : Tensor (n, *controls, d) or None
        Where control points of the view lie in the volume, in [-1, 1], last array axis first as in ``grid_sample``.
    blur_sigma : Tensor (n, 1) or None
        Voxels; zero leaves a volume as it is.
    bias : Tensor (n, 1, 3, ...) or None
        Logarithm of the bias field at its control points.
    gamma, gain, shift, noise_level : Tensor (n, 1) or None
        Exponent, factor, and standard deviations of the volume.
    noise_start : Tensor (n,) or None
        Where a volume's noise begins in ``noise``.
    cutout_centre, cutout_half : Tensor (n, d) or None
        Voxels.
    noise : Tensor (m,) or None
        White noise, shared by all volumes.
    blur_reach : int
        Half the edge of the blur's kernel, in voxels.
    """

    control_points: Tensor | None = None
    blur_sigma: Tensor | None = None
    bias: Tensor | None = None
    gamma: Tensor | None = None
    gain: Tensor | None = None
    shift: Tensor | None = None
    noise_level: Tensor | None = None
    noise_start: Tensor | None = None
    cutout_centre: Tensor | None = None
    cutout_half: Tensor | None = None
    noise: Tensor | None = None
    blur_reach: int = 0

    def take(self, rows: slice, n_views: int = 2) -> ViewParameters:
        """Return the parameters of some images, where the n are ``n_views`` of every image, first views first."""
        per_volume = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("noise", "blur_reach")}
        taken = {
            name: value.unflatten(0, (n_views, -1))[:, rows].flatten(0, 1)
            for name, value in per_volume.items()
            if value is not None
        }
        return replace(self, **taken)


def draw_views(volumes: Tensor, views: ViewsConfig, generator: Generator) -> Tensor:
    """Return one random view of every volume.

    Parameters
    ----------
    volumes : Tensor of shape (B, C, X, Y) or (B, C, X, Y, Z)
        Preprocessed images, float32. All channels of a volume share the geometry.
    views : ViewsConfig
        Probabilities and ranges.
    generator : torch.Generator
        On the device of ``volumes``; the views depend on its state only.

    Returns
    -------
    Tensor
        Same shape. For two views pass the batch twice: ``draw_views(torch.cat([x, x]), ...)``.

    Examples
    --------
    >>> volumes = torch.rand(2, 1, 8, 10, 8)
    >>> still = ViewsConfig(affine=0, elastic=0, noise=0, cutout=0)
    >>> torch.equal(draw_views(volumes, still, torch.Generator()), volumes)
    True
    """
    return apply_views(volumes, draw_parameters(volumes.shape[0], tuple(volumes.shape[1:]), views, generator))


def draw_parameters(
    n: int, shape: tuple[int, ...], views: ViewsConfig, generator: Generator
) -> ViewParameters | ChainParameters:
    """Draw what ``n`` views are made with, on the generator's device.

    Parameters
    ----------
    n : int
        Number of views.
    shape : tuple of int
        Channels and voxels of a volume, (C, X, Y) or (C, X, Y, Z).
    views : ViewsConfig
        Probabilities and ranges.
    generator : torch.Generator
        The parameters depend on its state only.

    Returns
    -------
    ViewParameters or ChainParameters
        The latter where a chain of transforms replaces these views.

    Examples
    --------
    >>> parameters = draw_parameters(6, (1, 8, 10, 8), ViewsConfig(), torch.Generator().manual_seed(0))
    >>> volumes = torch.rand(6, 1, 8, 10, 8)
    >>> part = apply_views(volumes[[1, 2, 4, 5]], parameters.take(slice(1, 3)))
    >>> torch.allclose(part, apply_views(volumes, parameters)[[1, 2, 4, 5]])
    True
    """
    if views.chain is not None:
        return draw_seeds(n, views, generator)
    draw = _Draw(n, shape[1:], generator)
    drawn: dict[str, Tensor] = {}
    if views.affine or views.flip or views.crop or views.elastic:
        drawn["control_points"] = _draw_control_points(draw, views)
    if views.blur:
        drawn["blur_sigma"] = draw.uniform(views.blur_sigma / 4, views.blur_sigma, 1) * draw.chosen(views.blur)
    if views.bias_field:
        field = draw.symmetric(views.bias_strength, 1, *[3] * draw.spatial_dims)
        drawn["bias"] = field * _over_voxels(draw.chosen(views.bias_field), field)
    if views.gamma:
        drawn["gamma"] = (draw.symmetric(views.gamma_range, 1) * draw.chosen(views.gamma)).exp()
    if views.intensity:
        chosen = draw.chosen(views.intensity)
        drawn["gain"] = 1 + draw.symmetric(views.intensity_scale, 1) * chosen
        drawn["shift"] = draw.symmetric(views.intensity_shift, 1) * chosen
    if views.noise:
        voxels = torch.Size(shape).numel()
        spare = voxels * (max(2, min(n, NOISE_VOLUMES)) - 1)
        drawn["noise_level"] = draw.uniform(0, views.noise_std, 1) * draw.chosen(views.noise)
        drawn["noise_start"] = torch.randint(spare + 1, (n,), generator=generator, device=generator.device)
        drawn["noise"] = torch.randn(voxels + spare, generator=generator, device=generator.device)
    if views.cutout:
        size = _lengths(draw.shape, draw.device)
        drawn["cutout_half"] = views.cutout_size * size / 2 * draw.chosen(views.cutout)
        drawn["cutout_centre"] = draw.uniform(0, 1, draw.spatial_dims) * size
    return ViewParameters(**drawn, blur_reach=max(1, int(3 * views.blur_sigma + 0.5)))


def apply_views(volumes: Tensor, parameters: ViewParameters | ChainParameters) -> Tensor:
    """Return the view of every volume that the parameters describe.

    Parameters
    ----------
    volumes : Tensor of shape (n, C, X, Y) or (n, C, X, Y, Z)
        As for :func:`draw_views`; left as they are.
    parameters : ViewParameters or ChainParameters
        One set per volume, from :func:`draw_parameters`.

    Returns
    -------
    Tensor
        Same shape.
    """
    if isinstance(parameters, ChainParameters):
        return parameters.apply(volumes)
    n_at_once = len(volumes)
    if volumes.device.type == "cpu":
        n_at_once = max(torch.get_num_threads(), VOXELS_AT_ONCE // volumes[0].numel())
    if n_at_once >= len(volumes):
        return _apply(volumes, parameters)
    seen = torch.empty_like(volumes)
    for part in gen_batches(len(volumes), n_at_once):
        seen[part] = _apply(volumes[part], parameters.take(part, n_views=1))
    return seen


def _apply(volumes: Tensor, given: ViewParameters) -> Tensor:
    if given.control_points is not None:
        volumes = F.grid_sample(volumes, _sampling_grid(given.control_points, volumes.shape[2:]), align_corners=False)
    if given.blur_sigma is not None:
        volumes = _blur(volumes, given.blur_sigma, given.blur_reach)
    if given.bias is not None:
        mode = "trilinear" if volumes.ndim == 5 else "bilinear"
        volumes = volumes * F.interpolate(given.bias, size=volumes.shape[2:], mode=mode, align_corners=True).exp()
    if given.gamma is not None:
        volumes = _gamma(volumes, given.gamma)
    if given.gain is not None or given.noise is not None:
        volumes = _change_intensity(volumes, given)
    if given.cutout_half is not None:
        volumes = volumes.masked_fill(_box(volumes, given.cutout_centre, given.cutout_half), 0)
    return volumes


class _Draw:
    """Per-volume random numbers of one batch."""

    def __init__(self, n: int, shape: tuple[int, ...], generator: Generator):
        self.n, self.shape = n, shape
        self.spatial_dims, self.device, self.generator = len(shape), generator.device, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(self.n, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def symmetric(self, largest: float, *shape: int) -> Tensor:
        return self.uniform(-largest, largest, *shape)

    def chosen(self, probability: float) -> Tensor:
        return (self.uniform(0, 1, 1) < probability).float()


def _over_voxels(values: Tensor, volumes: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (volumes.ndim - 1))


# Constants are kept on the device: copying a few numbers there would wait for all its work.
@functools.lru_cache(maxsize=64)
def _lengths(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(shape, dtype=torch.float32, device=device)


@functools.lru_cache(maxsize=8)
def _turns(d: int, device: torch.device) -> Tensor:
    """Return the antisymmetric matrix of each plane of rotation, (d (d - 1) / 2, d, d)."""
    first, second = torch.triu_indices(d, d, offset=1)
    turns = torch.zeros(len(first), d, d)
    turns[torch.arange(len(first)), first, second] = 1
    return (turns - turns.mT).to(device)


@functools.lru_cache(maxsize=8)
def _control_grid(shape: tuple[int, ...], controls: tuple[int, ...], device: torch.device) -> Tensor:
    """Return coordinates in [-1, 1] of control points from the first voxel's centre to the last's, (*controls, d)."""
    edges = [1 - 1 / length for length in shape]
    axes = [torch.linspace(-edge, edge, n) for edge, n in zip(edges, controls, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(device)


@functools.lru_cache(maxsize=32)
def _linear_weights(length: int, n_controls: int, device: torch.device) -> Tensor:
    """Return the (length, n_controls) weights of linear interpolation between control points."""
    positions = torch.linspace(0, n_controls - 1, length)
    return (1 - (positions[:, None] - torch.arange(n_controls)).abs()).clamp(min=0).to(device)


def _draw_control_points(draw: _Draw, views: ViewsConfig) -> Tensor:
    d, size = draw.spatial_dims, _lengths(draw.shape, draw.device)
    controls = (2,) * d
    if views.elastic:
        controls = tuple(max(4, round(length / views.elastic_length) + 1) for length in draw.shape)
    matrix, shift = _draw_affine(draw, views)
    flat = _control_grid(draw.shape, controls, draw.device).reshape(-1, d)
    points = torch.einsum("nij,pj->npi", matrix, flat) + shift[:, None, :]
    if views.elastic:
        strength = draw.uniform(0, views.elastic_std, 1) * draw.chosen(views.elastic)
        moves = torch.randn(points.shape, generator=draw.generator, device=draw.device)
        points = points + moves * strength[:, :, None] * (2 / size)
    return points.flip(-1).reshape(draw.n, *controls, d)


def _draw_affine(draw: _Draw, views: ViewsConfig) -> tuple[Tensor, Tensor]:
    """Return matrices (n, d, d) and shifts (n, d) from output to input coordinates, both in [-1, 1]."""
    d, size = draw.spatial_dims, _lengths(draw.shape, draw.device)
    moved, cropped = draw.chosen(views.affine), draw.chosen(views.crop)
    angles = draw.symmetric(torch.pi * views.rotation / 180, d * (d - 1) // 2) * moved
    edge = 1 - draw.uniform(0, 1 - views.crop_scale, 1) * cropped
    scaling = (1 + draw.symmetric(views.scaling, d) * moved) * edge
    mirror = torch.ones(draw.n, d, device=draw.device)
    mirror[:, :1] = 1 - 2 * draw.chosen(views.flip)
    shift = draw.symmetric(2 * views.translation, d) * moved + draw.symmetric(1, d) * (1 - edge)
    # Rotate in voxels, not in [-1, 1]: a rotation must not shear a grid with unequal edges.
    matrix = _rotation(angles, d) * size / size[:, None] * (scaling * mirror)[:, None, :]
    return matrix, shift


def _rotation(angles: Tensor, d: int) -> Tensor:
    """Return the exponential of the antisymmetric matrix of the angles, by Rodrigues' formula (d = 2 or 3)."""
    skew = torch.einsum("na,aij->nij", angles, _turns(d, angles.device))
    angle = angles.norm(dim=1)[:, None, None]
    half = torch.sinc(angle / (2 * torch.pi))
    return torch.eye(d, device=angles.device) + torch.sinc(angle / torch.pi) * skew + half.square() / 2 * (skew @ skew)


def _sampling_grid(points: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate control points linearly to every voxel: (n, *controls, d) to (n, X, Y, Z, d).

    An affine map is linear between control points, so it costs nothing beside the elastic deformation.
    """
    for axis, length in reversed(list(enumerate(shape, start=1))):
        weights = _linear_weights(length, points.shape[axis], points.device)
        before, after = points.shape[:axis], points.shape[axis + 1 :]
        # The weights act on one axis; a batched product keeps the result in the layout grid_sample reads.
        flat = points.reshape(before.numel(), points.shape[axis], after.numel())
        points = torch.matmul(weights, flat).reshape(*before, length, *after)
    return points


def _blur(volumes: Tensor, sigma: Tensor, reach: int) -> Tensor:
    n, channels, *shape = volumes.shape
    offsets = torch.arange(-reach, reach + 1, device=volumes.device)
    # A vanishing sigma gives the identity kernel, so volumes that were not chosen pass unchanged.
    kernels = torch.softmax(-offsets.square() / (2 * sigma.square() + 1e-6), dim=1).repeat_interleave(channels, dim=0)
    flat = volumes.reshape(1, n * channels, *shape)
    convolve = F.conv3d if len(shape) == 3 else F.conv2d
    for axis in range(len(shape)):
        edge = [-1 if a == axis else 1 for a in range(len(shape))]
        padding = [reach if a == axis else 0 for a in range(len(shape))]
        flat = convolve(flat, kernels.reshape(n * channels, 1, *edge), padding=padding, groups=n * channels)
    return flat.reshape(volumes.shape)


def _gamma(volumes: Tensor, gamma: Tensor) -> Tensor:
    voxels = volumes.flatten(1)
    low, high = voxels.min(dim=1, keepdim=True).values, voxels.max(dim=1, keepdim=True).values
    width = (high - low).clamp(min=1e-6)
    return (((voxels - low) / width).clamp(min=1e-6) ** gamma * width + low).reshape(volumes.shape)


def _change_intensity(volumes: Tensor, given: ViewParameters) -> Tensor:
    voxels = volumes.flatten(1)
    # The same as `std`, which is several times slower on CPUs.
    spread = torch.linalg.vector_norm(voxels - voxels.mean(dim=1, keepdim=True), dim=1, keepdim=True)
    std = spread / (voxels.shape[1] - 1) ** 0.5
    if given.gain is not None:
        voxels = torch.addcmul(given.shift * std, voxels, given.gain)
    if given.noise is not None:
        noise = given.noise.unfold(0, voxels.shape[1], 1)[given.noise_start]
        voxels = torch.addcmul(voxels, noise, given.noise_level * std)
    return voxels.reshape(volumes.shape)


def _box(volumes: Tensor, centre: Tensor, half: Tensor) -> Tensor:
    """Return (n, 1, X, Y, Z), True inside the box of each volume."""
    inside = torch.ones(len(volumes), *[1] * (volumes.ndim - 1), dtype=torch.bool, device=volumes.device)
    for axis, length in enumerate(volumes.shape[2:]):
        position = torch.arange(length, device=volumes.device) + 0.5
        within = (position - centre[:, axis, None]).abs() < half[:, axis, None]
        inside = inside & within.reshape(-1, *[length if a == axis else 1 for a in range(-1, volumes.ndim - 2)])
    return inside
