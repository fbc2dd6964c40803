"""The methods that weigh channels by probing the model with masked inputs: Score-CAM and its kin."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from oracles.upsampling import bilinear

Array = NDArray[np.float64]


def score_cam(
    f: Callable[[Array], Array], x: Array, A: Array, c: int, variant: str, channels: int | None = None
) -> Array:
    """Score-CAM of one image: L = sum_k w_k A_k, where w_k says how the model scores the image seen through mask m_k.

    Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu, "Score-CAM", CVPRW 2020, arXiv:1910.01279, equations 6 to 10 and
    algorithm 1, without the final ReLU. m_k is A_k resized to the input and only then scaled to [0, 1] by its own
    minimum and maximum; a channel that is constant after resizing has 0/0 := 0, a mask of zeros.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,).
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        c: the class.
        variant: "official", the authors' code: w_k is the probability of c (softmax over classes) for x * m_k, no
            baseline, no softmax over channels, and constant channels have w_k = 0.
            "paper", algorithm 1: the logit of c for x * m_k less that for the input of zeros, then a softmax over
            channels, constant ones included.
        channels: where given, Faster-Score-CAM (tabayashi0117): only so many channels, those with the largest
            population standard deviation of A_k over places (of equals, the first), take part. The rest have w_k = 0
            and are not in the softmax. More than K means all.

    Returns:
        Signed raw map (h, w), on the grid of the layer.

    Raises:
        ValueError: `variant` is neither, or `channels` is below 1.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    x = np.asarray(x, dtype=np.float64)
    A = np.asarray(A, dtype=np.float64)
    height, width, _ = x.shape
    h, w, K = A.shape
    chosen = list(range(K)) if channels is None else _most_varied(A, channels)

    scores: dict[int, float] = {}
    for k in chosen:
        m_k = _min_max(bilinear(A[:, :, k], height, width))
        if variant == "official":
            scores[k] = 0.0 if m_k is None else _softmax(_logits(f, _masked(x, m_k)))[c]
        else:
            mask = np.zeros((height, width)) if m_k is None else m_k
            scores[k] = _logits(f, _masked(x, mask))[c] - _logits(f, np.zeros_like(x))[c]
    if variant == "paper":
        scores = dict(zip(chosen, _softmax([scores[k] for k in chosen]), strict=True))

    L = np.zeros((h, w))
    for k in chosen:
        for i, j in np.ndindex(h, w):
            L[i, j] += scores[k] * A[i, j, k]
    return L


def faster_score_cam(f: Callable[[Array], Array], x: Array, A: Array, c: int, channels: int = 10) -> Array:
    """Faster-Score-CAM of one image: official Score-CAM on the channels that vary most over places.

    tabayashi0117's idea, without a paper; 10 channels are typical. Only the `channels` channels with the largest
    population standard deviation of A_k over places (of equals, the first) are probed, the rest have w_k = 0. The final
    ReLU and scaling are left out.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,).
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        c: the class.
        channels: how many channels are probed; more than K means all.

    Returns:
        Signed raw map (h, w).
    """
    return score_cam(f, x, A, c, "official", channels=channels)


