"""An S3 server for tests, in threads of the test's process, and fixtures that use it."""
