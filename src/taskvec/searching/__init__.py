"""Coefficients chosen on validation data, judged once on test, and the journal in which all of it is kept.

search.py        search: chosen on validation, judged on test, once
journal.py       the journal of trials, for several processes
book.py          candidates measured, once
judge.py         how good a candidate is, and which one is taken
race.py          is a candidate still in with a chance?
stores.py        where a journal's lines are: memory, a file, a database
goals.py         objectives and constraints: arithmetic on metrics
spaces.py        what a knob may be, and which values to try next
subsets.py       sums built term by term: greedy soup, forward selection
evidence.py      how sure one can be: intervals, paired tests
findings.py      what a search found, in words and tables
records.py       a journal, read back
interference.py  disentanglement: do two vectors disturb one another?
leases.py        who is at work on what, among processes that share a journal
entries.py       what the lines of a journal may be
"""
