"""Methods that weigh channels by the gradient of the score with respect to the activations."""

from camlucida.maps import divide, rectify
from camlucida.methods.definition import Variant
from camlucida.methods.registry import method
from camlucida.types import Array
from camlucida.xp import Xp


@method(
    "grad-cam",
    title="Grad-CAM",
    source="Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks, arXiv:1610.02391, eq. 1 and 2",
    cost="1 F + 1 B",
    gives="weights",
    proof=("1", "2", "8", "14", "15"),
)
def grad_cam(G: Array, xp: Xp) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = mean_u G_uk

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it. Rectified, it
    shows what speaks for the target; the negative part is what speaks against it.

    It works for any network, whatever follows the layer. The official code sums where the paper averages, which
    scales the raw map and leaves the heat map as it is.
    """
    return xp.mean(G, axis=1)


@method(
    "grad-cam-counterfactual",
    title="Counterfactual Grad-CAM",
    source="Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks, arXiv:1610.02391",
    cost="1 F + 1 B",
    gives="weights",
    proof=("14",),
)
def grad_cam_counterfactual(G: Array, xp: Xp) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = -mean_u G_uk

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it. It is Grad-CAM
    with the sign turned round: hot is what speaks against the target, and what the model would have to do without to
    be surer of it.
    """
    return -xp.mean(G, axis=1)


@method(
    "grad-cam++",
    title="Grad-CAM++",
    source="Chattopadhay et al. 2018, Grad-CAM++: Improved Visual Explanations, arXiv:1710.11063, eq. 5 and 19",
    cost="1 F + 1 B",
    gives="weights",
    variants={"paper": "logit", "official": "logit"},
    signed=False,
    proof=("5",),
)
def grad_cam_plus_plus(A: Array, G: Array, xp: Xp, *, variant: Variant = "paper") -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = Σ_u α_uk ReLU(G_uk),   α_uk = 1 / (2 + G_uk Σ_v A_vk)

    A_uk is the activation of channel k at place u, G_uk the gradient of the logit with respect to it. α is equation 19
    with G² cancelled, so that small gradients are not lost; it is wanted only where G is positive, where it is finite
    for activations that are not negative. The factor exp(score) that the paper's derivation carries is the same
    everywhere and is left out.

    variant="official" divides α by its sum over the places with a positive gradient, as the authors' code does and
    the paper's text does not. Use it where several instances of a class are in the picture.
    """
    S = xp.sum(A, axis=1, keepdims=True)
    positive = rectify(G, xp)
    below = 2 + S * positive
    w = xp.sum(divide(positive, below, xp), axis=1)
    if variant == "paper":
        return w
    return divide(w, xp.sum(xp.where(G > 0, divide(1.0, below, xp), 0.0), axis=1), xp)


@method(
    "xgrad-cam",
    title="XGrad-CAM",
    source="Fu et al. 2020, Axiom-based Grad-CAM, arXiv:2008.02312",
    cost="1 F + 1 B",
    gives="weights",
    proof=("2", "8", "13", "15"),
)
def xgrad_cam(A: Array, G: Array, xp: Xp) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = Σ_u G_uk A_uk / Σ_v A_vk

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it: Grad-CAM with
    gradients averaged where the channel is active. The map sums to Σ G ∘ A, as HiResCAM's does (conservation), which
    for networks of ReLUs is the score less what biases contribute.

    Use it on activations that are not negative. A channel whose activations sum to zero takes the mean gradient, as in
    Grad-CAM; where they nearly cancel (before a ReLU, in transformers) its weight may be very large. Libraries add a
    small constant to the sum, which changes the map where activations are small.
    """
    total = xp.sum(A, axis=1)
    return xp.where(total == 0, xp.mean(G, axis=1), divide(xp.sum(G * A, axis=1), total, xp))
