"""Ratios measured side by side: everything is timed in turn, round by round, in one process."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

Times = Mapping[str, list[float]]
"""Per contender, the seconds that it took in each round."""


def timed(contenders: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Time everything once in each round, every other round backwards, after two runs of each that are not counted.

    Garbage that one leaves is collected before the next.
    """
    for run in contenders.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders if number % 2 else reversed(contenders):
            gc.collect()
            started = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - started)
    return times


def over(times: Times, name: str, base: str) -> str:
    """A contender's time over the base's in the same round: the median of all rounds, and the quartiles around it."""
    found = [t / b for t, b in zip(times[name], times[base], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"
