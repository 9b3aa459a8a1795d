"""Benchmarks against peers: they print figures and assert only that the work was done. See docs/performance.md."""
