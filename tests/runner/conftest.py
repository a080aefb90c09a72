"""Some of these tests plant what plugins do wrong."""

from process_fixture import process_as_it_was

__all__ = ["process_as_it_was"]
