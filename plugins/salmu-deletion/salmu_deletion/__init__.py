"""Make your own model forget pairs of yours, look at one person, certify a deletion. Importing this imports nothing else."""
