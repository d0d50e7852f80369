"""Quantised weights are known by what lies beside them, and ordinary models are not taken for them."""

import json
import struct

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MismatchError
from taskvec.formats import open_source
from taskvec.numbers.dtypes import BITS
from taskvec.sources.quantised import codes
from taskvec.sources.source import Spec

Q = "model.layers.0.self_attn.q_proj"
E = "model.layers.0.mlp.experts"
F8, F32, BF16, U8, I8, I32 = "F8_E4M3", "F32", "BF16", "U8", "I8", "I32"
QUANTISED = {  # as the libraries of the field save them: name -> (dtype, shape)
    "fp8, block by block": {f"{Q}.weight": (F8, (256, 256)), f"{Q}.weight_scale_inv": (F32, (2, 2))},
    "fp8, one scale and one of the input": {
        f"{Q}.weight": (F8, (16, 16)), f"{Q}.weight_scale": (BF16, ()), f"{Q}.input_scale": (F32, ())},
    "fp8, fused experts": {f"{E}.gate_up_proj": (F8, (4, 16, 16)), f"{E}.gate_up_proj_scale_inv": (F32, (4, 1, 1))},
    "fp8, experts of vLLM": {f"{E}.w13_weight": (F8, (4, 16, 16)), f"{E}.w13_weight_scale": (F32, (4, 1, 1))},
    "fp8, scales that are powers of two": {f"{Q}.weight": (F8, (256, 256)), f"{Q}.scale": ("F8_E8M0", (2, 2))},
    "fp8, Mistral's own names": {f"{Q}.weight": (F8, (16, 16)), f"{Q}.qscale_weight": (F32, ())},
    "fp8, ComfyUI": {f"{Q}.weight": (F8, (16, 16)), f"{Q}.scale_weight": (F32, ())},
    "fp8, TensorRT-LLM": {f"{Q}.weight": (F8, (16, 16)), f"{Q}.weights_scaling_factor": (F32, (1,)),
                          f"{Q}.activation_scaling_factor": (F32, (1,))},
    "fp8, a scale to multiply with": {f"{Q}.weight": (F8, (16, 16)), f"{Q}.weight_descale": (F32, ())},
    "fp8, its greatest magnitude": {f"{Q}.weight": (F8, (16, 16)), f"{Q}.weight_amax": (F32, ())},
    "fp8, Quark": {f"{Q}.weight": (F8, (16, 16)), f"{Q}.weight_quantizer.scale": (F32, ())},
    "fp8 as AMD has it": {f"{Q}.weight": ("F8_E4M3FNUZ", (16, 16)), f"{Q}.weight_scale": (F32, ())},
    "int8 with factors that give the numbers back": {f"{Q}.weight": (I8, (16, 16)), f"{Q}.dequant": (F32, (16, 1))},
    "a bfloat16 copy of fp8 codes": {f"{Q}.weight": (BF16, (16, 16)), f"{Q}.weight_scale_inv": (F32, (1, 1))},
    "a float32 copy, other names": {f"{Q}.weight": (F32, (256, 384)), f"{Q}.scale": (F32, (2, 3))},
    "a float32 copy of fused experts": {
        f"{E}.down_proj": (F32, (4, 256, 256)), f"{E}.down_proj_scale": (F32, (4, 2, 2))},
    "the same, a scale for each expert": {
        f"{E}.down_proj": (BF16, (4, 16, 16)),
        f"{E}.down_proj_scale": (F32, (4, 1, 1)),
    },
    "bitsandbytes, 8 bits": {f"{Q}.weight": (I8, (16, 16)), f"{Q}.SCB": (F32, (16,)), f"{Q}.weight_format": (U8, ())},
    "bitsandbytes, 4 bits": {
        f"{Q}.weight": (U8, (128, 1)), f"{Q}.weight.absmax": (U8, (4,)), f"{Q}.weight.nested_absmax": (F32, (1,)),
        f"{Q}.weight.quant_state.bitsandbytes__nf4": (U8, (90,))},
    "compressed-tensors, int8": {f"{Q}.weight": (I8, (16, 16)), f"{Q}.weight_scale": (BF16, (16, 1))},
    "compressed-tensors, packed": {f"{Q}.weight_packed": (I32, (16, 2)), f"{Q}.weight_scale": (BF16, (16, 1))},
    "NVFP4": {f"{Q}.weight_packed": (U8, (16, 8)), f"{Q}.weight_scale": (F8, (16, 1)),
              f"{Q}.weight_global_scale": (F32, (1,))},
    "NVFP4 of ModelOpt": {f"{Q}.weight": (U8, (16, 8)), f"{Q}.weight_scale": (F8, (16, 1)),
                          f"{Q}.weight_scale_2": (F32, ())},
    "MXFP4": {f"{E}.gate_up_proj_blocks": (U8, (4, 16, 1, 16)), f"{E}.gate_up_proj_scales": (U8, (4, 16, 1))},
    "GPTQ": {f"{Q}.qweight": (I32, (2, 16)), f"{Q}.qzeros": (I32, (1, 2)), f"{Q}.scales": ("F16", (1, 16)),
             f"{Q}.g_idx": (I32, (16,))},
    "MLX": {f"{Q}.weight": ("U32", (16, 2)), f"{Q}.scales": (BF16, (16, 1)), f"{Q}.biases": (BF16, (16, 1))},
    "torchao": {f"{Q}.weight:qdata": (I8, (16, 16)), f"{Q}.weight:scale": (BF16, (16, 1))},
    "quanto": {f"{Q}.weight._data": (I8, (16, 16)), f"{Q}.weight._scale": (BF16, (16, 1))},
    "HQQ": {f"{Q}.W_q": (U8, (8, 16)), f"{Q}.scale": (BF16, (1, 16)), f"{Q}.zero": (BF16, (1, 16))},
    "ExLlamaV2": {f"{Q}.q_weight": (I32, (2, 16)), f"{Q}.q_scale": (I32, (1, 2)), f"{Q}.q_perm": ("I16", (16,))},
}  # fmt: skip
PLAIN = {  # parameters of ordinary models that are called scales, and integers of ordinary models
    "float8 without scales": {f"{Q}.weight": (F8, (16, 16)), "model.norm.weight": (BF16, (16,))},
    "a norm whose weight is its scale": {"norm.scale": (F32, (16,)), f"{Q}.weight": (F8, (16, 16))},
    "CLIP": {"logit_scale": (F32, ()), "visual.proj": (F32, (16, 8)), "text_projection": (F32, (8, 8))},
    "Swin 2": {"attn.logit_scale": (F32, (4, 1, 1)), "attn.qkv.weight": (F32, (48, 16)), "attn.q_bias": (F32, (16,)),
               "attn.relative_position_index": ("I64", (16, 16))},
    "float8 of OpenCLIP": {"attn.logit_scale": (BF16, (4, 1, 1)), "attn.in_proj_weight": (F8, (48, 16))},
    "layer scale": {"blocks.0.ls1.gamma": (F32, (16,)), "blocks.0.layer_scale_1": (F32, (16,)),
                    "layer.0.layer_scale1.lambda1": (F32, (16,)), "blocks.0.mlp.weight": (F32, (16, 16))},
    "a linear layer with a scale for each output": {f"{Q}.weight": (BF16, (16, 16)), f"{Q}.scale": (F32, (16,))},
    "the same as a column": {f"{Q}.weight": (BF16, (16, 16)), f"{Q}.scale": (F32, (16, 1))},
    "positions with a scale": {"pos_embed": (F32, (1, 16, 8)), "pos_embed_scale": (F32, (1,))},
    "a router with a scale": {"gate.weight": (F32, (8, 16)), "gate.global_scale": (F32, (1,))},
    "PixArt": {"scale_shift_table": (BF16, (6, 16)), "proj_out.weight": (BF16, (16, 16))},
    "scales that are modules": {"film.scale.weight": (F32, (16, 16)), "film.weight": (F32, (16, 16))},
    "hyper-connections": {"hc_attn_scale": (F32, (3,)), "hc_attn_fn": (F32, (24, 64)), "attn_hc.scale": (F32, (3,))},
    "scales of a cache for keys and values": {f"{Q}.weight": (BF16, (16, 16)), f"{Q}.k_scale": (F32, ())},
    "fake quantisation in training": {
        f"{Q}.weight": (F32, (16, 16)), f"{Q}.weight_fake_quant.scale": (F32, (1,)),
        f"{Q}.weight_fake_quant.zero_point": (I32, (1,)), f"{Q}.weight_fake_quant.fake_quant_enabled": ("I64", (1,))},
    "codebooks of a tokenizer of sound": {
        "quantizer.layers.0.codebook.embed": (F32, (16, 8)), "quantizer.layers.0.codebook.cluster_size": (F32, (16,)),
        "quantizer.layers.0.codebook.inited": (U8, (1,))},
    "BatchNorm": {"bn.weight": (F32, (8,)), "bn.running_var": (F32, (8,)), "bn.num_batches_tracked": ("I64", ())},
    "GPT-2's masks": {"h.0.attn.bias": (U8, (1, 1, 8, 8)), "h.0.attn.c_attn.weight": (F32, (8, 24))},
    "positions": {"embeddings.position_ids": ("I64", (1, 16)), "embeddings.word.weight": (F32, (16, 16))},
}  # fmt: skip


