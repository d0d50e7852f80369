"""Where bytes lie: exact reads, durable writes, renames in one step, and text files read at a bounded cost.

place.py       what every place promises: files under names, read in ranges, written as drafts, published in one step
local.py       folders of this machine as places; from a uri to a place; files are never written through links
moving.py      gives a finished file or folder its name in one step, never over another program's file
json_files.py  JSON that other programs wrote, read at a bounded cost
yaml_files.py  YAML, in which doubled keys and endless aliases are refused
fields.py      checks a table that a person wrote against the fields of a dataclass
"""
