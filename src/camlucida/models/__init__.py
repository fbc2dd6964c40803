"""From a spec to a model, its preprocessing and its labels.

    spec.py             "mobilenet?alpha=0.75", "net.keras", "package.module:function" taken apart
    cifar10.py          the embedded network
    applications.py     the networks of keras.applications
    files.py            whole models in files       weights.py   weights in files
    preprocessing.py    from pixels to inputs       labels.py    the names of classes
    backend.py          what Keras runs on          guess.py     what a model tells about itself
    loading.py          all of it together: load_model
    known.py            the list of names

Importing it imports no framework.
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
