"""Methods that read a transformer's attention: the formulas, and what torch modules yield for them."""

import numpy as np
import pytest

import camlucida as cl
from camlucida import plan, targets
from camlucida.asks import Attended
from camlucida.engines import engine_for
from camlucida.engines.attention import Attended as Found
from camlucida.engines.attention import Attending, Look, Tokens
from camlucida.errors import ConditionError, RequestError, UnknownNameError
from camlucida.methods import configure
from fake_engine import FakeEngine
from oracles import attention as oracle

torch = pytest.importorskip("torch")
from attention_networks import CLASSES, HEADS, PATCHES, SIDE, WAYS, ViT, gradients_by_hand  # noqa: E402
from torch_networks import settled  # noqa: E402

ALL = ("legrad", "chefer", "rollout")
T, GRID = 7, (2, 3)
PATCH = tuple(range(1, T))


# Formulas


def random_attention(blocks=3, images=2, heads=2, tokens=T, seed=0):
    """Per block attention and a gradient, ``(B, heads, T, T)``."""
    rng = np.random.default_rng(seed)
    P = rng.exponential(size=(blocks, images, heads, tokens, tokens))
    return P / P.sum(axis=-1, keepdims=True), rng.normal(size=P.shape)


def formula(name, P, G, rows=(0,), patches=PATCH, grid=GRID):
    """The map that a method makes where blocks have this attention and these gradients."""
    asking = configure(name)({}, np)
    asked = next(asking)
    blocks = [asked.each(p, None if asked.gradient is None else g, np) for p, g in zip(P, G, strict=True)]
    with pytest.raises(StopIteration) as stop:
        asking.send(Attended(blocks, patches, rows, grid))
    laid = stop.value.value
    assert laid.grid == grid
    return laid.values


@pytest.mark.parametrize(
    ("name", "last"), [("legrad", 3), ("legrad?variant=official", 2), ("legrad?blocks=1", 1), ("legrad?blocks=9", 3)]
)
def test_legrad_is_its_oracle(name, last):
    P, G = random_attention()
    ours = formula(name, P, G)
    for n in range(len(ours)):
        np.testing.assert_allclose(ours[n], oracle.legrad(G[-last:, n], PATCH), rtol=1e-6)


@pytest.mark.parametrize(("rows", "patches"), [((0,), PATCH), ((0, 1), tuple(range(2, T))), (PATCH, PATCH)])
def test_chefer_and_rollout_are_their_oracles(rows, patches):
    P, G = random_attention(seed=1)
    grid = (1, len(patches))
    chefer, rollout = (formula(name, P, G, rows, patches, grid) for name in ("chefer", "rollout"))
    for n in range(len(chefer)):
        np.testing.assert_allclose(chefer[n], oracle.chefer(P[:, n], G[:, n], rows, patches), rtol=1e-6)
        np.testing.assert_allclose(rollout[n], oracle.rollout(P[:, n], rows, patches), rtol=1e-6)


def test_attention_that_stays_with_each_token_is_rolled_out_to_this_token_alone():
    P = np.broadcast_to(np.eye(T), (3, 1, 2, T, T))
    assert formula("rollout", P, P).tolist() == [[0.0] * len(PATCH)]
    np.testing.assert_array_equal(formula("rollout", P, P, rows=(2,)), [[0, 1, 0, 0, 0, 0]])


def test_rolled_out_attention_is_shared_out_among_all_tokens():
    P, G = random_attention(seed=2)
    for row in range(T):
        np.testing.assert_allclose(formula("rollout", P, G, (row,), tuple(range(T)), (1, T)).sum(axis=1), 1, rtol=1e-6)


def test_chefer_with_a_gradient_of_one_is_the_product_of_identity_and_attention():
    P, _ = random_attention(heads=1, seed=3)
    ours = formula("chefer", P, np.ones_like(P))
    for n in range(2):
        R = (np.eye(T) + P[2, n, 0]) @ (np.eye(T) + P[1, n, 0]) @ (np.eye(T) + P[0, n, 0])
        np.testing.assert_allclose(ours[n], R[0, 1:], rtol=1e-6)


def test_what_speaks_against_the_target_counts_nothing():
    P, G = random_attention(seed=4)
    assert not formula("legrad", P, -np.abs(G)).any()
    assert not formula("chefer", P, -np.abs(G)).any()


@pytest.mark.parametrize("blocks", [0, -1, 1.5, "two"])
def test_a_number_of_blocks_that_makes_no_sense_is_refused(blocks):
    with pytest.raises(RequestError, match="of legrad is not a whole number above 0"):
        next(configure("legrad", options={"blocks": blocks})({}, np))


