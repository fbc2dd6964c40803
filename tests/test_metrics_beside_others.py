"""Our metrics beside those of other libraries, for the same network, pictures and maps.

CAMLUCIDA_PEERS names a virtual environment with the libraries; `beside_others` is run there. What each of them does
otherwise stands in the docstring of its test.
"""

import functools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import beside_others  # noqa: E402
import camlucida as cl  # noqa: E402
from beside_others import STEPS, gradient, network, tensor  # noqa: E402
from camlucida.maps import heat  # noqa: E402
from camlucida.metrics.imputation import linear  # noqa: E402
from measuring import measure, softmax  # noqa: E402
from oracles import faithfulness  # noqa: E402

PEERS = os.environ.get("CAMLUCIDA_PEERS")
pytestmark = [
    pytest.mark.skipif(not PEERS, reason="CAMLUCIDA_PEERS names no environment with other libraries"),
    # torch 2.13 of its own parts
    pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

SIZE = 30, 21
"""A multiple of ten pixels, so that a percentile and a share of them are the same number of pixels."""

CLASSES = 0, 1, 2
CLOSE = 1e-5
DRAWN = {"squares": "infidelity", "noise": "infidelity?noise=gaussian", "near": "max-sensitivity"}
"""The pictures that others are given, and which of our metrics drew them."""

same = "as it is"
RELATIONS = {
    same: lambda figure, y: figure,
    "in percent": lambda figure, y: 100 * figure,
    "of the score, in percent": lambda figure, y: 100 * figure / y,
    "added to the score": lambda figure, y: figure + y,
}
"""From another library's figures and the scores of the pictures to what ours must be."""


def logits(images):
    with torch.no_grad():
        return network()(tensor(images)).numpy()


def scores():
    """The probability of each picture's class."""
    images = np.stack([case["x"] for case in cases()])
    return softmax(logits(images))[range(len(CLASSES)), CLASSES]


def explained(c):
    """What a metric that asks for further maps is answered."""
    return lambda ask: gradient(tensor(ask.images), c).numpy()


def picture(seed):
    rng = np.random.default_rng(seed)
    smooth = np.stack([heat(rng.uniform(0, 1, (5, 4)).astype("float32"), SIZE) for _ in range(3)], axis=-1)
    return (4 * smooth - 2 + rng.normal(0, 0.3, smooth.shape)).astype("float32")


def importance(seed, power):
    """A heat map in 0..1 in which no two pixels are alike; the greater the power, the less it shows."""
    rng = np.random.default_rng(seed)
    values = heat(rng.uniform(0, 1, (4, 4)).astype("float32"), SIZE) + 1e-4 * rng.uniform(0, 1, SIZE)
    ranks = np.argsort(np.argsort(values.ravel())).reshape(SIZE)
    return ((ranks / ranks.max()) ** power).astype("float32")


def pictures():
    """Three pictures with all that metrics take, by the names of their parameters."""
    rng = np.random.default_rng(5)
    for c in CLASSES:
        x, L = picture(10 + c), importance(20 + c, power=(1 + c) / 2)
        mask = np.zeros(SIZE, bool)
        mask[:15, :11] = True
        own = gradient(tensor(x)[None], c)[0].numpy()
        phi = rng.normal(0, 0.01, x.shape).astype("float32")
        yield {"x": x, "L": L, "heat": L, "mask": mask, "raw": own, "phi": phi, "span": float(np.ptp(x))}


@functools.cache
def cases():
    return list(pictures())


@functools.cache
def ours(metric):
    """The figures of a metric for all pictures, and the pictures that it asked for, ``(N, S, H, W, 3)``."""
    figures, drawn = [], []
    for c, given in zip(CLASSES, cases(), strict=True):
        asked = []
        found = measure(metric, given, logits, c, explained(c), asked)
        figures.append(getattr(found, "value", found))
        drawn.append(np.concatenate([ask.images for ask in asked]) if asked else None)
    return np.array(figures), drawn


def holes():
    """Pixels that are missing: a few, a hole, one at the border, most."""
    rng = np.random.default_rng(6)
    missing = np.zeros((4, *SIZE), bool)
    missing[0] = rng.random(SIZE) < 0.1
    missing[1, 8:20, 5:15] = True
    missing[2, :9, 12:] = True
    missing[3] = rng.random(SIZE) < 0.9
    return missing


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The file of what others are given."""
    path = tmp_path_factory.mktemp("beside") / "given.npz"
    arrays = {name: np.stack([case[name] for case in cases()]) for name in ("x", "L", "phi", "mask")}
    assert arrays["x"].all(), "where a picture is 0, what is removed would not be seen"
    arrays |= {name: np.stack(ours(metric)[1]) for name, metric in DRAWN.items()}
    blurred = np.stack([faithfulness.blurred(x) for x in arrays["x"].astype("float64")]).astype("float32")
    np.savez(path, c=np.array(CLASSES), blurred=blurred, missing=holes(), **arrays)
    return path


@pytest.fixture(scope="module")
def said(given):
    """From a library to what it says of the pictures."""

    @functools.cache
    def ask(library):
        command = [Path(PEERS) / "bin" / "python", "-W", "ignore", beside_others.__file__, library, given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def found(library):
        return ask(library) or pytest.skip(f"{library} is not installed in {PEERS}")

    return found


def agree(theirs, metric, relation):
    figures, _ = ours(metric)
    assert np.ptp(figures) > 0, "where all figures are alike they would agree by chance"
    np.testing.assert_allclose(RELATIONS[relation](np.array(theirs), scores()), figures, rtol=CLOSE)


@pytest.mark.parametrize(
    ("theirs", "metric", "relation"),
    [
        ("avg_drop", "average-drop?space=input", "in percent"),
        ("conf_increase", "increase?space=input", "in percent"),
        ("deletion_auc", f"deletion?steps={STEPS}", same),
        ("insertion_auc", f"insertion?steps={STEPS}", same),
    ],
)
def test_torchcam(said, theirs, metric, relation):
    """torchcam 0.5 grades what its extractor yields, and resizes it without scaling it again.

    It masks the network's input, never the picture; adds 1e-7 to the score that it divides by; takes the scores as the
    network yields them, so that a softmax is the user's to give. Insertion begins from zeros, here from the blurred
    picture that it is given; there are 20 steps; pixels that are equally hot come from left to right and from top to
    bottom. Its portions are all of one size, rounded up, so that there are fewer where that does not divide the pixels.
    """
    agree(said("torchcam")[theirs], metric, relation)


@pytest.mark.parametrize(
    ("theirs", "metric", "relation"),
    [
        ("DropInConfidence", "average-drop?space=input", "of the score, in percent"),
        ("IncreaseInConfidence", "increase?space=input", "in percent"),
        ("ROADMostRelevantFirstAverage", "road-morf?sigma=0&space=input", "added to the score"),
        ("ROADLeastRelevantFirstAverage", "road-lerf?sigma=0&space=input", "added to the score"),
        ("ROADCombined", "road-combined?sigma=0&space=input", same),
        ("Complexity", "complexity", same),
    ],
)
def test_pytorch_grad_cam(said, theirs, metric, relation):
    """pytorch-grad-cam 1.5 tells changes of the score, in the score's unit: its drop is no share of the score.

    ROAD is the mean change, here plus the score. It fills in the network's input, not the picture, with noise of 0.01
    whatever the range of the values, which is set to 0 here. It removes what is not below a percentile: of a map with
    many zeros all that is equal goes at once, up to the whole picture, while here exactly the share is removed.
    """
    agree(said("pytorch_grad_cam")[theirs], metric, relation)


@pytest.mark.parametrize("which", range(len(holes())))
def test_pytorch_grad_cam_fills_in_the_same_pixels(said, which):
    """Its imputer, of ROAD's authors, solves the system directly; without noise the pictures are the same."""
    x = cases()[0]["x"]
    filled = np.array(said("pytorch_grad_cam")["filled"][which])
    assert np.abs(filled - x).max() > 0.1
    np.testing.assert_allclose(linear(x, holes()[which]), filled, atol=1e-4 * np.ptp(x))


@pytest.mark.parametrize(
    ("theirs", "metric"),
    [
        ("infidelity of squares, normalize=True", "infidelity"),
        ("infidelity of squares, normalize=False", "infidelity?scaled=false"),
        ("infidelity of noise, normalize=True", "infidelity?noise=gaussian"),
        ("infidelity of noise, normalize=False", "infidelity?noise=gaussian&scaled=false"),
        ("sensitivity_max", "max-sensitivity"),
    ],
)
def test_captum(said, theirs, metric):
    """captum 0.9 leaves the changes of the picture to the user: here they are those that our metrics have drawn.

    Infidelity is not scaled unless asked for, has 10 samples, and takes whatever the network yields for the score.
    Max-Sensitivity draws noise within 0.02 whatever the range of the values, and divides by 1 where the map is zero. A
    function that explains must return a tuple: a tensor would be taken apart, picture by picture.
    """
    agree(said("captum")[theirs], metric, same)


@pytest.mark.parametrize(
    ("theirs", "metric", "relation"),
    [
        ("AverageDropMetric", "average-drop?space=input", "in percent"),
        ("AverageIncreaseMetric", "increase?space=input", "in percent"),
        ("AverageGainMetric", "average-gain?space=input", "in percent"),
        ("Deletion", f"deletion?steps={STEPS}", same),
        ("Insertion", f"insertion?steps={STEPS}", same),
        ("Complexity", "entropy", same),
        ("Sparseness", "gini", same),
    ],
)
def test_xplique(said, theirs, metric, relation):
    """Xplique 2.0 takes the magnitudes of maps, so that what speaks against a class counts for it.

    Average Drop, Increase and Gain also shift the map to begin at 0 and add 1e-8 to what they divide by; entropy and
    Gini index add 1e-8 to sums and logarithms. Deletion and insertion take signed values, have 10 steps, and take
    equally hot pixels as an unstable sorting leaves them, reversed. Insertion begins from zeros, here from the blurred
    picture that it is given. The score is what the network yields: the softmax is the user's to give.
    """
    agree(said("xplique")[theirs], metric, relation)


@pytest.mark.parametrize(
    ("theirs", "metric", "relation"),
    [
        ("PointingGame", "pointing-game?tolerance=1", "in percent"),
        ("RelevanceMassAccuracy", "energy-in-mask", "in percent"),
        ("Sparseness", "gini", same),
        ("Complexity", "entropy", same),
        ("MaxSensitivity", "max-sensitivity", same),
        ("LocalLipschitzEstimate", "local-lipschitz", same),
    ],
)
def test_quantus(said, theirs, metric, relation):
    """Quantus 0.6 divides maps by their greatest magnitude, and keeps their sign unless told.

    Its pointing game has no tolerance, is won where any of several hottest pixels hits, and by an empty mask: NaN in an
    array of bool is True. The mass of a signed map may exceed 1. Gini index and entropy add 1e-7 and 1e-12. Neighbours
    are given here; its own are uniform within 0.2 for Max-Sensitivity, normal with a deviation of 0.1 for Lipschitz.
    Not compared: infidelity and Sensitivity-n, whose changes add up from one sample to the next; pixel flipping, which
    takes single values and not pixels; ROAD and IROF, which fail on pictures with colours.
    """
    agree(said("quantus")[theirs], metric, relation)


@pytest.mark.parametrize(
    ("library", "score", "theirs", "metric", "relation"),
    [
        ("torchcam", "probability", "avg_drop of its own map", "average-drop?space=input", "in percent"),
        ("torchcam", "probability", "conf_increase of its own map", "increase?space=input", "in percent"),
        (
            "pytorch_grad_cam",
            "logit",
            "DropInConfidence of its own map",
            "average-drop?space=input",
            "of the score, in percent",
        ),
        ("pytorch_grad_cam", "logit", "Complexity of its own map", "complexity", same),
        ("pytorch_grad_cam", "logit", "Coherency of its own map", "coherency", same),
    ],
)
def test_all_the_way_from_the_picture(said, library, score, theirs, metric, relation):
    """Grad-CAM and the metric both by the library, and both by us.

    torchcam's metric gives its extractor the scores after the softmax: the map that it grades is that of the
    probability, not of the logit. It scales maps before they are resized, and not again, so that maxima are lost where
    the picture is no odd multiple of the grid. Both libraries add an epsilon to the map's maximum, and scale maps to
    begin at 0: the same where a map falls to 0.
    """
    model, figures = network(), []
    for c, case in zip(CLASSES, cases(), strict=True):
        x = tensor(case["x"][None]).numpy()
        (shown,) = cl.explain(model, x, preprocess=None, target=c, score=score, layer="relu", method="grad-cam")
        assert shown.raw.min() <= 0 < shown.raw.max()
        figures.append(shown.grade(metric)[metric])
    np.testing.assert_allclose(RELATIONS[relation](np.array(said(library)[theirs]), scores()), figures, rtol=1e-4)
