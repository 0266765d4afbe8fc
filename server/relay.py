"""Between nodes: messages to sessions that another node holds, over Redis pub/sub, one channel a node.

Redis only carries. A message that is lost comes again from PostgreSQL: commands by the worker's sweep, events by the
nodes' refill. So sending never waits and never fails; what cannot be carried is dropped and counted.
"""
