"""Readers of checkpoints, references and images: valid files, what spoils them, and what reads them."""

import io
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import fuzz_mutations as spoil
import nibabel as nib
import numpy as np
import pandas as pd
from fuzz_cases import read_case
from PIL import Image

from sepclr_med.errors import ManifestError, Problem


@cache
def small_model():
    from sepclr_med.config import load_config

    small = ["network.backbone=small", "network.width=2", "method.common_dim=4", "method.salient_dim=2"]
    return load_config(overrides=[*small, "volumes.standardise=none", "training.epochs=2"])


def _new_state():
    import torch
    from torch import nn

    from sepclr_med.methods import build_network
    from sepclr_med.training_state import TrainingState

    torch.manual_seed(0)
    network = build_network(small_model(), 1, (8, 8, 8))
    optimiser = torch.optim.AdamW(network.parameters())
    return TrainingState(network, nn.Module(), optimiser, {"volumes_sha256": "x", "manifest_sha256": "y"}, (1, 8, 8, 8))


def checkpoint_seeds():
    import torch

    from sepclr_med.rundir import RunDir
    from sepclr_med.training_state import save_state
    from sepclr_med.volumes.standardisation import Standardisation

    state = _new_state()
    for parameter in state.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimiser.step()
    state.standardisation = Standardisation(torch.zeros(1, 8, 8, 8), torch.ones(1, 8, 8, 8))
    state.epoch, state.history = (
        2,
        [{"epoch": 1, "train_total": 1.0}, {"epoch": 2, "train_total": 0.5, "val_total": 1.0}],
    )
    with TemporaryDirectory() as folder:
        save_state(RunDir(folder), state, small_model())
        case = read_case(folder)
    return [{"checkpoints/last.safetensors": case["checkpoints/last.safetensors"]}]


def read_checkpoint_case(folder):
    from sepclr_med.methods import build_network
    from sepclr_med.rundir import RunDir
    from sepclr_med.training_state import load_model, restore_state

    run = RunDir(folder)
    restore_state(run, _new_state())
    load_model(
        run.checkpoint(), lambda facts: build_network(small_model(), facts["in_channels"], facts["spatial_size"])
    )


def reference_seeds():
    import torch

    from sepclr_med.checkpoint import save_checkpoint
    from sepclr_med.volumes.normative import fit_normative

    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"participant_id": [f"{i}" for i in range(24)], "age": rng.uniform(20, 80, 24)})
    rows["sex"], rows["site"] = ["F", "M"] * 12, ["a"] * 12 + ["b"] * 12
    volumes = rng.normal(size=(24, 1, 4, 4, 4)).astype(np.float16)
    background, folds = np.arange(24) % 3 > 0, np.arange(24) % 3
    reference = fit_normative(lambda places: volumes[places], rows, background, folds, ["age", "sex", "site"], 2)
    with TemporaryDirectory() as folder:
        tensors, state = reference.state()
        save_checkpoint(Path(folder) / "checkpoints" / "reference.safetensors", tensors, state)
        arrays = {"salient.centre": torch.zeros(3), "salient.projection": torch.eye(3)}
        save_checkpoint(
            Path(folder) / "checkpoints" / "erasure_last.safetensors", arrays, {"spaces": ["salient"], "n_rows": 9}
        )
        pca = {"mean": torch.zeros(64), "components": torch.ones(2, 64)}
        save_checkpoint(Path(folder) / "checkpoints" / "voxel_pca.safetensors", pca, {"n_rows": 9})
        case = read_case(folder)
    return [{name: content for name, content in case.items() if name.endswith("safetensors")}]


def read_reference_case(folder):
    from sepclr_med.config import parse_config
    from sepclr_med.erasing import load_erasures
    from sepclr_med.rendering import load_rendering
    from sepclr_med.rundir import RunDir
    from sepclr_med.trained import load_voxel_pca

    run = RunDir(folder)
    load_voxel_pca(run.voxel_pca)
    load_erasures(run.erasure())
    rows = pd.DataFrame({"participant_id": ["0", "n"], "age": [30.0, 40.0], "sex": ["F", "M"], "site": ["a", "b"]})
    load_rendering(run, rows, parse_config({"method": {"name": "sepclr"}}))


