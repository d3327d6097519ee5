"""Checkpoints: what training needs to go on, and embedding to begin.

A checkpoint is one safetensors file: weights, optimiser moments and the fitted standardisation as tensors, everything
else (epoch, history, configuration, manifest hash) as JSON in its header. One file makes the write atomic; nothing is
pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sepclr_med.atomic import atomic_path
from sepclr_med.errors import RunError, UserError, describe_lost_resource
from sepclr_med.rundir import require_keys, write_json
from sepclr_med.volumes.standardisation import Standardisation

logger = logging.getLogger(__name__)

REMEDIES = {
    "last": "run the same `sepclr-med fit` command again: it goes on from the checkpoint before",
    "best": "restore it from a copy, take --checkpoint last, or start over with --overwrite",
    "previous": "restore last.safetensors or this file from a copy, or start over with --overwrite",
    "site_effects": "onboard the site again with `sepclr-med embed RUN_DIR MANIFEST -o OUT --onboard-site`",
}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON state into one file, atomically, and a readable copy of the state beside it.

    Parameters
    ----------
    path : Path
        Ends in ``.safetensors``.
    tensors : mapping of str to Tensor
    state : mapping
        JSON-ready.

    Raises
    ------
    RunError
        When the folder cannot be written or the disk is full; the previous checkpoint stays.
    """
    arrays = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    said = json.dumps(state)
    with atomic_path(path) as temporary:
        try:
            save_file(arrays, temporary, metadata={"state": said, "crc32": _checksum(arrays, said)})
        except SafetensorError as error:
            why = " ".join(str(error).split())
            number = re.search(r"os error (\d+)", why)
            raise OSError(int(number[1]) if number else None, why) from None
    write_json(path.with_suffix(".json"), state)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Raises
    ------
    RunError
        When the file is absent, truncated, changed since, or not a checkpoint.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such checkpoint; train first with `sepclr-med fit MANIFEST RUN_DIR`")
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        state = json.loads(metadata["state"])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, OSError) as error:
        raise unfit_checkpoint(path, error) from None
    # Checkpoints of earlier versions have none.
    if metadata.get("crc32", own := _checksum(tensors, metadata["state"])) != own:
        raise unfit_checkpoint(path, "its checksum is wrong: it was damaged or changed")
    require_keys(state, {}, path)
    return tensors, state


def unfit_checkpoint(path: Path, reason: BaseException | str) -> RunError:
    """Return the error of a file that is no checkpoint, or one of something else."""
    said = " ".join(str(reason).split())[:300]
    fix = REMEDIES.get(path.stem, "delete it and run the same `sepclr-med fit` command again")
    return RunError(f"{path}: not a readable checkpoint ({said}); {fix}")


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what a checkpoint lacks, or holds in another shape, into a :class:`RunError` while it is put to use.

    Raises
    ------
    RunError
        Naming the file.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        if isinstance(error, UserError) or describe_lost_resource(error):
            raise
        raise unfit_checkpoint(path, f"it is of another model: {error}") from error


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, prefix: str = "network.") -> None:
    """Put the weights of a checkpoint into a network.

    Raises
    ------
    RunError
        When they are not this network's.
    """
    with fitting(path):
        network.load_state_dict(network_weights(tensors, prefix))


def keep_as(path: Path, other: Path) -> None:
    """Keep a checkpoint under a second name too, so that the first may be replaced.

    Raises
    ------
    RunError
        When the folder cannot be written or the disk is full.
    """
    if not path.is_file():
        return
    with atomic_path(other) as temporary:
        temporary.unlink()
        try:
            # A link costs no space until `path` is replaced; not every file system has them.
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def mend_latest(path: Path, previous: Path) -> None:
    """Put the checkpoint before it in the place of a damaged one, and say so.

    Raises
    ------
    RunError
        When there is none before it, or it is damaged too.
    """
    if not path.is_file():
        return
    try:
        load_checkpoint(path)
    except RunError as error:
        if not previous.is_file():
            raise RunError(f"{error}; here there is none before: start over with --overwrite") from None
        _, state = load_checkpoint(previous)
        keep_as(previous, path)
        logger.warning("%s (done: the checkpoint after epoch %d takes its place)", error, state["epoch"])


def _checksum(tensors: Mapping[str, Tensor], said: str) -> str:
    checksum = zlib.crc32(said.encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(name.encode(), checksum)
        # Bytes, because numpy does not know every type of torch.
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"


def weights_id(weights: Mapping[str, Tensor]) -> str:
    """Return a short name of a set of weights: the first 12 hex digits of their SHA-256.

    Examples
    --------
    >>> weights_id({"a": torch.zeros(2)}) == weights_id({"a": torch.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's moments as named tensors."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{index}.{name}": torch.as_tensor(value)
        for index, moments in state.items()
        for name, value in moments.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the moments of :func:`optimiser_tensors` back."""
    whole = optimiser.state_dict()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            like = parameters[int(index)]
            # Fused optimisers walk through memory: moments must lie there as their parameters do, channels last or not.
            value = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**whole, "state": state})


def network_weights(tensors: Mapping[str, Tensor], prefix: str = "network.") -> dict[str, Tensor]:
    """Return the network's part of a checkpoint, or another one."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def saved_standardisation(tensors: Mapping[str, Tensor]) -> Standardisation | None:
    """Return the standardisation of a checkpoint, or None when it was trained without."""
    if "standardise.mean" not in tensors:
        return None
    return Standardisation(tensors["standardise.mean"], tensors["standardise.inverse_std"])
