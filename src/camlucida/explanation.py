"""Results: what an explanation holds and how it is shown, saved and written down."""

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida import maps, render
from camlucida.errors import RequestError, UnknownNameError
from camlucida.types import Grid, Prediction
from camlucida.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What an explanation explains.

    Args:
        index: the class; None where the target is no single class.
        label: its name, or its index as text where the model has no labels.
    """

    index: int | None
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model said of one image, shared by that image's explanations.

    Args:
        position: the number of the image in its request, from 0.
        name: what files are called after.
        source: the path, or "image 0".
        pixels: ``(H, W, 3)`` uint8, the picture as it was given; None where a ready input is no picture.
        size: the size that heat maps have.
        model, backend: what was asked.
        outputs: ``(C,)`` the scores of the classes.
        probabilities: ``(C,)``; None where the model yields none.
        labels: names of the classes.
    """

    position: int
    name: str
    source: str
    pixels: NDArray[np.uint8] | None
    size: Grid
    model: str
    backend: str
    outputs: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None
    labels: Sequence[str] | None

    def label(self, index: int) -> str:
        """The name of a class."""
        return self.labels[index] if self.labels is not None else str(index)

    def top(self, count: int = 5) -> list[Prediction]:
        """The most likely classes first; none where the output is no list of classes."""
        if self.outputs.ndim != 1:
            return []
        order = np.argsort(-self.outputs, kind="stable")[:count]
        p = self.probabilities
        return [Prediction(int(i), self.label(int(i)), None if p is None else float(p[i])) for i in order]


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
    """

    raw: NDArray[np.float32]
    method: str
    layer: str
    target: TargetInfo
    score: float
    probability: float | None
    answer: Answer
    notes: tuple[str, ...]

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

        Args:
            size: ``(height, width)``, or one number for a square; the size of the picture if not given.
            signed: keep what speaks against the target, as negative values.

        Returns:
            float32 in 0..1, or -1..1 where `signed`; zeros where nothing speaks for the target (see `notes`).
        """
        if size is None:
            size = self.answer.size
        sides = (size,) * self.raw.ndim if isinstance(size, int) else tuple(size)
        if len(sides) != self.raw.ndim or min(sides) < 1:
            raise RequestError(f"size {size!r} does not fit a map of {self.raw.ndim} axes")
        return maps.heat(self.raw, sides, signed=signed)

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

    def figure(self, **settings: Any) -> "Figure":
        """The picture and the overlay side by side, as a matplotlib figure; `settings` are those of `overlay`."""
        return Explanations([self]).figure(**settings)

    def save(self, path: str | Path, **settings: Any) -> Path:
        """Write the overlay to an image file; `settings` are those of `overlay`."""
        path = Path(path)
        _make_folder(path.parent)
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


