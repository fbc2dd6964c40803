"""Networks of transformers from small configurations with random weights: other people's modules, no download."""

from typing import Any, NamedTuple

import numpy as np
import transformers
from transformers.utils import logging

from torch_networks import settled

logging.set_verbosity_error()

VIT = {
    "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
SWIN = {"patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
LEVIT = {
    "patch_size": 16, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}  # fmt: skip
FOUR = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20]}
PYRAMID = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 2]}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 2]}


class Row(NamedTuple):
    """What is right for a network.

    Args:
        family: the name of the classes in transformers, without their ends.
        layer: what its head reads; of a class token, the input of the last attention, since after it the patches reach
            nothing that is read.
        stride: the side of a cell in the picture.
        settings: of the configuration.
        aside: tokens that are no patches.
        head: the end of the class's name.
        sized: whether the configuration has the picture's size.
        side: the side of the square picture.
        square: whether it takes only square pictures.
    """

    family: str
    layer: str
    stride: int
    settings: dict[str, Any]
    aside: int = 0
    head: str = "ForImageClassification"
    sized: bool = True
    side: int = 64
    square: bool = False


TABLE = {
    "ResNet, basic": Row("ResNet", "resnet.encoder.stages.2.layers.1.activation", 16,
                         RESNET | {"layer_type": "basic"}, sized=False),
    "ResNet, bottleneck": Row("ResNet", "resnet.encoder.stages.2.layers.1.activation", 16, RESNET, sized=False),
    "ConvNeXt": Row("ConvNext", "convnext.encoder.stages.3.layers.0", 32, FOUR, sized=False),
    "ConvNeXtV2": Row("ConvNextV2", "convnextv2.encoder.stages.3.layers.0", 32, FOUR, sized=False),
    "MobileNetV2": Row("MobileNetV2", "mobilenet_v2.conv_1x1.activation", 32, {"depth_multiplier": 0.25}, sized=False),
    "EfficientNet": Row("EfficientNet", "efficientnet.encoder.top_activation", 32,
                        {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}, sized=False),
    "RegNet": Row("RegNet", "regnet.encoder.stages.3.layers.0.activation", 32,
                  {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "groups_width": 4},
                  sized=False),
    "Swin": Row("Swin", "swin.layernorm", 8, SWIN),
    "SwinV2": Row("Swinv2", "swinv2.layernorm", 8, SWIN),
    "ViT": Row("ViT", "vit.layers.1.layernorm_before", 8, VIT, 1),
    "DeiT": Row("DeiT", "deit.layers.1.layernorm_before", 8, VIT, 2),
    "DeiT, two heads": Row("DeiT", "deit.layers.1.layernorm_before", 8, VIT, 2, "ForImageClassificationWithTeacher"),
    "DINOv2, registers": Row("Dinov2WithRegisters", "dinov2_with_registers.layernorm", 8,
                             VIT | {"num_register_tokens": 3, "image_size": 64}, 4, sized=False),
    "BEiT": Row("Beit", "beit.layers.1", 8, VIT, 1),
    "CLIP": Row("CLIP", "vision_model.encoder.layers.1", 8,
                {"vision_config": VIT | {"image_size": 64, "projection_dim": 8}, "text_config": VIT}, 1, sized=False,
                square=True),
    "BEiT, class token": Row("Beit", "beit.layers.1.layernorm_before", 8, VIT | {"use_mean_pooling": False}, 1),
    "PVT": Row("Pvt", "pvt.encoder.block.3.0.layer_norm_1", 32, PYRAMID | {"mlp_ratios": [2, 2, 2, 2]}, 1,
               square=True),
    "SegFormer": Row("Segformer", "segformer.stages.3.layer_norm", 32, PYRAMID, sized=False),
    "LeViT": Row("Levit", "levit.encoder.stages.2.layers.1", 64, LEVIT, side=128, square=True),
    "LeViT, two heads": Row("Levit", "levit.encoder.stages.2.layers.1", 64, LEVIT, 0,
                            "ForImageClassificationWithTeacher", side=128, square=True),
    "MobileViT": Row("MobileViT", "mobilevit.conv_1x1_exp.activation", 32,
                     {"hidden_sizes": [8, 12, 16], "neck_hidden_sizes": [4, 8, 12, 16, 20, 24, 32],
                      "num_attention_heads": 2}),
    "PoolFormer": Row("PoolFormer", "norm", 32, FOUR, sized=False),
    "FocalNet": Row("FocalNet", "focalnet.layernorm", 16,
                    {"embed_dim": 8, "depths": [1, 1, 1], "focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3]}),
}  # fmt: skip


def size(row, wide):
    return (row.side, row.side * 3 // 2) if wide else (row.side, row.side)


def network(row, wide=False):
    """A network for pictures that are square, or half again as wide as high."""
    sides = size(row, wide)
    sized = {"image_size": sides if wide else row.side} if row.sized else {}
    config = getattr(transformers, f"{row.family}Config")(num_labels=4, **sized, **row.settings)
    return settled(getattr(transformers, f"{row.family}{row.head}")(config))


def pictures(row, wide=False, count=2):
    return np.random.default_rng(3).normal(size=(count, 3, *size(row, wide))).astype("float32")
