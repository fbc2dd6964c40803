"""Metrics that alter more and more of the image, in the order of the heat map, and watch the score."""

import math
from collections.abc import Generator, Iterator
from itertools import islice, pairwise

import numpy as np

from camlucida.asks import Pictures, Scored
from camlucida.domains import whole, word
from camlucida.errors import ConditionError
from camlucida.metrics.registry import SPACES, Space, Traced, metric
from camlucida.types import Array, Grid

AT_ONCE = 32
"""How many pictures are asked for at a time, so that memory does not grow with their number."""


@metric(
    "deletion",
    title="Deletion",
    source="Petsiuk et al. 2018, RISE, BMVC, arXiv:1806.07421",
    better="low",
    range=(0, 1),
    masks="pixels become 0 in the model's input, the data set's mean as a rule; black where space=image",
    passes=lambda settings: settings["steps"],
    axes=("share of pixels removed", "probability of the class"),
    options={"steps": whole(), "seed": whole(0), "space": word(*SPACES)},
    proof=("30", "32"),
)
def deletion(
    L: Array, x: Array, y: float, *, steps: int = 224, seed: int = 0, space: Space = "input"
) -> Generator[Pictures, Scored, Traced]:
    """AUC = Σ_k (s_k + s_{k+1}) / 2n,   s_k = f(x without the first k/n of its pixels)

    Pixels of the image x become 0 in `steps` equal portions, the hottest of the heat map L first; f is the probability
    of the class, s_0 = y that of the whole image. Pixels that are equally hot come in an order drawn from the seed: by
    their place, as elsewhere, a constant map would be graded by where objects stand. An image of fewer pixels loses one
    at a time. The altered images are unlike any that the network has seen.
    """
    n = min(steps, L.size)
    path = _path(x, np.zeros_like(x), _descending(L, seed), _cuts(L.size, n))
    s = yield from scored(islice(path, 1, None), n, x.shape)
    curve = np.concatenate([[y], s])
    return Traced(_area(_shares(n), curve), _shares(n), curve)


@metric(
    "insertion",
    title="Insertion",
    source="Petsiuk et al. 2018, RISE, BMVC, arXiv:1806.07421",
    better="high",
    range=(0, 1),
    masks="pixels come back into the image blurred by a Gaussian of 11 x 11 pixels and deviation 5",
    passes=lambda settings: settings["steps"],
    axes=("share of pixels inserted", "probability of the class"),
    options={"steps": whole(), "seed": whole(0), "space": word(*SPACES)},
    proof=("30", "32"),
)
def insertion(
    L: Array, x: Array, y: float, *, steps: int = 224, seed: int = 0, space: Space = "input"
) -> Generator[Pictures, Scored, Traced]:
    """AUC = Σ_k (s_k + s_{k+1}) / 2n,   s_k = f(blurred x with the first k/n of the pixels of x)

    Pixels of the image x come back into its blurred copy in `steps` equal portions, the hottest of the heat map L
    first; f is the probability of the class, s_n = y that of the whole image. Ties as in Deletion. The blur has the
    size that the authors use for inputs of 224 pixels, and hides little of what is large: a net that knows the class in
    the blurred image grades every map high. Other libraries begin from black.
    """
    n = min(steps, L.size)
    path = _path(_blurred(x), x, _descending(L, seed), _cuts(L.size, n))
    s = yield from scored(path, n, x.shape)
    curve = np.concatenate([s, [y]])
    return Traced(_area(_shares(n), curve), _shares(n), curve)


