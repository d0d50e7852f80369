"""What models that are summed say differently beside their weights, and what is no difference."""

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file
from transformers import GenerationConfig

import taskvec as tv
from taskvec.saving.disagreements import GENERATES, NOT_OF_GENERATION, disagreements, same_vocabulary
from taskvec.sources.text import fits_any

LLAMA = {
    "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": 99,
}  # fmt: skip


# ---- folders ----------------------------------------------------------------------------------------
def write(folder, **files):
    """A model of one tensor with such files: keys have _ for a dot before their ending."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"model.embed_tokens.weight": np.ones((3, 2), np.float32)}, folder / "model.safetensors")
    for key, content in ({"config_json": LLAMA | {"eos_token_id": 2}} | files).items():
        name, _, ending = key.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.{ending}").write_text(text)
    return tv.load(folder)


def told(a, b, **options):
    w = 0.5 * a + 0.5 * b
    return disagreements(w, w.donor, **options)


def vocabulary(*words, added=()):
    entries = [{"id": k, "content": t} for t, k in added]
    return {"model": {"type": "BPE", "vocab": {w: k for k, w in enumerate(words)}}, "added_tokens": entries}


def test_models_that_agree_get_no_word(tmp_path):
    files = {
        "tokenizer_json": vocabulary("x", "y"), "generation_config_json": {"eos_token_id": 2, "temperature": 0.6},
        "chat_template_jinja": "{{ messages }}",
    }  # fmt: skip
    a = write(tmp_path / "a", **files)
    other = {"chat_template_jinja": "{{ messages }}\n", "tokenizer_config_json": {"padding_side": "left"}}
    newer = {"eos_token_id": [2], "temperature": 0.6, "transformers_version": "5", "_from_model_config": True}
    assert told(a, write(tmp_path / "b", **files | other | {"generation_config_json": newer})) == []
    assert told(a, write(tmp_path / "c", tokenizer_json=vocabulary("x", "y"))) == []


def test_a_template_counts_wherever_it_lies(tmp_path):
    a = write(tmp_path / "a", chat_template_jinja="{{ messages }}")
    b = write(tmp_path / "b", tokenizer_config_json={"chat_template": "{{ messages }}"})
    named = [{"name": "tool", "template": "x"}, {"name": "default", "template": "{{ messages }}"}]
    c = write(tmp_path / "c", tokenizer_config_json={"chat_template": named})
    assert told(a, b) == told(b, c) == told(c, a) == []


def test_settings_of_generation_that_spell_out_defaults_are_none(tmp_path):
    defaults = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "num_beams": 1, "min_length": 0,
                "repetition_penalty": 1.0, "cache_implementation": "hybrid", "suppress_tokens": []}  # fmt: skip
    bare, full = (write(tmp_path / n, generation_config_json=t) for n, t in (("bare", {}), ("full", defaults)))
    assert told(bare, full) == told(full, bare) == []
    cooler = write(tmp_path / "cooler", generation_config_json={"temperature": 0.6})
    assert "temperature 1.0 in generation_config.json" in told(cooler, full)[0]


def test_the_defaults_of_generation_are_those_of_transformers():
    theirs = {
        key: value for key, value in GenerationConfig._get_default_generation_params().items() if value is not None
    }
    shared = theirs.keys() & GENERATES.keys()
    assert {key: theirs[key] for key in shared} == {key: GENERATES[key] for key in shared}
    others = {key for key in theirs.keys() - shared if not fits_any(key, NOT_OF_GENERATION)}
    assert not others


def test_what_an_instruct_model_would_lose_is_named_with_the_way_to_keep_it(tmp_path):
    base = write(tmp_path / "base")
    tuned = write(
        tmp_path / "tuned", chat_template_jinja="x", generation_config_json={"eos_token_id": [2, 7], "temperature": 0.6}
    )
    (sentence,) = told(base, tuned)
    assert "eos_token_id [2, 7], not 2, a chat template, temperature 0.6 in generation_config.json" in sentence
    assert f"--like {tmp_path / 'tuned'} takes all files of that" in sentence
    assert told(tuned, base) == [] and told(base, tuned, lost=False) == []
    assert "chat template" not in told(base, tuned, template=False)[0]


def test_tokens_with_other_ids_and_tokens_that_only_one_has_are_named(tmp_path):
    a = write(tmp_path / "a", tokenizer_json=vocabulary("x", "y", "z"))
    (sentence,) = told(a, write(tmp_path / "b", tokenizer_json=vocabulary("x", "z", "y")))
    assert sentence.startswith("2 tokens have other ids in") and '"y" 2, not 1, "z" 1, not 2' in sentence
    (sentence,) = told(a, write(tmp_path / "c", tokenizer_json=vocabulary("x", "y", "z", added=[("<|im_end|>", 3)])))
    assert sentence.startswith("1 tokens of") and '("<|im_end|>"): align_vocab adds them' in sentence
    assert told(write(tmp_path / "c"), a) == []


def test_an_alignment_has_settled_the_tokens(tmp_path):
    a = write(tmp_path / "a", tokenizer_json=vocabulary("x", "y", "z"))
    b = write(tmp_path / "b", tokenizer_json=vocabulary("x", "z", "y"), config_json=LLAMA | {"eos_token_id": 1})
    assert aligned(a, b) == aligned(b, a) == []


def aligned(a, b):
    w = 0.5 * tv.align_vocab(a, a, b) + 0.5 * tv.align_vocab(b, a, b)
    return disagreements(w, w.donor)


def test_an_alignment_loses_no_end_token_template_or_setting_without_a_word(tmp_path):
    a = write(tmp_path / "a", tokenizer_json=vocabulary("x", "y", "z"))
    b = write(
        tmp_path / "b", tokenizer_json=vocabulary("x", "z", "y"), chat_template_jinja="{{ messages }}",
        generation_config_json={"eos_token_id": [1, 2], "temperature": 0.6},
    )  # fmt: skip
    (sentence,) = aligned(a, b)
    assert 'the end token "y", not "z", a chat template, temperature 0.6 in generation_config.json' in sentence
    assert aligned(b, a) == []
    w = 0.5 * tv.align_vocab(a, b, a) + 0.5 * tv.align_vocab(b, b, a)  # the tokenizer is b's, with its template
    assert "chat template," not in disagreements(w, w.donor)[0]
    w = tv.align_vocab(a, a, b) + 0.5 * (tv.align_vocab(b, a, b) - tv.align_vocab(a, a, b))
    assert len(disagreements(w, w.donor)) == 1 and disagreements(w, w.donor, lost=False) == []


def test_an_end_token_that_an_alignment_renumbers_is_not_lost(tmp_path):
    a = write(tmp_path / "a", tokenizer_json=vocabulary("x", "y", "end"))
    b = write(tmp_path / "b", tokenizer_json=vocabulary("end", "x", "y"), config_json=LLAMA | {"eos_token_id": 0})
    assert aligned(a, b) == aligned(b, a) == []


def test_untying_has_settled_the_heads(tmp_path):
    a = write(tmp_path / "a", config_json=LLAMA | {"tie_word_embeddings": True})
    b = write(tmp_path / "b", config_json=LLAMA | {"tie_word_embeddings": False})
    save_file(
        {"model.embed_tokens.weight": np.ones((3, 2), np.float32), "lm_head.weight": np.ones((3, 2), np.float32)},
        tmp_path / "b/model.safetensors",
    )
    w = 0.5 * tv.untie(a) + 0.5 * tv.load(tmp_path / "b")
    assert disagreements(w, w.donor) == []
    assert len(told(a, b)) == 1


def test_taking_layers_has_settled_what_is_said_of_them(tmp_path):
    names = ("a", "b")
    for name, kinds in zip(names, (["x", "y", "x"], ["x", "y", "x", "y"]), strict=True):
        table = LLAMA | {"num_hidden_layers": len(kinds), "layer_types": kinds}
        write(tmp_path / name, config_json=table)
        tensors = {f"model.layers.{k}.w": np.ones(2, np.float32) for k in range(len(kinds))}
        save_file(tensors, tmp_path / name / "model.safetensors")
    a, b = (tv.load(tmp_path / name) for name in names)
    w = 0.5 * tv.take_layers(a, 0, 2) + 0.5 * tv.take_layers(b, 0, 2)
    assert disagreements(w, w.donor) == []


@pytest.mark.parametrize("file", ["tokenizer_model", "tekken_json"])
def test_vocabularies_that_are_not_read_are_compared_by_their_bytes(tmp_path, file):
    a, b, c = (write(tmp_path / name, **{file: text}) for name, text in (("a", "x"), ("b", "x"), ("c", "y")))
    assert told(a, b) == []
    assert f"{file.replace('_', '.')} of {tmp_path / 'c'} differs" in told(a, c)[0]


def test_what_a_processor_and_a_pooling_do_is_compared(tmp_path):
    a = write(tmp_path / "a", preprocessor_config_json={"image_mean": [0.5], "use_fast": True})
    b = write(tmp_path / "b", preprocessor_config_json={"image_mean": [0.48], "use_fast": False})
    for name, mode in (("a", True), ("b", False)):
        (tmp_path / name / "1_Pooling").mkdir()
        (tmp_path / name / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": mode}))
    one, two = told(a, b)
    assert "image_mean [0.48], not [0.5]" in one and "use_fast" not in one
    assert "pooling_mode_cls_token false, not true" in two


def test_sizes_of_pictures_have_older_and_newer_forms(tmp_path):
    old = {"size": 224, "crop_size": 224, "image_mean": [0.5]}
    new = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "image_mean": [0.5]}
    a = write(tmp_path / "a", preprocessor_config_json=old)
    assert told(a, write(tmp_path / "b", preprocessor_config_json=new)) == []
    assert told(a, write(tmp_path / "c", processor_config_json={"image_processor": new})) == []
    other = new | {"size": {"shortest_edge": 336}}
    assert "size" in told(a, write(tmp_path / "d", preprocessor_config_json=other))[0]
    assert "size" in told(a, write(tmp_path / "e", processor_config_json={"image_processor": other}))[0]


# ---- tokenizers as the library writes them ------------------------------------------------------------
def real(folder, words, special=(), padding=False):
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: k for k, w in enumerate(words)}, unk_token=words[0])
    )
    tokenizer.add_special_tokens(list(special))
    if padding:
        tokenizer.enable_padding(length=8)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_equal_vocabularies_are_told_from_the_text_alone(tmp_path):
    a = real(tmp_path / "a", ["x", "y"], ["<s>"])
    assert same_vocabulary(a, real(tmp_path / "b", ["x", "y"], ["<s>"]))
    assert same_vocabulary(a, real(tmp_path / "c", ["x", "y"], ["<s>"], padding=True))
    assert not same_vocabulary(a, real(tmp_path / "d", ["y", "x"], ["<s>"]))
    assert not same_vocabulary(a, real(tmp_path / "e", ["x", "y"], ["<t>"]))
    assert not same_vocabulary(a, tmp_path / "gone")


# ---- the command line ---------------------------------------------------------------------------------
def test_check_and_merge_tell_it_and_go_on(tmp_path, run):
    write(tmp_path / "a")
    write(tmp_path / "b", config_json=LLAMA | {"rope_theta": 5e5})
    ran = run("check", tmp_path / "a", tmp_path / "b", "--json")
    said = json.loads(ran.stdout)
    assert ran.code == 0 and said["mergeable"] is True
    assert "rope_theta 500000.0, not 10000.0" in said["notes"][0]
    ran = run("merge", "(a + b)/2", f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", "-o", tmp_path / "out")
    assert ran.code == 0 and "note: " in ran.stderr and "rope_theta" in ran.stderr
    ran = run("check", tmp_path / "a", tmp_path / "a")
    assert (ran.code, ran.stderr) == (0, "") and "notes" not in ran.stdout


def test_a_template_beside_an_adapter_is_not_lost_without_a_word(tmp_path, build, run):
    write(tmp_path / "base")
    lora = build.lora(
        tmp_path / "lora",
        {f"base_model.model.model.embed_tokens.lora_{k}.weight": np.ones(s, np.float32) for k, s in
         (("A", (2, 2)), ("B", (3, 2)))},
    )  # fmt: skip
    (lora / "chat_template.jinja").write_text("{{ messages }}")
    w = tv.load(tmp_path / "base") + tv.load(lora)
    (sentence,) = disagreements(w, w.donor)
    assert f"{lora} has a chat template" in sentence and f"(copy them from {lora})" in sentence
