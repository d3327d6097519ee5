"""Preprocessed volumes on the device: resident when they fit, else read ahead from the memory map."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from sepclr_med.volumes.cache import CachedVolumes
from sepclr_med.volumes.normative import Rendering
from sepclr_med.volumes.standardisation import Standardisation

RESIDENT_SHARE = 0.5
BATCHES_AHEAD = 2
COPIED_AT_ONCE = 256 << 20


class VolumeReader:
    """Gives float32 batches of a manifest's rows, standardised, on one device.

    Parameters
    ----------
    cached : CachedVolumes
        The preprocessed cohort.
    standardisation : Standardisation or None
        Fitted on training background rows.
    device : torch.device
    resident_share : float, default=0.5
        On a GPU the float16 cohort stays in device memory when it takes at most this share of what is free; the
        network needs the rest.
    rendering : Rendering or None, default=None
        With one, deviations from the normative reference follow the plain channels.
    """

    def __init__(
        self,
        cached: CachedVolumes,
        standardisation: Standardisation | None,
        device: torch.device,
        resident_share: float = RESIDENT_SHARE,
        rendering: Rendering | None = None,
    ) -> None:
        self.cached, self.device = cached, device
        self.standardisation = standardisation.to(device) if standardisation else None
        self.rendering = rendering.to(device) if rendering else None
        self.resident = self._make_resident(resident_share) if device.type == "cuda" else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and voxels of what is given out."""
        channels, *voxels = self.cached.array.shape[1:]
        return (channels * (2 if self.rendering else 1), *voxels)

    def raw(self, rows: np.ndarray) -> Tensor:
        """Return the volumes of these manifest rows as they were preprocessed, shape (n, C, X, Y, Z)."""
        if self.resident is not None:
            places = torch.from_numpy(self.places[rows]).to(self.device, non_blocking=True)
            return self.resident[places].float()
        return self._load(rows).float()

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Return the volumes of these manifest rows, shape (n, C, X, Y, Z)."""
        return self.finish(self.raw(rows), rows)

    def stream(self, schedule: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Return the volumes of one group of rows after the other, the next ones being read meanwhile.

        Parameters
        ----------
        schedule : iterable of int array
            Manifest rows of each group.

        Yields
        ------
        Tensor of shape (n, C, X, Y, Z)
        """
        for volumes, rows in self.stream_raw(schedule):
            yield self.finish(volumes, rows)

    def stream_raw(self, schedule: Iterable[np.ndarray]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Return raw volumes and rows of one group after the other, for :meth:`finish`."""
        if self.resident is not None:
            yield from ((self.raw(rows), rows) for rows in schedule)
            return
        load = _PinnedLoader(self.cached, self.device) if self.device.type == "cuda" else self._load
        pending: deque[tuple[Future[Tensor], np.ndarray]] = deque()
        with ThreadPoolExecutor(max_workers=1) as reading:
            try:
                for rows in schedule:
                    pending.append((reading.submit(load, rows), rows))
                    if len(pending) > BATCHES_AHEAD:
                        yield self._next(pending)
                while pending:
                    yield self._next(pending)
            finally:
                for future, _ in pending:
                    future.cancel()

    def _load(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.cached.load(rows)).to(self.device)

    def _next(self, pending: deque[tuple[Future[Tensor], np.ndarray]]) -> tuple[Tensor, np.ndarray]:
        future, rows = pending.popleft()
        return _arrived(future).float(), rows

    def finish(self, volumes: Tensor, rows: np.ndarray) -> Tensor:
        """Return what the network sees of raw volumes of these rows: standardised, deviations behind them."""
        plain = self.standardisation(volumes) if self.standardisation else volumes
        return torch.cat([plain, self.rendering(volumes, rows)], dim=1) if self.rendering else plain

    def _make_resident(self, share: float) -> Tensor | None:
        present, shape = np.flatnonzero(self.cached.rows >= 0), self.cached.array.shape[1:]
        volume_bytes = 2 * int(np.prod(shape))
        if present.size * volume_bytes > share * torch.cuda.mem_get_info(self.device)[0]:
            return None
        self.places = np.cumsum(self.cached.rows >= 0) - 1
        resident = torch.empty((present.size, *shape), dtype=torch.float16, device=self.device)
        for chunk in gen_batches(present.size, max(1, COPIED_AT_ONCE // volume_bytes)):
            resident[chunk] = torch.from_numpy(self.cached.load(present[chunk])).to(self.device)
        return resident


class _PinnedLoader:
    """Reads volumes into page-locked buffers and copies them on a stream of its own, beside the computation."""

    def __init__(self, cached: CachedVolumes, device: torch.device) -> None:
        self.cached, self.device, self.calls = cached, device, 0
        self.stream = torch.cuda.Stream(device)
        self.buffers: list[Tensor] = [torch.empty(0)] * (BATCHES_AHEAD + 1)
        self.copied = [torch.cuda.Event() for _ in self.buffers]

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, torch.cuda.Event]:
        slot = self.calls % len(self.buffers)
        self.calls += 1
        self.copied[slot].synchronize()
        shape = (len(rows), *self.cached.array.shape[1:])
        if len(self.buffers[slot]) < len(rows):
            self.buffers[slot] = torch.empty(shape, dtype=torch.float16, pin_memory=True)
        buffer = self.buffers[slot][: len(rows)]
        self.cached.load(rows, out=buffer.numpy())
        with torch.cuda.stream(self.stream):
            volumes = buffer.to(self.device, non_blocking=True)
            self.copied[slot].record(self.stream)
            arrived = torch.cuda.Event()
            arrived.record(self.stream)
        return volumes, arrived


def _arrived(reading: Future[Tensor] | Future[tuple[Tensor, torch.cuda.Event]]) -> Tensor:
    found = reading.result()
    if isinstance(found, Tensor):
        return found
    volumes, arrived = found
    current = torch.cuda.current_stream(volumes.device)
    current.wait_event(arrived)
    # Its memory was given by the copying stream and must not be reused there before this one is done.
    volumes.record_stream(current)
    return volumes
