import json
from datetime import datetime, timezone

from sepclr_med.provenance import installed_versions, record_step


def test_steps_are_appended_with_versions_and_facts(tmp_path):
    path = tmp_path / "provenance.json"
    for seed in (1, 2):
        record_step(path, "fit", datetime.now(timezone.utc), {"seed": seed})
    steps = json.loads(path.read_text())["steps"]
    assert [step["seed"] for step in steps] == [1, 2]
    assert steps[0]["versions"] == installed_versions()
    assert steps[0]["seconds"] >= 0
    assert "n/a" not in installed_versions().values()
