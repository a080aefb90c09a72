"""What a search shows while it goes on."""

import io

import pluggy
from rich.console import Console

from records import references
from salmu_core import hookspecs
from salmu_tune.display import TuneDisplay


def test_the_two_references_of_a_search_have_names_of_their_own():
    place = io.StringIO()
    manager = pluggy.PluginManager("salmu")
    manager.add_hookspecs(hookspecs)
    manager.register(TuneDisplay(runs=2, console=Console(file=place, width=120)))
    start = next(row for row in references() if row.spec.start == "compromised")
    for mismatched in (True, False):
        spec = start.spec.model_copy(update={"benchmark_options": {"mismatched": mismatched}})
        manager.hook.run_finished(record=start.model_copy(update={"spec": spec}))
    first, second = place.getvalue().splitlines()
    assert first.startswith("[1/2] reference: compromised on mismatched pairs done in")
    assert second.startswith("[2/2] reference: compromised on true pairs done in")
