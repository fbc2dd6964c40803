"""Methods that multiply gradients and activations place by place, before anything is averaged."""

from camlucida.maps import divide, principal, rectify
from camlucida.methods.registry import method
from camlucida.types import Array
from camlucida.xp import Xp


@method(
    "hirescam",
    title="HiResCAM",
    source="Draelos and Carin 2020, Use HiResCAM instead of Grad-CAM, arXiv:2011.08891",
    cost="1 F + 1 B",
    gives="weights",
    proof=("2", "3", "8", "12", "13", "15", "19"),
)
def hires_cam(G: Array, xp: Xp) -> Array:
    """L_u = Σ_k G_uk A_uk

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it. Where all that
    follows the layer is one linear layer (flattened or pooled), the map is what each place contributes: it sums to the
    score less the bias. After a ReLU layer of a network without biases it does so at any depth.

    Use it to see only places that the model did use; Grad-CAM, which averages gradients first, may spread to others.
    pytorch-grad-cam rectifies and rescales this map, so that its sum cannot be checked there.
    """
    return G


@method(
    "grad-cam-elementwise",
    title="Element-wise Grad-CAM",
    source="Pillai and Pirsiavash 2021, Explainable Models with Consistent Interpretations, AAAI",
    cost="1 F + 1 B",
    signed=False,
    proof=("12",),
)
def grad_cam_elementwise(A: Array, G: Array, xp: Xp) -> Array:
    """L_u = Σ_k ReLU(G_uk A_uk)

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it. Only what speaks
    for the target is added up, so that nothing cancels. Where activations are not negative it is LayerCAM.
    """
    return xp.sum(rectify(G * A, xp), axis=-1)


@method(
    "layercam",
    title="LayerCAM",
    source="Jiang et al. 2021, LayerCAM: Exploring Hierarchical Class Activation Maps, IEEE TIP 30",
    cost="1 F + 1 B",
    gives="weights",
    signed=False,
    proof=("4", "12"),
)
def layer_cam(G: Array, xp: Xp) -> Array:
    """L_u = Σ_k ReLU(G_uk) A_uk

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it. It works at any
    layer: shallow ones give fine maps. Several of them are put together as in the paper by
    ``layer=cl.fused([...], how="tanh-max")``.

    A layer that a pooling or a stride follows shows a pattern like a grid, since only some places have a gradient;
    take the next layer there.
    """
    return rectify(G, xp)


@method(
    "eigen-grad-cam",
    title="Eigen-Grad-CAM",
    source="pytorch-grad-cam, which introduced it; there is no paper",
    cost="1 F + 1 B",
)
def eigen_grad_cam(A: Array, G: Array, xp: Xp) -> Array:
    """L = M v_1,   M_uk = G_uk A_uk less its mean over u

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it, v_1 the first
    right singular vector of M. Less noisy than HiResCAM, and no longer what places contribute.

    The sign of a singular vector is arbitrary. Here it is the one with which the map goes along with HiResCAM's; where
    it is left to chance, half of the maps show the background.
    """
    return principal(G * A, xp)


@method(
    "normgrad",
    title="NormGrad",
    source="Rebuffi et al. 2020, There and Back Again: Revisiting Backpropagation Saliency Methods, arXiv:2004.02866",
    cost="1 F + 1 B",
    signed=False,
)
def normgrad(A: Array, G: Array, xp: Xp) -> Array:
    """L_u = ‖A_u‖ ‖G_u‖

    A_u is the vector of activations at place u, G_u that of the gradients of the score with respect to them: the norm
    of what a place contributes to the gradient of a 1x1 convolution put in after the layer. It tells where the score is
    decided, for or against: it has no sign.
    """
    return xp.sqrt(xp.sum(A * A, axis=-1)) * _norm(G, xp)


def _norm(G: Array, xp: Xp) -> Array:
    """Of each row, whose numbers may be too small to be squared."""
    greatest = xp.max(xp.abs(G), axis=-1, keepdims=True)
    scaled = G * divide(1.0, greatest, xp)
    return xp.sqrt(xp.sum(scaled * scaled, axis=-1)) * greatest[..., 0]
