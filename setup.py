"""The compiled kernels; everything else is in pyproject.toml.

Optional: without a C compiler numbers/in_numpy.py gives the same bits, more slowly. One binary for CPython >= 3.11.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "taskvec.numbers._kernels",
            ["src/taskvec/numbers/_kernels.c"],
            depends=[f"src/taskvec/numbers/_{part}.h" for part in ("tiles", "rows", "random")],
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            # Python's own flags have -fwrapv, under which no loop over an int is vectorised: six times slower.
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-wrapv"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
