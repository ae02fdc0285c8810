"""Where batches run.  One contract (``base``), any number of implementations, one suite of tests for all of them."""
