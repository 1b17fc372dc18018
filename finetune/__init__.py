"""Models that train on converted datasets, and the comparison that holds them side by side."""
