"""The model of a run as a MONAI bundle: weights, reference, recipe and what a replication must know; no participant.

Layout and fields: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml

from sepclr_med import __version__
from sepclr_med.atomic import atomic_folder
from sepclr_med.checkpoint import load_checkpoint, save_checkpoint
from sepclr_med.config import Config
from sepclr_med.errors import RunError
from sepclr_med.methods import erases, find_method, needs_reference
from sepclr_med.methods.shapes import count_salient
from sepclr_med.provenance import installed_versions
from sepclr_med.rendering import load_reference
from sepclr_med.rundir import RunDir, read_json, write_json, write_text
from sepclr_med.runs import read_config
from sepclr_med.sharing.bundle_texts import LICENCE, describe_inference, describe_metadata, write_readme, write_steps
from sepclr_med.sharing.bundled import BundleDir
from sepclr_med.sharing.exporting import read_originals
from sepclr_med.sharing.keys import KINDS
from sepclr_med.sharing.traces import look_for
from sepclr_med.trained import load_trained
from sepclr_med.volumes.normative import NormativeReference

logger = logging.getLogger(__name__)

PLACES = {"cohort": {"manifest", "bids_root", "bids", "simulate"}, "volumes": {"cache_dir", "n_jobs"}}
OF_THE_TRAINING = ("versions", "machine", "device", "processes", "threads", "precision", "micro_batch")


def write_bundle(run_dir: str | Path, output_dir: str | Path, overwrite: bool = False) -> Path:
    """Write the trained model of a run so that MONAI runs it, and others can train it again.

    It holds the weights that the run embeds with, standardisation, normative reference (only the one for new
    participants), erasures, the resolved recipe, versions, and the SHA-256 of the manifest and of the training
    images. It holds no participant: ids are taken out of what the run keeps beside the reference, and every file is
    searched for them. The baseline of voxel components is left out, for it is made of images.

    Parameters
    ----------
    run_dir : path
        Folder of a finished run of one model.
    output_dir : path
        Absent or empty.
    overwrite : bool, default=False
        Replace an earlier bundle.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    RunError
        When the run is a cross-fit, has not finished, or uses no image; when a file would name a participant.
    """
    run = RunDir(run_dir)
    if run.cross_fit.is_file():
        raise RunError(f"{run.path}: a cross-fit has many models; export one of them: {run.path}/models/NAME")
    config = read_config(run)
    if config.method.name == "covariates":
        raise RunError(f"{run.path}: the method covariates uses no image, so there is no network to pass on")
    if own := [name for name in ("volumes", "network") if getattr(config, name).code is not None]:
        raise RunError(
            f"{run.path}: {' and '.join(own)} made by code of your own, which a bundle does not hold; train with "
            "transforms and a network of MONAI by name (docs/volumes.md, docs/own_code.md)"
        )
    which = config.evaluation.checkpoint
    _, tensors, facts = load_trained(run, config, which)
    with atomic_folder(output_dir, overwrite) as folder:
        bundle = BundleDir(folder)
        _write_weights(bundle, run, config, which, tensors, facts)
        _write_texts(bundle, run, config, facts)
        _require_no_trace(folder, run)
    return Path(output_dir)


def _write_weights(
    bundle: BundleDir, run: RunDir, config: Config, which: str, tensors: dict[str, Any], facts: dict[str, Any]
) -> None:
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(("network.", "standardise."))}
    said = {name: facts[name] for name in ("model_id", "epoch", "in_channels", "spatial_size")}
    said |= {"checkpoint": which, "salient_size": count_salient(config)}
    save_checkpoint(bundle.weights("model"), kept, said)
    if needs_reference(config):
        maps, state = load_reference(run).state()
        own = {name: maps[name][-1:] for name in ("coefficients", "components", "weights")}
        save_checkpoint(bundle.weights("reference"), {**maps, **own}, {**state, "folds": {}})
    if run.erasure(which).is_file():
        save_checkpoint(bundle.weights("erasure"), *load_checkpoint(run.erasure(which)))
    elif erases(config):
        logger.warning("%s: nothing is erased from its embeddings, for the erasure was never fitted", run.path)


def _write_texts(bundle: BundleDir, run: RunDir, config: Config, facts: dict[str, Any]) -> None:
    recipe = config.model_dump(mode="json", exclude=PLACES)
    write_text(bundle.recipe, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    steps = read_json(run.provenance)["steps"] if run.provenance.is_file() else []
    trained = next((step for step in reversed(steps) if step["step"] == "fit"), {})
    facts = {
        **{name: facts[name] for name in ("model_id", "manifest_sha256", "volumes_sha256")},
        "seed": config.training.seed,
        "epochs": facts["epoch"],
        "checkpoint": config.evaluation.checkpoint,
        "sepclr_med": __version__,
        "trained_with": {name: trained[name] for name in OF_THE_TRAINING if name in trained},
    }
    write_json(bundle.replicate, facts)
    model = load_checkpoint(bundle.weights("model"))[1]
    reference = bundle.reference()
    covariates, n_design = (_covariates(reference), reference.coefficients.shape[1]) if reference else ([], 0)
    spaces = find_method(config).SPACES
    write_json(bundle.metadata, describe_metadata(config, model, spaces, covariates, n_design, installed_versions()))
    write_json(bundle.inference, describe_inference())
    write_text(bundle.path / "docs" / "README.md", write_readme(config, covariates))
    write_text(bundle.path / "docs" / "replicate.md", write_steps(facts))
    write_text(bundle.path / "LICENSE", LICENCE)


def _covariates(reference: NormativeReference) -> list[str]:
    """Return the columns a new participant needs, with the classes that are known."""
    coding = reference.design.coding
    return [*coding.numbers, *(f"{name} ({', '.join(seen)})" for name, seen in coding.levels)]


def _require_no_trace(folder: Path, run: RunDir) -> None:
    originals = read_originals([run.manifest])
    traces = look_for({column: dict.fromkeys(originals[column], "") for column in KINDS})
    told = {
        path.relative_to(folder).as_posix(): found
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (found := traces.find(path))
    }
    if told:
        lines = "\n".join(f"  {name}: {'; '.join(found)}" for name, found in told.items())
        raise RunError(
            f"{run.path}: not exported, for the bundle would tell\n{lines}\nRename what is named, e.g. sites."
        )
