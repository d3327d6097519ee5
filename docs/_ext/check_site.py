"""Walk over the built site: every link and anchor leads somewhere, nothing is fetched, every picture has a text.

``python docs/_ext/check_site.py docs/_build/html`` prints what is wrong and ends with 1 if anything is.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

# What a browser fetches by itself, by tag.
FETCHED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href", "object": "data"}
NO_FETCH = {"canonical", "next", "prev", "search", "index", "genindex", "author", "help"}


class Page(HTMLParser):
    """Anchors, links, what is fetched, and pictures without a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.untold: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag has to say."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        source = given.get("src", "")
        # Beside the thumbnail of a tutorial stands its title, so it has nothing more to say.
        if tag == "img" and not given.get("alt", "").strip() and not source.endswith("_thumb.png"):
            self.untold.append(source)
        where = FETCHED.get(tag)
        if where in given and not NO_FETCH & set(given.get("rel", "").split()):
            self.fetched.append(given[where])


@cache
def _read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def check_page(path: Path, root: Path) -> list[str]:
    """Return what is wrong with one page."""
    page, wrong = _read(path), []
    for link in page.links + page.fetched:
        address, anchor = urldefrag(link)
        if urlsplit(address).scheme or address.startswith("//"):
            if link in page.fetched and not address.startswith("data:"):
                wrong.append(f"fetches {link}")
            continue
        target = (path.parent / unquote(urlsplit(address).path)).resolve() if address else path
        if not target.is_file():
            wrong.append(f"no such file: {link}")
        elif anchor and target.suffix == ".html" and unquote(anchor) not in _read(target).anchors:
            wrong.append(f"no such anchor: {link}")
    wrong += [f"a picture without a text: {source}" for source in page.untold]
    return [f"{path.relative_to(root)}: {said}" for said in wrong]


def check_site(root: Path) -> list[str]:
    """Return what is wrong with the built site."""
    root = root.resolve()
    wrong = [said for path in sorted(root.rglob("*.html")) for said in check_page(path, root)]
    for style in sorted(root.rglob("*.css")):
        fetched = re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^\"')\s]+", style.read_text(encoding="utf-8"))
        wrong += [f"{style.relative_to(root)}: fetches {said}" for said in fetched]
    return wrong


if __name__ == "__main__":
    found = check_site(Path(sys.argv[1]))
    print("\n".join(found) or "every link of the site leads somewhere, and nothing is fetched")
    raise SystemExit(bool(found))
