"""Models and data from the Hugging Face hub: fetched once, checked against the hub's checksums, found again without a network.

Importing this package is cheap: it is imported for its source of models, `hf-hub:`, when such a name is loaded.
"""
