"""HTTP servers for tests: the Hub, a package index, a webhook, and a proxy that makes other servers fail."""
