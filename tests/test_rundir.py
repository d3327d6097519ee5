import errno
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from sepclr_med.atomic import FULL_DISK, atomic_folder, atomic_path
from sepclr_med.checkpoint import save_checkpoint
from sepclr_med.errors import RunError
from sepclr_med.rundir import file_sha256, write_table, write_text


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")

    def fail_half_way():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_message_and_keeps_the_old_file(small_disk):
    path = write_text(small_disk / "a.txt", "old")
    with pytest.raises(RunError, match=r"a\.txt: cannot be written: No space left on device"):
        write_text(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["a.txt"]


def test_a_checkpoint_on_a_full_disk_gets_the_advice_of_one(small_disk):
    with pytest.raises(
        RunError, match=r"a\.safetensors: cannot be written: .*free space or choose another folder, then"
    ):
        save_checkpoint(small_disk / "a.safetensors", {"weights": torch.zeros(100_000)}, {})


def test_a_read_only_file_system_is_no_advice_to_free_space(tmp_path, read_only):
    with read_only(tmp_path), pytest.raises(RunError) as caught:
        write_text(tmp_path / "a.txt", "text")
    assert "choose " in str(caught.value)
    assert "free space" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "getuid") or not os.getuid(), reason="root may write anywhere")
def test_a_folder_one_may_not_write_is_advice_to_choose_another(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(RunError, match="Permission denied; choose a folder you may write"):
        write_text(tmp_path / "a.txt", "text")


def test_a_name_that_is_too_long_is_advice_to_shorten_it(tmp_path):
    for path in (tmp_path / "run" / ("a" * 300), tmp_path / ("a" * 300) / "a.txt"):
        with pytest.raises(
            RunError, match="File name too long; choose a shorter name, or a folder with a shorter path"
        ):
            write_text(path, "text")


def test_a_folder_in_the_place_of_a_file_is_said_to_be_one(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(RunError, match="Is a directory; a folder has this name: rename it or choose another name"):
        write_text(tmp_path / "a.txt", "text")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EROFS, "mounted for writing"),
        (errno.EACCES, "choose a folder you may write"),
        (errno.EPERM, "choose a folder you may write"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EMFILE, "limit on open files"),
        (errno.EFBIG, "takes larger files"),
        (errno.EIO, "see what is the matter there"),
    ],
)
def test_the_advice_fits_the_reason(tmp_path, number, advice):
    with pytest.raises(RunError) as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))
    assert f"a.txt: cannot be written: {os.strerror(number)}; " in str(caught.value)
    assert advice in str(caught.value)
    assert str(caught.value).endswith(", then run the same command again")
    assert ("free space" in str(caught.value)) == (number in FULL_DISK)


def test_a_folder_that_is_a_file_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "text")


def test_tables_are_written_as_bids_wants_them(tmp_path):
    table = pd.DataFrame({"participant_id": ["001", "é"], "age": [1 / 3, None]})
    path = write_table(tmp_path / "a.tsv", table)
    assert path.read_bytes() == "participant_id\tage\n001\t0.33333333\né\tn/a\n".encode()
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~_umask())


def test_the_hash_is_the_one_of_sha256sum(tmp_path):
    path = write_text(tmp_path / "a.txt", "abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_a_killed_process_left_of_a_file_goes_with_its_next_write(tmp_path):
    script = f"""
import os, signal
from sepclr_med.atomic import atomic_path
with atomic_path({str(tmp_path / "a.tsv")!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script])
    with atomic_path(tmp_path / "a.tsv") as other:
        assert len(list(tmp_path.iterdir())) == 1
        write_text(tmp_path / "a.tsv", "whole, while another writes")
        assert other.is_file()
        other.write_text("last")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]
    assert (tmp_path / "a.tsv").read_text() == "last"


@pytest.mark.parametrize("name", [".", ".."])
def test_the_folder_one_is_in_is_not_replaced(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RunError, match=r"is the folder in which this command is run"), atomic_folder(name, True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_folder_is_replaced_whole_and_no_other_is_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("out.v1", ".out.v1.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    with atomic_folder("out.v1", overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        ".out.v1.old/a",
        "out.v1/b",
    ]
