from nnunetv2_airway.evaluation.folder import Evaluation
from nnunetv2_airway.evaluation.summary import flatten, summarise, table, write_summary

CASES = [
    {"dice": 90.0, "branches": 3, "by_generation": {"0": {"dice": 95.0}}, "last": 1.0},
    {"dice": 70.0, "branches": 5, "by_generation": {"0": {"dice": None}, "1": {"dice": 50.0}}, "last": None},
    {"dice": 80.0, "branches": 4, "by_generation": {"0": {"dice": 85.0}, "1": {"dice": 70.0}}, "last": None},
]


def test_statistics_by_hand_over_the_cases_that_have_a_figure():
    summary = summarise(CASES)
    assert summary["mean"] == {
        "dice": 80.0, "branches": 4.0, "by_generation": {"0": {"dice": 90.0}, "1": {"dice": 60.0}}, "last": 1.0
    }  # fmt: skip
    assert summary["std"]["dice"] == 10.0 and summary["std"]["last"] is None
    assert summary["median"]["by_generation"]["1"]["dice"] == 60.0
    assert summary["count"] == {
        "dice": 3,
        "branches": 3,
        "by_generation": {"0": {"dice": 2}, "1": {"dice": 2}},
        "last": 1,
    }
    assert summarise([]) == {"mean": {}, "std": {}, "median": {}, "count": {}}


def test_groups_become_names():
    assert list(flatten(CASES[1])) == [
        ("dice", 70.0), ("branches", 5), ("by_generation.0.dice", None), ("by_generation.1.dice", 50.0), ("last", None)
    ]  # fmt: skip


def evaluation(cases) -> Evaluation:
    records = {
        f"case{k}": {"reference_file": "r", "prediction_file": "p", "metrics": metrics, "branches": []}
        for k, metrics in enumerate(cases)
    }
    return Evaluation(records, [], [])


def test_columns_are_those_of_all_cases_in_order(tmp_path):
    write_summary(tmp_path, evaluation([{**case, "connected_components": 1} for case in CASES]))
    header, first, *_ = (tmp_path / "cases.csv").read_text().splitlines()
    assert header == "case,dice,branches,last,connected_components,by_generation.0.dice,by_generation.1.dice"
    assert first == "case0,90.0,3,1.0,1,95.0,"


def test_a_table_has_a_line_a_case_and_the_statistics():
    lines = table(evaluation(CASES)).splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines if line and not line.startswith("-")}
    assert [cells[name][2] for name in ("case0", "case1", "mean", "std", "median")] == [
        "90.00", "70.00", "80.00", "10.00", "80.00"
    ]  # fmt: skip
    assert cells["case0"][0] == "-"
    assert "mean" not in table(evaluation(CASES[:1]))
    named = evaluation(CASES)
    named.cases["mean"] = named.cases.pop("case1")
    assert [line.split()[3] for line in table(named).splitlines() if line.startswith("mean")] == ["70.00", "80.00"]
