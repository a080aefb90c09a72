"""A benchmark made of a user's own model and tables of pairs."""
