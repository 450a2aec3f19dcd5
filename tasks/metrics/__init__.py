"""Scores, one family a file: pure functions of stored outputs."""
