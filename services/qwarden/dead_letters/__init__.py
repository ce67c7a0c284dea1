"""What a person does with dead letters, halts and lost records: the commands of `qwarden dlq`."""
