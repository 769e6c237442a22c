"""The thread that prepares the next item while the current one is in use."""

import itertools
import threading

import pytest
from conftest import TIMEOUT

from vae.prefetch import prefetch


@pytest.mark.parametrize("items", [[], [1], list(range(10)), [0, None, False, ""]])
def test_the_items_come_in_order_and_end(items):
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
    assert len(threads) == 1 and threading.current_thread() not in threads
    items.close()


def test_an_exception_in_the_iterator_reaches_the_caller_after_the_items_before_it():
    items = prefetch(map(int, ["1", "x"]))
    assert next(items) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(items)
    assert list(items) == []


def test_an_iterator_that_is_closed_leaves_no_thread():
    before = set(threading.enumerate())
    items = prefetch(itertools.count())
    assert next(items) == 0 and set(threading.enumerate()) > before
    items.close()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("items", [iter([1]), map(int, ["1", "x"])])
def test_an_iterator_that_has_ended_or_failed_leaves_no_thread(items):
    before = set(threading.enumerate())
    prefetched = prefetch(items)
    assert next(prefetched) == 1
    with pytest.raises((StopIteration, ValueError)):
        next(prefetched)
    assert set(threading.enumerate()) == before
