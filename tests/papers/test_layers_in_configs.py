"""What config.json says of single layers after layers have moved: as transformers reads it, layer by layer."""

import copy
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, T5Config, T5EncoderModel

import taskvec as tv
from taskvec.errors import RecipeError
from taskvec.views.bylayer import Origin, moved

LAYERS = 12
PICKS = {
    "those behind the first": [1, 2, 3, 4, 5, 6, 7],
    "some twice": [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    "the first seven": [0, 1, 2, 3, 4, 5, 6],
    "whole periods": [*range(12), *range(12)],
}
NUMBERS = ("moe_layers", "rope_scaling_layers", "full_attn_idxs", "kv_source_layers", "window_block_indexes")
NO_LAYERS = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")
PROPERTIES = ("layer_types", "layers_block_type", "layers_num_experts")


def by_layer(config, count):
    """The lists with one value a layer that a configuration of transformers has, its properties included."""
    entries = {}
    for key in {*vars(config), *PROPERTIES} - {*NUMBERS, *NO_LAYERS}:
        value = getattr(config, key, None)
        if isinstance(value, list | tuple) and len(value) == count:
            entries[key] = list(value)
    return entries


def read(model_type, table):
    return CONFIG_MAPPING[model_type](**{k: v for k, v in table.items() if k != "model_type"})


def tables(model_type):
    """As old and new versions and people write it: nothing but the count, all entries, all entries but the lists."""
    bare = {"model_type": model_type, "num_hidden_layers": LAYERS}
    full = read(model_type, bare).to_dict()
    return [bare, full, {k: v for k, v in full.items() if not (isinstance(v, list) and len(v) == LAYERS)}]


def check(model_type):
    """(how many piles were right, how many refused)."""
    counts = [0, 0]
    for table in tables(model_type):
        was = by_layer(read(model_type, table), LAYERS)
        for picks in PICKS.values():
            config, problems = moved([Origin(table, LAYERS, layer) for layer in picks], table)
            counts[bool(problems)] += 1
            if not problems:
                now = by_layer(read(model_type, {**table, **config, "num_hidden_layers": len(picks)}), len(picks))
                for key, values in was.items():
                    assert now.get(key) == [values[layer] for layer in picks], (model_type, key, picks)
    return counts


KNOWN = ("gemma2", "gemma3_text", "qwen3_next", "smollm3", "llama4_text", "modernbert", "deepseek_v32", "exaone4")


@pytest.mark.parametrize("model_type", KNOWN)
def test_every_layer_is_for_transformers_what_it_was(model_type):
    right, refused = check(model_type)
    assert right == 12 and not refused


@pytest.mark.slow
def test_no_architecture_of_transformers_gets_other_layers_unnoticed():
    judged = 0
    for model_type in CONFIG_MAPPING:
        try:
            count = len(by_layer(read(model_type, tables(model_type)[0]), LAYERS))
            [read(model_type, table) for table in tables(model_type)]
        except Exception:  # not every class can be made with a count of layers alone
            continue
        if count:
            judged += sum(check(model_type))
    assert judged > 400


# ---- whole models --------------------------------------------------------------------------------------------------
IDS = torch.arange(12)[None]


def gemma(folder):
    """Every second layer has a window, of which config.json says nothing."""
    torch.manual_seed(0)
    config = Gemma2Config(
        hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=64, head_dim=8, sliding_window=3,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    model.save_pretrained(folder)
    table = json.loads((folder / "config.json").read_text())
    del table["layer_types"]
    (folder / "config.json").write_text(json.dumps(table))
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS, use_cache=False).logits


@pytest.mark.parametrize(
    "recipe", ["stack(take_layers(m, 0, 3), take_layers(m, 2, 4))", "take_layers(as_model(0.5*m + 0.5*m), 1, 4)"]
)
def test_windows_go_along_with_their_layers(tmp_path, recipe):
    model = gemma(tmp_path / "m")
    picks = [0, 1, 2, 2, 3] if "stack" in recipe else [1, 2, 3]
    kinds = [model.config.layer_types[k] for k in picks]
    model.model.layers = torch.nn.ModuleList([copy.deepcopy(model.model.layers[k]) for k in picks])
    model.config.layer_types, model.config.num_hidden_layers = kinds, len(picks)
    model.save_pretrained(tmp_path / "by_hand")
    tv.save(tv.parse(recipe, m=tv.load(tmp_path / "m")), tmp_path / "out")
    merged, wanted = (AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("out", "by_hand"))
    assert torch.equal(logits(merged), logits(wanted))


def test_the_positions_in_the_first_layer_of_t5_must_stay_in_the_first(tmp_path):
    T5EncoderModel(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=3, num_heads=2, vocab_size=16)).save_pretrained(
        tmp_path / "m"
    )
    m = tv.load(tmp_path / "m")
    tv.save(tv.stack(tv.take_layers(m, 0, 2), tv.take_layers(m, 1, 3)), tmp_path / "out")
    with pytest.raises(RecipeError, match=r"relative_attention_bias.* begin with the layer that has it"):
        tv.save(tv.take_layers(m, 1, 3), tmp_path / "no")
