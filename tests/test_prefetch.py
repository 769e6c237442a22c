"""The thread that prepares the next item while the current one is in use."""

import itertools
import threading

import pytest

from vae.prefetch import prefetch

TIMEOUT = 60  # seconds, after which a thread counts as stuck


@pytest.mark.parametrize("num_items", [0, 1, 2, 10])
def test_the_items_come_in_order_and_end(num_items):
    assert list(prefetch(iter(range(num_items)))) == list(range(num_items))


def test_items_that_are_false_or_none_do_not_end_it():
    items = [0, None, False, ""]
    assert list(prefetch(iter(items))) == items


def test_the_next_item_is_prepared_on_a_thread_while_the_current_one_is_in_use():
    prepared = [threading.Event() for _ in range(4)]
    threads = set()

    def prepare():
        for number, event in enumerate(prepared):
            threads.add(threading.current_thread())
            event.set()
            yield number

    items = prefetch(prepare())
    assert not prepared[0].is_set()
    for number in range(3):
        assert next(items) == number
        assert prepared[number + 1].wait(TIMEOUT)
        assert not any(event.is_set() for event in prepared[number + 2 :])
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_an_exception_in_the_iterator_reaches_the_caller_after_the_items_before_it():
    def fail():
        yield 1
        raise ValueError("no second item")

    items = prefetch(fail())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(items)
    assert list(items) == []


def test_an_abandoned_iterator_leaves_no_thread():
    before = set(threading.enumerate())
    items = prefetch(itertools.count())
    assert next(items) == 0
    assert set(threading.enumerate()) > before
    del items
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("items", [iter([1]), map(int, ["1", "x"])])
def test_an_iterator_that_has_ended_or_failed_leaves_no_thread(items):
    before = set(threading.enumerate())
    prefetched = prefetch(items)
    assert next(prefetched) == 1
    with pytest.raises((StopIteration, ValueError)):
        next(prefetched)
    assert set(threading.enumerate()) == before
