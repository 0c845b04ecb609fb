"""Commands and processes that tests start, and what the processes of one run of the tests share."""
