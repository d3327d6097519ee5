"""Where training runs: processes, devices, precision and threads, all on Lightning Fabric."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar

import joblib
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sepclr_med.errors import UserError
from sepclr_med.networks import SepCLRNetwork, channels_last
from sepclr_med.settings import TrainingConfig

Result = TypeVar("Result")

# Relative to the float32 gradient; rounding of correct bfloat16 kernels stays well below.
LARGEST_BFLOAT16_ERROR = 0.2
# The others wait while the first process preprocesses a cohort.
LONGEST_WAIT = timedelta(days=2)
# Newer torch calls `broadcast_buffers` otherwise and warns.
_DDP_OPTIONS = signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers"


def start_processes(training: TrainingConfig) -> Fabric:
    """Start or join the processes that a configuration asks for, and set precision and threads in each.

    Parameters
    ----------
    training : TrainingConfig
        ``accelerator``, ``devices``, ``num_nodes``, ``precision``, ``threads``.

    Returns
    -------
    Fabric
        Launched. From here on every process runs the same program; only the first may write and speak.

    Raises
    ------
    UserError
        When the devices are not there, contradict what torchrun or SLURM started, or cannot compute in the precision.
    """
    devices, num_nodes = process_grid(training)
    precision = _choose_precision(training)
    several = devices * num_nodes > 1
    # Buffers are averaged once per epoch instead: processes may make unequal numbers of passes between two steps.
    strategy: Any = "auto"
    if several:
        strategy = DDPStrategy(**{SYNC_BUFFERS: False}, gradient_as_bucket_view=True, timeout=LONGEST_WAIT)
    try:
        fabric = Fabric(
            accelerator=training.accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
        )
        _set_threads(training.threads, devices)
        if fabric.device.type == "cpu":
            _keep_freed_memory()
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        absent = training.accelerator == "cuda" and not torch.cuda.is_available()
        why = "this machine has no GPU that PyTorch can use" if absent else " ".join(str(error).split())
        raise UserError(
            f"training.accelerator: {training.accelerator} with {devices} device(s) is not available here: {why}; "
            "`sepclr-med doctor` says why, and --set training.accelerator=auto takes what there is"
        ) from None
    if not fabric.is_global_zero:
        logging.getLogger("sepclr_med").setLevel(logging.ERROR)
    return fabric


def process_grid(training: TrainingConfig) -> tuple[int, int]:
    """Return processes per node and nodes: as configured, else as torchrun or SLURM started them, else one.

    Raises
    ------
    UserError
        When the configuration and the launcher disagree.

    Examples
    --------
    >>> process_grid(TrainingConfig(devices=4))
    (4, 1)
    """
    started = _started_grid()
    if started is None:
        return training.devices or 1, training.num_nodes or 1
    for name, asked, found in zip(
        ("devices", "num_nodes"), (training.devices, training.num_nodes), started, strict=True
    ):
        if asked not in (None, found):
            raise UserError(
                f"training.{name}: {asked} asked for, but the launcher started {started[0]} process(es) on each of "
                f"{started[1]} node(s); leave training.{name} out, or start as many processes"
            )
    return started


def _started_grid() -> tuple[int, int] | None:
    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_JOB_ID" not in os.environ:
        # Said to everyone on a login node; it is of use within a job only.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
    if SLURMEnvironment.detect() and "SLURM_PROCID" in os.environ:
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)
        return max(1, int(os.environ.get("SLURM_NTASKS", 1)) // nodes), nodes
    return None


def is_first_process() -> bool:
    """Say whether this process is the one that writes and speaks."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def on_first_process(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """Do something in the first process only; every process gets its result.

    Parameters
    ----------
    fabric : Fabric
        Launched.
    work : callable
        Its result must be picklable when there are several processes.

    Raises
    ------
    Exception
        What ``work`` raised, in the first process; the others end quietly with exit code 1.
    """
    result: Result | None = None
    failure: BaseException | None = None
    if fabric.is_global_zero:
        try:
            result = work()
        # Whatever it is: the others wait to be told.
        except BaseException as error:
            failure = error
    failed = failure is not None
    if fabric.world_size > 1:
        result, failed = fabric.broadcast((result, failed))
    if failure is not None:
        raise failure
    if failed:
        raise SystemExit(1)
    return result  # type: ignore[return-value]


def average_buffers(fabric: Fabric, network: nn.Module) -> None:
    """Give every process the mean of all processes' running statistics."""
    if fabric.world_size == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(fabric.all_reduce(buffer, reduce_op="mean"))


def bfloat16_gradient_error(seed: int = 0) -> float:
    """Return how far bfloat16 gradients of a small 3-D network are from float32 ones on this machine's CPU.

    Norm of the difference over norm of the float32 gradient; infinite when a bfloat16 gradient is not finite.

    Examples
    --------
    >>> bfloat16_gradient_error() >= 0
    True
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = channels_last(SepCLRNetwork("small", 8, 8, width=8, norm="group"))
    volumes = torch.randn(4, 1, 24, 32, 24)
    torch.set_rng_state(state)
    gradients = []
    # Some CPUs give wrong gradients now and then only.
    for enabled in (False, True, True, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found = network(volumes)
        network.zero_grad()
        (found.common_head.square().sum(dim=0).std() + found.salient_head.square().mean()).backward()
        gradients.append(torch.cat([p.grad.flatten().float() for p in network.parameters()]))
    exact, *rounded = gradients
    errors = [float((each - exact).norm() / exact.norm()) for each in rounded]
    return max(error if math.isfinite(error) else math.inf for error in errors)


def _choose_precision(training: TrainingConfig) -> str:
    on_gpu = training.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    if training.precision == "auto":
        return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if training.precision == "bf16-mixed" and not on_gpu:
        error = bfloat16_gradient_error(training.seed)
        if not error < LARGEST_BFLOAT16_ERROR:
            raise UserError(
                f"training.precision: bf16-mixed gives wrong gradients on this CPU (relative error {error:.3g}, "
                f"allowed below {LARGEST_BFLOAT16_ERROR}); use auto or 32-true"
            )
    return training.precision


def _keep_freed_memory() -> None:
    """Let the C library keep what a step frees, for the next one: pages given back must be cleared again."""
    # Parameters of mallopt(3): mmap threshold (32 MiB is its largest), trim threshold, top pad.
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        for parameter, value in ((-3, 32 << 20), (-1, (1 << 31) - 1), (-2, 64 << 20)):
            library.mallopt(parameter, value)


def _set_threads(threads: int | None, processes_here: int) -> None:
    # joblib knows of affinities and container limits, of which torch's own choice knows nothing.
    torch.set_num_threads(threads or max(1, joblib.cpu_count(only_physical_cores=True) // processes_here))
