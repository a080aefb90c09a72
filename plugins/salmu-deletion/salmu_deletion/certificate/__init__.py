"""A summary of a deletion that others can check: what was asked, what was measured, on what, and what that does not prove."""
