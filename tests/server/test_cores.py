"""The cores are the workers': what else the process computes takes one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss  # noqa: F401  # for the BLAS that it brings
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from server.__main__ import spare_cores


@pytest.fixture
def several_threads() -> Iterator[None]:
    with threadpool_limits(2):
        yield


@pytest.mark.usefixtures("several_threads")
def test_numpys_products_take_one_thread_and_faiss_keeps_its_own() -> None:
    spare_cores()
    threads = {
        Path(library.filepath).parent.name: library.num_threads
        for library in ThreadpoolController().select(user_api="blas").lib_controllers
    }
    if "numpy.libs" not in threads:
        pytest.skip("this numpy is not a wheel with a BLAS of its own")
    assert threads.pop("numpy.libs") == 1
    assert set(threads.values()) <= {2}
