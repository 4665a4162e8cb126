"""Who is trained for which attraction."""
