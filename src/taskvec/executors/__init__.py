"""Who does the work: ordered by nobody, bounded by everybody's memory.

threads.py  threads over blocks
"""
