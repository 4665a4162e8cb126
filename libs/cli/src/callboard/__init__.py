"""The operator's command: runs Callboard on one machine and looks after its data."""
