"""What a simulated sweep would take and cost: as facts, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.imagined import Cluster, facts
from harness.plan import Plan
from harness.progress import clock
from harness.simulate import DRAWS, Forecast, expected, longest_chain, times_of

HEAD = ("makespan", "utilisation", "efficiency", "hours", "cost", "repeated")


def forecast(plan: Plan, cluster: Cluster) -> dict[str, Any]:
    """A plan on the cluster that was asked for, and on ones of doubling size."""
    times = times_of(plan, cluster.seed)
    series = [expected(plan, each, times) for each in _sizes(cluster)]
    return {
        **_facts(expected(plan, cluster, times), None),
        "unit": "GPU" if cluster.gpus else "worker",
        "nodes": cluster.nodes,
        "slots": cluster.slots,
        "spot_loss_per_hour": cluster.spot_loss,
        "price_per_gpu_hour": cluster.price,
        "start_seconds": cluster.start,
        "seed": cluster.seed,
        "jobs": len(plan.jobs),
        "measured_jobs": len(times.measured),
        "longest_chain_seconds": longest_chain(plan, times) * cluster.stretch,
        "scaling": [_facts(one, series[0]) for one in series],
    }


def _sizes(cluster: Cluster) -> list[Cluster]:
    least, most = facts()["gpus" if cluster.gpus else "workers"]
    each = cluster.gpus or 1
    sizes = [each * -(-least // each)]  # whole nodes
    while 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    return [cluster.resized(size) for size in sizes]


def _facts(found: Forecast, base: Forecast | None) -> dict[str, Any]:
    same = {
        "size": found.cluster.size,
        "makespan_seconds": found.makespan,
        "utilisation": found.utilisation,
        "hours": found.hours,
        "cost": found.cost,
        "nodes_lost": found.losses,
        "runs_repeated": found.repeated,
        "lost_worker_hours": found.lost / 3600,
    }
    if base:
        same["efficiency"] = base.hours / found.hours if found.hours else 1.0
    return same


def forecast_text(told: dict[str, Any], cluster: Cluster) -> str:
    """The same for people."""
    unit = told["unit"]
    cost = "" if told["cost"] is None else f" · cost {told['cost']:,.2f} at {cluster.price:g} a GPU-hour"
    lines = [
        "",
        f"simulated on {_where(cluster)}: {clock(told['makespan_seconds'])} for {told['jobs']} pieces of "
        f"work, utilisation {told['utilisation']:.0%}, {_hours(told['hours'])} {unit}-hours{cost}",
        f"  {told['measured_jobs']} take what was measured of their kind, the others what is estimated; "
        f"start-up {clock(told['start_seconds'])}; "
        f"the longest chain of parents and child takes {clock(told['longest_chain_seconds'])}",
    ]
    if cluster.spot_loss:
        lines.append(
            f"  at {cluster.spot_loss:g} losses of a node an hour, {told['nodes_lost']:.1f} nodes are lost, "
            f"{told['runs_repeated']:.1f} runs repeated, {_hours(told['lost_worker_hours'])} worker-hours "
            f"lost: means of {DRAWS} simulations"
        )
    if cluster.per_gpu > 1:
        lines.append(
            f"  {cluster.per_gpu} runs share a GPU and its speed: each takes {cluster.per_gpu} × as long"
        )
    return "\n".join([*lines, "", *_table(told["scaling"], unit)])


def _where(cluster: Cluster) -> str:
    if not cluster.gpus:
        return f"{cluster.workers} worker" + "s" * (cluster.workers > 1)
    return f"{cluster.nodes} × {cluster.gpus} GPUs ({cluster.slots} workers)"


def _table(rows: Sequence[dict[str, Any]], unit: str) -> list[str]:
    head = [f"{unit}s", *HEAD]
    head[4] = f"{unit}-hours"
    lines = [f"{head[0]:>8}" + "".join(f"{name:>15}" for name in head[1:])]
    for row in rows:
        cells = (
            clock(row["makespan_seconds"]),
            f"{row['utilisation']:.0%}",
            f"{row['efficiency']:.0%}",
            _hours(row["hours"]),
            "–" if row["cost"] is None else f"{row['cost']:,.2f}",
            f"{row['runs_repeated']:.1f}" if row["runs_repeated"] else "0",
        )
        lines.append(f"{row['size']:>8,}" + "".join(f"{cell:>15}" for cell in cells))
    base = f"{rows[0]['size']} {unit}" + "s" * (rows[0]["size"] > 1)
    return [*lines, f"Efficiency is against {base}. Idle hours are counted."]


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.3f}"
