"""The merge that the tests of bad input spoil: its words, for the models base/ and math/ of the fixture `world`."""

MERGE = "base + 0.5*(math - base)"
PAIR = ("merge", MERGE, "base=base", "math=math")
