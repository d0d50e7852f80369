"""Where bytes lie: exact reads, durable writes, names given in one step, and small text files read at a bounded cost.

local.py       uri -> path -> exact reads; durable files, never written through links
moving.py      a name for what is finished, in one step, and never over what another program has put there
json_files.py  JSON that other programs wrote, at a bounded cost
yaml_files.py  YAML, without doubled keys and endless aliases
"""
