"""Unlearning methods, one file each. Pure torch: nothing here knows of Ray, suites or data sets."""
