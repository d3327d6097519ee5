"""Run every benchmark this machine can; print tables and write results.json, one key per letter.

python pipelines/benchmark/run.py                 all, at the sizes of docs/benchmarks.md (about half an hour)
python pipelines/benchmark/run.py --only a,f      some
python pipelines/benchmark/run.py --quick         every line of code once, at toy sizes
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import bench_data
import bench_memory
import bench_step
import joblib
import numpy as np
import pandas as pd
import torch
from timing import REPEATS, measure

from sepclr_med import load_config, read_manifest, simulate

HERE = Path(__file__).parent
DEMO = HERE.parent / "synthetic" / "recipe.yaml"
DEMO_SHAPE = (32, 40, 32)


class Sizes:
    """What is measured: the sizes of the documentation, or toys."""

    def __init__(self, quick, device, repeats=REPEATS):
        gpu = device == "cuda"
        self.repeats = 1 if quick else repeats
        self.rows = 1000 if quick else 100_000
        self.n_train, self.spacing = (48, 12.0) if quick else (400, 6.0)
        self.shape = (16, 24, 16) if quick else DEMO_SHAPE
        self.view_sizes, self.n_views = ((12,), 4) if quick else ((40, 96), 256 if gpu else 32)
        self.gpu_size, self.gpu_batch = (128, 32)
        self.memory_shape = (16,) * 3 if quick else (96,) * 3
        self.memory = [(4, None), (8, None), (16, 4)] if quick else [(16, None), (32, None), (256, 16)]
        self.compared = (8, 4) if quick else ((64, 16) if gpu else (32, 16))
        self.cohorts = (20, 40) if quick else (250, 1000, 4000)
        self.losses = (64, 128) if quick else (64, 256, 1024, 4096, 8192)
        demo = load_config(DEMO)
        batch = 8 if quick else demo.training.batch_size
        self.settings = [f"volumes.spacing={self.spacing}", "network.backbone=small", f"training.batch_size={batch}"]
        self.settings += ["training.validate_every=1000"]


def time_manifest(n_rows, repeats):
    """Reading and checking a table of five columns."""
    rng = np.random.default_rng(0)
    ids = [f"sub-{i:06d}" for i in range(n_rows)]
    table = pd.DataFrame({"participant_id": ids, "image_path": [f"{i}.nii.gz" for i in ids]})
    table["diagnosis"] = np.where(rng.random(n_rows) < 0.5, "control", "patient")
    table["age"] = rng.uniform(18, 80, n_rows).round(1)
    table["site"] = rng.integers(0, 40, n_rows).astype(str)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.tsv"
        table.to_csv(path, sep="\t", index=False)
        return {"rows": n_rows, "seconds": measure(lambda: read_manifest(path), repeats)}


def benchmarks(sizes, device, folder):
    """Return what each letter runs."""
    table = folder / "cohort" / "manifest.tsv"

    def cohort():
        if not table.is_file():
            simulate(table.parent, n_train=sizes.n_train, n_val=0, n_test=8, spacing=sizes.spacing, seed=0)
        return read_manifest(table)

    settings, repeats = [*sizes.settings, f"volumes.cache_dir={folder / 'cache'}"], sizes.repeats
    found = {
        "manifest": lambda: time_manifest(sizes.rows, repeats),
        "a": lambda: bench_step.step_bound(cohort(), settings, sizes.shape, device, repeats),
        "b": lambda: bench_data.views_per_second(sizes.view_sizes, sizes.n_views, repeats, device),
        "c": lambda: bench_data.epochs_against_peers(cohort(), settings, sizes.shape, repeats, device),
        "d": lambda: bench_memory.memory_of_batches(sizes.memory_shape, sizes.memory, repeats, device, sizes.compared),
        "e": lambda: bench_memory.scale_of_cohorts(sizes.cohorts, repeats),
        "f": lambda: bench_memory.losses_by_batch(sizes.losses, repeats, device),
        "g": lambda: cohort() is not None and bench_data.one_and_two_processes(table, settings, repeats),
    }
    if device == "cuda":
        found["gpu"] = lambda: bench_step.gpu_share(sizes.gpu_size, sizes.gpu_batch, repeats)
    return found


def flatten(results, prefix=""):
    """Return rows (name, text) of nested results."""
    if isinstance(results, dict) and "median" not in results:
        return [row for name, value in results.items() for row in flatten(value, f"{prefix}{name} | ")]
    if isinstance(results, dict):
        extra = ", ".join(f"{k} {v}" for k, v in results.items() if k not in ("median", "min", "max", "n"))
        text = f"{results['median']:.4g} ({results['min']:.4g} to {results['max']:.4g}) {extra}"
    else:
        text = f"{results:.4g}" if isinstance(results, float) else str(results)
    return [(prefix.removesuffix(" | "), text)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="letters, comma-separated")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="timed repeats after the warm-up")
    parser.add_argument("--quick", action="store_true", help="toy sizes, one repeat")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    torch.set_num_threads(joblib.cpu_count(only_physical_cores=True))
    # Results of other letters stay.
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        todo = benchmarks(Sizes(options.quick, options.device, options.repeats), options.device, Path(folder))
        for name in options.only.split(",") if options.only else todo:
            results[name] = todo[name]()
            results[name]["machine"] = machine(options.device)
            for row in flatten(results[name], f"{name} | "):
                print(": ".join(row), flush=True)
            options.output.write_text(json.dumps(results, indent=2) + "\n")


def machine(device):
    """Return what the figures were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
