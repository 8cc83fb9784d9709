"""What may vary, and which trial comes next."""
