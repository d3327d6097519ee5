"""Image files opened with care: nothing is allocated or unpacked that only a header claims.

A header is a few bytes that anybody, or a torn copy, can fill with any number. Its shape and offset are compared with
the file before voxels are read, and a compressed file is unpacked no further than its header says it should go.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

MAX_VOXELS = 2**29
HEAD_BYTES = 1024
GZIP_MAGIC = b"\x1f\x8b"
BLOCK_BYTES = 16 << 20
# An MGH file has tags after its voxels, some programs pad; what unpacks to more than this beyond its voxels is a bomb.
MOST_BEYOND = 4 * BLOCK_BYTES
# Deflate writes at least one bit for 129 bytes.
DEFLATE_RATIO = 1032
KINDS = {
    ".nii": (nib.Nifti1Image, nib.Nifti2Image),
    ".nii.gz": (nib.Nifti1Image, nib.Nifti2Image),
    ".mgh": (nib.MGHImage,),
    ".mgz": (nib.MGHImage,),
}


class DamagedImageError(Exception):
    """A file that does not hold what its header says."""


@dataclass(frozen=True)
class ImageFile:
    """What the header of an image says, before anything else is read.

    Parameters
    ----------
    path : str
        The file.
    kind : type
        nibabel's class of it.
    header : nibabel header
    shape : tuple of int
        As stored; nothing is known yet of whether so many voxels are there.
    affine : ndarray (4, 4)
        Voxel to mm.
    dtype : numpy dtype
        As stored.
    lazy : nibabel image or None
        Of a format that nibabel opens itself.
    """

    path: str
    kind: Any
    header: Any
    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    lazy: Any = None

    def load(self) -> Any:
        """Return nibabel's image, whose voxels are all there.

        Raises
        ------
        DamagedImageError
            When the header claims more than the file holds, a compressed file holds far more than that, or its checksum
            is wrong.
        EOFError, gzip.BadGzipFile
            When a compressed file is cut short, or followed by something else.
        """
        if min(self.shape, default=0) < 1 or prod(self.shape) > MAX_VOXELS:
            raise DamagedImageError(f"the header claims a shape of {self.shape}")
        needed = self._offset() + prod(self.shape) * self.dtype.itemsize
        if self.lazy is not None:
            self._require_held(needed)
            return self.lazy
        if not _is_packed(self.path):
            self._require_held(needed)
            with open(self.path, "rb") as stream:
                return self.kind.from_bytes(stream.read(needed + MOST_BEYOND))
        content = io.BytesIO()
        for block in unpack(Path(self.path).read_bytes()):
            if content.tell() > needed + MOST_BEYOND:
                raise DamagedImageError(f"it unpacks to far more than the {needed:,} bytes its header claims")
            content.write(block)
        if content.tell() < needed:
            raise DamagedImageError(f"the header claims {needed:,} bytes, and the file unpacks to {content.tell():,}")
        content.seek(0)
        return self.kind.from_stream(content)

    def _offset(self) -> int:
        get = getattr(self.header, "get_data_offset", None)
        return max(0, int(get())) if get else 0

    def _require_held(self, needed: int) -> None:
        # An Analyze image has its voxels in another file than its header; nibabel knows which.
        names = [part.filename for part in self.lazy.file_map.values() if part.filename] if self.lazy else [self.path]
        size = sum(os.path.getsize(name) for name in names)
        held = size * DEFLATE_RATIO if _is_packed(self.path) else size
        if needed > held and not self.path.lower().endswith((".bz2", ".zst")):
            raise DamagedImageError(f"the header claims {needed:,} bytes, and the file holds {size:,}")


def open_image(path: str | Path) -> ImageFile:
    """Read the header of an image.

    Raises
    ------
    nibabel.filebasedimages.ImageFileError
        When it is no image, by its first bytes or its name.
    Exception
        nearly any, of a header that nibabel cannot make sense of.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4)), Path(folder) / "a.nii.gz")
    ...     open_image(Path(folder) / "a.nii.gz").shape
    (2, 3, 4)
    """
    path = str(path)
    kinds = next((kinds for suffix, kinds in KINDS.items() if path.lower().endswith(suffix)), None)
    if kinds is None:
        image = nib.load(path)
        return ImageFile(path, type(image), image.header, image.shape, image.affine, image.get_data_dtype(), lazy=image)
    head = _read_head(path)
    kind = next((kind for kind in kinds if _may_be(kind, head)), None)
    if kind is None:
        raise ImageFileError("no file type: it begins neither as NIfTI nor as MGH")
    header = kind.header_class(head[: kind.header_class.template_dtype.itemsize])
    shape = tuple(int(length) for length in header.get_data_shape())
    affine = header.get_affine() if kind is nib.MGHImage else header.get_best_affine()
    return ImageFile(path, kind, header, shape, affine, header.get_data_dtype())


def unpack(packed: bytes) -> Iterator[bytes]:
    """Give what a gzip file holds in blocks of 16 MB at most, checksums tested.

    Raises
    ------
    DamagedImageError, EOFError, gzip.BadGzipFile
        When it is damaged, cut short or followed by something else.

    Examples
    --------
    >>> b"".join(unpack(gzip.compress(b"one") + gzip.compress(b"two") + bytes(5)))
    b'onetwo'
    """
    while packed:
        if packed[:2] != GZIP_MAGIC:
            raise gzip.BadGzipFile(f"Not a gzipped file ({packed[:2]!r})")
        engine = zlib.decompressobj(wbits=31)
        while not engine.eof:
            try:
                block = engine.decompress(packed, BLOCK_BYTES)
            except zlib.error as error:
                raise DamagedImageError(f"its compressed bytes or their checksum (CRC) are wrong: {error}") from None
            packed = engine.unconsumed_tail
            if not block and not packed and not engine.eof:
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            yield block
        packed = engine.unused_data.lstrip(b"\x00")


def _may_be(kind: Any, head: bytes) -> bool:
    if kind is nib.MGHImage:
        return head[:4] == b"\x00\x00\x00\x01"
    return bool(kind.header_class.may_contain_header(head[: kind.header_class.sizeof_hdr]))


def _read_head(path: str) -> bytes:
    with open(path, "rb") as stream:
        if not _is_packed(path):
            return stream.read(HEAD_BYTES)
        # Enough for a header behind whatever a gzip file begins with.
        first = stream.read(64 << 10)
    if first[:2] != GZIP_MAGIC:
        raise ImageFileError("empty file" if not first else "it is no gzip file")
    return gzip.GzipFile(fileobj=io.BytesIO(first)).read(HEAD_BYTES)


def _is_packed(path: str) -> bool:
    return path.lower().endswith((".gz", ".mgz"))
