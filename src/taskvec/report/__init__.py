"""Pages and pictures of searches and comparisons, drawn from journals and measures.

page.py    the page of a search: one HTML file that needs no network
charts.py  which charts make sense for a search
trades.py  which two numbers are traded, and which candidates are on their front
heat.py    the objective over two knobs
svg.py     shapes on a pair of axes, as SVG
plots.py   pictures with matplotlib
"""
