"""Looking at one person or one association of a finished run."""
