"""The methods that weigh activations by gradients: Grad-CAM and what came of it; and the scores to differentiate."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def grad_cam(A: Array, G: Array) -> Array:
    """Grad-CAM: alpha_k = 1/Z sum_u G[u, k], L[u] = sum_k alpha_k A[u, k].

    Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM", ICCV 2017, arXiv:1610.02391, equations 1 and 2
    without the ReLU. Z is the number of places; the authors' own code sums where the paper takes the mean.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        alpha = 0.0
        for u in range(places):
            alpha += float(G[b, u, k])
        alpha /= places
        for u in range(places):
            L[b, u] += alpha * float(A[b, u, k])
    return L


def grad_cam_pp(A: Array, G: Array, variant: str) -> Array:
    """Grad-CAM++: w_k = sum_u alpha[u, k] relu(G[u, k]), L[u] = sum_k w_k A[u, k].

    Chattopadhay, Sarkar, Howlader, Balasubramanian, "Grad-CAM++", WACV 2018, arXiv:1710.11063, equations 5, 19 and 20
    without the ReLU. The differentiated score there is Y = exp(S); its derivatives are exp(S) times G, G^2 and G^3.
    exp(S) cancels within alpha and is one positive factor per image of the map, dropped here.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit S with respect to them, (B, U, K).
        variant: "paper" takes alpha from equation 19 as it stands. "official" follows the authors' code, which divides
            alpha by its sum over the places of the channel with a positive gradient (by 1 where that sum is 0).

    Returns:
        Signed raw maps (B, U).

    Raises:
        ValueError: `variant` is neither.
        ZeroDivisionError: equation 19 has a pole at a positive gradient, which takes activations that sum below zero.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        S_k = 0.0
        for u in range(places):
            S_k += float(A[b, u, k])
        w = 0.0
        alpha_sum = 0.0
        for u in range(places):
            gradient = float(G[b, u, k])
            # Where the gradient is not positive relu(G) takes alpha out of both sums, and the poles of alpha with it.
            if gradient > 0.0:
                alpha = _alpha(gradient, S_k)
                alpha_sum += alpha
                w += alpha * gradient
        if variant == "official" and alpha_sum != 0.0:
            w /= alpha_sum
        for u in range(places):
            L[b, u] += w * float(A[b, u, k])
    return L


def _alpha(gradient: float, S_k: float) -> float:
    """Equation 19, unreduced: G^2 / (2 G^2 + S_k G^3), with 0/0 := 0; S_k is the channel's sum of activations."""
    numerator = gradient**2
    denominator = 2.0 * gradient**2 + S_k * gradient**3
    if numerator == 0.0 and denominator == 0.0:
        return 0.0
    return numerator / denominator


def grad_cam_counterfactual(A: Array, G: Array) -> Array:
    """Counterfactual Grad-CAM: alpha_k = -1/Z sum_u G[u, k], L[u] = sum_k alpha_k A[u, k].

    Selvaraju et al., "Grad-CAM", arXiv:1610.02391, the section on counterfactual explanations (its equation number was
    not at hand), without the ReLU: what would raise the score if it were taken away.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        alpha = 0.0
        for u in range(places):
            alpha += -float(G[b, u, k])
        alpha /= places
        for u in range(places):
            L[b, u] += alpha * float(A[b, u, k])
    return L


def xgrad_cam(A: Array, G: Array) -> Array:
    """XGrad-CAM: w_k = sum_u G[u, k] A[u, k] / sum_u A[u, k], L[u] = sum_k w_k A[u, k].

    Fu, Hu, Dong, Guo, Gao, Li, "Axiom-based Grad-CAM", BMVC 2020, arXiv:2008.02312, without the ReLU. The authors' code
    adds 1e-6 to the denominator; that is left out. A channel whose activations sum to exactly 0 (the sum is taken
    without rounding errors) has w_k = 1/Z sum_u G[u, k]: the value where A is constant over places, and then the limit
    as it goes to 0. Channels that only nearly cancel are not caught, and their weights are huge.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Signed raw maps (B, U). Their sum over places is the sum of G A, but for channels that sum to 0.
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        whole = math.fsum(float(A[b, u, k]) for u in range(places))
        if whole == 0.0:
            w = math.fsum(float(G[b, u, k]) for u in range(places)) / places
        else:
            w = math.fsum(float(G[b, u, k]) * float(A[b, u, k]) for u in range(places)) / whole
        for u in range(places):
            L[b, u] += w * float(A[b, u, k])
    return L


