"""Group-balanced batches: every batch has background and target rows, and no image twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def draw_batches(is_target: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Draw one epoch of batches, half background and half target.

    The larger group is seen once per epoch (its last batch is filled from a new shuffle); the smaller one is recycled,
    reshuffled at each pass. A group smaller than its half of the batch enters whole.

    Parameters
    ----------
    is_target : bool array of shape (N,)
        Group of each training row.
    batch_size : int
        Rows per batch.
    seed, epoch : int
        The draw depends on these two numbers only, so that a resumed run sees the same batches.

    Returns
    -------
    list of int arrays
        Row numbers; background rows first in each batch.

    Raises
    ------
    ValueError
        When a group has fewer than two rows or the batch size is below 4.

    Examples
    --------
    >>> is_target = np.array([False] * 3 + [True] * 6)
    >>> [batch.size for batch in draw_batches(is_target, batch_size=4, seed=0, epoch=0)]
    [4, 4, 4]
    """
    is_target = np.asarray(is_target, dtype=bool)
    groups = [np.flatnonzero(~is_target), np.flatnonzero(is_target)]
    if batch_size < 4 or min(group.size for group in groups) < 2:
        raise ValueError(
            f"cannot draw batches of {batch_size} from {groups[0].size} background and {groups[1].size} target rows: "
            "each group needs at least 2 rows, the batch at least 4"
        )
    halves = [min(batch_size // 2, groups[0].size), min(batch_size - batch_size // 2, groups[1].size)]
    n_batches = max(-(-group.size // half) for group, half in zip(groups, halves, strict=True))
    rng = np.random.default_rng([seed, epoch])
    streams = [_endless(group, half, rng) for group, half in zip(groups, halves, strict=True)]
    return [np.concatenate([next(stream) for stream in streams]) for _ in range(n_batches)]


def _endless(group: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    waiting = rng.permutation(group)
    while True:
        if waiting.size < size:
            fresh = rng.permutation(group)
            # Rows still waiting go to the back of the new shuffle, so that no batch holds an image twice.
            again = np.isin(fresh, waiting)
            waiting = np.concatenate([waiting, fresh[~again], fresh[again]])
        yield waiting[:size]
        waiting = waiting[size:]
