"""PostgreSQL as it should be for one tenant: names, what is seen, what differs, and the statements that mend it."""
