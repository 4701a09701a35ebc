"""One module per command of the `edgerad` command line."""
