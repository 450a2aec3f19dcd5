"""Speed, measured: `python -m tests.bench` for all parts, `python -m tests.bench scoring` for one."""
