"""The methods that ask for more while they work, against their oracles, on a small network whose answers are known."""

import functools
import inspect
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from camlucida import maps
from camlucida.asks import Altered, Laid, Masks, Seen, Views
from camlucida.errors import RequestError
from camlucida.methods import VARIANTS, configure, methods
from camlucida.types import Need
from oracles import gradients, optimised, pixels, probes, tails, views
from oracles.upsampling import bilinear

B, GRID, K, C = 2, (4, 3), 5, 4
U = GRID[0] * GRID[1]
SIZE = (8, 6)
CLASSES = (2, 0)


class Scene:
    """A network: a 1x1 convolution of two colours to `K` channels, mean over 2x2 pixels, ReLU, and then a hidden layer
    at every place, the mean over places, and logits. It takes images of any size.
    """

    def __init__(self, linear=False, seed=0):
        rng = np.random.default_rng(seed)
        self.V, self.c = rng.normal(size=(2, K)), 0.3 * rng.normal(size=K) + 0.2
        self.first, self.b = rng.normal(size=(K, 6)), 0.3 * rng.normal(size=6)
        self.second, self.d = 2 * rng.normal(size=(6, C)), rng.normal(size=C)
        self.act, self.slope = (np.tanh, lambda z: 1 - np.tanh(z) ** 2)
        if linear:
            self.act, self.slope = (lambda z: z), np.ones_like
        self.x = rng.normal(size=(B, *SIZE, 2)).astype("float32").astype("float64")
        self.A = self.features(self.x)
        self.asked = []

    def before(self, x):
        """What goes into the ReLU, ``(..., h, w, K)``, of images ``(..., H, W, 2)``."""
        h, w = (n // 2 for n in x.shape[-3:-1])
        cut = x[..., : 2 * h, : 2 * w, :]
        return cut.reshape(*x.shape[:-3], h, 2, w, 2, 2).mean(axis=(-4, -2)) @ self.V + self.c

    def features(self, x):
        return np.maximum(self.before(x), 0)

    def tail(self, A):
        """Logits ``(..., C)`` of activations ``(..., h, w, K)``."""
        return self.act(A @ self.first + self.b).mean(axis=(-3, -2)) @ self.second + self.d

    def f(self, x):
        return self.tail(self.features(x))

    def score(self, logits, b, kind):
        return (softmax(logits) if kind == "probability" else logits)[..., CLASSES[b]]

    def gradient(self, A, b, kind, rule="gradient"):
        """The gradient ``(..., h, w, K)`` of the score of image `b` with respect to activations."""
        one = np.eye(C)[CLASSES[b]]
        p = softmax(self.tail(A))
        by_logit = p * one * (1 - p) - (1 - one) * p * p[..., CLASSES[b]][..., None] if kind == "probability" else one
        back = (by_logit @ self.second.T)[..., None, None, :] if kind == "probability" else self.second @ one
        z = A @ self.first + self.b
        through = self.slope(z)
        if rule == "deeplift":
            rise = z - self.b
            there = np.abs(rise) > 1e-9
            through = np.where(there, (self.act(z) - self.act(self.b)) / np.where(there, rise, 1), through)
        return (back * through) @ self.first.T / np.prod(A.shape[-3:-1])

    def pixel_gradient(self, x, b, kind, rule="gradient"):
        """The gradient ``(..., H, W, 2)`` of the score with respect to the image, of even size."""
        G, z = self.gradient(self.features(x), b, kind), self.before(x)
        gate = {"gradient": z > 0, "guided": (z > 0) & (G > 0), "deconvnet": G > 0}[rule]
        return ((G * gate) @ self.V.T / 4).repeat(2, axis=-3).repeat(2, axis=-2)

    def logit_and_gradient(self, b):
        return lambda x: (self.f(x)[CLASSES[b]], self.pixel_gradient(x, b, "logit"))

    def answer(self, asked, kind, only):
        """What an engine would answer, for the images `only`."""
        self.asked.append(asked)
        if isinstance(asked, Masks):
            return np.stack([self._masked(asked, i, b, kind) for i, b in enumerate(only)])
        if isinstance(asked, Altered):
            A = asked.activations
            assert A.shape[0] == len(only)
            return np.stack([self.score(self.tail(A[i].reshape(-1, *GRID, K)), b, kind) for i, b in enumerate(only)])
        assert isinstance(asked, Views)
        assert asked.images.shape[0] == len(only)
        parts = [self._viewed(asked, asked.images[i], b, kind) for i, b in enumerate(only)]
        A, G = (np.stack([part[i] for part in parts]) for i in (0, 1))
        grid = A.shape[2:-1]
        flat = [None if x is None else x.reshape(*x.shape[:2], -1, x.shape[-1]).astype("float32") for x in (A, G)]
        return Seen(flat[0], flat[1] if asked.gradient else None, np.stack([part[2] for part in parts]), grid)

    def _masked(self, asked, i, b, kind):
        own = asked.maps[0 if len(asked.maps) == 1 else i]
        m = maps.masks(np.asarray(own, "float32"), asked.grid or GRID, SIZE, np, scaled=asked.scaled)[..., None]
        base = 0 if asked.base is None else asked.base[i]
        return self.score(self.f(self.x[b] * m + base * (1 - m)), b, kind)

    def _viewed(self, asked, x, b, kind):
        A = self.features(x)
        G = self.gradient(A, b, kind, asked.rule) if asked.inside else self.pixel_gradient(x, b, kind, asked.rule)
        return A if asked.inside else x, G, self.score(self.tail(A), b, kind)

    def run(self, method, only=range(B)):
        """A method's map, ``(len(only), U)`` or with colours."""
        self.asked = []
        kind, of = method.score, method.method.gradient_of or method.score
        A = np.stack([self.A[b] for b in only])
        G = np.stack([self.gradient(self.A[b], b, of) for b in only])
        what = {
            Need.ACTIVATIONS: A.reshape(len(only), U, K).astype("float32"),
            Need.GRADIENT: G.reshape(len(only), U, K).astype("float32"),
            Need.GRID: GRID,
            Need.IMAGE: np.stack([self.x[b] for b in only]).astype("float32"),
        }
        generator = method({need: what[need] for need in method.needs}, np)
        answer = None
        while True:
            try:
                answer = self.answer(generator.send(answer), kind, only)
            except StopIteration as stop:
                return stop.value.values if isinstance(stop.value, Laid) else stop.value


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# The oracles: of a scene that has been run, one image at a time


def looked(scene, b, number=None):
    """The images of all views of an image, ``(N, H, W, 2)``."""
    asks = [asked for asked in scene.asked if isinstance(asked, Views)]
    return np.concatenate([asked.images[b] for asked in asks]).astype("float64")


def flat(grids):
    """Activations ``(..., h, w, K)`` as ``(..., 1, U, K)``, of a batch of one image."""
    return grids.reshape(*grids.shape[:-3], 1, -1, grids.shape[-1])


def along(scene, b, start, steps):
    """Activations and gradients at t x, t = start / steps ... , the last one t = 1 where start is 1."""
    t = (np.arange(steps) + start) / steps
    A = scene.features(t[:, None, None, None] * scene.x[b])
    return flat(A), flat(scene.gradient(A, b, "logit"))


def black(scene, b):
    return flat(scene.features(scene.x[b] * 0))


def blurred(scene, b, sigma, radius):
    return ndimage.gaussian_filter(scene.x[b], (sigma, sigma, 0), radius=(radius, radius, 0))


def of_mask(oracle):
    """An oracle that takes the model, an image, activations and the class first."""
    return lambda scene, b, **options: oracle(scene.f, scene.x[b], scene.A[b], c=CLASSES[b], **options)


def of_tail(oracle):
    return lambda scene, b, **options: oracle(scene.tail, scene.A[b], CLASSES[b], **options)


def G_of(scene, b):
    return scene.gradient(scene.A[b], b, "logit")


def ss_cam(scene, b, samples, sigma=2.0, noise="mask", seed=0):
    """The noise is drawn as the formula draws it, channel by channel."""
    rng = np.random.default_rng(seed)
    grid = SIZE if noise == "mask" else GRID
    drawn = np.stack([rng.normal(size=(samples, *grid)) for _ in range(K)], axis=1)
    return probes.ss_cam(scene.f, scene.x[b], scene.A[b], CLASSES[b], drawn, sigma, noise)


def group_cam(scene, b, groups=32):
    return probes.group_cam(
        scene.f, scene.x[b], blurred(scene, b, 50, 25), scene.A[b], G_of(scene, b), CLASSES[b], groups
    )


def decom_cam(scene, b, channels=500, components=10):
    args = scene.A[b], G_of(scene, b), CLASSES[b], channels, components
    return probes.decom_cam(scene.f, scene.x[b], blurred(scene, b, 10, 40), *args)


def smooth_grad_cam_pp(scene, b, variant, **_):
    G = scene.gradient(scene.features(looked(scene, b)), b, "logit")
    return gradients.smooth_grad_cam_pp(flat(scene.A[b]), flat(G), variant)


def integrated_grad_cam(scene, b, variant, steps):
    A, G = along(scene, b, 0 if variant == "official" else 1, steps)
    return gradients.integrated_grad_cam(A, G, black(scene, b), variant)


def rsi_grad_cam(scene, b, steps):
    A, G = along(scene, b, 1, steps)
    return gradients.rsi_grad_cam(np.concatenate([black(scene, b)[None], A]), G)


def cameras(scene, b, **_):
    A = [scene.features(asked.images[b, 0].astype("float64")) for asked in scene.asked]
    return views.cameras(A, [scene.gradient(a, b, "logit") for a in A], *SIZE)


def noisy(oracle):
    return lambda scene, b, **_: oracle(scene.pixel_gradient(looked(scene, b), b, "logit"))


def integrated_gradients(scene, b, steps=50, baseline=0.0):
    x_0 = np.full_like(scene.x[b], baseline)
    t = (np.arange(steps) + 0.5)[:, None, None, None] / steps
    return pixels.integrated_gradients(scene.pixel_gradient(x_0 + t * (scene.x[b] - x_0), b, "logit"), scene.x[b], x_0)


def by_rule(backward):
    """The gradient taken by hand, through the only ReLU that there is."""

    def oracle(scene, b):
        through = backward(scene.before(scene.x[b]), G_of(scene, b))
        return (through @ scene.V.T / 4).repeat(2, axis=0).repeat(2, axis=1)

    return oracle


guided = by_rule(pixels.guided_relu_backward)


def augmented_grad_cam(scene, b, copies, iterations=200, seed=0):
    """Copies are turned and shifted by scipy; maps are scaled by the greatest of all copies, and the result back."""
    turns = turned(copies, seed)
    images = np.stack([(turn @ scene.x[b].reshape(-1, 2)).reshape(*SIZE, 2) for turn in turns])
    np.testing.assert_allclose(looked(scene, b), images, atol=1e-5)
    A = scene.features(images)
    g = np.maximum(gradients.grad_cam(flat(A)[:, 0], flat(scene.gradient(A, b, "logit"))[:, 0]), 0).reshape(-1, *GRID)
    small = np.stack([bilinear(one.reshape(SIZE), *GRID).reshape(-1) for one in np.eye(SIZE[0] * SIZE[1])], axis=1)
    D = np.stack([small @ turn for turn in turns])
    h = views.augmented_grad_cam_solve(g / g.max(), D, *SIZE, 1e-2, iterations, 0.002 * copies, 1e-4 * copies)
    return h * g.max()


@functools.cache
def turned(copies, seed):
    """Per copy the matrix ``(H W, H W)`` that turns a picture about its middle and shifts it; outside it is 0."""
    rng, middle, matrices = np.random.default_rng(seed), (np.array(SIZE) - 1) / 2, []
    for _ in range(copies):
        angle, shift = rng.uniform(-0.5, 0.5), rng.uniform(-30 / 224, 30 / 224, 2) * SIZE
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = middle - turn @ middle - shift
        units = np.eye(SIZE[0] * SIZE[1]).reshape(-1, *SIZE)
        moved = [ndimage.affine_transform(one, turn, offset, order=1, mode="grid-constant") for one in units]
        matrices.append(np.stack([m.reshape(-1) for m in moved], axis=1))
    return matrices


ORACLES = {
    "augmented-grad-cam": augmented_grad_cam,
    "score-cam": of_mask(probes.score_cam),
    "faster-score-cam": of_mask(probes.faster_score_cam),
    "gscore-cam": lambda scene, b, **options: of_mask(probes.gscore_cam)(scene, b, G=G_of(scene, b), **options),
    "ss-cam": ss_cam,
    "is-cam": of_mask(probes.is_cam),
    "group-cam": group_cam,
    "decom-cam": decom_cam,
    "union-cam": lambda scene, b, **options: of_mask(probes.union_cam)(scene, b, G=G_of(scene, b), **options),
    "ablation-cam": of_tail(tails.ablation_cam),
    "recipro-cam": of_tail(tails.recipro_cam),
    "lift-cam": lambda scene, b: gradients.lift_cam_linear(
        flat(scene.A[b]), (scene.first @ scene.second)[:, CLASSES[b]][None]
    ),
    "opti-cam": lambda scene, b, iterations, rate=0.1: optimised.opti_cam(
        scene.logit_and_gradient(b), scene.x[b], scene.A[b], iterations, rate
    ),
    "smooth-grad-cam++": smooth_grad_cam_pp,
    "integrated-grad-cam": integrated_grad_cam,
    "rsi-grad-cam": rsi_grad_cam,
    "cameras": cameras,
    "smoothgrad": noisy(pixels.smoothgrad),
    "vargrad": noisy(pixels.vargrad),
    "integrated-gradients": integrated_gradients,
    "guided-backprop": guided,
    "deconvnet": by_rule(pixels.deconvnet_backward),
    "guided-grad-cam": lambda scene, b: pixels.guided_grad_cam(
        guided(scene, b), gradients.grad_cam(flat(scene.A[b]), flat(G_of(scene, b))).reshape(GRID)
    ),
}

SETTINGS = {
    "score-cam": [{}, {"channels": 1}, {"channels": 3}, {"channels": 99}],
    "faster-score-cam": [{}, {"channels": 2}],
    "gscore-cam": [{}, {"share": 0.5}, {"share": 0.6}, {"share": 1}],
    "ss-cam": [{"samples": 2, "sigma": 0.5}, {"samples": 3, "sigma": 2.0, "noise": "activation", "seed": 4}],
    "is-cam": [{"steps": 3}],
    "group-cam": [{}, {"groups": 1}, {"groups": 2}],
    "decom-cam": [{}, {"channels": 3, "components": 2}],
    "union-cam": [{}, {"theta": 40.0}],
    "recipro-cam": [{}, {"gaussian": True}],
    "opti-cam": [{"iterations": 0}, {"iterations": 6}, {"iterations": 3, "rate": 0.5}],
    "smooth-grad-cam++": [{"samples": 5}, {"samples": 11, "spread": 0.05, "seed": 3}],
    "integrated-grad-cam": [{"steps": 4}, {"steps": 11}],
    "rsi-grad-cam": [{"steps": 4}, {"steps": 11}],
    "augmented-grad-cam": [{"copies": 3, "iterations": 8}, {"copies": 9, "iterations": 3, "seed": 2}],
    "cameras": [{"resolutions": 1}, {"resolutions": 4}],
    "smoothgrad": [{"samples": 3}, {"samples": 11}],
    "vargrad": [{"samples": 3}, {"samples": 11}],
    "integrated-gradients": [{}, {"steps": 11, "baseline": 0.5}],
}

ELSEWHERE = {
    "rise": "test_formulas_masks.py",
    "occlusion": "test_formulas_masks.py",
    "poly-cam": "test_formulas_layers.py",
    "legrad": "test_attention.py",
    "chefer": "test_attention.py",
    "rollout": "test_attention.py",
    "fullgrad": "test_full_gradient.py",
    "relevance-cam": "test_relevance.py",
}
"""Methods that are held against their oracles in other files."""

SEEDS = {"group-cam": 4}
"""Of the networks of methods whose map is empty where the score rises nowhere."""

ASKING = {name: m for name, m in methods().items() if inspect.isgeneratorfunction(m.formula)}
CASES = [
    configure(name, variant, options)
    for name, m in ASKING.items()
    if name not in ELSEWHERE
    for variant in (VARIANTS if m.differs else (m.default,))
    for options in SETTINGS.get(name, [{}])
]
every_case = pytest.mark.parametrize("method", CASES, ids=lambda m: m.label)


@functools.cache
def scene_of(name):
    return Scene(linear=name == "lift-cam", seed=SEEDS.get(name, 0))


# What holds for every one of them


def test_every_method_that_asks_has_an_oracle():
    assert set(ASKING) - set(ELSEWHERE) == set(ORACLES)
    assert set(SETTINGS) <= set(ORACLES)


@pytest.mark.parametrize("name", sorted(set(ELSEWHERE) & set(ASKING)))
def test_what_stands_elsewhere_stands_there(name):
    assert f'"{name}"' in (Path(__file__).parent / ELSEWHERE[name]).read_text()


@every_case
def test_the_map_is_the_oracle(method):
    scene, name = scene_of(method.method.name), method.method.name
    settings = dict(method.options) | ({"variant": method.variant} if method.method.differs else {})
    result = scene.run(method)
    for b in range(B):
        expected = np.asarray(ORACLES[name](scene, b, **settings))
        np.testing.assert_allclose(
            result[b].reshape(-1), expected.reshape(-1), rtol=1e-4, atol=2e-5 * np.abs(expected).max(), err_msg=name
        )
        assert np.ptp(expected) > 0


def test_decom_cam_leaves_out_what_is_all_but_unseen():
    """Components below a probability of 0.001 count nothing: some here are, and some are not."""
    scene, method = Scene(seed=29), configure("decom-cam")
    scene.second = 8 * scene.second
    result = scene.run(method)
    scores = scene.answer(scene.asked[0], "probability", range(B))
    assert ((scores[0] < 1e-3) & (scores[0] > 1e-5)).any()
    assert (scores[0] > 1e-3).any()
    for b in range(B):
        np.testing.assert_allclose(result[b].reshape(GRID), decom_cam(scene, b), rtol=1e-4, atol=1e-5)


@every_case
def test_every_image_is_explained_on_its_own(method):
    scene = scene_of(method.method.name)
    together = scene.run(method)
    for b in range(B):
        alone = scene.run(method, only=[b])
        np.testing.assert_allclose(alone[0], together[b], rtol=1e-4, atol=1e-5 * np.abs(together[b]).max())


@every_case
def test_what_is_left_is_known_beforehand(method):
    """Each ask tells how much of its kind will follow, so that progress knows its end."""
    scene = scene_of(method.method.name)
    scene.run(method)
    many = [
        next(a.shape[1] for a in map(functools.partial(getattr, asked), KINDS[type(asked)])) for asked in scene.asked
    ]
    told = [asked.remaining for asked in scene.asked]
    assert told == [sum(many[i:]) for i in range(1, len(many) + 1)]


KINDS = {Masks: ("maps",), Altered: ("activations",), Views: ("images",)}


@pytest.mark.parametrize("name", ["smooth-grad-cam++", "smoothgrad", "vargrad"])
def test_noise_is_drawn_from_the_seed_and_has_the_spread_that_is_asked_for(name):
    scene = scene_of(name)

    def drawn(**options):
        scene.run(configure(name, None, {"samples": 300, **options}))
        noise = np.stack([looked(scene, b) for b in range(B)]) - scene.x[:, None]
        return noise / np.ptp(scene.x, axis=(1, 2, 3)).reshape(-1, 1, 1, 1, 1)

    noise = drawn(spread=0.2)
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert abs(noise.mean()) < 0.005
    assert noise.std(axis=1).min() > 0.1
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-5)  # the same for all images
    np.testing.assert_array_equal(noise, drawn(spread=0.2))
    assert np.abs(noise - drawn(spread=0.2, seed=1)).max() > 0.1


