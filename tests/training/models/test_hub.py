from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, GPT2Config, GPT2LMHeadModel

from service.student.tokenization import TextEncoder
from training.models.batches import IGNORED, Example, collate
from training.models.checkpoint import load_checkpoint, save_checkpoint
from training.models.errors import CheckpointError
from training.models.hub import TOKEN_LOGITS, WITHOUT_HEAD, HubConfig, HubModel, is_hub_folder, is_hub_source, open_hub
from training.models.student import StudentConfig, StudentModel
from training.text.tokenizer import special_ids

LABELS = {"domain": ["a", "b"], "intent": ["a_x", "a_y", "b_z"], "slots": ["O", "B-t", "I-t"]}
FOLDERS = ["hub_xlm_roberta", "hub_bert"]
# ModernBERT's module imports torch's compiler, which warns of another part of torch
COMPILER = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
KINDS = [pytest.param(kind, marks=COMPILER if kind == "modernbert" else ()) for kind in sorted(TOKEN_LOGITS)]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def copied(hub_bert: Path, tmp_path: Path) -> Path:
    """A copy of the BERT folder to spoil."""
    return shutil.copytree(hub_bert, tmp_path / "copied")


def with_heads(folder: Path) -> HubModel:
    """The folder's model with heads, every bias of which is something."""
    plain, _ = open_hub(str(folder))
    torch.manual_seed(0)
    model = HubModel(HubConfig(wrapped=plain.config.wrapped, labels=LABELS)).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    for head in model.heads.values():
        torch.nn.init.normal_(head.bias)
    return model


