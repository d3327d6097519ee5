"""References in docstrings to names without a page of their own: shown as code if Python finds them, else a warning."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def exists(name: str) -> bool:
    """Say whether a dotted name leads to a module or to something in one.

    Examples
    --------
    >>> exists("pathlib.Path.glob"), exists("pathlib.Path.glub")
    (True, False)
    """
    words = name.split(".")
    for n in range(len(words), 0, -1):
        try:
            found = import_module(".".join(words[:n]))
        except ImportError:
            continue
        for word in words[n:]:
            found = getattr(found, word, None)
        return found is not None
    return False


def _show_as_code(_app: Any, _env: Any, node: Any, shown: Any) -> Any:
    if node.get("refdomain") != "py":
        return None
    places = [node.get("py:module"), f"{node.get('py:module')}.{node.get('py:class')}", "torch", None]
    names = [f"{place}.{node['reftarget']}" if place else node["reftarget"] for place in places]
    return shown if any(map(exists, names)) else None


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("missing-reference", _show_as_code)
    return {"parallel_read_safe": True}
