"""Instances on the Hugging Face hub: which a repository holds, under which terms, and fetching one with every file checked."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from salmu_core.benchmark import BuildStep, Download, Report, Terms
from salmu_core.errors import BadData, BadOptions
from salmu_core.files.seals import folder_checksums
from salmu_core.files.writing import write_sealed_json
from salmu_hub import fetching as hub
from salmu_hub.repository import Repository
from salmu_mini.shipped import contents, copy_parts

#: What a repository holds: instance -> SHA-256 of its files, and the terms of all.
INDEX = "instances.json"
_SOURCE = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})")


@dataclass(frozen=True)
class Source:
    """A dataset repository of the hub at a commit, with a folder for each instance.

    Attributes:
        name: OWNER/NAME.
        commit: 40 hex digits: a branch may mean other instances tomorrow.
    """

    name: str
    commit: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """From OWNER/NAME@COMMIT.

        Raises:
            BadOptions: it is not of that form.
        """
        found = _SOURCE.fullmatch(text.removeprefix("hf://datasets/"))
        if found is None:
            raise BadOptions(
                f"'{text}' is not a dataset repository at a commit.",
                "Write OWNER/NAME@COMMIT with the 40 digits of a commit: a branch may mean other instances tomorrow.",
            )
        return cls(found["name"], found["commit"])

    @classmethod
    def pinned(cls) -> Source | None:
        """The repository that this version of the package names; None while nothing is published."""
        content = tomllib.loads((files("salmu_mini") / "pinned.toml").read_text(encoding="utf-8"))["instances"]
        return cls(content["name"], content["revision"]) if content["name"] else None

    def __str__(self) -> str:
        return f"{self.name}@{self.commit}"

    def _repository(self, *wanted: str) -> Repository:
        return Repository("dataset", self.name, self.commit, wanted)

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """What the repository says of itself.

        Raises:
            HubError: see `salmu_hub.fetching.fetch`.
            BadData: it holds no instances of mini.
        """
        try:
            folder = hub.fetch(self._repository(INDEX))
            content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            assert content["benchmark"] == "mini"
            for entry in content["instances"].values():
                assert all(isinstance(digest, str) for digest in entry["files"].values())
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise BadData(
                f"'{INDEX}' of {self} does not say which instances of mini are there.",
                "`python -m salmu_mini.publish` makes such a repository.",
            ) from error
        found: Mapping[str, Any] = content
        return found

    def files_of(self, instance: str) -> Mapping[str, str]:
        """SHA-256 of every file of an instance, by its path in the instance's folder.

        Raises:
            BadOptions: it is not there.
        """
        known = self.index["instances"]
        if instance not in known:
            there = ", ".join(sorted(known)) or "nothing"
            raise BadOptions(
                f"{self} holds no {instance}.",
                f"It holds {there}. `salmu build mini` builds any seed with the same options.",
            )
        found: Mapping[str, str] = known[instance]["files"]
        return found

    def terms(self) -> tuple[Terms, ...]:
        """Under which terms the instances are given out."""
        page = f"https://huggingface.co/datasets/{self.name}"
        words, licence = (str(self.index.get(key, "")) for key in ("terms", "licence"))
        return (Terms(f"dataset {self.name}", page, words or "Its owner states no terms.", licence),)

    def downloads(self, instance: str) -> tuple[Download, ...]:
        """What is still to fetch of an instance."""
        self.files_of(instance)
        repository = self._repository(f"{instance}/*")
        size = sum(file.size for file in hub.missing_files(hub.list_files(repository)))
        return (Download(f"{instance} of {repository}", size, str(hub.cache_place())),) if size else ()

    def fetch(self, instance: str, target: Path, facts: Mapping[str, Any], report: Report) -> None:
        """Bring an instance to `target`, every file compared with the hub's checksum and with the index. `target` is whole or not there.

        Args:
            facts: for its ready.json.

        Raises:
            BadOptions: it is not there.
            BadData: it is not what the index says.
            HubError, OutputError: see `salmu_hub.fetching.fetch`.
        """
        expected = self.files_of(instance)

        def tell(stage: str, done: int, total: int) -> None:
            report(BuildStep(f"{stage} (kB)", done // 1000, total // 1000))

        folder = hub.fetch(self._repository(f"{instance}/*"), tell) / instance
        found = contents(folder)
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            raise BadData(
                f"{instance} of {self} is not what its index says: {wrong[0]}"
                + (f" and {len(wrong) - 1} more files" if len(wrong) > 1 else "")
                + " changed or missing.",
                "Tell its owner, or build the instance: `salmu build mini` with the same options.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            part = Path(temporary) / target.name
            copy_parts(folder, part)
            stated = [vars(term) for term in self.terms()]
            write_sealed_json(
                part / "ready.json", {**facts, "from": str(self), "terms": stated, "files": folder_checksums(part)}
            )
            shutil.rmtree(target, ignore_errors=True)  # of a build that was cut
            part.rename(target)
