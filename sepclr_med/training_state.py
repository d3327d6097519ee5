"""What training carries from epoch to epoch, and how a checkpoint keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sepclr_med.checkpoint import (
    fitting,
    keep_as,
    load_checkpoint,
    load_weights,
    optimiser_tensors,
    restore_optimiser,
    save_checkpoint,
    saved_standardisation,
    unfit_checkpoint,
    weights_id,
)
from sepclr_med.cohort.image_files import MAX_VOXELS
from sepclr_med.config import Config
from sepclr_med.errors import RunError
from sepclr_med.rundir import RunDir, require_keys, write_table
from sepclr_med.volumes.standardisation import Standardisation

# What resuming and embedding read from a checkpoint.
FACTS = {"epoch": int, "best": float, "history": list, "model_id": str, "volumes_sha256": str}
FACTS |= {"in_channels": int, "spatial_size": list}


@dataclass
class TrainingState:
    """What a checkpoint brings back.

    ``optimiser`` is None for methods in closed form; ``shape`` is channels and voxels of one rendering of an image.
    ``step`` counts the steps done in an unfinished epoch, of which ``totals`` and ``seconds`` are the sums so far.
    """

    network: nn.Module
    loss: nn.Module
    optimiser: torch.optim.Optimizer | None
    hashes: dict[str, str]
    shape: tuple[int, ...]
    standardisation: Standardisation | None = None
    fitted: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    totals: list[float] | None = None
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = math.inf


def save_state(run: RunDir, state: TrainingState, config: Config) -> None:
    """Write ``last``, ``best`` when the validation loss is the lowest so far, and the history.

    Raises
    ------
    RunError
        When the disk is full or the folder cannot be written; the previous checkpoint stays.
    """
    weights = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    fitted = {}
    if state.standardisation:
        fitted = {"standardise.mean": state.standardisation.mean}
        fitted["standardise.inverse_std"] = state.standardisation.inverse_std
    # A checkpoint is shared: nothing that names the user's disk.
    shared = config.model_dump(mode="json", exclude={"cohort": True, "volumes": {"cache_dir"}})
    facts = {
        "epoch": state.epoch,
        "unfinished": {"step": state.step, "totals": state.totals, "seconds": state.seconds},
        "model_id": weights_id(weights),
        "fitted": state.fitted,
        "in_channels": state.shape[0],
        "spatial_size": list(state.shape[1:]),
        **state.hashes,
        "config": shared,
        "history": state.history,
    }
    latest = state.history[-1].get("val_total") if state.history and not state.step else None
    if latest is not None and latest < state.best:
        state.best = latest
        save_checkpoint(run.checkpoint("best"), weights | fitted, {**facts, "best": state.best})
    critic = {f"loss.{name}": tensor for name, tensor in state.loss.state_dict().items()}
    moments = optimiser_tensors(state.optimiser) if state.optimiser else {}
    keep_as(run.checkpoint("last"), run.checkpoint("previous"))
    save_checkpoint(run.checkpoint("last"), weights | fitted | critic | moments, {**facts, "best": state.best})
    write_table(run.history, history_table(state.history))


def other_images(run: RunDir) -> RunError:
    """Return the error of a run that meets other images than those it began with."""
    return RunError(
        f"{run.path}: the training images are not those this run began with (other content under the same names, "
        "or other images can be read); restore them, or start over with --overwrite"
    )


def restore_state(run: RunDir, state: TrainingState) -> None:
    """Put the ``last`` checkpoint of a run back into a state, and remove what a kill during a write left.

    Raises
    ------
    RunError
        When the checkpoint cannot be read, or the training images are not those it was made with.
    """
    path = run.checkpoint()
    tensors, facts = load_checkpoint(path)
    require_keys(facts, FACTS, path)
    if facts["volumes_sha256"] != state.hashes["volumes_sha256"]:
        raise other_images(run)
    for leftover in path.parent.glob(".*"):
        leftover.unlink(missing_ok=True)
    load_weights(state.network, tensors, path)
    load_weights(state.loss, tensors, path, "loss.")
    with fitting(path):
        if state.optimiser:
            restore_optimiser(state.optimiser, tensors)
        state.standardisation = saved_standardisation(tensors)
        if not all(isinstance(row, dict) for row in facts["history"]):
            raise TypeError("a row of the history is none")
        unfinished = {"step": 0, "totals": None, "seconds": 0.0, **facts.get("unfinished", {})}
    require_keys(unfinished, {"step": int, "seconds": float}, path)
    state.fitted = facts.get("fitted", {})
    state.epoch, state.history, state.best = facts["epoch"], facts["history"], facts["best"]
    state.step, state.totals, state.seconds = unfinished["step"], unfinished["totals"], unfinished["seconds"]


def load_model(
    path: Path, build: Callable[[Mapping[str, Any]], nn.Module]
) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Return the network of a checkpoint with its weights, and what else the checkpoint holds.

    Parameters
    ----------
    path : Path
        From :meth:`sepclr_med.rundir.RunDir.checkpoint`.
    build : callable
        Makes the untrained network from what the checkpoint says.

    Raises
    ------
    RunError
        When the checkpoint cannot be read, or is of another model.
    """
    tensors, facts = load_checkpoint(path)
    require_keys(facts, FACTS, path)
    sizes = [facts["in_channels"], *facts["spatial_size"]]
    if not all(type(size) is int and size > 0 for size in sizes) or prod(sizes) > MAX_VOXELS:
        raise unfit_checkpoint(path, f"channels and voxels of {sizes}")
    with fitting(path):
        network = build(facts)
    load_weights(network, tensors, path)
    return network, tensors, facts


def history_table(history: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the history with every column that was ever logged, missing values where a quantity was not due."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    return pd.DataFrame(history, columns=columns)
