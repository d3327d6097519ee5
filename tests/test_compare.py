"""Methods held against one another on one cohort."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sepclr_med import compare, simulate
from sepclr_med.analysis.comparing import compare_embeddings, corrected_t_test, questions
from sepclr_med.analysis.comparison_layout import format_separation
from sepclr_med.analysis.variables import Groups
from sepclr_med.cli.application import app
from sepclr_med.comparison import plan_arms, score_disentanglement
from sepclr_med.errors import ConfigError, ManifestError

N = 160


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    ids = [f"{i:03}" for i in range(N)]
    patient = np.arange(N) % 2 == 0
    table = pd.DataFrame({"participant_id": ids, "diagnosis": np.where(patient, "patient", "control")})
    table["split"] = np.where(np.arange(N) < N // 2, "train", "test")
    table["age"] = rng.normal(50, 10, N)
    table["severity"] = np.where(patient, rng.normal(size=N), np.nan)
    return table


def space(people, name, *columns, noise=0.1, seed=0):
    """A space that holds these columns and nothing else."""
    rng = np.random.default_rng(seed)
    held = np.column_stack([people[c].fillna(0) for c in columns]) if columns else np.zeros((len(people), 1))
    factors = (held - held.mean(axis=0)) / np.maximum(held.std(axis=0), 1e-9) + noise * rng.normal(size=held.shape)
    table = pd.DataFrame(factors, columns=[f"{name}_{k:03d}" for k in range(factors.shape[1])])
    return pd.concat([people[["participant_id", "split"]], table], axis=1)


def run_of(people, common, salient, **options):
    return {
        "common": space(people, "common", *common, **options),
        "salient": space(people, "salient", *salient, **options),
    }


def cell(table, method, space, variable, people="target"):
    where = (table["method"] == method) & (table["space"] == space) & (table["variable"] == variable)
    found = table[where & (table["people"] == people)]
    assert len(found) == 1
    return found.iloc[0]


def test_each_cell_says_what_the_space_holds_and_what_it_should(people):
    runs = {
        "good": [run_of(people, ["age"], ["severity"], seed=s) for s in range(3)],
        "swapped": [run_of(people, ["severity"], ["age"], seed=s) for s in range(3)],
    }
    table = compare_embeddings(runs, people, ["patient"], variables=["age", "severity"], n_bootstrap=200)
    good, swapped = (cell(table, name, "salient", "severity") for name in ("good", "swapped"))
    assert good["value"] > 0.9
    assert good["expected"] == "high"
    assert good["ci_low"] < good["value"] < good["ci_high"]
    assert np.isnan(good["p_value"])
    assert swapped["value"] < 0.1
    assert swapped["difference"] == pytest.approx(swapped["value"] - good["value"])
    assert swapped["difference_high"] < -0.5
    assert swapped["p_value"] < 0.05
    assert cell(table, "good", "salient", "age")["expected"] == "low"
    assert cell(table, "good", "common", "age", "everyone")["value"] > 0.9
    assert set(table["n_seeds"]) == {3}


def test_the_same_method_twice_differs_by_nothing(people):
    seeds = [run_of(people, ["age"], ["severity"], seed=s) for s in range(2)]
    table = compare_embeddings({"a": seeds, "b": seeds}, people, ["patient"], n_bootstrap=50)
    other = table[table["method"] == "b"]
    np.testing.assert_allclose(other[["difference", "difference_low", "difference_high"]], 0, atol=1e-12)
    assert other["p_value"].isna().all()


def test_a_method_of_one_space_has_the_same_figures_in_both(people):
    runs = {"one": [{"salient": space(people, "salient", "age", "severity")}]}
    table = compare_embeddings(runs, people, ["patient"], n_bootstrap=20)
    by_space = [table[table["space"] == s].set_index(["variable", "people"])["value"] for s in ("common", "salient")]
    pd.testing.assert_series_equal(*by_space)


def test_intervals_widen_when_seeds_disagree(people):
    same = [run_of(people, ["age"], ["severity"], noise=0.5, seed=0)] * 3
    apart = [run_of(people, ["age"], ["severity"], noise=noise, seed=0) for noise in (0.1, 0.5, 2.0)]
    widths = []
    for seeds in (same, apart):
        row = cell(compare_embeddings({"m": seeds}, people, ["patient"], n_bootstrap=300), "m", "salient", "severity")
        widths.append(row["ci_high"] - row["ci_low"])
    assert widths[1] > 1.3 * widths[0]


def test_corrected_test_is_wider_than_the_plain_one():
    from scipy import stats

    differences = np.array([0.1, 0.2, 0.15, 0.12])
    assert corrected_t_test(differences, 100, 400) > stats.ttest_1samp(differences, 0).pvalue
    # With nobody scored the correction vanishes.
    assert corrected_t_test(differences, 0, 400) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_a_column_that_controls_have_too_belongs_in_the_common_space(people):
    rng = np.random.default_rng(1)
    rows = people.assign(pattern=rng.normal(size=N))
    asked = {(v.name, v.over): expected["common"] for v, expected in questions(rows, Groups(["patient"]), None)}
    assert asked["pattern", "target"] == asked["pattern", "everyone"] == "high"
    assert asked["severity", "target"] == "low"
    assert asked["age", "target"] == asked["age", "everyone"] == "high"


def test_other_participants_or_seeds_are_refused(people):
    one = run_of(people, ["age"], ["severity"])
    fewer = {name: table.iloc[:-2] for name, table in one.items()}
    with pytest.raises(ManifestError, match="b: other images or seeds"):
        compare_embeddings({"a": [one], "b": [fewer]}, people, ["patient"])
    with pytest.raises(ManifestError, match="b: other images or seeds"):
        compare_embeddings({"a": [one, one], "b": [one]}, people, ["patient"])


def test_groups_apart_are_shown_beside_the_best_probe_within_patients(people):
    rows = people.assign(apart=np.where(people["diagnosis"] == "patient", 1.0, -1.0))
    runs = {"clouds": [run_of(rows, ["age"], ["apart"])], "held": [run_of(rows, ["age"], ["severity"])]}
    table = compare_embeddings(runs, people, ["patient"], variables=["age", "severity"], n_bootstrap=0)
    shown = format_separation(table, score_disentanglement(runs, people, ["severity"], ["patient"]))
    names, silhouettes, _, asked, probes, chances = ([str(cell) for cell in c.cells] for c in shown.columns)
    assert names == ["clouds", "held"]
    assert float(silhouettes[0]) > 0.7 > 0.3 > float(silhouettes[1])
    assert asked == ["severity R2"] * 2
    assert float(probes[0]) < 0.1 < 0.9 < float(probes[1])
    assert all(abs(float(chance)) < 0.1 for chance in chances)


def test_arms_are_named_and_misspelt_methods_refused(tmp_path):
    first, second = tmp_path / "strong.yaml", tmp_path / "weak" / "recipe.yaml"
    second.parent.mkdir()
    first.write_text("training: {epochs: 3}\n")
    second.write_text("training: {epochs: 2}\n")
    assert list(plan_arms([first, second], [], [])) == ["strong", "weak"]
    assert list(plan_arms([first], ["pca", "cvae"], [])) == ["pca", "cvae"]
    assert list(plan_arms([first, second], ["pca"], [])) == ["strong_pca", "weak_pca"]
    with pytest.raises(ConfigError, match='did you mean "simclr"'):
        plan_arms([first], ["simcl"], [])
    with pytest.raises(ConfigError, match="two arms have one name"):
        plan_arms([first, first], [], [])
    second.write_text("cohort: {target: [other]}\n")
    with pytest.raises(ConfigError, match="another cohort section than strong"):
        plan_arms([first, second], [], [])


def test_a_seed_given_twice_is_refused(tmp_path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text("training: {epochs: 3}\n")
    with pytest.raises(ConfigError, match='counted twice; got "0"'):
        compare([recipe], tmp_path / "out", seeds=[0, 1, 0])
    assert not (tmp_path / "out").exists()


def test_compare_fits_what_is_missing_and_nothing_twice(tmp_path):
    simulate(tmp_path / "cohort", n_train=24, n_val=0, n_test=24, spacing=12.0)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "cohort: {manifest: cohort/manifest.tsv}\n"
        "volumes: {spacing: 12}\n"
        "network: {backbone: small, width: 2}\n"
        "method: {common_dim: 4, salient_dim: 3}\n"
        "training: {epochs: 1, batch_size: 12, threads: 1}\n"
        "evaluation: {voxel_pca_components: 4}\n"
    )
    call = ([recipe], tmp_path / "out", [0, 1], ["sepclr_paper", "pca"])
    table = compare(*call, n_bootstrap=20)
    assert set(table["method"]) == {"sepclr_paper", "pca"}
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    weights = tmp_path / "out" / "runs" / "sepclr_paper_seed1" / "checkpoints" / "last.safetensors"
    written = weights.stat().st_mtime_ns
    again = compare(*call, n_bootstrap=20)
    assert weights.stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(table, again)
    compare(*call, n_bootstrap=0, truth=["age", "severity"])
    scores = pd.read_csv(tmp_path / "out" / "disentanglement.tsv", sep="\t")
    assert set(zip(scores["method"], scores["seed_number"], strict=True)) == {
        (method, seed) for method in ("sepclr_paper", "pca") for seed in (0, 1)
    }
    assert set(scores["space"]) == {"common", "salient"}
    assert {"age", "severity", "all"} <= set(scores["variable"])
    words = ["compare", str(recipe), "-o", str(tmp_path / "out"), "--methods", "sepclr_paper,pca", "--seeds", "0,1"]
    printed = CliRunner().invoke(app, [*words, "--bootstrap", "0", "--truth", "age,severity"], env={"COLUMNS": "200"})
    assert printed.exit_code == 0, printed.output
    lines = [line.split() for line in printed.stdout.splitlines()]
    assert sum("chance" in line and "expected" in line for line in lines) == 2
    for variable in ("age,", "severity,"):
        asked = [line for line in lines if line[:2] == [variable, "patients"]]
        assert {line[4] for line in asked} == {"high", "low"}
        assert all(float(line[3]) <= 0 for line in asked)
    assert "silhouette of groups" in printed.stdout
    written = pd.read_csv(tmp_path / "out" / "comparison.tsv", sep="\t")
    pd.testing.assert_frame_equal(written, compare(*call, n_bootstrap=0), check_dtype=False, rtol=1e-4)
    with pytest.raises(ManifestError, match="severty"):
        compare(*call, n_bootstrap=0, truth=["severty"])
    # Methods without chance give the same whatever the seed.
    assert table[table["method"] == "pca"]["seed_sd"].max() == 0