def test_what_lift_cam_weighs_is_complete():
    """DeepLIFT: the weights sum to the score less that of no activation, through a head that is not linear."""
    scene = Scene()
    whole = scene.run(configure("lift-cam"))
    assert whole.shape == (B, U)
    generator = configure("lift-cam").method.formula(scene.x.astype("float32"), np)
    asked = next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send(scene.answer(asked, "logit", range(B)))
    for b in range(B):
        rise = (scene.tail(scene.A[b]) - scene.tail(0 * scene.A[b]))[CLASSES[b]]
        np.testing.assert_allclose(stop.value.value.values[b].sum(), rise, rtol=1e-4)


def test_score_cam_takes_the_most_varied_channels_of_each_image():
    A = np.zeros((2, 4, 3))
    A[0, 0], A[1, 0] = (3, 2, 1), (1, 2, 3)
    A += 10  # a constant does not vary, however large
    generator = configure("score-cam?channels=2")({Need.ACTIVATIONS: A}, np)
    wanted = next(generator).maps - 10
    assert wanted[:, :, 0].tolist() == [[3, 2], [3, 2]]


@pytest.mark.parametrize("channels", [0, -3, 2.5, "many", [1], np.ones(2)])
def test_score_cam_refuses_a_number_of_channels_that_is_none(channels):
    with pytest.raises(RequestError, match="channels"):
        next(configure("score-cam", None, {"channels": channels})({Need.ACTIVATIONS: np.ones((1, 4, 3))}, np))


