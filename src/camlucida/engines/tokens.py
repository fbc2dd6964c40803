"""How the tokens of a picture lie: which of them are patches, and in what grid. No array says so."""

import math
from collections.abc import Mapping

from camlucida.types import Grid

_MISFIT = 1.5
"""How far the sides of a grid of tokens may be from the picture's, as a ratio of ratios."""


def token_grid(count: int, size: Grid) -> Grid:
    """How tokens lie that are cut out of a picture: the factors whose ratio is nearest to the picture's, if one is."""
    pairs = [(count // w, w) for w in range(1, count + 1) if count % w == 0]

    def misfit(pair: tuple[int, int]) -> float:
        return abs(math.log(pair[0] / pair[1] * size[1] / size[0]))

    best = min(pairs, key=misfit)
    return best if misfit(best) <= math.log(_MISFIT) else ()


def patches(count: int, size: Grid, others: Mapping[int, tuple[int, ...]]) -> tuple[Grid, tuple[int, ...]]:
    """The grid of `count` tokens, and which of them are no patches (class and register tokens).

    Args:
        count: how many tokens there are.
        size: height and width of the picture.
        others: by number of tokens, those that do not depend on the picture where tokens of this number first appear.
            Later on, where tokens were pooled, they are taken to keep their places.
    """
    known = [others[count]] if others.get(count) else [(), *dict.fromkeys(others.values())]
    for set_aside in known:
        if grid := token_grid(count - len(set_aside), size) if count > len(set_aside) else ():
            return grid, set_aside
    return (), ()