@metric(
    "irof",
    title="IROF",
    source="Rieger & Hansen 2020, IROF: a low resource evaluation metric for explanation methods, arXiv:2003.08747",
    better="high",
    range=(-math.inf, 1),
    masks="superpixels become the mean colour of the image",
    passes=lambda settings: settings["segments"],
    undefined="the score of the image is not above 0",
    axes=("share of superpixels removed", "probability of the class, as a share of that of the image"),
    options={"segments": whole(), "seed": whole(0), "space": word(*SPACES)},
)
def irof(
    L: Array, x: Array, y: float, *, segments: int = 300, seed: int = 0, space: Space = "image"
) -> Generator[Pictures, Scored, Traced]:
    """IROF = 1 - ∫ s(t) / y dt,   s(t) = f(x without the first share t of its superpixels)

    SLIC cuts the image x into about as many superpixels as asked for. They take on its mean colour one by one, those in
    which the heat map L is hottest on average first: the area over the curve of the probability f of the class, as a
    share of that of the whole image, y. SLIC decides how many superpixels there are, and the curve has as many points
    as were asked for: where there are fewer superpixels, some images are scored twice, and the area is the same; where
    there are more, as in small images, several go at a time.
    """
    if x.ndim != 3:
        raise ConditionError(f"irof needs images of two axes, and this one has {x.ndim - 1}: take deletion instead")
    if not y > 0:
        return Traced(math.nan, _shares(segments), np.full(segments + 1, math.nan))
    of, sizes = _superpixels(x, segments)
    hottest = _descending(np.bincount(of, L.ravel()) / sizes, seed)
    removed = _cuts(len(sizes), segments)
    ends = np.concatenate([[0], np.cumsum(sizes[hottest])])
    order = np.argsort(np.argsort(hottest)[of])
    grey = np.broadcast_to(x.mean(axis=(0, 1)), x.shape)
    s = yield from scored(islice(_path(x, grey, order, ends[removed]), 1, None), segments, x.shape)
    curve = np.concatenate([[1.0], s / y])
    return Traced(1 - _area(removed / len(sizes), curve), _shares(segments), curve)


def scored(pictures: Iterator[Array], count: int, shape: Grid) -> Generator[Pictures, Scored, Array]:
    """The scores ``(count,)`` of pictures, asked for in portions. A picture may change once the next is drawn.

    Args:
        shape: of each picture, ``(*size, C)``.
    """
    found = []
    for start in range(0, count, AT_ONCE):
        images = np.empty((min(AT_ONCE, count - start), *shape), "float32")
        for i, picture in zip(range(len(images)), pictures, strict=False):
            images[i] = picture
        answer = yield Pictures(images)
        found.append(answer.y)
    return np.concatenate(found).astype("float64")


def _path(start: Array, finish: Array, order: Array, cuts: Array) -> Iterator[Array]:
    """The pictures between two, altered in place: pixel by pixel as `order` tells, shown at each of the `cuts`."""
    shown, final = start.copy(), finish.reshape(-1, finish.shape[-1])
    pixels = shown.reshape(final.shape)
    yield shown
    for begin, end in pairwise(cuts):
        chosen = order[begin:end]
        pixels[chosen] = final[chosen]
        yield shown


def _descending(values: Array, seed: int) -> Array:
    """The places of values, the greatest first; equal ones in an order drawn from the seed."""
    drawn = np.random.default_rng(seed).permutation(values.size)
    return np.lexsort((drawn, -values.ravel()))


def _cuts(total: int, n: int) -> Array:
    """How many of `total` things are done before and after each of n steps, as equal as can be, ``(n + 1,)``."""
    return np.rint(_shares(n) * total).astype(int)


def _shares(n: int) -> Array:
    return np.linspace(0, 1, n + 1)


def _area(at: Array, curve: Array) -> float:
    """The area under a curve, by trapezoids."""
    return float(np.sum(np.diff(at) * (curve[:-1] + curve[1:]) / 2))


def _blurred(x: Array) -> Array:
    """The image seen through a Gaussian, as the authors of RISE blur it; nothing lies outside the image."""
    from scipy import ndimage

    line = ndimage.gaussian_filter1d(np.eye(11)[5], 5)
    for axis in range(x.ndim - 1):
        x = ndimage.correlate1d(x, line, axis, mode="constant")
    return x


def _superpixels(x: Array, segments: int) -> tuple[Array, Array]:
    """Which superpixel each pixel of an image belongs to, ``(U,)``, and how many pixels each of them has."""
    from skimage.segmentation import slic

    of = slic(x, n_segments=segments, start_label=0, channel_axis=-1).ravel()
    _, of, sizes = np.unique(of, return_inverse=True, return_counts=True)
    return of, sizes
