"""What there is to say of a metric in words: the command line and the documentation show it, both from here."""

import math

from camlucida.metrics.registry import ANNOTATIONS, SPACES, Metric, Space, Take
from camlucida.proofs import IDENTITIES

NEEDS = ANNOTATIONS | {Take.LAYERS: "a model whose weights can be altered, in Keras or torch"}
"""What not every data set or model has, in words."""

PLACES: dict[Space, str] = {
    "image": "the picture, before preprocessing",
    "input": "what goes into the model, after preprocessing",
}
"""Where pictures are altered, in words."""


def facts(metric: Metric) -> dict[str, str]:
    """What there is to say of a metric beside its formula, by keyword; what it does not have is left out."""
    found = {
        "source": metric.source,
        "better": f"{metric.better}, of {ends(metric)}",
        "needs": needs(metric),
        "masks": metric.masks,
        "space": altered(metric),
        "score": metric.score if metric.passes(metric.options) else "",
        "cost": cost(metric),
        "over images": over_images(metric),
        "undefined": f"where {metric.undefined}: left out of the mean, and counted" if metric.undefined else "",
        "curve": "across, {}; up, {}".format(*metric.axes) if any(metric.axes) else "",
        "options": "; ".join(f"{key}={value}, {metric.domains[key].text}" for key, value in metric.options.items()),
    }
    return {key: value for key, value in found.items() if value}


def ends(metric: Metric) -> str:
    """The range of its figure."""
    low, high = (
        "-∞" if end == -math.inf else "∞" if end == math.inf else f"{end:g}" for end in (metric.low, metric.high)
    )
    return f"{low} to {high}"


def needs(metric: Metric) -> str:
    """What it needs of a data set or of a model beside the map."""
    return ", ".join(NEEDS[take] for take in metric.takes if take in NEEDS)


def altered(metric: Metric) -> str:
    """Where it alters pictures, and how that is changed."""
    if "space" not in metric.options:
        return ""
    usual = metric.options["space"]
    (other,) = (space for space in SPACES if space != usual)
    return f"{PLACES[usual]}; with space={other}, {PLACES[other]}"


def cost(metric: Metric) -> str:
    """What it takes for each map, or for all maps of an image, with its usual options."""
    passes, maps = metric.passes(metric.options), metric.maps(metric.options)
    parts = [_counted(passes, "forward pass", "forward passes")] * bool(passes)
    parts += [_counted(maps, "more map", "more maps")] * bool(maps)
    each = "for all maps of an image together" if metric.shared else "for each map"
    return f"{' and '.join(parts)} {each}" if parts else "nothing beside the map"


def over_images(metric: Metric) -> str:
    """How the figure of a data set is made of those of its images."""
    if metric.pooled:
        return "no mean of the images' figures: read from what is pooled over all images"
    return "the mean within each class, then over classes" if metric.by_class else "the mean"


def identities(metric: Metric) -> list[str]:
    """What holds of it and is tested, a sentence each."""
    return [IDENTITIES[proof] for proof in metric.proof]


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
