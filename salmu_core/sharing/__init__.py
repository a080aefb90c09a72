"""Publishing a run on the Hugging Face hub: its model, a card that explains it, and its record."""
