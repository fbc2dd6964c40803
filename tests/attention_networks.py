"""Small vision transformers for the tests of attention, each with its forward pass written out by hand.

`blocks_by_hand` runs a torch network with its attention laid open: `offsets` are added to it, so that a gradient with
respect to them is the gradient with respect to the attention. It knows nothing of the package.
"""

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS, HEADS, CLASSES, SIDE, CELL = 8, 2, 4, 12, 4
PATCHES = (SIDE // CELL) ** 2

WAYS = ("fused", "matrices", "folded", "softmax module", "torch", "torch, with weights", "torch, tokens first")
"""How people write attention."""


class Block(nn.Module):
    def __init__(self, way, causal=False, masked=None):
        super().__init__()
        first = way == "torch, tokens first"
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.attn = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=not first)
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 12), nn.GELU(), nn.Linear(12, CHANNELS))
        self.softmax = nn.Softmax(dim=-1)
        self.way, self.causal, self.masked = way, causal, masked

    def attended(self, y):
        if self.way.startswith("torch"):
            return self.attn(y, y, y, need_weights=self.way == "torch, with weights")[0]
        B, T, C = y.shape
        q, k, v = heads_of(self.attn, y)
        if self.way == "fused":
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=self.masked, is_causal=self.causal)
        elif self.way == "folded":
            q, k, v = (x.reshape(B * HEADS, T, -1) for x in (q, k, v))
            P = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * q.shape[-1] ** -0.5, -1)
            found = torch.bmm(P, v).view(B, HEADS, T, -1)
        else:
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            found = (self.softmax(scores) if self.way == "softmax module" else scores.softmax(dim=-1)) @ v
        return self.attn.out_proj(found.transpose(1, 2).reshape(B, T, C))

    def forward(self, x):
        x = x + self.attended(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """With a class token that is read, or the mean of the patches."""

    def __init__(self, way="fused", *, token=True, depth=3, frozen=False, **settings):
        super().__init__()
        self.patch = nn.Conv2d(3, CHANNELS, CELL, CELL)
        self.cls = nn.Parameter(torch.zeros(1, 1, CHANNELS)) if token else None
        self.pos = nn.Parameter(torch.zeros(1, PATCHES + token, CHANNELS))
        self.blocks = nn.ModuleList([Block(way, **settings) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CLASSES)
        self.way, self.frozen = way, frozen

    def embedded(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return (x if self.cls is None else torch.cat([self.cls.expand(len(x), -1, -1), x], 1)) + self.pos

    def ending(self, x):
        x = self.norm(x)
        return self.head(x.mean(1) if self.cls is None else x[:, 0])

    def forward(self, x):
        with torch.no_grad() if self.frozen else torch.enable_grad():
            x = self.embedded(x)
            x = x.transpose(0, 1) if self.way == "torch, tokens first" else x
            for block in self.blocks:
                x = block(x)
            x = x.transpose(0, 1) if self.way == "torch, tokens first" else x
        return self.ending(x)


def heads_of(attn, y):
    """Queries, keys and values ``(B, heads, T, d)``."""
    B, T, C = y.shape
    qkv = F.linear(y, attn.in_proj_weight, attn.in_proj_bias).view(B, T, 3, HEADS, C // HEADS)
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def blocks_by_hand(net, x, offsets, mask=None):
    """Per block its attention and what the model would say if it were the last: `mask` is added before the softmax."""
    x = net.embedded(x)
    found, said = [], []
    for block, offset in zip(net.blocks, offsets, strict=True):
        q, k, v = heads_of(block.attn, block.norm1(x))
        scores = torch.einsum("bhqd,bhtd->bhqt", q, k) / (CHANNELS // HEADS) ** 0.5
        P = torch.exp(scores + mask if mask is not None else scores)
        P = P / P.sum(-1, keepdim=True)
        out = torch.einsum("bhqt,bhtd->bqhd", P + offset, v).flatten(2)
        x = x + block.attn.out_proj(out)
        x = x + block.mlp(block.norm2(x))
        found.append(P.detach().numpy())
        said.append(net.ending(x))
    return found, said


def gradients_by_hand(net, x, c, mask=None):
    """Attention, the gradient of the model's logit and of each block's own, per block ``(B, heads, T, T)``."""
    T = net.pos.shape[1]
    offsets = [torch.zeros(len(x), HEADS, T, T, requires_grad=True) for _ in net.blocks]
    P, said = blocks_by_hand(net, torch.tensor(x), offsets, mask)
    whole = torch.autograd.grad(said[-1][:, c].sum(), offsets, retain_graph=True)
    own = [
        torch.autograd.grad(one[:, c].sum(), offset, retain_graph=True)[0]
        for one, offset in zip(said, offsets, strict=True)
    ]
    return P, [g.numpy() for g in whole], [g.numpy() for g in own]
