"""Chains of MONAI transforms given as Python objects, and views made by any chain of MONAI's random ones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Randomizable, Transform
from monai.transforms.traits import RandomizableTrait
from torch import Generator, Tensor

from sepclr_med.errors import ConfigError, Problem
from sepclr_med.own_code import find_own
from sepclr_med.settings import OwnCode, ViewsConfig
from sepclr_med.volumes.custom import allowed_views, build_transforms

ALLOWED = "a MONAI Compose, a list of dictionary transforms, or a function without arguments that returns one"


def list_steps(part: Any, what: str, random: bool) -> list[Any]:
    """Return the transforms of a chain in order.

    Parameters
    ----------
    part : Compose, transform, sequence of transforms, or function without arguments
    what : str
        What the chain is for, for messages.
    random : bool
        Whether transforms may draw random numbers: preprocessing is done once.

    Raises
    ------
    ConfigError
        For anything else.
    """
    if isinstance(part, Compose) and type(part) is Compose:
        steps = [step for inner in part.transforms for step in list_steps(inner, what, random)]
    elif isinstance(part, list | tuple):
        steps = [step for inner in part for step in list_steps(inner, what, random)]
    elif isinstance(part, Transform):
        # Random transforms keep what they drew: the object that was given stays what it was.
        steps = [deepcopy(part)]
    elif inspect.isfunction(part) and not inspect.signature(part).parameters:
        steps = list_steps(part(), what, random)
    else:
        raise ConfigError(f"{what}: not a chain", [Problem("not transforms", got=repr(part)[:80], allowed=ALLOWED)])
    drawing = [type(step).__name__ for step in steps if isinstance(step, Randomizable | RandomizableTrait)]
    if drawing and not random:
        fix = "give random transforms to views; preprocessing is done once for each image"
        raise ConfigError(f"{what}: draws random numbers", [Problem(", ".join(drawing), fix=fix)])
    return steps


@dataclass(frozen=True)
class ChainParameters:
    """What views of n volumes are made with by a chain: a seed for each.

    Parameters
    ----------
    chain : Compose
        From ``{"image": Tensor (C, X, Y, Z)}`` to the same.
    seeds : Tensor (n,), int64
    """

    chain: Compose
    seeds: Tensor

    def take(self, rows: slice, n_views: int = 2) -> ChainParameters:
        """Return the parameters of some images, where the n are ``n_views`` of every image, first views first."""
        return replace(self, seeds=self.seeds.unflatten(0, (n_views, -1))[:, rows].flatten(0, 1))

    def apply(self, volumes: Tensor) -> Tensor:
        """Return a view of every volume.

        Raises
        ------
        ConfigError
            When the chain changes the shape of a volume, or gives something else.
        """
        return torch.stack([self._view(volume, int(seed)) for volume, seed in zip(volumes, self.seeds, strict=True)])

    def _view(self, volume: Tensor, seed: int) -> Tensor:
        self.chain.set_random_state(seed)
        data = self.chain({"image": volume.clone()})
        seen = data.get("image") if isinstance(data, Mapping) else None
        if not isinstance(seen, Tensor | np.ndarray) or tuple(seen.shape) != tuple(volume.shape):
            shape = "no image" if seen is None else " x ".join(map(str, getattr(seen, "shape", ())))
            allowed, fix = " x ".join(map(str, volume.shape)), "end the chain with Resized or ResizeWithPadOrCropd"
            raise ConfigError(
                "views: the chain changes the shape of a volume", [Problem(shape, allowed=allowed, fix=fix)]
            )
        return torch.as_tensor(seen).as_subclass(Tensor).to(volume)


def draw_seeds(n: int, views: ViewsConfig, generator: Generator) -> ChainParameters:
    """Draw a seed for each of ``n`` views by the chain of a configuration."""
    seeds = torch.randint(2**31, (n,), generator=generator, device=generator.device).cpu()
    return ChainParameters(_build_chain(views.model_dump_json()), seeds)


@lru_cache(maxsize=4)
def _build_chain(views: str) -> Compose:
    return Compose(view_steps(ViewsConfig.model_validate_json(views).chain))


def view_steps(chain: Sequence[Mapping[str, Any]] | OwnCode | None) -> list[Any]:
    """Return the transforms that make a view.

    Raises
    ------
    ConfigError
        When they cannot be used.
    """
    if isinstance(chain, OwnCode):
        return list_steps(find_own(chain, "views"), "views", random=True)
    return build_transforms(chain or (), "views.transforms", allowed_views())
