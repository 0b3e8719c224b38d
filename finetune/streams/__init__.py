"""Messages of a Kafka topic in, texts into another: exactly what `finetune consume` does."""
