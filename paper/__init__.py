"""The paper's table and figures: which runs they need, the record of those runs, their statistics."""
