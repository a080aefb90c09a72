"""Make a folder that can be uploaded as a dataset repository of the hub, for `salmu data pull mini`: instances that are built here.

    python -m salmu_mini.publish FOLDER --seeds 1,2,3
    hf upload OWNER/NAME FOLDER --repo-type dataset

Each instance lies in a folder of its own, and `instances.json` holds the SHA-256 of every file. The commit that the upload makes goes into
`pinned.toml`, or behind `--from`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from salmu_core import SalmuError
from salmu_core.errors import OutputError
from salmu_core.files.seals import read_json
from salmu_core.files.writing import check_writable, write_json, write_text
from salmu_mini.benchmark import READY, Mini
from salmu_mini.remote import INDEX
from salmu_mini.shipped import contents, copy_parts

LICENCE = "apache-2.0"
TERMS = "Everybody in it is made up and every picture is drawn by a program. Made for research on unlearning; the models know nothing else."
_CARD = """\
---
license: {licence}
tags: [machine-unlearning, clip, synthetic]
---

# Instances of mini {version}, the embedded benchmark of salmu

{terms}

Each folder is one instance: `snapshot/` in SALMUBench's layout, and the models `clean/` and `compromised/`, which open_clip loads from
their folders. `{index}` holds the SHA-256 of every file. Instances: {instances}.

```bash
salmu data pull mini --bench-seed {seed} --from OWNER/NAME@COMMIT
```
"""

#: What makes a dataset repository a benchmark of the hub, whose leaderboard shows the results that models' repositories hold.
_EVALUATION = """\
name: mini {version}
description: The embedded benchmark of salmu. A CLIP model is to forget associations between faces and facts, and nothing else.
evaluation_framework: salmu
tasks:
{tasks}
"""
_TASK = "  - id: {name}\n    config: default\n    split: test\n"


def collect(benchmarks: Sequence[Mini], folder: Path) -> Path:
    """Copy built instances to `folder`, with index and card.

    Returns:
        The index.

    Raises:
        OutputError: the folder holds something, or cannot be written.
        NotBuilt, BadData: an instance is not built, or is not what was built.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"'{folder}' is not an empty directory.", "Give a directory that is empty or not there yet.")
    check_writable(folder, needed_bytes=30_000_000 * len(benchmarks))
    instances: dict[str, Any] = {}
    for benchmark in benchmarks:
        benchmark.snapshot()  # every file is what was built
        place = folder / benchmark.built.name
        copy_parts(benchmark.folder, place)
        ready = benchmark.folder / READY
        known = read_json(ready) if ready.is_file() else {}
        missed = [check["requirement"] for check in known.get("requirements", ()) if check["met"] is False]
        instances[benchmark.built.name] = {
            "options": benchmark.options.model_dump(mode="json"),
            "missed": missed,
            "files": contents(place),
        }
    about = {"benchmark": "mini", "version": Mini.version, "licence": LICENCE, "terms": TERMS}
    listed = ", ".join(
        f"`{name}`" + (f" (misses: {'; '.join(entry['missed'])})" if entry["missed"] else "")
        for name, entry in instances.items()
    )
    seed = benchmarks[0].options.seed
    card = _CARD.format(
        licence=LICENCE, version=Mini.version, terms=TERMS, index=INDEX, instances=listed, seed=seed
    )  # fmt: skip
    write_text(folder / "README.md", card)
    tasks = "".join(_TASK.format(name=name) for name in ("overall", *(Mini.scoring or ())))
    write_text(folder / "eval.yaml", _EVALUATION.format(version=Mini.version, tasks=tasks.rstrip()))
    write_json(folder / INDEX, {**about, "instances": instances})
    return folder / INDEX


@click.command(help="Copy built instances of mini to FOLDER, to be uploaded as a dataset repository of the hub.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seeds", required=True, help="Comma-separated benchmark seeds.")
@click.option("--size", default="mini", show_default=True)
def main(folder: Path, seeds: str, size: str) -> None:
    """The command."""
    try:
        benchmarks = [Mini(Mini.Options(seed=int(seed), size=size)) for seed in seeds.split(",")]
        path = collect(benchmarks, folder)
    except (SalmuError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Wrote {path}. Upload: hf upload OWNER/NAME {folder} --repo-type dataset")


if __name__ == "__main__":
    main()
