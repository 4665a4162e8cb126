"""Who is told what happened, and where."""
