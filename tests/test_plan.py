import json
import subprocess
import sys
from types import ModuleType

import pytest
from typer.testing import CliRunner

from sepclr_med import load_config, plan, read_manifest, simulate
from sepclr_med.cli import app
from sepclr_med.cluster import write_sbatch
from sepclr_med.errors import ManifestError
from sepclr_med.planning import _recommend
from sepclr_med.probing import Probe, probe

SETTINGS = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.batch_size=8",
    "training.epochs=7",
    "training.threads=1",
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    simulate(folder, n_train=24, n_val=4, n_test=4, spacing=12.0, seed=0)
    return folder / "manifest.tsv"


@pytest.fixture(scope="module")
def found(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = plan(read_manifest(cohort), load_config(overrides=SETTINGS), folder / "run", seconds=30)
    assert list(folder.iterdir()) == []
    return made


def test_a_plan_says_what_training_takes(found):
    facts = found.facts
    assert [p.micro_batch for p in found.probes] == [2, 4, 8]
    assert all(p.step_seconds > 0 and p.forward_seconds > 0 for p in found.probes)
    assert facts["images"] == 28
    assert facts["volumes_bytes"] == 2 * 28 * 16 * 24 * 16
    assert facts["steps_per_epoch"] == 3
    assert facts["training_seconds"] == pytest.approx(7 * 3 * facts["step_seconds"])
    assert not facts["volumes_resident"]
    assert found.micro_batch is None
    assert found.settings == []


def test_its_table_has_a_row_for_each_thing_asked_about(found):
    rows = found.table().set_index("what")["value"]
    for name in ("preprocessing", "volumes", "disk", "device", "RAM", "memory of a step", "epoch", "training"):
        assert rows[name]


def test_a_probe_stops_growing_where_memory_would_end():
    config = load_config(overrides=SETTINGS)
    tried = probe(config, (1, 16, 24, 16), [2, 4, 8], free=1)
    assert [p.micro_batch for p in tried] in ([2], [2, 4])
    assert len(tried) < 3


def test_a_script_that_plans_is_not_run_again_by_the_process_that_measures(tmp_path, monkeypatch):
    mark, script = tmp_path / "again", ModuleType("__main__")
    script.__file__ = str(tmp_path / "study.py")
    (tmp_path / "study.py").write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit(1)\n")
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert len(probe(load_config(overrides=SETTINGS), (1, 16, 24, 16), [2], free=1)) == 1
    assert not mark.exists()
    assert sys.modules["__main__"] is script


def test_the_micro_batch_that_makes_the_shortest_step_is_recommended():
    probes = [Probe(2, 1.0, 0.3, 10), Probe(4, 1.5, 0.5, 20), Probe(8, 3.2, 1.0, 40)]
    best, seconds = _recommend(probes, per_process=8)
    assert (best.micro_batch, seconds) == (8, 3.2)
    best, seconds = _recommend(probes, per_process=16)
    assert (best.micro_batch, seconds) == (4, 8.0)


def test_no_micro_batch_is_recommended_where_only_time_kept_the_whole_batch_from_being_measured():
    probes = [Probe(2, 1.0, 0.3, 10), Probe(4, 1.5, 0.5, 20)]
    best, seconds = _recommend(probes, per_process=16, usable=100)
    assert (best.micro_batch, best.n_bytes, seconds) == (16, 80, 6.0)
    assert _recommend(probes, per_process=16, usable=79)[0].micro_batch == 4


def test_a_plan_says_how_few_images_were_measured_and_that_the_machine_is_busy(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr("sepclr_med.planning.psutil.getloadavg", lambda: (1000.0, 0.0, 0.0))
    made = plan(read_manifest(cohort), load_config(overrides=SETTINGS), tmp_path / "run", seconds=0)
    assert made.micro_batch is None
    assert made.settings == []
    rows = made.table().set_index("what")
    assert "measured on 2 images at most, reckoned from that" in rows.loc["memory of a step", "remark"]
    assert "the machine is busy (load 1000.0" in rows.loc["warning", "value"]


def test_the_command_prints_json_and_writes_a_script_that_requeues(cohort, tmp_path):
    words = ["plan", str(cohort), str(tmp_path / "run"), "--seconds", "5", "--json", "--sbatch", str(tmp_path / "s.sh")]
    given = [word for setting in SETTINGS for word in ("--set", setting)]
    done = CliRunner().invoke(app, [*words, *given, "--partition", "gpu", "--set", "training.devices=2"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["facts"]["processes"] == 2
    script = (tmp_path / "s.sh").read_text()
    for line in ("--ntasks-per-node=2", "--gres=gpu:2", "--signal=USR1@300", "--requeue", "--partition=gpu"):
        assert f"#SBATCH {line}\n" in script
    assert f"srun sepclr-med fit {cohort} {tmp_path / 'run'} --set volumes.spacing=12" in script
    assert "if [ $code -eq 75 ]" in script
    assert "scontrol requeue" in script


def test_a_script_that_slurm_can_read(cohort, tmp_path):
    script = write_sbatch(tmp_path / "s.sh", ["sepclr-med", "fit", "my manifest.tsv", "run"], 1e6, 1 << 35, gpu=False)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert "'my manifest.tsv'" in script.read_text()
    assert "--time=24:00:00" in script.read_text()
    assert "gres" not in script.read_text()


def test_a_manifest_without_splits_is_a_message(cohort, tmp_path):
    with pytest.raises(ManifestError, match="sepclr-med split"):
        plan(read_manifest(cohort).drop(columns="split"), load_config(overrides=SETTINGS), tmp_path / "run")
