"""What the command line says: facts of plans, sweeps, stores and runs, and the same in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.budget import cost_facts, cost_line, table_facts, table_lines
from harness.errors import Misuse, did_you_mean
from harness.lock import holder_of
from harness.plan import Plan
from harness.presets import resolve
from harness.progress import KINDS, clock
from harness.registry import Catalogue
from harness.spec import Task
from harness.store import Store
from harness.suite_file import suite_names
from harness.sweep import Outcome

Facts = dict[str, Any]

# -------------------- plans


def plan_facts(plan: Plan, tables: Sequence[str] = ()) -> Facts:
    """A plan as plain data; of a paper's tables only the given ones, where some are given."""
    return {
        "suite": plan.suite.name,
        "runs": len({wanted.spec.id for wanted in plan.wanted}),
        "done": len({wanted.spec.id for wanted in plan.done}),
        "missing": {kind: dict(tally) for kind, tally in plan.counts().items()},
        "worker_seconds": plan.seconds(),
        "measured_rows": plan.measured,
        "cost": cost_facts(plan),
        "tables": table_facts(plan, tables),
        "skips": skip_facts(plan),
    }


def skip_facts(plan: Plan) -> list[Facts]:
    """Skipped pairs with their reasons."""
    return [
        {
            "method": skip.method,
            "dataset": skip.task.dataset,
            "model": skip.task.model,
            "scenario": skip.task.scenario,
            "target": skip.task.target,
            "error_message": skip.reason,
        }
        for skip in plan.skips
    ]


def plan_text(plan: Plan, store: str, tables: Sequence[str] = ()) -> str:
    """A plan for people; of a paper's tables only the given ones, where some are given."""
    facts = plan_facts(plan)
    lines = [
        f"{plan.suite.title}",
        f"suite {plan.suite.name}, profile {plan.suite.profile}, store {store}",
        "",
    ]
    lines.append(f"{'':10}{'missing':>9}{'ready':>9}{'waiting':>9}")
    for kind, name in KINDS.items():
        tally = facts["missing"].get(kind, {})
        ready, waiting = tally.get("ready", 0), tally.get("waiting", 0)
        lines.append(f"{name:10}{ready + waiting:>9}{ready:>9}{waiting:>9}")
    lines.append(f"\n{facts['done']} of {facts['runs']} runs are done.")
    lines += table_lines(plan, tables)
    if plan.jobs:
        lines.append(cost_line(plan))
    for reason, count in Counter(skip.reason for skip in plan.skips).items():
        lines.append(f"skipped ({count}): {reason}")
    return "\n".join(lines)


def plan_line(plan: Plan, store: str) -> str:
    """The first line of a sweep."""
    missing = Counter(job.kind for job in plan.jobs)
    parts = [f"{missing[kind]} {name}" for kind, name in KINDS.items() if missing[kind]]
    what = ", ".join(parts) + " to do" if parts else "nothing to do"
    done = len({wanted.spec.id for wanted in plan.done})
    return f"efface {plan.suite.name}: {what}; {done} runs done before; store {store}"


def wanted_frame(plan: Plan) -> pd.DataFrame:
    """The runs that a suite asks for, one a row, in its order; `tables` of a paper that a run serves."""
    tables: dict[str, dict[str, None]] = {}
    for wanted in plan.wanted:
        tables.setdefault(wanted.spec.id, {}).update(dict.fromkeys(wanted.tables))
    rows = [
        {
            "run_id": wanted.spec.id,
            "method": wanted.spec.method,
            "params": json.dumps(dict(wanted.spec.params)),
            "tables": tuple(tables[wanted.spec.id]),
            **{
                name: getattr(wanted.spec.task, name)
                for name in ("dataset", "model", "scenario", "target", "count")
            },
        }
        for wanted in plan.wanted
    ]
    frame = pd.DataFrame(
        rows,
        columns=["run_id", "method", "params", "dataset", "model", "scenario", "target", "count", "tables"],
    )
    return frame.drop_duplicates("run_id")


# -------------------- sweeps


def outcome_facts(outcome: Outcome, plan: Plan, store: str) -> Facts:
    """A sweep's outcome as plain data."""
    counts: dict[str, dict[str, int]] = {}
    for (kind, status), count in sorted(outcome.counts.items()):
        counts.setdefault(kind, {})[status] = count
    failures = [
        {"run_id": job.id, "what": job.spec.label, "status": row["status"], "why": row.get("error_message")}
        for job, row in outcome.failures
    ]
    return {
        "suite": plan.suite.name,
        "store": store,
        "counts": counts,
        "done_before": len({wanted.spec.id for wanted in plan.done}),
        "failures": failures,
        "warnings": [
            {"run_id": job.id, "what": job.spec.label, "why": row["warning"]} for job, row in outcome.warnings
        ],
        "seconds": outcome.seconds,
    }


def outcome_text(outcome: Outcome, plan: Plan, store: str, suite: str) -> str:
    """The end of a sweep for people: what was done, what failed and how to see it."""
    lines = []
    states: Counter[str] = Counter()
    for (_, status), count in outcome.counts.items():
        states[status] += count
    if plan.jobs:
        told = ", ".join(f"{count} {status}" for status, count in states.items())
        lines.append(f"{told} in {clock(outcome.seconds)}")
    for job, row in [pair for pair in outcome.failures if pair[1]["status"] != "blocked"][:10]:
        lines.append(f"  failed  {job.spec.label}: {row.get('error_message')}")
        lines.append(f"          efface show {job.id} --store {store}")
    lines += [f"  warning {job.spec.label}: {row['warning']}" for job, row in outcome.warnings[:10]]
    blocked = sum(row["status"] == "blocked" for _, row in outcome.failures)
    if blocked:
        lines.append(f"  blocked {blocked} runs whose parent failed; the next sweep tries them again")
    lines.append(f"rows: {store}/rows (Parquet)   tables: efface tables {suite} --store {store}")
    return "\n".join(lines)


