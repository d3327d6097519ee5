"""Time what this machine can: the manifest, the views, one training step. Prints a table, writes results.json."""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sepclr_med import load_config, read_manifest
from sepclr_med.losses import SepCLRLoss
from sepclr_med.networks import SepCLRNetwork, channels_last
from sepclr_med.volumes.views import draw_views

REPEATS = 5
DEMO_SHAPE, DEMO_BATCH = (32, 40, 32), 64


def measure(work):
    """Return median, minimum and maximum seconds of five calls after one warm-up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def time_manifest(n_rows=100_000):
    rng = np.random.default_rng(0)
    ids = [f"sub-{i:06d}" for i in range(n_rows)]
    table = pd.DataFrame({"participant_id": ids, "image_path": [f"{i}.nii.gz" for i in ids]})
    table["diagnosis"] = np.where(rng.random(n_rows) < 0.5, "control", "patient")
    table["age"] = rng.uniform(18, 80, n_rows).round(1)
    table["site"] = rng.integers(0, 40, n_rows).astype(str)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.tsv"
        table.to_csv(path, sep="\t", index=False)
        return measure(lambda: read_manifest(path))


def time_step():
    config = load_config(Path(__file__).parents[1] / "synthetic" / "recipe.yaml")
    network = channels_last(SepCLRNetwork("small", width=config.network.width))
    optimiser = torch.optim.AdamW(network.parameters())
    loss, generator = SepCLRLoss(), torch.Generator().manual_seed(0)
    volumes, is_target = torch.randn(DEMO_BATCH, 1, *DEMO_SHAPE), torch.arange(DEMO_BATCH) < DEMO_BATCH // 2
    twice = torch.cat([volumes, volumes])

    def step(images):
        heads = network(images, images)
        loss(*heads.common_head.chunk(2), *heads.salient_head.chunk(2), is_target).total.backward()
        optimiser.step()
        optimiser.zero_grad()

    return {
        "views_of_a_batch": measure(lambda: draw_views(twice, config.views, generator)),
        "step_without_views": measure(lambda: step(twice)),
        "step_with_views": measure(lambda: step(draw_views(twice, config.views, generator))),
    }


def main():
    results = {"read_manifest_100000_rows": time_manifest(), **time_step()}
    results = {"seconds": results, "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(pd.DataFrame(results["seconds"]).T.round(3).to_string())
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
