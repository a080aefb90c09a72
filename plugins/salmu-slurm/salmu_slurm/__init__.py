"""Runs of a comparison as jobs of a Slurm cluster or of this machine."""
