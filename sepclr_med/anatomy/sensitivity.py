"""Which part of an image a factor reads: occlusion and integrated gradients of the encoder, and a sanity check.

The value of a factor is compared with what it would be if (part of) the image were that of the average control. So all
inputs are differences from the mean training background image, and the reference of both methods is zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sepclr_med.errors import RunError
from sepclr_med.networks import channels_last
from sepclr_med.progress import report_progress

N_STEPS = 24
WINDOW_MM = 20.0
BATCH = 32
CAPTUM_ABSENT = (
    "integrated gradients need captum: `pip install 'sepclr-med[explain]'`, or ask for occlusion alone with "
    "--sensitivity occlusion"
)


@dataclass(frozen=True)
class Sensitivity:
    """Averages over participants of the absolute attribution.

    Parameters
    ----------
    maps : mapping of str to float array (X, Y, Z)
        ``ig``, ``ig_random``, ``occlusion``; in units of the factor.
    facts : mapping
        JSON-ready.
    """

    maps: Mapping[str, np.ndarray]
    facts: Mapping[str, float | int]


class FactorReadout(nn.Module):
    """Factors as a function of how an image differs from the reference.

    ``(encoder(reference + difference) - centre) @ weights``, shape (B, F).

    Parameters
    ----------
    encoder : nn.Module
    reference : Tensor of shape (C, X, Y, Z)
    weights : Tensor of shape (d, F)
    centre : Tensor of shape (d,)

    Examples
    --------
    >>> readout = FactorReadout(nn.Flatten(), torch.zeros(1, 2, 2, 2), torch.ones(8, 1), torch.zeros(8))
    >>> readout(torch.ones(3, 1, 2, 2, 2)).flatten()
    tensor([8., 8., 8.])
    """

    def __init__(self, encoder: nn.Module, reference: Tensor, weights: Tensor, centre: Tensor):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("reference", reference)
        self.register_buffer("weights", weights)
        self.register_buffer("centre", centre)

    def forward(self, difference: Tensor) -> Tensor:
        """Return the factors of a batch of differences (B, C, X, Y, Z)."""
        return (self.encoder(channels_last(self.reference + difference)).float() - self.centre) @ self.weights


def attribute_gradients(readout: FactorReadout, differences: Tensor, n_steps: int = N_STEPS) -> tuple[np.ndarray, list]:
    """Average absolute integrated gradients (Sundararajan 2017) from the reference to each image.

    Parameters
    ----------
    readout : FactorReadout
        With F factors.
    differences : Tensor of shape (n, C, X, Y, Z)
    n_steps : int, default=24
        Points of the Gauss-Legendre quadrature.

    Returns
    -------
    maps : float array (F, X, Y, Z)
        Sum over channels of the absolute attribution, averaged over images.
    errors : list of float
        For each factor how far attributions are from adding up to the factor's change: mean |error| over mean |change|.

    Raises
    ------
    RunError
        When captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise RunError(CAPTUM_ABSENT) from None
    method = IntegratedGradients(readout)
    n_factors = readout.weights.shape[1]
    totals = [torch.zeros(differences.shape[2:], device=differences.device) for _ in range(n_factors)]
    gaps: list[list[Tensor]] = [[] for _ in range(n_factors)]
    with report_progress("integrated gradients", len(differences) * n_factors) as advance:
        for difference in differences.split(1):
            for factor in range(n_factors):
                found, gap = method.attribute(
                    difference,
                    target=factor,
                    n_steps=n_steps,
                    internal_batch_size=BATCH,
                    return_convergence_delta=True,
                )
                totals[factor] += found.detach().abs().sum(dim=(0, 1))
                gaps[factor].append(gap.detach())
                advance()
        with torch.inference_mode():
            changes = torch.cat([readout(part) for part in differences.split(BATCH)])
            changes = (changes - readout(torch.zeros_like(differences[:1]))).abs().mean(dim=0).tolist()
    errors = [
        float(torch.cat(gap).abs().mean()) / max(change, 1e-12) for gap, change in zip(gaps, changes, strict=True)
    ]
    return np.stack([(total / len(differences)).cpu().numpy() for total in totals]), errors


