"""What taskvec writes, others read: safetensors, transformers, PEFT, live torch modules, the Hugging Face cache."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import taskvec as tv

VOCAB = 96
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
NOT_IN_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)  # safetensors' own limit


def taskvec(*arguments: object, env: Mapping[str, str] | None = None, fails: bool = False) -> str:
    """Run the command line in a process of its own; what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "taskvec", *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert (ran.returncode != 0) == fails, ran.stderr + ran.stdout
    return ran.stderr if fails else ran.stdout


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same_bits(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    unlike = [n for n, t in found.items() if t.dtype != expected[n].dtype or t.shape != expected[n].shape]
    unlike += [n for n, t in found.items() if n not in unlike and raw(t) != raw(expected[n])]
    assert not unlike, f"{len(unlike)} of {len(found)} tensors differ, first {unlike[:3]}"


# ---- safetensors ---------------------------------------------------------------------------------
def small_model(seed: int, floats: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors of one floating dtype in awkward shapes, and of every kind that passes through."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (33, 7), "vector": (5,), "scalar": (), "empty": (0, 4), "cube": (2, 3, 5), "unicode.ключ": (3,)}
    found = {name: torch.randn(shape, generator=draw).to(floats) for name, shape in shapes.items()}
    return found | {
        "int64": torch.arange(7),
        "int8": torch.arange(-3, 4, dtype=torch.int8),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "uint16": torch.arange(6).to(torch.uint16),
        "bool": torch.tensor([True, False, True]),
        "complex": torch.tensor([1 + 2j, -3j], dtype=torch.complex64),
    }


def eager_merge(base: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:  # fmt: skip # noqa: E501
    """base + scale * (tuned - base) in float32 (float64 where the base is), in the base's dtypes. scale < 0.5, so that
    the base is the pivot."""
    assert scale < 0.5
    found = {}
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            found[name] = tensor
            continue
        real = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        wide = tensor.to(real)
        found[name] = (wide + scale * (tuned[name].to(real) - wide)).to(tensor.dtype)
    return found


KINDS = {
    "a model's folder": ("base + 0.4*(tuned - base)", "out", ()),
    "a model in shards": ("base + 0.4*(tuned - base)", "out", ("--shard-size", "300")),
    "a model's file": ("base + 0.4*(tuned - base)", "out.safetensors", ()),
    "a task vector's folder": ("tuned - base", "out", ()),
    "a task vector in shards": ("tuned - base", "out", ("--shard-size", "300")),
    "a task vector's file": ("tuned - base", "out.safetensors", ()),
}


def write_pair(home: Path, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    base, tuned = small_model(1, dtype), small_model(2, dtype)
    for name, tensors in {"base": base, "tuned": tuned}.items():
        (home / name).mkdir()
        save_file(tensors, home / name / "model.safetensors")
    return base, tuned


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_safetensors_package_opens_every_kind_of_output(kind: str, dtype: str, tmp_path: Path) -> None:
    recipe, out, options = KINDS[kind]
    base, tuned = write_pair(tmp_path, DTYPES[dtype])
    weights = tv.parse(recipe, base=tmp_path / "base", tuned=tmp_path / "tuned")
    tv.save(weights, tmp_path / out, shard_size=int(options[1]) if options else "5GB")
    files = sorted((tmp_path / out).glob("*.safetensors")) if out == "out" else [tmp_path / out]
    assert (len(files) > 1) == bool(options)
    found: dict[str, torch.Tensor] = {}
    for file in files:
        found |= opened_in_every_way(file)
    if "task vector" in kind:
        real = torch.float64 if dtype == "float64" else torch.float32
        expected = {n: tuned[n].to(real) - t.to(real) for n, t in base.items() if t.is_floating_point()}
    else:
        expected = eager_merge(base, tuned, 0.4)
    assert_same_bits(found, expected)


def opened_in_every_way(file: Path) -> dict[str, torch.Tensor]:
    """The file's tensors by load_file and by safe_open, whole and by slices, in torch and in numpy: all the same."""
    loaded = load_file(file)
    with safe_open(file, "pt") as reader:
        assert reader.metadata()["format"] == "pt"
        assert_same_bits({name: reader.get_tensor(name) for name in reader.keys()}, loaded)  # noqa: SIM118
        for name in loaded:
            if loaded[name].dim() and loaded[name].numel():
                assert raw(reader.get_slice(name)[1:2]) == raw(loaded[name][1:2])
    known = [name for name, tensor in loaded.items() if tensor.dtype not in NOT_IN_NUMPY]
    with safe_open(file, "np") as reader:
        assert set(reader.keys()) == loaded.keys()
        arrays = {name: reader.get_tensor(name) for name in known}
    if len(known) == len(loaded):
        arrays |= load_numpy(file)
    assert {n: (a.shape, a.tobytes()) for n, a in arrays.items()} == {
        n: (loaded[n].shape, raw(loaded[n])) for n in known
    }
    return loaded


def test_an_output_is_a_source_again(tmp_path: Path) -> None:
    base, tuned = write_pair(tmp_path, torch.bfloat16)
    taskvec("diff", tmp_path / "tuned", tmp_path / "base", "-o", tmp_path / "tau", "--shard-size", "200")
    taskvec("add", tmp_path / "base", tmp_path / "tau", "--scale", "0.5", "-o", tmp_path / "half.safetensors")
    half, tau = load_file(tmp_path / "half.safetensors"), tv.load(tmp_path / "tau")
    for name in (name for name, t in base.items() if t.is_floating_point()):
        step = 0.5 * (tuned[name].float() - base[name].float())
        assert torch.equal(half[name], (base[name].float() + step).bfloat16()), name
        assert np.array_equal(0.5 * tau[name], step.numpy()), name


# ---- transformers --------------------------------------------------------------------------------
def llama(tied: bool) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=88, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def bert() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    return BertModel(config)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=64))


Maker = Callable[[], PreTrainedModel]
MODELS: dict[str, tuple[Maker, type]] = {
    "Llama": (lambda: llama(False), AutoModelForCausalLM),
    "Llama, tied": (lambda: llama(True), AutoModelForCausalLM),
    "BERT": (bert, AutoModel),
    "GPT-2, tied": (gpt2, AutoModelForCausalLM),
}
INPUT = torch.arange(3, 3 + 24).reshape(2, 12) % VOCAB


def write_models(home: Path, make: Maker, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedModel]:  # fmt: skip # noqa: E501
    """`base` and `tuned`, which is the base plus noise, saved by transformers."""
    torch.manual_seed(1)
    base, tuned = make().to(dtype).eval(), make().to(dtype).eval()
    tuned.load_state_dict(base.state_dict())
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    base.save_pretrained(home / "base")
    tuned.save_pretrained(home / "tuned")
    return base, tuned


def pair(home: Path) -> list[str]:
    return [f"base={home / 'base'}", f"tuned={home / 'tuned'}"]


def output_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found = model(INPUT)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def assert_loads_as(path: Path, loader: type, expected: Mapping[str, torch.Tensor], base: Path) -> PreTrainedModel:
    """from_pretrained finds every weight, they are the expected ones, and the model computes what the base's class
    computes with them."""
    loaded, report = loader.from_pretrained(path, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    assert_same_bits(loaded.state_dict(), expected)
    eager = loader.from_pretrained(base, dtype="auto")
    eager.load_state_dict(expected)
    torch.testing.assert_close(output_of(loaded.eval()), output_of(eager.eval()))
    return loaded


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


# ---- tokenizer, chat template, and other files ---------------------------------------------------
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
    found, wanted, other = (
        AutoTokenizer.from_pretrained(tmp_path / n) for n in ("out", like, {"base": "tuned", "tuned": "base"}[like])
    )
    text = "word1 word2 nothing word94"
    assert found(text)["input_ids"] == wanted(text)["input_ids"] != other(text)["input_ids"]
    chat = found.apply_chat_template(CHAT, tokenize=False)
    assert chat == wanted.apply_chat_template(CHAT, tokenize=False) != other.apply_chat_template(CHAT, tokenize=False)
    generation = "generation_config.json"
    assert (tmp_path / "out" / generation).read_bytes() == (tmp_path / like / generation).read_bytes()


def test_older_weights_and_training_state_are_not_copied(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(False))
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "trainer_state.json", "secret.env"):
        (tmp_path / "base" / name).write_text("not ours to hand on")
    taskvec("merge", "base + 0.4*(tuned - base)", *pair(tmp_path), "-o", tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"model.safetensors", "config.json", "generation_config.json", "README.md", "taskvec.json"}


# ---- PEFT ----------------------------------------------------------------------------------------
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


# ---- into a live module --------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_loading_into_a_module_is_loading_the_saved_folder(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    make, loader = MODELS[name]
    write_models(tmp_path, make, dtype)
    weights = tv.parse("base + 0.3*(tuned - base)", base=tmp_path / "base", tuned=tmp_path / "tuned")
    tv.save(weights, tmp_path / "out")
    live = loader.from_pretrained(tmp_path / "base", dtype="auto").eval()
    tv.load_into(live, weights)
    loaded = loader.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert_same_bits(live.state_dict(), loaded.state_dict())
    torch.testing.assert_close(output_of(live), output_of(loaded), rtol=0, atol=0)


def test_loading_into_a_module_changes_its_parameters_in_place_and_keeps_them_tied(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    base, tuned = tv.load(tmp_path / "base"), tv.load(tmp_path / "tuned")
    live = llama(True)
    before = dict(live.named_parameters())
    places = {name: parameter.data_ptr() for name, parameter in before.items()}
    tv.load_into(live, base + 0.5 * (tuned - base))
    assert all(before[name] is parameter for name, parameter in live.named_parameters())
    assert places == {name: parameter.data_ptr() for name, parameter in live.named_parameters()}
    assert live.lm_head.weight is live.model.embed_tokens.weight
    embedding = (base + 0.5 * (tuned - base))["model.embed_tokens.weight"]
    assert np.array_equal(live.lm_head.weight.detach().numpy(), embedding)


def test_loading_into_a_module_again_and_again_does_not_drift(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True), torch.bfloat16)
    base, tuned = tv.load(tmp_path / "base"), tv.load(tmp_path / "tuned")
    live = llama(True).bfloat16()
    for scale in (0.9, -3.3, 0.1, 0):
        tv.load_into(live, base + scale * (tuned - base))
    untouched = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    assert_same_bits(live.state_dict(), untouched.state_dict())


def test_loading_into_a_module_converts_to_the_module_s_dtype(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(False), torch.bfloat16)
    base, tuned = tv.load(tmp_path / "base"), tv.load(tmp_path / "tuned")
    live = llama(False).float()
    tv.load_into(live, base + 0.3 * (tuned - base))
    for name, tensor in live.state_dict().items():
        assert np.array_equal(tensor.numpy(), (base + 0.3 * (tuned - base))[name]), name


# ---- the Hugging Face cache ----------------------------------------------------------------------
def cached(home: Path, name: str, folder: Path, revision: str = "main") -> dict[str, str]:
    """Put a folder into a cache as huggingface_hub keeps it, links to blobs; the environment that finds it, offline."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    commit = revision.encode().hex().ljust(40, "0")
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (repository / part).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    for file in folder.iterdir():
        blob = repository / "blobs" / f"{revision}-{file.name}"
        blob.write_bytes(file.read_bytes())
        (repository / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{blob.name}")
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": ""}


def python(code: str, env: Mapping[str, str]) -> str:
    """What a fresh interpreter prints: huggingface_hub reads its environment once, when it is imported."""
    clean = {k: v for k, v in {**os.environ, **env}.items() if v}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    return ran.stdout


def test_a_name_of_the_hub_is_found_in_the_local_cache(tmp_path: Path) -> None:
    base, tuned = write_models(tmp_path, lambda: llama(True))
    env = cached(tmp_path / "cache", "org/name", tmp_path / "base")
    cached(tmp_path / "cache", "org/name", tmp_path / "tuned", "v2")
    code = (
        "import taskvec as tv; base = tv.load('org/name'); tuned = tv.load('org/name', revision='v2');"
        f"tv.save(base + 0.4*(tuned - base), {str(tmp_path / 'out')!r}); print(base, tuned, sep='\\n')"
    )
    assert python(code, env).splitlines() == ['load("org/name")', 'load("org/name", revision="v2")']
    expected = eager_merge(base.state_dict(), tuned.state_dict(), 0.4)
    assert_loads_as(tmp_path / "out", AutoModelForCausalLM, expected, tmp_path / "base")
    assert not (tmp_path / "out" / "config.json").is_symlink()
    record = json.loads((tmp_path / "out" / "taskvec.json").read_text())
    assert {source["uri"] for source in record["inputs"].values()} == {"org/name"}
    assert {source.get("revision") for source in record["inputs"].values()} == {None, "v2"}


def test_the_command_line_takes_names_of_the_hub(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    env = cached(tmp_path / "cache", "org/name", tmp_path / "base")
    clean = {k: v for k, v in env.items() if v}
    taskvec("negate", "org/name", tmp_path / "tuned", "-o", tmp_path / "out", env=clean)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == "llama"


def test_a_name_that_is_neither_here_nor_in_the_cache_is_a_stated_error(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    env = {k: v for k, v in cached(tmp_path / "cache", "org/name", tmp_path / "base").items() if v}
    said = taskvec("merge", "base", "base=org/other", "-o", tmp_path / "out", env=env, fails=True)
    assert said.startswith("error: ") and "org/other is no local path" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()
