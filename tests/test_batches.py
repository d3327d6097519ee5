import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepclr_med.volumes.batches import draw_batches


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(4, 30), st.integers(0, 5))
def test_every_batch_has_both_groups_once_each_and_the_larger_group_is_seen(n_background, n_target, batch_size, epoch):
    is_target = np.arange(n_background + n_target) >= n_background
    batches = draw_batches(is_target, batch_size, seed=3, epoch=epoch)
    for batch in batches:
        assert len(set(batch)) == len(batch) <= batch_size
        assert 0 < is_target[batch].sum() < len(batch)
    seen = np.concatenate(batches)
    larger = np.flatnonzero(is_target) if n_target > n_background else np.flatnonzero(~is_target)
    halves = {False: batch_size // 2, True: batch_size - batch_size // 2}
    passes = {
        group: len(batches) * min(half, (is_target == group).sum()) / (is_target == group).sum()
        for group, half in halves.items()
    }
    assert min(passes.values()) >= 1
    assert set(larger) <= set(seen)


def test_the_smaller_group_is_reshuffled_and_batches_are_not_replayed():
    is_target = np.arange(110) < 10
    batches = draw_batches(is_target, 20, seed=0, epoch=0)
    orders = [tuple(batch[is_target[batch]]) for batch in batches]
    assert all(set(order) == set(range(10)) for order in orders)
    assert len(set(orders)) > len(orders) / 2


def test_batches_depend_on_seed_and_epoch_only():
    is_target = np.arange(30) < 12
    first, again = draw_batches(is_target, 8, 1, 4), draw_batches(is_target, 8, 1, 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], draw_batches(is_target, 8, 1, 5)[0])
    assert not np.array_equal(first[0], draw_batches(is_target, 8, 2, 4)[0])


def test_too_few_rows_are_refused_with_the_counts():
    with pytest.raises(ValueError, match="1 background and 5 target"):
        draw_batches(np.array([False] + [True] * 5), 4, 0, 0)
