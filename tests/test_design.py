import re

import numpy as np
import pandas as pd
import pytest

from sepclr_med.cohort.balance import (
    cramers_v,
    participants_of,
    site_table,
    standardised_difference,
    table_one,
)
from sepclr_med.cohort.consistency import check_participants
from sepclr_med.cohort.design import judge_acquisition, judge_design
from sepclr_med.errors import ManifestError
from sepclr_med.volumes.normative_design import learn_design


def cohort(n=200, seed=0):
    """Return a balanced two-site cohort with one image per participant, and its roles."""
    half = n // 2
    rng = np.random.default_rng(seed)
    age, tiv = rng.normal(40, 10, half), rng.normal(1450, 120, half)
    rows = pd.DataFrame(
        {
            "participant_id": [f"{number:04d}" for number in range(n)],
            "diagnosis": np.repeat(["control", "patient"], half),
            "site": np.tile(["A", "B"], half),
            "age": np.tile(age, 2),
            "sex": np.tile(["F", "F", "M", "M"], n // 4),
            "tiv": np.tile(tiv, 2),
        }
    )
    return rows, rows["diagnosis"].map({"control": "background", "patient": "target"}).rename("role")


def codes(rows, role):
    return [problem.code for problem in judge_design(rows, role)]


def one(problems, code):
    found = [problem for problem in problems if problem.code == code]
    assert len(found) == 1, [problem.code for problem in problems]
    return found[0]


def smd_with_two_levels(background, target):
    p, q = np.mean(np.asarray(background) == "F"), np.mean(np.asarray(target) == "F")
    return abs(p - q) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2)


def test_difference_of_means_follows_its_formula():
    rng = np.random.default_rng(0)
    background, target = pd.Series(rng.normal(0, 1, 30)), pd.Series(rng.normal(1, 2, 50))
    pooled = np.sqrt((np.std(background, ddof=1) ** 2 + np.std(target, ddof=1) ** 2) / 2)
    expected = (np.mean(target) - np.mean(background)) / pooled
    assert standardised_difference(background, target) == pytest.approx(expected)
    assert standardised_difference(target, background) == pytest.approx(-expected)
    with_gaps = pd.concat([background, pd.Series([np.nan] * 9)])
    assert standardised_difference(with_gaps, target) == pytest.approx(expected)


def test_difference_of_shares_with_two_levels_is_the_binary_formula():
    background, target = pd.Series(["F"] * 7 + ["M"] * 3), pd.Series(["F"] * 9 + ["M"] * 11)
    expected = smd_with_two_levels(background, target)
    assert standardised_difference(background, target) == pytest.approx(expected)
    assert standardised_difference(target, background) == pytest.approx(expected)


def test_difference_of_shares_with_three_levels_is_the_mahalanobis_distance():
    background, target = pd.Series(list("aaaabbbccc")), pd.Series(list("abbbbbcccc"))
    c, t = np.array([0.3, 0.3]), np.array([0.5, 0.4])
    covariance = (np.diag(c) - np.outer(c, c) + np.diag(t) - np.outer(t, t)) / 2
    expected = np.sqrt((t - c) @ np.linalg.inv(covariance) @ (t - c))
    assert standardised_difference(background, target) == pytest.approx(expected)
    renamed = {"a": "z", "b": "y", "c": "x"}
    assert standardised_difference(background.map(renamed), target.map(renamed)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("background", "target", "expected"),
    [
        (["F", "F"], ["M", "M"], np.inf),
        (["F", "O"], ["M", "M"], np.inf),
        (["F", "F"], ["F"], 0.0),
        ([1.0, 1.0], [2.0, 2.0], np.inf),
        ([2.0, 2.0], [1.0, 1.0], -np.inf),
        ([1.0, 1.0], [1.0, 1.0], 0.0),
        ([1.0], [1.0, 2.0], np.nan),
        (["F"], [None], np.nan),
    ],
)
def test_differences_at_the_edges(background, target, expected):
    found = standardised_difference(pd.Series(background), pd.Series(target))
    np.testing.assert_equal(found, expected)


def test_cramers_v_is_one_when_complete_and_does_not_grow_with_the_number_of_sites():
    rng = np.random.default_rng(0)
    group = pd.Series(np.repeat(["b", "t"], 60))
    assert cramers_v(group, group.map({"b": "A", "t": "B"})) == pytest.approx(1)
    chance = [cramers_v(group, pd.Series(rng.integers(0, 30, 120))) for _ in range(50)]
    assert np.median(chance) < 0.1
    assert np.isnan(cramers_v(group, pd.Series(["A"] * 120)))


