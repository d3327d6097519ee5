"""From images to what a trained network exports."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn


@torch.inference_mode()
def represent(
    network: nn.Module,
    batches: Iterable[Tensor],
    also: Callable[[Tensor], dict[str, Tensor]] = lambda _: {},
    advance: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Return the exported spaces of a stream of batches.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; its output has ``spaces``.
    batches : iterable of Tensor
        Volumes of shape (B, C, X, Y, Z), on the network's device.
    also : callable
        Further spaces of a batch.
    advance : callable
        Called after each batch.

    Returns
    -------
    dict of str to array of shape (n, d)
        Empty for no batches.
    """
    found: dict[str, list[np.ndarray]] = {}
    for volumes in batches:
        for space, values in {**network(volumes).spaces, **also(volumes)}.items():
            found.setdefault(space, []).append(values.float().cpu().numpy())
        advance()
    return {space: np.concatenate(parts) for space, parts in found.items()}
