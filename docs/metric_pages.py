"""Write docs/metrics: a page for each metric and a list of them, from the registry.

python docs/metric_pages.py     the pages, and their place in mkdocs.yml
"""

import json

from method_pages import CONFIGURATION, ROOT, cell, placed, proofs, proved, write

from camlucida.metrics import FAMILIES, Metric, Take, metrics
from camlucida.metrics.facts import ends, facts, needs

FOLDER = ROOT / "docs" / "metrics"

BOX, OUTLINE = [28, 0, 398, 284], [[28, 0], [398, 0], [398, 284], [28, 284]]
"""Where the head of the cat is in sample:cat."""

GIVEN = {Take.RANK: "label=3", Take.BOXES: f"boxes={[BOX]}", Take.MASK: "mask=mask"}
"""What examples tell of sample:cat where a metric needs it."""

KNOWN = {Take.BOXES: {"boxes": [BOX]}, Take.MASK: {"polygons": [OUTLINE]}}
"""The same in a data set, which has labels anyway."""

MASK = """\
mask = np.zeros((300, 451), bool)
mask[0:284, 28:398] = True
"""

EXAMPLE = """\
## Example

```python
{imports}import camlucida as cl

item = cl.explain("cifar10", "sample:cat")[0]
{mask}figure = item.grade({asked})["{name}"]
evaluation = cl.evaluate("cifar10", "{data}", metrics=["{name}"])
```

```sh
{compare}camlucida evaluate {data} --metric {name}
```

{dataset}"""

FOLDERS = """\
`photographs` is a folder of your own, with a folder of pictures for each class. Tables, JSON, COCO and Pascal VOC will
do as well."""

DOCUMENT = """\
`photographs.json` is a list of your own pictures, with what is known of them. Tables, COCO and Pascal VOC will do as
well.

```json
{entries}
```"""

INTRODUCTION = """\
# The metrics

Each page has a metric's formula, its source, what it alters, needs and costs, how the figure of a data set is made of
those of its images, where it has no value, and what proves it. `camlucida metrics NAME` says the same in short. Beside
what proves it, each is tested against a second formula, written from its paper as plain loops (`tests/oracles`).

```python
import camlucida as cl

item = cl.explain("cifar10", "sample:cat")[0]
grades = item.grade(["deletion?steps=32", "complexity"])  # of one map
evaluation = cl.evaluate("cifar10", "photographs")  # of several methods, over a data set
```

Options are written after the name. Figures compare only where model, images and options are the same.

## What no metric can tell

Nobody knows what a model looked at, so there is nothing that a map could be held against. Each metric asks another
question in its place, and a good answer to one is no answer to the others.

- **Faithfulness** alters the picture and watches the score. Altered pictures are unlike those that a model has learnt
  from: a score may fall because the picture looks strange, and not because what matters is gone.
- **Robustness** asks whether a map stays as it is where little changes, **randomisation** whether it changes with the
  weights and the class. A map that is always the same is robust, and one that changes at random passes the other check.
- **Localisation** asks whether the map lies where people have marked the object. A model that tells ships by the water
  is explained well by a map that misses the ship.
- **Complexity** asks how much of the picture is shown, whatever that is.

So one figure says little. Look at several, at their curves, and at the maps.

## Maps that explain nothing

A map that knows nothing of the model can do well. Fake-CAM shows the whole picture but one pixel, so that the score
hardly drops; and since photographs have the object in their middle, a spot in the middle lies on it. `cl.evaluate`
always grades such maps beside those that are asked for: `random-cam`, `fake-cam` and `centre`. Where one of them is
first by a metric, or within noise of the best map, the evaluation says so: the metric cannot tell these maps from
nothing.

## Where pictures are altered

A metric alters either the picture (`space=image`: 0 to 255, at the size of the model's input; 0 is black, and
preprocessing follows) or what goes into the model (`space=input`: after preprocessing, where 0 is the mean of the data
set as a rule). Both are called masking with 0, and they give different figures. Usually a metric does as its authors
do; its page says which, and the option changes it. An input that comes ready, with `preprocess=None`, is taken for the
picture, and a note says so.

## Where there is no figure

Where a figure would be a quotient of nothing, it is NaN: undefined. In an evaluation such an image is left out of the
mean, and counted: two methods may be graded on different images, so look at the counts. A metric's page tells where it
is undefined; where it tells nothing, every map has a figure. An image of which the data set does not tell what a metric
needs (boxes, a mask, the class) is not graded by it at all.

## The list

Passes are pictures that are scored for each map, and further maps are made by the method that is graded; both with the
usual options. What is shared is scored once for all maps of an image."""


