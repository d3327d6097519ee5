"""(a) The real `fit` against a step fed one constant batch, and how near a GPU comes to its own peak."""

import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from lightning_fabric import Fabric
from timing import measure, measure_together, spread
from torch.utils.flop_counter import FlopCounterMode

from sepclr_med import fit, load_config
from sepclr_med.losses import SepCLRLoss
from sepclr_med.networks import SepCLRNetwork, channels_last
from sepclr_med.settings import ViewsConfig
from sepclr_med.step import backward_batch, divide_batch, split_heads
from sepclr_med.volumes.views import apply_views, draw_parameters

COMMON_DIM = 32


class ConstantStep:
    """A whole training step on one resident batch: views, both encoders, loss, backward pass, optimiser."""

    def __init__(self, shape, batch, device="cpu", backbone="small", views=None, compile_mode="none", **network):
        precision = "bf16-mixed" if device == "cuda" else "32-true"
        self.fabric = Fabric(accelerator=device, devices=1, precision=precision)
        model = channels_last(SepCLRNetwork(backbone, COMMON_DIM, 32, **network)).to(self.fabric.device)
        optimiser = torch.optim.AdamW(model.parameters(), fused=True)
        if compile_mode != "none":
            model = torch.compile(model, mode=compile_mode)
        self.network, self.optimiser = self.fabric.setup(model, optimiser)
        self.views = views or ViewsConfig()
        self.images = torch.randn(batch, 1, *shape, device=self.fabric.device)
        self.is_target, self.loss = torch.arange(batch) >= batch // 2, SepCLRLoss()
        self.generator = torch.Generator(self.fabric.device).manual_seed(0)
        self.ready = self.draw()

    def draw(self):
        parameters = draw_parameters(2 * len(self.images), tuple(self.images.shape[1:]), self.views, self.generator)
        return apply_views(torch.cat([self.images, self.images]), parameters)

    def objective(self, heads):
        return self.loss(*split_heads(heads, COMMON_DIM), self.is_target)

    def take(self, with_views=True):
        def render(part):
            return self.draw() if with_views else self.ready

        n = len(self.images)
        backward_batch(self.fabric, self.network, self.objective, render, n, divide_batch(n))
        self.fabric.clip_gradients(self.network, self.optimiser, max_norm=1.0, error_if_nonfinite=False)
        self.optimiser.step()
        self.optimiser.zero_grad()


def step_bound(manifest, settings, shape, device, repeats):
    """Epochs of `fit` against as many steps on one constant batch, with and without drawing views."""
    config = load_config(overrides=[*settings, f"training.epochs={repeats + 1}"])
    network = config.network
    extra = {"width": network.width, "norm": network.norm}
    step = ConstantStep(shape, config.training.batch_size, device, network.backbone, config.views, **extra)
    with tempfile.TemporaryDirectory() as folder:
        fit(manifest, config, Path(folder) / "run")
        history = pd.read_csv(Path(folder) / "run" / "history.tsv", sep="\t", na_values="n/a")
    # The first epoch pays for what is done once.
    real = history[1:]
    n_images = round(float((real["seconds"] * real["images_per_second"]).iloc[0]))
    n_steps = n_images // config.training.batch_size
    compiled = ConstantStep(
        shape, config.training.batch_size, device, network.backbone, config.views, "default", **extra
    )
    began = time.perf_counter()
    compiled.take()
    seconds_to_compile = time.perf_counter() - began
    bound = measure_together(
        {
            "one constant batch, views drawn": lambda: [step.take() for _ in range(n_steps)],
            "one constant batch, no views": lambda: [step.take(with_views=False) for _ in range(n_steps)],
            "one constant batch, views drawn, compiled": lambda: [compiled.take() for _ in range(n_steps)],
            "views alone": lambda: [step.draw() for _ in range(n_steps)],
        },
        repeats,
        device,
    )
    found = {"seconds per epoch": {"fit": spread(list(real["seconds"])), **bound}, "steps per epoch": n_steps}
    found["seconds to compile"] = seconds_to_compile
    medians = {name: times["median"] for name, times in found["seconds per epoch"].items()}
    found["fit / bound with views"] = medians["one constant batch, views drawn"] / medians["fit"]
    found["fit / bound without views"] = medians["one constant batch, no views"] / medians["fit"]
    found["share of views in a step"] = medians["views alone"] / medians["one constant batch, views drawn"]
    return found


def gpu_share(size, batch, repeats, backbones=("resnet18", "densenet121"), device="cuda"):
    """Images per second and the share of the measured bfloat16 peak, by backbone and compilation."""
    peak = matmul_flops(device, repeats)
    found = {"bf16 peak of matrix products, TFLOP/s": peak / 1e12, "voxels": size, "batch": batch}
    for backbone in backbones:
        for mode in ("none", "default", "reduce-overhead"):
            step = ConstantStep((size,) * 3, batch, device, backbone, compile_mode=mode)
            seconds = measure(step.take, repeats, device)
            if mode == "none":
                with FlopCounterMode(display=False) as counter:
                    step.take()
                flops = counter.get_total_flops()
            rate = batch / seconds["median"]
            share = flops / seconds["median"] / peak
            found[f"{backbone}, compile {mode}"] = {"seconds": seconds, "images/s": rate, "share of peak": share}
            del step
    return found


def matmul_flops(device, repeats, n=8192):
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    return 2 * n**3 / measure(lambda: a @ a, repeats, device)["median"]
