"""The row schema: one flat row for each finished run, written once here and versioned.

Fractions, not percent; seconds; bytes. `pandas.read_parquet(store + "/rows")` is a supported interface, and
every file has exactly this schema: pandas drops columns that the first file of a folder lacks. What differs
from method to method (hyper-parameters, scores of plugin metrics) is therefore JSON in `params` and `scores`;
`harness.results.load` spreads it over columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1
Row = dict[str, Any]

# name, type, meaning
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("run_id", pa.string(), "16 hex digits that name the run by its content"),
    ("kind", pa.string(), "run | train (an original or retrained model) | timing | skip"),
    ("status", pa.string(), "ok | failed | diverged | blocked (a parent failed) | skipped"),
    ("suite", pa.string(), "suite that asked for it first"),
    ("profile", pa.string(), "corrected | reference"),
    ("dataset", pa.string(), "data set"),
    ("model", pa.string(), "architecture"),
    ("scenario", pa.string(), "full_class | sub_class | random | worst_case | a plugin's"),
    ("target", pa.string(), "what is forgotten: a group's name; null where the scenario has none"),
    ("count", pa.int64(), "images to forget, where the scenario counts"),
    ("method", pa.string(), "method, or baseline | retrain; null for kind = train"),
    ("zero_shot", pa.bool_(), "the method saw nothing of the retained data"),
    ("needs", pa.string(), "what the method was given, e.g. forget+retain"),
    ("seed", pa.int64(), "seed of the unlearning run"),
    ("train_seed", pa.int64(), "seed of the original model"),
    ("split_seed", pa.int64(), "seed of the forget set, and of the retrain to compare with"),
    (
        "deterministic",
        pa.bool_(),
        "neither method nor forget set draws anything: one run stands for all seeds",
    ),
    ("params", pa.string(), "all hyper-parameters, JSON"),
    ("params_origin", pa.string(), "published | tuned | default | suite"),
    ("retain_acc", pa.float64(), "accuracy on the test images of what stays"),
    ("forget_acc", pa.float64(), "accuracy on what was forgotten (its test images where it is a class)"),
    ("test_acc", pa.float64(), "accuracy on the whole reporting part of the test set"),
    ("mia", pa.float64(), "share of forgotten images that the entropy attack calls members"),
    ("mia_attack_acc", pa.float64(), "balanced accuracy of that attack on held-out members and non-members"),
    ("mia_auc", pa.float64(), "AUC of entropy, forgotten training images against their class's test images"),
    ("mia_degenerate", pa.float64(), "1 where the attack had nothing to fit: its score means nothing"),
    ("forget_entropy", pa.float64(), "mean entropy of the outputs on forgotten images, nats"),
    ("val_retain_acc", pa.float64(), "retain_acc on the tuning half of the test set"),
    ("val_forget_acc", pa.float64(), "forget_acc on the tuning half"),
    ("val_mia", pa.float64(), "mia with the tuning half as non-members"),
    ("scores", pa.string(), "all other scores, JSON"),
    ("seconds", pa.float64(), "the method alone (for retrain: its training), device synchronised, warmed up"),
    ("seconds_scoring", pa.float64(), "forward passes and scores"),
    ("seconds_total", pa.float64(), "wall time of the run in its worker"),
    ("peak_bytes", pa.int64(), "most device memory allocated by the method; null on CPU"),
    ("samples_seen", pa.int64(), "images that were handed to the method"),
    ("exclusive", pa.bool_(), "it had its device to itself: only such rows enter a time column"),
    ("device", pa.string(), "e.g. cpu, NVIDIA H200"),
    ("threads", pa.int64(), "CPU threads of the worker"),
    ("host", pa.string(), "where it ran"),
    ("precision", pa.string(), "fp32 | bf16"),
    ("split_digest", pa.string(), "digest of the indices: equal means the same images were forgotten"),
    ("data_digest", pa.string(), "digest of the data set's pixels and labels"),
    ("data_official", pa.bool_(), "the data are the published files, whole"),
    ("data_note", pa.string(), "what is not official about them"),
    ("method_version", pa.int64(), "version of the method's algorithm"),
    ("metric_versions", pa.string(), "versions of the metrics, JSON"),
    ("recipe", pa.string(), "training recipe of the original, name@digest"),
    ("error_type", pa.string(), "class of the error, or the reason's kind"),
    ("error_message", pa.string(), "what went wrong, or why it was skipped"),
    ("parents", pa.string(), "ids of the models it needed, comma-separated"),
    ("attempts", pa.int64(), "how often it was started"),
    ("efface_version", pa.string(), "version of efface"),
    ("git_commit", pa.string(), "commit of the checkout, where there is one"),
    ("git_dirty", pa.bool_(), "the checkout had uncommitted changes"),
    ("torch_version", pa.string(), "version of torch"),
    ("started_at", pa.timestamp("us", tz="UTC"), "when it started"),
    ("schema_version", pa.int64(), "version of this schema"),
    ("weights_digest", pa.string(), "digest of the published weights that training started from"),
    ("warning", pa.string(), "what is unusual: an accuracy outside of what the recipe expects"),
)
SCHEMA = pa.schema([(name, kind) for name, kind, _ in COLUMNS])
NAMES = frozenset(SCHEMA.names)
SCORE_COLUMNS = (
    "retain_acc",
    "forget_acc",
    "test_acc",
    "mia",
    "mia_attack_acc",
    "mia_auc",
    "mia_degenerate",
    "forget_entropy",
    "val_retain_acc",
    "val_forget_acc",
    "val_mia",
)
# a run with one of these is finished; any other status is run again by the next sweep
FINISHED = frozenset({"ok", "diverged"})


def table(rows: list[Row]) -> pa.Table:
    """Rows as an Arrow table of this schema; an unknown column is an error, a missing one is null."""
    for row in rows:
        require_known(row)
    return pa.Table.from_pylist([{"schema_version": SCHEMA_VERSION, **row} for row in rows], schema=SCHEMA)


def require_known(row: Row) -> None:
    """Raises KeyError where a row has a column that the schema lacks."""
    if stray := set(row) - NAMES:
        raise KeyError(f"row {row.get('run_id')} has columns {sorted(stray)} that the schema lacks")


def describe() -> list[Mapping[str, str]]:
    """The documented schema, for `efface list columns`."""
    return [{"column": name, "type": str(kind), "meaning": text} for name, kind, text in COLUMNS]
