"""Statistics against their equations: Fisher information against its closed form, Gram matrices against X^T X."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import taskvec as tv

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from small_statistics import X, by_name, computed, mlp, stored  # noqa: E402

Y = torch.tensor([0, 2, 1, 1, 0, 2, 2])


# ---- Fisher information ---------------------------------------------------------------------------
def test_fisher_of_softmax_regression_is_its_closed_form(tmp_path):
    """F_W[c, j] = E p_c (1 - p_c) x_j^2, F_b[c] = E p_c (1 - p_c)."""
    module = nn.Sequential(nn.Linear(4, 3)).eval()
    fisher, _ = computed(module, tmp_path, "fisher")
    p = torch.softmax(module(X), -1).detach().double().numpy()
    spread = p * (1 - p)
    wanted = np.einsum("nc,nj->cj", spread, X.double().numpy() ** 2) / len(X)
    np.testing.assert_allclose(fisher["0.weight"], wanted, rtol=1e-5)
    np.testing.assert_allclose(fisher["0.bias"], spread.mean(0), rtol=1e-5)


@pytest.mark.parametrize("labels", ["exact", "given"])
def test_fisher_of_a_network_is_the_mean_of_squared_gradients(tmp_path, labels):
    module = mlp()
    fisher, _ = computed(module, tmp_path, "fisher", by_name(y=Y), labels=labels)
    wanted = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for x, y in zip(X, Y, strict=True):
        p = torch.softmax(module(x), -1).detach()
        for c in range(3) if labels == "exact" else [int(y)]:
            module.zero_grad()
            torch.log_softmax(module(x), -1)[c].backward()
            for name, q in module.named_parameters():
                wanted[name] += (p[c] if labels == "exact" else 1) * q.grad**2 / len(X)
    assert fisher.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(fisher[name], wanted[name], rtol=1e-4, atol=1e-9)


def test_sampled_labels_have_the_exact_expectation_and_a_seed(tmp_path):
    module, many = mlp(), X[:1].expand(2000, 4)
    exact, _ = computed(module, tmp_path, "fisher", by_name(X[:1]))
    sampled, _ = computed(module, tmp_path, "fisher", by_name(many, size=500), labels="sampled")
    for name in exact:
        np.testing.assert_allclose(sampled[name], exact[name], rtol=0.1, atol=1e-6)
    draws = {"labels": "sampled", "examples": 50}
    one, two = (computed(module, tmp_path, "fisher", by_name(many, size=k), **draws)[0] for k in (50, 7))
    other, _ = computed(module, tmp_path, "fisher", by_name(many, size=50), **draws, seed=1)
    assert np.array_equal(one["2.bias"], two["2.bias"]) and not np.array_equal(one["2.bias"], other["2.bias"])


# ---- Gram matrices --------------------------------------------------------------------------------
def test_gram_is_x_transposed_x_of_every_linear_layer(tmp_path):
    module = mlp()
    gram, _ = computed(module, tmp_path, "gram")
    inner = torch.tanh(module[0](X)).detach().double().numpy()
    np.testing.assert_allclose(gram["0.weight"], X.double().T @ X.double(), rtol=1e-5)
    np.testing.assert_allclose(gram["2.weight"], inner.T @ inner, rtol=1e-5)
    assert gram.keys() == {"0.weight", "2.weight"}


def test_gram_leaves_out_what_the_mask_hides_and_layers_that_nothing_reached(tmp_path):
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x, attention_mask):
            return self.used(x)

    module = Spare().eval()
    x = X[:6].reshape(2, 3, 4)
    batch = {"x": x, "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    saved = tv.stats(
        stored(module, tmp_path / "m"), lambda _: (module, [batch]), tmp_path / "g.safetensors", kind="gram"
    )
    kept = torch.stack([x[0, 0], x[0, 1], x[1, 0]])
    gram = load_file(tmp_path / "g.safetensors")
    np.testing.assert_allclose(gram["used.weight"], kept.T @ kept, rtol=1e-5)
    assert gram.keys() == {"used.weight"} and saved.unreached == ("spare.weight",)
    module(**batch)  # the hooks are gone
    assert not module.used._forward_pre_hooks


# ---- models of transformers, from the command line --------------------------------------------------
TINY = """
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

IDS = torch.arange(1, 13).reshape(3, 4)


def classifier(path):
    module = AutoModelForSequenceClassification.from_pretrained(path).eval()
    return module, [{"input_ids": IDS[:2]}, {"input_ids": IDS[2:]}]


def stories(path, padding=2):
    module = AutoModelForCausalLM.from_pretrained(path).eval()
    ids = torch.nn.functional.pad(IDS, (0, padding))
    mask = torch.nn.functional.pad(torch.ones_like(IDS), (0, padding))
    following = torch.nn.functional.pad(IDS[:, 1:], (0, padding + 1), value=-100)
    return module, [{"input_ids": ids, "attention_mask": mask, "use_cache": False}]


def unpadded(path):
    return stories(path, padding=0)