def hires_cam(A: Array, G: Array) -> Array:
    """HiResCAM: L[u] = sum_k G[u, k] A[u, k].

    Draelos, Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
    arXiv:2011.08891. The definition has no ReLU.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, u, k in np.ndindex(images, places, channels):
        L[b, u] += float(G[b, u, k]) * float(A[b, u, k])
    return L


def grad_cam_elementwise(A: Array, G: Array) -> Array:
    """Grad-CAM element by element: L[u] = sum_k relu(G[u, k] A[u, k]).

    Pillai, Pirsiavash, "Explainable Models with Consistent Interpretations", AAAI 2021, by the word of a library that
    has it. The ReLU of the terms is the definition's own; after it there is nothing left to rectify.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Maps (B, U), nowhere negative.
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, u, k in np.ndindex(images, places, channels):
        L[b, u] += max(float(G[b, u, k]) * float(A[b, u, k]), 0.0)
    return L


def layer_cam(A: Array, G: Array) -> Array:
    """LayerCAM of one layer: L[u] = sum_k relu(G[u, k]) A[u, k].

    Jiang, Zhang, Hou, Cheng, Wei, "LayerCAM", IEEE Transactions on Image Processing 30, 2021, without the final ReLU;
    that of the gradients is the definition's own. `layered.layer_cam_fused` joins layers.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Signed raw maps (B, U); negative only where activations are.
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, u, k in np.ndindex(images, places, channels):
        L[b, u] += max(float(G[b, u, k]), 0.0) * float(A[b, u, k])
    return L


def eigen_grad_cam(A: Array, G: Array) -> Array:
    """Eigen-Grad-CAM: M[u, k] = G[u, k] A[u, k] less its mean over places, L = M v_1, its first right singular vector.

    A method of the library pytorch-grad-cam; there is no paper. The sign of v_1 is arbitrary there. Here it is the one
    with sum_u L[u] H[u] >= 0, H = sum_k G A the map of HiResCAM (centred or not is the same: L sums to 0). Where that
    sum is 0 or the first two singular values are equal the formula does not determine the map.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Signed raw maps (B, U); each sums to 0 over places.
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b in range(images):
        M = np.zeros((places, channels))
        for k in range(channels):
            products = [float(G[b, u, k]) * float(A[b, u, k]) for u in range(places)]
            mean = math.fsum(products) / places
            for u in range(places):
                M[u, k] = products[u] - mean
        v_1 = np.linalg.svd(M, full_matrices=False)[2][0]
        agreement = 0.0
        for u in range(places):
            for k in range(channels):
                L[b, u] += M[u, k] * v_1[k]
            hires = math.fsum(float(G[b, u, k]) * float(A[b, u, k]) for k in range(channels))
            agreement += L[b, u] * hires
        if agreement < 0.0:
            for u in range(places):
                L[b, u] = -L[b, u]
    return L


