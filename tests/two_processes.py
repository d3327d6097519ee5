"""The gradient of one batch in float64, for one process or several: run by test_processes.py."""

import sys

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file

from sepclr_med.cohort.labels import Labels
from sepclr_med.config import load_config
from sepclr_med.methods.sepclr import build_loss
from sepclr_med.networks import SepCLRNetwork
from sepclr_med.settings import ViewsConfig
from sepclr_med.step import backward_batch, divide_batch
from sepclr_med.volumes.views import apply_views, draw_parameters

SHAPE = (1, 12, 14, 12)
# The default objective, with every term that looks at the rows of a batch together.
CONFIG = load_config(overrides=["method.common_dim=4", "method.salient_dim=3", "method.nuisances=[age]"])
LABELS = Labels(np.empty((0, 1), np.float32), {("nuisance", "age"): slice(0, 1)}, {})


def gradient_of(fabric, n, micro_batch):
    """Return the gradient, the terms and the heads of a batch of n."""
    torch.manual_seed(0)
    network = fabric.setup(SepCLRNetwork("small", 4, 3, width=4, norm="group").double())
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, *SHAPE, generator=generator)
    parameters = draw_parameters(2 * n, SHAPE, ViewsConfig(), generator)
    loss, is_target = build_loss(CONFIG, LABELS, SHAPE), torch.arange(n) >= n // 2
    age = torch.randn(n, 1, generator=generator).double()

    def render(part):
        return apply_views(torch.cat([images[part], images[part]]), parameters.take(part)).double()

    terms, heads = backward_batch(
        fabric,
        network,
        lambda heads: loss(list(heads.chunk(2, dim=1)), is_target, age),
        render,
        n,
        divide_batch(n, fabric.world_size, micro_batch),
    )
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    return {"gradient": gradient, "terms": torch.stack(list(terms)), "heads": heads}


def main():
    fabric = Fabric(accelerator="cpu", devices=int(sys.argv[1]), strategy="ddp", precision="64-true")
    fabric.launch()
    sizes = [(n, micro) for n in (6, 7, 9) for micro in (None, 2)]
    found = {f"{n} {micro} {name}": t for n, micro in sizes for name, t in gradient_of(fabric, n, micro).items()}
    if fabric.is_global_zero:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, sys.argv[2])


if __name__ == "__main__":
    main()
