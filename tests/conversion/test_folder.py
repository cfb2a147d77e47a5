import csv
import json
import os
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunetv2_airway.conversion.case import Options
from nnunetv2_airway.conversion.folder import Destination, convert_cases
from nnunetv2_airway.conversion.layout import Case
from nnunetv2_airway.conversion.results import _odd_ones

pytestmark = pytest.mark.usefixtures("in_this_process")


def same(options: Options, case: str) -> Options:
    return options


def rows(folder) -> dict[str, dict]:
    with (folder / "conversion_report.csv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def contents(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def source(tmp_path, scans, write):
    """Three cases on disk."""
    folder = tmp_path / "source"
    return [
        Case(name, write(folder / f"ct_{name}.nii.gz", hu), write(folder / f"label_{name}.nii.gz", mask))
        for name, (hu, mask) in zip("abc", scans, strict=True)
    ]


@pytest.fixture
def convert(tmp_path):
    """The function that converts cases into one data set, and that folder."""
    folder = tmp_path / "Dataset510_Airways"

    def run(cases, options=None, **others):
        settings = {"left_out": {}, "description": "airways", "processes": 2, **others}
        return convert_cases(cases, Destination(folder), partial(same, options or Options()), **settings)

    return run, folder


def test_a_case_is_cut_to_its_lungs_and_keeps_values_and_geometry(source, convert, scans, grid):
    run, folder = convert
    assert not run(source, Options(margin=4.0)).failed
    for name, (hu, mask) in zip("abc", scans, strict=True):
        image = sitk.ReadImage(str(folder / "imagesTr" / f"{name}_0000.nii.gz"))
        label = sitk.ReadImage(str(folder / "labelsTr" / f"{name}.nii.gz"))
        for written in (image, label):
            assert written.GetSpacing() == pytest.approx(grid.spacing)
            assert written.GetOrigin() == pytest.approx(grid.origin)
            assert written.GetDirection() == pytest.approx(grid.direction)
        assert np.array_equal(sitk.GetArrayFromImage(label), mask)
        cut = sitk.GetArrayFromImage(image)
        row = rows(folder)[name]
        box = tuple(slice(*map(int, span.split(":"))) for span in row["box_zyx"].split())
        assert cut.dtype == np.int16 and np.array_equal(cut[box], hu[box])
        outside = np.ones(hu.shape, bool)
        outside[box] = False
        assert outside.mean() > 0.2 and not cut[outside].any()
        assert mask[box].sum() == mask.sum() and box[0].stop == 40  # the trachea leaves the volume above the lungs
        assert row["lungs"] == "found" and row["status"] == "training"
        assert (row["shape_zyx"], row["spacing_zyx_mm"], row["orientation"]) == ("40 x 72 x 64", "2 x 1 x 1.2", "LPS")
        assert (int(row["hu_min"]), int(row["hu_max"])) == (hu.min(), hu.max())
        assert int(row["airway_voxels"]) == mask.sum()
        assert float(row["airway_mean_hu"]) == pytest.approx(hu[mask > 0].mean(), abs=0.06)
        assert imread(folder / "conversion" / f"{name}.png").shape[:2] == (240, 240)
    assert imread(folder / "contact_sheet.png").shape[:2] == (480, 720) or imread(folder / "contact_sheet.png").shape[
        :2
    ] == (240, 720)


def test_the_lung_box_is_optional(source, convert, scans):
    run, folder = convert
    run(source[:1], Options(margin=None))
    image = sitk.ReadImage(str(folder / "imagesTr" / "a_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), scans[0][0])
    assert rows(folder)["a"]["box_zyx"] == "0:40 0:72 0:64" and rows(folder)["a"]["lungs"] == "not asked for"


def test_a_lung_label_gives_the_box_which_is_enlarged_to_hold_the_airways(tmp_path, source, convert, scans, write):
    run, folder = convert
    lungs = np.zeros_like(scans[0][1])
    lungs[10:20, 30:50, 20:40] = 3
    lungs[12, 32, 22] = 1
    case = replace(source[0], lungs=write(tmp_path / "lungs.nii.gz", lungs))
    run([case], Options(margin=3.0))
    airways = np.nonzero(scans[0][1])
    expected = [
        f"{min(10 - 2, airways[0].min())}:{max(20 + 2, airways[0].max() + 1)}",
        f"{min(30 - 3, airways[1].min())}:{max(50 + 3, airways[1].max() + 1)}",
        f"{min(20 - 3, airways[2].min())}:{max(40 + 3, airways[2].max() + 1)}",
    ]
    assert rows(folder)["a"]["box_zyx"] == " ".join(expected)
    assert rows(folder)["a"]["lungs"] == "label" and rows(folder)["a"]["notes"] == ""


def test_without_lungs_the_whole_ct_is_kept_and_the_case_named(tmp_path, convert, scans, write):
    run, folder = convert
    hu = scans[0][0].clip(-1024, 300)
    hu = np.where(np.arange(64) < 8, -1000, 40).astype(np.int16) * np.ones_like(hu)
    conversion = run(
        [Case("belly", write(tmp_path / "belly.nii.gz", hu)), Case("a", write(tmp_path / "a.mha", scans[0][0]))]
    )
    assert conversion.records["belly"]["warnings"] == ["no lungs found: the whole CT is kept"]
    assert rows(folder)["belly"]["box_zyx"] == "0:40 0:72 0:64" and rows(folder)["belly"]["status"] == "test"
    assert conversion.records["a"]["warnings"] == []
    image = sitk.ReadImage(str(folder / "imagesTs" / "belly_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), hu)


def test_broken_cases_are_named_and_stop_no_other(tmp_path, source, convert, scans, write):
    run, folder = convert
    hu, mask = scans[0]
    broken = tmp_path / "broken.nii.gz"
    broken.write_text("no image")
    bad = {
        "broken": (Case("broken", broken, source[0].label), "cannot read"),
        "shifted": (Case("shifted", write(tmp_path / "s.nii.gz", hu + 1024), source[0].label), "not in Hounsfield"),
        "flipped": (Case("flipped", source[0].ct, write(tmp_path / "f.nii.gz", mask[::-1])), "along the plane axis"),
        "empty": (Case("empty", source[0].ct, write(tmp_path / "e.nii.gz", 0 * mask)), "the label is empty"),
        "alone": (Case("alone", source[0].ct, problem="there is no label of this name"), "there is no label"),
        "gone": (Case("gone", tmp_path / "gone.nii.gz", source[0].label), "gone.nii.gz"),
    }  # fmt: skip
    conversion = run([*source, *(case for case, _ in bad.values())], left_out={"b": "no good"})
    assert list(conversion.records) == ["a", "c"] and conversion.left_out == {"b": "no good"}
    assert set(conversion.failed) == set(bad)
    report = rows(folder)
    assert list(report) == sorted([*"abc", *bad])
    for name, (_, words) in bad.items():
        assert words in conversion.failed[name] and words in report[name]["warnings"]
        assert report[name]["status"] == "failed"
        assert not list(folder.glob(f"*/{name}*.nii.gz"))
    assert (report["b"]["status"], report["b"]["warnings"]) == ("left out", "no good")
    assert "--accept flipped" in conversion.failed["flipped"]
    assert (folder / "conversion" / "flipped.png").is_file()
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 2
    assert {file.name for file in (folder / "labelsTr").iterdir()} == {"a.nii.gz", "c.nii.gz"}


def test_a_suspicious_label_can_be_accepted(tmp_path, source, convert, scans, write):
    run, folder = convert
    case = replace(source[0], label=write(tmp_path / "f.nii.gz", scans[0][1][::-1]))
    conversion = run([case], Options(accept=True))
    assert not conversion.failed and conversion.records["a"]["warnings"][0].endswith("(accepted)")
    label = sitk.ReadImage(str(folder / "labelsTr" / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(label), scans[0][1][::-1])


def test_it_goes_on_where_it_stopped(source, convert):
    run, folder = convert
    run(source)
    before = contents(folder)
    # interrupted: one case not begun, one without its record, and no results of the whole
    for name in ("imagesTr/a_0000.nii.gz", "conversion/b.json", "conversion_report.csv", "contact_sheet.png"):
        (folder / name).unlink()
    (folder / "conversion" / "c.png").write_bytes(before["conversion/b.png"])
    records = run(source).records
    assert ["from_earlier" in records[name] for name in "abc"] == [False, False, True]
    after = contents(folder)
    assert after.pop("conversion/c.png") == before["conversion/b.png"]
    assert {**after, "contact_sheet.png": b""} == {
        **{name: content for name, content in before.items() if name != "conversion/c.png"}, "contact_sheet.png": b""
    }  # fmt: skip


def test_what_has_changed_is_converted_again_and_what_has_become_bad_is_removed(source, convert, scans, write):
    run, folder = convert
    run(source)
    write(source[0].label, 2 * scans[0][1])
    os.utime(source[0].label, ns=(1, 1))
    write(source[1].ct, scans[1][0] + 1024)
    conversion = run(source)
    assert ["from_earlier" in conversion.records[name] for name in "ac"] == [False, True]
    assert list(conversion.failed) == ["b"] and not list(folder.glob("*/b*.nii.gz"))
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 2
    write(source[1].ct, scans[1][0])
    assert "b" in run(source, Options(scale=(1.0, 0.0))).records


def test_options_that_change_nothing_for_a_case_leave_it_as_it_is(tmp_path, source, convert, scans, write_dicom):
    run, _ = convert
    uids = [write_dicom(tmp_path / "dicom" / name, scans[0][0]) for name in "xy"]
    cases = [*source[:2], Case("dicom", tmp_path / "dicom", source[0].label)]
    assert list(run(cases).failed) == ["dicom"]
    for chosen, kept in ((uids[0], False), (uids[0], True), (uids[1], False), (uids[1], True)):
        records = run(cases, Options(series=(chosen, "1.2.3"), accept=True)).records
        assert "from_earlier" in run(cases).records["dicom"]  # the choice is kept where none is given
        assert ["from_earlier" in records[name] for name in ("a", "b", "dicom")] == [True, True, kept]
        assert records["dicom"]["series"][0] == chosen


def test_a_case_that_has_lost_a_file_is_taken_out(source, convert):
    run, folder = convert
    run(source)
    lost = replace(source[1], label=None, problem="there is no label of this name")
    assert list(run([source[0], lost, source[2]]).failed) == ["b"]
    assert not list(folder.glob("*/b*.nii.gz"))
    source[2].label.unlink()
    assert list(run([source[0], source[2]]).failed) == ["c"]
    assert not list(folder.glob("*/c*.nii.gz"))


def test_options_and_the_lung_label_count_and_a_missing_label_is_made_again(tmp_path, source, convert, scans, write):
    run, folder = convert
    lungs = write(tmp_path / "lungs.nii.gz", np.ones_like(scans[0][1]))
    cases = [replace(source[0], lungs=lungs), *source[1:]]
    run(cases)
    (folder / "labelsTr" / "b.nii.gz").unlink()
    assert ["from_earlier" in record for record in run(cases).records.values()] == [True, False, True]
    os.utime(lungs, ns=(1, 1))
    assert ["from_earlier" in record for record in run(cases).records.values()] == [False, True, True]
    records = run(cases, Options(scale=(1.0, 0.0))).records
    assert not any("from_earlier" in record for record in records.values())
    assert records["a"]["notes"] == ["HU = 1 * stored + 0, as stated"]
    assert all("from_earlier" in record for record in run(cases).records.values())  # what was stated is kept
    records = run(cases, Options(ignore_label_header=True)).records
    assert not any("from_earlier" in record for record in records.values())
    assert all("from_earlier" in record for record in run(cases).records.values())


def test_the_data_of_an_mhd_file_count(tmp_path, convert, scans, write):
    run, folder = convert
    case = Case("a", write(tmp_path / "a.mhd", scans[0][0]), write(tmp_path / "l.mhd", scans[0][1]))
    run([case])
    time = case.ct.stat().st_mtime_ns
    write(case.ct, scans[1][0])
    os.utime(case.ct, ns=(time, time))
    run([case], Options(accept=True))
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / "a_0000.nii.gz")))
    assert image[20, 30, 30] == scans[1][0][20, 30, 30] != scans[0][0][20, 30, 30]


def test_files_that_were_taken_away_by_hand_do_not_count(source, convert):
    run, folder = convert
    run(source[:2])
    for file in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        (folder / file).unlink()
    conversion = run(source[2:])
    assert list(conversion.records) == ["b", "c"]
    assert "not in the folders given now stay in the data set: b. To take one out" in conversion.warnings[0]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 2


def test_what_failed_in_an_earlier_part_stays_in_the_report(tmp_path, source, convert):
    run, folder = convert
    broken = tmp_path / "broken.nii.gz"
    broken.write_text("no image")
    assert list(run([Case("broken", broken, source[0].label), source[0]]).failed) == ["broken"]
    conversion = run(source[1:])
    assert conversion.failed == {} and list(conversion.failed_before) == ["broken"]
    assert rows(folder)["broken"]["status"] == "failed" and len(rows(folder)) == 4


def test_copies_and_labels_that_stand_out_are_pointed_out(tmp_path, source, convert, scans, write):
    run, _ = convert
    wrong = write(tmp_path / "wrong.nii.gz", np.maximum(scans[0][1], np.roll(scans[0][1], 1, 1)))
    cases = [*source, replace(source[0], name="d", label=wrong), Case("e", source[1].ct), replace(source[2], name="f")]
    conversion = run([*cases, replace(source[2], name="g")])
    assert not conversion.failed
    first, second, third, fourth, fifth = conversion.warnings
    assert first.startswith("a, d have the same CT") and second.startswith("b, e have the same CT")
    assert third.startswith("c, f, g have the same CT") and fourth.startswith("c, f, g have the same label")
    assert fifth.startswith("d: the label lies at -717 HU on average, those of the other cases at about -8")


def test_a_label_that_stands_out_is_pointed_out():
    records = {str(n): {"airway_hu": -830.0 - n, "digests": [str(n), str(n)]} for n in range(5)}
    assert _odd_ones(records) == []
    records["5"] = {"airway_hu": -724.0, "digests": ["5", None]}
    (warning,) = _odd_ones(records)
    assert warning.startswith("5: the label lies at -724 HU on average, those of the other cases at about -832")


def test_a_ct_of_impossible_size_is_refused(tmp_path, source, convert, scans, grid, write):
    run, _ = convert
    metres = replace(grid, spacing=tuple(step / 1000 for step in grid.spacing))
    case = Case("a", write(tmp_path / "a.nrrd", scans[0][0], metres), source[0].label)
    assert "is 0.08 mm long: its spacing is not in mm" in run([case]).failed["a"]


def test_a_second_part_of_a_data_set_is_added(source, convert):
    run, folder = convert
    run(source[:1])
    conversion = run(source[1:])
    assert list(conversion.records) == ["a", "b", "c"] == list(rows(folder))
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 3


def test_other_settings_other_sources_and_other_data_are_not_mixed(tmp_path, source, convert, scans, write):
    run, folder = convert
    run(source[:2])
    with pytest.raises(ValueError, match=r"other options \(lung box margin: 10\.0 there, None now\).*--overwrite"):
        run(source, Options(margin=None))
    with pytest.raises(ValueError, match=r"other options \(lumen: None there, \[1\] now\)"):
        run(source, Options(lumen=(1,)))
    moved = replace(source[0], ct=write(tmp_path / "elsewhere.nii.gz", scans[2][0]))
    with pytest.raises(ValueError, match=r"already holds a case a, converted from .*ct_a.*elsewhere.* would replace"):
        run([moved, source[2]])
    before = contents(folder)
    assert list(run(source[2:], Options(margin=None), overwrite=True).records) == ["c"]
    assert not before.keys() & {name for name in contents(folder) if "/b" in name or "/a" in name}
    other = tmp_path / "Dataset510_Other"
    with pytest.raises(ValueError, match=r"already has Dataset510_Airways"):
        convert_cases(source, Destination(other), partial(same, Options()), left_out={}, description="")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="mine exists and was not made by this command"):
            convert_cases(
                source, Destination(mine), partial(same, Options()), left_out={}, description="", overwrite=overwrite
            )


def test_a_folder_in_which_another_run_has_just_begun_is_free(source, convert):
    run, folder = convert
    (folder / "conversion" / ".partial").mkdir(parents=True)
    assert list(run(source[:1]).records) == ["a"]


def test_a_folder_that_is_being_overwritten_stays_ours(source, convert, monkeypatch):
    run, folder = convert
    run(source[:1])
    monkeypatch.setattr("nnunetv2_airway.conversion.folder.write_json", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(source[1:], overwrite=True)
    monkeypatch.undo()
    assert list(contents(folder)) == ["conversion/.settings.json"]
    assert list(run(source[1:]).records) == ["b", "c"]


def test_a_case_that_stands_twice_is_refused_before_any_work(source, convert):
    run, folder = convert
    with pytest.raises(ValueError, match=r"the case a is there twice, .*ct_a\.nii\.gz and .*ct_b\.nii\.gz"):
        run([source[0], replace(source[1], name="a")])
    with pytest.raises(ValueError, match="nothing to convert"):
        run([])
    assert not folder.exists()


def test_a_label_that_is_found_later_moves_the_case(source, convert):
    run, folder = convert
    run([replace(source[0], label=None), source[1]])
    assert (folder / "imagesTs" / "a_0000.nii.gz").is_file()
    run(source[:2])
    assert not (folder / "imagesTs" / "a_0000.nii.gz").exists()
    assert (folder / "imagesTr" / "a_0000.nii.gz").is_file()


def test_subjects_that_repeat_stay_in_one_fold(source, convert):
    run, folder = convert
    cases = [replace(source[i % 3], name=f"case{i}", subject=f"P{i // 2}") for i in range(6)]
    conversion = run(cases)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert conversion.warnings[-1] == "with 3 subjects there are only 3 folds"
    assert sorted(name for fold in splits for name in fold["val"]) == [f"case{i}" for i in range(6)]
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == [f"case{i}" for i in range(6)]
        assert not {int(name[4]) // 2 for name in fold["train"]} & {int(name[4]) // 2 for name in fold["val"]}


def test_where_no_subject_repeats_nnunet_makes_its_own_folds(source, convert):
    run, folder = convert
    folder.mkdir()
    run([replace(case, subject="P1" if case.name < "c" else "P2") for case in source])
    assert (folder / "splits_final.json").exists()
    run([replace(case, subject=case.name) for case in source])
    assert not (folder / "splits_final.json").exists()


def test_patients_of_dicom_files_are_subjects_unless_all_have_one_name(tmp_path, source, convert, scans, write_dicom):
    run, folder = convert
    cases = []
    for name, patient in (("d", "P1"), ("e", "P1"), ("f", "P2")):
        write_dicom(tmp_path / name, scans[0][0], PatientID=patient)
        cases.append(Case(name, tmp_path / name, source[0].label))
    run(cases)
    assert [sorted(fold["val"]) for fold in json.loads((folder / "splits_final.json").read_text())] == [
        ["d", "e"],
        ["f"],
    ]
    assert rows(folder)["d"]["subject"] == "P1"
    write_dicom(tmp_path / "f", scans[0][0], PatientID="P1")
    conversion = run(cases, overwrite=True)
    assert not (folder / "splits_final.json").exists()
    assert "all 3 DICOM cases have the patient id P1, which is taken for anonymisation" in conversion.warnings[-1]


def test_mixed_orientations_are_pointed_out(tmp_path, source, convert, scans, grid, write):
    run, _ = convert
    image = sitk.DICOMOrient(grid.image(scans[0][0]), "RAI")
    sitk.WriteImage(image, str(tmp_path / "turned.nii.gz"))
    conversion = run([*source, Case("turned", tmp_path / "turned.nii.gz", source[0].label)])
    assert conversion.records["turned"]["notes"] == ["label turned from LPS to the CT's RAI"]
    assert "(LPS: a, b, c; RAI: turned)" in conversion.warnings[0]


def test_cts_for_prediction_lie_in_one_folder(tmp_path, source, scans):
    target = Destination(tmp_path / "predict", only_images=True)
    cases = [Case(case.name, case.ct) for case in source]
    settings = {"left_out": {}, "description": ""}
    conversion = convert_cases(cases, target, partial(same, Options()), **settings)
    assert list(conversion.records) == ["a", "b", "c"]
    names = {file.name for file in target.folder.iterdir()}
    assert names == {"conversion", "conversion_report.csv", "contact_sheet.png", *(f"{n}_0000.nii.gz" for n in "abc")}
    (target.folder / "mine_0000.nii.gz").touch()
    (target.folder / "a.nii.gz").touch()  # a prediction
    convert_cases(cases[:1], target, partial(same, Options(margin=None)), **settings, overwrite=True)
    assert {file.name for file in target.folder.glob("*.nii.gz")} == {
        "a_0000.nii.gz", "mine_0000.nii.gz", "a.nii.gz"
    }  # fmt: skip
