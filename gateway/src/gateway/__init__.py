"""The only way in: keys, policies and forwarding."""
