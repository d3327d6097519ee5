from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from sepclr_med.analysis import disentanglement
from sepclr_med.analysis import disentanglement_table as disentanglement_table_module
from sepclr_med.analysis.disentanglement import (
    background_salient_norm,
    cross_space_leakage,
    dci,
    mutual_information_gap,
    sap,
    silhouette,
)
from sepclr_med.analysis.disentanglement_table import disentanglement_table
from sepclr_med.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")

N = 400
TRAIN, TEST = np.arange(300), np.arange(300, N)
TURN = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)


def make_aligned(dim=5, noise=0.1, seed=0):
    """Two numbers on the first two axes, noise on the others."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(N, dim))
    truth = {"age": factors[:, 0] + noise * rng.normal(size=N), "severity": factors[:, 1] + noise * rng.normal(size=N)}
    return factors, truth


def turned(factors):
    return np.hstack([factors[:, :2] @ TURN, factors[:, 2:]])


def make_noise(seed=1):
    rng = np.random.default_rng(seed)
    return {"number": rng.normal(size=N), "label": rng.choice(["a", "b"], N)}


def make_cohort(seed=0):
    """Age in the common space; severity and subtype, known of patients only, on an axis each of the salient space."""
    rng = np.random.default_rng(seed)
    is_target = rng.random(N) < 0.5
    truth = pd.DataFrame(
        {
            "age": rng.normal(50, 10, N),
            "severity": np.where(is_target, rng.normal(size=N), np.nan),
            "subtype": np.where(is_target, rng.choice(["one", "two"], N), None),
        }
    )
    common, salient = rng.normal(size=(N, 3)), 0.2 * rng.normal(size=(N, 4))
    common[:, 0] = (truth["age"] - 50) / 10
    salient[:, 0] += truth["severity"].fillna(0)
    salient[:, 1] += truth["subtype"].map({"one": -1.0, "two": 1.0}).fillna(0)
    return {"common": common, "salient": salient}, truth, is_target


@pytest.fixture(scope="module", autouse=True)
def small_forests():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disentanglement, "N_TREES", 12)
        yield


@pytest.fixture(scope="module")
def cohort_table(small_forests):
    return disentanglement_table(*make_cohort(), TRAIN, TEST)


def cell(table, score, space, variable, column="value"):
    found = table[(table.score == score) & (table.space == space) & (table.variable == variable)]
    assert len(found) == 1
    return found[column].item()


def test_gap_is_the_share_of_the_entropy_that_one_factor_tells_more():
    one, other = np.tile([0, 0, 1, 1], 50), np.tile([0, 1, 0, 1], 50)
    factors = np.column_stack([one, other, np.zeros(200)])
    both = np.array(["p", "q", "r", "s"])[2 * one + other]
    gaps, mean = mutual_information_gap(factors, {"one": one, "both": both})
    assert gaps == pytest.approx({"one": 1.0, "both": 0.0})
    assert mean == pytest.approx(0.5)
    assert mutual_information_gap(factors[:, [0, 2]], {"both": both})[1] == pytest.approx(0.5)


def test_gap_falls_when_two_axes_are_turned():
    factors, truth = make_aligned(noise=0.0)
    aligned, lost = mutual_information_gap(factors, truth)[0], mutual_information_gap(turned(factors), truth)[0]
    assert min(aligned.values()) > 0.9
    assert max(lost.values()) < 0.15


def test_gap_of_noise_is_small_even_among_few():
    truth = {name: values[:80] for name, values in make_noise().items()}
    gaps, _ = mutual_information_gap(make_aligned()[0][:80], truth)
    assert max(gaps.values()) < 0.1


def test_gap_depends_on_ranks_alone():
    factors, truth = make_aligned()
    bent = np.exp(3 * factors)
    assert mutual_information_gap(bent, truth) == mutual_information_gap(factors, truth)


def test_missing_answers_are_as_if_the_rows_were_not_there():
    factors, truth = make_aligned()
    truth["label"] = np.where(truth["age"] > 0, "old", "young").astype(object)
    absent = np.arange(N) % 4 == 0
    for values in truth.values():
        values[absent] = np.nan if values.dtype == float else None
    kept = {name: values[~absent] for name, values in truth.items()}
    rows = np.flatnonzero(~absent)
    train, test = np.flatnonzero(rows < 300), np.flatnonzero(rows >= 300)
    assert mutual_information_gap(factors, truth) == mutual_information_gap(factors[~absent], kept)
    assert dci(factors, truth, TRAIN, TEST) == dci(factors[~absent], kept, train, test)
    assert sap(factors, truth, TRAIN, TEST) == sap(factors[~absent], kept, train, test)
    assert silhouette(factors, truth["label"]) == silhouette(factors[~absent], kept["label"])


def test_importances_are_concentrated_as_by_the_formula():
    importance = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    assert disentanglement._concentration(importance) == pytest.approx(0.5)
    assert disentanglement._concentration(np.array([[3.0, 0.0], [0.5, 0.5]])) == pytest.approx(0.75)
    assert np.isnan(disentanglement._concentration(np.ones((3, 1))))


def test_forests_tell_aligned_axes_from_turned_ones():
    factors, truth = make_aligned()
    disentangled, completeness, informativeness = dci(factors, truth, TRAIN, TEST)
    assert disentangled > 0.8
    assert min(completeness.values()) > 0.8
    assert min(informativeness.values()) > 0.9
    lost, incomplete, still_told = dci(turned(factors), truth, TRAIN, TEST)
    assert lost < 0.3
    assert max(incomplete.values()) < 0.6
    assert min(still_told.values()) > 0.6


def test_forests_find_nothing_in_noise():
    disentangled, completeness, informativeness = dci(make_aligned()[0], make_noise(), TRAIN, TEST)
    assert disentangled < 0.1
    assert max(completeness.values()) < 0.1
    assert informativeness["number"] < 0.1
    assert informativeness["label"] == pytest.approx(0.5, abs=0.12)


def test_forests_are_fitted_on_training_rows_and_scored_on_the_others():
    factors, truth = make_aligned()
    disentangled, completeness, informativeness = dci(factors, truth, TRAIN, TEST)
    factors[TEST] = np.random.default_rng(9).normal(size=(len(TEST), 5))
    again = dci(factors, truth, TRAIN, TEST)
    assert again[:2] == (disentangled, completeness)
    assert max(again[2].values()) < 0.2 < min(informativeness.values())


def test_separation_is_the_held_out_score_of_the_best_line_less_the_second():
    factors, truth = make_aligned(noise=0.5)
    mixed = factors @ np.array([[1.0, 0.6], [0.0, 0.8], [0, 0], [0, 0], [0, 0]])
    scores = []
    for column in mixed.T[:, :, None]:
        line = LinearRegression().fit(column[TRAIN], truth["age"][TRAIN])
        scores.append(r2_score(truth["age"][TEST], line.predict(column[TEST])))
    assert sap(mixed, truth, TRAIN, TEST)[0]["age"] == pytest.approx(scores[0] - scores[1])


def test_separation_of_classes_and_numbers():
    factors, truth = make_aligned()
    truth["label"] = np.where(factors[:, 2] > 0, "yes", "no")
    gaps, mean = sap(factors, truth, TRAIN, TEST)
    assert gaps["age"] > 0.9
    assert gaps["label"] == pytest.approx(0.45, abs=0.1)
    assert mean == pytest.approx(np.mean(list(gaps.values())))
    assert max(sap(turned(factors), {"age": truth["age"]}, TRAIN, TEST)[0].values()) < 0.25
    assert max(sap(factors, make_noise(), TRAIN, TEST)[0].values()) < 0.1


def test_rare_class_counts_as_much_as_the_others():
    rng = np.random.default_rng(4)
    rare = rng.random(N) < 0.1
    factors = np.column_stack([rng.normal(size=N) + rare, np.zeros(N)])
    asked = factors, {"rare": np.where(rare, "yes", "no")}, TRAIN, TEST
    assert sap(*asked)[0]["rare"] > 0.1
    assert dci(*asked)[2]["rare"] > 0.6


def test_class_with_one_training_row_is_left_out():
    factors, truth = make_aligned()
    label = np.where(truth["age"] > 0, "old", "young").astype(object)
    with_rare, without = label.copy(), label.copy()
    single = [5, *range(300, 340)]
    with_rare[single], without[single] = "rare", None
    assert sap(factors, {"x": with_rare}, TRAIN, TEST) == sap(factors, {"x": without}, TRAIN, TEST)
    found, expected = (dci(factors, {"x": values}, TRAIN, TEST)[1:] for values in (with_rare, without))
    assert found == expected


def test_rows_are_positions_or_masks():
    factors, truth = make_aligned()
    train = np.isin(np.arange(N), TRAIN)
    assert sap(factors, truth, train, ~train) == sap(factors, truth, TRAIN, TEST)
    assert cross_space_leakage(factors, turned(factors), train, ~train) == cross_space_leakage(
        factors, turned(factors), TRAIN, TEST
    )


def test_one_factor_has_no_second():
    factors, truth = make_aligned(dim=2)
    _, completeness, informativeness = dci(factors[:, :1], truth, TRAIN, TEST)
    assert np.isnan(list(completeness.values())).all()
    assert informativeness["age"] > 0.9
    assert np.isnan(mutual_information_gap(factors[:, :1], truth)[1])
    assert np.isnan(sap(factors[:, :1], truth, TRAIN, TEST)[1])
    assert np.isnan(dci(factors, {"age": truth["age"]}, TRAIN, TEST)[0])


TOO_LITTLE = {
    "missing": np.full(N, np.nan),
    "constant": np.full(N, 3.0),
    "one class": np.full(N, "same"),
    "one value": np.where(np.arange(N) == 350, 1.0, np.nan),
    "rare class": np.where(np.arange(N) == 350, "rare", "common"),
    "classes apart": np.where(np.arange(N) < 300, "here", "there"),
}


@pytest.mark.parametrize("name", TOO_LITTLE)
def test_too_little_is_missing(name):
    factors, truth = make_aligned()
    asked = {name: TOO_LITTLE[name], "age": truth["age"]}
    disentangled, completeness, informativeness = dci(factors, asked, TRAIN, TEST)
    gaps, mean = sap(factors, asked, TRAIN, TEST)
    assert np.isnan([disentangled, completeness[name], informativeness[name], gaps[name]]).all()
    assert completeness["age"] > 0.8
    assert mean == gaps["age"] > 0.9


def test_too_little_is_missing_from_the_table_with_its_chance():
    factors, truth = make_aligned()
    table = disentanglement_table(
        {"any": factors}, pd.DataFrame(TOO_LITTLE | truth), np.arange(N) % 2 == 0, TRAIN, TEST
    )
    lines = table[table.variable.isin(TOO_LITTLE)]
    assert set(lines["variable"]) == set(TOO_LITTLE)
    assert (lines["n"] == 0).all()
    assert lines[["value", "chance"]].isna().all(axis=None)
    for score in ("mig", "sap", "dci_completeness"):
        assert cell(table, score, "any", "all") > 0.7
    assert cell(table, "dci_disentanglement", "any", "all") > 0.8


def test_norms_of_background_and_target():
    is_target = np.repeat([False, True], 3)
    salient = np.array([[1.0, 0], [0, 1], [4, 0], [3, 4], [0, 3], [0, 2]])
    ratio, area = background_salient_norm(salient, is_target)
    assert ratio == pytest.approx(2 / (10 / 3))
    assert area == pytest.approx(7 / 9)
    assert background_salient_norm(np.zeros((6, 2)) + is_target[:, None], is_target) == (0.0, 1.0)
    assert background_salient_norm(salient + 9, is_target, np.full(2, 9.0)) == pytest.approx((ratio, area))
    for alone in (np.ones(6, dtype=bool), np.zeros(6, dtype=bool)):
        assert np.isnan(background_salient_norm(salient, alone)).all()


def test_silhouette_does_not_depend_on_the_units_of_factors():
    factors, _ = make_aligned()
    labels = np.where(factors[:, 0] > 0, "a", "b")
    value = silhouette(factors, labels)
    assert silhouette(factors * [1, 100, 1, 1, 0.01] + 7, labels) == pytest.approx(value)
    assert value > silhouette(factors, make_noise()["label"]) + 0.05


@pytest.mark.parametrize("labels", [["a", "a", "b"], ["a", "a", "a"], ["a", "a", None], [None, None, None]])
def test_silhouette_needs_two_of_each(labels):
    assert np.isnan(silhouette(np.arange(3.0)[:, None], np.array(labels, dtype=object)))


def test_leakage_has_a_direction():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(N, 4))
    leaks = cross_space_leakage(common, common[:, :1] * [[2.0, -1.0]], TRAIN, TEST)
    assert leaks["salient"][0] > 0.99
    assert leaks["common"][0] == pytest.approx(0.25, abs=0.1)
    apart = cross_space_leakage(common, rng.normal(size=(N, 3)), TRAIN, TEST)
    for value, chance in [*apart.values()]:
        assert value == pytest.approx(chance, abs=0.06)
    assert max(chance for _, chance in leaks.values()) < 0.06


def test_table_finds_what_each_space_holds(cohort_table):
    for score in ("mig", "sap", "dci_completeness"):
        assert cell(cohort_table, score, "common", "age") > 0.8
        assert abs(cell(cohort_table, score, "salient", "age")) < 0.15
        held = {name: cell(cohort_table, score, "salient", name) for name in ("severity", "subtype")}
        assert min(held.values()) > 0.35
        absent = [cell(cohort_table, score, "common", name) for name in held]
        assert max(absent) < 0.2
        assert cell(cohort_table, score, "salient", "all") == pytest.approx(
            np.mean([*held.values(), cell(cohort_table, score, "salient", "age")])
        )
    assert cell(cohort_table, "dci_informativeness", "salient", "subtype") > 0.9
    assert cell(cohort_table, "silhouette", "salient", "subtype") > cell(
        cohort_table, "silhouette", "common", "subtype"
    )
    assert cell(cohort_table, "norm_ratio", "salient", "all") < 0.5
    assert cell(cohort_table, "norm_auc", "salient", "all") > 0.9
    for space, variable in (("common", "salient"), ("salient", "common")):
        assert cell(cohort_table, "leakage_r2", space, variable) == pytest.approx(0, abs=0.1)


def test_table_says_what_chance_gives(cohort_table):
    assert list(cohort_table.columns) == ["score", "space", "variable", "value", "chance", "n"]
    assert not cohort_table.duplicated(["score", "space", "variable"]).any()
    for score in ("mig", "sap", "dci_completeness"):
        assert cohort_table.loc[cohort_table.score == score, "chance"].between(-0.01, 0.12).all()
    for space in ("common", "salient"):
        assert cell(cohort_table, "dci_informativeness", space, "age", "chance") < 0.1
        assert cell(cohort_table, "dci_informativeness", space, "subtype", "chance") == pytest.approx(0.5, abs=0.12)
        assert cell(cohort_table, "norm_auc", space, "all", "chance") == pytest.approx(0.5, abs=0.1)
        assert cell(cohort_table, "silhouette", space, "subtype", "chance") == pytest.approx(0, abs=0.05)
        assert cell(cohort_table, "dci_disentanglement", space, "all", "chance") < 0.12


def test_table_counts_those_who_have_the_variable(cohort_table):
    _, _, is_target = make_cohort()
    for variable, n in {"age": len(TEST), "severity": is_target[TEST].sum(), "all": len(TEST)}.items():
        assert (cohort_table.loc[cohort_table.variable == variable, "n"] == n).all()
    assert (cohort_table.loc[cohort_table.score == "leakage_r2", "n"] == len(TEST)).all()


def test_what_patients_have_is_scored_among_patients(monkeypatch):
    monkeypatch.setattr(disentanglement, "N_PERMUTATIONS", 2)
    spaces, truth, is_target = make_cohort()
    asked = truth[["severity", "subtype"]], is_target, TRAIN, TEST
    table = disentanglement_table({"salient": spaces["salient"]}, *asked)
    moved = disentanglement_table({"salient": spaces["salient"] + 100 * ~is_target[:, None]}, *asked)
    concerned = table["variable"].isin(["severity", "subtype"])
    assert concerned.sum() == 9
    pd.testing.assert_frame_equal(table[concerned], moved[concerned])
    assert cell(moved, "norm_ratio", "salient", "all") < cell(table, "norm_ratio", "salient", "all")


def test_an_offset_that_everyone_shares_changes_no_score(monkeypatch):
    monkeypatch.setattr(disentanglement_table_module, "N_PERMUTATIONS", 1)
    spaces, truth, is_target = make_cohort()
    asked = truth[["severity"]], is_target, TRAIN, TEST
    plain, moved = (disentanglement_table({"salient": spaces["salient"] + offset}, *asked) for offset in (0.0, 100.0))
    for score in ("norm_ratio", "norm_auc", "silhouette"):
        assert cell(moved, score, "salient", "all") == pytest.approx(cell(plain, score, "salient", "all"))
    assert cell(plain, "norm_ratio", "salient", "all") < 0.5


def test_groups_far_apart_have_a_high_silhouette_whatever_they_know(monkeypatch):
    monkeypatch.setattr(disentanglement_table_module, "N_PERMUTATIONS", 1)
    _, truth, is_target = make_cohort()
    apart = 9.0 * is_target[:, None] + np.random.default_rng(3).normal(size=(N, 2))
    table = disentanglement_table({"salient": apart}, truth[["severity", "subtype"]], is_target, TRAIN, TEST)
    assert cell(table, "silhouette", "salient", "all") > 0.7
    assert cell(table, "silhouette", "salient", "all", "chance") == pytest.approx(0, abs=0.05)
    assert cell(table, "dci_informativeness", "salient", "severity") < 0.1
    assert cell(table, "dci_informativeness", "salient", "subtype") == pytest.approx(0.5, abs=0.15)
    assert cell(table, "silhouette", "salient", "subtype") < 0.1


def test_table_is_reproduced_by_its_seed(monkeypatch):
    monkeypatch.setattr(disentanglement, "N_PERMUTATIONS", 2)
    spaces, truth, is_target = make_cohort()
    alone = {"salient": spaces["salient"]}, truth[["severity"]], is_target, TRAIN, TEST
    first, again, other = (disentanglement_table(*alone, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first["chance"] != other["chance"]).any()
    assert cell(first, "mig", "salient", "severity") == cell(other, "mig", "salient", "severity")
    assert cell(first, "dci_completeness", "salient", "all") != cell(other, "dci_completeness", "salient", "all")


def test_text_category_and_bool_are_classes(monkeypatch):
    monkeypatch.setattr(disentanglement, "N_PERMUTATIONS", 1)
    factors, _ = make_aligned()
    positive = factors[:, 0] > 0
    truth = pd.DataFrame({"text": np.where(positive, "a", "b"), "flag": positive, "number": positive.astype(int)})
    truth["level"] = pd.Categorical(positive.astype(int))
    table = disentanglement_table({"any": factors}, truth, np.arange(N) % 2 == 0, TRAIN, TEST)
    assert set(table.loc[table.score == "silhouette", "variable"]) == {"text", "flag", "level", "all"}
    values = {name: cell(table, "sap", "any", name) for name in truth}
    assert values["text"] == values["flag"] == values["level"] != values["number"]


def test_table_refuses_what_does_not_fit():
    spaces, truth, is_target = make_cohort()
    with pytest.raises(UserError, match="same rows"):
        disentanglement_table({"salient": spaces["salient"][1:]}, truth, is_target, TRAIN, TEST)
    with pytest.raises(UserError, match="share none"):
        disentanglement_table(spaces, truth, is_target, TRAIN, np.arange(299, N))