def tiny(kind: str) -> dict[str, Any]:
    """A tiny configuration of an architecture."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "distilbert":
        shape = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    sizes = {"embedding_size": 16, "input_embedding_size": 16, "output_embedding_size": 24}
    return {"model_type": kind, "vocab_size": 70, "max_position_embeddings": 20, **shape, **special, **sizes}


def test_a_folder_has_the_face_of_a_student(folder: Path) -> None:
    config = with_heads(folder).config

    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == (64, 2, 48)
    assert config.labels == LABELS
    assert config.masked
    assert config.size == f"{folder.name}, 2 x 64"


def test_outputs_have_the_promised_shapes(folder: Path) -> None:
    output = with_heads(folder)(torch.randint(5, 200, (3, 7)), all_layers=True)

    assert output.domain_logits.shape == (3, 2)
    assert output.intent_logits.shape == (3, 3)
    assert output.slot_logits.shape == (3, 7, 3)
    assert output.features.shape == (3, 128)
    assert [tuple(state.shape) for state in output.hidden_states] == [(3, 7, 64)] * 3
    assert output.hidden_states[-1] is output.last_hidden_state


def test_layers_are_given_only_when_asked_for(hub_bert: Path) -> None:
    assert with_heads(hub_bert)(torch.tensor([[2, 7, 3]])).hidden_states is None


def test_features_are_the_mean_beside_the_first_token(folder: Path) -> None:
    output = with_heads(folder)(torch.tensor([[5, 6, 7]]))

    hidden = output.last_hidden_state
    torch.testing.assert_close(output.features, torch.cat([hidden.mean(dim=1), hidden[:, 0]], dim=-1))


def test_padding_does_not_change_an_answer(folder: Path) -> None:
    model, pad = with_heads(folder), special_ids(open_hub(str(folder))[1]).pad
    short, long = [5, 6, 7, 8], [9, 8, 9, 10, 11, 12, 13]
    batch = collate([Example(ids, IGNORED, IGNORED, [IGNORED] * len(ids)) for ids in (short, long)], pad)

    together = model(batch.input_ids, batch.attention_mask)
    alone = model(torch.tensor([short]))

    torch.testing.assert_close(together.intent_logits[:1], alone.intent_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.slot_logits[:1, : len(short)], alone.slot_logits, atol=1e-5, rtol=1e-4)


def test_a_full_window_can_be_read(folder: Path) -> None:
    model = with_heads(folder)

    output = model(torch.full((1, model.config.max_position_embeddings), 9))

    assert bool(output.intent_logits.isfinite().all())


def test_dropout_of_the_heads_is_on_in_training_only() -> None:
    inner = {**tiny("bert"), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, ids = HubModel(HubConfig(wrapped=inner, labels=LABELS, dropout=0.5)), torch.tensor([[5, 6]])

    assert not torch.equal(model.train()(ids).intent_logits, model(ids).intent_logits)
    assert torch.equal(model.eval()(ids).intent_logits, model(ids).intent_logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_alone_gives_the_logits_of_the_whole_model(kind: str) -> None:
    torch.manual_seed(0)
    model = HubModel(HubConfig(wrapped=tiny(kind))).eval()
    ids, mask = torch.randint(5, 70, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:], ids[1, 6:] = 0, 1
    chosen = mask.bool() & (torch.rand(mask.shape) < 0.4)

    output = model(ids, mask, all_layers=True)
    with torch.no_grad():
        whole = model.wrapped(input_ids=ids, attention_mask=mask).logits[chosen]

    torch.testing.assert_close(model.token_logits(output.last_hidden_state[chosen]), whole)
    assert len(output.hidden_states) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_loads_as_it_was(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = HubModel(HubConfig(wrapped=tiny(kind), labels=LABELS, size="a name", dropout=0.3)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)

    loaded = HubModel.from_pretrained(tmp_path).eval()

    ids = torch.tensor([[5, 6, 7]])
    one, other = model(ids), loaded(ids)
    assert torch.equal(one.intent_logits, other.intent_logits)
    assert torch.equal(one.slot_logits, other.slot_logits)
    assert torch.equal(model.token_logits(one.last_hidden_state[0]), loaded.token_logits(other.last_hidden_state[0]))
    assert (loaded.config.size, loaded.config.dropout, loaded.config.labels) == ("a name", 0.3, LABELS)
    assert loaded.count_parameters() == model.count_parameters()


def test_shared_weights_stay_shared(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = open_hub(str(folder))
    save_checkpoint(tmp_path, model, tokenizer, {})  # type: ignore[arg-type]

    loaded = HubModel.from_pretrained(tmp_path)

    for one in (model, loaded):
        assert one.get_output_embeddings().weight is one.get_input_embeddings().weight
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab() == tokenizer.get_vocab()
    assert str(folder) not in (tmp_path / "config.json").read_text()


def test_a_checkpoint_with_heads_loads_as_it_was(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = with_heads(folder), load_checkpoint(folder).encoder.tokenizer
    save_checkpoint(tmp_path, model, tokenizer, {"locales": ["de-DE"]})  # type: ignore[arg-type]

    loaded = load_checkpoint(tmp_path)

    ids = torch.tensor([loaded.encoder.encode("weck mich auf").ids])
    assert loaded.labels.intent == ("a_x", "a_y", "b_z")
    assert torch.equal(loaded.model(ids).intent_logits, model(ids).intent_logits)


def test_the_encoder_without_heads_starts_from_the_same_weights(folder: Path) -> None:
    checkpoint, ids = load_checkpoint(folder), torch.tensor([[5, 6, 7]])

    alone = checkpoint.encoder_alone(dropout=0.0).eval()

    hidden = alone(ids).last_hidden_state
    assert torch.equal(hidden, checkpoint.model(ids).last_hidden_state)
    assert torch.equal(alone.token_logits(hidden[0]), checkpoint.model.token_logits(hidden[0]))


def test_a_folder_opens_as_transformers_opens_it(folder: Path) -> None:
    model, _ = open_hub(str(folder))
    ids = torch.tensor([[5, 6, 7]])

    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(folder).eval()(ids).logits

    assert not model.training
    torch.testing.assert_close(model.token_logits(model(ids).last_hidden_state[0]), expected[0])


def test_half_precision_opens_as_single(hub_bert: Path, tmp_path: Path) -> None:
    AutoModelForMaskedLM.from_pretrained(hub_bert).half().save_pretrained(tmp_path)
    for file in hub_bert.glob("*token*"):
        shutil.copy(file, tmp_path)

    model, _ = open_hub(str(tmp_path))
    again = HubModel(HubConfig(wrapped=model.config.wrapped))

    assert {p.dtype for p in [*model.parameters(), *again.parameters()]} == {torch.float32}


def test_parameters_are_counted_without_tables_and_heads() -> None:
    model = HubModel(HubConfig(wrapped=tiny("distilbert"), labels=LABELS))

    total, outside = model.count_parameters()

    layers = sum(p.numel() for p in model.wrapped.distilbert.transformer.parameters())
    assert outside == layers + 2 * 32  # the norm after the tables
    assert total == sum(p.numel() for p in model.parameters())


def test_fewer_tokens_than_the_encoder_can_read(hub_xlm_roberta: Path) -> None:
    wrapped = open_hub(str(hub_xlm_roberta))[0].config.wrapped

    assert HubConfig(wrapped=wrapped, max_position_embeddings=16).max_position_embeddings == 16
    assert HubConfig(wrapped=wrapped, max_position_embeddings=512).max_position_embeddings == 48


def test_words_of_xlm_roberta_stand_between_spaces(hub_xlm_roberta: Path) -> None:
    model, tokenizer = open_hub(str(hub_xlm_roberta))
    encoder = TextEncoder(tokenizer, model.config.max_position_embeddings)

    for text in ("weck mich am freitag um 9:30 uhr auf!", "joue l'album  de céline", "pon la canción «luz»"):
        encoded = encoder.encode(text)
        assert [text[start:end] for start, end in encoded.words] == text.split()
        assert len(encoded.first_tokens) == len(encoded.words)
        assert encoded.ids[0] == special_ids(tokenizer).first


def test_words_of_bert_end_at_punctuation(hub_bert: Path) -> None:
    model, tokenizer = open_hub(str(hub_bert))
    encoder = TextEncoder(tokenizer, model.config.max_position_embeddings)

    def words(text: str) -> list[str]:
        return [text[start:end] for start, end in encoder.encode(text).words]

    assert words("weck mich am freitag auf") == ["weck", "mich", "am", "freitag", "auf"]
    assert words("um 9:30 uhr!") == ["um", "9", ":", "30", "uhr", "!"]  # to us "9:30" is one word, "!" one by itself
    assert words("l'album  de céline") == ["l", "'", "album", "de", "céline"]  # to us "l'album" is one


def test_special_tokens_by_either_name(hub_xlm_roberta: Path, hub_bert: Path) -> None:
    roberta, bert = (special_ids(open_hub(str(folder))[1]) for folder in (hub_xlm_roberta, hub_bert))

    assert (roberta.pad, roberta.unknown, roberta.first, roberta.mask) == (1, 3, 0, 4)
    assert (bert.pad, bert.unknown, bert.first, bert.mask) == (0, 1, 2, 4)
    assert set(roberta.protected) == set(bert.protected) == set(range(5))


def test_a_hub_folder_is_told_from_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    student = StudentModel(StudentConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, intermediate_size=8))
    student.save_pretrained(tmp_path / "student")
    HubModel(HubConfig(wrapped=tiny("bert"))).save_pretrained(tmp_path / "ours")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")

    assert is_hub_folder(folder)
    assert not any(is_hub_folder(tmp_path / name) for name in ("student", "ours", "list", "nothing", "."))


def test_an_unknown_architecture_is_refused_with_those_known() -> None:
    with pytest.raises(
        ValueError, match=r"'albert' is no supported encoder; allowed: bert, camembert, deberta, .*xlm-roberta"
    ):
        HubConfig(wrapped={"model_type": "albert"})


def test_a_name_on_the_hub_is_told_from_a_path(hub_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "teacher").mkdir(parents=True)

    names = ["xlm-roberta-base", "FacebookAI/xlm-roberta-base", "distilbert/distilbert-base-multilingual-cased"]
    assert all(is_hub_source(source) for source in (hub_bert, str(hub_bert), *names))
    others = ["runs/teacher", "./teacher", "../teacher", "~/teacher", "/teacher", "runs/teacher/", "a/b/c", ""]
    assert not any(is_hub_source(source) for source in (*others, tmp_path / "nothing"))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing: no such folder"):
        open_hub(str(tmp_path / "nothing"))


def test_a_name_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(
        CheckpointError, match=r"^owner/no-such-encoder: no such folder; from the hub it cannot be loaded"
    ):
        open_hub("owner/no-such-encoder")


def test_a_causal_model_is_refused(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="'gpt2' is no supported encoder"):
        open_hub(str(tmp_path))


def test_a_decoder_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "is_decoder": True}))

    with pytest.raises(CheckpointError, match="as a decoder"):
        open_hub(str(copied))


def without_head(folder: Path, copy: Path) -> Path:
    """A copy of a folder with the encoder alone, with the pooler that `BertModel` has."""
    shutil.copytree(folder, copy)
    AutoModel.from_pretrained(folder).save_pretrained(copy)
    return copy


def test_an_encoder_without_masked_language_head_opens(folder: Path, tmp_path: Path) -> None:
    model, _ = open_hub(str(without_head(folder, tmp_path / "copy")))
    whole, _ = open_hub(str(folder))
    ids = torch.tensor([[5, 6, 7]])

    assert (model.config.masked, whole.config.masked) == (False, True)
    assert torch.equal(model(ids).last_hidden_state, whole(ids).last_hidden_state)
    assert model.count_parameters()[1] == whole.count_parameters()[1]
    with pytest.raises(ValueError, match="no masked-language head"):
        model.token_logits(model(ids).last_hidden_state[0])


def test_an_encoder_without_head_is_saved_and_gets_a_new_head(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = open_hub(str(without_head(folder, tmp_path / "copy")))
    save_checkpoint(tmp_path / "saved", model, tokenizer, {})  # type: ignore[arg-type]

    loaded = load_checkpoint(tmp_path / "saved")
    alone = loaded.encoder_alone(dropout=0.0).eval()

    ids = torch.tensor([[5, 6, 7]])
    hidden = alone(ids).last_hidden_state
    assert torch.equal(hidden, loaded.model(ids).last_hidden_state)
    assert torch.equal(hidden, model(ids).last_hidden_state)
    assert alone.token_logits(hidden[0]).shape == (3, alone.config.vocab_size)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # DeBERTa's module
@pytest.mark.parametrize("kind", WITHOUT_HEAD)
def test_encoders_whose_head_is_not_read_open_and_have_none(kind: str, hub_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(hub_bert, tmp_path / "copy")
    config = AutoConfig.for_model(**{**tiny(kind), "vocab_size": 400, "relative_attention": True, "pad_token_id": 0})
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "copy")
    checkpoint = load_checkpoint(tmp_path / "copy")

    assert not checkpoint.model.config.masked
    assert checkpoint.model(torch.tensor([[5, 6, 7]])).last_hidden_state.shape == (1, 3, 32)
    with pytest.raises(CheckpointError, match=f"{kind}: its masked-language head is not supported; allowed: bert"):
        checkpoint.encoder_alone(dropout=0.0)


def test_an_encoder_that_lacks_a_layer_is_refused(copied: Path) -> None:
    weights = {k: v for k, v in load_file(copied / "model.safetensors").items() if "layer.1.output.dense" not in k}
    save_file(weights, copied / "model.safetensors", {"format": "pt"})

    with pytest.raises(CheckpointError, match=r"copied: its weights lack bert.encoder.layer.1.output.dense.bias, "):
        open_hub(str(copied))


def test_a_folder_without_weights_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"copied: its weights cannot be loaded: .*no file named"):
        open_hub(str(copied))


def test_a_folder_without_tokenizer_is_refused(copied: Path) -> None:
    for file in copied.glob("*token*"):
        file.unlink()

    with pytest.raises(CheckpointError, match="copied: its tokenizer cannot be loaded"):
        open_hub(str(copied))


def test_a_slow_tokenizer_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        is_fast = False

    monkeypatch.setattr("training.models.hub.AutoTokenizer.from_pretrained", lambda *args, **kwargs: Slow())

    with pytest.raises(CheckpointError, match=r"copied: has no fast tokenizer \(tokenizer.json\), only Slow"):
        open_hub(str(copied))


def test_a_tokenizer_without_mask_is_refused(copied: Path) -> None:
    for file in copied.glob("*token*"):
        file.write_text(file.read_text().replace("[MASK]", "[HIDE]"))

    with pytest.raises(CheckpointError, match=r"copied: the tokenizer lacks special tokens"):
        open_hub(str(copied))


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(copied: Path) -> None:
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(copied, vocab_size=50)).save_pretrained(copied)

    with pytest.raises(CheckpointError, match="the encoder only 50"):
        open_hub(str(copied))


def test_padding_that_tokenizer_and_encoder_disagree_on_is_refused(hub_xlm_roberta: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hub_xlm_roberta, tmp_path / "copied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))

    with pytest.raises(CheckpointError, match="padding is token 1 to the tokenizer, 0 to the encoder"):
        open_hub(str(folder))


def test_code_from_a_folder_is_never_run(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Strange"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "strange.py").write_text("raise SystemExit('was run')")

    with pytest.raises(CheckpointError, match=r"copied: the folder cannot be loaded: .*custom code"):
        open_hub(str(copied))
