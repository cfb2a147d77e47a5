"""From stored values to Hounsfield units (HU), or a refusal that says what was found.

A scale is proved by the CT itself: air, fat and soft tissue make peaks in its histogram, and these have to lie where
they belong. On patients' CTs with soft and sharp kernels, with and without contrast, fat was found between -105 and
-85 HU and soft tissue between 25 and 65.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from nnunetv2_airway.io.errors import UserError

LOWEST = -1024
"""HU: what lies below is padding outside the scanner's field of view."""
CANDIDATES = ((1.0, -1024.0), (1.0, -8192.0), (1 / 16, -1024.0), (1.0, 1024.0))
"""Slopes and intercepts that files have lost, or have in twice; they are tried for the advice of a refusal."""
FAT, SOFT = (-140, -60), (0, 110)
"""HU between which the peaks of fat and of soft tissue lie."""
MERGED = (-60, 110)
"""HU between which the one peak of both lies, where noise makes one of two."""
PEAKS = (-300, 500)
"""HU between which peaks are looked for."""
BIN = 10
"""HU."""
MAIN = 0.3
"""Share of the highest peak that a peak has which counts."""
AIR, AIR_PERCENTILE = -930, 0.1
"""HU below which the lowest of the voxels lie: those of air."""
PADDING = -1500
"""HU below which nothing was scanned."""
BONE, MAX_BONE_SHARE = 600, 0.2
"""HU above which there is bone or metal, and the share of the voxels that may be."""
FILL = (0.01, 5)
"""A value is no tissue but fills up where it has that share of all voxels, and so many times that of its neighbours."""
LUNG_AND_AIR, SOFT_TISSUE = (-1150, -600), (-200, 300)
"""HU of lung and air, and of soft tissue."""
MIN_SHARES = {"air or lung": (LUNG_AND_AIR, 0.01), "soft tissue": (SOFT_TISSUE, 0.03)}
"""What every chest CT has some of: range in HU, and least share of its voxels."""
DEEP, MAX_DEEP_SHARE = -1250, 0.01
"""HU below which only padding lies, and the share of voxels that may all the same."""
MOST = 0.5
"""Share of the voxels that one value does not fill, where nothing is cut away around the lungs."""
HIGHEST = 32767
"""HU, or signed number of 16 bits: no metal has more."""
SPAN = 500
"""HU that every chest CT spans."""


