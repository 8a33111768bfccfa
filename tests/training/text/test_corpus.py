from __future__ import annotations

import errno
import gzip
import hashlib
import json
import signal
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import corpus as command
from training.data import datasets
from training.text import corpus, transfer
from training.text.corpus import CorpusError, Quota, located_files, read_lines
from training.text.tokenizer import train_tokenizer

LANGUAGES = ("de", "fr")


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of 1 to 9 words, each naming the source it stands in; half of each language is spoken."""
    folder = tmp_path_factory.mktemp("data") / "generic"
    for language in LANGUAGES:
        (folder / language).mkdir(parents=True)
        for source in ("tatoeba", "novels"):
            lines = [" ".join([f"{source}-{language}-{i}", *["Wort"] * (i % 9)]) for i in range(600)]
            (folder / language / f"{source}.txt").write_text("\n".join(lines))
    return folder


def run(out: Path, **flags: object) -> int:
    """The public command; `repeat=True` is a bare flag."""
    argv = ["build", "--out", str(out)]
    for name, value in {"locales": "de,fr", "tokens": 1000, **flags}.items():
        flag = "--" + name.replace("_", "-")
        argv += [flag] if value is True else [] if value is None else [f"{flag}={value}"]
    return command.main(argv)


def manifest_of(out: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(out.with_name(out.name + ".json").read_text())
    return manifest


def text_of(out: Path) -> list[str]:
    raw = out.read_bytes()
    return (gzip.decompress(raw) if out.suffix == ".gz" else raw).decode().splitlines()


def words(lines: list[str]) -> int:
    return sum(len(line.split()) for line in lines)


def held_out(source: Path) -> set[str]:
    return {
        corpus.same_utterance(u.text.lower()) for u in datasets.load(str(source)).utterances if u.partition != "train"
    }


def left_in(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir()) if folder.exists() else []


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


def test_a_mixed_set_explains_itself(
    generic: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "set.txt.gz"

    assert run(out, generic=generic, data=sample, ratio="7:3") == 0

    lines, manifest = text_of(out), manifest_of(out)
    assert words(lines) == manifest["tokens"] == 1000
    assert len(lines) == manifest["lines"] == sum(s["lines"] for s in manifest["sources"])
    tokens = {(g["language"], g["kind"]): g["tokens"] for g in manifest["groups"]}
    assert tokens == {(language, kind): n for language in ("de", "fr") for kind, n in (("task", 150), ("generic", 350))}
    assert all(g["asked"] == g["tokens"] <= g["available"] and g["repeats"] == 1 for g in manifest["groups"])
    assert manifest["arguments"]["generic"] == "generic"
    assert str(generic.parent) not in json.dumps(manifest)
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["tokens"] == 1000
    assert "removed lines, dev or test: " in output.err
    assert left_in(out.parent) == ["set.txt.gz", "set.txt.gz.json"]


@settings(max_examples=15)
@given(
    generic_part=st.integers(0, 9),
    task_part=st.integers(0, 9),
    weights=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    tokens=st.integers(20, 900),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_ratio_and_weights_are_exact_without_dev_test_or_doubles(
    generic: Path,
    sample: Path,
    tmp_path_factory: pytest.TempPathFactory,
    generic_part: int,
    task_part: int,
    weights: tuple[int, int],
    tokens: int,
    seed: int,
) -> None:
    if not generic_part + task_part:
        generic_part = 1
    out = tmp_path_factory.mktemp("out") / "set.txt"
    asked = ",".join(f"{language}={weight}" for language, weight in zip(LANGUAGES, weights, strict=True))
    flags = {"ratio": f"{generic_part}:{task_part}", "locales": asked, "tokens": tokens, "seed": seed}

    assert run(out, generic=generic, data=sample, **flags) == 0

    lines, groups = text_of(out), manifest_of(out)["groups"]
    share = Fraction(generic_part, generic_part + task_part)
    for kind, part in (("generic", share), ("task", 1 - share)):
        total = sum(g["asked"] for g in groups if g["kind"] == kind)
        assert abs(total - tokens * part) < 1
        for language, weight in zip(LANGUAGES, weights, strict=True):
            group = sum(g["asked"] for g in groups if (g["language"], g["kind"]) == (language, kind))
            assert abs(group - Fraction(total * weight, sum(weights))) < 1
    # a rest that is shorter than the shortest request is left open
    assert all(g["asked"] == g["tokens"] or (g["kind"] == "task" and g["asked"] < 12) for g in groups)
    assert words(lines) == sum(g["tokens"] for g in groups)
    assert len({corpus.same_text(line) for line in lines}) == len(lines)
    assert not {corpus.same_utterance(line.lower()) for line in lines} & held_out(sample)


def test_the_same_seed_and_text_give_the_same_bytes(generic: Path, sample: Path, tmp_path: Path) -> None:
    """Neither the order in which a file system lists files nor the lines' order in a file matters."""
    turned = tmp_path / "turned"
    for file in sorted(generic.rglob("*.txt"), reverse=True):
        copy = turned / file.parent.name / f"{file.name}.gz"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(gzip.compress("\n".join(reversed(file.read_text().splitlines())).encode()))
    sets = {}
    for name, source, seed in (("a", generic, 1), ("b", turned, 1), ("c", generic, 2)):
        flags = {"locales": "fr,de" if name == "b" else "de,fr", "seed": seed, "spoken_share": 0.5}
        assert run(tmp_path / f"{name}.txt.gz", generic=source, data=sample, **flags) == 0
        sets[name] = (tmp_path / f"{name}.txt.gz").read_bytes()

    assert sets["a"] == sets["b"] != sets["c"]


