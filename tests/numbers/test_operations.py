"""An operation is data: what it reads, what it is told and what it fills, by name and by place."""

import pickle

from taskvec.numbers.operations import COUNT, NAMES, RESULT, SUM, TILE, WINDOW, Op


def test_an_operation_needs_no_numbers_and_no_sink():
    op = Op(SUM, (0, ~1))
    assert (op.code, op.sources, op.numbers, op.sink) == (0, (0, -2), (), None)
    assert tuple(op) == (SUM, (0, ~1), (), None) and op == Op(sources=(0, ~1), code=SUM)


def test_an_operation_travels_to_another_process():
    op = Op(COUNT, (1,), (-1.0, 1.0), bytearray(4))
    assert pickle.loads(pickle.dumps(op)) == op


def test_a_result_is_a_tile_of_float32_and_a_window_holds_whole_tiles():
    assert RESULT == 4 * TILE and WINDOW % (8 * TILE) == 0


def test_every_operation_has_a_name_of_its_own():
    assert len({*NAMES}) == len(NAMES) == 12
