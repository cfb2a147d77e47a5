"""Whether image files have all their bytes, and those of compressed ones are as they were written.

Of a NIfTI file that was copied in part, and of damaged compressed voxels, ITK makes zeros without an error; and it
takes memory for whatever a damaged header asks for.
"""

import glob
import math
import os
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import nibabel
import SimpleITK as sitk
from nibabel.spatialimages import HeaderDataError

GZIP = b"\x1f\x8b"
"""First bytes of a gzip stream."""
ELSEWHERE = rb"^(data ?file: *(LIST|.*%)|encoding: *(?! |raw|gz)|BinaryData *= *False|ElementDataFile *= *(LIST|.*%))"
"""In a header: the voxels are in other files, or in another form than bytes or packed bytes; ITK sees to these."""


def is_whole(file: Path) -> bool:
    """Whether a NIfTI, NRRD or MetaImage file is whole.

    A file that is not there, has another header than its name says, or one that is not understood here is left to ITK,
    which says so.
    """
    try:
        if file.name.lower().endswith((".nii", ".nii.gz")):
            return _nifti_is_whole(file)
        if file.name.lower().endswith(".hdr"):
            return _pair_is_whole(file)
        return _has_its_voxels(file)
    except (EOFError, zlib.error):
        return False
    except (
        FileNotFoundError,
        IsADirectoryError,
        RuntimeError,
        HeaderDataError,
        KeyError,
        ValueError,
        OverflowError,
        StopIteration,
    ):
        return True


def _nifti_is_whole(file: Path) -> bool:
    with file.open("rb") as content:
        packed = content.read(2) == GZIP  # ITK, too, goes by this: some name a file .nii.gz that is none
        content.seek(0)
        head, parts = b"", _unpacked(content) if packed else iter([content.read(540)])
        while len(head) < 540 and (part := next(parts, None)) is not None:
            head += part
        wanted = _nifti_bytes(head)
        there = len(head) + sum(map(len, parts)) if packed else os.fstat(content.fileno()).st_size
    return there >= wanted


def _pair_is_whole(header: Path) -> bool:
    """Whether the .img beside a .hdr has all its voxels."""
    voxels = next(file for file in header.parent.glob(f"{glob.escape(header.stem)}.*") if file.suffix.lower() == ".img")
    return voxels.stat().st_size >= _nifti_bytes(header.read_bytes()[:540])


def nifti_header(head: bytes) -> nibabel.Nifti1Header:
    """Read the header that a NIfTI file's first 540 bytes hold, whatever it says.

    Raises:
        EOFError: they end early.
    """
    second = 540 in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    kind, size = (nibabel.Nifti2Header, 540) if second else (nibabel.Nifti1Header, 348)
    if len(head) < size:
        raise EOFError
    return kind(head[:size], check=False)


def _nifti_bytes(head: bytes) -> int:
    """Length that a NIfTI header asks for, by the type that is stored: ITK names the one that it scales to."""
    header = nifti_header(head)
    voxels = math.prod(max(1, int(side)) for side in header.get_data_shape())
    return header.get_data_offset() + voxels * header.get_data_dtype().itemsize


def _has_its_voxels(file: Path) -> bool:
    """Whether an NRRD or MetaImage file has all its voxels; if compressed, they also have to fit their checksum."""
    with file.open("rb") as content:
        head = content.read(2**16)
        end = re.search(rb"\r?\n\r?\n|^(?:ElementDataFile *=|data ?file:) *(.*?) *\r?\n", head, re.MULTILINE)
        if not end:
            return True
        apart = end[1] not in (None, b"LOCAL")
        header = head if apart else head[: end.end()]
        if re.search(ELSEWHERE, header, re.MULTILINE | re.IGNORECASE):
            return True
        content.seek(end.end())
        with content if not apart else Path(file.parent, os.fsdecode(end[1])).open("rb") as voxels:
            if re.search(rb"^(encoding: *gz|CompressedData *= *True)", header, re.MULTILINE | re.IGNORECASE):
                there = sum(map(len, _unpacked(voxels)))
            else:
                there = os.fstat(voxels.fileno()).st_size - voxels.tell()
    return there >= _voxel_bytes(file)


def _unpacked(content: IO[bytes]) -> Iterator[bytes]:
    """Decompress zlib's or gzip's bytes, in parts that take little memory; what follows them counts for nothing.

    Raises:
        EOFError: they end early.
        zlib.error: they do not fit their checksum, or are none.
    """
    rest = b""
    while True:
        stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        for part in chain([rest], iter(lambda: content.read(2**16), b"")):
            yield stream.decompress(part)
            if stream.eof:
                break
        else:
            raise EOFError
        rest = stream.unused_data + content.read(2**16)
        if not rest.startswith(GZIP):  # gzip files may be joined
            return


def _voxel_bytes(file: Path) -> int:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
    return math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * one.GetSizeOfPixelComponent()
