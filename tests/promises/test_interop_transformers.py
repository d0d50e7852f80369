"""transformers and PEFT read what taskvec writes: weights, configuration, tokenizer and adapters."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import taskvec as tv
from promises.other_libraries import (
    DTYPES,
    MODELS,
    VOCAB,
    assert_loads_as,
    assert_same_bits,
    eager_merge,
    llama,
    output_of,
    pair,
    taskvec,
    write_models,
)


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_a_merge_with_the_weights_and_logits_of_an_eager_one(
    name: str, shards: bool, tmp_path: Path
) -> None:
    make, loader = MODELS[name]
    base, tuned = write_models(tmp_path, make)
    options = ["--shard-size", "20kB"] if shards else []
    taskvec("merge", "base + 0.3*(tuned - base)", *pair(tmp_path), "-o", tmp_path / "out", *options)
    expected = eager_merge(base.state_dict(), tuned.state_dict(), 0.3)
    before = output_of(base)
    loaded = assert_loads_as(tmp_path / "out", loader, expected, tmp_path / "base")
    assert (output_of(loaded) - before).abs().max() > 1e-2, "the merge must not be the base"
    assert (len(list((tmp_path / "out").glob("*.safetensors"))) > 2) == shards


@pytest.mark.parametrize("name", MODELS)
def test_a_merge_of_bfloat16_models_stays_bfloat16(name: str, tmp_path: Path) -> None:
    make, loader = MODELS[name]
    base, tuned = write_models(tmp_path, make, torch.bfloat16)
    taskvec("merge", "base + 0.3*(tuned - base)", *pair(tmp_path), "-o", tmp_path / "out")
    expected = eager_merge(base.state_dict(), tuned.state_dict(), 0.3)
    loaded = assert_loads_as(tmp_path / "out", loader, expected, tmp_path / "base")
    assert loaded.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_configuration_names_the_dtype_that_was_asked_for(dtype: str, tmp_path: Path) -> None:
    base, tuned = write_models(tmp_path, lambda: llama(True))
    recipe = "base + 0.4*(tuned - base)"
    taskvec("merge", recipe, *pair(tmp_path), "-o", tmp_path / "out", "--dtype", dtype)
    before, after = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("base", "out"))
    assert after.pop("dtype") == dtype
    assert before.pop("dtype") == "float32"
    assert after == before
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    real = torch.float64 if dtype == "float64" else torch.float32
    wide = [{n: t.to(real) for n, t in m.state_dict().items()} for m in (base, tuned)]
    expected = eager_merge(*wide, 0.4)
    assert_same_bits(loaded.state_dict(), {n: t.to(DTYPES[dtype]) for n, t in expected.items()})


def test_tied_weights_are_stored_once_and_tied_after_loading(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    taskvec("merge", "base + 0.4*(tuned - base)", *pair(tmp_path), "-o", tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


def test_transformers_can_save_and_taskvec_merge_again_what_it_loaded(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    taskvec("merge", "base + 0.4*(tuned - base)", *pair(tmp_path), "-o", tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    out, again = tv.load(tmp_path / "out"), tv.load(tmp_path / "again")
    assert next(iter(out.terms)).fingerprint == next(iter(again.terms)).fingerprint


TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
CHAT = [{"role": "user", "content": "word3 word5"}, {"role": "assistant", "content": "word7"}]


def write_tokenizer(folder: Path, first: int, template: str) -> None:
    words = {"[UNK]": 0} | {f"word{k}": (k + first) % (VOCAB - 1) + 1 for k in range(VOCAB - 1)}
    model = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("like", ["base", "tuned"])
def test_tokenizer_and_chat_template_are_those_of_the_model_that_the_output_is_like(like: str, tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(False))
    write_tokenizer(tmp_path / "base", 0, TEMPLATE)
    write_tokenizer(tmp_path / "tuned", 9, TEMPLATE.replace("<", "["))
    options = ["--like", "tuned"] if like == "tuned" else []
    taskvec("merge", "base + 0.4*(tuned - base)", *pair(tmp_path), "-o", tmp_path / "out", *options)
    tokenizer, expected, other = (
        AutoTokenizer.from_pretrained(tmp_path / n) for n in ("out", like, {"base": "tuned", "tuned": "base"}[like])
    )
    text = "word1 word2 nothing word94"
    assert tokenizer(text)["input_ids"] == expected(text)["input_ids"] != other(text)["input_ids"]
    chat = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert chat == expected.apply_chat_template(CHAT, tokenize=False) != other.apply_chat_template(CHAT, tokenize=False)
    generation = "generation_config.json"
    assert (tmp_path / "out" / generation).read_bytes() == (tmp_path / like / generation).read_bytes()


def test_older_weights_and_training_state_are_not_copied(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(False))
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "trainer_state.json", "secret.env"):
        (tmp_path / "base" / name).write_text("not ours to hand on")
    taskvec("merge", "base + 0.4*(tuned - base)", *pair(tmp_path), "-o", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json", "generation_config.json", "README.md", "taskvec.json"}


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["plain", "rsLoRA"])
def test_adding_an_adapter_is_what_peft_merges(rank_stabilised: bool, tmp_path: Path) -> None:
    base, _ = write_models(tmp_path, lambda: llama(False))
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 3},
        use_rslora=rank_stabilised,
    )  # fmt: skip
    torch.manual_seed(7)
    adapted = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapted.save_pretrained(tmp_path / "adapter")
    taskvec("add", tmp_path / "base", tmp_path / "adapter", "-o", tmp_path / "out")
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    merged = PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(loaded.state_dict(), merged.state_dict(), rtol=1e-6, atol=1e-7)
    untouched = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    changed = {n for n, t in loaded.state_dict().items() if not torch.equal(t, untouched[n])}
    assert changed == {n for n in untouched if "q_proj" in n or "down_proj" in n}