def specs_of(layout):
    return {name: Spec(shape, dtype) for name, (dtype, shape) in layout.items()}


def write(path, layout, seed=0):
    """A file of that layout with random bytes."""
    at, header, rng = 0, {}, np.random.default_rng(seed)
    for name, (dtype, shape) in layout.items():
        size = Spec(shape, dtype).numel * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rng.integers(0, 64, at, np.uint8).tobytes())
    return path


@pytest.mark.parametrize("kind", QUANTISED)
def test_codes_with_their_scales_are_known(kind):
    first = next(iter(QUANTISED[kind]))
    assert any(
        line.startswith(f"{first} is {specs_of(QUANTISED[kind])[first]}") for line in codes(specs_of(QUANTISED[kind]))
    )


@pytest.mark.parametrize("kind", PLAIN)
def test_ordinary_models_are_not_taken_for_codes(kind):
    assert not [*codes(specs_of(PLAIN[kind]))]


def test_every_way_to_the_numbers_refuses_them_and_says_what_to_do(tmp_path):
    """Two checkpoints whose codes are the same and whose scales differ: each number of a sum would be wrong."""
    layout = QUANTISED["fp8, fused experts"] | {"model.norm.weight": (BF16, (16,))}
    a, b = (tv.load(write(tmp_path / f"{name}.safetensors", layout, seed)) for seed, name in enumerate("ab"))
    for way in (
        lambda: tv.save((a + b) / 2, tmp_path / "out"),
        lambda: tv.plan(a + 0.5 * (b - a)),
        lambda: tv.plan(a + tv.ties(b - a, a - b)),
        lambda: (a - b)["model.norm.weight"],
        lambda: tv.compare([a, b]),
        lambda: tv.rename(a, {"model.*": "*"}),
    ):
        with pytest.raises(MismatchError, match="de-quantise first") as error:
            way()
        assert f"{E}.gate_up_proj_scale_inv" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_arrays_are_refused_as_files_are():
    arrays = {f"{Q}.weight": np.ones((4, 4), np.int8), f"{Q}.SCB": np.ones(4, np.float32)}
    a, b = tv.from_arrays(arrays, "a"), tv.from_arrays({n: 2 * x for n, x in arrays.items()}, "b")
    with pytest.raises(MismatchError, match=f"a: {Q}.weight is I8.* with {Q}.SCB"):
        tv.plan((a + b) / 2)


