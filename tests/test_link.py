import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sepclr_med import link
from sepclr_med.analysis.associations.layout import format_links
from sepclr_med.analysis.linking import derive_new, link_files
from sepclr_med.errors import ManifestError, RunError, UserError

STATISTICS = ["factor", "variable", "method", "n", "estimate", "ci_low", "ci_high", "statistic", "p_value", "p_fdr"]


def study(n=240, seed=0):
    """Return embeddings and a manifest: factor 0 holds severity, factor 1 follows the site, factor 2 age."""
    rng = np.random.default_rng(seed)
    ids = [f"{i:03d}" for i in range(n)]
    site = rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
    patient = np.arange(n) % 4 != 0
    shift = pd.Series(site).map({"a": 0.0, "b": 1.5, "c": 3.0}).to_numpy()
    rows = pd.DataFrame(
        {
            "participant_id": ids,
            "diagnosis": np.where(patient, "MDD", "HC"),
            "site": site,
            "age": rng.uniform(20, 60, n).round(),
            "sex": rng.choice(["F", "M"], n),
            "severity": np.where(patient, rng.normal(size=n), np.nan),
            "assessor": shift + rng.normal(size=n),
            "grade": rng.integers(1, 4, n).astype(float),
        }
    )
    rows["item_1"], rows["item_2"] = rows["severity"] + rng.normal(size=n), rows["severity"] + rng.normal(size=n)
    factors = rng.normal(size=(n, 4))
    factors[:, 0] += 1.2 * rows["severity"].fillna(0)
    factors[:, 1] += shift
    factors[:, 2] += (rows["age"] - 40) / 10
    table = pd.DataFrame({"participant_id": ids, "split": np.where(np.arange(n) % 3 == 0, "test", "train")})
    table[[f"salient_{i:03d}" for i in range(4)]] = factors
    return {"salient": table}, rows


def best(found, variable, space="salient"):
    rows = found.links[(found.links["variable"] == variable) & (found.links["space"] == space)]
    return rows.sort_values("p_value").iloc[0]


def test_a_planted_link_is_found_and_one_that_follows_the_site_is_not():
    embeddings, rows = study()
    found = link(embeddings, rows, ["severity", "assessor"], ["age", "sex"], ["MDD"], n_permutations=999, parts=[])
    planted, by_site = best(found, "severity"), found.links[found.links["variable"] == "assessor"]
    assert (planted["factor"], planted["p_value"] <= 0.001, planted["ci_low"] > 0.5) == ("salient_000", True, True)
    # Factor 1 and the assessor both follow the site and nothing else.
    follows = by_site[by_site["factor"] == "salient_001"].iloc[0]
    assert follows["p_free"] <= 0.001
    assert follows["p_value"] > 0.05
    said = {verdict["variable"]: verdict for verdict in found.verdicts}
    assert said["severity"]["level"] == "good"
    assert said["assessor"]["level"] == "warning"
    assert "vanishes once permutations stay within blocks" in said["assessor"]["text"]


def test_only_held_out_target_participants_are_tested():
    embeddings, rows = study()
    found = link(embeddings, rows, ["severity"], [], ["MDD"], n_permutations=99, parts=[])
    held_out = set(embeddings["salient"].query("split == 'test'")["participant_id"])
    patients = set(rows.query("diagnosis == 'MDD'")["participant_id"])
    assert set(found.tested.rows["participant_id"]) == held_out & patients
    everyone = link(embeddings, rows, ["severity"], [], ["MDD"], over="all", n_permutations=99, parts=[])
    assert set(everyone.tested.rows["participant_id"]) == patients
    assert any("In-sample" in note for note in everyone.notes)


def test_site_itself_gets_no_p_value_and_no_claim():
    embeddings, rows = study()
    found = link(embeddings, rows, ["site"], target=["MDD"], n_permutations=99, parts=[])
    assert found.links["p_value"].isna().all()
    assert best(found, "site")["p_free"] <= 1
    assert found.verdicts[0]["level"] == "info"
    assert "none is claimed" in found.verdicts[0]["text"]


def test_age_in_the_salient_space_is_called_a_leak():
    embeddings, rows = study()
    found = link(embeddings, rows, ["age"], target=["MDD"], n_permutations=999, parts=[])
    assert found.verdicts[0]["level"] == "warning"
    assert "leaks" in found.verdicts[0]["text"]


