"""Run the stages of a study: several at once, each as soon as the stages that it needs are done."""

from __future__ import annotations

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

from training.studies.ledger import Ledger, Stage, StageError

TAIL = 6  # lines shown of a failed stage's log


@dataclass(frozen=True)
class Scheduler:
    """Runs stages, several at once, each as soon as the stages that it needs are done."""

    plan: Sequence[Stage]
    ledger: Ledger
    logs: Path
    jobs: int
    title: str

    def run(self, todo: Sequence[Stage]) -> None:
        """Run the stages. When one fails, the others are stopped; their last states stay. Raises StageError."""
        self.logs.mkdir(parents=True, exist_ok=True)
        done = {stage.name for stage in self.plan} - {stage.name for stage in todo}
        waiting = list(todo)
        futures: dict[Future[Any], Stage] = {}
        # Workers are kept: starting Python and PyTorch for each stage would take longer than many stages do. The number
        # of threads is fixed, as it affects rounding: figures must not depend on which stages run at the same time.
        threads = threads_of(self.jobs)
        pool = ProcessPoolExecutor(self.jobs, get_context("spawn"), _prepare, (os.getpid(), threads))
        bar = tqdm(total=len(self.plan), initial=len(done), unit="stage", desc=self.title)
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
            code, file = future.result(), self._log_of(stage)
        except BrokenProcessPool as error:
            raise StageError(f"{stage.name}: its process was killed; run the same command again to continue") from error
        if code:
            end = file.read_text(errors="replace").replace("\r", "\n").rstrip().splitlines()[-TAIL:]
            raise StageError("\n".join([f"{stage.name} failed; {file} ends:", *end]))


def threads_of(jobs: int) -> int:
    """The threads of each of `jobs` stages at once: its share of the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // jobs)


def _prepare(parent: int, threads: int) -> None:
    """In a worker: exit when the study has ended, so that it does not write beside a restarted study."""
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(work: Callable[[], None] | tuple[str, ...], file: Path) -> int:
    """In a worker: run a stage, with its output in its log. Returns the exit code."""
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
    except SystemExit as error:  # argparse, for wrong flags in a recipe
        return int(error.code or 0)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:  # noqa: BLE001 - the log shows the error, the study names the stage
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
