"""``doctor``: what this machine offers, and what is missing."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import joblib
import pandas as pd

from sepclr_med.provenance import installed_versions

OPTIONAL = {"captum": "integrated gradients", "tensorboard": "live curves in a browser"}


def examine(folder: str | Path = ".") -> pd.DataFrame:
    """Look at Python, packages, processors, precisions and disk.

    Parameters
    ----------
    folder : path, default="."
        Where runs would be written.

    Returns
    -------
    DataFrame
        Columns ``what``, ``found``, ``verdict`` (``ok``, ``note`` or ``missing``) and ``advice``.
    """
    rows = [*_packages(), *_devices(), *_resources(Path(folder))]
    return pd.DataFrame(rows, columns=["what", "found", "verdict", "advice"])


def _packages() -> list[tuple[str, str, str, str]]:
    rows = []
    for name, found in installed_versions().items():
        missing = found == "n/a"
        advice = f"pip install {name}" if missing else ""
        rows.append((name, found, "missing" if missing else "ok", advice))
    for name, purpose in OPTIONAL.items():
        found = "installed" if find_spec(name) else "not installed"
        rows.append((name, found, "ok" if found == "installed" else "note", f"optional: {purpose}"))
    return rows


def _devices() -> list[tuple[str, str, str, str]]:
    try:
        import torch
    except ImportError as error:
        return [("torch", f"cannot be loaded: {error}", "missing", "pip install torch")]
    from sepclr_med.engine import LARGEST_BFLOAT16_ERROR, bfloat16_gradient_error

    cores = joblib.cpu_count(only_physical_cores=True)
    rows = [("CPU threads", f"{cores} of {os.cpu_count()} cores", "ok", "training.threads sets them")]
    error = bfloat16_gradient_error()
    found = "gradients right" if error < LARGEST_BFLOAT16_ERROR else f"gradients wrong (relative error {error:.2g})"
    rows.append(("CPU bfloat16", found, "note", "training on CPUs is in float32 unless training.precision asks for it"))
    if not torch.cuda.is_available():
        advice = "training runs on the CPU: use network.backbone=small and volumes.spacing=6, or a machine with a GPU"
        rows.append(("CUDA GPU", "none", "note", advice))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        rows.append((f"CUDA GPU {index}", f"{properties.name}, {memory}", "ok", f"precision {precision}"))
    return rows


def _resources(folder: Path) -> list[tuple[str, str, str, str]]:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    writable = os.access(folder, os.W_OK)
    advice = "the cache takes 2 bytes per voxel and image: 4 MiB per image at 128 x 128 x 128"
    rows = [("free disk", f"{free:.0f} GiB", "ok" if free > 10 else "note", advice)]
    found, verdict, advice = ("yes", "ok", "") if writable else ("no", "missing", "choose a folder you may write to")
    return [*rows, ("folder is writable", found, verdict, advice)]
