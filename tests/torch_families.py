"""What torchvision and timm build, written small, with their names; and three networks whose weights the tests have."""

import torch
import torch.nn.functional as F
from torch import nn

from torch_networks import CLASSES, named, settled
from torch_ways import BasicBlock


class TorchvisionNet(nn.Module):
    """`features`, pooling and `classifier`, as most networks of torchvision are."""

    def __init__(self, features, classifier, size=1):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d(size), classifier

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class ResNet(nn.Module):
    """Blocks that use one activation twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8), BasicBlock(8))
        self.layer2 = nn.Sequential(nn.Conv2d(8, 12, 1, 2), BasicBlock(12), BasicBlock(12))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


def vgg():
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
        nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
    )  # fmt: skip
    classifier = nn.Sequential(nn.Linear(12 * 9, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, CLASSES))
    return TorchvisionNet(features, classifier, 3)


def conv_norm(taken, made, size=3, act=nn.Hardswish, **settings):
    conv = nn.Conv2d(taken, made, size, padding=size // 2, bias=False, **settings)
    return nn.Sequential(conv, nn.BatchNorm2d(made), *([act(inplace=True)] if act else []))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, act):
        super().__init__()
        self.avgpool, self.fc1, self.fc2 = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), act()

    def forward(self, x):
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class StochasticDepth(nn.Module):
    """Drops a whole branch, in training; torchvision writes it as a function."""

    def forward(self, x):
        if not self.training:
            return x
        noise = torch.empty(len(x), 1, 1, 1).bernoulli_(0.8)
        return x * noise


class Inverted(nn.Module):
    """The block of MobileNetV3 and EfficientNet."""

    def __init__(self, channels, act, gate, drop):
        super().__init__()
        self.block = nn.Sequential(
            conv_norm(channels, 16, 1, act), conv_norm(16, 16, 3, act, groups=16), SqueezeExcitation(16, gate),
            conv_norm(16, channels, 1, None),
        )  # fmt: skip
        self.stochastic_depth = StochasticDepth() if drop else nn.Identity()

    def forward(self, x):
        result = self.stochastic_depth(self.block(x))
        result += x
        return result


def mobilenet_v3():
    features = nn.Sequential(
        conv_norm(3, 8, stride=2), Inverted(8, nn.Hardswish, nn.Hardsigmoid, False), conv_norm(8, 12, stride=2),
        Inverted(12, nn.ReLU, nn.Hardsigmoid, False), conv_norm(12, 20, 1),
    )  # fmt: skip
    classifier = nn.Sequential(nn.Linear(20, 16), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(16, CLASSES))
    return TorchvisionNet(features, classifier)


def efficientnet():
    features = nn.Sequential(
        conv_norm(3, 8, act=nn.SiLU, stride=2), Inverted(8, nn.SiLU, nn.Sigmoid, True),
        conv_norm(8, 12, act=nn.SiLU, stride=2), Inverted(12, nn.SiLU, nn.Sigmoid, True),
    )  # fmt: skip
    return TorchvisionNet(features, nn.Sequential(nn.Dropout(0.2), nn.Linear(12, CLASSES)))


def efficientnet_v2():
    """Ends in a convolution, normalisation and activation of its own."""
    features = nn.Sequential(*efficientnet().features, conv_norm(12, 20, 1, nn.SiLU))
    return TorchvisionNet(features, nn.Sequential(nn.Dropout(0.2), nn.Linear(20, CLASSES)))


class DenseLayer(nn.Module):
    def __init__(self, taken):
        super().__init__()
        self.norm1, self.relu1, self.conv1 = nn.BatchNorm2d(taken), nn.ReLU(inplace=True), nn.Conv2d(taken, 4, 1)
        self.norm2, self.relu2, self.conv2 = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, features):
        x = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, taken):
        super().__init__({f"denselayer{i}": DenseLayer(taken + 4 * i) for i in range(3)})

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """What it pools is made by a function, in place."""

    def __init__(self):
        super().__init__()
        self.features = named(
            conv0=nn.Conv2d(3, 8, 7, 2, 3), norm0=nn.BatchNorm2d(8), relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, 2, 1), denseblock1=DenseBlock(8), norm5=nn.BatchNorm2d(20),
        )  # fmt: skip
        self.classifier = nn.Linear(20, CLASSES)

    def forward(self, x):
        out = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1))


class Inception(nn.Module):
    def __init__(self, taken):
        super().__init__()
        self.branch1, self.branch2 = conv_norm(taken, 4, 1, nn.ReLU), conv_norm(taken, 5, 3, nn.ReLU)
        self.branch3 = nn.Sequential(conv_norm(taken, 3, 1, nn.ReLU), conv_norm(3, 6, 3, nn.ReLU))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(taken, 3, 1, nn.ReLU))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Auxiliary(nn.Module):
    def __init__(self, taken):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(taken, 3, 1), nn.Linear(3 * 16, CLASSES)

    def forward(self, x):
        return self.fc(torch.flatten(self.conv(F.adaptive_avg_pool2d(x, 4)), 1))


class GoogLeNet(nn.Module):
    """Concatenation at the end, and a second head that only training uses."""

    def __init__(self):
        super().__init__()
        self.conv1, self.maxpool = conv_norm(3, 8, 3, nn.ReLU, stride=2), nn.MaxPool2d(3, 2, 1)
        self.inception4, self.inception5, self.aux = Inception(8), Inception(18), Auxiliary(18)
        self.avgpool, self.dropout, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(), nn.Linear(18, CLASSES)

    def forward(self, x):
        x = self.inception4(self.maxpool(self.conv1(x)))
        aux = self.aux(x) if self.training else None
        x = self.fc(self.dropout(torch.flatten(self.avgpool(self.inception5(x)), 1)))
        return x if aux is None else (x, aux)


class Attention(nn.Module):
    """As timm writes it: one matrix for queries, keys and values; fused, or by matrices."""

    def __init__(self, channels, heads=2, *, fused=True):
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.heads, self.fused = heads, fused

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * (C // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class ViTBlock(nn.Module):
    def __init__(self, channels, **settings):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(channels), Attention(channels, **settings)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 24), nn.GELU(), nn.Linear(24, channels))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, channels, 8, 8), nn.Identity()

    def forward(self, x):
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class VisionTransformer(nn.Module):
    """The one of timm, with a class token or without, registers, and pooling "token" or "avg"."""

    def __init__(self, pool, *, tokens=1, size=(64, 64), **settings):
        super().__init__()
        count = size[0] // 8 * (size[1] // 8)
        self.pool, self.tokens = pool, tokens
        self.patch_embed = PatchEmbed(16)
        self.pos_embed = nn.Parameter(torch.zeros(1, count + tokens, 16))
        self.prefix = nn.Parameter(torch.zeros(1, tokens, 16)) if tokens else None
        self.blocks = nn.Sequential(*[ViTBlock(16, **settings) for _ in range(2)])
        self.norm = nn.LayerNorm(16) if pool == "token" else nn.Identity()
        self.fc_norm = nn.Identity() if pool == "token" else nn.LayerNorm(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.patch_embed(x)
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        x = x[:, 0] if self.pool == "token" else x[:, self.tokens :].mean(dim=1)
        return self.head(self.fc_norm(x))


class TorchTransformer(nn.Module):
    """Torch's own encoder, whose fast path in evaluation is one closed function."""

    def __init__(self):
        super().__init__()
        self.embed = PatchEmbed(16)
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


