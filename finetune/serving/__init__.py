"""The service: HTTP and WebSocket around fine-tuned models; routes by protocol, one engine, keys, limits, metrics."""
