"""Choosing options without looking at evaluation data: `salmu tune`."""
