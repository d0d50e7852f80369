"""Vocabularies in one order: rows against the rule written out by hand, tokenizers as transformers loads them."""

import json
import os
import re

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import taskvec as tv
from taskvec.errors import FormatError, MismatchError, RecipeError, TaskvecError
from taskvec.views.tokens import read

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = [f"w{k}" for k in range(12)]


# ---- the rule ------------------------------------------------------------------------------------
def model(folder, ids, rows, seed=0, width=3):
    """A model of a folder whose tokenizer gives tokens these ids."""
    folder.mkdir(parents=True)
    noise = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(rows, width, generator=noise).bfloat16() for name in (EMBEDDING, HEAD)}
    save_file(tensors | {"lm_head.bias": torch.randn(rows, generator=noise).bfloat16()}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "WordLevel", "vocab": ids}, "added_tokens": []})
    )
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
    return tv.load(folder)


def by_hand(order, size, ids, tensors, owner, base):
    """The rows of argument 0, token by token, as the docstring says."""
    at = {number: token for token, number in order.items()}
    rows = []
    for place in range(size):
        token = at.get(place)
        have = [k for k in range(len(ids)) if ids[k].get(token, 10**9) < len(tensors[k])]
        if token is None:
            row = (
                tensors[owner][place].float()
                if place < len(tensors[owner])
                else torch.zeros_like(tensors[0][0]).float()
            )
        elif 0 in have:
            row = tensors[0][ids[0][token]].float()
        elif base in have:
            row = tensors[base][ids[base][token]].float()
        elif have:
            row = torch.stack([tensors[k][ids[k][token]].double() for k in have]).mean(0).float()
        else:
            row = torch.zeros_like(tensors[0][0]).float()
        rows.append(row)
    return torch.stack(rows).bfloat16()


VOCABULARY = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8, unique=True).map(
    lambda words: {w: k for k, w in enumerate(words)}
)


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(VOCABULARY, min_size=2, max_size=4), extra=st.lists(st.integers(-1, 3), min_size=4, max_size=4),
    source=st.integers(0, 3), base=st.integers(0, 3),
)  # fmt: skip
def test_every_row_comes_from_where_the_rule_says(tmp_path_factory, ids, extra, source, base):
    home = tmp_path_factory.mktemp("rows")
    rows = [max(1, len(table) + more) for table, more in zip(ids, extra, strict=False)]
    args = [model(home / f"m{k}", table, n, k) for k, (table, n) in enumerate(zip(ids, rows, strict=True))]
    source, base = min(source, len(args) - 1), min(base, len(args) - 1)
    w = tv.align_vocab(*args, source=source or "union", base=base or None)
    assert tv.parse(str(w)) == w
    owner = source or base or 1
    order = dict(ids[owner])
    for k, table in [] if source else [(k, t) for k, t in enumerate(ids) if k not in (0, owner)]:
        for token in sorted((t for t in table if table[t] < rows[k]), key=table.get):  # others' tokens that have a row
            order.setdefault(token, len(order))
    size = rows[owner] if order == ids[owner] else max(rows[owner], len(order))
    tv.save(w, home / "out")
    written = load_file(home / "out/model.safetensors")
    for name in (EMBEDDING, HEAD, "lm_head.bias"):
        tensors = [load_file(home / f"m{k}/model.safetensors")[name] for k in range(len(args))]
        assert torch.equal(written[name], by_hand(order, size, ids, tensors, owner, base)), name
    kept = {token: number for token, number in read(home / "out").ids.items() if number < size}
    assert kept == {token: number for token, number in order.items() if number < size}
    assert json.loads((home / "out/config.json").read_text()) == {"vocab_size": size}


def test_a_vector_arranged_by_models_is_the_difference_of_its_models_arranged(tmp_path):
    one = {w: k for k, w in enumerate(WORDS[:7])}
    a, c = (model(tmp_path / n, one, 9, seed) for seed, n in enumerate("ac"))
    b = model(tmp_path / "b", {w: k for k, w in enumerate(reversed(WORDS))}, 14, 2)
    for others in ((b,), (c, b)):
        tau, two = tv.align_vocab(a - c, *others), tv.align_vocab(a, *others) - tv.align_vocab(c, *others)
        for name in tau:
            assert np.array_equal(tau[name], two[name]) and tau[name].any()


