"""`python -m taskvec`."""

from taskvec.cli import main

main()
