"""What several test files use: plain functions and data. Fixtures are in conftest.

A test file imports from here and from the package, never from another test file."""
