"""What applies a pure function of arrays to Weights: its calls, what they compute, and what is measured before that.

method.py      what a method is, as data: the function, what it may be given, what it costs
lift.py        what makes a method callable on Weights, and @method for a function of your own
roles.py       what a method's parameters mean: what is measured together, what a row is, whether there is a scale
call.py        one call: its arguments, its parameters and the memory that it needs
reading.py     the values of a call's arguments
measurement.py what a method asks of its arguments before it can work
applied.py     what a call computes, range by range
passes.py      passes over the data: Gram matrices, sums over pairs, scales
pairs.py       dot products and conflicts of signs, of pairs of vectors
ranks.py       which magnitudes are asked for by their rank, and how they are read off counts
counting.py    counts of magnitudes, streamed
thresholds.py  the magnitude of a given rank, exact; which of the entries equal to it are within the rank
lanes.py       rows and columns that have coefficients of their own
draws.py       random numbers with a key
singular.py    singular values and vectors of large matrices, in blocks
blas.py        one thread for matrix products, so that their bits do not depend on the number of cores
proof.py       whether a user's own function is the one of an earlier run
"""
