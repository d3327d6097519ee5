import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepclr_med.cohort.manifest import read_manifest, write_manifest
from sepclr_med.cohort.splits import assign_splits, check_overlap, readable_balance, split_balance
from sepclr_med.errors import ConfigError, ManifestError

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cohorts(draw):
    """Manifests with one to three images per participant, some of them with relatives."""
    n = draw(st.integers(8, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    people = pd.DataFrame(
        {
            "participant_id": [f"{number:03d}" for number in range(n)],
            "diagnosis": rng.choice(["control", "patient"], n),
            "site": rng.choice(["A", "B", "C"], n),
            "age": rng.normal(40, 10, n).round(1),
        }
    )
    if draw(st.booleans()):
        people["family_id"] = [f"F{number}" if number < n // 3 else None for number in rng.integers(0, n, n)]
    rows = people.loc[people.index.repeat(rng.integers(1, 4, n))].reset_index(drop=True)
    return rows.sample(frac=1, random_state=int(rng.integers(10**6))).reset_index(drop=True)


def related_groups(rows):
    """Group participants through families, slowly: merge until nothing changes."""
    groups = [{name} for name in rows["participant_id"].unique()]
    if "family_id" in rows:
        groups += [set(members) for _, members in rows.groupby("family_id")["participant_id"]]
    merged = True
    while merged:
        merged = False
        for one in groups:
            other = next((group for group in groups if group is not one and group & one), None)
            if other is not None:
                one |= other
                groups.remove(other)
                merged = True
                break
    return groups


def whole_cohort(n=72, sites=("A", "B", "C", "D"), seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{number:02d}" for number in range(n)],
            "diagnosis": rng.choice(["control", "depr"], n, p=[0.3, 0.7]),
            "site": rng.choice(list(sites), n),
            "sex": rng.choice(["F", "M"], n),
            "age": rng.normal(35, 10, n),
        }
    )


@SETTINGS
@given(rows=cohorts(), test_size=st.sampled_from([0, 0.15, 0.2, 0.4]), val_size=st.sampled_from([0, 0.1, 0.25]))
def test_relatives_stay_together_and_shares_are_kept(rows, test_size, val_size):
    divided = assign_splits(rows, test_size, val_size, seed=3)
    groups = related_groups(rows)

    split = divided.groupby("participant_id")["split"].agg(set)
    assert all(len(set.union(*(split[name] for name in group))) == 1 for group in groups)
    assert divided["split"].isin(["train", "val", "test"]).all()
    assert check_overlap(divided) == []
    shares = divided.drop_duplicates("participant_id")["split"].value_counts(normalize=True)
    slack = (max(map(len, groups)) + 1) / len(split)
    assert shares.get("test", 0) == pytest.approx(test_size, abs=slack if test_size else 0)
    assert shares.get("val", 0) == pytest.approx(val_size, abs=slack if val_size else 0)


@SETTINGS
@given(rows=cohorts(), n_folds=st.integers(2, 4))
def test_folds_hold_relatives_together_and_leave_the_test_set_out(rows, n_folds):
    if len(related_groups(rows)) < 3 * n_folds:
        return
    divided = assign_splits(rows, test_size=0.2, n_folds=n_folds)
    inside = divided[divided["split"] != "test"]

    assert divided.loc[divided["split"] == "test", "fold"].isna().all()
    assert inside["fold"].isin([str(number) for number in range(n_folds)]).all()
    assert check_overlap(divided) == []


def test_with_no_test_set_everyone_has_a_fold():
    divided = assign_splits(whole_cohort(), test_size=0, n_folds=5)
    assert set(divided["fold"]) == {"0", "1", "2", "3", "4"}
    assert divided["fold"].value_counts().between(14, 15).all()


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_sites_are_within_one_and_a_half_participants_of_their_share(seed):
    rows = whole_cohort(seed=seed)
    divided = assign_splits(rows, test_size=0.2, val_size=0.1, stratify=["diagnosis", "site"], seed=seed)
    for column in ("diagnosis", "site"):
        counts = pd.crosstab(divided[column], divided["split"])
        wanted = np.outer(counts.sum(axis=1), [0.2, 0.7, 0.1])
        assert np.abs(counts[["test", "train", "val"]].to_numpy() - wanted).max() <= 1.5
    totals = divided["split"].value_counts()
    assert totals[["test", "val"]].tolist() == pytest.approx([14.4, 7.2], abs=1)


def test_columns_are_balanced_jointly_too():
    rows = whole_cohort(n=240, seed=4)
    divided = assign_splits(rows, test_size=0.25, val_size=0)
    counts = pd.crosstab([divided["diagnosis"], divided["site"]], divided["split"])
    assert (counts["test"] - 0.25 * counts.sum(axis=1)).abs().max() <= 1


def test_age_and_sex_are_balanced_when_asked_for():
    rows = whole_cohort(n=300)
    divided = assign_splits(rows, stratify=["diagnosis", "site", "age", "sex"])
    balance = split_balance(divided, ["age", "sex"])
    assert balance.loc[balance["variable"].isin(["age", "sex"]), "smd"].abs().max() < 0.2


def test_the_same_seed_repeats_and_another_does_not():
    rows = whole_cohort()
    first, again, other = (assign_splits(rows, seed=seed, n_folds=3) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert (first["split"] != other["split"]).any()


def test_the_order_of_images_of_a_participant_does_not_matter_and_sessions_stay_together():
    rows = pd.concat([whole_cohort(40).assign(session_id=name) for name in ("1", "2")], ignore_index=True)
    divided = assign_splits(rows)
    assert divided.groupby("participant_id")["split"].nunique().eq(1).all()
    assert divided["split"].value_counts().to_dict() == {"train": 56, "test": 16, "val": 8}


def test_a_site_is_left_out_whole_with_relatives_and_visitors():
    rows = whole_cohort(40).assign(family_id=None)
    inside, outside = rows.index[rows["site"] == "A"][0], rows.index[rows["site"] == "B"][:2]
    rows.loc[[inside, outside[0]], "family_id"] = "F1"
    visitor = rows.loc[[outside[1]]].assign(site="A")
    rows = pd.concat([rows, visitor], ignore_index=True)

    divided = assign_splits(rows, val_size=0.25, leave_site_out="A")

    assert (divided.loc[divided["site"] == "A", "split"] == "test").all()
    assert (divided.loc[outside, "split"] == "test").all()
    rest = divided[divided["split"] != "test"]
    assert set(rest["split"]) == {"train", "val"}
    assert (rest["split"] == "val").mean() == pytest.approx(0.25, abs=0.04)
    assert [p.code for p in divided.attrs["problems"] if p.code == "site_with_relatives"]
    assert check_overlap(divided) == []


def test_an_unknown_site_is_named_with_those_there_are():
    with pytest.raises(ManifestError, match=r"Berlyn.*Berlin.*did you mean"):
        assign_splits(whole_cohort(sites=["Berlin", "Paris"]), leave_site_out="Berlyn")
    with pytest.raises(ManifestError, match="add a site column"):
        assign_splits(whole_cohort().drop(columns="site"), leave_site_out="A")
    with pytest.raises(ManifestError, match="nobody is left"):
        assign_splits(whole_cohort(sites=["A"]), leave_site_out="A")


def test_a_divided_manifest_is_refused_unless_told_to_overwrite():
    rows = assign_splits(whole_cohort(), seed=1)
    with pytest.raises(ManifestError, match="divided already"):
        assign_splits(rows, seed=2)
    assert (assign_splits(rows, seed=2, overwrite=True)["split"] != rows["split"]).any()
    assert assign_splits(whole_cohort().assign(split=None))["split"].notna().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"test_size": 1.0}, "test_size is not a share"),
        ({"test_size": -0.1, "val_size": 2}, "val_size is not a share"),
        ({"test_size": 0.6, "val_size": 0.4}, "nobody is left to train on"),
        ({"n_folds": 1}, "too few folds"),
        ({"n_folds": 100}, "more folds than unrelated participants"),
        ({"stratify": ["diagnossis"]}, "did you mean"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        assign_splits(whole_cohort(), **options)


def test_absent_columns_are_passed_over_and_said():
    divided = assign_splits(whole_cohort().drop(columns="site"))
    assert [(p.column, p.severity) for p in divided.attrs["problems"] if p.code == "stratum_absent"] == [
        ("site", "info")
    ]
    assert assign_splits(whole_cohort(), stratify=[])["split"].value_counts()["test"] == 14


def test_rare_strata_and_empty_parts_are_warned_about():
    rows = whole_cohort(30, sites=["A"])
    rows.loc[3, "site"] = "Z"
    codes = {problem.code for problem in assign_splits(rows).attrs["problems"]}
    assert "rare_strata" in codes
    rows.loc[5, "diagnosis"] = "unique"
    codes = [problem.code for problem in assign_splits(rows).attrs["problems"] if problem.got == "unique"]
    assert set(codes) == {"split_without_diagnosis"}
    tiny = assign_splits(whole_cohort(3), test_size=0.2, val_size=0.1)
    assert "empty_split" in {problem.code for problem in tiny.attrs["problems"]}


def test_missing_strata_are_a_level_of_their_own():
    rows = whole_cohort(60)
    rows.loc[:19, "site"] = None
    divided = assign_splits(rows, stratify=["site"])
    assert (divided.loc[:19, "split"] == "test").sum() == 4


def test_the_input_is_not_changed_and_its_remarks_are_kept():
    rows = whole_cohort()
    rows.attrs["problems"] = ["said before"]
    before = rows.copy()
    divided = assign_splits(rows)
    pd.testing.assert_frame_equal(rows, before)
    assert divided.attrs["problems"][0] == "said before"


def test_divisions_survive_writing_and_reading(tmp_path):
    rows = whole_cohort().assign(image_path=[str(tmp_path / f"{number}.nii.gz") for number in range(72)])
    divided = assign_splits(rows, n_folds=3)
    again = read_manifest(write_manifest(divided, tmp_path / "m.tsv"))
    assert again["split"].tolist() == divided["split"].tolist()
    assert again["fold"].fillna("n/a").tolist() == divided["fold"].fillna("n/a").tolist()


def test_overlaps_name_participant_rows_and_parts():
    rows = pd.DataFrame(
        {
            "participant_id": ["a", "b", "a", "c", "d", "e", "f"],
            "family_id": ["F", None, "F", "G", "G", None, "F"],
            "split": ["train", "train", "test", "train", "val", None, "test"],
            "fold": ["0", "1", "0", "0", "0", "1", "0"],
        }
    )
    found = [(p.participant_id, p.row, p.column, p.got) for p in check_overlap(rows)]
    assert found == [("a", 4, "split", "train (row 2), test (row 4)"), ("d", 6, "split", "train (row 5), val (row 6)")]
    assert check_overlap(rows.drop(columns=["split", "fold"])) == []


def test_balance_counts_participants_not_images():
    rows = whole_cohort(50)
    divided = assign_splits(pd.concat([rows, rows[:25]], ignore_index=True))
    balance = split_balance(divided)
    assert balance.loc[balance["variable"] == "participants", "n"].sum() == 50
    sites = balance[(balance["variable"] == "site") & (balance["split"] == "train")]
    assert sites["mean"].sum() == pytest.approx(1)
    assert balance.loc[balance["split"] == "train", "smd"].isna().all()


def test_a_test_part_of_other_people_is_warned_of_with_the_option_that_mends_it():
    rows = whole_cohort(72).assign(sex=["F", "F", "F", "M"] * 18)

    def warned(seed, stratify):
        divided = assign_splits(rows, 0.25, 0.1, stratify, seed=seed)
        return [p for p in divided.attrs["problems"] if (p.code, p.column) == ("unlike_test", "sex")]

    plain = [warned(seed, ["diagnosis", "site"]) for seed in range(20)]
    assert 0 < sum(map(bool, plain)) < 20
    said = next(filter(None, plain))[0]
    assert said.fix == "--stratify diagnosis,site,sex"
    assert not any(warned(seed, said.fix.split()[1].split(",")) for seed in range(20))


def test_balance_for_people_has_shares_in_per_cent_and_no_nan():
    rows = whole_cohort(50)
    shown = readable_balance(split_balance(assign_splits(rows)))
    assert not shown.astype(str).apply(lambda column: column.str.contains("nan")).any().any()
    assert shown["share or mean"][0].endswith(" %")
    assert shown.loc[shown["variable"] == "age", "share or mean"].str.contains("SD").all()


def test_a_hundred_thousand_rows_are_divided():
    rows = whole_cohort(100_000, sites=[f"site{number}" for number in range(50)])
    divided = assign_splits(rows)
    counts = pd.crosstab(divided["site"], divided["split"], normalize="index")
    assert (counts["test"] - 0.2).abs().max() < 0.002
