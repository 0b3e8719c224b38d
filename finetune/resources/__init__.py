"""What lies outside: this machine, files at URLs, repositories on a hub."""
