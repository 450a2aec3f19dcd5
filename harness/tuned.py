"""Default, published and tuned hyper-parameters side by side, from the rows of suite `tuning`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import Misuse
from harness.results import DIVERGED_POINTS
from harness.rows import FINISHED
from harness.spec import REFERENCES
from harness.suite import Wanted

TUNING = Path(__file__).resolve().parent.parent / "methods" / "tuning.csv"
ORIGINS = ("default", "published", "tuned")
FIRST = (10, 50, 100, 250)  # trials
KEYS = ("method", "model", "scenario", "origin")


def measure(frame: pd.DataFrame, wanted: Sequence[Wanted]) -> str:
    """CSV: gap to retrain of each method, model, scenario and origin of its hyper-parameters.

    A run that diverged counts as `DIVERGED_POINTS`. A method that nobody published values for has no such
    line.
    """
    asked = pd.DataFrame(
        {
            "run_id": [w.spec.id for w in wanted],
            "method": [w.spec.method for w in wanted],
            "model": [w.spec.task.model for w in wanted],
            "scenario": [w.spec.task.scenario for w in wanted],
            "origin": [w.origin for w in wanted],
        }
    ).drop_duplicates()
    asked = asked[~asked["method"].isin(["retrain"])]
    asked.loc[asked["method"] == "baseline", "origin"] = "default"
    held = frame[frame["status"].isin(FINISHED)][["run_id", "status", "gap"]].copy()
    held.loc[held["status"] == "diverged", "gap"] = DIVERGED_POINTS
    joined = asked.merge(held, on="run_id")
    if joined.empty:
        raise Misuse("no rows of suite tuning to measure from; run `efface sweep tuning` first")
    lines = joined.groupby(list(KEYS), sort=True)
    table = lines["gap"].agg(["mean", "std", "count"]).round(2).reset_index()
    table["diverged"] = lines["status"].apply(lambda s: int((s == "diverged").sum())).to_numpy()
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def repeated(csv_text: str, shipped: pd.DataFrame) -> str:
    """CSV: how near a measurement comes to the shipped one, for each scenario, model and origin.

    Over the methods that both have: Spearman's ρ of their gaps, and how far these differ, in points.
    """
    mine = pd.read_csv(io.StringIO(csv_text))
    both = mine.merge(shipped, on=list(KEYS), suffixes=("", "_shipped"))
    both = both[~both["method"].isin(REFERENCES)]
    both["differs"] = (both["mean"] - both["mean_shipped"]).abs()
    lines = [
        {
            **dict(zip(("scenario", "model", "origin"), keys, strict=True)),
            "methods": len(rows),
            "rho": round(float(rows["mean"].corr(rows["mean_shipped"], method="spearman")), 2),
            "median_difference": round(float(rows["differs"].median()), 2),
            "largest_difference": round(float(rows["differs"].max()), 2),
        }
        for keys, rows in both.groupby(["scenario", "model", "origin"])
    ]
    return str(pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))


def summarise(trials: pd.DataFrame) -> str:
    """CSV: one line a search: what it cost, and the best value after the first trials and at its end."""
    if trials.empty:
        raise Misuse("no trials to summarise; run `efface tune` first")
    lines = []
    for keys, rows in trials.sort_values("number").groupby(["method", "model", "scenario", "search_id"]):
        line = dict(zip(("method", "model", "scenario", "search_id"), keys, strict=True))
        line |= {"objective": rows["objective"].iloc[0], "device": _devices(rows)}
        line |= {"trials": len(rows)}
        line |= {"lost": int((rows["status"] != "ok").sum())}  # diverged or failed
        line |= {"device_seconds": round(float(rows["device_seconds"].sum()))}
        line |= {
            f"best_of_{n}": round(float(rows["value"].head(n).min()), 2) for n in FIRST if n <= len(rows)
        }
        lines.append(line | {"best": round(float(rows["value"].min()), 2)})
    return str(pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))


def _devices(rows: pd.DataFrame) -> str:
    """What the trials ran on: models trained on other processors differ, and with them what is best."""
    return ", ".join(sorted(rows["device"].dropna().unique()))


def read(path: Path = TUNING) -> pd.DataFrame:
    """The measured comparison; empty where there is none."""
    if not path.is_file():
        return pd.DataFrame()
    with path.open(newline="", encoding="utf-8") as file:
        return pd.DataFrame(list(csv.DictReader(file))).astype({"mean": float, "std": float, "count": int})


def table(found: pd.DataFrame, scenario: str, model: str) -> list[list[str]]:
    """Lines of method and its gap by origin, best tuned first; an empty cell where nobody published."""
    here = found[(found["scenario"] == scenario) & (found["model"] == model)]
    wide: dict[str, dict[str, Any]] = {
        str(method): {row["origin"]: row for row in rows.to_dict("records")}
        for method, rows in here.groupby("method")
    }
    order = sorted(wide, key=lambda m: min(row["mean"] for o, row in wide[m].items() if o != "published"))
    return [[method, *(_cell(wide[method].get(origin)) for origin in ORIGINS)] for method in order]


def _cell(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['mean']:.1f} ± {row['std']:.1f}"


def rankings(found: pd.DataFrame) -> list[tuple[str, str, str, int, float]]:
    """Of each scenario and model: Spearman's ρ between the gaps under two origins, over n methods."""
    lines = []
    ours = found[~found["method"].isin(REFERENCES)]
    for (scenario, model), here in ours.groupby(["scenario", "model"]):
        wide = here.pivot(index="method", columns="origin", values="mean")
        for other in ("default", "published"):
            both = wide.reindex(columns=[other, "tuned"]).dropna()
            if len(both) > 2:
                rho = float(both[other].corr(both["tuned"], method="spearman"))
                lines.append((str(scenario), str(model), other, len(both), rho))
    return lines


def section(found: pd.DataFrame) -> str:
    """The page's part on tuning, as Markdown."""
    parts = [
        "\n## Default, published, tuned\n",
        "Gap to retrain in points on digits that no search has seen (1, 3, 8; three seeds): with a "
        "method's defaults,",
        "with what was published for CIFAR-100, and with what `efface tune` found on digit 0 in 60 "
        "device-seconds.",
        "To measure again: `efface sweep tuning`, then `efface ledger --tuning STORE > "
        "methods/tuning.csv`.\n",
    ]
    for (scenario, model), _ in found.groupby(["scenario", "model"], sort=True):
        parts.append(f"\n**{scenario}, {model}**\n")
        head = [["method", *ORIGINS], ["---", "---:", "---:", "---:"]]
        parts += ["| " + " | ".join(row) + " |" for row in head + table(found, str(scenario), str(model))]
    parts.append("\nDoes the ranking change? Spearman's ρ between the gaps:\n")
    parts += ["| scenario | model | tuned against | methods | ρ |", "| --- | --- | --- | ---: | ---: |"]
    parts += [f"| {s} | {m} | {other} | {n} | {rho:.2f} |" for s, m, other, n, rho in rankings(found)]
    return "\n".join(parts) + "\n"
