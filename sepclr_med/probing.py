"""A short trial of training on this machine, in a process of its own: how long a step takes and what it holds.

The trial may run out of memory; then only that process dies, and what was measured before is kept.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from sepclr_med.config import Config, parse_config
from sepclr_med.engine import start_processes
from sepclr_med.losses import uniformity
from sepclr_med.methods import build_network, find_method, needs_reference
from sepclr_med.networks import channels_last, checkpoint_activations
from sepclr_med.step import backward_batch, divide_batch, score_batch
from sepclr_med.volumes.views import apply_views, draw_parameters

STEPS_TIMED = 3
# The next size is not tried when it would need more than this share of what is free.
USABLE_SHARE = 0.85


@dataclass(frozen=True)
class Probe:
    """What a part of so many images took.

    ``step_seconds`` is for views, forward and backward pass and the optimiser, ``forward_seconds`` for views and a
    forward pass without a graph, ``n_bytes`` the peak memory of the device beyond the resident volumes (of the process
    on a CPU).
    """

    micro_batch: int
    step_seconds: float
    forward_seconds: float
    n_bytes: int


def probe(config: Config, shape: tuple[int, ...], sizes: list[int], free: int, seconds: float = 60.0) -> list[Probe]:
    """Try growing micro-batches until memory or time is used up.

    Parameters
    ----------
    config : Config
        Network, views, method and training as they will be.
    shape : tuple of int
        Channels and voxels of a volume.
    sizes : list of int
        Images per part to try, rising.
    free : int
        Bytes that the network may take.
    seconds : float, default=60
        No new size is begun after this.

    Returns
    -------
    list of Probe
        Of the sizes that worked; empty when not even the first did.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    arguments = (sending, config.model_dump(mode="json"), shape, sizes, free, seconds)
    child = context.Process(target=_probe_sizes, args=arguments, daemon=True)
    with _no_main_program():
        child.start()
    sending.close()
    found = []
    try:
        while True:
            found.append(receiving.recv())
    except EOFError:
        child.join()
    return found


@contextmanager
def _no_main_program() -> Iterator[None]:
    """Keep a spawned process from running the user's script from its beginning, where it would plan again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _probe_sizes(
    sending: Connection, settings: dict, shape: tuple[int, ...], sizes: list[int], free: int, seconds: float
) -> None:
    began = time.monotonic()
    config = parse_config(settings)
    alone = config.training.model_copy(update={"devices": 1, "num_nodes": 1})
    trial = _Trial(config.model_copy(update={"training": alone}), shape)
    last: Probe | None = None
    for size in sizes:
        if last and (
            last.n_bytes * size / last.micro_batch > USABLE_SHARE * free or time.monotonic() - began > seconds
        ):
            break
        try:
            last = trial.measure(size)
        except (torch.OutOfMemoryError, MemoryError):
            break
        sending.send(last)
    sending.close()


class _Cost(NamedTuple):
    """Stands for the terms of any method: pairs of rows, as in all of them."""

    total: Tensor


class _Trial:
    """A network and random volumes."""

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        channels, *voxels = shape
        # Deviations are as many channels again.
        self.config, self.shape = config, (channels * (1 + needs_reference(config)), *voxels)
        self.n_views = getattr(find_method(config), "N_VIEWS", 2)
        self.fabric = start_processes(config.training)
        network = channels_last(build_network(config, shape[0], shape[1:])).to(self.fabric.device)
        if config.training.checkpoint_activations:
            checkpoint_activations(network)
        optimiser = torch.optim.AdamW(network.parameters(), fused=self.fabric.device.type in ("cuda", "cpu"))
        module = network if config.training.compile == "none" else torch.compile(network)
        self.network, self.optimiser = self.fabric.setup(module, optimiser)
        self.generator = torch.Generator(self.fabric.device).manual_seed(0)
        self.before = self._peak()

    def measure(self, n: int) -> Probe:
        images = torch.randn(n, *self.shape, device=self.fabric.device)
        parts = divide_batch(n)
        parameters = draw_parameters(self.n_views * n, self.shape, self.config.views, self.generator)

        def take(step) -> float:
            began = time.perf_counter()
            step(
                self.fabric,
                self.network,
                lambda rows: _Cost(uniformity(rows)),
                lambda part: apply_views(torch.cat([images] * self.n_views), parameters),
                n,
                parts,
                n_views=self.n_views,
            )
            if step is backward_batch:
                self.optimiser.step()
                self.optimiser.zero_grad()
            if self.fabric.device.type == "cuda":
                torch.cuda.synchronize(self.fabric.device)
            return time.perf_counter() - began

        timed = []
        for step in (backward_batch, score_batch):
            take(step)
            timed.append(statistics.median(take(step) for _ in range(STEPS_TIMED)))
        return Probe(n, *timed, self._peak() - self.before)

    def _peak(self) -> int:
        if self.fabric.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.fabric.device)
        return peak_resident_bytes()


def peak_resident_bytes(pid: int | str = "self") -> int:
    """Return the most memory a process has held so far.

    Examples
    --------
    >>> peak_resident_bytes() > 1 << 20
    True
    """
    status = Path(f"/proc/{pid}/status")
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if status.is_file():
        # The figure of getrusage begins with what the parent held when it started this process.
        return next(
            1024 * int(line.split()[1])
            for line in status.read_text(encoding="utf-8").splitlines()
            if line[:6] == "VmHWM:"
        )
    import resource  # which Windows does not have

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
