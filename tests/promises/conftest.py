"""What the tests of bad input share: two models, and a check of what a user sees when a command is refused."""

import pytest


@pytest.fixture
def world(tmp_path, build):
    """base/ and math/, two models of the same shapes."""
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "math", build.tensors(1), shards=2)
    return tmp_path


@pytest.fixture
def refused(world, run, build):
    """refused(*words, says=...) asserts that a command fails with `code`, says all of `says` in one message (of so many
    `lines`), and leaves every file as it was."""

    def check(*arguments, says=(), code=1, lines=None, **options):
        before = build.contents(world)
        done = run(*arguments, **options)
        assert (done.code, done.stdout) == (code, ""), done
        assert "Traceback" not in done.stderr
        if code == 1:
            first, *rest = done.stderr.splitlines()
            assert first.startswith("error: ") and all(line.startswith("  ") for line in rest), done.stderr
            assert done.stderr.count("error: ") == 1
        for text in [says] if isinstance(says, str) else says:
            assert text in done.stderr
        if lines is not None:
            assert len(done.stderr.splitlines()) == lines
        assert build.contents(world) == before
        assert not [p for p in world.iterdir() if "out" in p.name]
        return done

    return check
