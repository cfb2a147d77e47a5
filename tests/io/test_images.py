import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.io.images import (
    ENDINGS,
    foreground_values,
    list_images,
    read_mask,
    read_volume,
    require_same_geometry,
    write_image,
)

OBLIQUE = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1)


def image(array: np.ndarray, spacing=(0.7, 0.8, 2.5), origin=(-120.5, 33.25, 900), direction=OBLIQUE) -> sitk.Image:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    made.SetDirection(direction)
    return made


VOLUME = np.zeros((20, 30, 40), np.int16)


def test_images_are_listed_by_name_without_ending(tmp_path):
    for name in ("b.nii.gz", "a.b.nrrd", "c.mha", "dataset.json", "._b.nii.gz", "d.mhd", "d.raw"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    assert {case: file.name for case, file in list_images(tmp_path).items()} == {
        "a.b": "a.b.nrrd", "b": "b.nii.gz", "c": "c.mha", "d": "d.mhd"
    }  # fmt: skip
    (tmp_path / "b.nrrd").touch()
    with pytest.raises(ValueError, match=r"b\.nii\.gz and b\.nrrd: one file a case"):
        list_images(tmp_path)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*missing"):
        list_images(tmp_path / "missing")


def test_what_is_no_volume_is_named(tmp_path):
    broken = tmp_path / "a.nii.gz"
    broken.write_text("no image")
    with pytest.raises(ValueError, match=r"cannot read .*a\.nii\.gz"):
        read_volume(broken)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / "flat.nii.gz"))
    with pytest.raises(ValueError, match=r"flat\.nii\.gz must be one 3-D volume, got 2 dimensions"):
        read_volume(tmp_path / "flat.nii.gz")
    colours = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "rgb.nrrd"))
    with pytest.raises(ValueError, match="3 values a voxel"):
        read_volume(tmp_path / "rgb.nrrd")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_mask_is_0_and_1_whatever_its_value_and_type(tmp_path, dtype):
    array = np.zeros((5, 6, 7), dtype)
    array[2, 3, 4] = 255 if dtype is np.uint8 else -3
    write_image(image(array), tmp_path / "a.nii.gz")
    mask = read_mask(tmp_path / "a.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(mask), array != 0) and mask.GetPixelID() == sitk.sitkUInt8
    assert mask.GetSpacing() == pytest.approx((0.7, 0.8, 2.5))


def test_of_several_values_one_has_to_be_chosen(tmp_path):
    array = np.zeros((5, 6, 7), np.uint8)
    array[1, 2, 3:6] = 1, 2, 4
    write_image(image(array), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"besides 0, got 1, 2, 4\. Say with -l"):
        read_mask(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"holds none of the labels \[3, 7\], but 1, 2, 4"):
        read_mask(tmp_path / "a.nii.gz", [7, 3])
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(tmp_path / "a.nii.gz", [1, 4])), np.isin(array, [1, 4]))


@pytest.mark.parametrize(
    ("values", "advice"), [([0.25, 0.5], "Is it a probability map"), ([-1000, -7, 40], "Is it a CT")]
)
def test_what_is_no_mask_is_recognised(tmp_path, values, advice):
    array = np.zeros((5, 6, 7), np.float32)
    array[1, 2, : len(values)] = values
    write_image(image(array), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=advice):
        read_mask(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_was_copied_in_part_is_refused(tmp_path, ending, compressed):
    array = (np.random.default_rng(0).random((20, 24, 26)) < 0.2).astype(np.uint8)
    file = tmp_path / f"a{ending}"
    sitk.WriteImage(image(array), str(file), useCompression=compressed)
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(file)), array)
    content = file.read_bytes()
    for share in (0.3, 0.9):
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=rf"cannot read .*a{ending}"):
            read_mask(file)
    if ending == ".nii.gz":  # compressed whole, but of a part
        file.write_bytes(gzip.compress(gzip.decompress(content)[:-100]))
        with pytest.raises(ValueError, match=r"cannot read .*a\.nii\.gz: it ends early"):
            read_mask(file)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("dtype", "slope", "intercept"), [("<i2", 0.5, 0), ("<i2", 1, -1024), ("u1", 2, -100)])
