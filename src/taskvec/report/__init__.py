"""Pictures and pages from measures and journals."""
