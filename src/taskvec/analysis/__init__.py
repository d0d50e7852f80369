"""What can be measured of expressions without running a model, and how two models are aligned.

compare.py  norm, cosine, sign conflict: exact, streamed
match.py    match: the order of one model's units that is most like another's
"""