def test_stored_values_may_be_of_another_type_than_the_values_they_are_scaled_to(
    tmp_path, ending, packed, dtype, slope, intercept
):
    file, array = tmp_path / f"a{ending}", np.random.default_rng(0).integers(0, 99, (9, 10, 11)).astype(dtype)
    sitk.WriteImage(image(array), str(tmp_path / "b.nii"))
    content = bytearray((tmp_path / "b.nii").read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()  # scl_slope, scl_inter
    if packed and ending == ".nii":
        file.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=r"cannot read .*a\.nii"):  # ITK does not unpack it
            read_volume(file)
        return
    write = gzip.compress if packed else bytes
    half = len(content) // 2
    for whole in (write(content), write(content[:half]) + write(content[half:]), write(content) + b"more"):
        file.write_bytes(whole)
        assert np.array_equal(sitk.GetArrayFromImage(read_volume(file)), array * float(slope) + intercept)
    for part in (write(content)[:-40], write(content[:-1])):
        file.write_bytes(part)
        with pytest.raises(ValueError, match=r"cannot read .*a\.nii.*ends early"):
            read_volume(file)


def test_itk_would_take_the_voxels_of_an_unpacked_file_beside(tmp_path):
    sitk.WriteImage(image(VOLUME), str(tmp_path / "a.nii.gz"))
    read_volume(tmp_path / "a.nii.gz")
    sitk.WriteImage(image(VOLUME + 1), str(tmp_path / "a.nii"))
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))).any(), "ITK's trap; mended there?"
    with pytest.raises(ValueError, match=r"cannot read .*a\.nii\.gz.*voxels of .*a\.nii; move one"):
        read_volume(tmp_path / "a.nii.gz")


def test_values_besides_0_are_found_without_sorting_them_all():
    rng = np.random.default_rng(0)
    assert foreground_values(np.zeros((3, 4))).tolist() == []
    assert foreground_values(np.array([0, 7, 0, 7])).tolist() == [7]
    assert foreground_values(np.array([3, 0, -1, 3, 2])).tolist() == [-1, 2, 3]
    many = foreground_values(rng.random((50, 60, 70)))
    assert len(many) == 5 and (np.diff(many) > 0).all()
    rare = np.ones(10**6, np.uint8)
    rare[123457] = 2
    assert foreground_values(rare).tolist() == [1, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"spacing": (0.7, 0.8, 2.502)},
        {"origin": (-120.45, 33.25, 900)},
        {"direction": (0.8004, -0.5995, 0, 0.5995, 0.8004, 0, 0, 0, -1)},
        {},
    ],
)
def test_header_noise_is_no_other_geometry(other):
    require_same_geometry(image(VOLUME, **other), image(VOLUME))


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        ({"spacing": (0.7, 0.8, 2.6)}, 19 * 0.1),
        ({"origin": (-120.5, 33.25, 902)}, 2),
        ({"direction": (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)}, 2 * 19 * 2.5),
        # a quarter turn about the corner at the origin, where both agree
        ({"direction": (-0.6, -0.8, 0, 0.8, -0.6, 0, 0, 0, -1)}, np.sqrt(2) * np.hypot(39 * 0.7, 29 * 0.8)),
    ],
)
def test_another_geometry_is_refused_and_measured(other, apart):
    with pytest.raises(
        ValueError, match=rf"up to {apart:.3g} mm from their place \(tolerated: 0\.07\).*the reference has"
    ):
        require_same_geometry(image(VOLUME, **other), image(VOLUME))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"size \(40, 30, 19\).* the reference has size \(40, 30, 20\)"):
        require_same_geometry(image(VOLUME[:-1]), image(VOLUME))
    with pytest.raises(ValueError, match="nan mm"):
        require_same_geometry(image(VOLUME, origin=(float("nan"), 0, 0)), image(VOLUME))


def test_voxels_in_other_files_or_as_text_are_left_to_itk(tmp_path):
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nhdr"))
    (tmp_path / "a.nhdr").rename(tmp_path / "a.nrrd")
    text = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 5 4\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: ascii\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "b.nrrd").write_text(text + "\n".join(map(str, array.ravel())))
    (tmp_path / "c.mha").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = False\nDimSize = 6 5 4\nElementType = MET_SHORT\n"
        "ElementSpacing = 1 1 1\nElementDataFile = LOCAL\n" + " ".join(map(str, array.ravel())) + "\n"
    )
    for name in ("a.nrrd", "b.nrrd", "c.mha"):
        assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / name)), array), name
