"""What must be forgotten, from what, and how we will know: data sets, models, scenarios and metrics."""
