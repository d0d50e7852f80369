"""Where bytes lie: exact reads, durable writes, renames in one step, and text files read at a bounded cost.

local.py       from a uri to a path and to exact reads; durable files, which are never written through links
moving.py      gives a finished file or folder its name in one step, never over another program's file
json_files.py  JSON that other programs wrote, read at a bounded cost
yaml_files.py  YAML, in which doubled keys and endless aliases are refused
"""