# Images


AFFINE = np.array([[15.0, 0, 0, -70], [0, 14, 0, -95], [0, 0, 16, -60], [0, 0, 0, 1]])


def nifti_bytes(dtype=np.float32, shape=(10, 12, 9), kind=nib.Nifti1Image, **header):
    """Return a valid image as nibabel writes it."""
    values = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    image = kind(values, AFFINE)
    for name, value in header.items():
        image.header[name] = value
    return image.to_bytes()


def image_seeds():  # volumes and pictures; arrays
    import gzip

    pictures = []
    for suffix, mode in (("png", "L"), ("png", "RGB"), ("jpg", "L"), ("tif", "L"), ("bmp", "RGB")):
        stream = io.BytesIO()
        shape = (16, 12) if mode == "L" else (16, 12, 3)
        Image.fromarray(np.random.default_rng(1).integers(0, 255, shape, np.uint8)).save(
            stream, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        )
        pictures.append({f"image.{suffix}": stream.getvalue()})
    arrays = []
    for suffix, save in (("npy", np.save), ("npz", np.savez), ("npz", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, np.random.default_rng(2).random((10, 12, 9)).astype(np.float32))
        arrays.append({f"image.{suffix}": stream.getvalue()})
    raw = [nifti_bytes(), nifti_bytes(np.int16), nifti_bytes(np.uint8, (10, 12, 9, 1)), nifti_bytes(np.float64)]
    second, mgh = nifti_bytes(kind=nib.Nifti2Image), nifti_bytes(kind=nib.MGHImage)
    volumes = [{"image.nii.gz": gzip.compress(content, 1)} for content in (*raw, second)]
    volumes += [{"image.nii": content} for content in (raw[0], raw[1], second)] + [{"image.mgz": gzip.compress(mgh, 1)}]
    return [*volumes * 3, {"image.mgh": mgh}, *pictures], arrays


IMAGE_MUTATIONS = {
    ".nii.gz": spoil.mutate_nifti,
    ".nii": spoil.mutate_nifti,
    **dict.fromkeys((".mgz", ".mgh", ".png", ".jpg", ".tif", ".bmp", ".npy", ".npz"), spoil.mutate_bytes),
}


def read_image_case(folder):
    from sepclr_med.cohort.facts_file import FactsFile
    from sepclr_med.cohort.faults import FAULTS, find_faults
    from sepclr_med.cohort.images import read_facts

    path = str(next(folder.glob("image.*")))
    facts = read_facts(path)
    faults = find_faults(facts)
    with TemporaryDirectory() as scratch:
        remembered = FactsFile(Path(scratch) / "images.jsonl")
        with remembered:
            remembered.add(facts)
        again = FactsFile(Path(scratch) / "images.jsonl").get(path)
    if not facts.failure and again != facts:
        raise AssertionError("facts do not read back the same")
    if facts.usable and not facts.is_picture:
        facts.pattern()
    if wrong := [name for name in faults if FAULTS[name].severity == "error"]:
        raise ManifestError("check", [Problem(FAULTS[name].message, path, got=faults[name]) for name in wrong])


def read_volume_case(folder):
    from sepclr_med.settings import VolumesConfig
    from sepclr_med.volumes.cache import cache_volumes

    manifest = pd.DataFrame({"participant_id": ["01"], "image_path": [str(next(folder.glob("image.*")))]})
    name = manifest["image_path"][0]
    flat, array = name.endswith((".png", ".jpg", ".tif", ".bmp")), name.endswith((".npy", ".npz"))
    steps = [{"name": "ScaleIntensityd"}, {"name": "Resized", "spatial_size": [8, 8] if flat else [8, 8, 8]}]
    for preset in ("vbm", "t1w") if not flat and not array else ("vbm",):
        settings = VolumesConfig(preset=preset, spacing=24.0, n_jobs=1, transforms=steps if flat or array else None)
        cached = cache_volumes(manifest, settings, folder / "cache", 2 if flat else 3)
        if not np.isfinite(cached.load([0])).all():
            raise AssertionError("not finite")


# Tables and records of a run
