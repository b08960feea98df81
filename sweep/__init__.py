"""The search over settings: its queue, its workers, its report."""