@dataclass(frozen=True, slots=True, eq=False)
class Explanations(Sequence[Explanation]):
    """Explanations in order: image by image, then target, then method, then layer."""

    items: list[Explanation] = field(default_factory=list)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> "Explanations": ...
    def __getitem__(self, index: int | slice) -> "Explanation | Explanations":
        """One of them, or some of them for a slice."""
        return Explanations(self.items[index]) if isinstance(index, slice) else self.items[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.items)

    def __iter__(self) -> Iterator[Explanation]:
        """Each in turn."""
        return iter(self.items)

    @property
    def raw(self) -> NDArray[np.float32]:
        """All raw maps, ``(N, *grid)``, where their grids agree."""
        grids = {item.raw.shape for item in self.items}
        if len(grids) != 1:
            raise RequestError(f"the maps have different grids, {sorted(grids)}: select one layer first")
        return np.stack([item.raw for item in self.items])

    def select(
        self,
        *,
        image: int | str | None = None,
        method: str | None = None,
        target: int | str | None = None,
        layer: str | None = None,
    ) -> "Explanations":
        """Those of one image (number or name), method, target (index or label) or layer.

        Raises:
            UnknownNameError: none of them is of that image, method, target or layer.
        """
        wanted = {"image": image, "method": method, "target": target, "layer": layer}
        chosen = self.items
        for kind, value in wanted.items():
            if value is not None:
                known = [name for item in self.items for name in _names(item, kind)]
                if value not in known:
                    raise UnknownNameError(kind, str(value), dict.fromkeys(map(str, known)))
                chosen = [item for item in chosen if value in _names(item, kind)]
        return Explanations(chosen)

    def figure(self, **settings: Any) -> "Figure":
        """The pictures with their overlays: a row per image and target, a panel per method and layer.

        `settings` are those of `Explanation.overlay`.
        """
        rows: dict[tuple[int, str], list[render.Panel]] = {}
        for item in self.items:
            key = (item.answer.position, item.target.label)
            if key not in rows:
                rows[key] = [render.Panel(_shown(item), item.answer.name, _prediction_line(item.answer))]
            said = item.target.label + ("" if item.probability is None else f" {item.probability:.2f}")
            rows[key].append(render.Panel(item.overlay(**settings), item.method, f"{said}\n{item.layer}"))
        signed = bool(settings.get("signed"))
        return render.figure(
            list(rows.values()), cmap=settings.get("cmap") or ("RdBu_r" if signed else "jet"), signed=signed
        )

    def save(self, folder: str | Path, top: int = 5, **settings: Any) -> dict[str, Any]:
        """Write ``STEM.METHOD.TARGET.png`` and ``.npy`` of each, and ``explanations.json``, into a folder.

        Where there are several layers, the layer follows the target in the name. `top` is the number of predictions in
        the document, `settings` are those of `overlay`.

        Returns:
            The document that ``explanations.json`` holds, as from `to_dict`, with the paths of the overlays.
        """
        folder = _make_folder(Path(folder))
        document = self.to_dict(top)
        written = [entry for image in document["images"] for entry in image["explanations"]]
        try:
            for item, entry, stem in zip(self._by_image(), written, self.stems(), strict=True):
                np.save(folder / f"{stem}.npy", item.raw, allow_pickle=False)
                if item.answer.pixels is not None and item.raw.ndim == 2:
                    entry["overlay"] = str(item.save(folder / f"{stem}.png", **settings))
            text = json.dumps(document, indent=2)
            (folder / "explanations.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise RequestError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from error
        return document

    def stems(self) -> list[str]:
        """File names without ending, image by image, all different."""
        several = len({item.layer for item in self.items}) > 1
        stems: list[str] = []
        for item in self._by_image():
            parts = [item.method, item.target.label] + ([item.layer] if several else [])
            stem = name = ".".join([item.answer.name, *(re.sub(r"[^\w+-]+", "-", part).strip("-") for part in parts)])
            number = 2
            while stem in stems:
                stem, number = f"{name}-{number}", number + 1
            stems.append(stem)
        return stems

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """Plain values, ready for JSON: by image, with `top` predictions each."""
        images: dict[int, dict[str, Any]] = {}
        for item in self._by_image():
            answer = item.answer
            said = [{"index": p.index, "label": p.label, "probability": p.probability} for p in answer.top(top)]
            head = {"image": answer.source, "model": answer.model, "backend": answer.backend, "predictions": said}
            images.setdefault(answer.position, {**head, "explanations": []})["explanations"].append(item.to_dict())
        return {"version": __version__, "images": list(images.values())}

    def _by_image(self) -> list[Explanation]:
        return sorted(self.items, key=lambda item: item.answer.position)

    def _repr_html_(self) -> str:
        return "".join(item._repr_html_() for item in self.items)

    def __repr__(self) -> str:
        """Say what they are."""
        images = len({item.answer.position for item in self.items})
        return f"<Explanations: {len(self)} of {images} images>"


def _names(item: Explanation, kind: str) -> tuple[int | str | None, ...]:
    return {
        "image": (item.answer.position, item.answer.name, item.answer.source),
        "method": (item.method,),
        "target": (item.target.index, item.target.label),
        "layer": (item.layer,),
    }[kind]


def _shown(item: Explanation) -> Image.Image:
    if item.image is None:
        raise RequestError("a figure needs pictures, and these inputs are none; use heatmap()")
    return item.image


def _prediction_line(answer: Answer) -> str:
    best = answer.top(1)
    return best[0].label + ("" if best[0].probability is None else f" {best[0].probability:.2f}") if best else ""


def _html_picture(item: Explanation) -> str:
    if item.answer.pixels is None or item.raw.ndim != 2:
        return ""
    buffer = io.BytesIO()
    item.overlay().save(buffer, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="overlay">'


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}") from error
    return folder
