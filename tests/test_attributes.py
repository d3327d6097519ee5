"""Salient factors that are taught a column each, from images to tables."""

import numpy as np
import pytest

from sepclr_med import embed, fit, load_config, read_manifest, simulate, training
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.rundir import write_table

SETTINGS = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=25",
    "training.batch_size=30",
    "training.learning_rate=0.003",
    "training.threads=1",
    "method.common_dim=4",
    "method.salient_dim=3",
    "method.independence=none",
    "method.w_attributes=100",
    "evaluation.voxel_pca_components=3",
]
ATTRIBUTES = "method.attributes={severity: continuous, subtype: discrete}"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Simulated images, with attributes missing of a training patient and of a test patient."""
    folder = tmp_path_factory.mktemp("cohort")
    table = simulate(folder, n_train=60, n_val=8, n_test=24, spacing=12.0, seed=0)
    for split in ("train", "test"):
        row = table.index[(table["split"] == split) & (table["diagnosis"] == "patient")][0]
        table.loc[row, ["severity", "subtype"]] = np.nan
    write_table(folder / "manifest.tsv", table)
    return read_manifest(folder / "manifest.tsv")


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_progress", lambda *_: None)
        return fit(cohort, load_config(overrides=[*SETTINGS, ATTRIBUTES]), tmp_path_factory.mktemp("runs") / "taught")


@pytest.fixture(scope="module")
def salient(run):
    embed(run)
    return read_embeddings(run / "embeddings")["salient"]


def test_the_first_salient_factors_hold_their_attribute_in_the_order_named_and_not_the_other_s(cohort, salient):
    assert factor_columns(salient) == ["salient_000", "salient_001", "salient_002"]
    assert list(salient["participant_id"]) == list(cohort["participant_id"])
    known = (cohort["severity"].notna() & (cohort["split"] == "train")).to_numpy()
    columns = {"severity": cohort["severity"], "subtype": (cohort["subtype"] == "A").astype(float)}
    found = {
        (factor, name): abs(np.corrcoef(salient.loc[known, factor], values[known])[0, 1])
        for factor in ("salient_000", "salient_001")
        for name, values in columns.items()
    }
    for factor, own, other in (("salient_000", "severity", "subtype"), ("salient_001", "subtype", "severity")):
        assert found[factor, own] > 0.75
        assert found[factor, other] < 0.4
    # Controls are pulled to null.
    control, factors = (cohort["diagnosis"] == "control").to_numpy(), salient[factor_columns(salient)].abs()
    assert factors[control].mean().max() < factors[~control].mean().min() / 2


def test_who_has_no_attribute_is_embedded_and_new_participants_need_no_such_column(cohort, salient, run, tmp_path):
    missing = (cohort["severity"].isna() & (cohort["diagnosis"] == "patient")).to_numpy()
    assert set(cohort["split"][missing]) == {"train", "test"}
    values = salient[factor_columns(salient)].to_numpy(float)
    assert np.isfinite(values).all()
    assert (np.abs(values[missing]).max(axis=1) > 0.1).all()
    new = cohort[cohort["split"] == "test"].drop(columns=["severity", "subtype"]).reset_index(drop=True)
    found = embed(run, new, tmp_path / "out")["salient"]
    expected = values[(cohort["split"] == "test").to_numpy()]
    np.testing.assert_allclose(found[factor_columns(found)], expected, rtol=1e-4, atol=1e-4)


def test_attributes_that_are_no_columns_are_named_all_at_once_before_anything_is_trained(cohort, run_verb, tmp_path):
    write_table(tmp_path / "manifest.tsv", cohort.drop(columns=["severity", "subtype"]))
    options = [word for setting in [*SETTINGS, ATTRIBUTES] for word in ("--set", setting)]
    code, _, err = run_verb("fit", tmp_path / "manifest.tsv", tmp_path / "run", *options)
    assert code == 1
    for name in ("severity", "subtype"):
        assert f'method.attributes: no such column; got "{name}"; allowed: diagnosis, age, sex, site' in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()
