"""adapter_config.json: what contradicts itself or asks for more than B @ A is refused, what changes nothing is not."""

import json
import math
import re
import warnings

import numpy as np
import pytest
from peft import LoraConfig

import taskvec as tv
from taskvec.errors import FormatError
from taskvec.formats.adapter_config import Ranks
from taskvec.notes import Note

FACTORS = {f"base_model.model.w.lora_{side}.weight": np.ones((2, 2), np.float32) for side in "AB"}
SCALE = 2.0  # lora_alpha / r of the fixture


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"lora_alpha": 0}, "lora_alpha is 0, so that the adapter changes nothing"),
        ({"lora_alpha": 0.0}, "lora_alpha is 0"),
        ({"lora_alpha": math.inf}, "r and lora_alpha must be numbers"),
        ({"lora_alpha": math.nan}, "r and lora_alpha must be numbers"),
        ({"lora_alpha": 10**400}, "r and lora_alpha must be numbers"),
        ({"lora_alpha": True}, "r and lora_alpha must be numbers"),
        ({"r": True}, "r and lora_alpha must be numbers"),
        ({"r": 2.0}, "r and lora_alpha must be numbers"),
        ({"r": 10**400}, "r and lora_alpha must be numbers"),
        ({"rank_pattern": {"w": math.inf}}, "rank_pattern must map patterns to positive numbers"),
        ({"rank_pattern": {"w": math.nan}}, "rank_pattern must map patterns to positive numbers"),
        ({"rank_pattern": {"w": 2.0}}, "rank_pattern must map patterns to whole numbers"),
        ({"rank_pattern": ["w"]}, "rank_pattern must map patterns to positive numbers"),
        ({"alpha_pattern": {"w": math.inf}}, "alpha_pattern must map patterns to positive numbers"),
        ({"alpha_pattern": {r"(w)\1": 3}}, "is no regular expression that can be used here"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out must be true or false"),
        ({"layer_replication": [[0, 2], [5]]}, "layer_replication must be a list of"),
        ({"layer_replication": [[0, 10**9]]}, "layer_replication must be a list of"),
        ({"target_parameters": "w"}, "target_parameters must be a list of names"),
        ({"bias": "lora_only"}, "bias='lora_only' holds biases"),
        ({"trainable_token_indices": [3]}, "merge it into a model first"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config makes it more than B @ A"),
        ({"enable_lora": [True, False, True]}, "enable_lora makes it more than B @ A"),
        ({"init_lora_weights": "lora_ga"}, "took a part out of the base"),
        ({"init_lora_weights": "pissa_niter_4"}, "took a part out of the base"),
        ({"init_lora_weights": "brand_new"}, "init_lora_weights='brand_new' is unknown here"),
        ({"use_brand_new": True}, "use_brand_new='True' is unknown here and may change what the adapter computes"),
        ({"new_config": {"depth": 2}}, "remove the key from adapter_config.json if it changes nothing"),
        ({"peft_type": "LOHA"}, "peft_type must be LORA, and in adapter_config.json it is 'LOHA'"),
    ],
)
def test_what_makes_it_no_plain_lora_is_refused(tmp_path, build, config, says):
    with pytest.raises(FormatError, match=re.escape(says)):
        tv.load(build.lora(tmp_path / "lora", FACTORS, **config))


@pytest.mark.parametrize(
    "config",
    [
        {"brand_new": None}, {"brand_new": False}, {"brand_new": {}}, {"brand_new": []}, {"brand_new": ""},
        {"unsloth_fixed": True}, {"lorap_emb_lr": 1e-6}, {"merge_weights": True}, {"lora_dropout": 0.1},
        {"init_lora_weights": "gaussian"}, {"init_lora_weights": "orthogonal"}, {"init_lora_weights": False},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, {"target_modules": "all-linear"},
        {"layers_to_transform": [0], "layers_pattern": "layers"}, {"rank_pattern": None, "alpha_pattern": {}},
        {"base_model_name_or_path": "org/base", "task_type": "CAUSAL_LM", "peft_version": "99.0"},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_read_without_a_word(tmp_path, build, config, recwarn):
    adapter = tv.load(build.lora(tmp_path / "lora", FACTORS, **config))
    assert np.array_equal(adapter["w.weight"], np.full((2, 2), 2 * SCALE)) and not recwarn.list


def test_every_key_that_peft_writes_by_default_is_known(tmp_path, build, recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LoraConfig(r=2, lora_alpha=4, target_modules=["w"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    adapter = tv.load(build.lora(tmp_path / "lora", FACTORS, **written))
    assert np.array_equal(adapter["w.weight"], np.full((2, 2), 2 * SCALE)) and not recwarn.list


def test_a_key_that_stands_twice_is_refused(tmp_path, build):
    folder = build.lora(tmp_path / "lora", FACTORS)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_alpha": 400}')
    with pytest.raises(FormatError, match=r"has keys twice, .*:\n  - lora_alpha"):
        tv.load(folder)


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, build):
    """`[],` is three bytes of a file and a hundred of memory."""
    folder = build.lora(tmp_path / "lora", FACTORS)
    text = "[]," * 2_000_000
    (folder / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "target_modules": [{text}[]]}}')
    with pytest.raises(FormatError, match=r"adapter_config\.json holds more than \d+ lists and tables"):
        tv.load(folder)
    with (folder / "adapter_config.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(FormatError, match="is larger than 20000000 bytes"):
        tv.load(folder)


def test_a_pattern_that_fits_no_module_is_noted(tmp_path, build):
    with pytest.warns(Note, match=r"alpha_pattern has patterns that no module of the adapter takes .*: '\^model.w'"):
        tv.load(build.lora(tmp_path / "lora", FACTORS, alpha_pattern={"^model.w": 64}))


def test_where_the_order_of_patterns_decides_it_is_noted(tmp_path, build, recwarn):
    build.lora(tmp_path / "same", FACTORS, alpha_pattern={"w": 8, ".*w": 8})
    assert tv.load(tmp_path / "same")["w.weight"][0, 0] == 8 and "several patterns" not in str(recwarn.list)
    with pytest.warns(Note, match="several patterns with different values for 'w'; the first counts"):
        adapter = tv.load(build.lora(tmp_path / "other", FACTORS, alpha_pattern={"w": 8, ".*w": 80}))
    assert adapter["w.weight"][0, 0] == 8


def test_a_pattern_that_never_ends_is_matched_at_once(tmp_path, build, run):
    build.lora(tmp_path / "lora", FACTORS, rank_pattern={"(([a-z_.0-9])+)+!": 8})
    assert run("show", "lora").code == 0


def test_scales_are_those_of_peft():
    ranks = Ranks({"r": 8, "lora_alpha": 4, "rank_pattern": {"q": 4}, "alpha_pattern": {"0.q": 2}, "use_rslora": True})
    assert ranks.of("l.0.q") == (4, 1.0) and ranks.of("l.1.q") == (4, 2.0) and ranks.of("k") == (8, 4 / math.sqrt(8))
