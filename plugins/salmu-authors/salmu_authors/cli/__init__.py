"""The commands: each parses, calls one function of this package and prints."""
