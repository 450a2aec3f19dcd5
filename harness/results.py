"""From a store to a tidy pandas frame, with gaps to the retrained model paired by seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import Misuse
from harness.rows import FINISHED
from harness.spec import REFERENCES
from harness.store import Store

SETTING = ["profile", "precision", "dataset", "model", "scenario", "target", "count", "train_seed", "recipe"]
DIVERGED_POINTS = 100.0
GAP_PARTS = ("retain_acc", "forget_acc", "mia")


def load(store: str | Store, *, kinds: Sequence[str] = ("run",), gaps: bool = True) -> pd.DataFrame:
    """All rows of a store, one a run: hyper-parameters as `param_*`, other scores as columns, gaps added.

    Of a run that was started more than once only the last outcome is kept. Columns `gap_retain_acc`,
    `gap_forget_acc`, `gap_mia` are ours minus retrain, and `gap` is the mean of their sizes: in points,
    paired with the retrain of the same task, original and forget seed.
    """
    held = store if isinstance(store, Store) else Store.open(store)
    frame = held.rows().to_pandas()
    frame = frame[frame["kind"].isin(kinds)].reset_index(drop=True)
    frame = _last_outcomes(frame)
    frame = _spread(frame, "params", "param_")
    frame = _spread(frame, "scores", "")
    return add_gaps(frame) if gaps and "run" in kinds else frame


def _last_outcomes(frame: pd.DataFrame) -> pd.DataFrame:
    """A finished row wins over a failed one; among equals the later."""
    rank = frame["status"].isin(FINISHED).to_numpy()
    order = np.lexsort((np.arange(len(frame)), rank))
    kept = frame.iloc[order].drop_duplicates("run_id", keep="last")
    return kept.sort_index().reset_index(drop=True)


def _spread(frame: pd.DataFrame, column: str, prefix: str) -> pd.DataFrame:
    """A JSON column as columns of its own."""
    if not frame[column].notna().any():
        return frame
    parsed = [json.loads(text) if isinstance(text, str) else {} for text in frame[column]]
    wide = pd.DataFrame(parsed, index=frame.index).add_prefix(prefix)
    return pd.concat([frame, wide[[name for name in wide if name not in frame]]], axis=1)


def add_gaps(frame: pd.DataFrame, parts: Sequence[str] = GAP_PARTS) -> pd.DataFrame:
    """Add `gap_*` and `gap`: signed differences to the paired retrain, and the mean of their sizes, in
    points.

    A deterministic run has one row for all seeds of its task; it is compared with the mean of their retrains.
    """
    retrains = frame[(frame["method"] == "retrain") & (frame["status"] == "ok")]
    one = retrains.groupby([*SETTING, "split_seed"], dropna=False)[list(parts)].mean()
    many = retrains.groupby(SETTING, dropna=False)[list(parts)].mean()
    paired = _lookup(frame, one, [*SETTING, "split_seed"], parts)
    pooled = _lookup(frame, many, SETTING, parts)
    alone = frame["deterministic"].fillna(False).to_numpy(bool)[:, None]
    target = np.where(alone, pooled.to_numpy(float), paired.to_numpy(float))
    ok = (frame["status"] == "ok").to_numpy()[:, None]
    differences = np.where(ok, 100 * (frame[list(parts)].to_numpy(float) - target), np.nan)
    out = frame.copy()
    for number, part in enumerate(parts):
        out[f"gap_{part}"] = differences[:, number]
    out["gap"] = np.abs(differences).mean(axis=1)
    return out


def _lookup(
    frame: pd.DataFrame, values: pd.DataFrame, keys: list[str], columns: Sequence[str]
) -> pd.DataFrame:
    """`values`, indexed by `keys`, for each row of `frame`; missing values in a key match each other."""
    left = frame[keys].reset_index(drop=True)
    right = values.reset_index().astype(left.dtypes.to_dict())  # a key without any value loses its type
    return left.merge(right, on=keys, how="left")[list(columns)]


def of_suite(frame: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    """The rows of the runs that a suite asks for."""
    return frame[frame["run_id"].isin(set(run_ids))].reset_index(drop=True)


def best(frame: pd.DataFrame, objective: str = "val_gap") -> pd.DataFrame:
    """Of each method, data set, model and scenario the hyper-parameters with the smallest mean objective.

    `val_gap` is the gap to retrain on the tuning half of the test set. A run that diverged counts as
    `DIVERGED_POINTS`, or the point would be judged by its lucky seeds alone.
    """
    if objective == "val_gap":
        frame = val_gaps(frame)
    if objective not in frame:
        raise Misuse(f"no objective {objective!r} in these rows; expected val_gap, gap or a score column")
    tried = frame[frame["status"].isin(FINISHED) & ~frame["method"].isin(REFERENCES)].copy()
    tried.loc[tried["status"] == "diverged", objective] = DIVERGED_POINTS
    keys = ["method", "dataset", "model", "scenario"]
    means = tried.groupby([*keys, "params"])[objective].agg(["mean", "count"]).reset_index()
    points = means.groupby(keys)["params"].transform("size")
    chosen = means.assign(tried=points).sort_values("mean", kind="stable").drop_duplicates(keys)
    return chosen.sort_values(keys).reset_index(drop=True)


def val_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `val_gap`, the gap to retrain on the tuning half."""
    names: dict[str, Any] = {f"gap_val_{part}": None for part in GAP_PARTS}
    out = add_gaps(frame, [f"val_{part}" for part in GAP_PARTS])
    return frame.assign(val_gap=out["gap"], **{name: out[name] for name in names})
