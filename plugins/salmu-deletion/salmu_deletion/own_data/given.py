"""The two tables of a user, read once and with the same people spelled alike."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from salmu_core.errors import BadOptions, SalmuError
from salmu_deletion.own_data.tables import Table, align, read_table

if TYPE_CHECKING:
    from salmu_deletion.own_data.benchmark import OwnDataOptions


class GivenTables:
    """Pairs to forget and pairs to keep.

    Args:
        options: name the tables, their columns, and the folder of pictures.

    Raises:
        BadOptions, BadData: on reading; see `read_table`.
    """

    def __init__(self, options: OwnDataOptions) -> None:
        self._options = options

    @property
    def forget(self) -> Table:
        """Pairs to forget."""
        return self._aligned["forget"]

    @property
    def retain(self) -> Table | None:
        """Pairs to keep; None where none were given."""
        if self._options.retain is None:
            return None
        as_read = self._retain_as_read
        return self._aligned["retain"] if self._options.forget is not None else as_read  # else there is nobody to align with

    @cached_property
    def forget_as_read(self) -> Table:
        """Pairs to forget as their table has them, whatever the other table is."""
        given = self._options
        if given.forget is None:
            raise BadOptions("own-data was given no forget pairs.", "--bench-set forget=TABLE, or use `salmu forget`.")
        return read_table(given.forget, given.columns, given.images)

    @cached_property
    def _retain_as_read(self) -> Table:
        given = self._options
        assert given.retain is not None
        # Of two tables one may know people and facts that the other does not.
        other = given.forget is not None
        may_lack = frozenset({"identity", "field", "name", "value"}) if other else frozenset[str]()
        return read_table(given.retain, given.columns, given.images, may_lack)

    @cached_property
    def _aligned(self) -> Mapping[str, Table]:
        """Both; pairs to forget also where those to keep are gone, as they may be once a request is done."""
        try:
            retain = [] if self._options.retain is None else [self._retain_as_read]
        except SalmuError:
            retain = []  # raised again for whoever asks for it
        forget, *rest = align([self.forget_as_read, *retain])
        return {"forget": forget, **({"retain": rest[0]} if rest else {})}
