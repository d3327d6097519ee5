"""(d) Memory against batch size, (e) time and memory against the size of a cohort, (f) the pairwise losses."""

import json
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from timing import measure, peak_memory, run_and_watch, spread

from sepclr_med import write_manifest
from sepclr_med.losses import SepCLRLoss
from sepclr_med.networks import SepCLRNetwork, channels_last
from sepclr_med.settings import ViewsConfig
from sepclr_med.step import backward_batch, divide_batch, split_heads
from sepclr_med.volumes.views import apply_views, draw_parameters


def gradient_of(shape, batch, micro_batch, device="cpu", keep=True):
    """Return the gradient of one step with group norm, as a float32 array, and the step's seconds."""
    torch.manual_seed(0)
    fabric = Fabric(accelerator=device, devices=1)
    network = fabric.setup(channels_last(SepCLRNetwork("small", norm="group")))
    # As in training, volumes are read part by part: only float16 copies of the whole batch exist.
    images = torch.randn(batch, 1, *shape, dtype=torch.float16)
    generator = torch.Generator(fabric.device).manual_seed(0)
    parameters = draw_parameters(2 * batch, (1, *shape), ViewsConfig(), generator)
    loss, is_target = SepCLRLoss(), torch.arange(batch) >= batch // 2

    def render(part):
        volumes = images[part].to(fabric.device).float()
        return apply_views(torch.cat([volumes, volumes]), parameters.take(part))

    def objective(heads):
        return loss(*split_heads(heads, 32), is_target)

    began = time.perf_counter()
    backward_batch(fabric, network, objective, render, batch, divide_batch(batch, 1, micro_batch))
    seconds = time.perf_counter() - began
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()]).cpu().numpy() if keep else None
    return gradient, seconds


def memory_of_batches(shape, plans, repeats, device, compared):
    """Peak bytes by (batch, micro-batch), and how far the divided gradient is from that of the full batch."""
    found = {}
    for batch, micro_batch in plans:
        runs = [peak_memory(gradient_of, shape, batch, micro_batch, device, False) for _ in range(repeats)]
        name = f"batch {batch}, " + (f"micro-batch {micro_batch}" if micro_batch else "whole")
        found[name] = {"bytes": spread([peak for peak, _ in runs]), "seconds": spread([s for _, (_, s) in runs])}
    batch, micro_batch = compared
    _, (whole, _) = peak_memory(gradient_of, shape, batch, None, device)
    _, (divided, _) = peak_memory(gradient_of, shape, batch, micro_batch, device)
    found["gradient"] = {
        "batch": batch,
        "micro-batch": micro_batch,
        "relative difference": float(np.linalg.norm(divided - whole) / np.linalg.norm(whole)),
    }
    return found


def random_cohort(folder, n, spacing=6.0):
    """Write n random maps and their manifest; half are patients, 2 of each group test."""
    rng = np.random.default_rng(0)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -96, -130, -80
    rows = []
    for index in range(n + 4):
        path = Path(folder) / f"sub-{index:05d}_probseg.nii.gz"
        nib.save(nib.Nifti1Image(rng.random((32, 40, 32), np.float32), affine), path)
        diagnosis = "patient" if index % 2 else "control"
        rows.append((f"sub-{index:05d}", str(path), diagnosis, "train" if index < n else "test"))
    table = pd.DataFrame(rows, columns=["participant_id", "image_path", "diagnosis", "split"])
    return write_manifest(table, Path(folder) / "manifest.tsv")


def scale_of_cohorts(sizes, epochs):
    """Seconds per volume and peak resident memory of `sepclr-med fit`, by number of volumes."""
    found = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            manifest, run = random_cohort(folder, n), Path(folder) / "runs" / "run"
            settings = {"volumes.spacing": 6, "network.backbone": "small", "network.width": 2}
            settings |= {"training.epochs": epochs + 1, "training.batch_size": 50}
            words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
            peak = run_and_watch([sys.executable, "-m", "sepclr_med", "fit", str(manifest), str(run), *words])
            history = pd.read_csv(run / "history.tsv", sep="\t", na_values="n/a")[1:]
            seconds = list(1 / history["images_per_second"])
            facts = json.loads((run / "provenance.json").read_text())["steps"][-1]
        found[f"{n} volumes"] = {
            "seconds per volume": spread(seconds),
            "peak bytes, preprocessing and baseline included": peak,
            "resident on a GPU": facts["resident"],
        }
    return found


def naive_total(c_1, c_2, s_1, s_2, is_target, tau=0.5, weights=(1.0, 10.0, 10.0)):
    """Return the objective as research code writes it: full matrices of distances."""

    def kernel(u):
        return torch.exp(-torch.cdist(u, u).square() / (2 * tau))

    def uniformity(u):
        n = len(u)
        return ((kernel(u).sum() - n) / (n * (n - 1))).log()

    t_1, t_2 = (torch.where(is_target[:, None], s, 0.0) for s in (s_1, s_2))
    w_salient, w_null, w_joint = weights
    common = (c_1 - c_2).square().sum(1).mean() / (2 * tau) + uniformity(c_1) + uniformity(c_2)
    salient = (s_1 - s_2)[is_target].square().sum(1).mean() / (2 * tau) + uniformity(t_1) + uniformity(t_2)
    null = sum(s[~is_target].square().sum(1).mean() for s in (s_1, s_2)) / (4 * tau)
    joint = sum((kernel(c) * kernel(t)).mean(1).log().mean() for c, t in ((c_1, t_1), (c_2, t_2))) / 2
    return common + w_salient * salient + w_null * null + w_joint * joint


def loss_pass(n, naive, repeats, device):
    """Return seconds of forward and backward passes over n rows."""
    torch.manual_seed(0)
    heads = [torch.nn.functional.normalize(torch.randn(n, 32, device=device)).requires_grad_() for _ in range(2)]
    heads += [torch.randn(n, 32, device=device).mul_(0.3).requires_grad_() for _ in range(2)]
    is_target, loss = (torch.arange(n) >= n // 2).to(device), SepCLRLoss()

    def work():
        total = naive_total(*heads, is_target) if naive else loss(*heads, is_target).total
        total.backward()
        return float(total.detach())

    return measure(work, repeats, device), work()


def losses_by_batch(sizes, repeats, device):
    """Time and memory of the losses against the naive version."""
    found = {}
    for n in sizes:
        row = {}
        for name, naive in (("ours", False), ("naive", True)):
            peak, (seconds, value) = peak_memory(loss_pass, n, naive, repeats, device)
            row[name] = {"seconds": seconds, "peak bytes": peak, "value": value}
        found[f"batch {n}"] = row
    return found
