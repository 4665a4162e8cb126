"""What every service is built on, and what gateway and services agree on."""
