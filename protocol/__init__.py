"""What is said between Dialdesk, phones and agents' pages. No I/O; imports nothing of ours."""
