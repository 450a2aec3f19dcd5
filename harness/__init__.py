"""What to run, where, and what came out: suite → specs → plan → execute → rows → tables."""

__version__ = "0.1.0"
