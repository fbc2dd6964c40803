"""The figures of a data set: means, and intervals that an ordinary bootstrap would give."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camlucida.errors import RequestError
from camlucida.evaluation.statistics import FEWER, Statistics
from camlucida.metrics import Configured, Metric, Traced

NAN = float("nan")


def configured(name="m", *, better="high", high=1e9, **known):
    return Configured(Metric(name, name, lambda L: 0.0, "the tests", better, -high, high, **known))


def filled(columns, metric=None, labels=None, **settings):
    """What is made of values per method: a column of values, one for each image."""
    metric = metric or configured()
    statistics = Statistics([metric], **settings)
    for i in range(len(next(iter(columns.values()), ()))):
        label = labels[i] if labels else None
        statistics.add(i, label, {(method, metric.label): column[i] for method, column in columns.items()})
    return statistics


def ordinary(values, figure=lambda sample: sample.mean(axis=0), times=4000):
    """Percentiles of the figure over samples with replacement."""
    rng = np.random.default_rng(1)
    samples = (values[rng.integers(len(values), size=len(values))] for _ in range(times))
    return np.percentile([figure(sample) for sample in samples], (2.5, 97.5))


def skewed(count, seed=0):
    return np.random.default_rng(seed).gamma(1.5, 2.0, count)


# Means


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(NAN), st.just(float("inf"))), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_the_mean_is_over_what_has_a_value_and_the_rest_is_counted(values):
    found = filled({"a": values}, replicates=20).estimate("a", "m")
    finite = [value for value in values if np.isfinite(value)]
    assert (found.images, found.undefined) == (len(finite), len(values) - len(finite))
    np.testing.assert_allclose(found.value, np.mean(finite) if finite else NAN, rtol=1e-12, atol=1e-9)
    assert (found.interval is None) == (len(finite) < 2)


def test_by_class_the_mean_is_taken_within_classes_first():
    found = filled({"a": [1.0, 0.0, 0.0, 0.0]}, configured(by_class=True), ["cat", "dog", "dog", "dog"])
    assert found.estimate("a", "m").value == 0.5


def test_pooled_figures_come_from_the_mean_array():
    metric = configured(pooled=lambda mean: mean.max())
    found = filled({"a": [np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.0, NAN])]}, metric)
    assert found.estimate("a", "m").value == 0.5
    assert found.estimate("a", "m").undefined == 1


# Intervals


@pytest.mark.parametrize("count", [30, 200])
def test_intervals_are_those_of_an_ordinary_bootstrap(count):
    values = skewed(count)
    found = filled({"a": values}, replicates=4000).estimate("a", "m").interval
    error = values.std() / np.sqrt(count)
    np.testing.assert_allclose(found, ordinary(values), atol=0.15 * error)


def test_intervals_of_a_metric_by_class_are_those_of_an_ordinary_bootstrap():
    labels = ["cat"] * 40 + ["dog"] * 10
    values = np.concatenate([skewed(40), 5 + skewed(10, seed=1)])
    table = np.column_stack([values, [label == "cat" for label in labels]])

    def figure(sample):
        return np.mean([sample[sample[:, 1] == known, 0].mean() for known in np.unique(sample[:, 1])])

    found = filled({"a": values}, configured(by_class=True), labels).estimate("a", "m").interval
    low, high = ordinary(table, figure)
    np.testing.assert_allclose(found, (low, high), atol=0.2 * (high - low))  # of no more than FEWER replicates


def test_intervals_of_pooled_metrics_lie_about_the_figure():
    values = np.random.default_rng(0).random((40, 300)) < 0.5  # the greatest of many means: replicates lie above it
    found = filled({"a": values}, configured(high=1.0, pooled=lambda mean: mean.max())).estimate("a", "m")
    assert found.interval.low < found.value < found.interval.high
    np.testing.assert_allclose(sum(found.interval) / 2, found.value, atol=0.03)


def test_intervals_of_pooled_metrics_stay_within_the_range():
    values = np.ones((40, 3))
    values[:2] = 0
    found = filled({"a": values}, configured(high=1.0, pooled=lambda mean: mean.max())).estimate("a", "m")
    assert found.interval.high <= 1


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    covered = 0
    for i in range(300):
        interval = filled({"a": rng.exponential(2.0, 60)}, replicates=400, seed=i).estimate("a", "m").interval
        covered += interval.low <= 2 <= interval.high
    assert 0.89 <= covered / 300 <= 0.97


def test_differences_are_paired():
    base = skewed(60)
    better = base + 0.1 + 0.05 * np.random.default_rng(5).standard_normal(60)
    found = filled({"a": base, "b": better}, replicates=4000)
    difference = found.difference("m", "b", "a")
    np.testing.assert_allclose(difference, ordinary(better - base), atol=0.002)
    assert not difference.covers_zero
    assert found.estimate("a", "m").interval.high > found.estimate("b", "m").interval.low  # each alone could not tell


def test_what_is_the_same_differs_by_nothing():
    found = filled({"a": skewed(20), "b": skewed(20)})
    assert found.difference("m", "a", "b") == (0, 0)


def test_one_image_has_no_interval():
    found = filled({"a": [1.0], "b": [2.0]})
    assert found.estimate("a", "m").interval is None
    assert found.difference("m", "a", "b") is None


@given(st.floats(0.01, 100), st.floats(-10, 10))
@settings(deadline=None, max_examples=25)
def test_intervals_follow_the_unit(scale, shift):
    values = skewed(15)
    plain = filled({"a": values}, replicates=100).estimate("a", "m").interval
    other = filled({"a": scale * values + shift}, replicates=100).estimate("a", "m").interval
    np.testing.assert_allclose(other, scale * np.array(plain) + shift, rtol=1e-9, atol=1e-9)


# What the figures do not depend on


@pytest.mark.parametrize("metric", [configured(), configured(by_class=True), configured(pooled=lambda m: m.max())])
def test_neither_batches_nor_company_nor_order_matter(metric):
    values, labels = skewed(30), ["cat", "dog", "cow"] * 10
    whole = filled({"a": values, "b": values[::-1]}, metric, labels)
    apart = Statistics([metric])
    for method, column in (("b", values[::-1]), ("a", values)):
        for i in [*range(20, 30), *range(20)]:
            apart.add(i, labels[i], {(method, metric.label): column[i]})
    for method in ("a", "b"):
        one, other = whole.estimate(method, "m"), apart.estimate(method, "m")
        np.testing.assert_allclose((other.value, *other.interval), (one.value, *one.interval), rtol=1e-5)


def test_the_seed_decides():
    values = skewed(30)
    intervals = [filled({"a": values}, seed=seed).estimate("a", "m").interval for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]


@pytest.mark.parametrize("metric", [configured(), configured(pooled=lambda mean: mean.max())])
def test_memory_does_not_grow_with_the_number_of_images(metric):
    statistics = Statistics([metric])
    value = np.ones(500) if metric.metric.pooled else 1.0
    statistics.add(0, None, {("a", "m"): value})
    tracemalloc.start()
    for i in range(1, 300):
        statistics.add(i, None, {("a", "m"): value})
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 300 * 8  # less than one number for each image


def test_arrays_have_fewer_replicates():
    metric = configured(pooled=lambda mean: asked.append(1) or mean.max())
    asked = []
    filled({"a": np.ones((30, 2))}, metric).estimate("a", "m")
    assert FEWER <= len(asked) <= FEWER + 2


def test_no_replicates_are_refused():
    with pytest.raises(RequestError, match="replicates=0 is not a whole number above 0"):
        Statistics([], replicates=0)


# Curves


def test_curves_are_averaged_where_there_is_a_figure():
    at = np.array([0.0, 0.5, 1.0])
    traced = [Traced(0.5, at, np.array([1.0, 0.5, 0.0])), Traced(NAN, at, np.ones(3)), Traced(1.0, at, np.ones(3))]
    (curve,) = filled({"a": traced}).curves("m")
    np.testing.assert_allclose(curve.mean, [1, 0.75, 0.5])
    assert (curve.method, curve.metric, curve.images) == ("a", "m", 2)


def test_curves_read_elsewhere_are_read_where_the_first_is():
    coarse = Traced(0.5, np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0]))
    fine = Traced(0.5, np.linspace(0, 1, 9), np.linspace(0, 1, 9))
    (curve,) = filled({"a": [coarse, fine]}).curves("m")
    np.testing.assert_allclose(curve.mean, curve.at)


def test_figures_without_curves_have_none():
    assert filled({"a": [1.0, 2.0]}).curves("m") == []
