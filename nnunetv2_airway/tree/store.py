"""Parsed trees of references on disk, so that evaluating again, and the report, do not parse them again.

A file is whole or not there, and is made again when the reference has changed or it cannot be read.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
import skimage

from nnunetv2_airway import __version__
from nnunetv2_airway.io.files import atomic_path, read_arrays
from nnunetv2_airway.tree.parse import AirwayTree, parse_tree

FORMAT = f"1 {__version__} {skimage.__version__}"
"""Another one has every tree parsed again; scikit-image does the thinning."""


def stored_tree(file: Path, mask: np.ndarray, fingerprint: str) -> AirwayTree:
    """Read a tree, or parse it and write it.

    Args:
        file: where it is kept, an NPZ; a file of another mask is replaced.
        mask: the reference, (Z, Y, X).
        fingerprint: digest of what the mask was read from.
    """
    fingerprint = f"{FORMAT} {fingerprint}"
    tree = _read(file, fingerprint)
    if tree is None:
        tree = parse_tree(mask)
        arrays = {field.name: getattr(tree, field.name) for field in fields(tree)}
        with atomic_path(file) as temporary:
            np.savez_compressed(temporary, fingerprint=fingerprint, **arrays)
    return tree


def _read(file: Path, fingerprint: str) -> AirwayTree | None:
    content = read_arrays(file)
    names = [field.name for field in fields(AirwayTree)]
    if str(content.get("fingerprint")) != fingerprint or not content.keys() >= set(names):
        return None
    arrays = {name: content[name] for name in names}
    return AirwayTree(**{**arrays, "shape": tuple(arrays["shape"].tolist())})
