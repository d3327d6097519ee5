"""``fit``: from a manifest with splits to trained encoders. The loop in plain sight, on Lightning Fabric.

Everything random in epoch ``e`` is drawn from generators seeded by ``(seed, e)``, and the learning rate is a function
of the step number: a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor

from sepclr_med.checkpoint import (
    build_network,
    load_checkpoint,
    save_checkpoint,
)
from sepclr_med.cohort.manifest import assign_roles, manifest_hash
from sepclr_med.cohort.splits import check_overlap
from sepclr_med.config import Config, TrainingConfig
from sepclr_med.curves import draw_progress
from sepclr_med.errors import ManifestError, Problem, RunError, UserError
from sepclr_med.losses import LossTerms, SepCLRLoss
from sepclr_med.networks import channels_last
from sepclr_med.progress import report_progress
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, write_table
from sepclr_med.runs import cache_folder, open_run
from sepclr_med.training_state import TrainingState, history_table, restore_state, save_state
from sepclr_med.volumes.batches import draw_batches
from sepclr_med.volumes.cache import CachedVolumes, cache_volumes
from sepclr_med.volumes.reader import VolumeReader
from sepclr_med.volumes.standardisation import fit_standardisation
from sepclr_med.volumes.views import draw_views
from sepclr_med.volumes.voxel_pca import fit_voxel_pca

logger = logging.getLogger(__name__)

LOGGED = [*LossTerms._fields, "salient_norm_background", "salient_norm_target", "gradient_norm"]
SECONDS_BETWEEN_PICTURES = 15.0


def fit(manifest: pd.DataFrame, config: Config, run_dir: str | Path, overwrite: bool = False) -> Path:
    """Train the two encoders on the ``train`` rows of a manifest.

    The same call again resumes an interrupted run from its last finished epoch and returns at once from a finished one.

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
    ManifestError
        When the groups or splits cannot be trained on.
    VolumeError
        When images cannot be read and ``volumes.on_error`` is ``stop``.
    RunError
        When the folder belongs to another run, the disk is full, or the loss stops being finite.
    """
    started = datetime.now(timezone.utc)
    run = RunDir(run_dir)
    roles = _require_trainable(manifest, config)
    open_run(run, manifest, config, overwrite)
    if _is_finished(run, config):
        logger.warning("%s: already trained for %d epochs; --overwrite starts over", run.path, config.training.epochs)
        return run.path
    # The index stays: messages about images name the row of the whole manifest.
    used = manifest[roles.notna() & manifest["split"].isin(["train", "val"])]
    cached = cache_volumes(used, config.volumes, cache_folder(run, config), config.network.spatial_dims)
    is_target = (roles[used.index] == "target").to_numpy(bool)
    present = cached.rows >= 0
    train_rows = np.flatnonzero(present & (used["split"] == "train").to_numpy(bool))
    val_rows = np.flatnonzero(present & (used["split"] == "val").to_numpy(bool))
    _require_both_groups(roles[used.index[train_rows]])

    fabric = _make_fabric(config.training)
    hashes = {"manifest_sha256": manifest_hash(manifest), "volumes_sha256": _hash_volumes(cached)}
    state = _set_up(fabric, run, cached, train_rows, is_target, config, hashes)
    _fit_baseline(run, cached, state, train_rows, config)
    resumed_at = state.epoch
    read = VolumeReader(cached, state.standardisation, fabric.device)
    _train(fabric, state, read, train_rows, val_rows, is_target, config, run)
    facts = {
        "seed": config.training.seed,
        "device": _device_name(fabric),
        "precision": str(fabric._precision.precision),
        **hashes,
        "n_train_background": int((~is_target[train_rows]).sum()),
        "n_train_target": int(is_target[train_rows].sum()),
        "n_val": int(val_rows.size),
        "n_rows_not_used": len(manifest) - len(used) - int((manifest["split"] == "test").sum()),
        "image_problems": [str(problem) for problem in cached.problems],
        "resumed_at_epoch": resumed_at,
    }
    record_step(run.provenance, "fit", started, facts)
    return run.path


def _require_trainable(manifest: pd.DataFrame, config: Config) -> pd.Series:
    if "split" not in manifest:
        missing = Problem("no such column", column="split", fix="sepclr-med split MANIFEST -o NEW_MANIFEST")
        raise ManifestError("manifest: not divided into train, val and test", [missing])
    overlap = [problem for problem in check_overlap(manifest) if problem.severity == "error"]
    if overlap:
        raise ManifestError("manifest: the same participant or family is in several splits", overlap)
    roles = assign_roles(manifest, config.cohort.background, config.cohort.target)
    _require_both_groups(roles[manifest["split"] == "train"])
    idle = int((manifest["split"].isna() | roles.isna()).sum())
    if idle:
        logger.warning("%d of %d rows are not used: no split, or a diagnosis in neither group", idle, len(manifest))
    if config.evaluation.checkpoint == "best":
        _require_both_groups(roles[manifest["split"] == "val"], "val", "evaluation.checkpoint=best is chosen there")
    return roles


def _require_both_groups(roles: pd.Series, split: str = "train", why: str = "") -> None:
    counts = roles.value_counts()
    few = [
        Problem(f"{counts.get(role, 0)} {role} rows in the {split} split", column="split", allowed="2 or more", fix=why)
        for role in ("background", "target")
        if counts.get(role, 0) < 2
    ]
    if few:
        raise ManifestError(f"manifest: too few rows with an image in the {split} split", few)


def _is_finished(run: RunDir, config: Config) -> bool:
    if not (run.checkpoint().is_file() and run.voxel_pca.is_file() and run.provenance.is_file()):
        return False
    return bool(load_checkpoint(run.checkpoint())[1]["epoch"] >= config.training.epochs)


def _hash_volumes(cached: CachedVolumes) -> str:
    return hashlib.sha256("\n".join(cached.keys).encode()).hexdigest()


def _make_fabric(training: TrainingConfig) -> Fabric:
    if training.threads:
        torch.set_num_threads(training.threads)
    torch.manual_seed(training.seed)
    precision = training.precision
    if precision == "auto":
        on_gpu = training.accelerator in ("auto", "cuda") and torch.cuda.is_available()
        # bfloat16 on CPUs has given non-finite gradients of 3-D convolutions.
        precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if precision != "32-true" and (training.accelerator == "cpu" or not torch.cuda.is_available()):
        raise UserError(f"training.precision: {precision} needs a GPU; use auto, or 32-true on a CPU")
    try:
        return Fabric(accelerator=training.accelerator, devices=1, precision=precision)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"training.accelerator: {training.accelerator} is not available here ({error}); see `sepclr-med doctor`, "
            "or use --set training.accelerator=auto"
        ) from None


def _set_up(
    fabric: Fabric,
    run: RunDir,
    cached: CachedVolumes,
    train_rows: np.ndarray,
    is_target: np.ndarray,
    config: Config,
    hashes: dict[str, str],
) -> TrainingState:
    """Return what training starts from: new weights, or those of the last finished epoch."""
    network = channels_last(build_network(config, in_channels=cached.array.shape[1])).to(fabric.device)
    decay = config.training.weight_decay
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=decay, fused=fabric.device.type == "cuda")
    state = TrainingState(network, optimiser, hashes)
    if run.checkpoint().is_file():
        restore_state(run, state)
    elif config.volumes.standardise == "voxelwise":
        state.standardisation = fit_standardisation(cached.load, train_rows[~is_target[train_rows]])
    return state


def _train(
    fabric: Fabric,
    state: TrainingState,
    read: VolumeReader,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    is_target: np.ndarray,
    config: Config,
    run: RunDir,
) -> None:
    """Run the remaining epochs; after each, log, validate when due, and save."""
    training, method = config.training, config.method
    loss = SepCLRLoss(method.w_salient, method.w_null, method.w_joint, method.temperature)
    network, optimiser = fabric.setup(state.network, state.optimiser)
    can_validate = min(np.bincount(is_target[val_rows], minlength=2)) >= 2
    drawn = time.monotonic()
    with report_progress("training", training.epochs, state.epoch) as advance:
        for epoch in range(state.epoch, training.epochs):
            began = time.perf_counter()
            batches = draw_batches(is_target[train_rows], training.batch_size, training.seed, epoch)
            generator = _seeded(fabric.device, training.seed, epoch)
            totals = torch.zeros(len(LOGGED), device=fabric.device)
            network.train()
            for index, batch in enumerate(batches):
                rate = learning_rate(epoch * len(batches) + index, training.epochs * len(batches), training)
                rows = train_rows[batch]
                terms, norms = _forward(network, loss, read(rows), is_target[rows], config, generator)
                fabric.backward(terms.total)
                gradient_norm = fabric.clip_gradients(
                    network, optimiser, max_norm=training.gradient_clip, error_if_nonfinite=False
                )
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                totals += torch.stack([*(term.detach().float() for term in terms), *norms, gradient_norm.float()])
            means = (totals / len(batches)).tolist()
            _require_finite(means, epoch, run)
            seconds = time.perf_counter() - began
            row = {"epoch": epoch + 1, "learning_rate": rate, "seconds": seconds}
            row |= {"images_per_second": sum(map(len, batches)) / seconds}
            row |= {f"train_{name}": value for name, value in zip(LOGGED, means, strict=True)}
            due = (epoch + 1) % training.validate_every == 0 or epoch + 1 == training.epochs
            if can_validate and due:
                row |= _validate(network, loss, read, val_rows, is_target, config)
            state.history.append(row)
            state.epoch = epoch + 1
            save_state(run, state, config)
            if time.monotonic() - drawn > SECONDS_BETWEEN_PICTURES:
                draw_progress(history_table(state.history), run.progress)
                drawn = time.monotonic()
            advance(
                f"loss {row['train_total']:.3f}, background salient norm {row['train_salient_norm_background']:.3f}"
            )
    # Also after a kill between the last checkpoint and its record.
    write_table(run.history, history_table(state.history))
    draw_progress(history_table(state.history), run.progress)


def _forward(
    network: torch.nn.Module,
    loss: SepCLRLoss,
    volumes: Tensor,
    is_target: np.ndarray,
    config: Config,
    generator: torch.Generator,
) -> tuple[LossTerms, list[Tensor]]:
    """Draw both views, embed them in one pass, and return the terms and the groups' mean salient norms."""
    views = draw_views(torch.cat([volumes, volumes]), config.views, generator)
    heads = network(views, views)
    (common_1, common_2), (salient_1, salient_2) = heads.common_head.chunk(2), heads.salient_head.chunk(2)
    mask = torch.from_numpy(is_target).to(volumes.device)
    terms = loss(common_1, common_2, salient_1, salient_2, mask)
    lengths = salient_1.detach().norm(dim=1)
    return terms, [lengths[~mask].mean(), lengths[mask].mean()]


