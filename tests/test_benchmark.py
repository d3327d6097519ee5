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


def test_letters_can_be_run_alone_and_are_kept_beside_one_another(tmp_path):
    results, said = run(tmp_path, "--only", "f")
    assert results["f"]["batch 64"]["ours"]["value"] == pytest.approx(
        results["f"]["batch 64"]["naive"]["value"], rel=1e-4
    )
    assert "f | batch 64 | ours | seconds" in said
    results, _ = run(tmp_path, "--only", "manifest")
    assert {"f", "manifest"} <= set(results)


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path):
    results, _ = run(tmp_path)
    assert set("abcdefg") <= set(results)
    assert results["d"]["gradient"]["relative difference"] < 1e-5
