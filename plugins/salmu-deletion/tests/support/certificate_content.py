"""What a certificate says, made up."""

FIXED = {
    "requested": {
        "identities": 1, "associations": 1, "rows": 1, "fields": {"city": 1}, "rows_sha256": "a", "row_hash": "b", "row_hashes": ["c"],
        "people": [{"rows": 1, "associations": 1, "rows_sha256": "a", "identity": "<b>1</b>", "name": "Ægir Þór 李", "fields": ["city"]}],
        "names_in_clear": True,
    },
    "measured": {
        "verdict": "selective", "verdict_means": "m", "reason": "r", "reference": "x", "not_measured": {"GenKnow": "no pictures"},
        "answers": [{"question": "q?", "answer": "a", "measured": True}],
        "metrics": [
            {"name": "RetFail", "summary": "s", "before": 0.2, "after": 0.1, "interval": [0.05, 0.15], "never_learned": None,
             "should_be_as": "never learned", "rows": 5}
        ],
        "audits": {"run": False, "words": "No audits were run.", "results": []},
    },
    "method": {"name": "m", "options": {"lr": 1e-05}, "summary": "s", "package": "p 1", "weight_change": 0.1, "samples": {"forget": 1}},
    "model": {
        "before": {"image": "1", "text": "2"}, "after": {"image": "3", "text": "4"}, "after_file_sha256": "", "after_file_bytes": 3, "digest": "d"
    },
    "data": {"benchmark": "toy", "version": "1", "identity": {}, "fingerprint": "f"},
    "run": {
        "record": "r1", "record_sha256": "h", "finished": "2026-01-02T03:04:05+00:00", "seed": 0, "budget": 1.0, "precision": "no",
        "packages": {"torch": "2"}, "device": "cpu", "commit": None,
    },
    "limits": ["l1"],
}  # fmt: skip
