"""The one list of methods. The command line, the documentation and the tests derive theirs from it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from camlucida.errors import RequestError, UnknownNameError
from camlucida.options import parse_options
from camlucida.types import Array, Need, Score

Variant = Literal["paper", "official"]
VARIANTS: tuple[Variant, ...] = ("paper", "official")


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method of the family, as its paper defines it.

    Args:
        name: how it is asked for, "grad-cam++".
        title: how its authors write it.
        needs: what its formula asks for.
        formula: the formula; its first docstring line is the equation in plain text.
        source: authors, year, where, equation.
        cost: passes per target, in the field's shorthand: F forward, B backward, K channels.
        default: the variant that is meant when none is named.
        differs: whether paper and official code differ, so that the variant matters.
        scores: which score each variant explains where the user leaves the choice.
        signed: whether negative values of its raw map mean evidence against the target.
    """

    name: str
    title: str
    needs: Need
    formula: Callable[..., Any]
    source: str
    cost: str
    default: Variant
    differs: bool
    scores: Mapping[Variant, Score]
    signed: bool

    @property
    def equation(self) -> str:
        """The formula as text."""
        return self._lines[0]

    @property
    def description(self) -> str:
        """What the symbols mean, when to use it, in what it differs from what others call by its name."""
        return "\n".join(self._lines[1:]).strip()

    @property
    def options(self) -> dict[str, Any]:
        """Keyword options of the formula, with their defaults."""
        parameters = inspect.signature(self.formula).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "variant"}

    @property
    def _lines(self) -> list[str]:
        return (inspect.getdoc(self.formula) or "").splitlines()


@dataclass(frozen=True, slots=True)
class Configured:
    """A method with its variant and options settled: hashable, and callable as its formula."""

    method: Method
    variant: Variant
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """How it is told from the others of a request: ``score-cam?channels=10``."""
        settings = [f"{key}={value}" for key, value in self.options]
        if self.variant != self.method.default:
            settings.insert(0, f"variant={self.variant}")
        return self.method.name + ("?" + "&".join(settings) if settings else "")

    @property
    def needs(self) -> Need:
        """What its formula asks for besides the activations."""
        return self.method.needs

    @property
    def score(self) -> Score:
        """The score that this variant explains by its definition."""
        return self.method.scores[self.variant]

    def __call__(self, *arrays: Array, xp: Any) -> Any:
        """The formula's result: a raw map ``(B, U)``, or the generator of a probing method."""
        settings = dict(self.options)
        if self.method.differs:
            settings["variant"] = self.variant
        return self.method.formula(*arrays, xp, **settings)


_METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    title: str,
    needs: Need,
    source: str,
    cost: str,
    score: Score = "logit",
    variants: Mapping[Variant, Score] | None = None,
    signed: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a formula.

    Args:
        score: the score that it explains by its definition.
        variants: where paper and official code differ, the variants with the score that each explains, the default
            first. Where they do not differ, leave it out.
    """

    def register(formula: Callable[..., Any]) -> Callable[..., Any]:
        scores: Mapping[Variant, Score] = variants or {"paper": score, "official": score}
        _METHODS[name] = Method(
            name, title, needs, formula, source, cost, next(iter(scores)), variants is not None, scores, signed
        )
        return formula

    return register


def methods() -> dict[str, Method]:
    """All methods by name, grouped by what they need."""
    order = list(Need)
    return dict(sorted(_METHODS.items(), key=lambda item: order.index(item[1].needs)))


def find(name: str) -> Method:
    """The method called `name`."""
    if name not in _METHODS:
        raise UnknownNameError("method", name, _METHODS)
    return _METHODS[name]


def configure(text: str, variant: str | None = None, options: Mapping[str, Any] | None = None) -> Configured:
    """The method that a user's words mean.

    Args:
        text: a name, with settings where wanted: ``"score-cam?channels=10&variant=paper"``.
        variant: "paper" or "official"; None for the method's own default. The text goes first.
        options: further options; those that this method does not have are left to the caller to judge.
    """
    if not isinstance(text, str):
        raise RequestError(f"method {text!r} is not a name; camlucida.methods() lists the names")
    name, settings = parse_options(text)
    found = find(name)
    chosen = settings.pop("variant", variant)
    if chosen is None:
        chosen = found.default
    if chosen not in VARIANTS:
        raise UnknownNameError("variant", str(chosen), VARIANTS)
    for key in settings:
        if key not in found.options:
            raise UnknownNameError(f"option of {name}", key, [*found.options, "variant"])
    given = {key: value for key, value in (options or {}).items() if key in found.options} | settings
    for key, value in given.items():
        if not isinstance(value, int | float | str | None):
            raise RequestError(f"{key}={value!r} of {name} is not a plain number or word")
    changed = tuple(sorted((key, value) for key, value in given.items() if value != found.options[key]))
    return Configured(found, chosen if found.differs else found.default, changed)