def test_check_and_diff_refuse_them_too(tmp_path, run):
    for seed, name in enumerate("ab"):
        write(tmp_path / f"{name}.safetensors", QUANTISED["bitsandbytes, 8 bits"], seed)
    for command in (("check",), ("diff", "-o", "tau"), ("compare",), ("add", "-o", "out")):
        done = run(command[0], "a.safetensors", "b.safetensors", *command[1:])
        assert done.code == 1 and f"{Q}.SCB" in done.stderr and "Traceback" not in done.stderr, done
    assert run("show", "a.safetensors").code == 0


def test_load_into_refuses_them(tmp_path):
    torch = pytest.importorskip("torch")
    path = write(tmp_path / "a.safetensors", {"weight": (F8, (4, 4)), "weight_scale": (F32, ())})
    module = torch.nn.Linear(4, 4, bias=False)
    module.register_buffer("weight_scale", torch.ones(()))
    with pytest.raises(MismatchError, match="de-quantise first"):
        tv.load_into(module, tv.load(path))


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "fp8"}},
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
        {"compression_config": {"quant_method": "fp8"}},
    ],
)
def test_config_json_says_what_the_names_do_not(tmp_path, config):
    """float8 without scales is plain, unless the model's configuration says otherwise; its 16-bit copies are plain."""
    folder = tmp_path / "m"
    folder.mkdir()
    write(folder / "model.safetensors", PLAIN["float8 without scales"])
    assert not [*codes(open_source(folder).specs, open_source(folder).quantised)]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MismatchError, match=r"config.json says that the model is quantised \(fp8\)"):
        tv.load(folder).specs  # noqa: B018 - raises
    write(folder / "model.safetensors", {f"{Q}.weight": (BF16, (16, 16))})
    assert len(tv.load(folder).specs) == 1


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_copy_changes_no_byte_and_may_hold_them(tmp_path, kind):
    folder = tmp_path / "q"
    folder.mkdir()
    write(folder / "model.safetensors", QUANTISED[kind])
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "some"}}))
    model = tv.load(folder)
    for k, copied in enumerate((model, 1 * model, tv.parse("q", q=folder))):
        tv.save(copied, tmp_path / f"{k}", shard_size="1KB")
        one, two = (next(iter(tv.load(place).terms)) for place in (folder, tmp_path / f"{k}"))
        assert one.specs == two.specs
        for name, spec in one.specs.items():
            first, second = bytearray(spec.nbytes), bytearray(spec.nbytes)
            one.readinto(name, 0, memoryview(first))
            two.readinto(name, 0, memoryview(second))
            assert first == second, name
        assert "quantization_config" in json.loads((tmp_path / f"{k}" / "config.json").read_text())
    for changed in (lambda: tv.plan(model, dtype="float32"), lambda: tv.plan(tv.as_model(1.1 * model)),
                    lambda: tv.plan(model, like=model),
                    lambda: tv.plan(tv.select(model, "*")), lambda: len(model)):  # fmt: skip
        with pytest.raises(MismatchError, match="de-quantise first"):
            changed()
