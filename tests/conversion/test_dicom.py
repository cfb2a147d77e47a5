import bz2
import gzip
import lzma
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from nnunetv2_airway.conversion.dicom import choose_series, series_folders
from nnunetv2_airway.conversion.dicom_files import holds_dicom
from nnunetv2_airway.conversion.dicom_volume import read_series

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def read(folder, wanted=()):
    series, _, skipped = choose_series(folder, wanted)
    volume, grid, notes = read_series(series)
    return volume, grid, skipped + notes


@pytest.fixture(scope="module")
def hu(scans) -> np.ndarray:
    return scans[0][0]


@pytest.mark.parametrize("direction", [OBLIQUE, (1.0, 0.0, 0.0, 0.0, -0.6, 0.8, 0.0, -0.8, -0.6)])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (0.5, 10.0)])
def test_slices_are_ordered_by_position_and_scaled(tmp_path, hu, grid, write_dicom, direction, slope, intercept):
    grid = replace(grid, direction=direction)
    names = [str(number) for number in np.random.default_rng(0).permutation(len(hu)) + 1093782]
    write_dicom(tmp_path / "CASE01", hu, grid, names=names, slope=slope, intercept=intercept, PatientID="P7")
    volume, found, notes = read(tmp_path / "CASE01")
    assert np.array_equal(volume, hu) and notes == []
    for field in ("spacing", "origin", "direction"):
        assert getattr(found, field) == pytest.approx(getattr(grid, field), abs=1e-5)
    series, others, _ = choose_series(tmp_path)
    assert others == []
    assert series.patient == "P7"


def test_each_slice_has_a_slope_of_its_own(tmp_path, hu, grid, write_dicom):
    uid = write_dicom(tmp_path, hu[:20], slope=1.0)
    above = replace(grid, origin=(*grid.origin[:2], grid.origin[2] + 40))
    write_dicom(tmp_path / "more", hu[20:], above, uid=uid, slope=0.25, intercept=-3.0)
    assert np.array_equal(read(tmp_path)[0], hu)


def test_it_reads_what_itk_reads(tmp_path, hu, write_dicom):
    """Where names are in order, SimpleITK's own series reader is an independent check of geometry and values."""
    write_dicom(tmp_path, hu, slope=0.5, intercept=-1000.0)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = sitk.ReadImage(names, sitk.sitkFloat32)
    volume, grid, _ = read(tmp_path)
    assert np.array_equal(volume, sitk.GetArrayFromImage(image))
    assert grid.spacing == pytest.approx(image.GetSpacing())
    assert grid.origin == pytest.approx(image.GetOrigin())
    assert grid.direction == pytest.approx(image.GetDirection())


