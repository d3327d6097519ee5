"""Agreement of models: known figures, what rotation must not change, and factors that are set aside."""

import re

import numpy as np
import pandas as pd
import pytest

from sepclr_med.analysis.agreement import debiased_cka, intraclass_correlation
from sepclr_med.analysis.linkage import link
from sepclr_med.analysis.stability import reading_stability, space_stability
from sepclr_med.cohort.embeddings import factor_columns, read_replicates, write_embeddings
from sepclr_med.errors import UserError
from sepclr_med.report.render import report
from sepclr_med.rundir import write_table

# Six targets rated by four judges: Shrout and Fleiss (1979), table 2.
RATINGS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


def table(scores, space="salient", split=None):
    ids = [f"{number:03}" for number in range(len(scores))]
    factors = pd.DataFrame(scores, columns=[f"{space}_{number:03}" for number in range(scores.shape[1])])
    return pd.concat([pd.DataFrame({"participant_id": ids, "split": split}), factors], axis=1)


@pytest.fixture
def replicates():
    """Three seeds that agree on the first factor alone, and a variable that goes with it."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(80, 1))
    seeds = [np.hstack([3 * true + 0.3 * rng.normal(size=(80, 1)), rng.normal(size=(80, 2))]) for _ in range(3)]
    common = rng.normal(size=(80, 2))
    tables = [{"salient": table(scores), "common": table(common, "common")} for scores in seeds]
    mean = {"salient": table(np.mean(seeds, axis=0)), "common": table(common, "common")}
    manifest = pd.DataFrame({"participant_id": mean["salient"]["participant_id"], "severity": true[:, 0]})
    manifest["side"] = np.where(true[:, 0] > 0, "left", "right")
    return tables, mean, manifest


def test_the_published_example_of_intraclass_correlations():
    found = intraclass_correlation(RATINGS.T[:, :, None])
    assert {name: round(float(value[0]), 2) for name, value in found.items()} == {
        "icc": 0.29,
        "icc_low": 0.02,
        "icc_high": 0.76,
        "icc_mean": 0.62,
    }


def test_intraclass_correlation_of_noise_is_zero_on_average_and_of_a_constant_missing():
    rng = np.random.default_rng(0)
    found = intraclass_correlation(rng.normal(size=(3, 40, 2000)))
    assert abs(found["icc"].mean()) < 0.01
    covered = (found["icc_low"] <= 0) & (found["icc_high"] >= 0)
    assert 0.93 < covered.mean() < 0.97
    # A shift of one model against the others is disagreement.
    same = rng.normal(size=(1, 40, 1)).repeat(2, axis=0)
    assert intraclass_correlation(same + np.array([0, 2])[:, None, None])["icc"][0] < 0.5
    assert np.isnan(intraclass_correlation(np.full((2, 10, 1), 3.0))["icc"][0])


def test_alignment_of_kernels_is_blind_to_rotation_and_unbiased_for_few_participants():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(12, 8))
    turned = 3 * x @ np.linalg.qr(rng.normal(size=(8, 8)))[0] + 1
    assert debiased_cka(x, turned) == pytest.approx(1)
    independent = [debiased_cka(rng.normal(size=(12, 8)), rng.normal(size=(12, 8))) for _ in range(300)]
    assert abs(np.mean(independent)) < 3 * np.std(independent) / np.sqrt(300)


def test_only_factors_that_models_agree_on_are_tested(replicates):
    tables, mean, manifest = replicates
    seen = [mean, {"salient": mean["salient"], "common": mean["common"]}]
    found = link(
        mean,
        manifest,
        ["severity"],
        n_permutations=199,
        parts=["prediction"],
        replicates={"seeds": tables, "folds": seen},
    )
    agreed = found.stability.set_index("factor")
    assert agreed["stable"].to_dict() == {
        "salient_000": True, "salient_001": False, "salient_002": False, "common_000": True, "common_001": True
    }  # fmt: skip
    assert agreed.loc["salient_000", "icc"] > 0.95
    assert agreed.loc["salient_001", "icc"] < 0.4
    assert (agreed["icc_folds"] == 1).all()
    single = found.links[found.links["space"].eq("salient") & ~found.links["factor"].str.endswith("(whole)")]
    assert single["factor"].tolist() == ["salient_000"]
    # Corrected for the one factor that is tested, not for three.
    assert single["p_fwe"].iloc[0] == single["p_value"].iloc[0]
    assert any("set aside: salient_001 to salient_002" in note for note in found.notes)
    assert any(found.links["factor"].str.endswith("(whole)"))
    everything = link(
        mean, manifest, ["severity"], n_permutations=199, parts=[], replicates={"seeds": tables}, smallest_icc=0
    )
    assert everything.links["factor"].tolist() == ["salient_000", "salient_001", "salient_002"]


def test_the_spread_of_a_participant_over_seeds_is_told_beside_that_between_participants(replicates, tmp_path):
    tables, mean, manifest = replicates
    found = link(mean, manifest, ["severity"], n_permutations=99, parts=[], replicates={"seeds": tables}).stability
    scores = np.stack([each["salient"]["salient_000"] for each in tables])
    expected = np.median(scores.std(axis=0, ddof=1)) / scores.mean(axis=0).std(ddof=1)
    spread = found.set_index("factor")["seed_spread"]
    assert spread["salient_000"] == pytest.approx(expected)
    # Noise of 0.3 on scores of 3; on the others noise and nothing else.
    assert spread["salient_000"] == pytest.approx(0.1, abs=0.03)
    assert spread[["salient_001", "salient_002"]].min() > 0.8
    assert spread[["common_000", "common_001"]].max() == 0
    write_table(tmp_path / "analysis" / "stability.tsv", found)
    report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.search(
        r"SD of a participant(&#39;|')s score over seeds, in SDs between participants \(median\): "
        r"salient 1\.\d\d \(salient_000 0\.\d\d to salient_00[12] 1\.\d\d\), common 0\.00",
        page,
    )
    assert "<b>spread</b>: SD of a participant" in page


def test_without_several_seeds_no_spread_is_told(replicates, tmp_path):
    _, mean, manifest = replicates
    found = link(
        mean, manifest, ["severity"], n_permutations=99, parts=[], replicates={"folds": [mean, mean]}
    ).stability
    assert found["seed_spread"].isna().all()
    # Also of a table that was written before there was one.
    for table in (found, found.drop(columns="seed_spread")):
        write_table(tmp_path / "analysis" / "stability.tsv", table)
        report(tmp_path)
        assert "over seeds, in SDs" not in (tmp_path / "report.html").read_text()


def test_one_that_saw_participants_otherwise_than_the_others_makes_a_factor_unstable(replicates):
    tables, mean, manifest = replicates
    other = mean["salient"].assign(salient_000=np.random.default_rng(3).normal(size=80))
    folds = [mean, {**mean, "salient": other}]
    with pytest.raises(UserError, match=r"0 of 3 salient factors are stable.*--smallest-icc 0"):
        link(mean, manifest, ["severity"], n_permutations=199, parts=[], replicates={"seeds": tables, "folds": folds})


def test_canonical_factors_of_replicates_are_those_of_the_mean(replicates):
    tables, mean, manifest = replicates
    found = link(
        mean, manifest, ["severity"], factors=["salient", "canonical"], n_permutations=199, parts=[],
        replicates={"seeds": tables},
    )  # fmt: skip
    canonical = found.stability[found.stability["space"] == "canonical"].set_index("factor")
    assert canonical.loc["canonical_000", "icc"] > 0.95
    assert not canonical.loc["canonical_002", "stable"]
    assert "canonical_000" in set(found.links["factor"])


def test_spaces_and_readings(replicates):
    tables, mean, manifest = replicates
    tested = link(mean, manifest, ["severity"], n_permutations=99, parts=[]).tested
    spaces = space_stability({"seeds": tables}, tested, ["salient", "common"])
    assert spaces["compared"].tolist() == ["seeds 0, 1", "seeds 0, 2", "seeds 1, 2"] * 2
    same = spaces[spaces["space"] == "common"]
    np.testing.assert_allclose(same[["cka", "overlap"]], 1, atol=1e-9)
    np.testing.assert_allclose(same["largest_angle"], 0, atol=1e-4)
    shared = spaces[spaces["space"] == "salient"]
    assert shared["cka"].between(0.7, 0.99).all()
    read = reading_stability({"seeds": tables}, tested, "salient", ["severity", "side"]).set_index("variable")
    assert read.loc["severity", "r2"] > 0.95
    assert read.loc["severity", "icc"] > 0.95
    assert read.loc["side", "n_seeds"] == 3


def test_spaces_of_those_seen_and_unseen_are_compared_also_of_one_seed(replicates, tmp_path):
    tables, mean, manifest = replicates
    folds = [mean, {"salient": tables[0]["salient"], "common": mean["common"]}]
    for several in ({"folds": folds}, {"seeds": tables, "folds": folds}):
        found = link(mean, manifest, ["severity"], n_permutations=99, parts=[], replicates=several).space_stability
        unseen = found[found["compared"] == "unseen, seen"].set_index("space")
        assert len(found) - len(unseen) == 6 * ("seeds" in several)
        assert unseen.loc["common", "cka"] == pytest.approx(1)
        assert 0.7 < unseen.loc["salient", "cka"] < 0.99
        assert unseen["overlap"].between(unseen["overlap_chance"], 1 + 1e-9).all()
        write_table(
            tmp_path / "analysis" / "stability.tsv", pd.DataFrame({"space": ["salient"], "factor": "s", "stable": True})
        )
        write_table(tmp_path / "analysis" / "space_stability.tsv", found)
        report(tmp_path)
        page = (tmp_path / "report.html").read_text()
        assert page.count("unseen, seen</td>") == 2
        assert page.count("seeds 0, 2</td>") == 2 * ("seeds" in several)


def test_a_table_of_spaces_from_before_folds_were_compared_is_still_shown(replicates, tmp_path):
    tables, mean, manifest = replicates
    found = link(mean, manifest, ["severity"], n_permutations=99, parts=[], replicates={"seeds": tables})
    write_table(tmp_path / "analysis" / "stability.tsv", found.stability)
    before = found.space_stability.assign(seeds=found.space_stability["compared"].str.removeprefix("seeds "))
    write_table(tmp_path / "analysis" / "space_stability.tsv", before.drop(columns="compared"))
    report(tmp_path)
    assert "seeds 0, 2" in (tmp_path / "report.html").read_text()


def test_replicates_are_read_back(replicates, tmp_path):
    tables, mean, _ = replicates
    assert read_replicates(tmp_path) == {}
    write_embeddings(mean, tmp_path, {})
    for number, each in enumerate(tables):
        write_embeddings(each, tmp_path / f"seed-{number}", {})
    write_embeddings(mean, tmp_path / "seen", {})
    found = read_replicates(tmp_path)
    assert {name: len(several) for name, several in found.items()} == {"seeds": 3, "folds": 2}
    assert factor_columns(found["seeds"][2]["salient"]) == factor_columns(mean["salient"])
