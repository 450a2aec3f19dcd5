"""Where jobs run. Everything here satisfies `harness.schedule.Executor`: `inline` in this process, `ray` on a
cluster.
"""
