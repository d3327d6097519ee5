"""How other software does what ours does, each with its best loader: per-sample views, plain loops, nidl's SimCLR."""

import itertools
import time

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, ThreadDataLoader
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Rand3DElasticd,
    RandAffined,
    RandCoarseDropoutd,
    RandGaussianNoised,
)
from torch.utils.data import DataLoader, Dataset

from sepclr_med.losses import SepCLRLoss
from sepclr_med.networks import channels_last
from sepclr_med.volumes.batches import draw_batches

KEY = "image"


def monai_views(views, shape, key=KEY):
    """Return per-sample MONAI transforms with the parameters of a ViewsConfig: one interpolation, noise, a box."""
    affine = {
        "rotate_range": [np.pi * views.rotation / 180] * 3,
        "scale_range": [views.scaling] * 3,
        "translate_range": [views.translation * length for length in shape],
        "prob": 1.0,
        "mode": "bilinear",
        "padding_mode": "zeros",
    }
    if views.elastic:
        # Smoothing by two voxels leaves a standard deviation of 0.03: magnitudes to 16 move voxels by half a voxel.
        space = Rand3DElasticd(key, sigma_range=(2.0, 2.0), magnitude_range=(0.0, 32 * views.elastic_std), **affine)
    else:
        space = RandAffined(key, **affine)
    parts = [space]
    if views.noise:
        parts.append(RandGaussianNoised(key, prob=views.noise, std=views.noise_std, sample_std=True))
    if views.cutout:
        box = [max(1, round(views.cutout_size * length)) for length in shape]
        parts.append(RandCoarseDropoutd(key, holes=1, spatial_size=box, fill_value=0, prob=views.cutout))
    return Compose(parts)


def torchio_views(views, shape):
    """Return per-sample TorchIO transforms with the parameters of a ViewsConfig, on tensors (C, X, Y, Z)."""
    import torchio as tio

    parts = [
        tio.RandomAffine(
            scales=views.scaling,
            degrees=views.rotation,
            translation=[views.translation * length for length in shape],
            default_pad_value=0,
        )
    ]
    if views.elastic:
        controls = [max(5, round(length / views.elastic_length) + 1) for length in shape]
        parts.append(tio.RandomElasticDeformation(controls, max_displacement=2 * views.elastic_std, locked_borders=0))
    if views.noise:
        parts.append(tio.RandomNoise(std=(0, views.noise_std), p=views.noise))
    transform = tio.Compose(parts)
    box = [max(1, round(views.cutout_size * length)) for length in shape]

    def view(image):
        image = transform(image)
        if views.cutout and torch.rand(1) < views.cutout:
            corner = [int(torch.randint(length - edge + 1, (1,))) for length, edge in zip(shape, box, strict=True)]
            image[(slice(None), *(slice(c, c + e) for c, e in zip(corner, box, strict=True)))] = 0
        return image

    return view


class OneViewEach(Dataset):
    """Volumes in memory, a random view at each access."""

    def __init__(self, volumes, transform, as_dict):
        self.volumes, self.transform, self.as_dict = volumes, transform, as_dict

    def __len__(self):
        return len(self.volumes)

    def __getitem__(self, index):
        image = torch.from_numpy(self.volumes[index])
        if self.as_dict:
            return torch.as_tensor(self.transform({KEY: image})[KEY])
        return self.transform(image)


def per_sample_seconds(transform, volumes, as_dict, workers):
    """Return seconds per view through a loader with so many worker processes, or "threads" for MONAI's."""
    data = OneViewEach(volumes, transform, as_dict)
    batch = max(1, len(volumes) // 4)
    if workers == "threads":
        loader = ThreadDataLoader(data, batch_size=batch, num_workers=2, use_thread_workers=True)
    else:
        loader = DataLoader(data, batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
    for _ in loader:
        pass
    began = time.perf_counter()
    n = sum(len(images) for images in loader)
    return (time.perf_counter() - began) / n


class TwoViews(Dataset):
    """NIfTI files decoded at each access, two views of each."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = torch.from_numpy(np.asarray(nib.load(self.paths[index]).dataobj, np.float32))[None]
        return tuple(torch.as_tensor(self.transform({KEY: image.clone()})[KEY]) for _ in range(2))


def plain_epoch(paths, is_target, views, shape, batch_size, network, workers, device="cpu"):
    """Return seconds and images of an epoch as research code has it: decode, augment on the CPU, four encoder calls."""
    data = TwoViews(paths, monai_views(views, shape))
    batches = draw_batches(is_target, batch_size, seed=0, epoch=0)
    loader = DataLoader(data, batch_sampler=batches, num_workers=workers)
    network = network.to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    loss = SepCLRLoss()
    began = time.perf_counter()
    for (view_1, view_2), rows in zip(loader, batches, strict=True):
        view_1, view_2 = view_1.to(device), view_2.to(device)
        heads = [
            torch.nn.functional.normalize(network.common_head(network.common_encoder(view_1)), dim=1),
            torch.nn.functional.normalize(network.common_head(network.common_encoder(view_2)), dim=1),
            network.salient_head(network.salient_encoder(view_1)),
            network.salient_head(network.salient_encoder(view_2)),
        ]
        _learn(loss(*heads, torch.from_numpy(is_target[rows]).to(device)), network, optimiser)
    return time.perf_counter() - began, sum(map(len, batches))


def monai_cache_epoch(paths, is_target, views, shape, batch_size, network, device="cpu"):
    """Return a function that trains one epoch of our network on MONAI's cached data and threads, and gives the same."""
    files = [{"one": str(path), "two": str(path)} for path in paths]
    keys = ("one", "two")
    load = [LoadImaged(keys), EnsureChannelFirstd(keys), EnsureTyped(keys, track_meta=False)]
    # One set of random parameters per key, as two views want.
    random = [part for key in keys for part in monai_views(views, shape, key).transforms]
    data = CacheDataset(files, Compose([*load, *random]), progress=False)
    network = channels_last(network).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    loss, epochs = SepCLRLoss(), itertools.count()

    def epoch():
        batches = draw_batches(is_target, batch_size, seed=0, epoch=next(epochs))
        loader = ThreadDataLoader(data, batch_sampler=batches, num_workers=0)
        began = time.perf_counter()
        for batch, rows in zip(loader, batches, strict=True):
            both = torch.cat([batch["one"], batch["two"]]).to(device)
            with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
                found = network(both)
            heads = (*found.common_head.chunk(2), *found.salient_head.chunk(2))
            _learn(loss(*heads, torch.from_numpy(is_target[rows])), network, optimiser)
        return time.perf_counter() - began, sum(map(len, batches))

    return epoch


def _learn(terms, network, optimiser):
    optimiser.zero_grad()
    terms.total.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return terms.total.item()


def nidl_epoch(paths, views, shape, batch_size, workers, backbone="resnet18"):
    """Return seconds and images of an epoch of nidl 0.0.2's SimCLR on the same volumes.

    One encoder instead of two; nidl needs torchvision, which does not load beside a torch without CUDA.
    """
    try:
        from nidl.estimators.ssl import SimCLR
        from nidl.volume import backbones
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(f"nidl was not run: {type(error).__name__}: {error}") from None
    encoder = getattr(backbones, backbone)(n_embedding=512) if backbone != "densenet121" else backbones.densenet121()
    model = SimCLR(encoder, proj_input_dim=512, max_epochs=1, logger=False, enable_checkpointing=False)
    data = TwoViews(paths, monai_views(views, shape))
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, drop_last=True)
    began = time.perf_counter()
    model.fit(loader)
    return time.perf_counter() - began, len(loader) * batch_size
