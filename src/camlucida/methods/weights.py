"""Methods that read the weights of a linear head."""

from camlucida.maps import combine
from camlucida.methods.registry import method
from camlucida.types import Array, Need
from camlucida.xp import Xp


@method(
    "cam",
    title="CAM",
    needs=Need.WEIGHTS,
    source="Zhou et al. 2016, Learning Deep Features for Discriminative Localization, arXiv:1512.04150, eq. 2",
    cost="1 F",
)
def cam(A: Array, W: Array, xp: Xp) -> Array:
    """L_u = Σ_k W_k A_uk

    A_uk is the activation of channel k at place u, W_k the weight that leads from the average of channel k to the
    class score. The mean of the map over its places is the score less the bias.

    It needs a network that ends in global average pooling and one linear layer (a 1x1 convolution will do). Where it
    applies it is exact; Grad-CAM gives the same map divided by the number of places. The paper has no ReLU: the
    signed map is in `raw`, the heat map shows what speaks for the class.
    """
    return combine(A, W, xp)
