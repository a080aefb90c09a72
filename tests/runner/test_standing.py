"""Where one run stands beside references from the cache."""

from __future__ import annotations

from salmu_core.records.schema import RunSpec
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.runner.standing import standing
from salmu_core.spec.resolve import resolve
from toy_methods import toy_plugins


def test_references_that_are_damaged_are_measured_again(tmp_path):
    plugins, settings = toy_plugins(), Settings(cache=tmp_path / "cache", cpu=True)
    resolved = resolve(RunSpec(method="weight-edit", benchmark="toy"), plugins, settings.cache_folder)
    record = run_resolved(resolved, tmp_path / "run", settings, plugins)
    first = standing(record, tmp_path / "run", resolved, settings, plugins)
    for name in ("record.json", "rows.safetensors", "spec.json"):
        for place in (tmp_path / "cache" / "references").glob(f"*/{name}"):
            content = bytearray(place.read_bytes())
            content[len(content) // 2] ^= 2
            place.write_bytes(content)
            if name == "spec.json":
                (place.parent / "record.json").unlink()
        again = standing(record, tmp_path / "run", resolved, settings, plugins)
        assert again is not None
        assert first is not None
        assert {kind: row.cells for kind, row in again.items()} == {kind: row.cells for kind, row in first.items()}
