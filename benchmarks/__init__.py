"""What `make bench` runs; the figures are kept in RESULTS.md."""