def test_ids_in_the_settings_keep_naming_the_same_tokens(tmp_path):
    a = model(tmp_path / "a", {"</s>": 0, "x": 1, "<pad>": 2, "gone": 3}, 4)
    b = model(tmp_path / "b", {"x": 0, "y": 1, "<pad>": 2, "</s>": 3, "<eot>": 4}, 5, 1)
    config = {
        "eos_token_id": 0,
        "pad_token_id": 2,
        "bos_token_id": 3,
        "vocab_size": 4,
        "n": 0,
        "text": {"image_token_id": 1},
    }
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    (tmp_path / "a/generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1], "bos_token_id": None}))
    (tmp_path / "b/config.json").write_text(json.dumps({"bos_token_id": 4}))
    (tmp_path / "b/generation_config.json").write_text(json.dumps({"bos_token_id": 4}))
    tv.save(tv.align_vocab(a, b), tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written == config | {
        "eos_token_id": 3, "bos_token_id": 4, "vocab_size": 5, "text": {"image_token_id": 0}
    }  # fmt: skip
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation == {"eos_token_id": [3, 0], "bos_token_id": None}


def test_a_tokenizer_that_changes_is_not_a_run_to_go_on_with(tmp_path):
    """The rows depend on the tokenizers' files: their order is part of what a finished output is known by."""
    a = model(tmp_path / "a", {"x": 0, "y": 1}, 2)
    b = model(tmp_path / "b", {"y": 0, "x": 1}, 2, 1)
    (before,) = tv.align_vocab(a, b).terms
    (tmp_path / "b/tokenizer.json").write_text(json.dumps({"model": {"vocab": {"x": 0, "y": 1}}}))
    (after,) = tv.align_vocab(a, tv.load(tmp_path / "b")).terms
    assert before.fingerprint != after.fingerprint


# ---- the union of real tokenizers ----------------------------------------------------------------
PROSE = ["the party went to the art museum in the morning and the evening"] * 20
CODE = ["def merge(tokens): return tokens + merge(the_art)"] * 20
CHAT = ["<|im_start|>", "<|im_end|>"]


def bpe(text, end):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=[end], initial_alphabet=alphabet)


def unigram(text, end):
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(vocab_size=40, special_tokens=[end], unk_token=end)


def pretrained(folder, kind, text, end, chat, seed):
    tokenizer, trainer = kind(text, end)
    tokenizer.train_from_iterator(text, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
    fast.add_special_tokens({"additional_special_tokens": chat})
    fast.chat_template = "{{ messages }}" + end
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast) + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=fast.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return tv.load(folder)


@pytest.mark.parametrize("kind", [bpe, unigram])
def test_a_union_loads_and_its_ids_are_the_rows_of_its_tokens(tmp_path, kind):
    a = pretrained(tmp_path / "a", kind, PROSE, "<end>", [], 0)
    b = pretrained(tmp_path / "b", kind, CODE, "<fin>", CHAT, 1)
    tv.save(0.25 * tv.align_vocab(a, a, b) + 0.75 * tv.align_vocab(b, a, b), tmp_path / "out")
    old = [AutoTokenizer.from_pretrained(tmp_path / name) for name in "ab"]
    vocabularies = [t.get_vocab() for t in old]
    new, model = AutoTokenizer.from_pretrained(tmp_path / "out"), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = new.get_vocab()
    assert ids.keys() == vocabularies[0].keys() | vocabularies[1].keys() and len(set(ids.values())) == len(ids)
    assert all(ids[token] == number for token, number in vocabularies[0].items())
    for name in (EMBEDDING, HEAD):
        rows = model.state_dict()[name].bfloat16()
        theirs = [load_file(tmp_path / n / "model.safetensors")[name].float() for n in "ab"]
        assert len(rows) == model.config.vocab_size >= len(ids)
        for token, number in ids.items():
            x, y = ([t[v[token]]] if token in v else [] for t, v in zip(theirs, vocabularies, strict=True))
            one, two = (x or y)[0], (y or x)[0]
            assert torch.equal(rows[number], (0.25 * one + 0.75 * two).bfloat16()), token
    for text in (PROSE[0], "in the museum", CODE[0]) if kind is bpe else (PROSE[0], "in the museum"):  # as before
        assert new.encode(text) == old[0].encode(text)
        assert new.decode(new.encode(text)) == old[0].decode(old[0].encode(text))
    chat = f"the art {CHAT[0]}the"
    assert CHAT[0] in new.tokenize(chat) and CHAT[0] not in old[0].tokenize(chat)
    assert new.encode(CHAT[1])[-1] == ids[CHAT[1]]
    assert (new.eos_token, new.chat_template) == ("<end>", old[0].chat_template)
    assert model.config.eos_token_id == ids["<end>"]


def test_the_tokenizer_of_another_model_is_copied_whole(tmp_path):
    a = pretrained(tmp_path / "a", bpe, PROSE, "<end>", [], 0)
    b = pretrained(tmp_path / "b", bpe, CODE, "<fin>", CHAT, 1)
    (tmp_path / "a/vocab.json").write_text("{}")
    for w in (tv.align_vocab(a, b), tv.slerp(tv.align_vocab(a, b), b), tv.take_layers(tv.align_vocab(a, b), 0, 1)):
        tv.save(w, tmp_path / "out", overwrite=True)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert not (tmp_path / "out/vocab.json").exists()
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # <end> is no token there: b's own end
        assert model.config.eos_token_id == AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()["<fin>"]
    again = tv.align_vocab(tv.align_vocab(a, b), b, a)  # a view knows its own tokens
    same = tv.align_vocab(a, b, a)
    assert all(np.array_equal(again[name], same[name]) for name in (EMBEDDING, HEAD))


# ---- vocabularies that are read ------------------------------------------------------------------


UNREADABLE = [
    ({}, "has no tokenizer: a tokenizer.json is needed"),
    ({"tokenizer.model": "\x0a"}, "only in tokenizer.model: .*AutoTokenizer.from_pretrained"),
    ({"tokenizer.json": "{"}, "tokenizer.json is not JSON"),
    ({"tokenizer.json": "[]"}, "holds no table"),
    ({"tokenizer.json": "{}"}, "is no vocabulary"),
    ({"tokenizer.json": '{"model": {"vocab": {"a": "0"}}}'}, "an id, a whole number"),
    ({"tokenizer.json": '{"model": {"vocab": {"a": -1}}}'}, "an id, a whole number"),
    ({"tokenizer.json": '{"model": {"vocab": {"a": 3000000000}}}'}, "an id, a whole number"),
    ({"tokenizer.json": '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b"}]}'}, "an id, a whole number"),
    ({"tokenizer.json": '{"model": {"vocab": [["a", 0.0], 5]}}'}, "is no vocabulary"),
    ({"tokenizer.json": '{"model": {"vocab": {}}}'}, "has no tokens"),
    ({"vocab.json": '{"a": true}'}, "vocab.json is no vocabulary"),
]


@pytest.mark.parametrize(("files", "message"), UNREADABLE, ids=[m for _, m in UNREADABLE])
def test_a_vocabulary_that_cannot_be_read_is_a_stated_error(tmp_path, files, message):
    a, b = (model(tmp_path / name, {"x": 0}, 2) for name in "ab")
    (tmp_path / "b/tokenizer.json").unlink()
    for name, text in files.items():
        (tmp_path / "b" / name).write_text(text)
    with pytest.raises(FormatError, match=message) as error:
        tv.save(tv.align_vocab(a, b), tmp_path / "out")
    assert str(tmp_path / "b") in str(error.value) and not (tmp_path / "out").exists()


def test_what_cannot_be_aligned_or_written_is_a_stated_error(tmp_path):
    a = model(tmp_path / "a", {"x": 0}, 2)
    cases: list[tuple[tv.Weights, type[TaskvecError], str]] = []
    wide = model(tmp_path / "wide", {"y": 0}, 2, width=4)
    cases.append((wide, MismatchError, r"rows of model.embed_tokens.weight are \[4\] in .*wide.*, \[3\] in"))
    tied = tv.rename(a, {HEAD: "x"})
    cases.append((tied, MismatchError, f"{HEAD} is in .*not in rename.*tie or untie"))
    uneven = tv.resize_vocab(a, 5, head=HEAD, embedding="lm_head.bias")
    cases.append((uneven, MismatchError, "several numbers of rows.*resize_vocab makes them alike"))
    arrays = tv.from_arrays({n: a[n] for n in a}, "memory")
    cases.append((arrays, RecipeError, "memory has no folder with a tokenizer"))
    for other, kind, message in cases:
        with pytest.raises(kind, match=re.compile(message, re.DOTALL)):
            tv.align_vocab(a, other)
    gaps = {"model": {"type": "Unigram", "vocab": [["x", 0.0]]}, "added_tokens": [{"id": 5, "content": "<x>"}]}
    (tmp_path / "a/tokenizer.json").write_text(json.dumps(gaps))
    b = model(tmp_path / "b", {"new": 0}, 2)
    with pytest.raises(FormatError, match="has gaps between its ids"):
        tv.save(tv.align_vocab(b, a, b), tmp_path / "out")
    (tmp_path / "a/tokenizer.json").unlink()
    (tmp_path / "a/vocab.json").write_text('{"x": 0}')
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        tv.save(tv.align_vocab(b, a, b), tmp_path / "out")
    assert not (tmp_path / "out").exists()
