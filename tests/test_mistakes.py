"""docs/mistakes.md, tried: each command there is run on a study with that mistake and must say exactly that."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import mistaken_studies as studies
import pytest
import torch

from sepclr_med.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "mistakes.md"
SECTION = re.compile(r"^## (.+)\n\n```text\n\$ (.+)\n((?:.*\n)*?)```\n\n(.+)$", re.MULTILINE)
SECTIONS = {title: (command, said, verdict) for title, command, said, verdict in SECTION.findall(PAGE.read_text())}
# Made by check beside the manifest so that images are read once, and by FileLock.
MAY_STAY = re.compile(r"\.manifest\.tsv\.images\.jsonl|.*/\.lock")


def run(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The study untouched, after fit and after embed, each made when it is first asked for."""
    made = {"": tmp_path_factory.mktemp("untouched")}
    studies.make_study(made[""])
    (made[""] / "quick.yaml").write_text(studies.QUICK)

    def stage(name):
        if name not in made:
            before, command = {
                "fitted": ("", "sepclr-med fit manifest.tsv runs/my_study -c quick.yaml"),
                "embedded": ("fitted", "sepclr-med embed runs/my_study"),
            }[name]
            folder = shutil.copytree(stage(before), tmp_path_factory.mktemp(name) / "study")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setattr(sys, "argv", shlex.split(command))
                with pytest.raises(SystemExit) as ended:
                    main()
            assert not ended.value.code
            made[name] = folder
        return made[name]

    return stage


def test_the_page_has_what_is_tried_here_and_nothing_else():
    headings = re.findall(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert headings == list(studies.MISTAKES)
    assert headings == list(SECTIONS)
    assert len(headings) >= 30


@pytest.mark.parametrize("title", list(studies.MISTAKES))
def test_a_mistake_is_answered_as_the_page_says(title, stages, tmp_path, monkeypatch, capsys):
    if title.startswith("A GPU") and torch.cuda.is_available():
        pytest.skip("there is one here")
    prepare, stage = studies.MISTAKES[title]
    command, said, verdict = SECTIONS[title]
    folder = shutil.copytree(stages(stage), tmp_path / "study")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    prepare()
    before = files(folder)
    code, _, err = run(command, monkeypatch, capsys)
    shown = err.replace(str(folder.resolve()), "/data")
    pattern = r"[^\n]*".join(re.escape(part) for part in said.split("..."))
    assert re.fullmatch(pattern, shown), shown
    assert "Traceback" not in err
    expected = re.search(r"Exit code (\d)", verdict)
    assert code == (int(expected[1]) if expected else 1)
    if code == 0 or "keeps its settings" in verdict:
        return
    after = files(folder)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after.keys() - before.keys() if not MAY_STAY.fullmatch(name)]
