import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from sepclr_med.cli import main


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")


# Minutes each: started first, so that no process is left alone with one of them at the end.
LONGEST = ["test_readme.py", "test_crossfit.py", "test_processes.py", "test_training.py", "test_compare.py"]


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="minutes long: make test-slow"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real brains and tables beside the project; absent on most machines."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data are not beside this checkout")
    return folder


@pytest.fixture
def run_verb(monkeypatch, capsys):
    """Run the program in this process; gives the exit code, standard output and standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sepclr-med", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only():
    """Close a folder to all writing for the length of a block, also while files in it are open."""

    @contextmanager
    def close(folder):
        if os.getuid():
            inside = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
            modes = [path.stat().st_mode for path in inside]
            for path in inside:
                path.chmod(0o555)
            yield
            for path, mode in zip(inside, modes, strict=True):
                path.chmod(mode)
            return
        # Root may write anywhere but on a read-only file system; this one lies over the folder.
        if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
            pytest.skip("mounting file systems is not allowed here")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            yield
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)

    return close


@pytest.fixture
def signal_after(monkeypatch):
    """Have SIGUSR1 come whenever a function is done."""

    def patch(where, name):
        real = getattr(where, name)

        def and_a_signal(*args, **choices):
            found = real(*args, **choices)
            os.kill(os.getpid(), signal.SIGUSR1)
            return found

        monkeypatch.setattr(where, name, and_a_signal)

    return patch
