"""One result: what an explanation holds, and how it is shown and saved."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida import maps, render
from camlucida.answer import Answer, TargetInfo
from camlucida.datasets import Item
from camlucida.errors import RequestError
from camlucida.grading import QUICK, Grades, Subject, Truth, grades, settled
from camlucida.models.labels import index_of
from camlucida.types import Grid, Prediction
from camlucida.writing import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """One map: of one image, for one target, by one method, at one layer.

    Args:
        raw: float32 ``(*grid)``: the method's own result, signed, neither rectified nor scaled.
        method: the method's name, with its settings where they are not the usual ones.
        layer: the path of the layer.
        target: what is explained.
        score: the value that is explained: a logit, a probability, or what the target computes.
        probability: the probability of the target's class; None where there is none.
        answer: what the model said of the image.
        notes: which layer was chosen, what was assumed, why a map is empty.
        pixels: float32 ``(H, W, C)``: the values of each colour, of methods that look at the input itself.
        channels: float32 ``(*grid, K)``: a map for each channel or concept, of methods that keep them.
        floor: the value that a heat map begins at: 0, or the least of a map that is positive everywhere.
        subject: what grades it.
    """

    raw: NDArray[np.float32]
    method: str
    layer: str
    target: TargetInfo
    score: float
    probability: float | None
    answer: Answer
    notes: tuple[str, ...]
    pixels: NDArray[np.float32] | None = None
    channels: NDArray[np.float32] | None = None
    floor: float = 0.0
    subject: Subject | None = field(default=None, repr=False)

    @property
    def predictions(self) -> list[Prediction]:
        """The five most likely classes."""
        return self.answer.top(5)

    @property
    def image(self) -> Image.Image | None:
        """The picture as it was given, upright; None where a ready input is no picture."""
        return None if self.answer.pixels is None else Image.fromarray(self.answer.pixels)

    def heatmap(self, size: Grid | int | None = None, signed: bool = False) -> NDArray[np.float32]:
        """The map as people look at it: rectified, resized (bilinear, half-pixel centres), divided by its maximum.

        A map that is positive everywhere by its nature, as RISE's is, begins at its least value.

        Args:
            size: ``(height, width)``, or one number for a square; the size of the picture if not given.
            signed: keep what speaks against the target, as negative values.

        Returns:
            float32 in 0..1, or -1..1 where `signed`; zeros where nothing speaks for the target (see `notes`).
        """
        sides = self.sides(size)
        return maps.heat(self.raw if signed else self.raw - np.float32(self.floor), sides, signed=signed)

    def sides(self, size: Grid | int | None) -> Grid:
        """The wanted size of a heat map, one number per axis; that of the picture where none is given.

        Raises:
            RequestError: it does not fit the map's axes.
        """
        if size is None:
            size = self.answer.size
        sides = tuple(size) if isinstance(size, list | tuple) else (size,) * self.raw.ndim
        if len(sides) != self.raw.ndim or not all(type(side) is int and side > 0 for side in sides):
            raise RequestError(f"size {size!r} does not fit a map of {self.raw.ndim} axes")
        return sides

    def overlay(
        self, alpha: float = 0.4, cmap: str | None = None, blend: str = "mix", signed: bool = False
    ) -> Image.Image:
        """The heat map laid over the picture, at the picture's size.

        Args:
            alpha: how strong the heat map is, 0..1.
            cmap: a matplotlib colour map; "jet", or "RdBu_r" for signed maps, if not given.
            blend: "mix", or "add" as in the Keras tutorial (sum, then stretched to the full range).
            signed: show what speaks against the target too.
        """
        if self.answer.pixels is None or self.raw.ndim != 2:
            raise RequestError("there is no picture to lay this map over; use heatmap()")
        heat = self.heatmap(signed=signed)
        return render.overlay(self.answer.pixels, heat, alpha=alpha, cmap=cmap, blend=blend, signed=signed)

    def boxes(self, threshold: float = 0.15) -> list[maps.Box]:
        """Boxes around what is hotter than a share of the maximum, in the picture's pixels.

        Each is ``(left, top, right, bottom)``, right and bottom lying outside. The largest region comes first; there
        is no box where the map is empty.
        """
        return maps.boxes(self.heatmap(), threshold)

    def grade(
        self,
        metrics: str | Sequence[str] = QUICK,
        *,
        label: int | str | None = None,
        boxes: Sequence[Sequence[int]] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Grades:
        """What metrics say of this map: the model is asked again, with altered pictures.

        Args:
            metrics: one name or several, with settings where wanted: "deletion?steps=224". `camlucida.metrics` lists
                them.
            label: the class that the picture is of, for metrics that need it: a name or an index.
            boxes: where that is, ``(n, 4)``: left, top, right, bottom in the picture's pixels, the last two outside.
                One that sticks out of the picture is cut.
            mask: where it is, ``(H, W)``.

        Raises:
            CamlucidaError: a metric needs what is not given, or cannot be computed for this map.
        """
        if self.subject is None:
            raise RequestError("this explanation does not know its model any more: explain the picture again")
        return grades([self.subject], settled(metrics), [self._truth(label, boxes, mask)])[0]

    def _truth(self, label: int | str | None, boxes: Any, mask: Any) -> Truth:
        """What a user knows of the image, checked.

        Raises:
            CamlucidaError: there is no such class, a box lies outside the picture, or the mask has another size.
        """
        answer = self.answer
        if mask is not None and (np.shape(mask) != answer.size or not np.any(mask)):
            raise RequestError(f"a mask of {answer.source} is bool {answer.size} with something in it")
        given = () if boxes is None else tuple(maps.Box(*map(int, box)) for box in boxes)
        item, _ = Item(answer.original, answer.source, boxes=given).checked((answer.size[0], answer.size[-1]))
        return Truth(
            index_of(answer.labels, label, answer.model) if isinstance(label, str) else label,
            np.asarray(item.boxes, "int64") if given else None,
            None if mask is None else np.asarray(mask, bool),
        )

    def figure(self, **settings: Any) -> "Figure":
        """The picture and the overlay side by side, as a matplotlib figure; `settings` are those of `overlay`."""
        return render.figure([panels(self, **settings)], **bar(settings))

    def sheet(self, count: int = 16) -> "Figure":
        """The channels or concepts of the layer, the strongest first, each as an overlay; at most `count`.

        Raises:
            RequestError: there are none; the methods "activations" and "dff" have them.
        """
        channels = self._shown_channels()
        strongest = np.argsort(-channels.sum(axis=(0, 1)), kind="stable")[:count]
        each = (replace(self, raw=np.ascontiguousarray(channels[..., k]), channels=None) for k in strongest)
        panels = [render.Panel(one.overlay(), str(k)) for k, one in zip(strongest, each, strict=True)]
        return render.figure([panels[i : i + 4] for i in range(0, len(panels), 4)])

    def concepts(self) -> "Figure":
        """The picture with each place in the colour of the concept that is strongest there, and a legend.

        Raises:
            RequestError: there are none, or more than ten; the method "dff" has a few.
        """
        channels = np.moveaxis(self._shown_channels(), -1, 0)
        if len(channels) > len(render.COLOURS):
            raise RequestError(f"{len(channels)} channels are too many for colours; sheet() shows them")
        assert self.answer.pixels is not None
        large = maps.resize(channels.reshape(len(channels), -1), self.raw.shape, self.answer.size, np)
        picture, legend = render.concepts(self.answer.pixels, large)
        return render.figure([[render.Panel(picture, self.method), *legend]])

    def channel_figures(self) -> "dict[str, Figure]":
        """The figures of `sheet` and of `concepts`, as far as this explanation has them, by these names."""
        if self.channels is None:
            return {}
        few = self.channels.shape[-1] <= len(render.COLOURS)
        return {"sheet": self.sheet()} | ({"concepts": self.concepts()} if few else {})

    def _shown_channels(self) -> NDArray[np.float32]:
        if self.channels is None:
            raise RequestError(f"{self.method} keeps no maps of channels; method='activations' or 'dff' does")
        if self.answer.pixels is None or self.raw.ndim != 2:
            raise RequestError("there is no picture to lay the channels over; use channels")
        return self.channels

    def save(self, path: str | Path, **settings: Any) -> Path:
        """Write the overlay to an image file; `settings` are those of `overlay`."""
        path = Path(path)
        make_folder(path.parent)
        try:
            self.overlay(**settings).save(path)
        except (OSError, ValueError) as error:
            raise RequestError(f"cannot write {str(path)!r}: {error}") from error
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "method": self.method,
            "layer": self.layer,
            "target": {"index": self.target.index, "label": self.target.label},
            "score": self.score,
            "probability": self.probability,
            "grid": list(self.raw.shape),
            "raw": self.raw.tolist(),
            "overlay": None,
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        said = "" if self.probability is None else f" ({self.probability:.3f})"
        caption = escape(f"{self.method}: {self.target.label}{said}, layer {self.layer}")
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<figure>{_html_picture(self)}<figcaption>{caption}<ul>{notes}</ul></figcaption></figure>"

    def __repr__(self) -> str:
        """Say what it is, without the numbers."""
        return f"<Explanation of {self.target.label!r} in {self.answer.source!r}: {self.method} at {self.layer}>"


def panels(item: Explanation, **settings: Any) -> list[render.Panel]:
    """The picture with what the model says of it, and the overlay; `settings` are those of `overlay`."""
    if item.image is None:
        raise RequestError("a figure needs pictures, and these inputs are none; use heatmap()")
    best = item.answer.top(1)
    says = _said(best[0], best[0].label) if best else ""
    target = _said(item, item.target.label)
    return [
        render.Panel(item.image, item.answer.name, says),
        render.Panel(item.overlay(**settings), item.method, f"{target}\n{item.layer}"),
    ]


def bar(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a figure's colour bar that go with those of its overlays."""
    signed = bool(settings.get("signed"))
    return {"cmap": settings.get("cmap") or ("RdBu_r" if signed else "jet"), "signed": signed}


def _said(of: Explanation | Prediction, label: str) -> str:
    return label if of.probability is None else f"{label} {of.probability:.2f}"


def _html_picture(item: Explanation) -> str:
    if item.answer.pixels is None or item.raw.ndim != 2:
        return ""
    buffer = io.BytesIO()
    item.overlay().save(buffer, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="overlay">'
