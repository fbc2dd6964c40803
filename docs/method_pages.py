"""Write docs/methods: a page for each method and a list of them, from the registry.

    python docs/method_pages.py             the pages, and their place in mkdocs.yml
    python docs/method_pages.py --pictures  what each method shows of a photograph of a cat as well, where it is missing

The engines are asked what they serve, so TensorFlow, JAX, torch and onnxruntime must be installed.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from camlucida.methods import FAMILIES, Method, configure, methods
from camlucida.methods.facts import HEADED, facts
from camlucida.proofs import IDENTITIES
from camlucida.types import Need

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"
CONFIGURATION = ROOT / "mkdocs.yml"
MARK = "  # What follows is written by docs/{}.\n"
"""What the part of the configuration that a script writes begins with; it ends where another such part begins."""

WIDTH, QUALITY = 240, 80
TARGETS = {"grad-cam-counterfactual": "ship"}
"""The targets of examples and pictures, where a map for the likeliest class would be empty."""
OTHER = {"cameras": ("torchvision:resnet50", "it takes images of one size alone")}
"""What examples of a method name in the place of the embedded network, and why that does not do."""
TRANSFORMER = ("hf:google/vit-base-patch16-224", "it is no transformer and has no attention to look at")
"""The same for all methods that look at attention."""


def pages() -> dict[str, str]:
    """The text of every page, by the name of its file."""
    served, tests = engines(), proofs()
    written = {f"{m.name}.md": page(m, served, tests) for m in methods().values()}
    return {"index.md": index(), **written}


def page(method: Method, served: dict[str, frozenset[Need]], tests: dict[str, list[str]]) -> str:
    """One method, in full."""
    told = {"name": f"`{method.name}`", "family": FAMILIES[method.family], **facts(method)}
    told["options"] = ", ".join(f"`{key}={value}`" for key, value in method.options.items())
    told["engines"] = serving(method, served)
    rows = "\n".join(f"| {key} | {cell(value)} |" for key, value in told.items() if value)
    parts = [
        f"# {method.title}",
        f"```text\n{method.equation}\n```",
        method.description,
        f"| | |\n|---|---|\n{rows}",
        proved(method.proof, tests),
        f"## Example\n\n{example(method, served)}",
        picture(method),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cell(text: str) -> str:
    """A text as a table's cell, with links to papers."""
    linked = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return linked.replace("|", r"\|")


def example(method: Method, served: dict[str, frozenset[Need]]) -> str:
    """How it is asked for, in Python and on the command line."""
    model, words = '"cifar10"', ""
    if instead := other(method):
        model, words = f'"{instead[0]}"', f" --model {instead[0]}"
    elif backend := needed_backend(method, served):
        model, words = f'cl.load_model("cifar10", backend="{backend}")', f" --backend {backend}"
    words += f" --method {method.name}"
    keywords = f'method="{method.name}"'
    if target := TARGETS.get(method.name):
        words, keywords = f"{words} --target {target}", f'{keywords}, target="{target}"'
    return (
        "```python\n"
        "import camlucida as cl\n\n"
        f'result = cl.explain({model}, "sample:cat", {keywords})[0]\n'
        f'result.overlay().save("{method.name}.png")\n'
        f"```\n\n```sh\ncamlucida explain sample:cat{words}\n```"
    )


def needed_backend(method: Method, served: dict[str, frozenset[Need]]) -> str:
    """The backend of Keras that serves a method which the first one, TensorFlow, does not; empty where it does."""
    ways = [method.needs, *([method.closed.needs] if method.closed else [])]
    keras = {name.rpartition(" ")[2].lower(): needs for name, needs in served.items() if name.startswith("Keras")}
    serving = [name for name, needs in keras.items() if any(way <= needs for way in ways)]
    return "" if not serving or serving[0] == next(iter(keras)) else serving[0]


def picture(method: Method) -> str:
    """Its picture, or why there is none."""
    if instead := other(method):
        return f"There is no picture of it here, since the embedded network will not do: {instead[1]}."
    target = TARGETS.get(method.name, "cat")
    return (
        f"![{method.title} of a photograph of a cat](images/{method.name}.jpg)\n\n"
        f"*What it shows of `sample:cat`: the embedded network is asked for `{target}`.*"
    )


def other(method: Method) -> tuple[str, str] | None:
    """Which model its example needs, and why the embedded one will not do; None where it does."""
    return TRANSFORMER if Need.ATTENTION in method.needs else OTHER.get(method.name)


def proved(proofs: Iterable[str], tests: dict[str, list[str]]) -> str:
    """The identities that hold a formula, and the tests that see to them; empty where there is none."""
    lines = []
    for proof in proofs:
        lines.append(f"- {IDENTITIES.get(proof, proof)}")
        lines += [f"    - `{name}`" for name in tests.get(proof, [])]
    return "\n".join(["## What proves it", "", *lines]) if lines else ""