def normgrad(A: Array, G: Array) -> Array:
    """NormGrad: L[u] = ||A[u, :]|| ||G[u, :]||, Euclidean norms over channels.

    Rebuffi et al., "NormGrad", CVPR 2020, arXiv:2004.02866; the formula is recalled and was not read again. Whatever
    else the paper has beside this map of one layer is left out.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Maps (B, U), nowhere negative.
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, u in np.ndindex(images, places):
        of_activations = math.sqrt(math.fsum(float(A[b, u, k]) ** 2 for k in range(channels)))
        of_gradients = math.sqrt(math.fsum(float(G[b, u, k]) ** 2 for k in range(channels)))
        L[b, u] = of_activations * of_gradients
    return L


def smooth_grad_cam_pp(A: Array, G_n: Array, variant: str = "official") -> Array:
    """Smooth Grad-CAM++: alpha = D_2 / (2 D_2 + S_k D_3), w_k = sum_u alpha relu(D_1), L[u] = sum_k w_k A[u, k].

    Omeiza, Speakman, Cintas, Weldemariam, "Smooth Grad-CAM++", 2019, arXiv:1908.01224, without the final ReLU. D_1, D_2
    and D_3 are the means over the noisy inputs of G, G^2 and G^3; S_k is the sum over places of the clean activations.
    How the noise is drawn is left to the caller. One library takes relu of the last noisy gradient for that of D_1.

    Args:
        A: activations of the clean input (B, U, K).
        G_n: gradients of the class logit at each of the n noisy inputs, (n, B, U, K).
        variant: "official" has the numerator D_2 that the derivation asks for and that implementations have. "paper"
            has the numerator D_1, as the paper prints it. No code by the authors is known.

    Returns:
        Signed raw maps (B, U).

    Raises:
        ValueError: `variant` is neither.
        ZeroDivisionError: the denominator is exactly 0 where D_1 is positive. Near it, alpha has any size and sign.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    images, places, channels = A.shape
    samples = len(G_n)
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        S_k = 0.0
        for u in range(places):
            S_k += float(A[b, u, k])
        w = 0.0
        for u in range(places):
            D_1, D_2, D_3 = 0.0, 0.0, 0.0
            for n in range(samples):
                gradient = float(G_n[n, b, u, k])
                D_1 += gradient / samples
                D_2 += gradient**2 / samples
                D_3 += gradient**3 / samples
            # Where D_1 is not positive relu(D_1) takes alpha out of the sum, and with it 0/0 and those poles.
            if D_1 > 0.0:
                numerator = D_2 if variant == "official" else D_1
                w += numerator / (2.0 * D_2 + S_k * D_3) * D_1
        for u in range(places):
            L[b, u] += w * float(A[b, u, k])
    return L


