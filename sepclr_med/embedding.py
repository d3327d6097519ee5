"""``embed``: from images to one row per image, the bridge back to the table world."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from sklearn.utils import gen_batches
from torch import Tensor, distributed, nn

from sepclr_med.checkpoint import fitting, load_checkpoint, saved_standardisation
from sepclr_med.cohort.embeddings import (
    ID_COLUMNS,
    embedding_path,
    read_embeddings,
    tabulate_factors,
    write_embeddings,
)
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.config import Config
from sepclr_med.engine import on_first_process, start_processes
from sepclr_med.erasing import erase, load_erasures
from sepclr_med.errors import RunError, UserError
from sepclr_med.inference import represent
from sepclr_med.methods import build_network, erases
from sepclr_med.methods.covariates import embed_table
from sepclr_med.methods.shapes import name_salient_parts
from sepclr_med.networks import channels_last
from sepclr_med.progress import report_progress
from sepclr_med.provenance import record_step
from sepclr_med.rendering import load_rendering
from sepclr_med.rundir import RunDir
from sepclr_med.runs import cache_folder, read_config
from sepclr_med.settings import TrainingConfig
from sepclr_med.training_state import load_model
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.reader import VolumeReader
from sepclr_med.volumes.voxel_pca import VoxelPCA

logger = logging.getLogger(__name__)


def embed(
    run_dir: str | Path,
    manifest: pd.DataFrame | None = None,
    output_dir: str | Path | None = None,
    checkpoint: str | None = None,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    devices: int | None = None,
) -> dict[str, pd.DataFrame]:
    """Embed images with a trained run and write the tables as a BIDS derivative.

    Needs the run folder only, not the training images. Several processes (``devices``, torchrun or SLURM) share the
    images; the first of them writes, in the manifest's order.

    Parameters
    ----------
    run_dir : path
        Folder that ``fit`` made.
    manifest : DataFrame or None, default=None
        Images to embed; none means the run's own cohort, all splits.
    output_dir : path or None, default=None
        None means ``RUN_DIR/embeddings``.
    checkpoint : {"last", "best"} or None, default=None
        None means ``evaluation.checkpoint`` of the run.
    batch_size : int, default=64
        Images per forward pass; it does not change the result.
    cache_dir : path or None, default=None
        Folder of preprocessed volumes; none means the run's.
    devices : int or None, default=None
        Processes on this machine; none means what torchrun or SLURM started, else one.

    Returns
    -------
    dict of {"common", "salient", "voxel_pca"} to DataFrame
        No ``common`` from a method of one space. In the manifest's order; columns ``participant_id session_id split
        fold model_id`` and one per factor. ``split`` is the participant's part in this run, whatever the manifest
        says, and missing for everyone else.

    Raises
    ------
    RunError
        When the run has no finished training or the output cannot be written.
    VolumeError
        When images cannot be read and ``volumes.on_error`` is ``stop``.
    """
    started = datetime.now(timezone.utc)
    run = RunDir(run_dir)
    config = read_config(run)
    own = manifest is None
    manifest = read_manifest(run.manifest) if own else manifest
    which = checkpoint or config.evaluation.checkpoint
    if which not in ("last", "best") or batch_size < 1:
        raise UserError(f"embed: checkpoint is last or best, batch size 1 or more; got {which} and {batch_size}")
    network, tensors, facts = load_trained(run, config, which)
    cache = Path(cache_dir) if cache_dir else cache_folder(run, config)
    fabric = start_processes(_for_embedding(config.training, devices))
    cached = on_first_process(
        fabric, lambda: cache_volumes(manifest, config.volumes, cache, config.network.spatial_dims)
    )
    kept = np.flatnonzero(cached.rows >= 0)
    rendering = load_rendering(run, manifest, config)
    read = VolumeReader(cached, saved_standardisation(tensors), fabric.device, config.volumes.resident_share, rendering)
    factors = _embed_rows(fabric, run, network, read, kept, batch_size)
    if config.method.name == "covariates":
        factors |= embed_table(facts["fitted"], manifest.iloc[kept])
    erasures = load_erasures(run.erasure(which))
    if erases(config) and not erasures:
        logger.warning(
            "%s: nothing is erased from these embeddings; that is fitted when training has finished", run.path
        )
    factors = erase(factors, erasures)
    ids = _id_table(manifest.iloc[kept], run, facts["model_id"])
    tables = tabulate_factors(ids, factors)
    written = describe_model(config, which, facts["epoch"])
    folder = Path(output_dir) if output_dir else run.embeddings
    told = [str(problem) for problem in cached.problems]
    counts = {"n_rows": int(kept.size), "checkpoint": which, "own_cohort": own, "image_problems": told}
    counts["processes"] = fabric.world_size
    on_first_process(fabric, lambda: _write(tables, folder, written, run, started, counts))
    return tables


def load_trained(run: RunDir, config: Config, which: str) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Return the network a run embeds with, and what else its checkpoint holds.

    Raises
    ------
    RunError
        When training has not finished, or the checkpoint cannot be read.
    """

    def build(facts: Mapping[str, Any]) -> nn.Module:
        return build_network(config, facts["in_channels"], facts["spatial_size"])

    network, tensors, facts = load_model(run.checkpoint(which), build)
    if which == "last" and facts["epoch"] < config.training.epochs:
        raise RunError(
            f"{run.path}: training stopped at epoch {facts['epoch']} of {config.training.epochs}; finish it with the "
            "same `sepclr-med fit` command, or embed with --checkpoint best"
        )
    return network, tensors, facts


