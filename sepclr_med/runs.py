"""Run folders: opened once, and refused when they belong to another configuration or manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sepclr_med.cohort.manifest import manifest_hash, read_manifest, write_manifest
from sepclr_med.config import Config, dump_config, parse_config
from sepclr_med.errors import RunError
from sepclr_med.rundir import RunDir, write_text

# They change where and how fast the work is done, or steps after training, never the weights.
FREE_KEYS = ("volumes.cache_dir", "volumes.n_jobs", "training.accelerator", "evaluation.", "cohort.")
BOUND_KEYS = ("cohort.background", "cohort.target")


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
        When the folder holds something else, or a run with another configuration or manifest (the difference is
        shown), and ``overwrite`` is off.
    """
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"{run.path}: is a file, not a folder; choose another run folder")
    if overwrite:
        _clear(run)
    if run.config.exists():
        _require_same(run, manifest, config)
        return
    strangers = sorted(p.name for p in run.path.glob("*") if not p.name.startswith(".")) if run.path.exists() else []
    if set(strangers) - {"cohort", "check", "cache", "manifest.tsv", "logs"}:
        raise RunError(f"{run.path}: not empty and not a run folder (holds {', '.join(strangers[:5])}); choose another")
    for split in ("train", "val", "test"):
        write_manifest(manifest[manifest["split"] == split], run.part(split))
    write_manifest(manifest, run.manifest)
    # Last, because its presence says that the folder is complete.
    write_text(run.config, dump_config(config))


def read_config(run: RunDir) -> Config:
    """Return the configuration a run was made with.

    Raises
    ------
    RunError
        When the folder is not a run folder.
    """
    if not run.config.is_file():
        raise RunError(f"{run.path}: not a run folder (no config.yaml); train first with `sepclr-med fit`")
    return parse_config(yaml.safe_load(run.config.read_text(encoding="utf-8")), str(run.config))


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
    before, now = (flatten(c.model_dump(mode="json")) for c in (read_config(run), config))
    bound = [k for k in now.keys() | before.keys() if k in BOUND_KEYS or not k.startswith(FREE_KEYS)]
    changes = [
        f"{key}: {before.get(key)} -> {now.get(key)}" for key in sorted(bound) if before.get(key) != now.get(key)
    ]
    if manifest_hash(read_manifest(run.manifest)) != manifest_hash(manifest):
        changes.append("the manifest: other rows, values or splits than the run was trained with")
    if changes:
        lines = "\n".join(f"  {change}" for change in changes)
        raise RunError(
            f"{run.path}: holds a run made with other settings:\n{lines}\n"
            "Use another run folder, restore the settings, or start over with --overwrite."
        )


def _clear(run: RunDir) -> None:
    if run.path.exists() and any(run.path.iterdir()) and not run.config.exists():
        raise RunError(f"{run.path}: not a run folder (no config.yaml), so --overwrite leaves it alone")
    for name in ("checkpoints", "data", "embeddings", "analysis"):
        shutil.rmtree(run.path / name, ignore_errors=True)
    for path in (run.history, run.progress, run.provenance, run.config):
        path.unlink(missing_ok=True)


def cache_folder(run: RunDir, config: Config) -> Path:
    """Return the folder of preprocessed volumes: as configured, else ``cache`` beside the run folder."""
    return Path(config.volumes.cache_dir) if config.volumes.cache_dir else run.path.resolve().parent / "cache"