def test_table_one_counts_participants_and_missing_values():
    rows, role = cohort()
    rows.loc[:9, "age"] = np.nan
    rows.loc[150:, "sex"] = None
    sessions = pd.concat([rows, rows[:100]], ignore_index=True)
    table = table_one(sessions, pd.concat([role, role[:100]], ignore_index=True)).set_index(["variable", "level"])

    assert table.loc[("participants", ""), ["background", "target"]].tolist() == [100, 100]
    assert table.loc[("images", ""), ["background", "target"]].tolist() == [200, 100]
    age = table.loc[("age", "")]
    assert age["background"] == pytest.approx(rows.loc[10:99, "age"].mean())
    assert age["target_spread"] == pytest.approx(rows.loc[100:, "age"].std())
    assert age[["missing_background", "missing_target"]].tolist() == [10, 0]
    assert table.loc[("sex", ""), ["background", "target", "missing_target"]].tolist() == [100, 50, 50]
    females = rows.loc[100:149, "sex"].eq("F").sum()
    assert table.loc[("sex", "F"), ["target", "target_spread"]].tolist() == [females, 2 * females]


def test_table_one_leaves_out_paths_and_lists_no_endless_levels():
    rows, role = cohort()
    rows["image_path"] = rows["participant_id"] + ".nii"
    rows["comment"] = rows["participant_id"] + " was fine"
    table = table_one(rows, role)
    assert "image_path" not in set(table["variable"])
    assert table.loc[table["variable"] == "comment", ["statistic", "background"]].to_numpy().tolist() == [
        ["distinct values", 100]
    ]
    assert np.isnan(table.loc[table["variable"] == "diagnosis", "smd"]).all()


def test_site_table_counts_travellers_at_every_site_and_those_without_one():
    rows = pd.DataFrame(
        {"participant_id": list("aabc"), "site": ["A", "B", "B", None], "diagnosis": ["x", "x", "y", "z"]}
    )
    role = pd.Series(["background", "background", "target", "target"])
    table = site_table(rows, role).set_index("site")
    assert table.loc["A", ["background", "target", "groups"]].tolist() == [1, 0, "background only"]
    assert table.loc["B", ["background", "target", "groups"]].tolist() == [1, 1, "both"]
    assert table.loc["n/a", "target"] == 1
    sessions = site_table(pd.concat([rows, rows], ignore_index=True), pd.concat([role, role], ignore_index=True))
    pd.testing.assert_frame_equal(sessions.set_index("site"), table)
    assert table.loc["B", ["x", "y", "z"]].tolist() == [1, 1, 0]
    assert site_table(rows.drop(columns="site"), role).empty


def test_first_known_value_of_a_participant_counts():
    rows = pd.DataFrame({"participant_id": ["a", "a"], "sex": [None, "F"], "age": [np.nan, 3.0]})
    assert participants_of(rows).loc["a"].tolist() == ["F", 3.0]


def test_a_balanced_cohort_gives_nothing_to_say():
    assert codes(*cohort()) == []


def test_a_site_with_controls_only_is_named_with_cost_and_remedies():
    rows, role = cohort()
    rows.loc[:9, "site"] = "C"
    problem = one(judge_design(rows, role), "one_group_site")
    assert problem.severity == "warning"
    assert '"C" (10 participants, background only)' in problem.message
    assert "inseparable" in problem.message
    assert "scanner" in problem.message
    assert "leave these rows out" in problem.fix


def test_a_site_with_patients_only_costs_something_else():
    rows, role = cohort()
    rows.loc[190:, "site"] = "C"
    problem = one(judge_design(rows, role), "one_group_site")
    assert "(10 participants, target only)" in problem.message
    assert "will encode the scanner and call it disease" in problem.message


def test_when_every_site_has_one_group_it_is_an_error():
    rows, role = cohort()
    rows["site"] = np.repeat(["A", "B"], 100)
    problem = one(judge_design(rows, role), "one_group_site")
    assert problem.severity == "error"
    assert "This holds for every site" in problem.message


def test_one_site_for_all_and_missing_sites_are_no_finding():
    rows, role = cohort()
    assert "one_group_site" not in codes(rows.assign(site="A"), role)
    rows.loc[:3, "site"] = None
    assert codes(rows, role) == ["reference"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.assign(age=rows["age"].where(rows.index != 3)), "rows without a value (age 1)"),
        (lambda rows: rows.assign(site=np.where(rows.index % 100 < 2, "C", "A")), 'site "C" with 2 training controls'),
        (lambda rows: rows.assign(sex=np.where(rows.index == 150, "M", "F")), 'sex "M" with 0 training controls'),
    ],
)
def test_what_the_reference_will_refuse_is_said_beforehand(change, said):
    rows, role = cohort()
    covariates = ["age", "sex", "site", "tiv"]
    assert "reference" not in codes(rows, role)
    learn_design(rows[role == "background"], covariates).encode(rows)
    changed = change(rows)
    assert said in one(judge_design(changed, role), "reference").message
    with pytest.raises(ManifestError):
        learn_design(changed[role == "background"], covariates).encode(changed)
    named = re.search(r"volumes\.normative\.covariates=\[(.+)\]", one(judge_design(changed, role), "reference").fix)
    learn_design(changed[role == "background"], named[1].split(",")).encode(changed)


