"""The lock: exact versions of everything that pyproject.toml reaches, and what is installed agrees. No network."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

tomllib = pytest.importorskip("tomllib", reason="the lock is for Python 3.11 and later")

ROOT = Path(__file__).parents[1]
# `make docs` installs the last of these; elsewhere it may not be there.
HAS_DOCS = find_spec("sphinx") is not None
EXTRAS = ("dev", "explain", "bundle", *(["docs"] if HAS_DOCS else []))
DOCS_ALONE = "# Of the extra docs alone."
# Builds of torch for GPUs pin these themselves, and they differ from machine to machine.
OF_GPU_TORCH = re.compile(r"nvidia-.*|triton|cuda-.*")
LINE = re.compile(r'[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]* ; python_version >= "3\.11"')


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def locked():
    return read_lock((ROOT / "constraints.txt").read_text())


def read_lock(text):
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    wrong = [line for line in lines if not LINE.fullmatch(line)]
    assert not wrong, f"not an exact version: {wrong}"
    pins = [Requirement(line) for line in lines]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names), "a package is locked twice"
    return {name: Version(next(iter(pin.specifier)).version) for name, pin in zip(names, pins, strict=True)}


def reach(requirements):
    """Return every distribution that these requirements need here, with the extras they ask for."""
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in found or OF_GPU_TORCH.fullmatch(name):
            continue
        try:
            needs = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            found[name, extras] = None
            continue
        found[name, extras] = Version(version(name).split("+")[0])
        for need in needs:
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""}):
                waiting.append(need)
    return {name: installed for (name, _), installed in found.items()}


def test_no_requirement_is_loose_or_an_address(project):
    given = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    for text in given:
        requirement = Requirement(text)
        assert requirement.url is None, text
        if requirement.name == project["name"]:
            # One extra made of others.
            assert requirement.extras <= set(project["optional-dependencies"]), text
            continue
        assert any(bound.operator in (">=", "==", "~=") for bound in requirement.specifier), text


def test_what_is_reached_is_locked_and_installed_as_locked(project, locked):
    wanted = [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]
    reached = reach(wanted)
    assert len(reached) > 50
    assert sorted(set(reached) - set(locked)) == [], "not in constraints.txt"
    assert {name: str(v) for name, v in reached.items() if v != locked[name]} == {}, "run `make setup`"


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="other machines need fewer of the packages"
)
def test_nothing_is_locked_that_nothing_reaches(project):
    text = (ROOT / "constraints.txt").read_text()
    locked = read_lock(text if HAS_DOCS else text.split(DOCS_ALONE)[0])
    wanted = [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]
    assert sorted(set(locked) - set(reach(wanted))) == []


def test_the_tools_of_the_documentation_are_locked(project, locked):
    needed = {canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"]["docs"]}
    assert needed <= set(read_lock((ROOT / "constraints.txt").read_text().split(DOCS_ALONE)[1])) <= set(locked)


def test_a_loose_line_is_noticed():
    for line in ("torch>=2", "torch @ https://example.org/torch.whl", "-e .", "torch==2.*", "torch==2.0"):
        with pytest.raises(AssertionError, match="not an exact version"):
            read_lock(line)
