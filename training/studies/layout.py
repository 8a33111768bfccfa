"""The files of a study."""

from __future__ import annotations

from pathlib import Path

Seeds = tuple[int, int]  # of an encoder, and of its fine-tuning


def name_of(seeds: Seeds) -> str:
    """The name of the files of two seeds."""
    return f"{seeds[0]}-{seeds[1]}"


class Layout:
    """The files of a study in the folder `out`: `results` holds the small ones that reports are made from."""

    def __init__(self, out: Path) -> None:
        self.out, self.results = out, out / "results"
        self.tokenizer = out / "tokenizer.json"
        self.recipe = self.results / "recipe.json"  # the part that the report needs
        self.references = self.results / "references.json.gz"  # with tasks: expected answers
        self.utterances = self.results / "utterances.json.gz"  # without tasks: what is scored
        self.majority = self.results / "majority.json"  # without tasks: the most frequent labels
        self.students = self.results / "students.json"  # facts on the exported students

    def corpus(self, name: str) -> Path:
        """A corpus of the recipe."""
        return self.out / "corpora" / f"{name}.txt.gz"

    def run(self, name: str) -> Path:
        """The checkpoint of a run, or the folder of those of its seeds."""
        return self.out / "runs" / name

    def student(self, name: str) -> Path:
        """The student folder of an exported run."""
        return self.out / "students" / name

    def finetuned(self, task: str, name: str, seeds: Seeds) -> Path:
        """The checkpoint of an encoder fine-tuned on a task."""
        return self.out / "finetuned" / task / name / name_of(seeds)

    def outcomes(self, task: str, name: str, seeds: Seeds) -> Path:
        """The outcomes of a fine-tuned encoder."""
        return self.results / "runs" / task / name / f"{name_of(seeds)}.json.gz"

    def answers(self, name: str) -> Path:
        """The answers of a fine-tuned run."""
        return self.results / "answers" / f"{name}.json.gz"
