"""Where the parts of a study stand in its folder."""

from __future__ import annotations

from pathlib import Path


class Layout:
    """The files of a study in the folder `out`: `results` holds the small ones that reports are made of."""

    def __init__(self, out: Path) -> None:
        self.out, self.results = out, out / "results"
        self.tokenizer = out / "tokenizer.json"
        self.recipe = self.results / "recipe.json"  # what the report needs of it
        self.references = self.results / "references.json.gz"  # with tasks: what outcomes are compared with
        self.utterances = self.results / "utterances.json.gz"  # without tasks: what runs answer

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
