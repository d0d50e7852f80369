"""Numbers as they lie in files and memory: their dtypes, and the arithmetic on them, in C and in numpy.

dtypes.py      what the safetensors format can hold, and what can be summed
operations.py  what kernels can do to a tile, as data: sums, and what methods keep, drop, elect and count
kernels.py     decode, scale, sum, encode on raw buffers; compiled in _kernels.c, with _tiles.h, _rows.h, _random.h
in_numpy.py    the same bits in numpy
floats.py      floating-point dtypes in numpy: decode, encode
rationals.py   exact rational numbers: 0.1 is 1/10
"""