@torch.no_grad()
def _validate(
    network: torch.nn.Module,
    loss: SepCLRLoss,
    read: VolumeReader,
    val_rows: np.ndarray,
    is_target: np.ndarray,
    config: Config,
) -> dict[str, float]:
    """Return the loss terms on the validation rows, with the same batches and views each time."""
    network.eval()
    generator = _seeded(read.device, config.training.seed, 0)
    batches = draw_batches(is_target[val_rows], config.training.batch_size, config.training.seed, 0)
    totals = torch.zeros(len(LOGGED) - 1, device=read.device)
    for batch in batches:
        rows = val_rows[batch]
        terms, norms = _forward(network, loss, read(rows), is_target[rows], config, generator)
        totals += torch.stack([*terms, *norms])
    return dict(zip([f"val_{name}" for name in LOGGED[:-1]], (totals / len(batches)).tolist(), strict=True))


def learning_rate(step: int, n_steps: int, training: TrainingConfig) -> float:
    """Return the rate of one step: linear warm-up to the peak, then half a cosine to zero.

    Examples
    --------
    >>> learning_rate(11, 110, TrainingConfig(warmup=0.1, learning_rate=0.5))
    0.5
    """
    n_warmup = int(training.warmup * n_steps)
    if step < n_warmup:
        return training.learning_rate * (step + 1) / (n_warmup + 1)
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    return training.learning_rate * (1 + math.cos(math.pi * done)) / 2


def _fit_baseline(
    run: RunDir, cached: CachedVolumes, state: TrainingState, train_rows: np.ndarray, config: Config
) -> None:
    if run.voxel_pca.is_file():
        return
    read = VolumeReader(cached, state.standardisation, torch.device("cpu"))
    pca = fit_voxel_pca(read, train_rows, config.evaluation.voxel_pca_components)
    save_checkpoint(run.voxel_pca, {"mean": pca.mean, "components": pca.components}, {"n_rows": int(train_rows.size)})


def _require_finite(means: list[float], epoch: int, run: RunDir) -> None:
    wrong = [name for name, value in zip(LOGGED, means, strict=True) if not math.isfinite(value)]
    if wrong:
        kept = f"the checkpoint of epoch {epoch} is kept in {run.checkpoint().parent}" if epoch else "nothing was saved"
        raise RunError(
            f"epoch {epoch + 1}: {', '.join(wrong)} not finite, training stopped; {kept}. Lower "
            "training.learning_rate, or use --set training.precision=32-true; `sepclr-med check` finds images with "
            "extreme values."
        )


def _seeded(device: torch.device, seed: int, epoch: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))


def _device_name(fabric: Fabric) -> str:
    return torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
