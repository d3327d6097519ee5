"""``doctor``: what this machine offers, and what is missing."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import joblib
import pandas as pd
import psutil

from sepclr_med.provenance import installed_versions

OPTIONAL = {"captum": ("integrated gradients in explain", "explain"), "fire": ("export --bundle", "bundle")}
LITTLE_MEMORY, LITTLE_DISK, LITTLE_SHARED = 8, 10, 1  # GiB


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
    for name, (purpose, extra) in OPTIONAL.items():
        here = find_spec(name) is not None
        advice = "" if here else f"for {purpose}: pip install 'sepclr-med[{extra}]'"
        rows.append((name, "installed" if here else "not installed", "ok" if here else "note", advice))
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
        rows.append(("CUDA GPU", "none", "note", _explain_no_gpu(torch.version.cuda)))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        rows.append((f"CUDA GPU {index}", f"{properties.name}, {memory}", "ok", f"precision {precision}"))
    return rows


def _explain_no_gpu(built_for: str | None) -> str:
    """Say why PyTorch finds no GPU; ``built_for`` is the CUDA version it was built for, None without CUDA."""
    if shutil.which("nvidia-smi") is None:
        small = "--set network.backbone=small --set volumes.spacing=4"
        return f"training runs on the CPU: give fit {small}, or use a machine with a GPU"
    if built_for is None:
        return "there is a GPU, but PyTorch was installed without CUDA: install it as https://pytorch.org says"
    return f"there is a GPU driver, but none that CUDA {built_for} can use: update it (nvidia-smi names its version)"


def _resources(folder: Path) -> list[tuple[str, str, str, str]]:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    memory = psutil.virtual_memory().total / 2**30
    writable = os.access(folder, os.W_OK)
    rows = [
        _amount("memory", memory, LITTLE_MEMORY, "give fit --set training.micro_batch=4, or a larger volumes.spacing"),
        _amount(
            *("free disk", free, LITTLE_DISK),
            "volumes take 4 MiB per image at 128 x 128 x 128: give --set volumes.cache_dir=FOLDER on another disk",
        ),
    ]
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").total / 2**30
        advice = "processes share arrays there: start the container with --shm-size=8g, or --set volumes.n_jobs=1"
        rows.append(_amount("shared memory (/dev/shm)", shared, LITTLE_SHARED, advice))
    if threads := os.environ.get("OMP_NUM_THREADS"):
        advice = "it holds back evaluate and link: unset OMP_NUM_THREADS; fit: --set training.threads=N"
        rows.append(("OMP_NUM_THREADS", threads, "note", advice))
    found, verdict, advice = ("yes", "ok", "") if writable else ("no", "missing", "choose a folder you may write to")
    return [*rows, ("folder is writable", found, verdict, advice)]


def _amount(what: str, found: float, little: float, advice: str) -> tuple[str, str, str, str]:
    enough = found >= little
    return what, f"{found:.1f} GiB", "ok" if enough else "note", "" if enough else advice
