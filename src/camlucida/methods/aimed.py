"""Gradient methods that explain another score than the one of the class alone."""

from camlucida.domains import number, whole, word
from camlucida.methods.definition import Variant
from camlucida.methods.registry import method
from camlucida.targets import Classes, Contrast, Finer, Rest
from camlucida.targets.compared import BASES, Base
from camlucida.types import Array
from camlucida.xp import Xp


def _finer(
    target: Classes, *, references: int = 3, gamma: float = 0.6, alpha: float = 1.0, variant: Variant = "paper"
) -> Finer:
    official = variant == "official"
    return Finer(target, references, alpha if official else gamma, official)


@method(
    "finer-cam",
    title="Finer-CAM",
    source="Zhang et al. 2025, Finer-CAM: Spotting the Difference Reveals Finer Details, arXiv:2501.11309",
    cost="1 F + 1 B",
    variants={"paper": "logit", "official": "logit"},
    gives="weights",
    aim=_finer,
    proof=("9",),
    uncertain="γ = 0.6 and three references are the defaults as a library has them; the paper was not read again",
    options={"references": whole(), "gamma": number(), "alpha": number()},
)
def finer_cam(G: Array, xp: Xp) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = mean_u ∂s/∂A_uk,   s = y_c - γ mean_t y_t

    A_uk is the activation of channel k at place u, y_c the logit of the class, y_t those of the references: the
    `references` classes whose logits are nearest to it. It is Grad-CAM of the difference: what tells a class from the
    ones that it is most like. γ=0 is Grad-CAM.

    variant="official", the authors' code: s = Σ_t p_t (y_c - α y_t) / Σ_t p_t with the probabilities p_t of the
    references, through which gradients flow too; α is 1.
    """
    return xp.mean(G, axis=1)


def _contrast(target: Classes, *, base: Base = "mean") -> Contrast:
    return Contrast(target, base)


@method(
    "diffgrad-cam",
    title="DiffGradCAM",
    source="2025, DiffGradCAM, arXiv:2506.08514",
    cost="1 F + 1 B",
    gives="weights",
    aim=_contrast,
    proof=("9",),
    uncertain="the score is as summaries tell it; the paper was not read again",
    options={"base": word(*BASES)},
)
def diffgrad_cam(G: Array, xp: Xp) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = mean_u ∂s/∂A_uk,   s = y_c - base(y_j, j ≠ c)

    A_uk is the activation of channel k at place u, y the logits, base their mean, maximum or log-sum-exp over the other
    classes. It is Grad-CAM of a contrast, the target ``cl.targets.contrast(c, base)``: a network that was trained to
    hide its reasons from Grad-CAM cannot as easily hide what tells classes apart.
    """
    return xp.mean(G, axis=1)


@method(
    "shapley-cam",
    title="ShapleyCAM",
    source="Cai 2025, CAMs as Shapley Value-based Explainers, arXiv:2501.06261",
    cost="1 F + 2 B",
    gives="weights",
    aim=lambda target: Rest(target),
    proof=("20",),
)
def shapley_cam(G: Array, H_A: Array, xp: Xp) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k = mean_u (G_uk - ½ (H A)_uk),   s = y_c + log p_c

    A_uk is the activation of channel k at place u, G the gradient and H the Hessian of s with respect to A; s is the
    residual softmax target (ReST): the logit of the class less the cross-entropy. To second order, w_k are Shapley
    values of the activations. With the logit alone and a network of ReLUs H is zero, and it is Grad-CAM.

    Where the authors' library is given a batch, its cross-entropy is averaged over it, which mixes the images.
    """
    return xp.mean(G - 0.5 * H_A, axis=1)
