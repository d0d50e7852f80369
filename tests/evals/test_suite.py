"""Tasks described in a file, judged in live modules of transformers: against eager code, and what they refuse."""

import json
import math
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import taskvec as tv
from taskvec.errors import FormatError, MismatchError, NonFiniteError, RecipeError, TaskvecError
from taskvec.evals import evaluator_from, require_apart
from taskvec.evals.suite import suite_from
from taskvec.evals.texts import Data, paragraphs, read

WORDS = [f"w{k}" for k in range(40)]
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(3, 9))) for _ in range(60)]
LABELS = ["good" if RNG.random() < 0.5 else "bad" for _ in TEXTS]
MOOD = "model: encoder-base\ntasks:\n  mood: {kind: classification,"
TEXTS_OF = "tasks: {a: {kind: classification, model: encoder-base,"
HEADS_OF = f"{TEXTS_OF} data: all.jsonl, head: head.safetensors,"
PPL = "tasks: {a: {kind: perplexity, model: lm-base,"
WRITTEN = "tasks: {a: {kind: generation, model: lm-base, data: prompts.txt,"
PROMPTS = {"bad": ["w1 w2", "w3"], "good": ["w30 w31", "w32 w5 w6"]}


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def made(make, seed, folder):
    """A model of random weights in a folder."""
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.4)
    model.save_pretrained(folder)
    tokenizer(folder)


