"""The review service: people, their queue, and the ledger."""