# One request for all


class Attentive(FakeEngine):
    """An engine that makes up attention."""

    def __init__(self):
        super().__init__()
        self.attending = []

    def attention(self, inputs, attending):
        self.attending.append(attending)
        made = []
        for look in attending.looks:
            P, G = random_attention(images=len(inputs), tokens=12, seed=look.target)
            made.append([look.each(p, g if look.gradient else None, np) for p, g in zip(P, G, strict=True)])
        return Found(made, Tokens(tuple(range(12)), tuple(range(12)), (4, 3)))


def test_the_engine_is_asked_once_for_all_methods_and_targets():
    engine, x = Attentive(), np.random.default_rng(0).uniform(size=(3, 4, 3, 2))
    wanted = tuple(target.bind(int, 4) for target in (targets.class_(1), targets.top(1)))
    order = plan.Order(dict.fromkeys(map(configure, ALL), ("",)), wanted)
    _, maps = plan.run(engine, x, order)
    (attending,) = engine.attending
    assert len(attending.looks) == 5  # rollout knows no target
    assert sorted(look.gradient or "none" for look in attending.looks) == ["blocks"] * 2 + ["none"] + ["score"] * 2
    assert all(laid.grid == (4, 3) and laid.values.shape == (3, 12) for laid in maps.values())
    assert not np.array_equal(*(maps["", t, configure("chefer")].values for t in (0, 1)))
    np.testing.assert_array_equal(*(maps["", t, configure("rollout")].values for t in (0, 1)))


# Torch modules


def network(way="fused", **settings):
    return settled(ViT(way, **settings))


