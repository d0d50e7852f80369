"""Adapters known by their tensors' names: never summed factor by factor, whatever the file is called."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.errors import FormatError
from taskvec.formats.factors import factors_in
from taskvec.notes import Note

M = "model.layers.0.self_attn.q_proj"
SQUARE = np.ones((2, 2), np.float32)
ADAPTERS = {
    "a LoRA in PEFT's layout": [f"base_model.model.{M}.lora_A.weight", f"base_model.model.{M}.lora_B.weight"],
    "a LoRA in PEFT's layout ": [f"transformer.{M}.lora_A.weight", f"transformer.{M}.lora_B.weight"],  # of diffusers
    "a LoRA in PEFT's layout  ": [f"{M}.lora_A.default.weight", f"{M}.lora_B.default.weight", f"{M}.alpha"],
    "a LoRA in MLX's layout": [f"{M}.lora_a", f"{M}.lora_b"],
    "a LoRA in kohya's layout": [f"lora_unet_q.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")],
    "a LoRA in kohya's layout ": [f"unet.{M}_lora.{part}" for part in ("lora_down.weight", "lora_up.weight")],
    "a LoRA in diffusers' older layout": ["unet.q.lora.down.weight", "unet.q.lora.up.weight"],
    "a LoRA in diffusers' older layout ": ["unet.to_q_lora.down.weight", "unet.to_q_lora.up.weight"],
    "a DoRA": [f"{M}.lora_A.weight", f"{M}.lora_B.weight", f"{M}.lora_magnitude_vector"],
    "a DoRA ": ["lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight", "lora_unet_q.dora_scale"],
    "an AdaLoRA": [f"{M}.lora_A", f"{M}.lora_B", f"{M}.lora_E"],
    "a LoHa": ["lora_unet_q.hada_w1_a", "lora_unet_q.hada_w1_b", "lora_unet_q.hada_w2_a", "lora_unet_q.hada_w2_b"],
    "a LoKr": ["lora_unet_q.lokr_w1", "lora_unet_q.lokr_w2_a", "lora_unet_q.lokr_w2_b", "lora_unet_q.alpha"],
    "an orthogonal adapter (OFT)": [f"base_model.model.{M}.oft_R.weight"],
    "an (IA)3 adapter": [f"base_model.model.{M}.ia3_l"],
    "a VeRA": [f"base_model.model.{M}.vera_lambda_b", f"base_model.model.{M}.vera_lambda_d", "base_model.vera_A"],
    "differences of whole weights": ["lora_unet_q.diff", "lora_unet_q.diff_b", "lora_unet_q.alpha"],
    "rows of an embedding": ["base_model.model.embed.token_adapter.trainable_tokens_delta"],
    "a soft prompt": ["prompt_embeddings"],
}


@pytest.mark.parametrize("what", ADAPTERS)
@pytest.mark.parametrize("name", ["anything.safetensors", "folder/model.safetensors"])
def test_an_adapter_is_refused_by_its_tensors_with_the_way_out(tmp_path, what, name):
    (tmp_path / "folder").mkdir()
    save_file(dict.fromkeys(ADAPTERS[what], SQUARE), tmp_path / name)
    with pytest.raises(FormatError, match=re.escape(what.strip())) as error:
        tv.load((tmp_path / name).parent if "/" in name else tmp_path / name)
    assert any(way in str(error.value) for way in ("adapter_config.json", "convert it to PEFT's layout", "merge it"))


MODELS = {
    "a parameter called alpha": ["generator.0.act.alpha", "generator.0.conv.weight"],  # BigVGAN
    "low-rank decay of RWKV": ["blocks.0.w_lora.lora.0.weight", "blocks.0.w_lora.lora.2.weight"],
    "projections called a and b": ["l.q_a_proj.weight", "l.q_b_proj.weight", "l.kv_a_proj_with_mqa.weight"],  # DeepSeek
    "one half of a pair": ["l.lora_A.weight", "l.weight"],
    "a parameter called diff": ["l.diff", "l.weight"],
    "names that only contain it": ["l.lora_Adapter.weight", "xlora_A.weight", "xlora_B.weight"],
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_with_similar_names_is_a_model_without_a_word(tmp_path, kind, recwarn):
    save_file(dict.fromkeys(MODELS[kind], SQUARE), tmp_path / "model.safetensors")
    assert tv.load(tmp_path).mass == 1
    assert not [w for w in recwarn if issubclass(w.category, Note)]


def test_a_model_whose_adapter_was_not_merged_is_refused(tmp_path):
    names = [f"base_model.model.{M}.{part}.weight" for part in ("base_layer", "lora_A.default", "lora_B.default")]
    save_file(dict.fromkeys(names, SQUARE), tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"an adapter that was not merged.*merge_and_unload"):
        tv.load(tmp_path)


def test_a_model_with_factors_of_its_own_is_a_model_and_says_so(tmp_path):
    names = [f"{M}.{part}.weight" for part in ("base_layer", "lora_A.vision", "lora_B.vision", "lora_A.speech")]
    save_file(dict.fromkeys(names, SQUARE), tmp_path / "model.safetensors")  # as in Phi-4-multimodal
    with pytest.warns(Note, match="factors among its parameters"):
        assert tv.load(tmp_path).mass == 1


def test_a_pair_is_found_among_many_weights_and_halves_alone_are_an_adapter():
    names = [f"model.layers.{k}.mlp.experts.{e}.up_proj.weight" for k in range(100) for e in range(300)]
    assert factors_in(names) is None and factors_in([*names, "a.lora_A", "a.lora_B"]).example == "a.lora_A"
    assert factors_in(["a.lora_A.weight", "b.lora_A.weight"]).example == "a.lora_A.weight"


# ---- where an adapter lies -----------------------------------------------------------------------
FACTORS = {f"base_model.model.w.lora_{side}.weight": SQUARE for side in "AB"}
PLAIN = {"w.weight": SQUARE}


def test_a_folder_with_a_lora_and_its_merged_model_is_a_question(tmp_path, build):
    both = build.lora(tmp_path / "both", FACTORS)
    build.model(both, PLAIN)
    with pytest.raises(FormatError, match=r"a LoRA .* and a model .*name the one you mean") as error:
        tv.load(both)
    for name, mass in (("adapter_model.safetensors", 0), ("model.safetensors", 1)):
        assert str(both / name) in str(error.value)
        assert tv.load(both / name).mass == mass


def test_a_merged_model_beside_an_adapters_configuration_is_the_model(tmp_path, build, recwarn):
    build.lora(tmp_path, FACTORS)
    (tmp_path / "adapter_model.safetensors").unlink()
    build.model(tmp_path, PLAIN)
    assert tv.load(tmp_path).mass == 1 and not recwarn.list
    build.model(tmp_path, {"a": SQUARE, "b": SQUARE}, shards=2)
    (tmp_path / "model.safetensors").unlink()
    assert set(tv.load(tmp_path)) == {"a", "b"}


def test_a_file_of_factors_in_an_adapters_folder_is_refused_with_the_folder(tmp_path, build):
    folder = build.lora(tmp_path / "lora", FACTORS)
    with pytest.raises(FormatError, match=re.escape(f"give the folder, {folder}")):
        tv.load(folder / "adapter_model.safetensors")


def test_an_adapter_under_another_file_name_is_read(tmp_path, build):
    folder = build.lora(tmp_path / "lora", FACTORS)
    plain = tv.load(folder)["w.weight"]
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    assert np.array_equal(tv.load(folder)["w.weight"], plain) and tv.load(folder).mass == 0
    save_file(FACTORS, folder / "other.safetensors")
    with pytest.raises(FormatError, match="several files of factors"):
        tv.load(folder)
    assert np.array_equal(tv.load(folder / "other.safetensors")["w.weight"], plain)


def test_a_part_of_an_adapter_is_not_taken_for_all_of_it(tmp_path, build):
    folder = build.lora(tmp_path / "lora", FACTORS)
    for k in (1, 2):
        shard = folder / f"adapter_model-0000{k}-of-00002.safetensors"
        save_file({name.replace(".w.", f".w{k}."): v for name, v in FACTORS.items()}, shard)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors.index.json").write_text("{}")
    for path in (folder, shard):
        with pytest.raises(FormatError, match="load all of it with PEFT and save it in one file"):
            tv.load(path)


def test_a_pickled_adapter_and_a_folder_of_folders_name_the_way_out(tmp_path, build):
    (build.lora(tmp_path / "runs/pickled", FACTORS) / "adapter_model.safetensors").rename(
        tmp_path / "runs/pickled/adapter_model.bin"
    )
    with pytest.raises(FormatError, match=r"adapter_model\.bin cannot be read: load the adapter with PEFT"):
        tv.load(tmp_path / "runs/pickled")
    build.lora(tmp_path / "runs/checkpoint-10", FACTORS)
    build.model(tmp_path / "runs/merged", PLAIN)
    (tmp_path / "runs/logs").mkdir()
    with pytest.raises(FormatError, match="folders that do: name the one you mean") as error:
        tv.load(tmp_path / "runs")
    kinds = {"checkpoint-10": "a LoRA", "merged": "a model", "pickled": "a LoRA"}
    assert error.value.problems == tuple(f"{tmp_path / 'runs' / name}: {kind}" for name, kind in kinds.items())


def test_show_says_that_a_file_is_an_adapter(tmp_path, run):
    save_file(FACTORS, tmp_path / "x.safetensors")
    said = run("show", "x.safetensors")
    assert said.code == 1 and "adapter_config.json" in said.stderr and not said.stdout
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    save_file(PLAIN, tmp_path / "model.safetensors")
    assert "a LoRA (mass 0)" in run("show", "x.safetensors").stdout
