"""What two measures of dependence say of spaces that are independent, by the number of rows. No training.

    python pipelines/ablation/dependence.py

Mean and standard deviation over 200 draws (seeds 0 to 199) of the normalised HSIC of a common space, normal and brought
to the sphere, and a salient one whose first axis has most of the variance; 32 dimensions each: plain, as the separation
card has it, and bias-corrected, as the objective has it.
"""

from __future__ import annotations

import numpy as np
import torch

from sepclr_med.analysis.dependence import normalised_hsic
from sepclr_med.losses.independence import hsic

SIZE = 32
SIZES = (8, 16, 32, 64, 128)


def main() -> None:
    print("rows    plain           corrected")
    for n in SIZES:
        found = np.array([_both(n, seed) for seed in range(200)])
        (plain, corrected), (of_plain, of_corrected) = found.mean(axis=0), found.std(axis=0)
        print(f"{n:4d}    {plain:.2f} (sd {of_plain:.2f})   {corrected:5.2f} (sd {of_corrected:.2f})")


def _both(n: int, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    common = torch.nn.functional.normalize(torch.randn(n, SIZE, generator=generator), dim=1)
    salient = torch.randn(n, SIZE, generator=generator) * torch.tensor([3.0] + [0.3] * (SIZE - 1))
    return normalised_hsic(common.numpy().astype(float), salient.numpy().astype(float)), float(hsic(common, salient))


if __name__ == "__main__":
    main()
