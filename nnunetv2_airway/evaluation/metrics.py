"""Figures of one prediction against its reference."""

import numpy as np

from nnunetv2_airway.maps.centerline import centerline


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two masks (Z, Y, X), airway where > 0: 2 |P and R| / (|P| + |R|), 1 where both are empty.

    Raises:
        ValueError: the shapes differ.
    """
    prediction, reference = _masks(prediction, reference)
    total = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / total if total else 1.0


def centerline_recall(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Share of the reference's centerline voxels that lie inside the prediction, nan for an empty reference.

    Args:
        prediction: (Z, Y, X), airway where > 0.
        reference: same shape.

    Raises:
        ValueError: the shapes differ.
    """
    prediction, reference = _masks(prediction, reference)
    line = centerline(reference)
    return float(prediction[line].mean()) if line.any() else float("nan")


def _masks(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference must have the same shape, got {prediction.shape} and {reference.shape}"
        )
    return prediction > 0, reference > 0
