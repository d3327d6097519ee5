"""The tutorials: each compiles and speaks of the documented interface only; run by ``--slow``."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sepclr_med as sm

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("plot_*.py"))
PAGES = "\n".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def parse(path):
    return ast.parse(path.read_text(), str(path))


def documented_names():
    """Names that a page of the documentation imports, or gives with their module."""
    imported = re.findall(r"from (sepclr_med[\w.]*) import ([\w, ]+)", PAGES)
    names = {f"{module}.{name.strip()}" for module, listed in imported for name in listed.split(",")}
    return names | set(re.findall(r"sepclr_med\.[\w.]+\w", PAGES))


def test_there_are_six():
    assert [path.name[:7] for path in TUTORIALS] == [f"plot_{number}_" for number in range(1, 7)]


@pytest.mark.parametrize("path", [*TUTORIALS, FOLDER / "small_study.py"], ids=lambda path: path.stem)
def test_a_tutorial_names_only_what_is_documented(path):
    tree = parse(path)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sm"
    }
    assert used <= set(sm.__all__)
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sepclr_med")
        for alias in node.names
    }
    assert imported <= documented_names()
    compile(tree, str(path), "exec")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_has_a_title_and_asserts_what_it_says(path):
    tree = parse(path)
    title, line = ast.get_docstring(tree).splitlines()[:2]
    assert line == "=" * len(title)
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_pages_that_a_tutorial_points_to_are_there(path):
    for page in re.findall(r":doc:`/([^`]+)`", path.read_text()):
        source = FOLDER / f"{page.removeprefix('auto_tutorials/')}.py" if "/" in page else ROOT / "docs" / f"{page}.md"
        assert source.is_file(), page


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_alone_and_leaves_nothing_behind(path, tmp_path):
    before = sorted(FOLDER.rglob("*"))
    known = {"MPLBACKEND": "agg", "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **known, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    assert sorted(FOLDER.rglob("*")) == before
    assert not list(tmp_path.glob("sepclr_med_tutorials_*"))
