"""The hub's files of evaluation results: what a model's page and a benchmark's leaderboard there show."""

from __future__ import annotations

from collections.abc import Sequence

from salmu_core.comparison.compare import compare_records
from salmu_core.errors import BadOptions, SalmuError
from salmu_core.records.schema import RunRecord

FOLDER = ".eval_results"
#: As in the `eval.yaml` of a benchmark's repository: results made otherwise are not mixed with these.
FRAMEWORK = "salmu"
OVERALL = "overall"


def results_file(record: RunRecord, references: Sequence[RunRecord], *, dataset: str, repository: str) -> tuple[str, bytes]:
    """Name and content of a model's file of results: an entry for each score, and one for the overall score where the references
    are there.

    Args:
        record: of the run.
        references: Clean and Compromised of the same data.
        dataset: OWNER/NAME or OWNER/NAME@COMMIT of the benchmark's dataset repository.
        repository: OWNER/NAME of the model.

    Raises:
        BadOptions: `dataset` is no such name.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    name, _, revision = dataset.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise BadOptions(
            f"'{dataset}' is no dataset repository of the hub.", "A name looks like OWNER/NAME or OWNER/NAME@COMMIT."
        )
    values = {metric: score.value for metric, score in record.scores.items()}
    targets = {metric: f"; target: {score.target}" for metric, score in record.scores.items()}
    overall = _overall(record, references)
    if overall is not None:
        values = {OVERALL: overall, **values}
    spec = record.spec
    version = record.provenance.packages.get("salmu", "")
    notes = f"{f'salmu {version}'.strip()}: {spec.method}, seed {spec.seed}, {spec.budget:g}x budget"
    entries = [
        EvalResultEntry(
            dataset_id=name,
            task_id=metric,
            value=round(value, 6),
            dataset_revision=revision or None,
            date=record.created_at.date().isoformat(),
            source_url=f"https://huggingface.co/{repository}",
            source_name="record.json of the run",
            notes=notes + targets.get(metric, ""),
        )
        for metric, value in values.items()
    ]
    content = [{**entry, "evaluation_framework": FRAMEWORK} for entry in eval_result_entries_to_yaml(entries)]
    return f"{FOLDER}/{name.rpartition('/')[2]}.yaml", str(yaml_dump(content)).encode()


def _overall(record: RunRecord, references: Sequence[RunRecord]) -> float | None:
    """The overall score; None where a reference lacks, or the record cannot be compared with them."""
    try:
        rows = compare_records([*references, record]).rows
    except SalmuError:
        return None
    return next((row.overall for row in rows if row.kind == "run"), None)