def test_which_of_two_spellings_stays_does_not_depend_on_their_order(tmp_path: Path) -> None:
    lines = [spelling.format(i) for i in range(50) for spelling in ("Ein Satz {}", "ein satz {}", "EIN SATZ {}")]
    for name, ordered in (("there", lines), ("back", lines[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "de.txt").write_text("\n".join(ordered))
        flags = {"generic": tmp_path / name, "ratio": "1:0", "locales": "de", "tokens": 90}
        assert run(tmp_path / f"{name}.txt", **flags) == 0

    assert (tmp_path / "there.txt").read_bytes() == (tmp_path / "back.txt").read_bytes()


def test_lines_are_shuffled(generic: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "set.txt", generic=generic, ratio="1:0", tokens=4000) == 0

    halves = [line.split("-")[1] for line in text_of(tmp_path / "set.txt")]
    first = Counter(halves[: len(halves) // 2])
    assert min(first.values()) > 0.4 * sum(first.values())


@pytest.mark.parametrize(("share", "tokens"), [(0.7, 700), (0, 0), (1, 1000)])
def test_spoken_share(generic: Path, tmp_path: Path, share: float, tokens: int) -> None:
    assert run(tmp_path / "set.txt", generic=generic, ratio="1:0", spoken_share=share) == 0

    manifest = manifest_of(tmp_path / "set.txt")
    assert words([line for line in text_of(tmp_path / "set.txt") if line.startswith("tatoeba")]) == tokens
    assert manifest["spoken_share"] == share
    assert {s["kind"] for s in manifest["sources"]} <= {"spoken", "written"}


def test_sources_can_be_chosen(generic: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "set.txt", generic=generic, ratio="1:0", sources="novels") == 0

    assert {s["name"] for s in manifest_of(tmp_path / "set.txt")["sources"]} == {"novels"}


def test_spoken_sources_can_be_named(generic: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "set.txt", generic=generic, ratio="1:0", spoken_share=1, spoken="novels,other") == 0

    assert all(line.startswith("novels") for line in text_of(tmp_path / "set.txt"))


def test_task_text_alone_needs_no_generic_text(sample: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "set.txt", data=sample, ratio="0:1") == 0

    train = {u.text for u in datasets.load(str(sample), ["de-DE", "fr-FR"]).part("train")}
    assert set(text_of(tmp_path / "set.txt")) <= train


def test_files_named_by_locale(sample: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "set.txt", generic=sample / "out_of_scope", ratio="1:0", tokens=100) == 0

    assert {s["name"] for s in manifest_of(tmp_path / "set.txt")["sources"]} == {"out_of_scope"}


@pytest.mark.parametrize("packed", [False, True])
def test_all_locales_of_a_language_are_taken(tmp_path: Path, packed: bool) -> None:
    rows = [
        {"id": str(i), "text": f"Satz {locale} {i}", "locale": locale, "partition": "train"}
        for locale in ("de-DE", "de-AT", "fr-FR")
        for i in range(20)
    ]
    files = tmp_path / "data"
    files.mkdir()
    for locale in ("de-DE", "de-AT", "fr-FR"):  # or all in one file, which says nothing by its name
        name = "all" if packed else locale
        with (files / f"{name}.jsonl").open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows if row["locale"] == locale)

    assert run(tmp_path / "set.txt", data=files, ratio="0:1", locales="de", tokens=120) == 0

    assert Counter(line.split()[1] for line in text_of(tmp_path / "set.txt")) == {"de-DE": 20, "de-AT": 20}

    assert run(tmp_path / "one.txt", data=files, ratio="0:1", locales="de-AT", tokens=60) == 0

    assert Counter(line.split()[1] for line in text_of(tmp_path / "one.txt")) == {"de-AT": 20}


def test_dev_and_test_utterances_stay_out_of_generic_text_too(sample: Path, tmp_path: Path) -> None:
    utterances = datasets.load(str(sample), ["de-DE"])
    leaks = [u.text.capitalize() + "?" for part in ("dev", "test") for u in utterances.part(part)]
    (tmp_path / "generic").mkdir()
    (tmp_path / "generic" / "de.txt").write_text("\n".join([*leaks, *(f"Satz {i}" for i in range(50))]))

    assert (
        run(tmp_path / "set.txt", generic=tmp_path / "generic", data=sample, ratio="1:0", locales="de", tokens=100) == 0
    )

    assert manifest_of(tmp_path / "set.txt")["removed"]["dev_or_test"] == {"generic": len(leaks)}
    assert all(line.startswith("Satz") for line in text_of(tmp_path / "set.txt"))


def test_doubles_and_blanks_are_counted(tmp_path: Path) -> None:
    (tmp_path / "generic").mkdir()
    (tmp_path / "generic" / "de.txt").write_text("Ein Satz\n\n ein  SATZ \nｅｉｎ Satz\nzwei Worte\n \n")

    assert run(tmp_path / "set.txt", generic=tmp_path / "generic", ratio="1:0", locales="de", tokens=4) == 0

    assert len(text_of(tmp_path / "set.txt")) == 2
    assert manifest_of(tmp_path / "set.txt")["removed"] == {
        "dev_or_test": {},
        "duplicate": {"generic": 2},
        "blank": {"generic": 2},
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("a.txt, b.txt.gz,", [(None, "a.txt"), (None, "b.txt.gz")]),
        ("a,de-DE=b,c,zh-Hant-TW=d", [(None, "a"), ("de-DE", "b"), ("de-DE", "c"), ("zh-Hant-TW", "d")]),
        ("de=x=1.txt,folder/fr=2.txt,hub:name", [("de", "x=1.txt"), ("de", "folder/fr=2.txt"), ("de", "hub:name")]),
    ],
)
def test_a_locale_holds_for_the_files_after_it(text: str, found: list[tuple[str | None, str]]) -> None:
    assert located_files(text) == found


def test_a_locale_without_a_file_is_refused() -> None:
    with pytest.raises(CorpusError, match="de-DE=: names no file"):
        located_files("de-DE=,a.txt")


def test_characters_of_han_and_kana_are_words(tmp_path: Path) -> None:
    (tmp_path / "generic").mkdir()
    (tmp_path / "generic" / "ja.txt").write_text("明日の天気\nNHK を聞く\n")

    assert run(tmp_path / "set.txt", generic=tmp_path / "generic", ratio="1:0", locales="ja", tokens=9) == 0

    assert manifest_of(tmp_path / "set.txt")["tokens"] == 9


def test_tokens_of_a_tokenizer_are_counted_without_special_ones(generic: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(read_lines([str(generic)]), 200)
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    flags = {"ratio": "1:0", "tokens": 3000, "tokenizer": tmp_path / "tokenizer.json"}
    assert run(tmp_path / "set.txt", generic=generic, **flags) == 0

    lines = text_of(tmp_path / "set.txt")
    assert sum(len(tokenizer.encode(line, add_special_tokens=False).ids) for line in lines) == 3000
    assert manifest_of(tmp_path / "set.txt")["unit"] == "pieces"


def test_too_little_text_is_refused_or_repeated(
    generic: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, flags = tmp_path / "set.txt", {"ratio": "1:1", "tokens": 8000}

    assert run(out, generic=generic, data=sample, **flags) == 2
    error = error_of(capsys)
    assert "de task: " in error
    assert "tokens available, 2,000 requested" in error
    assert "de generic" not in error
    assert "--repeat" in error
    assert left_in(tmp_path) == []

    assert run(out, generic=generic, data=sample, **flags, repeat=True) == 0
    group = manifest_of(out)["groups"][0]
    assert group["tokens"] == 2000
    assert group["repeats"] == round(2000 / group["available"], 3) > 1
    counts = Counter(text_of(out))
    train = {u.text for u in datasets.load(str(sample), ["de-DE"]).part("train")}
    copies = {counts[text] for text in train if counts[text]}
    assert copies == {2000 // group["available"], 2000 // group["available"] + 1}


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(0, 300))
def test_a_quota_is_met_if_the_lines_allow_it(lengths: list[int], tokens: int) -> None:
    quota = Quota(tokens)
    taken = [line for n, length in enumerate(lengths) for line in quota.offer(length, b"%d" % n)] + quota.close()

    sums = {0}
    for length in lengths:
        sums |= {total + length for total in sums}
    assert len(set(taken)) == len(taken)
    assert sum(lengths[int(line)] for line in taken) == max(total for total in sums if total <= tokens)
    assert quota.left == tokens - max(total for total in sums if total <= tokens)


@given(st.lists(st.integers(1, 60), min_size=400, max_size=400), st.integers(2049, 6000))
@settings(max_examples=20)
def test_a_large_quota_is_met_to_the_token(lengths: list[int], tokens: int) -> None:
    quota = Quota(tokens)
    taken = [line for n, length in enumerate(lengths) for line in quota.offer(length, b"%d" % n)] + quota.close()

    assert len(set(taken)) == len(taken)
    assert sum(lengths[int(line)] for line in taken) == tokens - quota.left
    assert quota.left == 0 or sum(lengths) < tokens


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ratio": "7"}, "--ratio is '7'; allowed: GENERIC:TASK"),
        ({"ratio": "0:0"}, "--ratio is '0:0'"),
        ({"ratio": "-1:2"}, "--ratio is '-1:2'"),
        ({"ratio": "nan:1"}, "--ratio is 'nan:1'"),
        ({"locales": "de,xx"}, "has no text for xx; its languages: de, fr"),
        ({"locales": "de=0"}, "--locales: 'de=0'; allowed"),
        ({"locales": "de,de"}, "--locales: 'de'; allowed: each language once"),
        ({"locales": "de,de-AT"}, "--locales: 'de-AT'; allowed: each language once"),
        ({"locales": ","}, "--locales names none"),
        ({"tokens": 0}, "--tokens is 0; allowed: 1 or more"),
        ({"seed": -1}, "--seed is -1; allowed"),
        ({"sources": "novels,radio"}, "--sources: unknown radio; allowed: novels, tatoeba"),
        ({"spoken_share": 1.5}, "--spoken-share is 1.5; allowed: 0 to 1"),
        ({"spoken_share": 0.5, "spoken": "radio"}, "de spoken: 0 tokens available, 250 requested"),
        ({"ratio": "0:1"}, "--ratio 0:1 asks for task text; give --data"),
        ({"generic": None}, "--ratio 1:0 asks for generic text; give --generic"),
        ({"generic": "nowhere"}, "nowhere has no text for de, fr; its languages: none"),
        ({"data": "nowhere"}, "nowhere: no such data"),
        ({"tokenizer": "nowhere.json"}, "nowhere.json: not a tokenizer file"),
        ({"tokens": 10**6}, "or allow upsampling with --repeat"),
    ],
)
def test_errors_are_one_sentence(
    generic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, object], message: str
) -> None:
    assert run(tmp_path / "set.txt", **{"generic": generic, "ratio": "1:0", **flags}) == 2

    assert message in error_of(capsys)
    assert left_in(tmp_path) == []


def test_a_language_without_task_text(
    generic: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "generic").mkdir()
    (tmp_path / "generic" / "nl.txt").write_text("een zin\n")
    flags = {"generic": tmp_path / "generic", "data": sample, "locales": "nl", "tokens": 2}

    assert run(tmp_path / "set.txt", **flags, ratio="1:1") == 2
    assert "has no training texts for nl; its languages: de, en, es, fr, it" in error_of(capsys)

    assert run(tmp_path / "set.txt", **flags, ratio="1:0") == 0  # but nothing could be kept out
    assert "has no training texts for nl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "empty.txt: holds no text"),
        ("latin.txt", "für\n".encode("latin-1"), "latin.txt: cannot be read: 'utf-8' codec"),
        ("cut.txt.gz", gzip.compress(b"text\n" * 1000, mtime=0)[:30], "cut.txt.gz: cannot be read"),
        ("bad.txt.gz", gzip.compress(b"text", mtime=0)[:10] + b"\xff" * 30, "bad.txt.gz: cannot be read"),
    ],
)
def test_unusable_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    folder = tmp_path / "generic" / "de"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    (folder / "whole.txt").write_text("ein Satz\n" * 10)

    assert run(tmp_path / "out" / "set.txt", generic=folder.parent, ratio="1:0", locales="de") == 2

    assert message in error_of(capsys)
    assert left_in(tmp_path / "out") == []


