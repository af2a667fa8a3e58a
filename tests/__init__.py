"""The tests; a package, lest another one of this name that is installed be taken for it."""
