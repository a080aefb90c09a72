"""What is to be run: studies, presets, and names that become objects."""
