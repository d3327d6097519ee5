"""The words in a file, wherever it keeps them: what must be looked at before the file is passed on."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

TABLES = (".tsv", ".csv")
TEXTS = (".md", ".txt", ".yaml", "")
PICTURES = (".png",)
IMAGES = (".nii", ".nii.gz")
WEIGHTS = (".safetensors",)
NIFTI_TEXTS = ("data_type", "db_name", "descrip", "aux_file", "intent_name")


def kind_of(path: Path) -> str:
    """Return the ending of a file's name, in which ``.nii.gz`` is one.

    Examples
    --------
    >>> kind_of(Path("maps/salient_000.nii.gz")), kind_of(Path("LICENSE"))
    ('.nii.gz', '')
    """
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix.lower()


def read_words(path: Path) -> str | None:
    """Return all the text in a file and its name, a piece a line; numbers are left out where they are known as such.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str or None
        None for a kind of file that cannot be looked through.
    """
    kind = kind_of(path)
    if kind in TABLES:
        table = read_cells(path)
        texts = [name for name in table if holds_text(table[name])]
        pieces = [*map(str, table.columns), *pd.unique(table[texts].to_numpy(dtype=object).ravel())]
    elif kind == ".json":
        pieces = list(_strings(json.loads(path.read_text(encoding="utf-8"))))
    elif kind == ".html":
        pieces = _HtmlWords.of(path.read_text(encoding="utf-8"))
    elif kind in TEXTS:
        pieces = [path.read_text(encoding="utf-8")]
    elif kind in PICTURES:
        pieces = _picture_words(path)
    elif kind in IMAGES:
        pieces = _image_words(path)
    elif kind in WEIGHTS:
        pieces = _header_words(path)
    else:
        return None
    return "\n".join(piece for piece in [path.name, *pieces] if isinstance(piece, str))


def read_cells(path: Path) -> pd.DataFrame:
    """Return a table as it is written, cell by cell; ``n/a`` is missing."""
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    return pd.read_csv(path, sep=separator, dtype=str, na_values=["n/a"], keep_default_na=False)


def holds_text(cells: pd.Series) -> bool:
    """Say whether any cell of a column is no number.

    Examples
    --------
    >>> holds_text(pd.Series(["1", None])), holds_text(pd.Series(["1", "a"]))
    (False, True)
    """
    return bool(pd.to_numeric(cells.dropna(), errors="coerce").isna().any())


def find_cell(
    table: pd.DataFrame, seen: Callable[[str], bool], told: Iterable[Callable[[str], bool]], rows: bool = True
) -> str:
    """Say where in a table something is seen first; empty where it is in no single cell.

    Parameters
    ----------
    table : DataFrame
        From :func:`read_cells`.
    seen : callable
        Judges a cell or a heading.
    told : iterable of callable
        Headings that one of these sees are given by number.
    rows : bool, default=True
        Whether the row is said, not the column alone; the heading is row 1.

    Examples
    --------
    >>> find_cell(pd.DataFrame({"age": ["1", "2"], "notes": [None, "by zeb"]}), lambda cell: "zeb" in cell, [])
    'row 3, column notes'
    """
    told = list(told)
    for number, (name, cells) in enumerate(table.items(), 1):
        if seen(str(name)):
            return f"the name of column {number}"
        here = next((index for index, cell in enumerate(cells) if isinstance(cell, str) and seen(cell)), None)
        if here is not None:
            column = f"column {number if any(also(str(name)) for also in told) else name}"
            return f"row {here + 2}, {column}" if rows else column
    return ""


def change_cells(cells: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """Return a column with every cell changed, each different one once; missing ones stay."""
    return cells.map({cell: change(cell) for cell in cells.dropna().unique()})


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value)


class _HtmlWords(HTMLParser):
    """Everything that is read, and every attribute but embedded pictures and the geometry of drawings."""

    GEOMETRY = ("d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "points", "transform")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def of(cls, text: str) -> list[str]:
        reader = cls()
        reader.feed(text)
        return reader.found

    def handle_data(self, data: str) -> None:
        self.found.append(data)

    def handle_comment(self, data: str) -> None:
        self.found.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = [value for name, value in attrs if value and name not in self.GEOMETRY]
        self.found += [value for value in kept if not value.startswith(("data:image/", "default-src"))]


def _picture_words(path: Path) -> list[str]:
    from PIL import Image

    with Image.open(path) as picture:
        return [f"{name} {value}" for name, value in picture.info.items() if isinstance(value, str)]


def _image_words(path: Path) -> list[str]:
    import nibabel as nib

    image = nib.load(path)
    header = [image.header[name].tobytes() for name in NIFTI_TEXTS if name in image.header]
    extensions = [bytes(extension.get_content()) for extension in image.header.extensions]
    found = [piece.decode("latin-1") for piece in [*header, *extensions]]
    return [*found, _gzip_name(path)] if path.suffix == ".gz" else found


def _gzip_name(path: Path) -> str:
    """Return the name that a gzip file keeps of what was compressed (RFC 1952)."""
    head = path.read_bytes()[:1024]
    flags = head[3]
    start = 10 + (2 + struct.unpack("<H", head[10:12])[0] if flags & 4 else 0)
    return head[start:].split(b"\0", 1)[0].decode("latin-1") if flags & 8 else ""


def _header_words(path: Path) -> list[str]:
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    stated = [_parsed(value) for value in header.pop("__metadata__", {}).values()]
    return [*header, *_strings(stated)]


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
