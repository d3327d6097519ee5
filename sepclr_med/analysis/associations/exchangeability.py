"""Which rows may change places: random permutations within blocks, and of whole families."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

KEYS_AT_ONCE = 500_000
MOST_THREADS = 2


def draw_permutations(
    n_permutations: int, blocks: Any, families: Any, rng: np.random.Generator, n: int | None = None
) -> np.ndarray:
    """Draw random permutations of the rows under which nothing changes when the null hypothesis is true.

    Rows move within their block only. Where there are families, a family moves as a whole into the places of a family
    of the same size with the same composition of blocks, and the members of a family change places within family and
    block (Winkler et al. 2015, multi-level block permutation).

    Parameters
    ----------
    n_permutations : int
        How many, K.
    blocks, families : array-like of shape (n,) or None
        Labels of any kind, none missing; None for one block, or for every row its own family.
    rng : Generator
        Source of the draws.
    n : int or None, default=None
        Number of rows, needed when there are neither blocks nor families.

    Returns
    -------
    int32 array of shape (K, n)
        Each row a permutation of ``range(n)``: place i receives row ``permutations[k, i]``. Every permutation that is
        allowed is equally likely; the identity is not put in on purpose.

    Raises
    ------
    ValueError
        When a label is missing, lengths differ, or the number of rows is not known.

    Examples
    --------
    >>> blocks = np.array(["a", "b", "a", "b", "a"])
    >>> drawn = draw_permutations(1000, blocks, None, np.random.default_rng(0))
    >>> drawn.shape, bool((blocks[drawn] == blocks).all())
    ((1000, 5), True)
    """
    block, family, n = _codes(blocks, families, n)
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, got {n_permutations}")
    layout = None if family is None else _Layout(block, family)
    permutations = np.empty((n_permutations, n), dtype=np.int32)
    starts = range(0, n_permutations, max(1, KEYS_AT_ONCE // max(n, 1)))
    # A generator for each chunk, so that the draw does not depend on how many threads there are.
    seeds = rng.integers(0, 2**63, size=(len(starts), 4))

    def fill(start: int, seed: np.ndarray) -> None:
        own = np.random.default_rng(seed)
        rows = permutations[start : start + starts.step]
        rows[:] = _shuffle(block, len(rows), own) if layout is None else layout.shuffle(len(rows), own)

    if len(starts) == 1:
        fill(0, seeds[0])
        return permutations
    # Sorting lets go of the interpreter, so threads do it side by side.
    with ThreadPoolExecutor(min(MOST_THREADS, len(starts))) as pool:
        list(pool.map(fill, starts, seeds))
    return permutations


def count_permutations(blocks: Any, families: Any, n: int | None = None) -> int:
    """Count the distinct permutations that :func:`draw_permutations` draws from.

    A p-value cannot be smaller than about one over this number, however many permutations are drawn.

    Parameters
    ----------
    blocks, families, n
        As for :func:`draw_permutations`.

    Returns
    -------
    int
        The product of the factorials of the block sizes; with families, of the number of families of each kind and of
        the number of members of each family in each block.

    Examples
    --------
    >>> count_permutations(["a", "a", "a", "b", "b"], None)
    12
    >>> count_permutations(None, ["f", "f", "g", "g", "h"])
    8
    """
    block, family, n = _codes(blocks, families, n)
    if family is None:
        return _product_of_factorials(block)
    layout = _Layout(block, family)
    return _product_of_factorials(layout.kind) * _product_of_factorials(layout.cell)


class _Layout:
    """Families as rows of a table: ``member[f, p]`` is the row of family f at place p, places in order of blocks."""

    def __init__(self, block: np.ndarray, family: np.ndarray):
        n, n_families = len(family), int(family.max()) + 1
        order = np.lexsort((block, family))
        size = np.bincount(family, minlength=n_families)
        first = np.concatenate([[0], np.cumsum(size)[:-1]])
        self.family = family
        self.place = np.empty(n, dtype=np.intp)
        self.place[order] = np.arange(n) - np.repeat(first, size)
        self.member = np.zeros((n_families, size.max()), dtype=np.intp)
        self.member[family, self.place] = np.arange(n)
        composition = np.full(self.member.shape, -1)
        composition[family, self.place] = block
        self.kind = np.unique(composition, axis=0, return_inverse=True)[1].ravel()
        self.cell = np.unique(np.column_stack([family, block]), axis=0, return_inverse=True)[1].ravel()

    def shuffle(self, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
        families = _shuffle(self.kind, n_permutations, rng)
        whole = self.member[families[:, self.family], self.place]
        members = _shuffle(self.cell, n_permutations, rng)
        return np.take_along_axis(members, whole, axis=1)


def _shuffle(label: np.ndarray, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the rows of equal label: (K, n), all labels at once.

    Sorting numbers made of label, random bits and row (high to low) leaves the rows of a label together in random
    order; sorting is several times faster than argsort.
    """
    n = len(label)
    row_bits = max(1, int(n - 1).bit_length())
    label_bits = max(1, int(label.max(initial=0)).bit_length())
    row_mask = np.uint64(2**row_bits - 1)
    fixed = (label.astype(np.uint64) << np.uint64(64 - label_bits)) | np.arange(n, dtype=np.uint64)
    keys = rng.integers(0, 2**64, size=(n_permutations, n), dtype=np.uint64)
    keys &= np.uint64(2 ** (64 - label_bits) - 1) & ~row_mask
    keys |= fixed
    keys.sort(axis=1)
    keys &= row_mask
    by_label = np.argsort(label, kind="stable")
    return np.take(keys, np.argsort(by_label), axis=1).astype(np.int32)


def _codes(blocks: Any, families: Any, n: int | None) -> tuple[np.ndarray, np.ndarray | None, int]:
    known = {"blocks": blocks, "families": families}
    codes = {name: _factorize(name, labels) for name, labels in known.items() if labels is not None}
    sizes = {len(code) for code in codes.values()} | ({n} if n is not None else set())
    if len(sizes) != 1:
        raise ValueError("give n, the number of rows" if not sizes else f"lengths differ: {sorted(sizes)}")
    n = sizes.pop()
    return codes.get("blocks", np.zeros(n, dtype=np.intp)), codes.get("families"), n


def _factorize(name: str, labels: Any) -> np.ndarray:
    codes, _ = pd.factorize(pd.Series(np.asarray(labels, dtype=object)))
    if (codes < 0).any():
        raise ValueError(f"{name}: {int((codes < 0).sum())} labels are missing")
    return codes


def _product_of_factorials(labels: np.ndarray) -> int:
    return math.prod(math.factorial(size) for size in Counter(labels.tolist()).values())
