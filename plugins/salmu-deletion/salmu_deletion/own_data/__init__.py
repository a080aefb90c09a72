"""A benchmark made of somebody's own model and tables of pairs."""
