"""Ratios measured side by side: everything is timed in turn, round by round, in one process."""

import statistics
import time
from collections.abc import Callable, Mapping


def ratios(contenders: Mapping[str, Callable[[], object]], base: str, rounds: int) -> dict[str, float]:
    """Per contender, the median over rounds of its time divided by the base's time in the same round."""
    for run in contenders.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {
        name: statistics.median(t / b for t, b in zip(taken, times[base], strict=True)) for name, taken in times.items()
    }
