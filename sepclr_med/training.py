"""``fit``: from a manifest with splits to a fitted method. On Lightning Fabric.

Nothing random and no learning rate depends on anything but the seed, the epoch and the step: a resumed run is the
uninterrupted one, on however many processes.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from sepclr_med.checkpoint import load_checkpoint, load_weights, mend_latest, save_checkpoint
from sepclr_med.cohort.columns import suggest_column
from sepclr_med.cohort.labels import Labels, Wanted, encode_labels
from sepclr_med.cohort.manifest import assign_roles, manifest_hash
from sepclr_med.cohort.trainable import require_both_groups, require_trainable
from sepclr_med.config import Config
from sepclr_med.curves import draw_progress
from sepclr_med.engine import average_buffers, on_first_process, start_processes
from sepclr_med.epochs import Cohort, Tools, run_epoch, save_if_finite, stop_here, validate
from sepclr_med.erasing import fit_erasures
from sepclr_med.errors import ConfigError, Problem, RunError
from sepclr_med.method_settings import CLOSED_FORM
from sepclr_med.methods import build_network, erases, find_method, needs_reference, salient_share
from sepclr_med.methods.shapes import count_salient
from sepclr_med.networks import channels_last, checkpoint_activations
from sepclr_med.occupancy import working_in
from sepclr_med.preemption import StopRequest, listening
from sepclr_med.progress import report_progress
from sepclr_med.provenance import record_step
from sepclr_med.rendering import fit_reference, load_rendering
from sepclr_med.rundir import RunDir, require_keys, write_table
from sepclr_med.runs import cache_folder, open_run, refuse_strangers
from sepclr_med.settings import TrainingConfig
from sepclr_med.training_state import TrainingState, history_table, other_images, restore_state, save_state
from sepclr_med.volumes.batches import draw_batches
from sepclr_med.volumes.cache import cache_volumes, identify_volumes
from sepclr_med.volumes.reader import VolumeReader
from sepclr_med.volumes.standardisation import Standardisation, fit_standardisation
from sepclr_med.volumes.voxel_pca import fit_voxel_pca

logger = logging.getLogger(__name__)

# A picture takes seconds on a busy machine: more of them cost a small training more than its steps.
SECONDS_BETWEEN_PICTURES = 60.0
DESIGNS = {"nuisance": "method.nuisances", "erase": "method.erase"}


def fit(manifest: pd.DataFrame, config: Config, run_dir: str | Path, overwrite: bool = False) -> Path:
    """Fit the configured method on the ``train`` rows of a manifest: SepCLR's two encoders, or one it is compared with.

    The same call again resumes an interrupted run from its last finished epoch, or from the step where SIGTERM or
    SIGUSR1 stopped it, and returns at once from a finished one. Under torchrun or SLURM, or with ``training.devices``,
    several processes share every batch with the same mathematics; the first of them writes.

    Parameters
    ----------
    manifest : DataFrame
        From :func:`sepclr_med.read_manifest`, with a ``split`` column (:func:`sepclr_med.assign_splits`). Only rows
        whose diagnosis is among ``config.cohort.background`` and ``target`` are trained on; ``test`` rows
        are never read.
    config : Config
        From :func:`sepclr_med.load_config`.
    run_dir : path
        Folder of this run.
    overwrite : bool, default=False
        Start over in a folder that holds a run.

    Returns
    -------
    Path
        The run folder, with ``checkpoints/``, ``history.tsv``, ``progress.png``, ``data/`` and ``provenance.json``.

    Raises
    ------
    ConfigError
        When settings name columns that the manifest does not have.
    ManifestError
        When the groups or splits cannot be trained on.
    VolumeError
        When images cannot be read and ``volumes.on_error`` is ``stop``.
    RunError
        When the folder belongs to another run or another process works in it, the disk is full, or a loss or a
        weight stops being finite.
    PreemptedError
        After SIGTERM or SIGUSR1, with everything saved.
    """
    started = datetime.now(timezone.utc)
    run = RunDir(run_dir)
    fabric = start_processes(config.training)
    with listening(fabric) as stop, ExitStack() as held:
        on_first_process(fabric, lambda: refuse_strangers(run))
        on_first_process(fabric, lambda: held.enter_context(working_in(run.path)))
        cohort = on_first_process(fabric, lambda: _prepare(run, manifest, config, overwrite, fabric.world_size))
        if cohort is None:
            return run.path
        hashes = {"manifest_sha256": manifest_hash(manifest), "volumes_sha256": _hash_keys(cohort.cached.keys)}
        state = _set_up(fabric, run, cohort, config, hashes)
        on_first_process(fabric, lambda: _fit_references(run, cohort, state, config))
        resumed_at = state.epoch
        read = _reader(run, cohort, state, config, fabric.device)
        if state.optimiser is None:
            on_first_process(fabric, lambda: _fit_closed_form(read, state, cohort, config, run))
        else:
            with stop.asked_between_steps():
                _train(fabric, state, read, cohort, config, run, stop)
        on_first_process(fabric, lambda: _fit_erasures(read, state, cohort, config, run))
    facts = {
        "seed": config.training.seed,
        "device": _device_name(fabric),
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
        "micro_batch": config.training.micro_batch,
        "resident": read.resident is not None,
        "precision": str(fabric._precision.precision),
        **hashes,
        "salient_variance": salient_share(config),
        "n_train_background": int((~cohort.is_target[cohort.train]).sum()),
        "n_train_target": int(cohort.is_target[cohort.train].sum()),
        "n_val": int(cohort.val.size),
        "n_rows_not_used": len(manifest) - len(cohort.is_target) - int((manifest["split"] == "test").sum()),
        "image_problems": [str(problem) for problem in cohort.cached.problems],
        "resumed_at_epoch": resumed_at,
    }
    on_first_process(fabric, lambda: record_step(run.provenance, "fit", started, facts))
    return run.path


def _prepare(run: RunDir, manifest: pd.DataFrame, config: Config, overwrite: bool, n_processes: int) -> Cohort | None:
    """Open the run and preprocess its images; None when it is finished."""
    roles = require_trainable(manifest, config)
    open_run(run, manifest, config, overwrite)
    mend_latest(run.checkpoint(), run.checkpoint("previous"))
    if is_finished(run, config):
        require_same_images(run, manifest, config)
        logger.warning("%s: already trained for %d epochs; --overwrite starts over", run.path, config.training.epochs)
        return None
    used = _used_rows(manifest, roles)
    cached = cache_volumes(used, config.volumes, cache_folder(run, config), config.network.spatial_dims)
    is_target = (roles[used.index] == "target").to_numpy(bool)
    rows = {
        split: np.flatnonzero((cached.rows >= 0) & (used["split"] == split).to_numpy(bool))
        for split in ("train", "val")
    }
    require_both_groups(roles[used.index[rows["train"]]])
    in_training = np.isin(np.arange(len(used)), rows["train"])
    labels = encode_labels(used, _wanted_labels(used, config), in_training)
    _require_something_left(labels, config)
    cohort = Cohort(cached, used.reset_index(drop=True), is_target, labels, **rows)
    _require_enough_rows(cohort, config.training, n_processes)
    return cohort


def _used_rows(manifest: pd.DataFrame, roles: pd.Series) -> pd.DataFrame:
    # The index stays: messages about images name the row of the whole manifest.
    return manifest[roles.notna() & manifest["split"].isin(["train", "val"])]


def _wanted_labels(used: pd.DataFrame, config: Config) -> list[Wanted]:
    """Return the labels that the loss needs and those that are erased afterwards; designs as far as they are there."""
    find = getattr(find_method(config), "find_labels", lambda _: [])
    wanted = [*find(config), *(Wanted("erase", name, "design") for name in config.method.erase)]
    found = [label for label in wanted if label.kind != "design" or label.column in used]
    for label in wanted:
        if label not in found:
            hint = suggest_column(label.column, map(str, used.columns))
            why = f"no such column; {hint}" if hint else "no such column"
            logger.warning("%s does without %s: %s", DESIGNS[label.purpose], label.column, why)
    return found


def _require_something_left(labels: Labels, config: Config) -> None:
    # Classes spread over columns that sum to one: they take a direction less than there are columns.
    widths = [place.stop - place.start for (purpose, _), place in labels.places.items() if purpose == "erase"]
    n, size = sum(max(1, width - 1) for width in widths), count_salient(config)
    if n >= size:
        fix = "erase fewer columns, those with fewer classes, or raise method.salient_dim"
        few = Problem(f"erasing takes {n} of {size} salient directions", got=", ".join(config.method.erase), fix=fix)
        raise ConfigError("method.erase: nothing would be left of the salient space", [few])


def _require_enough_rows(cohort: Cohort, training: TrainingConfig, n_processes: int) -> None:
    n = len(draw_batches(cohort.is_target[cohort.train], training.batch_size, 0, 0)[0])
    if n < 2 * n_processes:
        fix = f"use at most {n // 2} processes, or a larger training.batch_size"
        few = Problem(f"a batch has {n} images for {n_processes} processes", allowed="2 or more for each", fix=fix)
        raise ConfigError("training.devices: more processes than a batch can be divided among", [few])


def is_finished(run: RunDir, config: Config) -> bool:
    """Say whether a run has all its epochs, and everything that is fitted beside them."""
    files = [run.checkpoint(), run.voxel_pca, run.provenance]
    files += [run.reference] if needs_reference(config) else []
    files += [run.erasure(which) for which in _embeddable(run)] if erases(config) else []
    if not all(path.is_file() for path in files):
        return False
    try:
        facts = load_checkpoint(run.checkpoint())[1]
        require_keys(facts, {"epoch": int}, run.checkpoint())
    except RunError:
        # Damaged: fit goes on from the checkpoint before.
        return False
    return bool(facts["epoch"] >= config.training.epochs)


def require_same_images(run: RunDir, manifest: pd.DataFrame, config: Config) -> None:
    """Refuse a finished run of other images than the manifest names now.

    Raises
    ------
    RunError
        When files hold something else than those it was trained on, as far as they and the cache are still there.
    """
    used = _used_rows(manifest, assign_roles(manifest, config.cohort.background, config.cohort.target))
    keys = identify_volumes(used, config.volumes, cache_folder(run, config), config.network.spatial_dims)
    facts = load_checkpoint(run.checkpoint())[1]
    if keys is not None and _hash_keys(keys) != facts.get("volumes_sha256"):
        raise other_images(run)


def _hash_keys(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _set_up(fabric: Fabric, run: RunDir, cohort: Cohort, config: Config, hashes: dict[str, str]) -> TrainingState:
    """Return what training starts from: new weights, or those of the last checkpoint."""
    torch.manual_seed(config.training.seed)
    shape = tuple(cohort.cached.array.shape[1:])
    method = find_method(config)
    network = build_network(config, shape[0], shape[1:])
    if config.method.name in CLOSED_FORM:
        state = TrainingState(network, nn.Module(), None, hashes, shape)
    else:
        network = channels_last(network).to(fabric.device)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        if config.training.checkpoint_activations:
            checkpoint_activations(network)
        loss = method.build_loss(config, cohort.labels, shape).to(fabric.device)
        decay, fused = config.training.weight_decay, fabric.device.type in ("cuda", "cpu")
        parameters = [*network.parameters(), *loss.parameters()]
        optimiser = torch.optim.AdamW(parameters, weight_decay=decay, fused=fused)
        state = TrainingState(network, loss, optimiser, hashes, shape)
    resuming, fitted = on_first_process(fabric, lambda: _start_from(run, cohort, config))
    if resuming:
        restore_state(run, state)
    else:
        state.standardisation = fitted
    return state


def _start_from(run: RunDir, cohort: Cohort, config: Config) -> tuple[bool, Standardisation | None]:
    if run.checkpoint().is_file():
        return True, None
    if config.volumes.standardise == "none":
        return False, None
    background = cohort.train[~cohort.is_target[cohort.train]]
    return False, fit_standardisation(cohort.cached.load, background)


def _train(
    fabric: Fabric,
    state: TrainingState,
    read: VolumeReader,
    cohort: Cohort,
    config: Config,
    run: RunDir,
    stop: StopRequest,
) -> None:
    """Run the remaining epochs; after each, log, validate when due, and save."""
    training = config.training
    modes = {"default": {}, "reduce-overhead": {"mode": "reduce-overhead"}}
    module = state.network if training.compile == "none" else torch.compile(state.network, **modes[training.compile])
    network, optimiser = fabric.setup(module, state.optimiser)
    tools = Tools(fabric, network, state.loss, read, config, find_method(config).N_VIEWS)
    can_validate = min(np.bincount(cohort.is_target[cohort.val], minlength=2)) >= 2
    drawn = time.monotonic()
    progress = report_progress("training", training.epochs, state.epoch, quiet=not fabric.is_global_zero)
    with progress as advance:
        for epoch in range(state.epoch, training.epochs):
            row = run_epoch(tools, optimiser, state, cohort, stop, run)
            average_buffers(fabric, state.network)
            due = (epoch + 1) % training.validate_every == 0 or epoch + 1 == training.epochs
            if can_validate and due:
                row |= validate(tools, cohort)
            state.history.append(row)
            state.epoch, state.step, state.totals, state.seconds = epoch + 1, 0, None, 0.0
            on_first_process(fabric, lambda: save_if_finite(tools, state, run))
            if fabric.is_global_zero and time.monotonic() - drawn > SECONDS_BETWEEN_PICTURES:
                draw_progress(history_table(state.history), run.progress)
                drawn = time.monotonic()
            advance(_describe(row))
            if epoch + 1 < training.epochs and stop():
                stop_here(fabric, state, run)
    on_first_process(fabric, lambda: _write_history(run, state))


def _write_history(run: RunDir, state: TrainingState) -> None:
    # Also after a kill between the last checkpoint and its record.
    write_table(run.history, history_table(state.history))
    draw_progress(history_table(state.history), run.progress)


def _describe(row: dict[str, Any]) -> str:
    norm = row.get("train_salient_norm_background")
    return f"loss {row['train_total']:.3f}" + (f", background salient norm {norm:.3f}" if norm is not None else "")


def _reader(run: RunDir, cohort: Cohort, state: TrainingState, config: Config, device: torch.device) -> VolumeReader:
    rendering = load_rendering(run, cohort.table, config)
    return VolumeReader(cohort.cached, state.standardisation, device, config.volumes.resident_share, rendering)


def _fit_references(run: RunDir, cohort: Cohort, state: TrainingState, config: Config) -> None:
    """Fit what needs no training: the normative reference and the plain baseline."""
    fit_reference(run, cohort.cached.load, cohort.table, cohort.is_target, cohort.train, config)
    # Every row must be rendered: better said now than after the training.
    load_rendering(run, cohort.table, config)
    # As for the reference: without a checkpoint beside it, it may be of other images.
    if run.voxel_pca.is_file() and run.checkpoint().is_file():
        return
    read = VolumeReader(cohort.cached, state.standardisation, torch.device("cpu"))
    pca = fit_voxel_pca(read, cohort.train, config.evaluation.voxel_pca_components)
    save_checkpoint(run.voxel_pca, {"mean": pca.mean, "components": pca.components}, {"n_rows": int(cohort.train.size)})


def _fit_closed_form(read: VolumeReader, state: TrainingState, cohort: Cohort, config: Config, run: RunDir) -> None:
    if not state.epoch:
        fit_network = find_method(config).fit_network
        found = fit_network(state.network, read, cohort.table, cohort.train, cohort.is_target, config)
        state.fitted = found or {}
        state.epoch = config.training.epochs
        save_state(run, state, config)


def _fit_erasures(read: VolumeReader, state: TrainingState, cohort: Cohort, config: Config, run: RunDir) -> None:
    """Fit what is taken out of the exported spaces, on training targets, for each set of weights that may embed."""
    if not erases(config):
        return
    rows = cohort.train[cohort.is_target[cohort.train]]
    places = [place for (purpose, _), place in cohort.labels.places.items() if purpose == "erase"]
    columns = [cohort.labels.numbers[rows][:, place] for place in places]
    known = np.concatenate([np.empty((rows.size, 0)), *columns], axis=1)
    axes, share = config.method.erase_salient, salient_share(config)
    for which in _embeddable(run):
        load_weights(state.network, load_checkpoint(run.checkpoint(which))[0], run.checkpoint(which))
        fit_erasures(run.erasure(which), state.network.eval(), read, rows, known, axes, share)


def _embeddable(run: RunDir) -> list[str]:
    return [which for which in ("last", "best") if run.checkpoint(which).is_file()]


def _device_name(fabric: Fabric) -> str:
    return torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
