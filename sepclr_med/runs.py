"""Run folders: opened once, and refused when they belong to another configuration or manifest."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.columns import describe_columns
from sepclr_med.cohort.ledger import append_event, require_sealed_rows
from sepclr_med.cohort.manifest import manifest_hash, read_manifest, write_manifest
from sepclr_med.cohort.splits import without_test
from sepclr_med.config import Config, dump_config, parse_config, read_yaml
from sepclr_med.errors import RunError, did_you_mean
from sepclr_med.rundir import RunDir, read_json, write_json, write_text

logger = logging.getLogger(__name__)

# They change where and how fast the work is done, or steps after training, never the weights.
FREE_KEYS = (
    *("volumes.cache_dir", "volumes.n_jobs", "volumes.resident_share", "evaluation.", "cohort."),
    *(f"training.{name}" for name in ("accelerator", "devices", "num_nodes", "threads", "micro_batch", "compile")),
    "training.checkpoint_activations",
)
BOUND_KEYS = ("cohort.background", "cohort.target", "evaluation.voxel_pca_components")
# What an interrupted start may have left.
MADE_BEFORE_CONFIG = {"cohort", "check", "cache", "controls", "data", "logs"}


def open_run(run: RunDir, manifest: pd.DataFrame, config: Config, overwrite: bool = False) -> None:
    """Make the run folder, or check that it belongs to this very configuration and manifest.

    Parameters
    ----------
    run : RunDir
    manifest : DataFrame
        With its ``split`` column.
    config : Config
    overwrite : bool, default=False
        Delete what an earlier run left there.

    Raises
    ------
    RunError
        When the ledger of a sealed test set was changed; when the folder holds something else, or a run with another
        configuration or manifest (the difference is shown), and ``overwrite`` is off.
    ManifestError
        When the test part is not the one that was sealed.
    """
    refuse_strangers(run)
    require_sealed(manifest)
    if overwrite:
        _clear(run)
    if run.config.exists() and (run.checkpoint().is_file() or run.cross_fit.is_file()):
        _require_same(run, manifest, config)
        note_seal(run, manifest)
        _take_evaluation(run, config)
        return
    for split in ("train", "val", "test"):
        write_manifest(manifest[manifest["split"] == split], run.part(split))
    write_manifest(manifest, run.manifest)
    write_json(run.manifest.with_suffix(".json"), describe_columns(manifest))
    note_seal(run, manifest)
    # Last, because its presence says that the folder is complete.
    write_text(run.config, dump_config(config))


def require_sealed(manifest: pd.DataFrame) -> str | None:
    """Return the hash of a sealed test part, None where none is sealed.

    Raises
    ------
    ManifestError
        When the test part is not the one that was sealed.
    """
    ledger = manifest.attrs.get("ledger")
    return require_sealed_rows(ledger, manifest) if ledger and Path(ledger).is_file() else None


def note_seal(run: RunDir, manifest: pd.DataFrame) -> None:
    """Write down where the ledger of the manifest is, or will be if its test part is sealed later."""
    if (ledger := manifest.attrs.get("ledger")) is not None:
        where = Path(os.path.relpath(Path(ledger).resolve(), run.path.resolve())).as_posix()
        said = {"ledger": where, "test_sha256": require_sealed(manifest)}
        if not run.seal.is_file() or read_json(run.seal) != said:
            write_json(run.seal, said)


def note_cross_fit(run: RunDir, manifest: pd.DataFrame) -> dict[str, str]:
    """Write into the ledger of the manifest, if it has one, that a cross-fit begins, and return when (``begun``).

    Raises
    ------
    RunError
        When the ledger cannot be written, or was changed.
    """
    ledger = manifest.attrs.get("ledger")
    if ledger is None or not os.path.isfile(ledger):
        return {}
    rows = without_test(manifest)
    facts = {"n_images": len(rows), "rows_sha256": manifest_hash(rows)}
    entry = append_event(ledger, "cross-fit", {"verb": "fit", "run": run.path.resolve().name, **facts})
    return {"begun": entry["at"]}


def refuse_strangers(run: RunDir) -> None:
    """Refuse a folder that holds anything but a run, before anything is written there.

    Raises
    ------
    RunError
        Naming what the folder holds.
    """
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"{run.path}: is a file, not a folder; choose another run folder")
    if run.config.exists() or not run.path.exists():
        return
    found = sorted(path.name for path in run.path.iterdir() if not path.name.startswith("."))
    if set(found) - MADE_BEFORE_CONFIG:
        raise RunError(f"{run.path}: not empty and not a run folder (holds {', '.join(found[:5])}); choose another")


def read_config(run: RunDir) -> Config:
    """Return the configuration a run was made with.

    Raises
    ------
    RunError
        When the folder is not a run folder.
    """
    if not run.path.exists():
        beside = [entry.name for entry in run.path.parent.iterdir()] if run.path.parent.is_dir() else []
        hint = did_you_mean(run.path.name, beside) or "train first with `sepclr-med fit`"
        raise RunError(f"{run.path}: no such folder; {hint}")
    if not run.config.is_file():
        raise RunError(f"{run.path}: not a run folder (no config.yaml); train first with `sepclr-med fit`")
    return parse_config(read_yaml(run.config), str(run.config))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"a.b": value}`` for ``{"a": {"b": value}}``.

    Examples
    --------
    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
    return flat


def _require_same(run: RunDir, manifest: pd.DataFrame, config: Config) -> None:
    changed = _changed_settings(read_config(run), config)
    changes = [said for key, said in changed.items() if key in BOUND_KEYS or not key.startswith(FREE_KEYS)]
    changes += _manifest_changes(read_manifest(run.manifest), manifest)
    if changes:
        lines = "\n".join(f"  {change}" for change in changes)
        raise RunError(
            f"{run.path}: holds a run made with other settings:\n{lines}\n"
            "Use another run folder, restore the settings, or start over with --overwrite."
        )


def _take_evaluation(run: RunDir, config: Config) -> None:
    """Record the evaluation that is asked for now: no weights depend on it, and later steps read it there."""
    recorded = read_config(run)
    changed = _changed_settings(recorded, config)
    if changes := [said for key, said in changed.items() if key.startswith("evaluation.")]:
        write_text(run.config, dump_config(recorded.model_copy(update={"evaluation": config.evaluation})))
        logger.warning("%s: the evaluation has other settings now: %s", run.path, "; ".join(changes))


def _changed_settings(recorded: Config, asked: Config) -> dict[str, str]:
    before, now = (flatten(config.model_dump(mode="json")) for config in (recorded, asked))
    return {
        key: f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }


def _manifest_changes(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    if manifest_hash(before) == manifest_hash(now):
        return []
    gone = sorted(set(before["participant_id"]) - set(now["participant_id"]))
    new = sorted(set(now["participant_id"]) - set(before["participant_id"]))
    said = [f"participants {what}: {', '.join(ids[:5])}" for what, ids in (("gone", gone), ("new", new)) if ids]
    if not said and len(before) == len(now):
        shared = before.columns.intersection(now.columns)
        said = [f"column {c} has other values" for c in shared if not _same_values(before[c], now[c])]
    return [f"the manifest: {'; '.join(said) or 'other rows or columns'}"]


def _same_values(before: pd.Series, now: pd.Series) -> bool:
    return before.astype(str).tolist() == now.astype(str).tolist()


def _clear(run: RunDir) -> None:
    for name in ("checkpoints", "data", "embeddings", "analysis", "maps", "models", "controls"):
        shutil.rmtree(run.path / name, ignore_errors=True)
    for path in (run.history, run.progress, run.provenance, run.config, run.report, run.cross_fit, run.norms):
        path.unlink(missing_ok=True)


def cache_folder(run: RunDir, config: Config) -> Path:
    """Return the folder of preprocessed volumes: as configured, else ``cache`` beside the run folder."""
    chosen = config.volumes.cache_dir
    return Path(chosen).expanduser() if chosen else run.path.resolve().parent / "cache"