def proofs() -> dict[str, list[str]]:
    """The names of the tests of each identity, by its number."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        for name, number in re.findall(r"^def (test_(?:identity_)?0*(\d+)_\w+)", file.read_text("utf-8"), re.MULTILINE):
            found.setdefault(number, []).append(name)
    return found


def engines() -> dict[str, frozenset[Need]]:
    """What the engines serve."""
    import torch

    from camlucida.engines.function import Function
    from camlucida.engines.keras_jax import KerasJax
    from camlucida.engines.keras_tensorflow import KerasTensorFlow
    from camlucida.engines.keras_torch import KerasTorch
    from camlucida.engines.onnx_engine import Onnx
    from camlucida.engines.torch_engine import Torch

    return {
        "Keras on TensorFlow": KerasTensorFlow.serves,
        "Keras on JAX": KerasJax.serves,
        "Keras on torch": KerasTorch.serves,
        "torch": Torch(torch.nn.Identity()).serves,
        "ONNX": Onnx.serves,
        "plain functions": Function.serves,
    }


def serving(method: Method, served: dict[str, frozenset[Need]]) -> str:
    """The engines that serve it, in words."""
    whole = [name for name, needs in served.items() if method.needs <= needs]
    closed = configure(method.name).closed
    partly = [name for name, needs in served.items() if closed and closed.needs <= needs and name not in whole]
    said = [together(whole)] if whole else []
    if partly:
        said.append(f"{together(partly)} where {HEADED} follow the layer")
    return "; ".join(said) or "none yet"


def together(names: list[str]) -> str:
    """Names in words; Keras stands for all its backends."""
    keras = [name for name in names if name.startswith("Keras")]
    return ", ".join((["Keras"] if len(keras) == 3 else keras) + [name for name in names if name not in keras])


def by_family() -> dict[str, list[Method]]:
    """The methods of each family, by what the family is called."""
    return {title: [m for m in methods().values() if m.family == family] for family, title in FAMILIES.items()}


def index() -> str:
    """The list of methods."""
    parts = [
        "# The methods",
        "Each page has a method's formula, its source, what it looks at and costs, which models it works for, what "
        "proves it, and what it shows of a cat. `camlucida methods NAME` says the same in short.",
        "In the formulas, A is what a layer yields and G the gradient of the score with respect to it; u is a place, k "
        "a channel, c a class or a colour. A cost counts forward passes (F), backward passes (B) and channels (K).",
    ]
    for title, family in by_family().items():
        if family:
            lines = [f"- [{m.title}]({m.name}.md) (`{m.name}`): {m.source.partition(',')[0]}; {m.cost}" for m in family]
            parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def navigation(configuration: str) -> str:
    """The site's configuration, with the methods in their place."""
    lines = ["  - Methods:\n", "      - methods/index.md\n"]
    for title, family in by_family().items():
        if family:
            lines.append(f"      - {title}:\n")
            lines += [f"          - {m.title}: methods/{m.name}.md\n" for m in family]
    return placed(configuration, "method_pages.py", lines)


def placed(configuration: str, script: str, lines: Iterable[str]) -> str:
    """The site's configuration with the part that a script writes in its place, or else at the end."""
    mark = MARK.format(script)
    written = "".join([mark, *lines])
    if mark not in configuration:
        return configuration + written
    parts = re.split(rf"^(?={MARK.partition('{')[0]})", configuration, flags=re.MULTILINE)
    return "".join(written if part.startswith(mark) else part for part in parts)


def write(folder: Path, written: Mapping[str, str]) -> None:
    """Write the pages of a folder, by the names of their files; pages that are no more are removed."""
    folder.mkdir(exist_ok=True)
    for old in set(folder.glob("*.md")) - {folder / name for name in written}:
        old.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


def draw(folder: Path) -> None:
    """What each method shows of a photograph of a cat, unless there is a picture of it already.

    A method that the backend at work does not serve is drawn on another: KERAS_BACKEND=torch, say.
    """
    import camlucida as cl

    model = cl.load_model("cifar10")
    folder.mkdir(exist_ok=True)
    drawn = {folder / f"{method.name}.jpg": method for method in methods().values() if not other(method)}
    for old in set(folder.glob("*.jpg")) - set(drawn):
        old.unlink()
    for file, method in drawn.items():
        if not file.exists():
            target = TARGETS.get(method.name, "top1")
            shown = cl.explain(model, "sample:cat", method=method.name, target=target)[0]
            if not shown.heatmap().any():
                raise ValueError(f"the map of {method.name} is empty: {shown.notes}; give it another target or layer")
            large = shown.overlay()
            small = large.resize((WIDTH, round(WIDTH * large.height / large.width)))
            small.save(file, quality=QUALITY, optimize=True)


def main(
    pictures: Annotated[bool, typer.Option("--pictures", help="Draw the pictures that are missing as well.")] = False,
) -> None:
    """Write docs/methods from the registry of methods."""
    write(FOLDER, pages())
    CONFIGURATION.write_text(navigation(CONFIGURATION.read_text("utf-8")), encoding="utf-8")
    if pictures:
        draw(FOLDER / "images")


if __name__ == "__main__":
    typer.run(main)
