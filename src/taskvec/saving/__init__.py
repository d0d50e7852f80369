"""From an expression to files. The output is planned from headers, computed in blocks, and complete or not there.

plan.py            the layout of the output and the memory it takes, from headers alone
cost.py            the memory that the sources of a plan take, and that a thread takes
blocks.py          one block of an output, in memory that is never reallocated
compute.py         blocks of a plan, computed by any worker: from data to data
stream.py          the pass over the data: compute, hash, write, note in the journal
staging.py         the hidden folder in which an output grows until it is renamed into its place
journal.py         the journal of that folder: who may work there, and what has been done
outputs.py         where an output goes, and what it may replace there
sidecars.py        config, tokenizer, index and model card beside the weights
copying.py         the files beside a model's weights that are safe to copy, and copies of them
lineage.py         the record of what an output was made from; digests; verify
ancestry.py        the ancestors of an output, each once, in a flat table
proofs.py          proofs that sources hold the bytes they held when a merge began, and that an output is whole
save.py            save: check, stream, finish, rename
batchnorm.py       running variances that became negative
configurations.py  differences between two config.json that change the computation
disagreements.py   differences between models in configurations, tokenizers and templates
"""
