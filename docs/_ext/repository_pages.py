"""Pages that live beside the code (recipes, columns of manifests, security, changes), and links between both.

They are copied to ``docs/generated/repository`` before anything is read. In every page, links that lead to a copied
page, or from one into ``docs/``, are written anew; the files themselves keep the links that work on GitHub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
COPIES = DOCS / "generated" / "repository"
LINK = re.compile(r"\]\((?![a-z]+:|#|<)([^)\s#]+)((?:#[^)\s]*)?)\)")


def repository_pages() -> list[Path]:
    """Return the Markdown files outside ``docs/`` that become pages."""
    readmes = [ROOT / "data_manifests" / "README.md", *sorted((ROOT / "pipelines").rglob("README.md"))]
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *readmes]


def mend_links(text: str, place: Path, page: Path) -> str:
    """Return a text that was written at ``place`` with links that work from ``page``."""

    def mended(found: re.Match[str]) -> str:
        target = _page_of((place.parent / found[1]).resolve())
        return f"]({os.path.relpath(target, page.parent)}{found[2]})"

    return LINK.sub(mended, text)


def _page_of(target: Path) -> Path:
    """Return where the site shows a file of the project."""
    if target in repository_pages():
        return COPIES / target.relative_to(ROOT)
    if target == DOCS / "tutorials":
        return DOCS / "auto_tutorials" / "index.rst"
    if target.parent == DOCS / "tutorials" and target.suffix == ".py":
        return DOCS / "auto_tutorials" / f"{target.stem}.rst"
    return target


def _copy(_app: Any) -> None:
    for source in repository_pages():
        copy = COPIES / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = mend_links(source.read_text(encoding="utf-8"), source, copy) + _contents(source)
        copy.write_text(text, encoding="utf-8")


def _contents(source: Path) -> str:
    """Return a table of contents of the READMEs in the folders below."""
    below = [page for page in repository_pages() if source.name == "README.md" and source.parent == page.parent.parent]
    if source.parent == ROOT or not below:
        return ""
    entries = "\n".join(page.relative_to(source.parent).with_suffix("").as_posix() for page in below)
    return f"\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"


def _on_read(app: Any, name: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md" and COPIES not in page.parents:
        content[0] = mend_links(content[0], page, page)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", _copy)
    app.connect("source-read", _on_read)
    return {"parallel_read_safe": True}
