"""Where a result comes from: versions, command, seed, hardware, hashes and times, one entry per step."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from sepclr_med.rundir import read_json, write_json

PACKAGES = (
    "sepclr-med",
    "torch",
    "monai",
    "lightning-fabric",
    "nibabel",
    "nilearn",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "statsmodels",
    "pydantic",
    "safetensors",
)


def installed_versions() -> dict[str, str]:
    """Return the version of Python and of each package results depend on; ``n/a`` when one is not installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "n/a"
    return versions


def record_step(path: Path, step: str, started: datetime, facts: Mapping[str, Any]) -> Path:
    """Append one step to ``provenance.json``.

    Parameters
    ----------
    path : Path
        The run folder's ``provenance.json``.
    step : str
        The verb, such as ``fit``.
    started : datetime
        When it began, with time zone.
    facts : mapping
        JSON-ready: seed, hardware, hashes, counts.

    Returns
    -------
    Path
    """
    finished = datetime.now(timezone.utc)
    seconds = round((finished - started).total_seconds(), 1)
    entry = {
        "step": step,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": started.isoformat(timespec="seconds"),
        # A clock that was set back meanwhile tells no duration.
        "seconds": seconds if seconds >= 0 else None,
        "versions": installed_versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        **facts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Steps that end at the same time must not forget one another.
    with FileLock(path.with_name(f".{path.name}.lock")):
        earlier = read_json(path, {"steps": list})["steps"] if path.is_file() else []
        return write_json(path, {"steps": [*earlier, entry]})
