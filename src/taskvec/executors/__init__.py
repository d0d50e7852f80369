"""Executors: they do the work on many blocks at once, in any order, with bounded memory.

contract.py  what every executor promises: a bounded map over items
threads.py   an executor of threads
"""
