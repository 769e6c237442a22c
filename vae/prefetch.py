"""Preparing the next item on a thread while the current one is in use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items of an iterator; while the caller uses one, a thread prepares the next."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(next, items, end)
        while True:
            item = upcoming.result()
            if item is end:
                return
            upcoming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
