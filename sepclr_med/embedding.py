"""``embed``: from images to one row per image, the bridge back to the table world."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from sklearn.utils import gen_batches
from torch import Tensor, distributed

from sepclr_med.checkpoint import load_checkpoint
from sepclr_med.cohort.embeddings import (
    ID_COLUMNS,
    embedding_path,
    read_embeddings,
    tabulate_factors,
    write_embeddings,
)
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.engine import on_first_process
from sepclr_med.erasing import erase
from sepclr_med.errors import RunError, UserError
from sepclr_med.inference import represent
from sepclr_med.methods.covariates import embed_table
from sepclr_med.occupancy import alone_in
from sepclr_med.progress import report_progress
from sepclr_med.provenance import record_step
from sepclr_med.rendering import load_rendering
from sepclr_med.rundir import RunDir
from sepclr_med.runs import cache_folder, read_config
from sepclr_med.trained import Trained, describe_model, open_trained
from sepclr_med.volumes.cache import CachedVolumes, cache_volumes
from sepclr_med.volumes.image_statistics import WORDS, ImageStatistics, find_mean_image, tabulate_statistics
from sepclr_med.volumes.reader import VolumeReader
from sepclr_med.volumes.site_effects import SITE, SiteEffect, take_out_sites

logger = logging.getLogger(__name__)

# The table of statistics, beside those of the spaces.
IMAGE = "image"


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
        None means ``RUN_DIR/embeddings``, where the run's own cohort belongs only.
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
        When the run has no finished training or the output cannot be written, or images of a manifest would take the
        place of the run's own embeddings; when those are written and another process works in the run folder.
    VolumeError
        When images cannot be read and ``volumes.on_error`` is ``stop``.
    """
    return embed_at_sites(run_dir, manifest, output_dir, {}, checkpoint, batch_size, cache_dir, devices)[0]


def embed_at_sites(
    run_dir: str | Path,
    manifest: pd.DataFrame | None,
    output_dir: str | Path | None,
    site_effects: Mapping[str, SiteEffect],
    checkpoint: str | None = None,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    devices: int | None = None,
) -> tuple[dict[str, pd.DataFrame], list[pd.DataFrame]]:
    """Embed images as :func:`embed` does, some of them of sites that were not in training.

    Images of those sites are embedded once more for each group of the controls that the site's effect was estimated
    from. How far their factors move says how far they are uncertain for want of controls
    (:func:`sepclr_med.analysis.percentiles.jackknife`).

    Parameters
    ----------
    run_dir, manifest, output_dir, checkpoint, batch_size, cache_dir, devices
        As for :func:`embed`.
    site_effects : mapping of site to SiteEffect
        From :func:`sepclr_med.onboarding.onboard_sites`.

    Returns
    -------
    dict of space to DataFrame
        What was written.
    list of DataFrame
        Salient embeddings of the images of those sites, the effect of each site moved by what leaving out its first,
        second, ... group does to it. Sites with fewer groups are not moved by the last.
    """
    started = datetime.now(timezone.utc)
    folder = place_embeddings(RunDir(run_dir), manifest, output_dir)
    if batch_size < 1:
        raise UserError(f"embed: batch size is 1 or more; got {batch_size}")
    trained = open_trained(RunDir(run_dir), checkpoint, devices)
    run, config, facts = trained.run, trained.config, trained.facts
    own = manifest is None
    manifest = read_manifest(run.manifest) if own else manifest
    with ExitStack() as held:
        on_first_process(trained.fabric, lambda: held.enter_context(alone_with_own(run, folder)))
        cached = _cache(trained, manifest, cache_dir)
        kept = np.flatnonzero(cached.rows >= 0)
        tables = _embed_tables(trained, manifest, cached, kept, batch_size, site_effects)
        moved = kept[manifest[SITE].astype(str).isin(list(site_effects)).to_numpy()[kept]] if site_effects else kept[:0]
        n_groups = max((effect.n_groups for effect in site_effects.values()), default=0) if moved.size else 0
        shifted = [
            _embed_tables(trained, manifest, cached, moved, batch_size, site_effects, number)["salient"]
            for number in range(n_groups)
        ]
        written = describe_model(config, trained.which, facts["epoch"])
        told = [str(problem) for problem in cached.problems]
        counts = {"n_rows": int(kept.size), "checkpoint": trained.which, "own_cohort": own, "image_problems": told}
        counts["processes"] = trained.fabric.world_size

        def write() -> None:
            _write(tables, folder, written, run, started, counts)

        on_first_process(trained.fabric, write)
    return {space: table for space, table in tables.items() if space != IMAGE}, shifted


