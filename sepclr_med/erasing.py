"""What a run takes out of its exported spaces, fitted on training targets once the weights are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sepclr_med.checkpoint import fitting, load_checkpoint, save_checkpoint
from sepclr_med.inference import represent
from sepclr_med.methods.erasure import Erasure, fit_erasure, fit_truncation, leading_scores
from sepclr_med.volumes.reader import VolumeReader

BATCH = 64


def fit_erasures(
    path: Path,
    network: nn.Module,
    read: VolumeReader,
    rows: np.ndarray,
    columns: np.ndarray,
    n_salient_axes: int,
    salient_variance: float,
) -> None:
    """Fit and save what is taken out: of the salient space columns and trailing axes, of the common one leading axes.

    Parameters
    ----------
    path : Path
        As :meth:`sepclr_med.rundir.RunDir.erasure` gives it for these weights.
    network : nn.Module
        With the weights that embed, in evaluation mode.
    read : VolumeReader
    rows : int array of shape (n,)
        Training targets.
    columns : array of shape (n, p)
        Coded columns; none are erased where p is 0.
    n_salient_axes : int
        Leading principal axes of the salient space of these rows, taken out of the common one.
    salient_variance : float
        Share of variance whose leading axes the salient space keeps.
    """
    batches = [rows[start : start + BATCH] for start in range(0, rows.size, BATCH)]
    found = represent(network, read.stream(batches))
    erasures: dict[str, Erasure] = {}
    if columns.shape[1]:
        erasures["salient"] = fit_erasure(found["salient"], columns)
    if salient_variance < 1:
        trailing = fit_truncation(erase(found, erasures)["salient"], salient_variance)
        erasures["salient"] = erasures["salient"].then(trailing) if columns.shape[1] else trailing
    if n_salient_axes and "common" in found:
        erasures["common"] = fit_erasure(found["common"], leading_scores(found["salient"], n_salient_axes))
    arrays = {
        f"{space}.{name}": torch.from_numpy(getattr(erasure, name))
        for space, erasure in erasures.items()
        for name in ("centre", "projection")
    }
    save_checkpoint(path, arrays, {"spaces": list(erasures), "n_rows": int(rows.size)})


def load_erasures(path: Path) -> dict[str, Erasure]:
    """Return what is taken out of each space; empty where there is no such file: nothing is erased, or not yet."""
    if not path.is_file():
        return {}
    arrays, state = load_checkpoint(path)
    names = ("centre", "projection")
    with fitting(path):
        return {space: Erasure(*(arrays[f"{space}.{name}"].numpy() for name in names)) for space in state["spaces"]}


def erase(spaces: Mapping[str, np.ndarray], erasures: Mapping[str, Erasure]) -> dict[str, np.ndarray]:
    """Return the spaces without what was erased."""
    return {space: erasures[space](values) if space in erasures else values for space, values in spaces.items()}
