"""Numbers in files and in memory: their dtypes, and the arithmetic on them, in C and in numpy.

dtypes.py      the dtypes of the safetensors format, and which of them can be summed
operations.py  what kernels can do to a tile, as data; the protocol `Kernels` that every implementation has
kernels.py     decode, scale, sum, encode on raw buffers, by the fastest implementation that is there
compiled.py    the kernels in C: _kernels.c, with _tiles.h, _rows.h, _random.h
in_numpy.py    the same bits in numpy, for machines without a compiler
floats.py      floating-point dtypes in numpy: decode, encode
rationals.py   exact rational numbers: 0.1 is 1/10
"""
