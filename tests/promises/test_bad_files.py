"""Files that are damaged, or are not what their names say, are refused by name."""

import json
import shutil

import pytest

from promises.small_merge import MERGE, PAIR

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "needs dtype, shape and data_offsets"),
    "unknown dtype": ({"a": F32 | {"dtype": "F13"}}, "dtype 'F13' is unknown"),
    "a list for a dtype": ({"a": F32 | {"dtype": ["F32"]}}, "dtype ['F32'] is unknown"),
    "out of range": ({"a": F32 | {"shape": [4], "data_offsets": [0, 16]}}, "ends at byte 16, the file's at 8"),
    "overlap": ({"a": F32, "b": F32 | {"data_offsets": [0, 8]}}, "b overlaps a"),
    "hole": ({"a": F32 | {"shape": [1], "data_offsets": [4, 8]}}, "4 bytes before a belong to no tensor"),
    "rest": ({"a": F32 | {"shape": [1], "data_offsets": [0, 4]}}, "4 bytes after a belong to no tensor"),
    "shape against offsets": ({"a": F32 | {"shape": [3]}}, "F32[3] takes 12 bytes, data_offsets give 8"),
    "backwards": ({"a": F32 | {"data_offsets": [8, 0]}}, "are not a range"),
    "negative": ({"a": F32 | {"shape": [-2]}}, "is not a list of"),
    "a true size": ({"a": F32 | {"shape": [True, 2]}}, "is not a list of"),
    "NaN": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "is not a list of"),
    "huge": (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 4000), "is not a list of"),
    "too huge": (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000), "is not JSON"),
    "endless shape": ({"a": F32 | {"shape": [2**62] * 100_000}}, "is not a list of at most 64 sizes"),
    "twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', "key 'a' stands twice"),
    "nesting": (b'{"a":' * 100_000, "is not JSON"),
    "not UTF-8": (b'{"\xff\xfe":{}}', "is not JSON"),
    "half a character": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "is not JSON"),
    "not an object": (b"[]", "is not a JSON object"),
    "bad metadata": ({"__metadata__": {"a": 1}, "a": F32}, "__metadata__ must map texts to texts"),
}  # fmt: skip


@pytest.mark.parametrize("defect", HEADERS)
def test_a_header_that_lies_is_refused_with_its_file(world, build, refused, defect):
    header, says = HEADERS[defect]
    build.raw(world / "bad.safetensors", header, b"12345678")
    refused("merge", MERGE, "base=base", "math=bad.safetensors", "-o", "out", says=["bad.safetensors", says])


def test_a_header_with_many_names_and_one_twice_takes_no_time(world, build, refused):
    entries = [b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % k for k in range(50_000)]
    build.raw(world / "bad.safetensors", b"{" + b",".join([*entries, entries[7]]) + b"}")
    refused("show", "bad.safetensors", says="'t7' stands twice")


