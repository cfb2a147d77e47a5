"""From stored values to Hounsfield units (HU), or a refusal that says what was found."""

import numpy as np

from nnunetv2_airway.io.errors import UserError

LOWEST = -1024
"""HU: what lies below is padding outside the scanner's field of view."""
ATM_SCALE = (1 / 16, -1024.0)
"""Some CTs of ATM'22's second batch are unsigned 16-bit values without slope and intercept, 65535 for 3071.94 HU."""
ATM_MAXIMUM = 60000
LUNG_AND_AIR, SOFT_TISSUE = (-1150, -600), (-200, 300)
"""HU of lung and air, and of soft tissue."""
MIN_SHARES = {"air or lung": (LUNG_AND_AIR, 0.01), "soft tissue": (SOFT_TISSUE, 0.03)}
"""What every chest CT has some of: range in HU, and least share of its voxels."""
DEEP, MAX_DEEP_SHARE = -1250, 0.01
"""HU below which only padding lies, and the share of voxels that may all the same."""
SPAN = 500
"""HU that every chest CT spans."""


def to_hounsfield(
    stored: np.ndarray, scale: tuple[float, float] | None = None, *, case: str = "CASE"
) -> tuple[np.ndarray, list[str]]:
    """Turn stored values into HU.

    Args:
        stored: (Z, Y, X), any number type; slopes and intercepts of file headers applied.
        scale: slope and intercept that the user states, HU = slope * stored + intercept. What a chest CT must have some
            of is then looked for only where the stored values have it.
        case: its name, for the error.

    Returns:
        (Z, Y, X) int16, rounded, at least -1024; and what was done.

    Raises:
        UserError: the values cannot be HU; says their range, and how to state the scale.
    """
    lowest, highest = float(stored.min()), float(stored.max())
    found = f"the stored values ({stored.dtype}) lie between {lowest:g} and {highest:g}"
    if not np.isfinite([lowest, highest]).all():
        raise UserError(f"{found}: replace what is not a number by {LOWEST} first")
    notes, stated = [], scale is not None
    if not stated and stored.dtype == np.uint16 and highest >= ATM_MAXIMUM:
        scale = ATM_SCALE
        notes.append("scaled 16-bit values, read as stored / 16 - 1024")
    slope, intercept = scale or (1.0, 0.0)
    bottom = lowest * slope + intercept
    if scale:
        found += f", in HU {bottom:g} to {highest * slope + intercept:g}"
    why = _no_range(lowest, highest, slope, intercept)
    if not why and (not stated or not (_no_range(lowest, highest) or _no_chest(stored))):
        why = _no_chest(stored, slope, intercept)
        if why and stated:
            raise UserError(
                f"{found}; as stored they look like Hounsfield units, with --scale {slope:g} {intercept:g} {why}. Name "
                f"the cases that need it behind --scale SLOPE INTERCEPT"
            )
    if why:
        hint = ""
        if not stated and lowest >= 0 and 1000 < highest < 10000:
            hint = f"; CTs stored from 0 on mostly need --scale 1 -1024 {case}"
        raise UserError(
            f"not in Hounsfield units: {found}; {why}. Convert the original CT, or state HU = SLOPE * stored + "
            f"INTERCEPT with --scale SLOPE INTERCEPT {case}{hint}"
        )
    if stated:
        notes.append(f"HU = {slope:g} * stored + {intercept:g}, as stated")
    hu = np.empty(stored.shape, np.int16)
    for plane, values in zip(hu, stored, strict=True):
        scaled = values * np.float32(slope) + np.float32(intercept) if scale else values
        plane[...] = np.clip(np.rint(scaled), LOWEST, 32767)
    if round(bottom) < LOWEST:
        notes.append(f"values down to {bottom:g} HU (padding) raised to {LOWEST}")
    return hu, notes


def _no_range(lowest: float, highest: float, slope: float = 1.0, intercept: float = 0.0) -> str:
    """Say why a range cannot be that of a chest CT in HU, empty where it can."""
    lowest, highest = lowest * slope + intercept, highest * slope + intercept
    if lowest >= 0 and highest < 16:
        return "it looks like a label; were CTs and labels swapped?"
    if lowest >= 0:
        picture = "; it looks like an 8-bit picture" if highest <= 255 else ""
        return f"nothing lies below 0, where air and lung are{picture}"
    if highest - lowest < SPAN:
        return "no CT of a chest spans so little; it looks normalised or windowed"
    return ""


def _no_chest(stored: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> str:
    """Say what values lack of a chest in HU, empty where they lack nothing."""
    sample = stored[:: max(1, len(stored) // 100), ::3, ::3].astype(np.float32) * slope + intercept
    lowest = sample.min()
    scanned = sample[sample > lowest] if lowest <= LOWEST else sample  # without padding
    for name, ((low, high), least) in MIN_SHARES.items():
        share = np.mean((scanned > low) & (scanned < high)) if scanned.size else 0.0
        if share < least:
            return f"only {share:.1%} of the voxels lie between {low} and {high} HU, as {name} does"
    below = np.mean(scanned < DEEP)
    if below > MAX_DEEP_SHARE:
        return f"{below:.1%} of the voxels lie below {DEEP} HU, below air: is the intercept in twice?"
    return ""
