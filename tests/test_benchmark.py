import json
import subprocess
import sys
from pathlib import Path

import pytest

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
