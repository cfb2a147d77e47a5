import csv
import json
import re
from pathlib import Path

import pytest

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.report.tables import FORMATS, fill, find_template, read_models, template_names

PUBLISHED = {
    "ATM22": {
        "timi": "95.919 94.729 93.910 93.553",
        "Yang": "94.512 91.920 94.800 94.707",
        "deeptree_damo": "97.853 97.129 92.819 87.928",
        "neu204": "90.974 86.670 94.056 93.027",
        "Sanmed_AI": "88.843 83.350 94.969 95.055",
        "yby-cas": "96.425 95.479 93.827 91.781",
    },
    "BAS": {
        "Qin et al. [20]": "83.6 10.4 81.4 13.8 95.8 1.8",
        "Wang et al. [29]": "86.3 8.5 83.5 11.2 93.4 2.1",
        "Juarez et al. [14]": "84.1 8.6 82.1 12.4 91.4 2.5",
        "Juarez et al. [13]": "68.0 21.1 60.5 23.9 96.4 1.8",
        "Jin et al. [12]": "85.4 10.4 83.1 11.5 93.9 1.9",
        "Zheng et al.": "92.5 4.5 88.7 7.9 91.4 3.3",
    },
    "EXACT09": {
        "Irving et al. [11]": "43.5 19.1 36.4 17.1 98.7 2.9",
        "Pinho et al. [19]": "32.1 6.9 26.9 6.9 96.6 4.9",
        "Bauer et al. [3]": "63.0 10.4 58.4 13.2 98.6 2.1",
        "Born et al. [4]": "41.7 16.2 34.5 13.2 99.6 1.1",
        "Feuerstein et al. [8]": "76.5 13.3 73.3 13.4 84.4 9.5",
        "Inoue et al. [10]": "79.6 13.5 79.9 12.1 88.1 13.2",
        "Xu et al. [34]": "51.7 10.8 44.5 9.4 99.2 1.6",
        "Yun et al. [35]": "65.7 13.1 60.1 11.9 95.4 3.7",
        "Zheng et al.": "80.5 12.5 79.0 11.1 94.2 4.3",
    },
    "ATM26": {"nnU-Net, Dice + cross-entropy": "0.9446 0.900"},
    "AIIB23": {
        "MedibotTeam": "0.9049 0.9365 0.9051 0.9276 0.0786 0.0259",
        "IMR": "0.877 0.951 0.9312 0.9014",
    },
}
"""ATM'22's final ranking and long-term test; tables II and I of Zheng 2021; table 1 of arXiv 2609.37177; AIIB23's final
ranking."""
NUMBER = re.compile(r"(?<!\d)\d{1,3}\.\d+")


def metrics(length: float, branches: float, dice: float = 90.0, precision: float = 95.0) -> dict:
    figures = {"branch_detected": branches, "tree_length_detected": length, "precision": precision}
    shares = {"DSC": dice / 100, "clDice": 0.8, "TLD": length / 100, "BD": branches / 100, "Betti0Error": 2}
    of_aiib = {"IoU": 0.7, "DLR": length / 100, "DBR": branches / 100, "precision": 0.9, "leakage": 0.1, "AMR": 0.2}
    exact = {**figures, "precision": precision - 10}
    return {**figures, "dice": dice, "exact09": exact, "atm26": shares, "aiib23": of_aiib}


def write(folder: Path, *cases: dict, **more) -> Path:
    folder.mkdir(parents=True)
    entries = [{"case": str(k), "metrics": case} for k, case in enumerate(cases)]
    summary = {"metric_per_case": entries, "empty": [], "missing": [], "failed": {}, **more}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def cells(line: str, ending: str) -> list[str]:
    split = {".md": " | ", ".tex": " & "}.get(ending)
    return line.strip("| \\\n").split(split) if split else next(csv.reader([line]))


def of_each(figures: str) -> str:
    """A template of a line for each model: its name, and figures."""
    return "{% for model in models %}\n{{ model.name }}" + (f" {figures}" if figures else "") + "\n{% endfor %}\n"


def plain(name: str) -> str:
    return re.sub(r"[\\{}]", "", name)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures_stand_in_every_format(name, ending):
    assert template_names() == sorted(PUBLISHED)
    found = {}
    for line in find_template(name, ending).read_text().splitlines():
        first, *others = cells(line, ending)
        first = first.replace("\\_", "_")
        for method in PUBLISHED[name]:
            if first.startswith(method) and others:
                found[method] = " ".join(NUMBER.findall(" ".join(others)))
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_row_for_each_model_with_mean_and_standard_deviation(tmp_path, ending):
    folders = [write(tmp_path / "a_b" / "evaluation", metrics(80.0, 70.0), metrics(90.0, 80.0)),
               write(tmp_path / "second", metrics(60.5, 50.25))]  # fmt: skip
    models = read_models(folders)
    template = find_template("ATM22", ending).read_text()
    table = fill(template, models, ending)
    rows = [cells(line, ending) for line in table.splitlines()]
    first = next(row for row in rows if plain(row[0]) == "a_b")
    second = next(row for row in rows if plain(row[0]) == "second")
    assert NUMBER.findall(" ".join(first[1:])) == [
        "85.000", "7.071", "75.000", "7.071", "90.000", "0.000", "95.000", "0.000"
    ]  # fmt: skip
    assert NUMBER.findall(" ".join(second[1:])) == ["60.500", "50.250", "90.000", "95.000"]
    assert "{{" not in table and "{%" not in table
    ours = [line for line in template.splitlines() if "{{" in line or "{%" in line]
    assert [line for line in template.splitlines() if line not in ours] == [
        line for line in table.splitlines() if plain(cells(line, ending)[0]) not in ("a_b", "second")
    ]
    exact = fill(find_template("EXACT09", ending).read_text(), models[1:], ending)
    row = next(row for row in map(lambda line: cells(line, ending), exact.splitlines()) if plain(row[0]) == "second")
    assert NUMBER.findall(" ".join(row[1:])) == ["50.2", "60.5", "85.0"]
    for name, expected in (
        ("ATM26", "0.9000 0.0000 0.8000 0.0000 0.8500 0.0707 0.7500 0.0707 2.0000 0.0000"),
        ("AIIB23", "0.7000 0.0000 0.8500 0.0707 0.7500 0.0707 0.9000 0.0000 0.1000 0.0000 0.2000 0.0000"),
    ):
        filled = fill(find_template(name, ending).read_text(), models[:1], ending)
        row = next(row for row in map(lambda line: cells(line, ending), filled.splitlines()) if plain(row[0]) == "a_b")
        assert " ".join(NUMBER.findall(" ".join(row[1:]))) == expected