def test_what_the_reference_needs_is_not_said_of_raw_images_which_have_none():
    rows, role = cohort(8)
    few = one(judge_design(rows.assign(image_path=rows.index.map("{:03d}_probseg.nii".format)), role), "reference")
    assert "covariates" not in few.fix
    assert few.fix.startswith("add controls")
    assert "reference" not in codes(rows.assign(image_path=rows.index.map("sub-{:03d}_T1w.nii".format)), role)


def test_training_controls_are_counted_for_the_reference():
    rows, role = cohort(40)
    split = np.where(rows.index % 20 < 9, "train", "test")
    said = one(judge_design(rows.assign(split=split), role), "reference").message
    assert "9 training controls, of 10 that it needs" in said
    assert "reference" not in codes(rows, role)


def test_scanners_are_judged_like_sites():
    rows, role = cohort()
    rows["scanner"] = np.repeat(["old", "new"], 100)
    assert one(judge_design(rows, role), "one_group_scanner").severity == "error"


def test_unequal_shares_of_patients_between_sites_are_said_with_figures():
    rows, role = cohort()
    rows["site"] = ["A"] * 80 + ["B"] * 20 + ["A"] * 30 + ["B"] * 70
    problem = one(judge_design(rows, role), "site_imbalance")
    assert 'strongly with site: from 27% patients at "A" to 78% at "B"' in problem.message


def test_more_sessions_of_some_participants_are_no_imbalance():
    rows, role = cohort()
    again = rows.index[(role == "target") & (rows["site"] == "A")]
    sessions = rows.index.append([again, again])
    assert codes(rows.loc[sessions].reset_index(drop=True), role.loc[sessions].reset_index(drop=True)) == []


@pytest.mark.parametrize(("shift", "word"), [(1.5, "slightly"), (-6.0, "clearly")])
def test_a_group_difference_in_age_is_said_in_words_and_figures(shift, word):
    rows, role = cohort()
    rows.loc[100:, "age"] += shift
    problem = one(judge_design(rows, role), "age_difference")
    assert f"age differs {word} between groups" in problem.message
    assert "salient space" in problem.message
    assert f"{rows.loc[100:, 'age'].mean():.1f}" in problem.message
    assert problem.severity == "warning"


def test_differences_in_sex_and_head_size_are_found_and_tiny_ones_are_not():
    rows, role = cohort()
    rows.loc[100:, "age"] += 0.5
    rows.loc[100:, "tiv"] += 60
    rows.loc[100:139, "sex"] = "M"
    assert codes(rows, role) == ["sex_difference", "tiv_difference"]
    assert "F in 50% of background" in one(judge_design(rows, role), "sex_difference").message


def test_small_groups_and_absent_columns_are_said_once():
    rows, role = cohort()
    few = rows.index[:30].union(rows.index[100:110])
    problems = judge_design(rows.loc[few].drop(columns=["site", "tiv"]), role.loc[few])
    assert "background has 30 and target has 10" in one(problems, "few_participants").message
    assert "no site, tiv" in one(problems, "not_checked").message


def test_no_controls_at_all_is_an_error():
    rows, role = cohort()
    problems = judge_design(rows[role == "target"], role[role == "target"])
    assert [(problem.code, problem.severity) for problem in problems] == [("no_background", "error")]
    assert "there are no controls" in problems[0].message


def test_splits_without_a_group_are_found():
    rows, role = cohort()
    rows["split"] = np.where(role == "target", "train", "test")
    found = {(p.severity, p.message.split(":")[0]) for p in judge_design(rows, role) if p.code == "split_without_group"}
    assert found == {
        ("error", "split train has no background participants"),
        ("warning", "split test has no target participants"),
    }


def test_contradictory_rows_of_a_participant_are_found():
    rows = pd.DataFrame(
        {
            "participant_id": ["a", "a", "b", "b", "c", "c", "d", "d"],
            "diagnosis": ["control", "patient", "mild", "severe", "control", "control", "control", None],
            "sex": ["F", "F", "M", "M", "F", "M", None, "F"],
        }
    )
    role = rows["diagnosis"].map({"control": "background", "patient": "target", "mild": "target", "severe": "target"})
    found = {(p.participant_id, p.row, p.code, p.severity) for p in check_participants(rows, role)}
    assert found == {
        ("a", 3, "two_groups", "error"),
        ("b", 5, "two_diagnoses", "warning"),
        ("c", 7, "two_sexes", "error"),
    }


def test_acquisition_that_goes_with_the_group_is_said():
    role = pd.Series(np.repeat(["background", "target"], 30))
    assert judge_acquisition(role, pd.Series(np.tile(["1 mm", "2 mm"], 30)), "voxel size") == []
    assert judge_acquisition(role, pd.Series(["1 mm"] * 60), "voxel size") == []
    mostly = pd.Series(["1 mm"] * 25 + ["2 mm"] * 5 + ["1 mm"] * 5 + ["2 mm"] * 25)
    assert [problem.code for problem in judge_acquisition(role, mostly, "voxel size")] == ["acquisition_group"]