@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.2])
def test_score_cam_stops_once_its_map_is_as_good_as_asked_for(tolerance):
    """With the tolerance that is asked for, and no more passes than all channels take."""
    rng, channels = np.random.default_rng(0), 200
    A = rng.uniform(size=(B, U, channels)) * 0.97 ** np.arange(channels)
    p = rng.uniform(size=(B, channels))

    def run(text):
        """Each channel has a score of its own, by which it is known again."""
        generator, many, answer = configure(text)({Need.ACTIVATIONS: A.astype("float32")}, np), 0, None
        while True:
            try:
                asked = generator.send(answer)
            except StopIteration as stop:
                return stop.value, many
            assert isinstance(asked, Masks)
            many += asked.maps.shape[1]
            which = [[np.abs(A[b].T - m).max(axis=1).argmin() for m in asked.maps[b]] for b in range(B)]
            answer = np.take_along_axis(p, np.array(which), axis=1)

    (exact, whole), (near, some) = run("score-cam"), run(f"score-cam?tolerance={tolerance}")
    assert whole == channels
    assert 0 < some < channels
    error = np.abs(exact / exact.max(axis=1, keepdims=True) - near / near.max(axis=1, keepdims=True)).max()
    assert 0 < error <= tolerance


@pytest.mark.parametrize("tolerance", [-0.1, 1, 7, "much"])
def test_score_cam_refuses_a_tolerance_that_is_none(tolerance):
    with pytest.raises(RequestError, match="tolerance"):
        next(configure("score-cam", None, {"tolerance": tolerance})({Need.ACTIVATIONS: np.ones((1, 4, 3))}, np))
