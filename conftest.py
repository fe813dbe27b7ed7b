"""What holds for the tests and for the examples of the documentation."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

# cuBLAS reads this when it is first used, which may be long before a test trains deterministically.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Doctests of the Triton kernels are collected where Triton is installed.
collect_ignore_glob = (
    []
    if find_spec("triton")
    else [f"src/multimix/kernels/triton_{name}.py" for name in ("closed_form", "draw", "loss")]
)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that is decoded here ends up in the cache folder of whoever runs this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
