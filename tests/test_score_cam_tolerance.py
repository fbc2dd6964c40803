"""Score-CAM that stops early: no place of the scaled map is off by more than was allowed."""

import numpy as np
import pytest

import camlucida as cl
from camlucida import maps, plan, targets
from camlucida.errors import RequestError
from camlucida.methods import configure
from fake_engine import FakeEngine

GRID, K = (5, 4), 96


class Uneven(FakeEngine):
    """Most of its channels hardly speak."""

    def __init__(self, seed):
        super().__init__(channels=K, seed=seed)
        self.V = self.V * np.geomspace(1, 1e-4, K)


def found(engine, name, target=0, count=2):
    x = np.random.default_rng(7).uniform(size=(count, *GRID, 2)).astype("float32")
    bound = tuple(t.bind(int, 4) for t in targets.parse(target))
    _, laid = plan.run(engine, x, plan.Order({configure(name): ("features",)}, bound))
    (one,) = laid.values()
    return np.stack([maps.heat(m.reshape(GRID), GRID) for m in one.values])


@pytest.mark.parametrize("tolerance", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_the_scaled_map_is_within_the_tolerance(seed, tolerance):
    exact = found(Uneven(seed), "score-cam")
    early = found(Uneven(seed), f"score-cam?tolerance={tolerance}")
    assert np.abs(early - exact).max() <= tolerance + 1e-6


def test_it_takes_fewer_passes_and_the_more_is_allowed_the_fewer():
    passes = []
    for tolerance in (0, 0.001, 0.01, 0.1):
        engine = Uneven(0)
        found(engine, f"score-cam?tolerance={tolerance}")
        passes.append(sum(engine.probed))
    assert passes[0] == 2 * K
    assert passes == sorted(passes, reverse=True)
    assert passes[-1] < passes[0] / 2


def test_without_tolerance_nothing_is_left_out():
    assert configure("score-cam?tolerance=0") == configure("score-cam?tolerance=0.0") == configure("score-cam")


@pytest.mark.parametrize("tolerance", [-0.1, 1, "'much'"])
def test_a_tolerance_that_is_none(tolerance):
    with pytest.raises(RequestError, match=r"tolerance=.* of score-cam is not a number from 0 and below 1"):
        found(Uneven(0), f"score-cam?tolerance={tolerance}")


def test_it_is_for_weights_between_0_and_1():
    with pytest.raises(RequestError, match="for variant='official'"):
        found(Uneven(0), "score-cam?tolerance=0.1&variant=paper")
    with pytest.raises(RequestError, match="needs the probability of a class"):
        found(Uneven(0), "score-cam?tolerance=0.01", target=targets.custom(lambda y: y[:, 0] * 5 + 3))


def test_it_is_an_option_of_a_request():
    x = np.random.default_rng(0).uniform(size=(1, 8, 10, 3)).astype("float32")
    from tiny import gap_net

    result = cl.explain(gap_net(), x, method="score-cam", tolerance=0.05, preprocess=None)
    assert result[0].method == "score-cam?tolerance=0.05"
