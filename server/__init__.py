"""What happens: sessions, relay, calls, HTTP, and the chores that keep promises."""