def shapley_cam(A: Array, G: Array, H_v: Array) -> Array:
    """ShapleyCAM: w_k = 1/Z sum_u (G[u, k] - 1/2 Hv[u, k]), L[u] = sum_k w_k A[u, k].

    Cai, "CAMs as Shapley Value-based Explainers", The Visual Computer 2025, arXiv:2501.06261, without the ReLU. Hv is
    the Hessian of the score times the activations: the gradient of sum(G stop(A)) with respect to A. The paper advises
    the score of `rest_score`. Left out are the variants -E (a ReLU before the sum) and -X.

    Args:
        A: activations (B, U, K).
        G: gradients of the score with respect to them, (B, U, K).
        H_v: the Hessian of the score times the activations, (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        w = 0.0
        for u in range(places):
            w += float(G[b, u, k]) - 0.5 * float(H_v[b, u, k])
        w /= places
        for u in range(places):
            L[b, u] += w * float(A[b, u, k])
    return L


def shapley_hires(A: Array, G: Array, H_v: Array) -> Array:
    """ShapleyCAM element by element (its variant -H): L[u] = sum_k (G[u, k] - 1/2 Hv[u, k]) A[u, k].

    Cai, arXiv:2501.06261, without the ReLU. For a score that is quadratic in A each term is that element's exact
    Shapley value against a baseline of zeros.

    Args:
        A: activations (B, U, K).
        G: gradients of the score with respect to them, (B, U, K).
        H_v: the Hessian of the score times the activations, (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, u, k in np.ndindex(images, places, channels):
        L[b, u] += (float(G[b, u, k]) - 0.5 * float(H_v[b, u, k])) * float(A[b, u, k])
    return L


def lift_cam_linear(A: Array, W: Array) -> Array:
    """LIFT-CAM for global average pooling and one linear layer: a_k = the SHAP value of channel k, L = sum_k a_k A_k.

    Jung, Oh, "Towards Better Explanations of Class Activation Mapping", ICCV 2021, arXiv:2102.05228, without the ReLU.
    The game is v(S) = the logit with all channels outside S set to 0, the players are the channels, and
    a_k = sum over S without k of |S|! (K - |S| - 1)! / K! (v(S + k) - v(S)), by brute force over all 2^(K - 1) sets.
    The paper's DeepLIFT, which estimates it, is exact for this head; other heads are left out. The bias cancels.

    Args:
        A: activations (B, U, K) before the pooling, K at most 8.
        W: for each image the row of the linear layer that belongs to its class, (B, K).

    Returns:
        Signed raw maps (B, U).

    Raises:
        ValueError: more than 8 channels.
    """
    images, places, channels = A.shape
    if channels > 8:
        raise ValueError(f"brute force over sets of channels is for 8 of them at most, not {channels}")
    L = np.zeros((images, places))
    for b in range(images):

        def logit(present: tuple[int, ...], b: int = b) -> float:
            y = 0.0
            for k in present:
                for u in range(places):
                    y += float(W[b, k]) * float(A[b, u, k]) / places
            return y

        for k in range(channels):
            others = [j for j in range(channels) if j != k]
            a_k = 0.0
            for size in range(channels):
                share = math.factorial(size) * math.factorial(channels - size - 1) / math.factorial(channels)
                for S in itertools.combinations(others, size):
                    a_k += share * (logit((*S, k)) - logit(S))
            for u in range(places):
                L[b, u] += a_k * float(A[b, u, k])
    return L


def integrated_grad_cam(A_m: Array, G_m: Array, A_0: Array, variant: str = "paper") -> Array:
    """Integrated Grad-CAM: L[u] = 1/m sum_t relu(sum_k 1/Z sum_v G_t[v, k] (A_t[u, k] - A_0[u, k])).

    Sattarzadeh et al., "Integrated Grad-CAM", ICASSP 2021, arXiv:2102.07805. The formula is recalled and was not read
    again. The inputs lie on the straight line from the baseline (black) to the image. The ReLU of every step is the
    definition's own: after it there is nothing left to rectify.

    Args:
        A_m: activations at the m inputs on the path, (m, B, U, K): for "paper" at t = 1/m, 2/m, ..., 1.
        G_m: gradients of the class logit there, (m, B, U, K).
        A_0: activations of the baseline (B, U, K).
        variant: "paper" as above. "official", the authors' notebook, does something simpler: the sum over the steps,
            not their mean, of plain rectified Grad-CAM maps, with no baseline taken off. Its steps are t = 0, 1/m, ...,
            (m - 1)/m, which the caller sees to; `A_0` is not used, the baseline's own map counts as a step's.

    Returns:
        Maps (B, U), nowhere negative.

    Raises:
        ValueError: `variant` is neither.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    steps, images, places, channels = A_m.shape
    L = np.zeros((images, places))
    for t, b in np.ndindex(steps, images):
        alpha = [math.fsum(float(G_m[t, b, u, k]) for u in range(places)) / places for k in range(channels)]
        for u in range(places):
            step = 0.0
            for k in range(channels):
                start = float(A_0[b, u, k]) if variant == "paper" else 0.0
                step += alpha[k] * (float(A_m[t, b, u, k]) - start)
            L[b, u] += max(step, 0.0) / (steps if variant == "paper" else 1)
    return L


def rsi_grad_cam(A_m: Array, G_m: Array) -> Array:
    """RSI-Grad-CAM: w_k = sum_u sum_l G_l[u, k] (A_l[u, k] - A_(l-1)[u, k]), L[u] = sum_k w_k A_m[u, k].

    Lerma, Lucas, arXiv:2205.10900: a Riemann-Stieltjes sum over the path from the baseline to the image, without the
    ReLU. The weights are the paper's. That they meet the activations of the image itself, those at the end of the
    path, is the form all methods of channel weights have, and was not read.

    Args:
        A_m: activations at t_0 = 0 (the baseline), t_1, ..., t_m = 1 (the image), (m + 1, B, U, K).
        G_m: gradients of the class logit at t_1, ..., t_m, (m, B, U, K).

    Returns:
        Signed raw maps (B, U). As m grows the sum of the weights goes to f(image) - f(baseline).
    """
    steps, images, places, channels = G_m.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        w = 0.0
        for u, step in np.ndindex(places, steps):
            rise = float(A_m[step + 1, b, u, k]) - float(A_m[step, b, u, k])
            w += float(G_m[step, b, u, k]) * rise
        for u in range(places):
            L[b, u] += w * float(A_m[steps, b, u, k])
    return L


def finer_score(
    y: Array, p: Array, c: int, references: int | Sequence[int], gamma: float, variant: str = "paper"
) -> float:
    """The score of one image that Finer-CAM differentiates: class c against the classes most like it.

    Zhang, Gu, et al., "Finer-CAM", CVPR 2025, arXiv:2501.11309; the paper's formula is recalled and was not read again.

    Args:
        y: logits (C,).
        p: their softmax (C,); "paper" does not use it.
        c: the class explained.
        references: the classes d compared with, or how many: then those whose logits lie closest to y_c (smallest
            |y_d - y_c|, of equals the first), all others if there are no more. Paper and code take 3.
        gamma: how much of the others is taken off; 0.6 in the paper, 1 in the authors' code.
        variant: "paper": s = y_c - gamma mean_d y_d. "official", the authors' code: s = sum_d p_d (y_c - gamma y_d) /
            sum_d p_d; derivatives go through p as well. The 1e-9 that the code adds to the denominator is left out.

    Returns:
        The score s.

    Raises:
        ValueError: `variant` is neither, or there is nothing to compare with.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    if isinstance(references, int):
        others = [d for d in range(len(y)) if d != c]
        chosen = sorted(others, key=lambda d: abs(float(y[d]) - float(y[c])))[:references]  # stable
    else:
        chosen = list(references)
    if not chosen:
        raise ValueError("Finer-CAM needs a class to compare with")
    if variant == "paper":
        return float(y[c]) - gamma * math.fsum(float(y[d]) for d in chosen) / len(chosen)
    weighted, total = 0.0, 0.0
    for d in chosen:
        weighted += float(p[d]) * (float(y[c]) - gamma * float(y[d]))
        total += float(p[d])
    return 0.0 if weighted == 0.0 and total == 0.0 else weighted / total


def rest_score(y: Array, c: int) -> float:
    """ReST, the score ShapleyCAM differentiates: s = y_c + log p_c, log p_c = y_c - log sum_j exp(y_j).

    Cai, arXiv:2501.06261: the logit less the cross-entropy, of one image. A library takes the mean of the cross-entropy
    over a batch, which mixes its images.

    Args:
        y: logits (C,).
        c: the class explained.

    Returns:
        The score s.
    """
    return float(y[c]) + (float(y[c]) - _logsumexp([float(value) for value in y]))


def contrast_score(y: Array, c: int, base: str) -> float:
    """The score that DiffGradCAM differentiates: s = y_c - base over the other classes' logits.

    arXiv:2506.08514, 2025. Formula and bases are recalled with little confidence: not to be quoted without the paper.

    Args:
        y: logits (C,), at least two.
        c: the class explained.
        base: "mean", "max" or "logsumexp" of the logits of all classes but c.

    Returns:
        The score s.

    Raises:
        ValueError: `base` is none of these.
    """
    others = [float(value) for d, value in enumerate(y) if d != c]
    if base == "mean":
        return float(y[c]) - math.fsum(others) / len(others)
    if base == "max":
        return float(y[c]) - max(others)
    if base == "logsumexp":
        return float(y[c]) - _logsumexp(others)
    raise ValueError(f'base is "mean", "max" or "logsumexp", not {base!r}')


def _logsumexp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