def test_nothing_is_overwritten_unasked(generic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set.txt"
    out.write_text("mine")

    assert run(out, generic=generic, ratio="1:0") == 2
    assert "set.txt: exists already; choose another --out, or --force" in error_of(capsys)
    assert out.read_text() == "mine"

    assert run(out, generic=generic, ratio="1:0", force=True) == 0
    assert words(text_of(out)) == 1000


def test_other_file_names_are_refused(generic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "set.csv", generic=generic, ratio="1:0") == 2

    assert "allowed: names that end in .txt or .txt.gz" in error_of(capsys)


@pytest.mark.parametrize("step", ["write_record", "read_records"])
def test_a_full_disk_leaves_nothing(
    generic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus, step, full)

    assert run(tmp_path / "set.txt", generic=generic, ratio="1:0") == 2
    assert f"{tmp_path}: the disk is full, nothing was written" in error_of(capsys)
    assert left_in(tmp_path) == []


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT does what it does in a terminal; what a shell runs in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["write_record", "read_records"])
def test_an_interrupt_leaves_nothing(
    generic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: signal.Signals
) -> None:
    def interrupted(*_: object) -> Iterator[object]:
        signal.raise_signal(number)
        return iter(())

    monkeypatch.setattr(corpus, step, interrupted)
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "set.txt", generic=generic, ratio="1:0")
    assert left_in(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == before


def large(folder: Path, lines: int) -> Path:
    (folder / "de").mkdir(parents=True)
    with (folder / "de" / "text.txt").open("w") as stream:
        stream.writelines(f"Satz {i} mit einigen Worten, damit er Platz braucht\n" for i in range(lines))
    return folder


def test_buckets_too_large_for_memory_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = large(tmp_path / "generic", 2000)
    with (source / "de" / "again.txt").open("w") as stream:
        stream.writelines("immer dasselbe\n" for _ in range(500))  # equal hashes can't be split
    flags = {"generic": source, "ratio": "1:0", "locales": "de", "tokens": 15_000}
    assert run(tmp_path / "whole.txt", **flags) == 0
    monkeypatch.setattr(corpus, "BUCKET_BYTES", 700)

    assert run(tmp_path / "split.txt", **flags) == 0

    assert (tmp_path / "whole.txt").read_bytes() == (tmp_path / "split.txt").read_bytes()


def test_memory_does_not_grow_with_text_or_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "BUFFER_BYTES", 1 << 10)  # the buffers of open files would hide what a line costs
    monkeypatch.setattr(transfer, "BATCH_LINES", 100)
    peaks = []
    for lines in (2_000, 20_000):
        flags = {"generic": large(tmp_path / str(lines), lines), "ratio": "1:0", "locales": "de"}
        tracemalloc.start()
        assert run(tmp_path / f"{lines}.txt.gz", **flags, tokens=8 * lines) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.3 * peaks[0], peaks


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("a.txt, b.txt", [(None, "a.txt"), (None, "b.txt")]),
        ("a,de-DE=b,c,fr=d", [(None, "a"), ("de-DE", "b"), ("de-DE", "c"), ("fr", "d")]),
        ("de-DE=/x/a=b.txt,Q=1.txt", [("de-DE", "/x/a=b.txt"), ("de-DE", "Q=1.txt")]),
    ],
)
def test_a_locale_applies_to_the_files_that_follow(text: str, found: list[tuple[str | None, str]]) -> None:
    assert located_files(text) == found


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_hub_data_sets_are_streamed(tmp_path: Path, kind: str) -> None:
    hub = pytest.importorskip("datasets")
    rows = hub.Dataset.from_dict({"text": ["ein Satz", "", "zwei\nZeilen"], "other": ["x", None, "y"], "n": [1, 2, 3]})
    (tmp_path / "set").mkdir()
    write = rows.to_parquet if kind == "parquet" else rows.to_json
    write(str(tmp_path / "set" / f"train.{kind}"))

    assert list(read_lines([f"hub:{tmp_path / 'set'}"])) == ["ein Satz", "zwei", "Zeilen"]
    assert list(read_lines([f"hub:{tmp_path / 'set'}:other"])) == ["x", "y"]
    with pytest.raises(CorpusError, match=r"'n' is no column of text; allowed: text, other"):
        list(read_lines([f"hub:{tmp_path / 'set'}:n"]))
    with pytest.raises(CorpusError, match=r"hub:.*nowhere: cannot be read"):
        list(read_lines([f"hub:{tmp_path / 'nowhere'}"]))