def test_canonical_factors_are_fitted_on_training_targets_and_do_not_depend_on_the_axes():
    embeddings, rows = study()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    names = [f"salient_{i:03d}" for i in range(4)]
    turned = embeddings["salient"].copy()
    turned[names] = turned[names].to_numpy() @ turn
    options = {"target": ["MDD"], "factors": ["canonical"], "n_permutations": 199, "parts": []}
    first = link(embeddings, rows, ["severity"], ["age"], **options)
    second = link({"salient": turned}, rows, ["severity"], ["age"], **options)
    np.testing.assert_allclose(first.links["estimate"].abs(), second.links["estimate"].abs(), atol=1e-8)
    np.testing.assert_array_equal(first.links["p_value"], second.links["p_value"])
    _, facts = first.canonical
    n_fitted = ((embeddings["salient"]["split"] == "train") & (rows["diagnosis"] == "MDD")).sum()
    assert facts["FittedParticipants"] == n_fitted
    assert set(first.links["space"]) == {"canonical"}


@pytest.mark.parametrize(
    ("variables", "reason"),
    [(None, "values of 5 participants, 8 needed"), (["severity", "rare"], "5 participants are too few")],
)
def test_variables_that_cannot_be_tested_are_named_with_the_reason(variables, reason):
    embeddings, rows = study()
    held_out = embeddings["salient"]["split"].eq("test") & rows["diagnosis"].eq("MDD")
    rows["rare"] = rows["age"].where(held_out & (held_out.cumsum() <= 5))
    found = link(embeddings, rows, variables, ["age"], ["MDD"], n_permutations=99, parts=[])
    assert found.not_tested["rare"].startswith(reason)
    assert "severity" not in found.not_tested
    # Its p-value is missing for another reason: free permutations tested it.
    assert "site" not in found.not_tested
    assert any(note.startswith("Not tested:") and f"rare ({reason}" in note for note in found.notes)
    terminal = Console(width=400)
    with terminal.capture() as shown:
        terminal.print(format_links(found))
    assert f"rare ({reason}" in shown.get().strip().splitlines()[-1]


def test_batteries_families_and_measures_are_understood():
    embeddings, rows = study()
    found = link(
        embeddings,
        rows,
        ["mood", "grade", "assessor"],
        ["age"],
        ["MDD"],
        families={"symptoms": ["mood", "grade"]},
        batteries={"mood": ["item_1", "item_2"]},
        measures={"grade": "categorical"},
        n_permutations=199,
        parts=[],
    )
    family = found.links.drop_duplicates("variable").set_index("variable")["family"].to_dict()
    assert family == {"mood": "symptoms", "grade": "symptoms", "assessor": "clinical"}
    assert best(found, "mood")["factor"] == "salient_000"
    assert best(found, "grade")["method"] == "multinomial regression"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variables": ["severty"]}, 'did you mean "severity"'),
        ({"variables": ["severity"], "covariates": ["agee"]}, 'did you mean "age"'),
        ({"variables": ["severity"], "blocks": ["sites"]}, 'did you mean "site"'),
        ({"variables": ["severity"], "families": {"mood": ["age"]}}, "in a family, but not tested"),
        ({"variables": ["severity"], "target": ["MD"]}, 'did you mean "MDD"'),
        ({"variables": ["severity"], "over": "heldout"}, 'did you mean "held-out"'),
        ({"variables": ["sex"], "measures": {"sex": "ordinal"}}, "cannot be measured like that"),
    ],
    ids=["variable", "covariate", "block", "family", "target", "over", "measure"],
)
def test_wrong_names_are_refused_with_the_nearest_right_one(options, said):
    embeddings, rows = study(80)
    with pytest.raises(ManifestError) as error:
        link(embeddings, rows, n_permutations=99, parts=[], **options)
    assert said in str(error.value)


def test_too_few_participants_are_refused_with_what_can_be_done():
    embeddings, rows = study(30)
    with pytest.raises(UserError, match="--over all"):
        link(embeddings, rows, ["severity"], target=["MDD"], n_permutations=99)


