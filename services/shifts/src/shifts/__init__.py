"""Who worked how long, counted exactly once."""
