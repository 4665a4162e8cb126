"""Side-by-side measurements of Callboard, of what it stands on, and of what it would usually be."""
