"""What happens: sessions, relay, calls, HTTP, and the chores that keep promises."""

VERSION = "0.1.0"
