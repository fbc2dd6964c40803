"""What Keras keeps in an HDF5 file. It goes by the ending of the name; this looks inside."""

from pathlib import Path
from typing import Literal

Layout = Literal["model", "old weights", "weights", ""]


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as HDF5 files do; it may still be cut short."""
    import h5py

    return bool(h5py.is_hdf5(path))


def layout(path: Path) -> Layout:
    """A whole model, weights as Keras 2 wrote them, weights as Keras 3 writes them, or nothing of Keras (``""``).

    Raises:
        OSError: the file is no HDF5 file, or it is cut short.
    """
    import h5py

    with h5py.File(path, "r") as content:
        if "model_config" in content.attrs:
            return "model"
        if "model_weights" in content or any(name.startswith("layer_names") for name in content.attrs):
            return "old weights"
        return "weights" if {"layers", "vars", "_layer_checkpoint_dependencies"} & content.keys() else ""
