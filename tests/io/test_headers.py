"""What ITK would repair in silence is refused, in every format, by the one function that all commands read with."""

import re
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.io.images import list_images, one_file_name, read_mask, read_volume

PIXDIM, UNITS = 76, 123
"""Bytes of a NIfTI header before pixdim and xyzt_units."""


def array(dtype=np.int16) -> np.ndarray:
    """Different along each axis, (x, y, z)."""
    return np.arange(12 * 10 * 8).reshape(12, 10, 8).astype(dtype)


def affine(**changes: float) -> np.ndarray:
    """Voxels of 1 x 2 x 3 mm; changes by place, such as x1=0.2."""
    matrix = np.diag([1.0, 2.0, 3.0, 1.0])
    for place, value in changes.items():
        matrix["xyz".index(place[0]), int(place[1])] = value
    return matrix


@pytest.fixture
def nifti(tmp_path):
    """The function that writes a NIfTI file with some bytes of its header changed."""

    def write(values=None, sform=None, qform=None, patch=(), name="ct.nii"):
        image = nibabel.Nifti1Image(array() if values is None else values, affine())
        image.set_sform(sform, int(sform is not None))
        image.set_qform(qform, int(qform is not None))
        image.header.set_zooms((1, 2, 3))
        file = tmp_path / name
        nibabel.save(image, file)
        if patch:
            content = bytearray(file.read_bytes())
            for place, form, value in patch:
                struct.pack_into(form, content, place, value)
            file.write_bytes(content)
        return file

    return write


def itk_image() -> sitk.Image:
    image = sitk.GetImageFromArray(array().T.copy())
    image.SetSpacing((1, 2, 3))
    return image


@pytest.mark.parametrize("value", [0.0, -2.0, np.nan, np.inf])
def test_a_spacing_that_is_no_positive_number_is_refused(nifti, value):
    file = nifti(sform=affine(), patch=[(PIXDIM + 8, "<f", value)])
    with pytest.raises(ValueError, match=r"ct.nii needs a positive spacing.*pixdim 1 x .* x 3"):
        read_volume(file)


@pytest.mark.parametrize("ending", ["mha", "mhd"])
@pytest.mark.parametrize("spacing", ["1 -2 3", "1 0 3", "1 nan 3", "1 two 3"])
def test_a_metaimage_whose_axis_itk_would_turn_is_refused(tmp_path, ending, spacing):
    file = tmp_path / f"ct.{ending}"
    sitk.WriteImage(itk_image(), str(file))
    file.write_bytes(file.read_bytes().replace(b"ElementSpacing = 1 2 3", f"ElementSpacing = {spacing}".encode()))
    with pytest.raises(ValueError, match=f"positive spacing.*ElementSpacing = {spacing}"):
        read_volume(file)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_two_spacings_in_one_header_are_both_named(nifti, form):
    file = nifti(**{form: affine()}, patch=[(PIXDIM + 8, "<f", 4.0)])
    if form == "qform":  # it takes its spacing from pixdim, so that it cannot contradict it
        assert read_volume(file).GetSpacing() == (1, 4, 3)
        return
    with pytest.raises(ValueError, match=r"sform has voxels of 1 x 2 x 3 mm, pixdim 1 x 4 x 3"):
        read_volume(file)


def test_forms_that_lie_apart_are_warned_of(nifti, capsys):
    read_volume(nifti(sform=affine(), qform=affine(x3=5.0)))
    assert "ct.nii: WARNING: sform and qform lie up to 5 mm apart" in capsys.readouterr().out
    read_volume(nifti(sform=affine(), qform=affine(x3=0.01)))
    assert capsys.readouterr().out == ""


def test_forms_with_other_axes_are_refused(nifti):
    mirrored = affine()
    mirrored[0] *= -1
    with pytest.raises(ValueError, match="sform and qform have other axes, voxels lie up to"):
        read_volume(nifti(sform=affine(), qform=mirrored))


def test_the_last_voxel_of_a_large_volume_is_looked_at(tmp_path):
    voxels = np.zeros((110, 100, 110), np.float32)  # more than a block of 4 MiB
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    nibabel.save(image, tmp_path / "good.nii")
    assert read_volume(tmp_path / "good.nii").GetSize() == voxels.shape
    for value in (np.nan, np.inf):
        voxels[-1, -1, -1] = value
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "bad.nii")
        with pytest.raises(ValueError, match="no numbers"):
            read_volume(tmp_path / "bad.nii")


