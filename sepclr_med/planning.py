"""``plan``: what a run will take, measured by a short trial, before anyone spends a GPU day."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
import torch

from sepclr_med.cohort.trainable import require_trainable
from sepclr_med.config import Config
from sepclr_med.engine import process_grid
from sepclr_med.errors import RunError
from sepclr_med.methods import build_network
from sepclr_med.probing import USABLE_SHARE, Probe, probe
from sepclr_med.progress import format_duration
from sepclr_med.rundir import RunDir
from sepclr_med.runs import cache_folder
from sepclr_med.volumes.batches import draw_batches
from sepclr_med.volumes.cache import cache_volumes

GIB = 1 << 30
IMAGES_TRIED = 4


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Parameters
    ----------
    facts : dict
        Numbers by name, in seconds and bytes.
    probes : list of Probe
        What was measured, by images in memory at a time.
    micro_batch : int or None
        The recommended setting; None where the whole batch fits.
    settings : list of str
        ``section.key=value`` that differ from the configuration and are recommended.
    warnings : list of str
        What will not fit.
    """

    facts: dict[str, float | int | str | None]
    probes: list[Probe]
    micro_batch: int | None
    settings: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Return the plan as rows to read: ``what``, ``value``, ``remark``."""
        return pd.DataFrame(_rows(self), columns=["what", "value", "remark"])


def plan(manifest: pd.DataFrame, config: Config, run_dir: str | Path, seconds: float = 60.0) -> Plan:
    """Measure what training will take on this machine; nothing is written to the run folder.

    A few images are preprocessed and a few steps are taken with the very network, views and size of volumes, on random
    volumes. Steps are timed for growing micro-batches until memory or time is used up.

    Parameters
    ----------
    manifest : DataFrame
        With a ``split`` column, as for :func:`sepclr_med.fit`.
    config : Config
    run_dir : path
        Where the run would be; its disk is looked at.
    seconds : float, default=60
        About how long to measure.

    Returns
    -------
    Plan

    Raises
    ------
    ManifestError
        When the groups or splits cannot be trained on.
    RunError
        When not even two images fit into memory.
    """
    load, cores = psutil.getloadavg()[0], psutil.cpu_count() or 1
    roles = require_trainable(manifest, config)
    used = manifest[roles.notna() & manifest["split"].isin(["train", "val"])]
    shape, preprocessing_seconds = _try_preprocessing(used, config)
    devices, num_nodes = process_grid(config.training)
    train = used["split"] == "train"
    batches = draw_batches((roles[used.index[train]] == "target").to_numpy(bool), config.training.batch_size, 0, 0)
    per_process = -(-len(batches[0]) // (devices * num_nodes))
    volume_bytes = 2 * math.prod(shape)
    memory = _device_memory(config, devices)
    budget = int(config.volumes.resident_share * memory["free"]) if memory["kind"] == "GPU" else 0
    resident = len(used) * volume_bytes <= budget
    free = memory["free"] - (len(used) * volume_bytes if resident else 0)
    began = time.monotonic()
    probes = probe(config, shape, _sizes(per_process), free, seconds)
    # Where the trial ended before its time, it was memory that ended it.
    usable = USABLE_SHARE * free if time.monotonic() - began > seconds else 0
    if not probes:
        raise RunError(
            f"plan: not even 2 images of {' x '.join(map(str, shape[1:]))} voxels could be trained on with "
            f"{config.network.called} in {free / GIB:.1f} GiB; use a larger volumes.spacing, "
            "training.checkpoint_activations=true or a smaller backbone"
        )
    best, step_seconds = _recommend(probes, per_process, usable)
    epoch_seconds = len(batches) * step_seconds
    n_jobs = joblib.cpu_count() if config.volumes.n_jobs == -1 else config.volumes.n_jobs
    weights = sum(p.numel() for p in build_network(config, shape[0], shape[1:]).parameters()) * 4
    disk = _disk(cache_folder(RunDir(run_dir), config))
    facts = {
        "images": len(used),
        "voxels": " x ".join(map(str, shape[1:])),
        "volumes_bytes": len(used) * volume_bytes,
        "volumes_resident": resident,
        "resident_budget_bytes": budget,
        "preprocessing_seconds": preprocessing_seconds * len(used) / n_jobs,
        "disk_bytes": len(used) * volume_bytes + 6 * weights,
        "disk_free_bytes": disk,
        "device": memory["name"],
        "device_free_bytes": memory["free"],
        "ram_free_bytes": psutil.virtual_memory().available,
        "processes": devices * num_nodes,
        "devices": devices,
        "num_nodes": num_nodes,
        "batch": len(batches[0]),
        "images_measured": max(found.micro_batch for found in probes),
        "load": load,
        "cores": cores,
        "step_bytes": best.n_bytes,
        "step_seconds": step_seconds,
        "steps_per_epoch": len(batches),
        "epoch_seconds": epoch_seconds,
        "epochs": config.training.epochs,
        "training_seconds": config.training.epochs * epoch_seconds,
    }
    micro_batch = None if best.micro_batch >= per_process else best.micro_batch
    settings = [] if micro_batch == config.training.micro_batch else [f"training.micro_batch={micro_batch or 'null'}"]
    return Plan(facts, probes, micro_batch, settings, _warnings(facts, memory["kind"], per_process))


def _try_preprocessing(used: pd.DataFrame, config: Config) -> tuple[tuple[int, ...], float]:
    """Return the shape of a preprocessed volume and the seconds one image takes one core."""
    some = used.iloc[np.linspace(0, len(used) - 1, min(IMAGES_TRIED, len(used))).astype(int)]
    one_job = config.volumes.model_copy(update={"n_jobs": 1})
    with tempfile.TemporaryDirectory() as folder:
        # The first image pays for loading libraries.
        cache_volumes(some.iloc[:1], one_job, folder, config.network.spatial_dims)
        began = time.perf_counter()
        cached = cache_volumes(some, one_job, folder, config.network.spatial_dims)
        elapsed = time.perf_counter() - began
        return tuple(cached.array.shape[1:]), elapsed / max(1, len(some) - 1)


def _device_memory(config: Config, devices: int) -> dict[str, str | int]:
    if config.training.accelerator in ("auto", "cuda") and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return {"kind": "GPU", "name": torch.cuda.get_device_name(), "free": free}
    return {
        "kind": "CPU",
        "name": f"CPU, {joblib.cpu_count()} cores",
        "free": psutil.virtual_memory().available // devices,
    }


def _disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _sizes(per_process: int) -> list[int]:
    """Return the numbers of images to try: doubled from two, and the whole share of a process.

    Examples
    --------
    >>> _sizes(24)
    [2, 4, 8, 16, 24]
    """
    return [2**k for k in range(1, 1 + int(math.log2(per_process))) if 2**k < per_process] + [per_process]


def _recommend(probes: Sequence[Probe], per_process: int, usable: float = 0) -> tuple[Probe, float]:
    """Return the part that a step should be taken in, and the seconds of the step.

    The whole share of a process, where it was measured or, reckoned from the largest part that was, fits into
    ``usable`` bytes; else the measured part with the shortest step.
    """
    largest = max(probes, key=lambda found: found.micro_batch)
    times = per_process / largest.micro_batch
    if times == 1 or largest.n_bytes * times <= usable:
        seconds = times * largest.step_seconds
        return Probe(per_process, seconds, times * largest.forward_seconds, round(times * largest.n_bytes)), seconds

    def step_seconds(found: Probe) -> float:
        n_parts = -(-per_process // found.micro_batch)
        return found.step_seconds if n_parts == 1 else n_parts * (found.step_seconds + found.forward_seconds)

    best = min(probes, key=step_seconds)
    return best, step_seconds(best)


def _warnings(facts: dict, kind: str, per_process: int) -> list[str]:
    said = []
    if facts["disk_bytes"] > facts["disk_free_bytes"]:
        said.append(f"the disk is too small: {_gib(facts['disk_bytes'])} needed, {_gib(facts['disk_free_bytes'])} free")
    if kind == "CPU" and facts["training_seconds"] > 86_400:
        said.append(
            "training would take days on this CPU: use a GPU, network.backbone=small or a larger volumes.spacing"
        )
    if facts["load"] > facts["cores"]:
        said.append(f"the machine is busy (load {facts['load']:.1f}, {facts['cores']} cores): alone it would be faster")
    if per_process < 4:
        said.append(f"{per_process} images per process: batch statistics of so few are noisy, use network.norm=group")
    return said


def _rows(found: Plan) -> list[tuple[str, str, str]]:
    facts = found.facts
    where = "in device memory" if facts["volumes_resident"] else "read ahead from the cache file"
    if facts["resident_budget_bytes"]:
        where += f"; {_gib(facts['resident_budget_bytes'])} of it may hold volumes (volumes.resident_share)"
    parts = "whole batch at once" if found.micro_batch is None else f"{found.micro_batch} images at a time"
    most = f"measured on {facts['images_measured']} images at most"
    if found.micro_batch is None and facts["images_measured"] * facts["processes"] < facts["batch"]:
        most += ", reckoned from that; a longer --seconds measures more"
    rows = [
        ("images", str(facts["images"]), f"{facts['voxels']} voxels each"),
        ("preprocessing", format_duration(facts["preprocessing_seconds"]), f"once; measured on {IMAGES_TRIED} images"),
        ("volumes", _gib(facts["volumes_bytes"]), where),
        ("disk", _gib(facts["disk_bytes"]), f"cache and checkpoints; {_gib(facts['disk_free_bytes'])} free"),
        ("device", str(facts["device"]), f"{_gib(facts['device_free_bytes'])} free for each process"),
        ("processes", str(facts["processes"]), f"{facts['devices']} on each of {facts['num_nodes']} node(s)"),
        ("RAM", _gib(facts["ram_free_bytes"]), "free"),
    ]
    for tried in found.probes:
        each = tried.step_seconds / tried.micro_batch
        rows.append((f"  {tried.micro_batch} images", _gib(tried.n_bytes), f"{1 / each:.1f} images/s, measured"))
    rows += [
        ("memory of a step", _gib(facts["step_bytes"]), f"{parts}; {most}"),
        (
            "step",
            format_duration(facts["step_seconds"]),
            f"batch of {facts['batch']}; time of communication not included",
        ),
        ("epoch", format_duration(facts["epoch_seconds"]), f"{facts['steps_per_epoch']} steps"),
        ("training", format_duration(facts["training_seconds"]), f"{facts['epochs']} epochs, validation not included"),
    ]
    rows += [("use", f"--set {setting}", "") for setting in found.settings]
    return rows + [("warning", text, "") for text in found.warnings]


def _gib(n_bytes: float) -> str:
    if n_bytes < GIB:
        return f"{n_bytes / 2**20:.0f} MiB"
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes < 10 * GIB else f"{n_bytes / GIB:.0f} GiB"
