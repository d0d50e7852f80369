"""Who does the work: ordered by nobody, bounded by everybody's memory.

contract.py  what whoever does the work promises: a bounded map
threads.py   threads over blocks
"""
