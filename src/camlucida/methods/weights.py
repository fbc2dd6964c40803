"""Methods that read the weights of a linear head."""

from camlucida.methods.registry import method
from camlucida.types import Array, Readout
from camlucida.xp import Xp


@method(
    "cam",
    title="CAM",
    source="Zhou et al. 2016, Learning Deep Features for Discriminative Localization, arXiv:1512.04150, eq. 2",
    cost="1 F",
    gives="weights",
    proof=("1", "3"),
)
def cam(W: Array, xp: Xp) -> Array:
    """L_u = Σ_k W_k A_uk

    A_uk is the activation of channel k at place u, W_k the weight that leads from the average of channel k to the
    class score. The mean of the map over its places is the score less the bias.

    It needs a network that ends in global average pooling and one linear layer (a 1x1 convolution will do). Where it
    applies it is exact; Grad-CAM gives the same map divided by the number of places. The paper has no ReLU: the
    signed map is in `raw`, the heat map shows what speaks for the class.
    """
    return W


@method(
    "cape",
    title="CAPE",
    source="Chowdhury et al. 2024, CAPE: CAM as a Probabilistic Ensemble, arXiv:2404.02388",
    cost="1 F",
    signed=False,
    proof=("10",),
)
def cape(A: Array, head: Readout, xp: Xp) -> Array:
    """L_u = exp z_uc / Σ_j Σ_v exp z_vj,   z_uc = b_c + Σ_k W_ck A_uk

    A_uk is the activation of channel k at place u, W and b the weights and biases of the linear head: a softmax over
    all classes and all places at once. A value is the share of a place in a class; those of a class sum to a
    probability, and all of them to 1, so that maps of different classes and images can be compared.

    The paper trains the head for this reading, with temperatures. This is the untrained reading of a head as it is,
    whose probabilities are not those of the model: strong places count more than in an average.
    """
    z = head.logits(A)
    powers = xp.exp(z - xp.max(z, axis=(1, 2), keepdims=True))
    return head.pick(powers / xp.sum(powers, axis=(1, 2), keepdims=True))