@torch.inference_mode()
def attribute_occlusion(
    readout: FactorReadout, differences: Tensor, mask: np.ndarray, window: int, seed: int = 0
) -> np.ndarray:
    """Average absolute change of each factor when a window of the image fades to the reference.

    ``monai.visualize.OcclusionSensitivity`` with Gaussian windows that lie side by side; where they begin is drawn anew
    for each image, so that the average over images is finer than a window.

    Parameters
    ----------
    readout : FactorReadout
        With F factors.
    differences : Tensor of shape (n, C, X, Y, Z)
    mask : bool array (X, Y, Z)
        Only its bounding box is occluded.
    window : int
        Voxels along each side.
    seed : int, default=0

    Returns
    -------
    float array (F, X, Y, Z)
        Zero outside the box.
    """
    from monai.visualize import OcclusionSensitivity

    occlude = OcclusionSensitivity(
        readout, mask_size=window, n_batch=BATCH, verbose=False, mode="gaussian", overlap=0.0, activate=False
    )
    rng = np.random.default_rng([seed, 2])
    readout.eval()
    total = np.zeros((readout.weights.shape[1], *mask.shape), dtype=np.float32)
    times = np.zeros(mask.shape, dtype=np.float32)
    with report_progress("occlusion", len(differences)) as advance:
        for difference in differences.split(1):
            low, high = _box(mask, rng.integers(0, window, 3))
            with warnings.catch_warnings():
                # MONAI indexes in a way PyTorch will drop one day.
                warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
                changed, _ = occlude(difference, b_box=np.column_stack([low, high]).ravel().tolist())
            change = (changed - readout(difference)[..., None, None, None]).abs()[0]
            place = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            total[(slice(None), *place)] += np.asarray(change.cpu())
            times[place] += 1
            advance()
    return total / np.maximum(times, 1)


def explain_factors(
    build: Callable[[bool], nn.Module],
    weights: np.ndarray,
    centre: np.ndarray,
    images: Tensor,
    reference: Tensor,
    mask: np.ndarray,
    methods: Sequence[str] = ("ig", "occlusion"),
    window: int = 3,
    seed: int = 0,
) -> list[Sensitivity]:
    """Map the sensitivity of several factors of one encoder.

    Beside the integrated gradients stand those of the same network with all weights drawn anew (Adebayo 2018,
    arXiv 1810.03292), and ``random_correlation``, the Spearman correlation of the two maps over the mask: a map that
    an untrained network gives as well says nothing about what was learned. ``input_correlation`` is that with the mean
    absolute difference of the images themselves.

    Parameters
    ----------
    build : callable
        ``build(False)`` returns the trained encoder, ``build(True)`` one with random weights, both in ``eval`` mode.
    weights : float array (d, F)
        One column per factor.
    centre : float array (d,)
    images : Tensor of shape (n, C, X, Y, Z)
        As the encoder sees them, one per participant.
    reference : Tensor of shape (C, X, Y, Z)
        The average control.
    mask : bool array (X, Y, Z)
    methods : sequence of {"ig", "occlusion"}
    window : int, default=3
        Voxels along the side of an occluded window.
    seed : int, default=0

    Returns
    -------
    list of Sensitivity
        One per factor.

    Raises
    ------
    RunError
        When captum is needed and not installed.
    """
    readout = _readout(build(False), weights, centre, reference)
    differences = images - reference
    maps: dict[str, np.ndarray] = {}
    facts: list[dict[str, float | int]] = [{"n_images": len(images)} for _ in range(weights.shape[1])]
    if "ig" in methods:
        untrained = _readout(build(True), weights, centre, reference)
        maps["ig"], errors = attribute_gradients(readout, differences)
        maps["ig_random"], _ = attribute_gradients(untrained, differences)
        spread = differences.abs().sum(dim=1).mean(dim=0).cpu().numpy()
        for index, fact in enumerate(facts):
            fact["completeness_error"] = round(errors[index], 4)
            fact["random_correlation"] = _rank_correlation(maps["ig"][index][mask], maps["ig_random"][index][mask])
            fact["input_correlation"] = _rank_correlation(maps["ig"][index][mask], spread[mask])
    if "occlusion" in methods:
        maps["occlusion"] = attribute_occlusion(readout, differences, mask, window, seed)
        for fact in facts:
            fact["window_voxels"] = window
    return [
        Sensitivity({name: values[index] * mask for name, values in maps.items()}, fact)
        for index, fact in enumerate(facts)
    ]


def window_voxels(spacing: float, shape: Sequence[int]) -> int:
    """Return the odd number of voxels nearest to 20 mm, at least 3 where the image has them.

    Examples
    --------
    >>> [window_voxels(spacing, (40, 40, 40)) for spacing in (6.0, 3.0, 1.5)]
    [3, 7, 13]
    """
    return min(max(3, 2 * round((WINDOW_MM / spacing - 1) / 2) + 1), *shape)


def _readout(encoder: nn.Module, weights: np.ndarray, centre: np.ndarray, reference: Tensor) -> FactorReadout:
    numbers = [torch.as_tensor(array, dtype=torch.float32, device=reference.device) for array in (weights, centre)]
    encoder = encoder.to(reference.device).requires_grad_(False)
    # The whole of it: MONAI puts back the mode it finds, and a batch norm in training mode learns from what it sees.
    return FactorReadout(encoder, reference, *numbers).eval()


def _box(mask: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first voxel of the mask's box, moved outwards by ``shift``, and the one after its last."""
    inside = np.argwhere(mask)
    return np.maximum(inside.min(axis=0) - shift, 0), inside.max(axis=0) + 1


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return round(float(spearmanr(first, second).statistic), 3)
