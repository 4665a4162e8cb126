"""MongoDB: the connection, transactions, and what acts are remembered by."""
