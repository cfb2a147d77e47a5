import csv
import json

import pytest

from nnunetv2_airway.cli import report
from nnunetv2_airway.report.ranking import rank
from nnunetv2_airway.report.tables import Model

SHARES = {
    "ours": [(0.90, 0.80, 0.70, 0.6, 0), (0.92, 0.90, 0.90, 0.8, 2)],
    "stock": [(0.95, 0.85, 0.60, 0.5, 0), (0.93, 0.85, 0.85, 0.7, 1)],
    "old": [(0.90, 0.70, 0.50, 0.4, 3), (0.91, 0.80, 0.80, 0.6, 0)],
}
NAMES = ("DSC", "clDice", "TLD", "BD", "Betti0Error")


def metrics(shares: tuple) -> dict:
    dsc, _, length, branches, _ = shares
    return {
        "tree_length_detected": 100 * length,
        "branch_detected": 100 * branches,
        "dice": 100 * dsc,
        "precision": 96.0,
        "branches": 30,
        "atm26": dict(zip(NAMES, shares, strict=True)),
    }


def models() -> list[Model]:
    return [Model(name, [metrics(case) for case in cases], ["a", "b"]) for name, cases in SHARES.items()]


def test_positions_are_means_of_ranks_by_hand():
    ranked = rank(models())
    assert [each.name for each in ranked] == ["ours", "stock", "old"]
    by_name = {each.name: each for each in ranked}
    # DSC of case a: stock first, the others share ranks 2 and 3; of case b: stock, ours, old
    assert by_name["ours"].ranks == {"DSC": 2.25, "clDice": 1.5, "TLD": 1, "BD": 1, "Betti0Error": (1.5 + 3) / 2}
    assert by_name["stock"].ranks == {"DSC": 1, "clDice": 1.5, "TLD": 2, "BD": 2, "Betti0Error": (1.5 + 2) / 2}
    assert by_name["old"].ranks == {"DSC": 2.75, "clDice": 3, "TLD": 3, "BD": 3, "Betti0Error": (3 + 1) / 2}
    assert by_name["ours"].position == pytest.approx((2.25 + 1.5 + 1 + 1 + 2.25) / 5)
    # means of DSC 0.91, 0.94, 0.905; of clDice 0.85 twice, 0.75; of Betti-0 error 1, 0.5, 1.5
    means = {"ours": (2 + 1.5 + 1 + 1 + 2) / 5, "stock": (1 + 1.5 + 2 + 2 + 1) / 5, "old": 3}
    assert {name: each.position_of_means for name, each in by_name.items()} == pytest.approx(means)
    score = "ATM22 score"
    assert by_name["ours"].values(score) == pytest.approx([(70 + 60 + 90 + 96) / 4, (90 + 80 + 92 + 96) / 4])
    assert by_name["stock"].differences(by_name["ours"], "DSC") == pytest.approx([0.05, 0.01])


def test_only_common_cases_count_and_what_is_undefined_ranks_alike():
    first, second, _ = models()
    first.metrics[0]["atm26"]["BD"] = second.metrics[0]["atm26"]["BD"] = None
    first.metrics[0]["branch_detected"] = second.metrics[0]["branch_detected"] = None
    first.metrics.append(metrics((0.1, 0.1, 0.1, 0.1, 9)))
    first.cases.append("c")
    stock, ours = rank([second, first])  # equals stay in their order
    assert stock.position == ours.position == 1.5 and list(ours.figures) == ["a", "b"]
    assert ours.ranks["BD"] == 1.25 and ours.values("BD") == [0.8] and len(ours.values("ATM22 score")) == 1
    with pytest.raises(ValueError, match="two or more"):
        rank([first])
    with pytest.raises(ValueError, match=r"ours, z have no case in common"):
        rank([first, Model("z", first.metrics[:1], ["z"])])
    first.metrics[1]["branches"] = 31
    with pytest.raises(ValueError, match="against different references of b, whose numbers of branches"):
        rank([first, second])
    with pytest.raises(ValueError, match="once: z has cases that count more than once: a"):
        rank([first, Model("z", first.metrics[:2], ["a", "a"])])


def test_the_command_prints_and_writes_a_ranking(tmp_path, capsys):
    folders = []
    for name, cases in SHARES.items():
        entries = [{"case": case, "metrics": metrics(each)} for case, each in zip("ab", cases, strict=True)]
        if name == "old":
            entries.append({"case": "c", "metrics": metrics(cases[0])})
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        summary = {"metric_per_case": entries, "empty": [], "missing": ["lost"], "failed": {}}
        (folders[-1] / "summary.json").write_text(json.dumps(summary))
    line = ["-i", *map(str, folders), "--rank"]
    report.main(line)
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in out.splitlines() if row.startswith("|")]
    assert rows[0] == ["model", "mean rank", *(f"in {name}" for name in NAMES), "rank of means", "cases"]
    assert rows[2] == ["ours", "1.60", "2.25", "1.50", "1.00", "1.00", "2.25", "1.50", "2"]
    (change,) = (row for row in rows if row[0] == "stock" and "better" in row[1])
    assert change[1] == "+0.0300 ± 0.0283, 2 better, 0 worse" and change[5] == "-0.5000 ± 0.7071, 1 better, 0 worse"
    assert "WARNING: not ranked, since a model lacks them: c" in out
    assert "WARNING: ours has cases that were not evaluated: lost" in out

    report.main([*line, "-o", str(tmp_path / "new" / "rank.csv")])
    with (tmp_path / "new" / "rank.csv").open(newline="") as stream:
        table = {row["model"]: row for row in csv.DictReader(stream)}
    assert list(table) == ["ours", "stock", "old"]
    assert float(table["stock"]["TLD_difference"]) == pytest.approx((-0.1 - 0.05) / 2)
    assert float(table["old"]["mean_rank"]) == pytest.approx((2.75 + 3 + 3 + 3 + 2) / 5)
    assert (table["old"]["BD_better"], table["old"]["BD_worse"], table["ours"]["ATM22_score_worse"]) == ("0", "2", "0")
    for more, words in (
        (["-o", str(tmp_path / "rank.html")], r"written as \.md or \.csv, not as \.html"),
        (["--ct", str(tmp_path)], "--rank makes no page"),
        (["-t", "AIIB23"], "no published figures"),
    ):
        with pytest.raises(SystemExit, match=words):
            report.main([*line, *more])
    (tmp_path / "trees.csv").touch()
    with pytest.raises(SystemExit, match="--rank is for evaluations"):
        report.main(["-i", str(tmp_path), "--rank"])