def test_evaluations_of_one_name_are_pooled_case_by_case(tmp_path):
    folders = [
        write(tmp_path / "fold_0", metrics(80.0, 1)),
        write(tmp_path / "fold_1", metrics(90.0, 1), metrics(100.0, 1)),
    ]
    [model] = read_models(folders, ["mine", "mine"])
    assert (
        fill(
            of_each("{{ model.cases }} {{ model.mean.tree_length_detected }} {{ model.std.dice | figure }}"),
            [model],
            ".md",
        )
        == "mine 3 90.0 0.0\n"
    )


def test_names_do_not_break_the_table(tmp_path):
    [model] = read_models([write(tmp_path / "x", metrics(1.0, 1))], ['p^2, "50%" | a_b'])
    assert fill(of_each(""), [model], ".md") == r'p^2, "50%" \| a_b' "\n"
    assert fill(of_each(""), read_models([tmp_path / "x"], ["a\\|\n b"]), ".md") == r"a\\\| b" "\n"
    assert next(csv.reader([fill("{% for model in models %}{{ model.name }},1{% endfor %}", [model], ".csv")])) == [
        'p^2, "50%" | a_b',
        "1",
    ]
    assert fill(of_each(""), [model], ".tex") == r'{p\textasciicircum{}2, "50\%" | a\_b}' "\n"


def test_what_is_not_defined_is_a_dash(tmp_path):
    models = read_models([write(tmp_path / "x", {**metrics(1.0, 1), "dice": None})])
    assert fill(of_each("{{ model.mean.dice | figure(2) }} {{ model.std.precision }}"), models, ".md") == "x - -\n"


def test_what_a_reader_of_a_row_should_know(tmp_path):
    first = write(tmp_path / "x", metrics(1.0, 1), missing=["b"], failed={"c": "broken"}, empty=["0"])
    [model] = read_models([first, write(tmp_path / "y", metrics(1.0, 1), metrics(1.0, 1))], ["z", "z"])
    assert model.warnings == [
        "z has cases that were not evaluated: b, c",
        "z has cases with an empty prediction, which lowers mean leakage: 0",
        "z has cases that count more than once: 0",
    ]
    assert read_models([tmp_path / "y"])[0].warnings == []


def test_what_cannot_be_read_or_filled_is_said(tmp_path):
    good = write(tmp_path / "a" / "evaluation", metrics(1.0, 1))
    other = write(tmp_path / "b" / "a", metrics(1.0, 1))
    with pytest.raises(ValueError, match=r"same name \(a, a\): name the models with -n"):
        read_models([good, other])
    with pytest.raises(ValueError, match="got 1 for 2"):
        read_models([good, other], ["a"])
    with pytest.raises(ValueError, match="run nnUNetv2_airway_evaluate first"):
        read_models([tmp_path / "nowhere"])
    for text in (
        "{",
        "[]",
        '{"mean": {}}',
        '{"metric_per_case": [{"metrics": {"1": {"Dice": 1}}}], "failed": {}, "missing": [], "empty": []}',
    ):
        (other / "summary.json").write_text(text)
        with pytest.raises(
            ValueError, match=r"json (is not a summary of|holds no case that this version's) nnUNetv2_airway"
        ):
            read_models([other])
    models = read_models([good])
    with pytest.raises(UserError, match=r"cannot be filled: .*no attribute 'recall'.*for model in models"):
        fill(of_each("{{ model.mean.recall }}"), models, ".md")
    with pytest.raises(UserError, match=r"cannot be filled: .*figure"):
        fill(of_each("{{ model.mean.dice | figure(1, 2) }}"), models, ".md")
    with pytest.raises(UserError, match=r"cannot be filled: figure takes a number of digits.*got '\.1f'"):
        fill(of_each('{{ model.mean.dice | figure(".1f") }}'), models, ".md")
    with pytest.raises(UserError, match=r"no row for the models.*for model in models"):
        fill("{{name}}", models, ".md")  # the language of earlier versions
    with pytest.raises(ValueError, match="given twice"):
        read_models([good, good / ".." / "evaluation"], ["a", "a"])
    with pytest.raises(UserError, match="has no row for the models"):
        fill("| a |", models, ".md")
    with pytest.raises(ValueError, match=r"no template ATM21: .*nor one of ours, AIIB23, ATM22, ATM26, BAS, EXACT09"):
        find_template("ATM21", ".md")
    with pytest.raises(ValueError, match=r"written as \.md, \.csv, \.tex, a page as \.html, not as \.pdf"):
        find_template("ATM22", ".pdf")
    assert find_template("ATM22.md", ".md") == find_template("ATM22", ".md")
    own = tmp_path / "own.md"
    own.write_text(of_each(""))
    assert find_template(str(own), ".md") == own
    with pytest.raises(ValueError, match=r"fills \.md files, not \.tex"):
        find_template(str(own), ".tex")
