"""What lies beside the weights of an output, so that loaders take it for what it is; and what is said of the rest."""

import json
import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.errors import MismatchError, SourceChanged
from taskvec.notes import Note, collected
from taskvec.saving.sidecars import modules_named


def tensors(k=0):
    return {"w": np.full((4, 4), k, np.float32), "b": np.full(4, k, np.float32)}


def write(folder, files, k=0, name="model.safetensors"):
    """A folder with weights and the given files: texts, or tables as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(k), folder / name)
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.fixture
def saved(tmp_path):
    """Merge two such folders; the files of the output, and the notes."""

    def merge(files, others=None, name="model.safetensors", **options):
        a = write(tmp_path / "a", files, 1, name)
        b = write(tmp_path / "b", files | (others or {}), 3, name)
        with collected() as notes:
            tv.save(0.5 * tv.load(a) + 0.5 * tv.load(b), tmp_path / "out", **options)
        out = tmp_path / "out"
        return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}, list(notes)

    return merge


ORDINARY = {
    "config.json": {"model_type": "llama"}, "generation_config.json": {}, "tokenizer.json": {},
    "tokenizer_config.json": {}, "special_tokens_map.json": {}, "chat_template.jinja": "{{ messages }}",
}  # fmt: skip
WRITTEN = {"model.safetensors", "README.md", "taskvec.json"}


def test_an_ordinary_model_gets_all_its_files_and_no_word(saved):
    files, notes = saved(ORDINARY)
    assert files == {*ORDINARY, *WRITTEN} and notes == []


@pytest.mark.parametrize(
    "name",
    ["tekken.json", "qwen.tiktoken", "spiece.model", "sentencepiece.bpe.model", "source.spm", "vocab.bpe", "vocab.json",
     "bpe.codes", "chat_template.json", "additional_chat_templates/tool.jinja", "preprocessor_config.json",
     "processor_config.json", "video_preprocessor_config.json", "normalizer.json", "params.json",
     "1_Pooling/config.json", "custom_generate/generate.py", "sentence_bert_config.json",
     "LICENSE.txt", "scheduler_config.json"],
)  # fmt: skip
def test_every_file_that_a_loader_may_need_goes_along(saved, name):
    files, notes = saved(ORDINARY | {name: "x"})
    assert name in files and notes == []


@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", "trainer_state.json", "pytorch_model.bin", "training_args.bin", "adapter_model.bin", "train.py",
     "checkpoint-10/config.json", "adapter_config.json.bak", "tokenizer_training_data/a.txt", "onnx/model.onnx"],
)  # fmt: skip
def test_what_no_loader_needs_stays_behind_without_a_word(saved, name):
    files, notes = saved(ORDINARY | {name: "x"})
    assert name not in files and notes == []


# ---- code ------------------------------------------------------------------------------------------
CODE = {"configuration_mine.py": "class C: ...", "modeling_mine.py": "from .configuration_mine import C"}


@pytest.mark.parametrize(
    "named",
    [
        {"config.json": {"auto_map": {"AutoModel": "modeling_mine.Mine"}}},
        {"config.json": {"text_config": {"auto_map": {"AutoModel": "modeling_mine.Mine"}}}},
        {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["modeling_mine.T", None]}}},
        {"processor_config.json": {"auto_map": {"AutoProcessor": "modeling_mine.P"}}},
        {"modules.json": [{"path": "", "type": "modeling_mine.Mine"}]},
    ],
)
def test_the_code_that_a_configuration_names_goes_along(saved, named):
    files, notes = saved(named | CODE)
    assert {*CODE} <= files and notes == []


def test_code_that_is_named_and_not_there_is_said(saved):
    _, notes = saved({"config.json": {"auto_map": {"AutoModel": "modeling_mine.Mine"}}})
    assert len(notes) == 1
    assert "config.json names modeling_mine.py, which is not in the folder: a loader will not find it" in notes[0]


def test_code_of_another_repository_and_of_a_library_is_not_looked_for(tmp_path, saved):
    table = {"auto_map": {"AutoModel": "org/name--modeling_x.X"}}
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    assert saved({"config.json": table, "modules.json": modules})[1] == []
    assert modules_named(tmp_path / "a") == {}


def test_transformers_loads_an_output_with_code_of_its_own(tmp_path, saved, monkeypatch):
    from transformers import AutoConfig

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    code = (
        "from transformers import PretrainedConfig\n\n\nclass MineConfig(PretrainedConfig):\n    model_type = 'mine'\n"
    )
    table = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}, "answer": 42}
    saved({"config.json": table, "configuration_mine.py": code})
    assert AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True).answer == 42


# ---- modules with weights ---------------------------------------------------------------------------
def test_further_modules_go_along_and_are_named_where_the_models_differ(tmp_path, saved):
    modules = [{"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Other"}]
    common = {"modules.json": modules, "1_Pooling/config.json": {}}
    files, notes = saved(common | {"2_Dense/model.safetensors": "one"}, {"2_Dense/model.safetensors": "two"})
    assert {"1_Pooling/config.json", "2_Dense/model.safetensors"} <= files
    assert (tmp_path / "out/2_Dense/model.safetensors").read_text() == "one"
    assert len(notes) == 2
    assert "modules.json names 3_Other, which does not go along" in notes[0]
    assert "2_Dense/model.safetensors is copied from" in notes[1] and "differs and is not merged" in notes[1]
    assert "library_name: sentence-transformers" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("name", ["2_Dense", "10_Normalize", "query_0_Router"])
def test_the_modules_of_a_sentence_transformer_are_folders_and_those_of_others_are_not_theirs(saved, name):
    files, notes = saved({"modules.json": [{"path": name, "type": "x"}], f"{name}/config.json": {}})
    assert f"{name}/config.json" in files and notes == []
    files, notes = saved({f"{name}/config.json": {}, "modules.json": "[]"}, overwrite=True)
    assert (f"{name}/config.json" in files) == name[0].isdigit()


def test_a_numbered_folder_beside_a_model_is_no_module(saved):
    files, notes = saved({"2_data/everything.json": {}})
    assert "2_data/everything.json" not in files and notes == []


# ---- names ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
        ("model.fp16.safetensors", "model.fp16.safetensors"),
        ("anything.safetensors", "model.safetensors"),
    ],
)
def test_the_weights_are_called_what_their_loader_looks_for(saved, name, written):
    files, notes = saved({"config.json": {"_class_name": "UNet2DModel"}}, name=name)
    assert [f for f in files if f.endswith(".safetensors")] == [written] and notes == []


def test_shards_and_their_index_have_that_name_too(tmp_path, saved):
    name = "diffusion_pytorch_model.safetensors"
    files, notes = saved({"config.json": {"_class_name": "UNet2DModel"}}, name=name, shard_size=70)
    shards = [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    assert {*shards, f"{name}.index.json"} <= files and notes == []
    assert "library_name: diffusers" in (tmp_path / "out/README.md").read_text()
    assert tv.load(tmp_path / "out").keys() == {"w", "b"}
    tv.save(tv.load(tmp_path / "out"), tmp_path / "again")
    assert (tmp_path / "again" / name).is_file()


def test_a_variant_in_several_files_loses_its_name_with_a_word(saved):
    files, (note,) = saved({}, name="diffusion_pytorch_model.fp16.safetensors", shard_size=70)
    assert "diffusion_pytorch_model-00001-of-00002.safetensors" in files and "without the variant" in note


def test_a_difference_is_no_model_whatever_it_is_of(tmp_path):
    a, b = (write(tmp_path / n, {}, k, "diffusion_pytorch_model.safetensors") for k, n in enumerate("ab"))
    tv.save(tv.load(b) - tv.load(a), tmp_path / "out")
    assert (tmp_path / "out/task_vector.safetensors").is_file()


# ---- the configuration ------------------------------------------------------------------------------
def test_plain_weights_are_not_called_quantised(tmp_path, saved):
    table = {"model_type": "x", "text_config": {"quantization_config": {"quant_method": "fp8"}}}
    _, (note,) = saved({"config.json": table})
    assert "config.json has a quantization_config, which is left out of the output" in note
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"model_type": "x", "text_config": {}}


def test_packed_weights_are_refused_before_anything_is_copied(tmp_path):
    model = write(tmp_path / "m", {"config.json": {"quantization_config": {"quant_method": "gptq"}}})
    save_file(tensors() | {"qweight": np.zeros((4, 4), np.int32)}, model / "model.safetensors")
    with pytest.raises(MismatchError, match="qweight"):
        tv.save(tv.load(model), tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


# ---- files that are not what they seem --------------------------------------------------------------
def test_a_link_out_of_the_folder_is_a_note_and_a_warning_in_python(tmp_path, saved):
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/LICENSE").symlink_to(tmp_path / "secret")
    files, (note,) = saved({})
    assert "LICENSE" not in files and note.startswith(str(tmp_path / "a/LICENSE"))
    assert note.endswith("it does not go along with the output")
    with pytest.warns(Note, match="LICENSE is a link that leads out of the folder"):
        tv.save(tv.load(tmp_path / "a"), tmp_path / "again")


def test_a_configuration_that_never_ends_is_not_read(tmp_path):
    model = write(tmp_path / "m", {})
    (model / "config.json").symlink_to("/dev/zero")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tv.save(tv.load(model), tmp_path / "out")
    assert not (tmp_path / "out/config.json").exists() and "to /dev/zero" in str(caught[0].message)


def test_a_tokenizer_that_changes_during_the_merge_is_noticed(tmp_path, monkeypatch):
    from taskvec.saving import save as engine

    model = write(tmp_path / "m", ORDINARY)
    stream = engine.stream

    def changing(*args):
        (model / "tokenizer.json").write_text('{"other": 1}')
        return stream(*args)

    monkeypatch.setattr(engine, "stream", changing)  # between the survey and the copy, where a merge spends its time
    with pytest.raises(SourceChanged, match=r"tokenizer\.json changed while the output was made; nothing was written"):
        tv.save(tv.load(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_module_without_files_is_missed_by_nobody(tmp_path, saved):
    """Normalize has no configuration, and its folder is empty or not there."""
    listed = [{"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]
    _, notes = saved({"modules.json": listed})
    assert not notes