def test_tables_of_other_origin(tmp_path):
    embeddings, rows = study(120)
    foreign = embeddings["salient"].drop(columns="split").rename(columns=lambda name: name.replace("salient_00", "PC"))
    foreign.to_csv(tmp_path / "factors.csv", index=False)
    rows.assign(grade=rows["grade"].map({1: "mild", 2: "moderate", 3: "severe"})).to_csv(
        tmp_path / "people.tsv", sep="\t", index=False, na_rep="n/a"
    )
    levels = {"grade": {"Levels": {"mild": "", "moderate": "", "severe": ""}}}
    (tmp_path / "people.json").write_text(json.dumps(levels))
    output = tmp_path / "out" / "links.tsv"
    found = link_files(
        [str(tmp_path / "factors.csv")],
        tmp_path / "people.tsv",
        output,
        variables=["severity", "grade"],
        covariates=["age", "sex", "site"],
        target=["MDD"],
        measures={"grade": "ordinal"},
        n_permutations=199,
        n_bootstrap=50,
    )
    table = pd.read_csv(output, sep="\t", na_values="n/a", keep_default_na=False)
    assert {*STATISTICS, "p_free", "p_fwe"} <= set(table.columns)
    assert set(table["factor"]) == {"PC0", "PC1", "PC2", "PC3", "salient (whole)"}
    assert table.set_index(["factor", "variable"]).loc[("PC0", "severity"), "p_value"] <= 0.005
    assert "proportional odds" in table.loc[table["variable"] == "grade", "method"].iloc[0]
    assert {"links_sites.tsv", "links_prediction.tsv", "links_similarity.tsv", "links_link.json"} <= {
        path.name for path in output.parent.iterdir()
    }
    assert len(found.tested) == (rows["diagnosis"] == "MDD").sum()


def test_a_clinical_column_among_the_factors_is_refused(tmp_path):
    embeddings, rows = study(60)
    leaky = embeddings["salient"].assign(age=rows["age"])
    with pytest.raises(ManifestError, match="age"):
        link({"salient": leaky}, rows, ["severity"], n_permutations=99)


def test_embeddings_that_are_no_numbers_or_not_there_are_refused(tmp_path):
    embeddings, rows = study(20)
    rows.to_csv(tmp_path / "people.tsv", sep="\t", index=False, na_rep="n/a")
    broken = embeddings["salient"].astype({"salient_001": object})
    broken.loc[3, "salient_001"] = "high"
    broken.to_csv(tmp_path / "factors.tsv", sep="\t", index=False)
    with pytest.raises(ManifestError, match=r'row 5.*"salient_001".*not a number'):
        link_files([str(tmp_path / "factors.tsv")], tmp_path / "people.tsv", tmp_path / "links.tsv")
    with pytest.raises(RunError, match="no such embeddings"):
        link_files([str(tmp_path / "absent.tsv")], tmp_path / "people.tsv", tmp_path / "links.tsv")
    assert not (tmp_path / "links.tsv").exists()


def test_new_images_of_a_run_that_was_never_linked_get_nothing_more(tmp_path):
    embeddings, _ = study(20)
    assert derive_new(tmp_path, embeddings, tmp_path) == []


def test_statistics_and_report_never_load_torch():
    code = (
        "import sepclr_med.analysis, sepclr_med.report, sepclr_med.analysis.linking, sepclr_med.report.render, sys; "
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_outlying_values_call_for_robust_regression_unless_it_is_refused():
    embeddings, rows = study()
    rows.loc[3::20, "severity"] = 40.0
    options = {"target": ["MDD"], "n_permutations": 99, "parts": []}
    methods = [
        link(embeddings, rows, ["severity", "assessor"], **options, **more).links.drop_duplicates("variable")["method"]
        for more in ({}, {"robust": False})
    ]
    assert methods[0].tolist() == ["robust regression (Huber)", "partial correlation"]
    assert methods[1].tolist() == ["partial correlation", "partial correlation"]


def test_with_many_participants_similarity_waits_to_be_asked_for(monkeypatch):
    embeddings, rows = study(120)
    monkeypatch.setattr("sepclr_med.analysis.linkage.MOST_COMPARED", 20)
    found = link(embeddings, rows, ["severity"], target=["MDD"], n_permutations=99, n_bootstrap=0)
    assert found.similarity.empty
    assert not found.prediction.empty
    assert any("--parts prediction,similarity,subtypes" in note for note in found.notes)
