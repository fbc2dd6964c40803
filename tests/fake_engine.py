"""An engine in NumPy, for one tiny network, that counts what is asked of it.

The network: a 1x1 convolution with ReLU (layer "features"), global average pooling, one linear layer, softmax.
"""

import numpy as np

from camlucida.engines.base import Anatomy, masks_over, raw_maps
from camlucida.types import Evidence, LayerInfo, Need


class FakeEngine:
    backend = "numpy"
    serves = frozenset(Need)

    def __init__(self, channels=5, classes=4, colours=2, seed=0):
        rng = np.random.default_rng(seed)
        self.V = rng.normal(size=(colours, channels))
        self.W, self.b = rng.normal(size=(channels, classes)), rng.normal(size=classes)
        self.forwards = self.backwards = 0
        self.probed = []
        """The number of masks in each call of `probe`."""
        self.given = []
        """The number of inputs in each call of `probe`."""

    def features(self, x):
        """``(B, h, w, K)``"""
        return np.maximum(x @ self.V, 0)

    def logits(self, x):
        return self.features(x).mean(axis=(1, 2)) @ self.W + self.b

    def anatomy(self, inputs, output=None):
        grid = inputs.shape[1:3]
        layer = LayerInfo("features", "Conv2D", grid, self.V.shape[1], chosen=True, reason="the only one")
        return Anatomy((layer,), (), self.W.shape[1], ())

    def resolve(self, layer, inputs, output=None):
        return "features"

    def evidence(self, inputs, request):
        self.forwards += 1
        grid = inputs.shape[1:3]
        A = self.features(inputs).reshape(len(inputs), -1, self.V.shape[1]).astype("float32")
        logits = self.logits(inputs)
        p = softmax(logits)
        chosen = [t.choose(logits, t.parameters(len(inputs)), np) for t in request.targets]
        pairs = list(zip(request.targets, chosen, strict=True))
        G = {}
        if request.needs(Need.GRADIENT):
            for i, (target, classes) in enumerate(pairs):
                self.backwards += 1
                slope = sum(s * self.W[:, classes[:, j]].T for j, s in enumerate(target.signs)) / A.shape[1]
                for path in request.layers:
                    G[path, i] = np.broadcast_to(slope[:, None, :], A.shape).astype("float32")
        per_layer = dict.fromkeys(request.layers, A)
        heads = dict.fromkeys(request.layers, self.W.astype("float32"))
        computed = [m.astype("float32") for m in raw_maps(request, per_layer, G, heads, chosen, np)]
        return Evidence(
            outputs=logits,
            probabilities=p,
            chosen=chosen,
            scores=[{"logit": t.score(logits, c, np), "probability": t.score(p, c, np)} for t, c in pairs],
            maps=dict(zip(request.maps, computed, strict=True)),
            strength={key: np.abs(g).max(axis=(1, 2)) for key, g in G.items()},
            activations=per_layer if request.activations else {},
            grids=dict.fromkeys(request.layers, grid),
        )

    def probe(self, inputs, probes):
        self.probed.append(len(probes.masks))
        self.given.append(len(inputs))
        masks = masks_over(inputs.shape[1:], probes.masks, probes, False, np)
        logits = self.logits(inputs[probes.rows] * masks)
        p = softmax(logits)
        pairs = [(t, c[probes.rows]) for t, c in zip(probes.targets, probes.chosen, strict=True)]
        return {
            "logit": np.stack([t.score(logits, c, np) for t, c in pairs]),
            "probability": np.stack([t.score(p, c, np) for t, c in pairs]),
        }


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
