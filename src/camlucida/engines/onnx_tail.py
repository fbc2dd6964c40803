"""What follows a tensor of an ONNX graph, as a network of its own that scores altered activations.

The node that makes the tensor is left away, and with it all that leads there. What is needed of the image beside it (a
shortcut, an earlier tensor that is joined) is made once by the whole network, and handed to the tail as often as there
are altered activations. So the trunk runs on one image, however the tail goes on.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from camlucida.engines.onnx_dry_run import DryRun
from camlucida.engines.onnx_model import OnnxModel
from camlucida.engines.studied import unreached
from camlucida.errors import RequestError


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """What follows a tensor.

    Args:
        network: it takes that tensor, and the others.
        path: the layer that makes the tensor.
        tensor: its name.
        axis: where its channels are.
        shape: its own, without the axis of the images.
        others: what is needed of the image beside it.
    """

    network: OnnxModel
    path: str
    tensor: str
    axis: int
    shape: tuple[int, ...]
    others: tuple[str, ...]

    def answers(self, model: OnnxModel, image: Any, activations: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The values of the tensors that it was cut for, for altered activations ``(M, U, K)`` and one image.

        Raises:
            RequestError: the activations are of another shape than the layer's, or the answer has not a row for each.
        """
        feeds = {self.tensor: self._laid_out(activations)}
        if self.others:
            own = model.feeds({name: x[:1] for name, x in model.named(image).items()})
            made = [tensor for tensor in self.others if tensor not in own]
            own |= dict(zip(made, model.run(made, own), strict=True)) if made else {}
            feeds |= {tensor: np.repeat(own[tensor][:1], len(activations), axis=0) for tensor in self.others}
        answers = self.network.run((), self.network.feeds(feeds))  # all of its outputs
        for answer in answers:
            if answer.shape[:1] != (len(activations),):
                raise RequestError(
                    f"the model answers {len(activations)} altered activations of layer {self.path!r} with an array of "
                    f"shape {answer.shape}; it must give one row of scores for each, (M, ...)"
                )
        return answers

    def _laid_out(self, activations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Activations ``(M, U, K)`` as the tensor has them: the way back from `onnx_dry_run.flat`."""
        shape = (1, *self.shape)
        channels = shape[self.axis]
        places = [n for axis, n in enumerate(shape) if axis not in (0, self.axis % len(shape))]
        wanted = int(np.prod(places)), channels
        if activations.shape[1:] != wanted:
            raise RequestError(
                f"altered activations of layer {self.path!r} must be (M, {wanted[0]}, {wanted[1]}), not "
                f"{activations.shape}"
            )
        return np.moveaxis(activations.reshape(-1, *places, channels), -1, self.axis)


def cut(model: OnnxModel, image: Any, run: DryRun, path: str, tensor: str, outputs: Sequence[str]) -> Tail:
    """The tail behind a tensor, up to some later ones.

    Args:
        image: the inputs of the dry run.
        run: it tells the shapes and types of the tensors.
        path: the layer that makes the tensor.

    Raises:
        ConditionError: what is explained does not depend on the tensor.
    """
    nodes = list(model.proto.graph.node)
    after = _after(nodes, tensor)
    if after.isdisjoint(outputs):
        raise unreached(path)
    images = [one.name for one in model.inputs]
    before = {str(made) for call in run.flow.calls for made in call.outputs} - after
    needed, ends = _way(nodes, outputs, {tensor, *before, *images})
    if ends - {tensor, *images}:
        rows = _by_image(model, image, run, sorted(ends - {tensor}))
        needed, ends = _way(nodes, outputs, {tensor, *rows, *images})
    others = tuple(sorted(ends - {tensor}))
    network = OnnxModel(_proto(model, needed, run, [tensor, *others], outputs), model.name)
    value = run.values[tensor]
    return Tail(network, path, tensor, run.axes[tensor], value.shape[1:], others)


def _after(nodes: Sequence[Any], tensor: str) -> set[str]:
    """A tensor and all that are made from it."""
    found = {tensor}
    for node in nodes:
        if not found.isdisjoint(_taken(node)):
            found.update(made for made in node.output if made)
    return found


def _way(nodes: Sequence[Any], outputs: Sequence[str], ends: Collection[str]) -> tuple[list[Any], set[str]]:
    """The nodes that lead to some tensors, in order, and at which of the ends the way back stopped."""
    wanted, met, needed = set(outputs), set(outputs) & set(ends), []
    for node in reversed(nodes):
        if not (wanted - met).isdisjoint(node.output):
            needed.append(node)
            wanted.update(_taken(node))
            met |= wanted & set(ends)
    return needed[::-1], met


def _taken(node: Any) -> Iterator[str]:
    """What a node takes, with what the graphs inside it take from around them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            for inner in graph.node:
                yield from _taken(inner)
            yield from (value.name for value in graph.output)


def _by_image(model: OnnxModel, image: Any, run: DryRun, tensors: Sequence[str]) -> list[str]:
    """Those of some tensors that have one row for each image, told by a run on another number of images."""
    count = model.batch or 2
    feeds = model.feeds({name: np.repeat(x[:1], count, axis=0) for name, x in model.named(image).items()})
    made = [tensor for tensor in tensors if tensor not in feeds]
    several = zip(made, model.run(made, feeds, keep=False), strict=True)
    one = model.batch or 1
    rest = {tensor: run.values[tensor].shape[1:] for tensor in made if run.values[tensor].shape[:1] == (one,)}
    return [tensor for tensor, x in several if tensor in rest and x.shape == (count, *rest[tensor])]


def _proto(model: OnnxModel, nodes: Sequence[Any], run: DryRun, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """A network of some nodes."""
    graph = model.proto.graph
    taken = {name for node in nodes for name in _taken(node)}
    weights = [weight for weight in graph.initializer if weight.name in taken]
    sparse = [weight for weight in graph.sparse_initializer if weight.values.name in taken]
    alone = helper.make_graph(
        [_without(node, inputs) for node in nodes],
        graph.name or "tail",
        [_declared(name, run.values[name], model.batch) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        weights,
        sparse_initializer=sparse,
    )
    own = {"opset_imports": model.proto.opset_import, "functions": model.proto.functions}
    return helper.make_model(alone, ir_version=model.proto.ir_version, **own)


def _without(node: Any, tensors: Collection[str]) -> Any:
    """A node that makes none of these tensors, which come from outside; what it makes is called otherwise."""
    if set(tensors).isdisjoint(node.output):
        return node
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.output[:] = [f"{name}/set aside" if name in tensors else name for name in node.output]
    return renamed


def _declared(name: str, value: NDArray[Any], batch: int | None) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [batch, *value.shape[1:]])
