"""From a spec to a model, its preprocessing and its labels.

    spec.py             "mobilenet?alpha=0.75", "net.pt2", "timm:resnet50", "package.module:function" taken apart
    loaded.py           LoadedModel                 objects.py   what becomes one: from_object
    loading.py          load_model: from a spec, a file or an object to a LoadedModel
    altered.py          what users say in place of what a model says
    factory.py          models that a function of the user's makes
    preprocessing.py    from pixels to inputs       labels.py    the names of classes
    known.py            the list of names           installed.py whether a package is there

    Keras                                           torch
    cifar10.py          the embedded network        torch_libraries.py  timm and torchvision
    applications.py     keras.applications          hugging_face.py     transformers
                                                    libraries.py        what these have in common
    files.py, hdf5.py   whole models in files       torch_files.py, program.py, program_safety.py
    weights.py          weights in files            torch_weights.py
    guess.py            what a model tells          guess_torch.py
    backend.py          what Keras runs on

Importing it imports no framework: the files on the right import torch, and are imported when they are needed.
"""

from camlucida.models.known import KnownModel, known_models
from camlucida.models.labels import find, imagenet, read_labels
from camlucida.models.loaded import LoadedModel
from camlucida.models.loading import load_model
from camlucida.models.preprocessing import PREPROCESSINGS, Preprocessing, by_name, range_note

__all__ = [
    "PREPROCESSINGS",
    "KnownModel",
    "LoadedModel",
    "Preprocessing",
    "by_name",
    "find",
    "imagenet",
    "known_models",
    "load_model",
    "range_note",
    "read_labels",
]
