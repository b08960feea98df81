"""What ∞-AE and Distill-CF are compared with: other models, and other ways to choose users."""
