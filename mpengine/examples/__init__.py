"""Jobs to read, run and copy from; nothing in the package depends on them."""
