"""A benchmark made of somebody's own model and tables of pairs. It is in core because `salmu forget` is a command of core, and core
may name no plugin."""
