from __future__ import annotations

import gc
import tempfile
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from training.text import lines
from training.text.corpus import CorpusError, read_lines
from training.text.lines import Lines, encode_lines, held_out_rows

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=300)


def words(count: int = 10) -> Tokenizer:
    """A tokenizer whose tokens are numbers: "7 3" is [7, 3]."""
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(count)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def of_lengths(lengths: list[int], folder: Path, seed: int = 1) -> Lines:
    encode_lines(words(), (" ".join("5" * length) for length in lengths), 64, folder)
    return Lines(folder, seed)


def passes(text: Lines, batch_tokens: int) -> Iterator[list[list[int]]]:
    """Rows of each batch, pass after pass."""
    drawn = (rows.tolist() for _, rows in text.batches(batch_tokens))
    while True:
        batches, left = [], len(text) - len(text.held_out)
        while left > 0:
            batches.append(next(drawn))
            left -= len(batches[-1])
        yield batches


@given(LENGTHS, st.integers(1, 500), st.integers(0, 5), st.sampled_from([50, 100, 1_000_000]))
@settings(max_examples=60)
def test_each_line_is_drawn_once_a_pass_and_held_out_ones_never(
    lengths: list[int], batch_tokens: int, seed: int, window: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "WINDOW", window)
        text = of_lengths(lengths, Path(folder, "text"), seed)
        trained = sorted(set(range(len(lengths))) - set(text.held_out.tolist()))

        for batches in islice(passes(text, batch_tokens), 2):
            assert sorted(row for batch in batches for row in batch) == trained
            assert max(sum(lengths[i] for i in batch) for batch in batches) < batch_tokens + max(lengths)
            small = sum(sum(lengths[i] for i in batch) <= batch_tokens - max(lengths) for batch in batches)
            assert small <= -(-len(lengths) // window)  # the last of each window
        assert text.trained_tokens == sum(lengths[i] for i in trained)


def test_lines_of_about_equal_length_go_together(tmp_path: Path) -> None:
    lengths = [1 + i % 40 for i in range(2000)]
    batches = next(passes(of_lengths(lengths, tmp_path / "text"), 400))

    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert max(spread) <= 6
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest != sorted(longest)


def test_the_order_is_a_function_of_the_seed_and_differs_from_pass_to_pass(tmp_path: Path) -> None:
    lengths = [1 + i % 7 for i in range(200)]
    text, again, other = (of_lengths(lengths, tmp_path / str(i), seed) for i, seed in enumerate((1, 1, 2)))

    first, second = islice(passes(text, 50), 2)

    assert [first, second] == list(islice(passes(again, 50), 2))
    assert first != second
    assert first != next(passes(other, 50))
    assert text.held_out.tolist() == held_out_rows(200, 1).tolist() != other.held_out.tolist()
    assert len(text.held_out) == 20


def test_batches_name_their_pass(tmp_path: Path) -> None:
    text = of_lengths([3] * 20, tmp_path / "text")

    numbers = [number for number, _ in islice(text.batches(9), 18)]

    assert numbers == [0] * 6 + [1] * 6 + [2] * 6


def test_a_batch_holds_the_tokens_and_their_mask(tmp_path: Path) -> None:
    encode_lines(words(), ["1 2 3 4 5 6", "7", "8 9"], 4, tmp_path / "text")

    ids, mask = Lines(tmp_path / "text", 1).batch(np.array([2, 0, 1]), pad_id=0)

    assert ids.tolist() == [[8, 9, 0, 0], [1, 2, 3, 4], [7, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(("vocabulary", "name"), [(1 << 16, "pieces.16"), ((1 << 16) + 1, "pieces.32")])
def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path, vocabulary: int, name: str) -> None:
    encode_lines(words(vocabulary), [f"1 {vocabulary - 1}"], 64, tmp_path / "text")

    assert sorted(file.name for file in (tmp_path / "text").iterdir()) == [name, "starts.64"]
    assert Lines(tmp_path / "text", 1).batch(np.array([0]), 0)[0].tolist() == [[1, vocabulary - 1]]


def test_what_was_encoded_before_is_replaced(tmp_path: Path) -> None:
    encode_lines(words(1 << 17), ["1 2", "3"], 64, tmp_path / "text")
    encode_lines(words(), ["4"], 64, tmp_path / "text")

    assert Lines(tmp_path / "text", 1).tokens.tolist() == [4]


def test_another_order_of_the_lines_is_another_checksum(tmp_path: Path) -> None:
    for name, texts in (("a", ["1", "2"]), ("b", ["2", "1"]), ("c", ["1", "2"])):
        encode_lines(words(), texts, 64, tmp_path / name)

    a, b, c = (Lines(tmp_path / name, 1).checksum for name in "abc")
    assert a == c != b


def peak_of(count: int, folder: Path) -> int:
    gc.collect()
    tracemalloc.start()
    encode_lines(words(), ("5 5 5 5 5 5 5 5" for _ in range(count)), 64, folder)
    for _, rows in islice(Lines(folder, 1).batches(400), count // 50):
        assert len(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WINDOW", 500), ("HELD_OUT", 50), ("CHUNK", 500)):
        monkeypatch.setattr(lines, name, value)
    peak_of(2000, tmp_path / "warm")

    assert peak_of(40_000, tmp_path / "long") < 1.5 * peak_of(4000, tmp_path / "short")


def test_no_text_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no text to train on"):
        encode_lines(words(), [], 64, tmp_path / "text")

    assert not (tmp_path / "text").exists()


def test_an_unreadable_text_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"1 2\n" * 5 + "für\n".encode("latin-1"))

    with pytest.raises(CorpusError, match=r"latin\.txt"):
        encode_lines(words(), read_lines([str(tmp_path / "latin.txt")]), 64, tmp_path / "text")

    assert not (tmp_path / "text").exists()


def test_removed_lines_are_gone(tmp_path: Path) -> None:
    of_lengths([3, 4], tmp_path / "text").remove()

    assert not (tmp_path / "text").exists()