def place_embeddings(run: RunDir, manifest: pd.DataFrame | None, output_dir: str | Path | None) -> Path:
    """Return the folder that embeddings are written to.

    Raises
    ------
    RunError
        When images of a manifest would take the place of the run's own embeddings, which all analyses read.
    """
    folder = Path(output_dir) if output_dir else run.embeddings
    if manifest is not None and folder.resolve() == run.embeddings.resolve():
        raise RunError(f"{folder}: is for the run's own cohort; name another folder for these images (-o)")
    return folder


def alone_with_own(run: RunDir, folder: Path) -> AbstractContextManager[None]:
    """Be alone in the run folder while the run's own embeddings are written; those of other images disturb nobody."""
    return alone_in(run.path) if folder.resolve() == run.embeddings.resolve() else nullcontext()


def _cache(trained: Trained, manifest: pd.DataFrame, cache_dir: str | Path | None) -> CachedVolumes:
    config = trained.config
    cache = Path(cache_dir) if cache_dir else cache_folder(trained.run, config)
    dimensions = config.network.spatial_dims
    return on_first_process(trained.fabric, lambda: cache_volumes(manifest, config.volumes, cache, dimensions))


def _embed_tables(
    trained: Trained,
    manifest: pd.DataFrame,
    cached: CachedVolumes,
    rows: np.ndarray,
    batch_size: int,
    site_effects: Mapping[str, SiteEffect],
    shifted: int | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the table of each space of these rows of the manifest."""
    config = trained.config
    rendering = load_rendering(trained.run, manifest, config, site_effects, shifted)
    share, device = config.volumes.resident_share, trained.fabric.device
    read = VolumeReader(cached, trained.standardisation, device, share, rendering)
    compared = find_mean_image(read.standardisation, trained.baseline.mean, cached.array.shape[1:])
    statistics = ImageStatistics(compared)

    def describe(volumes: Tensor, places: np.ndarray) -> Tensor:
        # Images of a site that was added are described without what it does to every image.
        return statistics(take_out_sites(volumes, places, site_effects, manifest))

    factors = _embed_rows(trained, read, rows, batch_size, describe)
    described = tabulate_statistics(factors.pop(IMAGE, np.empty((0, len(WORDS)))))
    if config.method.name == "covariates":
        factors |= embed_table(trained.facts["fitted"], manifest.iloc[rows])
    ids = _id_table(manifest.iloc[rows], trained.run, trained.facts["model_id"])
    return {**tabulate_factors(ids, erase(factors, trained.erasures)), IMAGE: pd.concat([ids, described], axis=1)}


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
    trained: Trained,
    read: VolumeReader,
    rows: np.ndarray,
    batch_size: int,
    describe: Callable[[Tensor, np.ndarray], Tensor],
) -> dict[str, np.ndarray]:
    """Return representations, the baseline's scores and statistics of these manifest rows, in order, in float32."""
    fabric, pca = trained.fabric, trained.baseline
    n_channels = read.cached.array.shape[1]
    own = rows[fabric.global_rank :: fabric.world_size]
    batches = [own[part] for part in gen_batches(own.size, batch_size)]
    described: list[Tensor] = []

    def volumes() -> Iterator[Tensor]:
        for raw, places in read.stream_raw(batches):
            described.append(describe(raw, places).cpu())
            yield read.finish(raw, places)

    with report_progress("embedding", len(batches), quiet=not fabric.is_global_zero) as advance:
        found = represent(trained.network, volumes(), lambda v: {"voxel_pca": pca(v[:, :n_channels])}, advance)
    found |= {IMAGE: torch.cat(described).numpy()} if described else {}
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
