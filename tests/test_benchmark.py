import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

BENCHMARK = Path(__file__).parents[1] / "pipelines" / "benchmark" / "run.py"


def run(tmp_path, *words):
    command = [sys.executable, str(BENCHMARK), "--quick", "--device", "cpu", "--output", str(tmp_path / "results.json")]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((tmp_path / "results.json").read_text()), done.stdout


def test_results_of_other_letters_are_kept(tmp_path):
    (tmp_path / "results.json").write_text('{"f": "kept"}')
    results, said = run(tmp_path, "--only", "manifest")
    assert results["f"] == "kept"
    assert results["manifest"]["rows"] == 1000
    assert "manifest | seconds" in said


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path):
    results, _ = run(tmp_path)
    assert set("abcdefg") <= set(results)
    assert results["d"]["gradient"]["relative difference"] < 1e-5
    row = results["f"]["batch 64"]
    assert row["ours"]["value"] == pytest.approx(row["naive"]["value"], rel=1e-4)


ABLATION = BENCHMARK.parents[1] / "ablation"
TINY = {
    "training.epochs": 1,
    "training.threads": 1,
    "training.batch_size": 16,
    "volumes.spacing": 12,
    "cohort.simulate.spacing": 12,
    "cohort.simulate.n_train": 48,
    "cohort.simulate.n_test": 24,
}


@pytest.mark.slow
def test_every_variant_of_the_ablation_runs(tmp_path):
    arms = yaml.safe_load((ABLATION / "arms.yaml").read_text())
    names = [name for name, settings in arms.items() if any(setting.startswith("variant=") for setting in settings)]
    tiny = [f"--set={key}={value}" for key, value in TINY.items()]
    command = [sys.executable, ABLATION / "run.py", tmp_path, "--arms", ",".join(names), *tiny]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(pd.read_csv(tmp_path / "ablation.tsv", sep="\t")["arm"]) == set(names)
