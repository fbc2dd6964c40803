"""What other libraries say of the same network, pictures and maps, as they say it.

    python beside_others.py LIBRARY GIVEN.npz

is run in an environment in which they are installed, and this package need not be. It prints JSON: by the library's own
names, the figures of every picture; null where the library is not there. Given are, for N pictures:

    x        the pictures as they go into the network, (N, H, W, 3), without a value that is 0
    c        the classes that are explained, (N,)
    L        heat maps in 0..1, (N, H, W), float32, in which no two pixels are alike
    phi      signed values of the pixels, (N, H, W, 3)
    blurred  what insertion begins with, (N, H, W, 3)
    mask     where the object is, (N, H, W)
    missing  pixels to be filled in, (M, H, W), in the first picture
    squares  each picture without one of some squares, which are 0, (N, S, H, W, 3)
    noise    noise in the place of each picture, (N, S, H, W, 3)
    near     each picture with a little noise added, (N, S, H, W, 3)
"""

import contextlib
import importlib.util
import itertools
import json
import sys
from unittest import mock

import numpy as np
import torch
from torch import nn

CLASSES = 4
STEPS = 21
"""How often pixels are removed or inserted."""


def network():
    """A small network. Its grid is a third of the picture's size, so that maps keep their maximum when resized."""
    rng = np.random.default_rng(27)
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(3, 8, 3, padding=1))
    model.add_module("smooth", nn.Softplus())
    model.add_module("pool", nn.AvgPool2d(3))
    model.add_module("last", nn.Conv2d(8, 6, 3, padding=1))
    model.add_module("relu", nn.ReLU())
    model.add_module("mean", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(6, CLASSES))
    for values in model.parameters():
        values.data = torch.from_numpy(rng.normal(size=values.shape, scale=0.4).astype("float32"))
    return model.eval()


def tensor(x):
    """Pictures ``(..., H, W, 3)`` as torch wants them."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x, "float32"), -1, -3)))


def gradient(x, c):
    """The gradient of a class's logit, summed over colours: a method whose maps change with the picture, ``(N, H, W)``.

    Args:
        x: ``(N, 3, H, W)``.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (G,) = torch.autograd.grad(network()(x)[:, c].sum(), x)
    return G.sum(dim=1)


def of_torchcam(x, c, L, blurred):
    from torchcam.methods import GradCAM
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

    class Given:
        """An extractor whose map is known."""

        model = network()

        def __call__(self, class_idx, scores):
            return [torch.from_numpy(L)[None]]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return contextlib.nullcontext()

    def said(metric):
        metric.update(tensor(x)[None], int(c))
        return metric.summary()

    softmax = nn.Softmax(dim=-1)
    from_zeros = DeletionInsertionMetric(Given(), softmax, steps=STEPS)
    from_blurred = DeletionInsertionMetric(Given(), softmax, steps=STEPS, baseline=tensor(blurred))
    model = network()
    with GradCAM(model, target_layer=model.relu) as own:
        of_its_own_map = said(ClassificationMetric(own, softmax))
    return {
        **said(ClassificationMetric(Given(), softmax)),
        "deletion_auc": said(from_zeros)["deletion_auc"],
        "insertion_auc": said(from_blurred)["insertion_auc"],
        **{f"{name} of its own map": value for name, value in of_its_own_map.items()},
    }


def of_pytorch_grad_cam(x, c, L):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.metrics import arcc, cam_mult_image, road
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget

    model, x, L = network(), tensor(x)[None], L[None]
    asked = x, L, [ClassifierOutputSoftmaxTarget(c)], model
    with mock.patch("torch.randn_like", torch.zeros_like):  # ROAD's noise, which cannot be left out otherwise
        found = {
            metric.__name__: metric()(*asked)
            for metric in (
                cam_mult_image.DropInConfidence,
                cam_mult_image.IncreaseInConfidence,
                road.ROADMostRelevantFirstAverage,
                road.ROADLeastRelevantFirstAverage,
                road.ROADCombined,
            )
        }
    own, logit = GradCAM(model, [model.relu]), [ClassifierOutputTarget(c)]
    shown = own(x, logit)
    found |= {
        "Complexity": arcc.Complexity()(L),
        "Complexity of its own map": arcc.Complexity()(shown),
        "Coherency of its own map": arcc.Coherency()(x, shown, logit, model, own),
        "DropInConfidence of its own map": cam_mult_image.DropInConfidence()(x, shown, *asked[2:]),
    }
    return {name: float(value[0]) for name, value in found.items()}


