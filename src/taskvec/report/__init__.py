"""Pictures and pages from measures and journals.

page.py    the page of a search, one HTML file without a network
charts.py  which charts make sense for a search
svg.py     shapes on a pair of axes, as SVG
heat.py    the objective over two knobs
trades.py  candidates that no other one beats in both of two numbers
plots.py   pictures with matplotlib
"""