# By name: the network, the layer that its head reads, the side of a cell, and the tokens that are no patches.
FAMILIES = {
    "ResNet": (ResNet, "layer2.2", 8, 0),
    "VGG": (vgg, "features.5", 2, 0),
    "MobileNetV3": (mobilenet_v3, "features.4.2", 4, 0),
    "EfficientNet": (efficientnet, "features.3", 4, 0),
    "EfficientNetV2": (efficientnet_v2, "features.4.2", 4, 0),
    "DenseNet": (DenseNet, "relu()", 4, 0),
    "GoogLeNet": (GoogLeNet, "inception5", 4, 0),
    "ViT, token": (lambda size: VisionTransformer("token", size=size), "blocks.1.norm1", 8, 1),
    "ViT, token, not fused": (lambda size: VisionTransformer("token", size=size, fused=False), "blocks.1.norm1", 8, 1),
    "ViT, registers": (lambda size: VisionTransformer("token", size=size, tokens=5), "blocks.1.norm1", 8, 5),
    "ViT, average": (lambda size: VisionTransformer("avg", size=size), "blocks.1", 8, 1),
    "ViT, no token": (lambda size: VisionTransformer("avg", size=size, tokens=0), "blocks.1", 8, 0),
    "transformer of torch": (TorchTransformer, "encoder.layers.1.norm2", 8, 0),
}


def family(name, size):
    build, layer, stride, aside = FAMILIES[name]
    return settled(build(size) if name.startswith("ViT") else build()), layer, stride, aside


# Networks whose weights lie with the test data


class Fire(nn.Module):
    def __init__(self, taken, squeeze, expand):
        super().__init__()
        self.squeeze, self.squeeze_activation = nn.Conv2d(taken, squeeze, 1), nn.ReLU(inplace=True)
        self.expand1x1, self.expand1x1_activation = nn.Conv2d(squeeze, expand, 1), nn.ReLU(inplace=True)
        self.expand3x3, self.expand3x3_activation = nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.squeeze_activation(self.squeeze(x))
        one, three = self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))
        return torch.cat([one, three], 1)


class SqueezeNet(nn.Module):
    """torchvision's `squeezenet1_0`: its classifier is a 1x1 convolution before the pooling."""

    def __init__(self):
        super().__init__()
        pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, 2), nn.ReLU(inplace=True), pool(), Fire(96, 16, 64), Fire(128, 16, 64),
            Fire(128, 32, 128), pool(), Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192),
            Fire(384, 64, 256), pool(), Fire(512, 64, 256),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x):
        return torch.flatten(self.classifier(self.features(x)), 1)


class CifarBlock(nn.Module):
    """With the shortcut of option A: every second place, and channels of zeros."""

    def __init__(self, taken, made):
        super().__init__()
        self.conv1 = nn.Conv2d(taken, made, 3, made // taken, 1, bias=False)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.grown = nn.BatchNorm2d(made), nn.BatchNorm2d(made), (made - taken) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grown, self.grown)) if self.grown else x
        return F.relu(out)


class CifarResNet20(nn.Module):
    """The ResNet-20 of He et al. for CIFAR-10."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for i in (1, 2, 3):
            blocks = [CifarBlock(widths[i - 1] if n == 0 else widths[i], widths[i]) for n in range(3)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class LeNet(nn.Module):
    """The one of the tutorial of torch, for CIFAR-10: three dense layers after two convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv2(self.pool(F.relu(self.conv1(x))))))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))))
