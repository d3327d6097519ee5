"""The one place that names files in a run folder; text, JSON and tables as they lie there."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.atomic import atomic_path
from sepclr_med.errors import RunError


def write_text(path: str | Path, text: str, mode: int | None = None) -> Path:
    """Write a text file atomically, UTF-8 with LF line ends."""
    with atomic_path(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | Path, content: Any, mode: int | None = None) -> Path:
    """Write JSON atomically, indented, keys in the order given."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", mode)


def read_json(path: str | Path, keys: Mapping[str, type] | None = None) -> Any:
    """Read JSON, an object with these keys and types of values where they are given.

    Raises
    ------
    RunError
        For anything else, naming the file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not readable JSON ({error}); mend or delete it") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from None
    if keys is not None:
        require_keys(content, keys, path)
    return content


def require_keys(content: Any, keys: Mapping[str, type], path: str | Path) -> None:
    """Refuse what is no mapping, or has a key missing or of another type.

    Raises
    ------
    RunError
        Naming the file and every such key.

    Examples
    --------
    >>> require_keys({"steps": 3}, {"steps": list}, "provenance.json")
    Traceback (most recent call last):
    ...
    sepclr_med.errors.RunError: provenance.json: not what belongs there (steps should be a list); mend or delete it
    """
    if isinstance(content, dict):
        wrong = [f"{key} should be a {kind.__name__}" for key, kind in keys.items() if not _is(content.get(key), kind)]
    else:
        wrong = ["it should be an object with keys"]
    if wrong:
        raise RunError(f"{path}: not what belongs there ({', '.join(wrong)}); mend or delete it")


@contextlib.contextmanager
def as_written(path: str | Path) -> Iterator[None]:
    """Call what a block cannot make sense of damage to the file it was read from.

    Parameters
    ----------
    path : path

    Raises
    ------
    RunError
        For any error of a value, a key or a type, naming the file.

    Examples
    --------
    >>> with as_written("facts.json"):
    ...     {}["Loadings"]
    Traceback (most recent call last):
    ...
    sepclr_med.errors.RunError: facts.json: not what belongs there (KeyError: 'Loadings'); mend or delete it
    """
    try:
        yield
    except RunError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RunError(f"{path}: not what belongs there ({said}); mend or delete it") from error


def _is(value: Any, kind: type) -> bool:
    # To Python True is a whole number, and a whole number no float.
    return isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def write_table(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a TSV atomically: tab, UTF-8, LF, ``n/a`` for missing, floats as ``%.8g``."""
    with atomic_path(path) as temporary:
        table.to_csv(
            temporary, sep="\t", index=False, na_rep="n/a", float_format="%.8g", lineterminator="\n", encoding="utf-8"
        )
    return Path(path)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class RunDir:
    """Names of everything in one run folder.

    Examples
    --------
    >>> RunDir("runs/demo").separation.as_posix()
    'runs/demo/analysis/separation.tsv'
    """

    root: str | Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return Path(self.root)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, commands, seed, hardware, hashes and times."""
        return self.path / "provenance.json"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.path / "history.tsv"

    @property
    def progress(self) -> Path:
        """The training curves."""
        return self.path / "progress.png"

    @property
    def embeddings(self) -> Path:
        """The BIDS derivative."""
        return self.path / "embeddings"

    @property
    def separation(self) -> Path:
        """The table that ``evaluate`` writes."""
        return self.path / "analysis" / "separation.tsv"

    def analysis(self, name: str) -> Path:
        """A file of the analysis, such as ``links.tsv``."""
        return self.path / "analysis" / name

    @property
    def maps(self) -> Path:
        """Maps of factors on the brain."""
        return self.path / "maps"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def manifest(self) -> Path:
        """The whole manifest of the run, in its own order."""
        return self.path / "data" / "manifest.tsv"

    def part(self, split: str) -> Path:
        """The rows of one split, ``train``, ``val`` or ``test``."""
        return self.path / "data" / f"{split}.tsv"

    @property
    def cross_fit(self) -> Path:
        """Folds and seeds of a cross-fit; absent from the run folder of a single model."""
        return self.path / "crossfit.json"

    @property
    def seal(self) -> Path:
        """Where the ledger of the manifest lies, and what was sealed there; absent of a manifest that was no file."""
        return self.path / "data" / "seal.json"

    def job(self, name: str) -> Path:
        """The run folder of one model of a cross-fit."""
        return self.path / "models" / name

    def job_file(self, name: str, ending: str) -> Path:
        """The manifest (``.tsv``) or the recipe (``.yaml``) of one model of a cross-fit, beside its run folder.

        Examples
        --------
        >>> RunDir("runs/demo").job_file("fold-GE-1.5T_seed-0", ".tsv").as_posix()
        'runs/demo/models/fold-GE-1.5T_seed-0.tsv'
        """
        return self.path / "models" / f"{name}{ending}"

    @property
    def norms(self) -> Path:
        """What new participants are compared with."""
        return self.path / "norms.json"

    @property
    def check(self) -> Path:
        """What ``check`` found."""
        return self.path / "check"

    @property
    def image_facts(self) -> Path:
        """What ``check`` read from each image, so that it is read once."""
        return self.check / "images.jsonl"

    @property
    def voxel_pca(self) -> Path:
        """The plain baseline, fitted on training rows."""
        return self.path / "checkpoints" / "voxel_pca.safetensors"

    @property
    def reference(self) -> Path:
        """The normative reference, fitted on training background rows."""
        return self.path / "checkpoints" / "reference.safetensors"

    def erasure(self, which: str = "last") -> Path:
        """What is taken out of the spaces that the weights ``last`` or ``best`` export, fitted on training rows."""
        return self.path / "checkpoints" / f"erasure_{which}.safetensors"

    def checkpoint(self, which: str = "last") -> Path:
        """The weights, ``last`` or ``best``; ``previous`` is the one before ``last``, should that be damaged."""
        return self.path / "checkpoints" / f"{which}.safetensors"
