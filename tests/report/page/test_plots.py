import re
from xml.etree import ElementTree

import pytest

from nnunetv2_airway.evaluation.summary import CHALLENGES
from nnunetv2_airway.report.page.plots import COLOURS, by_groups, distributions


def metrics(length, small=None) -> dict:
    figures = {"tree_length_detected": length, "branch_detected": 50.0, "branches": 4}
    groups = {"by_diameter": {"0-2": {**figures, "tree_length_detected": small}, ">8": figures}}
    generations = {"by_generation": {str(k): figures for k in range(3)}}
    return {**figures, "dice": 90.0, "precision": 95.0, "exact09": {"leakage_volume_mm3": 7.0}, **groups, **generations}


ATM22 = CHALLENGES["atm22"]
MODELS = {
    "$x$ <b>": {"case 1": metrics(60.0, 10.0), "a/b?<i>": metrics(80.0, 20.0), "none": metrics(None)},
    "a name that is much too long": {"case 1": metrics(70.0)},
}


def test_a_dot_for_each_case_leads_to_it_and_words_say_the_same():
    drawings = distributions(MODELS, ATM22)
    assert [drawing.title for drawing in drawings] == list(ATM22.page)
    length, branches, *_ = drawings
    links = re.findall(r'xlink:href="(#case=[^"]*)"', length.svg)
    assert links == ["#case=case%201", "#case=a/b%3F%3Ci%3E", "#case=case%201"]  # not where it is undefined
    assert len(re.findall("#case=", branches.svg)) == 4
    assert length.words == "$x$ <b>: median 70.0, 60.0 to 80.0; a name that is much too long: median 70.0, 70.0 to 70.0"


def markers(drawing, colour) -> list[float]:
    """Return where the markers of a curve stand, in percent by the ticks of the axis, in the order of the drawing."""
    uses = [element for element in ElementTree.fromstring(drawing.svg).iter() if element.tag.endswith("}use")]
    left = min(float(use.get("x")) for use in uses if float(use.get("x")) > 0)
    ticks = [float(use.get("y")) for use in uses if float(use.get("x")) == left]
    own = [float(use.get("y")) for use in uses if use.get("style") == f"fill: {colour}; stroke: {colour}"]
    return [100 * (max(ticks) - y) / (max(ticks) - min(ticks)) for y in own]


def test_dots_and_curves_stand_where_the_figures_are():
    root = ElementTree.fromstring(distributions(MODELS, ATM22)[0].svg)
    dots = [element for element in root.iter() if element.tag.endswith("}a")]
    heights = [float(use.get("y")) for dot in dots for use in dot.iter() if use.tag.endswith("}use")]
    first, second, other = heights  # 60, 80 and 70 %; y counts down
    assert first - second == pytest.approx(2 * (first - other), rel=1e-3) and first > second
    diameter, generation = by_groups(MODELS)
    assert markers(diameter, COLOURS[0])[:4] == pytest.approx([15, 70, 50, 50], abs=0.1)  # length, then branches
    assert markers(diameter, COLOURS[1])[:2] == pytest.approx([70, 50], abs=0.1)
    assert markers(generation, COLOURS[0])[:6] == pytest.approx([70] * 3 + [50] * 3, abs=0.1)


def test_means_of_groups_are_over_the_cases_where_they_are_defined():
    diameter, generation = by_groups(MODELS)
    assert "$x$ <b>, tree length: 0-2 15 %, >8 70 %" in diameter.words
    assert "a name that is much too long, tree length: >8 70 %" in diameter.words
    assert "branches: 0 50 %, 1 50 %, 2 50 %" in generation.words
    assert all(drawing.svg.count("(12)") == number for drawing, number in ((diameter, 2), (generation, 3)))


@pytest.mark.parametrize(
    "drawing", [*distributions(MODELS, ATM22), *by_groups(MODELS)], ids=lambda drawing: drawing.title
)
def test_drawings_stand_in_a_page_without_disturbing_it(drawing):
    root = ElementTree.fromstring(drawing.svg)
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
    assert any(text.startswith("$x$ <b>") for text in texts)
    assert "currentColor" in drawing.svg and "#010203" not in drawing.svg and "#000000" not in drawing.svg
    assert "<style" not in drawing.svg and "target=" not in drawing.svg and "metadata" not in drawing.svg
    assert "width" not in root.attrib and "viewBox" in root.attrib


def test_names_inside_drawings_are_not_those_of_another():
    drawings = [*distributions(MODELS, ATM22), *by_groups(MODELS)]
    names = [name for drawing in drawings for name in set(re.findall(r' id="([^"]+)"', drawing.svg))]
    own = [name for name in names if "C0" not in name and not name.startswith(("m", "DejaVu"))]
    assert names and len(set(own)) == len(own)
