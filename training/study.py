"""Run a study from a recipe, and report on it.

    python -m training.study --recipe training/recipes/study-demo.toml --out RUNS
    python -m training.study report RUNS

The first command makes what the recipe asks for (tokenizer, transfer sets, encoders, fine-tuned students, what they
answer) and skips what is done; started again after an interruption, it goes on from where each stage stood. What each
stage says stands in RUNS/logs. The second writes `report.md`, `report.json` and the figures from the small files in
RUNS/results alone. `training.recipe` says what a recipe holds.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from training import report, stages
from training.ledger import Ledger, Stage
from training.recipe import read_recipe
from training.records import PARTITIONS
from training.settings import at_least_one
from training.settings import report as finish

COMMAND = "training.study"
TAIL = 6  # lines of a failed stage's log that are shown

log = logging.getLogger(COMMAND)


class StudyError(ValueError):
    """A stage that failed; the message names it and shows the end of its log."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    if argv[:1] == ["report"]:
        parser = argparse.ArgumentParser(prog=f"python -m {COMMAND} report", description="Report on a study.")
        parser.add_argument("runs", type=Path, help="folder of the study")
        runs = parser.parse_args(argv[1:]).runs
        return finish(lambda: {"report": str(runs / "report.md"), **_summary(report.write_report(runs))})
    parser = argparse.ArgumentParser(prog=f"python -m {COMMAND}", description="Run a study.")
    parser.add_argument("--recipe", type=Path, required=True, help="TOML file; some stand in training/recipes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; what is done there is skipped")
    parser.add_argument("--task", help="labelled data, in place of the recipe's")
    parser.add_argument("--generic", help="folder of plain sentences, in place of the recipe's")
    parser.add_argument("--partition", choices=PARTITIONS, help="what is scored, in place of the recipe's")
    parser.add_argument(
        "--jobs", type=at_least_one, default=1, help="stages at once, each with its share of the cores (%(default)s)"
    )
    parser.add_argument("--until", default="", help="stop when this stage, or group of stages (encoders), is done")
    args = parser.parse_args(argv)
    return finish(lambda: run(args))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do all stages of a study that are not done. Returns the summary.

    Raises:
        RecipeError: the recipe can't be used.
        StudyError: a stage failed, or stands there with other settings.
    """
    recipe = read_recipe(args.recipe).with_data(args.task, args.generic, args.partition)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = stages.stages_of(recipe, args.out)
    if args.until:
        plan = stages.needed_for(plan, args.until)
    ledger = Ledger(args.out / "made")
    todo = ledger.todo(plan)
    Scheduler(plan, ledger, args.out / "logs", args.jobs).run(todo)
    return {"runs": str(args.out), "stages": len(plan), "done_now": len(todo)}


@dataclass(frozen=True)
class Scheduler:
    """Runs stages, several at once, each as soon as those that it needs are done."""

    plan: Sequence[Stage]
    ledger: Ledger
    logs: Path
    jobs: int

    def run(self, todo: Sequence[Stage]) -> None:
        """Do the stages. When one fails, those that run are stopped; their last states stay. Raises StudyError."""
        self.logs.mkdir(parents=True, exist_ok=True)
        done = {stage.name for stage in self.plan} - {stage.name for stage in todo}
        waiting = list(todo)
        futures: dict[Future[Any], Stage] = {}
        # Workers that live on: starting Python and PyTorch anew for each stage would take longer than many stages do
        # Always the same number of threads, which decides roundings: figures must not depend on what runs side by side
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        pool = ProcessPoolExecutor(self.jobs, get_context("spawn"), _prepare, (os.getpid(), threads))
        bar = tqdm(total=len(self.plan), initial=len(done), unit="stage", desc="study")
        try:
            while waiting or futures:
                ready = [stage for stage in waiting if set(stage.needs) <= done][: self.jobs - len(futures)]
                for stage in ready:
                    waiting.remove(stage)
                    self.ledger.begin(stage)
                    futures[pool.submit(_do, stage.work, self._log_of(stage))] = stage
                bar.set_postfix_str(", ".join(stage.name for stage in futures.values()))
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    stage = futures.pop(future)
                    self._require_success(stage, future)
                    done.add(stage.name)
                    bar.update()
        except BaseException:
            for worker in active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()

    def _log_of(self, stage: Stage) -> Path:
        return self.logs / f"{stage.name.replace('/', '-')}.log"

    def _require_success(self, stage: Stage, future: Future[int]) -> None:
        try:
            code = future.result()
        except BrokenProcessPool as error:
            raise StudyError(f"{stage.name}: its process was killed; start the study again to go on") from error
        if code:
            file = self._log_of(stage)
            end = file.read_text(errors="replace").replace("\r", "\n").rstrip().splitlines()[-TAIL:]
            raise StudyError(f"{stage.name} failed; {file} ends:\n" + "\n".join(end))


def _prepare(parent: int, threads: int) -> None:
    """In a worker: stop when the study is gone, so that none goes on writing beside a study that is started again."""
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(work: Callable[[], None] | tuple[str, ...], file: Path) -> int:
    """In a worker: the work of a stage, with what it says going to its log. Returns the exit code."""
    with file.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        if callable(work):
            work()
            return 0
        module, *flags = work
        print(f"python -m {module} {shlex.join(flags)}", file=sys.stderr)
        return int(import_module(module).main(flags))
    except SystemExit as error:  # argparse, of flags that a recipe has wrong
        return int(error.code or 0)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:  # noqa: BLE001 - whatever it is, its log says it, and the study which stage it was
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _summary(content: dict[str, Any]) -> dict[str, Any]:
    return {"title": content.get("title"), "missing": content.get("missing", [])}


if __name__ == "__main__":
    sys.exit(main())
