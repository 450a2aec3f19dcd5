"""Published numbers are read and checked, and stand beside ours with what is known of the difference."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import results
from harness.compare import COLUMNS, Compared, Comparison, compare, compare_with, summaries
from harness.errors import Misuse
from harness.plan import table_key
from harness.published import FOLDER, HEADER, METRICS, Number, load_numbers, load_paper
from harness.registry import Catalogue
from harness.render import render_comparisons
from harness.row_writer import RowWriter
from harness.spec import REFERENCES
from harness.store import Store
from harness.suite import Suite
from harness.tables import Cell, make_tables

GOLDEN = Path(__file__).parent.parent / "golden"
Make = Callable[..., Suite]

# -------------------- the shipped numbers


def test_the_shipped_file_holds_every_published_number_once() -> None:
    found = Counter(number.table for number in load_numbers(FOLDER / "jit.csv"))
    expected = {"1": 36, "2a": 33, "2b": 36, "3a": 30, "3b": 27, "4a": 27, "4b": 24, "5a": 9, "5b": 24}
    expected |= {"6": 27, "7": 220, "8": 180, "9": 236, "10": 240, "11": 200}
    assert found == expected and sum(found.values()) == 1349


def test_numbers_are_found_as_printed() -> None:
    paper = load_paper()
    jit = paper.number("9", "rocket", "jit", "retain_acc")
    assert jit is not None and (jit.text(), jit.mean, jit.std, jit.n) == ("66.2 ± 0.0", 66.2, 0.0, 10)
    anywhere = paper.number("5a", "n04266014", "jit", "mia")  # the paper names no class there
    assert anywhere is not None and (anywhere.mean, anywhere.std, anywhere.n) == (0.0, None, None)
    assert paper.number("9", "sea", "bdsh", "mia") is None  # the one hole of the paper


def test_every_published_method_is_one_of_ours(catalogue: Catalogue) -> None:
    names = {number.method for number in load_paper().numbers.values()}
    assert names <= {*catalogue.methods, *REFERENCES} and len(names) == 12


def test_every_known_reason_fits_some_published_number(catalogue: Catalogue) -> None:
    """A reason about a table, method or score that the paper does not have is a typing error."""
    numbers = load_paper().numbers.values()
    has = {
        "table": {n.table for n in numbers},
        "method": {n.method for n in numbers},
        "score": {column.key for column in COLUMNS},
        "dataset": set(catalogue.datasets),
        "scenario": set(catalogue.scenarios),
        "profile": {"reference", "corrected"},
        "count": {"50", "100"},
        "retrain_start": {"fresh", "warm"},
        "origin": {"published", "tuned", "default", "suite"},
    }
    for reason in load_paper().reasons:
        for key, values in reason.when.items():
            assert set(values) <= has[key], reason


ROW = {
    "table": "9",
    "dataset": "digits",
    "model": "mlp",
    "scenario": "full_class",
    "forget_class": "3",
    "method": "jit",
    "metric": "mia",
    "mean": "41.5",
    "std": "2.0",
    "n_seeds": "10",
    "note": "",
}


def write(path: Path, *rows: dict[str, str], header: tuple[str, ...] = HEADER) -> Path:
    lines = [",".join(header), *(",".join(row.get(key, "") for key in header) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROW, "mean": "101"}], "line 2: mia is 101, expected 0 to 100 (percent)"),
        ([{**ROW, "mean": "-1"}], "expected 0 to 100"),
        ([{**ROW, "mean": "many"}], "mean is 'many', expected a number"),
        ([{**ROW, "mean": "nan"}], "mean is 'nan', expected a number"),
        ([{**ROW, "mean": ""}], "mean is '', expected a number"),
        ([{**ROW, "metric": "runtime_s", "mean": "-2"}], "expected 0 or more (seconds)"),
        ([{**ROW, "std": "-1"}], "std is -1, expected 0 or more"),
        ([{**ROW, "n_seeds": "ten"}], "n_seeds is 'ten', expected a whole number"),
        ([{**ROW, "metric": "mai"}], "unknown metric 'mai'; did you mean 'mia'"),
        ([{**ROW, "method": ""}], "method is empty"),
        ([ROW, ROW], "line 3: 9 3 jit mia is there twice"),
        ([ROW, {**ROW, "model": "vgg11", "method": "ssd"}], "table 9 is digits vgg11 full_class, expected"),
        ([{**ROW, "note": "a,b"}], "not 11 fields"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(
    tmp_path: Path, rows: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(Misuse) as error:
        load_numbers(write(tmp_path / "p.csv", *rows))
    assert message in str(error.value)


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="columns 'table,mean', expected 'table,dataset"):
        load_numbers(write(tmp_path / "p.csv", ROW, header=("table", "mean")))


@pytest.mark.parametrize(
    ("against", "message"),
    [("paper", "expected published, or the path of a .csv"), ("none.csv", "no such file")],
)
def test_what_to_compare_with_must_be_there(against: str, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        load_paper(against)


def test_a_reason_with_an_unknown_condition_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", ROW)
    path.with_suffix(".toml").write_text('[[reason]]\nwhen = { metod = ["jit"] }\ntext = "x"\n')
    with pytest.raises(Misuse, match="unknown key 'metod'; did you mean 'method'"):
        load_paper(str(path))


# -------------------- one number beside another


def beside(ours: tuple[float, float | None], mean: str, std: float | None) -> Compared:
    number = Number("9", "d", "m", "s", None, "jit", "mia", float(mean), std, 10, "", (mean, ""))
    return Compared("jit", COLUMNS[2], Cell(ours[0], ours[1], 10), number)


@pytest.mark.parametrize(
    ("ours", "mean", "std", "agrees"),
    [
        ((66.0, 1.0), "68.0", 1.0, True),  # the intervals touch
        ((66.0, 0.95), "68.0", 1.0, True),  # and still do within the rounding of 68.0
        ((66.0, 0.9), "68.0", 1.0, False),
        ((66.0, None), "66.0", None, True),
        ((66.04, None), "66.0", 0.0, True),  # what is printed as 66.0
        ((66.06, None), "66.0", 0.0, False),
        ((13.85, None), "13.8", None, True),
        ((13.85, None), "13.82", None, False),  # more digits must be met more closely
        ((40.0, 30.0), "0.0", 0.0, False),
    ],
)
def test_numbers_agree_where_mean_and_std_overlap(
    ours: tuple[float, float | None], mean: str, std: float | None, agrees: bool
) -> None:
    cell = beside(ours, mean, std)
    assert cell.agrees is agrees
    assert cell.difference == pytest.approx(ours[0] - float(mean))


def test_tables_are_in_the_papers_order() -> None:
    assert sorted(["10", "2b", "9", "2a", "1"], key=table_key) == ["1", "2a", "2b", "9", "10"]


# -------------------- a store beside a paper


PAPER = [
    ("3", "baseline", {"retain_acc": "95.0", "forget_acc": "90.0", "mia": "80.0", "runtime_s": "70"}, "0.0"),
    ("3", "retrain", {"retain_acc": "96.0", "forget_acc": "0.0", "mia": "12.0", "runtime_s": "900"}, "1.0"),
    ("3", "jit", {"retain_acc": "91.0", "forget_acc": "8.0", "mia": "9.0", "runtime_s": "75"}, "0.5"),
    ("3", "ssd", {"retain_acc": "66.0", "forget_acc": "0.0", "mia": "1.0", "runtime_s": "81"}, "0.0"),
]


@pytest.fixture
def paper_file(tmp_path: Path) -> Path:
    rows = [
        {**ROW, "forget_class": target, "method": method, "metric": metric, "mean": mean, "std": std}
        | ({"note": "large std"} if method == "jit" and metric == "mia" else {})
        for target, method, means, std in PAPER
        for metric, mean in means.items()
    ]
    path = write(tmp_path / "paper.csv", *rows)
    path.with_suffix(".toml").write_text(
        '[[reason]]\nwhen = { score = ["seconds_with_scoring"] }\ntext = "The paper\'s time includes more."\n'
        '[[reason]]\nwhen = { method = ["retrain"], retrain_start = ["fresh"] }\ntext = "A true retrain."\n'
        '[[reason]]\nwhen = { profile = ["corrected"] }\ntext = "Another protocol."\n'
        '[[reason]]\nwhen = { profile = ["reference"] }\ntext = "Not of this suite."\n'
    )
    return path


def our_rows() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    common = {"kind": "run", "profile": "corrected", "precision": "fp32", "dataset": "digits", "model": "mlp"}
    common |= {"scenario": "full_class", "train_seed": 0, "recipe": "r@0", "data_official": True}
    common |= {"target": "3", "params": "{}", "exclusive": True, "device": "cpu", "threads": 1}

    def add(method: str, seed: int, scores: tuple[float, float, float], **more: Any) -> None:
        row = {"run_id": f"{len(made):016x}", "status": "ok", "method": method, "seed": seed}
        row |= dict(zip(("retain_acc", "forget_acc", "mia"), scores, strict=True))
        row |= {"split_seed": seed, "seconds": 2.0 + seed, "seconds_scoring": 0.5, "params_origin": "tuned"}
        made.append(common | row | more)

    add("baseline", 0, (0.95, 0.9, 0.7), seconds=0.0, deterministic=True)
    for seed in range(3):
        add("retrain", seed, (0.97 + seed / 100, 0.0, 0.11 + seed / 100))
        add("jit", seed, (0.90 + seed / 100, 0.02, 0.4))
    made[-1] |= {"status": "diverged", "error_message": "not finite"}  # a jit
    made[-3] |= {"exclusive": False, "seconds": 999.0}  # another jit
    return made


def our_wanted() -> pd.DataFrame:
    asked = [*our_rows(), {**our_rows()[0], "method": "ssd", "run_id": "f" * 16}]
    asked.append({**our_rows()[0], "method": "neggrad", "run_id": "e" * 16})
    frame = pd.DataFrame(asked)
    frame["count"], frame["tables"] = None, [("9",)] * len(frame)
    return frame


@pytest.fixture
def our_store(tmp_path: Path) -> Store:
    store = Store.create(str(tmp_path / "s"))
    writer = RowWriter(store)
    for row in our_rows():
        writer.add(row)
    writer.flush()
    return store


@pytest.fixture
def compared(our_store: Store, paper_file: Path, small: Make) -> list[Comparison]:
    return compare_with(str(paper_file), results.load(our_store), our_wanted(), small())


@pytest.mark.parametrize("style", ["console", "markdown", "latex", "csv"])
def test_a_comparison_is_what_it_was(compared: list[Comparison], style: str) -> None:
    text = render_comparisons(compared, style)
    golden = GOLDEN / f"compared.{style}"
    if os.environ.get("EFFACE_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def cell(found: Comparison, method: str, score: str) -> Compared:
    return next(c for c in found.cells if (c.label, c.column.key) == (method, score))


def test_each_number_stands_beside_its_published_one(compared: list[Comparison]) -> None:
    (one,) = compared
    jit = cell(one, "jit", "retain_acc")
    assert jit.ours.value == pytest.approx(90.5) and jit.ours.n == 2  # the diverged run is no number
    assert jit.difference == pytest.approx(-0.5) and jit.agrees is True
    assert cell(one, "baseline", "mia").agrees is False
    assert cell(one, "baseline", "mia").difference == pytest.approx(-10)


def test_time_is_given_in_both_definitions_and_only_from_exclusive_devices(
    compared: list[Comparison],
) -> None:
    (one,) = compared
    assert cell(one, "jit", "seconds").ours.value == pytest.approx(2.0)
    assert cell(one, "jit", "seconds_with_scoring").ours.value == pytest.approx(2.5)
    assert cell(one, "jit", "seconds").ours.n == 1
    assert cell(one, "retrain", "seconds_with_scoring").ours.value == pytest.approx(3.5)
    assert cell(one, "jit", "seconds").published is None
    assert cell(one, "jit", "seconds_with_scoring").published is not None


def test_what_was_not_run_or_not_published_is_a_dash_and_counted_apart(compared: list[Comparison]) -> None:
    (one,) = compared
    missing = cell(one, "ssd", "mia")
    assert missing.ours.value is None and missing.agrees is None and missing.published is not None
    assert summaries(compared) == [
        "Table 9: 6 of 9 scores agree with the paper; 3 not run; 0 of 3 times agree."
    ]
    assert "1 of 1 not run yet" in one.notes


def test_known_reasons_are_footnotes_where_they_apply(compared: list[Comparison]) -> None:
    (one,) = compared
    assert "Another protocol." in one.facts and "Not of this suite." not in one.facts
    retrain, jit = cell(one, "retrain", "mia"), cell(one, "jit", "mia")
    assert [one.notes[mark - 1] for mark in retrain.marks] == ["A true retrain."]
    assert "Paper: large std." in [one.notes[mark - 1] for mark in jit.marks]
    assert "1 of 3 diverged: not finite" in [one.notes[mark - 1] for mark in jit.marks]
    times = one.column_marks["seconds_with_scoring"]
    assert [one.notes[mark - 1] for mark in times] == ["The paper's time includes more."]


def test_a_warm_retrain_is_no_reason(our_store: Store, paper_file: Path, small: Make) -> None:
    suite = small(retrain_start="warm")
    (one,) = compare_with(str(paper_file), results.load(our_store), our_wanted(), suite)
    assert not any("true retrain" in note for note in one.notes)


def test_limited_data_and_another_setting_are_said_in_the_summary(
    our_store: Store, paper_file: Path, small: Make
) -> None:
    frame = results.load(our_store).assign(data_official=False, data_note="limited to 9 per half")
    (one,) = compare_with(str(paper_file), frame, our_wanted(), small())
    assert "Not the official data set: limited to 9 per half." in one.facts
    assert summaries([one])[0].endswith("Careful: not the official data.")
    (other,) = compare_with("published", results.load(our_store), our_wanted(), small())
    assert "Careful: not the paper's setting (cifar100 · vgg11 · full_class)" in summaries([other])[0]


def test_tables_are_chosen_by_name(our_store: Store, small: Make) -> None:
    wanted = our_wanted().assign(tables=[("9", "2b")] * len(our_wanted()))
    paper, frame = load_paper(), results.load(our_store)
    assert [one.table for one in compare(frame, wanted, paper, small())] == ["2b", "9"]
    assert [one.table for one in compare(frame, wanted, paper, small(), ["2"])] == ["2b"]


def test_a_suite_without_tables_cannot_be_compared(our_store: Store, small: Make) -> None:
    wanted = our_wanted().assign(tables=[()] * len(our_wanted()))
    with pytest.raises(Misuse, match=r'add e\.g\. table = \["9"\]'):
        compare_with("published", results.load(our_store), wanted, small())


def test_a_gap_without_retrain_is_not_available_and_says_why(our_store: Store) -> None:
    wanted = our_wanted()
    (table,) = make_tables(results.load(our_store).assign(gap=None), wanted[wanted["method"] == "baseline"])
    place = [column.key for column in table.columns].index("gap")
    assert table.lines[0].cells[place].text(table.columns[place]) == "n/a"
    assert any(fact.startswith("Gap n/a: ") for fact in table.facts)


def test_a_csv_of_comparisons_is_read_by_pandas(compared: list[Comparison], tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(render_comparisons(compared, "csv"))
    frame = pd.read_csv(path).set_index(["method", "score"])
    assert frame.loc[("jit", "retain_acc"), "difference"] == pytest.approx(-0.5)
    assert frame.loc[("jit", "retain_acc"), "agree"] == "yes"
    assert pd.isna(frame.loc[("ssd", "mia"), "agree"])
    assert set(METRICS[:3]) < set(frame.index.get_level_values("score"))
