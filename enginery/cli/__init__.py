"""The command line `enginery`: parses options, calls the library, prints the result."""
