"""Several results: selecting, showing and writing them."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from camlucida import maps, render
from camlucida.errors import RequestError, UnknownNameError
from camlucida.explanation import Explanation, bar, panels
from camlucida.types import Grid
from camlucida.version import __version__
from camlucida.writing import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def heatmaps(self, size: Grid | int | None = None, signed: bool = False) -> NDArray[np.float32]:
        """All heat maps at once, ``(N, *size)``, as `Explanation.heatmap` makes each; quicker than one by one.

        Args:
            size: as there; the size of the pictures if not given, which must then agree.
            signed: keep what speaks against the target, as negative values.
        """
        sizes = {item.sides(size) for item in self.items}
        if len(sizes) != 1:
            raise RequestError(f"the pictures have different sizes, {sorted(sizes)}: give one size for all heat maps")
        return maps.heats(self.raw if signed else self.raw - self._floors, sizes.pop(), signed=signed)

    @property
    def _floors(self) -> NDArray[np.float32]:
        floors = np.array([item.floor for item in self.items], "float32")
        return floors.reshape(-1, *[1] * self.items[0].raw.ndim)

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
            picture, map_ = panels(item, **settings)
            rows.setdefault((item.answer.position, item.target.label), [picture]).append(map_)
        return render.figure(list(rows.values()), **bar(settings))

    def save(self, folder: str | Path, top: int = 5, **settings: Any) -> dict[str, Any]:
        """Write ``STEM.METHOD.TARGET.png`` and ``.npy`` of each, and ``explanations.json``, into a folder.

        Of methods that keep maps of channels, ``STEM.METHOD.TARGET.sheet.png`` shows these, and, where they are few,
        ``STEM.METHOD.TARGET.concepts.png`` shows them in colours. Where there are several layers, the layer follows the
        target in the name. `top` is the number of predictions in the document, `settings` are those of `overlay`.

        Returns:
            The document that ``explanations.json`` holds, as from `to_dict`, with the paths of the overlays.
        """
        folder = make_folder(Path(folder))
        document = self.to_dict(top)
        written = [entry for image in document["images"] for entry in image["explanations"]]
        try:
            for item, entry, stem in zip(self._by_image(), written, self.stems(), strict=True):
                np.save(folder / f"{stem}.npy", item.raw, allow_pickle=False)
                if item.answer.pixels is not None and item.raw.ndim == 2:
                    entry["overlay"] = str(item.save(folder / f"{stem}.png", **settings))
                    for kind, figure in item.channel_figures().items():
                        figure.savefig(folder / f"{stem}.{kind}.png")
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
