import csv
import html
import json
import re
import shutil

import pytest

from nnunetv2_airway.cli import report
from nnunetv2_airway.measurement import case as case_module
from nnunetv2_airway.report.page.write import make_page
from nnunetv2_airway.report.tables import Model, read_models

pytestmark = pytest.mark.usefixtures("in_this_process")


def rows(text: str, table: str) -> list[list[str]]:
    body = text[text.index(table) :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL)
        ]
        for row in body.split("<tr")[1:]
    ]


def test_two_models_begin_with_the_differences_and_the_case_that_differs_most(page):
    text = (page / "two.html").read_text()
    differences = rows(text, 'id="differences"')
    assert [row[0] for row in differences][:2] == ["Tree length detected, %", "Branch detected, %"]
    cases = rows(text, 'id="table"')
    summaries = [json.loads((page / f"ev_{model}" / "summary.json").read_text()) for model in ("first", "second")]
    lengths = [
        {case["case"]: case["metrics"]["tree_length_detected"] for case in summary["metric_per_case"]}
        for summary in summaries
    ]
    for name, change, *others in cases:
        first, second = (model[name] for model in lengths)
        assert change == f"{second - first:+.1f}"
        assert (others[4], others[9]) == (f"{first:.1f}", f"{second:.1f}")
    assert cases[-1][:2] == ["whole", "+0.0"]
    assert {cases[0][1], cases[1][1]} == {f"{sign}{abs(lengths[0]['half'] - lengths[1]['half']):.1f}" for sign in "+-"}
    mean = sum(lengths[1][name] - lengths[0][name] for name in lengths[0]) / 3
    assert differences[0][3].startswith(f"{mean:+.1f} ± ") and differences[0][4] == "1 of 3"


def test_one_model_begins_with_the_least_length_and_has_no_differences(page):
    text = (page / "one.html").read_text()
    assert 'id="differences"' not in text
    lengths = [float(row[1]) for row in rows(text, 'id="table"')]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]
    published = rows(text, 'id="published"')
    assert published[0][:2] == ["timi (Tang 2022)", "95.919"] and published[-1][0] == "ev_first"
    assert float(published[-1][1]) == pytest.approx(sum(lengths) / 3, abs=0.05)


def test_the_table_of_a_challenge_brings_its_figures(page):
    models = read_models([page / "ev_first", page / "ev_second"])
    text = make_page(models, table="ATM26")
    names = ["DSC", "clDice", "TLD", "BD", "Betti0Error"]
    assert [row[0] for row in rows(text, 'id="differences"')] == names and "clDice: Dice of the centerlines" in text
    (half,) = (row for row in rows(text, 'id="table"') if row[0] == "half")
    metrics = models[1].metrics[models[1].cases.index("half")]["atm26"]
    assert half[-5:] == [f"{metrics[name]:.3f}" for name in names]
    assert rows(text, 'id="published"')[0][:2] == ["nnU-Net, Dice + cross-entropy", "0.9446"]


