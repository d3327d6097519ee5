"""What a run embeds with: its network, standardisation, baseline and erasures, read back and checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sepclr_med.checkpoint import fitting, load_checkpoint, saved_standardisation
from sepclr_med.config import Config
from sepclr_med.engine import start_processes
from sepclr_med.erasing import load_erasures
from sepclr_med.errors import RunError, UserError
from sepclr_med.methods import build_network, erases
from sepclr_med.methods.erasure import Erasure
from sepclr_med.methods.shapes import name_salient_parts
from sepclr_med.networks import channels_last
from sepclr_med.rundir import RunDir
from sepclr_med.runs import read_config
from sepclr_med.settings import TrainingConfig
from sepclr_med.training_state import load_model
from sepclr_med.volumes.standardisation import Standardisation
from sepclr_med.volumes.voxel_pca import VoxelPCA

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a run embeds with."""

    run: RunDir
    config: Config
    which: str
    fabric: Fabric
    network: nn.Module
    standardisation: Standardisation | None
    baseline: VoxelPCA
    erasures: dict[str, Erasure]
    facts: dict[str, Any]


def open_trained(run: RunDir, checkpoint: str | None, devices: int | None) -> Trained:
    """Load what a run embeds with, and start the processes that share the images.

    Raises
    ------
    UserError
        For a checkpoint other than ``last`` and ``best``.
    RunError
        When training has not finished, or a file of the run cannot be read.
    """
    config = read_config(run)
    which = checkpoint or config.evaluation.checkpoint
    if which not in ("last", "best"):
        raise UserError(f"embed: checkpoint is last or best; got {which}")
    network, tensors, facts = load_trained(run, config, which)
    fabric = start_processes(_for_embedding(config.training, devices))
    network = channels_last(network).to(fabric.device).eval()
    pca = load_voxel_pca(run.voxel_pca)
    pca = VoxelPCA(pca.mean.to(fabric.device), pca.components.to(fabric.device))
    erasures = load_erasures(run.erasure(which))
    if erases(config) and not erasures:
        logger.warning(
            "%s: nothing is erased from these embeddings; that is fitted when training has finished", run.path
        )
    return Trained(run, config, which, fabric, network, saved_standardisation(tensors), pca, erasures, facts)


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
        "Backbone": config.network.called,
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
