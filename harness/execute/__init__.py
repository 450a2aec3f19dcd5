"""Where jobs run: `inline` in this process, `ray` on a cluster. Both are a `harness.schedule.Executor`."""