def pictures(count=3, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype("float32")


def as_it_is(P, G, xp):
    return P if G is None else G


def seen(model, x, gradients=("score",), classes=(1,)):
    """What an engine makes of the attention: per class and kind of gradient, the blocks' ``(B, heads, T, T)``."""
    looks = tuple(Look(t, gradient, as_it_is) for t in range(len(classes)) for gradient in gradients)
    chosen = tuple(np.full((len(x), 1), c, "int32") for c in classes)
    wanted = tuple(map(targets.class_, classes))
    return engine_for(model).attention(x, Attending(looks, wanted, ("logit",) * len(classes), chosen))


def maps(model, x, method=ALL, target=(1,), **settings):
    """Raw maps ``(B, targets, methods, U)``."""
    found = cl.explain(model, x, method=list(method), target=list(target), preprocess=None, **settings)
    return np.stack([one.raw.ravel() for one in found]).reshape(len(x), len(target), len(method), -1)


def close(ours, theirs, tolerance=1e-4):
    """Equal up to a share of the largest value, and not both nothing."""
    scale = np.abs(theirs).max()
    assert scale > 1e-5
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def by_hand(net, x, c, mask=None):
    """The three maps of each image, by the oracles: ``(B, 3, U)``."""
    P, whole, own = gradients_by_hand(net, x, c, mask)
    patches = range(P[0].shape[-1] - PATCHES, P[0].shape[-1])
    rows = [0] if net.cls is not None else list(patches)
    return np.array([
        [
            oracle.legrad([g[n] for g in own], patches),
            oracle.chefer([p[n] for p in P], [g[n] for g in whole], rows, patches),
            oracle.rollout([p[n] for p in P], rows, patches),
        ]
        for n in range(len(x))
    ])  # fmt: skip


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_maps_are_those_by_hand_however_attention_is_written(way, token):
    net, x = network(way, token=token), pictures()
    close(maps(net, x)[:, 0], by_hand(net, x, 1))


@pytest.mark.parametrize("token", [True, False])
def test_attention_and_gradients_are_those_by_hand(token):
    net, x = network(token=token), pictures()
    P, whole, own = gradients_by_hand(net, x, 2)
    found = seen(net, x, (None, "score", "blocks"), (2,)).looks
    for ours, theirs in zip(found, (P, whole, own), strict=True):
        assert len(ours) == 3
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == (3, HEADS, PATCHES + token, PATCHES + token)
            close(one, other)


def test_rows_of_attention_sum_to_one():
    for P in seen(network(), pictures(), (None,)).looks[0]:
        np.testing.assert_allclose(P.sum(axis=-1), 1, rtol=1e-5)


def test_legrad_of_the_last_block_is_the_gradient_of_the_models_own_score():
    net, x = network(), pictures()
    G = seen(net, x).looks[0][-1]
    close(maps(net, x, ["legrad?blocks=1"])[:, 0, 0], np.maximum(G, 0).mean(axis=(1, 2))[:, 1:])


@pytest.mark.parametrize("kind", ["causal", "hidden", "added"])
def test_masks_are_part_of_the_attention(kind):
    count = PATCHES + 1
    allowed = torch.tensor(np.tri(count) > 0) if kind == "causal" else torch.rand(count, count) > 0.3
    allowed |= torch.eye(count, dtype=torch.bool)
    added = torch.zeros(count, count).masked_fill(~allowed, -torch.inf)
    if kind == "added":
        added = torch.linspace(-2, 2, count * count).view(count, count)
    net = network(causal=kind == "causal", masked={"hidden": allowed, "added": added}.get(kind))
    if kind == "causal":
        net.ending = lambda x: net.head(net.norm(x)[:, -1])
    P, whole, _ = gradients_by_hand(net, pictures(), 0, added)
    found = seen(net, pictures(), (None, "score"), (0,)).looks
    for ours, theirs in zip(found, (P, whole), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)


class OneBlock(torch.nn.Module):
    """A single attention of one head without anything around it: the score is the mean of the values it takes."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = torch.nn.Conv2d(3, 5, 4, 4), torch.nn.Linear(5, CLASSES)

    def forward(self, x):
        v = self.patch(x).flatten(2).transpose(1, 2)[:, None]
        return self.head(torch.nn.functional.scaled_dot_product_attention(v, v, v)[:, 0].mean(1))


def test_legrad_of_one_linear_block_is_what_each_token_is_worth():
    net, x = settled(OneBlock()), pictures()
    with torch.no_grad():
        V = net.patch(torch.tensor(x)).flatten(2).transpose(1, 2)
        worth = (V @ net.head.weight[3]).numpy() / PATCHES
    close(maps(net, x, ["legrad"], [3])[:, 0, 0], np.maximum(worth, 0))


def test_maps_are_of_their_class_but_for_rollouts():
    found = maps(network(), pictures(), target=(0, 3))
    for place, name in enumerate(ALL):
        alike = np.corrcoef(found[:, 0, place].ravel(), found[:, 1, place].ravel())[0, 1]
        assert (alike == pytest.approx(1)) == (name == "rollout")


def test_images_do_not_know_of_each_other():
    net, x = network(), pictures()
    close(maps(net, x), np.concatenate([maps(net, x[n : n + 1]) for n in range(len(x))]))
    close(maps(net, x), maps(net, x, batch_size=2))


def test_the_probability_can_be_explained():
    net, x = network(), pictures()
    assert not np.allclose(maps(net, x, ["chefer"]), maps(net, x, ["chefer"], score="probability"))


def state(model):
    """Everything of a module, and of torch in this thread, that a call could change."""
    return {
        "values": [v.numpy().tobytes() for v in model.state_dict().values()],
        "parameters": [(id(p), p._version, p.requires_grad, p.grad) for p in model.parameters()],
        "modules": [(id(m), m.training, sorted(vars(m)), len(m._forward_hooks)) for m in model.modules()],
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "words": (id(torch.nn.functional.scaled_dot_product_attention), id(torch.nn.functional.softmax)),
    }


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_what_it_was(way):
    net = network(way).train()
    before = state(net)
    maps(net, pictures())
    assert state(net) == before


def test_the_model_is_what_it_was_after_a_failure():
    net = network()
    before = state(net)
    chosen = (np.zeros((3, 1), "int32"),)
    for gradient in (None, "score", "blocks"):
        with pytest.raises(UnknownNameError):
            engine_for(net).attention(
                pictures(), Attending((Look(0, gradient, _stop),), (targets.class_(0),), ("logit",), chosen)
            )
        assert state(net) == before


def _stop(P, G, xp):
    raise UnknownNameError("thing", "none", [])


@pytest.mark.parametrize("what", ["frozen", "no_grad", "inference", "half", "compiled fast path"])
def test_it_works_whatever_the_model_says_of_gradients(what):
    x = pictures()
    net = network("torch" if what == "compiled fast path" else "fused", frozen=what == "no_grad")
    wanted = by_hand(network(), x, 1)
    if what in ("frozen", "compiled fast path"):
        net.requires_grad_(False)
    with torch.inference_mode(what == "inference"):
        ours = maps(net.bfloat16() if what == "half" else net, x)[:, 0]
    close(ours, wanted, 0.2 if what == "half" else 1e-4)


class Mixer(torch.nn.Module):
    """Attention among channels, of which there are as many as could be a grid."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = torch.nn.Conv2d(3, 16, 4, 4), torch.nn.Linear(16, CLASSES)

    def forward(self, x):
        v = self.patch(x).flatten(2)
        return self.head((torch.softmax(v @ v.transpose(1, 2), -1) @ v).mean(-1))


def convolutions():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, CLASSES)
    )


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("build", [convolutions, Mixer])
def test_networks_that_do_not_attend_to_tokens_are_told_so(build, method):
    with pytest.raises(ConditionError, match=r"no attention over the image's tokens was met .* vision transformers"):
        maps(settled(build()), pictures(), [method])


