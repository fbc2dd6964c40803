"""Relevance that is handed back from the scores, layer by layer, in the place of gradients."""

from collections.abc import Generator

import numpy as np

from camlucida.asks import Seen, Views
from camlucida.methods.registry import method
from camlucida.targets.compared import Start
from camlucida.types import Array, Need
from camlucida.xp import Xp


@method(
    "relevance-cam",
    title="Relevance-CAM",
    source="Lee et al. 2021, Relevance-CAM: Your Model Already Knows Where to Look, CVPR, and its code",
    cost="2 F + 1 B",
    asks=(Need.VIEWS, Need.RELEVANCE),
    gives="weights",
    aim=lambda target: Start(target),
    uncertain="the rules of the propagation are those of the authors' code; the paper was not read again",
)
def relevance_cam(x: Array, xp: Xp) -> Generator[Views, Seen, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = mean_u R_uk

    A_uk is the activation of channel k at place u, R_uk its relevance: 1 at the class and -1/N at each of the N - 1
    others is propagated back, layer by layer, each sharing out what it is given among what it took. Linear layers and
    convolutions share in proportion to w⁺x⁺ + w⁻x⁻ (z+, which is α = 1 and β = 0), pooling and sums of layers in
    proportion to what each number adds; ReLU, dropout and batch normalisation hand it on; 0/0 is 0. Use it at early
    layers, where gradients are noise.

    The authors' code differs in four places. It adds the bias of a convolution, twice, to what it divides by; biases
    are left out here, as in its linear layers, so that nothing is lost but what no input accounts for. It takes the
    positive part before adaptive pooling, drops what comes to a zero at a batch normalisation, and has another rule for
    a convolution of the image itself. Networks with other steps behind the layer (attention, products of two tensors,
    GELU) are refused.
    """
    seen = yield Views(x[:, None], rule="relevance")
    return np.asarray(seen.G.mean(axis=2)[:, 0], "float32")
