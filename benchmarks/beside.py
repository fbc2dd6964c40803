"""Ours beside the libraries of others, in one process and on the same model and batch."""

from collections.abc import Callable, Mapping

from processes import Row
from timing import over, timed

BASE = "forward"


def rows(
    what: str,
    limit: str,
    forward: Callable[[], object],
    ours: Callable[[], object],
    peers: Mapping[str, Callable[[], Callable[[], object]]],
    rounds: int,
) -> list[Row]:
    """Each contender's time over that of the forward pass: ours first, since what the others leave would weigh on it.

    Args:
        what: what is measured.
        limit: the limit for ours.
        peers: what builds a run of each of them; one that is not there, or fails, is said to be so.
    """
    contenders = {BASE: forward}
    missing: list[Row] = []
    for name, build in peers.items():
        try:
            run = build()
            run()
        except Exception as error:  # a peer may fail in any way, which is then reported
            missing.append(
                (f"{what}: {name}", "", "not measured " + f"({type(error).__name__}: {error})".splitlines()[0])
            )
        else:
            contenders[name] = run
    alone = timed({BASE: forward, "camlucida": ours}, rounds)
    measured = [(f"{what}: camlucida", limit, over(alone, "camlucida", BASE))]
    if len(contenders) > 1:
        times = timed(contenders, rounds)
        measured += [(f"{what}: {name}", "", over(times, name, BASE)) for name in contenders if name != BASE]
    return [*measured, *missing]