def ss_cam(
    f: Callable[[Array], Array], x: Array, A: Array, c: int, noise: Array, sigma: float, where: str = "activation"
) -> Array:
    """SS-CAM of one image: a_k = softmax_k( 1/N sum_n [f_c(x * m_k^n) - f_c(0)] ), L = sum_k a_k A_k.

    Wang, Naidu, Michael, Kundu, "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization",
    arXiv:2006.14255, without the final ReLU; N = 35, sigma = 2 there. f_c is the logit, L has the clean activations.
    The paper has two variants, with noise on the feature map and on the normalised one; just where each adds its noise
    is recalled and could not be read. As in Score-CAM a map is resized first and scaled to [0, 1] by its minimum and
    maximum afterwards, with 0/0 := 0 for a constant one.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,).
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        c: the class.
        noise: standard normal draws, (N, K, h, w) for "activation" and (N, K, H, W) for "mask".
        sigma: what the draws are multiplied by.
        where: "activation": m_k^n is the mask of A_k + sigma noise. "mask": m_k^n is the mask of A_k with sigma noise
            added, neither clipped nor scaled again (so that it leaves [0, 1]); a constant channel has noise alone.

    Returns:
        Signed raw map (h, w).

    Raises:
        ValueError: `where` is neither.
    """
    if where not in ("activation", "mask"):
        raise ValueError(f'where is "activation" or "mask", not {where!r}')
    x, A = np.asarray(x, dtype=np.float64), np.asarray(A, dtype=np.float64)
    height, width, _ = x.shape
    h, w, K = A.shape
    N = len(noise)
    base = _logits(f, np.zeros_like(x))[c]
    means = []
    for k in range(K):
        gains = []
        for n in range(N):
            if where == "activation":
                noisy = np.zeros((h, w))
                for i, j in np.ndindex(h, w):
                    noisy[i, j] = A[i, j, k] + sigma * float(noise[n, k, i, j])
                m = _mask_or_zeros(noisy, height, width)
            else:
                m = _mask_or_zeros(A[:, :, k], height, width)
                for i, j in np.ndindex(height, width):
                    m[i, j] += sigma * float(noise[n, k, i, j])
            gains.append(_logits(f, _masked(x, m))[c] - base)
        means.append(math.fsum(gains) / N)
    return _weighted(_softmax(means), A)


def is_cam(f: Callable[[Array], Array], x: Array, A: Array, c: int, steps: int = 10) -> Array:
    """IS-CAM of one image: a_k = softmax_k( 1/N sum_{n=1..N} [f_c(n/N x * m_k) - f_c(0)] ), L = sum_k a_k A_k.

    Naidu et al., "IS-CAM: Integrated Score-CAM for axiomatic-based explanations", arXiv:2010.03023, without the final
    ReLU; N = 10 there. f_c is the logit, m_k as in Score-CAM: resized, then scaled to [0, 1], a constant channel having
    a mask of zeros. The path is bounded, from x m_k / N to x m_k. torchcam adds the coefficients up
    (c_n = sum_{j<=n} j/N, far beyond 1); whether the paper's algorithm does so too could not be read.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,).
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        c: the class.
        steps: N.

    Returns:
        Signed raw map (h, w).
    """
    x, A = np.asarray(x, dtype=np.float64), np.asarray(A, dtype=np.float64)
    height, width, _ = x.shape
    K = A.shape[2]
    base = _logits(f, np.zeros_like(x))[c]
    means = []
    for k in range(K):
        seen = _masked(x, _mask_or_zeros(A[:, :, k], height, width))
        gains = []
        for n in range(1, steps + 1):
            gains.append(_logits(f, (n / steps) * seen)[c] - base)
        means.append(math.fsum(gains) / steps)
    return _weighted(_softmax(means), A)


