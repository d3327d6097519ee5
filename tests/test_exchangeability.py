from __future__ import annotations

from collections import Counter
from itertools import permutations as all_orders

import numpy as np
import pytest
from scipy import stats

from sepclr_med.analysis.associations import exchangeability
from sepclr_med.analysis.associations.exchangeability import count_permutations, draw_permutations

pytestmark = pytest.mark.filterwarnings("error")

LAYOUTS = {
    "free": (None, None),
    "blocks": (list("aabab"), None),
    "one row alone in its block": (list("aaabbc"), None),
    "families": (None, list("ffggh")),
    "families of three and one": (None, list("fffgggh")),
    "families within blocks": (list("aaaabb"), list("ffgghi")),
    "families across blocks": (list("ababab"), list("ffgghh")),
    "families of another composition": (list("abaaab"), list("ffgghh")),
    "two members in one block, one in another": (list("aabaab"), list("fffggg")),
}
N = {name: len(layout[0] or layout[1] or "1234") for name, layout in LAYOUTS.items()}


def allowed_orders(blocks, families, n):
    """Every order that keeps the blocks and moves families as wholes, found by trying all of them."""
    blocks = blocks or ["all"] * n
    families = families or list(range(n))
    found = set()
    for order in all_orders(range(n)):
        keeps_blocks = all(blocks[order[i]] == blocks[i] for i in range(n))
        moves_wholes = all(
            (families[order[i]] == families[order[j]]) == (families[i] == families[j])
            for i in range(n)
            for j in range(i)
        )
        if keeps_blocks and moves_wholes:
            found.add(order)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_exactly_the_allowed_permutations_are_drawn(name):
    blocks, families = LAYOUTS[name]
    expected = allowed_orders(blocks, families, N[name])
    drawn = draw_permutations(300 * len(expected), blocks, families, np.random.default_rng(1), n=N[name])
    assert set(map(tuple, drawn.tolist())) == expected
    assert count_permutations(blocks, families, n=N[name]) == len(expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_allowed_permutations_are_equally_likely(name):
    blocks, families = LAYOUTS[name]
    n_distinct = count_permutations(blocks, families, n=N[name])
    if n_distinct == 1:
        return
    drawn = draw_permutations(200 * n_distinct, blocks, families, np.random.default_rng(2), n=N[name])
    counts = Counter(map(tuple, drawn.tolist()))
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_each_row_goes_to_each_place_of_its_block_equally_often():
    blocks = np.repeat(["a", "b", "c"], [60, 30, 10])
    drawn = draw_permutations(20_000, blocks, None, np.random.default_rng(3))
    assert (np.sort(drawn, axis=1) == np.arange(100)).all()
    assert (blocks[drawn] == blocks).all()
    for place, size in ((0, 60), (59, 60), (60, 30), (99, 10)):
        counts = np.unique(drawn[:, place], return_counts=True)[1]
        assert len(counts) == size
        assert stats.chisquare(counts).pvalue > 0.001


def test_draw_depends_on_neither_threads_nor_the_order_of_labels(monkeypatch):
    blocks = np.arange(50) % 3
    monkeypatch.setattr(exchangeability, "KEYS_AT_ONCE", 500)
    two = draw_permutations(101, blocks, None, np.random.default_rng(4))
    monkeypatch.setattr(exchangeability, "MOST_THREADS", 1)
    one = draw_permutations(101, blocks, None, np.random.default_rng(4))
    assert (one == two).all()
    assert (np.sort(one, axis=1) == np.arange(50)).all()
    assert (blocks[one] == blocks).all()
    assert len(np.unique(one, axis=0)) == 101


def test_a_generator_gives_other_permutations_the_second_time():
    rng = np.random.default_rng(5)
    first, second = (draw_permutations(10, None, None, rng, n=30) for _ in range(2))
    assert not (first == second).any(axis=0).all()


def test_many_rows_in_many_blocks():
    blocks = np.repeat(np.arange(35_000), 2)
    drawn = draw_permutations(2, blocks, None, np.random.default_rng(6))
    assert (blocks[drawn] == blocks).all()
    assert 0.45 < (drawn[0] != np.arange(70_000)).mean() < 0.55


def test_families_of_many_sizes_stay_whole():
    rng = np.random.default_rng(7)
    families = rng.integers(40, size=120)
    blocks = rng.choice(["a", "b"], 120)
    drawn = draw_permutations(50, blocks, families, rng)
    assert (np.sort(drawn, axis=1) == np.arange(120)).all()
    assert (blocks[drawn] == blocks).all()
    for order in drawn:
        moved = {(families[place], families[row]) for place, row in enumerate(order)}
        assert len(moved) == len(np.unique(families))


def test_numbers_of_permutations_are_exact_however_large():
    assert count_permutations(None, None, n=200) == count_permutations(["x"] * 200, None)
    assert len(str(count_permutations(None, None, n=200))) == 375


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((10, None, None), "give n"),
        ((10, ["a", None], None), "blocks: 1 labels are missing"),
        ((10, None, [1.0, np.nan]), "families: 1 labels are missing"),
        ((10, ["a", "b"], ["f"]), "lengths differ"),
        ((0, ["a", "b"], None), "at least 1"),
    ],
    ids=["no length", "missing block", "missing family", "lengths", "none"],
)
def test_what_cannot_be_drawn_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        draw_permutations(*arguments, np.random.default_rng(0))
