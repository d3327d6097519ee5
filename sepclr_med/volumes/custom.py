"""MONAI dictionary transforms named in a recipe: which are allowed, and how they are built.

A recipe is data. It may name MONAI's own deterministic transforms and give them plain values; it may not run code,
draw random numbers, write files or reach into other libraries.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import monai.transforms
import numpy as np
from monai.transforms import LoadImaged, MapTransform, Randomizable
from monai.transforms.traits import MultiSampleTrait, RandomizableTrait, ReduceTrait

from sepclr_med.errors import ConfigError, Problem, did_you_mean

DENIED = {
    "Lambdad": "runs code",
    "TorchVisiond": "runs a function of another library by name",
    "TorchIOd": "runs a function of another library by name",
    "CuCIMd": "runs a function of another library by name",
    "SaveImaged": "writes files",
    "SaveClassificationd": "writes files",
    "WriteFileMappingd": "writes files",
    "Invertd": "needs another transform object",
    "Ensembled": "combines predictions, not images",
    "MeanEnsembled": "combines predictions, not images",
    "VoteEnsembled": "combines predictions, not images",
    "DataStatsd": "prints, and takes functions",
    "IntensityStatsd": "takes functions, and changes no image",
    "SimulateDelayd": "only waits",
    "ToCupyd": "moves the image off the CPU",
    "ToDeviced": "moves the image off the CPU",
    "ToPILd": "leaves no array",
}
DENIED_AS_VIEWS = {
    "LoadImaged": "reads files",
    "RandLambdad": "runs code",
    "RandCuCIMd": "runs a function of another library by name",
    "RandTorchIOd": "runs a function of another library by name",
    "RandTorchVisiond": "runs a function of another library by name",
}
READERS = ("NibabelReader", "NumpyReader", "PILReader", "ITKReader", "NrrdReader")
LOADER_ARGUMENTS = ("keys", "reader", "dtype", "ensure_channel_first", "image_only", "allow_missing_keys")
DTYPES = ("bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")


@cache
def allowed_views() -> dict[str, type[MapTransform]]:
    """Return the transforms a view may be made with: MONAI's one-image-in, one-image-out dictionary ones.

    Examples
    --------
    >>> "RandFlipd" in allowed_views(), "Flipd" in allowed_views(), "RandLambdad" in allowed_views()
    (True, True, False)
    """
    return {name: found for name, found in _dictionary_transforms().items() if name not in DENIED_AS_VIEWS}


@cache
def allowed_transforms() -> dict[str, type[MapTransform]]:
    """Return the transforms a recipe may name: MONAI's deterministic one-image-in, one-image-out dictionary ones.

    Examples
    --------
    >>> "Orientationd" in allowed_transforms(), "RandFlipd" in allowed_transforms(), "Lambdad" in allowed_transforms()
    (True, False, False)
    """
    drawing = (Randomizable, RandomizableTrait)
    return {name: found for name, found in _dictionary_transforms().items() if not issubclass(found, drawing)}


def _dictionary_transforms() -> dict[str, type[MapTransform]]:
    return {
        name: found
        for name, found in sorted(vars(monai.transforms).items())
        if inspect.isclass(found)
        and found.__name__ == name
        and name.endswith("d")
        and found.__module__.startswith("monai.transforms.")
        and issubclass(found, MapTransform)
        and not issubclass(found, (MultiSampleTrait, ReduceTrait))
        and name not in DENIED
    }


def build_transforms(
    transforms: Sequence[Mapping[str, Any]],
    where: str = "volumes.transforms",
    known: Mapping[str, type[MapTransform]] | None = None,
) -> list[MapTransform]:
    """Build the transforms of a recipe in order.

    Parameters
    ----------
    transforms : sequence of mapping
        Each ``{"name": ..., argument: value}``; ``keys`` defaults to ``image``, a ``dtype`` is a name such as
        ``float32``.
    where : str, default="volumes.transforms"
        For messages.
    known : mapping of str to type or None, default=None
        Transforms that may be named; none means :func:`allowed_transforms`.

    Returns
    -------
    list of MapTransform

    Raises
    ------
    ConfigError
        With every unknown name (and the nearest known one), refused argument and value a transform does not take.

    Examples
    --------
    >>> [type(t).__name__ for t in build_transforms([{"name": "Orientationd", "axcodes": "RAS"}])]
    ['Orientationd']
    """
    built, problems = [], []
    known = allowed_transforms() if known is None else known
    for position, entry in enumerate(transforms, start=1):
        try:
            built.append(_build(entry, known, first=position == 1))
        except _BadEntryError as error:
            place = f"{where}, number {position}"
            problems.append(Problem(f"{place}: {error.message}", got=error.got, allowed=error.allowed, fix=error.fix))
    if problems:
        raise ConfigError(f"{where}: {len(problems)} of {len(transforms)} cannot be used", problems)
    return built


class _BadEntryError(Exception):
    def __init__(self, message: str, got: str = "", allowed: str = "", fix: str = ""):
        super().__init__(message)
        self.message, self.got, self.allowed, self.fix = message, got, allowed, fix


def _build(entry: Mapping[str, Any], known: Mapping[str, type[MapTransform]], first: bool) -> MapTransform:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise _BadEntryError("has no name", got=str(entry)[:80], allowed="{name: Orientationd, axcodes: RAS}")
    name = entry["name"]
    found = _find(name, known)
    arguments = {"keys": "image"} | {key: value for key, value in entry.items() if key != "name"}
    if found is LoadImaged:
        arguments = _loader_arguments(arguments, first)
    arguments = {key: _dtype(value) if key == "dtype" else value for key, value in arguments.items()}
    signature = inspect.signature(found)
    shown = f"{name}{str(signature).removesuffix(' -> None')}"
    try:
        signature.bind(**arguments)
        with warnings.catch_warnings():
            # MONAI tells programmers which of its defaults will change; nobody who writes a recipe can act on it.
            warnings.simplefilter("ignore", FutureWarning)
            return found(**arguments)
    except Exception as error:
        unknown = [key for key in arguments if key not in signature.parameters]
        hint = did_you_mean(unknown[0], signature.parameters) if unknown else ""
        raise _BadEntryError(f"{name}: {_one_line(error)}", got=_shown(entry), allowed=shown, fix=hint) from None


def _find(name: str, known: Mapping[str, type[MapTransform]]) -> type[MapTransform]:
    if name in known:
        return known[name]
    denied = DENIED | DENIED_AS_VIEWS
    if name in denied:
        raise _BadEntryError(f"{name} is refused: it {denied[name]}", fix="use another transform of monai.transforms")
    if isinstance(getattr(monai.transforms, name, None), type) and name.endswith("d"):
        raise _BadEntryError(
            f"{name} is refused: preprocessing is done once, so it is deterministic and gives one image per image",
            fix="random views have their own section, views",
        )
    raise _BadEntryError(
        f"unknown transform {name}",
        allowed="deterministic dictionary transforms of monai.transforms, such as Orientationd, Spacingd, Resized",
        fix=did_you_mean(name, known),
    )


def _loader_arguments(arguments: dict[str, Any], first: bool) -> dict[str, Any]:
    if not first:
        raise _BadEntryError("LoadImaged can only come first", fix="move it to the start, or leave it out")
    for key in arguments:
        if key not in LOADER_ARGUMENTS:
            raise _BadEntryError(f"LoadImaged: {key} is refused", got=key, allowed=", ".join(LOADER_ARGUMENTS))
    # MONAI would import any dotted path given as reader.
    reader = arguments.get("reader")
    if reader is not None and reader not in READERS:
        raise _BadEntryError("LoadImaged: unknown reader", got=str(reader), allowed=", ".join(READERS))
    return arguments | {"ensure_channel_first": True, "image_only": True}


def _dtype(value: Any) -> Any:
    if value is None:
        return None
    if value not in DTYPES:
        raise _BadEntryError("unknown dtype", got=str(value), allowed=", ".join(DTYPES))
    return np.dtype(value)


def _shown(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in entry.items() if key != "name")[:120]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
