"""The README's commands, run as they stand on a small simulated BIDS folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from sepclr_med import load_config, simulate
from sepclr_med.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALL = [
    "training.epochs=1",
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.batch_size=8",
]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, words


def test_the_nine_commands_of_a_study_and_the_python_below_them(tmp_path, monkeypatch):
    simulate(tmp_path / "study", n_train=80, n_test=20, spacing=12.0, seed=2)
    (tmp_path / "study" / "derivatives" / "simulated").rename(tmp_path / "study" / "derivatives" / "vbm")
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("sepclr-med")]
    verbs = ["manifest", "check", "split", "fit", "embed", "evaluate", "link", "explain", "report"]
    assert [command.split()[1] for command in commands] == verbs
    for command in commands:
        words = shlex.split(command.replace("/data/my_study", str(tmp_path / "study")), comments=True)
        small = [word for setting in SMALL for word in ("--set", setting)] if words[1] == "fit" else []
        few = ["--permutations", "99"] if words[1] in ("evaluate", "link", "explain") else []
        run([*words, *small, *few], monkeypatch)
    assert (tmp_path / "runs" / "my_study" / "report.html").is_file()
    monkeypatch.setattr("sepclr_med.config.load_config", lambda recipe: load_config(recipe, SMALL))
    names = {}
    exec(compile(blocks("python")[0].replace("runs/my_study", "runs/python"), "README.md", "exec"), names)
    assert set(names["tables"]) == {"common", "salient", "voxel_pca"}
    assert len(names["tables"]["salient"]) == 100
    assert {"factor", "p_value", "p_free"} <= set(names["found"].links.columns)


def test_the_two_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = [line.split()[1] for block in blocks("bash") for line in block.splitlines() if line.startswith("make")]
    assert named == ["demo", "test"]
    assert set(named) <= targets
