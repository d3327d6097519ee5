"""All images of a cohort read in parallel, and what was read remembered: an interrupted check goes on where it was."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter

from sepclr_med.cohort.images import ImageFacts, read_facts
from sepclr_med.errors import VolumeError
from sepclr_med.progress import report_progress

FEW_IMAGES = 8
MEMORY_FIX = "close other programs or read fewer images at a time (--jobs); what was read is remembered"


def read_images(
    paths: Sequence[str], n_jobs: int = -1, cache_file: str | Path | None = None
) -> tuple[dict[str, ImageFacts], str]:
    """Read every file once, in parallel, and only what is new or changed since the last time.

    Parameters
    ----------
    paths : sequence of str
        Files; a name given twice is read once.
    n_jobs : int, default=-1
        Images read at a time, each in its own process with one image in memory; -1 means one per core.
    cache_file : path or None, default=None
        JSON lines, one per image read, added to as the reading goes on; see :class:`FactsFile`.

    Returns
    -------
    dict
        :class:`~sepclr_med.cohort.images.ImageFacts` by path.
    str
        Why ``cache_file`` could not be written, or "".

    Raises
    ------
    VolumeError
        When a reading process is killed, in practice for lack of memory.

    Notes
    -----
    Processes, not threads: on two cores neither was reliably faster, and a process that runs out of memory can be
    reported.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    remembered = FactsFile(cache_file)
    facts = {path: found for path in dict.fromkeys(paths) if (found := remembered.get(path))}
    unread = [path for path in dict.fromkeys(paths) if path not in facts]
    readers = Parallel(n_jobs=n_jobs if len(unread) >= FEW_IMAGES else 1, return_as="generator_unordered")
    with remembered, report_progress("reading images", len(unread)) as advance:
        try:
            for found in readers(delayed(read_facts)(path) for path in unread):
                facts[found.path] = found
                remembered.add(found)
                advance()
        except TerminatedWorkerError as error:
            raise VolumeError(f"check: a process that read images was killed: {MEMORY_FIX}", []) from error
    return facts, remembered.trouble


class FactsFile:
    """Facts of images read before: JSON lines that are only ever added to.

    A line cut short by an interruption is passed over, a later line about the same file replaces an earlier one, and a
    file whose size or time has changed is read again. Files that could not be read are not remembered: the reason may
    have been passing. Where it cannot be written itself, the check goes on without it and :attr:`trouble` says why.

    Parameters
    ----------
    path : path or None
        The file, which need not exist; none remembers nothing.
    """

    def __init__(self, path: str | Path | None):
        self.path = Path(path) if path is not None else None
        self.trouble = ""
        self._stream: IO[str] | None = None
        self._facts = {facts.path: facts for facts in _read_lines(self.path)} if self.path else {}

    def get(self, path: str) -> ImageFacts | None:
        """Return what is known about a file that has not changed since, or None."""
        facts = self._facts.get(path)
        if facts is None:
            return None
        with suppress(OSError):
            status = os.stat(path)
            if (status.st_size, status.st_mtime_ns) == (facts.size, facts.mtime_ns):
                return facts
        return None

    def add(self, facts: ImageFacts) -> None:
        """Write what was read, unless reading failed."""
        if self._stream is None or facts.failure:
            return
        try:
            self._stream.write(json.dumps(asdict(facts)) + "\n")
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __enter__(self) -> FactsFile:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = open(self.path, "a", encoding="utf-8", newline="\n")
                # Whatever an interruption left of a last line stays a line of its own.
                self._stream.write("\n" if self._stream.tell() else "")
            except OSError as error:
                self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()

    def _give_up(self, error: OSError) -> None:
        self.trouble = f"{self.path}: {error.strerror or error}"
        self.__exit__()
        self._stream = None


def _read_lines(path: Path) -> Iterator[ImageFacts]:
    parse = TypeAdapter(ImageFacts).validate_json
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            # Cut short, damaged, or written by another version with other facts. pydantic's errors are ValueErrors.
            with suppress(ValueError, OverflowError, zlib.error):
                facts = parse(line, strict=True)
                if facts.usable and (facts.grid or not facts.is_picture):
                    facts.pattern()
                yield facts
