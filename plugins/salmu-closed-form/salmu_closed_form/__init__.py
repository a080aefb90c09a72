"""Key-value editing: change what one matrix of the text encoder makes of forget captions, in closed form."""

from salmu_closed_form.method import KeyValueEdit as KeyValueEdit
from salmu_closed_form.method import register_methods as register_methods

__all__ = ["KeyValueEdit", "register_methods"]
