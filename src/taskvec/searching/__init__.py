"""A search chooses the coefficients of a recipe on validation data and judges the chosen model on test data, once.

search.py        `search`, from its arguments to its result
trial.py         a candidate, and what it scored
measure.py       what an evaluator finds for a candidate
race.py          gives a candidate up early if it has next to no chance
judge.py         how good a candidate is, and which one is chosen
spaces.py        which values a knob may have, and which are tried next
subsets.py       sums that are built term by term: greedy soup, forward selection
goals.py         objectives and constraints: arithmetic on metrics
journal.py       all that is known, line by line, for one process or several
stores.py        where the lines of a journal are: memory, a file, a database
leases.py        who works on what, among processes that share a journal
entries.py       what the lines of a journal may be
records.py       a journal, read back
findings.py      what a search found, in words and tables
evidence.py      how sure one can be: intervals and paired tests
interference.py  whether two task vectors disturb one another
"""