def test_localizers_short_series_and_other_modalities_are_skipped_with_a_line(tmp_path, hu, write_dicom):
    uid = write_dicom(tmp_path / "ct", hu)
    scout = write_dicom(
        tmp_path / "scout", hu[:12], SeriesDescription="Topogram", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    short = write_dicom(tmp_path / "short", hu[:10], SeriesDescription="Biopsy")
    report = write_dicom(tmp_path / "report", hu[:1], SeriesDescription="Dose", Modality="SR")
    write_dicom(tmp_path / "within", hu[:1], uid=uid, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "069.xml").write_text("<LidcReadMessage/>")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM broken")
    volume, _, notes = read(tmp_path)
    assert np.array_equal(volume, hu)
    assert sorted(notes) == sorted(
        [
            f"skipped series {scout} (Topogram, 12 slices): localizer",
            f"skipped series {short} (Biopsy, 10 slices): too short for a chest CT, at least 11 slices are needed",
            f"skipped series {report} (Dose, 1 slice): its modality is SR, not CT",
            f"skipped 1 localizers of series {uid}",
            "passed over, no DICOM files: 069.xml",
        ]
    )


def test_several_series_are_listed_to_choose_from(tmp_path, hu, write_dicom):
    soft = write_dicom(tmp_path / "a", hu[:30], SeriesDescription="B30f")
    sharp = write_dicom(tmp_path / "b", hu, SeriesDescription="B70f")
    with pytest.raises(ValueError, match=r"2 CT series, none of them chosen; .*--series UID") as error:
        choose_series(tmp_path)
    assert f"{soft} (B30f, 30 slices)" in str(error.value) and f"{sharp} (B70f, 40 slices)" in str(error.value)
    assert np.array_equal(read(tmp_path, {sharp, "another case's"})[0], hu)
    with pytest.raises(ValueError, match="2 of them chosen"):
        choose_series(tmp_path, {sharp, soft})


def test_several_patients_in_one_folder(tmp_path, hu, write_dicom):
    write_dicom(tmp_path / "a", hu, PatientID="P1")
    write_dicom(tmp_path / "b", hu, PatientID="P2")
    with pytest.raises(ValueError, match=r"holds CT series of 2 patients \(P1, P2\): make a folder for each"):
        choose_series(tmp_path)


def test_folders_without_a_ct(tmp_path, hu, write_dicom):
    with pytest.raises(ValueError, match="holds no CT series of at least 11 slices: it holds no DICOM file"):
        choose_series(tmp_path)
    write_dicom(tmp_path, hu[:3])
    with pytest.raises(ValueError, match=r"holds no CT series of at least 11 slices: skipped series .* too short"):
        choose_series(tmp_path)


def test_multi_frame_files_are_refused_with_a_way_out(tmp_path, hu, write_dicom):
    write_dicom(tmp_path, hu[:1], NumberOfFrames=40)
    with pytest.raises(ValueError, match=r"multi-frame DICOM, .* dcm2niix"):
        choose_series(tmp_path)


def test_a_missing_slice_is_named_with_its_gap(tmp_path, hu, write_dicom):
    write_dicom(tmp_path, hu)
    (tmp_path / "0017.dcm").unlink()
    with pytest.raises(
        ValueError,
        match=r"a gap of 4\.00 mm between 0016\.dcm \(at -368\.00 mm\) and 0018\.dcm \(at -364\.00 mm\), 2\.00 mm "
        r"elsewhere\. Slices are missing",
    ):
        read(tmp_path)


def test_positions_that_were_rounded_are_no_gaps_but_mixed_thicknesses_are(tmp_path, hu, grid, write_dicom):
    fine = replace(grid, spacing=(1.2, 1.0, 0.625))
    rounding = np.zeros((40, 3))
    rounding[:, 2] = np.round(0.625 * np.arange(40), 1) - 0.625 * np.arange(40)
    write_dicom(tmp_path / "rounded", hu, fine, shifts=rounding)
    assert read(tmp_path / "rounded")[1].spacing[2] == pytest.approx(0.625, abs=0.002)
    mixed = np.zeros((40, 3))
    mixed[20:, 2] = -0.25 * np.arange(20)
    write_dicom(tmp_path / "mixed", hu, fine, shifts=mixed)
    with pytest.raises(ValueError, match="irregular slice spacing"):
        read(tmp_path / "mixed")


def test_slices_at_one_place(tmp_path, hu, write_dicom):
    uid = write_dicom(tmp_path, hu)
    (tmp_path / "copy").mkdir()
    for name in ("0003.dcm", "0004.dcm"):
        (tmp_path / "copy" / name).write_bytes((tmp_path / name).read_bytes())
    volume, _, notes = read(tmp_path)
    assert np.array_equal(volume, hu) and notes == ["2 second copies of slices were passed over"]
    write_dicom(tmp_path / "other phase", hu, uid=uid)
    with pytest.raises(ValueError, match=r"two slices stand at one place, .*0000\.dcm and .*0000\.dcm"):
        read(tmp_path)


def test_a_tilted_gantry_is_refused(tmp_path, hu, write_dicom):
    shifts = np.zeros((40, 3))
    shifts[:, 1] = 0.3 * np.arange(40)
    write_dicom(tmp_path, hu, shifts=shifts)
    with pytest.raises(ValueError, match=r"shifted sideways by up to 11\.7 mm, as a tilted gantry does"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("tag", "value"), [("PixelSpacing", [1.0, 1.25]), ("ImageOrientationPatient", [1, 0, 0, 0, 0.96, 0.28])]
)
def test_slices_that_differ_are_named(tmp_path, hu, grid, write_dicom, tag, value):
    uid = write_dicom(tmp_path, hu)
    above = replace(grid, origin=(*grid.origin[:2], -320.0))
    write_dicom(tmp_path / "more", hu[:1], above, uid=uid, **{tag: value})
    with pytest.raises(ValueError, match=rf"slices of one series differ in {tag}: .*0000\.dcm has"):
        read(tmp_path)


def test_what_is_missing_in_a_header_is_named(tmp_path, hu, write_dicom):
    write_dicom(tmp_path, hu, ImagePositionPatient=None)
    with pytest.raises(ValueError, match=r"0000\.dcm has no ImagePositionPatient: where its voxels lie"):
        read(tmp_path)


def test_damaged_files_are_named(tmp_path, hu, write_dicom):
    write_dicom(tmp_path, hu)
    file = tmp_path / "0005.dcm"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot read .*0005\.dcm"):
        read(tmp_path)
    file.write_bytes(content[:150])
    with pytest.raises(ValueError, match=r"0005\.dcm has no SeriesInstanceUID, it may be damaged"):
        read(tmp_path)


def test_folders_are_found_by_the_uid_of_their_series(tmp_path, hu, write_dicom):
    folders = [tmp_path / "LIDC-IDRI-0001" / "study" / name for name in ("first", "second")]
    uids = [write_dicom(folder, hu[:2]) for folder in folders]
    (folders[0] / "000.xml").write_text("<xml/>")
    again = tmp_path / "again"
    write_dicom(again, hu[:1], uid=uids[1])
    (again / "0000").write_bytes(b"\0" * 128 + b"DICM broken")  # stops no other
    assert series_folders([tmp_path]) == {uids[0]: folders[:1], uids[1]: [folders[1], again]}


def test_slices_without_preamble_are_read_and_what_is_called_like_a_slice_but_is_none_is_named(
    tmp_path, hu, write_dicom
):
    write_dicom(tmp_path, hu)
    last = tmp_path / "0039.dcm"
    content = last.read_bytes()
    last.write_bytes(content[132:])
    (tmp_path / "LICENSE").write_text("no slice")
    (tmp_path / "list.csv").write_text("1")
    assert np.array_equal(read(tmp_path)[0], hu)
    for part in (b"", content[:100]):
        last.write_bytes(part)
        with pytest.raises(ValueError, match=r"0039\.dcm is no DICOM file, it may be damaged"):
            read(tmp_path)
    assert not holds_dicom([last, tmp_path, tmp_path / "LICENSE"])


def test_a_slice_without_intercept_among_others_that_have_one(tmp_path, hu, grid, write_dicom):
    uid = write_dicom(tmp_path, hu[:-1])
    last = replace(grid, origin=(*grid.origin[:2], grid.origin[2] + 78))
    write_dicom(tmp_path / "last", hu[-1:], last, uid=uid, RescaleIntercept=None)
    with pytest.raises(ValueError, match="differ in RescaleIntercept"):
        read(tmp_path)


def test_numbers_that_do_not_go_with_positions_are_pointed_out(tmp_path, hu, grid, write_dicom):
    def numbered(folder, numbers):
        for index, number in enumerate(numbers):
            place = replace(grid, origin=(*grid.origin[:2], grid.origin[2] + 2 * index))
            uid = folder.name + ".1"
            write_dicom(folder, hu[index : index + 1], place, uid=uid, names=[str(index)], InstanceNumber=number)
        return read(folder)[2]

    assert numbered(tmp_path / "1", range(1, 41)) == numbered(tmp_path / "2", range(40, 0, -1)) == []
    (note,) = numbered(tmp_path / "3", range(1, 80, 2))
    assert "InstanceNumber changes by 2 to 2 from slice to slice instead of by 1: slices may be missing" in note
    (note,) = numbered(tmp_path / "4", [1 + index // 2 + 20 * (index % 2) for index in range(40)])
    assert "changes by -19 to 20" in note


def test_a_series_that_is_asked_for_but_cannot_be_used_is_no_other(tmp_path, hu, write_dicom):
    write_dicom(tmp_path / "a", hu)
    short = write_dicom(tmp_path / "b", hu[:5])
    with pytest.raises(ValueError, match=rf"asked for cannot be used: skipped series {short} .* too short"):
        choose_series(tmp_path, {short})


def write_eleven(write_dicom, folder, hu, grid, *, shift=(0, 0, 0), last=None, **tags):
    """Write 11 small slices from z = 0 on, of which the last one is shifted, has other voxels or other tags."""
    grid = replace(grid, origin=(-41.5, 33.25, 0.0))
    uid = write_dicom(folder, hu[:10, :6, :8], grid)
    end = replace(grid, origin=tuple(np.add(grid.origin, (0, 0, 10 * grid.spacing[2])) + shift))
    write_dicom(folder / "last", hu[10:11, :6, :8] if last is None else last, end, uid=uid, **tags)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("step", "most"), [(0.5, 0.105), (5.0, 0.15)])
def test_gaps_may_differ_by_what_is_rounded_away_and_a_hundredth(tmp_path, hu, grid, write_dicom, step, most, sign):
    grid = replace(grid, spacing=(1.2, 1.0, step))
    write_eleven(write_dicom, tmp_path / "even", hu, grid, shift=(0, 0, sign * (most - 0.002)))
    assert read(tmp_path / "even")[1].spacing[2] == pytest.approx(step + sign * (most - 0.002) / 10)
    write_eleven(write_dicom, tmp_path / "uneven", hu, grid, shift=(0, 0, sign * (most + 0.002)))
    with pytest.raises(ValueError, match="irregular slice spacing"):
        read(tmp_path / "uneven")


@pytest.mark.parametrize(("in_plane", "most"), [((0.8, 1.0), 0.4), ((1.0, 0.8), 0.4), ((0.1, 0.15), 0.1)])
def test_slices_may_stand_aside_by_what_is_rounded_away_or_half_a_voxel(
    tmp_path, hu, grid, write_dicom, in_plane, most
):
    grid = replace(grid, spacing=(*in_plane, 2.0))
    write_eleven(write_dicom, tmp_path / "straight", hu, grid, shift=(most - 0.002, 0, 0))
    assert np.array_equal(read(tmp_path / "straight")[0], hu[:11, :6, :8])
    write_eleven(write_dicom, tmp_path / "sheared", hu, grid, shift=(most + 0.002, 0, 0))
    with pytest.raises(ValueError, match="shifted sideways"):
        read(tmp_path / "sheared")


@pytest.mark.parametrize(
    ("tag", "alike", "different"),
    [
        ("ImageOrientationPatient", [1, 0.00098, 0, 0, 1, 0], [1, 0.00102, 0, 0, 1, 0]),
        ("PixelSpacing", [1.0, 1.200098], [1.0, 1.200102]),
    ],
)
def test_slices_agree_up_to_rounding(tmp_path, hu, grid, write_dicom, tag, alike, different):
    write_eleven(write_dicom, tmp_path / "alike", hu, grid, **{tag: alike})
    assert np.array_equal(read(tmp_path / "alike")[0], hu[:11, :6, :8])
    write_eleven(write_dicom, tmp_path / "different", hu, grid, **{tag: different})
    with pytest.raises(ValueError, match=f"slices of one series differ in {tag}"):
        read(tmp_path / "different")


@pytest.mark.parametrize(("tag", "shape"), [("Rows", (5, 8)), ("Columns", (6, 7))])
def test_slices_agree_in_size_to_the_voxel(tmp_path, hu, grid, write_dicom, tag, shape):
    write_eleven(write_dicom, tmp_path, hu, grid, last=hu[10:11, : shape[0], : shape[1]])
    with pytest.raises(ValueError, match=f"slices of one series differ in {tag}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("apart", "words"), [(0.00098, "two slices stand at one place"), (0.00102, "irregular slice spacing")]
)
def test_a_thousandth_of_a_mm_is_one_place(tmp_path, hu, grid, write_dicom, apart, words):
    write_eleven(write_dicom, tmp_path, hu, grid, shift=(0, 0, apart - 10 * grid.spacing[2]))
    with pytest.raises(ValueError, match=words):
        read(tmp_path)


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize("packed", [20, 40])
def test_compressed_files_are_named(tmp_path, hu, write_dicom, packed, ending, pack):
    write_dicom(tmp_path, hu)
    for file in sorted(tmp_path.iterdir())[:packed]:
        file.with_name(f"{file.name}.{ending}").write_bytes(pack(file.read_bytes()))
        file.unlink()
    assert holds_dicom(tmp_path.iterdir())
    with pytest.raises(
        ValueError, match=rf"DICOM files, 0000.dcm.{ending}, .* \({packed}\), beside {40 - packed} that"
    ):
        choose_series(tmp_path)


def test_what_is_compressed_but_no_dicom_is_passed_over_with_a_line(tmp_path, hu, write_dicom):
    write_dicom(tmp_path, hu)
    (tmp_path / "notes.txt.gz").write_bytes(gzip.compress(b"x" * 200))
    (tmp_path / "empty.gz").write_bytes(b"")
    (tmp_path / "damaged.xz").write_bytes(b"xz")
    assert read(tmp_path)[2] == ["passed over, no DICOM files: damaged.xz, empty.gz, notes.txt.gz"]


def test_slices_with_a_uid_each_are_one_series(tmp_path, hu, grid, write_dicom):
    for number, plane in enumerate(hu):
        above = replace(grid, origin=(*grid.origin[:2], grid.origin[2] + grid.spacing[2] * number))
        write_dicom(tmp_path / str(number), plane[None], above, SeriesNumber=3, StudyInstanceUID="1.2")
    volume, found, (note,) = read(tmp_path)
    assert np.array_equal(volume, hu) and found.spacing == pytest.approx(grid.spacing)
    assert note.startswith("WARNING: 40 slices with a SeriesInstanceUID of their own")
    for number, file in enumerate(sorted(tmp_path.rglob("*.dcm"))):  # orientation with a sign of nothing
        header = pydicom.dcmread(file)
        header.ImageOrientationPatient = [*header.ImageOrientationPatient[:5], 1e-6 if number % 2 else -0.0]
        header.FrameOfReferenceUID = f"1.2.{number}"
        header.save_as(file)
    assert np.array_equal(read(tmp_path)[0], hu)
    for number, file in enumerate(sorted(tmp_path.rglob("*.dcm"))):  # two scans
        header = pydicom.dcmread(file)
        header.SeriesNumber = 3 + number % 2
        header.save_as(file)
    with pytest.raises(ValueError, match="2 CT series, none of them chosen"):
        choose_series(tmp_path)


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("ImagePositionPatient", b"0,0\\0,0\\5,0 ", "must be 3 numbers with decimal points"),
        ("ImagePositionPatient", b"0\\0", "must be 3 numbers"),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\1 ", "must be 6 numbers"),
        ("ImageOrientationPatient", b"1\\0\\0\\0,5\\0,9\\0 ", "must be 6 numbers"),
        ("PixelSpacing", b"0,7\\0,7 ", "must be 2 numbers"),
        ("PixelSpacing", b"0\\0.7 ", "must be positive"),
        ("RescaleSlope", b"1,0 ", "must be 1 number with"),
        ("RescaleIntercept", b"-1024,0 ", "must be 1 number with"),
        ("PixelSpacing", b"", "has no PixelSpacing"),
    ],
)
def test_tags_that_are_no_numbers_are_named_with_their_file(tmp_path, hu, write_dicom, tag, value, words):
    write_dicom(tmp_path, hu)
    file = tmp_path / "0007.dcm"
    header = pydicom.dcmread(file)
    number = pydicom.tag.Tag(tag)
    header[number] = pydicom.dataelem.RawDataElement(number, "DS", len(value), value, 0, False, True)
    header.save_as(file)
    with pytest.raises(ValueError, match=rf"0007.dcm.*{tag}.*") as error:
        read(tmp_path)
    assert words in str(error.value)