def test_functions_are_told_so():
    with pytest.raises(ConditionError, match="legrad needs the attention of the model's blocks"):
        cl.explain(lambda x: x.mean(axis=(1, 2)), pictures().transpose(0, 2, 3, 1), method="legrad", preprocess=None)


class Knotted(ViT):
    """Each block also takes what came before the one before it, so that none of them ends the model."""

    def forward(self, x):
        before = x = self.embedded(x)
        for block in self.blocks:
            before, x = x, block(x) + before
        return self.ending(x)


def test_where_blocks_cannot_be_told_apart_legrad_alone_is_refused():
    net, x = settled(Knotted("fused")), pictures()
    assert maps(net, x, ["chefer", "rollout"]).any()
    with pytest.raises(ConditionError, match=r"legrad lets the model end with each of its 3 blocks.*chefer works"):
        maps(net, x, ["legrad"])


class Counted(ViT):
    """Its ending takes as many images as went in."""

    def forward(self, x):
        count = len(x)
        x = self.embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.ending(x.view(count, PATCHES + 1, -1))


def test_where_the_ending_takes_no_more_images_legrad_alone_is_refused():
    net, x = settled(Counted("fused")), pictures()
    assert maps(net, x, ["chefer", "rollout"]).any()
    with pytest.raises(ConditionError, match="legrad lets the model end with each of its 3 blocks"):
        maps(net, x, ["legrad"])


# Other people's


def hugging_face(name, wide=False, **settings):
    pytest.importorskip("transformers")
    import hugging_face_networks as theirs

    row = theirs.TABLE[name]
    row = row._replace(settings=row.settings | settings)
    return theirs.network(row, wide), theirs.pictures(row, wide)


def test_gradients_are_those_of_transformers_own_attention():
    net, x = hugging_face("ViT", attn_implementation="eager", output_attentions=True, output_hidden_states=True)
    with torch.enable_grad():
        answer = net(torch.tensor(x))
        whole = torch.autograd.grad(answer.logits[:, 1].sum(), answer.attentions, retain_graph=True)
        own = [
            torch.autograd.grad(net.classifier(net.vit.layernorm(T)[:, 0])[:, 1].sum(), P, retain_graph=True)[0]
            for T, P in zip(answer.hidden_states[1:], answer.attentions, strict=True)
        ]
    fused, _ = hugging_face("ViT")
    for model in (net, fused):
        found = seen(model, x, (None, "score", "blocks"))
        assert found.tokens == Tokens(tuple(range(1, 65)), (0,), (8, 8))
        for ours, theirs in zip(found.looks, (answer.attentions, whole, own), strict=True):
            for one, other in zip(ours, theirs, strict=True):
                close(one, other.detach().numpy())


@pytest.mark.parametrize(
    ("name", "aside", "rows"),
    [
        ("DeiT", 2, [0]),
        ("DeiT, two heads", 2, [0, 1]),
        ("DINOv2, registers", 4, [0]),
        ("BEiT", 1, range(1, 65)),
        ("CLIP", 1, range(1, 65)),
    ],
)
def test_the_tokens_of_other_peoples_networks(name, aside, rows):
    net, x = hugging_face(name)
    tokens = seen(net, x[:1], (None,)).tokens
    count = 64 + aside
    assert tokens == Tokens(tuple(range(aside, count)), tuple(rows), (8, 8))
    assert np.isfinite(maps(net, x)).all()


def test_pictures_that_are_wide_have_wide_maps():
    net, x = hugging_face("DeiT", wide=True)
    assert [one.raw.shape for one in cl.explain(net, x[:1], method=list(ALL), preprocess=None)] == [(8, 12)] * 3


@pytest.mark.parametrize(
    ("name", "why"),
    [("Swin", "within windows of 16"), ("MobileViT", "within windows"), ("PVT", "of 256 tokens to 4 others")],
)
def test_attention_that_is_not_among_all_tokens_is_named(name, why):
    net, x = hugging_face(name)
    before = state(net)
    for method in ALL:
        with pytest.raises(ConditionError, match=why):
            maps(net, x, [method])
    assert state(net) == before