def to_hounsfield(
    stored: np.ndarray,
    scale: tuple[float, float] | None = None,
    *,
    lost: tuple[float, float] | None = None,
    case: str = "CASE",
) -> tuple[np.ndarray, list[str]]:
    """Turn stored values into HU.

    Args:
        stored: (Z, Y, X), any number type; slopes and intercepts of file headers applied.
        scale: slope and intercept that the user states, HU = slope * stored + intercept. What a chest CT must have some
            of is then looked for only where the stored values have it.
        lost: slope and intercept that some CTs of the data set are known to have lost; used where the CT is not in HU
            as it is stored, and its tissues lie where they belong with these.
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
    why = "" if stated else _why_not_hu(stored)
    if why and lost and not _why_not_hu(stored, *lost):
        scale, why = lost, ""
        notes.append(f"read as {lost[0]:g} * stored + {lost[1]:g}, where air, fat and soft tissue lie as they should")
    slope, intercept = scale or (1.0, 0.0)
    bottom = lowest * slope + intercept
    if scale:
        found += f", in HU {bottom:g} to {highest * slope + intercept:g}"
    if stated:
        why = _no_range(lowest, highest, slope, intercept)
        is_hu_already = not (why or _no_range(lowest, highest) or _no_chest(stored))
        if is_hu_already and (spoilt := _no_chest(stored, slope, intercept)):
            raise UserError(
                f"{found}; as stored they look like Hounsfield units, with --scale {slope:g} {intercept:g} {spoilt}. "
                f"Name the cases that need it behind --scale SLOPE INTERCEPT"
            )
    if why:
        advice = f"state HU = SLOPE * stored + INTERCEPT with --scale SLOPE INTERCEPT {case}"
        raise UserError(
            f"not in Hounsfield units: {found}; {why}{'' if why.endswith('?') else '.'} Convert the original CT, or "
            f"{(not stated and _advice(stored, case)) or advice}"
        )
    if highest * slope + intercept > HIGHEST and (signed := _as_signed(stored)):
        raise UserError(f"{found}: {signed}")
    if stated:
        notes.append(f"HU = {slope:g} * stored + {intercept:g}, as stated")
    hu = np.empty(stored.shape, np.int16)
    for plane, values in zip(hu, stored, strict=True):
        scaled = values * np.float32(slope) + np.float32(intercept) if scale else values
        plane[...] = np.clip(np.rint(scaled), LOWEST, HIGHEST)
    if round(bottom) < LOWEST:
        notes.append(f"values down to {bottom:g} HU (padding) raised to {LOWEST}")
    return hu, notes


def _advice(stored: np.ndarray, case: str) -> str:
    """Say what would put the tissues in their place, or what is most usual, empty where nothing is known."""
    cut = _cut_out(stored)
    if cut and stored.min() < 0:
        return f"{cut}; if it is in Hounsfield units all the same, state so with --scale 1 0 {case}"
    if stored.min() < LOWEST and not _why_not_hu(np.maximum(stored, LOWEST)):
        return (
            f"take what lies below {LOWEST} for padding that was resampled, with --scale 1 0 {case}: air, fat and soft "
            f"tissue lie as they should"
        )
    for slope, intercept in CANDIDATES:
        if stored.max() * slope + intercept <= HIGHEST and not _why_not_hu(stored, slope, intercept):
            return (
                f"state its scale: air, fat and soft tissue would lie as they should with --scale {slope:g} "
                f"{intercept:g} {case}"
            )
    if signed := _as_signed(stored):
        return signed
    if stored.min() >= 0 and 1000 < stored.max() < 7168:
        return f"state its scale: CTs stored from 0 on mostly need --scale 1 -1024 {case}"
    return cut


def _as_signed(stored: np.ndarray) -> str:
    """Say so where values are negative ones that were stored without their sign, as 65536 more."""
    if not (stored.min() >= 0 and HIGHEST < stored.max() < 2**16):
        return ""
    signed = np.where(stored > HIGHEST, stored.astype(np.float32) - 2**16, stored)
    for slope, intercept in ((1.0, 0.0), *CANDIDATES):
        if not _why_not_hu(signed, slope, intercept):
            then = "" if (slope, intercept) == (1.0, 0.0) else f", and then --scale {slope:g} {intercept:g}"
            return (
                f"store it as signed numbers: what lies above 32767 are negative values that lost their sign "
                f"({signed.min():g} became {signed.min() + 2**16:g}). SimpleITK.Cast(image, SimpleITK.sitkInt16) "
                f"gives it back{then}"
            )
    return ""


def _cut_out(stored: np.ndarray) -> str:
    """Say so where one value fills most of a CT."""
    values, counts = np.unique(_sample(stored), return_counts=True)
    share, value = counts.max() / counts.sum(), values[counts.argmax()]
    if share < MOST:
        return ""
    return f"use one of which nothing is cut away, {share:.0%} of the voxels of this one have the value {value:g}"


def _why_not_hu(stored: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> str:
    """Say why values are not in HU with a scale, empty where they prove to be."""
    return (
        _no_range(float(stored.min()), float(stored.max()), slope, intercept)
        or _no_chest(stored, slope, intercept)
        or _no_tissue(stored, slope, intercept)
    )


def _no_tissue(stored: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> str:
    """Say where air or tissue lies that is not where it belongs, empty where all does or no tissue makes a peak."""
    sample = _sample(stored)
    values = _without_fill(sample) * slope + intercept
    peaks = _peaks(values) if values.size else []
    main = [place for place, height in peaks if height >= MAIN]
    if not main:
        return ""
    fat = any(FAT[0] <= place <= FAT[1] for place, _ in peaks)
    soft = any(SOFT[0] <= place <= SOFT[1] for place in main)
    low = [place for place in main if place < SOFT[0]]
    high = [place for place in main if place > SOFT[1]]  # blood with contrast, where fat is in its place
    right = soft and all(FAT[0] <= place <= FAT[1] for place in low) and (fat or not high)
    if not right and not (len(main) == 1 and MERGED[0] <= main[0] <= MERGED[1]):
        listed = " and ".join(f"{place:.0f}" for place in main)
        return f"tissue lies at {listed} HU, fat should be near -100 and soft tissue between 0 and 80"
    everything = sample * slope + intercept
    lowest = np.percentile(everything[everything > PADDING], AIR_PERCENTILE)
    if lowest > AIR:
        return f"air lies at {lowest:.0f} HU, it should be near -1000"
    if (share := np.mean(values > BONE)) > MAX_BONE_SHARE:
        return f"{share:.0%} of the voxels lie above {BONE} HU, as bone does: are the values turned round?"
    return ""


def _peaks(values: np.ndarray) -> list[tuple[float, float]]:
    """Find the peaks of a histogram: place in HU, and height as a share of the highest."""
    edges = np.arange(PEAKS[0] - 10 * BIN, PEAKS[1] + 11 * BIN, BIN)
    counts = gaussian_filter1d(np.histogram(values, edges)[0].astype(float), 1.5)
    middles = edges[:-1] + BIN / 2
    inside = (middles > PEAKS[0]) & (middles < PEAKS[1])
    highest = counts[inside].max()
    places, _ = find_peaks(np.where(inside, counts, 0), prominence=max(0.1 * highest, 1))
    return [(float(middles[place]), float(counts[place] / highest)) for place in places]


def _without_fill(values: np.ndarray) -> np.ndarray:
    """Leave out what fills up a CT: padding, and the surroundings of a box; at most two values."""
    whole = np.rint(values)
    share, times = FILL
    found, counts = np.unique(whole, return_counts=True)
    for index in np.argsort(-counts)[:2]:
        value = found[index]
        beside = np.count_nonzero((np.abs(whole - value) <= 3) & (whole != value)) / 6
        if counts[index] > max(share * values.size, times * beside):
            values = values[np.rint(values) != value]
    return values


def _sample(stored: np.ndarray) -> np.ndarray:
    return stored[:: max(1, len(stored) // 100), ::3, ::3].astype(np.float32).ravel()


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
    sample = _sample(stored) * slope + intercept
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