@pytest.mark.parametrize(
    ("size", "says"),
    [(0, "it has 0 bytes"), (7, "it has 7 bytes"), (40, "its header claims"), (-1, "(truncated?)")],
)
def test_a_truncated_file_is_refused(world, refused, size, says):
    content = (world / "base/model.safetensors").read_bytes()
    (world / "cut.safetensors").write_bytes(content[:size])
    refused("merge", MERGE, "base=base", "math=cut.safetensors", "-o", "out", says=["cut.safetensors", says])


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001])
def test_a_header_longer_than_the_file_or_the_format_allows_is_refused(world, refused, length):
    with (world / "long.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(200_000_000 if length < 2**32 else 4096)
    refused("show", "long.safetensors", says=["long.safetensors", "header"])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"a": "../base/model.safetensors"}, "'../base/model.safetensors' is not a file name within the folder"),
        ({"a": "/etc/passwd"}, "'/etc/passwd' is not a file name"),
        ({"a": "sub/x.safetensors"}, "is not a file name"),
        ({"a": ".."}, "is not a file name"),
        ({"a": ""}, "is not a file name"),
        ({"a": "nul\0.safetensors"}, "missing"),
        ({"a": "model-00009-of-00009.safetensors"}, "model-00009-of-00009.safetensors is missing"),
        ({"a": 5}, "weight_map"),
        ({}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_an_index_reaches_no_file_but_its_own_shards(world, refused, table, says):
    (world / "math/model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    refused(*PAIR, "-o", "out", says=["model.safetensors.index.json", says])


def test_an_index_that_does_not_fit_its_shards_lists_what(world, refused):
    index = world / "math/model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    first, *_, last = table
    index.write_text(json.dumps({"weight_map": table | {"ghost": table[first], first: table[last]}}))
    refused(*PAIR, "-o", "out", says=[
        f"ghost is not in {table[first]}", f"{first} is not in {table[last]}", f"{first} in {table[first]} is not"
    ])  # fmt: skip


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"weight_map": NaN}'])
def test_an_index_that_is_none_is_refused(world, refused, text):
    (world / "math/model.safetensors.index.json").write_bytes(text)
    refused(*PAIR, "-o", "out", says=["model.safetensors.index.json", "is no index of shards"])


def test_all_sources_that_cannot_be_read_are_listed_at_once(refused):
    refused("merge", MERGE, "base=no/such/base", "math=no/such/math", "-o", "out", lines=3,
            says=["base: no/such/base does not exist", "math: no/such/math does not exist"])  # fmt: skip


@pytest.mark.parametrize(
    "path", ["nowhere", "x" * 300, "~nobody-of-this-name/x", "loop", "base/config.json", "base/none"]
)
def test_a_path_that_leads_nowhere_is_named(world, refused, path):
    (world / "loop").symlink_to("loop")
    refused("merge", "base", f"base={path}", "-o", "target", says=path)


def test_a_hub_name_says_that_it_was_looked_for_there(refused):
    refused("merge", "base", "base=org/model-that-is-nowhere", "-o", "out", says="is no local path")


def test_a_folder_with_pickles_only_is_refused_by_name(world, refused):
    (world / "old").mkdir()
    (world / "old/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch out'\ntR.")
    refused("merge", "old", "old=old", "-o", "out", says=["pytorch_model.bin", "safetensors"])
    (world / "empty").mkdir()
    refused("merge", "old", "old=empty", "-o", "out", says="holds no safetensors file")


def test_a_folder_where_it_is_not_clear_which_file_is_meant_asks(world, refused):
    shutil.copyfile(world / "base/model.safetensors", world / "math/model.safetensors")
    refused(*PAIR, "-o", "out", says="name the one you mean")
    (world / "two").mkdir()
    for name in ("a", "b"):
        shutil.copyfile(world / "base/model.safetensors", world / f"two/{name}.safetensors")
    refused("merge", "two", "two=two", "-o", "out", says=["name the one you mean", "a.safetensors", "b.safetensors"])


def test_float8_with_scales_beside_it_is_refused(world, build, refused):
    scaled = {
        "w.weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [4, 8]},
        "w.weight_scale": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    build.raw(world / "fp8.safetensors", scaled, bytes(8))
    says = ["w.weight_scale", "de-quantise first"]
    refused("merge", "fp8", "fp8=fp8.safetensors", "--dtype", "float32", "-o", "out", says=says)


def test_a_record_that_is_none_is_a_stated_error(world, refused, run):
    assert run(*PAIR, "-o", "done").code == 0
    record = world / "done/taskvec.json"
    for text in (b"{", b"\xff", b"[" * 100_000, b'{"a": 1}', b'{"recipe": "x", "inputs": {"a": {}}, "tensors": {}}'):
        record.write_bytes(text)
        for verb in ("log", "verify"):
            refused(verb, "done", says="taskvec.json holds no record that can be read")
        refused("merge", "done", "done=done", "-o", "out", says="taskvec.json holds no record that can be read")


def test_verify_names_the_tensor_that_changed(world, refused, run):
    assert run(*PAIR, "-o", "done").code == 0
    path = world / "done/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused("verify", "done", says=["done is not what was written", "model.norm.weight holds other data"], lines=2)
    refused("verify", "base", says="taskvec did not write it")
    refused("log", "base", says="taskvec did not write it")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tasks: {x: {kind: [a]}}\n", "x: kind is one of"),
        ("[" * 20_000, "nested too deeply"),
        (
            "tasks: {x: {kind: command, run: 'true {model} {split}; python3 -c \"print(10**400)\"'}}\n",
            "is no number and no list of them",
        ),
        (
            "tasks: {x: {kind: command, run: \"true {model} {split}; printf '\\\\\\\\377'; exit 1\"}}\n",
            "the command ended with 1",
        ),
    ],
    ids=["kind", "brackets", "number", "bytes"],
)
def test_tasks_that_are_none_are_named(world, refused, text, says):
    (world / "t.yml").write_text(text)
    refused("eval", "base + 0*math", "base=base", "math=math", "--evaluate", "t.yml", says=says)


def test_a_template_that_is_no_text_is_named(world, refused):
    (world / "base/chat_template.jinja").write_bytes(b"\xff")
    model = "{model: base, parameters: {weight: 1}}"
    (world / "m.yml").write_text(f"merge_method: linear\nchat_template: auto\nmodels: [{model}]\n")
    refused("merge", "m.yml", "-o", "out", says="base/chat_template.jinja is no UTF-8 text")


@pytest.mark.parametrize(
    "table",
    [
        {"model": {"vocab": {"a": 0}}, "added_tokens": 1},
        {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": ["a"], "id": 1}]},
        {"model": {"type": "Unigram", "vocab": [["a", "x"], ["b", None]]}},
        {"model": {"type": "Unigram", "vocab": [["a", 0, 1]]}},
        {"model": {"type": "Unigram", "vocab": [["a", True]]}},
    ],
    ids=["no list", "content", "scores", "triples", "bool"],
)
def test_a_tokenizer_that_is_none_is_named(world, refused, table):
    kind = table["model"].get("type")
    (world / "math/tokenizer.json").write_text(json.dumps(table))
    other = {"model": {"type": kind, "vocab": [["z", 0.0]] if kind else {"z": 0}}}
    (world / "base/tokenizer.json").write_text(json.dumps(other))
    recipe = 'align_vocab(math, math, base, embedding="model.embed.weight")'
    refused("merge", recipe, "math=math", "base=base", "-o", "out", says=["math/tokenizer.json is no vocabulary"])
