"""Where the parts of a study stand in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The files of a study in the folder `out`: `results` holds the small ones that a report is made of."""

    out: Path

    @property
    def results(self) -> Path:
        """What reports are made of."""
        return self.out / "results"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of all pretrained encoders."""
        return self.out / "tokenizer.json"

    @property
    def recipe(self) -> Path:
        """What the report needs of the recipe."""
        return self.results / "recipe.json"

    @property
    def references(self) -> Path:
        """With tasks, the references that outcomes are compared with."""
        return self.results / "references.json.gz"

    @property
    def utterances(self) -> Path:
        """Without tasks, the utterances that runs answer."""
        return self.results / "utterances.json.gz"

    def corpus(self, name: str) -> Path:
        """A corpus of the recipe."""
        return self.out / "corpora" / f"{name}.txt.gz"

    def run(self, name: str) -> Path:
        """The checkpoint of a run."""
        return self.out / "runs" / name

    def finetuned(self, task: str, name: str, seed: int) -> Path:
        """The checkpoint of an encoder fine-tuned on a task."""
        return self.out / "finetuned" / task / name / str(seed)

    def outcomes(self, task: str, name: str, seed: int) -> Path:
        """What a fine-tuned encoder got right."""
        return self.results / "runs" / task / name / f"{seed}.json.gz"

    def answers(self, name: str) -> Path:
        """What a fine-tuned run answers."""
        return self.results / "answers" / f"{name}.json.gz"
