"""The ways out of a process: to our own services, by name, and to other companies."""
