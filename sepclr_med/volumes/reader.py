"""Preprocessed volumes on the device: resident when they fit, else gathered from the memory map."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sepclr_med.volumes.cache import CachedVolumes
from sepclr_med.volumes.standardisation import Standardisation

# The network needs the other half.
RESIDENT_SHARE = 0.5


class VolumeReader:
    """Gives float32 batches of a manifest's rows, standardised, on one device.

    Parameters
    ----------
    cached : CachedVolumes
        The preprocessed cohort.
    standardisation : Standardisation or None
        Fitted on training background rows.
    device : torch.device
        On a GPU the float16 cohort stays in device memory when it takes at most half of what is free.
    """

    def __init__(self, cached: CachedVolumes, standardisation: Standardisation | None, device: torch.device) -> None:
        self.cached, self.device = cached, device
        self.standardisation = standardisation.to(device) if standardisation else None
        self.resident = self._make_resident() if device.type == "cuda" else None

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Return the volumes of these manifest rows, shape (n, C, X, Y, Z)."""
        if self.resident is not None:
            volumes = self.resident[torch.from_numpy(rows).to(self.device)].float()
        else:
            volumes = torch.from_numpy(self.cached.load(rows)).to(self.device).float()
        return self.standardisation(volumes) if self.standardisation else volumes

    def _make_resident(self) -> Tensor | None:
        rows = np.arange(len(self.cached.rows))
        n_bytes = 2 * len(rows) * int(np.prod(self.cached.array.shape[1:]))
        if n_bytes > RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0] or (self.cached.rows < 0).any():
            return None
        return torch.from_numpy(self.cached.load(rows)).to(self.device)
