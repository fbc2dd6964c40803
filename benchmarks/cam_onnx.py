"""CAM with maps at image size over a plain pass of onnxruntime on the same batch of 8; random weights."""

import numpy as np
import onnxruntime
import torch
from onnx_export import exported
from processes import Row, tell
from timing import over, timed
from torch_modules import ResNet50

import camlucida as cl

BATCH, SIZE, ROUNDS = 8, 224, 11


def rows() -> list[Row]:
    torch.manual_seed(0)
    proto = exported(ResNet50().eval(), SIZE)
    batch = np.random.default_rng(0).normal(size=(BATCH, 3, SIZE, SIZE)).astype("float32")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    explainer = cl.Explainer(
        proto, method="cam", target=cl.targets.each(list(range(BATCH))), preprocess=None, batch_size=BATCH
    )
    contenders = {
        "forward": lambda: session.run(None, {"images": batch}),
        "camlucida": lambda: explainer(batch).heatmaps(),
    }
    return [("ONNX, ResNet-50", "", over(timed(contenders, ROUNDS), "camlucida", "forward"))]


if __name__ == "__main__":
    tell(rows())
