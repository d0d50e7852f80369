"""The comparison of BatchNorm's statistics, on a tiny network of pictures, and the experiments on such a suite."""

import pytest
import torch

from lab.tiny_images import tiny_image_suite
from taskvec.evals.texts import read
from taskvec.lab.batchnorm import averaged, change, measured
from taskvec.lab.experiments.batchnorm import ANEW, AVERAGE, AVERAGED, BASE, KEPT, REPAIRED, SUM
from taskvec.lab.run import run
from taskvec.lab.suite import suite_from


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Both experiments with one seed; the suite, the run, and where everything is."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("pictures")
    suite = tiny_image_suite(home / "suite")
    return suite, run(["negation", "addition"], suite, 1, home / "out", home / "cache"), home


def comparison(result):
    (table,) = [t for t in result.findings[1].tables if "BatchNorm" in t.title]
    return {row[:2]: row[2:] for row in table.rows}


def test_every_model_has_a_row_for_each_answer(done):
    rows = comparison(done[1])
    assert list(rows) == [
        (BASE, KEPT), (BASE, ANEW), (SUM, KEPT), (SUM, AVERAGED), (SUM, ANEW), (SUM, REPAIRED), (AVERAGE, KEPT),
        (AVERAGE, AVERAGED), (AVERAGE, ANEW), (AVERAGE, REPAIRED),
    ]  # fmt: skip
    assert any("statistics" in claim.claim for claim in done[1].findings[1].claims)


def test_the_kept_answers_are_those_of_the_table_of_all_tasks(done):
    whole = {row[0]: row[1] for row in done[1].findings[1].tables[0].rows}
    rows = comparison(done[1])
    assert rows[BASE, KEPT][0] == whole["pre-trained"] and rows[AVERAGE, KEPT][0] == whole[AVERAGE]


def test_the_averaged_answer_is_what_its_words_say(done, tmp_path):
    """The mean of the models with the mean of the statistics of each fine-tuned model, by hand."""
    from taskvec.lab.bench import Bench

    suite, result, home = done
    bench = Bench(suite, range(1), tmp_path / "out", home / "cache")
    tasks, base = suite.tasks, bench.base
    each = [
        measured(base + bench.vector(t, 0), [(bench.tasks.tasks[t], [*read(bench.data[t].file("train"))][:100])])
        for t in tasks
    ]
    first, second, third = (bench.vector(t, 0) for t in tasks)
    middle = base + (first + second + third) / 3
    model = middle + change(base, averaged(each), "averaged")
    accuracy = sum(bench.means(model, tasks, "test").values()) / 3
    assert comparison(result)[AVERAGE, AVERAGED][0].mean == pytest.approx(accuracy, abs=1e-9)
    assert not bench.vectors.trained


def test_a_vector_has_no_statistics_and_the_base_keeps_its_own(done):
    import taskvec as tv

    vectors = [tv.load(path) for path in (done[2] / "cache" / "vectors").glob("*.safetensors")]
    assert vectors and not any("running" in name or "num_batches" in name for v in vectors for name in v.specs)
    assert any(name.endswith("_bn0.weight") for name in vectors[0].specs), "its weights and biases are trained"


def test_the_same_command_again_computes_nothing(done):
    suite, result, home = done
    again = run(["negation", "addition"], suite, 1, home / "out", home / "cache")
    assert again.findings == result.findings and not again.trained


def test_fine_tuning_on_pictures_learns(done):
    table = done[1].findings[0].tables[0]
    accuracy = {row[0]: row[1].mean for row in table.rows}
    assert accuracy["fine-tuned"] > accuracy["pre-trained"] > accuracy["gradient ascent"]


def test_a_part_takes_its_prototypes_from_another_task(done):
    from taskvec.lab.bench import Bench

    suite, _, home = done
    bench = Bench(suite, range(1), home / "out", home / "cache")
    part, whole = bench.tasks.tasks["half"], bench.tasks.tasks["bars"]
    assert part.names == whole.names == ["upright", "lying"]
    assert torch.equal(part._head[1], whole._head[1])
    assert {e.label for e in part.listed("test")} == {"upright"}


def test_the_suite_that_comes_with_taskvec_can_be_read():
    suite = suite_from("image")
    assert suite.tasks == ["mnist", "fashion", "digits", "animals", "letters", "emoji"]
    assert suite.controls == ["font_digits", "small_letters"]
    assert len(suite.specs["letters"].labels) == len(suite.specs["small_letters"].labels) == 26
    assert all(isinstance(label, str) for spec in suite.specs.values() for label in spec.descriptions)
