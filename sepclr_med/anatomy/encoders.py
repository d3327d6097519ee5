"""Sensitivity maps of a run's own encoders, averaged over participants of a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sepclr_med.anatomy.factors import MappedFactor, RunTables
from sepclr_med.anatomy.run_images import RunImages
from sepclr_med.anatomy.sample import Sample
from sepclr_med.anatomy.sensitivity import Sensitivity, explain_factors, window_voxels
from sepclr_med.checkpoint import load_checkpoint, network_weights, saved_standardisation
from sepclr_med.config import Config
from sepclr_med.erasing import load_erasures
from sepclr_med.errors import RunError
from sepclr_med.method_settings import CLOSED_FORM
from sepclr_med.methods import build_network
from sepclr_med.methods.erasure import Erasure
from sepclr_med.networks import channels_last, split_inputs
from sepclr_med.rendering import load_rendering
from sepclr_med.rundir import RunDir
from sepclr_med.volumes.reader import VolumeReader

CHUNK = 64


def map_sensitivity(
    run: RunDir,
    config: Config,
    tables: RunTables,
    images: RunImages,
    manifest: pd.DataFrame,
    sample: Sample,
    factors: Sequence[MappedFactor],
    methods: Sequence[str],
    n_images: int,
    seed: int,
) -> dict[str, Sensitivity]:
    """Map what each factor's encoder reads, averaged over up to ``n_images`` participants.

    Parameters
    ----------
    run : RunDir
    config : Config
    tables : RunTables
        Say which weights the factors come from.
    images : RunImages
    manifest : DataFrame
    sample : Sample
        The first image of each participant is used; ``n_images`` of them, drawn with ``seed``.
    factors : sequence of MappedFactor
        Those without an encoder are passed over.
    methods : sequence of {"ig", "occlusion"}
    n_images : int
    seed : int

    Returns
    -------
    dict of str to Sensitivity
        By name of the factor.

    Raises
    ------
    RunError
        When the embeddings were made with other weights than the run has now.
    """
    chosen = [factor for factor in factors if factor.encoder is not None]
    if not chosen or not methods or config.method.name in CLOSED_FORM:
        return {}
    which = tables.checkpoint or config.evaluation.checkpoint
    tensors, facts = load_checkpoint(run.checkpoint(which))
    _require_same_weights(run, tables, chosen, facts["model_id"])
    device = torch.device("cuda" if torch.cuda.is_available() and config.training.accelerator != "cpu" else "cpu")
    rendering = load_rendering(run, manifest, config)
    read = VolumeReader(images.cached, saved_standardisation(tensors), device, rendering=rendering)
    controls = manifest["diagnosis"].isin(config.cohort.background) & (manifest["split"] == "train")
    reference = _mean(read, np.flatnonzero(controls.to_numpy() & images.has_image))
    drawn = np.random.default_rng([seed, 3]).permutation(len(sample.images))[:n_images]
    volumes = read(np.array([sample.images[place][0] for place in np.sort(drawn)]))

    def build(encoder: str, random: bool) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(config, facts["in_channels"], facts["spatial_size"])
        if not random:
            network.load_state_dict(network_weights(tensors))
        own = channels_last(network.get_submodule(f"{encoder}_encoder"))
        return _SpaceEncoder(own, sizes[encoder], erased.get(encoder)).eval()

    erased = load_erasures(run.erasure(which))
    sizes = {factor.encoder: len(factor.weights) for factor in chosen}
    renderings = {"common": 0, "salient": 1}
    window = window_voxels(images.spacing, images.mask.shape)
    found: dict[str, Sensitivity] = {}
    for encoder in dict.fromkeys(factor.encoder for factor in chosen):
        mine = [factor for factor in chosen if factor.encoder == encoder]
        seen, usual = (split_inputs(v, facts["in_channels"])[renderings[encoder]] for v in (volumes, reference[None]))
        # What is subtracted before weighting shifts the value and cancels in every difference.
        maps = explain_factors(
            lambda random, encoder=encoder: build(encoder, random),
            np.column_stack([factor.weights for factor in mine]),
            mine[0].centre,
            seen,
            usual[0],
            images.mask,
            methods,
            window,
            seed,
        )
        found |= {factor.name: one for factor, one in zip(mine, maps, strict=True)}
    return found


class _SpaceEncoder(nn.Module):
    """An encoder followed by what is erased from its space; of an encoder of distributions the means."""

    def __init__(self, encoder: nn.Module, dim: int, erasure: Erasure | None) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim
        if erasure is not None:
            self.register_buffer("projection", torch.from_numpy(erasure.projection).float())
            self.register_buffer("centre", torch.from_numpy(erasure.centre).float())

    def forward(self, volumes: Tensor) -> Tensor:
        values = self.encoder(volumes)[:, : self.dim]
        if not hasattr(self, "projection"):
            return values
        return values - (values - self.centre) @ self.projection.T


def _require_same_weights(run: RunDir, tables: RunTables, factors: Sequence[MappedFactor], model_id: str) -> None:
    for space in dict.fromkeys(factor.space for factor in factors):
        table = tables.tables[space]
        if "model_id" in table and not (table["model_id"] == model_id).all():
            raise RunError(
                f"{run.embeddings}: the {space} embeddings were made with other weights than the run has now; run "
                "`sepclr-med embed RUN_DIR` again"
            )


def _mean(read: VolumeReader, rows: np.ndarray) -> Tensor:
    if not rows.size:
        raise RunError("explain: no training background image is left as the reference; check cohort.background")
    parts = [read(rows[start : start + CHUNK]).sum(dim=0) for start in range(0, rows.size, CHUNK)]
    return torch.stack(parts).sum(dim=0) / rows.size
