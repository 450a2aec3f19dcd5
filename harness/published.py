"""Published numbers: a CSV in the paper's names and percents, read and checked, and what is known of them."""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import Misuse, unknown

FOLDER = Path(__file__).with_name("suites") / "published"
HEADER = (
    "table",
    "dataset",
    "model",
    "scenario",
    "forget_class",
    "method",
    "metric",
    "mean",
    "std",
    "n_seeds",
    "note",
)
PERCENT = ("retain_acc", "forget_acc", "mia")
METRICS = (*PERCENT, "runtime_s")
WHEN = (
    *("table", "dataset", "model", "scenario", "count"),
    *("method", "score", "profile", "retrain_start", "origin"),
)
NO_TARGET = ("random", "unspecified")  # scenarios whose forget_class names no class


@dataclass(frozen=True, slots=True)
class Number:
    """One published number."""

    table: str
    dataset: str
    model: str
    scenario: str
    target: str | None  # None where no class is named
    method: str
    metric: str  # one of METRICS
    mean: float  # percent, or seconds
    std: float | None  # None where none is printed
    n: int | None
    note: str
    printed: tuple[str, str]  # mean and std, letter by letter

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit of the mean."""
        return 0.5 * 10.0 ** -len(self.printed[0].partition(".")[2])

    def text(self) -> str:
        """As the paper prints it."""
        return " ± ".join(part for part in self.printed if part)


@dataclass(frozen=True)
class Reason:
    """Why numbers of a kind differ, as far as it is known."""

    when: Mapping[str, Sequence[str]]
    text: str

    def fits(self, facts: Mapping[str, str]) -> bool:
        return all(facts.get(key) in allowed for key, allowed in self.when.items())


@dataclass(frozen=True)
class Paper:
    """All numbers of a paper, by (table, target, method, metric), and what is known of them."""

    title: str
    numbers: Mapping[tuple[str, str | None, str, str], Number]
    names: Mapping[str, Sequence[str]]
    reasons: Sequence[Reason]

    def number(self, table: str, target: str | None, method: str, metric: str) -> Number | None:
        """The number for a target, or for any where the paper names none."""
        found = self.numbers.get((table, target, method, metric))
        return found or self.numbers.get((table, None, method, metric))

    def setting(self, table: str) -> tuple[str, str, str] | None:
        """Data set, model and scenario of a table, in the paper's names."""
        first = next((n for n in self.numbers.values() if n.table == table), None)
        return (first.dataset, first.model, first.scenario) if first else None

    def known(self, facts: Mapping[str, str], number: Number | None) -> list[str]:
        """What is known of one number: reasons why it may differ, and the notes of the CSV.

        Of a score that the paper does not have, only what is said of that score itself.
        """
        fitting = [reason for reason in self.reasons if reason.fits(facts)]
        if number is None:
            return [reason.text for reason in fitting if reason.when.get("score") == [facts["score"]]]
        notes = number.note.split("; ") if number.note else []
        return [*(reason.text for reason in fitting), *(f"Paper: {note}." for note in notes)]

    def means(self, theirs: str, ours: str) -> bool:
        """Whether a name of ours stands for one of the paper's."""
        return ours == theirs or ours in self.names.get(theirs, ())


def load_paper(against: str = "published") -> Paper:
    """The shipped numbers, or a CSV of the same columns; a TOML beside it may hold names and reasons."""
    if against != "published" and not against.endswith(".csv"):
        raise Misuse(f"--against {against}: expected published, or the path of a .csv with published numbers")
    path = FOLDER / "jit.csv" if against == "published" else Path(against).expanduser()
    if not path.is_file():
        raise Misuse(f"--against {against}: no such file; expected a CSV with the columns {','.join(HEADER)}")
    numbers = load_numbers(path)
    told: dict[str, Any] = {}
    if path.with_suffix(".toml").is_file():
        told = tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8"))
    rows = enumerate(told.get("reason", []), 1)
    reasons = [_reason(row, f"{path.stem}.toml, reason {number}") for number, row in rows]
    table = {(n.table, n.target, n.method, n.metric): n for n in numbers}
    return Paper(told.get("title", path.stem), table, told.get("names", {}), reasons)


def load_numbers(path: Path) -> list[Number]:
    """Every row of a CSV of published numbers. Raises Misuse, with the line, where one cannot be one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != HEADER:
                found = ",".join(reader.fieldnames or ())
                raise Misuse(f"{path.name}: columns {found!r}, expected {','.join(HEADER)!r}")
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Misuse(f"{path.name}: no CSV file: {error}") from None
    numbers: dict[tuple[str, str | None, str, str], Number] = {}
    settings: dict[str, tuple[str, ...]] = {}
    for line, row in rows:
        number = _number(row, f"{path.name}, line {line}")
        key = (number.table, number.target, number.method, number.metric)
        if key in numbers:
            raise Misuse(f"{path.name}, line {line}: {' '.join(map(str, key))} is there twice; remove one")
        setting = (number.dataset, number.model, number.scenario)
        if settings.setdefault(number.table, setting) != setting:
            known = " ".join(settings[number.table])
            raise Misuse(
                f"{path.name}, line {line}: table {number.table} is {' '.join(setting)}, expected {known}"
            )
        numbers[key] = number
    return list(numbers.values())


def _number(row: Mapping[str, Any], where: str) -> Number:
    if None in row or None in row.values():
        raise Misuse(f"{where}: not {len(HEADER)} fields, as the header has")
    for key in ("table", "dataset", "model", "scenario", "method"):
        if not row[key]:
            raise Misuse(f"{where}: {key} is empty, expected a name")
    if row["metric"] not in METRICS:
        raise unknown("metric", row["metric"], METRICS, where)
    mean, std = _float(row, "mean", where), _float(row, "std", where) if row["std"] else None
    if mean < 0 or (row["metric"] in PERCENT and mean > 100):
        raise Misuse(f"{where}: {row['metric']} is {mean:g}, expected {_range(row['metric'])}")
    if std is not None and std < 0:
        raise Misuse(f"{where}: std is {std:g}, expected 0 or more, or nothing")
    if row["n_seeds"] and not row["n_seeds"].isdecimal():
        raise Misuse(f"{where}: n_seeds is {row['n_seeds']!r}, expected a whole number, or nothing")
    return Number(
        table=row["table"],
        dataset=row["dataset"],
        model=row["model"],
        scenario=row["scenario"],
        target=None if row["scenario"] in NO_TARGET else row["forget_class"] or None,
        method=row["method"],
        metric=row["metric"],
        mean=mean,
        std=std,
        n=int(row["n_seeds"]) if row["n_seeds"] else None,
        note=row["note"],
        printed=(row["mean"], row["std"]),
    )


def _range(metric: str) -> str:
    return "0 to 100 (percent)" if metric in PERCENT else "0 or more (seconds)"


def _float(row: Mapping[str, str], key: str, where: str) -> float:
    try:
        value = float(row[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Misuse(f"{where}: {key} is {row[key]!r}, expected a number")
    return value


def _reason(row: Mapping[str, Any], where: str) -> Reason:
    for key in row.get("when", {}):
        if key not in WHEN:
            raise unknown("key", key, WHEN, where)
    if not isinstance(row.get("text"), str):
        raise Misuse(f"{where}: no text")
    return Reason(row.get("when", {}), row["text"])
