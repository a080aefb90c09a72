from __future__ import annotations
import json
from pathlib import Path
from salmu_core.files import write_json
from salmu_core.records.schema import RunRecord
RECORD_FILE = "record.json"
def write_record(folder, record):
    write_json(Path(folder) / RECORD_FILE, record.model_dump(mode="json")); return Path(folder) / RECORD_FILE
def read_record(path):
    path = Path(path); path = path / RECORD_FILE if path.is_dir() else path
    return RunRecord(**json.loads(path.read_text()))
