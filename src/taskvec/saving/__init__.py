"""From an expression to files: planned from headers, streamed in blocks, whole or absent.

plan.py            the output's layout and memory, from headers alone
cost.py            what a plan costs: the memory of its sources and of a thread
blocks.py          one block of an output, in memory that is never reallocated
compute.py         blocks of a plan, computed by any worker: from data to data
stream.py          the pass over the data: compute, hash, write, note
staging.py         the hidden folder with a journal, from which an output is renamed into place
outputs.py         where an output goes, and what it may take the place of
sidecars.py        config, tokenizer, index and model card beside the weights
copying.py         copies of the files beside the weights, of what is really the model's alone
lineage.py         what was made from what; digests; verify
ancestry.py        what a lineage says of ancestors: each once, in a flat table
proofs.py          that sources hold the bytes they held when a merge began, and that an output is whole
save.py            save: check, stream, finish, rename
batchnorm.py       running variances that became negative
configurations.py  what two config.json say differently of the computation
disagreements.py   what models say differently in configurations, tokenizers and templates
"""
