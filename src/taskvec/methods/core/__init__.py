"""What lifts a pure function of arrays to Weights: calls, what they compute, and what is measured before.

lift.py        ?
call.py        ?
applied.py     ?
passes.py      ?
counting.py    ?
thresholds.py  ?
draws.py       ?
lanes.py       ?
blas.py        ?
proof.py       ?
"""
