"""Who applied, and who was approved."""
