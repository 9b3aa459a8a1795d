"""PostgreSQL restarts, ends sessions and turns read-only under running workflows: they go on by themselves."""