def gscore_cam(f: Callable[[Array], Array], x: Array, A: Array, G: Array, c: int, share: float = 0.1) -> Array:
    """gScoreCAM of one image: official Score-CAM on the channels with the largest mean gradient.

    Chen, Li, Biaz, Bui, Nguyen, "gScoreCAM: What objects is CLIP looking at?", ACCV 2022, without the final ReLU. The
    official README takes the top 10 % of the channels by mean_u G[u, k], signed. Rounding up is this oracle's choice,
    and the share is taken as the decimal number it is written as: 0.07 of 100 channels are 7. The score is the
    probability, as in official Score-CAM, in place of CLIP's similarity. Of equals the first.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,).
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        G: gradients of the class logit with respect to them, (h, w, K).
        c: the class.
        share: how much of the K channels is probed, above 0 and at most 1: ceil(share K) of them.

    Returns:
        Signed raw map (h, w).

    Raises:
        ValueError: `share` is outside of (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is above 0 and at most 1, not {share}")
    K = A.shape[2]
    count = math.ceil(Fraction(str(share)) * K)
    alphas = _channel_means(G)
    chosen = sorted(range(K), key=lambda k: -alphas[k])[:count]  # sorted() is stable: the first of equals comes first
    return score_cam(f, x, A[:, :, chosen], c, "official")


def group_cam(
    f: Callable[[Array], Array], x: Array, x_blurred: Array, A: Array, G: Array, c: int, groups: int = 32
) -> Array:
    """Group-CAM of one image: L = sum_l s_l M_l, s_l being what group l of the channels adds to a blurred image.

    Zhang, Rao, Yang, "Group-CAM: Group Score-Weighted Visual Explanations for Deep Convolutional Networks",
    arXiv:2103.13859, as its official code has it. With a_k = mean_u G[u, k] and consecutive groups of channels
    M_l = relu(sum_{k in l} a_k A_k), m_l is M_l resized and then scaled to [0, 1], and
    s_l = relu( p_c(x * m_l + x_b * (1 - m_l)) - p_c(x_b) ). The two ReLUs belong to the definition, so L >= 0. It sums
    M_l itself, not m_l, here on the grid of the layer: resizing is linear and can follow. Left out: the final scaling,
    the de-noising by a percentile of earlier versions of the paper, and other ways to group than by order.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,); the score p_c is their softmax.
        x: the input (H, W, C_in).
        x_blurred: x_b, the input blurred (H, W, C_in); the code has a Gaussian of 51 pixels and sigma 50.
        A: activations of the explained layer (h, w, K).
        G: gradients of the class logit with respect to them, (h, w, K).
        c: the class.
        groups: their number g. Where g does not divide K, the first K mod g groups have one channel more than the
            others, and where g exceeds K the last are empty. A group that is constant after resizing counts nothing
            (the code divides 0 by 0).

    Returns:
        Raw map (h, w), nowhere negative.
    """
    x, x_blurred = np.asarray(x, dtype=np.float64), np.asarray(x_blurred, dtype=np.float64)
    A = np.asarray(A, dtype=np.float64)
    height, width, _ = x.shape
    h, w, K = A.shape
    alphas = _channel_means(G)
    base = _softmax(_logits(f, x_blurred))[c]
    L = np.zeros((h, w))
    first = 0
    for number in range(groups):
        after = first + K // groups + (1 if number < K % groups else 0)
        M = np.zeros((h, w))
        for i, j in np.ndindex(h, w):
            M[i, j] = max(sum(alphas[k] * float(A[i, j, k]) for k in range(first, after)), 0.0)
        first = after
        m = _min_max(bilinear(M, height, width))
        s = 0.0 if m is None else max(_softmax(_logits(f, _blended(x, x_blurred, m)))[c] - base, 0.0)
        for i, j in np.ndindex(h, w):
            L[i, j] += s * M[i, j]
    return L


def decom_cam(
    f: Callable[[Array], Array],
    x: Array,
    x_blurred: Array,
    A: Array,
    G: Array,
    c: int,
    channels: int,
    components: int,
) -> Array:
    """DecomCAM of one image: L = sum_i S_i score_i / max_i score_i over the principal components S_i of a_k A_k.

    "DecomCAM", Neurocomputing, arXiv:2405.18882, after the official code, which has p = 500 channels and 10 components.
    With a_k = mean_u G[u, k], X is the matrix places x channels of a_k A_k, for the p channels whose a_k A_k has the
    largest mean over places (of equals, the first). PCA: X less the mean of each column, its right singular vectors
    v_i, and S_i = relu(X v_i) on the grid. The image is seen through S_i, resized and then scaled to [0, 1] as m_i:
    score_i = p_c(x * m_i + x_b * (1 - m_i)), and 0 where that is below 1e-3. Only the outer steps could be read. Chosen
    here: the channels that count as the first p, that columns are centred, the sign of v_i (its loadings sum to 0 or
    more), and the order of resizing and scaling. A component without variance (singular value 0 up to rounding) does
    not exist, and one whose map is constant has score 0. All scores 0: L = 0. The final scaling is left out; the ReLU
    of each S_i belongs to the definition, so L >= 0.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,); the score p_c is their softmax.
        x: the input (H, W, C_in).
        x_blurred: x_b, the input blurred (H, W, C_in); the code has a Gaussian of sigma 10.
        A: activations of the explained layer (h, w, K).
        G: gradients of the class logit with respect to them, (h, w, K).
        c: the class.
        channels: p; more than K means all.
        components: how many components, the first ones; more than there are means all.

    Returns:
        Raw map (h, w), nowhere negative.
    """
    x, x_blurred = np.asarray(x, dtype=np.float64), np.asarray(x_blurred, dtype=np.float64)
    A = np.asarray(A, dtype=np.float64)
    height, width, _ = x.shape
    h, w, K = A.shape
    alphas, levels = _channel_means(G), _channel_means(A)
    chosen = sorted(range(K), key=lambda k: -alphas[k] * levels[k])[:channels]

    X = np.zeros((h * w, len(chosen)))
    for column, k in enumerate(chosen):
        for i, j in np.ndindex(h, w):
            X[i * w + j, column] = alphas[k] * A[i, j, k] - alphas[k] * levels[k]
    _, singular, V = np.linalg.svd(X, full_matrices=False)
    smallest = singular[0] * max(X.shape) * np.finfo(np.float64).eps

    maps, kept = [], []
    for number in range(min(components, len(singular))):
        if singular[number] > smallest:
            loadings = [float(v) for v in V[number]]
            sign = 1.0 if math.fsum(loadings) >= 0.0 else -1.0
            S = np.zeros((h, w))
            for i, j in np.ndindex(h, w):
                S[i, j] = max(sign * sum(float(X[i * w + j, n]) * loadings[n] for n in range(len(chosen))), 0.0)
            m = _min_max(bilinear(S, height, width))
            score = 0.0 if m is None else _softmax(_logits(f, _blended(x, x_blurred, m)))[c]
            maps.append(S)
            kept.append(score if score >= 1e-3 else 0.0)

    L = np.zeros((h, w))
    top = max(kept, default=0.0)
    for S, score in zip(maps, kept, strict=True):
        for i, j in np.ndindex(h, w):
            L[i, j] += S[i, j] * (score / top if top > 0.0 else 0.0)
    return L


def union_cam(f: Callable[[Array], Array], x: Array, A: Array, G: Array, c: int, theta: float = 10.0) -> Array:
    """Union-CAM of one image: of the union of a gradient map and Score-CAM, and Score-CAM, what scores higher.

    Hu et al., "Union-CAM", Frontiers in Neurorobotics 2024, 10.3389/fnbot.2024.1490198, by way of another's
    implementation (XplainCAM): the paper itself could not be read. Gradients of a channel below their theta-th
    percentile over places are set to 0. alpha[u, k] = 1[G > 0] / sum_u G[u, k] of what remains, read as in Grad-CAM++:
    w_k = sum_u alpha[u, k] relu(G[u, k]), L_de = nrm(up(sum_k w_k A_k)), without a ReLU as it stands.
    L_reg = nrm(relu(up(.))) of official Score-CAM. For any map b(L) = p_c(x * L) - p_c(0).
    L_dr = nrm(b(L_de) L_de + b(L_reg) L_reg). The result is L_dr where b(L_dr) > b(L_reg), otherwise L_reg.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,); the score p_c is their softmax.
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        G: gradients of the class logit with respect to them, (h, w, K).
        c: the class.
        theta: the percentile, with linear interpolation between neighbours.

    Returns:
        Map (H, W) in [0, 1], scaled as the definition has it, at the size of the input; a constant map becomes 0.

    Raises:
        ZeroDivisionError: the gradients that remain of a channel sum to 0 while some are positive: alpha has a pole.
    """
    x, A = np.asarray(x, dtype=np.float64), np.asarray(A, dtype=np.float64)
    height, width, _ = x.shape
    h, w, K = A.shape

    weights = []
    for k in range(K):
        floor = _percentile([float(G[i, j, k]) for i, j in np.ndindex(h, w)], theta)
        remaining = []
        for i, j in np.ndindex(h, w):
            gradient = float(G[i, j, k])
            remaining.append(0.0 if gradient < floor else gradient)
        total = math.fsum(remaining)
        w_k = 0.0
        for gradient in remaining:
            if gradient > 0.0:
                w_k += 1.0 / total * gradient
        weights.append(w_k)
    L_de = _mask_or_zeros(_weighted(weights, A), height, width)

    resized = bilinear(score_cam(f, x, A, c, "official"), height, width)
    for i, j in np.ndindex(height, width):
        resized[i, j] = max(float(resized[i, j]), 0.0)
    L_reg = _or_zeros(_min_max(resized), height, width)

    base = _softmax(_logits(f, np.zeros_like(x)))[c]
    b_de = _softmax(_logits(f, _masked(x, L_de)))[c] - base
    b_reg = _softmax(_logits(f, _masked(x, L_reg)))[c] - base
    both = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        both[i, j] = b_de * L_de[i, j] + b_reg * L_reg[i, j]
    L_dr = _or_zeros(_min_max(both), height, width)
    b_dr = _softmax(_logits(f, _masked(x, L_dr)))[c] - base
    return L_dr if b_dr > b_reg else L_reg


def poly_cam(f: Callable[[Array], Array], x: Array, A_l: list[Array], c: int, sign: str) -> Array:
    """Poly-CAM of one image: the map of a deep layer, sharpened by what shallower layers know of detail.

    Englebert, Cornu, De Vleeschouwer, "Poly-CAM: High resolution class activation map for convolutional neural
    networks", ICPR 2022, arXiv:2204.13359, with the normalisations of the official code. In each layer channel k is
    clipped to its percentiles lo (0.1) and hi (99.9) over places, scaled as (A - lo) / hi (not: over hi - lo), and then
    resized: m_k. M_l = relu(sum_k w_k A_k), where w_k is for
        "+":  p_c(x * m_k);
        "-":  relu(p_c(x) - p_c(x * (1 - m_k)));
        "+-": relu(p_c(x * m_k) + p_c(x) - p_c(x * (1 - m_k))).
    From deep to shallow P_L = M_L and P_l = relu(LNorm(M_l) * up(P_{l+1})), LNorm(M) = M / max(up(down(M)), 1e-12),
    down being bilinear to the size of P_{l+1}. The ReLUs belong to the definition, so the result is nowhere negative.
    1e-12 is the code's, kept because it decides where a peak lies between the samples of down: M / 0 otherwise. In m_k
    0/0 := 0. The final scaling is left out.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,); the score p_c is their softmax.
        x: the input (H, W, C_in).
        A_l: activations of the layers from shallow to deep, each (h_l, w_l, K_l).
        c: the class.
        sign: "+", "-" or "+-".

    Returns:
        Raw map P_1 on the grid of the shallowest layer (h_1, w_1), nowhere negative.

    Raises:
        ValueError: `sign` is none of the three.
        ZeroDivisionError: hi is 0 in a channel with negative activations.
    """
    if sign not in ("+", "-", "+-"):
        raise ValueError(f'sign is "+", "-" or "+-", not {sign!r}')
    x = np.asarray(x, dtype=np.float64)
    maps = [_poly_cam_of_a_layer(f, x, np.asarray(A, dtype=np.float64), c, sign) for A in A_l]
    P = maps[-1]
    for M in reversed(maps[:-1]):
        h, w = M.shape
        smooth = bilinear(bilinear(M, *P.shape), h, w)
        coarse = bilinear(P, h, w)
        P = np.zeros((h, w))
        for i, j in np.ndindex(h, w):
            P[i, j] = max(float(M[i, j]) / max(float(smooth[i, j]), 1e-12) * float(coarse[i, j]), 0.0)
    return P


def _poly_cam_of_a_layer(f: Callable[[Array], Array], x: Array, A: Array, c: int, sign: str) -> Array:
    """M_l of Poly-CAM."""
    height, width, _ = x.shape
    h, w, K = A.shape
    p = _softmax(_logits(f, x))[c]
    weights = []
    for k in range(K):
        m = bilinear(_clipped(A[:, :, k]), height, width)
        inverse = np.zeros((height, width))
        for i, j in np.ndindex(height, width):
            inverse[i, j] = 1.0 - m[i, j]
        if sign == "+":
            weights.append(_softmax(_logits(f, _masked(x, m)))[c])
        elif sign == "-":
            weights.append(max(p - _softmax(_logits(f, _masked(x, inverse)))[c], 0.0))
        else:
            kept = _softmax(_logits(f, _masked(x, m)))[c]
            weights.append(max(kept + p - _softmax(_logits(f, _masked(x, inverse)))[c], 0.0))
    M = _weighted(weights, A)
    for i, j in np.ndindex(h, w):
        M[i, j] = max(float(M[i, j]), 0.0)
    return M


def _clipped(m: Array) -> Array:
    """nrm_p of Poly-CAM's code: (min(max(m, lo), hi) - lo) / hi, with 0/0 := 0."""
    values = [float(m[place]) for place in np.ndindex(*m.shape)]
    low, high = _percentile(values, 0.1), _percentile(values, 99.9)
    out = np.zeros(m.shape)
    for place in np.ndindex(*m.shape):
        above = min(max(float(m[place]), low), high) - low
        out[place] = 0.0 if above == 0.0 else above / high
    return out


