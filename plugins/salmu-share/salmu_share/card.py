"""The card of a published model: metadata that the hub understands, and pages that a person can judge it by.

Built from records alone. It speaks of counts, options and scores, never of a person or a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from salmu_core.benchmark import Terms
from salmu_core.comparison.explain import VERDICTS
from salmu_core.comparison.gaps import gap_of, not_informative
from salmu_core.comparison.verdict import Verdict, judge, recovered_words, with_attacks
from salmu_core.records.attacks import Attacked
from salmu_core.records.schema import RunRecord, ScoreRecord


def make_card(
    record: RunRecord,
    references: Sequence[RunRecord],
    *,
    repository: str,
    files: Sequence[str],
    license: str = "unknown",
    base_model: str | None = None,
    terms: Sequence[Terms] = (),
    attacked: Attacked | None = None,
) -> str:
    """README.md of the repository.

    Args:
        record: of the run, without paths of this machine.
        references: Clean and Compromised records of the same benchmark data; what is lacking is said in the card.
        repository: OWNER/NAME.
        files: names of what lies beside the card.
        license: an identifier that the hub knows.
        attacked: what attacks got back from this very model; None: nothing was tried.
        base_model: OWNER/NAME or OWNER/NAME@REVISION of the model that the method started from, where it is on the hub.
        terms: conditions of others on what the model was made from.
    """
    clean = next((item.scores for item in references if item.spec.start == "clean"), {})
    compromised = next((item.scores for item in references if item.spec.start == "compromised"), {})
    attacked = attacked or Attacked()
    verdict = with_attacks(judge(record, clean, compromised), attacked) if clean and compromised else None
    base, _, base_revision = (base_model or "").partition("@")
    data = ModelCardData(
        library_name="open_clip",
        **_licence(license, terms),  # type: ignore[arg-type]
        base_model=base or None,
        pipeline_tag="zero-shot-image-classification",
        tags=["machine-unlearning", "clip", "salmu", record.spec.method, record.spec.benchmark],
        model_name=repository.partition("/")[2],
        eval_results=[_eval_result(record, name, score) for name, score in record.scores.items()] or None,
    )
    content = _template().render(
        card_data=data.to_yaml(),
        record=record,
        repository=repository,
        files=list(files),
        license=license,
        terms=list(terms),
        base_model=base,
        base_revision=base_revision,
        rows=[_row(name, score, clean, compromised) for name, score in record.scores.items()],
        asked=_largest(record, "forgetting"),
        kept=[item for aspect in ("holdout", "retained", "general") if (item := _largest(record, aspect))],
        lacking=[
            which for which, scores in (("Clean", clean), ("Compromised", compromised)) if not scores
        ],
        verdict=verdict,
        attacks=[item for item in attacked.results if item.recovered is not None],
        recovered=recovered_words(attacked) if attacked.results else "",
        verdict_meaning=_meaning(verdict),
    )  # fmt: skip
    return str(ModelCard(content))


def _licence(license: str, terms: Sequence[Terms]) -> dict[str, str]:
    """The card's metadata on what may be done with the model. What others demand is a licence that the hub has no identifier for.

    The hub shows the text of the gate wherever the repository is gated (`salmu push --gated`).
    """
    found = {"license": license}
    if license == "unknown" and terms:
        # The strictest are those that have to be accepted.
        strictest = max(terms, key=lambda item: item.gated)
        found = {"license": "other", "license_name": "terms-of-the-origin", "license_link": strictest.page}
    gates = [item for item in terms if item.gated]
    if gates:
        found["extra_gated_heading"] = "Accept the terms of the model that this one was made from"
        found["extra_gated_prompt"] = " ".join(f"{item.what}: {item.words} {item.page}" for item in gates)
    return found


def _eval_result(record: RunRecord, name: str, score: ScoreRecord) -> EvalResult:
    spec = record.spec
    return EvalResult(
        task_type="zero-shot-image-classification",
        task_name="Machine unlearning",
        dataset_type=spec.benchmark,
        dataset_name=f"{spec.benchmark} {record.provenance.benchmark_version}",
        dataset_args=dict(spec.benchmark_options) or None,
        metric_type=name,
        metric_name=f"{name} (target: {score.target.capitalize()})",
        metric_value=score.value,
    )


def _row(
    name: str, score: ScoreRecord, clean: dict[str, ScoreRecord], compromised: dict[str, ScoreRecord]
) -> dict[str, Any]:
    both = name in clean and name in compromised and not_informative(name, clean[name], compromised[name]) is None
    return {
        "name": name,
        "value": score.value,
        "interval": (score.low, score.high) if score.low is not None and score.high is not None else None,
        "clean": clean[name].value if name in clean else None,
        "compromised": compromised[name].value if name in compromised else None,
        "target": score.target.capitalize(),
        "gap": gap_of(score, clean[name], compromised[name]) if both else None,
        "summary": score.summary,
    }


def _largest(record: RunRecord, aspect: str) -> dict[str, Any] | None:
    """Rows and identities behind the metrics of an aspect: as much as may be said of the data."""
    found = [score for score in record.scores.values() if score.aspect == aspect and score.n]
    if not found:
        return None
    largest = max(found, key=lambda score: (score.n, score.clusters))
    return {"aspect": aspect, "rows": largest.n, "identities": max(score.clusters for score in found)}


def _meaning(verdict: Verdict | None) -> str:
    return VERDICTS.get(verdict.name, "") if verdict is not None else ""


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("salmu_share"), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4f}"
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    return environment.get_template("card.md.j2")
