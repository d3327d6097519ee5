"""One growing file of equal volumes and its index: what survives a kill at any moment, and several writers.

A row is on the disk before its line is appended to the index, and both happen under a lock. A row without a line does
not exist: the next writer overwrites it.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sepclr_med.errors import RunError
from sepclr_med.rundir import read_json, write_json
from sepclr_med.volumes.journal import (
    Journal,
    disk_problems,
    full_disk,
    open_to_extend,
    undone_on_error,
    write_to_disk,
)

DTYPE = np.dtype("<f2")


class VolumeCache:
    """Preprocessed volumes of one set of parameters.

    The folder holds ``preprocessing.json`` (parameters and shape), ``volumes.f16`` (row i starts at byte i times the
    bytes of a row) and ``index.tsv`` (content key, row, CRC-32 of the row's bytes).

    Parameters
    ----------
    folder : path
        Made by the first write.
    parameters : mapping
        What the volumes are made with, as plain JSON values.
    shape : tuple of int or None, default=None
        Shape (C, X, Y, Z) of a volume where the parameters tell it; none leaves it to :meth:`fix_shape`.

    Examples
    --------
    >>> import tempfile
    >>> store = VolumeCache(tempfile.mkdtemp(), {"preset": "vbm"}, shape=(1, 2, 2, 2))
    >>> store.append([("0" * 64, np.ones((1, 2, 2, 2), np.float16))])
    >>> list(store.rows.values()), store.array().shape
    ([0], (1, 1, 2, 2, 2))
    """

    def __init__(self, folder: str | Path, parameters: Mapping[str, Any], shape: Sequence[int] | None = None):
        self.folder = Path(folder)
        self.parameters = dict(parameters)
        self.description = self.folder / "preprocessing.json"
        self.data = self.folder / "volumes.f16"
        self.index = Journal(self.folder / "index.tsv", r"([0-9a-f]{64})\t(\d{1,12})\t([0-9a-f]{8})")
        self.rows: dict[str, int] = {}
        self._checksums: dict[str, int] = {}
        self._next_row = 0
        self.shape = None if shape is None else tuple(shape)
        self.refresh()

    @property
    def row_bytes(self) -> int:
        """Bytes of one volume; the shape must be known."""
        return prod(self.shape) * DTYPE.itemsize

    def refresh(self) -> None:
        """Read what other processes have added."""
        if self.shape is None:
            self.shape = self._described_shape()
        if self.shape is None:
            return
        lines = list(self.index.read_on())
        # Looked at after the index, because another process may be adding rows: a line's row is there before the line.
        n_stored = self.data.stat().st_size // self.row_bytes if self.data.is_file() else 0
        for line in lines:
            key, row, checksum = line[1], int(line[2]), int(line[3], 16)
            self._next_row = max(self._next_row, row + 1)
            if row < n_stored:
                self.rows[key], self._checksums[key] = row, checksum

    def _described_shape(self) -> tuple[int, ...] | None:
        if not self.description.is_file():
            return None
        shape = read_json(self.description, {"shape": list})["shape"]
        if not shape or not all(type(length) is int and length > 0 for length in shape):
            raise RunError(f"{self.description}: the shape of the volumes is none; delete this folder")
        return tuple(shape)

    def fix_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Give the cache its shape if it has none yet, and return the shape it has."""
        with disk_problems(self.folder, 0), self._lock():
            self.refresh()
            self.shape = self.shape or tuple(shape)
            if not self.description.is_file():
                content = {"parameters": self.parameters, "shape": list(self.shape), "dtype": "float16"}
                write_json(self.description, content)
        return self.shape

    def is_whole(self, key: str) -> bool:
        """Return whether the bytes of ``key`` are those that were written."""
        row = self.rows[key]
        return zlib.crc32(np.ascontiguousarray(self.array()[row])) == self._checksums[key]

    def forget(self, key: str) -> None:
        """Leave out a damaged row, so that the next :meth:`append` of ``key`` writes a new one."""
        del self.rows[key]

    def append(self, volumes: Sequence[tuple[str, np.ndarray]]) -> None:
        """Add volumes by key; those another process added meanwhile are passed over.

        Raises
        ------
        VolumeError
            When the disk is full or cannot be written; what was there before is left as it was.
        ValueError
            When a volume has not the cache's shape.
        """
        if not volumes:
            return
        shape = self.fix_shape(volumes[0][1].shape)
        odd = [volume.shape for _, volume in volumes if volume.shape != shape]
        if odd:
            raise ValueError(f"a volume of shape {odd[0]} in a cache of {shape}")
        with disk_problems(self.folder, len(volumes) * self.row_bytes), self._lock():
            self.refresh()
            self._write({key: np.ascontiguousarray(v, DTYPE) for key, v in volumes if key not in self.rows})

    def array(self) -> np.ndarray:
        """Return every row as it lies in the file: memmap (rows, C, X, Y, Z), float16, read-only."""
        n_rows = max(self.rows.values(), default=-1) + 1
        if n_rows == 0:
            return np.empty((0, *(self.shape or ())), DTYPE)
        return np.memmap(self.data, dtype=DTYPE, mode="r", shape=(n_rows, *self.shape))

    def check_space(self, n_volumes: int) -> None:
        """Raise :class:`VolumeError` when ``n_volumes`` more would not fit on the disk."""
        needed = n_volumes * self.row_bytes if self.shape is not None else 0
        with disk_problems(self.folder, needed):
            free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise full_disk(self.folder, needed)

    def _lock(self) -> FileLock:
        return FileLock(self.folder / ".lock")

    def _write(self, volumes: Mapping[str, np.ndarray]) -> None:
        rows = dict(zip(volumes, range(self._next_row, self._next_row + len(volumes)), strict=True))
        with open_to_extend(self.data) as stream, undone_on_error(stream):
            stream.seek(self._next_row * self.row_bytes)
            write_to_disk(stream, (volume.data for volume in volumes.values()))
        self.index.append(f"{key}\t{rows[key]}\t{zlib.crc32(volume):08x}" for key, volume in volumes.items())
        self.refresh()
