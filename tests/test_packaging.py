"""What is given to users: built from the files of the repository, installed elsewhere, and run there."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from sepclr_med import __version__

ROOT = Path(__file__).parents[1]
# Written by the build itself.
MADE = ("PKG-INFO", "setup.cfg", "sepclr_med.egg-info/")
NOT_SHIPPED = (".ci/", ".github/", ".gitignore", ".dockerignore", ".editorconfig", ".pre-commit-config.yaml")


def call(*words, **more):
    """Run a program away from this checkout, which must not be found by accident; gives what it printed."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, words)], env=clean, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tracked():
    """Every file of the repository."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """The sdist, and the wheel made from it, of a clean copy: what lies about in this checkout stays out."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An environment with the wheel alone, which sees the libraries of this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", built[1])
    (site,) = home.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    return home


def test_the_sdist_holds_the_repository_and_nothing_else(built, tracked):
    with tarfile.open(built[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    own = {name for name in names if not name.startswith(MADE)}
    assert sorted(own - tracked) == []
    assert sorted(name for name in tracked - own if not name.startswith(NOT_SHIPPED)) == []


def test_the_wheel_holds_the_package_and_nothing_else(built, tracked):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        meta = Parser().parsestr(archive.read(f"sepclr_med-{__version__}.dist-info/METADATA").decode())
    info = f"sepclr_med-{__version__}.dist-info/"
    own = {name for name in names if not name.startswith(info)}
    manifests = {f"sepclr_med/{name}" for name in tracked if name.startswith("data_manifests/")}
    assert own == manifests | {name for name in tracked if name.startswith("sepclr_med/")}
    assert {"sepclr_med/py.typed", "sepclr_med/report/templates/report.html"} <= own
    assert f"{info}licenses/LICENSE" in names
    assert meta["Version"] == __version__
    assert meta["License-Expression"] == "Apache-2.0"
    assert {"explain", "bundle", "cluster", "dev", "all"} <= set(meta.get_all("Provides-Extra"))


def test_what_is_installed_runs_without_the_repository(installed, tmp_path):
    program, python = installed / "bin" / "sepclr-med", installed / "bin" / "python"
    assert call(program, "--version", cwd=tmp_path).strip() == f"sepclr-med {__version__}"
    assert "simulate" in call(program, "--help", cwd=tmp_path)
    script = (
        "import sepclr_med, sys; from importlib.metadata import version; from importlib.resources import files\n"
        "print(sepclr_med.__file__, version('sepclr-med'), 'torch' in sys.modules)\n"
        "from sepclr_med.report.render import _environment; _environment().get_template('report.html')\n"
        "assert files('sepclr_med').joinpath('py.typed').is_file()\n"
    )
    where, version, torch = call(python, "-c", script, cwd=tmp_path).split()
    assert Path(where).is_relative_to(installed)
    assert (version, torch) == (__version__, "False")
    assert "abide1" in call(program, "manifest", "--cohort", "list", cwd=tmp_path)
    call(program, "simulate", "study", "--train", "8", "--test", "4", "--spacing", "12", cwd=tmp_path)
    manifest = call(program, "manifest", "study", "-o", "m.tsv", "--derivative", "simulated", "--suffix", "probseg",
                    cwd=tmp_path)  # fmt: skip
    assert manifest.startswith("12 images of 12 participants")


@pytest.mark.slow
def test_an_empty_environment_gets_all_it_needs_from_the_registry(built, tmp_path):
    """With the versions of the lock, a run from cohort to report. Downloads gigabytes."""
    venv.create(tmp_path / "env", with_pip=True, symlinks=True)
    bin_ = tmp_path / "env" / "bin"
    reach = [bin_ / "python", "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path / "probe", "packaging"]
    if subprocess.run(reach, capture_output=True).returncode:
        pytest.skip("no package registry can be reached")
    call(bin_ / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", built[1])
    (tmp_path / "recipe.yaml").write_text(
        "cohort: {simulate: {n_train: 40, n_val: 4, n_test: 32, spacing: 12.0, seed: 3}}\n"
        "volumes: {spacing: 12.0}\nnetwork: {backbone: small, width: 2}\n"
        "training: {epochs: 1, batch_size: 8}\nmethod: {common_dim: 3, salient_dim: 3}\n"
        "evaluation: {n_permutations: 99, n_bootstrap: 20, voxel_pca_components: 4, explain_permutations: 99}\n"
    )
    call(bin_ / "sepclr-med", "run", "recipe.yaml", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_version_is_the_same_wherever_it_stands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.findall(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0]
    assert (citation["version"], str(citation["date-released"])) == newest
    assert citation["version"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", __version__)
