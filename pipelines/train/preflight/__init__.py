"""What must hold before a stage starts, and what it will cost."""
