"""The method that reads its channel weights off the classifier: CAM."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cam(A: Array, W: Array) -> Array:
    """CAM: M_c[u] = sum_k w_k^c A[u, k].

    Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016,
    arXiv:1512.04150, equation 2. The bias of the classifier is left out, as there.

    Args:
        A: activations (B, U, K) before global pooling; U are the places.
        W: for each image the row of the linear layer that belongs to its class, (B, K).

    Returns:
        Signed raw maps (B, U). With global *average* pooling their mean over places is the logit less its bias.
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, u, k in np.ndindex(images, places, channels):
        L[b, u] += float(W[b, k]) * float(A[b, u, k])
    return L
