"""Dual encoders: their architecture, weights and layouts, on disk and on the hub."""
