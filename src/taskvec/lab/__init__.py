"""The lab runs the paper's experiments and the methods' comparison on real models, with seeds and intervals.

suite.py        a suite: on which model, tasks and data, and how vectors are trained
suites/         the suites that come with taskvec
packages.py     data and models out of ordinary packages, pinned and checked
readers.py      from the archive of a package to labelled texts
image_readers.py  ... and to labelled pictures
models.py       the pre-trained model of a suite as a folder
splits.py       train, validation and test examples, by hashes
data.py         the examples of a suite, written once into the cache
objectives.py   what a training makes small
batchnorm.py    BatchNorm's running statistics, measured on pictures
training.py     fine-tuning: the change of the parameters is the task vector
vectors.py      trained vectors, kept in the cache by what they were made of
bench.py        what an experiment works with: base, vectors, scores, choices
experiments/    the experiments
results.py      tables, curves and verdicts, as data
page.py         the page of the results
pictures.py     the charts of the results, as picture files
run.py          runs experiments, and keeps what they give
"""
