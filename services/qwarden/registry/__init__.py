"""Where the schemas of the Confluent wire format are kept."""
