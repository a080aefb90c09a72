"""VL-Eraser: distil what the MLPs make of forget pairs into adapters that retain pairs do not reach, then subtract them."""

from salmu_vl_eraser.method import VLEraser as VLEraser
from salmu_vl_eraser.method import register_methods as register_methods

__all__ = ["VLEraser", "register_methods"]
