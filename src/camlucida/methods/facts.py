"""What there is to say of a method in words: the command line and the documentation show it, both from here."""

from camlucida.methods.definition import Method
from camlucida.proofs import IDENTITIES
from camlucida.types import Need

COST = "F: forward pass, B: backward pass, K: channels"
"""What the letters of a cost mean."""

HEADED = "global average pooling and linear layers"
"""What a closed form wants to follow the layer."""

GIVES = {
    Need.WEIGHTS: "the weights behind a layer",
    Need.HEAD: "the linear layers behind a layer",
    Need.ACTIVATIONS: "the activations of a layer",
    Need.GRADIENT: "the gradient of the score",
    Need.LINEAR_GRADIENT: "the gradient of the score, as the linear layers behind a layer say it",
    Need.CURVATURE: "the second derivative of the score",
    Need.GRID: "the places of a layer",
    Need.IMAGE: "the image",
    Need.SCORES: "scores of masked images",
    Need.TAIL: "scores of altered activations",
    Need.VIEWS: "activations and gradients for other images",
    Need.RULES: "backward passes by other rules",
    Need.RELEVANCE: "backward passes of relevance",
    Need.DEEPLIFT: "backward passes by DeepLIFT",
    Need.ATTENTION: "the attention of the model's blocks",
    Need.BIASES: "the gradients of all biases",
}
"""What methods may take of an engine, in words."""


def facts(method: Method) -> dict[str, str]:
    """What there is to say of a method beside its formula, by keyword; what it does not have is left out."""
    found = {
        "source": method.source,
        "looks at": looks_at(method),
        "takes": ", ".join(GIVES[need] for need in Need if need in method.needs) or "nothing",
        "cost": f"{method.cost} ({COST})",
        "explains": explains(method),
        "gives": gives(method),
        "range": sign(method),
        "variants": f"{', '.join(method.scores)} (the first is the default)" if method.differs else "",
        "options": ", ".join(f"{key}={value}" for key, value in method.options.items()),
        "closed form": closed_form(method),
        "uncertain": method.uncertain,
    }
    return {key: value for key, value in found.items() if value}


def looks_at(method: Method) -> str:
    """Where it looks."""
    if Need.ATTENTION in method.asks:
        return "the attention of every block"
    if Need.BIASES in method.asks:
        return "the image that goes into the model, and every bias on the way"
    if method.place == "layers":
        usual = "every convolution" if method.layers == "convolutions" else "the last at each size of the grid"
        return f"several layers together; where they are left to choose, {usual}"
    if method.place == "input":
        return "the image that goes into the model" if not method.agnostic else "nothing but the size of the image"
    return "one layer"


def closed_form(method: Method) -> str:
    """Where it has one, and of what."""
    if not method.has_closed_form:
        return ""
    of = "" if method.closed and Need.HEAD in method.closed.needs else "for the logit of a class, "
    return f"{of}where {HEADED} follow the layer: 1 F"


def explains(method: Method) -> str:
    """Which score, where the user leaves the choice."""
    if method.agnostic or (method.asks == {Need.ATTENTION} and "B" not in method.cost):
        return "no score: the map is the same for every target"  # attention without a gradient knows no score either
    by_variant = dict.fromkeys(method.scores.values())
    if len(by_variant) > 1:
        return ", ".join(f"the {score} (variant={variant})" for variant, score in method.scores.items())
    score = f"the {next(iter(by_variant))}"
    if method.gradient_of:
        score += f", with gradients of the {method.gradient_of}"
    return score + (", compared with other classes: the target must be one class" if method.aim else "")


def gives(method: Method) -> str:
    """What its formula returns, and how that becomes a map."""
    if method.gives == "weights":
        return "weights of channels; the map is their weighed sum, or with smooth=eigen their principal component"
    if method.gives == "map":
        return "one value for each place"
    parts = "channel or concept" if method.gives == "channels" else "colour"
    whole = "their greatest magnitude" if method.shown == "magnitude" else "their sum"
    return f"a value for each place and {parts}, kept in `{method.gives}`; the map is {whole}"


def sign(method: Method) -> str:
    """What negative and positive values of its raw map mean."""
    if method.offset:
        return "positive everywhere; a heat map begins at its least value, not at 0"
    if method.agnostic and method.signed:
        return "signed, and neither for nor against a target"
    if method.signed:
        return "signed; negative values speak against what positive ones speak for"
    return "not signed; only what is positive means something"


def identities(method: Method) -> list[str]:
    """What holds of it and is tested, a sentence each."""
    return [IDENTITIES.get(proof, proof) for proof in method.proof]