def test_names_stay_text_and_nothing_is_fetched(page):
    text = (page / "two.html").read_text()
    assert "<script>alert" not in text and "<img" not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "default-src 'none'" in text
    own = re.sub(r"<script>\s*/\*\*.*?@license.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#|data:)', own)
    scenes = re.findall(r'<script type="application/json" id="scene-\d">(.*?)</script>', text)
    assert {json.loads(scene)["case"] for scene in scenes} == {"<img src=x>", "half", "whole"}
    assert all(json.loads(scene)["ct"]["picture"].startswith("data:image/webp") for scene in scenes)


def test_what_cannot_be_shown_is_refused_with_its_name(page, tmp_path):
    folders = [page / "ev_first", page / "ev_second"]
    first, second = read_models(folders)
    with pytest.raises(ValueError, match=r"one model or compares two, got 3: ev_first, ev_second, third"):
        make_page([first, second, Model("third")])
    twice = Model("twice", first.metrics * 2, first.cases * 2, first.evaluations * 2)
    with pytest.raises(ValueError, match=r"each case of a model once: twice has cases that count more than once"):
        make_page([twice])
    with pytest.raises(ValueError, match=r"ev_first and other have no case in common"):
        make_page([first, Model("other", first.metrics[:1], ["x"], first.evaluations[:1])])
    with pytest.raises(ValueError, match=r"has no CT of other.*named like the cases, with or without _0000"):
        make_page([Model("a", first.metrics[:1], ["other"], folders[:1])], ct=page / "imagesTs")
    for line, message in (
        (["--ct", str(page / "imagesTs")], "--ct is for a page: name one with -o"),
        (["-o", str(tmp_path / "a.html"), "--ct", str(tmp_path)], "no images"),
        (["-o", str(tmp_path / "a.pdf")], "not as .pdf"),
    ):
        with pytest.raises(SystemExit) as stop:
            report.main(["-i", str(folders[0]), *line])
        assert message in str(stop.value)
    assert list(tmp_path.iterdir()) == []


def test_a_case_that_one_model_lacks_is_named_and_left_out(page):
    first, second = read_models([page / "ev_first", page / "ev_second"])
    less = Model("less", second.metrics[1:], second.cases[1:], second.evaluations[1:])
    text = make_page([first, less])
    assert len(rows(text, 'id="table"')) == 2
    assert f"ev_first also has {html.escape(second.cases[0])}, which the other lacks" in text
    means = [float(row[1]) for row in rows(text, 'id="published"')[-2:]]
    for mean, model in zip(means, (first, second), strict=True):
        assert mean == pytest.approx(sum(each["tree_length_detected"] for each in model.metrics[1:]) / 2, abs=0.05)


def test_all_cases_that_cannot_be_shown_are_named_at_once(page, tmp_path):
    shutil.copytree(page / "ev_first", tmp_path / "ev")
    for case in ("half", "whole"):
        (tmp_path / "ev" / "cases" / f"{case}.json").unlink()
    with pytest.raises(ValueError, match=r"half: there is no record of half.*\nwhole: there is no record of whole"):
        make_page(read_models([tmp_path / "ev"]))


def test_measured_masks_have_a_page_with_their_figures(page):
    text = (page / "measured.html").read_text()
    assert "<img src=x" not in text and "default-src 'none'" in text
    table = rows(text, '<table id="table">')
    heads = [re.sub(r"<[^>]+>", "", head) for head in re.findall(r"<th scope=\"col\".*?</th>", text)]
    assert heads[:4] == ["case", "volume, ml", "length, mm", "branches"] and len(table) == 3
    with (page / "measured" / "trees.csv").open() as lines:
        trees = {row["case"]: row for row in csv.DictReader(lines)}
    for name, volume, length, branches, *_ in table:
        own = trees[name]
        assert (volume, branches) == (f"{float(own['volume_ml']):.1f}", own["branches"])
        assert length == f"{float(own['total_length_mm']):.1f}"
    scenes = re.findall(r'<script type="application/json" id="scene-\d">(.*?)</script>', text)
    for scene in map(json.loads, scenes):
        assert len(scene["drawings"]) == 2 and "mean of 2 others" in scene["drawings"][0] and scene["ct"]
        (trunk,) = (branch for branch in scene["branches"] if branch["generation"] == 0)
        assert ["angle to parent", "-"] in trunk["facts"]


def test_a_measurement_that_cannot_be_shown_is_refused(page, tmp_path, monkeypatch):
    measured = page / "measured"
    for line, words in (
        (["-i", str(measured)], "on a page of its own"),
        (["-i", str(measured), "-o", str(tmp_path / "a.csv")], "on a page of its own"),
        (["-i", str(measured), "-o", str(tmp_path / "a.html"), "--ct", str(page / "ev_first")], "no images"),
    ):
        with pytest.raises(SystemExit, match=words):
            report.main(line)
    changed = tmp_path / "changed"
    shutil.copytree(measured, changed)
    with monkeypatch.context() as patch:
        patch.setattr(case_module, "digest_of", lambda file: "another")
        with pytest.raises(SystemExit, match="has changed since it was measured: run nnUNetv2_airway_measure again"):
            report.main(["-i", str(changed), "-o", str(tmp_path / "a.html")])
    (changed / "cases" / "whole.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"records of whole in .* are damaged: run nnUNetv2_airway_measure again"):
        report.main(["-i", str(changed), "-o", str(tmp_path / "a.html")])
    (changed / "trees.csv").unlink()  # parts of a job array have no tables yet
    with pytest.raises(SystemExit, match="are damaged"):
        report.main(["-i", str(changed), "-o", str(tmp_path / "a.html")])
    shutil.rmtree(changed / "cases")
    with pytest.raises(SystemExit, match="holds no measurement"):
        report.main(["-i", str(changed), "-o", str(tmp_path / "a.html")])
