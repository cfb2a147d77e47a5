"""The airway tree as a DICOM segmentation (SEG) that refers to the series of its CT."""

from pathlib import Path

import numpy as np
import pydicom

from nnunetv2_airway import __version__
from nnunetv2_airway.conversion.dicom import choose_series
from nnunetv2_airway.conversion.dicom_volume import ordered_slices
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import atomic_path, main_line

MAY_BE_EMPTY = (
    "AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName",
    "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip
"""Tags that DICOM wants to be there, and that anonymisers take out."""


def require_highdicom() -> None:
    """Check that the library is there.

    Raises:
        UserError: it is not; how to install it is said.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError("--dicom-seg needs highdicom: pip install 'nnunetv2_airway[dicom]'") from error


def write_dicom_seg(mask: np.ndarray, folder: Path, uid: str, file: Path, *, model: str) -> None:
    """Write an airway tree as a DICOM SEG object.

    Args:
        mask: (Z, Y, X), airway where > 0, on the grid of the series as ``read_series`` has it.
        folder: of the CT's series.
        uid: of the series.
        file: to write.
        model: what found the tree.

    Raises:
        UserError: the series is no longer that of the mask, or cannot be referred to.
        OSError: the file cannot be written.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    series, _, _ = choose_series(folder, {uid})
    if series.is_joined:
        raise UserError(
            f"{folder}: its slices have SeriesInstanceUIDs of their own, a DICOM SEG cannot refer to them as one series"
        )
    slices, _, step, _ = ordered_slices(series)
    if (len(slices), int(slices[0].Rows), int(slices[0].Columns)) != mask.shape:
        raise UserError(f"{folder} has changed since its CT was read: segment it again")
    sources = [pydicom.dcmread(header.file, stop_before_pixels=True) for header in slices]
    for source in sources:
        for tag in MAY_BE_EMPTY:
            setattr(source, tag, source.get(tag, ""))
        source.SliceThickness = source.get("SliceThickness") or step
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model, family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    airway = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Airway",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=hd.sr.CodedConcept("89187006", "SCT", "Airway structure"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    try:
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=mask > 0,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[airway],
            series_instance_uid=hd.UID(),
            series_number=100,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="nnunetv2_airway",
            manufacturer_model_name="nnUNetv2_airway_segment",
            software_versions=__version__,
            device_serial_number="none",
            series_description="Airway tree",
        )
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: no DICOM SEG can be made of its series, a tag seems to be missing or odd: {main_line(error)}"
        ) from error
    with atomic_path(file) as temporary:
        segmentation.save_as(temporary)
