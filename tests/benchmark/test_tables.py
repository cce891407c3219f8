"""Number formats and tables."""

from vae.benchmark.suite import _matrix, format_number
from vae.benchmark.timing import Sample, summarize


def test_numbers():
    assert [format_number(x) for x in (1234.5, 99.96, 12.34, 0.126)] == [
        "1,234",
        "100.0",
        "12.3",
        "0.13",
    ]


def test_disturbed_rounds_are_marked_if_they_count():
    def rounds_of(*others):
        found = summarize([Sample(1.0, cores) for cores in others])
        return _matrix([{"precision": "fp32", "gflops_per_second": found}])[1][-1]

    assert rounds_of(0.9, 0.9) == "2 of 2!"
    assert rounds_of(0.0, 0.0) == "2 of 2"
    assert rounds_of(0.0, 0.0, 0.9, 0.0) == "3 of 4"
