"""The Snakemake recipe of a cross-fit, on this machine: jobs, one that fails, and the same command again."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sepclr_med import simulate

RECIPE = Path(__file__).parents[1] / "pipelines" / "cluster" / "Snakefile"
# `make test-slow` runs the programs beside this Python without their folder in the path.
HERE = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
SETTINGS = (
    "volumes.spacing=12 network.backbone=small training.epochs=1 training.batch_size=8 training.threads=1 "
    "volumes.normative.folds=2 evaluation.n_permutations=99 evaluation.n_bootstrap=20"
)


def test_settings_are_divided_between_them_and_not_inside_lists():
    head = RECIPE.read_text().partition("localrules:")[0]
    for wanted in ([], ["training.epochs=50"], ["volumes.normative.covariates=[age, sex]", "training.epochs=50"]):
        names = {"config": {"run": "r", "set": "  ".join(wanted)}}
        exec(head, names)
        assert shlex.split(names["WORDS"]) == [word for setting in wanted for word in ("--set", setting)]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("snakemake", path=HERE["PATH"]) is None, reason="snakemake is not installed: pip install '.[cluster]'"
)
def test_a_failed_model_does_not_stop_the_others_and_the_same_command_goes_on(tmp_path):
    simulate(tmp_path / "study", n_train=54, n_test=6, spacing=12.0, seed=2)
    (tmp_path / "what we test.yaml").write_text("variables: [severity]\ncovariates: [age]\nblocks: []\nfamilies: {}\n")
    frozen = ["seal", "study/manifest.tsv", "--hypotheses", "what we test.yaml"]
    subprocess.run([sys.executable, "-m", "sepclr_med", *frozen], cwd=tmp_path, check=True)
    command = ["snakemake", "-s", str(RECIPE), "--cores", "2", "--keep-going", "--quiet", "--retries", "0", "--config"]
    command += ["manifest=study/manifest.tsv", "run=run", "folds=3", "seeds=1", f"set={SETTINGS}"]
    command += ["hypotheses=what we test.yaml"]

    def call(*words):
        return subprocess.run([*command, *words], cwd=tmp_path, env=HERE, capture_output=True, text=True)

    # A file where one model's folder should be.
    blocked = tmp_path / "run" / "models" / "fold-1_seed-0"
    first = call("--until", "plan")
    assert first.returncode == 0, first.stderr
    blocked.write_text("")
    assert call().returncode != 0
    done = tmp_path / "run.jobs"
    assert sorted(path.name for path in done.iterdir()) == ["fold-0_seed-0.done", "fold-2_seed-0.done", "plan.done"]
    blocked.unlink()
    again = call()
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "analysis" / "stability.tsv").is_file()
    linked = json.loads((tmp_path / "run" / "analysis" / "link.json").read_text())
    assert linked["settings"]["variables"] == ["severity"]
    assert "confirmatory" in " ".join(linked["notes"])
