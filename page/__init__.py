"""What report.py shows: the page, and how near synthetic users come to real ones."""