def filled_by_pytorch_grad_cam(x, missing):
    """The first picture with pixels filled in, ``(M, H, W, 3)``."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    fill = NoisyLinearImputer(noise=0)
    filled = [fill(tensor(x[0]), torch.from_numpy(np.float32(~each))) for each in missing]
    return np.moveaxis(torch.stack(filled).numpy(), 1, -1).tolist()


def of_captum(x, c, phi, squares, noise, near):
    from captum.metrics import infidelity, sensitivity_max

    model, c = network(), int(c)
    changes = {"squares": (np.float32(squares != x), squares), "noise": (x - noise, noise)}
    found = {
        f"infidelity of {kind}, normalize={normalize}": infidelity(
            model,
            lambda _, change=change: tuple(map(tensor, change)),
            tensor(x)[None],
            tensor(phi)[None],
            target=c,
            n_perturb_samples=len(squares),
            normalize=normalize,
        )
        for kind, change in changes.items()
        for normalize in (True, False)
    }
    found["sensitivity_max"] = sensitivity_max(
        lambda inputs: (gradient(*inputs, c),),
        tensor(x)[None],
        lambda _: (tensor(near),),
        n_perturb_samples=len(near),
    )
    return {name: float(value[0]) for name, value in found.items()}


def of_xplique(x, c, L, blurred):
    from xplique import metrics
    from xplique.wrappers import TorchWrapper

    model = TorchWrapper(nn.Sequential(network(), nn.Softmax(dim=-1)).eval(), "cpu")
    asked = model, x[None], np.eye(CLASSES, dtype="float32")[[c]]
    measured = {
        "AverageDropMetric": metrics.AverageDropMetric(*asked),
        "AverageIncreaseMetric": metrics.AverageIncreaseMetric(*asked),
        "AverageGainMetric": metrics.AverageGainMetric(*asked),
        "Deletion": metrics.Deletion(*asked, steps=STEPS),
        "Insertion": metrics.Insertion(*asked, steps=STEPS, baseline_mode=lambda _: blurred[None]),
        "Complexity": metrics.Complexity(),
        "Sparseness": metrics.Sparseness(),
    }
    return {name: float(metric(L[None])) for name, metric in measured.items()}


def of_quantus(x, c, L, mask, near):
    import quantus

    neighbours = itertools.cycle(tensor(near).numpy().reshape(len(near), 1, -1))

    def explain(model, inputs, targets, **_):
        return gradient(torch.from_numpy(np.float32(inputs)), c)[:, None].numpy()

    def said(metric, a, **given):
        model, pictures = network(), tensor(x)[None].numpy()
        given = {"s_batch": mask[None, None], "channel_first": True, **given}
        return float(metric(model=model, x_batch=pictures, y_batch=np.array([c]), a_batch=a.copy(), **given)[0])

    again = {"nr_samples": len(near), "normalise": False, "perturb_func": lambda **_: next(neighbours)}
    shown, own = L[None, None], explain(None, tensor(x)[None], None)
    return {
        "PointingGame": said(quantus.PointingGame(), shown),
        "RelevanceMassAccuracy": said(quantus.RelevanceMassAccuracy(), shown),
        "Sparseness": said(quantus.Sparseness(), shown),
        "Complexity": said(quantus.Complexity(), shown),
        "MaxSensitivity": said(quantus.MaxSensitivity(**again), own, explain_func=explain),
        "LocalLipschitzEstimate": said(quantus.LocalLipschitzEstimate(**again), own, explain_func=explain),
    }


ASKED = {
    "torchcam": (of_torchcam, ("x", "c", "L", "blurred")),
    "pytorch_grad_cam": (of_pytorch_grad_cam, ("x", "c", "L")),
    "captum": (of_captum, ("x", "c", "phi", "squares", "noise", "near")),
    "xplique": (of_xplique, ("x", "c", "L", "blurred")),
    "quantus": (of_quantus, ("x", "c", "L", "mask", "near")),
}


def main(library, path):
    if importlib.util.find_spec(library) is None:
        return print("null")
    ask, names = ASKED[library]
    with np.load(path) as given:
        each = [ask(*case) for case in zip(*(given[name] for name in names), strict=True)]
        found = {name: [one[name] for one in each] for name in each[0]}
        if library == "pytorch_grad_cam":
            found["filled"] = filled_by_pytorch_grad_cam(given["x"], given["missing"])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
