"""Names of SALMUBench's files and splits."""

from __future__ import annotations

from typing import Literal

IDENTITIES = "identities_metadata.json"
CAPTIONS = "sensitive_set_captions_metadata.json"
GENERIC_CAPTIONS = "sensitive_set_generic_captions.json"
FRAGILE_IDS = "fragile_set_ids.json"
FRAGILE_SIMILARITIES = "fragile_set_all_similarities.json"
PROMPTS = "genknow_prompts.json"  # ours: classes of the zero-shot task
METADATA = (IDENTITIES, CAPTIONS, GENERIC_CAPTIONS, FRAGILE_IDS, FRAGILE_SIMILARITIES)
#: Without generic captions everything works but what is made of them.
REQUIRED_METADATA = tuple(name for name in METADATA if name != GENERIC_CAPTIONS)
DATA = "data"

SENSITIVE_SPLITS = ("forget", "holdout_identity", "holdout_association")
RETAIN = "retain_synth"
SPLITS = (*SENSITIVE_SPLITS, RETAIN)
GENERAL = "retain_general"  # ours: ordinary pairs that a method may see besides
GENKNOW = "genknow"  # ours: zero-shot pictures
#: May be there; what reads them is told by the README.
OPTIONAL_SPLITS = ("forget_target", GENERAL, GENKNOW)
FIELDS = ("name", "city", "job", "blood_type", "phone_number", "emails", "iban", "credit_card", "passport")
MODELS: tuple[Literal["clean", "compromised"], ...] = ("clean", "compromised")
#: Rows and identities of SALMUBench's own tables (arXiv 2603.26316).
PUBLISHED_ROWS = {"forget": 30_468, "holdout_identity": 14_642, "holdout_association": 14_943, "retain_synth": 16_741}
#: Rows of the splits that are derived from them, as the official evaluator's values show: its IdZSC are whole numbers of 15,342ths,
#: its VisIdInt means of 749 values.
PUBLISHED_DERIVED = {"forget_identity": 15_342, "forget_association": 15_126, "retain_joint": 749}
PUBLISHED_IDENTITIES = {"forget": 580, "holdout_identity": 194, "holdout_association": 387}
