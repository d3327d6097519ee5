from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from sepclr_med.analysis.associations.dissimilarity import (
    bin_pairs,
    rank_pairs,
    space_dissimilarity,
    variable_dissimilarity,
)
from sepclr_med.analysis.associations.mantel import (
    bootstrap_kendall,
    bootstrap_spearman,
    mantel_kendall,
    mantel_spearman,
    tau_b,
)
from sepclr_med.analysis.associations.null_models import residualise
from sepclr_med.analysis.associations.questions import ask
from sepclr_med.analysis.associations.score_pairs import pair_scores
from sepclr_med.analysis.associations.similarity import COLUMNS, compare_similarity
from sepclr_med.analysis.participants import Participants
from sepclr_med.errors import ManifestError, UserError

pytestmark = pytest.mark.filterwarnings("error")

EUCLIDEAN = {"dissimilarities": ["euclidean"], "methods": ["spearman"]}


def make_people(n=80, seed=0, noise=1.0, **columns):
    """Salient factors hold severity, common ones do not; three sites; nothing else is linked."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "participant_id": [f"{i:03}" for i in range(n)],
            "severity": rng.normal(size=n),
            "unrelated": rng.normal(size=n),
            "age": rng.uniform(20, 80, n),
            "sex": rng.choice(["F", "M"], n),
            "site": np.repeat(["A", "B", "C"], [n // 2, n // 4, n - n // 2 - n // 4]),
        }
    )
    spaces = {"salient": noise * rng.normal(size=(n, 4)), "common": rng.normal(size=(n, 4))}
    spaces["salient"][:, 0] += 2 * rows["severity"]
    for name, values in columns.items():
        rows[name] = values(rng, rows) if callable(values) else values
    names = {space: [f"{space}_{k:03}" for k in range(4)] for space in spaces}
    return Participants(rows, spaces, names, np.ones(n, dtype=bool))


def compare(people, variables, covariates=(), blocks=(), **options):
    return compare_similarity(people, variables, covariates, blocks, **{"n_permutations": 199, **options})


def one(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def pairs_of(n, seed, n_levels=None):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n) if n_levels is None else rng.integers(n_levels, size=n).astype(float)
    return squareform(pdist(values[:, None]))


# ---------------------------------------------------------------- dissimilarities


def test_space_dissimilarities_are_those_of_scipy():
    factors = np.random.default_rng(0).normal(size=(12, 3))
    for kind in ("euclidean", "cosine"):
        np.testing.assert_allclose(space_dissimilarity(factors, kind), squareform(pdist(factors, kind)), atol=1e-12)


def test_a_row_of_zeros_stands_at_a_right_angle_to_all():
    found = space_dissimilarity(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), "cosine")
    np.testing.assert_allclose(found, [[0, 1, 1], [1, 0, 0], [1, 0, 0]])


def test_unknown_dissimilarity_is_refused():
    with pytest.raises(ValueError, match="manhattan"):
        space_dissimilarity(np.zeros((3, 2)), "manhattan")


def test_ordinal_dissimilarity_does_not_depend_on_the_spacing_of_levels():
    levels = np.array([1.0, 2.0, 3.0, 2.0])
    np.testing.assert_array_equal(
        variable_dissimilarity(levels, "ordinal"), variable_dissimilarity(np.exp(levels), "ordinal")
    )


def test_ranks_of_pairs_are_those_of_scipy_and_equal_differences_tie():
    values = np.array([0.1, 0.2, 0.3, 0.7])
    ranks = squareform(rank_pairs(variable_dissimilarity(values, "continuous")))
    expected = stats.rankdata([0.1, 0.2, 0.6, 0.1, 0.5, 0.4])
    np.testing.assert_allclose(ranks, stats.zscore(expected))


def test_bins_keep_the_order_and_ties_of_few_levels():
    matrix = pairs_of(12, 0, n_levels=4)
    np.testing.assert_array_equal(squareform(bin_pairs(matrix)), stats.rankdata(squareform(matrix), method="dense") - 1)


def test_many_levels_become_even_bins():
    codes = squareform(bin_pairs(pairs_of(60, 0), n_bins=64))
    assert codes.max() == 63
    assert np.bincount(codes).min() >= 27
    pairs = squareform(pairs_of(60, 0))
    assert stats.kendalltau(codes, pairs)[0] > 0.99


# ---------------------------------------------------------------- correlations of each permutation, against scipy


def plain(values):
    """A variable without covariates."""
    return pair_scores(values, np.ones((len(values), 1)))


def distances(values):
    return np.abs(np.subtract.outer(values, values))


@pytest.mark.parametrize("n_levels", [None, 4], ids=["continuous", "four levels"])
def test_spearman_of_each_permutation_is_that_of_scipy(n_levels):
    rng = np.random.default_rng(1)
    values = rng.normal(size=15) if n_levels is None else rng.integers(n_levels, size=15).astype(float)
    orders = np.array([rng.permutation(15) for _ in range(20)])
    space = pairs_of(15, 0)
    observed, permuted = mantel_spearman([rank_pairs(space)], plain(values), [], orders)
    expected = [
        stats.spearmanr(squareform(space), squareform(distances(values[order])))[0]
        for order in [np.arange(15), *orders]
    ]
    np.testing.assert_allclose([observed[0], *permuted[:, 0]], expected, atol=1e-3 if n_levels is None else 1e-10)


def test_partial_spearman_frees_each_permutation_of_the_covariates_twice():
    """Participant by participant, then pair by pair, as a slow loop does."""
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(40), rng.normal(size=(40, 2))])
    values = residualise(rng.normal(size=40), design)
    space = rank_pairs(pairs_of(40, 0))
    beside = [rank_pairs(pairs_of(40, 2)), rank_pairs(pairs_of(40, 3, n_levels=2))]
    orders = np.array([rng.permutation(40) for _ in range(10)])
    pairs = np.column_stack([np.ones(780), *(squareform(matrix) for matrix in beside)])
    # Ranks of a permutation are read from the observed ones.
    known = np.sort(squareform(distances(values)))

    def expected(order):
        ranks = np.interp(
            squareform(distances(residualise(values[order], design)), checks=False), known, np.arange(780)
        )
        return np.corrcoef(residualise(squareform(space), pairs), residualise(ranks, pairs))[0, 1]

    # A covariate twice, and a constant one, change nothing.
    for covariates in (beside, [*beside, beside[0], np.zeros((40, 40))]):
        observed, permuted = mantel_spearman([space], pair_scores(values, design), covariates, orders)
        slow = [expected(order) for order in [np.arange(40), *orders]]
        np.testing.assert_allclose([observed[0], *permuted[:, 0]], slow, atol=2e-3)


def test_what_the_covariates_determine_is_missing():
    values = np.random.default_rng(1).normal(size=10)
    variable = plain(values)
    observed, _ = mantel_spearman(
        [rank_pairs(pairs_of(10, 0))], variable, [rank_pairs(distances(values))], np.arange(10)[None]
    )
    assert np.isnan(observed[0])


def test_kendall_of_each_permutation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    values, space = rng.integers(3, size=11).astype(float), pairs_of(11, 0)
    orders = np.array([rng.permutation(11) for _ in range(20)])
    observed, permuted = mantel_kendall([bin_pairs(space)], plain(values), orders)
    expected = [
        stats.kendalltau(squareform(space), squareform(distances(values[order])))[0]
        for order in [np.arange(11), *orders]
    ]
    np.testing.assert_allclose([observed[0], *permuted[:, 0]], expected)


def test_classes_lie_as_far_apart_as_their_indicators_whichever_is_left_out():
    codes = np.random.default_rng(0).integers(3, size=30)
    member = np.eye(3)[codes] - np.bincount(codes) / 30
    first, second = (plain(member[:, kept]) for kept in ([1, 2], [0, 1]))
    np.testing.assert_allclose(first.observed, second.observed, atol=1e-12)
    np.testing.assert_allclose(first.observed, np.sqrt(2) * (codes[:, None] != codes), atol=1e-12)


def test_binned_kendall_is_close_to_the_exact_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=120)
    y = x + rng.normal(size=120)
    observed, _ = mantel_kendall([bin_pairs(distances(x))], plain(y), np.arange(120)[None])
    exact = stats.kendalltau(squareform(distances(x)), squareform(distances(y)))[0]
    np.testing.assert_allclose(observed[0], exact, rtol=0.02)


def test_tau_b_of_one_row_is_missing():
    assert np.isnan(tau_b(np.array([[3.0, 2.0]])))


# ---------------------------------------------------------------- bootstrap against participants written out twice


def write_out(times):
    return np.repeat(np.arange(len(times)), times)


def drawn_pairs(matrix, times):
    """Pairs of the drawn participants, without those of a participant with itself."""
    who = write_out(times)
    one_of, other = np.triu_indices(len(who), 1)
    apart = who[one_of] != who[other]
    return matrix[who[one_of[apart]], who[other[apart]]]


DRAWS = np.array([[2, 0, 1, 3, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 4, 1, 0, 2, 1, 1, 0, 1, 0]])


def test_bootstrap_of_spearman_leaves_pairs_of_one_participant_out():
    space, variable = rank_pairs(pairs_of(10, 0)), rank_pairs(pairs_of(10, 1))
    found = bootstrap_spearman([space, variable], variable, [], DRAWS)
    expected = [np.corrcoef(drawn_pairs(space, times), drawn_pairs(variable, times))[0, 1] for times in DRAWS]
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 1, atol=1e-6)
    np.testing.assert_allclose(found[1, 0], stats.spearmanr(squareform(space), squareform(variable))[0], atol=1e-6)


def test_bootstrap_of_partial_spearman_refits_the_covariates():
    space, variable, beside = (rank_pairs(pairs_of(10, seed)) for seed in range(3))
    found = bootstrap_spearman([space], variable, [beside, 2 * beside], DRAWS)
    for times, value in zip(DRAWS, found[:, 0], strict=True):
        x, y, z = (drawn_pairs(matrix, times) for matrix in (space, variable, beside))
        (xy, xz, yz) = (np.corrcoef(pair)[0, 1] for pair in ((x, y), (x, z), (y, z)))
        np.testing.assert_allclose(value, (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)), atol=1e-6)


def test_bootstrap_of_kendall_is_that_of_the_drawn_pairs():
    space, variable = bin_pairs(pairs_of(10, 0)), bin_pairs(pairs_of(10, 1, n_levels=3))
    found = bootstrap_kendall([space], variable, DRAWS)
    expected = [stats.kendalltau(drawn_pairs(space, times), drawn_pairs(variable, times))[0] for times in DRAWS]
    np.testing.assert_allclose(found[:, 0], expected)


def test_kendall_that_is_shown_is_exact():
    people = make_people()
    options = {"spaces": ["salient"], "dissimilarities": ["euclidean"], "methods": ["kendall"], "n_bootstrap": 50}
    found = one(compare(people, ["severity"], **options))
    exact = stats.kendalltau(pdist(people.spaces["salient"]), pdist(people.rows[["severity"]].to_numpy()))[0]
    np.testing.assert_allclose(found.estimate, exact)
    assert found.ci_low < exact < found.ci_high


# ---------------------------------------------------------------- what is found, what is not


def test_planted_link_is_found_in_the_salient_space_alone():
    table = compare(make_people(), ["severity", "unrelated"], **EUCLIDEAN)
    assert list(table.columns) == COLUMNS
    planted = one(table, variable="severity", space="salient")
    assert planted.p_value == 0.005
    assert 0 < planted.ci_low < planted.estimate < planted.ci_high
    assert planted.n == 80
    assert one(table, variable="severity", space="common").p_value > 0.05
    assert one(table, variable="unrelated", space="salient").p_value > 0.05


def test_contrast_says_which_space_it_is():
    table = compare(make_people(), ["severity"], **EUCLIDEAN)
    contrast = one(table, space="salient - common")
    both = [one(table, space=space).estimate for space in ("salient", "common")]
    np.testing.assert_allclose(contrast.estimate, both[0] - both[1])
    assert contrast.p_value <= 0.02
    assert contrast.ci_low > 0
    assert contrast.method == "Spearman, contrast"


def test_contrast_needs_both_spaces():
    table = compare(make_people(), ["severity"], spaces=["salient"], **EUCLIDEAN)
    assert table["space"].tolist() == ["salient"]


def test_binary_kendall_and_spearman_give_the_same_p_value():
    people = make_people(group=lambda rng, rows: np.where(rows["severity"] > 0, "ill", "well"), noise=2.0)
    table = compare(people, ["group"], spaces=["salient"], dissimilarities=["euclidean"], n_bootstrap=0)
    assert table["measure"].tolist() == ["binary", "binary"]
    # Two levels: tau is a linear function of the ranks; only the bins of the space differ.
    assert abs(table["p_value"].iloc[0] - table["p_value"].iloc[1]) <= 0.01
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)


def test_age_alone_is_no_link_once_adjusted_for():
    people = make_people(n=120, aged=lambda rng, rows: rows["age"] + 5 * rng.normal(size=len(rows)))
    people.spaces["salient"][:, 1] += people.rows["age"] / 8
    plain = one(compare(people, ["aged"], spaces=["salient"], **EUCLIDEAN))
    adjusted = one(compare(people, ["aged"], ["age"], spaces=["salient"], **EUCLIDEAN))
    assert plain.p_value == 0.005
    assert adjusted.p_value > 0.05
    assert adjusted.method == "Spearman, partial"


def test_variable_that_follows_site_only_is_claimed_without_blocks_alone():
    def follow(rng, rows):
        return rows["site"].map({"A": 0.0, "B": 3.0, "C": -3.0}) + rng.normal(size=len(rows))

    people = make_people(n=120, follows=follow)
    people.spaces["salient"][:, 1] += people.rows["site"].map({"A": 0.0, "B": 6.0, "C": -6.0})
    found = one(compare(people, ["follows"], blocks=["site"], spaces=["salient"], **EUCLIDEAN))
    assert found.p_free == 0.005
    assert found.p_value > 0.05


def test_site_itself_cannot_be_tested_within_site():
    found = one(compare(make_people(), ["site"], blocks=["site"], spaces=["salient"], **EUCLIDEAN))
    assert np.isnan(found.p_value)
    assert np.isfinite(found.p_free)
    assert "does not vary within site" in found.note


def test_sites_are_the_blocks_when_none_are_named():
    people = make_people()
    default, named = (compare(people, ["severity"], blocks=blocks, **EUCLIDEAN) for blocks in (None, ["site"]))
    pd.testing.assert_frame_equal(default, named)


def test_euclidean_result_does_not_depend_on_the_axes():
    people = make_people()
    turned = Participants(
        people.rows,
        {
            name: values @ np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
            for name, values in people.spaces.items()
        },
        people.factors,
        people.is_target,
    )
    first, second = (compare(each, ["severity"], ["age"], **EUCLIDEAN) for each in (people, turned))
    pd.testing.assert_frame_equal(first, second)


def test_cosine_is_seen_from_the_origin_also_after_adjustment():
    people = make_people()
    people.spaces["salient"] += 50.0
    table = compare(people, ["severity"], ["age"], spaces=["salient"], dissimilarities=["cosine"], methods=["spearman"])
    shifted = people.spaces["salient"] - 50.0
    people.spaces["salient"] = shifted
    centred = compare(
        people, ["severity"], ["age"], spaces=["salient"], dissimilarities=["cosine"], methods=["spearman"]
    )
    assert abs(table["estimate"].iloc[0] - centred["estimate"].iloc[0]) > 0.02


# ---------------------------------------------------------------- who is asked


def test_missing_values_are_left_out_and_the_rest_is_as_if_they_had_not_been_there():
    people = make_people()
    people.rows.loc[:9, "severity"] = np.nan
    people.rows.loc[10:14, "age"] = np.nan
    kept = people.take(np.arange(80) >= 15)
    first, second = (compare(each, ["severity"], ["age"], **EUCLIDEAN) for each in (people, kept))
    assert first["n"].tolist() == [65, 65, 65]
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("values", [np.nan, 3.0], ids=["nobody", "constant"])
def test_too_little_is_said_and_not_tested(values):
    people = make_people(empty=lambda rng, rows: np.where(np.arange(len(rows)) < 5, 3.0, values))
    table = compare(people, ["empty"], **EUCLIDEAN)
    assert table["p_value"].isna().all()
    assert table["note"].str.contains("not tested").all()


def test_result_does_not_depend_on_what_else_is_asked():
    people = make_people()
    options = {"blocks": ["site"], "n_bootstrap": 20, "n_permutations": 99}
    alone = compare(people, ["unrelated"], **options)
    among = compare(people, ["severity", "unrelated"], **options)
    among = among[among["variable"] == "unrelated"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, among)


def test_families_move_and_are_drawn_as_wholes():
    people = make_people(family_id=lambda rng, rows: [f"f{i // 2}" for i in range(len(rows))])
    question = ask(people.rows, "severity", families="family_id")
    orders = question.permutations(50, True, np.random.default_rng(0))
    family = np.arange(80) // 2
    moved = family[orders].reshape(50, 40, 2)
    assert (moved[:, :, 0] == moved[:, :, 1]).all()
    free = family[question.permutations(50, False, np.random.default_rng(0))].reshape(50, 40, 2)
    assert not (free[:, :, 0] == free[:, :, 1]).all()


def test_twins_counted_twice_do_not_narrow_the_interval():
    people = make_people(n=40)
    twice = Participants(
        pd.concat([people.rows.assign(family_id=people.rows["participant_id"])] * 2, ignore_index=True),
        {name: np.vstack([values] * 2) for name, values in people.spaces.items()},
        people.factors,
        np.ones(80, dtype=bool),
    )
    wide, narrow = (
        one(compare(twice, ["severity"], families=families, spaces=["salient"], **EUCLIDEAN))
        for families in ("family_id", None)
    )
    assert wide.ci_high - wide.ci_low > 1.2 * (narrow.ci_high - narrow.ci_low)


def test_ordinal_text_takes_its_order_from_the_sidecar():
    people = make_people(
        stage=lambda rng, rows: pd.cut(rows["severity"], 3, labels=["mild", "middle", "bad"]).astype(object)
    )
    described = {"stage": {"Levels": {"mild": "", "middle": "", "bad": ""}}}
    table = compare(people, ["stage"], described=described, measures={"stage": "ordinal"}, **EUCLIDEAN)
    assert one(table, space="salient").measure == "ordinal"
    assert one(table, space="salient").p_value == 0.005


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variables": ["severty"]}, 'did you mean "severity"'),
        ({"variables": ["severity"], "covariates": ["aeg"]}, 'did you mean "age"'),
    ],
    ids=["variable", "covariate"],
)
def test_unknown_names_are_refused(arguments, words):
    with pytest.raises(ManifestError, match=words):
        compare_similarity(make_people(), **arguments)


def test_unknown_space_is_refused():
    with pytest.raises(UserError, match='did you mean "salient"'):
        compare(make_people(), ["severity"], spaces=["saliant"])


# ---------------------------------------------------------------- calibration in small, and the house rules


@pytest.mark.slow
def test_partial_mantel_keeps_its_level_where_age_and_site_move_everything():
    sys.path.insert(0, "pipelines/benchmark")
    from calibration_space import study_similarity

    found = pd.DataFrame([{name: p for name, (p, _) in study_similarity(seed, 80).items()} for seed in range(100)])
    # 15 of 100 has a probability below 1e-4 at a level of 0.05, for each of the tests.
    assert ((found <= 0.05).sum() <= 14).all()


def test_importing_it_loads_neither_torch_nor_statsmodels():
    code = (
        "import sepclr_med.analysis.associations.similarity, sys; "
        "assert not {'torch', 'monai', 'statsmodels', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