# -------------------- store


def store_facts(store: Store) -> Facts:
    """What a store holds."""
    frame = store.rows(["run_id", "kind", "status", "suite", "method"]).to_pandas()
    tally = frame.groupby(["kind", "status"], dropna=False).size()
    return {
        "store": store.url,
        "rows": len(frame),
        "files": len(store.segments()),
        "by_kind": {f"{kind} {status}": int(count) for (kind, status), count in tally.items()},
        "suites": sorted(frame["suite"].dropna().unique()),
        "models": len(store.names("models")) // 2,
        "outputs": sum(name.endswith(".parquet") for name in store.names("outputs")),
        "held_by": holder_of(store),
    }


def store_text(facts: Mapping[str, Any]) -> str:
    """The same for people."""
    held = facts["held_by"]
    lines = [
        f"store    {facts['store']}",
        f"rows     {facts['rows']} in {facts['files']} files",
        f"suites   {', '.join(facts['suites']) or 'none'}",
        *(f"         {count:>7} {what}" for what, count in facts["by_kind"].items()),
        f"models   {facts['models']}",
        f"outputs  {facts['outputs']}",
        f"sweep    {'process ' + str(held['pid']) + ' on ' + held['host'] if held else 'none is running'}",
    ]
    return "\n".join(lines)


def run_facts(store: Store, run_id: str, catalogue: Catalogue) -> Facts:
    """The last outcome of one run, with the source of each hyper-parameter and its log."""
    frame = store.rows().to_pandas()
    found = frame[frame["run_id"].str.startswith(run_id)]
    if found.empty or found["run_id"].nunique() > 1:
        known = [str(name) for name in frame["run_id"].unique()]
        many = (
            f"{found['run_id'].nunique()} runs start so" if len(found) else did_you_mean(run_id, known)[:200]
        )
        raise Misuse(f"no run {run_id!r} in {store.url}; {many}")
    row = {str(name): _plain(value) for name, value in found.iloc[-1].items()}
    whole = row["run_id"]
    log = store.read(f"logs/{whole}.txt").decode() if f"{whole}.txt" in store.names("logs") else ""
    facts = {name: value for name, value in row.items() if value is not None}
    return {**facts, "sources": _sources(facts, catalogue), "log": log}


def _plain(value: Any) -> Any:
    """None for what pandas calls missing, and whole numbers as such: a column with holes made them floats."""
    if not isinstance(value, str) and pd.isna(value):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 1 else value


def _sources(facts: Facts, catalogue: Catalogue) -> dict[str, str]:
    """Where each hyper-parameter of a run comes from, as far as today's presets tell."""
    if facts.get("method") not in catalogue.methods or facts["kind"] != "run":
        return {}
    names = ("dataset", "model", "scenario", "target", "count", "profile")
    task = Task(**{name: facts.get(name) for name in names})  # type: ignore[arg-type]
    today = resolve(catalogue, facts["method"], task)
    expected = dict(today.params)
    return {
        name: f"{value!r}  {today.sources[name] if expected.get(name) == value else 'the suite'}"
        for name, value in json.loads(facts["params"]).items()
        if name in expected
    }


def run_text(facts: Mapping[str, Any]) -> str:
    """The same for people."""
    width = max(map(len, facts))
    lines = [f"{name:{width}}  {value}" for name, value in facts.items() if name not in ("log", "sources")]
    if facts["sources"]:
        lines += ["\nhyper-parameters", *(f"  {name} = {text}" for name, text in facts["sources"].items())]
    if facts["kind"] == "run":
        lines.append(f"\nto run it alone: {_alone(facts)}")
    none = "none: this run had nothing to log, or its worker died before it could"
    lines.append(f"\nlog\n{facts['log']}" if facts["log"] else f"\nlog: {none}")
    return "\n".join(lines)


def _alone(facts: Mapping[str, Any]) -> str:
    suite = facts["suite"] if facts["suite"] in suite_names() else f"{facts['suite']}.toml"
    words = [f"efface sweep {suite} --on inline --store NEW"]
    for name in ("method", "model", "dataset", "scenario", "target", "seed"):
        if name in facts:
            words.append(f"--{name}s {facts[name]}")
    return " ".join(words)


def preset_text(best: pd.DataFrame, plan: Plan, catalogue: Catalogue, objective: str) -> str:
    """The best points of a grid as preset rows."""
    grid = plan.suite.grid
    parts = []
    for row in best.to_dict("records"):
        chosen = json.loads(row["params"])
        names = [name for name in chosen if name in grid.get(row["method"], {})]
        given = [name for name in names if chosen[name] is not None]
        unset = [name for name in names if chosen[name] is None]
        params = ", ".join(f"{name} = {json.dumps(chosen[name])}" for name in given)
        source = (
            f"best of {row['tried']} points in suite {plan.suite.name} by {objective}: "
            f"{row['mean']:.2f} points over {row['count']} runs"
        )
        lines = [
            "[[preset]]",
            f'method = "{row["method"]}"',
            *(f'{key} = ["{row[key]}"]' for key in ("dataset", "model", "scenario")),
            f'profile = "{plan.suite.profile}"',
            'origin = "tuned"',
            f'source = "{source}"',
            f"params = {{ {params} }}",
            *([f"unset = {json.dumps(unset)}"] if unset else []),
            "",
        ]
        parts.append("\n".join(lines))
    return "\n".join(parts)