def _logits(f: Callable[[Array], Array], x: Array) -> list[float]:
    return [float(y) for y in f(x)]


def _masked(x: Array, mask: Array) -> Array:
    """x * m, one mask (H, W) for every colour of x (H, W, C_in)."""
    out = np.zeros_like(x)
    for i, j, colour in np.ndindex(*x.shape):
        out[i, j, colour] = x[i, j, colour] * mask[i, j]
    return out


def _min_max(m: Array) -> Array | None:
    """(m - min) / (max - min), or None for a constant map."""
    values = [float(m[place]) for place in np.ndindex(*m.shape)]
    low, high = min(values), max(values)
    if high == low:
        return None
    out = np.zeros(m.shape)
    for place in np.ndindex(*m.shape):
        out[place] = (float(m[place]) - low) / (high - low)
    return out


def _weighted(weights: list[float], A: Array) -> Array:
    """sum_k w_k A_k, on the grid (h, w)."""
    h, w, K = A.shape
    L = np.zeros((h, w))
    for i, j, k in np.ndindex(h, w, K):
        L[i, j] += weights[k] * A[i, j, k]
    return L


def _channel_means(G: Array) -> list[float]:
    """The mean over places of each channel of (h, w, K)."""
    h, w, K = G.shape
    return [math.fsum(float(G[i, j, k]) for i, j in np.ndindex(h, w)) / (h * w) for k in range(K)]


