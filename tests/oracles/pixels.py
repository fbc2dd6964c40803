"""The methods whose maps are as fine as the input: gradients of the pixels, guided backpropagation and FullGrad."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oracles.upsampling import bilinear

Array = NDArray[np.float64]


def gradient_x_input(x: Array, G: Array) -> Array:
    """Gradient times input: R[i, j, q] = x[i, j, q] G[i, j, q].

    Shrikumar, Greenside, Shcherbina, Kundaje, "Not Just a Black Box", 2016, arXiv:1605.01713. Colours are kept apart.

    Args:
        x: the input (H, W, C_in).
        G: gradient of the class logit with respect to it, (H, W, C_in).

    Returns:
        Signed attributions (H, W, C_in).
    """
    R = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        R[place] = float(x[place]) * float(G[place])
    return R


def smoothgrad(G_n: Array) -> Array:
    """SmoothGrad: R = 1/n sum_m G_m, the mean of the gradients at n noisy inputs.

    Smilkov, Thorat, Kim, Viegas, Wattenberg, "SmoothGrad", 2017, arXiv:1706.03825. How the noise is drawn is left to
    the caller; absolute values are not taken, and colours are kept apart.

    Args:
        G_n: gradient of the class logit at each noisy input, (n, H, W, C_in).

    Returns:
        Signed attributions (H, W, C_in).
    """
    R = np.zeros(G_n.shape[1:])
    for place in np.ndindex(*R.shape):
        R[place] = math.fsum(float(G[place]) for G in G_n) / len(G_n)
    return R


def vargrad(G_n: Array) -> Array:
    """VarGrad: R = 1/n sum_m (G_m - mean G)^2, the variance of the gradients at n noisy inputs.

    Adebayo, Gilmer, Goodfellow, Kim, "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter
    Values", 2018, arXiv:1810.03307. It is the population variance: divided by n, not by n - 1. Colours are kept apart.

    Args:
        G_n: gradient of the class logit at each noisy input, (n, H, W, C_in).

    Returns:
        Attributions (H, W, C_in), nowhere negative.
    """
    R = np.zeros(G_n.shape[1:])
    for place in np.ndindex(*R.shape):
        mean = math.fsum(float(G[place]) for G in G_n) / len(G_n)
        R[place] = math.fsum((float(G[place]) - mean) ** 2 for G in G_n) / len(G_n)
    return R


def integrated_gradients(G_m: Array, x: Array, x_0: Array, weights: Sequence[float] | None = None) -> Array:
    """Integrated gradients: R = (x - x_0) times the integral over t in [0, 1] of the gradient at x_0 + t (x - x_0).

    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv:1703.01365, equation 1. The
    integral is a sum over m points, sum_l weights_l G_l. Without weights these are 1/m each, which with the points
    t_l = (l - 1/2) / m, l = 1, ..., m, is the midpoint rule: exact where the gradient is linear in t.

    Args:
        G_m: gradient of the class logit at each point of the path, (m, H, W, C_in).
        x: the input (H, W, C_in).
        x_0: the baseline (H, W, C_in).
        weights: of the points, one for each, for another rule or other points.

    Returns:
        Signed attributions (H, W, C_in); their sum is close to f(x) - f(x_0).
    """
    shares = [1.0 / len(G_m)] * len(G_m) if weights is None else list(weights)
    R = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        integral = 0.0
        for share, G in zip(shares, G_m, strict=True):
            integral += share * float(G[place])
        R[place] = (float(x[place]) - float(x_0[place])) * integral
    return R


def guided_relu_backward(z: Array, g: Array) -> Array:
    """Guided backpropagation through one ReLU: g where z > 0 and g > 0, else 0.

    Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for Simplicity", 2014, arXiv:1412.6806.

    Args:
        z: what went into the ReLU, of any shape.
        g: what comes back to its output, of the same shape.

    Returns:
        What goes on to its input.
    """
    out = np.zeros(z.shape)
    for place in np.ndindex(*z.shape):
        if float(z[place]) > 0.0 and float(g[place]) > 0.0:
            out[place] = float(g[place])
    return out


def deconvnet_backward(z: Array, g: Array) -> Array:
    """The deconvnet through one ReLU: g where g > 0, else 0, whatever went forward.

    Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv:1311.2901.

    Args:
        z: what went into the ReLU, of any shape; only the shape counts.
        g: what comes back to its output, of the same shape.

    Returns:
        What goes on to its input.
    """
    out = np.zeros(z.shape)
    for place in np.ndindex(*z.shape):
        if float(g[place]) > 0.0:
            out[place] = float(g[place])
    return out


def guided_grad_cam(guided: Array, cam: Array) -> Array:
    """Guided Grad-CAM: R[i, j, q] = guided[i, j, q] up(relu(L))[i, j].

    Selvaraju et al., "Grad-CAM", arXiv:1610.02391, section on Guided Grad-CAM: the map with its ReLU, enlarged
    bilinearly (half-pixel centres), times guided backpropagation. Nothing is scaled.

    Args:
        guided: what guided backpropagation brings to the input, (H, W, C_in).
        cam: the raw Grad-CAM map L (h, w).

    Returns:
        Signed attributions (H, W, C_in).
    """
    height, width, colours = guided.shape
    rectified = np.zeros(cam.shape)
    for i, j in np.ndindex(*cam.shape):
        rectified[i, j] = max(float(cam[i, j]), 0.0)
    large = bilinear(rectified, height, width)
    R = np.zeros(guided.shape)
    for i, j, q in np.ndindex(height, width, colours):
        R[i, j, q] = float(guided[i, j, q]) * large[i, j]
    return R


def full_grad(input_term: Array, bias_terms: Sequence[Array], epsilon: float = 0.0) -> Array:
    """FullGrad: S = sum_q psi(input term)_q + sum_l sum_k up(psi(bias term of layer l)_k).

    Srinivas, Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019, arXiv:1905.00780,
    as the authors' code has it: psi(t) = (|t| - min |t|) / (max |t| - min |t|), minimum and maximum over the whole
    tensor of a layer, all channels together. The code adds 1e-6 to the denominator: `epsilon`; without it 0/0 := 0.
    The code enlarges with aligned corners; here it is bilinear with half-pixel centres, as everywhere else in these
    oracles. Biases of linear layers, which have no places, belong to the decomposition and not to the map: not given.

    Args:
        input_term: gradient of the class logit with respect to the input, times the input, (H, W, C_in).
        bias_terms: for each convolution and batch normalisation its gradient times its effective bias, (h, w, K).
        epsilon: what is added to the denominator of psi.

    Returns:
        The map (H, W), nowhere negative.
    """
    height, width, colours = input_term.shape
    S = np.zeros((height, width))
    rescaled = _psi(input_term, epsilon)
    for i, j, q in np.ndindex(height, width, colours):
        S[i, j] += rescaled[i, j, q]
    for term in bias_terms:
        rescaled = _psi(term, epsilon)
        for k in range(term.shape[2]):
            large = bilinear(rescaled[:, :, k], height, width)
            for i, j in np.ndindex(height, width):
                S[i, j] += large[i, j]
    return S


def _psi(t: Array, epsilon: float) -> Array:
    sizes = [abs(float(t[place])) for place in np.ndindex(*t.shape)]
    low, high = min(sizes), max(sizes)
    out = np.zeros(t.shape)
    for place in np.ndindex(*t.shape):
        numerator, denominator = abs(float(t[place])) - low, high - low + epsilon
        out[place] = 0.0 if denominator == 0.0 else numerator / denominator
    return out
