"""The metrics against their oracles and identities, and what must hold for every one of them that asks."""

import inspect
import math

import numpy as np
import pytest
from skimage.segmentation import slic

from camlucida.asks import Maps, Pictures, Reset
from camlucida.errors import ConditionError
from camlucida.maps import heat
from camlucida.metrics import Traced, configure, metrics, ordered
from camlucida.metrics.randomisation import similarity
from measuring import measure
from oracles import faithfulness, robustness

HERE = ("masked", "ordered", "sampled", "robustness", "randomisation", "complexity")
MINE = [name for name, metric in metrics().items() if metric.family in HERE]
ASKING = [name for name, metric in metrics().items() if inspect.isgeneratorfunction(metric.formula)]
SMALL = {"irof": "irof?segments=100", "sensitivity-n": "sensitivity-n?subsets=20"}
SIZE, GRID, CLASSES = (24, 28), (5, 4), 3
LAYERS = tuple("abcdefg")


def case(seed=0, size=SIZE, grid=GRID):
    """What metrics take, by the names of their parameters: values of `x` keep away from 0, those of `L` differ."""
    rng = np.random.default_rng(seed)
    shape = (*size, 3)
    x = (rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.5, shape)).astype("float32")
    mask = np.zeros(size, bool)
    mask[tuple(slice(n // 4, n // 2 + 1) for n in size)] = True
    return {
        "L": rng.random(size, "float32"),
        "raw": rng.normal(size=grid).astype("float32"),
        "phi": rng.normal(size=shape).astype("float32"),
        "x": x,
        "span": float(np.ptp(x)),
        "heat": rng.uniform(size=size).astype("float32"),
        "boxes": np.array([[size[-1] // 4, size[0] // 4, size[-1] // 2, size[0] // 2]]),
        "mask": mask,
        "rank": 1,
        "layers": LAYERS,
    }


def smooth(x):
    """A picture that falls into superpixels."""
    return np.cumsum(np.cumsum(x, axis=0), axis=1) / 50


def network(size=SIZE, seed=1):
    """A model that is not linear."""
    rng = np.random.default_rng(seed)
    into = rng.normal(size=(math.prod(size) * 3, 16)) / math.sqrt(math.prod(size))
    out = rng.normal(size=(16, CLASSES))
    return lambda images: np.tanh(images.reshape(len(images), -1) @ into) @ out


def explained(grid=GRID, seed=2):
    """Maps of a method that depends on the picture, the class and the weights."""
    weights = np.random.default_rng(seed).normal(size=math.prod(grid))

    def maps(ask):
        if isinstance(ask, Maps):
            flat = ask.images.reshape(len(ask.images), -1)
            return np.tanh(flat[:, : math.prod(grid)] * weights + flat.mean(axis=1, keepdims=True)).reshape(-1, *grid)
        drawn = (*map(ord, ask.layers), ask.seed) if isinstance(ask, Reset) else ask.seed
        return np.random.default_rng(drawn).normal(size=(1, *grid))

    return maps


def value(text, given=None, model=None, asked=None, **kwargs):
    """The figure of one image."""
    given = case() if given is None else given
    kwargs.setdefault("maps", explained())
    found = measure(text, given, model or network(), asked=asked, **kwargs)
    return configure(text).figure(found.value if isinstance(found, Traced) else found)


def logits(x):
    return network()(x[None])[0]


# Oracles -------------------------------------------------------------------------------------------------------------


def portions(asked):
    return np.concatenate([ask.images for ask in asked]).astype("float64")


def order(L):
    return list(np.argsort(-L, axis=None))


def counts(pixels, steps=224):
    return [round(pixels * k / steps) for k in range(steps + 1)]


def heat_map(ask):
    return heat(explained()(ask)[0].astype("float32"), SIZE)


def irof_oracle(g, _):
    segments = slic(g["x"], n_segments=100, start_label=0, channel_axis=-1)
    assert 20 < segments.max() < 100
    return faithfulness.irof(logits, g["x"].astype("float64"), g["L"], segments, 0)


def sensitivity_oracle(g, asked):
    sets = (portions(asked) == 0).all(axis=-1).reshape(10, 20, *SIZE)
    return np.mean([faithfulness.sensitivity_n(logits, g["x"], g["phi"], of_one_size, 0) for of_one_size in sets])


def infidelity_oracle(g, asked):
    changes = [g["x"] - image for image in portions(asked)]
    return faithfulness.infidelity(logits, g["x"], g["phi"] / g["x"].astype("float64"), changes, 0, scaled=True)


def raws(asked):
    return [raw for ask in asked for raw in np.asarray(explained()(ask), "float32")]


def alike(g, asked):
    return np.mean([robustness.spearman(g["raw"], raw) for raw in raws(asked)])


ORACLES = {
    "average-drop": lambda g, _: 100 * faithfulness.average_drop(logits, g["x"], g["L"], 0),
    "increase": lambda g, _: 100 * faithfulness.increase_in_confidence(logits, g["x"], g["L"], 0),
    "average-gain": lambda g, _: 100 * faithfulness.average_gain(logits, g["x"], g["L"], 0),
    "coherency": lambda g, asked: faithfulness.coherency(g["L"], heat_map(asked[0])),
    "adcc": lambda g, asked: faithfulness.adcc(
        logits, g["x"], g["L"], heat_map(next(ask for ask in asked if isinstance(ask, Maps))), 0
    ),
    "deletion": lambda g, _: faithfulness.deletion_auc(logits, g["x"], order(g["L"]), counts(g["L"].size), 0)[0],
    "insertion": lambda g, _: faithfulness.insertion_auc(logits, g["x"], order(g["L"]), counts(g["L"].size), 0)[0],
    "irof": irof_oracle,
    "sensitivity-n": sensitivity_oracle,
    "infidelity": infidelity_oracle,
    "max-sensitivity": lambda g, asked: robustness.max_sensitivity(g["raw"], raws(asked)),
    "local-lipschitz": lambda g, asked: robustness.local_lipschitz(
        g["raw"], raws(asked), g["x"], list(portions(asked))
    ),
    "cascading-randomisation": alike,
    "independent-randomisation": alike,
    "random-logit": alike,
    "complexity": lambda g, _: faithfulness.complexity(g["L"]),
    "entropy": lambda g, _: faithfulness.entropy(g["L"]),
    "gini": lambda g, _: faithfulness.gini_sparseness(g["L"]),
}


@pytest.mark.parametrize("name", MINE)
def test_a_metric_is_what_its_oracle_says(name):
    given, asked = case(), []
    if name == "irof":
        given["x"] = smooth(given["x"])
    found = value(SMALL.get(name, name), given, asked=asked)
    assert found == pytest.approx(ORACLES[name](given, asked), rel=1e-6, abs=1e-6)


def test_infidelity_to_noise_is_what_its_oracle_says():
    given, asked = case(), []
    found = value("infidelity?noise=gaussian&scaled=False", given, asked=asked)
    changes = [given["x"] - image for image in portions(asked)]
    assert found == pytest.approx(faithfulness.infidelity(logits, given["x"], given["phi"], changes, 0), rel=1e-6)
    assert portions(asked).std() == pytest.approx(0.2 * given["span"], rel=0.02)


# Identities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "figure"),
    [("average-drop", 0), ("increase", 0), ("average-gain", 0), ("complexity", 1), ("adcc", 0), ("coherency", 0)],
)
def test_29_a_map_of_everything(name, figure):
    assert value(name, case() | {"L": np.ones(SIZE, "float32")}) == figure


def test_29_fake_cam_loses_next_to_nothing():
    fake = np.ones(SIZE, "float32")
    fake[0, 0] = 0
    assert value("average-drop", case() | {"L": fake}) < 1


def test_30_insertion_and_deletion_of_a_linear_probability_sum_to_both_ends(monkeypatch):
    monkeypatch.setattr(ordered, "_blurred", np.zeros_like)  # the same base for both
    v = np.random.default_rng(3).normal(size=math.prod(SIZE) * 3) / 1000

    def probability(images):
        return 0.5 + images.reshape(len(images), -1) @ v

    def model(images):
        p = probability(images)
        return np.log(np.stack([p, 1 - p], axis=-1))

    given = case()
    both = value("deletion?steps=11", given, model) + value("insertion?steps=11", given, model)
    assert both == pytest.approx(probability(given["x"][None])[0] + 0.5, abs=1e-6)


def linear(seed=4):
    w = np.random.default_rng(seed).normal(size=(math.prod(SIZE) * 3, CLASSES))
    return w[:, 0].reshape(*SIZE, 3), lambda images: images.reshape(len(images), -1) @ w + 1


@pytest.mark.parametrize("scaled", [True, False])
def test_31_infidelity_of_a_linear_model_to_its_gradient_and_its_contributions_is_0(scaled):
    gradient, model = linear()
    given = case()
    contributions = gradient * given["x"]
    options = f"scaled={scaled}&samples=40"
    assert value(f"infidelity?noise=gaussian&{options}", given | {"phi": gradient}, model) == pytest.approx(0, abs=1e-6)
    assert value(f"infidelity?noise=square&{options}", given | {"phi": contributions}, model) == pytest.approx(
        0, abs=1e-6
    )
    assert value(f"infidelity?noise=square&{options}", given | {"phi": gradient}, model) > 1


def test_31_sensitivity_n_of_gradient_times_input_is_1_for_every_n():
    gradient, model = linear()
    given = case()
    found = measure("sensitivity-n?subsets=20", given | {"phi": gradient * given["x"]}, model)
    assert found.value == pytest.approx(1)
    assert found.curve == pytest.approx(np.ones(10))


@pytest.mark.parametrize("name", ["max-sensitivity", "local-lipschitz"])
def test_31_a_map_that_is_the_same_for_every_image_is_not_sensitive(name):
    given = case()
    assert value(name, given, maps=lambda ask: np.stack([given["raw"]] * len(ask.images))) == 0


@pytest.mark.parametrize("name", ["deletion", "insertion"])
@pytest.mark.parametrize("rising", [lambda L: L**3, lambda L: 5 * L - 9, lambda L: np.exp(L)])
def test_32_only_the_order_of_the_map_counts(name, rising):
    given = case()
    assert value(name, given | {"L": rising(given["L"].astype("float64"))}) == value(name, given)


# What holds for all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *ASKING,
        "deletion?steps=65",
        "insertion?steps=33",
        "irof?segments=40",
        "sensitivity-n?sizes=3&subsets=34",
        "infidelity?samples=33&noise=gaussian",
        "max-sensitivity?samples=33",
        "local-lipschitz?samples=1",
        "cascading-randomisation?steps=9",
        "independent-randomisation?steps=1",
    ],
)
def test_a_metric_asks_for_as_much_as_it_says_in_portions(text):
    asked = []
    value(text, asked=asked)
    pictures = [len(ask.images) for ask in asked if isinstance(ask, Pictures)]
    maps = [len(ask.images) if isinstance(ask, Maps) else 1 for ask in asked if not isinstance(ask, Pictures)]
    assert (sum(pictures), sum(maps)) == (configure(text).passes, configure(text).maps)
    assert max(pictures + maps) <= 32


@pytest.mark.parametrize("name", MINE)
def test_figures_lie_in_their_range(name):
    metric = metrics()[name]
    figures = [value(SMALL.get(name, name), case(seed), network(seed=seed + 9)) for seed in range(3)]
    assert all(metric.low <= figure <= metric.high for figure in figures)
    assert len(set(figures)) > 1


@pytest.mark.parametrize("name", [name for name in MINE if "seed" in metrics()[name].options])
def test_a_seed_settles_what_is_drawn(name):
    given = case() | {"L": np.ones(SIZE, "float32")}
    text = f"{SMALL[name]}&" if name in SMALL else f"{name}?"
    first, again, other = (value(f"{text}seed={seed}", given) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("size", [(40,), (5, 6, 7)])
@pytest.mark.parametrize("name", MINE)
def test_images_of_any_number_of_axes(name, size):
    given = case(size=size, grid=(2,) * len(size)) | {"y": 0.5}
    if name == "irof":
        with pytest.raises(ConditionError, match="two axes"):
            value(name, given, network(size))
        return
    assert math.isfinite(value(name, given, network(size), maps=explained((2,) * len(size))))


def test_an_image_of_few_pixels_is_altered_one_at_a_time():
    found = measure("deletion", case(size=(3, 2)), network((3, 2)))
    assert len(found.at) == len(found.curve) == 7


def test_masked_pictures_are_asked_for_under_one_name():
    asked = []
    for name in ("average-drop", "increase", "average-gain"):
        value(name, asked=asked)
    assert [ask.name for ask in asked] == ["masked"] * 3
    assert all(np.array_equal(ask.images, asked[0].images) for ask in asked)


def test_pictures_are_altered_where_the_authors_alter_them():
    spaces = {name: configure(name).space for name in MINE if "space" in metrics()[name].options}
    images = {name for name, space in spaces.items() if space == "image"}
    assert images == {"average-drop", "increase", "average-gain", "irof"}
    assert configure("deletion?space=image").space == "image"


@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_a_constant_map_is_not_graded_by_where_the_object_stands(name):
    given = case() | {"L": np.ones(SIZE, "float32")}

    def rows(part):
        return lambda images: np.stack([(images[:, part] ** 2).mean(axis=(1, 2, 3)) * 4, np.ones(len(images))], axis=-1)

    above, below = (
        np.mean([value(f"{name}?steps=12&seed={seed}", given, rows(part)) for seed in range(12)])
        for part in (slice(0, 6), slice(-6, None))
    )
    assert above == pytest.approx(below, abs=0.05)


def test_removing_what_matters_lowers_and_showing_it_raises_the_score():
    given = case() | {"x": np.ones((*SIZE, 3), "float32")}
    weights = given["L"].astype("float64") ** 8

    def model(images):
        return np.stack([6 * (images.mean(axis=-1) * weights).sum(axis=(1, 2)) / weights.sum(), images[:, 0, 0, 0]], -1)

    upside_down = given | {"L": 1 - given["L"]}
    assert value("deletion", given, model) < value("deletion", upside_down, model) - 0.2
    assert value("insertion", given, model) > value("insertion", upside_down, model)
    given["x"] = given["x"] + 0.2 * case()["x"]  # so that superpixels have another colour than their mean
    assert value("irof?segments=20", given, model) != value("irof?segments=20", upside_down, model)


# Where there is no value ---------------------------------------------------------------------------------------------


ZERO = {"L": np.zeros(SIZE, "float32"), "raw": np.zeros(GRID, "float32"), "phi": np.zeros((*SIZE, 3), "float32")}


@pytest.mark.parametrize(
    ("name", "altered"),
    [
        ("average-drop", {"y": 0.0}),
        ("adcc", {"y": 0.0}),
        ("irof", {"y": 0.0}),
        ("sensitivity-n?subsets=5", ZERO),
        ("max-sensitivity", ZERO),
        ("local-lipschitz", {"span": 0.0}),
        ("cascading-randomisation", ZERO),
        ("independent-randomisation", ZERO),
        ("random-logit", ZERO),
        ("entropy", ZERO),
        ("gini", ZERO),
    ],
)
def test_no_value_where_it_is_said_to_have_none(name, altered):
    assert math.isnan(value(name, case() | altered))
    assert configure(name).metric.undefined


@pytest.mark.parametrize(
    ("name", "altered", "figure"),
    [
        ("average-gain", {"y": 1.0}, 0),
        ("coherency", ZERO, 0),
        ("adcc", ZERO, 0),
        ("complexity", ZERO, 0),
        ("max-sensitivity?relative=False", {"span": 0.0}, 0),
    ],
)
def test_quotients_of_nothing_are_settled(name, altered, figure):
    given = case() | altered
    assert value(name, given, maps=lambda ask: np.stack([given["raw"]] * len(ask.images))) == figure


def test_constant_maps_of_altered_models_are_left_out():
    def maps(ask):
        return np.zeros((1, *GRID)) if len(ask.layers) == len(LAYERS) else explained()(ask)

    found = measure("cascading-randomisation", case(), maps=maps)
    assert math.isnan(found.curve[-1])
    assert found.value == pytest.approx(found.curve[:-1].mean())


def test_infidelity_of_an_empty_map_is_all_that_the_score_loses():
    given, asked = case() | ZERO, []
    found = value("infidelity", given, asked=asked)
    assert found == pytest.approx(np.mean((logits(given["x"])[0] - network()(portions(asked))[:, 0]) ** 2))


def test_squares_have_every_side_and_lie_anywhere():
    given, asked = case(), []
    value("infidelity?samples=640", given, asked=asked)
    removed = (portions(asked) == 0).all(axis=-1)
    tall, wide = removed.any(axis=2).sum(axis=1), removed.any(axis=1).sum(axis=1)
    assert np.array_equal(tall, wide)
    assert np.array_equal(removed.sum(axis=(1, 2)), tall * wide)
    assert set(tall) == set(range(1, 24 * 10 // 28 + 1))
    assert removed.any(axis=0).mean() > 0.95


# Randomisation -------------------------------------------------------------------------------------------------------


def test_weights_are_drawn_anew_from_the_output_down_or_one_layer_at_a_time():
    down, alone = [], []
    value("cascading-randomisation?steps=3&seed=5", asked=down)
    value("independent-randomisation?steps=3&seed=5", asked=alone)
    assert down == [Reset(tuple("abc"), 5), Reset(tuple("abcde"), 5), Reset(tuple("abcdefg"), 5)]
    assert alone == [Reset(("a",), 5), Reset(("d",), 5), Reset(("g",), 5)]


@pytest.mark.parametrize("kind", ["spearman", "ssim", "hog"])
def test_similarity_is_1_with_itself_whatever_the_scale_and_less_with_others(kind):
    a, b = np.random.default_rng(5).normal(size=(2, 30, 33)).astype("float32")
    assert similarity(a, 1e-20 * a, kind) == pytest.approx(1, abs=1e-5)
    assert -1 <= similarity(a, b, kind) < 0.9
    assert similarity(a, b, kind) == pytest.approx(similarity(b, a, kind))
    assert math.isnan(similarity(a, np.full_like(a, 2), kind))


def test_similarity_sees_signs():
    a = np.random.default_rng(5).normal(size=(30, 33))
    assert similarity(a, -a, "spearman") == pytest.approx(-1)
    assert similarity(a, -a, "ssim") < -0.9


@pytest.mark.parametrize("kind", ["ssim", "hog"])
@pytest.mark.parametrize("size", [(40,), (6, 40), (30, 30, 30)])
def test_similarity_of_pictures_is_refused_to_what_is_none(kind, size):
    a, b = np.random.default_rng(5).normal(size=(2, *size))
    with pytest.raises(ConditionError, match="'spearman'") as refused:
        similarity(a, b, kind)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["ssim", "hog"])
@pytest.mark.parametrize("name", ["cascading-randomisation", "independent-randomisation", "random-logit"])
def test_pictures_of_maps_are_compared_at_the_size_of_the_input(name, kind):
    given = case()
    assert -1 <= value(f"{name}?similarity={kind}", given) < 0.9
    same = value(f"{name}?similarity={kind}", given, maps=lambda ask: given["raw"][None])
    assert same == pytest.approx(1)
