"""An in-memory twin of a Kafka broker, for tests that try thousands of interleavings in seconds.

Only the broker and the network are a twin: the consumers and producers that talk to it are
aiokafka's own, unchanged, so that what they do (revoke everything, drop what was prefetched for a
paused partition, stamp a commit with the generation at the time of sending, never give a sequence
number back) is not imitated but happens. The broker's half is proven against a real one by
`tests/contract/test_kafka_twin.py`.

Time is virtual: it hardly moves while something runs, and jumps to the next timer when nothing
does. One seed decides the delays on the network and every choice that aiokafka makes at random.
"""
