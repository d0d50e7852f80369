"""The pass over the data: progress, what is kept of an interrupted run, and what is not finite."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import NonFiniteError
from taskvec.saving import plan as planning

N = 300_000


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(planning, "BLOCKS", (planning.PIECE,))


def model(name, value, **more):
    arrays = {f"h.{k}.w": np.full(N, value + k, np.float32) for k in range(3)} | more
    return tv.from_arrays({n: a.copy() for n, a in arrays.items()}, name)


A, B = model("a", 1), model("b", 3)


def test_progress_grows_to_the_end_and_ends_once(tmp_path):
    told = []
    tv.save(0.5 * A + 0.5 * B, tmp_path / "o.safetensors", durable=False, threads=1, progress=lambda *d: told.append(d))
    total = 3 * 4 * N
    assert told[-1] == (total, total) and {t for _, t in told} == {total}
    done = [d for d, _ in told]
    assert done == sorted(done) and {*done} >= {planning.PIECE, 4 * N, 8 * N}
    assert len({*done} - {0}) == -(-4 * N // planning.PIECE) * 3


def test_progress_counts_what_is_measured_too(tmp_path):
    told = []
    w = A + tv.ties(B - A, density=0.5)
    tv.save(w, tmp_path / "o.safetensors", durable=False, progress=lambda *now: told.append(now))
    (total,) = {t for _, t in told}
    assert total > 3 * 4 * N and told[-1] == (total, total) and [d for d, _ in told] == sorted(d for d, _ in told)


@pytest.mark.parametrize("durable", [False, True])
def test_what_an_interrupted_run_has_done_is_kept_and_the_rest_is_made(tmp_path, durable):
    w, out = 0.5 * A + 0.5 * B, tmp_path / "o.safetensors"

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tv.save(w, out, durable=durable, threads=1, progress=stop)
    assert not out.exists() and (tmp_path / ".o.safetensors.taskvec").exists()
    found = tv.save(w, out, durable=durable)
    assert 6 * N < found.reused < 12 * N and not (tmp_path / ".o.safetensors.taskvec").exists()
    tv.save(w, tmp_path / "again.safetensors", durable=False)
    assert out.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert tv.save(w, tmp_path / "again.safetensors", durable=False, overwrite=True).reused == 0


def test_a_block_that_is_not_what_the_journal_says_is_made_again(tmp_path):
    w, out = 0.5 * A + 0.5 * B, tmp_path / "o.safetensors"

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tv.save(w, out, durable=False, threads=1, progress=stop)
    (staged,) = (tmp_path / ".o.safetensors.taskvec" / "files").iterdir()
    with staged.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff\xff")
    found = tv.save(w, out, durable=False)
    assert found.reused > 0 and found.reused % 4 == 0
    assert all((tv.load(out)[n] == w[n]).all() for n in w) and tv.verify(str(out)).tensors == 3


BAD = {
    "one source": (lambda x: x + np.where(np.arange(N) == N - 1, np.nan, 0), "h.1.w has NaN or Inf in c"),
    "infinity": (lambda x: np.where(np.arange(N) == 7, np.inf, x), "h.1.w has NaN or Inf in c"),
}


@pytest.mark.parametrize("kind", BAD)
def test_every_tensor_that_is_not_finite_is_named_with_its_source(tmp_path, kind):
    spoil, says = BAD[kind]
    more = {n: spoil(B[n]).astype(np.float32) for n in ("h.1.w", "h.2.w")}
    w = 0.5 * A + 0.5 * model("c", 3, **more)
    with pytest.raises(NonFiniteError) as told:
        tv.save(w, tmp_path / "o.safetensors", durable=False)
    assert [*told.value.problems] == [says, says.replace("h.1", "h.2")]
    assert not [*tmp_path.iterdir()]
    found = tv.save(w, tmp_path / "o.safetensors", durable=False, allow_nonfinite=True)
    assert found.nonfinite == ("h.1.w", "h.2.w") and not np.isfinite(tv.load(found.path)["h.1.w"]).all()


def test_what_the_output_cannot_hold_is_an_overflow(tmp_path):
    w = 0.5 * A + 0.5 * model("c", 3, **{"h.0.w": np.full(N, 1e6, np.float32)})
    with pytest.raises(NonFiniteError) as told:
        tv.save(w, tmp_path / "o.safetensors", durable=False, dtype="float16")
    assert [*told.value.problems] == ["h.0.w overflows F16"]