def with_targets(path):
    module, batches = stories(path)
    following = torch.nn.functional.pad(IDS[:, 1:], (0, 3), value=-100)
    return module, [batch | {"targets": following} for batch in batches]
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A BERT that classifies and a GPT-2, both tiny and as transformers saves them, twice each."""
    transformers = pytest.importorskip("transformers")
    home = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertConfig(vocab_size=20, num_labels=3, max_position_embeddings=16, **sizes)
    gpt = transformers.GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    for seed in range(2):
        torch.manual_seed(seed)
        transformers.BertForSequenceClassification(bert).save_pretrained(home / f"bert{seed}")
        transformers.GPT2LMHeadModel(gpt).save_pretrained(home / f"gpt{seed}")
    (home / "data.py").write_text(TINY)
    return home


def test_a_classifier_of_transformers_from_end_to_end(tiny, command, run):
    for seed in range(2):
        for kind in ("fisher", "gram"):
            words = ("--data", "data.py:classifier", "--kind", kind, "-o", f"{kind}{seed}.safetensors")
            said = command("stats", f"bert{seed}", *words, folder=tiny)
            assert said.code == 0 and f"{kind} statistics of" in said.stdout and "over 3 examples" in said.stdout
    words = ("--data", "data.py:classifier", "--kind", "gram", "-o", "again.safetensors", "--json")
    said = run("stats", "bert0", *words, cwd=tiny)  # in a process of its own
    assert said.code == 0 and json.loads(said.stdout)["kind"] == "gram"
    assert (tiny / "again.safetensors").read_bytes() == (tiny / "gram0.safetensors").read_bytes()
    shown = command("show", "fisher0.safetensors", folder=tiny).stdout
    for text in ("fisher statistics, which only methods take (mass 0)", "examples     3", "labels       exact", "norm"):
        assert text in shown
    assert "all" in command("verify", "gram0.safetensors", folder=tiny).stdout
    assert "fisher statistics of model" in command("log", "fisher0.safetensors", folder=tiny).stdout
    sources = ["a=bert0", "b=bert1", "fa=fisher0.safetensors", "fb=fisher1.safetensors"]
    assert command("merge", "fisher(a, b, fa, fb)", *sources, "-o", "f", folder=tiny).code == 0
    assert "fisher statistics fisher0.safetensors" in command("log", "f", folder=tiny).stdout
    sources = ["a=bert0", "b=bert1", "ga=gram0.safetensors", "gb=gram1.safetensors"]
    assert command("merge", "regmean(a, b, ga, gb)", *sources, "-o", "r", folder=tiny).code == 0
    one, two, out = (load_file(tiny / n / "model.safetensors") for n in ("bert0", "bert1", "r"))
    g = [load_file(tiny / f"gram{k}.safetensors")["classifier.weight"].astype("f8") for k in range(2)]
    g = [0.9 * x + 0.1 * np.diag(np.diag(x)) for x in g]
    wanted = np.linalg.solve(sum(g), g[0] @ one["classifier.weight"].T + g[1] @ two["classifier.weight"].T).T
    np.testing.assert_allclose(out["classifier.weight"], wanted, rtol=1e-4, atol=1e-6)


def test_a_language_model_with_padding(tiny, command, tmp_path):
    def stats(data, kind, *more):
        path = tmp_path / f"{data}-{kind}.safetensors"
        said = command("stats", "gpt0", "--data", f"data.py:{data}", "--kind", kind, "-o", path, *more, folder=tiny)
        assert said.code == 0, said.stderr
        return load_file(path), next(iter(tv.load(path).terms)).metadata

    (padded, about), (plain, _) = stats("stories", "gram"), stats("unpadded", "gram")
    assert padded.keys() == plain.keys() and "lm_head.weight" not in padded
    for name in plain:
        np.testing.assert_allclose(padded[name], plain[name], rtol=1e-4, atol=1e-6)
    assert "transformer.h.0.mlp.c_proj.weight" in json.loads(about["taskvec.transposed"])
    assert padded["transformer.h.0.mlp.c_proj.weight"].shape == (32, 32)
    (padded, _), (plain, _) = (stats(d, "fisher", "--labels", "sampled") for d in ("stories", "unpadded"))
    for name in plain:
        np.testing.assert_allclose(padded[name], plain[name], rtol=1e-3, atol=1e-8)
    given, _ = stats("with_targets", "fisher", "--labels", "given")
    module = __import__("transformers").AutoModelForCausalLM.from_pretrained(tiny / "gpt0").eval()
    wanted = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for ids in torch.arange(1, 13).reshape(3, 1, 4):
        module.zero_grad()
        (3 * module(input_ids=ids, labels=ids).loss).backward()  # its mean over the three next tokens
        for name, p in module.named_parameters():
            wanted[name] += p.grad**2 / 3
    for name in wanted:
        np.testing.assert_allclose(given[name], wanted[name], rtol=1e-3, atol=1e-7)


def test_regmean_keeps_to_the_layout_of_conv1d(tiny, command, tmp_path):
    for seed in range(2):
        words = ["--data", "data.py:stories", "--kind", "gram", "-o", tmp_path / f"g{seed}.safetensors"]
        assert command("stats", f"gpt{seed}", *words, folder=tiny).code == 0
    sources = ["a=gpt0", "b=gpt1", f"ga={tmp_path / 'g0.safetensors'}", f"gb={tmp_path / 'g1.safetensors'}"]
    said = command("merge", "regmean(a, b, ga, gb, alpha=0.5)", *sources, "-o", tmp_path / "out", folder=tiny)
    assert said.code == 0, said.stderr
    one, two, out = (load_file(p / "model.safetensors") for p in (tiny / "gpt0", tiny / "gpt1", tmp_path / "out"))
    for name in ("transformer.h.0.attn.c_proj.weight", "transformer.h.0.mlp.c_fc.weight"):  # the first is square
        g = [load_file(tmp_path / f"g{k}.safetensors")[name].astype("f8") for k in range(2)]
        g = [0.5 * x + 0.5 * np.diag(np.diag(x)) for x in g]
        wanted = np.linalg.solve(sum(g), g[0] @ one[name] + g[1] @ two[name])
        np.testing.assert_allclose(out[name], wanted, rtol=1e-3, atol=1e-5)
