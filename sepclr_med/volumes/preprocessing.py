"""From an image file to an array of fixed shape: two presets, or a list of MONAI transforms from the recipe.

Everything here is deterministic and is done once per image; :mod:`sepclr_med.volumes.cache` keeps the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    SelectItemsd,
)

from sepclr_med.errors import ConfigError, Problem
from sepclr_med.own_code import find_own
from sepclr_med.settings import OwnCode
from sepclr_med.volumes.chains import list_steps
from sepclr_med.volumes.custom import build_transforms
from sepclr_med.volumes.grids import head_size, template_grid
from sepclr_med.volumes.loading import CheckVolumed, LoadVolumed, UnusableImageError
from sepclr_med.volumes.steps import (
    AntiAliasd,
    Foregroundd,
    ResampleToGridd,
    ResampleToHeadd,
    ScaleForegroundd,
    constant_image,
)

PRESETS = ("vbm", "t1w")
# Raised whenever a preset or a step of ours gives other voxels than before, so that caches made before are not used.
REVISION = 1

Chain = Sequence[Mapping[str, Any]] | OwnCode

FLOAT16_LARGEST = float(np.finfo(np.float16).max)


def build_preprocessing(
    preset: str,
    spacing: float,
    spatial_size: Sequence[int] | None = None,
    transforms: Chain | None = None,
    spatial_dims: int = 3,
) -> Compose:
    """Build the deterministic transform from ``{"image": path}`` to ``{"image": MetaTensor (C, X, Y, Z)}``.

    Parameters
    ----------
    preset : {"vbm", "t1w"}
        ``vbm``: modulated grey-matter maps in MNI space. Blurred to the target voxel, interpolated once onto
        :func:`template_grid`; values are kept (mm3 of grey matter per mm3 of template, of the order of 1), so global
        atrophy stays in the image. ``t1w``: a raw or skull-stripped T1w image. Axes to RAS, foreground from
        ``mask`` or found, its 1st to 99th percentile scaled to 0..1 and everything else 0, blurred, interpolated once
        onto :func:`head_size` voxels around the foreground along the image's own axes.
    spacing : float
        Voxel size in mm.
    spatial_size : sequence of int or None, default=None
        Voxels per axis; none means the preset's box. With ``transforms``, the result is padded or cropped to it.
    transforms : sequence of mapping, OwnCode or None, default=None
        MONAI dictionary transforms that replace the preset (see :mod:`sepclr_med.volumes.custom`), or a chain given
        from Python. Loading and channel-first are added when it does not start with them.
    spatial_dims : {2, 3}, default=3
        Dimensions of an image; 2 needs ``transforms``.

    Returns
    -------
    monai.transforms.Compose
        ``mask`` beside ``image`` is a path too; it is used by ``t1w`` and by transforms that name it.

    Raises
    ------
    ConfigError
        Unknown preset, transform or argument; a preset asked of 2-D images; a size of the wrong length.

    Examples
    --------
    >>> steps = build_preprocessing("vbm", spacing=6.0).transforms
    >>> [type(step).__name__ for step in steps]
    ['LoadVolumed', 'CheckVolumed', 'AntiAliasd', 'ResampleToGridd']
    """
    _check_choice(preset, spatial_size, transforms, spatial_dims)
    if transforms is not None:
        return Compose(_custom(transforms, spatial_size, spatial_dims))
    return Compose(_vbm(spacing, spatial_size) if preset == "vbm" else _t1w(spacing, spatial_size))


def describe_preprocessing(
    preset: str,
    spacing: float,
    spatial_size: Sequence[int] | None = None,
    transforms: Chain | None = None,
    spatial_dims: int = 3,
) -> dict[str, Any]:
    """Return everything the voxels depend on besides the file, as plain JSON values.

    Two calls give equal dictionaries exactly when they give equal volumes: what a preset or a list does not use is
    left out, and MONAI's minor version and our own revision are in.

    Examples
    --------
    >>> describe_preprocessing("vbm", 6, None)["spatial_size"]
    [32, 40, 32]
    """
    made_with = {"monai": ".".join(monai.__version__.split(".")[:2]), "revision": REVISION}
    if transforms is not None:
        size = None if spatial_size is None else [int(n) for n in spatial_size]
        return {"transforms": _plain(transforms), "spatial_size": size, "spatial_dims": spatial_dims} | made_with
    size = template_grid(spacing, spatial_size)[1] if preset == "vbm" else head_size(spacing, spatial_size)
    return {"preset": preset, "spacing": float(spacing), "spatial_size": list(size)} | made_with


def parameters_hash(parameters: Mapping[str, Any]) -> str:
    """Return a short name for the parameters, the same on every machine."""
    canonical = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def uses_mask(preset: str, transforms: Chain | None = None) -> bool:
    """Return whether a ``mask_path`` of the manifest changes the result.

    Examples
    --------
    >>> uses_mask("t1w"), uses_mask("vbm"), uses_mask("vbm", [{"name": "MaskIntensityd", "mask_key": "mask"}])
    (True, False, True)
    """
    if transforms is None:
        return preset == "t1w"
    if isinstance(transforms, OwnCode):
        # What it reads is not known before it is run.
        return True
    return "mask" in _strings(_plain(transforms))


def output_affine(
    preset: str,
    spacing: float,
    spatial_size: Sequence[int] | None = None,
    transforms: Chain | None = None,
) -> np.ndarray | None:
    """Return the affine all volumes share, or None where each image keeps its own space."""
    return template_grid(spacing, spatial_size)[0] if transforms is None and preset == "vbm" else None


def preprocess(pipeline: Compose, image: str | Path, mask: str | Path | None = None) -> np.ndarray:
    """Preprocess one image into float16, or say what is wrong with it.

    Parameters
    ----------
    pipeline : Compose
        From :func:`build_preprocessing`.
    image, mask : path
        The image and, where there is one, its brain mask.

    Returns
    -------
    ndarray (C, X, Y, Z), float16
        Finite and not constant.

    Raises
    ------
    UnusableImageError
        Missing, unreadable, wrong dimensions, NaN, constant, or beyond float16.
    """
    data = {"image": str(image)} | ({} if mask is None else {"mask": str(mask)})
    try:
        volume = np.asarray(pipeline(data)["image"], dtype=np.float32)
    except Exception as error:
        raise UnusableImageError(_problem(error, mask)) from error
    return _to_float16(volume)


def _vbm(spacing: float, spatial_size: Sequence[int] | None) -> list[Any]:
    affine, size = template_grid(spacing, spatial_size)
    return [
        LoadVolumed("image"),
        CheckVolumed("image"),
        AntiAliasd("image", spacing),
        ResampleToGridd("image", affine, size),
    ]


def _t1w(spacing: float, spatial_size: Sequence[int] | None) -> list[Any]:
    both = ["image", "mask"]
    return [
        LoadVolumed(both, allow_missing_keys=True),
        CheckVolumed(both, allow_missing_keys=True),
        Orientationd(both, axcodes="RAS", labels=None, allow_missing_keys=True),
        Foregroundd("image"),
        # Nothing outside the mask is kept, so the later steps need not visit it.
        CropForegroundd(both, source_key="mask", margin=8, allow_smaller=True),
        # Before the blur, so that a background of any value counts as 0 in it.
        ScaleForegroundd("image"),
        AntiAliasd("image", spacing),
        ResampleToHeadd("image", spacing, head_size(spacing, spatial_size)),
        SelectItemsd("image"),
    ]


def _custom(transforms: Chain, spatial_size: Sequence[int] | None, spatial_dims: int) -> list[Any]:
    if isinstance(transforms, OwnCode):
        steps = list_steps(find_own(transforms, "volumes"), "volumes", random=False)
    else:
        steps = build_transforms(transforms)
    keys = ["image", "mask"] if uses_mask("", transforms) else ["image"]
    own_loader = bool(steps) and isinstance(steps[0], LoadImaged)
    loading = steps.pop(0) if own_loader else LoadVolumed(keys, allow_missing_keys=True)
    if steps and isinstance(steps[0], EnsureChannelFirstd):
        del steps[0]  # both ways of loading have done it
    ending = [] if spatial_size is None else [ResizeWithPadOrCropd("image", tuple(spatial_size))]
    return [loading, CheckVolumed(keys, spatial_dims, allow_missing_keys=True), *steps, *ending]


def _check_choice(
    preset: str,
    spatial_size: Sequence[int] | None,
    transforms: Chain | None,
    spatial_dims: int,
) -> None:
    problems = []
    if transforms is None and preset not in PRESETS:
        problems.append(Problem("volumes.preset is unknown", got=str(preset), allowed=", ".join(PRESETS)))
    if transforms is None and spatial_dims != 3:
        problems.append(
            Problem(
                "volumes.preset works on volumes, and the network takes 2-D images",
                fix="give volumes.transforms, e.g. [{name: ScaleIntensityd}, {name: Resized, spatial_size: [64, 64]}]",
            )
        )
    if spatial_size is not None and (len(spatial_size) != spatial_dims or any(int(n) < 1 for n in spatial_size)):
        problems.append(
            Problem(
                "volumes.spatial_size does not fit the image's dimensions",
                got=str(list(spatial_size)),
                allowed=f"{spatial_dims} positive whole numbers",
            )
        )
    if problems:
        raise ConfigError(f"volumes: {len(problems)} problem(s)", problems)


def _to_float16(volume: np.ndarray) -> np.ndarray:
    largest = float(np.abs(volume).max(initial=0))
    if not np.isfinite(largest):
        raise UnusableImageError(
            Problem("preprocessing gave NaN or infinite voxels", fix="check the transforms", code="not_finite")
        )
    if largest > FLOAT16_LARGEST:
        raise UnusableImageError(
            Problem(
                "preprocessed values are too large for float16",
                got=f"{largest:.6g}",
                allowed=f"up to {FLOAT16_LARGEST:g}",
                fix="scale the images, or use volumes.transforms with ScaleIntensityd or ScaleIntensityRanged",
                code="overflow",
            )
        )
    small = volume.astype(np.float16)
    if small.size == 0 or small.min() == small.max():
        raise UnusableImageError(constant_image(float(small.flat[0]) if small.size else 0.0))
    return small


def _problem(error: BaseException, mask: str | Path | None) -> Problem:
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, UnusableImageError):
        cause = cause.__cause__
    if isinstance(cause, UnusableImageError):
        return cause.problem
    said = " ".join(str(cause).split())[:200]
    if isinstance(cause, KeyError) and "mask" in said and mask is None:
        return Problem(
            "volumes.transforms use a mask, and this row has none",
            column="mask_path",
            fix="give its mask_path, or allow_missing_keys: true to the transforms that name mask",
            code="missing_mask",
        )
    return Problem(
        f"preprocessing failed ({type(cause).__name__}: {said})",
        fix="check volumes.transforms if every image fails, and the file if this one does",
        code="preprocessing_failed",
    )


def _plain(transforms: Chain) -> Any:
    if isinstance(transforms, OwnCode):
        # Its name is not what the voxels depend on.
        return transforms.sha256
    try:
        return json.loads(json.dumps([dict(entry) for entry in transforms]))
    except (TypeError, ValueError) as error:
        fix = "numbers, texts, lists and true or false only"
        raise ConfigError("volumes.transforms: not plain values", [Problem(str(error), fix=fix)]) from None


def _strings(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {text for part in parts for text in _strings(part)}
