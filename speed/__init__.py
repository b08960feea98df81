"""What bench.py measures: routines beside plain versions, growth with the data, a machine with a GPU."""
