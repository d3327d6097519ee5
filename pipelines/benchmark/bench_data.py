"""(b) Views per second and (c) epochs, against other software; (g) one process against two."""

import contextlib
import copy
import json
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import peers
import torch
from timing import measure, run_and_watch, spread

from sepclr_med import fit, load_config
from sepclr_med.methods import build_network
from sepclr_med.settings import ViewsConfig
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.views import draw_views


def views_per_second(sizes, n, repeats, device, workers=(0, 1, 2, "threads")):
    """Our views of n volumes at once against one at a time, each with its best loader."""
    found = {}
    for size in sizes:
        shape = (size,) * 3
        n_here = n if size < 64 else n // 2
        volumes = np.random.default_rng(0).random((n_here, 1, *shape), np.float32)
        for parts, views in (("affine, noise, cutout", ViewsConfig(elastic=0)), ("and elastic", ViewsConfig())):
            resident = torch.from_numpy(volumes).to(device)
            generator = torch.Generator(device).manual_seed(0)
            ours = measure(lambda: draw_views(resident, views, generator), repeats, device)  # noqa: B023
            row = {"ours": {name: value / n_here for name, value in ours.items() if name != "n"}}
            row["MONAI"] = _best(peers.monai_views(views, shape), volumes, True, workers, repeats)
            with contextlib.suppress(ImportError):
                row["TorchIO"] = _best(peers.torchio_views(views, shape), volumes, False, workers, repeats)
            row["MONAI / ours"] = row["MONAI"]["median"] / row["ours"]["median"]
            if "TorchIO" in row:
                row["TorchIO / ours"] = row["TorchIO"]["median"] / row["ours"]["median"]
            found[f"{size}^3, {parts}"] = row
    return found


def _best(transform, volumes, as_dict, workers, repeats):
    """Return seconds per view of the loader with the smallest median."""
    tried = []
    for kind in workers:
        seconds = [peers.per_sample_seconds(transform, volumes, as_dict, kind) for _ in range(repeats)]
        tried.append({**spread(seconds), "loader": str(kind)})
    return min(tried, key=lambda row: row["median"])


def epochs_against_peers(manifest, settings, shape, repeats, device, workers=2):
    """Seconds per image of an epoch: ours, a plain loop, MONAI's cache and threads, nidl."""
    config = load_config(overrides=[*settings, f"training.epochs={repeats + 1}"])
    train = manifest[manifest["split"] == "train"]
    is_target = (train["diagnosis"] == "patient").to_numpy()
    network = build_network(config)
    batch = config.training.batch_size
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = _on_one_grid(train, config, Path(folder))
        fit(manifest, config, Path(folder) / "run")
        history = pd.read_csv(Path(folder) / "run" / "history.tsv", sep="\t", na_values="n/a")[1:]
        found["ours"] = spread(list(1 / history["images_per_second"]))
        plain = [_per_image(*_plain(paths, is_target, config, shape, network, workers, device)) for _ in range(repeats)]
        found["plain loop"] = {**spread(plain), "workers": workers}
        epoch = peers.monai_cache_epoch(paths, is_target, config.views, shape, batch, copy.deepcopy(network), device)
        epoch()
        found["MONAI cache and threads"] = spread([_per_image(*epoch()) for _ in range(repeats)])
        try:
            nidl = [peers.nidl_epoch(paths, config.views, shape, batch, workers) for _ in range(repeats)]
            found["nidl SimCLR"] = spread([_per_image(*one) for one in nidl])
        except RuntimeError as error:
            found["nidl SimCLR"] = str(error)
    ours = found["ours"]["median"]
    for name in ("plain loop", "MONAI cache and threads"):
        found[f"{name} / ours"] = found[name]["median"] / ours
    return found


def _plain(paths, is_target, config, shape, network, workers, device):
    batch = config.training.batch_size
    return peers.plain_epoch(paths, is_target, config.views, shape, batch, copy.deepcopy(network), workers, device)


def _per_image(seconds, n_images):
    return seconds / n_images


def _on_one_grid(train, config, folder):
    """Write the preprocessed volumes as compressed NIfTI files, which is what other loops read."""
    cached = cache_volumes(train, config.volumes, folder / "cache", config.network.spatial_dims)
    paths = []
    for index, volume in enumerate(cached.load(np.arange(len(train)))):
        paths.append(folder / f"{index:05d}.nii.gz")
        nib.save(nib.Nifti1Image(volume[0].astype(np.float32), np.eye(4)), paths[-1])
    return paths


def one_and_two_processes(table, settings, repeats):
    """Seconds per epoch of one process with two threads and two with one, and how far their losses are apart."""
    found, losses = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            run = Path(folder) / str(processes)
            own = [*settings, f"training.epochs={repeats + 1}", f"training.devices={processes}"]
            own += [f"training.threads={2 // processes}", "network.norm=group", f"volumes.cache_dir={folder}/cache"]
            words = [word for setting in own for word in ("--set", setting)]
            run_and_watch([sys.executable, "-m", "sepclr_med", "fit", str(table), str(run), *words])
            history = pd.read_csv(run / "history.tsv", sep="\t", na_values="n/a")
            assert json.loads((run / "provenance.json").read_text())["steps"][-1]["processes"] == processes
            found[f"{processes} process(es)"] = spread(list(history["seconds"][1:]))
            losses[processes] = history["train_total"].to_numpy()
    found["1 / 2"] = found["1 process(es)"]["median"] / found["2 process(es)"]["median"]
    found["relative difference of the first epoch's loss"] = float(abs(losses[2][0] / losses[1][0] - 1))
    return found
