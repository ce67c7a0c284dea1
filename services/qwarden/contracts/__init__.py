"""What travels between services: records on the topics, their headers and their schemas. Pure."""
