"""The report's experiments, and the page RESULTS.md that is written from their results."""