def _blended(x: Array, other: Array, mask: Array) -> Array:
    """x * m + other * (1 - m), one mask (H, W) for every colour of x (H, W, C_in)."""
    out = np.zeros_like(x)
    for i, j, colour in np.ndindex(*x.shape):
        out[i, j, colour] = x[i, j, colour] * mask[i, j] + other[i, j, colour] * (1.0 - mask[i, j])
    return out


def _mask_or_zeros(m: Array, height: int, width: int) -> Array:
    """The map resized and then scaled to [0, 1]; zeros where it is constant."""
    return _or_zeros(_min_max(bilinear(m, height, width)), height, width)


def _or_zeros(m: Array | None, height: int, width: int) -> Array:
    return np.zeros((height, width)) if m is None else m


def _percentile(values: list[float], percent: float) -> float:
    """The percentile by linear interpolation: at percent / 100 of the way along the sorted values."""
    ordered = sorted(values)
    position = percent / 100.0 * (len(ordered) - 1)
    before = min(math.floor(position), len(ordered) - 1)
    after = min(before + 1, len(ordered) - 1)
    return ordered[before] + (position - before) * (ordered[after] - ordered[before])


def _softmax(values: list[float]) -> list[float]:
    top = max(values)
    exponentials = [math.exp(value - top) for value in values]
    total = math.fsum(exponentials)
    return [e / total for e in exponentials]


def _most_varied(A: Array, count: int) -> list[int]:
    """Indices of the `count` channels with the largest population standard deviation over places, the largest first."""
    if count < 1:
        raise ValueError(f"channels is at least 1, not {count}")
    h, w, K = A.shape
    deviations = []
    for k in range(K):
        mean = math.fsum(float(A[i, j, k]) for i, j in np.ndindex(h, w)) / (h * w)
        squares = math.fsum((float(A[i, j, k]) - mean) ** 2 for i, j in np.ndindex(h, w))
        deviations.append(math.sqrt(squares / (h * w)))
    return sorted(range(K), key=lambda k: -deviations[k])[:count]  # sorted() is stable: the first of equals comes first
