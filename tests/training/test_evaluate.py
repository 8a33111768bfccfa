from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training import evaluate


def scores(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert evaluate.main(list(arguments)) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_checkpoint_is_scored_with_every_metric_and_interval(
    checkpoint: Path, sample: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"

    report = scores(capsys, "--ckpt", str(checkpoint), "--data", str(sample), "--partition", "test", "--out", str(out))

    assert report["kind"] == "checkpoint"
    assert report["utterances"] == {"de-DE": 33}
    metrics = report["locales"]["de-DE"]  # type: ignore[index]
    expected = "domain_accuracy domain_f1 intent_accuracy icer slot_f1 slot_f1_strict exact_match semer irer"
    assert list(metrics) == expected.split()
    assert all(low <= value <= high for value, low, high in metrics.values())
    assert json.loads(out.read_text()) == report


def test_checkpoint_and_student_folder_are_scored_alike(
    checkpoint: Path, student_folder: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = scores(capsys, "--ckpt", str(checkpoint), "--data", str(sample))
    other = scores(capsys, "--student", str(student_folder), "--data", str(sample))

    assert other["kind"] == "student"
    for metric in ("domain_accuracy", "intent_accuracy"):
        assert abs(one["mean"][metric][0] - other["mean"][metric][0]) < 100 * 3 / 33  # type: ignore[index]


def test_the_typed_suite_has_a_row_for_each_way_of_typing(
    checkpoint: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--ckpt", str(checkpoint), "--data", str(sample), "--typed"]) == 0

    output = capsys.readouterr()
    report = json.loads(output.out)
    assert report["partition"] == "dev, typed"
    assert report["metric"] == "exact_match"
    assert {"quotes", "emoji", "digits", "soft hyphen"} <= set(report["typed"])
    drops = [row["drop"][0] for row in report["typed"].values()]
    assert drops == sorted(drops, reverse=True)
    for name, row in report["typed"].items():
        assert name in output.err
        assert 0 < row["utterances"]["de-DE"] <= 33
        assert row["drop"][0] == pytest.approx(row["plain"] - row["typed"], abs=0.02)
        assert row["drop"][1] <= row["drop"][0] <= row["drop"][2]
    for name in ("all capitals", "soft hyphen", "zero-width space", "byte-order mark", "no-break space"):
        assert report["typed"][name]["drop"] == [0, 0, 0]  # the normaliser sees no difference


def test_tails(checkpoint: Path, sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["--ckpt", str(checkpoint), "--data", str(sample)]

    tail = scores(capsys, *source, "--partition", "tail_unseen_word")

    assert tail["partition"] == "tail_unseen_word of test"
    assert 0 < tail["utterances"]["de-DE"] < 33  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt", "/nowhere"], "/nowhere: no such checkpoint folder"),
        (["--locales", "xx-XX"], "no utterances for xx-XX"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(
    checkpoint: Path, sample: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert evaluate.main(["--ckpt", str(checkpoint), "--data", str(sample), *arguments]) == 2

    assert message in capsys.readouterr().err


def test_a_shipped_student_is_scored_by_its_name(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = scores(capsys, "--student", "xs", "--data", str(sample), "--locales", "de-DE")

    assert (report["model"], report["kind"]) == ("xs", "student")


@pytest.mark.parametrize("arguments", [[], ["--ckpt", "a", "--student", "s"]])
def test_one_model_is_scored(arguments: list[str], sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main([*arguments, "--data", str(sample)])

    assert "--student" in capsys.readouterr().err


def test_several_processes_give_the_same_report(
    checkpoint: Path, sample: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--ckpt", str(checkpoint), "--data", str(sample), "--out", str(tmp_path / "scores.json")]
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    script = tmp_path / "evaluate.py"  # a process that ends with its group open sometimes aborts
    script.write_text(
        "import sys, torch\nfrom training.evaluate import main\n"
        "code = main()\nassert not torch.distributed.is_initialized()\nsys.exit(code)\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, str(script), *flags]

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [scores(capsys, *flags[:4])]
    assert json.loads((tmp_path / "scores.json").read_text())["utterances"] == {"de-DE": 33}