def pages() -> dict[str, str]:
    """The text of every page, by the name of its file."""
    tests = proofs()
    return {"index.md": index(), **{f"{metric.name}.md": page(metric, tests) for metric in metrics().values()}}


def page(metric: Metric, tests: dict[str, list[str]]) -> str:
    """One metric, in full."""
    told = {"name": f"`{metric.name}`", "family": FAMILIES[metric.family], **facts(metric)}
    rows = "\n".join(f"| {key} | {cell(value)} |" for key, value in told.items() if key != "options")
    parts = [
        f"# {metric.title}",
        f"```text\n{metric.equation}\n```",
        metric.description,
        f"| | |\n|---|---|\n{rows}",
        options(metric),
        proved(metric.proof, tests),
        example(metric),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def options(metric: Metric) -> str:
    """What can be set, and what it may be; empty where nothing can."""
    lines = [f"- `{key}={value}`: {metric.domains[key].text}" for key, value in metric.options.items()]
    return "\n".join(["## Options", "", *lines]) if lines else ""


def example(metric: Metric) -> str:
    """How it is asked for, of one map and over a data set, in Python and on the command line."""
    given = [words for take, words in GIVEN.items() if take in metric.takes]
    masked = Take.MASK in metric.takes
    return EXAMPLE.format(
        name=metric.name,
        imports="import numpy as np\n\n" if masked else "",
        mask=MASK if masked else "",
        asked=", ".join([f'"{metric.name}"', *given]),
        data="photographs.json" if given else "photographs",
        compare="" if given else f"camlucida compare sample:cat --metric {metric.name}\n",
        dataset=DOCUMENT.format(entries=entries(metric)) if given else FOLDERS,
    )


def entries(metric: Metric) -> str:
    """A data set of one picture that has what the metric needs, as JSON."""
    entry = {"image": "cat.jpg", "label": "cat"}
    for take in metric.takes:
        entry |= KNOWN.get(take, {})
    return json.dumps([entry])


def by_family() -> dict[str, list[Metric]]:
    """The metrics of each family, by what the family is called."""
    return {title: [m for m in metrics().values() if m.family == family] for family, title in FAMILIES.items()}


def index() -> str:
    """The list of metrics."""
    parts = [INTRODUCTION]
    for title, family in by_family().items():
        head = "| metric | better | range | passes | further maps | needs |\n|---|---|---|---|---|---|"
        rows = "\n".join(map(row, family))
        parts.append(f"### {title}\n\n{head}\n{rows}")
    return "\n\n".join(parts) + "\n"


def row(metric: Metric) -> str:
    """What the list says of a metric."""
    passes, maps = metric.passes(metric.options), metric.maps(metric.options)
    cells = [
        f"[{metric.title}]({metric.name}.md) (`{metric.name}`)",
        metric.better,
        ends(metric),
        f"{passes or ''}{', shared' if metric.shared else ''}",
        str(maps or ""),
        needs(metric),
    ]
    return f"| {' | '.join(cells)} |"


def navigation(configuration: str) -> str:
    """The site's configuration, with the metrics in their place."""
    lines = ["  - Metrics:\n", "      - metrics/index.md\n"]
    for title, family in by_family().items():
        lines.append(f'      - "{title}":\n')  # quoted, for its colon
        lines += [f"          - {metric.title}: metrics/{metric.name}.md\n" for metric in family]
    return placed(configuration, "metric_pages.py", lines)


def main() -> None:
    """Write docs/metrics from the registry of metrics."""
    write(FOLDER, pages())
    CONFIGURATION.write_text(navigation(CONFIGURATION.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