def tokenizer(folder):
    model = Tokenizer(WordLevel({w: k for k, w in enumerate(["[UNK]", "</s>", *WORDS])}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]", eos_token="</s>").save_pretrained(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """base and tuned encoders, classifiers and language models, and data in every format."""
    root = tmp_path_factory.mktemp("suite")
    tiny = TINY
    bert = BertConfig(vocab_size=42, max_position_embeddings=32, **tiny)
    llama = LlamaConfig(vocab_size=42, num_key_value_heads=1, max_position_embeddings=64, eos_token_id=1, **tiny)
    two = BertConfig(vocab_size=42, max_position_embeddings=32, id2label={0: "bad", 1: "good"}, **tiny)
    for kind, make in {
        "encoder": lambda: BertModel(bert, add_pooling_layer=False),
        "classifier": lambda: BertForSequenceClassification(two),
        "lm": lambda: LlamaForCausalLM(llama),
    }.items():
        for seed, name in enumerate(("base", "tuned")):
            made(make, seed, root / f"{kind}-{name}")
    rows = [{"text": t, "label": y} for t, y in zip(TEXTS, LABELS, strict=True)]
    (root / "all.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "val.tsv").write_text("label\ttext\n" + "".join(f"{r['label']}\t{r['text']}\n" for r in rows[:30]))
    (root / "test.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows[30:]))
    (root / "long.jsonl").write_text(
        "".join(json.dumps({"text": "w1 " * k, "label": "x"}) + "\n" for k in range(70, 80))
    )
    (root / "prompts.txt").write_text("\n".join(TEXTS))
    (root / "story.txt").write_text("\n\n".join(TEXTS))
    save_file({"weight": np.float32(RNG.normal(size=(2, 16))), "bias": np.float32([0.3, 0])}, root / "head.safetensors")
    (root / "judge.py").write_text(
        "def early(texts):\n"
        "    return [sum(w in ('w1', 'w2', 'w3') for w in t.split()) / max(1, len(t.split())) for t in texts]\n"
        "def wrong(texts):\n    return [0.0]\n"
    )
    return root


def described(home, text, name="tasks.yml"):
    path = home / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def model(home, kind, lam=0.5):
    base = tv.load(home / f"{kind}-base")
    return base + lam * (tv.load(home / f"{kind}-tuned") - base)


def eager(home, kind, auto, lam=0.5):
    """The same model by transformers and a dict."""
    base, tuned = (auto.from_pretrained(home / f"{kind}-{n}").eval() for n in ("base", "tuned"))
    other = tuned.state_dict()
    base.load_state_dict(
        {n: p + lam * (other[n] - p) if p.is_floating_point() else p for n, p in base.state_dict().items()}
    )
    return base


def embed(home, net, texts):
    ids = AutoTokenizer.from_pretrained(home / "encoder-base")
    rows = [net(input_ids=torch.tensor([ids(t)["input_ids"]])).last_hidden_state[0].mean(0) for t in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


# ---- classification ------------------------------------------------------------------------------
def test_a_zero_shot_head_is_made_by_the_base_and_frozen(home):
    suite = suite_from(
        described(
            home,
            f"{MOOD} validation: val.tsv, test: test.csv, prompts: {json.dumps(PROMPTS)}}}",
        )
    )
    with torch.no_grad():
        base = eager(home, "encoder", AutoModel, 0)
        rows = torch.stack([embed(home, base, texts).mean(0) for texts in PROMPTS.values()])
        net = eager(home, "encoder", AutoModel)
        for split, at in (("validation", slice(30)), ("test", slice(30, 60))):
            examples = suite.tasks["mood"].listed(split)
            assert {e.text for e in examples} == {*TEXTS[at]}
            best = (
                embed(home, net, [e.text for e in examples]) @ torch.nn.functional.normalize(rows, dim=-1).T
            ).argmax(1)
            wanted = [float([*PROMPTS][k] == e.label) for k, e in zip(best, examples, strict=True)]
            assert suite(model(home, "encoder"), split)["mood"].tolist() == wanted
            assert len({*suite(model(home, "encoder", 0), split)["mood"]}) == 2
    assert len(suite.examples("validation")["mood"]) == 30


def test_a_given_head_and_the_model_s_own(home):
    suite = suite_from(
        described(
            home,
            """
            tasks:
              given: {kind: classification, model: encoder-base, data: all.jsonl, head: head.safetensors,
                      classes: [bad, good], normalise: false, pooling: cls}
              own: {kind: classification, model: classifier-base, validation: val.tsv, test: test.csv}
            """,
        )
    )
    with torch.no_grad():
        ids = AutoTokenizer.from_pretrained(home / "encoder-base")
        net = eager(home, "classifier", AutoModelForSequenceClassification)
        examples = suite.tasks["own"].listed("test")
        assert {e.text for e in examples} == {*TEXTS[30:]}
        best = [net(input_ids=torch.tensor([ids(e.text)["input_ids"]])).logits[0].argmax() for e in examples]
        wanted = [float(["bad", "good"][k] == e.label) for k, e in zip(best, examples, strict=True)]
        assert suite.tasks["own"].scores(model(home, "classifier"), "test", 0, 1)[""].tolist() == wanted
        net, head = eager(home, "encoder", AutoModel), tv.load(home / "head.safetensors")
        first = [net(input_ids=torch.tensor([ids(t)["input_ids"]])).last_hidden_state[0, 0].numpy() for t in TEXTS]
        best = [int(np.argmax(head["weight"] @ e + head["bias"])) for e in first]
        hits = {t: float(["bad", "good"][k] == y) for k, y, t in zip(best, LABELS, TEXTS, strict=True)}
        task = suite.tasks["given"]
        for split in ("validation", "test"):
            texts = [e.text for e in task.listed(split)]
            assert task.scores(model(home, "encoder"), split, 0, 1)[""].tolist() == [hits[t] for t in texts]


HEADED = {
    "lm": None,
    "classifier": None,
    "masked": lambda: BertForMaskedLM(BertConfig(vocab_size=42, max_position_embeddings=32, **TINY)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=42, n_positions=32, n_embd=16, n_layer=2, n_head=2)),
}


@pytest.mark.parametrize("kind", HEADED)
def test_texts_are_embedded_by_the_body_of_a_model_that_has_a_head(home, tmp_path, kind):
    make = HEADED[kind]
    for seed, name in enumerate(("base", "tuned")):
        if make:
            made(make, seed, home / f"{kind}-{name}")
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", f"{kind}-base")
    suite, w = suite_from(described(home, text, "headed.yml")), model(home, kind)
    found = suite(w, "test")["mood"]
    tv.save(w, tmp_path / "out")
    net, task = AutoModel.from_pretrained(tmp_path / "out").eval(), suite.tasks["mood"]
    texts = [e.text for e in task.listed("test")]
    with torch.no_grad():
        ours, theirs = task._embedded(task.live.module, task._ids(texts)), embed(home, net, texts)
        base = AutoModel.from_pretrained(home / f"{kind}-base").eval()
        rows = torch.stack([embed(home, base, texts).mean(0) for texts in PROMPTS.values()])
        best = (theirs @ torch.nn.functional.normalize(rows, dim=-1).T).argmax(1)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert found.tolist() == [float([*PROMPTS][k] == e.label) for k, e in zip(best, task.listed("test"), strict=True)]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is in the module, not in the weights"),
        (lambda t: t.update({"model.extra.weight": np.ones(2, np.float32)}), "model.extra.weight is not in the module"),
        (lambda t: t.update({"v_head.weight": np.ones(2, np.float32)}), "v_head.weight is not in the module"),
        (lambda t: t.update({"norm.weight": np.ones(16, np.float32)}), "norm.weight is not in the module"),
    ],
)
def test_beside_a_body_only_its_own_head_may_stand(home, change, what):
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", "lm-base")
    suite, tensors = suite_from(described(home, text, "headed.yml")), load_file(home / "lm-base" / "model.safetensors")
    del tensors["lm_head.weight"]
    assert len(suite(tv.from_arrays(tensors), "test")["mood"])  # a head may be missing: nothing of it is looked at
    change(tensors)
    with pytest.raises(MismatchError, match=f"- {what}"):
        suite(tv.from_arrays(tensors), "test")


def test_a_model_that_wants_more_than_texts_is_stated(home):
    parts = {"text_config": {"vocab_size": 42, **TINY}, "vision_config": {"image_size": 8, "patch_size": 4, **TINY}}
    made(lambda: CLIPModel(CLIPConfig(projection_dim=8, **parts)), 0, home / "clip-base")
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", "clip-base")
    with pytest.raises(FormatError, match="mood: a CLIPModel gives no states for a text alone"):
        suite_from(described(home, text, "clip.yml"))(tv.load(home / "clip-base"), "test")


def test_one_file_is_dealt_out_by_the_texts_alone(home, tmp_path):
    data = Data(data="all.jsonl")
    sides = {split: [e.text for e in data.examples(split, home)] for split in ("validation", "test")}
    assert not {*sides["validation"]} & {*sides["test"]} and {*sides["validation"], *sides["test"]} == {*TEXTS}
    assert 15 < len(sides["test"]) < 45
    lines = (home / "all.jsonl").read_text().splitlines()
    (tmp_path / "all.jsonl").write_text("\n".join([*lines[::-1], *lines]))  # another order, every text twice
    for split, texts in sides.items():
        assert {e.text for e in data.examples(split, tmp_path)} == {*texts}
        assert len(data.examples(split, tmp_path)) == len(texts)
    assert len(Data(data="all.jsonl", limit=3).examples("test", home)) == 3
    few = Data(data="all.jsonl", share=0.2).examples("validation", home)
    assert {e.text for e in few} < {*sides["validation"]}


def test_parts_of_a_suite_are_the_whole(home):
    suite = suite_from(
        described(
            home,
            f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}",
        )
    )
    w = model(home, "encoder")
    first, rest = suite.part(0, 0.25)(w, "test")["mood"], suite.part(0.25, 1)(w, "test")["mood"]
    assert [*first, *rest] == [*suite(w, "test")["mood"]] and 0 < len(first) < len(rest)


# ---- language models -----------------------------------------------------------------------------
def test_perplexity_is_exp_of_the_mean_loss_over_windows(home):
    suite = suite_from(
        described(home, "model: lm-base\ntasks:\n  ppl: {kind: perplexity, data: story.txt, window: 16}")
    )
    w, ids = model(home, "lm"), AutoTokenizer.from_pretrained(home / "lm-base")
    found = suite(w, "test")
    kept = [t for t in dict.fromkeys(TEXTS) if _side(t) == "test"]
    stream = [k for t in kept for k in (*ids(t)["input_ids"], 1)]
    windows = torch.tensor(stream[: len(stream) // 16 * 16]).view(-1, 16)
    with torch.no_grad():
        net = eager(home, "lm", AutoModelForCausalLM)
        one = {tuple(row.tolist()): net(input_ids=row[None], labels=row[None]).loss.item() for row in windows}
    losses = [one[tuple(map(int, e.text.split()))] for e in suite.tasks["ppl"].listed("test")]
    assert len(losses) == len(windows)
    assert found["ppl_loss"] == pytest.approx(losses, rel=1e-4)
    assert found["ppl"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    assert suite.examples("validation")["ppl"] and not {*suite.examples("validation")["ppl"]} & {
        *suite.examples("test")["ppl"]
    }


def _side(text):
    from taskvec.evals.order import digest, position

    return "validation" if position(digest(text)) < 0.5 else "test"


def test_windows_are_shared_where_their_documents_are(home):
    """Windows that are equal though their documents differ are no leak; a document in both splits is one."""
    (home / "alike.txt").write_text("\n\n".join(f"w1 w2 w3 {'w4 ' * k}".strip() for k in range(1, 60)))
    alike = evaluator_from(described(home, f"{PPL} data: alike.txt, window: 4}}}}"))
    windows = {split: alike.judges.tasks["a"].identities(split) for split in ("validation", "test")}
    assert {*windows["validation"]} & {*windows["test"]}  # "w4 w4 w4 w4" is in both
    assert require_apart(alike).notes({split: alike(model(home, "lm"), split) for split in windows}) == []
    (home / "first.txt").write_text("\n\n".join(["w1 w2", *TEXTS[:20]]))
    (home / "second.txt").write_text("\n\n".join([*TEXTS[40:], TEXTS[3], "w7 w8 w9"]))
    both = f"{PPL} validation: first.txt, test: second.txt, window: 4}}}}"
    leaking = evaluator_from(described(home, both))
    with pytest.raises(
        MismatchError, match=r"Leave these out of one of the two splits:\n  - a: [1-4] of [0-9]+\n  - a_loss"
    ):
        require_apart(leaking)
    (home / "second.txt").write_text("\n\n".join([*TEXTS[40:], "w7 w8 w9"]))
    require_apart(evaluator_from(described(home, both)))


def test_what_is_written_is_scored(home):
    suite = suite_from(
        described(
            home,
            """
            model: lm-base
            batch: 7
            tasks:
              early: {kind: generation, data: prompts.txt, judge: "judge.py:early", threshold: 0.1, tokens: 6}
              drawn: {kind: generation, data: prompts.txt, judge: "judge.py:early", tokens: 6,
                      temperature: 1.0, seeds: [3, 4]}
              mood: {kind: generation, data: prompts.txt, judge: classifier-base, label: good, tokens: 4}
            """,
        )
    )
    w, ids = model(home, "lm"), AutoTokenizer.from_pretrained(home / "lm-base")
    found, prompts = suite(w, "test"), [e.text for e in suite.tasks["early"].listed("test")]
    with torch.no_grad():
        net = eager(home, "lm", AutoModelForCausalLM)
        for k, prompt in enumerate(prompts):
            row = torch.tensor([ids(prompt)["input_ids"]])
            out = net.generate(row, max_new_tokens=6, do_sample=False, pad_token_id=1)[0, row.shape[1] :]
            words = ids.decode(out, skip_special_tokens=True).split()
            score = sum(x in ("w1", "w2", "w3") for x in words) / max(1, len(words))
            assert found["early_score"][k] == pytest.approx(score) and found["early"][k] == (score > 0.1)
    again = suite(w, "test")
    assert again["drawn_score"].tolist() == found["drawn_score"].tolist() != found["early_score"].tolist()
    assert all(0 < p < 1 for p in found["mood_score"])


def test_a_command_gets_a_folder_and_prints_json(home):
    (home / "look.py").write_text(
        "import json, sys\nfrom transformers import AutoModel\n"
        "m = AutoModel.from_pretrained(sys.argv[1])\nprint('loading...')\n"
        "print(json.dumps({'bias': float(m.embeddings.LayerNorm.bias.sum()), 'split': len(sys.argv[2])}))\n"
    )
    run = f"{sys.executable} look.py {{model}} {{split}}"
    suite = suite_from(described(home, f"tasks:\n  mine: {{kind: command, run: '{run}'}}"))
    w = model(home, "encoder")
    found = suite(w, "test")
    assert found["mine_bias"] == pytest.approx(float(w["embeddings.LayerNorm.bias"].sum()), rel=1e-5)
    assert found["mine_split"] == 4 and suite.untold == ["mine"] and suite.part(0, 0.5) is None
    for run, what in (
        ("exit 3 # {model} {split}", "ended with 3"),
        ("echo hello {model} {split} | cut -c1-5", "no JSON but 'hello'"),
    ):
        with pytest.raises(TaskvecError, match=what):
            suite_from(described(home, f"tasks:\n  mine: {{kind: command, run: '{run}'}}", "bad.yml"))(w, "test")


# ---- together ------------------------------------------------------------------------------------
def test_tasks_of_one_model_share_one_module_that_is_loaded_once(home, monkeypatch):
    from taskvec.evals import module

    loaded = []
    monkeypatch.setattr(module, "load_into", lambda m, w: (loaded.append(id(m)), tv.load_into(m, w)))
    suite = suite_from(
        described(
            home,
            f"""
            model: encoder-base
            tasks:
              one: {{kind: classification, data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}
              two: {{kind: classification, data: all.jsonl, head: head.safetensors, classes: [bad, good]}}
            """,
        )
    )
    suite(model(home, "encoder"), "validation")
    suite(model(home, "encoder", 0.7), "validation")
    assert len(loaded) == 2 and len({*loaded}) == 1


def test_scores_and_predictions_of_a_model_are_of_one_pass(home):
    suite = suite_from(described(home, f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}"))
    task, passes = suite.tasks["mood"], []
    predicted = task._predicted
    task._predicted = lambda *args: passes.append(1) or predicted(*args)
    for lam in (0.5, 0.7):
        w = model(home, "encoder", lam)
        hits, best = suite(w, "test")["mood"], suite.predictions(w, "test")["mood"]
        labels = [e.label for e in task.listed("test")]
        assert [[*PROMPTS][k] == y for k, y in zip(best, labels, strict=True)] == hits.astype(bool).tolist()
    assert len(passes) == 2
    suite(w, "validation")
    assert len(passes) == 3  # other examples are another pass


def test_a_search_over_a_file_of_tasks_on_the_command_line(home, run):
    tasks = described(
        home,
        f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}",
        "cli.yml",
    )
    done = run(
        "search", "base + lam*(tuned - base)", f"base={home / 'encoder-base'}", f"tuned={home / 'encoder-tuned'}",
        "--evaluate", tasks, "--knob", "lam=0:1:0.25", "--journal", home / "j.jsonl", "--json",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["test"].keys() == {"base", "chosen"} and not [n for n in found["notes"] if "promise" in n]
    first = json.loads((home / "j.jsonl").read_text().splitlines()[0])
    assert first["evaluator"].startswith("cli.yml (") and first["race"]


def test_coefficients_are_learned_from_a_file_of_tasks(home, run):
    """By entropy and by labels, on the command line and against `learn` with the same batches."""
    tasks = described(
        home, f"{MOOD} data: all.jsonl, batch: 8, scale: 20, prompts: {json.dumps(PROMPTS)}}}", "learn.yml"
    )
    line = (
        "learn", "base + layerwise(tuned - base, 't')",
        f"base={home / 'encoder-base'}", f"tuned={home / 'encoder-tuned'}",
        "--evaluate", tasks, "--steps", "12", "--rate", "0.02",
    )  # fmt: skip
    found = json.loads(run(*line, "--json", "-o", home / "learned").stdout)
    assert found["knobs"].keys() == {"t_0", "t_1", "t_rest"} and len(found["losses"]) == 12
    assert found["test"].keys() == {"base", "chosen"} and (home / "learned" / "config.json").exists()
    labelled = json.loads(run(*line, "--loss", "labels", "--json").stdout)
    assert labelled["knobs"] != found["knobs"] and labelled["losses"] != found["losses"]
    suite = suite_from(tasks)
    module, loss = suite.learned(model(home, "encoder"), labels=False)
    base = tv.load(home / "encoder-base")
    family = base + tv.layerwise(tv.load(home / "encoder-tuned") - base, "t")
    again = tv.learn(family, module, loss, steps=12, rate=0.02)
    assert again.knobs == pytest.approx(found["knobs"], abs=1e-5)
    headed = [part.replace("encoder", "lm") if isinstance(part, str) else part for part in line]
    described(home, Path(tasks).read_text().replace("encoder", "lm"), "learn-lm.yml")
    headed[headed.index(tasks)] = home / "learn-lm.yml"
    found = json.loads(run(*headed, "--json", "-o", home / "learned-lm").stdout)
    assert found["knobs"].keys() == {"t_0", "t_1", "t_rest"} and len(found["losses"]) == 12
    assert "lm_head.weight" in tv.load(home / "learned-lm").specs  # the head goes along, though nothing judged it
    out = run(*line[:4], "--evaluate", described(home, "tasks: {m: {kind: command, run: '{model} {split}'}}", "no.yml"))
    assert out.code == 1 and "must share one model" in out.stderr


def test_a_language_model_learns_from_its_texts(home):
    suite = suite_from(
        described(home, "model: lm-base\ntasks:\n  ppl: {kind: perplexity, data: story.txt, window: 16}")
    )
    module, loss = suite.learned(model(home, "lm"), labels=True)
    base = tv.load(home / "lm-base")
    found = tv.learn(base + tv.knob("lam") * (tv.load(home / "lm-tuned") - base), module, loss, steps=60, rate=0.02)
    ppl = {lam: suite(model(home, "lm", lam), "validation")["ppl"] for lam in (0.3, found.knobs["lam"])}
    assert ppl[found.knobs["lam"]] < ppl[0.3]
    with pytest.raises(RecipeError, match="learns from its texts"):
        suite.learned(model(home, "lm"), labels=False)[1](module, 0)


def test_other_examples_are_another_evaluator(home, tmp_path):
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", f"{home}/encoder-base")
    (tmp_path / "all.jsonl").write_text((home / "all.jsonl").read_text())
    before = evaluator_from(described(tmp_path, text)).text
    assert evaluator_from(described(tmp_path, text)).text == before
    (tmp_path / "all.jsonl").write_text("\n".join((home / "all.jsonl").read_text().splitlines()[1:]))
    assert evaluator_from(described(tmp_path, text)).text != before


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        (f"{TEXTS_OF} dta: all.jsonl}}}}", RecipeError, "no key dta .did you mean data"),
        ("modl: x\ntasks: {a: {kind: command, run: '{model} {split}'}}", RecipeError, "the file: no key modl"),
        ("tasks: {a: {kind: clasification}}", RecipeError, "kind is one of classification, images, perplexity"),
        ("tasks: {a: {kind: perplexty}}", RecipeError, "harness, command, not 'perplexty' .did you mean perplexity"),
        ("tasks: {a: {data: story.txt}}", RecipeError, "harness, command, and none is given"),
        ("tasks: {a: {kind: command}}\n---\ntasks: {}", FormatError, "has 2 documents, .* join them"),
        ("", FormatError, "a file of tasks has tasks"),
        (f"{PPL} data: story.txt, window: big}}}}", RecipeError, "window is a whole number, not 'big'"),
        ("tasks: {a-b: {kind: perplexity}}", RecipeError, "'a-b' is no name for a metric"),
        (f"{PPL} }}}}", RecipeError, "give `data`, which is dealt out, or both"),
        (f"{PPL} data: story.txt, test: story.txt}}}}", RecipeError, "give `data`"),
        ("tasks: {a: {kind: perplexity, data: story.txt}}", RecipeError, "whose architecture"),
        (f"{WRITTEN} }}}}", RecipeError, "who scores"),
        ("tasks: {a: {kind: command, run: 'true'}}", RecipeError, "a command with {model} and {split}"),
        ("tasks: []", FormatError, "a file of tasks has tasks"),
        ("tasks: {a: {kind: [a]}}", RecipeError, "kind is one of classification, .*, not .'a'."),
        ("[" * 20_000, FormatError, "nested too deeply"),
        ("tasks: {a: [", FormatError, "line 1"),
        (f"{TEXTS_OF} data: none.jsonl, prompts: {{x: [w1]}}}}}}", FormatError, "none.jsonl"),
        (f"{TEXTS_OF} data: all.parquet, prompts: {{x: [w1]}}}}}}", FormatError, "all.parquet"),
        ("tasks: {a: {kind: perplexity, model: nowhere, data: story.txt}}", FormatError, "nowhere cannot be opened"),
        (f"{TEXTS_OF} data: all.jsonl, prompts: {{x: w1}}}}}}", RecipeError, "lists of texts"),
        (f"{TEXTS_OF} data: all.jsonl, prompts: {{x: [w1], y: [w2]}}}}}}", MismatchError, "labels that are no class"),
        (f"{PPL} data: story.txt, window: 5000}}}}", FormatError, "fewer than one window"),
        (f"{WRITTEN} judge: 'judge.py:wrong'}}}}", TaskvecError, "a number for each of 29 texts, not .1."),
        (f"{WRITTEN} judge: classifier-base, label: x}}}}", RecipeError, "classes .bad, good., not 'x'"),
        (
            f"{HEADS_OF} classes: [bad, good, ugly]}}}}",
            MismatchError,
            "3 classes .bad, good, ugly., and the head has 2",
        ),
        (f"{HEADS_OF} classes: [good, bad, good]}}}}", RecipeError, "every class stands once, and good does not"),
        (f"{HEADS_OF} classes: [no, yes]}}}}", RecipeError, "put classes in quotes .a class is false"),
        (f"{HEADS_OF} classes: [bad, good], max_tokens: 0}}}}", RecipeError, "max_tokens is at least 1"),
        (f"{HEADS_OF} classes: [bad, good], dtype: float99}}}}", RecipeError, "dtype is one of auto, float32"),
        (f"{HEADS_OF} classes: [bad, good], device: banana}}}}", RecipeError, "device: banana cannot be used"),
        (f"{HEADS_OF} classes: [bad, good], label_column: y}}}}", MismatchError, "an example without a label"),
        (f"{HEADS_OF} scale: .nan}}}}", RecipeError, "scale is a number, not nan"),
        (
            f"{TEXTS_OF} data: all.jsonl, prompts: {{x: [w1]}}, classes: [y]}}}}",
            RecipeError,
            "prompts name the classes",
        ),
        (f"{TEXTS_OF} data: all.jsonl, prompts: {{x: ['']}}}}}}", FormatError, "the tokenizer makes no token of ''"),
        (
            f"{TEXTS_OF} data: long.jsonl, max_tokens: 99, prompts: {{x: [w1]}}}}}}",
            RecipeError,
            "a text has 7. tokens, and the model has 32 positions: shorten texts .max_tokens: 32.",
        ),
        (f"{PPL} data: all.jsonl, text_column: body}}}}", FormatError, "no text under 'body'; there is text, label"),
        (
            f"{PPL.replace('lm-base', 'classifier-base')} data: story.txt, window: 8}}}}",
            FormatError,
            "no weights for a causal",
        ),
        (f"{WRITTEN} judge: 'judge.py:early', chat: true}}}}", RecipeError, "lm-base has no chat template"),
        ("tasks: {a: {kind: command, run: '{model} {split}', timeout: -1}}", RecipeError, "seconds above 0, not -1"),
        ("tasks: {class: {kind: command}}", RecipeError, "no word of Python"),
        (
            f"{PPL} data: story.txt, window: 8}}, a_loss: {{kind: command, run: 'echo 1 # {{model}} {{split}}'}}}}",
            RecipeError,
            "two tasks give the metric a_loss: rename a_loss",
        ),
        (
            "tasks: {a: {kind: classification, model: lm-base, data: all.jsonl}}",
            FormatError,
            "no weights for a classifier",
        ),
    ],
)
def test_what_is_wrong_with_a_file_of_tasks_is_stated(home, text, error, what):
    kind = "lm" if "lm-base" in text else "encoder"
    with pytest.raises(error, match=what):
        evaluator_from(described(home, text, "wrong.yml"))(model(home, kind), "validation")


def test_logits_that_are_no_numbers_are_no_answers(home):
    """The highest of several NaN would be the first class, and the likeliest token the first one."""
    zero_shot = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}"
    written = f"{WRITTEN} judge: 'judge.py:early', tokens: 2}}}}"
    for text, kind, norm in (
        (zero_shot, "encoder", "encoder.layer.1.output.LayerNorm.weight"), (written, "lm", "model.norm.weight"),
    ):  # fmt: skip
        tensors = load_file(home / f"{kind}-base" / "model.safetensors")
        tensors[norm] = np.full_like(tensors[norm], 3e38)  # a number, but not what is computed with it
        with pytest.raises(NonFiniteError, match="logits"):
            suite_from(described(home, text, "nan.yml"))(tv.from_arrays(tensors), "validation")


def test_what_sees_the_tokens_to_come_has_no_perplexity(home):
    config = BertConfig(vocab_size=42, max_position_embeddings=32, **TINY)
    for decoder in (True, False):
        config.is_decoder = decoder
        made(lambda: BertForMaskedLM(config), 0, home / "masked-lm")
        suite = suite_from(
            described(home, "tasks: {a: {kind: perplexity, model: masked-lm, data: story.txt, window: 8}}")
        )
        if decoder:
            assert suite(tv.load(home / "masked-lm"), "test")["a"] > 1
        else:
            with pytest.raises(FormatError, match="masked-lm is no causal language model: a BertLMHeadModel sees"):
                suite(tv.load(home / "masked-lm"), "test")


def test_a_folder_without_a_tokenizer_is_stated(home):
    """transformers would make one that knows no word."""
    shutil.copytree(home / "encoder-base", home / "wordless")
    for file in (home / "wordless").glob("tokenizer*"):
        file.unlink()
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", "wordless")
    with pytest.raises(FormatError, match="wordless has no tokenizer"):
        suite_from(described(home, text, "wordless.yml"))(model(home, "encoder"), "test")


def test_a_search_does_not_make_a_perplexity_large_unasked(home):
    """Of the mean of all metrics, the objective unless one is given, the worst model would be the best."""
    tasks = described(home, f"{PPL} data: story.txt, window: 16}}}}", "large.yml")
    base = tv.load(home / "lm-base")
    family = base + tv.knob("lam") * (tv.load(home / "lm-tuned") - base)
    with pytest.raises(RecipeError, match="of a, a_loss less is better: say what counts"):
        tv.search(family, tasks, {"lam": [0, 0.5]})
    assert tv.search(family, tasks, {"lam": [0.5]}).chosen  # one candidate: nothing is chosen by it
    found = tv.search(family, tasks, {"lam": [0, 0.5]}, objective="a_loss", minimise=True)
    suite = suite_from(tasks)
    losses = {lam: suite(model(home, "lm", lam), "validation")["a"] for lam in (0, 0.5)}
    assert found.chosen.knobs["lam"] == min(losses, key=losses.get)


def test_all_mistakes_of_a_file_are_told_at_once(home):
    with pytest.raises(RecipeError) as caught:
        suite_from(
            described(
                home, "model: x\ntasks: {a: {kind: x}, b: {kind: command, timeout: 1, windw: 3}, c: 4}", "wrong.yml"
            )
        )
    assert all(part in str(caught.value) for part in ("a: kind", "b: no key windw", "c: a task is"))
    assert "the file" not in str(caught.value)  # `model` may well be of the task that could not be read


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', "line 2: no text under 'text'; there is txt"),
        ("a.jsonl", '{"text": "x"}\nnope\n', "line 2: no JSON"),
        ("a.jsonl", "[1]\n", "line 1: no JSON .it is no object"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "line 1: no JSON"),
        ("a.csv", "txt,label\nx,y\n", "line 2: no text under 'text'; there is txt, label"),
    ],
)
def test_what_is_wrong_with_data_is_stated_with_its_line(tmp_path, name, content, what):
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=what):
        [*read(Path(tmp_path / name))]


def test_what_is_no_text_file_is_stated(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    for name, what in (("/dev/zero", "is no regular file"), ("a\0.txt", "null byte")):
        with pytest.raises(FormatError, match=what):
            [*read(tmp_path / name)]
    for reader in (read, paragraphs):
        with pytest.raises(FormatError, match=r"a.txt is no UTF-8 text"):
            [*reader(tmp_path / "a.txt")]


# ---- lm-evaluation-harness, where it is installed ------------------------------------------------
@pytest.mark.slow
def test_a_task_of_the_harness_on_the_live_module(home):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = home / "own"
    folder.mkdir()
    rows = [{"q": text, "options": ["w1 w2", "w3", "w30"], "gold": k % 3} for k, text in enumerate(TEXTS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pick.yaml").write_text(
        textwrap.dedent(f"""
        task: pick
        dataset_path: json
        dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
        test_split: test
        output_type: multiple_choice
        doc_to_text: "{{{{q}}}}"
        doc_to_choice: options
        doc_to_target: gold
        metric_list: [{{metric: acc}}]
        """)
    )
    suite = suite_from(
        described(home, "model: lm-base\ntasks:\n  pick: {kind: harness, task: pick, tasks: own, dtype: float32}")
    )
    w = model(home, "lm")
    found = {split: suite(w, split)["pick"] for split in ("validation", "test")}
    net = HFLM(
        pretrained=eager(home, "lm", AutoModelForCausalLM), tokenizer=AutoTokenizer.from_pretrained(home / "lm-base")
    )
    whole = simple_evaluate(
        model=net,
        tasks=["pick"],
        log_samples=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder)),
    )
    wanted = {s["doc_id"]: s["acc"] for s in whole["samples"]["pick"]}
    places = {split: [place for _, place in suite.tasks["pick"]._dealt[split]] for split in found}
    assert {*places["validation"], *places["test"]} == {*range(60)} and not {*places["validation"]} & {*places["test"]}
    assert all(found[split] == [wanted[k] for k in places[split]] for split in found)
    parts = [suite.part(*ends)(w, "test")["pick"] for ends in ((0, 0.25), (0.25, 1))]
    assert parts[0] + parts[1] == found["test"]
    for text, what in (
        ("kind: harness, task: nope, model: lm-base", "no task nope"),
        ("kind: harness, task: pick, tasks: own, metric: f1, model: lm-base", "has no number f1"),
    ):
        with pytest.raises(TaskvecError, match=what):
            suite_from(described(home, f"tasks: {{a: {{{text}}}}}", "wrong.yml"))(w, "test")
