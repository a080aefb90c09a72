"""Names of SALMUBench's files and splits."""

from __future__ import annotations

IDENTITIES = "identities_metadata.json"
CAPTIONS = "sensitive_set_captions_metadata.json"
GENERIC_CAPTIONS = "sensitive_set_generic_captions.json"
FRAGILE_IDS = "fragile_set_ids.json"
FRAGILE_SIMILARITIES = "fragile_set_all_similarities.json"
PROMPTS = "genknow_prompts.json"  # ours: classes of the zero-shot task
DATA = "data"

SENSITIVE_SPLITS = ("forget", "holdout_identity", "holdout_association")
FIELDS = ("name", "city", "job", "blood_type", "phone_number", "emails", "iban", "credit_card", "passport")
