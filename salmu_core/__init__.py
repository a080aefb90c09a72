"""salmu: compare ways to make CLIP-style models forget.

Everything public is importable from here. Names are resolved when first used, so `import salmu_core` stays cheap and
commands that need no model never import torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from salmu_core.plugins.moved import MOVED, MovedModules
from salmu_core.plugins.moved import moved as _moved

if TYPE_CHECKING:
    from salmu_core.audit import Audit as Audit
    from salmu_core.audit import Leak as Leak
    from salmu_core.benchmark import Benchmark as Benchmark
    from salmu_core.benchmark import Budget as Budget
    from salmu_core.benchmark import BuildStep as BuildStep
    from salmu_core.benchmark import Counted as Counted
    from salmu_core.benchmark import PublishedRow as PublishedRow
    from salmu_core.benchmark import Report as Report
    from salmu_core.benchmark import SplitInfo as SplitInfo
    from salmu_core.data.downloads import Download as Download
    from salmu_core.data.downloads import Terms as Terms
    from salmu_core.data.images import EncodedImages as EncodedImages
    from salmu_core.data.pairs import Batch as Batch
    from salmu_core.data.pairs import Embedded as Embedded
    from salmu_core.data.pairs import Features as Features
    from salmu_core.data.pairs import Pairs as Pairs
    from salmu_core.data.pairs import Role as Role
    from salmu_core.data.pairs import View as View
    from salmu_core.data.splits import Split as Split
    from salmu_core.data.splits import join_splits as join_splits
    from salmu_core.errors import BadData as BadData
    from salmu_core.errors import SalmuError as SalmuError
    from salmu_core.hookspecs import hookimpl as hookimpl
    from salmu_core.layout import Finding as Finding
    from salmu_core.layout import Layout as Layout
    from salmu_core.method import FitOptions as FitOptions
    from salmu_core.method import LossMethod as LossMethod
    from salmu_core.method import UnlearningMethod as UnlearningMethod
    from salmu_core.metric import Metric as Metric
    from salmu_core.metric import NotMeasurable as NotMeasurable
    from salmu_core.metric import Score as Score
    from salmu_core.models.adapters import apply_adapter as apply_adapter
    from salmu_core.models.dual_encoder import DualEncoder as DualEncoder
    from salmu_core.models.dual_encoder import ModelConfig as ModelConfig
    from salmu_core.models.loading import load_model as load_model
    from salmu_core.options import Between as Between
    from salmu_core.options import Field as Field
    from salmu_core.options import OneOf as OneOf
    from salmu_core.options import Options as Options
    from salmu_core.plugins.commands import CommandInfo as CommandInfo
    from salmu_core.records.schema import RunRecord as RunRecord
    from salmu_core.records.schema import RunSpec as RunSpec
    from salmu_core.records.schema import Target as Target
    from salmu_core.records.store import load_records as load_records
    from salmu_core.runner.audit_context import AuditContext as AuditContext
    from salmu_core.runner.budget import SampleMeter as SampleMeter
    from salmu_core.runner.compare import compare as compare
    from salmu_core.runner.context import MakeMethod as MakeMethod
    from salmu_core.runner.context import UnlearnContext as UnlearnContext
    from salmu_core.runner.evaluate import evaluate as evaluate
    from salmu_core.runner.run import Settings as Settings
    from salmu_core.runner.run import run as run
    from salmu_core.spec.study import Study as Study
    from salmu_core.spec.study import StudyMethod as StudyMethod

__version__ = "0.1.0"

sys.meta_path.insert(0, MovedModules())  # before what looks into the folder of a package that moved

_HOMES = {
    "Audit": "audit",
    "AuditContext": "runner.audit_context",
    "Leak": "audit",
    "BadData": "errors",
    "Batch": "data.pairs",
    "Benchmark": "benchmark",
    "Between": "options",
    "Budget": "benchmark",
    "BuildStep": "benchmark",
    "CommandInfo": "plugins.commands",
    "Counted": "benchmark",
    "Download": "data.downloads",
    "DualEncoder": "models.dual_encoder",
    "Embedded": "data.pairs",
    "EncodedImages": "data.images",
    "Features": "data.pairs",
    "Field": "options",
    "Finding": "layout",
    "FitOptions": "method",
    "Layout": "layout",
    "LossMethod": "method",
    "Metric": "metric",
    "ModelConfig": "models.dual_encoder",
    "NotMeasurable": "metric",
    "OneOf": "options",
    "Options": "options",
    "Pairs": "data.pairs",
    "PublishedRow": "benchmark",
    "Report": "benchmark",
    "Role": "data.pairs",
    "RunRecord": "records.schema",
    "RunSpec": "records.schema",
    "SalmuError": "errors",
    "Score": "metric",
    "Settings": "runner.run",
    "Split": "data.splits",
    "SplitInfo": "benchmark",
    "Study": "spec.study",
    "StudyMethod": "spec.study",
    "Target": "records.schema",
    "Terms": "data.downloads",
    "MakeMethod": "runner.context",
    "SampleMeter": "runner.budget",
    "UnlearnContext": "runner.context",
    "UnlearningMethod": "method",
    "View": "data.pairs",
    "apply_adapter": "models.adapters",
    "compare": "runner.compare",
    "evaluate": "runner.evaluate",
    "hookimpl": "hookspecs",
    "join_splits": "data.splits",
    "load_model": "models.loading",
    "load_records": "records.store",
    "run": "runner.run",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        if name in MOVED:
            return _moved(name)
        raise AttributeError(f"module 'salmu_core' has no attribute '{name}'")
    return getattr(importlib.import_module(f"salmu_core.{home}"), name)


def __dir__() -> list[str]:
    return list(__all__)
