"""Tasks of lm-evaluation-harness, where it is installed."""

import json
import textwrap

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from evals.tiny import (
    TEXTS,
    described,
    eager,
    model,
)
from taskvec.errors import RecipeError, TaskvecError
from taskvec.evals.harness import Harness
from taskvec.evals.suite import suite_from


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
    scores = {split: suite(w, split)["pick"] for split in ("validation", "test")}
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
    places = {split: [place for _, place in suite.tasks["pick"]._dealt[split]] for split in scores}
    assert {*places["validation"], *places["test"]} == {*range(60)} and not {*places["validation"]} & {*places["test"]}
    assert all(scores[split] == [wanted[k] for k in places[split]] for split in scores)
    parts = [suite.part(*ends)(w, "test")["pick"] for ends in ((0, 0.25), (0.25, 1))]
    assert parts[0] + parts[1] == scores["test"]
    for text, what in (
        ("kind: harness, task: nope, model: lm-base", "no task nope"),
        ("kind: harness, task: pick, tasks: own, metric: f1, model: lm-base", "has no number f1"),
    ):
        with pytest.raises(TaskvecError, match=what):
            suite_from(described(home, f"tasks: {{a: {{{text}}}}}", "wrong.yml"))(w, "test")


def _logged(*filters):
    return [{"doc_id": k, "filter": f, "metrics": ["acc"], "acc": k % 2} for f in filters for k in range(4)]


def test_of_several_filters_one_is_named():
    """The harness logs each document once for each filter, such as a strict and a flexible reading of an answer."""
    plain = Harness(task="pick")
    assert plain._numbers(_logged("none"), [3, 0]) == [1, 0]
    both = [*_logged("strict"), *({**s, "acc": 7} for s in _logged("flexible"))]
    with pytest.raises(RecipeError, match='several filters, so metric is one of "acc,strict", "acc,flexible"'):
        plain._numbers(both, [0])
    for name, wanted in (("strict", [1, 0]), ("flexible", [7, 7])):
        assert Harness(task="pick", metric=f"acc,{name}")._numbers(both, [3, 0]) == wanted
    with pytest.raises(RecipeError, match="pick has no number f1 for a document; it has acc"):
        Harness(task="pick", metric="f1")._numbers(_logged("none"), [0])