def describe_model(config: Config, checkpoint: str, n_epochs: int) -> dict[str, Any]:
    """Return what the sidecars of embeddings say of the model."""
    described = {
        "Checkpoint": checkpoint,
        "Epochs": n_epochs,
        "Method": config.method.model_dump(mode="json"),
        "Backbone": config.network.backbone,
        "Seed": config.training.seed,
    }
    parts = name_salient_parts(config)
    return {**described, "SalientParts": parts} if parts else described


def load_voxel_pca(path: Path) -> VoxelPCA:
    """Return the plain baseline of a run.

    Raises
    ------
    RunError
        When it cannot be read.
    """
    tensors, _ = load_checkpoint(path)
    with fitting(path):
        mean, components = tensors["mean"], tensors["components"]
        if components.shape[1:] != mean.shape:
            raise ValueError(f"components of shape {tuple(components.shape)} and a mean of {tuple(mean.shape)}")
        return VoxelPCA(mean, components)


def _for_embedding(training: TrainingConfig, devices: int | None) -> TrainingConfig:
    # What a run was trained on need not be here, and float32 costs little without a backward pass.
    accelerator = "cuda" if torch.cuda.is_available() and training.accelerator != "cpu" else "cpu"
    here = {"accelerator": accelerator, "devices": devices, "num_nodes": None, "precision": "32-true"}
    return training.model_copy(update=here)


def _write(
    tables: dict[str, pd.DataFrame],
    folder: Path,
    written: dict[str, Any],
    run: RunDir,
    started: datetime,
    counts: dict[str, Any],
) -> None:
    # What was derived from embeddings that are replaced here would no longer belong to them.
    embedding_path(folder, "canonical").unlink(missing_ok=True)
    write_embeddings(tables, folder, written)
    try:
        record_step(run.provenance, "embed", started, counts)
    except RunError as error:
        # A run shared read-only still embeds.
        logger.warning("not recorded: %s", error)


def embeddings_are_current(run_dir: str | Path) -> bool:
    """Say whether ``RUN_DIR/embeddings`` was made with the weights the run would embed with."""
    run = RunDir(run_dir)
    _, facts = load_checkpoint(run.checkpoint(read_config(run).evaluation.checkpoint))
    try:
        tables = read_embeddings(run.embeddings)
    except RunError:
        return False
    return len(tables) >= 2 and all((table["model_id"] == facts["model_id"]).all() for table in tables.values())


def _embed_rows(
    fabric: Fabric, run: RunDir, network: nn.Module, read: VolumeReader, rows: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """Return the representations and the baseline's scores of these manifest rows, in order, in float32."""
    network = channels_last(network).to(read.device).eval()
    pca = load_voxel_pca(run.voxel_pca)
    pca = VoxelPCA(pca.mean.to(read.device), pca.components.to(read.device))
    n_channels = read.cached.array.shape[1]
    own = rows[fabric.global_rank :: fabric.world_size]
    batches = [own[part] for part in gen_batches(own.size, batch_size)]
    with report_progress("embedding", len(batches), quiet=not fabric.is_global_zero) as advance:
        found = represent(network, read.stream(batches), lambda v: {"voxel_pca": pca(v[:, :n_channels])}, advance)
    return _in_order(fabric, found, rows.size)


def _in_order(fabric: Fabric, own: dict[str, np.ndarray], n_rows: int) -> dict[str, np.ndarray]:
    """Return the rows of all processes, of which each has every ``world_size``-th."""
    if fabric.world_size == 1:
        return own
    gathered: list[dict[str, np.ndarray]] = [{}] * fabric.world_size
    distributed.all_gather_object(gathered, own)
    whole = {name: np.empty((n_rows, *rows.shape[1:]), rows.dtype) for name, rows in gathered[0].items()}
    for rank, found in enumerate(gathered):
        for name, rows in found.items():
            whole[name][rank :: fabric.world_size] = rows
    return whole


def _id_table(manifest: pd.DataFrame, run: RunDir, model_id: str) -> pd.DataFrame:
    """Return the id columns; ``split`` is the participant's part in this run, missing for everyone else."""
    ids = manifest.reindex(columns=[c for c in ID_COLUMNS if c != "run" or c in manifest]).reset_index(drop=True)
    own = read_manifest(run.manifest).drop_duplicates("participant_id").set_index("participant_id")["split"]
    ids["split"] = ids["participant_id"].map(own)
    ids["model_id"] = model_id
    return ids