@pytest.mark.parametrize("cosines", [(1, 0, 0, 0.1, 1, 0), (0, 0, 0, 0, 0, 0)])
def test_rows_and_columns_are_perpendicular(tmp_path, hu, write_dicom, cosines):
    write_dicom(tmp_path, hu)
    for file in tmp_path.iterdir():
        header = pydicom.dcmread(file)
        header.ImageOrientationPatient = list(cosines)
        header.save_as(file)
    with pytest.raises(ValueError, match=r"not perpendicular|without a direction"):
        read(tmp_path)


def test_the_last_slices_with_uids_of_their_own_belong_to_their_series(tmp_path, hu, grid, write_dicom):
    uid = write_dicom(tmp_path / "most", hu[:34], grid, SeriesNumber=3)
    for number, plane in enumerate(hu[34:], 34):
        above = replace(grid, origin=(*grid.origin[:2], grid.origin[2] + grid.spacing[2] * number))
        write_dicom(tmp_path / str(number), plane[None], above, SeriesNumber=3)
    volume, _, (note,) = read(tmp_path)
    assert np.array_equal(volume, hu) and note.endswith(f"are taken as part of series {uid}")


def test_numbers_of_slices_are_not_needed(tmp_path, hu, write_dicom):
    write_dicom(tmp_path, hu)
    header = pydicom.dcmread(tmp_path / "0003.dcm")
    number = pydicom.tag.Tag("InstanceNumber")
    header[number] = pydicom.dataelem.RawDataElement(number, "IS", 4, b"3,5 ", 0, False, True)
    header.save_as(tmp_path / "0003.dcm")
    assert np.array_equal(read(tmp_path)[0], hu)
