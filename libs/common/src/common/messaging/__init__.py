"""Events on their way: what a service needs of NATS."""
