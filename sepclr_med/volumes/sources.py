"""The files behind each row of a manifest, and what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sepclr_med.errors import Problem
from sepclr_med.volumes.fingerprints import ContentHash, ContentHashes
from sepclr_med.volumes.loading import missing_file, unreadable_file
from sepclr_med.volumes.parallel import Clock, in_parallel

REMEMBER_SECONDS = 5.0


@dataclass(frozen=True)
class Source:
    """One row of a manifest and the files its volume is made from.

    Parameters
    ----------
    position : int
        Place in the manifest given, counted from 0.
    row : int
        Row of the table as a spreadsheet shows it.
    participant_id : str
        Whose image it is.
    image : str
        The image's path.
    mask : str or None
        The mask's path, where one is used.
    """

    position: int
    row: int
    participant_id: str
    image: str
    mask: str | None

    def blame(self, problem: Problem) -> Problem:
        """Return the problem with the place it belongs to."""
        return replace(problem, file=problem.file or self.image, row=self.row, participant_id=self.participant_id)


@dataclass(frozen=True)
class Content:
    """A source and the hashes of its files."""

    source: Source
    hashes: tuple[ContentHash, ...]

    @property
    def key(self) -> str:
        """What identifies the content: the image's SHA-256, or one over image and mask."""
        parts = [found.sha256 for found in self.hashes]
        return parts[0] if len(parts) == 1 else hashlib.sha256("+".join(parts).encode()).hexdigest()


def list_sources(manifest: pd.DataFrame, with_mask: bool) -> list[Source]:
    """Return the files of every row; ``mask_path`` is read only ``with_mask``.

    Examples
    --------
    >>> manifest = pd.DataFrame({"participant_id": ["001", "002"], "image_path": ["a.nii", "b.nii"]})
    >>> [source.row for source in list_sources(manifest[1:], with_mask=True)]
    [3]
    """
    nothing = pd.Series(pd.NA, index=manifest.index, dtype=object)
    masks = manifest.get("mask_path", nothing) if with_mask else nothing
    columns = zip(manifest.index, manifest.get("participant_id", nothing), manifest["image_path"], masks, strict=True)
    return [
        Source(
            position,
            row=(label if isinstance(label, int) else position) + 2,
            participant_id="" if pd.isna(participant_id) else str(participant_id),
            image=str(image),
            mask=None if pd.isna(mask) else str(mask),
        )
        for position, (label, participant_id, image, mask) in enumerate(columns)
    ]


def find_contents(sources: Sequence[Source], hashes: ContentHashes, n_jobs: int) -> tuple[list[Content], list[Problem]]:
    """Return what can be read, in order, and the problems of the rest."""
    contents: list[Content] = []
    problems: list[Problem] = []
    fresh: list[ContentHash] = []
    clock = Clock(REMEMBER_SECONDS)
    for source, found in in_parallel(lambda source: _hash_files(source, hashes), sources, n_jobs, "reading images"):
        if isinstance(found, Problem):
            problems.append(source.blame(found))
            continue
        contents.append(Content(source, found))
        fresh.extend(found)
        if clock.rings():
            hashes.remember(fresh)
            fresh = []
    hashes.remember(fresh)
    return contents, problems


def _hash_files(source: Source, hashes: ContentHashes) -> tuple[ContentHash, ...] | Problem:
    found = []
    for path in [source.image] if source.mask is None else [source.image, source.mask]:
        # A pipe or a device would be waited for, or read for ever.
        if os.path.exists(path) and not os.path.isfile(path):
            return missing_file(path)
        try:
            found.append(hashes.find(path))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return missing_file(path)
        except OSError as error:
            return unreadable_file(path, error)
    return tuple(found)