def test_voxels_do_not_begin_inside_the_header(nifti):
    file = nifti(sform=affine())
    content = bytearray(file.read_bytes())
    content[108:112] = np.float32(0).tobytes()
    file.write_bytes(content)
    with pytest.raises(ValueError, match="begin at byte 0, inside its header"):
        read_volume(file)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: ascii\n\n", "has no spacing"),
        (
            'NRRD0004\ntype: short\ndimension: 3\nspace dimension: 3\nsizes: 6 5 4\nspace units: "cm" "cm" "cm"\n'
            "space directions: (9,0,0) (0,9,0) (0,0,9)\nencoding: ascii\n\n",
            "must be in mm",
        ),
        (
            "ObjectType = Image\nNDims = 3\nBinaryData = False\nDimSize = 6 5 4\nElementType = MET_SHORT\n"
            "ElementDataFile = LOCAL\n",
            "has no spacing",
        ),
        (
            "ObjectType = Image\nNDims = 3\nBinaryData = False\nOffset = nan 0 0\nElementSpacing = 9 9 9\n"
            "DimSize = 6 5 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
            "no place",
        ),
    ],
)
def test_what_itk_would_guess_is_refused(tmp_path, head, words):
    file = tmp_path / ("a.nrrd" if head.startswith("NRRD") else "a.mha")
    file.write_text(head + " ".join(map(str, range(120))) + "\n")
    with pytest.raises(ValueError, match=words):
        read_volume(file)


@pytest.mark.parametrize(("unit", "length"), [(1, "2.4e+04"), (3, "0.024")])
def test_a_body_is_not_metres_or_microns_long(nifti, unit, length):
    with pytest.raises(ValueError, match=f"is {re.escape(length)} mm long"):
        read_volume(nifti(sform=affine(), patch=[(UNITS, "B", unit)]))


@pytest.mark.parametrize("qform", [None, affine()])
def test_a_sheared_nifti_is_refused_whatever_itk_makes_of_it(nifti, qform):
    shear = affine(x1=0.2, y1=np.sqrt(4 - 0.04))
    with pytest.raises(ValueError, match=r"not perpendicular: x and y meet at 84.26 degrees"):
        read_volume(nifti(sform=shear, qform=qform))
    rounding = affine(x1=1e-5)
    read_volume(nifti(sform=rounding, qform=qform))


@pytest.mark.parametrize(
    ("ending", "found", "sheared"),
    [
        ("nrrd", b"(1,0,0) (0,2,0) (0,0,3)", b"(1,0,0) (0.5,2,0) (0,0,3)"),
        ("mha", b"TransformMatrix = 1 0 0 0 1 0", b"TransformMatrix = 1 0 0 0.3 1 0"),
    ],
)
def test_sheared_axes_of_other_formats_are_refused(tmp_path, ending, found, sheared):
    file = tmp_path / f"ct.{ending}"
    sitk.WriteImage(itk_image(), str(file))
    assert found in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(found, sheared))
    with pytest.raises(ValueError, match="not perpendicular: x and y meet at"):
        read_volume(file)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.hdr", "ct.nrrd", "ct.mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, name, value):
    values = array(np.float32).T.copy()
    values[-1, -1, -1] = value
    image = sitk.GetImageFromArray(values)
    sitk.WriteImage(image, str(tmp_path / name))
    with pytest.raises(ValueError, match=f"{name} has voxels that are no numbers"):
        read_volume(tmp_path / name)


def test_voxels_in_another_file_that_is_gone_are_named(tmp_path):
    for header, voxels in (("ct.mhd", "ct.raw"), ("ct.nhdr", "ct.raw")):
        sitk.WriteImage(itk_image(), str(tmp_path / header))
        (tmp_path / voxels).unlink()
        with pytest.raises(ValueError, match=rf"cannot read .*{header}: its voxels should be in .*{voxels}"):
            read_volume(tmp_path / header)


@pytest.mark.parametrize(
    "name", ["a.nii.gz", "a.NII.GZ", "a.nii", "a.NII", "a.nrrd", "a.NRRD", "a.nhdr", "a.mha", "a.MHA", "a.mhd", "a.hdr"]
)
def test_every_format_is_listed_and_read_in_small_and_large_letters(tmp_path, name):
    small = tmp_path / name.lower()
    sitk.WriteImage(itk_image(), str(small))
    file = small.rename(tmp_path / name)
    assert list_images(tmp_path) == {"a": file}
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(file)), array().T)
    assert len(one_file_name(file).split(".")) == len(name.split(".")) + (name == "a.hdr")


def test_what_a_list_leaves_out_is_said(tmp_path, capsys):
    sitk.WriteImage(itk_image(), str(tmp_path / "a.mhd"))
    for name in ("notes.txt", "b.dcm", "plans.json", "a.npz", ".hidden"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path)) == ["a"]
    assert capsys.readouterr().out == f"{tmp_path}: left out, since they are no images: b.dcm, notes.txt\n"


def test_labels_that_a_header_scales_are_whole_numbers(nifti):
    label = (array() % 3).astype(np.float32)
    scaled = nifti(label * np.float32(1.0000153), sform=affine())
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(scaled, (1,))), (label == 1).T)
    with pytest.raises(ValueError, match="probability map"):
        read_mask(nifti(label * 0.4, sform=affine()))
