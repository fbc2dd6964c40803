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
    """Each contender's time over that of the forward pass.

    Args:
        what: what is measured.
        limit: the limit for ours.
        peers: what builds a run of each of them; one that is not there, or fails, is said to be so.
    """
    contenders = {BASE: forward, "camlucida": ours}
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
    times = timed(contenders, rounds)
    limits = {"camlucida": limit}
    measured = [(f"{what}: {name}", limits.get(name, ""), over(times, name, BASE)) for name in contenders]
    return [*measured[1:], *missing]
