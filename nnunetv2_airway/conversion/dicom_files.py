"""DICOM files: which files are some, and what their headers say.

Headers are read with pydicom, which knows every kind of DICOM object, without the voxels behind them.
"""

import bz2
import gzip
import lzma
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.misc import is_dicom

from nnunetv2_airway.conversion.layout import walk
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import main_line

TAGS = (
    "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "PatientID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "RescaleSlope", "RescaleIntercept", "FrameOfReferenceUID", "InstanceNumber", "SeriesNumber",
)  # fmt: skip
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True)
class Slice:
    """Header of one file; what it lacks is None."""

    file: Path
    header: pydicom.Dataset

    def __getattr__(self, tag: str):
        if tag not in TAGS:
            raise AttributeError(tag)
        return self.header.get(tag)

    def numbers(self, tag: str, count: int = 1) -> np.ndarray:
        """Return the numbers that a tag holds.

        Raises:
            UserError: it is not there, holds another number of them, or what is no number, such as a decimal comma.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = self.header.get(tag)
            except ValueError:  # pydicom's, of some values
                value = self.header.get_item(tag).value
        if value is None or not np.size(value):
            raise UserError(
                f"{self.file} has no {tag}: where its voxels lie, or what they mean, cannot be known. Export the "
                f"series again from where it came from"
            )
        try:
            found = np.atleast_1d(np.array(value, float))
        except ValueError:
            found = np.array([np.nan])
        if len(found) != count or not np.isfinite(found).all():
            raise UserError(
                f"{self.file}: {tag} must be {count} {'number' if count == 1 else 'numbers'} with decimal points, it "
                f"is {value}. Export the series again, or write the tag anew in all its files (pydicom, dcmodify)"
            )
        return found

    @property
    def is_localizer(self) -> bool:
        """Whether it is an overview that the scan was planned on."""
        return "LOCALIZER" in [str(word).upper() for word in self.header.get("ImageType") or ()]


def holds_dicom(files: Iterable[Path]) -> bool:
    """Whether there is a DICOM file among files and folders, compressed or not."""
    return any(is_dicom_file(file) or is_compressed_dicom(file) for file in files)


def modality_of(path: Path) -> str | None:
    """Return the Modality of a DICOM file, or of the first below a folder; None where there is none."""
    files = (file for _, files in walk([path]) for file in files) if path.is_dir() else [path]
    first = next(filter(is_dicom_file, files), None)
    return None if first is None else str(header_of(first).Modality or "not given")


def is_dicom_file(file: Path) -> bool:
    """Whether a file is DICOM, with or without a preamble."""
    try:
        return file.name.upper() != "DICOMDIR" and file.is_file() and (is_dicom(file) or _lacks_preamble(file))
    except OSError:
        return False


def is_compressed_dicom(file: Path) -> bool:
    """Whether a file is DICOM once it is unpacked."""
    unpack = COMPRESSED.get(file.suffix.lower())
    try:
        with unpack(file) if unpack and file.is_file() else file.open("rb") as content:
            return unpack is not None and content.read(132)[128:] == b"DICM"
    except (OSError, EOFError, lzma.LZMAError):
        return False


def _lacks_preamble(file: Path) -> bool:
    """Whether a file that is called like a slice is DICOM without the 128 bytes and the word before it."""
    if not is_called_like_a_slice(file):
        return False
    try:
        return "SeriesInstanceUID" in pydicom.dcmread(file, stop_before_pixels=True, force=True)
    except Exception:  # pydicom promises nothing about files that are no DICOM
        return False


def is_called_like_a_slice(file: Path) -> bool:
    """Whether a file has a name such as slices have."""
    suffix = file.suffix.lower()
    return suffix in (".dcm", ".dicom", ".ima") or (
        (not suffix or suffix[1:].isdigit()) and any(letter.isdigit() for letter in file.name)
    )


def header_of(file: Path) -> Slice:
    """Read a header.

    Raises:
        UserError: it cannot be read, or belongs to no series; the file is named.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd values in tags; those that matter are checked
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
        except (OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
            raise UserError(f"cannot read the DICOM header of {file}: {main_line(error)}") from error
    if "SeriesInstanceUID" not in header:
        raise UserError(f"{file} has no SeriesInstanceUID, it may be damaged: copy it again or take it away")
    return Slice(file, header)
