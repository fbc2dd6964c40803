"""An engine in NumPy, for one tiny network, that counts what is asked of it.

The network: a 1x1 convolution with ReLU (layer "features"), global average pooling, one linear layer, softmax.
"""

import contextlib

import numpy as np

from camlucida.engines.base import INPUT, Anatomy
from camlucida.engines.made import Measured, raw_maps
from camlucida.engines.masked import blended, masks_over
from camlucida.trees import mapped
from camlucida.types import Evidence, Head, LayerInfo, Need


class FakeEngine:
    backend = "numpy"
    subject = "this model on numpy"
    serves = frozenset(Need)

    def __init__(self, channels=5, classes=4, colours=2, seed=0):
        rng = np.random.default_rng(seed)
        self.V = rng.normal(size=(colours, channels))
        self.W, self.b = rng.normal(size=(channels, classes)), rng.normal(size=classes)
        self.forwards = self.backwards = 0
        self.probed = []
        """The number of masks in each call of `probe`."""
        self.altered = []
        """The number of altered activations in each call of `tail`."""
        self.requests = []
        self.linear = True
        """Whether it says that a linear head follows its layer."""
        self.given = []
        """The number of inputs in each call of `probe`."""
        self.randomisations = []
        """The layers and the seed of each call of `randomised`."""

    def features(self, x):
        """``(B, h, w, K)``"""
        return np.maximum(x @ self.V, 0)

    def logits(self, x):
        return self.features(x).mean(axis=(1, 2)) @ self.W + self.b

    def anatomy(self, inputs, output=None):
        grid = inputs.shape[1:3]
        layer = LayerInfo("features", "Conv2D", grid, self.V.shape[1], chosen=True, reason="the only one")
        return Anatomy((layer,), (), self.W.shape[1], (), stages=("features",))

    def resolve(self, layer, inputs, output=None):
        return "features"

    def headed(self, layer, inputs, output=None):
        return self.linear

    def evidence(self, inputs, request):
        self.forwards += 1
        self.requests.append(request)
        logits = self.logits(inputs)
        p = softmax(logits)
        chosen = [t.choose(logits, t.parameters(len(inputs)), np) for t in request.targets]
        A = {}
        for path in request.layers:
            values = inputs if path == INPUT else self.features(inputs)
            A[path] = values.reshape(len(inputs), -1, values.shape[-1]).astype("float32")
        G, H_A = {}, {}
        for t in request.differentiated:
            self.backwards += 1
            slope = self.slope(logits, request, t, chosen[t])
            G |= {(path, t): self.pulled(inputs, slope, path, request.rule) for path in request.layers}
        for t, paths in zip(request.differentiated, request.curved, strict=True):
            bent = self.bend(logits, request, t, chosen[t])
            H_A |= {(path, t): self.pulled(inputs, bent, path, "gradient") for path in paths}
        head = Head(self.W.astype("float32"), self.b.astype("float32"))
        grids = dict.fromkeys(request.layers, inputs.shape[1:3])
        measured = Measured(A, chosen, G, H_A, dict.fromkeys(request.headed, head), grids, "softmax")
        pairs = list(zip(request.targets, chosen, strict=True))
        computed = [mapped(lambda m: np.asarray(m, "float32"), made) for made in raw_maps(request, measured, np)]
        return Evidence(
            outputs=logits,
            probabilities=p,
            chosen=chosen,
            scores=[{"logit": t.score(logits, c, np), "probability": t.score(p, c, np)} for t, c in pairs],
            maps=dict(zip(request.jobs, computed, strict=True)),
            strength={key: np.abs(g).max(axis=(1, 2)) for key, g in G.items()},
            activations={path: A[path] for path in request.activations},
            gradients={key: G[key] for key in request.gradients},
            grids=grids,
        )

    def slope(self, logits, request, t, classes):
        """The derivative ``(B, C)`` of an explained score by the logits."""
        target, kind = request.targets[t], request.scores[t]
        step, slope = 1e-6, np.zeros_like(logits)
        for c in range(logits.shape[1]):
            up, down = logits.copy(), logits.copy()
            up[:, c] += step
            down[:, c] -= step
            read = (lambda z: z) if kind == "logit" else softmax
            slope[:, c] = (target.score(read(up), classes, np) - target.score(read(down), classes, np)) / (2 * step)
        return slope

    def bend(self, logits, request, t, classes):
        """How that derivative changes along the activations, ``(B, C)``: the logits are linear in them."""
        step = 1e-3 * (logits - self.b)
        up, down = (self.slope(z, request, t, classes) for z in (logits + step, logits - step))
        return (up - down) / 2e-3

    def pulled(self, inputs, slope, path, rule):
        """A derivative by the logits as one by the activations or by the image, ``(B, U, K)`` or ``(B, U, C)``."""
        places = inputs.shape[1] * inputs.shape[2]
        within = np.repeat((slope @ self.W.T / places)[:, None], places, axis=1)
        if path != INPUT:
            return within.astype("float32")
        active = (inputs @ self.V > 0).reshape(within.shape)
        through = {
            "gradient": within * active,
            "guided": np.maximum(within, 0) * active,
            "deconvnet": np.maximum(within, 0),
        }[rule]
        return (through @ self.V.T).astype("float32")

    def tail(self, image, altered):
        self.altered.append(len(altered.activations))
        logits = altered.activations.mean(axis=1) @ self.W + self.b
        p = softmax(logits)
        pairs = [(t, np.repeat(c, len(logits), axis=0)) for t, c in zip(altered.targets, altered.chosen, strict=True)]
        return {
            "logit": np.stack([t.score(logits, c, np) for t, c in pairs]),
            "probability": np.stack([t.score(p, c, np) for t, c in pairs]),
        }

    def probe(self, inputs, probes):
        self.probed.append(len(probes.masks))
        self.given.append(len(inputs))
        masks = masks_over(inputs.shape[1:], probes.masks, probes, False, np)
        base = None if probes.base is None else probes.base[probes.rows]
        logits = self.logits(blended(inputs[probes.rows], masks, base))
        p = softmax(logits)
        pairs = [(t, c[probes.rows]) for t, c in zip(probes.targets, probes.chosen, strict=True)]
        return {
            "logit": np.stack([t.score(logits, c, np) for t, c in pairs]),
            "probability": np.stack([t.score(p, c, np) for t, c in pairs]),
        }

    def weighted(self, inputs, output=None):
        return ("head", "features")

    @contextlib.contextmanager
    def randomised(self, layers, seed):
        self.randomisations.append((tuple(layers), seed))
        before = self.V, self.W, self.b
        for layer in layers:
            names = {"head": ("W", "b"), "features": ("V",)}[layer]
            for name in names:
                values = getattr(self, name)
                shuffled = np.random.default_rng([seed, *name.encode()]).permutation(values.ravel())
                setattr(self, name, shuffled.reshape(values.shape))
        try:
            yield
        finally:
            self.V, self.W, self.b = before


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
