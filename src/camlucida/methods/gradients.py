"""Methods that read the gradient of the score with respect to the activations."""

from camlucida.maps import combine, divide, rectify
from camlucida.methods.registry import Variant, method
from camlucida.types import Array, Need
from camlucida.xp import Xp


@method(
    "grad-cam",
    title="Grad-CAM",
    needs=Need.GRADIENT,
    source="Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks, arXiv:1610.02391, eq. 1 and 2",
    cost="1 F + 1 B",
)
def grad_cam(A: Array, G: Array, xp: Xp) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = mean_u G_uk

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it. Rectified, it
    shows what speaks for the target; the negative part is what speaks against it.

    It works for any network, whatever follows the layer. The official code sums where the paper averages, which
    scales the raw map and leaves the heat map as it is.
    """
    return combine(A, xp.mean(G, axis=1), xp)


@method(
    "grad-cam++",
    title="Grad-CAM++",
    needs=Need.GRADIENT,
    source="Chattopadhay et al. 2018, Grad-CAM++: Improved Visual Explanations, arXiv:1710.11063, eq. 5 and 19",
    cost="1 F + 1 B",
    variants={"paper": "logit", "official": "logit"},
    signed=False,
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
    α = xp.where(G > 0, divide(xp.where(G > 0, 1.0, 0.0), 2 + S * G, xp), 0.0)
    if variant == "official":
        α = divide(α, xp.sum(α, axis=1, keepdims=True), xp)
    return combine(A, xp.sum(α * rectify(G, xp), axis=1), xp)
