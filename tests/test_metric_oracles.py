"""The oracles of the metrics, alone: by numbers worked by hand and by closed forms. The package is not imported."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats

from oracles import faithfulness, localisation, robustness

Array = NDArray[np.float64]

SIZE = (6, 7)
PIXELS = 42


def mean_model(x: Array) -> Array:
    """The probability of class 0 is the mean of the input, that of class 1 the rest."""
    p = float(np.mean(x))
    return np.log([p, 1.0 - p])


def sum_model(x: Array) -> Array:
    """One logit, the sum of the input."""
    return np.array([np.sum(x)])


class Linear:
    """f(x) = b + sum v x, an input and a map: the gradient of class c is v[c]."""

    def __init__(self) -> None:
        rng = np.random.default_rng(50)
        self.v, self.b = rng.normal(size=(3, *SIZE, 3)), rng.normal(size=3)
        self.x, self.base = rng.normal(size=(2, *SIZE, 3))
        self.L = rng.permutation(np.linspace(0.0, 1.0, PIXELS)).reshape(SIZE)
        self.order = [int(place) for place in np.argsort(-self.L.ravel())]

    def f(self, x: Array) -> Array:
        return np.array([b + np.sum(v * x) for v, b in zip(self.v, self.b, strict=True)])


@pytest.fixture(scope="module")
def linear() -> Linear:
    return Linear()


def column(*values: float) -> Array:
    """An image of one row and one colour."""
    return np.array(values).reshape(1, -1, 1)


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


# The image seen through the map --------------------------------------------------------------------------------------

X = np.full((2, 2, 1), 0.8)
TOP = np.array([[1.0, 1.0], [0.0, 0.0]])
SOFT = np.array([[0.75, 0.25], [1.0, 0.0]])  # through it the mean of X is 0.4


@pytest.mark.parametrize(
    ("metric", "of_class_0", "of_class_1"),
    [
        (faithfulness.average_drop, 0.5, 0.0),  # 0.8 falls to 0.4, 0.2 rises to 0.6
        (faithfulness.increase_in_confidence, 0.0, 1.0),
        (faithfulness.average_gain, 0.0, 0.5),  # (0.6 - 0.2) / (1 - 0.2)
    ],
)
def test_the_probability_through_the_map(metric: Callable[..., float], of_class_0: float, of_class_1: float) -> None:
    close(metric(mean_model, X, SOFT, 0), of_class_0)
    close(metric(mean_model, X, SOFT, 1), of_class_1)


@pytest.mark.parametrize("c", [0, 1])
def test_what_is_wholly_shown_loses_and_gains_nothing(c: int) -> None:
    """Identity 29."""
    ones = np.ones((2, 2))
    assert faithfulness.average_drop(mean_model, X, ones, c) == 0.0
    assert faithfulness.increase_in_confidence(mean_model, X, ones, c) == 0.0
    assert faithfulness.average_gain(mean_model, X, ones, c) == 0.0
    assert faithfulness.complexity(ones) == 1.0
    assert faithfulness.adcc(mean_model, X, ones, TOP, c) == 0.0


def test_certainty_cannot_gain_and_impossibility_cannot_drop() -> None:
    def sure(x: Array) -> Array:
        return np.array([0.0, -1e4])

    assert faithfulness.average_gain(sure, X, TOP, 0) == 0.0
    assert faithfulness.average_drop(sure, X, TOP, 1) == 0.0


def test_coherency_is_one_for_the_same_map_and_zero_for_its_opposite() -> None:
    close(faithfulness.coherency(TOP, 3.0 * TOP + 1.0), 1.0)
    close(faithfulness.coherency(TOP, 1.0 - TOP), 0.0)
    close(faithfulness.coherency(TOP, TOP.T), 0.5)
    assert faithfulness.coherency(TOP, np.ones((2, 2))) == 0.0


def test_adcc_is_the_harmonic_mean() -> None:
    L = np.array([[0.5, 0.5], [0.0, 0.0]])  # a quarter is shown: 0.8 falls to 0.2, and 0.2 rises
    close(faithfulness.adcc(mean_model, X, L, L, 0), 3.0 / (1.0 / 1.0 + 1.0 / 0.75 + 1.0 / 0.25))
    close(faithfulness.adcc(mean_model, X, L, L.T, 1), 3.0 / (1.0 / 0.5 + 1.0 / 0.75 + 1.0 / 1.0))
    assert faithfulness.adcc(mean_model, X, L, 1.0 - L, 0) == 0.0


@pytest.mark.parametrize(
    ("L", "complexity", "gini", "entropy"),
    [
        ([0.5, 0.5, 0.5, 0.5], 0.5, 0.0, math.log(4.0)),
        ([0.0, 0.0, 1.0, 0.0], 0.25, 0.75, 0.0),
        ([0.75, 0.25], 0.5, 0.25, 0.25 * math.log(4.0) + 0.75 * math.log(4.0 / 3.0)),
        ([0.25, 0.5, -0.25], 1.0 / 3.0, 1.0 / 6.0, 1.5 * math.log(2.0)),
        ([0.0, 0.0], 0.0, math.nan, math.nan),
    ],
)
def test_how_much_of_the_picture_is_shown(L: list[float], complexity: float, gini: float, entropy: float) -> None:
    close(faithfulness.complexity(np.array([L])), complexity)
    close(faithfulness.gini_sparseness(np.array([L])), gini)
    close(faithfulness.entropy(np.array([L])), entropy)


# Pixels removed in the order of the map ------------------------------------------------------------------------------


def test_pixels_leave_and_come_in_the_given_order() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None]
    order, counts = [3, 2, 1, 0], [0, 1, 2, 3, 4]
    area, curve = faithfulness.deletion_auc(sum_model, x, order, counts, 0, kind="logit")
    close(curve, [10.0, 6.0, 3.0, 1.0, 0.0])
    close(area, 3.75)
    area, curve = faithfulness.insertion_auc(sum_model, x, order, counts, 0, np.zeros_like(x), "logit")
    close(curve, [0.0, 4.0, 7.0, 9.0, 10.0])
    close(area, 6.25)


def test_the_score_is_the_probability_unless_the_logit_is_asked_for() -> None:
    x, base = column(0.9, 0.3), column(0.1, 0.1)
    close(faithfulness.deletion_auc(mean_model, x, [0, 1], [0, 1, 2], 0, base)[1], [0.6, 0.2, 0.1])
    close(faithfulness.deletion_auc(mean_model, x, [0, 1], [0, 2], 0, base, "logit")[1], np.log([0.6, 0.1]))
    with pytest.raises(ValueError, match="kind"):
        faithfulness.deletion_auc(mean_model, x, [0, 1], [0, 2], 0, base, "margin")


@pytest.mark.parametrize(("step", "counts"), [(4, [0, 4, 8, 10]), (5, [0, 5, 10]), (20, [0, 10])])
def test_points_of_the_curve(step: int, counts: list[int]) -> None:
    assert faithfulness.rise_counts(10, step) == counts


@pytest.mark.parametrize("step", [1, 5, 42])
def test_insertion_and_deletion_of_a_linear_model_add_up(linear: Linear, step: int) -> None:
    """Identity 30: insertion + deletion = f(x) + f(base), at every point and for any order."""
    counts = faithfulness.rise_counts(PIXELS, step)
    both = linear.f(linear.x)[1] + linear.f(linear.base)[1]
    for order in (linear.order, list(range(PIXELS))):
        inserted, coming = faithfulness.insertion_auc(linear.f, linear.x, order, counts, 1, linear.base, "logit")
        deleted, going = faithfulness.deletion_auc(linear.f, linear.x, order, counts, 1, linear.base, "logit")
        close(inserted + deleted, both)
        close(np.add(coming, going), [both] * len(counts))


def test_insertion_starts_from_the_blurred_image(linear: Linear) -> None:
    _, curve = faithfulness.insertion_auc(linear.f, linear.x, linear.order, [0, PIXELS], 2, kind="logit")
    close(curve, [linear.f(faithfulness.blurred(linear.x))[2], linear.f(linear.x)[2]])


def test_the_blur_is_a_folded_gaussian_with_zeros_outside() -> None:
    delta = np.zeros((11, 11))
    delta[5, 5] = 1.0
    kernel = ndimage.gaussian_filter(delta, 5.0)
    x = np.random.default_rng(51).uniform(size=(13, 12, 2))
    expected = np.stack([ndimage.correlate(x[:, :, q], kernel, mode="constant") for q in range(2)], axis=-1)
    close(faithfulness.blurred(x), expected)


def test_the_blur_keeps_a_plain_image_but_darkens_its_edges() -> None:
    plain = faithfulness.blurred(np.ones((12, 12, 1)))
    close(plain[5:7, 5:7], 1.0)
    assert plain[0, 6, 0] < 0.7 < plain[4, 6, 0] < 0.98


def test_irof_is_the_area_over_the_curve() -> None:
    x = np.array([[0.9, 0.9], [0.1, 0.1]])[:, :, None]
    rows = np.array([[0, 0], [1, 1]])
    # p is 0.5; without the upper row 0.3, without the lower 0.7, without both the mean colour, 0.5.
    close(faithfulness.irof(mean_model, x, TOP, rows, 0), 1.0 - (0.5 * 1.0 + 0.6 + 0.5 * 1.0) / 2.0)
    close(faithfulness.irof(mean_model, x, 1.0 - TOP, rows, 0), 1.0 - (0.5 * 1.0 + 1.4 + 0.5 * 1.0) / 2.0)
    close(faithfulness.irof(mean_model, x, TOP.T, rows, 0), 0.2)  # a tie: the lower number goes first


def test_irof_replaces_each_colour_by_its_own_mean() -> None:
    x = np.zeros((1, 2, 2))
    x[0, 0], x[0, 1] = [1.0, 0.0], [0.5, 0.5]

    def second_colour(x: Array) -> Array:
        return np.log([0.1 + 0.5 * x[0, 0, 1], 0.9 - 0.5 * x[0, 0, 1]])

    # The first pixel's second colour becomes 0.25: p rises from 0.1 to 0.225 and stays.
    close(
        faithfulness.irof(second_colour, x, np.array([[1.0, 0.0]]), np.array([[3, 5]]), 0),
        1.0 - (0.5 + 2.25 * 1.5) / 2.0,
    )


# Pixels removed and filled in ----------------------------------------------------------------------------------------


def test_a_pixel_is_filled_in_from_its_neighbours() -> None:
    x = np.array([[12.0, 6.0, 0.0], [0.0, 99.0, 0.0], [0.0, 0.0, 0.0]])[:, :, None]
    inner, corner = np.zeros((2, 3, 3), dtype=bool)
    inner[1, 1] = corner[0, 0] = True
    close(faithfulness.linear_imputation(x, inner)[1, 1], 12.0 / 12.0 + 6.0 / 6.0)
    close(
        faithfulness.linear_imputation(x, corner)[0, 0],
        (6.0 / 6.0 + 99.0 / 12.0) / (1.0 / 6.0 + 1.0 / 6.0 + 1.0 / 12.0),
    )


def test_neighbours_that_are_both_unknown_are_solved_together() -> None:
    x = column(0.0, 50.0, -50.0, 3.0)
    close(faithfulness.linear_imputation(x, np.array([[False, True, True, False]])), column(0.0, 1.0, 2.0, 3.0))


def test_an_image_must_keep_a_pixel() -> None:
    with pytest.raises(ValueError, match="no pixel"):
        faithfulness.linear_imputation(np.ones((2, 2, 1)), np.ones((2, 2), dtype=bool))


def test_an_affine_image_is_filled_in_exactly() -> None:
    """Identity 33: as long as what is removed does not touch the border."""
    i, j = np.indices(SIZE)
    x = np.stack([2.0 * i - j + 1.0, 0.5 * j - 3.0 * i], axis=-1)
    inner = np.zeros(SIZE, dtype=bool)
    inner[1:-1, 1:-1] = np.random.default_rng(52).uniform(size=(4, 5)) < 0.7
    close(faithfulness.linear_imputation(x, inner), x)
    inner[0, 0] = True
    assert np.abs(faithfulness.linear_imputation(x, inner) - x).max() > 0.1


def test_road_removes_the_first_places_of_the_order() -> None:
    x = column(0.0, 5.0, 2.0, 3.0)
    close(faithfulness.road(sum_model, x, [1, 3, 0, 2], [0, 1, 2], 0, "logit"), [10.0, 6.0, 5.0])
    # Turned round: 2 becomes 4, then 0 becomes 5 as well.
    close(faithfulness.road(sum_model, x, [2, 0, 3, 1], [0, 1, 2], 0, "logit"), [10.0, 12.0, 17.0])
    close(faithfulness.road_combined(sum_model, x, [1, 3, 0, 2], [1, 2], 0, "logit"), (14.5 - 5.5) / 2.0)


def test_most_and_least_relevant_first_change_places_with_the_opposite_map(linear: Linear) -> None:
    """Identity 33."""
    turned = [int(place) for place in np.argsort(-(1.0 - linear.L).ravel())]
    counts = [4, 21, 38]
    close(
        faithfulness.road(linear.f, linear.x, turned, counts, 0),
        faithfulness.road(linear.f, linear.x, linear.order[::-1], counts, 0),
    )
    close(
        faithfulness.road_combined(linear.f, linear.x, turned, counts, 0),
        -faithfulness.road_combined(linear.f, linear.x, linear.order, counts, 0),
    )


# Sums of the map against changes of the score ------------------------------------------------------------------------


def test_sensitivity_n_by_hand() -> None:
    x = column(1.0, 2.0, 3.0)
    singles = [np.eye(3, dtype=bool)[n : n + 1] for n in range(3)]
    close(faithfulness.sensitivity_n(sum_model, x, column(1.0, 3.0, 2.0), singles, 0), 0.5)
    close(faithfulness.sensitivity_n(sum_model, x, -x, singles, 0), -1.0)
    # With a base of (0, 2, 0) the changes are 1, 0, 3.
    expected = (1.0 * 1.0 + 3.0 * 0.0 + 2.0 * 3.0 - 6.0 * 4.0 / 3.0) / math.sqrt(2.0 * (10.0 - 16.0 / 3.0))
    close(faithfulness.sensitivity_n(sum_model, x, column(1.0, 3.0, 2.0), singles, 0, column(0.0, 2.0, 0.0)), expected)


def test_sensitivity_n_removes_the_subset_and_keeps_the_rest() -> None:
    def f(x: Array) -> Array:
        return np.array([x[0, 0, 0] * x[0, 1, 0] + x[0, 1, 0] * x[0, 2, 0]])

    # 8 falls by 2, 8 and 6; without the two others it falls by 8 each time.
    singles = [np.eye(3, dtype=bool)[n : n + 1] for n in range(3)]
    close(faithfulness.sensitivity_n(f, column(1.0, 2.0, 3.0), column(1.0, 4.0, 3.0), singles, 0), 1.0)


@pytest.mark.parametrize("n", [1, 7, 30])
@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 3)])
def test_gradient_times_input_has_sensitivity_n_on_a_linear_model(
    linear: Linear, n: int, shape: tuple[int, ...]
) -> None:
    """Identity 31."""
    rng = np.random.default_rng(53)
    subsets = [rng.permutation(np.arange(math.prod(shape)) < n).reshape(shape) for _ in range(8)]
    close(faithfulness.sensitivity_n(linear.f, linear.x, linear.v[2] * linear.x, subsets, 2), 1.0)
    assert faithfulness.sensitivity_n(linear.f, linear.x, linear.v[1] * linear.x, subsets, 2) < 0.99


def test_infidelity_by_hand() -> None:
    def f(x: Array) -> Array:
        return np.array([2.0 * x[0, 0, 0] + x[0, 1, 0]])

    x, phi, perturbations = column(5.0, 7.0), column(1.0, 0.0), [column(1.0, 0.0), column(0.0, 1.0)]
    close(faithfulness.infidelity(f, x, phi, perturbations, 0), ((1.0 - 2.0) ** 2 + (0.0 - 1.0) ** 2) / 2.0)
    close(
        faithfulness.infidelity(f, x, phi, perturbations, 0, scaled=True), ((2.0 - 2.0) ** 2 + (0.0 - 1.0) ** 2) / 2.0
    )
    close(faithfulness.infidelity(f, x, 0.0 * phi, perturbations, 0, scaled=True), (4.0 + 1.0) / 2.0)


def test_the_gradient_of_a_linear_model_is_wholly_faithful(linear: Linear) -> None:
    """Identity 31; scaled, any multiple of it is, too."""
    perturbations = list(np.random.default_rng(54).normal(size=(6, *SIZE, 3)))
    close(faithfulness.infidelity(linear.f, linear.x, linear.v[0], perturbations, 0), 0.0)
    close(faithfulness.infidelity(linear.f, linear.x, -3.0 * linear.v[0], perturbations, 0, scaled=True), 0.0)
    assert faithfulness.infidelity(linear.f, linear.x, -3.0 * linear.v[0], perturbations, 0) > 1.0


# How much maps change ------------------------------------------------------------------------------------------------


def test_max_sensitivity_by_hand() -> None:
    phi = np.array([[3.0, 4.0]])
    perturbed = [np.array([[3.0, 5.0]]), np.array([[0.0, 8.0]])]
    close(robustness.max_sensitivity(phi, perturbed), 1.0)
    close(robustness.max_sensitivity(phi, perturbed, relative=False), 5.0)
    close(robustness.max_sensitivity(phi, perturbed[:1]), 0.2)
    assert math.isnan(robustness.max_sensitivity(0.0 * phi, perturbed))


def test_the_gradient_of_a_linear_model_does_not_change(linear: Linear) -> None:
    """Identity 31."""
    assert robustness.max_sensitivity(linear.v[0], [linear.v[0]] * 3) == 0.0


def test_local_lipschitz_by_hand() -> None:
    phi, x = np.array([3.0, 4.0]), np.zeros(2)
    near, far = np.array([0.0, 0.5]), np.array([3.0, 4.0])
    close(robustness.local_lipschitz(phi, [np.array([3.0, 5.0])], x, [far]), 0.2)
    close(robustness.local_lipschitz(phi, [np.array([3.0, 5.0]), np.zeros(2)], x, [far, near]), 10.0)
    with pytest.raises(ZeroDivisionError):
        robustness.local_lipschitz(phi, [phi], x, [x])


def test_correlations_by_hand() -> None:
    close(robustness.pearson(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 0.5)
    close(robustness.spearman(np.array([1.0, 1.0, 2.0]), np.array([10.0, 20.0, 90.0])), 1.5 / math.sqrt(1.5 * 2.0))
    a, b = np.array([-3.0, 1.0, 2.0]), np.array([3.0, 1.0, 2.0])
    close(robustness.spearman(a, b), -0.5)
    close(robustness.spearman(a, b, absolute=True), 1.0)
    assert math.isnan(robustness.pearson(a, np.ones(3)))
    assert math.isnan(robustness.spearman(np.ones(3), b))


def test_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(55)
    a, b = rng.integers(-3, 4, size=(2, 5, 6)).astype(np.float64)
    close(robustness.pearson(a, b), stats.pearsonr(a.ravel(), b.ravel()).statistic)
    close(robustness.spearman(a, b), stats.spearmanr(a.ravel(), b.ravel()).statistic)


# One picture at a time -----------------------------------------------------------------------------------------------

EDGE = localisation.box_mask([(0, 0, 1, 20)], 20, 20)  # the leftmost column
CORNER = localisation.box_mask([(0, 0, 1, 1)], 20, 20)


def points(*places: tuple[int, int]) -> Array:
    L = np.full((20, 20), 0.5)
    for place in places:
        L[place] = 1.0
    return L


def test_a_box_leaves_out_its_right_and_bottom() -> None:
    expected = [[False, True, True, False], [False, True, True, False], [True, False, False, False]]
    assert localisation.box_mask([(1, 0, 3, 2), (0, 2, 1, 3)], 3, 4).tolist() == expected


@pytest.mark.parametrize(
    ("mask", "L", "hit"),
    [
        (EDGE, points((3, 14)), 1.0),
        (EDGE, points((3, 15)), 0.0),
        (CORNER, points((9, 12)), 0.0),  # 9^2 + 12^2 = 15^2, which is not less
        (CORNER, points((9, 11)), 1.0),
        (EDGE, points((3, 0), (4, 19), (5, 14), (6, 15)), 0.5),
        (EDGE, np.ones((20, 20)), 0.75),
        (EDGE, np.zeros((20, 20)), 0.0),
    ],
)
def test_the_pointing_game_asks_where_the_maximum_is(mask: NDArray[np.bool_], L: Array, hit: float) -> None:
    assert localisation.pointing_game(L, mask) == hit


def test_nothing_can_be_pointed_at_in_an_empty_mask() -> None:
    with pytest.raises(ValueError, match="empty"):
        localisation.pointing_game(points((3, 3)), np.zeros((20, 20), dtype=bool))


def test_energy_is_the_share_of_the_map_that_lies_inside() -> None:
    L = np.array([[0.2, 0.4, 0.0], [0.0, 0.6, 0.8]])
    close(localisation.energy_pointing_game(L, localisation.box_mask([(1, 0, 2, 2)], 2, 3)), 0.5)
    assert math.isnan(localisation.energy_pointing_game(0.0 * L, L > 0.0))


def test_the_energy_of_a_uniform_map_is_the_share_of_the_area() -> None:
    """Identity 32."""
    overlapping = localisation.box_mask([(1, 1, 4, 3), (2, 2, 5, 6)], 6, 7)
    close(localisation.energy_pointing_game(np.full(SIZE, 0.3), overlapping), (6 + 12 - 2) / 42)


@pytest.mark.parametrize(
    ("one", "other", "iou"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1.0 / 7.0),
        ((0, 0, 2, 3), (0, 0, 2, 3), 1.0),
        ((0, 0, 4, 1), (0, 0, 1, 4), 1.0 / 7.0),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),  # they touch
        ((0, 0, 1, 1), (2, 0, 3, 1), 0.0),  # a gap between them, sideways, upwards and both
        ((0, 0, 1, 1), (0, 2, 1, 3), 0.0),
        ((0, 0, 1, 1), (2, 2, 3, 3), 0.0),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0),
    ],
)
def test_intersection_over_union(one: tuple[int, ...], other: tuple[int, ...], iou: float) -> None:
    close(localisation.box_iou(one, other), iou)
    close(localisation.box_iou(other, one), iou)


BLOBS = np.array(
    [
        [0.8, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.8, 0.0, 0.0, 0.4],
        [0.4, 0.0, 0.0, 0.0, 0.4],
        [0.0, 0.0, 0.0, 0.0, 0.4],
    ]
)


def test_components_join_at_corners_and_lie_above_the_threshold() -> None:
    assert localisation.component_boxes(BLOBS, 0.2) == [(0, 0, 2, 3), (4, 1, 5, 4)]
    assert localisation.component_boxes(BLOBS, 0.45) == [(0, 0, 2, 3), (4, 1, 5, 4)]
    assert localisation.component_boxes(BLOBS, 0.5) == [(0, 0, 2, 2)]  # 0.4 is not above 0.5 * 0.8
    assert localisation.largest_box(BLOBS, 0.2) == (0, 0, 2, 3)  # three pixels each: the upper one
    assert localisation.largest_box(np.maximum(BLOBS, 0.4 * (np.indices((4, 5))[1] == 4)), 0.2) == (4, 0, 5, 4)
    assert localisation.largest_box(np.zeros((4, 5)), 0.2) is None


@pytest.mark.parametrize(
    ("boxes", "options", "error"),
    [
        ([(0, 0, 2, 3)], {}, 0.0),
        ([(4, 0, 5, 1), (0, 0, 2, 6)], {}, 0.0),  # one of them, with an IoU of 1/2
        ([(0, 0, 2, 7)], {}, 1.0),
        ([(0, 0, 2, 7)], {"iou": 0.4}, 0.0),
        ([(4, 1, 5, 4)], {}, 1.0),
        ([(0, 0, 2, 3)], {"rank": 3}, 0.0),
        ([(0, 0, 2, 3)], {"rank": 1, "top": 1}, 1.0),
        ([(0, 0, 2, 3)], {"rank": 4, "top": 5}, 0.0),
    ],
)
def test_localisation_error(boxes: list[tuple[int, ...]], options: dict[str, Any], error: float) -> None:
    assert localisation.localisation_error(BLOBS, boxes, 0.2, **options) == error
    assert localisation.localisation_error(np.zeros((4, 5)), boxes, 0.2, **options) == 1.0


# Thresholds over a data set ------------------------------------------------------------------------------------------

NESTED = np.full((4, 4), 0.4)  # up to a threshold of 0.4 the whole picture, above it nine pixels
NESTED[:3, :3] = 1.0
WHOLE, NINE, FOUR = (0, 0, 4, 4), (0, 0, 3, 3), (0, 0, 2, 2)


def test_one_threshold_serves_all_images() -> None:
    # 9/16 = 0.5625 and 4/9 = 0.44.
    assert localisation.max_box_acc([NESTED, NESTED], [[WHOLE], [NINE]]) == 1.0
    assert localisation.max_box_acc([NESTED, NESTED], [[WHOLE], [NINE]], iou=0.7) == 0.5
    assert localisation.max_box_acc([NESTED, NESTED], [[FOUR], [NINE]]) == 0.5
    assert localisation.max_box_acc([NESTED], [[FOUR, WHOLE]]) == 1.0
    close(localisation.max_box_acc_v2([NESTED, NESTED], [[WHOLE], [NINE]]), (1.0 + 1.0 + 0.5) / 3.0)
    close(localisation.max_box_acc_v2([NESTED], [[FOUR]]), 1.0 / 3.0)


def test_only_the_second_version_looks_beyond_the_largest_component() -> None:
    L = np.zeros((5, 5))
    L[0, 0] = L[3:, 3:] = 1.0
    assert localisation.max_box_acc([L], [[(0, 0, 1, 1)]]) == 0.0
    assert localisation.max_box_acc_v2([L], [[(0, 0, 1, 1)]]) == 1.0
    assert localisation.max_box_acc([np.zeros((5, 5))], [[(0, 0, 1, 1)]]) == 0.0
    assert localisation.max_box_acc_v2([np.zeros((5, 5))], [[(0, 0, 1, 1)]]) == 0.0


def test_px_ap_by_hand() -> None:
    L, mask = np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[True, False, True, False]])
    close(localisation.px_ap([L], [mask]), 0.5 * 1.0 + 0.5 * 2.0 / 3.0)
    ignored = np.array([[False, True, False, False]])
    close(localisation.px_ap([L], [mask], [ignored]), 1.0)


def test_px_ap_goes_from_a_threshold_of_one_to_zero() -> None:
    close(localisation.px_ap([np.array([[0.9995, 1.0]])], [np.array([[False, True]])]), 1.0)
    close(localisation.px_ap([np.array([[0.0, 1.0]])], [np.array([[True, True]])]), 1.0)


def test_px_ap_pools_the_pixels_of_all_images() -> None:
    maps = [np.array([[0.9, 0.2]]), np.array([[0.8, 0.7]])]
    masks = [np.array([[True, False]]), np.array([[False, True]])]
    close(localisation.px_ap(maps, masks), 0.5 * 1.0 + 0.5 * 2.0 / 3.0)
    close(localisation.px_ap(maps[1:], masks[1:]), 0.5)
    with pytest.raises(ValueError, match="empty"):
        localisation.px_ap(maps, [mask & False for mask in masks])


def test_only_the_order_of_a_map_counts() -> None:
    """Identity 32: a rising transform changes nothing, as long as thresholds still lie between all its levels."""
    rng = np.random.default_rng(56)
    maps = [np.linspace(0.0, 1.0, 5)[rng.integers(0, 5, size=(5, 6))] for _ in range(3)]
    for L in maps:
        L[2, 2] = 1.0
    squared = [L**2 for L in maps]
    boxes = [[(0, 0, 5, 4)], [(1, 1, 4, 5)], [(0, 2, 6, 5)]]
    masks = [localisation.box_mask(truth, 5, 6) for truth in boxes]
    assert localisation.max_box_acc(maps, boxes, 0.4) == localisation.max_box_acc(squared, boxes, 0.4) > 0.0
    assert localisation.max_box_acc_v2(maps, boxes) == localisation.max_box_acc_v2(squared, boxes) > 0.0
    close(localisation.px_ap(maps, masks), localisation.px_ap(squared, masks))
